//! Staged files into which others wrote: what was hashed of them is not believed any more.
//!
//! What is recorded of a file goes with its times. Once all its bytes are there these are its mtime and ctime. While it
//! grows, our own writes change both, and after a kill nobody knows which writes were ours: so after each write the file
//! gets the mtime back that it had when it was made (its mark). Another time means another writer, while we run and at the
//! next start. Such a file is hashed again from its beginning, which costs reading only; the bytes are fetched again when
//! that comes out wrong, and no method is blamed for it.
//!
//! Servers set times when they like, so nothing is marked there. What they say after a sync is recorded all the same: at the
//! next start it is worth a reading at most.

use super::vanished::{Stamp, nanoseconds};
use super::{Assembly, Slot, SlotState, Verdict, lock};
use crate::package::digest::Sha1State;
use crate::store::task_files::Times;
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;

/// The mtime that a growing file keeps: seconds and nanoseconds.
pub type Mark = (i64, i64);

fn mark_of(m: &Metadata) -> Mark {
    (m.mtime(), m.mtime_nsec())
}

fn give(file: &File, (seconds, nanoseconds): Mark) -> bool {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::futimens(file, &times).is_ok()
}

impl SlotState {
    /// Hashed again from the beginning; the bytes count all the same.
    pub(super) fn doubt(&mut self) {
        self.digest = Sha1State::default();
        self.verdict = Verdict::Open;
        self.stamp = None;
        self.epoch += 1;
        self.doubted = true;
    }
}

impl Slot {
    /// Of a file that was opened to be written: its mark, unless it is known from before. A file system that does not keep
    /// times as they are given has none.
    pub(super) fn mark_first(&self, file: &File) {
        let mut mark = lock(&self.mark);
        if mark.is_some() {
            return;
        }
        let Ok(meta) = file.metadata() else { return };
        let first = mark_of(&meta);
        *mark = (give(file, first) && file.metadata().is_ok_and(|m| mark_of(&m) == first)).then_some(first);
    }

    /// After a write. Its gate is held.
    pub(super) fn mark_again(&self, file: &File) {
        if let Some(mark) = *lock(&self.mark) {
            give(file, mark);
        }
    }

    /// As it is recorded while it grows.
    pub(super) fn growing(&self) -> Option<Times> {
        let mark = *lock(&self.mark);
        mark.map(|m| Times { modified: nanoseconds(m), changed: None })
    }

    /// A file that was there at the start.
    pub(super) fn take_mark(&self, m: Option<&Metadata>) {
        *lock(&self.mark) = m.map(mark_of);
    }

    /// Did another write into it since our last write? Its gate is held, or all its bytes are there.
    pub(super) fn is_touched(&self, m: &Metadata) -> bool {
        lock(&self.mark).is_some_and(|mark| mark != mark_of(m))
    }

    /// All that this node wants of it is there.
    pub(super) fn is_all_there(&self, state: &SlotState) -> bool {
        self.wanted > 0 && state.have.total() >= self.wanted
    }
}

impl Assembly {
    /// Somebody wrote into a file that is still received.
    pub(super) fn doubt(&self, slot: &Slot, m: &Metadata) {
        slot.take_mark(Some(m));
        {
            let mut state = lock(&slot.state);
            state.doubt();
            state.dirty = true;
        }
        let path = slot.path.under(&self.root);
        self.aside.tell(format!("others wrote into {} while it was received: it is hashed again", path.display()));
        self.news.notify_one();
    }

    /// Are files hashed again, or about to be forgotten, in which others wrote?
    pub fn is_hashing_again(&self) -> bool {
        let again = |s: &Slot| s.wanted >= s.size && lock(&s.state).doubted;
        self.has_vanished() || self.slots.iter().any(again)
    }

    /// Files in which others wrote, and of which this node has a part only: no digest tells whether that is right.
    pub fn doubted_parts(&self) -> Vec<u32> {
        let part = |s: &Slot| s.wanted < s.size && lock(&s.state).doubted;
        (0u32..).zip(&self.slots).filter(|(_, s)| part(s)).map(|(n, _)| n).collect()
    }

    /// What became of [`Assembly::doubted_parts`]: those that are wrong are forgotten, and fetched again.
    pub fn checked_parts(&self, files: &[u32], wrong: &[u32]) {
        for n in files {
            let Some(slot) = self.slots.get(*n as usize) else { continue };
            if wrong.contains(n) {
                self.missed(*n);
            } else {
                let mut state = lock(&slot.state);
                (state.doubted, state.dirty) = (false, true);
            }
        }
    }
}

impl Assembly {
    /// The times that are recorded with the snapshot of a file, which was synced and looked at after it. `before`: its stamp
    /// and epoch in that snapshot. `None`: others wrote into it.
    pub(super) fn times_of(&self, slot: &Slot, synced: Stamp, before: (Option<Stamp>, u64)) -> Option<Option<Times>> {
        let (stamp, epoch) = before;
        if let Some(stamp) = stamp {
            return (stamp == synced).then(|| Some(stamp.times()));
        }
        let mut state = lock(&slot.state);
        // Of a file that this node wants in part nobody else notes what it is once that is there.
        let part = slot.wanted < slot.size && slot.is_all_there(&state) && !state.dirty;
        let growing = slot.growing();
        if part && !self.served && state.epoch == epoch && growing.is_none_or(|t| synced.is_at(t)) {
            state.stamp = Some(synced);
            return Some(Some(synced.times()));
        }
        Some(growing.or_else(|| Some(synced.times())))
    }
}
