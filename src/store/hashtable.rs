//! What `hashtable.txt` needs beside the library itself: how its export was left, and the files that an edit or a scan asks
//! for.

use super::{Store, bad_row, db_fault, i, u};
use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::store::library::LibraryFile;
use serde_json::json;
use std::path::Path;

/// What tells whether somebody else wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    pub size: u64,
    pub mtime_ns: i64,
    pub inode: u64,
}

/// An export of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableExport {
    /// The file as it was left.
    pub stamp: FileStamp,
    /// It shows the rows up to this id.
    pub newest: i64,
}

/// A file that is to be hashed: a line of an edited table names it, or a scan found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedFile {
    /// Absolute.
    pub path: String,
    /// What the line says; `None` when there was none.
    pub listed: Option<Sha1>,
    /// What the scan saw; a line does not tell.
    pub size: Option<u64>,
}

impl Store {
    /// How the export at `path` was left.
    pub async fn table_export(&self, path: &Path) -> Result<Option<TableExport>, Fault> {
        let row: Option<(i64, i64, i64, i64)> =
            sqlx::query_as("SELECT size, mtime_ns, inode, newest FROM table_exports WHERE path = ?")
                .bind(path.to_string_lossy().into_owned())
                .fetch_optional(&self.readers)
                .await
                .map_err(db_fault)?;
        Ok(row.map(|(size, mtime_ns, inode, newest)| TableExport {
            stamp: FileStamp { size: u(size), mtime_ns, inode: u(inode) },
            newest,
        }))
    }

    /// Notes how the export at `path` was left.
    pub async fn note_table_export(&self, path: &Path, export: &TableExport) -> Result<(), Fault> {
        sqlx::query("INSERT OR REPLACE INTO table_exports (path, size, mtime_ns, inode, newest) VALUES (?, ?, ?, ?, ?)")
            .bind(path.to_string_lossy().into_owned())
            .bind(i(export.stamp.size))
            .bind(export.stamp.mtime_ns)
            .bind(i(export.stamp.inode))
            .bind(export.newest)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    /// Puts files into the queue; for one that is there already, what is newly told counts. Says how many were not there in
    /// this form.
    pub async fn queue_library_files(&self, files: &[QueuedFile]) -> Result<u64, Fault> {
        let list: Vec<_> = files.iter().map(|f| json!([f.path, f.listed, f.size.map(i)])).collect();
        let done = sqlx::query(
            "INSERT INTO library_queue (path, listed, size) \
             SELECT value->>0, unhex(value->>1), value->>2 FROM json_each(?) WHERE true \
             ON CONFLICT (path) DO UPDATE SET listed = coalesce(excluded.listed, listed), size = coalesce(excluded.size, size) \
             WHERE coalesce(excluded.listed, listed) IS NOT listed OR coalesce(excluded.size, size) IS NOT size",
        )
        .bind(json!(list).to_string())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(done.rows_affected())
    }

    /// How many files wait in the queue, and their bytes, as far as these are known.
    pub async fn library_queue(&self) -> Result<(u64, u64), Fault> {
        let (files, bytes): (i64, i64) = sqlx::query_as("SELECT count(*), coalesce(sum(size), 0) FROM library_queue")
            .fetch_one(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok((u(files), u(bytes)))
    }

    /// The first file of the queue.
    pub async fn next_queued_file(&self) -> Result<Option<QueuedFile>, Fault> {
        let row: Option<(String, Option<String>, Option<i64>)> = sqlx::query_as(
            "SELECT path, CASE WHEN listed NOT NULL THEN lower(hex(listed)) END, size FROM library_queue ORDER BY path LIMIT 1",
        )
        .fetch_optional(&self.readers)
        .await
        .map_err(db_fault)?;
        let Some((path, listed, size)) = row else { return Ok(None) };
        let listed = listed.map(|l| Sha1::from_hex(&l).map_err(|e| bad_row(e.what, &e.value))).transpose()?;
        Ok(Some(QueuedFile { path, listed, size: size.map(u) }))
    }

    /// A queued file was hashed: its row is added or refreshed. `false`: it is not wanted any more. Its package is the
    /// known one that it lies in.
    pub async fn put_queued_file(&self, file: &LibraryFile, now_ms: i64) -> Result<bool, Fault> {
        let path = file.path.to_string_lossy().into_owned();
        let above: Vec<_> = file.path.ancestors().map(|p| p.to_string_lossy()).collect();
        let mut tx = self.begin().await?;
        let wanted =
            sqlx::query("DELETE FROM library_queue WHERE path = ?").bind(&path).execute(&mut *tx).await.map_err(db_fault)?;
        if wanted.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO library_files (path, size, mtime_ns, inode, sha1, hashed_at, package) VALUES (?, ?, ?, ?, ?, ?, \
             coalesce((SELECT path FROM packages WHERE path IN (SELECT value FROM json_each(?)) ORDER BY length(path) DESC LIMIT 1), '')) \
             ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, inode = excluded.inode, \
             sha1 = excluded.sha1, hashed_at = excluded.hashed_at",
        )
        .bind(&path)
        .bind(i(file.size))
        .bind(file.mtime_ns)
        .bind(i(file.inode))
        .bind(file.sha1.0.to_vec())
        .bind(now_ms)
        .bind(json!(above).to_string())
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        self.commit_library(tx).await?;
        Ok(true)
    }

    /// A queued file cannot be hashed. A row that it has is dropped, too: a line or a scan contradicts it, and so does the disk.
    pub async fn refuse_queued_file(&self, path: &str) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        for table in ["DELETE FROM library_queue WHERE path = ?", "DELETE FROM library_files WHERE path = ?"] {
            sqlx::query(table).bind(path).execute(&mut *tx).await.map_err(db_fault)?;
        }
        self.commit_library(tx).await
    }

    /// Nothing that was asked for is wanted any more.
    pub async fn clear_library_queue(&self) -> Result<(), Fault> {
        sqlx::query("DELETE FROM library_queue").execute(&self.writer).await.map_err(db_fault)?;
        Ok(())
    }
}
