//! Files that appear whole or not at all.

use super::remove;
use crate::error::{Fault, io_fault};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
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
        let part = dir.join(part_of(name));
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
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(|e| self.refused(&e))?;
        if self.path.symlink_metadata().is_ok() && !ours(&self.path) {
            return Ok(false);
        }
        match rename(&self.part, &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => self.part.clear(),
            Err(Errno::EXIST) if self.take_the_place_of(ours)? => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(e) => return Err(self.refused(&e.into())),
        }
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| self.refused(&e))?;
        Ok(true)
    }

    /// Looks at what was there after it was exchanged: before that it may become another.
    fn take_the_place_of(&mut self, ours: impl Fn(&Path) -> bool) -> Result<bool, Fault> {
        let exchange = |draft: &Self| rename(&draft.part, &draft.path, RenameFlags::EXCHANGE);
        match exchange(self) {
            Ok(()) if ours(&self.part) => return Ok(true),
            Ok(()) => {}
            // Taken away in this moment, by whoever wants nothing to be there.
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(self.refused(&e.into())),
        }
        let back = exchange(self).is_ok();
        // Else it is somebody's who was later than the first.
        if !(back && ours(&self.part)) {
            let theirs = std::mem::take(&mut self.part);
            std::fs::rename(&theirs, &self.path).map_err(|e| self.refused(&e))?;
        }
        Ok(false)
    }

    fn refused(&self, e: &io::Error) -> Fault {
        io_fault("cannot write", &self.path, e)
    }
}

fn part_of(name: &OsStr) -> String {
    format!(".{}.part", name.to_string_lossy())
}

/// Without the flags where the file system does not know them.
fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rustix::fs::rename(from, to),
        other => other,
    }
}

/// Removes a file that is `ours`. What somebody else puts there stays, at whatever moment it comes: `false`. Blocks.
pub fn remove_ours(path: &Path, ours: impl Fn(&Path) -> bool) -> Result<bool, Fault> {
    let Some(name) = path.file_name() else { return Ok(true) };
    if path.symlink_metadata().is_ok() && !ours(path) {
        return Ok(false);
    }
    let part = path.with_file_name(part_of(name));
    // Out of the way first: what is looked at where it lies may be another when it is removed.
    match std::fs::rename(path, &part) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        done => done.map_err(|e| io_fault("cannot remove", path, &e))?,
    }
    if ours(&part) {
        remove(&part)?;
        return Ok(true);
    }
    match rename(&part, path, RenameFlags::NOREPLACE) {
        // A still newer one.
        Err(Errno::EXIST) => remove(&part)?,
        done => done.map_err(|e| io_fault("cannot put back", path, &e.into()))?,
    }
    Ok(false)
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
