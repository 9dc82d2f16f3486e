//! One mark for a whole file system: no limit of directories, nothing to set up for new ones.
//!
//! Events tell a handle of the directory and a name. The handle becomes a path once; paths of directories are kept until
//! one of them is renamed. Of the crate only the two system calls are used: its readers know nothing of handles.
//!
//! Needs Linux 5.17, CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH.

use super::touched::Touched;
use fanotify::low_level as fan;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const INIT: u32 = fan::FAN_CLOEXEC
    | fan::FAN_NONBLOCK
    | fan::FAN_CLASS_NOTIF
    | fan::FAN_UNLIMITED_QUEUE
    | fan::FAN_REPORT_DIR_FID
    | fan::FAN_REPORT_NAME;
/// Not in the crate (linux/fanotify.h).
const FAN_RENAME: u64 = 0x1000_0000;
const MASK: u64 = fan::FAN_CLOSE_WRITE | fan::FAN_CREATE | fan::FAN_DELETE | fan::FAN_ATTRIB | FAN_RENAME | fan::FAN_ONDIR;
/// Kinds of records that hold a directory and a name: of the event itself, of the old and of the new name of a rename.
const DFID_NAME: u8 = 2;
const OLD_DFID_NAME: u8 = 10;
const NEW_DFID_NAME: u8 = 12;
/// Bytes of an event without its records (`struct fanotify_event_metadata`), and of a record's head with the file system's id.
const EVENT: usize = 24;
const RECORD: usize = 12;
/// Paths of directories that are kept.
const MOST_DIRS: usize = 100_000;

/// A watch of the file system that holds a directory.
pub struct Fanotify {
    fd: AsyncFd<OwnedFd>,
    reader: Reader,
    buffer: Vec<u8>,
}

/// What a read has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub changes: u64,
    /// The kernel dropped events.
    pub overflow: bool,
}

impl Fanotify {
    pub fn new(root: &Path) -> io::Result<Self> {
        let flags = (fan::O_RDONLY | fan::O_CLOEXEC | fan::O_LARGEFILE) as u32;
        let raw = fan::fanotify_init(INIT, flags)?;
        // SAFETY: a descriptor that was opened just now and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        fan::fanotify_mark(raw, fan::FAN_MARK_ADD | fan::FAN_MARK_FILESYSTEM, MASK, fan::AT_FDCWD, root)?;
        let reader = Reader::new(root)?;
        // Without the right to open handles nothing could be told apart.
        reader.may_open_handles()?;
        // SAFETY: the descriptor is owned by the AsyncFd, and nobody replaces or closes it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, reader, buffer: vec![0; 1 << 18] })
    }

    /// Waits for events and adds what they touched. Cut off anywhere, nothing is lost.
    pub async fn next(&mut self, touched: &Touched) -> io::Result<Seen> {
        loop {
            let mut ready = self.fd.readable().await?;
            let buffer = &mut self.buffer;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer[..])?)) {
                Ok(n) => return Ok(self.reader.take(&self.buffer[..n?], touched)),
                Err(_) => continue,
            }
        }
    }
}

/// Understands events.
struct Reader {
    /// As the configuration says, and as the kernel tells it.
    root: PathBuf,
    real: PathBuf,
    /// Open only while events are read: an open directory would keep its file system from being unmounted.
    mount: Option<OwnedFd>,
    /// Paths of directories, by the bytes of their handles.
    dirs: HashMap<Vec<u8>, PathBuf>,
}

impl Reader {
    fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.to_owned(), real: root.canonicalize()?, mount: None, dirs: HashMap::new() })
    }

    fn may_open_handles(&self) -> io::Result<()> {
        // Eight bytes that are no handle are refused in any case, with EPERM when all would be.
        let mut none = [0u8; 16];
        none[..4].copy_from_slice(&8u32.to_ne_bytes());
        match open_by_handle(&std::fs::File::open(&self.real)?.into(), &mut none) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Err(e),
            _ => Ok(()),
        }
    }

    fn take(&mut self, mut events: &[u8], touched: &Touched) -> Seen {
        let mut seen = Seen::default();
        while let Some(len) = u32_at(events, 0).map(|n| n as usize).filter(|n| (EVENT..=events.len()).contains(n)) {
            let (event, rest) = events.split_at(len);
            events = rest;
            let (Some(mask), Some(head)) = (u64_at(event, 8), u16_at(event, 6)) else { continue };
            if mask & fan::FAN_Q_OVERFLOW != 0 {
                seen.overflow = true;
                continue;
            }
            seen.changes += self.event(mask, event.get(usize::from(head)..).unwrap_or_default(), touched);
        }
        self.mount = None;
        seen
    }

    /// Says how many paths of ours it was about.
    fn event(&mut self, mask: u64, mut records: &[u8], touched: &Touched) -> u64 {
        let is_dir = mask & fan::FAN_ONDIR != 0;
        let mut changes = 0;
        while let Some(len) = u16_at(records, 2).map(usize::from).filter(|n| (4..=records.len()).contains(n)) {
            let (record, rest) = records.split_at(len);
            records = rest;
            let Some(path) = self.path_of(record) else { continue };
            // What was moved here, or made, brings what is in it; the old name of a renamed one is gone.
            let deep = is_dir && record[0] != OLD_DFID_NAME && mask & (fan::FAN_CREATE | FAN_RENAME) != 0;
            if is_dir && record[0] == OLD_DFID_NAME {
                self.dirs.retain(|_, dir| !dir.starts_with(&path));
            }
            if let Ok(rel) = path.strip_prefix(&self.real) {
                touched.add(self.root.join(rel), deep);
                changes += 1;
            }
        }
        changes
    }

    /// The path that a record tells; `None`: another kind of record, or a directory that is gone.
    fn path_of(&mut self, record: &[u8]) -> Option<PathBuf> {
        if !matches!(record.first()?, &DFID_NAME | &OLD_DFID_NAME | &NEW_DFID_NAME) {
            return None;
        }
        // Behind the head a `struct file_handle`: length, type, bytes; behind that the name, ended by a zero.
        let handle = record.get(RECORD..)?;
        let len = 8 + u32_at(handle, 0)? as usize;
        let (handle, name) = handle.split_at_checked(len)?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let dir = self.dir(handle)?;
        Some(if matches!(name, b"" | b".") { dir } else { dir.join(OsStr::from_bytes(name)) })
    }

    fn dir(&mut self, handle: &[u8]) -> Option<PathBuf> {
        if let Some(dir) = self.dirs.get(handle) {
            return Some(dir.clone());
        }
        if self.mount.is_none() {
            self.mount = std::fs::File::open(&self.real).ok().map(OwnedFd::from);
        }
        let fd = open_by_handle(self.mount.as_ref()?, &mut handle.to_vec()).ok()?;
        let dir = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        if dir.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return None;
        }
        if self.dirs.len() >= MOST_DIRS {
            self.dirs.clear();
        }
        self.dirs.insert(handle.to_vec(), dir.clone());
        Some(dir)
    }
}

/// `handle` holds a whole `struct file_handle`.
fn open_by_handle(mount: &OwnedFd, handle: &mut [u8]) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the caller's bytes hold as many bytes as their head says; the kernel only reads them. The descriptor is new.
    unsafe {
        match libc::open_by_handle_at(mount.as_fd().as_raw_fd(), handle.as_mut_ptr().cast(), flags) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the bytes are, reading them ends and breaks nothing.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), len in 0u32..80) {
            let dir = tempfile::tempdir().unwrap();
            let mut reader = Reader::new(dir.path()).unwrap();
            let touched = Touched::new(dir.path().to_owned());
            let mut bytes = bytes;
            if bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&len.to_ne_bytes());
                bytes[6..8].copy_from_slice(&24u16.to_ne_bytes());
            }
            reader.take(&bytes, &touched);
        }
    }
}
