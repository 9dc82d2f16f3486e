//! SHA-1 as a stream that can be stopped, stored and resumed, and two streams that share one reading of the bytes.
//!
//! A package needs two kinds of SHA-1 over the same bytes: of each file (task file, PKL, library) and of each torrent
//! piece. One after the other they cost twice the time of one. A CPU with SHA instructions waits for the result of each
//! step of a SHA-1 longer than the step takes to issue, so two streams in one loop ([`update_both`]) run almost as fast
//! as one: measured 1.5 GB/s each against 1.66 GB/s alone. The streams may be at different block phases, because pieces
//! do not begin at the files' 64-byte blocks.
//!
//! The `sha1` crate does the single stream and everything on machines without those instructions. Its own hasher type is
//! not used: it hides the chaining value, and the stored form of its state is not promised to stay the same.
//! `ring`'s SHA-1 is five times slower.

mod kernel;

use crate::model::ids::Sha1;
use sha1::block_api::compress;

/// Bytes of a stored state ([`Sha1State::to_bytes`]).
pub const STATE_BYTES: usize = 20 + 8 + BLOCK;

const BLOCK: usize = 64;
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// A SHA-1 under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sha1State {
    chain: [u32; 5],
    /// Bytes taken in so far. `len % 64` of them wait in `pending`.
    len: u64,
    /// The unfinished block; bytes that are not in use are zero, so that equal states compare and store equal.
    pending: [u8; BLOCK],
}

impl Default for Sha1State {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha1State {
    pub fn new() -> Self {
        Self { chain: INITIAL, len: 0, pending: [0; BLOCK] }
    }

    /// Bytes taken in so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn update(&mut self, data: &[u8]) {
        let rest = self.fill(data);
        let (blocks, tail) = rest.as_chunks::<BLOCK>();
        compress(&mut self.chain, blocks);
        self.keep(tail);
        self.len += data.len() as u64;
    }

    pub fn finish(mut self) -> Sha1 {
        let bits = self.len.wrapping_mul(8);
        let used = self.used();
        let mut last = [0u8; 2 * BLOCK];
        last[..used].copy_from_slice(&self.pending[..used]);
        last[used] = 0x80;
        // The length goes into the last eight bytes of the block that has room for it.
        let end = if used < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        last[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        compress(&mut self.chain, last[..end].as_chunks::<BLOCK>().0);
        let mut out = [0; 20];
        for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(self.chain) {
            *bytes = word.to_be_bytes();
        }
        Sha1(out)
    }

    /// The state as the database keeps it: chaining value and length big-endian, then the unfinished block.
    pub fn to_bytes(&self) -> [u8; STATE_BYTES] {
        let mut out = [0; STATE_BYTES];
        for (bytes, word) in out[..20].as_chunks_mut::<4>().0.iter_mut().zip(self.chain) {
            *bytes = word.to_be_bytes();
        }
        out[20..28].copy_from_slice(&self.len.to_be_bytes());
        out[28..].copy_from_slice(&self.pending);
        out
    }

    /// Reads [`Sha1State::to_bytes`]. `None` when the length is wrong or bytes are set that no such state has.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STATE_BYTES] = bytes.try_into().ok()?;
        let (chain_bytes, rest) = bytes.split_first_chunk::<20>()?;
        let (len_bytes, pending) = rest.split_first_chunk::<8>()?;
        let mut chain = [0; 5];
        for (word, b) in chain.iter_mut().zip(chain_bytes.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*b);
        }
        let state = Self { chain, len: u64::from_be_bytes(*len_bytes), pending: pending.try_into().ok()? };
        state.pending[state.used()..].iter().all(|b| *b == 0).then_some(state)
    }

    /// Bytes of `pending` in use.
    fn used(&self) -> usize {
        (self.len % BLOCK as u64) as usize
    }

    /// Completes the unfinished block from the front of `data`, if there is one; returns what is left of `data`.
    /// Does not touch `len`: callers add the whole of `data` when they are done with it.
    fn fill<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let used = self.used();
        if used == 0 {
            return data;
        }
        let (now, rest) = data.split_at(data.len().min(BLOCK - used));
        self.pending[used..used + now.len()].copy_from_slice(now);
        if used + now.len() == BLOCK {
            compress(&mut self.chain, &[self.pending]);
            self.pending = [0; BLOCK];
        }
        rest
    }

    /// Puts the last bytes, fewer than a block, into the empty `pending`.
    fn keep(&mut self, tail: &[u8]) {
        if !tail.is_empty() {
            self.pending[..tail.len()].copy_from_slice(tail);
        }
    }
}

/// Feeds the same bytes to two streams, which may be at different phases, for little more than the price of one.
pub fn update_both(a: &mut Sha1State, b: &mut Sha1State, data: &[u8]) {
    let (blocks_a, tail_a) = a.fill(data).as_chunks::<BLOCK>();
    let (blocks_b, tail_b) = b.fill(data).as_chunks::<BLOCK>();
    let both = blocks_a.len().min(blocks_b.len());
    kernel::compress_pair(&mut a.chain, &blocks_a[..both], &mut b.chain, &blocks_b[..both]);
    // Different phases can leave one stream a block more than the other.
    compress(&mut a.chain, &blocks_a[both..]);
    compress(&mut b.chain, &blocks_b[both..]);
    a.keep(tail_a);
    b.keep(tail_b);
    a.len += data.len() as u64;
    b.len += data.len() as u64;
}

/// Whether [`update_both`] runs its two streams in one loop on this machine. Where it does not, two threads with one
/// stream each are faster.
pub fn pairs_in_one_loop() -> bool {
    kernel::available()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha1::Digest;

    fn oracle(data: &[u8]) -> Sha1 {
        Sha1(sha1::Sha1::digest(data).into())
    }

    #[test]
    fn known_digests() {
        let digest = |d: &[u8]| {
            let mut s = Sha1State::new();
            s.update(d);
            s.finish().to_string()
        };
        assert_eq!(digest(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(digest(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn every_length_around_the_padding_borders() {
        let data: Vec<u8> = (0..200u32).map(|i| (i * 7) as u8).collect();
        for n in 0..data.len() {
            let mut s = Sha1State::new();
            s.update(&data[..n]);
            assert_eq!(s.finish(), oracle(&data[..n]), "length {n}");
        }
    }

    #[test]
    fn damaged_states_are_refused() {
        let mut s = Sha1State::new();
        s.update(b"abc");
        let mut bytes = s.to_bytes();
        assert!(Sha1State::from_bytes(&bytes[1..]).is_none());
        assert!(Sha1State::from_bytes(&[]).is_none());
        bytes[STATE_BYTES - 1] = 1;
        assert!(Sha1State::from_bytes(&bytes).is_none());
    }

    proptest! {
        /// Random cuts, unaligned data, a stored and reloaded state: the digest is that of the crate.
        #[test]
        fn agrees_with_the_crate(data in proptest::collection::vec(any::<u8>(), 0..2000), cuts in proptest::collection::vec(0usize..2000, 0..6), skew in 0usize..8) {
            let data = &data[skew.min(data.len())..];
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(data.len())).chain([0, data.len()]).collect();
            cuts.sort_unstable();
            let mut s = Sha1State::new();
            for w in cuts.windows(2) {
                s.update(&data[w[0]..w[1]]);
                let stored = s.to_bytes();
                prop_assert_eq!(Sha1State::from_bytes(&stored), Some(s.clone()));
                s = Sha1State::from_bytes(&stored).unwrap();
            }
            prop_assert_eq!(s.len(), data.len() as u64);
            prop_assert_eq!(s.finish(), oracle(data));
        }

        /// Two streams that begin at different phases, fed together in random cuts, are what they are alone.
        #[test]
        fn two_streams_do_not_disturb_each_other(
            head_a in proptest::collection::vec(any::<u8>(), 0..150), head_b in proptest::collection::vec(any::<u8>(), 0..150),
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..6),
        ) {
            let (mut a, mut b) = (Sha1State::new(), Sha1State::new());
            a.update(&head_a);
            b.update(&head_b);
            for p in &parts {
                update_both(&mut a, &mut b, p);
            }
            let body = parts.concat();
            prop_assert_eq!(a.finish(), oracle(&[head_a, body.clone()].concat()));
            prop_assert_eq!(b.finish(), oracle(&[head_b, body].concat()));
        }
    }
}
