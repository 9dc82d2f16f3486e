//! The files of a task, their spans, and which methods must not be asked for which file.

use super::tasks::{self, TaskRow};
use super::{Store, bad_row, db_fault, i, u};
use crate::error::Fault;
use crate::model::ids::{RelPath, Sha1};
use crate::model::ranges::RangeSet;
use crate::model::span::{Method, Span};
use serde_json::json;
use sqlx::Row as _;
use std::path::PathBuf;

/// A file of a task with what is safely on disk of it.
#[derive(Clone, Debug)]
pub struct FileRow {
    pub path: RelPath,
    pub size: u64,
    pub sha1: Sha1,
    pub verified: bool,
    /// Synced ranges.
    pub have: RangeSet,
    /// Serialised running digest over the first `digest_at` bytes.
    pub digest: Option<Vec<u8>>,
    pub digest_at: u64,
    pub local_source: Option<PathBuf>,
    /// Inode of the staged file that all this speaks of.
    pub inode: Option<u64>,
    /// Its times when this was recorded; `None`: not known.
    pub times: Option<Times>,
    /// Others wrote into it, and it was not hashed to its end since.
    pub doubted: bool,
}

/// When a staged file was changed last, in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub modified: i64,
    /// `None`: not compared, as it changes with every write of ours.
    pub changed: Option<i64>,
}

/// A span and who fetches it; `None` is a copy from the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRow {
    pub span: Span,
    pub method: Option<Method>,
    pub planned: Method,
}

/// What a sync of one file recorded.
#[derive(Clone, Debug, Default)]
pub struct FileProgress {
    pub idx: u32,
    pub have: RangeSet,
    pub digest: Option<Vec<u8>>,
    pub digest_at: u64,
    pub verified: bool,
    /// See [`FileRow`].
    pub times: Option<Times>,
    pub doubted: bool,
}

impl Store {
    /// In file list order.
    pub async fn task_files(&self, task: i64) -> Result<Vec<FileRow>, Fault> {
        let rows = sqlx::query(
            "SELECT path, size, lower(hex(sha1)) AS sha1, state, have, digest, digest_at, local_source, inode, \
             mtime_ns, ctime_ns, doubted \
             FROM task_files WHERE task_id = ? ORDER BY idx",
        )
        .bind(task)
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        rows.iter()
            .map(|r| {
                let path: String = r.try_get("path").map_err(db_fault)?;
                let sha1: String = r.try_get("sha1").map_err(db_fault)?;
                let have: String = r.try_get("have").map_err(db_fault)?;
                Ok(FileRow {
                    path: RelPath::parse(&path).map_err(|e| bad_row(e.what, &e.value))?,
                    size: u(r.try_get("size").map_err(db_fault)?),
                    sha1: Sha1::from_hex(&sha1).map_err(|e| bad_row(e.what, &e.value))?,
                    verified: r.try_get::<String, _>("state").map_err(db_fault)? == "verified",
                    have: RangeSet::from_text(&have).ok_or_else(|| bad_row("ranges", &have))?,
                    digest: r.try_get("digest").map_err(db_fault)?,
                    digest_at: u(r.try_get("digest_at").map_err(db_fault)?),
                    local_source: r.try_get::<Option<String>, _>("local_source").map_err(db_fault)?.map(PathBuf::from),
                    inode: Some(u(r.try_get("inode").map_err(db_fault)?)).filter(|n| *n > 0),
                    times: Some(Times {
                        modified: r.try_get("mtime_ns").map_err(db_fault)?,
                        changed: Some(r.try_get("ctime_ns").map_err(db_fault)?).filter(|n| *n != 0),
                    })
                    .filter(|t| t.modified != 0),
                    doubted: r.try_get("doubted").map_err(db_fault)?,
                })
            })
            .collect()
    }

    /// In file and offset order.
    pub async fn task_spans(&self, task: i64) -> Result<Vec<SpanRow>, Fault> {
        let rows = sqlx::query("SELECT idx, offset, len, method, planned FROM spans WHERE task_id = ? ORDER BY idx, offset")
            .bind(task)
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)?;
        rows.iter()
            .map(|r| {
                let method: String = r.try_get("method").map_err(db_fault)?;
                let planned: String = r.try_get("planned").map_err(db_fault)?;
                Ok(SpanRow {
                    span: Span {
                        file: u32::try_from(r.try_get::<i64, _>("idx").map_err(db_fault)?)
                            .map_err(|_| bad_row("index", "idx"))?,
                        offset: u(r.try_get("offset").map_err(db_fault)?),
                        len: u(r.try_get("len").map_err(db_fault)?),
                    },
                    method: Method::parse(&method),
                    planned: Method::parse(&planned).ok_or_else(|| bad_row("method", &planned))?,
                })
            })
            .collect()
    }

    /// Bytes that were copied from the library so far.
    pub async fn local_bytes_done(&self, task: i64) -> Result<u64, Fault> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = ?1 AND f.idx IN \
             (SELECT idx FROM spans WHERE task_id = ?1 AND method = 'local')",
        )
        .bind(task)
        .fetch_one(&self.readers)
        .await
        .map_err(db_fault)?;
        Ok(u(bytes))
    }

    /// Records what a sync made safe. Only after `fdatasync` of those files.
    pub async fn record_files(&self, task: i64, files: &[FileProgress]) -> Result<(), Fault> {
        if files.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = files
            .iter()
            .map(|f| {
                let state = if f.verified {
                    "verified"
                } else if f.have.is_empty() {
                    "waiting"
                } else {
                    "partial"
                };
                let (modified, changed) = f.times.map_or((0, 0), |t| (t.modified, t.changed.unwrap_or(0)));
                let digest = f.digest.as_ref().map(hex::encode);
                json!([f.idx, f.have.to_text(), f.have.total(), digest, f.digest_at, state, modified, changed, f.doubted])
            })
            .collect();
        sqlx::query(
            // Materialised: else SQLite reads the whole list again for every file of the task.
            "WITH n AS MATERIALIZED (SELECT CAST(value->>0 AS INTEGER) AS idx, value->>1 AS have, value->>2 AS done, \
             unhex(value->>3) AS digest, value->>4 AS at, value->>5 AS state, value->>6 AS mtime, value->>7 AS ctime, \
             value->>8 AS doubted FROM json_each(?2)) \
             UPDATE task_files SET have = n.have, bytes_done = n.done, digest = n.digest, digest_at = n.at, state = n.state, \
             mtime_ns = n.mtime, ctime_ns = n.ctime, doubted = n.doubted \
             FROM n WHERE task_id = ?1 AND task_files.idx = n.idx",
        )
        .bind(task)
        .bind(json!(list).to_string())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// Records which inodes staged files have, by their numbers. Before anything of such a file is recorded.
    pub async fn record_inodes(&self, task: i64, inodes: &[(u32, u64)]) -> Result<(), Fault> {
        if inodes.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = inodes.iter().map(|(n, inode)| json!([n, i(*inode)])).collect();
        sqlx::query(
            "WITH n AS MATERIALIZED (SELECT CAST(value->>0 AS INTEGER) AS idx, CAST(value->>1 AS INTEGER) AS inode \
             FROM json_each(?2)) UPDATE task_files SET inode = n.inode FROM n WHERE task_id = ?1 AND task_files.idx = n.idx",
        )
        .bind(task)
        .bind(json!(list).to_string())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// Refused (file, method) pairs with the error that was met.
    pub async fn refusals(&self, task: i64) -> Result<Vec<(u32, Option<Method>, String)>, Fault> {
        let rows: Vec<(i64, String, String)> =
            sqlx::query_as("SELECT idx, method, error FROM refusals WHERE task_id = ? ORDER BY at")
                .bind(task)
                .fetch_all(&self.readers)
                .await
                .map_err(db_fault)?;
        Ok(rows.into_iter().map(|(n, m, e)| (n as u32, Method::parse(&m), e)).collect())
    }

    /// Gives the spans that one method (`None` = library copies) has of these files to others, notes why the old one is
    /// refused, and sets legs and totals accordingly: one transaction, so that no span is ever nobody's.
    pub async fn reassign_files(
        &self,
        task: i64,
        moves: &[(u32, Method)],
        from: Option<Method>,
        error: &str,
        now_ms: i64,
    ) -> Result<(), Fault> {
        let list: Vec<_> = moves.iter().map(|(n, to)| json!([n, to.as_str()])).collect();
        let list = json!(list).to_string();
        let from_text = from.map_or("local", Method::as_str);
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT OR REPLACE INTO refusals (task_id, idx, method, error, at) \
             SELECT ?1, value->>0, ?3, ?4, ?5 FROM json_each(?2)",
        )
        .bind(task)
        .bind(&list)
        .bind(from_text)
        .bind(error)
        .bind(now_ms)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        if let Some(method) = from {
            super::mixed::note(&mut tx, task, method, &list).await?;
        }
        // What was to be copied goes back to the methods the sender meant.
        sqlx::query(
            "WITH n AS MATERIALIZED (SELECT value->>0 AS i, value->>1 AS m FROM json_each(?2)) \
             UPDATE spans SET method = CASE WHEN ?3 = 'local' THEN planned ELSE n.m END FROM n \
             WHERE task_id = ?1 AND idx = n.i AND method = ?3",
        )
        .bind(task)
        .bind(&list)
        .bind(from_text)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        if from.is_none() {
            forget_local(&mut tx, task, &list).await?;
        }
        sqlx::query(
            "WITH n AS MATERIALIZED (SELECT value->>0 AS i FROM json_each(?2)) \
             INSERT INTO legs (task_id, method, state) \
             SELECT DISTINCT s.task_id, s.method, 'waiting' FROM n JOIN spans s ON s.task_id = ?1 AND s.idx = n.i \
             WHERE s.method <> 'local' \
             ON CONFLICT (task_id, method) DO UPDATE SET state = 'waiting', retry_at = NULL WHERE state IN ('done', 'failed', 'off')",
        )
        .bind(task)
        .bind(&list)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        retotal_legs(&mut tx, task).await?;
        tx.commit().await.map_err(db_fault)
    }

    /// Gives the ends of spans from one method to another: each from the offset beside it on. The giver is not refused for
    /// them. One transaction, so that no byte is ever nobody's. `false`: the task is not at work any more.
    pub async fn give_spans(&self, task: i64, from: Method, to: Method, ends: &[(Span, u64)]) -> Result<bool, Fault> {
        let list: Vec<_> = ends.iter().map(|(s, at)| json!([s.file, s.offset, (*at).max(s.offset) - s.offset])).collect();
        let list = json!(list).to_string();
        let mut tx = self.begin().await?;
        let at_work: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks WHERE id = ? AND state = 'downloading'")
            .bind(task)
            .fetch_one(&mut *tx)
            .await
            .map_err(db_fault)?;
        if at_work == 0 {
            return Ok(false);
        }
        super::mixed::note(&mut tx, task, from, &list).await?;
        let given = "WITH n AS MATERIALIZED (SELECT CAST(value->>0 AS INTEGER) AS i, CAST(value->>1 AS INTEGER) AS at, \
                     CAST(value->>2 AS INTEGER) AS stays FROM json_each(?2))";
        for sql in [
            "INSERT INTO spans (task_id, idx, offset, len, method, planned) SELECT s.task_id, s.idx, n.at + n.stays, s.len - n.stays, ?4, \
             s.planned FROM n JOIN spans s ON s.task_id = ?1 AND s.idx = n.i AND s.offset = n.at AND s.method = ?3 \
             WHERE n.stays > 0 AND n.stays < s.len",
            "UPDATE spans SET len = CASE WHEN n.stays > 0 THEN min(len, n.stays) ELSE len END, \
             method = CASE WHEN n.stays > 0 THEN method ELSE ?4 END FROM n \
             WHERE task_id = ?1 AND idx = n.i AND offset = n.at AND method = ?3",
        ] {
            sqlx::query(sqlx::AssertSqlSafe(format!("{given} {sql}")))
                .bind(task)
                .bind(&list)
                .bind(from.as_str())
                .bind(to.as_str())
                .execute(&mut *tx)
                .await
                .map_err(db_fault)?;
        }
        sqlx::query(
            "INSERT INTO legs (task_id, method, state) VALUES (?1, ?2, 'waiting') \
             ON CONFLICT (task_id, method) DO UPDATE SET state = 'waiting', retry_at = NULL WHERE state IN ('done', 'failed', 'off')",
        )
        .bind(task)
        .bind(to.as_str())
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        // Nothing is left to try.
        sqlx::query(
            "UPDATE legs SET state = 'done', error = '', tries = 0, retry_at = NULL WHERE task_id = ?1 AND method = ?2 AND state = 'waiting' \
             AND NOT EXISTS (SELECT 1 FROM spans WHERE task_id = ?1 AND method = ?2)",
        )
        .bind(task)
        .bind(from.as_str())
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        retotal_legs(&mut tx, task).await?;
        tx.commit().await.map_err(db_fault)?;
        Ok(true)
    }

    /// Copies of these files were found on this node: they are copied, and no method brings them. One transaction, so that no
    /// byte is ever nobody's. `false`: the task is not at work any more.
    pub async fn copy_instead(&self, task: i64, files: &[(u32, PathBuf)]) -> Result<bool, Fault> {
        let list: Vec<_> = files.iter().map(|(n, source)| json!([n, source.to_string_lossy()])).collect();
        let list = json!(list).to_string();
        let mut tx = self.begin().await?;
        let at_work: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks WHERE id = ? AND state = 'downloading'")
            .bind(task)
            .fetch_one(&mut *tx)
            .await
            .map_err(db_fault)?;
        if at_work == 0 {
            return Ok(false);
        }
        for sql in [
            "WITH n AS MATERIALIZED (SELECT CAST(value->>0 AS INTEGER) AS i, value->>1 AS source FROM json_each(?2)) \
             UPDATE task_files SET local_source = n.source FROM n WHERE task_id = ?1 AND idx = n.i",
            "WITH n AS MATERIALIZED (SELECT CAST(value->>0 AS INTEGER) AS i FROM json_each(?2)) \
             UPDATE spans SET method = 'local' FROM n WHERE task_id = ?1 AND idx = n.i",
            // What it failed on may be what is copied now: the rest deserves another try.
            "UPDATE legs SET state = CASE WHEN EXISTS (SELECT 1 FROM spans s WHERE s.task_id = ?1 AND s.method = legs.method) \
             THEN 'waiting' ELSE 'done' END, error = '', tries = 0, retry_at = NULL \
             WHERE task_id = ?1 AND state = 'failed' AND ?2 <> ''",
        ] {
            sqlx::query(sql).bind(task).bind(&list).execute(&mut *tx).await.map_err(db_fault)?;
        }
        retotal_local(&mut tx, task).await?;
        retotal_legs(&mut tx, task).await?;
        tx.commit().await.map_err(db_fault)?;
        Ok(true)
    }

    /// Receptions that have a verified file of this content, staged or in the store: the task and the file's path.
    pub async fn received_copies(&self, sha1: Sha1, size: u64) -> Result<Vec<(TaskRow, RelPath)>, Fault> {
        let columns = tasks::columns("t");
        let sql = format!(
            "SELECT {columns}, f.path AS file FROM task_files f JOIN tasks t ON t.id = f.task_id WHERE f.sha1 = ? AND f.size = ? \
             AND f.state = 'verified' AND t.role = 'receiver' AND t.state IN ('downloading', 'downloaderror', 'downloaded') ORDER BY t.id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(sha1.0.to_vec())
            .bind(i(size))
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)?;
        let one = |r: &sqlx::sqlite::SqliteRow| {
            let path = RelPath::parse(r.try_get("file").ok()?).ok()?;
            Some((self.readable_one(r)?, path))
        };
        Ok(rows.iter().filter_map(one).collect())
    }

    /// Notes that a method must not be asked for a file again.
    pub async fn refuse_file(&self, task: i64, idx: u32, method: Option<Method>, error: &str, now_ms: i64) -> Result<(), Fault> {
        sqlx::query("INSERT OR REPLACE INTO refusals (task_id, idx, method, error, at) VALUES (?, ?, ?, ?, ?)")
            .bind(task)
            .bind(idx)
            .bind(method.map_or("local", Method::as_str))
            .bind(error)
            .bind(now_ms)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }
}

/// What legs have to bring follows their spans.
pub(super) async fn retotal_legs(tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>, task: i64) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE legs SET bytes_total = n.bytes, bytes_done = min(bytes_done, n.bytes) FROM \
         (SELECT l.method AS m, coalesce(sum(s.len), 0) AS bytes FROM legs l LEFT JOIN spans s \
          ON s.task_id = l.task_id AND s.method = l.method WHERE l.task_id = ?1 GROUP BY l.method) AS n \
         WHERE task_id = ?1 AND method = n.m",
    )
    .bind(task)
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    Ok(())
}

async fn retotal_local(tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>, task: i64) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE tasks SET bytes_local = (SELECT coalesce(sum(len), 0) FROM spans WHERE task_id = ?1 AND method = 'local') WHERE id = ?1",
    )
    .bind(task)
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    Ok(())
}

/// These files are not copied from the library any more.
async fn forget_local(tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>, task: i64, list: &str) -> Result<(), Fault> {
    retotal_local(tx, task).await?;
    sqlx::query(
        "WITH n AS MATERIALIZED (SELECT value->>0 AS i FROM json_each(?2)) \
         UPDATE task_files SET local_source = NULL FROM n WHERE task_id = ?1 AND idx = n.i",
    )
    .bind(task)
    .bind(list)
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    Ok(())
}
