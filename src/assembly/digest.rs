//! The thread that follows the edge of every file with a running SHA-1.

use super::{Assembly, Verdict, lock, vanished};
use crate::error::Fault;
use crate::transport::Sink as _;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// After a fault that may pass.
const PAUSE: Duration = Duration::from_millis(500);
/// After this many bytes another file gets its turn.
const TURN: u64 = 64 << 20;

/// Files that have something to hash. Holds each file at most once.
#[derive(Default)]
pub struct Queue {
    state: Mutex<(VecDeque<usize>, bool)>,
    ready: Condvar,
}

impl Queue {
    pub fn push(&self, file: usize) {
        lock(&self.state).0.push_back(file);
        self.ready.notify_one();
    }

    pub fn stop(&self) {
        lock(&self.state).1 = true;
        self.ready.notify_one();
    }

    fn pop(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        loop {
            if state.1 {
                return None;
            }
            if let Some(n) = state.0.pop_front() {
                return Some(n);
            }
            state = self.ready.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// Starts the thread; it ends when the queue is stopped.
pub fn start(assembly: &Arc<Assembly>) {
    let assembly = Arc::clone(assembly);
    std::thread::Builder::new()
        .name("digest".into())
        .spawn(move || {
            let mut buffer = vec![0u8; CHUNK];
            while let Some(n) = assembly.digester.pop() {
                match turn(&assembly, n, &mut buffer) {
                    Ok(()) => assembly.follow(n),
                    Err(_) if assembly.is_missed(n as u32) => {} // followed again when it was forgotten
                    Err(fault) if fault.is_transient() => {
                        tracing::warn!(%fault, "hashing is tried again");
                        std::thread::sleep(PAUSE);
                        assembly.follow(n);
                    }
                    // Not queued again: an unreadable disk would keep this thread spinning. The task ends with the error.
                    Err(fault) => {
                        lock(&assembly.broken).get_or_insert(fault);
                        assembly.news.notify_one();
                    }
                }
            }
        })
        .map(drop)
        .unwrap_or_else(|e| tracing::error!(error = %e, "cannot start the digest thread"));
}

/// Hashes what is contiguous now, up to one turn's worth.
fn turn(assembly: &Assembly, n: usize, buffer: &mut [u8]) -> Result<(), Fault> {
    let Some(slot) = assembly.slots.get(n) else { return Ok(()) };
    let (mut digest, end, epoch, complete) = {
        let mut state = lock(&slot.state);
        state.queued = false;
        if state.copying {
            return Ok(());
        }
        let at = state.digest.len();
        (state.digest.clone(), state.have.contiguous_end(at).min(at + TURN), state.epoch, state.have.total() == slot.size)
    };
    if complete {
        assembly.settle(n as u32, epoch)?; // makes an empty file, to which no transport ever writes, before it counts
    }
    while digest.len() < end {
        let len = usize::try_from(end - digest.len()).unwrap_or(CHUNK).min(CHUNK);
        let part = &mut buffer[..len];
        assembly.read_at(n as u32, digest.len(), part)?;
        digest.update(part);
    }
    let complete = digest.len() == slot.size;
    let verdict = match complete.then(|| digest.clone().finish()) {
        None => Verdict::Open,
        Some(sha1) if sha1 == slot.sha1 => Verdict::Verified,
        Some(sha1) => {
            tracing::warn!(file = %slot.path, expected = %slot.sha1, found = %sha1, "wrong SHA-1");
            Verdict::Wrong
        }
    };
    let mut state = lock(&slot.state);
    if state.epoch != epoch {
        return Ok(()); // reset meanwhile: these were the old bytes
    }
    if verdict == Verdict::Wrong && state.doubted {
        // Nobody who brought it is to blame.
        drop(state);
        assembly.missed(n as u32);
        return Err(vanished::fault(&slot.path.under(&assembly.root)));
    }
    state.digest = digest;
    state.dirty = true;
    if verdict != Verdict::Open {
        state.verdict = verdict;
        state.doubted = false;
        drop(state);
        assembly.news.notify_one();
    }
    Ok(())
}
