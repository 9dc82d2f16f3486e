//! What watches the library and what its hashing does, for those who look.

use super::library_queue::QueueLength;
use super::{Store, db_fault, i, u};
use crate::error::Fault;

/// What watches a part of the library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRow {
    /// Where a file system is mounted, or the library's root.
    pub root: String,
    pub filesystem: String,
    /// `fanotify`, `inotify`, `polling` or `off`.
    pub method: String,
    /// Why no better one.
    pub why: String,
    pub changes: u64,
    /// Changes were lost; each time a scan repaired it.
    pub overflows: u64,
}

/// What the hashing does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashingRow {
    /// `idle`, `hashing` or `giving way`.
    pub state: String,
    /// One of the files that are read.
    pub file: String,
    pub left: QueueLength,
    /// Bytes per second.
    pub rate: u64,
}

impl Store {
    /// Replaces what is known of watches.
    pub async fn put_watches(&self, watches: &[WatchRow], now_ms: i64) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM library_watches").execute(&mut *tx).await.map_err(db_fault)?;
        for w in watches {
            sqlx::query("INSERT INTO library_watches (root, filesystem, method, why, since) VALUES (?, ?, ?, ?, ?)")
                .bind(&w.root)
                .bind(&w.filesystem)
                .bind(&w.method)
                .bind(&w.why)
                .bind(now_ms)
                .execute(&mut *tx)
                .await
                .map_err(db_fault)?;
        }
        tx.commit().await.map_err(db_fault)
    }

    /// Counts of a watch.
    pub async fn note_watch(&self, root: &str, changes: u64, overflows: u64) -> Result<(), Fault> {
        sqlx::query("UPDATE library_watches SET changes = ?, overflows = ? WHERE root = ?")
            .bind(i(changes))
            .bind(i(overflows))
            .bind(root)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    /// A scan of the whole library, or of what a watch is responsible for, has ended.
    pub async fn note_library_scan(&self, root: &str, now_ms: i64) -> Result<(), Fault> {
        sqlx::query("UPDATE library_watches SET scanned_at = ?1 WHERE root = ?2 OR root > ?2 || '/' AND root < ?2 || '0'")
            .bind(now_ms)
            .bind(root)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    pub async fn watches(&self) -> Result<Vec<WatchRow>, Fault> {
        let rows: Vec<(String, String, String, String, i64, i64)> =
            sqlx::query_as("SELECT root, filesystem, method, why, changes, overflows FROM library_watches ORDER BY root")
                .fetch_all(&self.readers)
                .await
                .map_err(db_fault)?;
        Ok(rows
            .into_iter()
            .map(|(root, filesystem, method, why, changes, overflows)| WatchRow {
                root,
                filesystem,
                method,
                why,
                changes: u(changes),
                overflows: u(overflows),
            })
            .collect())
    }

    /// Shows what the hashing does.
    pub async fn put_hashing(&self, h: &HashingRow, now_ms: i64) -> Result<(), Fault> {
        sqlx::query(
            "INSERT OR REPLACE INTO library_work (id, state, file, files_left, bytes_left, rate, at) VALUES (1, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&h.state)
        .bind(&h.file)
        .bind(i(h.left.files))
        .bind(i(h.left.bytes))
        .bind(i(h.rate))
        .bind(now_ms)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// What the hashing did last.
    pub async fn hashing(&self) -> Result<Option<HashingRow>, Fault> {
        let row: Option<(String, String, i64, i64, i64)> =
            sqlx::query_as("SELECT state, file, files_left, bytes_left, rate FROM library_work")
                .fetch_optional(&self.readers)
                .await
                .map_err(db_fault)?;
        Ok(row.map(|(state, file, files, bytes, rate)| HashingRow {
            state,
            file,
            left: QueueLength { files: u(files), bytes: u(bytes) },
            rate: u(rate),
        }))
    }

    /// Do bytes of a delivery or of a gentask move now?
    pub async fn is_delivering(&self) -> Result<bool, Fault> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM legs WHERE state = 'running' AND rate > 0) \
             OR EXISTS (SELECT 1 FROM generations WHERE state = 'running')",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(db_fault)
    }
}
