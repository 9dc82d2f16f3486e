//! Reading package files for hashing: the file must stay what the scan saw, and the page cache should stay what it was.

use crate::error::{Fault, disk_fault};
use crate::package::scan::ScannedFile;
use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cached pages are looked at and given back in windows of this size: large enough that the kernel's read-ahead (at
/// most a few MiB) has not filled the middle of the next window yet, small beside any memory.
const WINDOW: u64 = 64 << 20;
/// How often a file is tried to be opened while others use up all descriptors, and how long it is waited in between: a
/// moment of that must not cost hours of hashing.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

fn patiently<T>(open: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
    for _ in 1..TRIES {
        match open() {
            Err(fault) if fault.is_transient() && !fault.away => std::thread::sleep(PAUSE),
            end => return end,
        }
    }
    open()
}

/// An open package file that is compared with its stamp at both ends of the reading.
pub(super) struct Source<'a> {
    file: File,
    stamp: &'a ScannedFile,
    full: PathBuf,
    /// Where the window begins that is being read; `None` when the cache is not looked after.
    window: Option<u64>,
    /// Whether the window's pages come in through us and are to be given back.
    give_back: bool,
}

impl<'a> Source<'a> {
    /// Opens the file to read it from end to end, leaving the page cache as it was found.
    pub fn open_whole(base: &Path, stamp: &'a ScannedFile) -> Result<Self, Fault> {
        let mut source = Self::open(base, stamp)?;
        // Advice may be refused (some FUSE file systems); reading works without.
        let _ = fadvise(&source.file, 0, None, Advice::Sequential);
        source.window = Some(0);
        source.give_back = source.window_is_cold(0);
        Ok(source)
    }

    /// Opens the file to read a part and checks that it is still the scanned one.
    pub fn open(base: &Path, stamp: &'a ScannedFile) -> Result<Self, Fault> {
        let full = stamp.path.under(base);
        // NONBLOCK: a pipe that has taken the file's place must not hang us; it fails the comparison instead.
        let open = || File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&full);
        let file = patiently(|| open().map_err(|e| disk_fault("cannot open", &full, &e).file(&stamp.path)))?;
        let source = Self { file, stamp, full, window: None, give_back: false };
        source.still_the_same()?;
        Ok(source)
    }

    /// Fills `buf` from `offset`. A whole file is read forward.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        if let Some(next) = self.window.map(|w| w + WINDOW).filter(|next| offset >= *next) {
            self.leave_window();
            self.window = Some(next);
            self.give_back = self.window_is_cold(next);
        }
        self.file.read_exact_at(buf, offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                self.changed()
            } else {
                disk_fault("cannot read", &self.full, &e).file(&self.stamp.path)
            }
        })
    }

    /// Checks once more that the file is the scanned one. Digests from a [`Source`] count only after this.
    pub fn close(self) -> Result<(), Fault> {
        self.leave_window();
        self.still_the_same()
    }

    fn still_the_same(&self) -> Result<(), Fault> {
        let meta = self.file.metadata().map_err(|e| disk_fault("cannot read", &self.full, &e).file(&self.stamp.path))?;
        if self.stamp.is_still(&meta) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Fault {
        Fault::permanent(format!(
            "{} changed while it was being read: try again when nobody writes to the package",
            self.full.display()
        ))
        .file(&self.stamp.path)
    }

    /// Whether the window at `start` is not in the page cache. Small files and file systems that cannot tell count as
    /// cached, and are left alone.
    fn window_is_cold(&self, start: u64) -> bool {
        let end = (start + WINDOW).min(self.stamp.size);
        if end.saturating_sub(start) < WINDOW / 2 {
            return false;
        }
        [start + (end - start) / 2, end - 1].into_iter().all(|at| {
            let mut byte = [0];
            let got = preadv2(&self.file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
            matches!(got, Err(rustix::io::Errno::AGAIN))
        })
    }

    fn leave_window(&self) {
        if let Some(start) = self.window.filter(|_| self.give_back) {
            let _ = fadvise(&self.file, start, NonZeroU64::new(WINDOW), Advice::DontNeed);
        }
    }
}
