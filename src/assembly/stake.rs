//! What a power cut would take: bytes that came and are not recorded yet.

use super::lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// At most so many bytes are at stake: at most so much is fetched again after a power cut.
const MOST: u64 = 64 << 20;
/// So many of them may be of pieces that are not complete: the rest is for what is. (BitTorrent keeps to less.)
const MOST_OPEN: u64 = 56 << 20;
/// A writer waits at most so long for the disk, once for each block: a disk that hangs slows a transfer down, and does not
/// hold a thread for ever.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Stake {
    /// Bytes that count and are not recorded yet.
    unsynced: AtomicU64,
    /// Those that a sync is about to record.
    syncing: AtomicU64,
    /// Bytes that were written and do not count yet: of pieces that are not complete.
    open: AtomicU64,
    waiting: Mutex<()>,
    less: Condvar,
}

impl Stake {
    /// Bytes were written that do not count yet.
    pub fn opened(&self, bytes: u64) {
        self.open.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Such bytes count now, or went.
    pub fn closed(&self, bytes: u64) {
        self.open.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes count now.
    pub fn count(&self, bytes: u64) {
        self.unsynced.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that count and that no sync has begun to record.
    pub fn unsynced(&self) -> u64 {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// A sync is due at half of what may be at stake: the other half comes while it runs.
    pub fn is_half(&self) -> bool {
        self.unsynced() >= (MOST - self.open_bytes()) / 2
    }

    fn open_bytes(&self) -> u64 {
        self.open.load(Ordering::Relaxed).min(MOST_OPEN)
    }

    /// Writers wait.
    pub fn is_full(&self) -> bool {
        let counting = self.unsynced() + self.syncing.load(Ordering::Acquire);
        counting > 0 && counting + self.open_bytes() >= MOST
    }

    /// A sync begins. At its end nothing is at stake that was before it: it is recorded, or, where the database cannot
    /// take it, waits for the next one; the transfer goes on meanwhile.
    pub fn sync(&self) -> Syncing<'_> {
        self.syncing.store(self.unsynced.swap(0, Ordering::Relaxed), Ordering::Release);
        Syncing(self)
    }

    /// Blocks while too much is at stake: who brings more than the disk takes waits for the disk.
    pub fn wait(&self) {
        let began = Instant::now();
        let mut guard = lock(&self.waiting);
        while self.is_full() {
            let Some(left) = PATIENCE.checked_sub(began.elapsed()) else { return };
            guard = self.less.wait_timeout(guard, left).map_or_else(|e| e.into_inner().0, |(guard, _)| guard);
        }
    }
}

/// A sync that is under way.
pub(super) struct Syncing<'a>(&'a Stake);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.syncing.store(0, Ordering::Release);
        // Nobody is between his look and his wait.
        drop(lock(&self.0.waiting));
        self.0.less.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_sync_is_due_at_half_of_what_open_pieces_leave() {
        for (open, half) in [(0, MOST / 2), (24 << 20, 20 << 20), (MOST, (MOST - MOST_OPEN) / 2)] {
            let stake = Stake::default();
            stake.opened(open);
            stake.count(half - 1);
            assert!(!stake.is_half(), "{open}");
            stake.count(1);
            assert!(stake.is_half(), "{open}");
            stake.closed(open);
            assert_eq!(stake.is_half(), half >= MOST / 2, "{open}");
        }
    }

    #[test]
    fn nobody_waits_for_pieces_that_only_he_can_complete() {
        let stake = Stake::default();
        stake.opened(2 * MOST);
        stake.wait();
        stake.count(MOST);
        drop(stake.sync());
        stake.wait();
    }

    #[test]
    fn who_brings_too_much_waits_for_the_sync() {
        let stake = Arc::new(Stake::default());
        stake.count(MOST - 1);
        stake.wait();
        let sync = stake.sync();
        stake.count(1);
        let began = std::time::Instant::now();
        let (waiter, through) = (Arc::clone(&stake), Arc::new(AtomicBool::new(false)));
        let passed = Arc::clone(&through);
        let thread = std::thread::spawn(move || {
            waiter.wait();
            passed.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        let early = through.load(Ordering::SeqCst);
        // Unless this machine stood still for as long as anybody waits.
        assert!(!early || began.elapsed() >= PATIENCE, "64 MiB are at stake");
        drop(sync);
        thread.join().unwrap();
    }
}
