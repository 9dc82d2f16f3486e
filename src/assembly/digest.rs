//! The thread that follows the edge of every file with a running SHA-1, as long as there is something to follow.

use super::{Assembly, Verdict, lock, vanished};
use crate::error::Fault;
use crate::transport::Sink as _;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, Weak};
use std::time::Duration;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// After a fault that may pass.
const PAUSE: Duration = Duration::from_millis(500);
/// After this many bytes another file gets its turn.
const TURN: u64 = 64 << 20;

/// So long a thread waits for more: a cacher keeps the assemblies of its seeds for days.
const IDLE: Duration = Duration::from_secs(5);

/// Files that have something to hash. Holds each file at most once.
pub struct Queue {
    assembly: Weak<Assembly>,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    files: VecDeque<usize>,
    stopped: bool,
    /// There is a thread.
    running: bool,
}

impl Queue {
    pub fn new(assembly: Weak<Assembly>) -> Self {
        Self { assembly, state: Mutex::default(), ready: Condvar::new() }
    }

    pub fn push(&self, file: usize) {
        let mut state = lock(&self.state);
        state.files.push_back(file);
        if state.running {
            self.ready.notify_one();
        } else if !state.stopped {
            state.running = self.start();
        }
    }

    /// Tries again to start the thread, when that failed.
    pub fn poke(&self) {
        let mut state = lock(&self.state);
        if !(state.running || state.stopped || state.files.is_empty()) {
            state.running = self.start();
        }
    }

    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.ready.notify_one();
    }

    /// `None`: the thread is to end.
    fn pop(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        let mut waited = false;
        loop {
            let next = state.files.pop_front().filter(|_| !state.stopped);
            if next.is_none() && (state.stopped || waited) {
                state.running = false;
            }
            if next.is_some() || !state.running {
                return next;
            }
            let (again, timeout) = self.ready.wait_timeout(state, IDLE).unwrap_or_else(std::sync::PoisonError::into_inner);
            (state, waited) = (again, timeout.timed_out());
        }
    }

    /// Whether there is a thread now.
    fn start(&self) -> bool {
        let Some(assembly) = self.assembly.upgrade() else { return false };
        let thread = std::thread::Builder::new().name("digest".into()).spawn(move || run(&assembly));
        thread.inspect_err(|e| tracing::error!(error = %e, "cannot start the digest thread")).is_ok()
    }
}

/// The thread; it ends when the queue is stopped, or was empty for some time.
fn run(assembly: &Assembly) {
    let mut buffer = vec![0u8; CHUNK];
    while let Some(n) = assembly.digester.pop() {
        match turn(assembly, n, &mut buffer) {
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
