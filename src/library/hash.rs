//! The digest of one file: in the background, at the lowest priority, without a trace in the page cache, and so that it
//! can be interrupted.
//!
//! A file is hashed when nobody has it open for writing. The kernel tells: it grants a read lease only then. On file
//! systems without leases, and for files of others, nobody can tell, and the caller waits for longer.

use super::place::Place;
use crate::error::{Fault, io_fault};
use crate::model::ids::RelPath;
use crate::package::digest::Sha1State;
use crate::package::scan::ScannedFile;
use crate::store::hashtable::FileStamp;
use crate::store::library::LibraryFile;
use crate::store::library_queue::HashedFile;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes per read, between two looks at whether to stop.
const BLOCK: usize = 1 << 20;
/// From this size on a file is read by a thread of its own, so many blocks ahead.
const LARGE: u64 = 16 << 20;
const BUFFERS: usize = 3;
/// Between two notes of how far a large file is (bytes): some seconds of work.
const NOTE_EVERY: u64 = 2 << 30;
/// So much of the page cache is cleaned up at a time (bytes).
const WINDOW: u64 = 64 << 20;
/// While it gives way, this many times as long as a block takes is spent doing nothing.
const REST: u32 = 3;

/// What stops, slows and watches the hashing.
#[derive(Debug, Default)]
pub struct Pace {
    pub stop: CancellationToken,
    /// Deliveries need the machine.
    pub give_way: AtomicBool,
    /// Bytes hashed since the start of the process.
    pub done: AtomicU64,
}

/// A digest under way: the file as it was, and the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Midway {
    pub stamp: FileStamp,
    pub state: Sha1State,
}

/// What may be known of a file before it is hashed.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// It need not be hashed when it looks like this.
    pub fits: Option<FileStamp>,
    /// It was quiet for long enough when it looks like this, even if nobody can tell whether somebody writes.
    pub quiet: Option<FileStamp>,
    pub midway: Option<Midway>,
}

/// What became of it.
#[derive(Debug)]
pub enum Hashed {
    Done(HashedFile),
    /// It looks as it is known.
    Known,
    /// Somebody has it open for writing.
    Written(FileStamp),
    /// Nobody can tell whether somebody writes.
    Unsure(FileStamp),
    /// It changed while it was read.
    Changed(FileStamp),
    /// There is no such file any more.
    Gone,
    Stopped(Option<Midway>),
}

impl FileStamp {
    fn of_scanned(file: &ScannedFile) -> Self {
        Self { size: file.size, mtime_ns: file.mtime_ns, inode: file.inode, ctime_ns: file.ctime_ns }
    }
}

impl Place {
    /// Hashes a file of the library. `note` is told now and then how far it is. Blocks for as long as it takes.
    pub fn hash(&self, rel: &RelPath, known: Known, pace: &Pace, note: &mut dyn FnMut(&Midway)) -> Result<Hashed, Fault> {
        let path = rel.under(&self.base);
        let refused = |e: std::io::Error| io_fault("cannot read", &path, &e);
        // A pipe must not hold us up.
        let mut file = match self.open(rel, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Hashed::Gone),
            Err(e) => return Err(refused(e.into())),
        };
        let before = file.metadata().map_err(refused)?;
        if !before.is_file() {
            return Err(Fault::local(format!("{} is not a plain file", path.display())));
        }
        let scanned = ScannedFile::new(rel.clone(), &before);
        let stamp = FileStamp::of_scanned(&scanned);
        if known.fits.is_some_and(|row| row.fits(&stamp)) {
            return Ok(Hashed::Known);
        }
        match has_writer(&file) {
            Some(true) => return Ok(Hashed::Written(stamp)),
            None if known.quiet != Some(stamp) => return Ok(Hashed::Unsure(stamp)),
            _ => {}
        }
        let resumed = known.midway.filter(|m| m.stamp == stamp && m.state.len() <= stamp.size);
        let mut state = resumed.map_or_else(Sha1State::new, |m| m.state);
        let resumed_at = state.len();
        let mut noted = state.len();
        let mut begun = Instant::now();
        let mut take = |block: &[u8]| {
            state.update(block);
            pace.done.fetch_add(block.len() as u64, Ordering::Relaxed);
            if state.len() - noted >= NOTE_EVERY {
                noted = state.len();
                note(&Midway { stamp, state: state.clone() });
            }
            if pace.give_way.load(Ordering::Relaxed) {
                std::thread::sleep(begun.elapsed() * REST);
            }
            begun = Instant::now();
            !pace.stop.is_cancelled()
        };
        let whole = !pace.stop.is_cancelled() && read(&mut file, resumed_at, stamp.size, &mut take).map_err(refused)?;
        if !whole {
            return Ok(Hashed::Stopped((!state.is_empty()).then_some(Midway { stamp, state })));
        }
        // The name as well as the open file: it may have been replaced.
        let after = file.metadata().map_err(refused)?;
        let unchanged =
            scanned.is_still(&after) && path.symlink_metadata().is_ok_and(|m| scanned.is_still(&m)) && state.len() == stamp.size;
        if !unchanged {
            return Ok(Hashed::Changed(FileStamp::of_scanned(&ScannedFile::new(rel.clone(), &after))));
        }
        let (mtime_ns, inode) = (stamp.mtime_ns, stamp.inode);
        // Of before: a change since then is seen as one.
        let (ctime_ns, born_ns) = (stamp.ctime_ns, born_ns(&before));
        let file = LibraryFile { path, size: stamp.size, mtime_ns, inode, sha1: state.finish() };
        Ok(Hashed::Done(HashedFile { file, ctime_ns, born_ns }))
    }
}

/// When a file was made (nanoseconds since 1970); 0: its file system does not tell.
pub fn born_ns(meta: &std::fs::Metadata) -> i64 {
    let since = meta.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|d| i64::try_from(d.as_nanos()).ok()).unwrap_or(0)
}

/// Reads a file from a position to its end, not far beyond `size` when it grows, and hands over block after block until
/// `take` says no. Says whether it came to the end.
///
/// Of a large file the next blocks are read by a second thread while one is hashed: copying them out of the page cache
/// would cost a fifth of the time.
fn read(file: &mut File, from: u64, size: u64, take: &mut dyn FnMut(&[u8]) -> bool) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(from))?;
    let mut source = Blocks { file, at: from, size, cache: CacheKeeper::default() };
    if size.saturating_sub(from) < LARGE {
        let mut buffer = vec![0; BLOCK.min(usize::try_from(size.saturating_sub(from)).unwrap_or(BLOCK)).max(1)];
        loop {
            match source.next(&mut buffer)? {
                0 => return Ok(true),
                n if !take(&buffer[..n]) => return Ok(false),
                _ => {}
            }
        }
    }
    std::thread::scope(|scope| {
        let (full, blocks) = sync_channel(BUFFERS);
        let (empty, buffers) = sync_channel(BUFFERS + 1);
        for _ in 0..=BUFFERS {
            let _ = empty.send(vec![0; BLOCK]);
        }
        let reader = std::thread::Builder::new().name("read".into()).spawn_scoped(scope, move || -> std::io::Result<()> {
            while let Ok(mut buffer) = buffers.recv() {
                let n = source.next(&mut buffer)?;
                if n == 0 || full.send((buffer, n)).is_err() {
                    break; // the end, or nobody listens any more
                }
            }
            Ok(())
        })?;
        let mut wanted = true;
        while let Ok((buffer, n)) = blocks.recv() {
            wanted = take(&buffer[..n]);
            if !wanted {
                break;
            }
            let _ = empty.send(buffer);
        }
        drop((blocks, empty));
        reader.join().unwrap_or_else(|_| Err(std::io::Error::other("the reader broke")))?;
        Ok(wanted)
    })
}

/// A file, block after block.
struct Blocks<'a> {
    file: &'a mut File,
    at: u64,
    size: u64,
    cache: CacheKeeper,
}

impl Blocks<'_> {
    /// The number of bytes read; 0 at the end, or beyond the size that the file had.
    fn next(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at > self.size {
            return Ok(0);
        }
        self.cache.before(self.file, self.at, self.size);
        let n = self.file.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        self.cache.clean(self.file, self.at);
    }
}

/// Does somebody have it open for writing? `None`: nobody can tell here.
fn has_writer(file: &File) -> Option<bool> {
    static ONCE: Once = Once::new();
    // Whoever opens the file in the instant in which we hold the lease breaks it, and SIGIO would end the process.
    // SAFETY: SIG_IGN is a valid disposition; nothing here uses SIGIO.
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
    });
    let fd = file.as_raw_fd();
    // SAFETY: F_SETLEASE takes an int and touches no memory; the descriptor is open for as long as `file` lives.
    unsafe {
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return Some(false);
        }
    }
    (std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)).then_some(true)
}

/// Gives this thread the lowest priority for the processor and the disk.
pub fn at_lowest_priority() {
    // The "idle" class: only when nobody else wants the disk.
    const WHO_PROCESS: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    let nice = rustix::process::setpriority_process(None, 19);
    // SAFETY: ioprio_set takes three integers; 0 is the calling thread.
    let io = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE) };
    if nice.is_err() || io != 0 {
        tracing::debug!("hashing keeps its priority");
    }
}

/// Reading a library once must not throw out of memory what others use: what was not there before does not stay.
#[derive(Default)]
struct CacheKeeper {
    /// Where the window begins that is read now.
    begin: u64,
    end: u64,
    was_there: bool,
}

impl CacheKeeper {
    /// Before the bytes at `at` are read.
    fn before(&mut self, file: &File, at: u64, size: u64) {
        if at >= self.end && at < size {
            self.clean(file, at);
            (self.begin, self.end) = (at, size.min(at + WINDOW));
            self.was_there = resident_share(file, at, self.end - at) > 0.5;
        }
    }

    fn clean(&mut self, file: &File, read_to: u64) {
        if self.end > self.begin && !self.was_there {
            let len = std::num::NonZeroU64::new(read_to.min(self.end).saturating_sub(self.begin));
            // Only advice: where it is not taken, the pages stay.
            let _ = rustix::fs::fadvise(file, self.begin, len, rustix::fs::Advice::DontNeed);
        }
        self.end = self.begin;
    }
}

/// Which part of a range of a file is in memory, from 0 to 1.
fn resident_share(file: &File, at: u64, len: u64) -> f64 {
    const PAGE: u64 = 4096;
    let (from, Ok(span)) = (at / PAGE * PAGE, usize::try_from(len + at % PAGE)) else { return 0.0 };
    let Ok(offset) = libc::off_t::try_from(from) else { return 0.0 };
    let mut pages = vec![0u8; span.div_ceil(PAGE as usize)];
    // SAFETY: the mapping is never read, only asked about, and removed before the end; `pages` has a byte for each page
    // (pages are at least 4096 bytes).
    unsafe {
        let map = libc::mmap(std::ptr::null_mut(), span, libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd(), offset);
        if map == libc::MAP_FAILED {
            return 0.0;
        }
        let told = libc::mincore(map, span, pages.as_mut_ptr());
        libc::munmap(map, span);
        if told != 0 {
            return 0.0;
        }
    }
    pages.iter().filter(|p| **p & 1 == 1).count() as f64 / pages.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn place(base: &Path) -> Place {
        Place { base: base.to_owned(), transfer: base.join("transfer") }
    }

    fn hash_with(place: &Place, rel: &str, known: Known, pace: &Pace) -> Result<Hashed, Fault> {
        place.hash(&RelPath::parse(rel).unwrap(), known, pace, &mut |_| {})
    }

    fn hash(place: &Place, rel: &str) -> Result<Hashed, Fault> {
        hash_with(place, rel, Known::default(), &Pace::default())
    }

    #[test]
    fn plain_files_are_hashed_and_nothing_else_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("dcp");
        std::fs::create_dir_all(base.join("film")).unwrap();
        std::fs::write(base.join("film/a"), "abc").unwrap();
        std::fs::write(base.join("film/empty"), "").unwrap();
        std::fs::write(dir.path().join("outside"), "abc").unwrap();
        symlink("a", base.join("film/inner")).unwrap();
        symlink(dir.path(), base.join("away")).unwrap();
        let pipe = base.join("film/pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let place = place(&base);

        let Hashed::Done(row) = hash(&place, "film/a").unwrap() else { panic!("not hashed") };
        assert_eq!((row.file.path, row.file.size), (base.join("film/a"), 3));
        assert_eq!(row.file.sha1.to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let Hashed::Done(row) = hash(&place, "film/empty").unwrap() else { panic!("not hashed") };
        assert_eq!(row.file.sha1.to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        for bad in ["film/inner", "film/pipe", "film"] {
            assert!(hash(&place, bad).is_err(), "{bad} was hashed");
        }
        for gone in ["away/outside", "film/absent", "film/a/b"] {
            assert!(matches!(hash(&place, gone), Ok(Hashed::Gone)), "{gone} was hashed");
        }
        let stopped = Pace::default();
        stopped.stop.cancel();
        assert!(matches!(hash_with(&place, "film/a", Known::default(), &stopped), Ok(Hashed::Stopped(None))));
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let place = place(dir.path());
        let writer = File::options().append(true).open(&path).unwrap();
        assert!(matches!(hash(&place, "a"), Ok(Hashed::Written(_))));
        drop(writer);
        assert!(matches!(hash(&place, "a"), Ok(Hashed::Done(_))));
    }

    #[test]
    fn a_large_file_is_read_by_a_second_thread() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let bytes: Vec<u8> = (0..LARGE as u32 / 4 + 77).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(dir.path().join("a"), &bytes).unwrap();
        let Hashed::Done(row) = hash(&place, "a").unwrap() else { panic!("not hashed") };
        let mut whole = Sha1State::new();
        whole.update(&bytes);
        assert_eq!(row.file.sha1, whole.finish());
        // Stopped in the middle, it tells how far it is, and goes on there.
        let mut file = File::open(dir.path().join("a")).unwrap();
        let mut blocks = 0;
        let mut take = |_: &[u8]| {
            blocks += 1;
            blocks < 5
        };
        assert!(!read(&mut file, 0, bytes.len() as u64, &mut take).unwrap());
        assert_eq!(blocks, 5);
    }

    #[test]
    fn an_interrupted_digest_goes_on_only_if_the_file_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![7; 3 << 20]).unwrap();
        let place = place(dir.path());
        let Hashed::Done(whole) = hash(&place, "a").unwrap() else { panic!("not hashed") };
        let (ctime_ns, whole) = (whole.ctime_ns, whole.file);
        let stamp = FileStamp { size: whole.size, mtime_ns: whole.mtime_ns, inode: whole.inode, ctime_ns };
        // A state that is not of these bytes shows where the reading began.
        let mut state = Sha1State::new();
        state.update(&vec![8; 1 << 20]);
        let resumed = |stamp| {
            let known = Known { midway: Some(Midway { stamp, state: state.clone() }), ..Known::default() };
            match hash_with(&place, "a", known, &Pace::default()) {
                Ok(Hashed::Done(hashed)) => hashed.file.sha1,
                other => panic!("not hashed: {other:?}"),
            }
        };
        let mut expected = state.clone();
        expected.update(&vec![7; 2 << 20]);
        assert_eq!(resumed(stamp), expected.finish());
        assert_eq!(resumed(FileStamp { mtime_ns: stamp.mtime_ns - 1, ..stamp }), whole.sha1);
        assert_eq!(resumed(FileStamp { ctime_ns: stamp.ctime_ns - 1, ..stamp }), whole.sha1);

        let known = Known { fits: Some(stamp), ..Known::default() };
        assert!(matches!(hash_with(&place, "a", known, &Pace::default()), Ok(Hashed::Known)));
    }

    #[test]
    fn what_was_in_memory_stays_and_what_was_not_does_not() {
        // Not in the system's temporary directory: that may itself be memory.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![7; 8 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let place = place(dir.path());
        let share = || resident_share(&file, 0, 8 << 20);
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if share() > 0.1 {
            eprintln!("skipped: this file system keeps its pages");
            return;
        }
        assert!(matches!(hash(&place, "a"), Ok(Hashed::Done(_))));
        assert!(share() < 0.1, "{} stayed in memory", share());
        std::fs::read(&path).unwrap();
        assert!(share() > 0.9);
        assert!(matches!(hash(&place, "a"), Ok(Hashed::Done(_))));
        assert!(share() > 0.9, "only {} stayed in memory", share());
    }
}
