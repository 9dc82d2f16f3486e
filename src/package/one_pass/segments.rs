//! Pieces over any sequence of file parts: the full torrent's straddling pieces, the `-tmp` torrent of a front run of
//! the package ([`hash_prefix`]), and torrents of split files ([`hash_segments`]).

use super::source::Source;
use super::{BLOCK, Failure, PassProgress, PieceHash};
use crate::error::Fault;
use crate::package::digest::{Sha1State, update_both};
use crate::package::scan::ScannedFile;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bound on piece counts that are computed from outside numbers: the lists are held in memory.
const MAX_PIECES: u64 = 10_000_000;

/// A part of a package file that is a file of its own in a torrent. A whole file is one segment.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    pub file: &'a ScannedFile,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Segments laid end to end and cut into pieces.
pub(super) struct Layout<'a> {
    segments: Vec<Segment<'a>>,
    /// Where each segment begins in the whole; one more entry for the end.
    starts: Vec<u64>,
    piece_length: u64,
}

/// The piece that holds a byte of a segment.
pub(super) struct Cut {
    pub piece: u64,
    /// Where it ends, in bytes from the start of the segment; beyond the segment when it straddles.
    pub end: u64,
    /// Whether it lies in this segment alone.
    pub whole: bool,
}

impl<'a> Layout<'a> {
    pub fn of_files(files: &'a [ScannedFile], piece_length: u64) -> Result<Self, Fault> {
        Self::new(files.iter().map(|f| Segment { file: f, offset: 0, len: f.size }).collect(), piece_length)
    }

    pub fn new(segments: Vec<Segment<'a>>, piece_length: u64) -> Result<Self, Fault> {
        let too_large = || Fault::permanent("the package is too large for pieces of this length");
        let mut starts = vec![0u64];
        let mut at = 0u64;
        for s in &segments {
            if s.offset.checked_add(s.len).is_none_or(|end| end > s.file.size) {
                return Err(Fault::permanent(format!("a part of {} ends behind the file", s.file.path)).file(&s.file.path));
            }
            at = at.checked_add(s.len).ok_or_else(too_large)?;
            starts.push(at);
        }
        if piece_length == 0 || at.div_ceil(piece_length) > MAX_PIECES || at.checked_add(piece_length).is_none() {
            return Err(too_large());
        }
        Ok(Self { segments, starts, piece_length })
    }

    pub fn total(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    pub fn pieces(&self) -> u64 {
        self.total().div_ceil(self.piece_length)
    }

    /// The piece at `offset` of a segment. `None` for an unknown segment.
    pub fn cut(&self, segment: usize, offset: u64) -> Option<Cut> {
        let (start, end) = (*self.starts.get(segment)?, *self.starts.get(segment + 1)?);
        let piece = (start + offset) / self.piece_length;
        let range = self.piece_range(piece);
        Some(Cut { piece, end: range.end.saturating_sub(start), whole: start <= range.start && range.end <= end && start < end })
    }

    /// The bytes of a piece in the whole. The last piece may be short.
    fn piece_range(&self, piece: u64) -> Range<u64> {
        let start = piece * self.piece_length;
        start..(start + self.piece_length).min(self.total())
    }

    /// Calls `take` with the blocks of a range of the whole, in order.
    fn read(&self, base: &Path, range: Range<u64>, buf: &mut Vec<u8>, take: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let first = self.starts.partition_point(|s| *s <= range.start).saturating_sub(1);
        for (i, s) in self.segments.iter().enumerate().skip(first) {
            let start = self.starts[i];
            let (from, to) = (range.start.max(start), range.end.min(start + s.len));
            if start >= range.end {
                break;
            }
            if from >= to {
                continue;
            }
            let mut source = Source::open(base, s.file)?;
            let mut at = from;
            while at < to {
                let n = (to - at).min(BLOCK as u64);
                buf.resize(n as usize, 0);
                source.read(s.offset + at - start, buf)?;
                take(buf);
                at += n;
            }
            source.close()?;
        }
        Ok(())
    }
}

/// Hashes the pieces in `which`, in that order.
pub(super) fn hash_pieces(
    base: &Path,
    layout: &Layout<'_>,
    which: &[u64],
    workers: usize,
    progress: &PassProgress,
) -> Result<Vec<PieceHash>, Fault> {
    let next = AtomicUsize::new(0);
    let failure = Failure::default();
    let out = Mutex::new(vec![[0; 20]; which.len()]);
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, which.len().max(1)) {
            scope.spawn(|| {
                let mut buf = Vec::new();
                while !failure.stops(progress) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&piece) = which.get(i) else { return };
                    let mut state = Sha1State::new();
                    match layout.read(base, layout.piece_range(piece), &mut buf, &mut |b| state.update(b)) {
                        Ok(()) => out.lock().unwrap_or_else(PoisonError::into_inner)[i] = state.finish().0,
                        Err(fault) => failure.set(fault),
                    }
                }
            });
        }
    });
    failure.into_result(progress)?;
    Ok(out.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The pieces over any file parts, read in full. For torrents whose parts are not a front run of the package.
pub fn hash_segments(
    base: &Path,
    segments: &[Segment<'_>],
    piece_length: u64,
    workers: usize,
    progress: &PassProgress,
) -> Result<Vec<PieceHash>, Fault> {
    let layout = Layout::new(segments.to_vec(), piece_length)?;
    let all: Vec<u64> = (0..layout.pieces()).collect();
    hash_pieces(base, &layout, &all, workers, progress)
}

/// The pieces over the first `prefix_len` bytes of the package, from the full torrent's: only the piece that the border
/// cuts is read. The same reading proves that piece unchanged; a difference is a fault, because then `full_pieces` are
/// not of these files. The other files are taken on their stamps' word: compare those before calling.
pub fn hash_prefix(
    base: &Path,
    files: &[ScannedFile],
    full_pieces: &[PieceHash],
    piece_length: u64,
    prefix_len: u64,
) -> Result<Vec<PieceHash>, Fault> {
    let layout = Layout::of_files(files, piece_length)?;
    if full_pieces.len() as u64 != layout.pieces() || prefix_len > layout.total() {
        return Err(stale());
    }
    if prefix_len == layout.total() {
        return Ok(full_pieces.to_vec());
    }
    let cut_piece = prefix_len / piece_length;
    let mut pieces = full_pieces.get(..cut_piece as usize).ok_or_else(stale)?.to_vec();
    if prefix_len.is_multiple_of(piece_length) {
        return Ok(pieces);
    }
    let range = layout.piece_range(cut_piece);
    let (mut short, mut whole) = (Sha1State::new(), Sha1State::new());
    let mut buf = Vec::new();
    layout.read(base, range.start..prefix_len, &mut buf, &mut |b| update_both(&mut short, &mut whole, b))?;
    layout.read(base, prefix_len..range.end, &mut buf, &mut |b| whole.update(b))?;
    if full_pieces.get(cut_piece as usize) != Some(&whole.finish().0) {
        return Err(stale());
    }
    pieces.push(short.finish().0);
    Ok(pieces)
}

fn stale() -> Fault {
    Fault::permanent("the stored pieces are not those of the package as it is now: make the full torrent again")
}
