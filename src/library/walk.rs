//! What lies in a part of the library, in the order of the paths' bytes, and by symbolic links nowhere.
//!
//! That order is the database's, so a scan compares both as they come and holds neither. A directory sorts as its name
//! with a `/` behind: that is how the paths of its files compare with its neighbours (`film.x` comes before `film/a`).
//! What is held at a time is the names of the directories from the root down to where the walk is.

use super::hash::born_ns;
use super::place::Place;
use super::tally::Tally;
use crate::error::io_fault;
use crate::store::hashtable::FileStamp;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::Sender;

/// Files that are handed over at a time.
pub const BATCH: usize = 1000;

/// A file and how it looks.
#[derive(Clone, Debug)]
pub struct Found {
    /// Absolute.
    pub path: String,
    pub stamp: FileStamp,
    /// When it was made; 0: not known.
    pub born_ns: i64,
    pub device: u64,
    /// Names that it has.
    pub links: u64,
}

impl Found {
    pub fn new(path: String, meta: &Metadata) -> Self {
        Self { path, stamp: FileStamp::of(meta), born_ns: born_ns(meta), device: meta.dev(), links: meta.nlink() }
    }
}

/// What a walk met.
#[derive(Debug, Default)]
pub struct Walked {
    pub files: u64,
    /// Names that are not UTF-8.
    pub unnamed: Tally,
    pub unreadable: Tally,
}

/// Walks and hands over its finds. Ends early when nobody listens any more. Blocks.
pub fn walk(place: &Place, root: &Path, meta: &Metadata, batches: Sender<Vec<Found>>) -> Walked {
    let mut walk = Walk { place, batches, batch: Vec::new(), walked: Walked::default() };
    if meta.is_dir() {
        walk.run(root);
    } else if let Some(path) = root.to_str() {
        walk.find(path.to_owned(), meta);
    }
    if !walk.batch.is_empty() {
        let _ = walk.batches.blocking_send(walk.batch);
    }
    walk.walked
}

struct Walk<'a> {
    place: &'a Place,
    batches: Sender<Vec<Found>>,
    batch: Vec<Found>,
    walked: Walked,
}

/// Names of one directory, the next one last.
struct Level {
    dir: PathBuf,
    names: Vec<(OsString, bool)>,
}

impl Walk<'_> {
    fn run(&mut self, root: &Path) {
        let mut levels: Vec<Level> = self.enter(root.to_owned()).into_iter().collect();
        while let Some(level) = levels.last_mut() {
            match level.names.pop() {
                None => drop(levels.pop()),
                Some((name, is_dir)) => {
                    let path = level.dir.join(name);
                    if let Some(dir) = self.meet(path, is_dir) {
                        levels.extend(self.enter(dir));
                    }
                }
            }
            if self.batch.len() >= BATCH && self.batches.blocking_send(std::mem::take(&mut self.batch)).is_err() {
                return;
            }
        }
    }

    /// Reads the names of a directory: of its directories and files, nothing else counts.
    fn enter(&mut self, dir: PathBuf) -> Option<Level> {
        let mut names = Vec::new();
        let read = std::fs::read_dir(&dir).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                let kind = match entry.file_type() {
                    Ok(kind) => kind,
                    Err(e) => {
                        self.unreadable(&entry.path(), &e);
                        continue;
                    }
                };
                if kind.is_dir() || kind.is_file() {
                    names.push((entry.file_name(), kind.is_dir()));
                }
            }
            Ok(())
        });
        if let Err(e) = read {
            self.unreadable(&dir, &e);
        }
        let key = |(name, is_dir): &(OsString, bool)| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.extend(is_dir.then_some(b'/'));
            bytes
        };
        names.sort_by_cached_key(|n| std::cmp::Reverse(key(n)));
        Some(Level { dir, names })
    }

    /// Takes in a file; returns a directory to go into.
    fn meet(&mut self, path: PathBuf, is_dir: bool) -> Option<PathBuf> {
        let Some(name) = path.to_str() else {
            self.walked.unnamed.add(|| path.to_string_lossy().escape_debug().to_string());
            return None;
        };
        if self.place.admit(name).is_err() {
            return None;
        }
        if is_dir {
            return Some(path);
        }
        // Of the entry itself, not of what a link leads to.
        match path.symlink_metadata() {
            Ok(meta) if meta.is_file() => self.find(name.to_owned(), &meta),
            Ok(_) => {}
            Err(e) => self.unreadable(&path, &e),
        }
        None
    }

    fn find(&mut self, path: String, meta: &Metadata) {
        self.walked.files += 1;
        self.batch.push(Found::new(path, meta));
    }

    /// What was deleted under our eyes is no trouble.
    fn unreadable(&mut self, path: &Path, e: &std::io::Error) {
        if e.kind() != ErrorKind::NotFound {
            self.walked.unreadable.add(|| io_fault("cannot read", path, e).message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_come_in_the_order_of_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_owned();
        for f in ["film/a", "film.x", "film-b/c", "film/b/c", "film/b.c", "film", "Z", "名/a", "film0"] {
            let path = base.join(f);
            if path.is_dir() {
                continue;
            }
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, f).unwrap();
        }
        std::os::unix::fs::symlink(&base, base.join("loop")).unwrap();
        let place = Place { base: base.clone(), transfer: base.join("transfer") };
        let (sender, mut batches) = tokio::sync::mpsc::channel(100);
        let walked = walk(&place, &base, &base.metadata().unwrap(), sender);
        let mut paths = Vec::new();
        while let Ok(batch) = batches.try_recv() {
            paths.extend(batch.into_iter().map(|f| f.path));
        }
        assert_eq!((walked.files, paths.len()), (8, 8));
        assert!(paths.is_sorted(), "{paths:?}");
    }
}
