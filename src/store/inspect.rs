//! A look at the database file before anything is written to it.
//!
//! SQLite opens what it is given: it would turn the database of another program into one of ours, and find damage only
//! when it meets it, after it has written elsewhere. So the file is looked at first, read-only, and left as it is when
//! something is wrong with it.

use super::{MIGRATIONS, shell, wal};
use crate::error::{Fault, io_fault};
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// What to do about damage; told wherever it is found.
const CURE: &str = "nothing was changed. Stop the service, move the file, its -wal and its -shm aside, put a backup in its place \
                    (operating.md, Backup) and start. Without a backup the service starts with an empty database: packages stay, \
                    tasks have to be given again";
const HEADER: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Findings that are told.
const FINDINGS: usize = 3;

/// How much of the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its header and its schema.
    Schema,
    /// Every page, once.
    Quick,
    /// Every page, and every index against its table.
    Full,
}

/// What a sound database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sound {
    /// The version of its schema; `None` when it is empty.
    pub schema: Option<i64>,
    pub bytes: u64,
    /// Of these, free for new rows.
    pub free: u64,
}

/// The newest schema that this program knows.
pub fn newest_schema() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// The first page alone, without SQLite. An empty file is fine: SQLite makes a database of it.
pub fn header(db: &Path) -> Result<(), Fault> {
    let unreadable = |e: std::io::Error| io_fault("cannot open the database", db, &e);
    let mut file = std::fs::File::open(db).map_err(unreadable)?;
    let mut head = [0u8; HEADER];
    let read = file.read(&mut head).map_err(unreadable)?;
    // In this order: when the log is empty after the header was read, all pages that the header counts are in the file.
    let log = wal::wal_bytes(db);
    let len = file.metadata().map_err(unreadable)?.len();
    if len == 0 {
        return Ok(());
    }
    if read < HEADER || !head.starts_with(MAGIC) {
        return Err(not_a_database(db));
    }
    let number = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
    let page = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 65_536,
        n => u64::from(n),
    };
    // The number of pages counts only while the two change counters agree; with a log, pages may be there alone.
    let pages = if number(24) == number(92) { u64::from(number(28)) } else { 0 };
    if len < pages.saturating_mul(page) && log == 0 {
        return Err(damaged(db, &format!("it has {len} of {} bytes", pages.saturating_mul(page))));
    }
    Ok(())
}

/// Looks at a database that exists.
pub async fn inspect(db: &Path, depth: Depth) -> Result<Sound, Fault> {
    header(db)?;
    let mut conn = shell::open(db).await?;
    let seen = look(db, &mut conn, depth).await;
    let _ = conn.close().await;
    seen
}

async fn look(db: &Path, conn: &mut SqliteConnection, depth: Depth) -> Result<Sound, Fault> {
    let told = |e: sqlx::Error| shell::told(db, &e, Duration::ZERO);
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
            .fetch_all(&mut *conn)
            .await
            .map_err(told)?;
    let has = |name: &str| tables.iter().any(|t| t == name);
    let mut schema = None;
    if has("_sqlx_migrations") {
        schema = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut *conn).await.map_err(told)?;
    }
    let ours = tables.is_empty() || (has("_sqlx_migrations") && (has("tasks") || schema.is_none() && tables.len() == 1));
    if !ours {
        let names = tables.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        return Err(Fault::local(format!(
            "{} is the database of another program (it has the tables {names}): nothing was changed. Let the configuration key \
             database name a file of its own",
            db.display()
        )));
    }
    let known = newest_schema();
    if let Some(version) = schema.filter(|v| *v > known) {
        return Err(Fault::local(format!(
            "the database {} was made by a newer version (schema {version}, this one knows up to {known}): nothing was changed. \
             Install that version again, or restore the backup from before the upgrade",
            db.display()
        )));
    }
    let check = match depth {
        Depth::Schema => None,
        Depth::Quick => Some(format!("PRAGMA quick_check({FINDINGS})")),
        Depth::Full => Some(format!("PRAGMA integrity_check({FINDINGS})")),
    };
    if let Some(sql) = check {
        let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *conn).await.map_err(told)?;
        if found != ["ok"] {
            return Err(damaged(db, &found.join("; ").replace('\n', " ")));
        }
    }
    let size = "SELECT page_count * page_size, freelist_count * page_size FROM pragma_page_count(), pragma_page_size(), \
                pragma_freelist_count()";
    let (bytes, free): (i64, i64) = sqlx::query_as(size).fetch_one(conn).await.map_err(told)?;
    Ok(Sound { schema, bytes: super::u(bytes), free: super::u(free) })
}

/// SQLite's own words for damage, in ours.
pub(super) fn damage(db: &Path, e: &sqlx::Error) -> Option<Fault> {
    match super::code(e)? {
        11 => Some(damaged(db, "SQLite finds pages that make no sense")),
        26 => Some(not_a_database(db)),
        _ => None,
    }
}

fn damaged(db: &Path, what: &str) -> Fault {
    let what: String = what.chars().take(300).collect();
    Fault::local(format!("the database {} is damaged ({what}): {CURE}", db.display()))
}

fn not_a_database(db: &Path) -> Fault {
    Fault::local(format!(
        "{} is not a database, or its beginning is damaged. If the configuration key database names the wrong file, correct it. \
         If it was the database of this service: {CURE}",
        db.display()
    ))
}
