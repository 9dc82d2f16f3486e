//! What lies in the receiver's queue directory: views of ours, and task files that somebody put there to be received.

use super::TaskDirs;
use crate::clock::{ctime_ns, mtime_ns};
use crate::model::task::TaskState;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file as it was seen: one that was changed, or another one under its name, differs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    pub path: PathBuf,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
}

impl Found {
    pub fn new(path: PathBuf, meta: &Metadata) -> Self {
        Self { path, size: meta.len(), mtime_ns: mtime_ns(meta), ctime_ns: ctime_ns(meta), inode: meta.ino() }
    }

    /// What lies at a path now, a link itself.
    pub fn at(path: &Path) -> Option<Self> {
        Some(Self::new(path.to_owned(), &path.symlink_metadata().ok()?))
    }

    /// Is it this file that lies there, perhaps under a new name, with the same content?
    pub fn lies_at(&self, path: &Path) -> bool {
        let same = |m: Metadata| (m.len(), mtime_ns(&m), m.ino()) == (self.size, self.mtime_ns, self.inode);
        std::fs::metadata(path).is_ok_and(same)
    }
}

/// Task files in the receiver's queue directory, by time of change, then name. Blocking.
pub fn found_in_queue(dirs: &TaskDirs) -> Vec<Found> {
    let dir = dirs.receiver.join(TaskState::Queues.dir());
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut found: Vec<Found> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.ends_with(".json") && !n.starts_with('.')))
        .filter_map(|e| {
            let meta = e.path().symlink_metadata().ok().filter(Metadata::is_file)?;
            Some(Found::new(e.path(), &meta))
        })
        .collect();
    found.sort_by(|a, b| (a.mtime_ns, &a.path).cmp(&(b.mtime_ns, &b.path)));
    found
}
