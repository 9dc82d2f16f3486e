//! Progress over time: kept as it was written for a while, then by the minute, then by the hour, then dropped.

use super::{Store, db_fault};
use crate::error::Fault;

impl Store {
    /// Merges samples older than `before_ms` to one in each `step_ms`: the last one, with the average of their rates.
    pub async fn thin_samples(&self, before_ms: i64, step_ms: i64) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        // The ranges of `at` are such that the primary key finds them: dividing it instead would compare every sample with
        // every other. One that is alone in its step is left as it is: else each round would write all of them again.
        let statements = [
            "UPDATE progress_samples AS p SET rate = (SELECT cast(avg(q.rate) AS INTEGER) FROM progress_samples q \
             WHERE q.task_id = p.task_id AND q.method = p.method AND q.at BETWEEN p.at - p.at % ?2 AND p.at) \
             WHERE p.at < ?1 \
             AND EXISTS (SELECT 1 FROM progress_samples q WHERE q.task_id = p.task_id \
             AND q.method = p.method AND q.at BETWEEN p.at - p.at % ?2 AND p.at - 1) \
             AND NOT EXISTS (SELECT 1 FROM progress_samples q WHERE q.task_id = p.task_id \
             AND q.method = p.method AND q.at BETWEEN p.at + 1 AND p.at - p.at % ?2 + ?2 - 1)",
            "DELETE FROM progress_samples AS p WHERE p.at < ?1 AND EXISTS (SELECT 1 FROM progress_samples q \
             WHERE q.task_id = p.task_id AND q.method = p.method AND q.at BETWEEN p.at + 1 AND p.at - p.at % ?2 + ?2 - 1)",
        ];
        for sql in statements {
            sqlx::query(sql).bind(before_ms).bind(step_ms.max(1)).execute(&mut *tx).await.map_err(db_fault)?;
        }
        tx.commit().await.map_err(db_fault)
    }

    /// Drops samples older than the given time.
    pub async fn drop_samples(&self, before_ms: i64) -> Result<(), Fault> {
        let done = sqlx::query("DELETE FROM progress_samples WHERE at < ?").bind(before_ms).execute(&self.writer).await;
        done.map(drop).map_err(db_fault)
    }
}
