//! What a look at the disk means for the rows: known, renamed, changed, new, gone.
//!
//! A row is forgotten only when its file is certainly gone: a directory that cannot be read is not taken for an empty one,
//! and a disk that is not mounted not for a deleted one.

use super::place::Place;
use super::scan::Scanned;
use super::walk::{BATCH, Found};
use super::{Library, blocking};
use crate::error::Fault;
use crate::model::ids::RelPath;
use crate::store::library_queue::QueuedFile;
use crate::store::library_rows::StampedRow;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Sorts finds: known, renamed, changed, new, gone.
pub(super) struct Sorter<'a> {
    library: &'a Library,
    anew: bool,
    scanned: Scanned,
    /// Did not wait to be hashed before.
    fresh: u64,
    /// Rows that came or went.
    changes: u64,
    new: Vec<Found>,
    /// Files that look as their rows say, and are hashed again all the same.
    again: Vec<Found>,
    /// Rows that lack what else tells their file apart.
    incomplete: Vec<(i64, i64, i64)>,
    /// Rows of files that have changed, by id: they have no digest any more.
    changed: Vec<i64>,
    /// Rows without a file, by id. They are dealt with last: a file of theirs may turn up under another name.
    pub missing: Vec<i64>,
}

impl<'a> Sorter<'a> {
    pub fn new(library: &'a Library, anew: bool) -> Self {
        Self {
            library,
            anew,
            scanned: Scanned::default(),
            fresh: 0,
            changes: 0,
            new: Vec::new(),
            again: Vec::new(),
            incomplete: Vec::new(),
            changed: Vec::new(),
            missing: Vec::new(),
        }
    }

    pub async fn found(&mut self, found: Found, row: Option<StampedRow>) -> Result<(), Fault> {
        match row {
            Some(row) if self.anew && row.stamp.looks_like(&found.stamp) => self.again.push(found),
            Some(row) if row.stamp.fits(&found.stamp) => {
                if row.stamp.ctime_ns == 0 {
                    self.incomplete.push((row.id, found.stamp.ctime_ns, found.born_ns));
                }
                self.scanned.known += 1;
            }
            // A new owner or a new link; or it was written, and given its old time back. It keeps its digest until it is
            // known which.
            Some(row) if row.stamp.looks_like(&found.stamp) => self.again.push(found),
            Some(row) => {
                self.changed.push(row.id);
                self.new.push(found);
            }
            None => self.new.push(found),
        }
        if self.new.len() + self.again.len() + self.incomplete.len() >= BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        let library = self.library;
        library.store.complete_library_rows(&std::mem::take(&mut self.incomplete)).await?;
        let (new, again) = (std::mem::take(&mut self.new), std::mem::take(&mut self.again));
        // Other names of the same file have changed with it, and nobody tells.
        let linked: Vec<u64> = new.iter().filter(|f| f.links > 1).map(|f| f.stamp.inode).collect();
        if !linked.is_empty() {
            for path in library.store.paths_of_inodes(&linked).await? {
                library.touched.add(path.into(), false);
            }
        }
        // Before the rows of changed files go: a name may have been taken over by another file, and its old one renamed.
        // Who wants everything to be read means renamed files, too.
        let new = if self.anew { new } else { self.recognise(new).await? };
        let changed = std::mem::take(&mut self.changed);
        if !changed.is_empty() {
            self.changes += changed.len() as u64;
            library.store.forget_library_rows(&changed).await?;
        }
        let now = library.clock.now_ms();
        let settle = library.settle_ms();
        let anew = self.anew;
        let queued = |f: Found, anew: bool| QueuedFile {
            // A file that has been quiet for long enough already need not wait; one from the future waits as long as others.
            due_at: (f.stamp.mtime_ns / 1_000_000).saturating_add(settle).clamp(now, now + settle),
            path: f.path,
            listed: None,
            stamp: Some(f.stamp),
            anew,
        };
        let wanted = |f: &Found| anew || !library.was_refused(&f.path, &f.stamp);
        let mut queue: Vec<QueuedFile> = new.into_iter().filter(wanted).map(|f| queued(f, anew)).collect();
        queue.extend(again.into_iter().filter(wanted).map(|f| queued(f, true)));
        self.scanned.queued += queue.len() as u64;
        if !queue.is_empty() {
            self.fresh += library.store.queue_library_files(&queue).await?;
            library.queued.notify_one();
        }
        Ok(())
    }

    /// A file that was hashed under another name keeps its digest. Returns the others.
    async fn recognise(&mut self, new: Vec<Found>) -> Result<Vec<Found>, Fault> {
        let store = &self.library.store;
        if new.is_empty() {
            return Ok(new);
        }
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
                    .filter(|row| row.path != found.path && row.born_ns != 0 && row.born_ns == found.born_ns)
                    .find_map(|row| Some((row.id, same_file(&place, &row, &found)?)));
                match same {
                    Some((id, gone)) => renamed.push((id, found.path, gone, found.stamp.ctime_ns)),
                    None => others.push(found),
                }
            }
            Ok((renamed, others))
        });
        let (renamed, others) = sorted.await?;
        store.rename_library_rows(&renamed).await?;
        self.changes += renamed.len() as u64;
        self.scanned.known += renamed.len() as u64;
        Ok(others)
    }

    pub async fn end(mut self) -> Result<Sorted, Fault> {
        self.flush().await?;
        for ids in self.missing.chunks(BATCH) {
            let rows = self.library.store.library_paths(ids).await?;
            let (place, away) = (self.library.place.clone(), self.library.away());
            let gone: Vec<i64> = blocking(move || {
                let away: Vec<PathBuf> = away.into_iter().filter(|dir| is_unmounted(dir)).collect();
                let is_away = |path: &str| away.iter().any(|dir| Path::new(path).starts_with(dir));
                let gone = rows.into_iter().filter(|(_, path)| !is_away(path) && is_gone(&place, path));
                Ok(gone.map(|(id, _)| id).collect::<Vec<_>>())
            })
            .await?;
            if !gone.is_empty() {
                self.scanned.gone += self.library.store.forget_library_rows(&gone).await?;
            }
        }
        let changes = self.changes + self.fresh + self.scanned.gone;
        Ok(Sorted { scanned: self.scanned, fresh: self.fresh, changes })
    }
}

/// What sorting came to.
pub(super) struct Sorted {
    pub scanned: Scanned,
    /// Files that did not wait to be hashed before.
    pub fresh: u64,
    /// Whether anything about the rows or the queue is new.
    pub changes: u64,
}

/// Was the file of this row, which looked exactly like `found`, renamed (`Some(true)`), or does it have a second name
/// (`Some(false)`)? Inodes are numbers of one file system: on another one it is another file. Blocks.
fn same_file(place: &Place, row: &StampedRow, found: &Found) -> Option<bool> {
    let old = Path::new(&row.path);
    match old.symlink_metadata() {
        Ok(meta) => {
            if meta.is_file() && meta.dev() == found.device && meta.ino() == found.stamp.inode {
                return Some(false);
            }
            // Another file has that name now.
            let above = old.parent()?.metadata().ok()?;
            (above.dev() == found.device).then_some(true)
        }
        Err(_) if is_gone(place, &row.path) => {
            let above = old.ancestors().skip(1).find_map(|dir| dir.metadata().ok())?;
            (above.dev() == found.device).then_some(true)
        }
        Err(_) => None,
    }
}

/// A directory where a file system used to be mounted, and where nothing is now. Blocks.
pub(super) fn is_unmounted(dir: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|m| m.dev()).ok();
    let is_mounted = dir.parent().is_some_and(|above| device(above) != device(dir));
    !is_mounted && std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
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
