//! What `hashtable.txt` needs beside the library itself: how its export was left.

use super::{Store, db_fault, i, u};
use crate::error::Fault;
use std::path::Path;

/// What tells whether somebody else wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    pub size: u64,
    pub mtime_ns: i64,
    pub inode: u64,
    /// Time of the last change of anything about the file; 0: not known, or not of interest.
    pub ctime_ns: i64,
}

impl FileStamp {
    /// Same size, time and inode. Somebody may have written the file and given it its old time back.
    pub fn looks_like(&self, other: &Self) -> bool {
        (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)
    }

    /// Nothing about the file has changed, as far as is known.
    pub fn fits(&self, other: &Self) -> bool {
        self.looks_like(other) && (self.ctime_ns == other.ctime_ns || self.ctime_ns == 0 || other.ctime_ns == 0)
    }

    /// For files that are only asked whether somebody else wrote them.
    pub fn without_ctime(self) -> Self {
        Self { ctime_ns: 0, ..self }
    }
}

/// An export of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableExport {
    /// The file as it was left.
    pub stamp: FileStamp,
    /// It shows the rows up to this id.
    pub newest: i64,
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
            stamp: FileStamp { size: u(size), mtime_ns, inode: u(inode), ctime_ns: 0 },
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
}
