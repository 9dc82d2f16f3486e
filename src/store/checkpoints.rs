//! Small durable notes of legs, by key.

use super::{Store, db_fault};
use crate::error::Fault;
use crate::model::span::Method;

impl Store {
    pub async fn checkpoint(&self, task: i64, method: Method, key: &str) -> Result<Option<String>, Fault> {
        sqlx::query_scalar("SELECT value FROM checkpoints WHERE task_id = ? AND method = ? AND key = ?")
            .bind(task)
            .bind(method.as_str())
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)
    }

    pub async fn save_checkpoint(&self, task: i64, method: Method, key: &str, value: &str) -> Result<(), Fault> {
        sqlx::query("INSERT OR REPLACE INTO checkpoints (task_id, method, key, value) VALUES (?, ?, ?, ?)")
            .bind(task)
            .bind(method.as_str())
            .bind(key)
            .bind(value)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    pub async fn remove_checkpoint(&self, task: i64, method: Method, key: &str) -> Result<(), Fault> {
        sqlx::query("DELETE FROM checkpoints WHERE task_id = ? AND method = ? AND key = ?")
            .bind(task)
            .bind(method.as_str())
            .bind(key)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }
}
