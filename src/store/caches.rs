//! A cacher's tasks: how long they seed, and their end.

use super::{Store, db_fault};
use crate::error::Fault;

impl Store {
    /// Of a cacher's task. `false`: it does not run any more.
    pub async fn set_seed_until(&self, id: i64, at_ms: i64) -> Result<bool, Fault> {
        let done = sqlx::query("UPDATE tasks SET seed_until = ? WHERE id = ? AND state = 'downloading'")
            .bind(at_ms)
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }

    /// The seed time of a cacher's task is over: `downloaded`, with its task file as it is now. `false`: it is not, or the task
    /// does not run any more.
    pub async fn end_cache(&self, id: i64, document: &str, reason: &str, now_ms: i64) -> Result<bool, Fault> {
        let done = sqlx::query(
            "UPDATE tasks SET state = 'downloaded', reason = ?1, document = ?2, finished_at = ?3, revision = revision + 1 \
             WHERE id = ?4 AND state = 'downloading' AND coalesce(seed_until, 0) <= ?3",
        )
        .bind(reason)
        .bind(document)
        .bind(now_ms)
        .bind(id)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }
}
