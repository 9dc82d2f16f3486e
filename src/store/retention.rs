//! What is dropped with age: events, the history of tasks, jobs that have ended, piece hashes of packages that are gone.
//!
//! A time in a row is what the clock showed, and clocks are set back and forth. Numbers only grow. So a row is old when its
//! time says so **and** no row before it is younger: what was written while the clock was wrong is kept until the rows
//! before it go. A row before it that lies in the future does not count.

use super::{Store, db_fault};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::task::Role;

/// A time later than this after now is no time (milliseconds).
const FUTURE_MS: i64 = 24 * 3600 * 1000;

impl Store {
    /// Drops events older than the given time. The newest stays: its number is not given to another one.
    pub async fn prune_events(&self, before_ms: i64, now_ms: i64) -> Result<u64, Fault> {
        let sql = "DELETE FROM events WHERE at < ?1 AND id < (SELECT max(id) FROM events) \
                   AND id < coalesce((SELECT min(id) FROM events WHERE at BETWEEN ?1 AND ?2), (SELECT max(id) FROM events))";
        let done = sqlx::query(sql).bind(before_ms).bind(now_ms.saturating_add(FUTURE_MS)).execute(&self.writer).await;
        Ok(done.map_err(db_fault)?.rows_affected())
    }

    /// Tasks that ended before the given time, with their number; no name: the row is broken.
    pub async fn old_history(&self, before_ms: i64, now_ms: i64) -> Result<Vec<(i64, Option<(Role, TaskName)>)>, Fault> {
        let sql = "SELECT id, role, name FROM tasks WHERE state = 'history' AND max(coalesce(finished_at, 0), created_at) < ?1 \
             AND id < coalesce((SELECT min(id) FROM tasks WHERE created_at BETWEEN ?1 AND ?2), (SELECT max(id) + 1 FROM tasks)) \
             ORDER BY id";
        let rows: Vec<(i64, String, String)> = sqlx::query_as(sql)
            .bind(before_ms)
            .bind(now_ms.saturating_add(FUTURE_MS))
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)?;
        let named = |(id, role, name): (i64, String, String)| (id, Role::parse(&role).zip(TaskName::parse(&name).ok()));
        Ok(rows.into_iter().map(named).collect())
    }

    /// Forgets tasks, those that are over still.
    pub async fn forget_history(&self, ids: &[i64]) -> Result<(), Fault> {
        let sql = "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?)) AND state = 'history'";
        let done = sqlx::query(sql).bind(serde_json::json!(ids).to_string()).execute(&self.writer).await;
        done.map(drop).map_err(db_fault)
    }

    /// Forgets gentask jobs that ended before the given time. One whose task is still to be sent stays.
    pub async fn prune_generations(&self, before_ms: i64, now_ms: i64) -> Result<u64, Fault> {
        let sql = "DELETE FROM generations WHERE state IN ('finished', 'failed', 'cancelled') AND send <> 'wanted' \
                   AND max(coalesce(finished_at, 0), created_at) < ?1 AND id < coalesce( \
                       (SELECT min(id) FROM generations WHERE created_at BETWEEN ?1 AND ?2), (SELECT max(id) + 1 FROM generations))";
        let done = sqlx::query(sql).bind(before_ms).bind(now_ms.saturating_add(FUTURE_MS)).execute(&self.writer).await;
        Ok(done.map_err(db_fault)?.rows_affected())
    }

    /// Packages whose piece hashes were kept before the given time.
    pub async fn old_torrents(&self, before_ms: i64) -> Result<Vec<String>, Fault> {
        sqlx::query_scalar("SELECT path FROM torrents WHERE created_at < ?")
            .bind(before_ms)
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)
    }
}
