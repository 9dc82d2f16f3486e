//! What lies in the receiver's queue directory: views of ours, and task files that somebody put there to be received.

use super::TaskDirs;
use crate::clock::{ctime_ns, mtime_ns};
use crate::model::ids::TaskName;
use crate::model::task::TaskState;
use crate::model::task_file::TaskFile;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
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

    /// When it was put there, given its name or changed: nanoseconds since the epoch.
    pub fn changed_ns(&self) -> i64 {
        self.ctime_ns
    }

    /// Why it can be no task file, going by its looks.
    pub fn oddity(&self) -> Option<String> {
        if !self.path.symlink_metadata().is_ok_and(|m| m.is_file()) {
            return Some("it is not a plain file".into());
        }
        match self.path.file_name().and_then(OsStr::to_str) {
            None => Some("its name is not UTF-8".into()),
            Some(name) if !name.ends_with(".json") => Some("its name must end with .json, in small letters".into()),
            Some(name) => TaskName::parse(name).err().map(|e| e.rule.to_owned()),
        }
    }
}

/// What people put into the receiver's queue directory as a task file, fit or not, and views of ours: by time of change, then
/// name. Blocking.
pub fn found_in_queue(dirs: &TaskDirs) -> Vec<Found> {
    let dir = dirs.receiver.join(TaskState::Queues.dir());
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let is_meant = |name: &[u8]| {
        let ending = name.len().checked_sub(".json".len()).and_then(|at| name.get(at..));
        !name.starts_with(b".") && ending.is_some_and(|e| e.eq_ignore_ascii_case(b".json"))
    };
    let mut found: Vec<Found> =
        entries.flatten().filter(|e| is_meant(e.file_name().as_bytes())).filter_map(|e| Found::at(&e.path())).collect();
    found.sort_by(|a, b| (a.mtime_ns, &a.path).cmp(&(b.mtime_ns, &b.path)));
    found
}

/// What lies in the queue under the name of a task of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    Nothing,
    /// Its view, or the file from which it was accepted.
    Ours,
    /// Another task file: somebody put it there.
    Another,
    /// No task file: one that is being written, or a view that was touched by hand.
    Broken,
}

/// `document`: of the row. Only what changes at the reception may differ. Blocking.
pub fn queued(path: &Path, document: &str) -> Queued {
    let Ok(meta) = path.symlink_metadata() else { return Queued::Nothing };
    if !meta.is_file() || meta.len() > super::TASK_FILE_LIMIT {
        return Queued::Broken;
    }
    let there = match std::fs::read(path) {
        Ok(there) => there,
        // Another user's: whoever takes it in tells why that cannot be.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Queued::Another,
        Err(_) => return Queued::Broken,
    };
    if there == document.as_bytes() {
        return Queued::Ours;
    }
    let as_sent = |bytes: &[u8]| {
        let mut task = TaskFile::parse(bytes).ok()?;
        task.receivetime.clear();
        task.finishedtime.clear();
        task.local_same.clear();
        task.list_sizes2 = None;
        Some(task)
    };
    match as_sent(&there) {
        None => Queued::Broken,
        there if there == as_sent(document.as_bytes()) => Queued::Ours,
        Some(_) => Queued::Another,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{BaseSubdir, PackageName, RelPath, Sha1};
    use crate::model::ratio::Ratio;
    use crate::model::task::Policy;
    use crate::model::task_file::FileEntry;

    #[test]
    fn a_view_is_told_from_another_task_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.task.json");
        let file = FileEntry { path: RelPath::parse("a.mxf").unwrap(), size: 5, sha1: Sha1([7; 20]) };
        let (name, subdir) = (PackageName::parse("film").unwrap(), BaseSubdir::parse("cfec-001").unwrap());
        let mut sent = TaskFile::new(name, subdir, Ratio::new(0, 0, 1).unwrap(), Policy::Fulltime, vec![file]);
        sent.lists[2] = vec![RelPath::parse("a.mxf").unwrap()];
        sent.list_sizes = [0, 0, 5];
        let mut row = sent.clone();
        row.receivetime = "2024-05-06 07:08:09".into();
        row.list_sizes2 = Some([0; 3]);
        row.local_same = vec![RelPath::parse("a.mxf").unwrap()];
        let row = row.to_json();
        let what = |bytes: &str| {
            std::fs::write(&path, bytes).unwrap();
            queued(&path, &row)
        };
        assert_eq!(queued(&path, &row), Queued::Nothing);
        assert_eq!(what(&row), Queued::Ours);
        assert_eq!(what(&sent.to_json()), Queued::Ours);
        sent.requesters = vec![serde_json::json!({"id": "second"})];
        assert_eq!(what(&sent.to_json()), Queued::Another);
        assert_eq!(what("{\"filelist\": ["), Queued::Broken);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(queued(&path, &row), Queued::Broken);
    }
}
