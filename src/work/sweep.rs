//! What is over is cleaned up: legs and assemblies of tasks that are not live, a cacher's data, staging directories that belong
//! to nobody.

use super::conductor::Conductor;
use crate::assembly;
use crate::error::Fault;
use crate::model::task::{NodeType, TaskState};
use crate::model::task_file::TaskFile;
use crate::store::events::Level;
use crate::store::tasks::TaskRow;
use crate::views;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks for what cancelled tasks left.
const SWEEP: Duration = Duration::from_secs(5);

impl Conductor {
    /// Stops and cleans up what belongs to tasks that are not live any more (cancelled, replaced, failed).
    pub(super) async fn release_dead(&mut self, live: &[TaskRow]) {
        let live: HashSet<i64> = live.iter().map(|t| t.id).collect();
        for ((task, method), leg) in &self.running {
            if !live.contains(task) {
                tracing::info!(task, %method, "the task is over: stopping its leg");
                leg.stop();
            }
        }
        for (task, stop) in &self.copying {
            if !live.contains(task) {
                stop.cancel();
            }
        }
        let idle: Vec<i64> = self
            .assemblies
            .keys()
            .copied()
            .filter(|id| !live.contains(id) && !self.copying.contains_key(id) && !self.finishing.contains_key(id))
            .filter(|id| !self.running.keys().any(|(task, _)| task == id))
            .collect();
        for id in idle {
            let Some(assembly) = self.assemblies.remove(&id) else { continue };
            if let Err(fault) = assembly.close().await {
                tracing::warn!(%fault, "the last sync failed");
            }
            self.swept = None;
        }
    }

    /// Says which tasks cannot go on because their rows cannot be read.
    pub(super) async fn tell_of_broken(&self) {
        for task in self.node.store.take_broken() {
            let text = format!(
                "{}. This task stands still; the others go on. Cancel it, or send or receive it again",
                task.fault.message.trim_end_matches('.')
            );
            self.node.event(Level::Error, "broken", &task.name, &text).await;
        }
    }

    /// Removes what cancelled tasks left, now and then.
    pub(super) async fn sweep_staging(&mut self) {
        if self.swept.is_none_or(|t| t.elapsed() >= SWEEP) {
            self.swept = Some(Instant::now());
            if let Err(fault) = self.settle_handed_over().await {
                tracing::warn!(%fault, "cannot look for what was cancelled while it was put into its store");
            }
            self.clean_staging().await;
            self.give_up_uploads().await;
        }
    }

    /// Cancelled while their package was renamed into its store, and then the process ended, or the database was held: what is
    /// there is recorded like any other. What did not come to it is forgotten.
    async fn settle_handed_over(&mut self) -> Result<(), Fault> {
        for row in self.node.store.cancelled_at_the_end().await? {
            let busy = self.assemblies.contains_key(&row.id) || self.copying.contains_key(&row.id);
            if busy || self.finishing.contains_key(&row.id) {
                continue;
            }
            if assembly::already_renamed(&row) {
                self.finish(row.id).await?;
            } else {
                self.node.store.forget_stage_inode(row.id).await?;
            }
        }
        Ok(())
    }

    /// Removes staging directories that belong to no task. What cannot be looked up stays.
    pub(super) async fn clean_staging(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.node.staging_root()) else { return };
        let Ok(now) = self.seeds.look(&Arc::clone(&self.node)).await else { return };
        let cacher = self.node.config.current().servertype == NodeType::Cacher;
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|n| n.rsplit('.').next()?.parse::<i64>().ok());
            let Some(id) = id else { continue }; // not ours
            let in_use = self.assemblies.contains_key(&id) || self.finishing.contains_key(&id) || self.copying.contains_key(&id);
            if in_use || self.node.config.current().keeppartial {
                continue;
            }
            let row = match self.node.store.task(id).await {
                Ok(row) => row,
                // One that was cancelled, and whose row cannot be read.
                Err(_) if self.node.store.is_over(id).await.unwrap_or(false) => None,
                Err(_) => continue,
            };
            let is_over = |t: &TaskRow| match t.state {
                TaskState::History | TaskState::Downloaded => true,
                // What a cacher could not complete goes when its seed would have ended.
                TaskState::DownloadError if cacher => t.seed_until.is_some_and(|end| end <= now.timestamp_millis()),
                _ => false,
            };
            if row.as_ref().is_some_and(|t| !is_over(t)) {
                continue;
            }
            match row {
                Some(row) if cacher => self.clear_stage(&row, entry.path()).await,
                // On a receiver this may be the old version of a package, whose files have other names.
                _ => {
                    tracing::info!(path = %entry.path().display(), "removing partial data of a task that is over");
                    remove_tree(entry.path()).await;
                }
            }
        }
        if cacher {
            views::sweep_seeding_dirs(&self.node.config.current().transfer_dir());
        }
    }

    /// The end of a cacher's task: `finishedtime` in its task file is its finish mark, and the data, and only those, are
    /// deleted (protocol section 3.2). After the step, so that who prolongs the seed time at this moment is not told that it
    /// was, while the data go.
    pub(super) async fn drop_cache(&mut self, task: i64) -> Result<(), Fault> {
        let row = self.row(task).await?;
        let now = self.node.clock.now();
        let over = row.seed_until.is_none_or(|end| end <= now.timestamp_millis());
        if self.node.config.current().servertype != NodeType::Cacher || !over {
            return Ok(());
        }
        let mut reason = "seed time over before all was there";
        if let Some(assembly) = self.assemblies.remove(&task) {
            if assembly.is_complete() {
                reason = "seed time over";
            }
            assembly.close().await?;
        }
        let mut document = self.node.store.task_document(task).await?;
        if let Ok(mut file) = TaskFile::parse(document.as_bytes()) {
            file.finishedtime = now.format("%Y-%m-%d %H:%M:%S").to_string();
            document = file.to_json();
        }
        if !self.node.store.end_cache(task, &document, reason, now.timestamp_millis()).await? {
            return Ok(()); // it is decided anew
        }
        self.moved(task, TaskState::Downloading, TaskState::Downloaded, reason).await?;
        self.clear_stage(&row, self.node.staging(&row)).await;
        Ok(())
    }

    /// Removes what a task that is over has staged. What somebody else put there stays, and is said once.
    async fn clear_stage(&mut self, row: &TaskRow, root: PathBuf) {
        let Ok(files) = self.node.store.task_files(row.id).await else { return };
        let stage = root.clone();
        let remove = move || assembly::remove_staged(&stage, files.iter().map(|f| &f.path));
        if tokio::task::spawn_blocking(remove).await.unwrap_or(false) {
            tracing::info!(path = %root.display(), "removed the data of a task that is over");
        } else if self.rooms.left.insert(row.id) {
            let text = format!("{} is not empty: what lies there is not of this task, and stays", root.display());
            self.node.event(Level::Warn, "left", row.name.as_str(), &text).await;
        }
    }
}

pub(super) async fn remove_tree(path: std::path::PathBuf) {
    let shown = path.display().to_string();
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&path)).await;
    match removed {
        Ok(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => tracing::warn!(error = %e, path = shown, "cannot remove"),
        _ => {}
    }
}
