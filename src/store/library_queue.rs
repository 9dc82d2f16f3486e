//! Files of the library that wait to be hashed: a scan, a change or an edit of `hashtable.txt` asks for them.

use super::events::{Level, insert_event};
use super::hashtable::FileStamp;
use super::library::LibraryFile;
use super::{Store, bad_row, db_fault, i, u};
use crate::error::Fault;
use crate::model::ids::Sha1;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

/// A due time that lies further ahead than this comes from a clock that was set back since.
const FAR_AHEAD_MS: i64 = 3_700_000;

/// A file that is to be hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedFile {
    /// Absolute.
    pub path: String,
    /// What a line of the table says; `None` when there was none.
    pub listed: Option<Sha1>,
    /// As it was seen; a line does not tell.
    pub stamp: Option<FileStamp>,
    /// Even if its row still fits.
    pub anew: bool,
    /// Not before (milliseconds since the epoch).
    pub due_at: i64,
}

/// Why a file waits longer than it has to be quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Somebody has it open for writing.
    Written,
    /// Nobody can tell whether it is being written: it has to be quiet for longer.
    Quiet,
}

/// A file whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueFile {
    pub queued: QueuedFile,
    pub wait: Option<Wait>,
    /// State of the interrupted SHA-1 of the file as it was seen.
    pub digest: Option<Vec<u8>>,
    /// The row that it has: how it looked when it was hashed, and the digest.
    pub row: Option<(FileStamp, Sha1)>,
}

/// A file that was hashed, with what betrays a change that its size and time do not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedFile {
    pub file: LibraryFile,
    pub ctime_ns: i64,
    /// When the file was made; 0: the file system does not tell.
    pub born_ns: i64,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLength {
    pub files: u64,
    /// Not hashed yet, as far as the sizes are known.
    pub bytes: u64,
}

/// What a hashed file had before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the library now.
    Done,
    /// It looks as it did, and its bytes are others.
    Damaged,
    /// It changed again meanwhile: it is still in the queue, and this digest is not kept.
    Outdated,
}

impl Store {
    /// Puts files into the queue; for one that is there already, what is newly told counts. One that looks as before keeps
    /// its time: it may be being hashed. Says how many were not there before.
    pub async fn queue_library_files(&self, files: &[QueuedFile]) -> Result<u64, Fault> {
        let list: Vec<_> = files
            .iter()
            .map(|f| {
                let s = f.stamp;
                let (size, inode) = (s.map(|s| i(s.size)), s.map(|s| i(s.inode)));
                json!([f.path, f.listed, size, s.map(|s| s.mtime_ns), inode, f.anew as u8, f.due_at, s.map(|s| s.ctime_ns)])
            })
            .collect();
        let list = json!(list).to_string();
        let mut tx = self.begin().await?;
        let known: i64 = sqlx::query_scalar("SELECT count(*) FROM json_each(?) n JOIN library_queue q ON q.path = n.value->>0")
            .bind(&list)
            .fetch_one(&mut *tx)
            .await
            .map_err(db_fault)?;
        // Seen as before: it may be being hashed, so it keeps its time and what is done of it.
        const SAME: &str = "(excluded.size IS NULL OR (excluded.size IS size AND excluded.mtime_ns IS mtime_ns \
                            AND excluded.inode IS inode AND excluded.ctime_ns IS ctime_ns))";
        let sql = format!(
            "INSERT INTO library_queue (path, listed, size, mtime_ns, inode, anew, due_at, ctime_ns) \
             SELECT value->>0, unhex(value->>1), value->>2, value->>3, value->>4, value->>5, value->>6, value->>7 \
             FROM json_each(?) WHERE true \
             ON CONFLICT (path) DO UPDATE SET listed = coalesce(excluded.listed, listed), anew = max(anew, excluded.anew), \
             due_at = CASE WHEN waits = '' AND {SAME} THEN due_at ELSE excluded.due_at END, waits = '', \
             digest = CASE WHEN {SAME} THEN digest END, digest_at = CASE WHEN {SAME} THEN digest_at ELSE 0 END, \
             size = coalesce(excluded.size, size), mtime_ns = coalesce(excluded.mtime_ns, mtime_ns), \
             inode = coalesce(excluded.inode, inode), ctime_ns = coalesce(excluded.ctime_ns, ctime_ns)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&list).execute(&mut *tx).await.map_err(db_fault)?;
        tx.commit().await.map_err(db_fault)?;
        Ok((files.len() as u64).saturating_sub(u(known)))
    }

    /// How much waits.
    pub async fn library_queue(&self) -> Result<QueueLength, Fault> {
        let (files, bytes): (i64, i64) =
            sqlx::query_as("SELECT count(*), coalesce(sum(max(size - digest_at, 0)), 0) FROM library_queue")
                .fetch_one(&self.readers)
                .await
                .map_err(db_fault)?;
        Ok(QueueLength { files: u(files), bytes: u(bytes) })
    }

    /// The first `most` files whose time has come.
    pub async fn due_library_files(&self, now_ms: i64, most: u32) -> Result<Vec<DueFile>, Fault> {
        let rows = sqlx::query(
            "SELECT q.path, q.listed, q.size, q.mtime_ns, q.inode, q.ctime_ns, q.anew, q.due_at, q.waits, q.digest, f.size AS row_size, \
             f.mtime_ns AS row_mtime_ns, f.inode AS row_inode, f.ctime_ns AS row_ctime_ns, f.sha1 AS row_sha1 \
             FROM library_queue q LEFT JOIN library_files f ON f.path = q.path \
             WHERE q.due_at <= ?1 OR q.due_at > ?1 + ?2 ORDER BY q.due_at, q.path LIMIT ?3",
        )
        .bind(now_ms)
        .bind(FAR_AHEAD_MS)
        .bind(most)
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        rows.iter().map(read_due).collect()
    }

    /// When the next file is due; `None`: the queue is empty.
    pub async fn next_library_file_due(&self) -> Result<Option<i64>, Fault> {
        sqlx::query_scalar("SELECT min(due_at) FROM library_queue").fetch_one(&self.readers).await.map_err(db_fault)
    }

    /// Files that were hashed, with when they were due: rows are added or refreshed, in one transaction. A file belongs to
    /// the known package that it lies in. `tell` gets the path, the old and the new digest of a damaged file, and says what
    /// its event is to tell: who sees the queue empty sees the damage, too.
    pub async fn put_hashed_files(
        &self,
        files: &[(HashedFile, i64)],
        now_ms: i64,
        mut tell: impl FnMut(&str, Sha1, Sha1) -> Option<String> + Send,
    ) -> Result<Vec<Put>, Fault> {
        let mut tx = self.begin().await?;
        let mut out = Vec::with_capacity(files.len());
        let mut told = false;
        for (HashedFile { file, ctime_ns, born_ns }, due_at) in files {
            let path = file.path.to_string_lossy().into_owned();
            let wanted = sqlx::query("DELETE FROM library_queue WHERE path = ? AND due_at = ?")
                .bind(&path)
                .bind(due_at)
                .execute(&mut *tx)
                .await
                .map_err(db_fault)?;
            if wanted.rows_affected() == 0 {
                out.push(Put::Outdated);
                continue;
            }
            let old: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT sha1 FROM library_files WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ? AND ctime_ns IN (0, ?)")
                    .bind(&path)
                    .bind(i(file.size))
                    .bind(file.mtime_ns)
                    .bind(i(file.inode))
                    .bind(ctime_ns)
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(db_fault)?;
            put_row(&mut tx, &path, file, (*ctime_ns, *born_ns), now_ms).await?;
            let old = old.map(|o| super::library::digest(&o)).transpose()?.filter(|o| *o != file.sha1);
            if let Some(text) = old.and_then(|old| tell(&path, old, file.sha1)) {
                insert_event(&mut *tx, Level::Error, ("damaged", "", "library"), &text, now_ms).await?;
                told = true;
            }
            out.push(if old.is_some() { Put::Damaged } else { Put::Done });
        }
        self.commit_library(tx).await?;
        if told {
            self.events.notify_waiters();
        }
        Ok(out)
    }

    /// Files that need not be hashed, as they were due: their rows still fit.
    pub async fn drop_queued_files(&self, files: &[(String, i64)]) -> Result<(), Fault> {
        self.on_queued("DELETE FROM library_queue WHERE (path, due_at) IN (SELECT value->>0, value->>1 FROM json_each(?))", files)
            .await
    }

    /// Files that were looked at and have to wait until `until_ms`.
    pub async fn postpone_queued_files(
        &self,
        files: &[(String, i64, FileStamp)],
        wait: Wait,
        until_ms: i64,
    ) -> Result<(), Fault> {
        if files.is_empty() {
            return Ok(());
        }
        let list: Vec<Value> =
            files.iter().map(|(path, due, s)| json!([path, due, i(s.size), s.mtime_ns, i(s.inode), s.ctime_ns])).collect();
        let waits = match wait {
            Wait::Written => "written",
            Wait::Quiet => "quiet",
        };
        sqlx::query(
            "WITH n AS MATERIALIZED (SELECT value->>0 AS path, value->>1 AS due_at, value->>2 AS size, value->>3 AS mtime_ns, \
             value->>4 AS inode, value->>5 AS ctime_ns FROM json_each(?1)) \
             UPDATE library_queue SET due_at = ?2, waits = ?3, size = n.size, mtime_ns = n.mtime_ns, inode = n.inode, \
             ctime_ns = n.ctime_ns, \
             digest = CASE WHEN n.size IS library_queue.size AND n.mtime_ns IS library_queue.mtime_ns \
                           AND n.inode IS library_queue.inode AND n.ctime_ns IS library_queue.ctime_ns THEN digest END, \
             digest_at = CASE WHEN n.size IS library_queue.size AND n.mtime_ns IS library_queue.mtime_ns \
                           AND n.inode IS library_queue.inode AND n.ctime_ns IS library_queue.ctime_ns THEN digest_at ELSE 0 END \
             FROM n WHERE library_queue.path = n.path AND library_queue.due_at = n.due_at",
        )
        .bind(json!(list).to_string())
        .bind(until_ms)
        .bind(waits)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// Keeps the state of a digest that is not finished, over the first `done` bytes of the file as it was seen.
    pub async fn keep_queued_digest(
        &self,
        path: &str,
        due_at: i64,
        stamp: &FileStamp,
        state: &[u8],
        done: u64,
    ) -> Result<(), Fault> {
        sqlx::query(
            "UPDATE library_queue SET ctime_ns = ?, size = ?, mtime_ns = ?, inode = ?, digest = ?, digest_at = ? \
             WHERE path = ? AND due_at = ?",
        )
        .bind(stamp.ctime_ns)
        .bind(i(stamp.size))
        .bind(stamp.mtime_ns)
        .bind(i(stamp.inode))
        .bind(state)
        .bind(i(done))
        .bind(path)
        .bind(due_at)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// Files that cannot be hashed. Rows that they have are dropped, too: a line or a scan contradicts them, and so does
    /// the disk.
    pub async fn refuse_queued_files(&self, files: &[(String, i64)]) -> Result<(), Fault> {
        if files.is_empty() {
            return Ok(());
        }
        let list = queued_json(files);
        let mut tx = self.begin().await?;
        for sql in [
            "DELETE FROM library_files WHERE path IN (SELECT q.path FROM library_queue q JOIN json_each(?) n \
             ON q.path = n.value->>0 AND q.due_at = n.value->>1)",
            "DELETE FROM library_queue WHERE (path, due_at) IN (SELECT value->>0, value->>1 FROM json_each(?))",
        ] {
            sqlx::query(sql).bind(&list).execute(&mut *tx).await.map_err(db_fault)?;
        }
        self.commit_library(tx).await
    }

    /// Nothing that was asked for is wanted any more.
    pub async fn clear_library_queue(&self) -> Result<(), Fault> {
        sqlx::query("DELETE FROM library_queue").execute(&self.writer).await.map_err(db_fault)?;
        Ok(())
    }

    async fn on_queued(&self, sql: &'static str, files: &[(String, i64)]) -> Result<(), Fault> {
        if !files.is_empty() {
            sqlx::query(sql).bind(queued_json(files)).execute(&self.writer).await.map_err(db_fault)?;
        }
        Ok(())
    }
}

fn queued_json(files: &[(String, i64)]) -> String {
    json!(files.iter().map(|(path, due)| json!([path, due])).collect::<Vec<_>>()).to_string()
}

fn read_due(row: &SqliteRow) -> Result<DueFile, Fault> {
    let path: String = row.try_get("path").map_err(db_fault)?;
    let stamp = |size: &str, mtime: &str, inode: &str, ctime: &str| -> Result<Option<FileStamp>, Fault> {
        let part = |c: &str| row.try_get::<Option<i64>, _>(c).map_err(db_fault);
        Ok(match (part(size)?, part(mtime)?, part(inode)?) {
            (Some(size), Some(mtime_ns), Some(inode)) => {
                Some(FileStamp { size: u(size), mtime_ns, inode: u(inode), ctime_ns: part(ctime)?.unwrap_or(0) })
            }
            _ => None,
        })
    };
    let sha1 = |c: &str| row.try_get::<Option<Vec<u8>>, _>(c).map_err(db_fault)?.map(|b| super::library::digest(&b)).transpose();
    let waits: String = row.try_get("waits").map_err(db_fault)?;
    let wait = match waits.as_str() {
        "" => None,
        "written" => Some(Wait::Written),
        "quiet" => Some(Wait::Quiet),
        _ => return Err(bad_row("wait", &waits)),
    };
    let fits = stamp("row_size", "row_mtime_ns", "row_inode", "row_ctime_ns")?.zip(sha1("row_sha1")?);
    Ok(DueFile {
        queued: QueuedFile {
            listed: sha1("listed")?,
            stamp: stamp("size", "mtime_ns", "inode", "ctime_ns")?,
            anew: row.try_get::<i64, _>("anew").map_err(db_fault)? != 0,
            due_at: row.try_get("due_at").map_err(db_fault)?,
            path,
        },
        wait,
        digest: row.try_get("digest").map_err(db_fault)?,
        row: fits,
    })
}

async fn put_row(
    tx: &mut Transaction<'static, Sqlite>,
    path: &str,
    file: &LibraryFile,
    (ctime_ns, born_ns): (i64, i64),
    now_ms: i64,
) -> Result<(), Fault> {
    let above: Vec<_> = file.path.ancestors().map(|p| p.to_string_lossy()).collect();
    sqlx::query(
        "INSERT INTO library_files (path, size, mtime_ns, inode, sha1, hashed_at, ctime_ns, born_ns, package) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, coalesce((SELECT path FROM packages WHERE path IN (SELECT value FROM json_each(?)) ORDER BY length(path) DESC LIMIT 1), '')) \
         ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, inode = excluded.inode, \
         sha1 = excluded.sha1, hashed_at = excluded.hashed_at, ctime_ns = excluded.ctime_ns, born_ns = excluded.born_ns",
    )
    .bind(path)
    .bind(i(file.size))
    .bind(file.mtime_ns)
    .bind(i(file.inode))
    .bind(file.sha1.0.to_vec())
    .bind(now_ms)
    .bind(ctime_ns)
    .bind(born_ns)
    .bind(json!(above).to_string())
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    Ok(())
}
