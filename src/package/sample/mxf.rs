//! The container of a cinema track file: OP-Atom MXF (SMPTE ST 377-1, ST 379-1), as ST 429-3/429-4 and the older
//! Interop practice want it.
//!
//! ```text
//! SMPTE    header partition (16 KiB area) · body partition · frames · footer partition with index · random index pack
//! Interop  header partition (16 KiB area) · frames         · footer partition with index · random index pack
//! ```
//!
//! Frame lengths are a function of the plan ([`super::essence::FrameSizes`]), so the whole layout is known before the
//! first byte is written. The natural alternative, writing frames first and patching the header afterwards, would force a second
//! read of the file for its SHA-1, because the header comes first in the digest.

use super::essence::{FrameSizes, Picture, Sound};
use super::labels::{self, Property};
use super::options::Standard;
use uuid::Uuid;

/// The header partition with its metadata is padded to this many bytes.
pub const HEADER_AREA: u64 = 16 * 1024;
/// Key and length of a frame.
pub const FRAME_OVERHEAD: u64 = 20;
/// Entries of one index segment: 11 bytes each must stay below the 64 KiB of a local set's value.
const INDEX_ENTRIES_PER_SEGMENT: u64 = 5000;
const INDEX_ENTRY: u64 = 11;
pub const INDEX_STREAM: u32 = 129;
pub const BODY_STREAM: u32 = 1;

/// What a track file carries.
#[derive(Clone, Debug)]
pub enum Essence {
    Picture(Picture),
    Sound(Sound),
}

impl Essence {
    pub fn container(&self) -> u128 {
        match self {
            Essence::Picture(_) => labels::CONTAINER_J2K,
            Essence::Sound(_) => labels::CONTAINER_PCM,
        }
    }
    pub fn data_definition(&self) -> u128 {
        match self {
            Essence::Picture(_) => labels::DATA_PICTURE,
            Essence::Sound(_) => labels::DATA_SOUND,
        }
    }
    /// The last four bytes of the frames' key, which the essence track repeats.
    pub fn track_number(&self) -> u32 {
        match self {
            Essence::Picture(_) => 0x1501_0801,
            Essence::Sound(_) => 0x1601_0101,
        }
    }
}

/// Everything about a track file but its frames' bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    pub standard: Standard,
    /// The identity that PKL, ASSETMAP and CPL repeat; the file package's UMID ends with it.
    pub id: Uuid,
    /// Frames a second.
    pub fps: u32,
    pub essence: Essence,
    pub frames: FrameSizes,
    pub date: chrono::NaiveDate,
}

impl Layout {
    /// Where the body partition begins, if there is one.
    fn body_start(&self) -> Option<u64> {
        (self.standard == Standard::Smpte).then_some(HEADER_AREA)
    }

    /// The length of a partition pack; all of a file's packs have the same.
    fn pack_len(&self) -> u64 {
        self.partition(2, &Partition::default()).len() as u64
    }

    fn essence_start(&self) -> u64 {
        HEADER_AREA + if self.body_start().is_some() { self.pack_len() } else { 0 }
    }

    /// Where the footer partition begins.
    fn footer_start(&self) -> u64 {
        self.essence_start() + self.frames.total() + self.frames.count() * FRAME_OVERHEAD
    }

    /// The whole file's length in bytes.
    pub fn file_len(&self) -> u64 {
        self.footer_start() + self.pack_len() + self.index_len() + self.random_index().len() as u64
    }

    /// Key and length before a frame of `len` bytes.
    pub fn frame_head(&self, len: u32) -> [u8; FRAME_OVERHEAD as usize] {
        let key = 0x060e2b34_01020101_0d010301_00000000u128 | u128::from(self.essence.track_number());
        let mut head = [0; FRAME_OVERHEAD as usize];
        head[..16].copy_from_slice(&key.to_be_bytes());
        head[16..].copy_from_slice(&(0x8300_0000 | len).to_be_bytes());
        head
    }

    /// Everything before the first frame. `metadata` is the primer pack and the header metadata sets;
    /// `None` when they do not fit into the header area.
    pub fn head(&self, metadata: &[u8]) -> Option<Vec<u8>> {
        let room = HEADER_AREA.checked_sub(self.pack_len() + metadata.len() as u64 + 20)?;
        let footer = self.footer_start();
        let mut out = self.partition(
            2,
            &Partition {
                footer,
                header_bytes: HEADER_AREA - self.pack_len(),
                body_stream: if self.body_start().is_some() { 0 } else { BODY_STREAM },
                ..Partition::default()
            },
        );
        out.extend_from_slice(metadata);
        out.extend(klv(labels::fill(self.standard), &vec![0; usize::try_from(room).ok()?]));
        if let Some(this) = self.body_start() {
            out.extend(self.partition(3, &Partition { this, footer, body_stream: BODY_STREAM, ..Partition::default() }));
        }
        Some(out)
    }

    /// The footer's partition pack; index segments and the random index pack follow it.
    pub fn footer_pack(&self) -> Vec<u8> {
        let footer = self.footer_start();
        self.partition(
            4,
            &Partition {
                this: footer,
                previous: self.body_start().unwrap_or(0),
                footer,
                index_bytes: self.index_len(),
                index_stream: INDEX_STREAM,
                ..Partition::default()
            },
        )
    }

    /// The index segments, one at a time, so that a long film's index is never in memory as a whole.
    /// Sound frames are all alike and need no entries.
    pub fn index_segments<'a>(&'a self, mut new_id: impl FnMut() -> Uuid + 'a) -> impl Iterator<Item = Vec<u8>> + 'a {
        let count = self.frames.count();
        let mut sizes = self.frames.iter();
        let (mut next, mut offset) = (0, 0u64);
        std::iter::from_fn(move || {
            if next >= count {
                return None;
            }
            let start = next;
            if let Essence::Sound(_) = self.essence {
                next = count;
                let unit = self.frames.iter().next().map_or(0, |n| n + FRAME_OVERHEAD as u32);
                return Some(self.index_segment(new_id(), start, count, unit, None));
            }
            let mut entries = Vec::with_capacity((INDEX_ENTRIES_PER_SEGMENT * INDEX_ENTRY) as usize);
            for size in sizes.by_ref().take(INDEX_ENTRIES_PER_SEGMENT as usize) {
                // No reordering, a random access point, its place in the essence stream.
                entries.extend_from_slice(&[0, 0, 0x80]);
                entries.extend_from_slice(&offset.to_be_bytes());
                offset += u64::from(size) + FRAME_OVERHEAD;
                next += 1;
            }
            Some(self.index_segment(new_id(), start, next - start, 0, Some(entries)))
        })
    }

    fn index_segment(&self, id: Uuid, start: u64, count: u64, unit: u32, entries: Option<Vec<u8>>) -> Vec<u8> {
        let mut props = vec![
            (labels::INSTANCE_UID, id.as_bytes().to_vec()),
            (labels::INDEX_EDIT_RATE, ratio(self.fps, 1)),
            (labels::INDEX_START, be64(start)),
            (labels::INDEX_DURATION, be64(count)),
            (labels::INDEX_UNIT_BYTES, be32(unit)),
            (labels::INDEX_SID, be32(INDEX_STREAM)),
            (labels::BODY_SID, be32(BODY_STREAM)),
            (labels::INDEX_SLICES, vec![0]),
            (labels::INDEX_POS_TABLES, vec![0]),
            (labels::INDEX_DELTAS, batch(6, [[0; 6]])),
        ];
        if let Some(entries) = entries {
            let mut value = be32((entries.len() as u64 / INDEX_ENTRY) as u32);
            value.extend(be32(INDEX_ENTRY as u32));
            value.extend(entries);
            props.push((labels::INDEX_ENTRIES, value));
        }
        klv(labels::INDEX_SEGMENT, &local_set(&props))
    }

    fn index_len(&self) -> u64 {
        let empty = |entries| self.index_segment(Uuid::nil(), 0, 0, 0, entries).len() as u64;
        match self.essence {
            Essence::Sound(_) => empty(None),
            Essence::Picture(_) => {
                let count = self.frames.count();
                count.div_ceil(INDEX_ENTRIES_PER_SEGMENT) * empty(Some(Vec::new())) + count * INDEX_ENTRY
            }
        }
    }

    /// Where each partition is: the last thing in the file.
    pub fn random_index(&self) -> Vec<u8> {
        let mut parts = vec![(if self.body_start().is_some() { 0 } else { BODY_STREAM }, 0)];
        parts.extend(self.body_start().map(|at| (BODY_STREAM, at)));
        parts.push((0, self.footer_start()));
        let mut value: Vec<u8> = parts.iter().flat_map(|&(stream, at)| [be32(stream), be64(at)].concat()).collect();
        value.extend(be32(value.len() as u32 + 24));
        klv(labels::RANDOM_INDEX, &value)
    }

    fn partition(&self, kind: u8, p: &Partition) -> Vec<u8> {
        let mut value = Vec::with_capacity(128);
        value.extend([0, 1, 0, 2, 0, 0, 0, 1]); // version 1.2, no alignment grid
        for at in [p.this, p.previous, p.footer, p.header_bytes, p.index_bytes] {
            value.extend(be64(at));
        }
        value.extend(be32(p.index_stream));
        value.extend(be64(0));
        value.extend(be32(p.body_stream));
        value.extend(labels::op_atom(self.standard).to_be_bytes());
        value.extend(batch(16, [self.essence.container().to_be_bytes()]));
        klv(labels::partition(kind), &value)
    }
}

/// The fields of a partition pack that differ between partitions: byte offsets, byte counts, stream numbers.
#[derive(Default)]
struct Partition {
    this: u64,
    previous: u64,
    footer: u64,
    header_bytes: u64,
    index_bytes: u64,
    index_stream: u32,
    body_stream: u32,
}

pub fn be16(n: u16) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}
pub fn be32(n: u32) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}
pub fn be64(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}
pub fn ratio(numerator: u32, denominator: u32) -> Vec<u8> {
    [numerator.to_be_bytes(), denominator.to_be_bytes()].concat()
}
pub fn utf16(s: &str) -> Vec<u8> {
    s.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// An array or batch: count, item length, items.
pub fn batch<T: AsRef<[u8]>>(item: u32, items: impl IntoIterator<Item = T>) -> Vec<u8> {
    let (mut count, mut body) = (0u32, Vec::new());
    for i in items {
        count += 1;
        body.extend_from_slice(i.as_ref());
    }
    [be32(count), be32(item), body].concat()
}

/// Key, length (four bytes, so that padding can be computed), value. Values here stay far below 16 MiB.
pub fn klv(key: u128, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 20);
    out.extend(key.to_be_bytes());
    out.extend((0x8300_0000 | value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
    out
}

/// The value of a local set: two-byte tags, two-byte lengths.
pub fn local_set(props: &[(Property, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (property, value) in props {
        out.extend(property.tag.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture_track(frames: u64) -> Layout {
        Layout {
            standard: Standard::Smpte,
            id: Uuid::nil(),
            fps: 24,
            essence: Essence::Picture(Picture { width: 1998, height: 1080 }),
            frames: FrameSizes::varying(frames, frames * 2100, 5),
            date: chrono::NaiveDate::default(),
        }
    }

    /// Long films have several index segments: their entries must continue, and the planned length must hold.
    #[test]
    fn the_index_of_a_long_film_is_whole() {
        for (frames, expected) in [(1, 1), (5000, 1), (5001, 2), (12_001, 3)] {
            let layout = picture_track(frames);
            let segments: Vec<Vec<u8>> = layout.index_segments(Uuid::nil).collect();
            assert_eq!(segments.len(), expected);
            assert_eq!(segments.iter().map(|s| s.len() as u64).sum::<u64>(), layout.index_len());
            let offset = |entry: &[u8]| u64::from_be_bytes(entry[3..].try_into().unwrap());
            let (mut next, mut place) = (0u64, 0);
            let mut sizes = layout.frames.iter();
            for segment in &segments {
                let start = segment.windows(4).position(|w| w == [0x3f, 0x0c, 0, 8]).unwrap() + 4;
                assert_eq!(segment[start..start + 8], next.to_be_bytes());
                // The entries come last.
                let count = (frames - next).min(5000) as usize;
                for entry in segment[segment.len() - count * 11..].as_chunks::<11>().0 {
                    assert_eq!(offset(entry), place);
                    place += u64::from(sizes.next().unwrap()) + FRAME_OVERHEAD;
                    next += 1;
                }
            }
            assert_eq!(next, frames);
        }
    }

    #[test]
    fn headers_that_are_too_large_are_noticed() {
        let layout = picture_track(1);
        assert_eq!(layout.head(&[0; 1000]).map(|h| h.len() as u64), Some(layout.essence_start()));
        assert!(layout.head(&vec![0; HEADER_AREA as usize]).is_none());
    }
}
