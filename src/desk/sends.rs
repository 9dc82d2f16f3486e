//! `sends` (protocol section 3.8): gentask, and send when the task file is made.
//!
//! The wish to send is a column of the job's row, so it outlives a restart. [`watch`] looks for finished jobs with that
//! wish; the call itself looks as well, to answer at once where everything was known already.

use super::gentask::{SOON, locate};
use super::{Desk, GentaskRequest, Refusal, Reply, failed};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::task::{Role, TaskState};
use crate::store::events::Level;
use crate::store::generations::GenerationState;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::MutexGuard;
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_secs(1);
/// Between two tries to send a task against which nothing speaks but the state of this machine.
const AGAIN: Duration = Duration::from_secs(5);

/// Sends what finished jobs made, until stopped.
pub async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    loop {
        if let Err(fault) = desk.send_generated().await {
            tracing::warn!(%fault, "cannot send what was generated; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Desk {
    pub async fn sends(&self, mut r: GentaskRequest) -> Reply {
        if let Err(refused) = self.fill_in(&mut r).await {
            return refused.into();
        }
        if let Ok(name) = TaskName::from_path(&r.taskfile) {
            match self.store.task_to_replace(Role::Send, &name).await {
                Ok(Some(row)) if matches!(row.state, TaskState::Queues | TaskState::Uploading) => {
                    let place = self.dirs.path(Role::Send, row.state, &name);
                    return Reply::err(format!("same task in {}:{}", row.state, place.display()));
                }
                Ok(_) => {}
                Err(fault) => return failed(&fault),
            }
        }
        let job = match self.queue_gentask(&r, true).await {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        if self.ends_soon(&job).await {
            // Somebody who sends may have to wait for a library that does not answer.
            if let Ok(later) = tokio::time::timeout(SOON, self.sending.lock()).await
                && let Err(fault) = self.send_round(later).await
            {
                tracing::warn!(%fault, "cannot send what was generated; trying again");
            }
            let became = self.store.generation_sending(job.id).await;
            match became.map(Option::unwrap_or_default).as_ref().map(|(send, error)| (send.as_str(), error)) {
                Ok(("sent", _)) => return Reply::ok("succeeded!"),
                Ok(("refused", why)) => return Reply::err(why),
                Ok(("", _)) => return Reply::err("error, it was cancelled meanwhile."),
                // It was ordered, and is sent when that can be done.
                Ok(_) | Err(_) => {}
            }
        }
        let torrent = job.full.display();
        Reply::ok(format!("succeed, but the torrent is generating, please wait until {torrent} is finished."))
    }

    /// `sends` has no `basesubdir`, and may come without `taskfile`: both follow from the package's path.
    async fn fill_in(&self, r: &mut GentaskRequest) -> Result<(), Refusal> {
        let config = self.config.current();
        let given = r.dcppath.trim_end_matches('/').to_owned();
        let found = self.glance(move || locate(&given)).await?;
        let below = found.as_deref().and_then(|p| p.strip_prefix(&config.basedatapath).ok());
        let subdir = below.and_then(Path::parent).and_then(|p| p.iter().next()).and_then(|n| n.to_str());
        if r.basesubdir.is_empty() {
            let own = config.basesubdir.as_ref().map(ToString::to_string);
            r.basesubdir = subdir.map(str::to_owned).or(own).unwrap_or_default();
        }
        if r.taskfile.is_empty()
            && let Some(name) = r.dcppath.trim_end_matches('/').rsplit('/').next().filter(|n| !n.is_empty())
        {
            let file = format!("{}-{name}{}", r.basesubdir, TaskName::SUFFIX);
            r.taskfile = self.dirs.tmp(Role::Send).join(file).display().to_string();
        }
        Ok(())
    }

    /// Sends the tasks of jobs that are finished and want it. One at a time, so that none is sent twice. What stands in the
    /// way only now (a database that is held, a full disk, too few descriptors) leaves the wish as it is.
    async fn send_generated(&self) -> Result<(), Fault> {
        self.send_round(self.sending.lock().await).await
    }

    async fn send_round(&self, mut later: MutexGuard<'_, HashMap<i64, Instant>>) -> Result<(), Fault> {
        let jobs = self.store.generations_to_send().await?;
        later.retain(|id, _| jobs.iter().any(|job| job.id == *id));
        for job in jobs {
            let name = job.taskfile.rsplit('/').next().unwrap_or_default();
            if job.state != GenerationState::Finished {
                self.store.set_generation_refused(job.id, &job.error).await?;
                continue;
            }
            if later.get(&job.id).is_some_and(|at| Instant::now() < *at) {
                continue;
            }
            match self.send_file(&job.taskfile, true, Some(job.id)).await {
                Ok(_) => {}
                // Cancelled, or ordered anew, while it was looked at.
                Err(_) if self.store.generation_sending(job.id).await?.is_none_or(|(send, _)| send != "wanted") => {}
                Err(refused) if refused.passes => {
                    let text = format!("cannot be sent now and is tried again: {}", refused.desc);
                    tracing::warn!(task = name, "{text}");
                    if !later.contains_key(&job.id) {
                        self.event(Level::Warn, "sends", name, &text).await;
                    }
                    later.insert(job.id, Instant::now() + AGAIN);
                }
                Err(refused) => {
                    self.event(Level::Error, "sends", name, &refused.desc).await;
                    self.store.set_generation_refused(job.id, &refused.desc).await?;
                }
            }
        }
        Ok(())
    }
}
