//! Keeps the database's log small: writes it back when the node is idle, and saves writes while a program holds it.
//!
//! A `sqlite3` shell that somebody left in a transaction pins the log, which then grows with every write, for days. So
//! while it cannot be written back, figures of progress are written once a minute and no history; accepted tasks, states
//! and what is safely on disk are written as ever. `docs/sql.md` has the numbers.

use super::Node;
use crate::error::Fault;
use crate::store::events::Level;
use crate::store::wal::{WAL_LIMIT, holders};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);
/// So many looks in a row must find that the log is held: a long list or a backup is no reason to change anything.
const LOOKS: u32 = 3;
/// An idle node writes the rest of its log back after so long.
const IDLE: Duration = Duration::from_secs(600);

/// What was seen so far.
#[derive(Default)]
pub struct Thrift {
    looked: Option<Instant>,
    /// Writing back takes its time when the log is large, and the loop must not wait for it. The size before is noted.
    job: Option<(u64, JoinHandle<Result<bool, Fault>>)>,
    held: u32,
    /// Since when nothing has been at work.
    idle: Option<Instant>,
}

impl Thrift {
    /// Looks if it is time to. `idle`: nothing is at work.
    pub async fn look(&mut self, node: &Node, idle: bool) {
        if let Some((bytes, job)) = self.job.take_if(|(_, job)| job.is_finished()) {
            match job.await {
                Ok(Ok(done)) => self.tried(node, bytes, done).await,
                Ok(Err(fault)) => tracing::warn!(%fault, "cannot write the log of the database back; trying again"),
                Err(e) => tracing::warn!(error = %e, "writing the log of the database back broke off; trying again"),
            }
        }
        if self.job.is_some() || self.looked.is_some_and(|t| t.elapsed() < PERIOD) {
            return;
        }
        self.looked = Some(Instant::now());
        let since = if idle { *self.idle.get_or_insert_with(Instant::now) } else { Instant::now() };
        self.idle = idle.then_some(since);
        let bytes = node.store.wal_bytes();
        let rest = bytes > 0 && since.elapsed() >= IDLE;
        if rest {
            self.idle = Some(Instant::now());
        }
        if bytes > WAL_LIMIT || rest || node.store.thrifty() {
            let store = node.store.clone();
            self.job = Some((bytes, tokio::spawn(async move { store.write_back().await })));
        } else {
            self.held = 0;
        }
    }

    async fn tried(&mut self, node: &Node, bytes: u64, done: bool) {
        let store = &node.store;
        if done {
            self.held = 0;
            if store.thrifty() {
                store.set_thrifty(false);
                let text = "the log of the database is written back: progress is recorded every second again";
                node.event(Level::Info, "database", "", text).await;
            }
        } else if bytes > WAL_LIMIT && !store.thrifty() {
            self.held += 1;
            if self.held >= LOOKS {
                store.set_thrifty(true);
                node.event(Level::Warn, "database", "", &complaint(node, bytes)).await;
            }
        }
    }
}

fn complaint(node: &Node, bytes: u64) -> String {
    let holders: Vec<String> = holders(node.store.path()).iter().map(ToString::to_string).collect();
    let who = match holders.is_empty() {
        true => format!("a program that is not seen from here (fuser {}-shm finds it)", node.store.path().display()),
        false => holders.join(", "),
    };
    format!(
        "the log of the database has grown to {} MiB because a read transaction is open for long in {who}: end it there, or end \
         the program. Deliveries go on; until then progress is recorded once a minute and without history",
        bytes >> 20
    )
}
