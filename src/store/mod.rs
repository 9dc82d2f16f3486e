//! All SQL, one file per noun; nothing else knows that there is SQLite.
//!
//! One writer connection (`BEGIN IMMEDIATE`, `synchronous=FULL`, so that what was answered is on disk) and a few
//! readers that cannot write. A second writer pool would only turn waiting into `SQLITE_BUSY`; a single connection queues
//! fairly. Transactions are short: no network, no hashing, no file work inside one. Byte counters are written by one
//! sampler, never by the code that moves bytes.

pub mod area;
pub mod backup;
pub mod broken;
mod caches;
pub mod checkpoints;
pub mod events;
pub mod generations;
pub mod hashtable;
pub mod inspect;
pub mod legs;
pub mod library;
pub mod library_queue;
pub mod library_rows;
pub mod library_watch;
pub mod lists;
pub mod lock;
mod mixed;
pub mod node;
pub mod outlooks;
pub mod packages;
pub mod queries;
pub mod retention;
pub mod samples;
pub mod shell;
pub mod task_files;
pub mod tasks;
pub mod torrents;
mod turns;
pub mod wal;

use crate::error::{Fault, FaultClass};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// The node's database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    /// For lists that people ask for: some look at every row, and the work must not wait for them.
    viewers: SqlitePool,
    path: PathBuf,
    /// Rings when an event was added.
    events: Arc<Notify>,
    /// Counts changes of the library, so that its export knows without a query when there is nothing to do.
    library_changes: Arc<AtomicU64>,
    /// See [`Store::thrifty`].
    thrifty: Arc<AtomicBool>,
    broken: Arc<Mutex<broken::Broken>>,
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

impl Store {
    /// Opens or creates the database and brings its schema up to date. The file is 0600: it holds keys of task files.
    /// One that is damaged, of another program or of a newer version is refused and left as it is.
    pub async fn open(path: &Path) -> Result<Self, Fault> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| crate::error::io_fault("cannot create the database directory", dir, &e))?;
        }
        if std::fs::metadata(path).is_ok_and(|m| m.len() > 0) {
            inspect::inspect(path, inspect::Depth::Quick).await?;
        }
        restrict(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("journal_size_limit", wal::WAL_LIMIT.to_string())
            .pragma("cache_size", "-16384")
            .pragma("temp_store", "memory");
        let refused = |e: sqlx::Error| {
            Fault::local(format!(
                "cannot open the database {}: {}. If the file is damaged, stop the service, keep a copy and restore a backup",
                path.display(),
                plain(&e)
            ))
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(refused)?;
        MIGRATIONS
            .run(&writer)
            .await
            .map_err(|e| Fault::local(format!("cannot bring the database {} up to date: {e}", path.display())))?;
        let reading = options.pragma("query_only", "on");
        let pool = |connections: u32| {
            // All at once and here: their threads have the priority of this one.
            let options = SqlitePoolOptions::new().min_connections(connections).max_connections(connections);
            options.idle_timeout(None).max_lifetime(None).connect_with(reading.clone())
        };
        let readers = pool(4).await.map_err(refused)?;
        let viewers = pool(2).await.map_err(refused)?;
        Ok(Self {
            writer,
            readers,
            viewers,
            path: path.to_owned(),
            events: Arc::default(),
            library_changes: Arc::default(),
            thrifty: Arc::default(),
            broken: Arc::default(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the log back into the main file and closes all connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.viewers.close().await;
        if let Err(e) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await {
            tracing::warn!(error = %e, "the last checkpoint of the database failed; the next start repeats it");
        }
        self.writer.close().await;
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, Fault> {
        match self.writer.begin_with("BEGIN IMMEDIATE").await {
            // SQLite ends a transaction by itself when the disk is full or fails, and sqlx counts it as open for ever.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                let _ = self.writer.acquire().await.map_err(db_fault)?.close().await;
                self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(db_fault)
            }
            begun => begun.map_err(db_fault),
        }
    }

    /// Commits a transaction that changed the library. Whatever writes `library_files` ends here.
    async fn commit_library(&self, tx: Transaction<'static, Sqlite>) -> Result<(), Fault> {
        let done = tx.commit().await.map_err(db_fault);
        // Also after a failure, which may come after the fact.
        self.library_changes.fetch_add(1, Ordering::Release);
        done
    }
}

/// Makes the file if needed, 0600. SQLite gives its `-wal` and `-shm` the rights that the file has when it makes them, so
/// this comes before the first connection.
fn restrict(path: &Path) -> Result<(), Fault> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| crate::error::io_fault("cannot open the database", path, &e))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| crate::error::io_fault("cannot restrict the rights of", path, &e))
}

fn plain(e: &sqlx::Error) -> String {
    match e {
        sqlx::Error::Database(d) => d.message().to_owned(),
        other => other.to_string(),
    }
}

/// SQLite's primary result code.
fn code(e: &sqlx::Error) -> Option<u32> {
    e.as_database_error().and_then(|d| d.code()).and_then(|c| c.parse::<u32>().ok()).map(|c| c & 0xff)
}

/// What a database error means for the caller.
pub(crate) fn db_fault(e: sqlx::Error) -> Fault {
    let class = match code(&e) {
        Some(5 | 6 | 13) => FaultClass::Transient, // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL
        None if matches!(e, sqlx::Error::PoolTimedOut) => FaultClass::Transient,
        _ => FaultClass::Local,
    };
    let cure = match code(&e) {
        Some(11 | 26) => "; the file is damaged: stop the service and restore a backup",
        Some(13) => "; free some space on its file system",
        _ => "",
    };
    Fault::new(class, format!("database: {}{cure}", plain(&e)))
}

/// A row that breaks the schema's promises: only a hand-edited or damaged database can hold one.
pub(crate) fn bad_row(what: &str, value: &str) -> Fault {
    Fault::local(format!("database: unexpected {what} {value:?}; run bftv2 doctor --full"))
}

pub(crate) fn u(v: i64) -> u64 {
    u64::try_from(v).unwrap_or(0)
}

pub(crate) fn i(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}
