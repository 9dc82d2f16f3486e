//! A scan: the library, or a part of it, is compared with its rows; what is new or has changed is put into the queue,
//! what was renamed keeps its digest, what is gone is forgotten.
//!
//! What is compared is size, modification time and inode; nothing is read. The walk and the rows come in the same order,
//! so a library of any size is compared while both pass by ([`walk`]). Changes that a watch saw are compared in the same
//! way ([`Library::look_at`]), so there is one rule for what a change means ([`sort`](super::sort)).

use super::place::Place;
use super::sort::{Sorted, Sorter};
use super::tally::Tally;
use super::walk::{BATCH, Found, Walked, walk};
use super::{Library, blocking};
use crate::error::Fault;
use crate::store::events::Level;
use crate::store::library_rows::StampedRow;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc::channel;

/// So long a scan waits for the one that runs.
const WAIT: Duration = Duration::from_secs(5);
/// Rows that are read at a time.
const PAGE: u32 = 5000;

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Files that wait to be hashed now.
    pub queued: u64,
    /// Files that are as they were when they were hashed, perhaps under another name.
    pub known: u64,
    /// Rows that were forgotten: their file is gone.
    pub gone: u64,
    /// Names that are not UTF-8, and what could not be read.
    pub skipped: u64,
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

impl Library {
    /// Looks through the library or what is at `path`; `anew`: everything there is hashed again.
    pub async fn scan(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned> {
        let Ok(mut told) = tokio::time::timeout(WAIT, self.scans.lock()).await else { return Err(NotScanned::Busy) };
        self.scan_locked(path, anew, &mut told).await
    }

    async fn scan_locked(&self, path: Option<&str>, anew: bool, told: &mut String) -> Result<Scanned, NotScanned> {
        let place = self.place.clone();
        let path = path.filter(|p| Path::new(p) != place.base).map(|p| match p.trim_end_matches('/') {
            "" => p.to_owned(),
            trimmed => trimmed.to_owned(),
        });
        let (root, meta) = blocking(move || Ok(root_of(&place, path))).await?.map_err(NotScanned::Refused)?;
        let mut sorter = Sorter::new(self, anew);
        let (walked, is_missed) = self.compare(&root, meta, &mut sorter).await?;
        let Sorted { mut scanned, fresh, changes } = sorter.end().await?;
        if changes > 0 {
            self.packages.review(std::slice::from_ref(&root)).await?;
        }
        scanned.skipped = walked.unnamed.count + walked.unreadable.count;
        self.note_scan(&root).await;
        let found = format!("{fresh} to hash, {} gone", scanned.gone);
        self.tell_scan(&root, fresh + scanned.gone > 0, &found, &walked, is_missed, told).await;
        Ok(scanned)
    }

    /// Looks through directories that were touched, as one: what was moved from one to the other keeps its digest.
    pub(super) async fn look_through(&self, dirs: Vec<PathBuf>) -> Result<(), Fault> {
        let mut told = self.scans.lock().await;
        let mut sorter = Sorter::new(self, false);
        let (mut walks, mut gone) = (Vec::new(), Vec::new());
        for dir in dirs {
            let (place, path) = (self.place.clone(), dir.to_str().filter(|_| dir != self.place.base).map(str::to_owned));
            match blocking(move || Ok(root_of(&place, path))).await? {
                Ok((root, meta)) => {
                    let (walked, is_missed) = self.compare(&root, meta, &mut sorter).await?;
                    walks.push((root, walked, is_missed));
                }
                // Not one of the library's, or gone again: then its rows are, too.
                Err(_) => gone.push(dir),
            }
        }
        let changes = sorter.end().await?.changes;
        let roots: Vec<PathBuf> = walks.iter().map(|(root, ..)| root.clone()).collect();
        if changes > 0 {
            self.packages.review(&roots).await?;
        }
        for (root, walked, is_missed) in walks {
            self.note_scan(&root).await;
            self.tell_scan(&root, false, "", &walked, is_missed, &mut told).await;
        }
        drop(told);
        match gone.is_empty() {
            true => Ok(()),
            false => self.look_at(gone).await.map(|_| ()),
        }
    }

    /// Walks and compares with the rows. Also says whether everything is missing that the library is to have.
    async fn compare(&self, root: &Path, meta: Metadata, sorter: &mut Sorter<'_>) -> Result<(Walked, bool), Fault> {
        let (sender, mut batches) = channel(2);
        let (place, top) = (self.place.clone(), root.to_owned());
        let walking = tokio::spawn(blocking(move || Ok(walk(&place, &top, &meta, sender))));
        let mut rows = Rows { library: self, root, page: VecDeque::new(), after: None, end: false };
        while let Some(batch) = batches.recv().await {
            for found in batch {
                while let Some(row) = rows.next_if(|row| row.path < found.path).await? {
                    sorter.missing.push(row.id);
                }
                let row = rows.next_if(|row| row.path == found.path).await?;
                sorter.found(found, row).await?;
            }
        }
        let walked = walking.await.unwrap_or_else(|e| Err(Fault::local(format!("the scan of the library: {e}"))))?;
        // Not one file in the whole library: that is rather a disk that is not mounted than a wish.
        let is_empty = walked.files == 0 && root == self.place.base;
        let is_missed = is_empty && rows.next_if(|_| true).await?.is_some();
        while let Some(row) = rows.next_if(|_| !is_empty).await? {
            sorter.missing.push(row.id);
        }
        Ok((walked, is_missed))
    }

    async fn note_scan(&self, root: &Path) {
        if let Err(fault) = self.store.note_library_scan(&root.to_string_lossy(), self.clock.now_ms()).await {
            tracing::warn!(%fault, "the time of a scan is not noted");
        }
    }

    /// Looks at paths that somebody touched: files, directories without what is in them, and what is gone.
    pub(super) async fn look_at(&self, paths: Vec<PathBuf>) -> Result<Scanned, Fault> {
        let mut sorter = Sorter::new(self, false);
        // For the packages that they lie in one file of a directory is as good as all.
        let (mut review, mut dir) = (Vec::new(), None);
        for paths in paths.chunks(BATCH) {
            let (place, looked) = (self.place.clone(), paths.to_vec());
            let (files, gone) = blocking(move || Ok(see(&place, &looked))).await?;
            let names: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
            let rows = self.store.stamped_rows_of(&names).await?;
            for (found, row) in files.into_iter().zip(rows) {
                sorter.found(found, row).await?;
            }
            for path in paths {
                if dir.as_deref() != path.parent() {
                    dir = path.parent().map(Path::to_owned);
                    review.push(path.clone());
                }
            }
            let names: Vec<&str> = gone.iter().map(String::as_str).collect();
            if !names.is_empty() {
                sorter.missing.extend(self.store.library_ids_below(&names).await?);
                self.store.unqueue_below(&names).await?;
                review.extend(gone.into_iter().map(PathBuf::from));
            }
        }
        let sorted = sorter.end().await?;
        if sorted.changes > 0 {
            self.packages.review(&review).await?;
        }
        Ok(sorted.scanned)
    }

    /// An event, if something came of it; a scan that is repeated does not complain each time.
    async fn tell_scan(&self, root: &Path, is_news: bool, found: &str, walked: &Walked, is_missed: bool, told: &mut String) {
        let mut trouble = String::new();
        if walked.unnamed.count > 0 {
            let _ = write!(trouble, "; {} with a name that is not UTF-8 ({})", walked.unnamed.count, walked.unnamed.first);
        }
        if walked.unreadable.count > 0 {
            let _ = write!(trouble, "; {} not readable ({})", walked.unreadable.count, walked.unreadable.first);
        }
        if is_missed {
            trouble += "; there is no file at all: nothing is forgotten, is the disk mounted?";
        }
        let level = if trouble.is_empty() || trouble == *told { Level::Info } else { Level::Warn };
        if level == Level::Warn || is_news {
            let text = format!("{} was scanned: {found}{trouble}", root.display());
            self.event(level, &text).await;
        }
        if !trouble.is_empty() || root == self.place.base {
            *told = trouble;
        }
    }
}

/// The rows of a part of the library, by path.
struct Rows<'a> {
    library: &'a Library,
    root: &'a Path,
    page: VecDeque<StampedRow>,
    after: Option<String>,
    end: bool,
}

impl Rows<'_> {
    async fn next_if(&mut self, fits: impl Fn(&StampedRow) -> bool) -> Result<Option<StampedRow>, Fault> {
        if self.page.is_empty() && !self.end {
            self.page = self.library.store.stamped_rows(self.root, self.after.as_deref(), PAGE).await?.into();
            self.end = self.page.is_empty();
            self.after = self.page.back().map(|row| row.path.clone());
        }
        Ok(self.page.pop_front_if(|row| fits(row)))
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

/// What is there of these paths: files, and what is gone. Blocks.
fn see(place: &Place, paths: &[PathBuf]) -> (Vec<Found>, Vec<String>) {
    let (mut files, mut gone) = (Vec::new(), Vec::new());
    let mut unnamed = Tally::default();
    for path in paths {
        let Some(name) = path.to_str() else {
            unnamed.add(|| path.to_string_lossy().escape_debug().to_string());
            continue;
        };
        let Ok(rel) = place.admit(name) else { continue };
        match place.look(&rel) {
            Ok(meta) if meta.is_file() => files.push(Found::new(name.to_owned(), &meta)),
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => gone.push(name.to_owned()),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => gone.push(name.to_owned()),
            Err(e) => tracing::debug!(error = %e, path = name, "cannot look at what was touched"),
        }
    }
    if unnamed.count > 0 {
        tracing::warn!(files = unnamed.count, first = unnamed.first, "names that are not UTF-8 are left out: rename them");
    }
    (files, gone)
}
