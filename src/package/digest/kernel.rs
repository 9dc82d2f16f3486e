//! Two SHA-1 compressions in one loop of SHA instructions: the only unsafe code of the package.
//!
//! Each 64-byte block is 80 rounds, done four at a time. Within a stream each group of four waits for the one before;
//! the groups of the other stream fill that wait. The order of the instructions is that of Intel's reference code for
//! one stream, written once by macros and doubled.

use sha1::block_api::compress;

type Chain = [u32; 5];
type Block = [u8; 64];

/// Whether this machine runs the interleaved loop.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // The macro remembers its answer: a call is one load.
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Compresses `blocks_a` into `a` and `blocks_b` into `b`. The slices must have the same length; the rest of a longer
/// one would be left out, so that is asserted.
pub(super) fn compress_pair(a: &mut Chain, blocks_a: &[Block], b: &mut Chain, blocks_b: &[Block]) {
    assert_eq!(blocks_a.len(), blocks_b.len());
    #[cfg(target_arch = "x86_64")]
    if available() {
        // SAFETY: `available` has just found every instruction set that `x86::compress_pair` is compiled for.
        unsafe { x86::compress_pair(a, blocks_a, b, blocks_b) };
        return;
    }
    compress(a, blocks_a);
    compress(b, blocks_b);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Chain};
    use std::arch::x86_64::*;

    /// First four rounds of a block: `e` is added to the message words instead of being derived.
    macro_rules! first {
        ($abcd:ident, $before:ident, $e:expr, $w:expr) => {{
            let e = _mm_add_epi32($e, $w);
            $before = $abcd;
            $abcd = _mm_sha1rnds4_epu32($abcd, e, 0);
        }};
    }
    /// Four rounds with the constant of phase `$k`.
    macro_rules! rounds {
        ($abcd:ident, $before:ident, $w:expr, $k:literal) => {{
            let e = _mm_sha1nexte_epu32($before, $w);
            $before = $abcd;
            $abcd = _mm_sha1rnds4_epu32($abcd, e, $k);
        }};
    }
    /// The next four message words, in place of the oldest four.
    macro_rules! schedule {
        ($w0:ident, $w1:ident, $w2:ident, $w3:ident) => {
            $w0 = _mm_sha1msg2_epu32(_mm_xor_si128(_mm_sha1msg1_epu32($w0, $w1), $w2), $w3)
        };
    }
    /// One step of both streams.
    macro_rules! step {
        ($k:literal; $x:ident $xb:ident [$x0:ident $x1:ident $x2:ident $x3:ident]; $y:ident $yb:ident [$y0:ident $y1:ident $y2:ident $y3:ident]) => {
            schedule!($x0, $x1, $x2, $x3);
            schedule!($y0, $y1, $y2, $y3);
            rounds!($x, $xb, $x0, $k);
            rounds!($y, $yb, $y0, $k);
        };
    }

    #[target_feature(enable = "sse2,ssse3,sse4.1")]
    fn load_chain(chain: &Chain) -> (__m128i, __m128i) {
        let [a, b, c, d, e] = chain.map(|w| w as i32);
        (_mm_set_epi32(a, b, c, d), _mm_set_epi32(e, 0, 0, 0))
    }

    #[target_feature(enable = "sse2,ssse3,sse4.1")]
    fn store_chain(chain: &mut Chain, abcd: __m128i, e: __m128i) {
        *chain = [
            _mm_extract_epi32(abcd, 3) as u32,
            _mm_extract_epi32(abcd, 2) as u32,
            _mm_extract_epi32(abcd, 1) as u32,
            _mm_extract_epi32(abcd, 0) as u32,
            _mm_extract_epi32(e, 3) as u32,
        ];
    }

    /// The sixteen big-endian message words of a block.
    #[target_feature(enable = "sse2,ssse3,sse4.1")]
    fn load_words(block: &Block) -> [__m128i; 4] {
        let reverse = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
        let p = block.as_ptr().cast::<__m128i>();
        [0, 1, 2, 3].map(|i| {
            // SAFETY: `block` has 64 bytes, so the four loads of 16 bytes are inside it; `loadu` needs no alignment.
            let quarter = unsafe { _mm_loadu_si128(p.add(i)) };
            _mm_shuffle_epi8(quarter, reverse)
        })
    }

    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub(super) fn compress_pair(a: &mut Chain, blocks_a: &[Block], b: &mut Chain, blocks_b: &[Block]) {
        let (mut a_abcd, mut a_e) = load_chain(a);
        let (mut b_abcd, mut b_e) = load_chain(b);
        for (block_a, block_b) in blocks_a.iter().zip(blocks_b) {
            let [mut v0, mut v1, mut v2, mut v3] = load_words(block_a);
            let [mut w0, mut w1, mut w2, mut w3] = load_words(block_b);
            let (mut x, mut y) = (a_abcd, b_abcd);
            let (mut xb, mut yb);
            first!(x, xb, a_e, v0);
            first!(y, yb, b_e, w0);
            rounds!(x, xb, v1, 0);
            rounds!(y, yb, w1, 0);
            rounds!(x, xb, v2, 0);
            rounds!(y, yb, w2, 0);
            rounds!(x, xb, v3, 0);
            rounds!(y, yb, w3, 0);
            step!(0; x xb [v0 v1 v2 v3]; y yb [w0 w1 w2 w3]);
            step!(1; x xb [v1 v2 v3 v0]; y yb [w1 w2 w3 w0]);
            step!(1; x xb [v2 v3 v0 v1]; y yb [w2 w3 w0 w1]);
            step!(1; x xb [v3 v0 v1 v2]; y yb [w3 w0 w1 w2]);
            step!(1; x xb [v0 v1 v2 v3]; y yb [w0 w1 w2 w3]);
            step!(1; x xb [v1 v2 v3 v0]; y yb [w1 w2 w3 w0]);
            step!(2; x xb [v2 v3 v0 v1]; y yb [w2 w3 w0 w1]);
            step!(2; x xb [v3 v0 v1 v2]; y yb [w3 w0 w1 w2]);
            step!(2; x xb [v0 v1 v2 v3]; y yb [w0 w1 w2 w3]);
            step!(2; x xb [v1 v2 v3 v0]; y yb [w1 w2 w3 w0]);
            step!(2; x xb [v2 v3 v0 v1]; y yb [w2 w3 w0 w1]);
            step!(3; x xb [v3 v0 v1 v2]; y yb [w3 w0 w1 w2]);
            step!(3; x xb [v0 v1 v2 v3]; y yb [w0 w1 w2 w3]);
            step!(3; x xb [v1 v2 v3 v0]; y yb [w1 w2 w3 w0]);
            step!(3; x xb [v2 v3 v0 v1]; y yb [w2 w3 w0 w1]);
            step!(3; x xb [v3 v0 v1 v2]; y yb [w3 w0 w1 w2]);
            a_e = _mm_sha1nexte_epu32(xb, a_e);
            b_e = _mm_sha1nexte_epu32(yb, b_e);
            a_abcd = _mm_add_epi32(x, a_abcd);
            b_abcd = _mm_add_epi32(y, b_abcd);
        }
        store_chain(a, a_abcd, a_e);
        store_chain(b, b_abcd, b_e);
    }
}
