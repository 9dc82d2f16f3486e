//! `hashtable.txt`: the library as a file that other tools read and people edit.
//!
//! The database is the truth and the file is written from it: `sha1sum -c` lines, sorted by path, replaced as a whole
//! when the library changes. Older systems kept their library in this file alone, and their users correct it there:
//! delete lines, add lines, empty it. So a file that is not as it was left is read before it is written again:
//!
//! * a line that is gone: its row is forgotten, if the last export had it. A row that came after that export cannot have
//!   been deleted by whoever edited it; ids of rows are never used twice, so "up to this id" says which those are.
//! * a line that is new: the file is hashed here ([`queue`]) before there is a row. What the line says is only compared.
//! * a line with another digest than its row: the file is hashed again.
//! * no good line at all: an accident, not an edit. It is reported, and replaced if the file was ours.
//!
//! The export is noted in the database, so an edit counts whenever it was made, also while the service was down. What
//! cannot be seen: an editor that loads the file, and saves it after the next export.
//!
//! The file is looked at every second rather than watched: that works on every file system, and a file that is being
//! written has to be waited out anyway.

mod export;
mod intake;
mod line;
mod queue;
mod scan;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::config::ConfigHandle;
use crate::error::{Fault, io_fault};
use crate::library::hash::Place;
use crate::library::packages::Packages;
use crate::store::Store;
use crate::store::events::Level;
use crate::store::hashtable::{FileStamp, TableExport};
use intake::{Outcome, take_in};
pub use scan::{NotScanned, Scanned, Waiting};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

/// Between two looks at the file.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two exports, however often the library changes.
const PAUSE: Duration = Duration::from_secs(2);
/// A very large library takes seconds to write: the pause is at least so many times longer.
const REST: u32 = 4;
/// Until it is tried again after a fault.
const RETRY: Duration = Duration::from_secs(30);
/// The longest that somebody waits for an edit to be taken in.
const PATIENCE: Duration = Duration::from_secs(10);

impl FileStamp {
    fn of(meta: &Metadata) -> Self {
        let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Self { size: meta.len(), mtime_ns, inode: meta.ino() }
    }
}

/// The file as it is; `None` when there is none. Blocks.
fn stamp_of(path: &Path) -> Result<Option<FileStamp>, Fault> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => Ok(Some(FileStamp::of(&meta))),
        Ok(_) => {
            Err(Fault::local(format!("{} is not a plain file: remove it, or set hashtable to another path", path.display())))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(out_of_reach(path, &io_fault("cannot look at", path, &e))),
    }
}

/// What to do about a place that the service's user may not use; the default one often is.
fn out_of_reach(path: &Path, fault: &Fault) -> Fault {
    let dir = path.parent().unwrap_or(path).display();
    Fault::local(format!(
        "{fault}. The hash table is not up to date: let the service write to {dir}, or set hashtable to a path where it may; \
         it is tried again"
    ))
}

/// Keeps `hashtable.txt`. One per process.
pub struct HashTable {
    store: Store,
    config: ConfigHandle,
    clock: Clock,
    place: Place,
    packages: Packages,
    /// Something was put into the queue.
    queued: Notify,
    /// So many bytes of the queue's first file are hashed.
    hashing: Arc<AtomicU64>,
    /// Held by the scan that runs; what the last one complained about.
    scans: Mutex<String>,
    /// The file as it was when it was dealt with last; `None` before the first look.
    dealt: watch::Sender<Option<Option<FileStamp>>>,
}

impl HashTable {
    pub fn new(store: Store, config: ConfigHandle, clock: Clock) -> Self {
        let place = Place::of(&config.current());
        let packages = Packages::new(store.clone(), place.clone(), clock.clone());
        Self {
            store,
            config,
            clock,
            place,
            packages,
            queued: Notify::new(),
            hashing: Arc::default(),
            scans: Mutex::default(),
            dealt: watch::Sender::new(None),
        }
    }

    /// Exports and takes in until stopped.
    pub async fn keep(&self, stop: CancellationToken) {
        tokio::join!(self.follow(&stop), self.hash_queue(&stop));
    }

    async fn follow(&self, stop: &CancellationToken) {
        let mut keeper = Keeper::default();
        loop {
            // Cut off anywhere, an export leaves the old file and an intake is repeated.
            tokio::select! {
                () = keeper.look(self) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits, but not for long, until an edit that was just made is taken in.
    pub async fn settled(&self) {
        let mut dealt = self.dealt.subscribe();
        let wait = async {
            loop {
                let path = self.config.current().hashtable.clone();
                let Ok(now) = export::blocking(move || stamp_of(&path)).await else { return };
                let done = *dealt.borrow_and_update() == Some(now);
                if done || dealt.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }

    fn has_dealt_with(&self, file: Option<FileStamp>) {
        self.dealt.send_if_modified(|old| old.replace(file) != Some(file));
    }

    async fn event(&self, level: Level, text: &str) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        if let Err(fault) = self.store.add_event(level, "hashtable", "", "hashtable", text, self.clock.now_ms()).await {
            tracing::error!(%fault, "cannot write an event");
        }
    }
}

/// What is remembered from look to look.
#[derive(Default)]
struct Keeper {
    /// The configured file; what follows is about it.
    path: PathBuf,
    /// How it was left, by this process or an earlier one. `None`: it was never written.
    left: Option<TableExport>,
    /// What the last look saw.
    seen: Option<Option<FileStamp>>,
    /// An edit that is in the database, but not yet replaced by an export.
    taken: Option<FileStamp>,
    /// The library's change that the file shows.
    shown: Option<u64>,
    /// Before this time a change of the library waits.
    next_at: Option<Instant>,
    trouble: Option<(String, Instant)>,
}

impl Keeper {
    async fn look(&mut self, table: &HashTable) {
        let path = &table.config.current().hashtable;
        if *path != self.path {
            match table.store.table_export(path).await {
                Ok(left) => *self = Self { path: path.clone(), left, ..Self::default() },
                Err(fault) => return tracing::warn!(%fault, "cannot look for the hash table's last export"),
            }
        }
        if self.trouble.as_ref().is_some_and(|(_, at)| at.elapsed() < RETRY) {
            return;
        }
        let file = self.path.clone();
        let (at, result) = match export::blocking(move || stamp_of(&file)).await {
            Ok(now) => (Some(now), self.deal(table, now).await),
            Err(fault) => (None, Err(fault)),
        };
        let dealt = match result {
            Ok(dealt) => dealt,
            Err(fault) => {
                self.complain(table, &fault).await;
                at
            }
        };
        if let Some(dealt) = dealt {
            table.has_dealt_with(dealt);
        }
    }

    /// Takes in and exports what is due. Returns the file as it is then, or nothing when another look is needed.
    async fn deal(&mut self, table: &HashTable, now: Option<FileStamp>) -> Result<Option<Option<FileStamp>>, Fault> {
        let edited = now != self.left.map(|l| l.stamp);
        if edited && self.seen.replace(now) != Some(now) {
            return Ok(None); // perhaps it is being written
        }
        if let Some(stamp) = now.filter(|stamp| edited && self.taken != Some(*stamp)) {
            if !self.take_in(table, stamp).await? {
                self.seen = None;
                return Ok(None);
            }
            self.taken = now;
        }
        if !edited {
            table.has_dealt_with(now); // nobody needs to wait for the export
        }
        let changes = table.store.library_changes();
        let due = self.shown != Some(changes) && self.next_at.is_none_or(|at| Instant::now() >= at);
        if !edited && !due {
            return Ok(Some(now));
        }
        let begun = Instant::now();
        let Some(left) = export::export(&table.store, &self.path, now).await? else { return Ok(None) };
        if self.left != Some(left) {
            table.store.note_table_export(&self.path, &left).await?;
        }
        if self.trouble.take().is_some() {
            tracing::info!("{} is written again", self.path.display());
        }
        self.next_at = Some(Instant::now() + PAUSE.max(begun.elapsed() * REST));
        (self.left, self.shown, self.taken) = (Some(left), Some(changes), None);
        Ok(Some(Some(left.stamp)))
    }

    /// `false`: the file is still changing.
    async fn take_in(&mut self, table: &HashTable, stamp: FileStamp) -> Result<bool, Fault> {
        let newest = self.left.map_or(0, |l| l.newest);
        let outcome = take_in(&table.store, &table.place, &self.path, stamp, newest).await;
        table.queued.notify_one();
        let path = self.path.display();
        match outcome? {
            Outcome::Moving => return Ok(false),
            Outcome::Done(edit) => {
                let level = if edit.refused.count + edit.odd.count > 0 { Level::Warn } else { Level::Info };
                if let Some(text) = edit.text() {
                    table.event(level, &format!("{path} was edited: {text}")).await;
                }
            }
            Outcome::NoTable(edit) if self.left.is_none() => {
                let text = edit.text().unwrap_or_default();
                return Err(Fault::local(format!(
                    "{path} was not written here and is no hash table ({text}): move it away, or set hashtable to another path"
                )));
            }
            Outcome::NoTable(edit) => {
                let text = edit.text().unwrap_or_default();
                table.event(Level::Warn, &format!("{path} was edited and has no good line ({text}): nothing is changed")).await;
            }
            Outcome::TooLong => {
                table.event(Level::Warn, &format!("{path} was edited and has too many lines: nothing is forgotten")).await;
            }
        }
        Ok(true)
    }

    /// Says it once, in the log and as an event.
    async fn complain(&mut self, table: &HashTable, fault: &Fault) {
        let known = self.trouble.take().is_some_and(|(text, _)| text == fault.message);
        if !known {
            table.event(Level::Warn, &fault.message).await;
        }
        self.trouble = Some((fault.message.clone(), Instant::now()));
    }
}
