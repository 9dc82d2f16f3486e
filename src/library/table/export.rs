//! The library as a file: rows by path, page by page, so that memory does not grow with the library.

use super::line::write_line;
use super::{blocking, out_of_reach, stamp_of};
use crate::error::Fault;
use crate::store::Store;
use crate::store::hashtable::{FileStamp, TableExport};
use crate::views::Draft;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Rows held in memory at a time: some 200 KB of text.
const PAGE: u32 = 2000;
/// Rights of a new table: it holds no secrets. An old one keeps what it has, so that a group may be let in.
const MODE: u32 = 0o644;

/// Writes the library to `path`, where the file must be the one that `expected` tells. A file that has these bytes
/// already stays as it is. `None`: somebody else was there, nothing is replaced.
pub async fn export(store: &Store, path: &Path, expected: Option<FileStamp>) -> Result<Option<TableExport>, Fault> {
    // Rows that come from now on are left to the next export: they have higher ids. So no read transaction has to stay
    // open for the whole time, and still a row up to this id that exists in the end is in the file.
    let newest = store.newest_library_row().await?;
    let target = path.to_owned();
    let mut draft = blocking(move || Draft::begin(&target, mode_of(&target)).map_err(|f| out_of_reach(&target, &f))).await?;
    let mut after = String::new();
    loop {
        let rows = store.library_page(&after, newest, PAGE).await?;
        let Some((last, _)) = rows.last() else { break };
        after.clone_from(last);
        draft = blocking(move || {
            let mut text = Vec::with_capacity(rows.len() * 128);
            for (path, sha1) in &rows {
                write_line(&mut text, sha1, path);
            }
            draft.write(&text).map(|()| draft)
        })
        .await?;
    }
    let target = path.to_owned();
    let stamp = blocking(move || put_in_place(draft, &target, expected)).await?;
    Ok(stamp.map(|stamp| TableExport { stamp, newest }))
}

fn put_in_place(mut draft: Draft, path: &Path, expected: Option<FileStamp>) -> Result<Option<FileStamp>, Fault> {
    let is_expected = || stamp_of(path).is_ok_and(|now| now == expected);
    if draft.is_same()? {
        return Ok(expected.filter(|_| is_expected()));
    }
    Ok(draft.put_in_place(is_expected)?.map(|m| FileStamp::of(&m).without_ctime()))
}

fn mode_of(path: &Path) -> u32 {
    path.symlink_metadata().map_or(MODE, |m| m.permissions().mode() & 0o777)
}
