//! A scan: the library, or a directory of it, is looked through on request, and what is new or has changed is hashed.
//!
//! What is compared is size, modification time and inode; nothing is read. The walk runs on a thread for blocking work and
//! hands over its finds in batches, so memory grows with the depth of the directories and not with their number. Rows whose
//! file is gone are found from the other side, by looking at the file of each row: a difference of two lists would have to
//! be held, and would take a directory that cannot be read for an empty one.

use super::HashTable;
use super::export::blocking;
use super::intake::Tally;
use crate::error::{Fault, io_fault};
use crate::library::hash::Place;
use crate::model::ids::RelPath;
use crate::store::events::Level;
use crate::store::hashtable::{FileStamp, QueuedFile};
use std::fmt::Write as _;
use std::fs::{DirEntry, Metadata, ReadDir};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

const BATCH: usize = 1000;
/// So long a scan waits for the one that runs.
const WAIT: Duration = Duration::from_secs(5);

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Files that wait to be hashed now.
    pub queued: u64,
    /// Files that are as they were when they were hashed.
    pub known: u64,
    /// Rows that were forgotten: their file is gone.
    pub gone: u64,
    /// Names that are not UTF-8, and what could not be read.
    pub skipped: u64,
}

/// What is still to hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub files: u64,
    /// As far as they are known: a line of an edited table does not tell the size.
    pub bytes: u64,
    /// A scan runs: there may be more.
    pub scanning: bool,
}

/// Why nothing was scanned.
#[derive(Clone, Debug)]
pub enum NotScanned {
    /// This node has no library.
    NoLibrary,
    /// The path is none of the library's.
    Refused(String),
    /// Another scan runs.
    Busy,
    Broken(Fault),
}

impl From<Fault> for NotScanned {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

/// A file and how it looks.
struct Found {
    path: String,
    stamp: FileStamp,
}

/// What a walk met.
#[derive(Default)]
struct Walked {
    files: u64,
    unnamed: Tally,
    unreadable: Tally,
}

impl HashTable {
    /// Looks through the library or what is at `path`; `anew`: everything there is hashed again.
    pub async fn scan(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned> {
        let Ok(mut told) = tokio::time::timeout(WAIT, self.scans.lock()).await else { return Err(NotScanned::Busy) };
        let place = self.place.clone();
        let path = path.filter(|p| Path::new(p) != place.base).map(|p| match p.trim_end_matches('/') {
            "" => p.to_owned(),
            trimmed => trimmed.to_owned(),
        });
        let (root, meta) = blocking(move || Ok(root_of(&place, path))).await?.map_err(NotScanned::Refused)?;
        let (sender, batches) = channel(2);
        let (place, top) = (self.place.clone(), root.clone());
        let walk = tokio::spawn(blocking(move || Ok(Walk::new(&place, sender).run(&top, &meta))));
        let (mut scanned, fresh) = self.sort_out(batches, anew).await?;
        let walked = walk.await.unwrap_or_else(|e| Err(Fault::local(format!("the scan of the library: {e}"))))?;
        scanned.skipped = walked.unnamed.count + walked.unreadable.count;
        // Not one file in the whole library: that is rather a disk that is not mounted than a wish.
        let is_empty = walked.files == 0 && root == self.place.base;
        if !is_empty {
            scanned.gone = self.forget_gone(&root).await?;
        }
        if fresh + scanned.gone > 0 {
            self.packages.review(std::slice::from_ref(&root)).await?;
        }
        self.tell_scan(&root, fresh, scanned.gone, &walked, &mut told).await;
        Ok(scanned)
    }

    /// What is still to hash.
    pub async fn waiting(&self) -> Result<Waiting, Fault> {
        let scanning = self.scans.try_lock().is_err();
        let (files, bytes) = self.store.library_queue().await?;
        Ok(Waiting { files, bytes: bytes.saturating_sub(self.hashing.load(Ordering::Relaxed)), scanning })
    }

    /// Compares finds with rows. Also says how many did not wait already.
    async fn sort_out(&self, mut batches: Receiver<Vec<Found>>, anew: bool) -> Result<(Scanned, u64), Fault> {
        let (mut scanned, mut fresh) = (Scanned::default(), 0);
        while let Some(batch) = batches.recv().await {
            let paths: Vec<&str> = batch.iter().map(|f| f.path.as_str()).collect();
            let rows = self.store.library_stamps(&paths).await?;
            let total = batch.len() as u64;
            let queue: Vec<QueuedFile> = batch
                .into_iter()
                .zip(rows)
                .filter(|(file, row)| anew || *row != Some(file.stamp))
                .map(|(file, _)| QueuedFile { path: file.path, listed: None, size: Some(file.stamp.size) })
                .collect();
            scanned.queued += queue.len() as u64;
            scanned.known += total - queue.len() as u64;
            if !queue.is_empty() {
                fresh += self.store.queue_library_files(&queue).await?;
                self.queued.notify_one();
            }
        }
        Ok((scanned, fresh))
    }

    async fn forget_gone(&self, root: &Path) -> Result<u64, Fault> {
        let (mut after, mut gone) = (None::<String>, 0);
        loop {
            let rows = self.store.library_rows_below(root, after.as_deref(), BATCH as u32).await?;
            let Some((_, last)) = rows.last() else { return Ok(gone) };
            after = Some(last.clone());
            let place = self.place.clone();
            let ids: Vec<i64> = blocking(move || {
                Ok(rows.into_iter().filter(|(_, path)| is_gone(&place, path)).map(|(id, _)| id).collect::<Vec<_>>())
            })
            .await?;
            if !ids.is_empty() {
                gone += self.store.forget_library_rows(&ids).await?;
            }
        }
    }

    /// An event, if something came of it; a scan that is repeated every minute does not complain every minute.
    async fn tell_scan(&self, root: &Path, fresh: u64, gone: u64, walked: &Walked, told: &mut String) {
        let mut trouble = String::new();
        if walked.unnamed.count > 0 {
            let _ = write!(trouble, "; {} with a name that is not UTF-8 ({})", walked.unnamed.count, walked.unnamed.first);
        }
        if walked.unreadable.count > 0 {
            let _ = write!(trouble, "; {} not readable ({})", walked.unreadable.count, walked.unreadable.first);
        }
        if walked.files == 0 && root == self.place.base {
            trouble += "; there is no file at all: nothing is forgotten, is the disk mounted?";
        }
        let level = if trouble.is_empty() || trouble == *told { Level::Info } else { Level::Warn };
        if level == Level::Warn || fresh + gone > 0 {
            let text = format!("{} was scanned: {fresh} to hash, {gone} gone{trouble}", root.display());
            self.event(level, &text).await;
        }
        *told = trouble;
    }
}

/// Where a scan begins, or why it cannot. `None`: the whole library. Blocks.
fn root_of(place: &Place, path: Option<String>) -> Result<(PathBuf, Metadata), String> {
    let Some(path) = path else {
        let meta = place.base.metadata().map_err(|e| format!("{}: {e}", place.base.display()))?;
        return Ok((place.base.clone(), meta));
    };
    let rel = place.admit(&path).map_err(|why| format!("{}: {why}", path.escape_debug()))?;
    let meta = place.look(&rel).map_err(|e| format!("{path}: {e}"))?;
    match meta.is_dir() || meta.is_file() {
        true => Ok((path.into(), meta)),
        false => Err(format!("{path} is neither a directory nor a plain file: symbolic links are not followed")),
    }
}

/// Only what is certain: what cannot be looked at may be there. Blocks.
fn is_gone(place: &Place, path: &str) -> bool {
    let rel = Path::new(path).strip_prefix(&place.base).ok().and_then(Path::to_str).map(RelPath::parse);
    let Some(Ok(rel)) = rel else { return false };
    match place.look(&rel) {
        Ok(meta) => !meta.is_file(),
        Err(e) => matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// A walk through directories, by symlinks nowhere. Blocks.
struct Walk<'a> {
    place: &'a Place,
    batches: Sender<Vec<Found>>,
    batch: Vec<Found>,
    walked: Walked,
}

impl<'a> Walk<'a> {
    fn new(place: &'a Place, batches: Sender<Vec<Found>>) -> Self {
        Self { place, batches, batch: Vec::new(), walked: Walked::default() }
    }

    /// Ends early when nobody listens any more.
    fn run(mut self, root: &Path, meta: &Metadata) -> Walked {
        // The directories from the root down to where the walk is: names are bounded in length, so these are in number.
        let mut open = Vec::new();
        if meta.is_dir() {
            open.extend(self.enter(root.to_owned()));
        } else if let Some(path) = root.to_str() {
            self.find(path.to_owned(), meta);
        }
        while let Some((dir, entries)) = open.last_mut() {
            match entries.next() {
                None => drop(open.pop()),
                Some(Err(e)) => {
                    self.unreadable(dir, &e);
                    open.pop();
                }
                Some(Ok(entry)) => {
                    let below = self.meet(&entry);
                    open.extend(below.and_then(|dir| self.enter(dir)));
                }
            }
            if self.batch.len() >= BATCH && self.batches.blocking_send(std::mem::take(&mut self.batch)).is_err() {
                return self.walked;
            }
        }
        if !self.batch.is_empty() {
            let _ = self.batches.blocking_send(self.batch);
        }
        self.walked
    }

    fn enter(&mut self, dir: PathBuf) -> Option<(PathBuf, ReadDir)> {
        match std::fs::read_dir(&dir) {
            Ok(entries) => Some((dir, entries)),
            Err(e) => {
                self.unreadable(&dir, &e);
                None
            }
        }
    }

    /// Takes in a file; returns a directory to go into.
    fn meet(&mut self, entry: &DirEntry) -> Option<PathBuf> {
        let path = entry.path();
        // Of the entry itself, not of what a link leads to.
        let meta = match entry.metadata() {
            Ok(meta) if meta.is_dir() || meta.is_file() => meta,
            Ok(_) => return None,
            Err(e) => {
                self.unreadable(&path, &e);
                return None;
            }
        };
        let Some(name) = path.to_str() else {
            self.walked.unnamed.add(|| path.to_string_lossy().escape_debug().to_string());
            return None;
        };
        if self.place.admit(name).is_err() {
            return None;
        }
        if meta.is_dir() {
            return Some(path);
        }
        self.find(name.to_owned(), &meta);
        None
    }

    fn find(&mut self, path: String, meta: &Metadata) {
        self.walked.files += 1;
        self.batch.push(Found { path, stamp: FileStamp::of(meta) });
    }

    /// What was deleted under our eyes is no trouble.
    fn unreadable(&mut self, path: &Path, e: &std::io::Error) {
        if e.kind() != ErrorKind::NotFound {
            self.walked.unreadable.add(|| io_fault("cannot read", path, e).message);
        }
    }
}
