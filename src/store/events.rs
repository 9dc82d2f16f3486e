//! What happened, append-only.

use super::{Store, db_fault};
use crate::error::Fault;
use std::sync::Arc;

/// How much an operator should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// Kind, task and actor as in [`Store::add_event`].
pub(super) async fn insert_event<'e>(
    to: impl sqlx::SqliteExecutor<'e>,
    level: Level,
    (kind, task, actor): (&str, &str, &str),
    text: &str,
    now_ms: i64,
) -> Result<(), Fault> {
    sqlx::query("INSERT INTO events (at, level, kind, task, actor, text) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(now_ms)
        .bind(level.as_str())
        .bind(kind)
        .bind(task)
        .bind(actor)
        .bind(text)
        .execute(to)
        .await
        .map_err(db_fault)?;
    Ok(())
}

impl Store {
    /// Adds an event. `task` is the task file's name or empty; `actor` says who asked (`api`, `drop`, `conductor`).
    pub async fn add_event(
        &self,
        level: Level,
        kind: &str,
        task: &str,
        actor: &str,
        text: &str,
        now_ms: i64,
    ) -> Result<(), Fault> {
        insert_event(&self.writer, level, (kind, task, actor), text, now_ms).await?;
        self.events.notify_waiters();
        Ok(())
    }

    /// Resolves when the next event is added after this call.
    pub fn next_event(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.events).notified_owned()
    }
}
