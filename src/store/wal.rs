//! The write-ahead log: how large it is, writing it back, and who keeps it from being written back.
//!
//! A read transaction of any program pins the log from its snapshot on: what is written later is appended and cannot be
//! written back before it ends. Nobody can end a transaction of another process, so the service writes thriftily while
//! one is held ([`Store::thrifty`]) and names who holds it.

use super::{Store, db_fault};
use crate::error::Fault;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use std::fmt;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A log of more bytes than this cannot be written back for a reason, or a very large transaction was.
pub const WAL_LIMIT: u64 = 64 << 20;
/// How long a checkpoint waits for readers that are about to end. Writers wait as long.
const PATIENCE: Duration = Duration::from_millis(200);
/// Where in the `-shm` file SQLite locks for a transaction that writes, and for those that read (`wal.c`).
const WRITE_LOCK: u64 = 120;
const READ_LOCKS: RangeInclusive<u64> = 123..=127;

/// A process that has a read transaction open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Of its program; empty when it cannot be seen.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "process {}", self.pid),
            name => write!(f, "process {} ({name})", self.pid),
        }
    }
}

impl Store {
    /// The size of the log's file.
    pub fn wal_bytes(&self) -> u64 {
        wal_bytes(&self.path)
    }

    /// Writes the log back and cuts its file, as far as readers allow. Whether all of it is written back.
    pub async fn write_back(&self) -> Result<bool, Fault> {
        // A connection of its own: the writer's would make every write wait for its long time-out.
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(PATIENCE)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut conn = options.connect().await.map_err(db_fault)?;
        let done = checkpoint(&mut conn).await.map_err(db_fault);
        let _ = conn.close().await;
        done
    }

    /// While this is set, only what must not be lost is written at once: figures of progress may wait for a minute.
    pub fn thrifty(&self) -> bool {
        self.thrifty.load(Relaxed)
    }

    pub fn set_thrifty(&self, thrifty: bool) {
        self.thrifty.store(thrifty, Relaxed);
    }
}

async fn checkpoint(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // The first does not hold up writers, and leaves the second little to do.
    let (_, frames, written): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *conn).await?;
    if written < frames {
        return Ok(false);
    }
    let _: (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(conn).await?;
    Ok(true)
}

/// A file that SQLite keeps beside the database.
pub fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The size of the log beside a database; 0 when there is none.
pub fn wal_bytes(db: &Path) -> u64 {
    std::fs::metadata(beside(db, "-wal")).map_or(0, |m| m.len())
}

/// Another process that has a transaction open that writes, so that the service cannot.
pub fn writer(db: &Path) -> Option<Holder> {
    holding(db, "WRITE", WRITE_LOCK..=WRITE_LOCK).into_iter().next()
}

/// Other processes that have a read transaction open on the database, as far as the kernel tells.
pub fn holders(db: &Path) -> Vec<Holder> {
    holding(db, "READ", READ_LOCKS)
}

fn holding(db: &Path, kind: &str, bytes: RangeInclusive<u64>) -> Vec<Holder> {
    let Ok(shm) = std::fs::metadata(beside(db, "-shm")) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut pids: Vec<u32> =
        locks.lines().filter_map(|l| holder(l, kind, shm.ino(), &bytes)).filter(|p| *p != std::process::id()).collect();
    pids.sort_unstable();
    pids.dedup();
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let clean = |text: String| text.trim().chars().filter(|c| !c.is_control()).collect();
    pids.into_iter().map(|pid| Holder { pid, name: clean(name(&pid)) }).collect()
}

/// The process of a line of `/proc/locks`, if it is a lock of this kind on these bytes of this inode.
/// `7: POSIX  ADVISORY  READ  4711 fe:01:131090 124 124`
fn holder(line: &str, kind: &str, inode: u64, bytes: &RangeInclusive<u64>) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    let (_posix, _advisory, its_kind) = (words.next().filter(|w| *w == "POSIX")?, words.next()?, words.next()?);
    let pid = words.next()?.parse().ok().filter(|pid| *pid > 0)?;
    let its: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
    let start: u64 = words.next()?.parse().ok()?;
    let end: u64 = words.next()?.parse().unwrap_or(u64::MAX);
    (its_kind == kind && its == inode && start <= *bytes.end() && end >= *bytes.start()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_readers_are_told_from_others() {
        let reader = |line: &str, inode| holder(line, "READ", inode, &READ_LOCKS);
        let line =
            |kind: &str, pid: &str, inode: u64, range: &str| format!("7: POSIX  ADVISORY  {kind} {pid} fe:01:{inode} {range}");
        assert_eq!(reader(&line("READ ", "4711", 9, "124 124"), 9), Some(4711));
        assert_eq!(reader(&line("READ ", "4711", 9, "127 128"), 9), Some(4711), "joined with the lock of being connected");
        assert_eq!(reader(&line("READ ", "4711", 9, "128 128"), 9), None, "connected, reads nothing");
        assert_eq!(reader(&line("WRITE", "4711", 9, "120 120"), 9), None, "a writer");
        assert_eq!(holder(&line("WRITE", "4711", 9, "120 120"), "WRITE", 9, &(WRITE_LOCK..=WRITE_LOCK)), Some(4711));
        assert_eq!(reader(&line("READ ", "4711", 8, "124 124"), 9), None, "another file");
        assert_eq!(reader(&line("READ ", "-1", 9, "124 124"), 9), None, "a process that cannot be seen");
        for odd in ["", "1:", "1: -> POSIX ADVISORY WRITE 1 a:b:9 1 2", "1: FLOCK ADVISORY READ 1 a:b:9 124 EOF"] {
            assert_eq!(reader(odd, 9), None, "{odd}");
        }
    }
}
