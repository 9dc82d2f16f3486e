//! The library: what this node has, by digest; and the verdict on its packages.

use super::{Store, bad_row, db_fault, i, u};
use crate::error::Fault;
use crate::model::ids::Sha1;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// A library file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryFile {
    /// Absolute.
    pub path: PathBuf,
    pub size: u64,
    pub mtime_ns: i64,
    pub inode: u64,
    pub sha1: Sha1,
}

/// A package's row in `packages`.
#[derive(Clone, Debug)]
pub struct PackageRow {
    pub path: PathBuf,
    pub name: String,
    pub verdict: String,
    pub title: String,
    pub files: u64,
    pub bytes: u64,
}

impl Store {
    /// Adds or refreshes the files of one package and its verdict; files of it that are gone are dropped.
    pub async fn put_package(&self, package: &PackageRow, files: &[LibraryFile], now_ms: i64) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        put_package(&mut tx, package, files, now_ms).await?;
        self.commit_library(tx).await
    }

    /// The end of a reception: library, package verdict, the task's new state and its seed in one transaction. `false`: the
    /// task is not downloading any more (cancelled at the last moment); the package is in the library all the same.
    pub async fn finish_reception(
        &self,
        task: i64,
        package: &PackageRow,
        files: &[LibraryFile],
        document: &str,
        seed_until: Option<i64>,
        now_ms: i64,
    ) -> Result<bool, Fault> {
        let mut tx = self.begin().await?;
        put_package(&mut tx, package, files, now_ms).await?;
        let done = sqlx::query(
            "UPDATE tasks SET state = 'downloaded', reason = '', document = ?, seed_until = ?, finished_at = ?, revision = revision + 1, \
             stage_inode = NULL, stage_born = NULL WHERE id = ? AND state = 'downloading'",
        )
        .bind(document)
        .bind(seed_until)
        .bind(now_ms)
        .bind(task)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        let moved = done.rows_affected() == 1;
        if moved {
            // Its bt leg was for fetching; from now on it seeds.
            sqlx::query(
                "UPDATE legs SET state = 'waiting', ready = 0, tries = 0, retry_at = NULL, error = '' \
                 WHERE task_id = ? AND method = 'bt'",
            )
            .bind(task)
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        }
        // Cancelled meanwhile: nothing is left to be recorded. (Received again, it needs to know that it was renamed.)
        sqlx::query("UPDATE tasks SET stage_inode = NULL, stage_born = NULL WHERE id = ? AND state = 'history'")
            .bind(task)
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        self.commit_library(tx).await?;
        Ok(moved)
    }

    /// Was this renamed to its path by a reception that has not recorded it yet?
    /// `born`: when it was made, as numbers of inodes are used again.
    pub async fn was_just_renamed(&self, path: &Path, inode: u64, born: Option<i64>) -> Result<bool, Fault> {
        let n: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tasks WHERE role = 'receiver' AND store_path = ? AND stage_inode = ? \
             AND (stage_born IS NULL OR stage_born = ?) AND state IN ('queues', 'downloading')",
        )
        .bind(path.to_string_lossy().into_owned())
        .bind(i(inode))
        .bind(born)
        .fetch_one(&self.readers)
        .await
        .map_err(db_fault)?;
        Ok(n > 0)
    }

    /// Was a package of this path received or generated here? One that was only recognised is a stranger's.
    pub async fn has_package(&self, path: &Path) -> Result<bool, Fault> {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM packages WHERE path = ? AND ours")
            .bind(path.to_string_lossy().into_owned())
            .fetch_one(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok(n > 0)
    }

    /// For each wanted (digest, size), the library files that have them: those that were hashed here, then those of which
    /// a packing list claims it. Whoever copies one has to hash the copy.
    pub async fn find_same(&self, wanted: &[(Sha1, u64)]) -> Result<Vec<Vec<LibraryFile>>, Fault> {
        // In the order of the index, so that a page of it is read once; and digests as they are, because reading ten thousand
        // of them as JSON costs more than finding them.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_unstable_by_key(|n| wanted[*n].0.0);
        let sizes: Vec<_> = order.iter().map(|n| i(wanted[*n].1)).collect();
        let digests: Vec<u8> = order.iter().flat_map(|n| wanted[*n].0.0).collect();
        let rows: Vec<(i64, String, i64, i64, i64)> = sqlx::query_as(
            "WITH same AS (SELECT n.key, f.path, f.size, f.mtime_ns, f.inode, 0 AS claimed, f.id \
             FROM json_each(?1) AS n CROSS JOIN library_files f ON f.sha1 = substr(?2, n.key * 20 + 1, 20) AND f.size = n.value \
             UNION ALL SELECT n.key, c.path, c.size, c.mtime_ns, c.inode, 1, 0 \
             FROM json_each(?1) AS n CROSS JOIN library_claims c ON c.sha1 = substr(?2, n.key * 20 + 1, 20) \
             AND c.size = n.value AND c.settled = 0) \
             SELECT key, path, size, mtime_ns, inode FROM same ORDER BY claimed, id, path",
        )
        .bind(json!(sizes).to_string())
        .bind(digests)
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        let mut out: Vec<Vec<LibraryFile>> = vec![Vec::new(); wanted.len()];
        for (n, path, size, mtime_ns, inode) in rows {
            let n = usize::try_from(n).ok().and_then(|n| order.get(n).copied()).ok_or_else(|| bad_row("index", &path))?;
            let (Some(slot), Some((sha1, _))) = (out.get_mut(n), wanted.get(n)) else { continue };
            slot.push(LibraryFile { path: path.into(), size: u(size), mtime_ns, inode: u(inode), sha1: *sha1 });
        }
        Ok(out)
    }

    /// The files below a directory, by path.
    pub async fn library_below(&self, dir: &Path) -> Result<Vec<LibraryFile>, Fault> {
        let prefix = format!("{}/", dir.display());
        let end = format!("{}0", dir.display()); // '0' follows '/'
        let rows: Vec<(String, i64, i64, i64, String)> = sqlx::query_as(
            "SELECT path, size, mtime_ns, inode, lower(hex(sha1)) FROM library_files WHERE path = ?3 OR (path >= ?1 AND path < ?2) ORDER BY path",
        )
        .bind(prefix)
        .bind(end)
        .bind(dir.to_string_lossy().into_owned())
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)?;
        rows.into_iter()
            .map(|(path, size, mtime_ns, inode, sha1)| {
                let sha1 = Sha1::from_hex(&sha1).map_err(|e| bad_row(e.what, &e.value))?;
                Ok(LibraryFile { path: path.into(), size: u(size), mtime_ns, inode: u(inode), sha1 })
            })
            .collect()
    }

    /// A file turned out not to be what its row or its packing list says.
    pub async fn forget_library_file(&self, path: &Path) -> Result<(), Fault> {
        let path = path.to_string_lossy().into_owned();
        let mut tx = self.begin().await?;
        for sql in ["DELETE FROM library_files WHERE path = ?", "UPDATE library_claims SET settled = 1 WHERE path = ?"] {
            sqlx::query(sql).bind(&path).execute(&mut *tx).await.map_err(db_fault)?;
        }
        self.commit_library(tx).await
    }

    /// A number that grows with every change of the library in this process.
    pub fn library_changes(&self) -> u64 {
        self.library_changes.load(Ordering::Acquire)
    }

    /// The highest id in the library. Rows that come later have higher ones.
    pub async fn newest_library_row(&self) -> Result<i64, Fault> {
        sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM library_files").fetch_one(&self.readers).await.map_err(db_fault)
    }

    /// The next `most` files by path (bytewise) among the rows up to `newest`.
    pub async fn library_page(&self, after: &str, newest: i64, most: u32) -> Result<Vec<(String, Sha1)>, Fault> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT path, sha1 FROM library_files WHERE path > ? AND id <= ? ORDER BY path LIMIT ?")
                .bind(after)
                .bind(newest)
                .bind(most)
                .fetch_all(&self.readers)
                .await
                .map_err(db_fault)?;
        rows.into_iter().map(|(path, sha1)| Ok((path, digest(&sha1)?))).collect()
    }

    /// For each path, the id and digest of its row.
    pub async fn library_rows(&self, paths: &[&str]) -> Result<Vec<Option<(i64, Sha1)>>, Fault> {
        let rows: Vec<(i64, i64, Vec<u8>)> =
            sqlx::query_as("SELECT n.key, f.id, f.sha1 FROM json_each(?) AS n JOIN library_files f ON f.path = n.value")
                .bind(json!(paths).to_string())
                .fetch_all(&self.readers)
                .await
                .map_err(db_fault)?;
        let mut out = vec![None; paths.len()];
        for (n, id, sha1) in rows {
            if let Some(slot) = usize::try_from(n).ok().and_then(|n| out.get_mut(n)) {
                *slot = Some((id, digest(&sha1)?));
            }
        }
        Ok(out)
    }

    /// Drops rows: their files are gone.
    pub async fn forget_library_rows(&self, ids: &[i64]) -> Result<u64, Fault> {
        let tx = self.begin().await?;
        self.forget_rows(tx, ids).await
    }

    async fn forget_rows(&self, mut tx: sqlx::Transaction<'static, sqlx::Sqlite>, ids: &[i64]) -> Result<u64, Fault> {
        let done = sqlx::query("DELETE FROM library_files WHERE id IN (SELECT value FROM json_each(?))")
            .bind(json!(ids).to_string())
            .execute(&mut *tx)
            .await
            .map_err(db_fault)?;
        self.commit_library(tx).await?;
        Ok(done.rows_affected())
    }

    /// Drops the rows up to `newest` whose ids are not in `listed` (sorted), and hashes their files for no change that was
    /// seen before. Says how many. In short transactions: what a crash leaves undone is done by a repetition.
    pub async fn forget_unlisted(&self, listed: &[i64], newest: i64) -> Result<u64, Fault> {
        let (mut after, mut dropped) = (0, 0);
        loop {
            let ids: Vec<i64> =
                sqlx::query_scalar("SELECT id FROM library_files WHERE id > ? AND id <= ? ORDER BY id LIMIT 5000")
                    .bind(after)
                    .bind(newest)
                    .fetch_all(&self.readers)
                    .await
                    .map_err(db_fault)?;
            let Some(last) = ids.last() else { return Ok(dropped) };
            after = *last;
            let gone: Vec<i64> = ids.into_iter().filter(|id| listed.binary_search(id).is_err()).collect();
            if gone.is_empty() {
                continue;
            }
            let mut tx = self.begin().await?;
            let queued = "DELETE FROM library_queue WHERE path IN \
                          (SELECT path FROM library_files WHERE id IN (SELECT value FROM json_each(?)))";
            sqlx::query(queued).bind(json!(gone).to_string()).execute(&mut *tx).await.map_err(db_fault)?;
            dropped += self.forget_rows(tx, &gone).await?;
        }
    }
}

pub(super) fn digest(bytes: &[u8]) -> Result<Sha1, Fault> {
    bytes.try_into().map(Sha1).map_err(|_| bad_row("digest", &hex::encode(bytes)))
}

async fn put_package(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    package: &PackageRow,
    files: &[LibraryFile],
    now_ms: i64,
) -> Result<(), Fault> {
    let dir = package.path.to_string_lossy().into_owned();
    let list: Vec<_> =
        files.iter().map(|f| json!([f.path.to_string_lossy(), i(f.size), f.mtime_ns, i(f.inode), f.sha1])).collect();
    let list = json!(list).to_string();
    for sql in [
        "DELETE FROM library_files WHERE package = ?3 AND path NOT IN (SELECT value->>0 FROM json_each(?1))",
        // What is as it was keeps its id: whoever edits the exported table has seen it.
        "WITH n AS MATERIALIZED (SELECT value->>0 AS path, value->>1 AS size, value->>2 AS mtime_ns, value->>3 AS inode, \
         unhex(value->>4) AS sha1 FROM json_each(?1)) \
         UPDATE library_files SET hashed_at = ?2, ctime_ns = 0, born_ns = 0, package = ?3 FROM n \
         WHERE library_files.path = n.path AND library_files.size = n.size AND library_files.mtime_ns = n.mtime_ns \
         AND library_files.inode = n.inode AND library_files.sha1 = n.sha1",
        "INSERT OR REPLACE INTO library_files (path, size, mtime_ns, inode, sha1, hashed_at, package) \
         SELECT value->>0, value->>1, value->>2, value->>3, unhex(value->>4), ?2, ?3 FROM json_each(?1) \
         WHERE NOT EXISTS (SELECT 1 FROM library_files l WHERE l.path = value->>0 AND l.size = value->>1 \
         AND l.mtime_ns = value->>2 AND l.inode = value->>3 AND l.sha1 = unhex(value->>4))",
    ] {
        sqlx::query(sql).bind(&list).bind(now_ms).bind(&dir).execute(&mut **tx).await.map_err(db_fault)?;
    }
    sqlx::query(
        "INSERT INTO packages (path, name, verdict, title, files, bytes, checked_at) VALUES (?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (path) DO UPDATE SET name = excluded.name, verdict = excluded.verdict, title = excluded.title, \
         files = excluded.files, bytes = excluded.bytes, checked_at = excluded.checked_at, \
         ours = 1, revision = revision + 1, seen = NULL",
    )
    .bind(&dir)
    .bind(&package.name)
    .bind(&package.verdict)
    .bind(&package.title)
    .bind(i(package.files))
    .bind(i(package.bytes))
    .bind(now_ms)
    .execute(&mut **tx)
    .await
    .map_err(db_fault)?;
    Ok(())
}
