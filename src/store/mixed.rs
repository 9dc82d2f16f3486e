//! Files whose bytes may come from others than the methods that their spans name now: a part was brought already when the
//! rest was given to somebody else. When the digest of such a file is wrong, nobody is to blame before it was fetched anew.
//!
//! bt's bytes are not counted: it checks its pieces.

use super::task_files::retotal_legs;
use super::{Store, db_fault};
use crate::error::Fault;
use crate::model::span::Method;

type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

/// Notes it for those of these files (a JSON list of lists that begin with the index) of which anything is there.
pub(super) async fn note(tx: &mut Tx, task: i64, from: Method, list: &str) -> Result<(), Fault> {
    if from == Method::Bt {
        return Ok(());
    }
    sqlx::query(
        "INSERT OR IGNORE INTO checkpoints (task_id, method, key, value) SELECT ?1, ?3, 'mixed:' || f.idx, '' \
         FROM json_each(?2) n JOIN task_files f ON f.task_id = ?1 AND f.idx = CAST(n.value->>0 AS INTEGER) WHERE f.bytes_done > 0",
    )
    .bind(task)
    .bind(list)
    .bind(from.as_str())
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    Ok(())
}

async fn forget(tx: &mut Tx, task: i64, file: u32) -> Result<(), Fault> {
    sqlx::query("DELETE FROM checkpoints WHERE task_id = ? AND key = 'mixed:' || ?")
        .bind(task)
        .bind(file)
        .execute(&mut **tx)
        .await
        .map_err(db_fault)?;
    Ok(())
}

impl Store {
    async fn is_noted(&self, task: i64, what: &str, file: u32) -> Result<bool, Fault> {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM checkpoints WHERE task_id = ? AND key = ? || ':' || ?")
            .bind(task)
            .bind(what)
            .bind(file)
            .fetch_one(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok(n > 0)
    }

    pub async fn is_mixed(&self, task: i64, file: u32) -> Result<bool, Fault> {
        self.is_noted(task, "mixed", file).await
    }

    /// After what others than bt brought of a file was forgotten: whose the rest is, is known again.
    pub async fn forget_mixed(&self, task: i64, file: u32) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        forget(&mut tx, task, file).await?;
        tx.commit().await.map_err(db_fault)
    }

    /// What others than bt were to bring of a file, one method brings from now on, all of it. The caller has forgotten the
    /// bytes before.
    pub async fn fetch_anew(&self, task: i64, file: u32, by: Method) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        for sql in [
            "UPDATE spans SET method = ?3 WHERE task_id = ?1 AND idx = ?2 AND \
             (method <> 'bt' OR NOT EXISTS (SELECT 1 FROM spans WHERE task_id = ?1 AND idx = ?2 AND method <> 'bt'))",
            "INSERT INTO legs (task_id, method, state) SELECT DISTINCT task_id, method, 'waiting' FROM spans \
             WHERE task_id = ?1 AND idx = ?2 AND method <> 'local' AND ?3 <> '' ON CONFLICT (task_id, method) DO UPDATE SET state = 'waiting', retry_at = NULL WHERE state IN ('done', 'failed', 'off')",
            // Nothing is left to try.
            "UPDATE legs SET state = 'done', error = '', tries = 0, retry_at = NULL WHERE task_id = ?1 AND state = 'waiting' \
             AND ?2 >= 0 AND ?3 <> '' AND NOT EXISTS (SELECT 1 FROM spans s WHERE s.task_id = ?1 AND s.method = legs.method)",
        ] {
            sqlx::query(sql).bind(task).bind(file).bind(by.as_str()).execute(&mut *tx).await.map_err(db_fault)?;
        }
        forget(&mut tx, task, file).await?;
        retotal_legs(&mut tx, task).await?;
        tx.commit().await.map_err(db_fault)
    }

    /// Was all of this file fetched once more since the task was accepted, because nobody brought it right?
    pub async fn was_fetched_again(&self, task: i64, file: u32) -> Result<bool, Fault> {
        self.is_noted(task, "again", file).await
    }

    /// Nobody else has a file: whoever brought it does so once more, and that is a try that failed. The caller has forgotten
    /// all its bytes before. A leg that is at work finds at its end what was added.
    pub async fn fetch_again(&self, task: i64, file: u32, blamed: Method, error: &str) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        for sql in [
            "INSERT OR REPLACE INTO checkpoints (task_id, method, key, value) VALUES (?1, ?3, 'again:' || ?2, ?4)",
            "UPDATE legs SET error = CASE WHEN method = ?3 THEN ?4 ELSE '' END, tries = CASE WHEN method = ?3 THEN 1 ELSE 0 END, \
             state = 'waiting', retry_at = NULL WHERE task_id = ?1 AND state IN ('done', 'failed', 'off') \
             AND method IN (SELECT method FROM spans WHERE task_id = ?1 AND idx = ?2)",
        ] {
            sqlx::query(sql).bind(task).bind(file).bind(blamed.as_str()).bind(error).execute(&mut *tx).await.map_err(db_fault)?;
        }
        forget(&mut tx, task, file).await?;
        tx.commit().await.map_err(db_fault)
    }
}
