//! The public face of the database: the views, their columns, and that nothing secret is in them.
//!
//! The schema is compared with `tests/snapshots/schema.sql`, so that it changes only on purpose. After such a change run
//! this test with `UPDATE_SNAPSHOTS=1`, add a migration note to `docs/sql.md`, and commit both.

mod task_rows;

use bft2::model::forecast::Outlook;
use bft2::model::ranges::RangeSet;
use bft2::model::span::Method;
use bft2::model::task::{LegState, Role, TaskState};
use bft2::store::Store;
use bft2::store::events::Level;
use bft2::store::legs::LegSample;
use bft2::store::library::{LibraryFile, PackageRow};
use bft2::store::library_queue::{QueueLength, QueuedFile};
use bft2::store::library_watch::{HashingRow, WatchRow};
use bft2::store::packages::{CompositionRow, Need, PackageFacts, RateRow, ReelRow};
use bft2::store::shell::{Rows, query};
use bft2::store::task_files::FileProgress;
use bft2::store::tasks::NewTask;
use bft2::store::torrents::TorrentRow;
use chrono::TimeZone as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use task_rows::{new_file, reception, sha1};
use tempfile::TempDir;

/// View and the columns that operators were promised.
const PROMISED: &[(&str, &str)] = &[
    (
        "v_tasks",
        "task role package state reason policy ratio bytes_total bytes_done percent rate eta_minutes expected_at at_risk \
         created_at finished_at",
    ),
    ("v_legs", "task role method state bytes_total bytes_done bytes_wire rate window next_change_at tries retry_at error"),
    ("v_files", "task role path size sha1 method state bytes_done"),
    ("v_progress", "task role method at bytes_done rate peers"),
    ("v_library", "path size sha1 state hashed_at package"),
    ("v_packages", "package path verdict title files bytes checked_at standard ov"),
    ("v_compositions", "package path composition title kind reels edit_rate duration seconds"),
    ("v_reels", "package path composition title reel id picture sound subtitle edit_rate duration seconds"),
    ("v_duplicates", "sha1 copies bytes_wasted"),
    ("v_watches", "root filesystem method why since changes overflows scanned_at"),
    ("v_hashing", "state file files_left bytes_left rate eta_minutes at"),
    ("v_hash_queue", "path size bytes_done state due_at"),
    ("v_schedules", "task role method window open_now opens_at closes_at waits_for runs_at"),
    ("v_events", "at level kind task actor text"),
    ("v_generations", "dcppath taskfile state bytes_total bytes_done error"),
];
const SECRETS: &[&str] = &["EXAMPLE-AK", "EXAMPLE-SK", "EXAMPLE-TOKEN"];

async fn open() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
    (dir, store)
}

async fn ask(store: &Store, sql: &str) -> Rows {
    query(store.path(), sql, Duration::from_secs(20)).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn one(store: &Store, sql: &str) -> String {
    let rows = ask(store, sql).await.rows;
    let cells = |r: &Vec<Option<String>>| r.iter().map(|c| c.clone().unwrap_or("NULL".into())).collect::<Vec<_>>().join("|");
    rows.iter().map(cells).collect::<Vec<_>>().join("\n")
}

async fn views(store: &Store) -> Vec<String> {
    let all = ask(store, "select name from sqlite_schema where type = 'view' order by name").await;
    all.rows.into_iter().filter_map(|mut r| r.remove(0)).collect()
}

/// A database with something in every table, keys wherever a document may hold them.
async fn fill(store: &Store) -> (i64, i64) {
    let document = r#"{"obs":{"ak":"EXAMPLE-AK","sk":"EXAMPLE-SK"},"token":"EXAMPLE-TOKEN"}"#;
    let files = || vec![new_file("a.mxf", &[1; 1000]), new_file("b.mxf", &[2; 500])];
    let recv = NewTask {
        document: document.into(),
        schedules: vec![(Method::Cdn, "08:00-18:00".into())],
        ..reception("recv.task.json", Path::new("/store/Film_FTR"), files())
    };
    let send = NewTask { role: Role::Send, ..reception("send.task.json", Path::new("/dcp/Film_FTR"), files()) };
    let send = NewTask { document: document.into(), ..send };
    let (recv, send) = (store.accept_task(&recv, 1_000).await.unwrap(), store.accept_task(&send, 2_000).await.unwrap());
    store.move_task(recv, TaskState::Queues, TaskState::Downloading, "", 3_000).await.unwrap();
    store.move_task(send, TaskState::Queues, TaskState::Uploading, "", 3_000).await.unwrap();
    let mut have = RangeSet::new();
    have.insert(0..600);
    let p = FileProgress { idx: 0, have, digest: None, digest_at: 0, verified: false, ..FileProgress::default() };
    store.record_files(recv, &[p]).await.unwrap();
    for (task, done) in [(recv, 600), (send, 1000)] {
        store.set_leg(task, Method::Cdn, LegState::Running, "", 0, None).await.unwrap();
        let sample = LegSample {
            task,
            method: Method::Cdn,
            bytes_done: done,
            add_wire: done + 7,
            add_sent: 0,
            add_active_ms: 1000,
            rate: 5,
            peers: 2,
            ready: false,
            measured: None,
        };
        store.record_legs(&[sample], true, 4_000).await.unwrap();
    }
    store.set_schedule(recv, Method::Cdn, true, None, Some(9_000)).await.unwrap();
    store.save_checkpoint(send, Method::Cdn, "upload", "EXAMPLE-TOKEN").await.unwrap();
    store.refuse_file(recv, 1, Some(Method::Obs), "404", 5).await.unwrap();
    let library = |path: &str| LibraryFile { path: path.into(), size: 9, mtime_ns: 1, inode: 1, sha1: sha1(b"same") };
    let package = PackageRow {
        path: PathBuf::from("/dcp/Film_FTR"),
        name: "Film_FTR".into(),
        verdict: "complete".into(),
        title: "Film".into(),
        files: 3,
        bytes: 27,
    };
    let waits = QueuedFile { path: "/dcp/new".into(), listed: None, stamp: None, anew: false, due_at: 0 };
    store.queue_library_files(&[waits]).await.unwrap();
    let hashing =
        HashingRow { state: "hashing".into(), left: QueueLength { files: 1, bytes: 600 }, rate: 5, ..HashingRow::default() };
    store.put_hashing(&hashing, 1).await.unwrap();
    let watch = WatchRow { root: "/dcp".into(), method: "fanotify".into(), ..WatchRow::default() };
    store.put_watches(&[watch], 1).await.unwrap();
    let same = ["/dcp/Film_FTR/a", "/dcp/Film_FTR/b", "/dcp/Film_FTR/c"].map(library);
    store.put_package(&package, &same, 5_000).await.unwrap();
    for facts in packages() {
        assert!(store.record_package(&facts, None, 5_000).await.unwrap());
    }
    let torrent = TorrentRow { files: "[]".into(), piece_length: 1 << 20, pieces: vec![[1; 20]] };
    store.save_torrent(Path::new("/dcp/Film_FTR"), &torrent, 6_000).await.unwrap();
    store.queue_generation("/dcp/Film_FTR", "/tmp/send.task.json", document, false, 7_000).await.unwrap();
    store.add_event(Level::Info, "recv", "recv.task.json", "api", "accepted", 8_000).await.unwrap();
    (recv, send)
}

/// An OV, a version file that plays its picture, and one whose OV is not there.
fn packages() -> [PackageFacts; 3] {
    let rate = Some(RateRow { units: 24, seconds: 1 });
    let facts = |name: &str, assets: &[&str], needs: &[&str]| {
        let row = PackageRow {
            path: Path::new("/dcp").join(name),
            name: name.into(),
            verdict: "complete".into(),
            title: format!("{name}_title"),
            files: 1,
            bytes: 9,
        };
        let reel = ReelRow { picture: Some("picture".into()), duration: 36, rate, ..ReelRow::default() };
        let composition = CompositionRow {
            id: format!("{name}-cpl"),
            title: row.title.clone(),
            kind: "feature".into(),
            duration: 72,
            rate,
            reels: vec![reel.clone(), reel],
            reel_count: 2,
        };
        let need = |asset: &&str| Need { asset: (*asset).into(), name: format!("{asset}.mxf"), title: row.title.clone() };
        let path = row.path.join("a.mxf");
        PackageFacts {
            standard: "SMPTE",
            seen: None,
            compositions: vec![composition],
            assets: assets.iter().map(|a| ((*a).to_owned(), "a.mxf".to_owned())).collect(),
            needs: needs.iter().map(need).collect(),
            claims: vec![LibraryFile { path, size: 9, mtime_ns: 1, inode: 1, sha1: sha1(name.as_bytes()) }],
            row,
        }
    };
    [facts("ov", &["picture", "other"], &[]), facts("vf", &["sound"], &["picture"]), facts("lonely", &[], &["x", "y"])]
}

#[tokio::test]
async fn packages_show_what_plays_and_what_they_lack() {
    let (_dir, store) = open().await;
    fill(&store).await;
    assert_eq!(
        one(&store, "select package, verdict, standard, ov from v_packages where standard <> '' order by package").await,
        "lonely|version file, needs OV: lonely_title plays 2 track files of another package (x.mxf, …)|SMPTE|\n\
         ov|complete|SMPTE|\nvf|complete|SMPTE|/dcp/ov"
    );
    assert_eq!(
        one(
            &store,
            "select composition, title, kind, reels, edit_rate, duration, seconds from v_compositions where package = 'ov'"
        )
        .await,
        "ov-cpl|ov_title|feature|2|24/1|72|3"
    );
    assert_eq!(
        one(&store, "select reel, picture, sound, seconds from v_reels where package = 'vf' order by reel").await,
        "1|picture|NULL|1.5\n2|picture|NULL|1.5"
    );
    assert_eq!(
        one(&store, "select state, count(*), count(hashed_at) from v_library group by state order by state").await,
        "claimed|3|0\nok|3|3"
    );
    // Rows of a package go with it, and a slow writer does not undo what a faster one did.
    let [ov, ..] = packages();
    assert!(!store.record_package(&ov, None, 6_000).await.unwrap() && !store.forget_package("/dcp/ov", 9).await.unwrap());
    assert!(store.forget_package("/dcp/ov", 1).await.unwrap());
    for table in ["compositions", "reels", "package_assets", "library_claims"] {
        assert_eq!(one(&store, &format!("select count(*) from {table} where package = '/dcp/ov'")).await, "0", "{table}");
    }
    assert!(one(&store, "select verdict from v_packages where package = 'vf'").await.starts_with("version file, needs OV"));
    // Received anew: the older documents stay until the package is looked at, the claims count no more.
    let file = LibraryFile { path: "/dcp/vf/a.mxf".into(), size: 9, mtime_ns: 1, inode: 1, sha1: sha1(b"vf") };
    store.put_package(&packages()[1].row, &[file], 7_000).await.unwrap();
    assert_eq!(one(&store, "select state from v_library where package = '/dcp/vf'").await, "ok");
    assert_eq!(one(&store, "select count(*) from v_reels where package = 'vf'").await, "2");
}

#[tokio::test]
async fn views_have_the_columns_that_were_promised() {
    let (_dir, store) = open().await;
    for (view, promised) in PROMISED {
        let columns = ask(&store, &format!("select * from {view}")).await.columns;
        for column in promised.split(' ') {
            assert!(columns.iter().any(|c| c == column), "{view} has no column {column}: {columns:?}");
        }
    }
    let promised: Vec<&str> = PROMISED.iter().map(|(v, _)| *v).collect();
    for view in views(&store).await {
        assert!(promised.contains(&view.as_str()), "{view} is public and promised nowhere");
    }
}

/// SQLite keeps the comments that stand inside a statement.
#[tokio::test]
async fn views_explain_themselves_in_any_shell() {
    let (_dir, store) = open().await;
    for view in ["v_tasks", "v_legs", "v_files", "v_progress", "v_generations", "v_schedules", "v_events"] {
        let sql = one(&store, &format!("select sql from sqlite_schema where name = '{view}'")).await;
        assert!(sql.starts_with(&format!("CREATE VIEW {view} AS\n-- ")), "{sql}");
    }
}

#[tokio::test]
async fn every_view_answers_and_none_tells_a_secret() {
    let (_dir, store) = open().await;
    for view in views(&store).await {
        assert_eq!(ask(&store, &format!("select * from {view}")).await.rows.len(), 0, "{view}");
    }
    fill(&store).await;
    for view in views(&store).await {
        let rows = ask(&store, &format!("select * from {view}")).await.rows;
        assert!(!rows.is_empty(), "{view} shows nothing of a filled database");
        for cell in rows.iter().flatten().flatten() {
            for secret in SECRETS {
                assert!(!cell.contains(secret), "{view} tells {secret}: {cell}");
            }
        }
    }
    // The test is worth something only if the secrets are in the tables.
    let kept = one(
        &store,
        "select (select count(*) from tasks where document like '%EXAMPLE-SK%') + \
         (select count(*) from generations where request like '%EXAMPLE-AK%')",
    );
    assert_eq!(kept.await, "3");
}

#[tokio::test]
async fn figures_in_the_views_are_right() {
    let (_dir, store) = open().await;
    let (recv, send) = fill(&store).await;
    let tasks = "select task, role, state, bytes_total, bytes_done, percent, rate, eta_minutes from v_tasks order by task";
    assert_eq!(
        one(&store, tasks).await,
        "recv.task.json|receiver|downloading|1500|600|40|5|4\nsend.task.json|sender|uploading|1500|1000|66.667|5|2"
    );
    let legs = "select task, method, bytes_done, bytes_wire, \"window\", active_seconds from v_legs order by task";
    assert_eq!(one(&store, legs).await, "recv.task.json|cdn|600|607|08:00-18:00|1\nsend.task.json|cdn|1000|1007||1");
    assert_eq!(
        one(&store, "select path, sha1, method, state, bytes_done from v_files where task = 'recv.task.json' order by path")
            .await,
        format!("a.mxf|{}|cdn|partial|600\nb.mxf|{}|cdn|waiting|0", sha1(&[1; 1000]), sha1(&[2; 500]))
    );
    assert_eq!(one(&store, "select copies, bytes_wasted from v_duplicates").await, "3|18");
    assert_eq!(one(&store, "select state, eta_minutes from v_hashing").await, "hashing|3");
    assert_eq!(one(&store, "select path, state from v_hash_queue").await, "/dcp/new|waiting");
    assert_eq!(
        one(&store, "select role, \"window\", open_now, opens_at is null, closes_at is null from v_schedules order by role")
            .await,
        "receiver|08:00-18:00|1|1|0\nsender||1|1|1"
    );
    // Nothing that is not in its store looks like 100 %.
    let (whole, rest) = (RangeSet::from_text("0-1000").unwrap(), RangeSet::from_text("0-500").unwrap());
    let p = |idx, have| FileProgress { idx, have, digest: None, digest_at: 0, verified: true, ..FileProgress::default() };
    store.record_files(recv, &[p(0, whole), p(1, rest)]).await.unwrap();
    let percent = |id: i64| format!("select percent from v_tasks where task = (select name from tasks where id = {id})");
    assert_eq!(one(&store, &percent(recv)).await, "99.999");
    store.move_task(recv, TaskState::Downloading, TaskState::Downloaded, "", 9_000).await.unwrap();
    assert_eq!(one(&store, &percent(recv)).await, "100");
    store.move_task(send, TaskState::Uploading, TaskState::History, "cancelled", 9_000).await.unwrap();
    assert_eq!(one(&store, &percent(send)).await, "66.667");
}

#[tokio::test]
async fn schedules_say_what_each_method_waits_for_and_tasks_when_they_end() {
    let (_dir, store) = open().await;
    let (recv, send) = fill(&store).await;
    let ms = 3_600_000;
    let now = chrono::Utc::now().timestamp_millis() / 1000 * 1000;
    let local = |at: i64| chrono::Local.timestamp_millis_opt(at).unwrap().format("%Y-%m-%d %H:%M:%S").to_string();
    let row = async || one(&store, "select waits_for, runs_at from v_schedules where role = 'receiver'").await;
    let leg = async |state, retry_at| store.set_leg(recv, Method::Cdn, state, "", 0, retry_at).await.unwrap();
    let window = async |opens: Option<i64>| store.set_schedule(recv, Method::Cdn, opens.is_none(), opens, None).await.unwrap();
    assert_eq!(row().await, "|NULL", "it runs");
    leg(LegState::Waiting, None).await;
    assert_eq!(row().await, "turn|NULL");
    leg(LegState::Waiting, Some(now + ms)).await;
    assert_eq!(row().await, format!("retry|{}", local(now + ms)));
    window(Some(now + 2 * ms)).await;
    assert_eq!(row().await, format!("window|{}", local(now + 2 * ms)));
    leg(LegState::Waiting, Some(now + 3 * ms)).await;
    assert_eq!(row().await, format!("retry|{}", local(now + 3 * ms)));
    leg(LegState::Waiting, None).await;
    assert_eq!(row().await, format!("window|{}", local(now + 2 * ms)));
    leg(LegState::Done, None).await;
    assert_eq!(row().await, "done|NULL");
    window(None).await;
    leg(LegState::Waiting, None).await;
    store.move_task(recv, TaskState::Downloading, TaskState::Queues, "", 9_000).await.unwrap();
    assert_eq!(row().await, "place|NULL");
    store.move_task(recv, TaskState::Queues, TaskState::History, "cancelled", 9_000).await.unwrap();
    assert_eq!(row().await, "", "what is over is not planned");

    let sender = "select eta_minutes, expected_at, at_risk from v_tasks where role = 'sender'";
    assert_eq!(one(&store, sender).await, "2|NULL|");
    let outlook = Outlook { expected_at: Some(now + 90 * 60_000), risk: "obs: late".into() };
    store.record_outlooks(&[(send, outlook), (9999, Outlook::default())]).await.unwrap();
    let cells = one(&store, sender).await;
    assert!(["90", "91"].iter().any(|m| cells == format!("{m}|{}|obs: late", local(now + 90 * 60_000))), "{cells}");
    // Left by a service that does not run any more.
    store.record_outlooks(&[(send, Outlook { expected_at: Some(now - ms), risk: String::new() })]).await.unwrap();
    assert_eq!(one(&store, sender).await, format!("2|{}|", local(now - ms)));
    store.move_task(send, TaskState::Uploading, TaskState::Uploaded, "", 9_000).await.unwrap();
    assert_eq!(one(&store, sender).await, "0|NULL|");
}

#[tokio::test]
async fn the_schema_changes_only_on_purpose() {
    let (_dir, store) = open().await;
    let sql = "select sql || ';' from sqlite_schema where sql is not null and tbl_name not like '\\_sqlx%' escape '\\' \
               and name not like 'sqlite%' order by type desc, name";
    let now: String = one(&store, sql).await + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/schema.sql");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    for (n, (old, new)) in kept.lines().zip(now.lines()).enumerate() {
        assert_eq!(old, new, "line {} of tests/snapshots/schema.sql; see the top of this test", n + 1);
    }
    assert_eq!(kept.lines().count(), now.lines().count(), "the schema has other parts than its snapshot");
}
