//! What others put into a staging directory: a directory, a link, a device in the place of a staged file, or something beside
//! them, which would get into the store with the package. The staging directory is ours alone, and what others put there is
//! not ours to delete: it is moved aside, and the reception goes on.

use super::lock;
use super::staging::plain_root;
use crate::error::{Fault, io_fault};
use crate::model::ids::RelPath;
use rustix::fs::{CWD, RenameFlags};
use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// So many things of one name are kept beside each other.
const MOST: u32 = 1000;

/// The place for it, beside the staging directories, and what was put there and not told yet.
#[derive(Default)]
pub struct Aside {
    dir: PathBuf,
    told: Mutex<Vec<String>>,
}

/// `None`: a plain file, for which we may take it.
fn in_the_way(m: &Metadata, ours: Option<u64>) -> Option<&'static str> {
    match m.file_type() {
        t if t.is_dir() => Some("a directory"),
        t if t.is_symlink() => Some("a link"),
        t if !t.is_file() => Some("no plain file"),
        // What is written into it would be written into the other one.
        _ if m.nlink() > 1 && ours != Some(m.ino()) => Some("a file that has another name, too"),
        _ => None,
    }
}

impl Aside {
    /// For what lies in this staging directory.
    pub fn of(root: &Path) -> Self {
        let beside = root.parent().unwrap_or(root).join("aside");
        Self { dir: beside.join(root.file_name().unwrap_or_default()), told: Mutex::default() }
    }

    /// Something that operators should know.
    pub fn tell(&self, text: String) {
        tracing::warn!("{text}");
        lock(&self.told).push(text);
    }

    /// What was put aside since the last call, in words.
    pub fn take_told(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.told))
    }

    /// Afterwards a plain file has this name in the staging directory, or nothing; and every directory above it is one, or
    /// is missing. `ours`: the inode that is recorded for the file.
    pub fn clear_the_way(&self, root: &Path, path: &RelPath, ours: Option<u64>) -> Result<(), Fault> {
        plain_root(root)?;
        let full = path.under(root);
        let mut above: Vec<&Path> = full.ancestors().skip(1).take_while(|p| *p != root).collect();
        while let Some(dir) = above.pop() {
            match dir.symlink_metadata() {
                Ok(m) if m.is_dir() => {}
                Ok(m) => return self.put(dir, in_the_way(&m, None).unwrap_or("a file")),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(io_fault("cannot look at", dir, &e)),
            }
        }
        let meta = match full.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io_fault("cannot look at", &full, &e)),
        };
        match in_the_way(&meta, ours) {
            None => Ok(()),
            // An empty one is nobody's loss.
            Some(_) if meta.is_dir() && std::fs::remove_dir(&full).is_ok() => Ok(()),
            Some(what) => self.put(&full, what),
        }
    }

    /// Afterwards nothing but these files is in the staging directory.
    pub fn clear_strangers<'a>(&self, root: &Path, files: impl Iterator<Item = &'a RelPath>) -> Result<(), Fault> {
        let files: HashSet<PathBuf> = files.map(|f| f.under(root)).collect();
        let dirs: HashSet<&Path> = files.iter().flat_map(|f| f.ancestors().skip(1).take_while(|d| d.starts_with(root))).collect();
        for dir in &dirs {
            let unread = |e: io::Error| io_fault("cannot read", dir, &e);
            for entry in std::fs::read_dir(dir).map_err(unread)? {
                let path = entry.map_err(unread)?.path();
                if !files.contains(&path) && !dirs.contains(path.as_path()) {
                    self.put(&path, "not of the package")?;
                }
            }
        }
        Ok(())
    }

    /// Moves something here.
    pub fn put(&self, from: &Path, what: &str) -> Result<(), Fault> {
        let name = from.file_name().unwrap_or_default();
        let refused = |e: io::Error| {
            let (from, dir) = (from.display(), self.dir.display());
            let text = format!("{from} is {what}, in the way of what is received, and cannot be moved to {dir} ({e})");
            Fault::local(format!("{text}: move it away, then receive the task again"))
        };
        std::fs::create_dir_all(&self.dir).map_err(refused)?;
        for n in 0..MOST {
            let mut to = name.to_owned();
            if n > 0 {
                to.push(format!(".{n}"));
            }
            let to = self.dir.join(to);
            let moved = match rustix::fs::renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE) {
                // Not every file system can; nobody else puts anything there.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.symlink_metadata().is_err() => {
                    std::fs::rename(from, &to)
                }
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::EXIST) => continue,
                other => other.map_err(io::Error::from),
            };
            match moved {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()), // its owner was faster
                Err(e) => return Err(refused(e)),
                Ok(()) => {}
            }
            let text = format!("{} was {what}, in the way of what is received: it was moved to {}", from.display(), to.display());
            self.tell(text);
            return Ok(());
        }
        Err(refused(io::Error::from(io::ErrorKind::AlreadyExists)))
    }
}
