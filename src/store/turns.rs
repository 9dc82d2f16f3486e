//! Who comes first: priorities, and tasks that go on where they were.

use super::tasks::NewTask;
use super::{Store, db_fault};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::span::Method;
use crate::model::task::Role;
use sqlx::{Sqlite, Transaction};

impl Store {
    /// Tasks with a higher priority leave the queue first. `false`: there is no such task, or it is over.
    pub async fn set_priority(&self, role: Role, name: &TaskName, priority: i64) -> Result<bool, Fault> {
        let done = sqlx::query(
            "INSERT INTO priorities (task_id, priority) SELECT id, ?1 FROM tasks WHERE role = ?2 AND name = ?3 \
             AND state IN ('queues', 'uploading', 'downloading') ON CONFLICT DO UPDATE SET priority = excluded.priority",
        )
        .bind(priority)
        .bind(role.as_str())
        .bind(name.as_str())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }
}

/// Since when the task that is sent again seeds, if it does and will.
pub(super) async fn seed_of(tx: &mut Transaction<'static, Sqlite>, t: &NewTask) -> Result<Option<i64>, Fault> {
    if t.role != Role::Send || !t.legs.iter().any(|(m, _)| *m == Method::Bt) {
        return Ok(None);
    }
    sqlx::query_scalar(
        "SELECT coalesce(k.since, t.created_at) FROM tasks t JOIN legs l ON l.task_id = t.id AND l.method = 'bt' \
         LEFT JOIN turns k ON k.task_id = t.id WHERE t.role = 'sender' AND t.name = ? AND t.state = 'uploaded'",
    )
    .bind(t.name.as_str())
    .fetch_optional(&mut **tx)
    .await
    .map_err(db_fault)
}

pub(super) async fn set(tx: &mut Transaction<'static, Sqlite>, id: i64, since: Option<i64>) -> Result<(), Fault> {
    let Some(since) = since else { return Ok(()) };
    sqlx::query("INSERT OR REPLACE INTO turns (task_id, since) VALUES (?, ?)")
        .bind(id)
        .bind(since)
        .execute(&mut **tx)
        .await
        .map_err(db_fault)?;
    Ok(())
}

/// Before a task is queued again: one that is at work keeps its turn, another one gets a new one.
pub(super) async fn keep_at_work(tx: &mut Transaction<'static, Sqlite>, id: i64) -> Result<(), Fault> {
    for sql in [
        "DELETE FROM turns WHERE task_id = ?1 AND NOT EXISTS (SELECT 1 FROM tasks WHERE id = ?1 AND state = 'downloading')",
        "INSERT OR IGNORE INTO turns (task_id, since) SELECT id, created_at FROM tasks WHERE id = ?1 AND state = 'downloading'",
    ] {
        sqlx::query(sql).bind(id).execute(&mut **tx).await.map_err(db_fault)?;
    }
    Ok(())
}
