//! Rows of the library beside files on the disk: what a scan compares, what was renamed, what is gone.

use super::hashtable::FileStamp;
use super::{Store, db_fault, i, u};
use crate::error::Fault;
use serde_json::json;
use std::path::Path;

/// A row as a scan compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StampedRow {
    pub id: i64,
    /// Absolute.
    pub path: String,
    /// How the file looked when it was hashed.
    pub stamp: FileStamp,
    /// When the file was made; 0: not known.
    pub born_ns: i64,
}

type Columns = (i64, String, i64, i64, i64, i64, i64);
/// With the place in a list of questions.
type Numbered = (i64, i64, String, i64, i64, i64, i64, i64);

fn stamped((id, path, size, mtime_ns, inode, ctime_ns, born_ns): Columns) -> StampedRow {
    StampedRow { id, path, stamp: FileStamp { size: u(size), mtime_ns, inode: u(inode), ctime_ns }, born_ns }
}

impl Store {
    /// The next `most` rows at or below a path, in the order of the paths' bytes. `after` is the last path of the page before.
    pub async fn stamped_rows(&self, root: &Path, after: Option<&str>, most: u32) -> Result<Vec<StampedRow>, Fault> {
        let root = root.to_string_lossy().into_owned();
        let (prefix, end) = (format!("{root}/"), format!("{root}0")); // '0' follows '/'
        // What lies between a path and what is below it (`film`, `film.x`, `film/a`) is others': two ranges.
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT id, path, size, mtime_ns, inode, ctime_ns, born_ns FROM (SELECT * FROM library_files WHERE path = ?1 AND ?4 IS NULL \
             UNION ALL SELECT * FROM (SELECT * FROM library_files WHERE path > coalesce(nullif(?4, ?1), ?2) AND path < ?3 \
             ORDER BY path LIMIT ?5)) LIMIT ?5",
        )
        .bind(root)
        .bind(prefix)
        .bind(end)
        .bind(after)
        .bind(most)
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        Ok(rows.into_iter().map(stamped).collect())
    }

    /// For each path, its row.
    pub async fn stamped_rows_of(&self, paths: &[&str]) -> Result<Vec<Option<StampedRow>>, Fault> {
        let rows: Vec<Numbered> = sqlx::query_as(
            "SELECT n.key, f.id, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, f.born_ns FROM json_each(?) AS n JOIN library_files f ON f.path = n.value",
        )
        .bind(json!(paths).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        let mut out = vec![None; paths.len()];
        for (n, id, path, size, mtime_ns, inode, ctime_ns, born_ns) in rows {
            if let Some(slot) = usize::try_from(n).ok().and_then(|n| out.get_mut(n)) {
                *slot = Some(stamped((id, path, size, mtime_ns, inode, ctime_ns, born_ns)));
            }
        }
        Ok(out)
    }

    /// Rows of these ids that still exist, as ids and paths.
    pub async fn library_paths(&self, ids: &[i64]) -> Result<Vec<(i64, String)>, Fault> {
        sqlx::query_as("SELECT id, path FROM library_files WHERE id IN (SELECT value FROM json_each(?))")
            .bind(json!(ids).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)
    }

    /// Ids of the rows at and below these paths.
    pub async fn library_ids_below(&self, paths: &[&str]) -> Result<Vec<i64>, Fault> {
        sqlx::query_scalar(
            "SELECT f.id FROM json_each(?1) n JOIN library_files f ON f.path = n.value UNION \
             SELECT f.id FROM json_each(?1) n JOIN library_files f ON f.path > n.value || '/' AND f.path < n.value || '0'",
        )
        .bind(json!(paths).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)
    }

    /// For each stamp, the rows whose file looked exactly so: the same file under another name.
    pub async fn rows_of_stamps(&self, stamps: &[FileStamp]) -> Result<Vec<Vec<StampedRow>>, Fault> {
        let list: Vec<_> = stamps.iter().map(|s| json!([i(s.inode), i(s.size), s.mtime_ns])).collect();
        let rows: Vec<Numbered> = sqlx::query_as(
            "SELECT n.key, f.id, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, f.born_ns FROM json_each(?) AS n JOIN library_files f \
             ON f.inode = n.value->>0 AND f.size = n.value->>1 AND f.mtime_ns = n.value->>2",
        )
        .bind(json!(list).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        let mut out = vec![Vec::new(); stamps.len()];
        for (n, id, path, size, mtime_ns, inode, ctime_ns, born_ns) in rows {
            if let Some(slot) = usize::try_from(n).ok().and_then(|n| out.get_mut(n)) {
                slot.push(stamped((id, path, size, mtime_ns, inode, ctime_ns, born_ns)));
            }
        }
        Ok(out)
    }

    /// Paths of the rows whose files have one of these inodes.
    pub async fn paths_of_inodes(&self, inodes: &[u64]) -> Result<Vec<String>, Fault> {
        let list: Vec<i64> = inodes.iter().map(|n| i(*n)).collect();
        sqlx::query_scalar("SELECT path FROM library_files WHERE inode IN (SELECT value FROM json_each(?))")
            .bind(json!(list).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)
    }

    /// Rows that were written by those who had just made the file get what else tells it apart: id, and times of the last
    /// change and of the making.
    pub async fn complete_library_rows(&self, rows: &[(i64, i64, i64)]) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = rows.iter().map(|(id, ctime, born)| json!([id, ctime, born])).collect();
        sqlx::query(
            "WITH n AS MATERIALIZED (SELECT value->>0 AS id, value->>1 AS ctime_ns, value->>2 AS born_ns FROM json_each(?)) \
             UPDATE library_files SET ctime_ns = n.ctime_ns, born_ns = n.born_ns FROM n \
             WHERE library_files.id = n.id AND library_files.ctime_ns = 0",
        )
        .bind(json!(list).to_string())
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }

    /// Gives files the digest of a row that was theirs under another name: id of that row, new path, whether the old name is
    /// gone, and the time of the last change. The rows are new ones: an export of the table that was made before does not know them.
    pub async fn rename_library_rows(&self, renamed: &[(i64, String, bool, i64)]) -> Result<(), Fault> {
        if renamed.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = renamed.iter().map(|(id, path, gone, ctime)| json!([id, path, u8::from(*gone), ctime])).collect();
        let list = json!(list).to_string();
        let mut tx = self.begin().await?;
        for sql in [
            // All are read before one is written: names may be exchanged.
            "WITH src AS MATERIALIZED (SELECT n.value->>1 AS path, f.size, f.mtime_ns, f.inode, f.sha1, f.hashed_at, \
             n.value->>3 AS ctime_ns, f.born_ns, coalesce((SELECT p.path FROM packages p WHERE n.value->>1 > p.path || '/' \
             AND n.value->>1 < p.path || '0' ORDER BY length(p.path) DESC LIMIT 1), '') AS package \
             FROM json_each(?) AS n JOIN library_files f ON f.id = n.value->>0) \
             INSERT OR REPLACE INTO library_files (path, size, mtime_ns, inode, sha1, hashed_at, ctime_ns, born_ns, package) \
             SELECT path, size, mtime_ns, inode, sha1, hashed_at, ctime_ns, born_ns, package FROM src WHERE true",
            "DELETE FROM library_queue WHERE path IN (SELECT value->>1 FROM json_each(?))",
            "DELETE FROM library_files WHERE id IN (SELECT value->>0 FROM json_each(?) WHERE value->>2 = 1)",
        ] {
            sqlx::query(sql).bind(&list).execute(&mut *tx).await.map_err(db_fault)?;
        }
        self.commit_library(tx).await
    }

    /// Drops from the queue what is at and below these paths: it is gone.
    pub async fn unqueue_below(&self, paths: &[&str]) -> Result<(), Fault> {
        let list = json!(paths).to_string();
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM library_queue WHERE path IN (SELECT value FROM json_each(?))")
            .bind(&list)
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        sqlx::query(
            "DELETE FROM library_queue WHERE path IN (SELECT q.path FROM json_each(?) n JOIN library_queue q \
             ON q.path > n.value || '/' AND q.path < n.value || '0')",
        )
        .bind(&list)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        tx.commit().await.map_err(db_fault)
    }
}
