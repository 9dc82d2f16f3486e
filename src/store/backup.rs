//! A copy of the database while the service writes: one moment of it, checked before it gets its name.
//!
//! `VACUUM INTO` and not the page-wise backup of SQLite: it reads in one transaction (the other begins again whenever
//! somebody writes, and may never end), and the copy has no free pages.

use super::inspect::{Depth, inspect};
use super::{shell, wal};
use crate::error::{Fault, io_fault};
use rustix::fs::statvfs;
use sqlx::Connection as _;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub bytes: u64,
    pub schema: i64,
    pub tasks: i64,
    pub library_files: i64,
}

/// Writes a copy to `to`. `force`: a file of that name is replaced. `progress` hears bytes written and expected.
pub async fn backup(db: &Path, to: &Path, force: bool, mut progress: impl FnMut(u64, u64)) -> Result<Backup, Fault> {
    // Not the copy of a damaged database: it would pass for a good one.
    let sound = inspect(db, Depth::Quick).await?;
    if sound.schema.is_none() {
        return Err(Fault::local(format!("the database {} is empty: there is nothing to back up", db.display())));
    }
    refuse(db, to, force)?;
    let part = wal::beside(to, ".part");
    let expected = sound.bytes.saturating_sub(sound.free);
    let dir = to.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let room = statvfs(&dir).map_err(|e| io_fault("cannot look at the directory", &dir, &e.into()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < expected {
        return Err(full(&dir, expected, free));
    }
    make_private(&part)?;
    let done = copy(db, &part, expected, &mut progress).await;
    let done = match done {
        Ok(done) => keep(&part, to, &dir).map(|()| done),
        Err(fault) => Err(fault),
    };
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// Names that must not be written.
fn refuse(db: &Path, to: &Path, force: bool) -> Result<(), Fault> {
    let there = match std::fs::metadata(to) {
        Ok(there) => there,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_fault("cannot look at", to, &e)),
    };
    let to_shown = to.display();
    if there.is_dir() {
        return Err(Fault::permanent(format!("{to_shown} is a directory: give the name of a file")));
    }
    let source = std::fs::metadata(db).map_err(|e| io_fault("cannot open the database", db, &e))?;
    if (there.dev(), there.ino()) == (source.dev(), source.ino()) || wal::beside(to, "-wal").exists() {
        return Err(Fault::permanent(format!("{to_shown} is a database in use: give another name")));
    }
    if !force {
        return Err(Fault::permanent(format!("{to_shown} is there already: give another name, or --force to replace it")));
    }
    Ok(())
}

/// An empty file that nobody else can read: SQLite fills it, and keeps its rights.
fn make_private(part: &Path) -> Result<(), Fault> {
    let cannot = |e: std::io::Error| io_fault("cannot write", part, &e);
    match std::fs::remove_file(part) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(cannot(e)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map(drop).map_err(cannot)
}

async fn copy(db: &Path, part: &Path, expected: u64, progress: &mut impl FnMut(u64, u64)) -> Result<Backup, Fault> {
    let alone = !wal::beside(db, "-wal").exists();
    let mut conn = shell::open(db).await?;
    let name = part.to_str().ok_or_else(|| Fault::permanent(format!("{}: the name is not UTF-8", part.display())))?;
    // The guard that keeps queries from writing counts the new file as a write. The database itself is open for reading only.
    sqlx::query("PRAGMA query_only = 0").execute(&mut conn).await.map_err(|e| shell::told(db, &e, Duration::ZERO))?;
    let written = {
        let write = sqlx::query("VACUUM INTO ?1").bind(name).execute(&mut conn);
        tokio::pin!(write);
        loop {
            tokio::select! {
                done = &mut write => break done,
                () = tokio::time::sleep(LOOK) => progress(size(part), expected),
            }
        }
    };
    let _ = conn.close().await;
    written.map_err(|e| match super::code(&e) {
        Some(13) => full(part.parent().unwrap_or(part), expected, 0),
        Some(10) => Fault::local(format!("cannot write {}: the disk refuses", part.display())).detail(&e),
        _ => shell::told(db, &e, Duration::ZERO),
    })?;
    if alone && wal::beside(db, "-wal").exists() {
        // It was read as a file that nobody writes to.
        return Err(Fault::transient("the service was started during the backup: try again"));
    }
    progress(size(part), size(part));
    let sound = inspect(part, Depth::Full).await?;
    let mut conn = shell::open(part).await?;
    let counts = "SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM library_files)";
    let counted: Result<(i64, i64), _> = sqlx::query_as(counts).fetch_one(&mut conn).await;
    let _ = conn.close().await;
    let (tasks, library_files) = counted.map_err(|e| shell::told(part, &e, Duration::ZERO))?;
    Ok(Backup { bytes: size(part), schema: sound.schema.unwrap_or(0), tasks, library_files })
}

/// The name comes last, when the bytes are safe.
fn keep(part: &Path, to: &Path, dir: &Path) -> Result<(), Fault> {
    let cannot = |e: std::io::Error| io_fault("cannot write", to, &e);
    File::open(part).and_then(|f| f.sync_all()).map_err(cannot)?;
    std::fs::rename(part, to).map_err(cannot)?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(cannot)
}

fn full(dir: &Path, needed: u64, free: u64) -> Fault {
    Fault::local(format!(
        "no space in {}: the backup needs about {needed} bytes, {free} are free. Free space, or give another directory",
        dir.display()
    ))
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
