//! [`Layout`]: how the pieces of a torrent lie over the package's files. Also the gate for metainfo from outside:
//! librqbit divides by the piece length, adds file lengths unchecked and recurses over nested lists, so what could make
//! it panic is refused here, before it sees the bytes.

use crate::error::Fault;
use crate::model::span::Span;
use crate::transport::FileMeta;
use std::ops::Range;

/// librqbit refuses to seed above 131,968 pieces and slows down long before.
const MAX_PIECES: u64 = 100_000;
/// 100,000 piece hashes are 2 MB; ten thousand paths are another.
const MAX_TORRENT_BYTES: usize = 16 << 20;
const PIECE_LENGTHS: std::ops::RangeInclusive<u32> = 16_384..=(64 << 20);
/// A metainfo file nests five deep (dictionary, info, files, file, path).
const MAX_NESTING: u32 = 16;

/// The torrent's bytes as a line: file after file, cut into pieces.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub info_hash: [u8; 20],
    piece_len: u64,
    total: u64,
    /// Where torrent file `i` lies in the package.
    spans: Vec<Span>,
    /// Where torrent file `i` starts on the line.
    starts: Vec<u64>,
    /// Torrent files that have bytes, by place in the package; they do not overlap.
    by_place: Vec<usize>,
}

impl Layout {
    /// Reads the metainfo and checks that it is about these files: as many torrent files as spans, equal lengths, every
    /// span inside its package file.
    pub fn parse(torrent: &[u8], map: &[Span], files: &[FileMeta]) -> Result<Self, Fault> {
        let bad = |why: String| Fault::permanent(format!("the torrent cannot be used: {why}"));
        if torrent.len() > MAX_TORRENT_BYTES {
            return Err(bad(format!("it has {} bytes, at most {MAX_TORRENT_BYTES} are read", torrent.len())));
        }
        check_nesting(torrent).map_err(|why| bad(why.to_owned()))?;
        let meta = librqbit::torrent_from_bytes(torrent).map_err(|e| bad("it is not a metainfo file".into()).detail(e))?;
        let info = meta.info.data;
        if !PIECE_LENGTHS.contains(&info.piece_length) {
            return Err(bad(format!("its piece length is {} bytes", info.piece_length)));
        }
        let lengths: Vec<u64> = match (&info.files, info.length) {
            (Some(files), None) => files.iter().map(|f| f.length).collect(),
            (None, Some(length)) => vec![length],
            _ => return Err(bad("it lists neither one file nor several".into())),
        };
        let mut starts = Vec::with_capacity(lengths.len());
        let mut total = 0u64;
        for length in &lengths {
            starts.push(total);
            total = total.checked_add(*length).ok_or_else(|| bad("its file lengths overflow".into()))?;
        }
        let piece_len = u64::from(info.piece_length);
        let pieces = total.div_ceil(piece_len);
        if pieces == 0 || pieces > MAX_PIECES {
            return Err(bad(format!("it has {pieces} pieces, 1 to {MAX_PIECES} are possible: use larger pieces")));
        }
        if info.pieces.as_ref().len() as u64 != pieces * 20 {
            return Err(bad(format!("it has {} bytes of piece hashes for {pieces} pieces", info.pieces.as_ref().len())));
        }
        let info_hash = meta.info_hash.0;
        let info = info.validate().map_err(|e| bad("its file list is refused".into()).detail(e))?;
        if info.iter_file_details().any(|f| f.attrs().padding) {
            return Err(bad("it has padding files".into()));
        }
        let by_place = check_map(map, &lengths, files)?;
        Ok(Self { info_hash, piece_len, total, spans: map.to_vec(), starts, by_place })
    }

    pub fn span(&self, torrent_file: usize) -> Option<&Span> {
        self.spans.get(torrent_file)
    }
    pub fn pieces(&self) -> u64 {
        self.total.div_ceil(self.piece_len)
    }
    /// Bytes of all files of the torrent.
    pub fn total(&self) -> u64 {
        self.total
    }
    pub fn info_hash_hex(&self) -> String {
        hex::encode(self.info_hash)
    }

    /// The package bytes at `offset..offset + len` of a torrent file, or `None` outside of it.
    pub fn locate(&self, torrent_file: usize, offset: u64, len: u64) -> Option<Span> {
        let span = self.span(torrent_file)?;
        let end = offset.checked_add(len)?;
        (end <= span.len).then_some(Span { file: span.file, offset: span.offset + offset, len })
    }

    fn piece_range(&self, piece: u64) -> Range<u64> {
        let start = piece * self.piece_len;
        start..(start + self.piece_len).min(self.total)
    }

    /// The piece that holds byte `offset` of a torrent file, and where in the piece it lies.
    pub fn piece_at(&self, torrent_file: usize, offset: u64) -> Option<(u64, u64)> {
        let at = self.starts.get(torrent_file)? + offset;
        (at < self.total).then(|| (at / self.piece_len, at % self.piece_len))
    }

    /// Where a torrent file lies on the line.
    pub fn line(&self, torrent_file: usize) -> Option<Range<u64>> {
        let start = *self.starts.get(torrent_file)?;
        Some(start..start + self.span(torrent_file)?.len)
    }

    /// The torrent file that has a byte of the line, and where in it.
    pub fn file_at(&self, at: u64) -> Option<(usize, u64)> {
        let file = self.starts.partition_point(|s| *s <= at).checked_sub(1)?;
        self.line(file).filter(|l| l.contains(&at)).map(|l| (file, at - l.start))
    }

    /// Where the piece with a byte of the line ends.
    pub fn piece_end(&self, at: u64) -> Option<u64> {
        (at < self.total).then(|| self.piece_range(at / self.piece_len).end)
    }

    /// Bytes of a piece.
    pub fn piece_len(&self, piece: u64) -> u64 {
        let range = self.piece_range(piece);
        range.end.saturating_sub(range.start)
    }

    /// The package bytes that a piece covers, in order, parts in torrent files nobody asked for included.
    pub fn piece_spans(&self, piece: u64) -> impl Iterator<Item = Span> + '_ {
        let range = self.piece_range(piece);
        let first = self.starts.partition_point(|s| *s <= range.start).saturating_sub(1);
        let end = range.end;
        self.spans.iter().zip(&self.starts).skip(first).take_while(move |(_, start)| **start < end).filter_map(
            move |(span, start)| {
                let from = range.start.max(*start);
                let to = range.end.min(start + span.len);
                (from < to).then(|| Span { file: span.file, offset: span.offset + (from - start), len: to - from })
            },
        )
    }

    /// One bit per piece, first piece in the highest bit: set where `have` says so of everything the piece covers.
    pub fn bitfield(&self, have: impl Fn(&Span) -> bool) -> Vec<u8> {
        let mut bits = vec![0u8; self.pieces().div_ceil(8) as usize];
        for (at, byte) in bits.iter_mut().enumerate() {
            for bit in 0..8 {
                let piece = at as u64 * 8 + bit;
                if piece < self.pieces() && self.piece_spans(piece).all(|s| have(&s)) {
                    *byte |= 0x80 >> bit;
                }
            }
        }
        bits
    }

    /// Bytes of the pieces that are set in a bitfield.
    pub fn bytes_of(&self, bitfield: &[u8]) -> u64 {
        (0..self.pieces())
            .filter(|p| bitfield.get((p / 8) as usize).is_some_and(|b| b & (0x80 >> (p % 8)) != 0))
            .map(|p| self.piece_len(p))
            .sum()
    }

    /// Torrent files that share bytes with `want`.
    fn meeting<'a>(&'a self, want: &'a Span) -> impl Iterator<Item = usize> + 'a {
        let from =
            self.by_place.partition_point(|i| self.spans.get(*i).is_some_and(|s| (s.file, s.end()) <= (want.file, want.offset)));
        self.by_place
            .iter()
            .skip(from)
            .copied()
            .take_while(|i| self.spans.get(*i).is_some_and(|s| s.file == want.file && s.offset < want.end()))
    }

    /// Torrent files whose bytes meet these package bytes, in the torrent's order.
    pub fn files_meeting(&self, spans: &[Span]) -> Vec<usize> {
        let mut found: Vec<usize> = spans.iter().filter(|s| s.len > 0).flat_map(|s| self.meeting(s)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether the torrent holds every byte of `span`.
    pub fn covers(&self, span: &Span) -> bool {
        let mut reached = span.offset;
        for s in self.meeting(span).filter_map(|i| self.spans.get(i)) {
            if s.offset > reached {
                return false;
            }
            reached = reached.max(s.end());
        }
        reached >= span.end()
    }
}

fn check_map(map: &[Span], lengths: &[u64], files: &[FileMeta]) -> Result<Vec<usize>, Fault> {
    if map.len() != lengths.len() {
        return Err(Fault::permanent(format!(
            "the torrent does not fit the task: it has {} files, the task expects {}",
            lengths.len(),
            map.len()
        )));
    }
    for (span, length) in map.iter().zip(lengths) {
        let Some(file) = files.get(span.file as usize) else {
            return Err(Fault::permanent(format!(
                "the torrent does not fit the task: the task has no file number {}",
                span.file
            )));
        };
        let fits = span.len == *length && span.offset.checked_add(span.len).is_some_and(|end| end <= file.size);
        if !fits {
            return Err(Fault::permanent(format!(
                "the torrent does not fit the task: it has {length} bytes where {} has {} from byte {}",
                file.path, span.len, span.offset
            ))
            .file(&file.path));
        }
    }
    let mut placed: Vec<(Span, usize)> = map.iter().copied().zip(0..).filter(|(s, _)| s.len > 0).collect();
    placed.sort_unstable();
    if placed.iter().zip(placed.iter().skip(1)).any(|((a, _), (b, _))| a.file == b.file && a.end() > b.offset) {
        return Err(Fault::permanent("the torrent does not fit the task: two of its files are the same bytes of the package"));
    }
    Ok(placed.into_iter().map(|(_, i)| i).collect())
}

/// Walks bencoded data without recursion: brackets must match and not nest deeply.
fn check_nesting(data: &[u8]) -> Result<(), &'static str> {
    const CUT: &str = "it is cut off";
    let mut at = 0;
    let mut depth = 0u32;
    while let Some(byte) = data.get(at) {
        match byte {
            b'd' | b'l' => {
                depth += 1;
                at += 1;
                if depth > MAX_NESTING {
                    return Err("it is nested too deeply");
                }
            }
            b'e' => {
                depth = depth.checked_sub(1).ok_or("its brackets do not match")?;
                at += 1;
            }
            b'i' => at += 1 + data.iter().skip(at).take(24).position(|b| *b == b'e').ok_or(CUT)?,
            b'0'..=b'9' => {
                let digits = data.iter().skip(at).take(10).position(|b| *b == b':').ok_or("a text's length is wrong")?;
                let text = data.get(at..at + digits).and_then(|d| std::str::from_utf8(d).ok()).ok_or(CUT)?;
                let len: usize = text.parse().map_err(|_| "a text's length is wrong")?;
                at = at.checked_add(digits + 1).and_then(|a| a.checked_add(len)).filter(|a| *a <= data.len()).ok_or(CUT)?;
            }
            _ => return Err("it is not bencoded"),
        }
    }
    if depth == 0 && at > 0 { Ok(()) } else { Err(CUT) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RelPath, Sha1};

    fn file(name: &str, size: u64) -> FileMeta {
        FileMeta { path: RelPath::parse(name).unwrap(), size, sha1: Sha1([0; 20]) }
    }

    fn torrent(piece_len: u64, lengths: &[u64], pieces: usize) -> Vec<u8> {
        let mut t = b"d4:infod5:filesl".to_vec();
        for (i, len) in lengths.iter().enumerate() {
            t.extend(format!("d6:lengthi{len}e4:pathl4:f{i:03}ee").bytes());
        }
        t.extend(format!("e4:name1:n12:piece lengthi{piece_len}e6:pieces{}:", pieces * 20).bytes());
        t.extend(vec![7; pieces * 20]);
        t.extend(b"ee");
        t
    }

    fn layout() -> Layout {
        // Two package files; the first is split in two spans, with an empty file between.
        let files = [file("a", 50_000), file("b", 20_000), file("c", 0)];
        let map = [
            Span { file: 0, offset: 0, len: 20_000 },
            Span { file: 2, offset: 0, len: 0 },
            Span { file: 0, offset: 20_000, len: 30_000 },
            Span { file: 1, offset: 0, len: 20_000 },
        ];
        Layout::parse(&torrent(16_384, &[20_000, 0, 30_000, 20_000], 5), &map, &files).unwrap()
    }

    #[test]
    fn pieces_cover_the_package_once() {
        let l = layout();
        assert_eq!(l.pieces(), 5);
        let spans: Vec<Span> = (0..5).flat_map(|p| l.piece_spans(p).collect::<Vec<_>>()).collect();
        assert_eq!(spans.iter().map(|s| s.len).sum::<u64>(), 70_000);
        assert_eq!(
            l.piece_spans(1).collect::<Vec<_>>(),
            [Span { file: 0, offset: 16_384, len: 3_616 }, Span { file: 0, offset: 20_000, len: 12_768 },]
        );
        assert_eq!(l.piece_spans(4).collect::<Vec<_>>(), [Span { file: 1, offset: 15_536, len: 4_464 }]);
    }

    #[test]
    fn a_bitfield_has_the_first_piece_in_the_highest_bit() {
        let l = layout();
        let bits = l.bitfield(|s| s.file == 0);
        assert_eq!(bits, [0b1110_0000]);
        assert_eq!(l.bytes_of(&bits), 3 * 16_384);
        assert_eq!(l.bytes_of(&l.bitfield(|_| true)), 70_000);
    }

    #[test]
    fn selection_and_cover() {
        let l = layout();
        assert_eq!(l.files_meeting(&[Span { file: 0, offset: 19_999, len: 2 }]), [0, 2]);
        assert_eq!(l.files_meeting(&[Span { file: 1, offset: 0, len: 1 }]), [3]);
        assert!(l.covers(&Span { file: 0, offset: 10, len: 49_000 }));
        assert!(!l.covers(&Span { file: 1, offset: 10, len: 20_000 }));
        assert!(l.covers(&Span { file: 2, offset: 0, len: 0 }));
        assert_eq!(l.locate(2, 5, 10), Some(Span { file: 0, offset: 20_005, len: 10 }));
        assert_eq!(l.locate(2, 29_999, 2), None);
        assert_eq!(l.locate(9, 0, 0), None);
        assert_eq!(l.piece_at(3, 0), Some((3, 848)));
        assert_eq!(l.piece_at(3, 20_000), None);
        assert_eq!((l.piece_len(0), l.piece_len(4)), (16_384, 4_464));
    }

    #[test]
    fn bad_metainfo_is_refused() {
        let files = [file("a", 20_000)];
        let map = [Span { file: 0, offset: 0, len: 20_000 }];
        assert!(Layout::parse(&torrent(16_384, &[20_000], 2), &map, &files).is_ok());
        for (what, t) in [
            ("no piece length", torrent(0, &[20_000], 2)),
            ("odd piece length", torrent(1 << 31, &[20_000], 1)),
            ("too few hashes", torrent(16_384, &[20_000], 1)),
            ("another length", torrent(16_384, &[20_001], 2)),
            ("overflow", torrent(16_384, &[u64::MAX / 2, u64::MAX / 2, 9], 1)),
            ("too many pieces", torrent(16_384, &[1 << 50], 1)),
            ("two files", torrent(16_384, &[10_000, 10_000], 2)),
            ("no bytes", torrent(16_384, &[0], 0)),
            ("cut", torrent(16_384, &[20_000], 2)[..60].to_vec()),
            ("text", b"<html>not found</html>".to_vec()),
            ("nothing", Vec::new()),
            ("deep", vec![b'l'; 1 << 20]),
        ] {
            let fault = Layout::parse(&t, &map, &files).expect_err(what);
            assert!(!fault.is_transient(), "{what}: {fault}");
        }
        let beyond = [Span { file: 0, offset: 1, len: 20_000 }];
        assert!(Layout::parse(&torrent(16_384, &[20_000], 2), &beyond, &files).is_err());
        let half = Span { file: 0, offset: 0, len: 10_000 };
        assert!(Layout::parse(&torrent(16_384, &[10_000, 10_000], 2), &[half, half], &files).is_err());
        let nowhere = [Span { file: 7, offset: 0, len: 20_000 }];
        assert!(Layout::parse(&torrent(16_384, &[20_000], 2), &nowhere, &files).is_err());
    }
}
