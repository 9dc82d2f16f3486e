//! The queries that have a name: each runs on a database with realistic rows and finds what it is for, and `docs/sql.md`
//! shows them as they are. After a change of `src/store/queries.sql` run this with `UPDATE_SNAPSHOTS=1`.

mod task_rows;

use bft2::model::span::Method;
use bft2::model::task::{LegState, Role, TaskState};
use bft2::store::Store;
use bft2::store::events::Level;
use bft2::store::generations::GenerationState;
use bft2::store::library::{LibraryFile, PackageRow};
use bft2::store::queries::{NamedQuery, all, by_name};
use bft2::store::shell::{Rows, query_with};
use bft2::store::tasks::NewTask;
use chrono::{Days, Local, NaiveTime, TimeZone as _};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use task_rows::{new_file, reception, sha1, task_name};
use tempfile::TempDir;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// A node in the middle of its life. Times are relative to now.
struct Life {
    dir: TempDir,
    store: Store,
    now: i64,
}

impl Life {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
        let life = Self { dir, store, now: Local::now().timestamp_millis() };
        life.fill().await;
        life
    }

    /// What no request can make so quickly: yesterday.
    async fn set(&self, sql: &str) {
        let mut conn = SqliteConnectOptions::new().filename(self.store.path()).connect().await.unwrap();
        conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    async fn receive(&self, name: &str, created: i64) -> i64 {
        let files = vec![new_file("a.mxf", &[1; 1000]), new_file("b.mxf", &[2; 500])];
        let task = NewTask {
            legs: vec![(Method::Bt, 500), (Method::Obs, 500), (Method::Cdn, 500)],
            schedules: vec![(Method::Cdn, "08:00-18:00".into())],
            ..reception(name, Path::new("/store/Film_FTR"), files)
        };
        self.store.accept_task(&task, created).await.unwrap()
    }

    async fn fill(&self) {
        let (store, now) = (&self.store, self.now);
        // Stands still, each leg for another reason.
        let slow = self.receive("slow.task.json", now - 3 * HOUR).await;
        store.move_task(slow, TaskState::Queues, TaskState::Downloading, "", now - 3 * HOUR).await.unwrap();
        store.set_leg(slow, Method::Bt, LegState::Running, "", 0, None).await.unwrap();
        store.set_leg(slow, Method::Obs, LegState::Waiting, "obs: the store denies access", 2, Some(now + HOUR)).await.unwrap();
        let tomorrow = Local::now().date_naive().checked_add_days(Days::new(1)).unwrap();
        let opens = Local.from_local_datetime(&tomorrow.and_time(NaiveTime::from_hms_opt(8, 0, 0).unwrap())).earliest().unwrap();
        store.set_schedule(slow, Method::Cdn, false, Some(opens.timestamp_millis()), None).await.unwrap();
        self.set(&format!(
            "update legs set bytes_total = 100000000, bytes_wire = 1000, active_ms = 1000 where task_id = {slow} and method = 'cdn'"
        ))
        .await;
        let late = "insert into outlooks (task_id, expected_at, risk) values";
        self.set(&format!("{late} ({slow}, {}, 'cdn: done after the offer ends')", now + DAY)).await;
        // Delivered within two hours, a day ago.
        let done = self.receive("done.task.json", now - DAY - 2 * HOUR).await;
        store.move_task(done, TaskState::Queues, TaskState::Downloading, "", now - DAY - 2 * HOUR).await.unwrap();
        store.move_task(done, TaskState::Downloading, TaskState::Downloaded, "", now - DAY).await.unwrap();
        self.set(&format!(
            "update legs set state = 'done', bytes_done = 500, bytes_wire = 600, active_ms = 3600000 where task_id = {done}"
        ))
        .await;
        self.set(&format!("update tasks set bytes_total = 7200000, bytes_local = 0 where id = {done}")).await;
        let failed = self.receive("failed.task.json", now - 5 * HOUR).await;
        store.move_task(failed, TaskState::Queues, TaskState::Downloading, "", now - 5 * HOUR).await.unwrap();
        store
            .move_task(failed, TaskState::Downloading, TaskState::DownloadError, "no space: 5 GB are missing", now - 4 * HOUR)
            .await
            .unwrap();
        let waits = self.receive("waits.task.json", now - HOUR).await;
        assert!(waits > failed);
        // Sent and seeded.
        let files = vec![new_file("a.mxf", &[1; 1000])];
        let send = NewTask {
            role: Role::Send,
            legs: vec![(Method::Bt, 1000)],
            ..reception("sent.task.json", Path::new("/dcp/Film_FTR"), files)
        };
        let send = store.accept_task(&send, now - 6 * HOUR).await.unwrap();
        store.move_task(send, TaskState::Queues, TaskState::Uploading, "", now - 6 * HOUR).await.unwrap();
        store.move_task(send, TaskState::Uploading, TaskState::Uploaded, "", now - 4 * HOUR).await.unwrap();
        store.set_leg(send, Method::Bt, LegState::Running, "", 0, None).await.unwrap();
        self.set(&format!("update legs set ready = 1, bytes_done = 1000, bytes_sent = 3000, peers = 2 where task_id = {send}"))
            .await;
        for name in ["sent", "new"] {
            let taskfile = format!("/tmp/{name}.task.json");
            let id =
                store.queue_generation(&format!("/dcp/{name}"), &taskfile, "{}", false, now - 7 * HOUR).await.unwrap().unwrap();
            store.set_generation(id, GenerationState::Finished, "", now - 6 * HOUR).await.unwrap();
        }
        // Two tasks in the same minute: their rates add up.
        let minute = (now - 2 * HOUR) / 60_000 * 60_000;
        for (task, at, rate) in [(slow, minute, 100), (slow, minute + 2000, 200), (failed, minute, 300)] {
            self.set(&format!("insert into progress_samples values ({task}, 'cdn', {at}, 10, {rate}, 0)")).await;
        }
        let library = |path: &str| LibraryFile { path: path.into(), size: 2_000_000, mtime_ns: 1, inode: 1, sha1: sha1(b"same") };
        for (path, name, verdict) in [("/dcp/A", "A", "complete"), ("/dcp/B", "B", "missing b.mxf")] {
            let package = PackageRow {
                path: PathBuf::from(path),
                name: name.into(),
                verdict: verdict.into(),
                title: "Film".into(),
                files: 1,
                bytes: 2_000_000,
            };
            store.put_package(&package, &[library(&format!("{path}/a.mxf"))], now - DAY).await.unwrap();
        }
        for (level, kind, task, text) in [
            (Level::Info, "start", "", "version 2.1.0, receiver"),
            (Level::Info, "recv", "slow.task.json", "accepted"),
            (Level::Info, "cancel", "old.task.json", "cancelled"),
            (Level::Error, "leg failed", "failed.task.json", "cdn: no space"),
        ] {
            store.add_event(level, kind, task, "api", text, now - HOUR).await.unwrap();
        }
        assert_eq!(task_name("slow.task.json").as_str(), "slow.task.json");
    }

    async fn ask(&self, name: &str, set: &[(&str, &str)]) -> Rows {
        let query = by_name(name).unwrap_or_else(|| panic!("no query {name}"));
        let set: Vec<_> = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let rows = query_with(self.store.path(), &query.sql, &set, Duration::from_secs(20)).await;
        rows.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `a|b|c` a row.
    async fn text(&self, name: &str, set: &[(&str, &str)], columns: &[&str]) -> Vec<String> {
        let found = self.ask(name, set).await;
        let at: Vec<usize> = columns
            .iter()
            .map(|c| found.columns.iter().position(|f| f == c).unwrap_or_else(|| panic!("{name} has no {c}")))
            .collect();
        found.rows.iter().map(|r| at.iter().map(|i| r[*i].clone().unwrap_or_default()).collect::<Vec<_>>().join("|")).collect()
    }
}

#[tokio::test]
async fn every_query_finds_something() {
    let life = Life::new().await;
    assert!(all().len() >= 25);
    for query in all() {
        let set: &[(&str, &str)] = if query.name == "find-file" { &[("path", "a.mxf")] } else { &[] };
        let found = life.ask(query.name, set).await;
        assert!(!found.rows.is_empty(), "{} finds nothing", query.name);
    }
}

#[tokio::test]
async fn the_answers_are_right() {
    let life = Life::new().await;
    let stuck = life.text("stuck", &[], &["task", "method", "why", "next"]).await.join("\n");
    for part in [
        "failed.task.json||downloaderror: no space: 5 GB are missing|mend it, then recv again",
        "slow.task.json|bt|no peers|look at tracker",
        "slow.task.json|cdn|outside its window 08:00-18:00|opens at ",
        "slow.task.json|obs|try 2 failed: obs: the store denies access|next try at ",
        "waits.task.json||waits in the queue since ",
    ] {
        assert!(stuck.contains(part), "{part}\n{stuck}");
    }
    assert!(!stuck.contains("done.task.json") && !stuck.contains("sent.task.json"), "{stuck}");

    // Ten hours at 1000 bytes a second.
    let tonight = life.text("tonight", &[], &["task", "method", "hours", "rate", "bytes_allowed", "verdict"]).await;
    assert!(tonight.contains(&"slow.task.json|cdn|10|1000|36000000|goes on in a later window".to_owned()), "{tonight:?}");
    assert_eq!(life.text("rate-by-hour", &[], &["method", "rate", "best_rate"]).await, ["cdn|450|450"]);
    assert_eq!(life.text("rate-by-hour", &[("role", "sender")], &["rate"]).await, [""; 0]);
    assert_eq!(life.text("duplicates", &[], &["copies", "bytes_wasted", "for_example"]).await, ["2|2000000|/dcp/A/a.mxf"]);
    assert_eq!(life.text("duplicates", &[("bytes", "2000001")], &["copies"]).await, [""; 0]);
    assert_eq!(life.text("incomplete-packages", &[], &["package", "verdict"]).await, ["B|missing b.mxf"]);
    assert_eq!(life.text("unsent", &[], &["dcppath"]).await, ["/dcp/new"]);
    let slowest = life.text("slowest-deliveries", &[], &["task", "rate", "hours", "at_work"]).await;
    assert_eq!(slowest, ["done.task.json|1000|2|bt 1.0 h, cdn 1.0 h, obs 1.0 h"]);
    assert_eq!(life.text("slowest-packages", &[], &["package", "hours"]).await, ["Film_FTR|2"]);
    assert_eq!(
        life.text("deliveries-per-day", &[], &["role", "deliveries", "hours_on_average"]).await,
        ["receiver|1|2", "sender|1|2"]
    );
    assert_eq!(life.text("seeds", &[], &["task", "copies"]).await, ["sent.task.json|3"]);
    assert_eq!(life.text("warnings", &[], &["text"]).await, ["cdn: no space"]);
    assert_eq!(life.text("history-of-task", &[("task", "slow%")], &["text"]).await, ["accepted"]);
    assert_eq!(life.text("find-file", &[("sha1", &sha1(b"same").to_string().to_uppercase())], &["path"]).await.len(), 2);
    assert_eq!(life.text("largest-packages", &[("rows", "1")], &["package", "bytes"]).await, ["(all)|4000000", "A|2000000"]);
}

fn bftv2(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bftv2")).args(args).output().expect("bftv2 starts")
}

/// On the command line: the list, a name, parameters, and what is neither.
#[tokio::test]
async fn queries_are_asked_by_name() {
    let life = Life::new().await;
    let db = life.dir.path().join("bft2.db");
    let db = db.to_str().unwrap();
    let out = |args: &[&str]| {
        let out = bftv2(&[&["sql", "--db", db, "--format", "csv"], args].concat());
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, list, _) = out(&["--list"]);
    assert_eq!((code, list.lines().count()), (Some(0), all().len() + 1));
    assert!(list.contains("\nstuck,,"), "{list}");
    let (code, text, _) = out(&["history-of-task", "--set", "task=slow.task.json"]);
    assert!(code == Some(0) && text.contains(",accepted"), "{text}");
    let (code, text, _) = out(&["select :a || :b as both", "--set", "a=1", "--set", "b='"]);
    assert_eq!((code, text.as_str()), (Some(0), "both\n1'\n"));
    for (args, says) in [
        (&["stuk"][..], "there is no query \"stuk\": see bftv2 sql --list"),
        (&["stuck", "--set", "task=a"], "the query has no parameters"),
        (&["legs", "--set", "tsk=a"], "the query's parameters are task"),
        (&["select :a"], "give --set a=VALUE"),
        (&["legs", "--set", "task"], "NAME=VALUE"),
    ] {
        let (code, _, error) = out(args);
        assert!(code == Some(2) && error.contains(says), "{args:?}: {code:?} {error}");
    }
}

fn shown(query: &NamedQuery) -> String {
    let parameters: String = query.parameters.iter().map(|(name, meaning)| format!("* `{name}`: {meaning}\n")).collect();
    let gap = if parameters.is_empty() { "" } else { "\n" };
    format!("### {}\n\n{}\n{gap}{parameters}\n```sql\n{}```\n\n", query.name, query.purpose, query.sql)
}

#[test]
fn the_document_shows_the_queries_as_they_are() {
    const BEGIN: &str = "<!-- made of src/store/queries.sql by tests/queries.rs -->\n\n";
    const END: &str = "<!-- end of the queries -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the mark before the queries");
    let (now, after) = rest.split_once(END).expect("the mark behind them");
    let wanted: String = all().iter().map(shown).collect();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    for (n, (is, should)) in now.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(is, should, "docs/sql.md, line {} of the queries; see the top of this test", n + 1);
    }
    assert_eq!(now.len(), wanted.len(), "the document shows other queries");
}
