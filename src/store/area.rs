//! Which transfer area the rows speak of.

use super::{Store, db_fault};
use crate::error::Fault;
use crate::model::task::LegState;

impl Store {
    /// The mark of the transfer area. `None` before it was used first.
    pub async fn area_mark(&self) -> Result<Option<String>, Fault> {
        sqlx::query_scalar("SELECT mark FROM area").fetch_optional(&self.readers).await.map_err(db_fault)
    }

    pub async fn set_area_mark(&self, mark: &str) -> Result<(), Fault> {
        sqlx::query("INSERT INTO area (id, mark) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET mark = excluded.mark")
            .bind(mark)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    /// Do rows speak of what lies on the node's disks: of tasks and jobs that are not over, or of a library?
    pub async fn speaks_of_data(&self) -> Result<bool, Fault> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM tasks WHERE state <> 'history') OR EXISTS (SELECT 1 FROM library_files) \
             OR EXISTS (SELECT 1 FROM generations WHERE state IN ('queued', 'running'))",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(db_fault)
    }

    /// Legs that are to be worked for wait, and say why. Their tries stay as they are.
    pub async fn hold_legs(&self, why: &str) -> Result<(), Fault> {
        sqlx::query(
            "UPDATE legs SET error = ?1 WHERE state = ?2 AND error <> ?1 \
             AND task_id IN (SELECT id FROM tasks WHERE state IN ('uploading', 'uploaded', 'downloading', 'downloaded'))",
        )
        .bind(why)
        .bind(LegState::Waiting.as_str())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// What [`Store::hold_legs`] said is over.
    pub async fn release_legs(&self, why: &str) -> Result<(), Fault> {
        sqlx::query("UPDATE legs SET error = '' WHERE error = ?").bind(why).execute(&self.writer).await.map_err(db_fault)?;
        Ok(())
    }
}
