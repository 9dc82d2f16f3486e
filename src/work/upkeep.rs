//! Retention: samples are thinned with age; samples, events and the history of tasks end.

use super::Node;
use crate::model::task::TaskState;
use std::time::{Duration, Instant};

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(3600);
/// Samples stay as they were written for so long, then one a minute is kept.
const FINE_MS: i64 = 24 * 3600 * 1000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Remembers when it ran last.
#[derive(Default)]
pub struct Upkeep {
    last: Option<Instant>,
}

impl Upkeep {
    /// Does a round if one is due.
    pub async fn run(&mut self, node: &Node) {
        if self.last.is_some_and(|t| t.elapsed() < PERIOD) {
            return;
        }
        self.last = Some(Instant::now());
        let (config, now) = (node.config.current(), node.clock.now_ms());
        let thinned = node.store.thin_samples(now - FINE_MS, now - config.sampledays as i64 * DAY_MS).await;
        let pruned = node.store.prune_events(now - config.eventdays as i64 * DAY_MS).await;
        let ended = node.store.prune_history(now - i64::from(config.historydays) * DAY_MS).await;
        for (role, name) in ended.as_deref().unwrap_or_default() {
            if let Err(fault) = crate::views::remove(&node.dirs.path(*role, TaskState::History, name)) {
                tracing::warn!(%fault, "cannot remove an old task file");
            }
        }
        if let Some(fault) = thinned.err().or(pruned.err()).or(ended.err()) {
            tracing::warn!(%fault, "upkeep of the database failed; it is repeated in an hour");
        }
    }
}
