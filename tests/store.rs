//! The database: what was accepted is there, rows move only as they may, and rules hold in the schema too.

mod task_rows;

use bft2::model::ranges::RangeSet;
use bft2::model::span::{Method, Span};
use bft2::model::task::{LegState, Role, TaskState};
use bft2::store::Store;
use bft2::store::generations::GenerationState;
use bft2::store::hashtable::FileStamp;
use bft2::store::legs::LegSample;
use bft2::store::library::{LibraryFile, PackageRow};
use bft2::store::library_queue::{HashedFile, Put, QueueLength, QueuedFile, Wait};
use bft2::store::task_files::FileProgress;
use bft2::store::tasks::{NewSpan, NewTask};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use task_rows::{new_file, reception, sha1, task_name};
use tempfile::TempDir;

async fn open() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
    (dir, store)
}

/// A connection of the test's own, as the store's: foreign keys on, no other guard.
async fn raw(store: &Store) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(store.path())
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(20))
        .connect()
        .await
        .unwrap()
}

async fn number(store: &Store, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut raw(store).await).await.unwrap()
}

fn film() -> NewTask {
    let files = vec![new_file("a.mxf", &[1; 1000]), new_file("b.mxf", &[2; 500]), new_file("c.xml", &[3; 20])];
    let mut t = reception("film.task.json", Path::new("/store/Film_FTR"), files);
    t.schedules = vec![(Method::Cdn, "08:00-18:00".into())];
    t
}

#[tokio::test]
async fn an_accepted_task_is_there_whole_or_not_at_all() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 7).await.unwrap();
    let row = store.task(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.bytes_total, row.created_at, row.revision), (TaskState::Queues, 1520, 7, 1));
    assert_eq!(store.task_files(id).await.unwrap().len(), 3);
    assert_eq!(store.legs(id).await.unwrap()[0].windows.as_deref(), Some("08:00-18:00"));

    // The second leg of a method breaks a key at the very end of the transaction: nothing of the task stays, the old one does.
    let mut broken = film();
    broken.legs.push((Method::Cdn, 1));
    assert!(store.accept_task(&broken, 8).await.is_err());
    assert_eq!(store.task_by_name(Role::Recv, &row.name).await.unwrap().map(|t| (t.id, t.created_at)), Some((id, 7)));
    assert_eq!(number(&store, "select count(*) from task_files").await, 3);

    // Accepted anew: a new row with a new number, nothing left of the old one.
    store.save_checkpoint(id, Method::Cdn, "etag", "x").await.unwrap();
    store.refuse_file(id, 0, Some(Method::Cdn), "gone", 9).await.unwrap();
    let again = store.accept_task(&film(), 9).await.unwrap();
    assert!(again > id);
    assert!(store.task(id).await.unwrap().is_none());
    for table in ["task_files", "spans", "legs", "schedules", "refusals", "checkpoints"] {
        let old = number(&store, &format!("select count(*) from {table} where task_id = {id}")).await;
        assert_eq!(old, 0, "{table}");
    }
    // The other role's task of the same name is another task.
    let send = NewTask { role: Role::Send, ..film() };
    store.accept_task(&send, 10).await.unwrap();
    assert_eq!(number(&store, "select count(*) from tasks").await, 2);
}

#[tokio::test]
async fn a_commit_survives_without_a_close() {
    let (dir, store) = open().await;
    let id = store.accept_task(&film(), 7).await.unwrap();
    // What a killed process leaves: the files as they are now, in another place.
    let copy = dir.path().join("copy.db");
    std::fs::copy(store.path(), &copy).unwrap();
    std::fs::copy(dir.path().join("bft2.db-wal"), dir.path().join("copy.db-wal")).unwrap();
    let after = Store::open(&copy).await.unwrap();
    assert_eq!(after.task(id).await.unwrap().unwrap().name, task_name("film.task.json"));
    assert_eq!(after.task_spans(id).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_task_moves_only_from_where_it_was_seen_and_where_the_model_allows() {
    use TaskState::*;
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    assert!(!store.move_task(id, Downloading, Downloaded, "", 2).await.unwrap(), "it is not there");
    for illegal in [Uploading, Uploaded, Failed, Queues] {
        assert!(!store.move_task(id, Queues, illegal, "", 2).await.unwrap(), "{illegal}");
    }
    assert!(store.move_task(id, Queues, Downloading, "", 2).await.unwrap());
    assert!(!store.move_task(id, Queues, Downloading, "", 3).await.unwrap(), "somebody was faster");
    assert!(store.move_task(id, Downloading, DownloadError, "file a.mxf: gone", 4).await.unwrap());
    let row = store.task(id).await.unwrap().unwrap();
    assert_eq!((row.reason.as_str(), row.started_at, row.revision), ("file a.mxf: gone", Some(2), 3));
    // Of many at the same time one wins.
    let racers = (0..8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.move_task(id, DownloadError, History, "cancelled", 10 + n).await.unwrap() })
    });
    let won = futures::future::join_all(racers).await.into_iter().filter(|r| *r.as_ref().unwrap()).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn received_again_keeps_what_is_on_disk() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    store.move_task(id, TaskState::Queues, TaskState::Downloading, "", 2).await.unwrap();
    assert!(store.set_stage_inode(id, 4711, Some(5)).await.unwrap());
    store.refuse_file(id, 1, Some(Method::Cdn), "gone", 3).await.unwrap();
    let mut have = RangeSet::new();
    have.insert(0..300);
    let p = FileProgress {
        idx: 0,
        have: have.clone(),
        digest: Some(vec![7; 92]),
        digest_at: 300,
        verified: false,
        ..FileProgress::default()
    };
    store.record_files(id, &[p]).await.unwrap();
    let mut again = film();
    again.legs = vec![(Method::Obs, 1520)];
    again.spans.iter_mut().for_each(|s| s.method = Some(Method::Obs));
    store.resume_task(id, &again, 9).await.unwrap();
    let row = store.task(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.stage_inode, row.started_at, row.created_at), (TaskState::Queues, Some(4711), None, 9));
    let file = &store.task_files(id).await.unwrap()[0];
    assert_eq!((&file.have, file.digest_at, file.digest.as_deref()), (&have, 300, Some(&[7; 92][..])));
    assert_eq!(store.legs(id).await.unwrap().iter().map(|l| l.method).collect::<Vec<_>>(), [Method::Obs]);
    assert!(store.refusals(id).await.unwrap().is_empty(), "a person asks again: everybody gets another chance");
}

#[tokio::test]
async fn recorded_progress_reads_back() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    let mut have = RangeSet::new();
    have.insert(0..10);
    have.insert(20..30);
    let progress = |idx, have: &RangeSet, verified| FileProgress {
        idx,
        have: have.clone(),
        digest: None,
        digest_at: 0,
        verified,
        ..FileProgress::default()
    };
    store
        .record_files(id, &[progress(0, &have, false), progress(2, &have, true), progress(1, &RangeSet::new(), false)])
        .await
        .unwrap();
    let files = store.task_files(id).await.unwrap();
    assert_eq!(files.iter().map(|f| (f.have.total(), f.verified)).collect::<Vec<_>>(), [(20, false), (0, false), (20, true)]);
    let states = "select group_concat(state || bytes_done, ' ') from (select * from task_files order by idx)";
    let text: String = sqlx::query_scalar(states).fetch_one(&mut raw(&store).await).await.unwrap();
    assert_eq!(text, "partial20 waiting0 verified20");
}

/// Sums and states after each hand-over: no span is nobody's, no leg has done more than it has to do.
#[tokio::test]
async fn handing_files_over_keeps_the_sums() {
    let (_dir, store) = open().await;
    let mut t = film();
    let half = |file, offset, method| NewSpan { span: Span { file, offset, len: 500 }, method: Some(method), planned: method };
    t.files[2].local_source = Some("/library/c.xml".into());
    t.spans = vec![half(0, 0, Method::Bt), half(0, 500, Method::Cdn), half(1, 0, Method::Cdn)];
    t.spans.push(NewSpan { span: Span { file: 2, offset: 0, len: 20 }, method: None, planned: Method::Obs });
    t.legs = vec![(Method::Bt, 500), (Method::Cdn, 1000)];
    t.bytes_local = 20;
    let id = store.accept_task(&t, 1).await.unwrap();
    for (method, done) in [(Method::Bt, 500), (Method::Cdn, 900)] {
        store.record_legs(&[sample(id, method, done)], false, 1).await.unwrap();
        store.set_leg(id, method, LegState::Done, "", 0, None).await.unwrap();
    }
    let legs = async || {
        let all = store.legs(id).await.unwrap();
        all.iter()
            .map(|l| (l.method.as_str(), l.state.as_str(), l.bytes_total, l.bytes_done))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(m, s, t, d)| format!("{m} {s} {d}/{t}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    store.reassign_files(id, &[(1, Method::Obs)], Some(Method::Cdn), "404", 5).await.unwrap();
    assert_eq!(legs().await, "bt done 500/500, cdn done 500/500, obs waiting 0/500");
    // Only the failed method's part of a split file moves; a leg that was done has work again.
    store.set_leg(id, Method::Obs, LegState::Done, "", 0, None).await.unwrap();
    store.reassign_files(id, &[(0, Method::Obs)], Some(Method::Cdn), "404", 6).await.unwrap();
    assert_eq!(legs().await, "bt waiting 500/500, cdn done 0/0, obs waiting 0/1000");
    // A library copy that was wrong goes to whom the sender meant.
    store.reassign_files(id, &[(2, Method::Cdn)], None, "stale", 7).await.unwrap();
    assert_eq!(legs().await, "bt waiting 500/500, cdn done 0/0, obs waiting 0/1020");
    assert_eq!(store.task(id).await.unwrap().unwrap().bytes_local, 0);
    assert_eq!(store.task_files(id).await.unwrap()[2].local_source, None);
    let spans = store.task_spans(id).await.unwrap();
    assert_eq!(spans.iter().map(|s| s.span.len).sum::<u64>(), 1520);
    assert!(spans.iter().all(|s| s.method.is_some()));
    assert_eq!(spans[1].planned, Method::Cdn, "what the sender meant is kept");
    let refused: Vec<_> = store.refusals(id).await.unwrap().into_iter().map(|(n, m, _)| (n, m)).collect();
    assert_eq!(refused, [(1, Some(Method::Cdn)), (0, Some(Method::Cdn)), (2, None)]);
}

/// Who helps gets ends of spans: no byte is nobody's or two's, and nobody is refused for it.
#[tokio::test]
async fn ends_of_spans_change_hands() {
    let (_dir, store) = open().await;
    let mut t = film();
    let half = |offset| NewSpan { span: Span { file: 0, offset, len: 500 }, method: Some(Method::Obs), planned: Method::Obs };
    let rest = [(1, 500), (2, 20)].map(|(file, len)| NewSpan {
        span: Span { file, offset: 0, len },
        method: Some(Method::Cdn),
        planned: Method::Cdn,
    });
    t.spans = [half(0), half(500)].into_iter().chain(rest).collect();
    t.legs = vec![(Method::Obs, 1000), (Method::Cdn, 520)];
    let id = store.accept_task(&t, 1).await.unwrap();
    let given = [(half(500).span, 500), (half(0).span, 300)];
    assert!(!store.give_spans(id, Method::Obs, Method::Cdn, &given).await.unwrap(), "it is not at work");
    assert!(store.move_task(id, TaskState::Queues, TaskState::Downloading, "", 2).await.unwrap());
    store.set_leg(id, Method::Obs, LegState::Waiting, "obs: away", 1, Some(99)).await.unwrap();
    store.set_leg(id, Method::Cdn, LegState::Done, "", 0, None).await.unwrap();
    let state = async || {
        let spans = store.task_spans(id).await.unwrap();
        let of = |s: &bft2::store::task_files::SpanRow| format!("{}+{} {}", s.span.offset, s.span.len, s.method.unwrap());
        let first: Vec<_> = spans.iter().filter(|s| s.span.file == 0).map(of).collect();
        assert!(spans.iter().filter(|s| s.span.file == 0).all(|s| s.planned == Method::Obs), "what the sender meant is kept");
        let legs = store.legs(id).await.unwrap();
        let legs: Vec<_> = legs.iter().map(|l| format!("{} {} {} {:?}", l.method, l.state, l.bytes_total, l.retry_at)).collect();
        format!("{}; {}", first.join(", "), legs.join(", "))
    };
    assert!(store.give_spans(id, Method::Obs, Method::Cdn, &given).await.unwrap());
    let want = "0+300 obs, 300+200 cdn, 500+500 cdn; cdn waiting 1220 None, obs waiting 300 Some(99)";
    assert_eq!(state().await, want);
    // Again, as after a lost answer: what was given is not the giver's any more.
    assert!(store.give_spans(id, Method::Obs, Method::Cdn, &given).await.unwrap());
    assert_eq!(state().await, want);
    assert!(store.give_spans(id, Method::Obs, Method::Cdn, &[(Span { file: 0, offset: 0, len: 300 }, 0)]).await.unwrap());
    assert_eq!(state().await, "0+300 cdn, 300+200 cdn, 500+500 cdn; cdn waiting 1520 None, obs done 0 None");
    assert_eq!(store.refusals(id).await.unwrap(), []);
}

/// Sent again, an upload goes on: its parts lie in the bucket, and nobody else knows of them. Cancelled, it is found.
#[tokio::test]
async fn notes_of_uploads_outlive_their_task() {
    let (_dir, store) = open().await;
    let by = |method| NewTask { role: Role::Send, legs: vec![(method, 1220)], ..film() };
    let t = by(Method::Obs);
    let id = store.accept_task(&t, 1).await.unwrap();
    for (key, value) in [("upload:dcps/film/a.mxf", "{}"), ("entity:a.mxf", "{}")] {
        store.save_checkpoint(id, Method::Obs, key, value).await.unwrap();
    }
    assert_eq!(store.forsaken_uploads().await.unwrap(), []);
    assert!(store.move_task(id, TaskState::Queues, TaskState::History, "cancelled", 2).await.unwrap());
    let keys = vec!["upload:dcps/film/a.mxf".to_owned()];
    assert_eq!(store.forsaken_uploads().await.unwrap(), [(id, keys.clone())]);
    let again = store.accept_task(&t, 3).await.unwrap();
    assert_eq!(store.forsaken_uploads().await.unwrap(), []);
    assert_eq!(store.checkpoint(again, Method::Obs, &keys[0]).await.unwrap().as_deref(), Some("{}"));
    assert_eq!(store.checkpoint(again, Method::Obs, "entity:a.mxf").await.unwrap(), None);
    // Sent without a share for the bucket, or when that is done: nobody goes on with what is left.
    store.set_leg(again, Method::Obs, LegState::Done, "", 0, None).await.unwrap();
    assert_eq!(store.forsaken_uploads().await.unwrap(), [(again, keys.clone())]);
    let without = store.accept_task(&by(Method::Cdn), 4).await.unwrap();
    assert_eq!(store.forsaken_uploads().await.unwrap(), [(without, keys.clone())]);
}

fn sample(task: i64, method: Method, done: u64) -> LegSample {
    let (add_wire, add_sent, add_active_ms) = (done, 0, 1000);
    LegSample {
        task,
        method,
        bytes_done: done,
        add_wire,
        add_sent,
        add_active_ms,
        rate: 10,
        peers: 0,
        ready: false,
        measured: None,
    }
}

#[tokio::test]
async fn samples_of_a_task_that_is_gone_are_no_error() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    store.record_legs(&[sample(id, Method::Cdn, 10), sample(id + 1, Method::Cdn, 10)], true, 5).await.unwrap();
    store.record_legs(&[sample(id, Method::Cdn, 30)], true, 6).await.unwrap();
    assert_eq!(number(&store, "select count(*) from progress_samples").await, 2);
    let leg = &store.legs(id).await.unwrap()[0];
    assert_eq!((leg.bytes_done, leg.bytes_wire), (30, 40), "wire bytes add up, repeats included");
}

#[tokio::test]
async fn old_samples_are_thinned_to_one_a_minute_in_bounded_time() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    // A day and an hour of samples every two seconds.
    let (day, step) = (24 * 3_600_000i64, 2000);
    let last = day + 3_600_000;
    let sql = format!(
        "insert into progress_samples select {id}, 'cdn', value, value, 100 + value / 2000 % 2, 0 from \
         (with recursive n(value) as (select 60000 union all select value + {step} from n where value < {last}) select value from n)"
    );
    raw(&store).await.execute(AssertSqlSafe(sql)).await.unwrap();
    let start = Instant::now();
    store.drop_samples(3_600_000).await.unwrap();
    store.thin_samples(day, 60_000).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}: nobody can write meanwhile", start.elapsed());
    assert_eq!(number(&store, "select count(*) from progress_samples where at < 3600000").await, 0, "too old");
    let fine = number(&store, &format!("select count(*) from progress_samples where at >= {day}")).await;
    assert_eq!(fine, 3600 / 2 + 1, "new ones stay");
    assert_eq!(number(&store, &format!("select count(*) from progress_samples where at < {day}")).await, 23 * 60);
    let minute = "select bytes_done * 1000 + rate from progress_samples where at between 7200000 and 7259999";
    assert_eq!(number(&store, minute).await, 7_258_000 * 1000 + 100, "the last sample with the minute's average rate");
    store.thin_samples(day, 60_000).await.unwrap();
    assert_eq!(number(&store, minute).await, 7_258_000 * 1000 + 100, "may be repeated");
    store.thin_samples(day, 3_600_000).await.unwrap();
    assert_eq!(number(&store, &format!("select count(*) from progress_samples where at < {day}")).await, 23);
    let hour = "select bytes_done * 1000 + rate from progress_samples where at between 7200000 and 10799999";
    assert_eq!(number(&store, hour).await, 10_798_000 * 1000 + 100, "the last sample with the hour's average rate");
}

#[tokio::test]
async fn a_cancelled_generation_stays_cancelled() {
    let (_dir, store) = open().await;
    let id = store.queue_generation("/dcp/A", "/tmp/a.task.json", "{}", false, 1).await.unwrap().unwrap();
    assert_eq!(
        store.queue_generation("/dcp/A", "/tmp/other.task.json", "{}", false, 1).await.unwrap(),
        None,
        "the package is busy"
    );
    assert_eq!(
        store.queue_generation("/dcp/B", "/tmp/a.task.json", "{}", false, 1).await.unwrap(),
        None,
        "the task file is busy"
    );
    assert!(!store.cancel_generation("b.task.json", 2).await.unwrap());
    assert!(!store.cancel_generation("task.json", 2).await.unwrap(), "a whole name, not an ending");
    assert!(store.cancel_generation("a.task.json", 2).await.unwrap());
    for late in [GenerationState::Running, GenerationState::Queued, GenerationState::Finished] {
        store.set_generation(id, late, "", 3).await.unwrap();
        assert_eq!(store.generation("/dcp/A", "/tmp/a.task.json").await.unwrap().unwrap().state, GenerationState::Cancelled);
    }
    assert!(store.live_generations().await.unwrap().is_empty());
    let next = store.queue_generation("/dcp/A", "/tmp/a.task.json", "{}", false, 4).await.unwrap().unwrap();
    assert_ne!(next, id);
    store.record_generation(next, 5, 9).await.unwrap();
    store.set_generation(next, GenerationState::Failed, "no", 5).await.unwrap();
    let row = store.generation("/dcp/A", "/tmp/a.task.json").await.unwrap().unwrap();
    assert_eq!((row.state, row.bytes_done, row.error.as_str()), (GenerationState::Failed, 5, "no"));
}

/// What a job of `sends` made is accepted and noted as sent in one step, or neither.
#[tokio::test]
async fn what_was_generated_is_sent_once() {
    let (_dir, store) = open().await;
    let id = store.queue_generation("/dcp/A", "/tmp/a.task.json", "{}", true, 1).await.unwrap().unwrap();
    store.set_generation(id, GenerationState::Finished, "", 2).await.unwrap();
    assert_eq!(store.generations_to_send().await.unwrap().len(), 1);
    store.accept_generated(&film(), id, 3).await.unwrap();
    assert!(store.generations_to_send().await.unwrap().is_empty());
    assert_eq!(store.generation_sending(id).await.unwrap(), Some(("sent".into(), String::new())));
    assert!(store.accept_generated(&film(), id, 4).await.is_err());
    assert_eq!(number(&store, "SELECT created_at FROM tasks").await, 3, "the first one stays");
    store.set_generation_refused(id, "late").await.unwrap();
    assert_eq!(store.generation_sending(id).await.unwrap(), Some(("sent".into(), String::new())));
}

fn package(dir: &str, names: &[&str]) -> (PackageRow, Vec<LibraryFile>) {
    let file = |(n, name): (usize, &&str)| LibraryFile {
        path: PathBuf::from(dir).join(name),
        size: 100,
        mtime_ns: 5,
        inode: n as u64,
        sha1: sha1(name.as_bytes()),
    };
    let files: Vec<_> = names.iter().enumerate().map(file).collect();
    let row = PackageRow {
        path: dir.into(),
        name: "Film_FTR".into(),
        verdict: "complete".into(),
        title: String::new(),
        files: files.len() as u64,
        bytes: 100 * files.len() as u64,
    };
    (row, files)
}

#[tokio::test]
async fn the_end_of_a_reception_is_one_step() {
    let (_dir, store) = open().await;
    let mut t = film();
    t.legs.push((Method::Bt, 0));
    let id = store.accept_task(&t, 1).await.unwrap();
    store.move_task(id, TaskState::Queues, TaskState::Downloading, "", 2).await.unwrap();
    store.set_leg(id, Method::Bt, LegState::Done, "", 0, None).await.unwrap();
    let (row, files) = package("/store/Film_FTR", &["a.mxf", "b.mxf"]);
    assert!(store.finish_reception(id, &row, &files, "{\"a\":1}", Some(99), 5).await.unwrap());
    let task = store.task(id).await.unwrap().unwrap();
    assert_eq!((task.state, task.seed_until, task.finished_at), (TaskState::Downloaded, Some(99), Some(5)));
    assert_eq!(store.library_below(Path::new("/store/Film_FTR")).await.unwrap().len(), 2);
    assert_eq!(store.library_below(Path::new("/store/Film")).await.unwrap().len(), 0, "a directory, not a prefix");
    let bt = store.legs(id).await.unwrap().into_iter().find(|l| l.method == Method::Bt).unwrap();
    assert_eq!(bt.state, LegState::Waiting, "it seeds from now on, also after a crash at this moment");
    // Cancelled at the last moment: the package is in the library, the task stays where the person put it.
    store.move_task(id, TaskState::Downloaded, TaskState::History, "cancelled", 6).await.unwrap();
    assert!(!store.finish_reception(id, &row, &files[..1], "{}", None, 7).await.unwrap());
    assert_eq!(store.task(id).await.unwrap().unwrap().state, TaskState::History);
    assert_eq!(store.library_below(Path::new("/store/Film_FTR")).await.unwrap().len(), 1, "files that are gone are dropped");
}

/// A database from before the hash table was exported: its rows and their ids stay, and ids are not given again.
#[tokio::test]
async fn an_older_library_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (old, path) = (dir.path().join("migrations"), dir.path().join("bft2.db"));
    std::fs::create_dir(&old).unwrap();
    for name in ["0001_tables.sql", "0002_views.sql"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(name), old.join(name)).unwrap();
    }
    let mut db = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::migrate::Migrator::new(old).await.unwrap().run(&mut db).await.unwrap();
    for (id, file) in [(3, "b"), (9, "a")] {
        let sql = format!("insert into library_files values ({id}, '/p/{file}', 5, 6, 7, x'{}', 8, '/p')", "0a".repeat(20));
        db.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    sqlx::Connection::close(db).await.unwrap();

    let store = Store::open(&path).await.unwrap();
    assert_eq!(number(&store, "select count(*) from v_library where package = '/p' and size = 5").await, 2);
    assert_eq!(store.newest_library_row().await.unwrap(), 9);
    let rows = store.library_rows(&["/p/a", "/p/c", "/p/b"]).await.unwrap();
    let same = bft2::model::ids::Sha1([10; 20]);
    assert_eq!(rows, [Some((9, same)), None, Some((3, same))]);
    assert_eq!(store.library_page("/p/a", 9, 5).await.unwrap(), [("/p/b".to_owned(), same)]);
    assert_eq!(store.library_page("", 3, 5).await.unwrap(), [("/p/b".to_owned(), same)]);

    // A change of a file that was seen before its line was taken out is not hashed: the row would come back.
    let queued = "select count(*) from v_hash_queue where path = '/p/a'";
    let queue = "insert into library_queue (path, size, due_at) values ('/p/a', 5, 0), ('/p/b', 5, 0)";
    SqliteConnectOptions::new().filename(&path).connect().await.unwrap().execute(queue).await.unwrap();
    assert_eq!(number(&store, queued).await, 1);
    let before = store.library_changes();
    assert_eq!(store.forget_unlisted(&[3], 9).await.unwrap(), 1);
    assert_eq!(number(&store, queued).await, 0);
    assert_eq!(number(&store, "select count(*) from v_hash_queue").await, 1, "of others it is");
    assert!(store.library_changes() > before);
    let (package, files) = package("/p2", &["new"]);
    store.put_package(&package, &files, 1).await.unwrap();
    assert_eq!(store.newest_library_row().await.unwrap(), 10, "9 was free");
    assert_eq!(store.forget_unlisted(&[], 9).await.unwrap(), 1, "the new row is newer");
}

/// A package that is received again: whoever edited the exported table saw the files that are as they were.
#[tokio::test]
async fn files_that_are_as_they_were_keep_their_rows() {
    let (_dir, store) = open().await;
    let (row, mut files) = package("/p", &["a", "b", "c"]);
    let ids = async || {
        store
            .library_rows(&["/p/a", "/p/b", "/p/c", "/p/d"])
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.map(|(id, _)| id))
            .collect::<Vec<_>>()
    };
    store.put_package(&row, &files, 1).await.unwrap();
    assert_eq!(ids().await, [Some(1), Some(2), Some(3), None]);
    files[1].mtime_ns += 1;
    files[2].path = "/p/d".into();
    store.put_package(&row, &files, 2).await.unwrap();
    assert_eq!(ids().await, [Some(1), Some(4), None, Some(5)]);
    assert_eq!(number(&store, "select count(*) from library_files where hashed_at = 2 and package = '/p'").await, 3);
    store.put_package(&row, &[], 3).await.unwrap();
    assert_eq!(number(&store, "select count(*) from library_files").await, 0);
}

#[tokio::test]
async fn queued_files_become_rows_once() {
    let (_dir, store) = open().await;
    let (a, b) = (sha1(b"a"), sha1(b"b"));
    let line = |path: &str, listed| QueuedFile { path: path.into(), listed: Some(listed), stamp: None, anew: false, due_at: 0 };
    let due = async |now| store.due_library_files(now, 9).await.unwrap().into_iter().map(|f| f.queued).collect::<Vec<_>>();
    store.put_package(&package("/p/film", &[]).0, &[], 1).await.unwrap();
    store.queue_library_files(&[line("/p/film/b", a), line("/p/film/a", a)]).await.unwrap();
    store.queue_library_files(&[line("/p/film/a", b)]).await.unwrap();
    assert_eq!(due(1).await, [line("/p/film/a", b), line("/p/film/b", a)]);

    let file = |path: &str, sha1| LibraryFile { path: path.into(), size: 1, mtime_ns: 2, inode: 3, sha1 };
    let hashed = |path: &str, sha1| HashedFile { file: file(path, sha1), ctime_ns: 4, born_ns: 1 };
    let told = std::sync::Mutex::new(None);
    let put = async |path: &str, sha1, due_at| {
        let tell = |path: &str, was, is| {
            *told.lock().unwrap() = Some((path.to_owned(), was, is));
            None
        };
        store.put_hashed_files(&[(hashed(path, sha1), due_at)], 5, tell).await.unwrap()
    };
    assert_eq!(put("/p/film/a", a, 0).await, [Put::Done]);
    assert_eq!(put("/p/film/a", b, 0).await, [Put::Outdated], "it is not in the queue any more");
    assert_eq!(store.library_below(Path::new("/p/film")).await.unwrap(), [file("/p/film/a", a)]);
    assert_eq!(number(&store, "select count(*) from v_library where package = '/p/film'").await, 1);
    // A row that is refreshed keeps its id: an export that shows it stays valid for it. Other bytes in a file that looks the
    // same are damage.
    let id = store.newest_library_row().await.unwrap();
    store.queue_library_files(&[line("/p/film/a", b), line("/elsewhere", b)]).await.unwrap();
    assert_eq!(put("/p/film/a", b, 0).await, [Put::Damaged]);
    assert_eq!(told.lock().unwrap().take(), Some(("/p/film/a".into(), a, b)));
    assert_eq!(store.library_rows(&["/p/film/a"]).await.unwrap(), [Some((id, b))]);

    store.queue_library_files(&[line("/p/film/a", a)]).await.unwrap();
    store.refuse_queued_files(&[("/p/film/a".into(), 0)]).await.unwrap();
    assert_eq!(store.library_below(Path::new("/p/film")).await.unwrap(), []);

    // A scan knows how a file looks and no digest; what a line said stays. Told again, it keeps its time; changed, it waits
    // anew, and what was hashed meanwhile does not count.
    let stamp = |size| Some(FileStamp { size, mtime_ns: 8, inode: 9, ctime_ns: 10 });
    let found = QueuedFile { path: "/elsewhere".into(), listed: None, stamp: stamp(7), anew: false, due_at: 500 };
    assert_eq!(store.queue_library_files(std::slice::from_ref(&found)).await.unwrap(), 0);
    let other = QueuedFile { path: "/a".into(), ..found.clone() };
    assert_eq!(store.queue_library_files(std::slice::from_ref(&other)).await.unwrap(), 1);
    assert_eq!(due(1).await, [line("/p/film/b", a)]);
    store.queue_library_files(&[QueuedFile { due_at: 900, ..other.clone() }]).await.unwrap();
    assert_eq!(due(500).await, [line("/p/film/b", a), other.clone(), QueuedFile { listed: Some(b), ..found.clone() }]);
    assert_eq!(store.library_queue().await.unwrap(), QueueLength { files: 3, bytes: 14 }, "a line tells no size");
    let changed = QueuedFile { stamp: stamp(8), due_at: 900, ..other.clone() };
    store.queue_library_files(std::slice::from_ref(&changed)).await.unwrap();
    assert_eq!(put("/a", a, 500).await, [Put::Outdated]);
    assert_eq!(due(900).await[2], changed);
    // Due next week: the clock was set back.
    assert_eq!(due(900 - 7 * 24 * 3_600_000).await.len(), 3);

    store
        .postpone_queued_files(
            &[("/a".into(), 900, FileStamp { size: 8, mtime_ns: 8, inode: 9, ctime_ns: 10 })],
            Wait::Written,
            950,
        )
        .await
        .unwrap();
    assert_eq!(due(900).await.len(), 2);
    assert_eq!(store.due_library_files(950, 9).await.unwrap()[2].wait, Some(Wait::Written));
    // Seen again, it may be whole now.
    store.queue_library_files(&[QueuedFile { due_at: 960, ..changed }]).await.unwrap();
    assert_eq!(store.due_library_files(960, 9).await.unwrap()[2].wait, None);
    store.clear_library_queue().await.unwrap();
    assert_eq!(store.next_library_file_due().await.unwrap(), None);
}

#[tokio::test]
async fn the_library_finds_equal_files() {
    let (_dir, store) = open().await;
    let (row, files) = package("/store/Film_FTR", &["a.mxf", "b.mxf"]);
    store.put_package(&row, &files, 1).await.unwrap();
    let wanted = [(sha1(b"x"), 100), (sha1(b"b.mxf"), 100), (sha1(b"a.mxf"), 99), (sha1(b"b.mxf"), 100)];
    let found = store.find_same(&wanted).await.unwrap();
    assert_eq!(found, [vec![], vec![files[1].clone()], vec![], vec![files[1].clone()]]);
    store.forget_library_file(&files[1].path).await.unwrap();
    assert_eq!(store.find_same(&wanted[1..2]).await.unwrap(), [vec![]]);
}

/// What the schema refuses even from a person with a shell.
#[tokio::test]
async fn bad_rows_are_refused_by_the_schema() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    let mut db = raw(&store).await;
    for (why, sql) in [
        ("unknown state", "update tasks set state = 'sleeping'".to_owned()),
        ("unknown role", "update tasks set role = 'boss'".into()),
        ("negative size", "update tasks set bytes_total = -1".into()),
        ("text for a number (STRICT)", "update tasks set bytes_total = 'many'".into()),
        ("no JSON", "update tasks set document = 'no'".into()),
        ("unknown method", "update legs set method = 'ftp'".into()),
        ("unknown leg state", "update legs set state = 'tired'".into()),
        ("short digest", "update task_files set sha1 = x'00'".into()),
        ("span of no file", format!("insert into spans values ({id}, 99, 0, 1, 'bt', 'bt')")),
        ("leg of no task", "insert into legs (task_id, method, state) values (99, 'bt', 'waiting')".into()),
        ("refusal of no file", format!("insert into refusals values ({id}, 99, 'bt', '', 1)")),
        ("planned for nobody", format!("insert into spans values ({id}, 0, 5, 1, 'bt', 'local')")),
        ("unknown level", "insert into events (at, level, kind, text) values (1, 'loud', 'x', 'y')".into()),
        ("a torn piece hash", "insert into torrents values ('/p', '[]', 1, x'0011', 1)".into()),
        (
            "the same task twice",
            "insert into tasks (role, name, package, basesubdir, state, policy, ratio, bytes_total, document, \
          created_at) select role, name, package, basesubdir, state, policy, ratio, bytes_total, document, 1 from tasks"
                .into(),
        ),
    ] {
        assert!(db.execute(AssertSqlSafe(sql)).await.is_err(), "{why} was let in");
    }
    let loose = "select count(*) from pragma_table_list where schema = 'main' and type = 'table' and not strict \
                 and name not like 'sqlite%' and name not like '\\_sqlx%' escape '\\'";
    assert_eq!(number(&store, loose).await, 0, "every table is STRICT");
    assert!(store.accept_task(&NewTask { bytes_total: u64::MAX, ..film() }, 1).await.is_ok_and(|i| i > id), "capped");
}

#[tokio::test]
async fn a_reader_that_takes_its_time_stops_nobody() {
    let (_dir, store) = open().await;
    store.accept_task(&film(), 1).await.unwrap();
    let mut slow = raw(&store).await;
    slow.execute("begin").await.unwrap();
    let before: i64 = sqlx::query_scalar("select count(*) from events").fetch_one(&mut slow).await.unwrap();
    let start = Instant::now();
    for n in 0..20 {
        store.add_event(bft2::store::events::Level::Info, "test", "", "test", "while somebody reads", n).await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
    let now: i64 = sqlx::query_scalar("select count(*) from events").fetch_one(&mut slow).await.unwrap();
    assert_eq!(now, before, "the reader sees one state of things");
    assert_eq!(number(&store, "select count(*) from events").await, 20);
    store.prune_events(10, 10).await.unwrap();
    assert_eq!(number(&store, "select count(*) from events").await, 10);
}

#[tokio::test]
async fn only_the_owner_can_read_the_database() {
    let (dir, store) = open().await;
    store.accept_task(&film(), 1).await.unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}: {mode:o}", entry.file_name());
        seen += 1;
    }
    assert_eq!(seen, 3, "the database, its log and its index");
}

#[tokio::test]
async fn ten_thousand_files_are_recorded_in_bounded_time() {
    let (_dir, store) = open().await;
    let files = (0..10_000).map(|n| new_file(&format!("f{n}.xml"), b"x")).collect();
    let new = reception("many.task.json", Path::new("/store/Film_FTR"), files);
    let start = Instant::now();
    let id = store.accept_task(&new, 1).await.unwrap();
    let have = RangeSet::from_text("0-1").unwrap();
    let record = |idx| FileProgress {
        idx,
        have: have.clone(),
        digest: Some(vec![1; 92]),
        digest_at: 1,
        verified: true,
        ..FileProgress::default()
    };
    store.record_files(id, &(0..10_000).map(record).collect::<Vec<_>>()).await.unwrap();
    store.resume_task(id, &new, 2).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}: nobody else can write meanwhile", start.elapsed());
    assert!(store.task_files(id).await.unwrap().iter().all(|f| f.verified && f.digest_at == 1));
}

#[tokio::test]
async fn who_gives_way_sees_what_moves_bytes() {
    let (_dir, store) = open().await;
    let id = store.accept_task(&film(), 1).await.unwrap();
    let mut db = raw(&store).await;
    let mut set = async |sql: String| {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
        store.is_delivering().await.unwrap()
    };
    assert!(!set(format!("update legs set state = 'running', rate = 0 where task_id = {id}")).await, "an idle seed");
    assert!(set(format!("update legs set rate = 1 where task_id = {id}")).await);
    assert!(!set(format!("update legs set state = 'waiting' where task_id = {id}")).await, "the rate of before");
    let job = "insert into generations (dcppath, taskfile, request, state, created_at) values ('/p', 't', '{}', 'running', 1)";
    assert!(set(job.into()).await, "gentask hashes");
}
