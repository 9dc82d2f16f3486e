//! What workers report becomes rows: how a leg ended decides whether it is done, waits, is tried again or has failed.

use super::conductor::{Conductor, Report};
use super::legs::Purpose;
use super::repair;
use crate::error::{Fault, FaultClass};
use crate::model::span::Method;
use crate::model::task::{LegState, TaskState};
use crate::store::events::Level;
use crate::store::legs::LegRow;
use crate::transport::Outcome;
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

/// A sender's look at its CDN (protocol section 12).
const CDN_CHECKS: u32 = 3;

impl Conductor {
    pub(super) async fn leg_row(&self, task: i64, method: Method) -> Result<Option<LegRow>, Fault> {
        Ok(self.node.store.legs(task).await?.into_iter().find(|l| l.method == method))
    }

    pub(super) async fn tries(&self, task: i64, method: Method) -> Result<u32, Fault> {
        Ok(self.leg_row(task, method).await?.map_or(0, |l| l.tries))
    }

    /// Is everything there that the method has to bring now?
    pub(super) async fn has_all(&self, task: i64, method: Method) -> Result<bool, Fault> {
        let Some(assembly) = self.assemblies.get(&task) else { return Ok(true) };
        let spans = self.node.store.task_spans(task).await?;
        Ok(assembly.has_all(spans.iter().filter(|s| s.method == Some(method)).map(|s| &s.span)))
    }

    /// The files of which the method still has something to bring.
    async fn unfinished(&self, task: i64, method: Method) -> Result<HashSet<u32>, Fault> {
        let spans = self.node.store.task_spans(task).await?;
        let mine = spans.iter().filter(|s| s.method == Some(method)).map(|s| s.span);
        Ok(match self.assemblies.get(&task) {
            Some(a) => mine.filter(|s| !a.has_all(std::iter::once(s))).map(|s| s.file).collect(),
            None => mine.map(|s| s.file).collect(),
        })
    }

    pub(super) async fn handle(&mut self, report: Report) {
        let done = match report {
            Report::Leg { task, method, outcome } => self.leg_ended(task, method, outcome).await,
            Report::Copied { task, outcome } => {
                self.copying.remove(&task);
                match outcome {
                    Ok(()) => self.follow_spans(task).await,
                    Err(fault) if fault.is_transient() => {
                        tracing::warn!(%fault, "copying is tried again");
                        Ok(())
                    }
                    Err(fault) => self.move_task(task, TaskState::Downloading, TaskState::DownloadError, &fault.message).await,
                }
            }
            Report::Finished { task, outcome } => self.reception_ended(task, outcome).await,
            Report::Generated { outcome } => self.generation_ended(outcome).await,
        };
        if let Err(fault) = done {
            tracing::error!(%fault, "cannot record a result; the work is repeated");
        }
    }

    pub(super) async fn leg_ended(&mut self, task: i64, method: Method, outcome: Result<Outcome, Fault>) -> Result<(), Fault> {
        let Some(mut leg) = self.running.remove(&(task, method)) else { return Ok(()) };
        // Accepted anew while it was stopping: what it moved is not the new one's.
        if self.node.store.task(task).await?.is_some_and(|t| t.created_at != leg.plan.task.created_at) {
            return Ok(());
        }
        self.last_sample(task, method, &mut leg.gauge).await;
        let name = leg.plan.task.name.to_string();
        let store = self.node.store.clone();
        // Failed from outside (a broken disk, a file that nobody has right), or accepted anew: that stands.
        if self.leg_row(task, method).await?.is_none_or(|l| l.state != LegState::Running) {
            return Ok(());
        }
        let fault = match outcome {
            Ok(Outcome::Done) => return self.leg_done(task, method, leg.purpose, &name).await,
            Ok(Outcome::Stopped) => {
                let why = self.away.as_deref().unwrap_or_default();
                return store.set_leg(task, method, LegState::Waiting, why, 0, None).await;
            }
            Err(fault) => self.or_removed(&leg.plan, method, leg.purpose, fault).await,
        };
        if self.wait_for_disk(&leg.plan, method, leg.purpose, Some(&fault)).await? {
            tracing::warn!(task = name, %method, %fault, detail = fault.detail, "a leg waits for a disk");
            return Ok(());
        }
        // Not the method's fault: somebody removed what it was writing or serving.
        if leg.purpose != Purpose::Publish
            && let Some(assembly) = self.assemblies.get(&task)
            && assembly.look_for_vanished().await
        {
            return store.set_leg(task, method, LegState::Waiting, "", 0, None).await;
        }
        tracing::warn!(task = name, %method, %fault, detail = fault.detail, "leg failed");
        self.helping.note_fault(task, method);
        let error = repair::leg_error(method, &fault);
        let tries = self.tries(task, method).await?;
        let moved = match self.assemblies.get(&task) {
            Some(a) => a.covered(leg.gauge.spans.iter()) > leg.done_before,
            // What was sent and is not there afterwards is no progress.
            None => leg.gauge.counters.done.load(Relaxed) > leg.done_before || leg.gauge.counters.sent.load(Relaxed) > 0,
        };
        let verdict = if leg.purpose == Purpose::Fetch {
            // What was brought has to be known: whose bytes are whose is asked when a digest is wrong.
            if let Some(assembly) = self.assemblies.get(&task)
                && let Err(fault) = assembly.sync().await
            {
                tracing::warn!(%fault, task = name, "cannot sync what a leg has brought");
            }
            let unfinished = self.unfinished(task, method).await?;
            // What it had left came in other ways meanwhile.
            if unfinished.is_empty() && fault.class != FaultClass::Local {
                return self.leg_done(task, method, leg.purpose, &name).await;
            }
            let verdict = repair::after_fault(&self.node, &leg.plan, method, &unfinished, &fault, tries, moved).await?;
            self.follow_spans(task).await?;
            verdict
        } else {
            let served = moved || leg.gauge.counters.is_ready();
            self.after_publish_fault(method, &fault, tries, served)
        };
        match verdict {
            repair::Verdict::Retry { at: None, tries } => store.set_leg(task, method, LegState::Waiting, "", tries, None).await,
            repair::Verdict::Retry { at, tries } => {
                let line = format!("{} try {tries}: {error}", self.node.clock.now().format("%Y-%m-%d %H:%M:%S"));
                if let Err(fault) = crate::views::note_error(&store, &self.node.dirs, task, &line).await {
                    tracing::warn!(%fault, task = name, "cannot show an error in the task directory");
                }
                store.set_leg(task, method, LegState::Waiting, &error, tries, at).await
            }
            repair::Verdict::Failed => {
                let error = repair::with_history(&self.node, &leg.plan, method, &fault, error).await?;
                self.node.event(Level::Error, "leg failed", &name, &error).await;
                repair::fail_leg(&self.node, task, method, &error).await
            }
        }
    }

    async fn leg_done(&self, task: i64, method: Method, purpose: Purpose, name: &str) -> Result<(), Fault> {
        let store = &self.node.store;
        // More was given to this leg than it knew of when it started.
        if purpose == Purpose::Fetch && !self.has_all(task, method).await? {
            return store.set_leg(task, method, LegState::Waiting, "", 0, None).await;
        }
        tracing::info!(task = name, %method, "leg done");
        store.set_leg(task, method, LegState::Done, "", 0, None).await?;
        // What was handed to it since the look above, while it still counted as running.
        if purpose == Purpose::Fetch && !self.has_all(task, method).await? {
            store.set_leg(task, method, LegState::Waiting, "", 0, None).await?;
        }
        Ok(())
    }

    /// A publishing leg has nobody to hand over to: try again, or fail.
    fn after_publish_fault(&self, method: Method, fault: &Fault, tries: u32, served: bool) -> repair::Verdict {
        let all = self.node.config.current().retries;
        let all = if method == Method::Cdn { all.min(CDN_CHECKS) } else { all };
        match repair::try_again(all, tries, served) {
            Some(tries) if fault.is_transient() => {
                repair::Verdict::Retry { at: Some(repair::next_try(&self.node, fault)), tries }
            }
            _ => repair::Verdict::Failed,
        }
    }
}
