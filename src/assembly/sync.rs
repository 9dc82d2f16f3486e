//! When what was received is made durable and recorded.

use super::vanished::Stamp;
use super::{Assembly, Verdict, lock, staging};
use crate::error::{Fault, io_fault};
use crate::store::task_files::{FileProgress, Times};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A sync is due at half of what may be at stake (`stake.rs`), or after this part of the package, so that a small one is
/// not fetched again and again where the power often fails ...
const SYNC_SHARE: u64 = 1000;
/// ... but never less than this, and not more often than once in this time.
const SYNC_LEAST: u64 = 1 << 20;
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// ... or after this time.
const SYNC_PERIOD: Duration = Duration::from_secs(5);
/// ... or after this, while the database must be spared.
const THRIFTY_PERIOD: Duration = Duration::from_secs(60);
/// Bytes after which a package of this size is synced.
pub fn share_of(wanted: u64) -> u64 {
    (wanted / SYNC_SHARE).max(SYNC_LEAST)
}

impl Assembly {
    /// Makes everything that is committed durable and records it.
    pub async fn sync(&self) -> Result<(), Fault> {
        let _one = self.sync_lock.lock().await;
        let _syncing = self.stake.sync();
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Fault::local(format!("{}: an earlier write to the disk was lost", self.root.display())));
        }
        let mut progress = Vec::new();
        let (mut files, mut inodes) = (Vec::new(), Vec::new());
        for (n, slot) in (0u32..).zip(&self.slots) {
            let mut state = lock(&slot.state);
            if !std::mem::take(&mut state.dirty) {
                continue;
            }
            progress.push(FileProgress {
                idx: n,
                have: state.have.clone(),
                digest: Some(state.digest.to_bytes().to_vec()),
                digest_at: state.digest.len(),
                verified: state.verdict == Verdict::Verified,
                times: None,
                doubted: state.doubted,
            });
            let before = (state.stamp, state.epoch);
            drop(state);
            // Not held while the other lock is taken.
            let identity = *lock(&slot.identity);
            if let Some(identity) = identity {
                if *lock(&slot.recorded) != Some(identity.recorded()) {
                    inodes.push((n, identity.recorded()));
                }
                files.push((n, lock(&slot.file).clone(), slot.path.clone(), slot.size, slot.wanted, identity, before));
            }
        }
        if progress.is_empty() {
            // A task that is parked, or seeds for days, need not hold what others may lack. Whoever reads or writes opens anew.
            self.slots.iter().for_each(|s| drop(lock(&s.file).take()));
            lock(&self.opened).clear();
            return Ok(());
        }
        let root = self.root.clone();
        let synced = tokio::task::spawn_blocking(move || {
            let mut stamps = Vec::new();
            for (n, open, path, size, wanted, identity, before) in files {
                // One that was closed meanwhile: the kernel keeps its data and its errors with the file, not with the descriptor.
                let open = match open {
                    None => staging::open_known(&root, &path, (size, wanted), identity)?.map(|(file, _)| Arc::new(file)),
                    open => open,
                };
                let refused = |e: std::io::Error| io_fault("cannot sync", &path.under(&root), &e);
                let stamp = match open {
                    // Its times are compared at the next start.
                    Some(file) if before.0.is_some() => {
                        file.sync_all().and_then(|()| file.metadata()).map(Some).map_err(refused)?
                    }
                    Some(file) => file.sync_data().and_then(|()| file.metadata()).map(Some).map_err(refused)?,
                    None => None,
                };
                stamps.push((n, stamp.as_ref().map(Stamp::of), before));
            }
            Ok(stamps)
        })
        .await
        .unwrap_or_else(|e| Err(Fault::local(format!("sync: {e}"))));
        let recorded = match synced {
            Ok(stamps) => {
                let times: HashMap<u32, Option<Option<Times>>> = stamps
                    .into_iter()
                    .map(|(n, stamp, before)| (n, stamp.and_then(|s| self.times_of(&self.slots[n as usize], s, before))))
                    .collect();
                times.iter().filter(|(_, t)| t.is_none()).for_each(|(n, _)| self.missed(*n));
                progress.retain_mut(|p| match times.get(&p.idx) {
                    Some(None) => false,
                    Some(Some(times)) => {
                        p.times = *times;
                        true
                    }
                    None => true,
                });
                inodes.retain(|(n, _)| progress.iter().any(|p| p.idx == *n));
                self.record(&inodes, &progress).await
            }
            Err(fault) => {
                self.poisoned.store(true, Ordering::Release);
                Err(fault)
            }
        };
        if recorded.is_err() {
            for p in &progress {
                lock(&self.slots[p.idx as usize].state).dirty = true;
            }
        }
        recorded
    }

    async fn record(&self, inodes: &[(u32, u64)], progress: &[FileProgress]) -> Result<(), Fault> {
        // First: until then nothing is recorded of these files.
        self.store.record_inodes(self.task, inodes).await?;
        for (n, inode) in inodes {
            *lock(&self.slots[*n as usize].recorded) = Some(*inode);
        }
        self.store.record_files(self.task, progress).await
    }

    /// So many bytes more are in place and not recorded yet.
    pub(super) fn count(&self, bytes: u64) {
        self.stake.count(bytes);
        if self.stake.unsynced() >= self.sync_share || self.stake.is_half() {
            self.sync_due.notify_one();
        }
    }

    /// Before more is written: not faster than the disk can keep it.
    pub(super) fn wait_for_disk(&self) {
        let kept = !self.closed.load(Ordering::Acquire) && !self.poisoned.load(Ordering::Acquire);
        if kept && self.stake.is_full() {
            // Of bytes that do not count nobody was told.
            self.sync_due.notify_one();
            self.stake.wait();
        }
    }

    /// Waits until the next sync is due, or the assembly is closed.
    async fn sync_is_due(&self, last: Instant) {
        while !self.closed.load(Ordering::Acquire) {
            let (unsynced, thrifty) = (self.stake.unsynced(), self.store.thrifty());
            let soon = !thrifty && unsynced >= self.sync_share;
            let period = if thrifty { THRIFTY_PERIOD } else { SYNC_PERIOD };
            let left = if soon { SYNC_PAUSE } else { period }.saturating_sub(last.elapsed());
            let stake = if thrifty { self.stake.is_full() } else { self.stake.is_half() };
            if stake || left.is_zero() {
                return;
            }
            let _ = tokio::time::timeout(left, self.sync_due.notified()).await;
        }
    }
}

/// Syncs until the assembly is closed, and looks whether its files are still there.
pub async fn keep_synced(assembly: std::sync::Weak<Assembly>) {
    let (mut synced, mut looked) = (Instant::now(), Instant::now());
    loop {
        // Waiting holds the assembly alive; it is closed before it is dropped, and that wakes us.
        let Some(a) = assembly.upgrade() else { return };
        a.sync_is_due(synced).await;
        if a.closed.load(Ordering::Acquire) {
            return;
        }
        synced = Instant::now();
        a.digester.poke();
        if let Err(fault) = a.sync().await {
            if a.poisoned.load(Ordering::Acquire) {
                lock(&a.broken).get_or_insert(fault);
                a.news.notify_one();
            } else {
                // The bytes are safe; a database that is locked or full is not the end of a reception.
                tracing::warn!(%fault, root = %a.root.display(), "what was received cannot be recorded now; trying again");
            }
        }
        if looked.elapsed() >= SYNC_PERIOD {
            a.look_for_vanished().await;
            looked = Instant::now();
        }
    }
}
