//! What the API lists: pages of rows. A page begins after a key, so that rows that come and go meanwhile are neither
//! repeated nor lost, and a page deep in a long list costs what the first one costs.

use super::tasks::{TaskRow, columns};
use super::{Store, db_fault, i, tasks, u};
use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::model::task::{Role, TaskState};
use serde_json::Value;
use sqlx::Row as _;

/// A task and what its parts add up to.
#[derive(Clone, Debug)]
pub struct TaskListed {
    pub row: TaskRow,
    pub bytes_done: u64,
    /// Bytes per second now.
    pub rate: u64,
    /// Of one that is not done: when it will be, as far as that is known (milliseconds).
    pub expected_at: Option<i64>,
    /// Why that is too late; empty when it is not.
    pub risk: String,
}

/// Which tasks; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub role: Option<Role>,
    pub state: Option<TaskState>,
    /// Part of the task's or the package's name, whatever its case (of ASCII letters).
    pub search: Option<String>,
}

/// A file of a task as `v_files` shows it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FileListed {
    pub idx: i64,
    pub path: String,
    pub size: i64,
    pub sha1: String,
    /// `bt`, `obs`, `cdn`, `local`; `bt,cdn` when the file is split.
    pub method: String,
    pub state: String,
    pub bytes_done: i64,
}

/// A point of a leg's progress.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct SampleListed {
    pub method: String,
    /// Milliseconds since the epoch.
    pub at: i64,
    pub bytes_done: i64,
    pub rate: i64,
    pub peers: i64,
}

/// A file of the library.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LibraryListed {
    pub path: String,
    pub size: i64,
    pub sha1: String,
    pub hashed_at: i64,
    pub package: String,
}

/// Files of the library with the same bytes.
#[derive(Clone, Debug)]
pub struct DuplicateListed {
    pub sha1: String,
    pub size: u64,
    pub copies: u64,
    /// At most [`PATHS`], by name.
    pub paths: Vec<String>,
}

/// Of very many copies only so many are named.
pub const PATHS: usize = 100;

/// Which library files.
#[derive(Clone, Debug, Default)]
pub struct LibraryFilter {
    pub search: Option<String>,
    pub sha1: Option<Sha1>,
    /// The package's directory.
    pub package: Option<String>,
}

/// A gentask job.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct GenerationListed {
    pub id: i64,
    pub dcppath: String,
    pub taskfile: String,
    pub state: String,
    pub send: String,
    pub bytes_total: i64,
    pub bytes_done: i64,
    pub error: String,
    pub created_at: i64,
    pub finished_at: Option<i64>,
}

/// What happened.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventListed {
    pub id: i64,
    pub at: i64,
    pub level: String,
    pub kind: String,
    pub task: String,
    pub actor: String,
    pub text: String,
}

/// Which events; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub task: Option<String>,
    pub level: Option<String>,
    pub kind: Option<String>,
}

/// The windows of a method of a task.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ScheduleListed {
    pub task: String,
    pub role: String,
    pub method: String,
    pub windows: String,
}

/// When a method of a task runs, as `v_schedules` shows it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RunListed {
    pub task: String,
    pub role: String,
    pub method: String,
    /// Empty when it has none.
    pub windows: String,
    pub waits_for: String,
    /// Milliseconds since the epoch.
    pub runs_at: Option<i64>,
}

/// What of a task is in place or published: of one that is whole, everything; of a leg that is done, too.
const DONE: &str = "CASE WHEN state IN ('downloaded', 'uploaded') OR (state = 'history' AND reason = '') THEN bytes_total \
     WHEN role = 'receiver' THEN (SELECT coalesce(sum(bytes_done), 0) FROM task_files WHERE task_id = tasks.id) \
     ELSE (SELECT coalesce(sum(CASE WHEN l.state = 'done' OR l.ready THEN l.bytes_total ELSE l.bytes_done END), 0) \
     FROM legs l WHERE l.task_id = tasks.id) END AS done, \
     (SELECT coalesce(sum(rate), 0) FROM legs WHERE task_id = tasks.id AND state = 'running') AS rate, \
     CASE WHEN state IN ('queues', 'uploading', 'downloading') THEN (SELECT expected_at FROM outlooks WHERE task_id = tasks.id) END \
     AS expected_at, \
     CASE WHEN state IN ('queues', 'uploading', 'downloading') \
     THEN coalesce((SELECT risk FROM outlooks WHERE task_id = tasks.id), '') ELSE '' END AS risk";

impl Store {
    /// Newest first, without those whose rows cannot be read. `before`: the id that the page before ended with.
    pub async fn list_tasks(&self, f: &TaskFilter, before: Option<i64>, limit: u32) -> Result<Vec<TaskListed>, Fault> {
        let sql = format!(
            "SELECT {}, {DONE} FROM tasks WHERE (?1 IS NULL OR role = ?1) AND (?2 IS NULL OR state = ?2) \
             AND (?3 IS NULL OR instr(lower(name), lower(?3)) > 0 OR instr(lower(package), lower(?3)) > 0) AND id < ?4 \
             ORDER BY id DESC LIMIT ?5",
            columns("tasks")
        );
        let (mut out, mut before) = (Vec::new(), before.unwrap_or(i64::MAX));
        loop {
            let wanted = limit as usize - out.len();
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
                .bind(f.role.map(Role::as_str))
                .bind(f.state.map(TaskState::as_str))
                .bind(&f.search)
                .bind(before)
                .bind(i(wanted as u64))
                .fetch_all(&self.viewers)
                .await
                .map_err(db_fault)?;
            // A page that is not full is the last one: broken rows are made up for.
            out.extend(rows.iter().filter_map(|row| listed(row).ok()));
            match rows.last() {
                Some(last) if rows.len() == wanted && out.len() < limit as usize => {
                    before = last.try_get("id").map_err(db_fault)?;
                }
                _ => return Ok(out),
            }
        }
    }

    pub async fn listed_task(&self, id: i64) -> Result<Option<TaskListed>, Fault> {
        let sql = format!("SELECT {}, {DONE} FROM tasks WHERE id = ?", columns("tasks"));
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(&self.viewers).await.map_err(db_fault)?;
        row.as_ref().map(listed).transpose()
    }

    /// In file list order, from the file after `after`.
    pub async fn list_task_files(&self, task: i64, after: Option<i64>, limit: u32) -> Result<Vec<FileListed>, Fault> {
        sqlx::query_as(
            "SELECT idx, path, size, lower(hex(sha1)) AS sha1, state, bytes_done, \
             coalesce((SELECT group_concat(DISTINCT s.method) FROM spans s WHERE s.task_id = f.task_id AND s.idx = f.idx), '') AS method \
             FROM task_files f WHERE task_id = ? AND idx > ? ORDER BY idx LIMIT ?",
        )
        .bind(task)
        .bind(after.unwrap_or(-1))
        .bind(limit)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)
    }

    /// The newest samples of a task, oldest of them first.
    pub async fn recent_samples(&self, task: i64, limit: u32) -> Result<Vec<SampleListed>, Fault> {
        let mut rows: Vec<SampleListed> = sqlx::query_as(
            "SELECT method, at, bytes_done, rate, peers FROM progress_samples WHERE task_id = ? ORDER BY at DESC, method LIMIT ?",
        )
        .bind(task)
        .bind(limit)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)?;
        rows.reverse();
        Ok(rows)
    }

    /// By path, from the path after `after`.
    pub async fn list_library(&self, f: &LibraryFilter, after: Option<&str>, limit: u32) -> Result<Vec<LibraryListed>, Fault> {
        sqlx::query_as(
            "SELECT path, size, lower(hex(sha1)) AS sha1, hashed_at, package FROM library_files \
             WHERE path > ?1 AND (?2 IS NULL OR instr(lower(path), lower(?2)) > 0) AND (?3 IS NULL OR sha1 = unhex(?3)) \
             AND (?4 IS NULL OR package = ?4) ORDER BY path LIMIT ?5",
        )
        .bind(after.unwrap_or(""))
        .bind(&f.search)
        .bind(f.sha1.map(|s| s.to_string()))
        .bind(&f.package)
        .bind(limit)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)
    }

    /// What wastes most first; `skip` of them are left out.
    pub async fn list_duplicates(&self, skip: u32, limit: u32) -> Result<Vec<DuplicateListed>, Fault> {
        let rows: Vec<(String, i64, i64, String)> = sqlx::query_as(
            "SELECT lower(hex(d.sha1)), d.size, d.copies, (SELECT json_group_array(path) FROM (SELECT path FROM library_files f \
             WHERE f.sha1 = d.sha1 AND f.size = d.size ORDER BY path LIMIT ?3)) \
             FROM (SELECT sha1, size, count(*) AS copies FROM library_files GROUP BY sha1, size HAVING count(*) > 1 \
             ORDER BY (count(*) - 1) * size DESC, sha1 LIMIT ?2 OFFSET ?1) d ORDER BY (d.copies - 1) * d.size DESC, d.sha1",
        )
        .bind(skip)
        .bind(limit)
        .bind(i(PATHS as u64))
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)?;
        let paths = |json: &str| match serde_json::from_str(json) {
            Ok(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(rows
            .into_iter()
            .map(|(sha1, size, copies, json)| DuplicateListed { sha1, size: u(size), copies: u(copies), paths: paths(&json) })
            .collect())
    }

    /// Newest first. `before`: the id that the page before ended with.
    pub async fn list_generations(&self, before: Option<i64>, limit: u32) -> Result<Vec<GenerationListed>, Fault> {
        sqlx::query_as(
            "SELECT id, dcppath, taskfile, state, send, bytes_total, bytes_done, error, created_at, finished_at \
             FROM generations WHERE id < ? ORDER BY id DESC LIMIT ?",
        )
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)
    }

    /// Windows of tasks that are not over.
    pub async fn list_schedules(&self) -> Result<Vec<ScheduleListed>, Fault> {
        sqlx::query_as(
            "SELECT t.name AS task, t.role, s.method, s.windows FROM schedules s JOIN tasks t ON t.id = s.task_id \
             WHERE t.state IN ('queues', 'uploading', 'uploaded', 'downloading', 'downloaded') ORDER BY t.id, s.method",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)
    }

    /// When each method of the tasks that are not over runs; windows of methods without a part, too.
    pub async fn list_runs(&self, now_ms: i64) -> Result<Vec<RunListed>, Fault> {
        sqlx::query_as(
            "SELECT t.name AS task, t.role, k.method, coalesce(s.windows, '') AS windows, \
             CASE WHEN l.state = 'running' THEN '' \
             WHEN l.state IS NULL OR l.state <> 'waiting' OR t.state NOT IN ('queues', 'uploading', 'downloading') THEN 'done' \
             WHEN s.open_now = 0 AND coalesce(s.opens_at >= l.retry_at, 1) THEN 'window' \
             WHEN l.retry_at > ?1 THEN 'retry' WHEN t.state = 'queues' THEN 'place' ELSE 'turn' END AS waits_for, \
             CASE WHEN l.state <> 'waiting' OR t.state NOT IN ('queues', 'uploading', 'downloading') THEN NULL \
             WHEN s.open_now = 0 THEN max(s.opens_at, coalesce(l.retry_at, 0)) ELSE l.retry_at END AS runs_at \
             FROM (SELECT task_id, method FROM legs UNION SELECT task_id, method FROM schedules) k \
             JOIN tasks t ON t.id = k.task_id LEFT JOIN legs l USING (task_id, method) LEFT JOIN schedules s USING (task_id, method) \
             WHERE t.state IN ('queues', 'uploading', 'uploaded', 'downloading', 'downloaded') ORDER BY t.id, k.method",
        )
        .bind(now_ms)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)
    }

    /// Newest first. `before`: the id that the page before ended with.
    pub async fn list_events(&self, f: &EventFilter, before: Option<i64>, limit: u32) -> Result<Vec<EventListed>, Fault> {
        self.events_where("id < ?4 ORDER BY id DESC", f, before.unwrap_or(i64::MAX), limit).await
    }

    /// Oldest first, from the event after `after`.
    pub async fn events_after(&self, f: &EventFilter, after: i64, limit: u32) -> Result<Vec<EventListed>, Fault> {
        self.events_where("id > ?4 ORDER BY id", f, after, limit).await
    }

    async fn events_where(&self, which: &str, f: &EventFilter, id: i64, limit: u32) -> Result<Vec<EventListed>, Fault> {
        let sql = format!(
            "SELECT id, at, level, kind, task, actor, text FROM events WHERE (?1 IS NULL OR task = ?1) \
             AND (?2 IS NULL OR level = ?2) AND (?3 IS NULL OR kind = ?3) AND {which} LIMIT ?5"
        );
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&f.task)
            .bind(&f.level)
            .bind(&f.kind)
            .bind(id)
            .bind(limit)
            .fetch_all(&self.viewers)
            .await
            .map_err(db_fault)
    }

    /// The newest event's id; 0 when there is none.
    pub async fn newest_event(&self) -> Result<i64, Fault> {
        sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM events").fetch_one(&self.viewers).await.map_err(db_fault)
    }

    /// Whether the database can be read and written now.
    pub async fn check(&self) -> Result<(), Fault> {
        let tx = self.begin().await?;
        tx.rollback().await.map_err(db_fault)?;
        sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&self.readers).await.map(|_| ()).map_err(db_fault)
    }
}

fn listed(row: &sqlx::sqlite::SqliteRow) -> Result<TaskListed, Fault> {
    let int = |c: &str| row.try_get::<i64, _>(c).map_err(db_fault);
    Ok(TaskListed {
        row: tasks::read(row)?,
        bytes_done: u(int("done")?),
        rate: u(int("rate")?),
        expected_at: row.try_get("expected_at").map_err(db_fault)?,
        risk: row.try_get("risk").map_err(db_fault)?,
    })
}
