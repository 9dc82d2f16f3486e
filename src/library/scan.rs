//! A scan: the library, or a part of it, is compared with its rows; what is new or has changed is put into the queue,
//! what was renamed keeps its digest, what is gone is forgotten.
//!
//! What is compared is size, modification time and inode; nothing is read. The walk and the rows come in the same order,
//! so a library of any size is compared while both pass by ([`walk`]). Changes that a watch saw are compared in the same
//! way ([`Library::look_at`]), so there is one rule for what a change means.
//!
//! A row is forgotten only when its file is certainly gone: a directory that cannot be read is not taken for an empty
//! one.

use super::place::Place;
use super::tally::Tally;
use super::walk::{BATCH, Found, Walked, walk};
use super::{Library, blocking};
use crate::error::Fault;
use crate::model::ids::RelPath;
use crate::store::events::Level;
use crate::store::library_queue::QueuedFile;
use crate::store::library_rows::StampedRow;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
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

    /// The same, however long another scan takes.
    pub(super) async fn scan_patiently(&self, path: Option<&str>) -> Result<Scanned, NotScanned> {
        let mut told = self.scans.lock().await;
        self.scan_locked(path, false, &mut told).await
    }

    async fn scan_locked(&self, path: Option<&str>, anew: bool, told: &mut String) -> Result<Scanned, NotScanned> {
        let place = self.place.clone();
        let path = path.filter(|p| Path::new(p) != place.base).map(|p| match p.trim_end_matches('/') {
            "" => p.to_owned(),
            trimmed => trimmed.to_owned(),
        });
        let (root, meta) = blocking(move || Ok(root_of(&place, path))).await?.map_err(NotScanned::Refused)?;
        let (sender, mut batches) = channel(2);
        let (place, top) = (self.place.clone(), root.clone());
        let walking = tokio::spawn(blocking(move || Ok(walk(&place, &top, &meta, sender))));
        let mut rows = Rows { library: self, root: &root, page: VecDeque::new(), after: None, end: false };
        let mut sorter = Sorter::new(self, anew);
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
        while let Some(row) = rows.next_if(|_| !is_empty).await? {
            sorter.missing.push(row.id);
        }
        let (mut scanned, fresh, renamed) = sorter.end().await?;
        if fresh + scanned.gone + renamed > 0 {
            self.packages.review(std::slice::from_ref(&root)).await?;
        }
        scanned.skipped = walked.unnamed.count + walked.unreadable.count;
        if let Err(fault) = self.store.note_library_scan(&root.to_string_lossy(), self.clock.now_ms()).await {
            tracing::warn!(%fault, "the time of a scan is not noted");
        }
        self.tell_scan(&root, fresh, scanned.gone, &walked, told).await;
        Ok(scanned)
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
        let (scanned, ..) = sorter.end().await?;
        self.packages.review(&review).await?;
        Ok(scanned)
    }

    /// An event, if something came of it; a scan that is repeated does not complain each time.
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

/// Sorts finds: known, renamed, changed, new, gone.
struct Sorter<'a> {
    library: &'a Library,
    anew: bool,
    scanned: Scanned,
    /// Did not wait to be hashed before.
    fresh: u64,
    renamed: u64,
    new: Vec<Found>,
    /// Rows of files that have changed: they have no digest any more.
    changed: Vec<StampedRow>,
    /// Rows without a file, by id. They are dealt with last: a file of theirs may turn up under another name.
    missing: Vec<i64>,
}

impl<'a> Sorter<'a> {
    fn new(library: &'a Library, anew: bool) -> Self {
        Self {
            library,
            anew,
            scanned: Scanned::default(),
            fresh: 0,
            renamed: 0,
            new: Vec::new(),
            changed: Vec::new(),
            missing: Vec::new(),
        }
    }

    async fn found(&mut self, found: Found, row: Option<StampedRow>) -> Result<(), Fault> {
        match row {
            Some(row) if row.stamp == found.stamp && !self.anew => {
                self.scanned.known += 1;
                return Ok(());
            }
            Some(row) if row.stamp != found.stamp => self.changed.push(row),
            _ => {}
        }
        self.new.push(found);
        if self.new.len() >= BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        let new = std::mem::take(&mut self.new);
        if new.is_empty() {
            return Ok(());
        }
        let library = self.library;
        self.forget_changed().await?;
        let new = if self.anew { new } else { self.recognise(new).await? };
        let now = library.clock.now_ms();
        let settle = library.settle_ms();
        let queue: Vec<QueuedFile> = new
            .into_iter()
            .map(|f| QueuedFile {
                // A file that has been quiet for long enough already need not wait; one from the future waits as long as others.
                due_at: (f.stamp.mtime_ns / 1_000_000).saturating_add(settle).clamp(now, now + settle),
                path: f.path,
                listed: None,
                stamp: Some(f.stamp),
                anew: self.anew,
            })
            .collect();
        self.scanned.queued += queue.len() as u64;
        if !queue.is_empty() {
            self.fresh += library.store.queue_library_files(&queue).await?;
            library.queued.notify_one();
        }
        Ok(())
    }

    async fn forget_changed(&mut self) -> Result<(), Fault> {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = changed.iter().map(|row| row.id).collect();
        self.library.store.forget_library_rows(&ids).await?;
        // Other names of the same files have changed with them, and nobody tells.
        let stamps: Vec<_> = changed.iter().map(|row| row.stamp).collect();
        for row in self.library.store.rows_of_stamps(&stamps).await?.into_iter().flatten() {
            self.library.touched.add(row.path.into(), false);
        }
        Ok(())
    }

    /// A file that was hashed under another name keeps its digest. Returns the others.
    async fn recognise(&mut self, new: Vec<Found>) -> Result<Vec<Found>, Fault> {
        let store = &self.library.store;
        let stamps: Vec<_> = new.iter().map(|f| f.stamp).collect();
        let rows = store.rows_of_stamps(&stamps).await?;
        if rows.iter().all(Vec::is_empty) {
            return Ok(new);
        }
        let place = self.library.place.clone();
        let sorted = blocking(move || {
            let (mut renamed, mut others) = (Vec::new(), Vec::new());
            for (found, rows) in new.into_iter().zip(rows) {
                let same = rows
                    .into_iter()
                    .filter(|row| row.path != found.path)
                    .find_map(|row| Some((row.id, same_file(&place, &row, &found)?)));
                match same {
                    Some((id, gone)) => renamed.push((id, found.path, gone)),
                    None => others.push(found),
                }
            }
            Ok((renamed, others))
        });
        let (renamed, others) = sorted.await?;
        store.rename_library_rows(&renamed).await?;
        self.renamed += renamed.len() as u64;
        self.scanned.known += renamed.len() as u64;
        Ok(others)
    }

    /// Also says how many files did not wait to be hashed before, and how many were renamed.
    async fn end(mut self) -> Result<(Scanned, u64, u64), Fault> {
        self.flush().await?;
        for ids in self.missing.chunks(BATCH) {
            let rows = self.library.store.library_paths(ids).await?;
            let (place, away) = (self.library.place.clone(), self.library.away());
            let gone: Vec<i64> = blocking(move || {
                let away: Vec<PathBuf> = away.into_iter().filter(|dir| is_empty(dir)).collect();
                let is_away = |path: &str| away.iter().any(|dir| Path::new(path).starts_with(dir));
                let gone = rows.into_iter().filter(|(_, path)| !is_away(path) && is_gone(&place, path));
                Ok(gone.map(|(id, _)| id).collect::<Vec<_>>())
            })
            .await?;
            if !gone.is_empty() {
                self.scanned.gone += self.library.store.forget_library_rows(&gone).await?;
            }
        }
        Ok((self.scanned, self.fresh, self.renamed))
    }
}

/// Was the file of this row, which looked exactly like `found`, renamed (`Some(true)`), or does it have a second name
/// (`Some(false)`)? Inodes are numbers of one file system: on another one it is another file. Blocks.
fn same_file(place: &Place, row: &StampedRow, found: &Found) -> Option<bool> {
    let old = Path::new(&row.path);
    match old.symlink_metadata() {
        Ok(meta) => {
            let same = meta.is_file() && meta.dev() == found.device && meta.ino() == found.stamp.inode;
            same.then_some(false)
        }
        Err(_) if is_gone(place, &row.path) => {
            let above = old.ancestors().skip(1).find_map(|dir| dir.metadata().ok())?;
            (above.dev() == found.device).then_some(true)
        }
        Err(_) => None,
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

/// A directory without anything in it. Blocks.
pub(super) fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
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
