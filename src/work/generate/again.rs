//! Jobs that met something that passes, such as too few descriptors, are begun anew.

use super::fault_text;
use crate::error::Fault;
use crate::store::events::Level;
use crate::store::generations::GenerationState;
use crate::work::conductor::Conductor;
use std::time::{Duration, Instant};

/// Until then.
const AGAIN: Duration = Duration::from_secs(10);

impl Conductor {
    /// Back into the queue. Others go first meanwhile; hashes that were stored are not made again.
    pub(super) async fn postpone_generation(&mut self, id: i64, task: &str, fault: &Fault) -> Result<(), Fault> {
        self.postponed.insert(id, Instant::now() + AGAIN);
        let text = fault_text(fault);
        self.node.event(Level::Warn, "gentask", task, &format!("tried again in a moment: {text}")).await;
        self.node.store.set_generation(id, GenerationState::Queued, &text, self.node.clock.now_ms()).await.map(drop)
    }

    /// Jobs that may begin now, oldest first.
    pub(in crate::work) async fn generations_due(&mut self) -> Result<Vec<i64>, Fault> {
        let live: Vec<i64> = self.node.store.live_generations().await?.iter().map(|g| g.id).collect();
        self.postponed.retain(|id, _| live.contains(id));
        let due = |id: &i64| self.postponed.get(id).is_none_or(|at| Instant::now() >= *at);
        Ok(live.into_iter().filter(due).collect())
    }
}
