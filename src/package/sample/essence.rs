//! Frames: JPEG 2000 codestreams with real cinema headers around random packet data, and quiet noise as sound.
//!
//! Encoding real pictures was rejected: it needs an encoder, is a hundred times slower, and cinema profiles fix the
//! bit rate, so that the size could not be chosen. Servers and validators read the headers; here these are right.
//! Every frame differs and none compresses, so no storage or link can cheat in a test of speed.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore, SeedableRng as _};

/// The bytes of each frame of a track, as a function of a seed: nothing is stored, whatever the length.
/// Sizes vary by a tenth around the mean, as real ones do, and add up exactly to [`FrameSizes::total`].
#[derive(Clone, Debug)]
pub struct FrameSizes {
    count: u64,
    mean: u32,
    /// This many frames at the front are one byte longer: what the division left over.
    longer: u64,
    seed: Option<u64>,
}

impl FrameSizes {
    /// `count` frames of `bytes` each.
    pub fn constant(count: u64, bytes: u32) -> Self {
        Self { count, mean: bytes, longer: 0, seed: None }
    }

    /// `count` frames (at least one) that vary and have `total` bytes together.
    pub fn varying(count: u64, total: u64, seed: u64) -> Self {
        let count = count.max(1);
        let mean = u32::try_from(total / count).unwrap_or(u32::MAX);
        Self { count, mean, longer: total % count, seed: Some(seed) }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// All frames together, in bytes.
    pub fn total(&self) -> u64 {
        self.count * u64::from(self.mean) + self.longer
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let Self { count, mean, longer, seed } = *self;
        let mut rng = seed.map(SmallRng::seed_from_u64);
        let mut taken = 0;
        (0..count).map(move |i| {
            let base = mean + u32::from(i < longer);
            match &mut rng {
                None => base,
                // In pairs: what one frame has more, the next has less.
                Some(_) if i % 2 == 1 => base - taken,
                Some(_) if i + 1 == count => base,
                Some(rng) => {
                    taken = rng.random_range(0..=mean / 10);
                    base + taken
                }
            }
        })
    }
}

/// JPEG 2000 pictures with the 2K cinema profile (ISO/IEC 15444-1 annex A).
#[derive(Clone, Debug)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
}

impl Picture {
    /// The smallest frame that has room for all headers and some data.
    pub const MIN_BYTES: u64 = 2000;
    /// Rsiz: 2K digital cinema.
    pub const PROFILE: u16 = 3;
    /// 12 bits, unsigned, not subsampled.
    pub const COMPONENT: [u8; 3] = [0x0b, 1, 1];
    /// The profile wants one tile-part for each colour component.
    const TILE_PARTS: usize = 3;
    const TILE_PART_HEAD: usize = 14;
    const LEVELS: u8 = 5;

    /// COD: user precincts, component-position-resolution-layer order, one layer, colour transform, 32x32 blocks,
    /// 9-7 wavelet, precincts of 128 then 256.
    pub fn coding_style() -> Vec<u8> {
        let mut out = vec![0x01, 0x04, 0, 1, 0x01, Self::LEVELS, 3, 3, 0, 0, 0x77];
        out.extend([0x88; Self::LEVELS as usize]);
        out
    }

    /// QCD: one step a subband, two guard bits.
    pub fn quantization() -> Vec<u8> {
        let steps = (0..=3 * u16::from(Self::LEVELS)).map(|band| (0x12 - (band / 3 + 1).min(8)) << 11 | 0x700);
        std::iter::once(0x22).chain(steps.flat_map(u16::to_be_bytes)).collect()
    }

    /// SOC, SIZ, COD, QCD.
    fn main_header(&self) -> Vec<u8> {
        let mut siz = Self::PROFILE.to_be_bytes().to_vec();
        for n in [self.width, self.height, 0, 0, self.width, self.height, 0, 0] {
            siz.extend(n.to_be_bytes());
        }
        siz.extend(3u16.to_be_bytes());
        siz.extend([Self::COMPONENT; 3].concat());
        let mut out = vec![0xff, 0x4f];
        for (marker, body) in [(0x51, siz), (0x52, Self::coding_style()), (0x5c, Self::quantization())] {
            out.extend([0xff, marker]);
            out.extend((body.len() as u16 + 2).to_be_bytes());
            out.extend(body);
        }
        out
    }
}

/// PCM sound: 48 kHz, 24 bit, little-endian, interleaved.
#[derive(Clone, Debug)]
pub struct Sound {
    pub channels: u32,
}

impl Sound {
    /// Samples a second.
    pub const RATE: u32 = 48_000;
    pub const SAMPLE_BYTES: u32 = 3;

    /// The bytes that go with one picture.
    pub fn frame_bytes(channels: u32, fps: u32) -> u32 {
        Self::RATE / fps * channels * Self::SAMPLE_BYTES
    }
}

/// Makes one frame after the other.
pub enum FrameMaker {
    Picture { rng: SmallRng, header: Vec<u8> },
    Sound { rng: SmallRng, noise: Vec<u8> },
}

impl FrameMaker {
    pub fn new(essence: &super::mxf::Essence, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        match essence {
            super::mxf::Essence::Picture(picture) => Self::Picture { rng, header: picture.main_header() },
            super::mxf::Essence::Sound(_) => Self::Sound { rng, noise: Vec::new() },
        }
    }

    /// Fills `frame` with the next frame.
    pub fn fill(&mut self, frame: &mut [u8]) {
        match self {
            Self::Picture { rng, header } => {
                rng.fill_bytes(frame);
                remove_markers(frame);
                lay_codestream(header, frame);
            }
            Self::Sound { rng, noise } => {
                noise.resize(frame.len() / Sound::SAMPLE_BYTES as usize, 0);
                rng.fill_bytes(noise);
                for (sample, &n) in frame.as_chunks_mut::<{ Sound::SAMPLE_BYTES as usize }>().0.iter_mut().zip(&*noise) {
                    let sign = if n < 0x80 { 0 } else { 0xff };
                    *sample = [n, sign, sign];
                }
            }
        }
    }
}

/// Packet data may hold no marker: each 0xff becomes 0xfe. Eight bytes at a time, so that unoptimised builds are
/// fast enough, too.
fn remove_markers(data: &mut [u8]) {
    const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (words, rest) = data.as_chunks_mut::<8>();
    for word in words {
        let v = u64::from_ne_bytes(*word);
        let inverse = !v;
        // 0x80 in each byte of `inverse` that is zero (no carry crosses a byte).
        let full = !(((inverse & LOW7) + LOW7) | inverse | LOW7);
        *word = (v ^ (full >> 7)).to_ne_bytes();
    }
    for byte in rest {
        if *byte == 0xff {
            *byte = 0xfe;
        }
    }
}

/// Puts main header, tile-part lengths, tile-part heads and the end marker over the noise of `frame`, which has at
/// least [`Picture::MIN_BYTES`].
fn lay_codestream(header: &[u8], frame: &mut [u8]) {
    const PARTS: usize = Picture::TILE_PARTS;
    let lengths_at = header.len();
    let tiles_at = lengths_at + 6 + PARTS * 5;
    let data = frame.len() - tiles_at - PARTS * Picture::TILE_PART_HEAD - 2;
    let part_len = |i: usize| (data * (i + 1) / PARTS - data * i / PARTS + Picture::TILE_PART_HEAD) as u32;

    let mut lengths = vec![0xff, 0x55];
    lengths.extend((4 + PARTS as u16 * 5).to_be_bytes());
    lengths.extend([0x00, 0x50]);
    let mut at = tiles_at;
    for i in 0..PARTS {
        let len = part_len(i);
        lengths.push(0);
        lengths.extend(len.to_be_bytes());
        let mut head = vec![0xff, 0x90, 0, 10, 0, 0];
        head.extend(len.to_be_bytes());
        head.extend([i as u8, PARTS as u8, 0xff, 0x93]);
        put(frame, at, &head);
        at += len as usize;
    }
    put(frame, 0, header);
    put(frame, lengths_at, &lengths);
    put(frame, at, &[0xff, 0xd9]);
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::sample::mxf::Essence;

    #[test]
    fn frame_sizes_add_up_and_vary() {
        for (count, total) in [(1, 2000), (2, 5001), (7, 100_003), (240, 9_999_999)] {
            let sizes = FrameSizes::varying(count, total, 7);
            let all: Vec<u32> = sizes.iter().collect();
            assert_eq!(all.len() as u64, count);
            assert_eq!(all.iter().map(|&n| u64::from(n)).sum::<u64>(), total);
            assert_eq!(sizes.total(), total);
            let mean = total / count;
            assert!(all.iter().all(|&n| u64::from(n) >= mean * 9 / 10 && u64::from(n) <= mean * 11 / 10 + 1));
            assert!(count < 3 || all.iter().any(|&n| u64::from(n) > mean + 1));
        }
    }

    #[test]
    fn markers_are_removed_and_nothing_else_changes() {
        let before: Vec<u8> = (0..=255u8).chain([255; 9]).chain([0, 255, 254, 255, 1, 128, 127]).collect();
        let mut after = before.clone();
        remove_markers(&mut after);
        let expected: Vec<u8> = before.iter().map(|&b| if b == 255 { 254 } else { b }).collect();
        assert_eq!(after, expected);
    }

    /// Walks the codestream as a decoder does.
    #[test]
    fn a_picture_is_a_codestream_of_three_tile_parts() {
        let essence = Essence::Picture(Picture { width: 1998, height: 1080 });
        let mut maker = FrameMaker::new(&essence, 3);
        let (mut first, mut frame) = (vec![0; 2500], vec![0; 2500]);
        maker.fill(&mut first);
        maker.fill(&mut frame);
        assert_ne!(first, frame, "frames differ");
        assert_eq!(frame[..4], [0xff, 0x4f, 0xff, 0x51]);
        let be16 = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let be32 = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
        let (mut at, mut seen, mut lengths) = (2, Vec::new(), Vec::new());
        while be16(at) != 0xff90 {
            seen.push(be16(at));
            if be16(at) == 0xff55 {
                lengths = (0..3).map(|i| be32(at + 6 + i * 5 + 1)).collect();
            }
            at += 2 + be16(at + 2);
        }
        assert_eq!(seen, [0xff51, 0xff52, 0xff5c, 0xff55]);
        for (i, len) in lengths.into_iter().enumerate() {
            assert_eq!((be16(at), be32(at + 6), usize::from(frame[at + 10])), (0xff90, len, i));
            assert_eq!(be16(at + 12), 0xff93);
            assert!(!frame[at + 14..at + len].contains(&0xff), "no marker in the data");
            at += len;
        }
        assert_eq!((be16(at), at + 2), (0xffd9, frame.len()));
    }

    #[test]
    fn sound_is_quiet_and_signed() {
        let mut maker = FrameMaker::new(&Essence::Sound(Sound { channels: 6 }), 3);
        let mut frame = vec![0x55; Sound::frame_bytes(6, 24) as usize];
        assert_eq!(frame.len(), 36_000);
        maker.fill(&mut frame);
        for s in frame.as_chunks::<3>().0 {
            let value = i32::from_le_bytes([0, s[0], s[1], s[2]]) >> 8;
            assert!((-128..128).contains(&value));
        }
    }
}
