//! The files of a package, in the order that everything else uses.
//!
//! **The order** is by path, part by part, each part compared by its bytes ([`torrent_order`]). It is the order of the
//! torrent, of the task's file list and of the allocation; it does not depend on the file system, unlike the order in
//! which a directory is read. Comparing the whole path as one string would be a different order (`a-b` before `a/b`),
//! with a directory's files torn apart.
//!
//! **What is not taken**: names that begin with a dot and names of the service's own files (`*.torrent`, `*.finished`,
//! `*.task.json`, `*.part`). They are named in [`Scan::skipped`], never left out in silence. Empty directories carry
//! nothing and are not mentioned.
//!
//! **What is refused**: names that are not UTF-8 or break the rules of [`RelPath`], symbolic links (also those that
//! stay inside: a receiver could not tell them from files), sockets, pipes and devices, and more than [`MAX_FILES`].

use crate::clock::{ctime_ns, mtime_ns};
use crate::error::{Fault, disk_fault};
use crate::model::ids::RelPath;
use std::cmp::Ordering;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Real packages have 5 to a few thousand files. The bound keeps a wrong path (`/`) from filling memory.
pub const MAX_FILES: usize = 100_000;

/// A file with what tells later whether it is still the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedFile {
    pub path: RelPath,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    pub inode: u64,
    /// Time of the last change of anything about it, nanoseconds since 1970. Nobody can set it: it betrays a file that was
    /// written and given its old time back; a rename, a link or a new owner change it, too.
    pub ctime_ns: i64,
}

impl ScannedFile {
    /// The file's stamp as the file system tells it.
    pub fn new(path: RelPath, meta: &Metadata) -> Self {
        Self { path, size: meta.len(), mtime_ns: mtime_ns(meta), inode: meta.ino(), ctime_ns: ctime_ns(meta) }
    }

    /// Whether `meta` belongs to the same unchanged file.
    pub fn is_still(&self, meta: &Metadata) -> bool {
        meta.is_file() && self.size == meta.len() && self.mtime_ns == mtime_ns(meta) && self.inode == meta.ino()
    }
}

/// Is the file at `path` still the one that had this size, modification time and inode?
pub fn is_unchanged(path: &Path, size: u64, mtime_ns: i64, inode: u64) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|m| m.is_file() && m.len() == size && crate::clock::mtime_ns(&m) == mtime_ns && m.ino() == inode)
}

/// What a directory (or a single file) holds.
#[derive(Clone, Debug)]
pub struct Scan {
    /// What the paths of `files` are relative to: the scanned directory, or the directory of the scanned file.
    pub base: PathBuf,
    /// Whether a single file was scanned (task type `file`).
    pub single: bool,
    /// In [`torrent_order`].
    pub files: Vec<ScannedFile>,
    /// Names relative to `base` that were left out on purpose.
    pub skipped: Vec<String>,
}

impl Scan {
    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// The order of files in packages and torrents: part by part, by bytes.
pub fn torrent_order(a: &RelPath, b: &RelPath) -> Ordering {
    a.parts().cmp(b.parts())
}

/// Lists the package at `root`, a directory or a single file.
pub fn scan(root: &Path) -> Result<Scan, Fault> {
    let meta = std::fs::metadata(root).map_err(|e| disk_fault("cannot read the package", root, &e))?;
    if meta.is_dir() {
        return scan_dir(root);
    }
    let (Some(base), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(Fault::permanent(format!("{} is not a package", root.display())));
    };
    let link = std::fs::symlink_metadata(root).map_err(|e| disk_fault("cannot read the package", root, &e))?;
    if !link.is_file() {
        return Err(not_plain(root, &link));
    }
    let path = rel_path(Path::new(name), root)?;
    Ok(Scan { base: base.to_path_buf(), single: true, files: vec![ScannedFile::new(path, &link)], skipped: vec![] })
}

fn scan_dir(root: &Path) -> Result<Scan, Fault> {
    let mut scan = Scan { base: root.to_path_buf(), single: false, files: vec![], skipped: vec![] };
    // Relative directories still to read. `RelPath`'s length limit bounds the depth.
    let mut todo = vec![PathBuf::new()];
    while let Some(rel_dir) = todo.pop() {
        let dir = root.join(&rel_dir);
        let entries = std::fs::read_dir(&dir).map_err(|e| disk_fault("cannot read the directory", &dir, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| disk_fault("cannot read the directory", &dir, &e))?;
            let (rel, full) = (rel_dir.join(entry.file_name()), entry.path());
            let path = rel_path(&rel, &full)?;
            if is_service_name(path.parts().last().unwrap_or_default()) {
                scan.skipped.push(path.to_string());
                continue;
            }
            let meta = std::fs::symlink_metadata(&full).map_err(|e| disk_fault("cannot read", &full, &e))?;
            if meta.is_dir() {
                todo.push(rel);
            } else if meta.is_file() {
                scan.files.push(ScannedFile::new(path, &meta));
            } else {
                return Err(not_plain(&full, &meta).file(&path));
            }
            if scan.files.len() + scan.skipped.len() + todo.len() > MAX_FILES {
                return Err(Fault::permanent(format!(
                    "{} holds more than {MAX_FILES} files: it does not look like a package, check the path",
                    root.display()
                )));
            }
        }
    }
    scan.files.sort_by(|a, b| torrent_order(&a.path, &b.path));
    scan.skipped.sort();
    Ok(scan)
}

/// Dot files and the files that this service keeps beside packages.
pub fn is_service_name(name: &str) -> bool {
    name.starts_with('.') || [".torrent", ".finished", ".task.json", ".part"].iter().any(|s| name.ends_with(s))
}

fn rel_path(rel: &Path, full: &Path) -> Result<RelPath, Fault> {
    let text = rel.to_str().ok_or_else(|| {
        Fault::permanent(format!(
            "the name of {} is not UTF-8: rename the file, other systems could not store it",
            full.display()
        ))
    })?;
    RelPath::parse(text).map_err(|e| Fault::permanent(format!("{e}: rename it in {}", full.display())))
}

fn not_plain(full: &Path, meta: &Metadata) -> Fault {
    if meta.is_symlink() {
        Fault::permanent(format!("{} is a symbolic link: packages hold plain files only, copy its target in", full.display()))
    } else {
        Fault::permanent(format!("{} is not a plain file (socket, pipe or device): remove it", full.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn put(root: &Path, rel: &str, data: &[u8]) {
        let p = root.join(rel);
        std::fs::create_dir_all(p.parent().unwrap()).unwrap();
        std::fs::write(p, data).unwrap();
    }

    #[test]
    fn order_is_by_parts_and_skipped_names_are_told() {
        let d = tempfile::tempdir().unwrap();
        for f in ["a/z", "a-b", "a/b/c", "Z", "名称/x", ".hidden", ".git/config", "x.torrent", "a/y.task.json", "empty"] {
            put(d.path(), f, if f == "empty" { b"" } else { b"1234" });
        }
        std::fs::create_dir(d.path().join("nothing")).unwrap();
        let s = scan(d.path()).unwrap();
        let names: Vec<&str> = s.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, ["Z", "a/b/c", "a/z", "a-b", "empty", "名称/x"]);
        assert_eq!(s.skipped, [".git", ".hidden", "a/y.task.json", "x.torrent"]);
        assert_eq!(s.total(), 20);
        assert!(!s.single);
    }

    #[test]
    fn a_single_file_is_a_package_too() {
        let d = tempfile::tempdir().unwrap();
        put(d.path(), "trailer.mxf", b"123");
        let s = scan(&d.path().join("trailer.mxf")).unwrap();
        assert!(s.single);
        assert_eq!(s.base, d.path());
        assert_eq!((s.files[0].path.as_str(), s.files[0].size), ("trailer.mxf", 3));
    }

    #[test]
    fn links_odd_names_and_missing_directories_are_refused_by_name() {
        let d = tempfile::tempdir().unwrap();
        put(d.path(), "real", b"1");
        std::os::unix::fs::symlink("real", d.path().join("inner-link")).unwrap();
        let e = scan(d.path()).unwrap_err();
        assert!(e.message.contains("inner-link") && e.message.contains("symbolic link"), "{e}");
        std::fs::remove_file(d.path().join("inner-link")).unwrap();
        assert!(scan(d.path()).is_ok());

        for name in [&b"bad\xff.mxf"[..], b"back\\slash", b"new\nline"] {
            let p = d.path().join(OsStr::from_bytes(name));
            std::fs::write(&p, b"x").unwrap();
            assert!(scan(d.path()).is_err(), "{name:?} was accepted");
            std::fs::remove_file(p).unwrap();
        }
        let socket = std::os::unix::net::UnixListener::bind(d.path().join("sock")).unwrap();
        assert!(scan(d.path()).unwrap_err().message.contains("sock"));
        drop(socket);
        assert!(scan(&d.path().join("absent")).is_err());
    }
}
