//! Read-only queries on a database file, for `bftv2 sql`.
//!
//! Not the service's reader pool: an operator asks while the service runs, after it stopped, or on a copy. Three locks
//! keep the data safe, each alone sufficient for most statements: the file is opened `mode=ro`, the connection is
//! `query_only`, and only statements that read are let through (`VACUUM INTO` would otherwise write a file of its own).
//!
//! A database whose `-wal` is absent has no connection, so it is opened `immutable`: that works in a directory that the
//! caller may not write to, and leaves no `-wal`/`-shm` behind that the service could trip over. The obvious
//! alternative, always `mode=ro`, fails there or leaves such files.

use super::queries::numbered;
use super::{inspect, wal};
use crate::error::{Fault, io_fault};
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Executor, Row, SqlSafeStr, Statement, TypeInfo, ValueRef};
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows that are kept in memory; the rest is left out and [`Rows::truncated`] set.
pub const MAX_ROWS: usize = 200_000;
/// What a statement may begin with.
const READING: [&str; 5] = ["select", "with", "values", "explain", "pragma"];
/// How long a busy database is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// SQLite virtual machine steps between two looks at the clock (well under a millisecond).
const STEPS: i32 = 10_000;

/// A result, every value as text: integers and reals in decimal, blobs in hexadecimal, `None` for NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
    /// There were more than [`MAX_ROWS`] rows.
    pub truncated: bool,
}

/// Runs one reading statement. `limit` bounds the whole call; a statement that runs longer is interrupted.
pub async fn query(db: &Path, sql: &str, limit: Duration) -> Result<Rows, Fault> {
    query_with(db, sql, &[], limit).await
}

/// The same with values for the statement's parameters; one without a value is NULL.
pub async fn query_with(db: &Path, sql: &str, values: &[(String, String)], limit: Duration) -> Result<Rows, Fault> {
    check(sql)?;
    inspect::header(db)?;
    let (sql, names) = numbered(sql);
    let bound: Vec<Option<&str>> =
        names.iter().map(|n| values.iter().rfind(|(name, _)| name == n).map(|(_, value)| value.as_str())).collect();
    let started = Instant::now();
    let mut conn = open(db).await?;
    let deadline = started + limit;
    conn.lock_handle().await.map_err(|e| told(db, &e, limit))?.set_progress_handler(STEPS, move || Instant::now() < deadline);
    let result = run(&mut conn, &sql, bound).await;
    let _ = conn.close().await;
    // The handler is asked between steps only, so a slow last step may end late yet whole: that answer is good.
    result.map_err(|e| told(db, &e, limit))
}

async fn run(conn: &mut SqliteConnection, sql: &str, values: Vec<Option<&str>>) -> Result<Rows, sqlx::Error> {
    // The text is the operator's own, on a connection that cannot write.
    let statement = (&mut *conn).prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    let columns = statement.columns().iter().map(|c| c.name().to_owned()).collect();
    let mut out = Rows { columns, ..Rows::default() };
    let mut stream = values.into_iter().fold(statement.query(), |query, value| query.bind(value)).fetch(conn);
    while let Some(row) = stream.try_next().await? {
        if out.rows.len() == MAX_ROWS {
            out.truncated = true;
            break;
        }
        out.rows.push((0..row.len()).map(|i| cell(&row, i)).collect::<Result<_, _>>()?);
    }
    drop(stream);
    Ok(out)
}

fn cell(row: &SqliteRow, i: usize) -> Result<Option<String>, sqlx::Error> {
    let (null, kind) = {
        let value = row.try_get_raw(i)?;
        (value.is_null(), value.type_info().name().to_owned())
    };
    if null {
        return Ok(None);
    }
    Ok(Some(match kind.as_str() {
        "INTEGER" => row.try_get_unchecked::<i64, _>(i)?.to_string(),
        "REAL" => row.try_get_unchecked::<f64, _>(i)?.to_string(),
        "TEXT" => String::from_utf8_lossy(row.try_get_unchecked::<&[u8], _>(i)?).into_owned(),
        _ => hex::encode(row.try_get_unchecked::<&[u8], _>(i)?),
    }))
}

/// A connection that cannot write.
pub(super) async fn open(db: &Path) -> Result<SqliteConnection, Fault> {
    // SQLite's own text for a missing file ("unable to open database file") sends people the wrong way.
    std::fs::metadata(db).map_err(|e| io_fault("cannot open the database", db, &e))?;
    let options = SqliteConnectOptions::new()
        .filename(db)
        .read_only(true)
        .immutable(!wal::beside(db, "-wal").exists())
        .busy_timeout(BUSY)
        .pragma("query_only", "1")
        .disable_statement_logging();
    options.connect().await.map_err(|e| told(db, &e, BUSY))
}

/// SQLite's result codes that deserve words of ours.
pub(super) fn told(db: &Path, e: &sqlx::Error, limit: Duration) -> Fault {
    if let Some(fault) = inspect::damage(db, e) {
        return fault;
    }
    let db = db.display();
    match super::code(e) {
        Some(9) => {
            Fault::permanent(format!("the query was stopped after {} s: narrow it, or allow more time", limit.as_secs_f64()))
        }
        Some(5 | 6) => Fault::transient(format!("the database {db} is busy: try again")),
        Some(8) => Fault::permanent("the database is open for reading only: this statement would change it"),
        Some(14) => Fault::local(format!("cannot open the database {db}: the file, its -wal and its -shm must be readable")),
        _ => match e.as_database_error() {
            Some(d) => Fault::permanent(format!("the query failed: {}", d.message())),
            None => Fault::local(format!("cannot read the database {db}")).detail(e),
        },
    }
}

/// One statement, and one that reads.
fn check(sql: &str) -> Result<(), Fault> {
    let rest = skip_blank(sql);
    let word: String = rest.chars().take_while(|c| c.is_ascii_alphabetic()).collect::<String>().to_ascii_lowercase();
    if rest.is_empty() {
        return Err(Fault::permanent("the query is empty"));
    }
    if !READING.contains(&word.as_str()) {
        return Err(Fault::permanent(format!(
            "only statements that read are allowed here (SELECT, WITH, VALUES, EXPLAIN, PRAGMA), not {:?}: the service alone writes its database",
            rest.chars().take(20).collect::<String>()
        )));
    }
    if !skip_blank(after_statement(rest)).is_empty() {
        return Err(Fault::permanent("one statement at a time, please: there is text behind the first ';'"));
    }
    Ok(())
}

/// Skips blanks, comments and empty statements.
fn skip_blank(mut s: &str) -> &str {
    loop {
        s = s.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(comment) = s.strip_prefix("--") {
            s = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = s.strip_prefix("/*") {
            s = comment.split_once("*/").map_or("", |(_, rest)| rest);
        } else {
            return s;
        }
    }
}

/// What follows the first `;` that is not inside a string, a quoted name or a comment.
fn after_statement(mut s: &str) -> &str {
    loop {
        let Some(at) = s.find([';', '\'', '"', '`', '[', '-', '/']) else { return "" };
        let mut chars = s.split_at(at).1.chars();
        let mark = chars.next().unwrap_or(';');
        let rest = chars.as_str();
        let close = |end: &str| rest.split_once(end).map_or("", |(_, r)| r);
        s = match mark {
            ';' => return rest,
            // A doubled quote ends one string and begins the next: the same borders.
            '\'' => close("'"),
            '"' => close("\""),
            '`' => close("`"),
            '[' => close("]"),
            '-' if rest.starts_with('-') => close("\n"),
            '/' if rest.starts_with('*') => close("*/"),
            _ => rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const LONG: Duration = Duration::from_secs(20);

    async fn database(dir: &Path) -> PathBuf {
        let db = dir.join("a.db");
        let mut conn = SqliteConnectOptions::new()
            .filename(&db)
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
            .connect()
            .await
            .expect("opens");
        for sql in [
            "create table t (n integer, r real, s text, b blob)",
            "insert into t values (1, 1.5, 'eins', x'00ff'), (2, null, null, null)",
        ] {
            sqlx::query(sql).execute(&mut conn).await.expect("runs");
        }
        conn.close().await.expect("closes");
        db
    }

    #[tokio::test]
    async fn values_come_as_text_and_leave_no_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = database(dir.path()).await;
        let got = query(&db, "select n, r, s, b as blob from t order by n;", LONG).await.expect("reads");
        assert_eq!(got.columns, ["n", "r", "s", "blob"]);
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(got.rows[0], [text("1"), text("1.5"), text("eins"), text("00ff")]);
        assert_eq!(got.rows[1], [text("2"), None, None, None]);
        assert!(!got.truncated);
        let files: Vec<_> = std::fs::read_dir(dir.path()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }

    #[tokio::test]
    async fn no_rows_still_have_columns() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = database(dir.path()).await;
        let got = query(&db, "select n as number from t where n > 9", LONG).await.expect("reads");
        assert_eq!((got.columns, got.rows.len()), (vec!["number".to_owned()], 0));
    }

    #[tokio::test]
    async fn uncommitted_writers_do_not_stop_readers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = database(dir.path()).await;
        let mut writer = SqliteConnectOptions::new().filename(&db).connect().await.expect("opens");
        sqlx::query("begin immediate").execute(&mut writer).await.expect("begins");
        sqlx::query("insert into t (n) values (3)").execute(&mut writer).await.expect("writes");
        let got = query(&db, "select count(*) from t", LONG).await.expect("reads");
        assert_eq!(got.rows[0][0].as_deref(), Some("2"));
    }

    #[tokio::test]
    async fn nothing_that_writes_gets_through() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = database(dir.path()).await;
        let before = std::fs::read(&db).expect("read");
        let into = format!("vacuum into '{}'", dir.path().join("copy.db").display());
        let with = "with x as (select 9 as n) insert into t (n) select n from x";
        for sql in ["delete from t", "drop table t", "attach 'other.db' as o", &into, with, "select 1; delete from t"] {
            let e = query(&db, sql, LONG).await.expect_err(sql);
            assert!(e.message.contains("read") || e.message.contains("one statement"), "{sql}: {e}");
        }
        // Switching the guard off does not help: the file itself is open for reading only, and it is one statement a call.
        query(&db, "pragma query_only = 0", LONG).await.expect("harmless");
        let _ = query(&db, "pragma user_version = 7", LONG).await;
        assert_eq!(std::fs::read(&db).expect("read"), before);
        assert!(!dir.path().join("copy.db").exists());
    }

    #[tokio::test]
    async fn an_endless_query_is_stopped() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = database(dir.path()).await;
        let sql = "with recursive c(x) as (select 1 union all select x + 1 from c) select sum(x) from c";
        let e = query(&db, sql, Duration::from_millis(100)).await.expect_err("stops");
        assert!(e.message.contains("stopped after 0.1 s"), "{e}");
    }

    #[tokio::test]
    async fn errors_name_their_cause() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = database(dir.path()).await;
        let e = query(&db, "select * from nowhere", LONG).await.expect_err("fails");
        assert!(e.message.contains("no such table: nowhere"), "{e}");
        let gone = dir.path().join("gone.db");
        let e = query(&gone, "select 1", LONG).await.expect_err("fails");
        assert!(e.message.contains("gone.db") && e.message.contains("No such file"), "{e}");
        assert!(!gone.exists());
        let odd = dir.path().join("odd.db");
        std::fs::write(&odd, "this is a plain text file, much longer than a header of sixteen bytes".repeat(20)).expect("write");
        let e = query(&odd, "select * from t", LONG).await.expect_err("fails");
        assert!(e.message.contains("not a database"), "{e}");
    }

    #[test]
    fn statements_are_counted_outside_strings_and_comments() {
        for good in [
            "select ';' ;",
            "SELECT 1 -- ; not here\n",
            "/* ; */ select 'it''s; fine', \"a;b\", [c;d] ; ; -- end",
            "select 4-2, 8/2",
            "with a as (select 1) select * from a",
            "select 'open",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", " ; -- nothing", "select 1; select 2", "select 'a';/* */drop table t", "insert into t values (1)", "名"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
