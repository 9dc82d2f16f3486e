//! Work: the conductor decides with [`crate::model::decide`], starts and stops everything, and turns results into rows.
//!
//! * [`conductor`] — the loop: read a snapshot, decide, act. The only place that starts and stops work.
//! * [`legs`] — one worker per leg: builds its transport from the task and the configuration, runs it, reports.
//! * [`results`] — what workers report becomes rows.
//! * [`rooms`] — the disk's free space, shared by all receptions.
//! * [`sampler`] — counts of running legs become rows once a second.
//! * [`repair`] — what to do when a method cannot bring a file, or brought wrong bytes.
//! * [`reception`] — local copies, finishing.
//! * [`sharing`] — receptions that want the same files: one fetches, the others copy.
//! * [`role`] — a node that is another than at its last start.
//! * [`helping`] — a method that is done takes over what another one does not bring.
//! * [`uploads`] — unfinished uploads that nobody goes on with.
//! * [`hours`] — windows: which legs may run now, the caps of the hour, when tasks will be done.
//! * [`sweep`] — what is over is cleaned up.
//! * [`generate`] — gentask jobs. * [`upkeep`] — retention. * [`thrift`] — a database that somebody holds.
//! * [`trust`] — whether the clock may be believed.

pub mod conductor;
pub mod disk;
#[cfg(test)]
mod fixture;
pub mod generate;
mod helping;
mod hours;
mod legs;
mod reception;
mod repair;
mod results;
pub mod role;
mod rooms;
mod sampler;
mod sharing;
mod sweep;
mod thrift;
mod trust;
mod upkeep;
mod uploads;
mod whereabouts;

use crate::clock::{Clock, Pulse};
use crate::config::ConfigHandle;
use crate::error::Fault;
use crate::library::packages::Packages;
use crate::library::place::Place;
use crate::model::span::Method;
use crate::store::Store;
use crate::store::events::Level;
use crate::store::tasks::TaskRow;
use crate::transport::bt::BtEngine;
use crate::transport::limit::Limiter;
use crate::views::TaskDirs;
use crate::views::area::Area;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// What all workers of a process share.
pub struct Node {
    pub store: Store,
    pub config: ConfigHandle,
    pub clock: Clock,
    pub dirs: TaskDirs,
    pub bt: Arc<BtEngine>,
    /// Rate caps of bt, obs and cdn.
    pub limiters: [Limiter; 3],
    pub http: reqwest::Client,
    /// Something changed: look again now rather than at the next tick.
    pub nudge: Arc<Notify>,
    /// The conductor's.
    pub pulse: Pulse,
    pub area: Area,
}

impl Node {
    /// Writes an event; a failure to do so is logged, never fatal.
    pub async fn event(&self, level: Level, kind: &str, task: &str, text: &str) {
        match level {
            Level::Info => tracing::info!(kind, task, "{text}"),
            Level::Warn => tracing::warn!(kind, task, "{text}"),
            Level::Error => tracing::error!(kind, task, "{text}"),
        }
        if let Err(fault) = self.store.add_event(level, kind, task, "conductor", text, self.clock.now_ms()).await {
            tracing::error!(%fault, "cannot write an event");
        }
    }

    /// Tells the configured webhook that a task changed its state. One try, in the background: who must not miss a
    /// change asks for progress.
    pub fn announce(&self, task: &TaskRow) {
        let Some(url) = self.config.current().webhook.clone() else { return };
        let body = serde_json::json!({
            "task": task.name, "role": task.role.as_str(), "package": task.package,
            "state": task.state.as_str(), "reason": task.reason, "at": self.clock.now().to_rfc3339(),
        });
        let call = self.http.post(url.reveal()).timeout(std::time::Duration::from_secs(10)).json(&body);
        tokio::spawn(async move {
            if let Err(e) = call.send().await.and_then(reqwest::Response::error_for_status) {
                tracing::warn!(error = %e.without_url(), "the webhook did not take the news");
            }
        });
    }

    /// Reviews the package in `dir`, which was received or generated just now. A failure is made up for at the next start.
    pub async fn review_package(&self, dir: &Path) {
        let packages = Packages::new(self.store.clone(), Place::of(&self.config.current()), self.clock.clone());
        if let Err(fault) = packages.review(&[dir.to_owned()]).await {
            tracing::warn!(%fault, package = %dir.display(), "cannot review a package");
        }
    }

    pub fn limiter(&self, method: Method) -> Limiter {
        self.limiters[method as usize].clone()
    }

    /// Where a task's package is staged: on the store's file system, named so that no two tasks share one.
    pub fn staging(&self, task: &TaskRow) -> PathBuf {
        self.staging_root().join(format!("{}.{}", task.name.stem(), task.id))
    }

    pub fn staging_root(&self) -> PathBuf {
        self.config.current().transfer_dir().join("stage")
    }

    /// Writes the task's file into the directory of its state.
    pub async fn export(&self, task: &TaskRow) -> Result<(), Fault> {
        crate::views::export_task(&self.store, &self.dirs, task).await
    }
}

/// Until results that could not be written are written again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Repeats a call while its fault may pass: hours of hashing are not thrown away because somebody holds the database for a
/// while, or its disk is full.
async fn patiently<T, F: Future<Output = Result<T, Fault>>>(give_up: &AtomicBool, call: impl Fn() -> F) -> Result<T, Fault> {
    loop {
        match call().await {
            Err(fault) if fault.is_transient() && !fault.away && !give_up.load(Ordering::Relaxed) => {
                tracing::warn!(%fault, "results cannot be written now; trying again");
                tokio::time::sleep(PATIENCE).await;
            }
            end => return end,
        }
    }
}
