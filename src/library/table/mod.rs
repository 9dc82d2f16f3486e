//! `hashtable.txt`: the library as a file that other tools read and people edit.
//!
//! The database is the truth and the file is written from it: `sha1sum -c` lines, sorted by path, replaced as a whole
//! when the library changes. Older systems kept their library in this file alone, and their users correct it there:
//! delete lines, add lines, empty it. So a file that is not as it was left is read before it is written again:
//!
//! * a line that is gone: its row is forgotten, if the last export had it. A row that came after that export cannot have
//!   been deleted by whoever edited it; ids of rows are never used twice, so "up to this id" says which those are.
//! * a line that is new: the file is hashed here (`library::queue`) before there is a row. What the line says is only compared.
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
pub(super) mod line;
#[cfg(test)]
mod tests;

use super::{Library, blocking};
use crate::error::{Fault, io_fault};
use crate::store::events::Level;
use crate::store::hashtable::{FileStamp, TableExport};
use intake::{Outcome, take_in};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
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

/// The file as it is; `None` when there is none. Blocks.
fn stamp_of(path: &Path) -> Result<Option<FileStamp>, Fault> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => Ok(Some(FileStamp::of(&meta).without_ctime())),
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

/// The file as it was when it was dealt with last; `None` before the first look.
pub(super) struct Dealt(watch::Sender<Option<Option<FileStamp>>>);

impl Dealt {
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Library {
    /// Exports and takes in until stopped.
    pub(super) async fn keep_table(&self, stop: &CancellationToken) {
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
        let mut dealt = self.dealt.0.subscribe();
        let wait = async {
            loop {
                let path = self.config.current().hashtable.clone();
                let Ok(now) = blocking(move || stamp_of(&path)).await else { return };
                let done = *dealt.borrow_and_update() == Some(now);
                if done || dealt.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }

    fn has_dealt_with(&self, file: Option<FileStamp>) {
        self.dealt.0.send_if_modified(|old| old.replace(file) != Some(file));
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
    async fn look(&mut self, table: &Library) {
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
        let (at, result) = match blocking(move || stamp_of(&file)).await {
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
    async fn deal(&mut self, table: &Library, now: Option<FileStamp>) -> Result<Option<Option<FileStamp>>, Fault> {
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
    async fn take_in(&mut self, table: &Library, stamp: FileStamp) -> Result<bool, Fault> {
        let newest = self.left.map_or(0, |l| l.newest);
        let outcome = take_in(&table.store, &table.place, &self.path, stamp, newest, table.clock.now_ms()).await;
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
    async fn complain(&mut self, table: &Library, fault: &Fault) {
        let known = self.trouble.take().is_some_and(|(text, _)| text == fault.message);
        if !known {
            table.event(Level::Warn, &fault.message).await;
        }
        self.trouble = Some((fault.message.clone(), Instant::now()));
    }
}
