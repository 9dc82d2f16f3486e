//! Files that appear whole or not at all.

use super::remove;
use crate::error::{Fault, io_fault};
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

    fn refused(&self, e: &io::Error) -> Fault {
        io_fault("cannot write", &self.path, e)
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
