//! Files that appear whole or not at all.

use super::{remove, sync_dir};
use crate::error::{Fault, io_fault};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file under another name, until it is whole and takes the place of the old one. It is removed when it does not come
/// to that. Everything here blocks.
pub struct Draft {
    path: PathBuf,
    dir: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
}

impl Draft {
    /// Begins a file that will be at `path`, with these rights whatever the process's mask says.
    pub fn begin(path: &Path, mode: u32) -> Result<Self, Fault> {
        let refused = |e: io::Error| io_fault("cannot write", path, &e);
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Fault::local(format!("{} is no file name", path.display())));
        };
        std::fs::create_dir_all(dir).map_err(refused)?;
        let part = dir.join(format!(".{}.part", name.to_string_lossy()));
        remove(&part)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(refused)?;
        let draft = Self { path: path.to_owned(), dir: dir.to_owned(), part, file: BufWriter::new(file) };
        draft.file.get_ref().set_permissions(Permissions::from_mode(mode)).map_err(refused)?;
        Ok(draft)
    }

    pub fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.file.write_all(data).map_err(|e| self.refused(&e))
    }

    /// Does the old file hold the same bytes? Both are read piece by piece.
    pub fn is_same(&mut self) -> Result<bool, Fault> {
        self.file.flush().map_err(|e| self.refused(&e))?;
        same_content(&self.path, &self.part).map_err(|e| self.refused(&e))
    }

    /// Syncs and takes the place of the old file, if `still` says so at the last moment. Returns what the file system says
    /// of the new file.
    pub fn put_in_place(mut self, still: impl FnOnce() -> bool) -> Result<Option<Metadata>, Fault> {
        let refused = |e: io::Error| io_fault("cannot write", &self.path, &e);
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(refused)?;
        let meta = self.file.get_ref().metadata().map_err(refused)?;
        if !still() {
            return Ok(None);
        }
        std::fs::rename(&self.part, &self.path).map_err(refused)?;
        self.part.clear();
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(refused)?;
        Ok(Some(meta))
    }

    /// Syncs and takes the place of a file that is `ours`, or of none. What somebody else puts there stays, at whatever moment
    /// it comes, and the draft goes: `false`.
    pub fn put_in_place_of(mut self, ours: impl Fn(&Path) -> bool) -> Result<bool, Fault> {
        let ours = |at: &Path| !is_dir(at) && ours(at);
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(|e| self.refused(&e))?;
        if self.path.symlink_metadata().is_ok() && !ours(&self.path) {
            return Ok(false);
        }
        // Again when what was there is taken away in this moment.
        for _ in 0..10 {
            match rename(&self.part, &self.path, RenameFlags::NOREPLACE) {
                Ok(()) => self.part.clear(),
                Err(Errno::EXIST) => match self.take_the_place_of(ours)? {
                    None => continue,
                    Some(true) => {}
                    Some(false) => return Ok(false),
                },
                Err(e) => return Err(self.refused(&e.into())),
            }
            File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| self.refused(&e))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Looks at what was there after it was exchanged: before that it may become another. `None`: nothing is there.
    fn take_the_place_of(&mut self, ours: impl Fn(&Path) -> bool) -> Result<Option<bool>, Fault> {
        let id = |m: Metadata| (m.dev(), m.ino());
        let mine = self.file.get_ref().metadata().map(id).map_err(|e| self.refused(&e))?;
        let exchange = |draft: &Self| rename(&draft.part, &draft.path, RenameFlags::EXCHANGE);
        match exchange(self) {
            Ok(()) if ours(&self.part) => return Ok(Some(true)),
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(self.refused(&e.into())),
        }
        let back = exchange(self).is_ok();
        // Else it is somebody's who was later than the first.
        if !(back && self.part.symlink_metadata().is_ok_and(|m| id(m) == mine)) {
            let theirs = std::mem::take(&mut self.part);
            std::fs::rename(&theirs, &self.path).map_err(|e| self.refused(&e))?;
        }
        Ok(Some(false))
    }

    fn refused(&self, e: &io::Error) -> Fault {
        io_fault("cannot write", &self.path, e)
    }
}

fn is_dir(at: &Path) -> bool {
    at.symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// Without the flags where the file system does not know them: there what comes in the last moment is lost.
fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rustix::fs::rename(from, to),
        other => other,
    }
}

/// The name of what [`remove_ours`] took out of the way, for [`put_back`].
const TAKEN: &str = ".taken";

/// Removes a file that is `ours`. What somebody else puts there stays, at whatever moment it comes: `false`. Blocks.
pub fn remove_ours(path: &Path, ours: impl Fn(&Path) -> bool) -> Result<bool, Fault> {
    let ours = |at: &Path| !is_dir(at) && ours(at);
    let Some(name) = path.file_name() else { return Ok(true) };
    let taken = path.with_file_name(format!(".{}{TAKEN}", name.to_string_lossy()));
    if taken.symlink_metadata().is_ok() {
        put_back(&taken)?; // of a time when that failed
    }
    if path.symlink_metadata().is_ok() && !ours(path) {
        return Ok(false);
    }
    // Out of the way first: what is looked at where it lies may be another when it is removed.
    match std::fs::rename(path, &taken) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        done => done.map_err(|e| io_fault("cannot remove", path, &e))?,
    }
    let is_ours = ours(&taken);
    if is_ours {
        remove(&taken)?;
    } else {
        put_back(&taken)?;
    }
    sync_dir(path)?; // a task file would be received again after a power cut
    Ok(is_ours)
}

/// Gives a file its name again that was taken out of the way, also by a process that was killed then. Anything else stays
/// as it is, and so does a newer one of its name. Blocks.
pub fn put_back(taken: &Path) -> Result<(), Fault> {
    let name = taken.file_name().and_then(OsStr::to_str);
    let Some(name) = name.and_then(|n| n.strip_prefix('.')?.strip_suffix(TAKEN)) else { return Ok(()) };
    let back = taken.with_file_name(name);
    if back.symlink_metadata().is_ok() {
        return remove(taken); // not every file system knows the flag
    }
    match rename(taken, &back, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => remove(taken),
        done => done.map_err(|e| io_fault("cannot put back", taken, &e.into())),
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.part.as_os_str().is_empty() {
            return; // it is in its place
        }
        if let Err(fault) = remove(&self.part) {
            tracing::warn!(%fault, "an unfinished file stays behind");
        }
    }
}

/// `false` also when one of them is not there.
fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let open = |path: &Path| match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let (Some(a), Some(b)) = (open(a)?, open(b)?) else { return Ok(false) };
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::with_capacity(1 << 16, a), BufReader::with_capacity(1 << 16, b));
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        match b.read_exact(&mut right[..n]) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if left[..n] != right[..n] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path) -> Vec<String> {
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_draft_takes_its_place_whole_or_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/table.txt");
        let mut draft = Draft::begin(&path, 0o644).unwrap();
        draft.write(b"one\n").unwrap();
        assert!(!draft.is_same().unwrap() && !path.exists());
        let meta = draft.put_in_place(|| true).unwrap().unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (4, 0o644));

        // Somebody else was faster; or it is given up.
        let mut draft = Draft::begin(&path, 0o600).unwrap();
        draft.write(b"two\n").unwrap();
        assert!(!draft.is_same().unwrap());
        assert!(draft.put_in_place(|| false).unwrap().is_none());
        let mut draft = Draft::begin(&path, 0o600).unwrap();
        draft.write(b"one\n").unwrap();
        assert!(draft.is_same().unwrap());
        drop(draft);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
        assert_eq!(entries(path.parent().unwrap()), ["table.txt"]);

        // What a crash left behind does not stand in the way.
        std::fs::write(dir.path().join("sub/.table.txt.part"), "rest").unwrap();
        Draft::begin(&path, 0o644).unwrap().put_in_place(|| true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    /// What `path` holds, and what lies beside it.
    fn there(path: &Path) -> (String, usize) {
        (std::fs::read_to_string(path).unwrap_or_default(), entries(path.parent().unwrap()).len())
    }

    #[test]
    fn what_others_put_there_stays_at_whatever_moment_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.task.json");
        let is_ours = |at: &Path| std::fs::read_to_string(at).is_ok_and(|text| text.starts_with("ours"));
        let put = |text: &str| {
            let draft = dir.path().join("new");
            std::fs::write(&draft, text).unwrap();
            std::fs::rename(draft, &path).unwrap();
        };
        // Who asks whether something is ours for the n-th time has somebody else's come there meanwhile.
        let meddled = |comes: &[(u32, &str)]| {
            let (asked, comes) = (std::cell::Cell::new(0), comes.iter().map(|(n, t)| (*n, (*t).to_owned())).collect::<Vec<_>>());
            move |at: &Path| {
                let answer = is_ours(at);
                asked.set(asked.get() + 1);
                comes.iter().filter(|(n, _)| *n == asked.get()).for_each(|(_, text)| put(text));
                answer
            }
        };
        let write = |comes: &[(u32, &str)]| {
            let mut draft = Draft::begin(&path, 0o600).unwrap();
            draft.write(b"ours, new").unwrap();
            draft.put_in_place_of(meddled(comes)).unwrap()
        };
        assert!(write(&[]), "nothing is there");
        assert!(write(&[]), "ours is there");
        assert_eq!(there(&path), ("ours, new".into(), 1));
        put("theirs");
        assert!(!write(&[]));
        assert_eq!(there(&path), ("theirs".into(), 1));
        for (comes, stays) in [
            (&[(1, "theirs 1")][..], "theirs 1"),
            (&[(1, "theirs 1"), (2, "theirs 2")], "theirs 2"),
            (&[(1, "ours, too")], "ours, new"),
        ] {
            put("ours");
            assert_eq!(write(comes), stays.starts_with("ours"), "{comes:?}");
            assert_eq!(there(&path), (stays.into(), 1), "{comes:?}");
            put("ours");
            let gone = stays.starts_with("ours");
            assert_eq!(remove_ours(&path, meddled(comes)).unwrap(), gone, "{comes:?}");
            assert_eq!(there(&path), if gone { (String::new(), 0) } else { (stays.into(), 1) }, "{comes:?}");
        }
        assert!(remove_ours(&path, is_ours).unwrap(), "nothing is there");
        put("theirs");
        assert!(!remove_ours(&path, is_ours).unwrap());
        assert_eq!(there(&path), ("theirs".into(), 1));

        // A directory is nobody's task file, whatever is said of it.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!Draft::begin(&path, 0o600).unwrap().put_in_place_of(|_| true).unwrap());
        assert!(!remove_ours(&path, |_| true).unwrap());
        assert!(path.is_dir() && entries(dir.path()).len() == 1);
    }

    #[test]
    fn what_was_taken_out_of_the_way_when_the_process_was_killed_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let [path, taken] = ["film.task.json", ".film.task.json.taken"].map(|n| dir.path().join(n));
        std::fs::write(&taken, "theirs").unwrap();
        put_back(&taken).unwrap();
        assert_eq!(there(&path), ("theirs".into(), 1));
        // A newer one stays.
        std::fs::write(&taken, "older").unwrap();
        put_back(&taken).unwrap();
        assert_eq!(there(&path), ("theirs".into(), 1));
        std::fs::write(dir.path().join("notes.taken"), "").unwrap();
        put_back(&dir.path().join("notes.taken")).unwrap();
        assert!(dir.path().join("notes.taken").exists());
    }

    #[test]
    fn content_is_compared_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut long = vec![7u8; 200_000];
        std::fs::write(&a, &long).unwrap();
        assert!(!same_content(&a, &b).unwrap(), "there is no second file");
        std::fs::write(&b, &long).unwrap();
        assert!(same_content(&a, &b).unwrap());
        long[199_999] = 8;
        std::fs::write(&b, &long).unwrap();
        assert!(!same_content(&a, &b).unwrap());
        std::fs::write(&b, &long[..199_999]).unwrap();
        assert!(!same_content(&a, &b).unwrap());
    }
}
