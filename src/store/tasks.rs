//! Tasks: accepted work, keyed by role and task file name.

use super::{Store, bad_row, db_fault, i, turns, u};
use crate::error::Fault;
use crate::model::ids::{BaseSubdir, PackageName, RelPath, Sha1, TaskName};
use crate::model::span::{Method, Span};
use crate::model::task::{Policy, Role, TaskState};
use serde_json::json;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::path::{Path, PathBuf};

/// Why a task is in `history` that somebody cancelled.
pub const CANCELLED: &str = "cancelled";

/// A task as the database holds it.
#[derive(Clone, Debug)]
pub struct TaskRow {
    pub id: i64,
    pub role: Role,
    pub name: TaskName,
    pub package: PackageName,
    pub basesubdir: BaseSubdir,
    pub state: TaskState,
    pub reason: String,
    pub policy: Policy,
    pub ratio: String,
    pub bytes_total: u64,
    pub bytes_local: u64,
    /// Where the package lies (sender) or will lie (receiver).
    pub store_path: PathBuf,
    pub stage_inode: Option<u64>,
    /// When it was made, in nanoseconds since the epoch, where the file system tells: inode numbers are used again.
    pub stage_born: Option<i64>,
    /// Milliseconds since the epoch, like all times here.
    pub seed_until: Option<i64>,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub revision: i64,
    pub exported: i64,
    /// Higher ones come first.
    pub priority: i64,
    /// It was at work when it was accepted again: its turn is that of this time.
    pub turn: Option<i64>,
}

/// A file of a new task.
#[derive(Clone, Debug)]
pub struct NewFile {
    pub path: RelPath,
    pub size: u64,
    pub sha1: Sha1,
    /// A library file with the same digest and size.
    pub local_source: Option<PathBuf>,
}

/// Who fetches a span: a method, or (`None`) a copy from the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSpan {
    pub span: Span,
    pub method: Option<Method>,
    pub planned: Method,
}

/// Everything that one accepted request writes, in one transaction.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub role: Role,
    pub name: TaskName,
    pub package: PackageName,
    pub basesubdir: BaseSubdir,
    pub policy: Policy,
    pub ratio: String,
    pub bytes_total: u64,
    pub bytes_local: u64,
    /// The task file as JSON text.
    pub document: String,
    pub torrent: Option<Vec<u8>>,
    pub store_path: PathBuf,
    pub files: Vec<NewFile>,
    pub spans: Vec<NewSpan>,
    /// Method and bytes.
    pub legs: Vec<(Method, u64)>,
    /// Method and windows as text.
    pub schedules: Vec<(Method, String)>,
    pub seed_until: Option<i64>,
}

const COLUMNS: &str = "id, role, name, package, basesubdir, state, reason, policy, ratio, bytes_total, bytes_local, store_path, \
                       stage_inode, stage_born, seed_until, created_at, started_at, finished_at, revision, exported";

/// What [`read`] needs, of a table of tasks that the query calls so.
pub(super) fn columns(table: &str) -> String {
    let plain: Vec<_> = COLUMNS.split(", ").map(|c| format!("{table}.{c} AS {c}")).collect();
    let priority = format!("coalesce((SELECT p.priority FROM priorities p WHERE p.task_id = {table}.id), 0) AS priority");
    let turn = format!("(SELECT k.since FROM turns k WHERE k.task_id = {table}.id) AS turn");
    format!("{}, {priority}, {turn}", plain.join(", "))
}

pub(super) fn read(row: &SqliteRow) -> Result<TaskRow, Fault> {
    let text = |c: &str| row.try_get::<String, _>(c).map_err(db_fault);
    let int = |c: &str| row.try_get::<i64, _>(c).map_err(db_fault);
    let maybe = |c: &str| row.try_get::<Option<i64>, _>(c).map_err(db_fault);
    let name = |e: crate::model::ids::NameError| bad_row(e.what, &e.value);
    let (role, state, policy) = (text("role")?, text("state")?, text("policy")?);
    Ok(TaskRow {
        id: int("id")?,
        role: Role::parse(&role).ok_or_else(|| bad_row("role", &role))?,
        name: TaskName::parse(&text("name")?).map_err(name)?,
        package: PackageName::parse(&text("package")?).map_err(name)?,
        basesubdir: BaseSubdir::parse(&text("basesubdir")?).map_err(name)?,
        state: TaskState::parse(&state).ok_or_else(|| bad_row("state", &state))?,
        reason: text("reason")?,
        policy: Policy::parse(&policy).ok_or_else(|| bad_row("policy", &policy))?,
        ratio: text("ratio")?,
        bytes_total: u(int("bytes_total")?),
        bytes_local: u(int("bytes_local")?),
        store_path: PathBuf::from(text("store_path")?),
        stage_inode: maybe("stage_inode")?.map(u),
        stage_born: maybe("stage_born")?,
        seed_until: maybe("seed_until")?,
        created_at: int("created_at")?,
        started_at: maybe("started_at")?,
        finished_at: maybe("finished_at")?,
        revision: int("revision")?,
        exported: int("exported")?,
        priority: int("priority")?,
        turn: maybe("turn")?,
    })
}

impl Store {
    /// Writes an accepted task; one of the same role and name is replaced. Returns after the commit.
    pub async fn accept_task(&self, t: &NewTask, now_ms: i64) -> Result<i64, Fault> {
        self.accept(t, None, now_ms).await
    }

    /// `job`: of `sends`, which made the task file.
    pub(super) async fn accept(&self, t: &NewTask, job: Option<i64>, now_ms: i64) -> Result<i64, Fault> {
        let mut tx = self.begin().await?;
        // An upload goes on where it was: its parts lie in the store, and nobody else knows of them.
        let uploads: Vec<(String, String)> = sqlx::query_as(
            "SELECT c.key, c.value FROM tasks t JOIN checkpoints c ON c.task_id = t.id WHERE t.role = ? AND t.role = 'sender' \
             AND t.name = ? AND c.method = 'obs' AND c.key GLOB 'upload:*'",
        )
        .bind(t.role.as_str())
        .bind(t.name.as_str())
        .fetch_all(&mut *tx)
        .await
        .map_err(db_fault)?;
        let seeds_since = turns::seed_of(&mut tx, t).await?;
        sqlx::query("DELETE FROM tasks WHERE role = ? AND name = ?")
            .bind(t.role.as_str())
            .bind(t.name.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO tasks (role, name, package, basesubdir, state, policy, ratio, bytes_total, bytes_local, document, torrent, \
             store_path, seed_until, created_at) VALUES (?, ?, ?, ?, 'queues', ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(t.role.as_str())
        .bind(t.name.as_str())
        .bind(t.package.as_str())
        .bind(t.basesubdir.as_str())
        .bind(t.policy.as_str())
        .bind(&t.ratio)
        .bind(i(t.bytes_total))
        .bind(i(t.bytes_local))
        .bind(&t.document)
        .bind(&t.torrent)
        .bind(t.store_path.to_string_lossy().into_owned())
        .bind(t.seed_until)
        .bind(now_ms)
        .fetch_one(&mut *tx)
        .await
        .map_err(db_fault)?;
        let files: Vec<_> = t
            .files
            .iter()
            .enumerate()
            .map(|(n, f)| json!([n, f.path, f.size, f.sha1, f.local_source.as_ref().map(|p| p.to_string_lossy())]))
            .collect();
        sqlx::query(
            "INSERT INTO task_files (task_id, idx, path, size, sha1, local_source) \
             SELECT ?1, value->>0, value->>1, value->>2, unhex(value->>3), value->>4 FROM json_each(?2)",
        )
        .bind(id)
        .bind(json!(files).to_string())
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        insert_parts(&mut tx, id, t).await?;
        turns::set(&mut tx, id, seeds_since).await?;
        for (key, value) in uploads {
            sqlx::query("INSERT INTO checkpoints (task_id, method, key, value) VALUES (?, 'obs', ?, ?)")
                .bind(id)
                .bind(key)
                .bind(value)
                .execute(&mut *tx)
                .await
                .map_err(db_fault)?;
        }
        if let Some(job) = job {
            super::generations::note_sent(&mut tx, job).await?;
        }
        tx.commit().await.map_err(db_fault)?;
        Ok(id)
    }

    /// Accepts a task again that keeps its files and what is on disk of them: legs, spans and document are new. The noted
    /// inode stays: it tells whether the package was renamed into the store already.
    pub async fn resume_task(&self, id: i64, t: &NewTask, now_ms: i64) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        turns::keep_at_work(&mut tx, id).await?;
        for table in [
            "DELETE FROM spans WHERE task_id = ?",
            "DELETE FROM legs WHERE task_id = ?",
            "DELETE FROM refusals WHERE task_id = ?",
            "DELETE FROM checkpoints WHERE task_id = ? AND key GLOB 'again:*'",
            "DELETE FROM schedules WHERE task_id = ?",
            "DELETE FROM outlooks WHERE task_id = ?",
        ] {
            sqlx::query(table).bind(id).execute(&mut *tx).await.map_err(db_fault)?;
        }
        sqlx::query(
            "UPDATE tasks SET state = 'queues', reason = '', policy = ?, ratio = ?, bytes_total = ?, bytes_local = ?, document = ?, \
             torrent = ?, store_path = ?, seed_until = ?, created_at = ?, started_at = NULL, finished_at = NULL, \
             revision = revision + 1 WHERE id = ?",
        )
        .bind(t.policy.as_str())
        .bind(&t.ratio)
        .bind(i(t.bytes_total))
        .bind(i(t.bytes_local))
        .bind(&t.document)
        .bind(&t.torrent)
        .bind(t.store_path.to_string_lossy().into_owned())
        .bind(t.seed_until)
        .bind(now_ms)
        .bind(id)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        let sources: Vec<_> =
            t.files.iter().enumerate().map(|(n, f)| json!([n, f.local_source.as_ref().map(|p| p.to_string_lossy())])).collect();
        sqlx::query(
            "WITH n AS MATERIALIZED (SELECT CAST(value->>0 AS INTEGER) AS idx, value->>1 AS source FROM json_each(?2)) \
             UPDATE task_files SET local_source = n.source FROM n WHERE task_id = ?1 AND task_files.idx = n.idx",
        )
        .bind(id)
        .bind(json!(sources).to_string())
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        insert_parts(&mut tx, id, t).await?;
        tx.commit().await.map_err(db_fault)
    }

    pub async fn task(&self, id: i64) -> Result<Option<TaskRow>, Fault> {
        let sql = format!("SELECT {} FROM tasks WHERE id = ?", columns("tasks"));
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(&self.readers).await.map_err(db_fault)?;
        row.as_ref().map(read).transpose()
    }

    pub async fn task_by_name(&self, role: Role, name: &TaskName) -> Result<Option<TaskRow>, Fault> {
        self.row_by_name(role, name).await?.as_ref().map(read).transpose()
    }

    pub(super) async fn row_by_name(&self, role: Role, name: &TaskName) -> Result<Option<SqliteRow>, Fault> {
        let sql = format!("SELECT {} FROM tasks WHERE role = ? AND name = ?", columns("tasks"));
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(role.as_str()).bind(name.as_str());
        query.fetch_optional(&self.readers).await.map_err(db_fault)
    }

    /// Tasks that may still need work, oldest first. Broken ones are left out (see [`Store::take_broken`]).
    pub async fn live_tasks(&self) -> Result<Vec<TaskRow>, Fault> {
        self.tasks_where("state IN ('queues', 'uploading', 'uploaded', 'downloading', 'downloaded')").await
    }

    /// Tasks whose exported view is behind.
    pub async fn tasks_to_export(&self) -> Result<Vec<TaskRow>, Fault> {
        self.tasks_where("exported < revision").await
    }

    /// Tasks that were cancelled at the moment at which their package was put into its store, which is not recorded yet.
    pub async fn cancelled_at_the_end(&self) -> Result<Vec<TaskRow>, Fault> {
        self.tasks_where("role = 'receiver' AND state = 'history' AND reason = 'cancelled' AND stage_inode IS NOT NULL").await
    }

    async fn tasks_where(&self, condition: &'static str) -> Result<Vec<TaskRow>, Fault> {
        let sql = format!("SELECT {} FROM tasks WHERE {condition} ORDER BY id", columns("tasks"));
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&self.readers).await.map_err(db_fault)?;
        Ok(self.readable(&rows))
    }

    /// The task file's text. Holds keys.
    pub async fn task_document(&self, id: i64) -> Result<String, Fault> {
        sqlx::query_scalar("SELECT document FROM tasks WHERE id = ?").bind(id).fetch_one(&self.readers).await.map_err(db_fault)
    }

    pub async fn set_task_document(&self, id: i64, document: &str) -> Result<(), Fault> {
        sqlx::query("UPDATE tasks SET document = ?, revision = revision + 1 WHERE id = ?")
            .bind(document)
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    pub async fn task_torrent(&self, id: i64) -> Result<Option<Vec<u8>>, Fault> {
        sqlx::query_scalar("SELECT torrent FROM tasks WHERE id = ?").bind(id).fetch_one(&self.readers).await.map_err(db_fault)
    }

    /// Moves a task on, if it still is where the caller saw it and the model allows the step. `false`: somebody was faster.
    pub async fn move_task(&self, id: i64, from: TaskState, to: TaskState, reason: &str, now_ms: i64) -> Result<bool, Fault> {
        let started = matches!(to, TaskState::Uploading | TaskState::Downloading);
        let finished = matches!(to, TaskState::Uploaded | TaskState::Downloaded | TaskState::Failed | TaskState::History);
        let allowed = |role: Role| if from.can_become(role, to) { role.as_str() } else { "" };
        let done = sqlx::query(
            "UPDATE tasks SET state = ?1, reason = ?2, revision = revision + 1, \
             started_at = CASE WHEN ?3 THEN coalesce(started_at, ?5) ELSE started_at END, \
             finished_at = CASE WHEN ?4 THEN coalesce(finished_at, ?5) ELSE finished_at END \
             WHERE id = ?6 AND state = ?7 AND role IN (?8, ?9)",
        )
        .bind(to.as_str())
        .bind(reason)
        .bind(started)
        .bind(finished)
        .bind(now_ms)
        .bind(id)
        .bind(from.as_str())
        .bind(allowed(Role::Send))
        .bind(allowed(Role::Recv))
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }

    /// Says why a task is still in the queue. `false`: it is not.
    pub async fn set_queue_reason(&self, id: i64, reason: &str) -> Result<bool, Fault> {
        let done = sqlx::query("UPDATE tasks SET reason = ?, revision = revision + 1 WHERE id = ? AND state = 'queues'")
            .bind(reason)
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes which directory is about to be renamed into the store, so that a restart can tell whether it happened.
    /// `false`: the task is not downloading any more, and must not be renamed.
    pub async fn set_stage_inode(&self, id: i64, inode: u64, born: Option<i64>) -> Result<bool, Fault> {
        let done = sqlx::query("UPDATE tasks SET stage_inode = ?, stage_born = ? WHERE id = ? AND state = 'downloading'")
            .bind(i(inode))
            .bind(born)
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(done.rows_affected() == 1)
    }

    /// What was noted by [`Store::set_stage_inode`] is not there any more.
    pub async fn forget_stage_inode(&self, id: i64) -> Result<(), Fault> {
        sqlx::query("UPDATE tasks SET stage_inode = NULL, stage_born = NULL WHERE id = ?")
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    pub async fn set_exported(&self, id: i64, revision: i64) -> Result<(), Fault> {
        sqlx::query("UPDATE tasks SET exported = max(exported, ?) WHERE id = ?")
            .bind(revision)
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    /// Another live task of the role that names the package at this path. (It must not be replaced under it.)
    pub async fn other_task_for_store_path(&self, role: Role, path: &Path, than: &TaskName) -> Result<Option<String>, Fault> {
        sqlx::query_scalar(
            "SELECT name FROM tasks WHERE role = ? AND store_path = ? AND name <> ? \
             AND state IN ('queues', 'uploading', 'downloading') LIMIT 1",
        )
        .bind(role.as_str())
        .bind(path.to_string_lossy().into_owned())
        .bind(than.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(db_fault)
    }
}

/// Spans, legs and schedules of a task.
async fn insert_parts(tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>, id: i64, t: &NewTask) -> Result<(), Fault> {
    let spans: Vec<_> = t
        .spans
        .iter()
        .map(|s| json!([s.span.file, s.span.offset, s.span.len, s.method.map_or("local", Method::as_str), s.planned.as_str()]))
        .collect();
    sqlx::query(
        "INSERT INTO spans (task_id, idx, offset, len, method, planned) \
         SELECT ?1, value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?2)",
    )
    .bind(id)
    .bind(json!(spans).to_string())
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    for (method, bytes) in &t.legs {
        sqlx::query("INSERT INTO legs (task_id, method, state, bytes_total) VALUES (?, ?, 'waiting', ?)")
            .bind(id)
            .bind(method.as_str())
            .bind(i(*bytes))
            .execute(&mut **tx)
            .await
            .map_err(db_fault)?;
    }
    for (method, windows) in &t.schedules {
        sqlx::query("INSERT INTO schedules (task_id, method, windows) VALUES (?, ?, ?)")
            .bind(id)
            .bind(method.as_str())
            .bind(windows)
            .execute(&mut **tx)
            .await
            .map_err(db_fault)?;
    }
    Ok(())
}
