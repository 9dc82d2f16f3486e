//! gentask jobs.

use super::tasks::NewTask;
use super::{Store, db_fault, i, u};
use crate::error::Fault;

/// Where a gentask job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationState {
    Queued,
    Running,
    Finished,
    Failed,
    Cancelled,
}

impl GenerationState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
    fn parse(s: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Finished, Self::Failed, Self::Cancelled].into_iter().find(|x| x.as_str() == s)
    }
    pub fn is_live(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// One job. `request` is JSON and may hold keys.
#[derive(Clone, Debug)]
pub struct GenerationRow {
    pub id: i64,
    pub dcppath: String,
    pub taskfile: String,
    pub request: String,
    pub state: GenerationState,
    pub bytes_total: u64,
    pub bytes_done: u64,
    pub error: String,
}

type Raw = (i64, String, String, String, String, i64, i64, String);

fn read(r: Raw) -> Result<GenerationRow, Fault> {
    Ok(GenerationRow {
        id: r.0,
        dcppath: r.1,
        taskfile: r.2,
        request: r.3,
        state: GenerationState::parse(&r.4).ok_or_else(|| super::bad_row("generation state", &r.4))?,
        bytes_total: u(r.5),
        bytes_done: u(r.6),
        error: r.7,
    })
}

const SELECT: &str = "SELECT id, dcppath, taskfile, request, state, bytes_total, bytes_done, error FROM generations";

impl Store {
    /// A fault while somebody else holds the database: for who must not do something that cannot be recorded then.
    pub async fn can_write(&self) -> Result<(), Fault> {
        self.begin().await?.rollback().await.map_err(db_fault)
    }

    /// Queues a job (`send`: its task is sent when it is finished); an ended one for the same task file is replaced. `None`:
    /// one is at work on it or on the same package.
    pub async fn queue_generation(
        &self,
        dcppath: &str,
        taskfile: &str,
        request: &str,
        send: bool,
        now_ms: i64,
    ) -> Result<Option<i64>, Fault> {
        let mut tx = self.begin().await?;
        let busy: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM generations WHERE (dcppath = ? OR taskfile = ?) AND state IN ('queued', 'running')",
        )
        .bind(dcppath)
        .bind(taskfile)
        .fetch_one(&mut *tx)
        .await
        .map_err(db_fault)?;
        if busy > 0 {
            return Ok(None);
        }
        sqlx::query("DELETE FROM generations WHERE taskfile = ?").bind(taskfile).execute(&mut *tx).await.map_err(db_fault)?;
        let id = sqlx::query_scalar(
            "INSERT INTO generations (dcppath, taskfile, request, state, send, created_at) \
             VALUES (?, ?, ?, 'queued', ?, ?) RETURNING id",
        )
        .bind(dcppath)
        .bind(taskfile)
        .bind(request)
        .bind(if send { "wanted" } else { "" })
        .bind(now_ms)
        .fetch_one(&mut *tx)
        .await
        .map_err(db_fault)?;
        tx.commit().await.map_err(db_fault)?;
        Ok(Some(id))
    }

    /// The newest job for a task file, or else for a package.
    pub async fn generation(&self, dcppath: &str, taskfile: &str) -> Result<Option<GenerationRow>, Fault> {
        let sql = format!("{SELECT} WHERE taskfile = ?2 OR dcppath = ?1 ORDER BY taskfile = ?2 DESC, id DESC LIMIT 1");
        let row: Option<Raw> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(dcppath)
            .bind(taskfile)
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)?;
        row.map(read).transpose()
    }

    /// Jobs that are to be done, oldest first. One that was running when the service stopped starts again.
    pub async fn live_generations(&self) -> Result<Vec<GenerationRow>, Fault> {
        let sql = format!("{SELECT} WHERE state IN ('queued', 'running') ORDER BY id");
        let rows: Vec<Raw> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.readers).await.map_err(db_fault)?;
        rows.into_iter().map(read).collect()
    }

    /// Moves a live job on. `false`: it was cancelled meanwhile, and stays so.
    pub async fn set_generation(&self, id: i64, state: GenerationState, error: &str, now_ms: i64) -> Result<bool, Fault> {
        let done = sqlx::query(
            "UPDATE generations SET state = ?1, error = ?2, finished_at = CASE WHEN ?1 IN ('queued', 'running') THEN NULL ELSE ?3 END \
             WHERE id = ?4 AND state IN ('queued', 'running')",
        )
        .bind(state.as_str())
        .bind(error)
        .bind(now_ms)
        .bind(id)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends the live job of a task file of this name. `false`: there is none.
    pub async fn cancel_generation(&self, taskfile_name: &str, now_ms: i64) -> Result<bool, Fault> {
        let done = sqlx::query(
            "UPDATE generations SET state = 'cancelled', finished_at = ? WHERE state IN ('queued', 'running') \
             AND substr(taskfile, -length(?2) - 1) = '/' || ?2",
        )
        .bind(now_ms)
        .bind(taskfile_name)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected() > 0)
    }

    /// Ended jobs whose task is to be sent now.
    pub async fn generations_to_send(&self) -> Result<Vec<GenerationRow>, Fault> {
        let sql = format!("{SELECT} WHERE send = 'wanted' AND state NOT IN ('queued', 'running') ORDER BY id");
        let rows: Vec<Raw> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.readers).await.map_err(db_fault)?;
        rows.into_iter().map(read).collect()
    }

    /// [`accept_task`](Store::accept_task) of what a job of `sends` made: that it is sent is noted in the same transaction,
    /// so that it is neither sent twice nor forgotten.
    pub async fn accept_generated(&self, t: &NewTask, job: i64, now_ms: i64) -> Result<i64, Fault> {
        self.accept(t, Some(job), now_ms).await
    }

    /// What was generated is not sent, for good: that is the job's failure.
    pub async fn set_generation_refused(&self, id: i64, why: &str) -> Result<(), Fault> {
        sqlx::query(
            "UPDATE generations SET send = 'refused', error = ?1, \
             state = CASE WHEN state = 'finished' THEN 'failed' ELSE state END WHERE id = ?2 AND send = 'wanted'",
        )
        .bind(why)
        .bind(id)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// What became of the wish to send a job's task (`wanted`, `sent`, `refused`; empty: there is none), and the job's
    /// error. `None`: the job is gone.
    pub async fn generation_sending(&self, id: i64) -> Result<Option<(String, String)>, Fault> {
        sqlx::query_as("SELECT send, error FROM generations WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)
    }

    /// Forgets that the task of a file of this name is to be sent when it is made. `false`: it is not.
    pub async fn forget_send(&self, taskfile_name: &str) -> Result<bool, Fault> {
        let done = sqlx::query(
            "UPDATE generations SET send = '' WHERE send = 'wanted' AND substr(taskfile, -length(?1) - 1) = '/' || ?1",
        )
        .bind(taskfile_name)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected() > 0)
    }

    pub async fn record_generation(&self, id: i64, done: u64, total: u64) -> Result<(), Fault> {
        sqlx::query("UPDATE generations SET bytes_done = ?, bytes_total = ? WHERE id = ?")
            .bind(i(done))
            .bind(i(total))
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }
}

/// In the transaction that accepts its task. A wish that was called off meanwhile, or a job that was ordered anew, is not sent.
pub(super) async fn note_sent(tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>, job: i64) -> Result<(), Fault> {
    let noted = sqlx::query("UPDATE generations SET send = 'sent' WHERE id = ? AND send = 'wanted'")
        .bind(job)
        .execute(&mut **tx)
        .await
        .map_err(db_fault)?;
    match noted.rows_affected() {
        0 => Err(Fault::permanent("it was called off or ordered anew meanwhile")),
        _ => Ok(()),
    }
}
