//! All digests of a package from one reading: the SHA-1 of every file and the SHA-1 of every torrent piece.
//!
//! **Lanes.** Each worker is a lane of two threads: one reads blocks of 1 MiB, the other digests them, with a few
//! recycled buffers between. Files are claimed largest first. The digest of a file is serial by nature, so a package
//! that is one huge file can never be faster than one SHA-1 stream; a lane comes close to that, because reading (a copy
//! out of the page cache, or a disk's latency) happens beside the digesting and the piece digest rides along in the
//! same loop ([`update_both`]). Where the CPU has no such loop the reading thread takes the piece digest over, so that
//! both streams still run at once.
//!
//! The natural alternative for one file, a second thread that hashes pieces from the end until both meet, reads most of
//! the file twice: worthless in a cache (the rider costs a tenth of the stream) and twice the time on a disk.
//!
//! **Pieces that straddle files** are read again at the end, from memory as a rule, in the order of the torrent.
//!
//! **A file that changes meanwhile** is a fault that names it: size, time and inode are compared with the scan before
//! and after. Memory is bounded by workers × [`BUFFERS`] MiB whatever the size of the package.

mod segments;
mod source;

pub use segments::{Segment, hash_prefix, hash_segments};

use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::package::digest::{Sha1State, pairs_in_one_loop, update_both};
use crate::package::scan::ScannedFile;
use segments::Layout;
use source::Source;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Bytes per read: large enough for full disk speed, small enough to stay in the CPU's cache between two threads.
const BLOCK: usize = 1 << 20;
/// Blocks of one lane in flight: one being read, one being digested, two to even out.
const BUFFERS: usize = 4;

/// The digest of a torrent piece.
pub type PieceHash = [u8; 20];

/// What a pass tells while it runs, and how it is stopped.
#[derive(Debug, Default)]
pub struct PassProgress {
    /// Bytes of files digested so far (re-read piece borders are not counted).
    pub done: AtomicU64,
    /// Set to make the pass end soon with a fault "cancelled".
    pub cancel: AtomicBool,
}

/// What a pass found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassOutput {
    /// One per file, in the order given.
    pub sha1: Vec<Sha1>,
    /// The pieces of the torrent over all files in the order given.
    pub pieces: Vec<PieceHash>,
}

/// Digests all files below `base` and the pieces of their torrent. Blocks for as long as it takes.
///
/// `files` come from a scan, in torrent order; `workers` is the number of cores to use (at least one).
pub fn hash_package(
    base: &Path,
    files: &[ScannedFile],
    piece_length: u64,
    workers: usize,
    progress: &PassProgress,
) -> Result<PassOutput, Fault> {
    hash_package_as(pairs_in_one_loop(), base, files, piece_length, workers, progress)
}

/// [`hash_package`] with the choice of who digests pieces: the file's thread (`pairs`) or the reading one.
fn hash_package_as(
    pairs: bool,
    base: &Path,
    files: &[ScannedFile],
    piece_length: u64,
    workers: usize,
    progress: &PassProgress,
) -> Result<PassOutput, Fault> {
    let layout = Layout::of_files(files, piece_length)?;
    let (sha1, inner) = run_lanes(base, files, Some(&layout), pairs, workers, progress)?;
    let straddling: Vec<u64> = (0..layout.pieces()).filter(|k| inner[*k as usize].is_none()).collect();
    let hashed = segments::hash_pieces(base, &layout, &straddling, workers, progress)?;
    let mut rest = hashed.into_iter();
    let pieces = inner.into_iter().filter_map(|p| p.or_else(|| rest.next())).collect();
    Ok(PassOutput { sha1, pieces })
}

/// Digests all files below `base`, without pieces.
pub fn hash_files(base: &Path, files: &[ScannedFile], workers: usize, progress: &PassProgress) -> Result<Vec<Sha1>, Fault> {
    Ok(run_lanes(base, files, None, true, workers, progress)?.0)
}

/// A block on its way from the reading to the digesting thread of a lane. It never crosses a piece border.
struct Block {
    data: Vec<u8>,
    file: usize,
    /// The piece it belongs to, when that piece lies in this file alone and the digesting thread is to hash it.
    piece: Option<u64>,
    ends_piece: bool,
    ends_file: bool,
}

/// What all lanes share.
struct Pass<'a> {
    base: &'a Path,
    files: &'a [ScannedFile],
    layout: Option<&'a Layout<'a>>,
    pairs: bool,
    progress: &'a PassProgress,
    /// Files, largest first, so that the longest one does not start last.
    order: Vec<usize>,
    next: AtomicUsize,
    failure: Failure,
    sha1: Mutex<Vec<Option<Sha1>>>,
    pieces: Mutex<Vec<Option<PieceHash>>>,
}

/// The first fault of several threads; its presence stops the others.
#[derive(Default)]
pub(super) struct Failure {
    stop: AtomicBool,
    first: Mutex<Option<Fault>>,
}

impl Failure {
    pub fn set(&self, fault: Fault) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(fault);
        self.stop.store(true, Ordering::Release);
    }
    pub fn stops(&self, progress: &PassProgress) -> bool {
        self.stop.load(Ordering::Acquire) || progress.cancel.load(Ordering::Relaxed)
    }
    /// The fault, or "cancelled", or nothing.
    pub fn into_result(self, progress: &PassProgress) -> Result<(), Fault> {
        match self.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(fault),
            None if progress.cancel.load(Ordering::Relaxed) => Err(Fault::permanent("cancelled")),
            None => Ok(()),
        }
    }
}

fn run_lanes(
    base: &Path,
    files: &[ScannedFile],
    layout: Option<&Layout<'_>>,
    pairs: bool,
    workers: usize,
    progress: &PassProgress,
) -> Result<(Vec<Sha1>, Vec<Option<PieceHash>>), Fault> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(files[*i].size));
    let pass = Pass {
        base,
        files,
        layout,
        pairs,
        progress,
        order,
        next: AtomicUsize::new(0),
        failure: Failure::default(),
        sha1: Mutex::new(vec![None; files.len()]),
        pieces: Mutex::new(vec![None; layout.map_or(0, |l| l.pieces() as usize)]),
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, files.len().max(1)) {
            let (full_out, full_in) = sync_channel(BUFFERS);
            let (empty_out, empty_in) = channel();
            for _ in 0..BUFFERS {
                // The other end is in hand: this cannot fail.
                let _ = empty_out.send(Vec::new());
            }
            let pass = &pass;
            scope.spawn(move || read_lane(pass, &full_out, &empty_in));
            scope.spawn(move || digest_lane(pass, &full_in, &empty_out));
        }
    });
    pass.failure.into_result(progress)?;
    let sha1 = pass.sha1.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sha1: Option<Vec<Sha1>> = sha1.into_iter().collect();
    let sha1 = sha1.ok_or_else(|| Fault::local("hashing ended early"))?;
    Ok((sha1, pass.pieces.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// The reading half: claims files and sends their blocks.
fn read_lane(pass: &Pass<'_>, out: &SyncSender<Block>, empty: &Receiver<Vec<u8>>) {
    while !pass.failure.stops(pass.progress) {
        let Some(&file) = pass.order.get(pass.next.fetch_add(1, Ordering::Relaxed)) else { return };
        if let Err(fault) = read_file(pass, file, out, empty) {
            pass.failure.set(fault);
        }
    }
}

fn read_file(pass: &Pass<'_>, file: usize, out: &SyncSender<Block>, empty: &Receiver<Vec<u8>>) -> Result<(), Fault> {
    let stamp = &pass.files[file];
    let mut source = Source::open_whole(pass.base, stamp)?;
    let mut own_piece = Sha1State::new();
    let mut offset = 0;
    loop {
        if pass.failure.stops(pass.progress) {
            return Ok(());
        }
        // A closed channel means that the digesting half has stopped; it has left its reason in `failure`.
        let Ok(mut data) = empty.recv() else { return Ok(()) };
        let cut = pass.layout.and_then(|l| l.cut(file, offset));
        let end = cut.as_ref().map_or(stamp.size, |c| c.end).min(stamp.size).min(offset + BLOCK as u64);
        data.resize((end - offset) as usize, 0);
        source.read(offset, &mut data)?;
        let mut block = Block { data, file, piece: None, ends_piece: false, ends_file: end == stamp.size };
        if let Some(cut) = cut.filter(|c| c.whole) {
            block.ends_piece = end == cut.end;
            if pass.pairs {
                block.piece = Some(cut.piece);
            } else {
                own_piece.update(&block.data);
                if block.ends_piece {
                    keep_piece(pass, cut.piece, std::mem::take(&mut own_piece));
                }
            }
        }
        offset = end;
        let last = block.ends_file;
        if last {
            // Before the last block leaves: its arrival makes the file's digest count.
            source.close()?;
            let _ = out.send(block);
            return Ok(());
        }
        if out.send(block).is_err() {
            return Ok(());
        }
    }
}

/// The digesting half: blocks arrive file by file, in order.
fn digest_lane(pass: &Pass<'_>, blocks: &Receiver<Block>, empty: &Sender<Vec<u8>>) {
    let (mut file, mut piece) = (Sha1State::new(), Sha1State::new());
    for block in blocks {
        match block.piece {
            Some(k) => {
                update_both(&mut file, &mut piece, &block.data);
                if block.ends_piece {
                    keep_piece(pass, k, std::mem::take(&mut piece));
                }
            }
            None => file.update(&block.data),
        }
        pass.progress.done.fetch_add(block.data.len() as u64, Ordering::Relaxed);
        if block.ends_file {
            let digest = std::mem::take(&mut file).finish();
            pass.sha1.lock().unwrap_or_else(PoisonError::into_inner)[block.file] = Some(digest);
        }
        // The reading half may be done with its last file.
        let _ = empty.send(block.data);
    }
}

fn keep_piece(pass: &Pass<'_>, piece: u64, state: Sha1State) {
    if let Some(slot) = pass.pieces.lock().unwrap_or_else(PoisonError::into_inner).get_mut(piece as usize) {
        *slot = Some(state.finish().0);
    }
}

#[cfg(test)]
mod tests;
