//! The free space of the disk, shared by all receptions: each has what it still has to write promised to it.
//!
//! A task begins when it fits beside what is promised. One that would fit without the others at work, were they cancelled,
//! waits in the queue, with the reason in its row, takes no place, and lets smaller ones pass: when those at work are done,
//! cancelled or have failed, it fits or it ends in `no space`. On a cacher a task also waits for the end of the seed times of
//! others. Nothing is recorded of the promises: they are what the assemblies lack, and are found out anew each time.

use super::conductor::Conductor;
use crate::assembly::Room;
use crate::error::Fault;
use crate::model::task::TaskState;
use crate::store::events::Level;
use crate::store::tasks::TaskRow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks whether a task fits by now: a look asks for the size of every file of every reception.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What the conductor remembers between ticks.
#[derive(Default)]
pub struct Rooms {
    /// Tasks for which there was no room, and when.
    none: HashMap<i64, Instant>,
    /// Tasks that are over, and whose directories hold what is not theirs.
    pub left: HashSet<i64>,
}

impl Rooms {
    pub fn waits(&self, task: i64) -> bool {
        self.none.get(&task).is_some_and(|at| at.elapsed() < LOOK_AGAIN)
    }
}

impl Conductor {
    /// What the others take of the disk.
    pub(super) async fn room_beside(&self, row: &TaskRow) -> Result<Room, Fault> {
        let open = self.assemblies.iter().filter(|(id, _)| **id != row.id);
        let others: Vec<_> = open.map(|(_, a)| Arc::clone(a)).chain(self.finishing.values().flatten().cloned()).collect();
        let rooms =
            tokio::task::spawn_blocking(move || others.iter().map(|a| a.room()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)));
        let (promised, returning) = rooms.await.map_err(|e| Fault::local(format!("looking at the staged files: {e}")))?;
        Ok(Room { promised, returning, waits: row.state == TaskState::Queues })
    }

    /// Notes why a queued task does not begin, and looks again in a while.
    pub(super) async fn wait_for_room(&mut self, row: &TaskRow, why: Fault) -> Result<(), Fault> {
        let first = row.reason.is_empty();
        if self.rooms.none.len() > 1000 {
            self.rooms.none.clear();
        }
        self.rooms.none.insert(row.id, Instant::now());
        if first && self.node.store.set_queue_reason(row.id, &why.message).await? {
            self.node.event(Level::Warn, "waits", row.name.as_str(), &why.message).await;
        }
        Ok(())
    }
}
