//! The staging directory: made by us, on the store's file system, never left through a symlink.

use super::aside::Aside;
use super::local::has_times_of_its_own;
use super::vanished::{Identity, Stamp};
use super::{Room, Slot, Verdict, lock};
use crate::error::{Fault, io_fault};
use crate::model::ids::RelPath;
use rustix::fs::{FallocateFlags, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// What lay where the staging directory is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Ours, or nothing.
    Ours,
    /// Another directory than the one that was noted. It was removed.
    Another,
}

/// A staging directory that can be used.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    pub found: Found,
    /// Files of this node can be cloned into it.
    pub clones: bool,
    /// Times of files are those of a server.
    pub served: bool,
}

/// Makes the directory and its sub-directories, drops claims on files that are not there, doubts those into which others
/// wrote, and checks the free space for what is wanted here (a cacher takes only its part).
///
/// A task that fits when others are done is told to wait (a transient fault); one that does not fit at all has failed.
///
/// `stage_inode` is what was noted before the package was renamed into the store. When the directory is another one, the
/// rename happened and this is the old version of the package, exchanged for the new one: nothing in it is ours.
pub fn prepare(root: &Path, aside: &Aside, slots: &[Slot], stage_inode: Option<u64>, room: Room) -> Result<Prepared, Fault> {
    let mut found = Found::Ours;
    if let Some(noted) = stage_inode {
        let only = slots.first().filter(|_| slots.len() == 1).map(|s| s.path.under(root));
        let is_ours = |p: &Path| p.symlink_metadata().is_ok_and(|m| m.ino() == noted);
        if !is_ours(root) && !only.as_deref().is_some_and(is_ours) {
            found = Found::Another;
            match std::fs::remove_dir_all(root) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_fault("cannot empty", root, &e)),
                _ => {
                    for slot in slots {
                        drop_claims(slot);
                    }
                }
            }
        }
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(root).map_err(|e| io_fault("cannot make the staging directory", root, &e))?;
    plain_root(root)?;
    let served = File::open(root).is_ok_and(|d| has_times_of_its_own(&d));
    let (mut missing, mut copies) = (0u64, 0u64);
    for slot in slots {
        let path = slot.path.under(root);
        let recorded = *lock(&slot.recorded);
        aside.clear_the_way(root, &slot.path, recorded)?;
        if let Some(dir) = path.parent() {
            builder.create(dir).map_err(|e| io_fault("cannot make the directory", dir, &e))?;
        }
        let meta = match path.symlink_metadata() {
            Ok(m) => Some(m).filter(|m| m.len() == slot.size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_fault("cannot look at", &path, &e)),
        };
        let another = meta.as_ref().is_some_and(|m| recorded.is_some_and(|inode| inode != Identity::of(m).recorded()));
        let meta = if another && drop_claims(slot) {
            // Of that size, and what is recorded speaks of another one: mostly its copy on another disk, so it is removed. Not
            // written into: it may have other names.
            clear(root, aside, &slot.path, None)?;
            None
        } else {
            meta
        };
        let allocated = meta.as_ref().map_or(0, |m| m.blocks() * 512);
        let there = meta.is_some() && (allocated > 0 || slot.size == 0);
        if !there {
            drop_claims(slot);
        }
        let counts = {
            let mut s = lock(&slot.state);
            let counts = !s.have.is_empty() || s.verdict != Verdict::Open;
            if let Some(stamp) = meta.as_ref().filter(|_| counts).map(Stamp::of) {
                let verified = s.verdict == Verdict::Verified;
                let noted = slot.times.filter(|t| t.changed.is_some() || !verified).filter(|t| stamp.is_at(*t));
                if let Some(noted) = noted {
                    let settled = noted.changed.is_some() && (verified || slot.is_all_there(&s));
                    s.stamp = Some(stamp).filter(|_| settled && !served);
                    slot.take_mark(meta.as_ref().filter(|_| noted.changed.is_none() && !served));
                } else {
                    s.doubt();
                    if verified {
                        let text = "is not as it was when it was verified: it is hashed again before it counts";
                        aside.tell(format!("{} {text}", path.display()));
                    }
                }
            }
            counts
        };
        *lock(&slot.identity) = meta.filter(|_| counts).map(|m| Identity::of(&m));
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
        return Ok(Prepared { found, clones, served });
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

pub const CLONE_PROBE: &str = ".clone";

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

/// Whatever was recorded is gone with the file. Was there something?
fn drop_claims(slot: &Slot) -> bool {
    let mut state = lock(&slot.state);
    let claims = !state.have.is_empty() || state.verdict != Verdict::Open;
    if claims {
        state.have = Default::default();
        state.digest = Default::default();
        state.verdict = Verdict::Open;
        state.dirty = true;
    }
    claims
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

/// The staging directory is one, or is not there: not a link to another.
pub fn plain_root(root: &Path) -> Result<(), Fault> {
    match root.symlink_metadata() {
        Ok(m) if !m.is_dir() => Err(Fault::local(format!("{} is not a plain directory: remove it", root.display()))),
        _ => Ok(()),
    }
}

/// Something else has the name of a file that was there.
fn is_another(e: &io::Error) -> bool {
    let link = rustix::io::Errno::LOOP.raw_os_error();
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
        || e.raw_os_error() == Some(link)
}

/// Bytes that an unprivileged writer may still use on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, Fault> {
    let s = rustix::fs::statvfs(path).map_err(|e| io_fault("cannot read the free space of", path, &e.into()))?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

/// Opens a staged file for reading and writing; a new one gets its whole size at once, so that a full disk shows at the
/// start and the file lies in few pieces. Of a file that is wanted in part only, the rest stays a hole. What is in its way
/// is put aside.
///
/// `sizes`: of the file, and what is wanted of it. `known`: which file it must be, when some of its bytes count. `None` when
/// it is not that one any more: it is not made anew here, as nothing would tell it from the one whose bytes count.
pub fn open(
    root: &Path,
    aside: &Aside,
    path: &RelPath,
    sizes: (u64, u64),
    known: Option<Identity>,
) -> Result<Option<(File, Identity)>, Fault> {
    if let Some(known) = known {
        return open_known(root, path, sizes, known);
    }
    aside.clear_the_way(root, path, None)?;
    let full = path.under(root);
    let refused = |e: io::Error| io_fault("cannot open", &full, &e);
    let file = match open_below(root, path, true) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // Somebody tidied up: the directory was there when the reception began.
            let dir = full.parent().unwrap_or(root);
            std::fs::create_dir_all(dir).map_err(|e| io_fault("cannot make the directory", dir, &e))?;
            open_below(root, path, true).map_err(refused)?
        }
        opened => opened.map_err(refused)?,
    };
    as_it_is(root, path, sizes, file).map(Some)
}

/// [`open`] for one that is there.
pub fn open_known(root: &Path, path: &RelPath, sizes: (u64, u64), known: Identity) -> Result<Option<(File, Identity)>, Fault> {
    let full = path.under(root);
    let file = match open_below(root, path, false) {
        Err(e) if is_another(&e) => return Ok(None),
        opened => opened.map_err(|e| io_fault("cannot open", &full, &e))?,
    };
    let meta = file.metadata().map_err(|e| io_fault("cannot look at", &full, &e))?;
    if known != Identity::of(&meta) || meta.len() != sizes.0 {
        return Ok(None);
    }
    as_it_is(root, path, sizes, file).map(Some)
}

fn as_it_is(root: &Path, path: &RelPath, (size, wanted): (u64, u64), file: File) -> Result<(File, Identity), Fault> {
    let meta = file.metadata().map_err(|e| io_fault("cannot look at", &path.under(root), &e))?;
    if meta.len() != size {
        reserve(&file, size, wanted == size).map_err(|e| write_fault(root, path, &e))?;
    }
    Ok((file, Identity::of(&meta)))
}

fn open_below(root: &Path, path: &RelPath, create: bool) -> io::Result<File> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, directory, Mode::empty())?;
    let create = if create { OFlags::CREATE } else { OFlags::empty() };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | create;
    let mode = if create.is_empty() { Mode::empty() } else { Mode::from_raw_mode(0o644) };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(File::from(match rustix::fs::openat2(&dir, path.as_str(), flags, mode, resolve) {
        Err(rustix::io::Errno::NOSYS) => rustix::fs::openat(&dir, path.as_str(), flags, mode),
        other => other,
    }?))
}

/// Removes the file that has a staged file's name. What is no plain file is left to whoever made it, and put aside; so is a
/// file that is not the `known` one, if it is known.
pub fn clear(root: &Path, aside: &Aside, path: &RelPath, known: Option<Identity>) -> Result<(), Fault> {
    let full = path.under(root);
    let there = full.symlink_metadata().ok();
    aside.clear_the_way(root, path, there.as_ref().map(|m| m.ino()))?;
    if there.is_some_and(|m| m.is_file() && known.is_some_and(|known| known != Identity::of(&m))) {
        return aside.put(&full, "another file");
    }
    match std::fs::remove_file(&full) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(io_fault("cannot remove", &full, &e))
        }
        _ => Ok(()),
    }
}

/// Makes a staged file and what its directory says of it durable, times included. `false`: it is not that file any more.
pub fn sync_whole(root: &Path, path: &RelPath, size: u64, known: Option<Identity>, stamp: Option<Stamp>) -> Result<bool, Fault> {
    let full = path.under(root);
    let file = match open_below(root, path, false) {
        Err(e) if is_another(&e) => return Ok(false),
        opened => opened.map_err(|e| io_fault("cannot open", &full, &e))?,
    };
    let meta = file.metadata().map_err(|e| io_fault("cannot look at", &full, &e))?;
    let same = known.is_none_or(|known| known == Identity::of(&meta)) && stamp.is_none_or(|stamp| stamp == Stamp::of(&meta));
    if !same || meta.len() != size {
        return Ok(false);
    }
    file.sync_all().map_err(|e| io_fault("cannot sync", &full, &e))?;
    Ok(true)
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
