//! Unfinished uploads that nobody goes on with: stores keep their parts for ever, and charge for them.
//!
//! An upload is given up when its leg has ended. A task that is sent again before that takes its notes along
//! ([`accept_task`](crate::store::Store::accept_task)) and goes on with it.

use super::Node;
use super::conductor::Conductor;
use super::legs::{LegNotes, Plan, obs_location};
use crate::error::Fault;
use crate::model::span::Method;
use crate::transport::obs::{ObsOptions, ObsTransport};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two rounds. A store that does not answer is asked again: a dead line is the very reason to cancel.
const AGAIN: Duration = Duration::from_secs(30);

/// The round that is under way, or was last.
pub struct Round {
    began: Instant,
    work: tokio::task::JoinHandle<()>,
}

impl Conductor {
    /// One round at a time, beside the loop: a store may not answer.
    pub(super) async fn give_up_uploads(&mut self) {
        if self.giving_up.as_ref().is_some_and(|round| !round.work.is_finished() || round.began.elapsed() < AGAIN) {
            return;
        }
        let forsaken = match self.node.store.forsaken_uploads().await {
            Ok(tasks) => tasks,
            Err(fault) => return tracing::warn!(%fault, "cannot look for unfinished uploads"),
        };
        let idle: Vec<(i64, Vec<String>)> =
            forsaken.into_iter().filter(|(task, _)| !self.running.contains_key(&(*task, Method::Obs))).collect();
        if idle.is_empty() {
            return;
        }
        let node = Arc::clone(&self.node);
        let work = tokio::spawn(async move {
            for (task, keys) in idle {
                if let Err(fault) = give_up(&node, task, &keys).await {
                    tracing::warn!(%fault, detail = fault.detail, task, "unfinished uploads stay in the bucket for now");
                }
            }
        });
        self.giving_up = Some(Round { began: Instant::now(), work });
    }
}

async fn give_up(node: &Node, task: i64, keys: &[String]) -> Result<(), Fault> {
    let Some(row) = node.store.task(task).await? else { return Ok(()) };
    let plan = Plan::load(&node.store, row).await?;
    let transport = ObsTransport::new(obs_location(&node.config.current(), &plan.file)?, ObsOptions::default())?;
    let notes = LegNotes { store: node.store.clone(), task, method: Method::Obs };
    transport.give_up(keys, &notes).await
}
