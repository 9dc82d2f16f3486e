//! `sends` (protocol section 3.8): gentask, and send when the task file is made.
//!
//! The wish to send is a column of the job's row, so it outlives a restart. [`watch`] looks for finished jobs with that
//! wish; the call itself looks as well, to answer at once where everything was known already.

use super::gentask::locate;
use super::{Desk, GentaskRequest, Reply, failed};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::task::{Role, TaskState};
use crate::store::events::Level;
use crate::store::generations::GenerationState;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_secs(1);

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
        self.fill_in(&mut r);
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
            if let Err(fault) = self.send_generated().await {
                return failed(&fault);
            }
            match self.store.was_sent(job.id).await {
                Ok(true) => return Reply::ok("succeeded!"),
                Ok(false) => {}
                Err(fault) => return failed(&fault),
            }
            match self.store.generation(&job.dcppath, &job.taskfile).await {
                Ok(Some(g)) if g.id == job.id && g.state == GenerationState::Failed => return Reply::err(g.error),
                Ok(_) => return Reply::err("error, it was cancelled meanwhile."),
                Err(fault) => return failed(&fault),
            }
        }
        let torrent = job.full.display();
        Reply::ok(format!("succeed, but the torrent is generating, please wait until {torrent} is finished."))
    }

    /// `sends` has no `basesubdir`, and may come without `taskfile`: both follow from the package's path.
    fn fill_in(&self, r: &mut GentaskRequest) {
        let config = self.config.current();
        let found = locate(r.dcppath.trim_end_matches('/'));
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
    }

    /// Sends the tasks of jobs that are finished and want it. One at a time, so that none is sent twice.
    async fn send_generated(&self) -> Result<(), Fault> {
        let _one = self.sending.lock().await;
        for (job, ended_at) in self.store.generations_to_send().await? {
            let name = job.taskfile.rsplit('/').next().unwrap_or_default();
            if job.state != GenerationState::Finished {
                self.store.set_generation_sent(job.id, Some(&job.error)).await?;
                continue;
            }
            // It was accepted, and the process ended before that was noted.
            let sent_before = match TaskName::parse(name) {
                Ok(task) => self.store.task_to_replace(Role::Send, &task).await?.is_some_and(|row| row.created_at >= ended_at),
                Err(_) => false,
            };
            let refused = match sent_before {
                true => None,
                false => Some(self.send(&job.taskfile, None).await).filter(|reply| !reply.ok).map(|reply| reply.desc),
            };
            if let Some(text) = &refused {
                self.event(Level::Error, "sends", name, text).await;
            }
            self.store.set_generation_sent(job.id, refused.as_deref()).await?;
        }
        Ok(())
    }
}
