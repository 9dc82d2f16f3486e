//! `cancel` (protocol section 3.7): whichever runs, the download first, else the upload; also a gentask job; last what has come
//! to its end: a package that was received, or could not be. May be repeated. And what else people do to a task that was
//! accepted: who comes first.

use super::{Desk, Reply, failed};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::task::{Role, TaskState};
use crate::store::events::Level;
use crate::store::tasks::CANCELLED;

impl Desk {
    pub async fn cancel(&self, taskfile: &str) -> Reply {
        let Ok(name) = TaskName::from_path(taskfile) else {
            return Reply::ok(format!("no need to cancel, not found task: {taskfile}"));
        };
        let at_work = |state| matches!(state, TaskState::Queues | TaskState::Downloading);
        match self.cancel_task(Role::Recv, &name, at_work).await {
            Ok(true) => return Reply::ok("succeed!"),
            Ok(false) => {}
            Err(fault) => return failed(&fault),
        }
        match self.cancel_drop(&name).await {
            Ok(true) => return Reply::ok("succeed!"),
            Ok(false) => {}
            Err(fault) => return failed(&fault),
        }
        let unsent = match self.forget_send(&name).await {
            Ok(unsent) => unsent,
            Err(fault) => return failed(&fault),
        };
        match self.cancel_task(Role::Send, &name, |_| true).await {
            // What was asked for last may be generated still.
            Ok(true) if !unsent => return Reply::ok("succeed!"),
            Ok(_) => {}
            Err(fault) => return failed(&fault),
        }
        match self.store.cancel_generation(name.as_str(), self.clock.now_ms()).await {
            Ok(true) => {
                self.event(Level::Info, "cancel", name.as_str(), "gentask").await;
                self.nudge.notify_one();
                return Reply::ok("succeed!");
            }
            Ok(false) if unsent => return Reply::ok("succeed!"),
            Ok(false) => {}
            Err(fault) => return failed(&fault),
        }
        match self.cancel_task(Role::Recv, &name, |_| true).await {
            Ok(true) => Reply::ok("succeed!"),
            // A drop that was refused and taken away again has left its error.
            Ok(false) if self.forget_refused_drop(&name) => Reply::ok("succeed!"),
            Ok(false) => Reply::ok(format!("no need to cancel, not found task: {name}")),
            Err(fault) => failed(&fault),
        }
    }

    /// Stops a task of one role, or keeps one from being taken in. `Ok(false)`: there is none that is not over.
    pub async fn cancel_of(&self, role: Role, name: &TaskName) -> Result<bool, Fault> {
        if role == Role::Send {
            self.forget_send(name).await?;
        }
        Ok(self.cancel_task(role, name, |_| true).await? || (role == Role::Recv && self.cancel_drop(name).await?))
    }

    /// A task file that was put into the receiver's queue and is not taken in yet, or was refused and is tried again. Whoever
    /// put it there takes it for queued: it goes to `history`, or back to `tmp` while that name belongs to an older task.
    async fn cancel_drop(&self, name: &TaskName) -> Result<bool, Fault> {
        let _one = self.admission.lock().await;
        let mut to = TaskState::History.dir();
        if let Some(row) = self.store.task_to_replace(Role::Recv, name).await? {
            if row.state != TaskState::History && !self.dirs.tmp(Role::Recv).join(name.as_str()).exists() {
                to = "tmp";
            }
            self.export(&row).await;
            let now = self.store.task(row.id).await?;
            // What lies there is its view, or may be.
            if now.is_none_or(|row| row.state == TaskState::Queues || row.exported < row.revision) {
                return Ok(false);
            }
        }
        let (dirs, dropped) = (self.dirs.clone(), name.clone());
        let taken = tokio::task::spawn_blocking(move || dirs.take_drop(&dropped, to)).await;
        if !taken.unwrap_or_else(|e| Err(Fault::local(format!("cancelling: {e}"))))? {
            return Ok(false);
        }
        self.event(Level::Info, "cancel", name.as_str(), &format!("not taken in yet: queues -> {to}")).await;
        Ok(true)
    }

    /// Tasks with a higher priority leave the queue first. `Ok(false)`: there is no such task that is waiting or at work.
    pub async fn set_priority(&self, role: Role, name: &TaskName, priority: i64) -> Result<bool, Fault> {
        let set = self.store.set_priority(role, name, priority).await?;
        if set {
            self.event(Level::Info, "priority", name.as_str(), &format!("{role}: {priority}")).await;
            self.nudge.notify_one();
        }
        Ok(set)
    }

    /// Removes the error beside a task file that was dropped and refused, when the file itself is gone. Says whether there
    /// was one.
    fn forget_refused_drop(&self, name: &TaskName) -> bool {
        let error = self.dirs.drop_error(name);
        let dropped = self.dirs.path(Role::Recv, TaskState::Queues, name);
        error.exists() && !dropped.exists() && crate::views::remove(&error).is_ok()
    }

    /// What `sends` asked for must not be sent afterwards. Who is about to send it finds that out in the transaction that
    /// would accept its task, or has accepted it already.
    async fn forget_send(&self, name: &TaskName) -> Result<bool, Fault> {
        self.store.forget_send(name.as_str()).await
    }

    /// `Ok(false)`: there is none in one of these states that is not over.
    async fn cancel_task(&self, role: Role, name: &TaskName, these: impl Fn(TaskState) -> bool) -> Result<bool, Fault> {
        let _one = self.admission.lock().await;
        let Some((id, mut state)) = self.store.task_state(role, name).await? else { return Ok(false) };
        if state == TaskState::History || !these(state) {
            return Ok(false);
        }
        // The conductor may be moving the task on at this moment: take it from wherever it is now.
        while !self.store.move_task(id, state, TaskState::History, CANCELLED, self.clock.now_ms()).await? {
            match self.store.task_state(role, name).await? {
                Some((same, now)) if same == id && now != TaskState::History => state = now,
                _ => return Ok(true),
            }
        }
        match self.store.task(id).await {
            Ok(Some(row)) => self.export(&row).await,
            Ok(None) => {}
            // Its row cannot be read, so nothing can be shown of it.
            Err(_) => self.dirs.clear_views(role, name)?,
        }
        self.dirs.clear_errors(role, name)?;
        self.event(Level::Info, "cancel", name.as_str(), &format!("{role}: {state} -> history")).await;
        self.nudge.notify_one();
        Ok(true)
    }
}
