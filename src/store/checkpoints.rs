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

    pub async fn checkpoints_of_others(&self, task: i64, method: Method, key: &str) -> Result<Vec<String>, Fault> {
        sqlx::query_scalar("SELECT value FROM checkpoints WHERE key = ? AND method = ? AND task_id <> ?")
            .bind(key)
            .bind(method.as_str())
            .bind(task)
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)
    }

    /// The keys of notes about uploads that nobody goes on with, by task: it was cancelled, or sent again in another way.
    pub async fn forsaken_uploads(&self) -> Result<Vec<(i64, Vec<String>)>, Fault> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT c.task_id, c.key FROM tasks t JOIN checkpoints c ON c.task_id = t.id WHERE t.role = 'sender' \
             AND c.method = 'obs' AND c.key GLOB 'upload:*' AND ((t.state = 'history' AND t.reason = 'cancelled') OR NOT EXISTS \
             (SELECT 1 FROM legs l WHERE l.task_id = t.id AND l.method = 'obs' AND l.state IN ('waiting', 'running', 'failed'))) \
             ORDER BY c.task_id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        let mut out: Vec<(i64, Vec<String>)> = Vec::new();
        for (task, key) in rows {
            match out.last_mut().filter(|(last, _)| *last == task) {
                Some((_, keys)) => keys.push(key),
                None => out.push((task, vec![key])),
            }
        }
        Ok(out)
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
