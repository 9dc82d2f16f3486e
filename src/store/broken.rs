//! Rows of tasks that cannot be read: somebody edited them, or the disk did. Such a task stands still, and alone: the others
//! go on, it is said once, and it can be cancelled and accepted anew.

use super::tasks::{self, TaskRow};
use super::{Store, bad_row, db_fault};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::task::{Role, TaskState};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;
use std::sync::PoisonError;

/// A task whose row cannot be read.
#[derive(Clone, Debug)]
pub struct BrokenTask {
    /// As the row has it: perhaps no name that a task may have.
    pub name: String,
    pub fault: Fault,
}

/// Which rows could not be read when they were looked at last, and why; and those that nobody was told of yet.
#[derive(Default)]
pub(super) struct Broken {
    known: HashMap<i64, String>,
    untold: Vec<BrokenTask>,
}

impl Store {
    /// The rows that can be read; [`Store::take_broken`] tells of the others.
    pub(super) fn readable(&self, rows: &[SqliteRow]) -> Vec<TaskRow> {
        rows.iter().filter_map(|row| self.readable_one(row)).collect()
    }

    pub(super) fn readable_one(&self, row: &SqliteRow) -> Option<TaskRow> {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        match tasks::read(row) {
            Ok(task) => {
                broken.known.remove(&task.id);
                Some(task)
            }
            Err(fault) => {
                let id = row.try_get("id").unwrap_or_default();
                if broken.known.insert(id, fault.message.clone()).as_ref() != Some(&fault.message) {
                    let name = row.try_get("name").unwrap_or_default();
                    broken.untold.push(BrokenTask { name, fault });
                }
                None
            }
        }
    }

    /// Tasks that turned out to be broken since the last call: each once, until its row changes.
    pub fn take_broken(&self) -> Vec<BrokenTask> {
        std::mem::take(&mut self.broken.lock().unwrap_or_else(PoisonError::into_inner).untold)
    }

    /// The task that a new one of the same role and name replaces. A broken one counts as none: nothing of it can go on.
    pub async fn task_to_replace(&self, role: Role, name: &TaskName) -> Result<Option<TaskRow>, Fault> {
        let row = self.row_by_name(role, name).await?;
        Ok(row.as_ref().and_then(|row| self.readable_one(row)))
    }

    /// Number and state of a task, also of a broken one.
    pub async fn task_state(&self, role: Role, name: &TaskName) -> Result<Option<(i64, TaskState)>, Fault> {
        let found: Option<(i64, String)> = sqlx::query_as("SELECT id, state FROM tasks WHERE role = ? AND name = ?")
            .bind(role.as_str())
            .bind(name.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)?;
        found.map(|(id, state)| Ok((id, TaskState::parse(&state).ok_or_else(|| bad_row("state", &state))?))).transpose()
    }

    /// Whether a task is over, broken or not.
    pub async fn is_over(&self, id: i64) -> Result<bool, Fault> {
        let over: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks WHERE id = ? AND state = 'history'")
            .bind(id)
            .fetch_one(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok(over > 0)
    }
}
