//! Legs: one task over one method.

use super::tasks::TaskRow;
use super::{Store, bad_row, db_fault, i, tasks, u};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::span::Method;
use crate::model::task::{LegState, Role};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

/// A leg as the database holds it.
#[derive(Clone, Debug)]
pub struct LegRow {
    pub task: i64,
    pub method: Method,
    pub state: LegState,
    pub ready: bool,
    pub bytes_total: u64,
    pub bytes_done: u64,
    pub bytes_wire: u64,
    pub bytes_sent: u64,
    /// Bytes per second.
    pub rate: u64,
    pub peers: u32,
    pub tries: u32,
    pub retry_at: Option<i64>,
    pub error: String,
    /// Time spent running (milliseconds).
    pub active_ms: u64,
    /// Bytes per second over the last minute or so in which it ran, once that is known.
    pub measured: Option<u64>,
    /// Off-peak windows as text, if the leg has any.
    pub windows: Option<String>,
}

/// What the sampler writes of a running leg. `wire`, `sent` and `active_ms` are added to what is there.
#[derive(Clone, Copy, Debug)]
pub struct LegSample {
    pub task: i64,
    pub method: Method,
    pub bytes_done: u64,
    pub add_wire: u64,
    pub add_sent: u64,
    pub add_active_ms: u64,
    pub rate: u64,
    pub peers: u32,
    pub ready: bool,
    /// `None` leaves what is known.
    pub measured: Option<u64>,
}

const LEG_COLUMNS: &str = "task_id, method, state, ready, bytes_total, bytes_done, bytes_wire, bytes_sent, rate, peers, tries, retry_at, error, \
     active_ms, measured";

fn read_leg(r: &SqliteRow, prefix: &str) -> Result<LegRow, Fault> {
    let column = |c: &str| format!("{prefix}{c}");
    let int = |c: &str| r.try_get::<i64, _>(column(c).as_str()).map_err(db_fault);
    let text = |c: &str| r.try_get::<String, _>(column(c).as_str()).map_err(db_fault);
    let (method, state) = (text("method")?, text("state")?);
    Ok(LegRow {
        task: int("task_id")?,
        method: Method::parse(&method).ok_or_else(|| bad_row("method", &method))?,
        state: LegState::parse(&state).ok_or_else(|| bad_row("leg state", &state))?,
        ready: int("ready")? != 0,
        bytes_total: u(int("bytes_total")?),
        bytes_done: u(int("bytes_done")?),
        bytes_wire: u(int("bytes_wire")?),
        bytes_sent: u(int("bytes_sent")?),
        rate: u(int("rate")?),
        peers: u32::try_from(int("peers")?).unwrap_or(0),
        tries: u32::try_from(int("tries")?).unwrap_or(0),
        retry_at: r.try_get(column("retry_at").as_str()).map_err(db_fault)?,
        error: text("error")?,
        active_ms: u(int("active_ms")?),
        measured: r.try_get::<Option<i64>, _>(column("measured").as_str()).map_err(db_fault)?.map(u),
        windows: r.try_get(column("windows").as_str()).map_err(db_fault)?,
    })
}

impl Store {
    pub async fn legs(&self, task: i64) -> Result<Vec<LegRow>, Fault> {
        self.read_legs("l.task_id = ?1", task).await
    }

    /// The legs of all tasks that may need work.
    pub async fn live_legs(&self) -> Result<Vec<LegRow>, Fault> {
        let live = "t.state IN ('queues', 'uploading', 'uploaded', 'downloading', 'downloaded') AND ?1 = ?1";
        self.read_legs(live, 0).await
    }

    async fn read_legs(&self, condition: &str, bind: i64) -> Result<Vec<LegRow>, Fault> {
        let sql = format!(
            "SELECT l.*, s.windows FROM legs l JOIN tasks t ON t.id = l.task_id \
             LEFT JOIN schedules s ON s.task_id = l.task_id AND s.method = l.method WHERE {condition} ORDER BY l.task_id, l.method"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(bind).fetch_all(&self.readers).await.map_err(db_fault)?;
        rows.iter().map(|r| read_leg(r, "")).collect()
    }

    /// A task by its key, with its legs (without their windows): one question instead of two, for what clients ask all the
    /// time.
    pub async fn task_with_legs(&self, role: Role, name: &TaskName) -> Result<Option<(TaskRow, Vec<LegRow>)>, Fault> {
        let mine = tasks::columns("t");
        let theirs = LEG_COLUMNS.split(", ").map(|c| format!("l.{c} AS leg_{c}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {mine}, {theirs}, NULL AS leg_windows FROM tasks t LEFT JOIN legs l ON l.task_id = t.id \
             WHERE t.role = ? AND t.name = ? ORDER BY l.method"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(role.as_str())
            .bind(name.as_str())
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)?;
        let Some(first) = rows.first() else { return Ok(None) };
        let has_leg = |r: &&SqliteRow| r.try_get::<Option<i64>, _>("leg_task_id").is_ok_and(|id| id.is_some());
        let legs = rows.iter().filter(has_leg).map(|r| read_leg(r, "leg_")).collect::<Result<_, _>>()?;
        Ok(Some((tasks::read(first)?, legs)))
    }

    /// A leg's state with its error text, the tries that failed in a row and, for a retry, the time of the next try.
    pub async fn set_leg(
        &self,
        task: i64,
        method: Method,
        state: LegState,
        error: &str,
        tries: u32,
        retry_at: Option<i64>,
    ) -> Result<(), Fault> {
        sqlx::query(
            "UPDATE legs SET state = ?1, error = ?2, retry_at = ?3, rate = 0, peers = CASE WHEN ?1 = 'running' THEN peers ELSE 0 END, \
             ready = CASE WHEN ?1 = 'done' THEN ready ELSE 0 END, \
             tries = ?6 WHERE task_id = ?4 AND method = ?5",
        )
        .bind(state.as_str())
        .bind(error)
        .bind(retry_at)
        .bind(task)
        .bind(method.as_str())
        .bind(tries)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// The sampler's one transaction: every running leg's figures and, when `history` is set, a sample of each.
    pub async fn record_legs(&self, samples: &[LegSample], history: bool, now_ms: i64) -> Result<(), Fault> {
        if samples.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for s in samples {
            sqlx::query(
                "UPDATE legs SET bytes_done = ?, bytes_wire = bytes_wire + ?, bytes_sent = bytes_sent + ?, active_ms = active_ms + ?, \
                 rate = ?, peers = ?, ready = ?, measured = coalesce(?, measured) WHERE task_id = ? AND method = ?",
            )
            .bind(i(s.bytes_done))
            .bind(i(s.add_wire))
            .bind(i(s.add_sent))
            .bind(i(s.add_active_ms))
            .bind(i(s.rate))
            .bind(s.peers)
            .bind(s.ready)
            .bind(s.measured.map(i))
            .bind(s.task)
            .bind(s.method.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
            if history {
                sqlx::query(
                    "INSERT OR REPLACE INTO progress_samples (task_id, method, at, bytes_done, rate, peers) \
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM tasks WHERE id = ?1)",
                )
                .bind(s.task)
                .bind(s.method.as_str())
                .bind(now_ms)
                .bind(i(s.bytes_done))
                .bind(i(s.rate))
                .bind(s.peers)
                .execute(&mut *tx)
                .await
                .map_err(db_fault)?;
            }
        }
        tx.commit().await.map_err(db_fault)
    }

    /// What the conductor found about a leg's windows.
    pub async fn set_schedule(
        &self,
        task: i64,
        method: Method,
        open_now: bool,
        opens_at: Option<i64>,
        closes_at: Option<i64>,
    ) -> Result<(), Fault> {
        sqlx::query(
            "UPDATE schedules SET open_now = ?1, opens_at = ?2, closes_at = ?3 WHERE task_id = ?4 AND method = ?5 \
             AND (open_now, coalesce(opens_at, 0), coalesce(closes_at, 0)) <> (?1, coalesce(?2, 0), coalesce(?3, 0))",
        )
        .bind(open_now)
        .bind(opens_at)
        .bind(closes_at)
        .bind(task)
        .bind(method.as_str())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// After a start nothing runs yet: legs that were running wait again.
    pub async fn reset_running_legs(&self) -> Result<(), Fault> {
        sqlx::query("UPDATE legs SET state = 'waiting', rate = 0, peers = 0, ready = 0 WHERE state = 'running'")
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }
}
