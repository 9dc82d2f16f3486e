//! Staged files that somebody removes, replaces or cuts while they are being received.
//!
//! A descriptor goes on working when its file has no name any more: everything would be received, verified, and missing
//! from the package. So it is noted which file each name stood for; now and then, and before the package gets its name,
//! the names are looked at. What is not as it was is forgotten, first in the database, and fetched again.
//!
//! A file that is cut shows by its size, and so nothing is written into one that lacks a part: a write at its end would
//! hide the hole. One that others write into shows by its times, once all its bytes are there; before, see [`super::doubt`].

use super::local::has_times_of_its_own;
use super::{Assembly, Slot, Verdict, forgotten, lock, staging};
use crate::error::{Fault, io_fault};
use crate::model::ranges::RangeSet;
use crate::package::digest::Sha1State;
use crate::store::task_files::Times;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub fn of(m: &Metadata) -> Self {
        Self { device: m.dev(), inode: m.ino() }
    }

    /// As it is recorded: the database knows no larger numbers. A device may have another one after a start.
    pub fn recorded(self) -> u64 {
        self.inode & i64::MAX as u64
    }
}

/// Inode and times of a file, as they are recorded once all its bytes are there.
pub fn times_as_recorded(m: &Metadata) -> (u64, Times) {
    (Identity::of(m).recorded(), Stamp::of(m).times())
}

/// What changes when somebody writes into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

pub fn nanoseconds((seconds, rest): (i64, i64)) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl Stamp {
    /// As it is recorded.
    pub fn times(self) -> Times {
        Times { modified: nanoseconds(self.modified), changed: Some(nanoseconds(self.changed)) }
    }

    /// Are these its times?
    pub fn is_at(self, times: Times) -> bool {
        let mine = self.times();
        mine.modified == times.modified && times.changed.is_none_or(|c| mine.changed == Some(c))
    }

    pub fn of(m: &Metadata) -> Self {
        Self { size: m.len(), modified: (m.mtime(), m.mtime_nsec()), changed: (m.ctime(), m.ctime_nsec()) }
    }
}

/// Does an open file have all its blocks? On a file server nobody knows: it may share those of a copy, with its holes.
pub fn is_solid(file: &File, size: u64) -> bool {
    size > 0 && !has_times_of_its_own(file) && file.metadata().is_ok_and(|m| m.blocks() * 512 >= size)
}

/// A file that was cut is shorter, or has lost blocks when somebody made it as long again.
fn is_uncut(slot: &Slot, m: &Metadata) -> bool {
    m.len() == slot.size && (!slot.solid.load(Ordering::Relaxed) || m.blocks() * 512 >= slot.size)
}

pub fn fault(path: &Path) -> Fault {
    let what = "was removed or replaced, or others wrote into it, while it was received";
    Fault::transient(format!("{} {what}: it is fetched again", path.display()))
}

impl Assembly {
    /// A file is not where it was.
    pub(super) fn missed(&self, file: u32) {
        if lock(&self.vanished).insert(file) {
            self.news.notify_one();
        }
    }

    pub(super) fn is_missed(&self, file: u32) -> bool {
        lock(&self.vanished).contains(&file)
    }

    /// Is there something for [`Assembly::forget_vanished`] to do?
    pub fn has_vanished(&self) -> bool {
        !lock(&self.vanished).is_empty()
    }

    /// Looks at all names. Whether one of them does not stand for its file any more.
    pub async fn look_for_vanished(self: &Arc<Self>) -> bool {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.look()).await.unwrap_or_default()
    }

    /// As [`Assembly::look_for_vanished`]. Blocks.
    pub(super) fn look(&self) -> bool {
        if let Err(fault) = staging::plain_root(&self.root) {
            lock(&self.broken).get_or_insert(fault);
            self.news.notify_one();
        }
        (0u32..).zip(&self.slots).for_each(|(n, slot)| self.look_at(n, slot));
        self.has_vanished()
    }

    /// Looks at one name. Not while its gate is held.
    pub(super) fn look_at(&self, n: u32, slot: &Slot) {
        // Held, so that it is not made or cut by us at this moment.
        let gate = lock(&slot.gate);
        let stamp = lock(&slot.state).stamp;
        let file = lock(&slot.file);
        let Some(known) = *lock(&slot.identity) else { return };
        let meta = slot.path.under(&self.root).symlink_metadata();
        let there = match &meta {
            Ok(m) => Identity::of(m) == known && is_uncut(slot, m) && stamp.is_none_or(|s| s == Stamp::of(m)),
            Err(e) => !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if !there {
            return self.missed(n);
        }
        let touched = meta.is_ok_and(|m| {
            stamp.is_none() && slot.is_touched(&m) && {
                self.doubt(slot, &m);
                true
            }
        });
        drop((gate, file));
        if touched {
            self.follow(n as usize);
        }
    }

    /// Is this open file, into which is to be written, as long as it was made? Its gate is held. `false`: it was cut, and
    /// what is written leads nowhere.
    pub(super) fn is_uncut(&self, n: u32, slot: &Slot, file: &File) -> Result<bool, Fault> {
        let meta = file.metadata().map_err(|e| io_fault("cannot look at", &slot.path.under(&self.root), &e))?;
        let uncut = is_uncut(slot, &meta);
        if !uncut {
            self.missed(n);
        } else if slot.is_touched(&meta) {
            self.doubt(slot, &meta);
        }
        Ok(uncut)
    }

    /// All bytes of a file are there: from now on nobody has a reason to write into it. `epoch`: when that was seen.
    pub(super) fn settle(&self, n: u32, epoch: u64) -> Result<(), Fault> {
        let slot = self.slot(n)?;
        if lock(&slot.state).stamp.is_some() {
            return Ok(());
        }
        let file = self.open_file(n)?;
        // A server sets times when it likes.
        if has_times_of_its_own(&file) {
            return Ok(());
        }
        // Not between a write and the mark that follows it: what was complete may have been taken back meanwhile.
        let _gate = lock(&slot.gate);
        if lock(&slot.state).epoch != epoch {
            return Ok(());
        }
        let meta = file.metadata().map_err(|e| io_fault("cannot look at", &slot.path.under(&self.root), &e))?;
        if !is_uncut(slot, &meta) {
            self.missed(n);
            return Err(fault(&slot.path.under(&self.root)).file(&slot.path));
        }
        if slot.is_touched(&meta) {
            self.doubt(slot, &meta);
            return Ok(());
        }
        let mut state = lock(&slot.state);
        if state.epoch == epoch {
            state.stamp = Some(Stamp::of(&meta));
        }
        Ok(())
    }

    /// A fault while the disk under the staging directory is away.
    pub(super) async fn check_disk(&self) -> Result<(), Fault> {
        let guard = self.guard.clone();
        tokio::task::spawn_blocking(move || guard.check())
            .await
            .unwrap_or_else(|e| Err(Fault::local(format!("looking at the disk: {e}"))))
    }

    /// Forgets the bytes of files that are gone; they are missing from now on. Not while one of them is copied. Returns
    /// the files.
    pub async fn forget_vanished(&self) -> Result<Vec<u32>, Fault> {
        let _one = self.sync_lock.lock().await;
        self.check_disk().await?;
        let gone: Vec<u32> = lock(&self.vanished).iter().copied().collect();
        // First of all: the files are made anew, and nothing would tell them from those that the database vouches for.
        self.store.record_files(self.task, &gone.iter().map(|n| forgotten(*n)).collect::<Vec<_>>()).await?;
        for n in &gone {
            let Some(slot) = self.slots.get(*n as usize) else { continue };
            {
                let _gate = lock(&slot.gate);
                lock(&slot.file).take();
                let known = lock(&slot.identity).take();
                slot.take_mark(None);
                slot.solid.store(false, Ordering::Relaxed);
                // Whatever took its place is somebody's, and may have another name elsewhere.
                staging::clear(&self.root, &self.aside, &slot.path, known)?;
                let mut state = lock(&slot.state);
                self.stake.closed(state.written.total());
                (state.have, state.written) = (RangeSet::new(), RangeSet::new());
                (state.digest, state.verdict, state.stamp) = (Sha1State::default(), Verdict::Open, None);
                state.epoch += 1;
                (state.dirty, state.doubted) = (false, false);
                lock(&self.vanished).remove(n);
            }
            self.follow(*n as usize);
        }
        Ok(gone)
    }
}
