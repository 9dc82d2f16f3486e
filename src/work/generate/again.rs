//! How jobs end, and those that met something that passes, such as too few descriptors or a disk that is away: they are begun
//! anew.

use super::{Ended, blocking, fault_text};
use crate::error::Fault;
use crate::store::events::Level;
use crate::store::generations::{GenerationRow, GenerationState};
use crate::transport::away::why_away;
use crate::work::conductor::Conductor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Until then.
const AGAIN: Duration = Duration::from_secs(10);
/// Until then when its disk is away.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A job that waits.
#[derive(Clone, Copy)]
pub struct Postponed {
    until: Instant,
    /// How often a disk that is there answered with an error.
    errors: u32,
}

/// A fault while the disk of a package is away. A directory without files is one to gentask. Blocking.
pub(super) fn disk_of(package: &Path) -> Result<(), Fault> {
    match why_away(package).filter(|_| std::fs::read_dir(package).is_err()) {
        Some(why) => Err(Fault::transient(why).away()),
        None => Ok(()),
    }
}

impl Conductor {
    pub(in crate::work) async fn generation_ended(&mut self, ended: Ended) -> Result<(), Fault> {
        let Some(job) = self.generating.take() else { return Ok(()) };
        let (store, now) = (self.node.store.clone(), self.node.clock.now_ms());
        let before = self.postponed.remove(&ended.id);
        let (done, all) = (job.progress.done.load(Ordering::Relaxed), job.total.load(Ordering::Relaxed));
        if all > 0 {
            store.record_generation(ended.id, done, all).await?;
        }
        let row = store.live_generations().await?.into_iter().find(|g| g.id == ended.id);
        let name = ended.task.rsplit('/').next().unwrap_or_default();
        if job.paused.load(Ordering::Relaxed) && ended.outcome.is_err() {
            let why = row.map(|row| row.error).unwrap_or_default();
            return store.set_generation(ended.id, GenerationState::Queued, &why, now).await.map(drop);
        }
        match (ended.outcome, row) {
            (Ok(text), _) => {
                if store.set_generation(ended.id, GenerationState::Finished, "", now).await? {
                    self.node.event(Level::Info, "gentask", name, &text).await;
                } else {
                    self.take_back(&ended.task);
                }
            }
            (Err(_), None) => self.node.event(Level::Info, "gentask", name, "cancelled").await,
            (Err(fault), Some(row)) => {
                // The disk of all data, or that of the package.
                if let Some(why) = self.away_now().await?.or(ended.away) {
                    self.postpone(&row, "disk", why, Postponed { until: Instant::now() + LOOK_AGAIN, errors: 0 }).await?;
                } else if fault.away {
                    // The disk is there again, or has a bad place.
                    let (config, errors) = (self.node.config.current(), before.map_or(0, |p| p.errors) + 1);
                    if errors >= config.retries {
                        self.generation_failed(ended.id, name, &fault).await?;
                    } else {
                        let until = Instant::now() + if errors == 1 { LOOK_AGAIN } else { config.retrydelay };
                        self.postpone(&row, "disk", fault_text(&fault), Postponed { until, errors }).await?;
                    }
                } else if fault.is_transient() {
                    let text = format!("tried again in a moment: {}", fault_text(&fault));
                    self.postpone(&row, "gentask", text, Postponed { until: Instant::now() + AGAIN, errors: 0 }).await?;
                } else {
                    self.generation_failed(ended.id, name, &fault).await?;
                }
            }
        }
        self.node.nudge.notify_one();
        Ok(())
    }

    /// Cancelled at the last moment: whoever polls for the task file must not find it. Its disk is not waited for.
    fn take_back(&self, taskfile: &str) {
        let (node, path) = (Arc::clone(&self.node), PathBuf::from(taskfile));
        tokio::spawn(async move {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let removed = blocking(move || crate::views::remove(&path)).await;
            let text = removed.map_or_else(|fault| format!("cancelled: {fault}"), |()| "cancelled".to_owned());
            node.event(Level::Info, "gentask", &name, &text).await;
        });
    }

    async fn generation_failed(&self, id: i64, name: &str, fault: &Fault) -> Result<(), Fault> {
        let text = fault_text(fault);
        self.node.event(Level::Error, "gentask", name, &text).await;
        self.node.store.set_generation(id, GenerationState::Failed, &text, self.node.clock.now_ms()).await.map(drop)
    }

    /// Back into the queue. Others go first meanwhile; hashes that were stored are not made again.
    async fn postpone(&mut self, row: &GenerationRow, kind: &str, why: String, until: Postponed) -> Result<(), Fault> {
        self.postponed.insert(row.id, until);
        if row.error != why {
            let name = row.taskfile.rsplit('/').next().unwrap_or_default();
            self.node.event(Level::Warn, kind, name, &why).await;
        } else if row.state == GenerationState::Queued {
            return Ok(());
        }
        self.node.store.set_generation(row.id, GenerationState::Queued, &why, self.node.clock.now_ms()).await.map(drop)
    }

    /// Jobs that may begin now, oldest first.
    pub(in crate::work) async fn generations_due(&mut self) -> Result<Vec<i64>, Fault> {
        let live: Vec<i64> = self.node.store.live_generations().await?.iter().map(|g| g.id).collect();
        self.postponed.retain(|id, _| live.contains(id));
        let due = |id: &i64| self.postponed.get(id).is_none_or(|p| Instant::now() >= p.until);
        Ok(live.into_iter().filter(due).collect())
    }
}
