//! Cached piece hashes of packages.

use super::{Store, bad_row, db_fault, i, u};
use crate::error::Fault;
use std::path::Path;

/// A package's full torrent, as far as hashing is concerned.
#[derive(Clone, Debug)]
pub struct TorrentRow {
    /// JSON list of `{path,size,mtime_ns,inode,sha1}` in torrent order: the caller compares it with the directory.
    pub files: String,
    pub piece_length: u64,
    pub pieces: Vec<[u8; 20]>,
}

impl Store {
    pub async fn torrent(&self, package: &Path) -> Result<Option<TorrentRow>, Fault> {
        let row: Option<(String, i64, Vec<u8>)> =
            sqlx::query_as("SELECT files, piece_length, pieces FROM torrents WHERE path = ?")
                .bind(package.to_string_lossy().into_owned())
                .fetch_optional(&self.readers)
                .await
                .map_err(db_fault)?;
        row.map(|(files, piece_length, pieces)| {
            let (pieces, rest) = pieces.as_chunks::<20>();
            if !rest.is_empty() {
                return Err(bad_row("piece hashes of", &package.display().to_string()));
            }
            Ok(TorrentRow { files, piece_length: u(piece_length), pieces: pieces.to_vec() })
        })
        .transpose()
    }

    /// Was the package generated or sent here? Then it is a master, unless it was received before.
    pub async fn is_master(&self, package: &Path) -> Result<bool, Fault> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM torrents WHERE path = ?1) \
             OR EXISTS (SELECT 1 FROM tasks WHERE role = 'sender' AND store_path = ?1)",
        )
        .bind(package.to_string_lossy().into_owned())
        .fetch_one(&self.readers)
        .await
        .map_err(db_fault)
    }

    pub async fn save_torrent(&self, package: &Path, row: &TorrentRow, now_ms: i64) -> Result<(), Fault> {
        sqlx::query("INSERT OR REPLACE INTO torrents (path, files, piece_length, pieces, created_at) VALUES (?, ?, ?, ?, ?)")
            .bind(package.to_string_lossy().into_owned())
            .bind(&row.files)
            .bind(i(row.piece_length))
            .bind(row.pieces.concat())
            .bind(now_ms)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    pub async fn forget_torrent(&self, package: &Path) -> Result<(), Fault> {
        sqlx::query("DELETE FROM torrents WHERE path = ?")
            .bind(package.to_string_lossy().into_owned())
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }
}
