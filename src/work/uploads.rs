//! Unfinished uploads of tasks that were cancelled: stores keep their parts for ever, and charge for them.
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

impl Conductor {
    /// One round at a time, beside the loop: a store may not answer.
    pub(super) async fn give_up_uploads(&mut self) {
        if self.giving_up.as_ref().is_some_and(|round| !round.is_finished()) {
            return;
        }
        let cancelled = match self.node.store.cancelled_uploads().await {
            Ok(tasks) => tasks,
            Err(fault) => return tracing::warn!(%fault, "cannot look for cancelled uploads"),
        };
        let idle: Vec<(i64, Vec<String>)> =
            cancelled.into_iter().filter(|(task, _)| !self.running.contains_key(&(*task, Method::Obs))).collect();
        if idle.is_empty() {
            return;
        }
        let node = Arc::clone(&self.node);
        self.giving_up = Some(tokio::spawn(async move {
            for (task, keys) in idle {
                if let Err(fault) = give_up(&node, task, &keys).await {
                    tracing::warn!(%fault, task, "cannot give up the unfinished uploads of a cancelled task");
                }
            }
        }));
    }
}

async fn give_up(node: &Node, task: i64, keys: &[String]) -> Result<(), Fault> {
    let Some(row) = node.store.task(task).await? else { return Ok(()) };
    let plan = Plan::load(&node.store, row).await?;
    let transport = ObsTransport::new(obs_location(&node.config.current(), &plan.file)?, ObsOptions::default())?;
    let notes = LegNotes { store: node.store.clone(), task, method: Method::Obs };
    transport.give_up(keys, &notes).await
}
