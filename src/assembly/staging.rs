//! The staging directory: made by us, on the store's file system, never left through a symlink.

use super::{Room, Slot, Verdict, lock};
use crate::error::{Fault, io_fault};
use crate::model::ids::RelPath;
use rustix::fs::{FallocateFlags, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// Makes the directory and its sub-directories, drops claims on files that are not there, and checks the free space for
/// what is wanted here (a cacher takes only its part). Says whether files of this node can be cloned into it.
///
/// A task that fits when others are done is told to wait (a transient fault); one that does not fit at all has failed.
///
/// `stage_inode` is what was noted before the package was renamed into the store. When the directory is another one, the
/// rename happened and this is the old version of the package, exchanged for the new one: nothing in it is ours.
pub fn prepare(root: &Path, slots: &[Slot], stage_inode: Option<u64>, room: Room) -> Result<bool, Fault> {
    if let Some(noted) = stage_inode {
        let only = slots.first().filter(|_| slots.len() == 1).map(|s| s.path.under(root));
        let is_ours = |p: &Path| p.symlink_metadata().is_ok_and(|m| m.ino() == noted);
        if !is_ours(root) && !only.as_deref().is_some_and(is_ours) {
            match std::fs::remove_dir_all(root) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_fault("cannot empty", root, &e)),
                _ => slots.iter().for_each(drop_claims),
            }
        }
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(root).map_err(|e| io_fault("cannot make the staging directory", root, &e))?;
    let (mut missing, mut copies) = (0u64, 0u64);
    for slot in slots {
        let path = slot.path.under(root);
        if let Some(dir) = path.parent() {
            builder.create(dir).map_err(|e| io_fault("cannot make the directory", dir, &e))?;
            plain_directories(root, dir)?;
        }
        let (there, allocated) = match path.symlink_metadata() {
            Ok(m) if m.is_file() && m.len() == slot.size => (m.blocks() > 0 || slot.size == 0, m.blocks() * 512),
            Ok(m) if m.is_file() => (false, 0),
            Ok(_) => return Err(Fault::local(format!("{} is not a plain file: remove it", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (false, 0),
            Err(e) => return Err(io_fault("cannot look at", &path, &e)),
        };
        if !there {
            drop_claims(slot);
        }
        let lacks = slot.wanted.saturating_sub(allocated);
        missing += lacks;
        copies += if lock(&slot.local_source).is_some() { lacks } else { 0 };
    }
    let free = free_bytes(root)?;
    let clones = copies > 0 && clones(root, slots);
    if clones {
        missing -= copies; // they share the blocks that are there
    }
    if missing <= free.saturating_sub(room.promised) {
        return Ok(clones);
    }
    let promised = match room.promised {
        0 => String::new(),
        n => format!(", {n} of them are promised to other tasks"),
    };
    let what = format!("{} needs {missing} more bytes and has {free}{promised}", root.display());
    if room.waits && missing <= free.saturating_add(room.returning) && (room.promised > 0 || room.returning > 0) {
        // Nothing of it is there: whoever looks for partial data finds none.
        let _ = std::fs::remove_dir(root);
        return Err(Fault::transient(format!("waits for room: {what}")));
    }
    let lacking = missing - free.saturating_sub(room.promised);
    Err(Fault::local(format!("no space: {what}; {lacking} bytes are lacking. Free some space and receive the task again")))
}

/// Removes staged files and the directories that they leave empty, and nothing else: what somebody put between them stays,
/// and no link is followed. Says whether all of the directory is gone. Blocks.
pub fn remove<'a>(root: &Path, files: impl Iterator<Item = &'a RelPath>) -> bool {
    let mut dirs = std::collections::BTreeSet::new();
    for path in files {
        let full = path.under(root);
        let Some(dir) = full.parent().filter(|d| plain_directories(root, d).is_ok()) else { continue };
        dirs.extend(dir.ancestors().take_while(|d| *d != root).map(Path::to_owned));
        // A link is removed, not what it points to.
        let _ = std::fs::remove_file(&full);
    }
    let _ = std::fs::remove_file(root.join(CLONE_PROBE));
    // Longer paths come after those that they lie in.
    dirs.iter().rev().for_each(|dir| drop(std::fs::remove_dir(dir)));
    match std::fs::remove_dir(root) {
        Err(e) => e.kind() == io::ErrorKind::NotFound,
        Ok(()) => true,
    }
}

const CLONE_PROBE: &str = ".clone";

/// Can files of this node be cloned into the staging directory? The smallest of them tells.
fn clones(root: &Path, slots: &[Slot]) -> bool {
    let sources = slots.iter().filter_map(|s| Some((s.size, lock(&s.local_source).clone()?)));
    let Some((_, source)) = sources.min_by_key(|(size, _)| *size) else { return false };
    let probe = root.join(CLONE_PROBE);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let _ = std::fs::remove_file(&probe); // of a process that was killed here
    let cloned = rustix::fs::open(&probe, flags, Mode::RUSR | Mode::WUSR)
        .and_then(|to| rustix::fs::ioctl_ficlone(to, rustix::fs::open(&source, read, Mode::empty())?));
    let _ = std::fs::remove_file(&probe);
    cloned.is_ok()
}

/// Whatever was recorded is gone with the file.
fn drop_claims(slot: &Slot) {
    let mut state = lock(&slot.state);
    if !state.have.is_empty() || state.verdict != Verdict::Open {
        state.have = Default::default();
        state.digest = Default::default();
        state.verdict = Verdict::Open;
        state.dirty = true;
    }
}

/// Every directory from the root down to `dir` is one, and not a link to one elsewhere.
fn plain_directories(root: &Path, dir: &Path) -> Result<(), Fault> {
    for part in dir.ancestors().take_while(|p| *p != root) {
        if !part.symlink_metadata().map_err(|e| io_fault("cannot look at", part, &e))?.is_dir() {
            return Err(Fault::local(format!("{} is not a plain directory: remove it", part.display())));
        }
    }
    Ok(())
}

/// Bytes that an unprivileged writer may still use on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, Fault> {
    let s = rustix::fs::statvfs(path).map_err(|e| io_fault("cannot read the free space of", path, &e.into()))?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

/// Opens a staged file for reading and writing; a new one gets its whole size at once, so that a full disk shows at the
/// start and the file lies in few pieces. Of a file that is wanted in part only, the rest stays a hole.
pub fn open(root: &Path, path: &RelPath, size: u64, wanted: u64) -> Result<File, Fault> {
    let full = path.under(root);
    let dir = File::open(root).map_err(|e| io_fault("cannot open", root, &e))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(0o644);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let fd = match rustix::fs::openat2(&dir, path.as_str(), flags, mode, resolve) {
        Err(rustix::io::Errno::NOSYS) => rustix::fs::openat(&dir, path.as_str(), flags, mode),
        other => other,
    };
    let file = File::from(fd.map_err(|e| io_fault("cannot open", &full, &e.into()))?);
    let len = file.metadata().map_err(|e| io_fault("cannot look at", &full, &e))?.len();
    if len != size {
        reserve(&file, size, wanted == size).map_err(|e| write_fault(root, path, &e))?;
    }
    Ok(file)
}

fn reserve(file: &File, size: u64, all: bool) -> io::Result<()> {
    file.set_len(size)?;
    if size == 0 || !all {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(e) => {
            file.set_len(0)?;
            Err(e.into())
        }
        Ok(()) => Ok(()),
    }
}

/// A failed write, a full disk named as what it is.
pub fn write_fault(root: &Path, path: &RelPath, e: &io::Error) -> Fault {
    let full = path.under(root);
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Fault::local(format!("no space: cannot write {}. Free some space and receive the task again", full.display()))
                .file(path)
        }
        _ => io_fault("cannot write", &full, e).file(path),
    }
}
