mod race_tests;

use super::*;
use crate::model::span::Span;
use crate::transport::Sink as _;
use crate::work::fixture::{Fixture, Given, NOW, given};

/// A conductor that believes a leg is at work. Nothing moves unless the test does it.
async fn with_leg(f: &Fixture, task: i64, method: Method) -> Conductor {
    let mut c = Conductor::new(Arc::clone(&f.node));
    let row = f.node.store.task(task).await.unwrap().unwrap();
    c.open_assembly(&row).await.unwrap();
    let plan = Arc::new(f.plan(task).await);
    let gauge = Gauge::new(Arc::default(), plan.spans_of(method), false);
    let stop = CancellationToken::new();
    let leg = Leg { stop, gauge, purpose: Purpose::Fetch, plan, leaves: HashSet::new(), done_before: 0 };
    c.running.insert((task, method), leg);
    f.node.store.set_leg(task, method, LegState::Running, "", 0, None).await.unwrap();
    c
}

async fn put(c: &Conductor, task: i64, file: u32, bytes: &[u8]) {
    let a = &c.assemblies[&task];
    a.write_at(file, 0, bytes).unwrap();
    a.commit(file, 0..bytes.len() as u64);
}

/// The error that ends a task is written while its legs still run; their orderly stop must not wipe it out.
#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_stops_does_not_wipe_out_its_failure() {
    let f = Fixture::start().await;
    for outcome in [Ok(Outcome::Stopped), Ok(Outcome::Done), Err(Fault::transient("cut off"))] {
        let task = f.receive(&[given("a.mxf", Method::Cdn)], false).await.id;
        let mut c = with_leg(&f, task, Method::Cdn).await;
        crate::work::repair::fail_leg(&f.node, task, Method::Cdn, "disk full").await.unwrap();
        c.leg_ended(task, Method::Cdn, outcome).await.unwrap();
        let leg = &f.node.store.legs(task).await.unwrap()[0];
        assert_eq!((leg.state, leg.error.as_str()), (LegState::Failed, "disk full"));
        let snapshot = c.snapshot().await.unwrap();
        assert!(matches!(decide(&snapshot)[..], [Action::Move { to: TaskState::DownloadError, .. }]));
    }
}

/// A file that is handed to a leg at work is not in its plan: the leg must start again, or the file never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_leg_is_done_only_with_what_it_was_given_meanwhile() {
    let f = Fixture::start().await;
    let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Bt)];
    let task = f.receive(&files, false).await.id;
    let mut c = with_leg(&f, task, Method::Cdn).await;
    put(&c, task, 0, &files[0].bytes).await;
    f.node.store.reassign_files(task, &[(1, Method::Cdn)], Some(Method::Bt), "no peers", NOW).await.unwrap();
    c.follow_spans(task).await.unwrap();
    let now: Vec<Span> = c.running[&(task, Method::Cdn)].gauge.spans.clone();
    assert_eq!(now.iter().map(|s| s.len).sum::<u64>(), 1000, "its figures are those of the new total");
    c.leg_ended(task, Method::Cdn, Ok(Outcome::Done)).await.unwrap();
    assert_eq!(f.legs(task).await, "bt waiting 0, cdn waiting 1000");

    let mut c = with_leg(&f, task, Method::Cdn).await;
    put(&c, task, 0, &files[0].bytes).await;
    put(&c, task, 1, &files[1].bytes).await;
    c.leg_ended(task, Method::Cdn, Ok(Outcome::Done)).await.unwrap();
    assert_eq!(f.legs(task).await, "bt waiting 0, cdn done 1000");
}

/// Received again while it was at work: the new plan begins with a staging directory that knows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_received_again_begins_anew() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Cdn)], false).await.id;
    let mut c = with_leg(&f, task, Method::Cdn).await;
    let source = f.dir.path().join("a.mxf");
    let local = Given { method: None, source: Some(source.clone()), ..given("a.mxf", Method::Cdn) };
    std::fs::write(&source, &local.bytes).unwrap();
    f.node.store.resume_task(task, &f.new_task(&[local], false), NOW).await.unwrap();
    assert_eq!(decide(&c.snapshot().await.unwrap()), [Action::StopLeg { task, method: Method::Cdn }]);
    c.leg_ended(task, Method::Cdn, Ok(Outcome::Stopped)).await.unwrap();
    assert_eq!(decide(&c.snapshot().await.unwrap()), [Action::Begin { task }]);
    c.begin(task).await.unwrap();
    assert_eq!(c.assemblies[&task].local_pending(), [0], "the library copy of the new plan is known");
    assert_eq!(c.row(task).await.unwrap().state, TaskState::Downloading);
}

/// The end of a leg whose task was replaced by another of the same name changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn legs_of_replaced_tasks_end_without_a_trace() {
    let f = Fixture::start().await;
    let old = f.receive(&[given("a.mxf", Method::Cdn)], false).await.id;
    let mut c = with_leg(&f, old, Method::Cdn).await;
    let new = f.receive(&[given("a.mxf", Method::Cdn)], false).await.id;
    assert_ne!(old, new);
    let live = f.node.store.live_tasks().await.unwrap();
    c.release_dead(&live).await;
    assert!(c.running[&(old, Method::Cdn)].stop.is_cancelled());
    c.leg_ended(old, Method::Cdn, Err(Fault::permanent("404").file("a.mxf"))).await.unwrap();
    c.release_dead(&live).await;
    assert!(c.assemblies.is_empty());
    assert_eq!(f.legs(new).await, "cdn waiting 500");
    assert_eq!(f.node.store.refusals(new).await.unwrap(), []);
}

/// While somebody holds the database's log, a minute's figures are one write, and no history is kept.
#[tokio::test(flavor = "multi_thread")]
async fn figures_are_written_once_a_minute_while_the_log_is_held() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Cdn)], false).await.id;
    let mut c = with_leg(&f, task, Method::Cdn).await;
    let written = async || f.node.store.legs(task).await.unwrap()[0].bytes_wire;
    let wire =
        |c: &Conductor| c.running[&(task, Method::Cdn)].gauge.counters.wire.fetch_add(10, std::sync::atomic::Ordering::Relaxed);
    f.node.store.set_thrifty(true);
    for _ in 0..59 {
        wire(&c);
        c.sample().await;
    }
    assert_eq!(written().await, 0);
    wire(&c);
    c.sample().await;
    assert_eq!(written().await, 600, "nothing is lost");
    f.node.store.set_thrifty(false);
    wire(&c);
    c.sample().await;
    assert_eq!(written().await, 610);
    wire(&c);
    c.sample().await;
    let sql = "select bytes_done from v_progress";
    let rows = crate::store::shell::query(f.node.store.path(), sql, Duration::from_secs(5)).await.unwrap().rows;
    assert_eq!(rows.len(), 1, "history again, every other second");
}

/// A try that was to come in minutes does not wait for years.
#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_retries() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Cdn)], false).await.id;
    let mut c = Conductor::new(Arc::clone(&f.node));
    for (retry_at, seen) in
        [(NOW + 1000, Some(NOW + 1000)), (NOW + 3_600_000, Some(NOW + 3_600_000)), (NOW + 365 * 86_400_000, None)]
    {
        f.node.store.set_leg(task, Method::Cdn, LegState::Waiting, "cdn: away", 1, Some(retry_at)).await.unwrap();
        let snapshot = c.snapshot().await.unwrap();
        assert_eq!(snapshot.tasks[0].legs[0].retry_at, seen);
    }
}

/// A method that is done takes over from one that did not answer several times and waits for its next try; one that failed
/// lately does not, nobody is asked for what it was refused, and a try that is due comes first.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_done_helps_who_is_away() {
    let f = Fixture::start().await;
    let (stays, moves) = ("bt waiting 500, cdn done 500", "bt done 0, cdn waiting 1000");
    for (tired, refused, tries, next, want) in [
        (true, false, 4, 5000, stays),
        (false, true, 4, 5000, stays),
        (false, false, 4, 0, stays),
        (false, false, 4, -600_000, stays),
        (false, false, 2, 5000, stays),
        (false, false, 1, 5000, stays),
        (false, false, 1, 300_000, moves), // half of one span is that span
        (false, false, 2, 90_000, moves),
        (false, false, 4, 5000, moves),
    ] {
        let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Bt)];
        let task = f.receive(&files, false).await;
        let mut c = Conductor::new(Arc::clone(&f.node));
        c.open_assembly(&task).await.unwrap();
        put(&c, task.id, 0, &files[0].bytes).await;
        f.node.store.set_leg(task.id, Method::Cdn, LegState::Done, "", 0, None).await.unwrap();
        f.node.store.set_leg(task.id, Method::Bt, LegState::Waiting, "bt: away", tries, Some(NOW + next)).await.unwrap();
        if tired {
            c.helping.note_fault(task.id, Method::Cdn);
        }
        if refused {
            f.node.store.refuse_file(task.id, 1, Some(Method::Cdn), "404", NOW).await.unwrap();
        }
        c.snapshot().await.unwrap();
        assert_eq!(f.legs(task.id).await, want, "tries {tries}, next in {next} ms");
        assert_eq!(f.node.store.refusals(task.id).await.unwrap().len(), usize::from(refused));
        let start = decide(&c.snapshot().await.unwrap()).contains(&Action::StartLeg { task: task.id, method: Method::Cdn });
        assert_eq!(start, want == moves);
        if want == moves {
            // Now the helper fails: nothing goes back to whom it was taken from for not working.
            f.node.store.set_leg(task.id, Method::Cdn, LegState::Waiting, "cdn: away", 4, Some(NOW + 5000)).await.unwrap();
            c.helping = std::mem::take(&mut c.helping).looked_at_nothing();
            c.snapshot().await.unwrap();
            assert_eq!(f.legs(task.id).await, "bt done 0, cdn waiting 1000");
        }
    }
}

/// The helper's window has closed: who may fetch gets back what it was meant to bring, and no more than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_window_gives_back_what_it_took_over() {
    let f = Fixture::start().await;
    let own = given("a.mxf", Method::Cdn);
    let taken = Given { planned: Method::Bt, ..given("b.mxf", Method::Cdn) };
    let files = [own, taken, given("c.mxf", Method::Bt)];
    for (hour, want) in [(11, "bt done 500, cdn waiting 1000"), (13, "bt waiting 1000, cdn waiting 500")] {
        f.node.clock.set(local(1, hour, 0));
        let mut task = f.new_task(&files, false);
        task.policy = crate::model::task::Policy::Priortime;
        task.schedules = vec![(Method::Cdn, "10:00-12:00".into())];
        let id = f.node.store.accept_task(&task, NOW).await.unwrap();
        assert!(f.node.store.move_task(id, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap());
        let mut c = Conductor::new(Arc::clone(&f.node));
        let row = f.node.store.task(id).await.unwrap().unwrap();
        c.open_assembly(&row).await.unwrap();
        put(&c, id, 2, &files[2].bytes).await;
        f.node.store.set_leg(id, Method::Bt, LegState::Done, "", 0, None).await.unwrap();
        c.helping.note_fault(id, Method::Bt);
        c.snapshot().await.unwrap();
        assert_eq!(f.legs(id).await, want, "at {hour}:00");
    }
}

/// Two receptions of the same bytes: one fetches, the other waits, and copies them wherever they are by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_reception_brings_is_copied() {
    let f = Fixture::start().await;
    let files = [given("a.mxf", Method::Cdn)];
    let first = f.receive(&files, false).await;
    let mut other = f.new_task(&files, false);
    other.name = crate::model::ids::TaskName::parse("other.task.json").unwrap();
    other.store_path = f.dir.path().join("dcp/Other");
    let second = f.node.store.accept_task(&other, NOW).await.unwrap();
    assert!(f.node.store.move_task(second, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap());
    let second = f.node.store.task(second).await.unwrap().unwrap();
    let mut c = Conductor::new(Arc::clone(&f.node));
    for row in [&first, &second] {
        c.open_assembly(row).await.unwrap();
    }
    c.find_copies().await.unwrap();
    let start = Action::StartLeg { task: first.id, method: Method::Cdn };
    assert_eq!(decide(&c.snapshot().await.unwrap()), [start], "the second waits");

    put(&c, first.id, 0, &files[0].bytes).await;
    crate::work::fixture::until("the first is verified", || c.assemblies[&first.id].verified()).await;
    assert!(!decide(&c.snapshot().await.unwrap()).contains(&Action::StartLeg { task: second.id, method: Method::Cdn }));
    c.find_copies().await.unwrap();
    assert_eq!(c.assemblies[&second.id].local_source(0), Some(c.assemblies[&first.id].staged(0)));
    assert_eq!(f.legs(second.id).await, "cdn waiting 0");
    assert_eq!(c.row(second.id).await.unwrap().bytes_local, 500);
    assert!(decide(&c.snapshot().await.unwrap()).contains(&Action::CopyLocal { task: second.id }));

    // The first is handed over before the second comes to copy.
    c.assemblies[&first.id].sync().await.unwrap();
    std::fs::create_dir_all(f.dir.path().join("dcp")).unwrap();
    std::fs::rename(c.assemblies[&first.id].root(), &first.store_path).unwrap();
    let plan = f.plan(second.id).await;
    crate::work::reception::copy_all(&f.node, &plan, &c.assemblies[&second.id], &CancellationToken::new()).await.unwrap();
    assert!(c.assemblies[&second.id].verified());
    assert_eq!(f.node.store.refusals(second.id).await.unwrap(), []);
}

/// A reception has nobody left for a file that another one is to bring: it does not end before that one has had its turn.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_nobody_left_waits_for_another_reception() {
    // What becomes of the one that brings.
    for ends in ["brings it", "fails too", "is closed", "is between two tries"] {
        let f = Fixture::start().await;
        let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Cdn)];
        let first = f.receive(&files, false).await;
        let mut other = f.new_task(&files[..1], false);
        other.name = crate::model::ids::TaskName::parse("other.task.json").unwrap();
        other.store_path = f.dir.path().join("dcp/Other");
        if ends == "is closed" {
            let now = f.node.clock.now();
            let at = |h| (now + chrono::TimeDelta::hours(h)).format("%H:%M").to_string();
            other.policy = crate::model::task::Policy::Priortime;
            other.schedules = vec![(Method::Cdn, format!("{}-{}", at(3), at(5)))];
        }
        let second = f.node.store.accept_task(&other, NOW).await.unwrap();
        assert!(f.node.store.move_task(second, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap());
        let second = f.node.store.task(second).await.unwrap().unwrap();
        let mut c = Conductor::new(Arc::clone(&f.node));
        for row in [&first, &second] {
            c.open_assembly(row).await.unwrap();
        }
        c.find_copies().await.unwrap();
        f.node.store.refuse_file(first.id, 0, Some(Method::Cdn), "404", NOW).await.unwrap();
        crate::work::repair::fail_leg(&f.node, first.id, Method::Cdn, "cdn: file a.mxf: 404").await.unwrap();
        match ends {
            "fails too" => crate::work::repair::fail_leg(&f.node, second.id, Method::Cdn, "cdn: 404").await.unwrap(),
            "is between two tries" => {
                let later = Some(NOW + 5000);
                f.node.store.set_leg(second.id, Method::Cdn, LegState::Waiting, "cdn: away", 1, later).await.unwrap();
            }
            _ => {}
        }
        let actions = decide(&c.snapshot().await.unwrap());
        let over = actions.iter().any(|a| matches!(a, Action::Move { task, .. } if *task == first.id));
        assert_eq!(over, ["fails too", "is closed"].contains(&ends), "{ends}: {actions:?}");
        if ends != "brings it" {
            continue;
        }
        assert_eq!(actions, [Action::StartLeg { task: second.id, method: Method::Cdn }]);
        put(&c, second.id, 0, &files[0].bytes).await;
        crate::work::fixture::until("the second is verified", || c.assemblies[&second.id].verified()).await;
        c.find_copies().await.unwrap();
        assert_eq!(f.legs(first.id).await, "cdn waiting 500", "it tries the rest");
        let actions = decide(&c.snapshot().await.unwrap());
        assert!(actions.contains(&Action::CopyLocal { task: first.id }), "{actions:?}");
        assert!(actions.contains(&Action::StartLeg { task: first.id, method: Method::Cdn }), "{actions:?}");
    }
}

/// Seen only when the package is to get its name: a file is gone. That is told as at any other time, and mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_at_the_very_end_is_told_and_fetched_again() {
    let f = Fixture::start().await;
    let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Cdn)];
    let row = f.receive(&files, false).await;
    let mut c = Conductor::new(Arc::clone(&f.node));
    c.open_assembly(&row).await.unwrap();
    for (n, file) in (0..).zip(&files) {
        put(&c, row.id, n, &file.bytes).await;
    }
    f.node.store.set_leg(row.id, Method::Cdn, LegState::Done, "", 0, None).await.unwrap();
    crate::work::fixture::until("it is verified", || c.assemblies[&row.id].verified()).await;
    let staged = c.assemblies[&row.id].staged(1);
    std::fs::remove_file(&staged).unwrap();
    std::fs::create_dir(&staged).unwrap();
    std::fs::write(staged.join("note"), "theirs").unwrap();
    assert_eq!(decide(&c.snapshot().await.unwrap()), [Action::Finish { task: row.id }]);
    c.finish(row.id).await.unwrap();
    let report = c.inbox.recv().await.unwrap();
    c.handle(report).await;
    let told = f.node.store.events_after(&Default::default(), 0, 10).await.unwrap();
    let told: Vec<_> = told.iter().filter(|e| e.kind == "staging").map(|e| e.text.as_str()).collect();
    assert!(told[0].contains("b.mxf") && told[0].contains("aside"), "{told:?}");
    assert!(told[1].contains("(b.mxf)") && told[1].contains("1 staged files were removed"), "{told:?}");
    // By itself, and that file alone.
    c.look_after_assemblies().await.unwrap();
    assert_eq!(decide(&c.snapshot().await.unwrap()), [Action::StartLeg { task: row.id, method: Method::Cdn }]);
    assert!(c.assemblies[&row.id].has_all(std::iter::once(&Span { file: 0, offset: 0, len: 500 })));
    assert!(!row.store_path.exists());
}

/// A method that waits for another reception's file has nothing to do meanwhile: it helps.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_reception_helps() {
    let f = Fixture::start().await;
    let first = f.receive(&[given("a.mxf", Method::Cdn)], false).await;
    let mut other = f.new_task(&[given("a.mxf", Method::Cdn), given("b.mxf", Method::Obs)], true);
    other.name = crate::model::ids::TaskName::parse("other.task.json").unwrap();
    other.store_path = f.dir.path().join("dcp/Other");
    let second = f.node.store.accept_task(&other, NOW).await.unwrap();
    assert!(f.node.store.move_task(second, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap());
    f.node.store.set_leg(second, Method::Obs, LegState::Waiting, "obs: away", 4, Some(NOW + 5000)).await.unwrap();
    let second = f.node.store.task(second).await.unwrap().unwrap();
    let mut c = Conductor::new(Arc::clone(&f.node));
    for row in [&first, &second] {
        c.open_assembly(row).await.unwrap();
    }
    c.find_copies().await.unwrap();
    let start = Action::StartLeg { task: second.id, method: Method::Cdn };
    assert!(!decide(&c.snapshot().await.unwrap()).contains(&start), "it waits");
    assert_eq!(f.legs(second.id).await, "cdn waiting 1000, obs done 0", "and helps");
    assert!(decide(&c.snapshot().await.unwrap()).contains(&start));
}

fn local(day: u32, h: u32, m: u32) -> chrono::DateTime<chrono::Local> {
    use chrono::TimeZone as _;
    chrono::Local.with_ymd_and_hms(2026, 6, day, h, m, 0).unwrap()
}

/// What is remembered of a window is not believed when the clock is somewhere else.
#[tokio::test]
async fn windows_follow_a_clock_that_jumps() {
    let f = Fixture::start().await;
    let mut task = f.new_task(&[given("a.mxf", Method::Cdn)], false);
    task.policy = crate::model::task::Policy::Priortime;
    task.schedules = vec![(Method::Cdn, "10:00-12:00".into())];
    let id = f.node.store.accept_task(&task, NOW).await.unwrap();
    let mut c = Conductor::new(Arc::clone(&f.node));
    let told = async || {
        let sql = "select open_now, opens_at, closes_at from v_schedules";
        let rows = crate::store::shell::query(f.node.store.path(), sql, Duration::from_secs(5)).await.unwrap().rows;
        rows.concat().into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|")
    };
    for (day, h, m, open, shown) in [
        (1, 11, 0, true, "1||2026-06-01 12:00:00"),
        (1, 9, 0, false, "0|2026-06-01 10:00:00|"),
        (1, 9, 59, false, "0|2026-06-01 10:00:00|"),
        (1, 10, 0, true, "1||2026-06-01 12:00:00"),
        (4, 11, 59, true, "1||2026-06-04 12:00:00"),
        (4, 12, 0, false, "0|2026-06-05 10:00:00|"),
        (2, 10, 30, true, "1||2026-06-02 12:00:00"),
    ] {
        f.node.clock.set(local(day, h, m));
        assert_eq!(c.snapshot().await.unwrap().tasks[0].legs[0].open, open, "{day}. {h}:{m}");
        assert_eq!(told().await, shown, "{day}. {h}:{m}");
    }
    // Accepted again: its rows are new.
    f.node.store.resume_task(id, &task, NOW + 1).await.unwrap();
    assert_eq!(told().await, "1||");
    c.snapshot().await.unwrap();
    assert_eq!(told().await, "1||2026-06-02 12:00:00");
}

/// Parked tasks cost next to nothing: their windows are looked up once, and nothing is written while nothing changes.
#[tokio::test]
async fn a_hundred_parked_tasks_write_nothing() {
    let f = Fixture::start().await;
    f.node.clock.set(local(1, 13, 0));
    let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Obs), given("c.mxf", Method::Bt)];
    for n in 0..100 {
        let mut task = f.new_task(&files, false);
        task.name = crate::model::ids::TaskName::parse(&format!("film{n}.task.json")).unwrap();
        task.policy = crate::model::task::Policy::Priortime;
        task.schedules = Method::ALL.map(|m| (m, "18:00-23:00,01:00-05:00".to_owned())).into();
        let id = f.node.store.accept_task(&task, NOW).await.unwrap();
        f.node.store.move_task(id, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap();
    }
    let mut c = Conductor::new(Arc::clone(&f.node));
    let wal = f.node.store.path().with_extension("db-wal");
    let first = Instant::now();
    assert_eq!(decide(&c.snapshot().await.unwrap()), []);
    let (first, size) = (first.elapsed(), std::fs::metadata(&wal).unwrap().len());
    let rounds = 10;
    let more = Instant::now();
    for _ in 0..rounds {
        assert_eq!(decide(&c.snapshot().await.unwrap()), []);
    }
    println!("measured: a look at 100 parked tasks takes {:?}, the first one {first:?}", more.elapsed() / rounds);
    assert_eq!(std::fs::metadata(&wal).unwrap().len(), size, "a look at what does not change writes");
}
