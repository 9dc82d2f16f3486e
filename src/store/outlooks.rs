//! What is to be expected of tasks that are not done.

use super::{Store, db_fault};
use crate::error::Fault;
use crate::model::forecast::Outlook;
use std::collections::HashMap;

impl Store {
    /// What was recorded last, by task.
    pub async fn outlooks(&self) -> Result<HashMap<i64, Outlook>, Fault> {
        let rows: Vec<(i64, Option<i64>, String)> =
            sqlx::query_as("SELECT task_id, expected_at, risk FROM outlooks").fetch_all(&self.readers).await.map_err(db_fault)?;
        Ok(rows.into_iter().map(|(task, expected_at, risk)| (task, Outlook { expected_at, risk })).collect())
    }

    /// When a task will be done (milliseconds), if that is known.
    pub async fn expected_at(&self, task: i64) -> Result<Option<i64>, Fault> {
        let row: Option<(Option<i64>,)> = sqlx::query_as("SELECT expected_at FROM outlooks WHERE task_id = ?")
            .bind(task)
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok(row.and_then(|(at,)| at))
    }

    /// Records outlooks in one transaction. Tasks that went meanwhile are left out.
    pub async fn record_outlooks(&self, list: &[(i64, Outlook)]) -> Result<(), Fault> {
        if list.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for (task, outlook) in list {
            sqlx::query(
                "INSERT INTO outlooks (task_id, expected_at, risk) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM tasks WHERE id = ?1) \
                 ON CONFLICT (task_id) DO UPDATE SET expected_at = excluded.expected_at, risk = excluded.risk",
            )
            .bind(task)
            .bind(outlook.expected_at)
            .bind(&outlook.risk)
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        }
        tx.commit().await.map_err(db_fault)
    }
}
