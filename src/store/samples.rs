//! Progress over time: kept fine for a day, by the minute for a while, then dropped.

use super::{Store, db_fault};
use crate::error::Fault;

impl Store {
    /// Merges samples older than `fine_before_ms` to one a minute and drops those older than `drop_before_ms`.
    pub async fn thin_samples(&self, fine_before_ms: i64, drop_before_ms: i64) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM progress_samples WHERE at < ?")
            .bind(drop_before_ms)
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        // The last sample of each minute stays; its rate becomes the minute's average. The ranges of `at` are such that the
        // primary key finds them: dividing it instead would compare every sample with every other.
        sqlx::query(
            "UPDATE progress_samples AS p SET rate = (SELECT cast(avg(q.rate) AS INTEGER) FROM progress_samples q \
             WHERE q.task_id = p.task_id AND q.method = p.method AND q.at BETWEEN p.at - p.at % 60000 AND p.at) \
             WHERE p.at < ?1 AND NOT EXISTS (SELECT 1 FROM progress_samples q WHERE q.task_id = p.task_id \
             AND q.method = p.method AND q.at BETWEEN p.at + 1 AND p.at - p.at % 60000 + 59999)",
        )
        .bind(fine_before_ms)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        sqlx::query(
            "DELETE FROM progress_samples AS p WHERE p.at < ?1 AND EXISTS (SELECT 1 FROM progress_samples q \
             WHERE q.task_id = p.task_id AND q.method = p.method AND q.at BETWEEN p.at + 1 AND p.at - p.at % 60000 + 59999)",
        )
        .bind(fine_before_ms)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        tx.commit().await.map_err(db_fault)
    }
}
