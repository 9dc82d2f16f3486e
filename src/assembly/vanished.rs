//! Staged files that somebody removes, replaces or cuts while they are being received.
//!
//! A descriptor goes on working when its file has no name any more: everything would be received, verified, and missing
//! from the package. So it is noted which file each name stood for; now and then, and before the package gets its name,
//! the names are looked at. What is not as it was is forgotten, first in the database, and fetched again.

use super::{Assembly, Verdict, forgotten, lock, staging};
use crate::error::Fault;
use crate::model::ranges::RangeSet;
use crate::package::digest::Sha1State;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

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
}

pub fn fault(path: &Path) -> Fault {
    Fault::transient(format!("{} was removed or replaced while it was received: it is fetched again", path.display()))
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
        for (n, slot) in (0u32..).zip(&self.slots) {
            // Held, so that it is not made or cut by us at this moment.
            let _gate = lock(&slot.gate);
            let _file = lock(&slot.file);
            let Some(known) = *lock(&slot.identity) else { continue };
            let there = match slot.path.under(&self.root).symlink_metadata() {
                Ok(m) => Identity::of(&m) == known && m.len() == slot.size,
                Err(e) => !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
            };
            if !there {
                self.missed(n);
            }
        }
        self.has_vanished()
    }

    /// Forgets the bytes of files that are gone; they are missing from now on. Not while one of them is copied. Returns
    /// the files.
    pub async fn forget_vanished(&self) -> Result<Vec<u32>, Fault> {
        let _one = self.sync_lock.lock().await;
        let gone: Vec<u32> = lock(&self.vanished).iter().copied().collect();
        // First of all: the files are made anew, and nothing would tell them from those that the database vouches for.
        self.store.record_files(self.task, &gone.iter().map(|n| forgotten(*n)).collect::<Vec<_>>()).await?;
        for n in &gone {
            let Some(slot) = self.slots.get(*n as usize) else { continue };
            {
                let _gate = lock(&slot.gate);
                lock(&slot.file).take();
                *lock(&slot.identity) = None;
                // Whatever took its place is not written into: it may have another name elsewhere.
                staging::clear(&self.root, &slot.path)?;
                let mut state = lock(&slot.state);
                (state.have, state.written) = (RangeSet::new(), RangeSet::new());
                (state.digest, state.verdict) = (Sha1State::default(), Verdict::Open);
                state.epoch += 1;
                state.dirty = false;
                lock(&self.vanished).remove(n);
            }
            self.follow(*n as usize);
        }
        Ok(gone)
    }
}
