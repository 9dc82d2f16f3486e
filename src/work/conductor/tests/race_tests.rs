//! Others act between a look and what follows from it.

use super::*;
use crate::store::tasks::NewTask;

/// Between the look and the start somebody received the task anew: it is not served, as what it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_received_anew_meanwhile_starts_nothing() {
    let f = Fixture::start().await;
    let package = f.dir.path().join("dcp/Film_FTR");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("a.mxf"), "").unwrap(); // an empty one could be a disk that is away
    for method in Method::ALL {
        let row = f.receive(&[given("a.mxf", method)], false).await;
        let mut c = Conductor::new(Arc::clone(&f.node));
        for to in [TaskState::Downloaded, TaskState::Queues] {
            let now = f.node.store.task(row.id).await.unwrap().unwrap().state;
            f.node.store.move_task(row.id, now, to, "", NOW).await.unwrap();
            c.start_leg(row.id, method).await.unwrap();
            let serves = to == TaskState::Downloaded && method == Method::Bt;
            assert_eq!(c.running.contains_key(&(row.id, method)), serves, "{method} {to}");
            c.running.clear();
        }
    }
}

/// A worker hands a file over at the very moment at which the leg that is to bring it ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_to_a_leg_as_it_ends_is_fetched() {
    use sqlx::{ConnectOptions as _, Executor as _};
    let f = Fixture::start().await;
    let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Bt)];
    let task = f.receive(&files, false).await.id;
    let mut c = with_leg(&f, task, Method::Cdn).await;
    put(&c, task, 0, &files[0].bytes).await;
    let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(f.dir.path().join("bft2.db")).connect().await.unwrap();
    let hand_over = "CREATE TRIGGER at_once AFTER UPDATE OF state ON legs WHEN new.method = 'cdn' AND new.state = 'done' \
                     BEGIN UPDATE spans SET method = 'cdn' WHERE idx = 1; END";
    other.execute(hand_over).await.unwrap();
    c.leg_ended(task, Method::Cdn, Ok(Outcome::Done)).await.unwrap();
    let legs = f.node.store.legs(task).await.unwrap();
    let cdn = legs.iter().find(|l| l.method == Method::Cdn).unwrap();
    assert_eq!(cdn.state, LegState::Waiting);
}

/// A disk goes a moment before somebody notices: no view is made below its mount point. A directory that was cleared away
/// by hand is made again.
#[tokio::test(flavor = "multi_thread")]
async fn views_are_not_made_below_an_empty_mount_point() {
    let f = Fixture::start().await;
    let row = f.receive(&[given("a.mxf", Method::Cdn)], false).await;
    f.node.export(&row).await.unwrap();
    let (store, dirs) = (&f.node.store, &f.node.dirs);
    let shown = dirs.path(Role::Recv, TaskState::Downloading, &row.name);
    let mut mending = crate::views::Mending::default();
    std::fs::remove_dir_all(shown.parent().unwrap()).unwrap();
    mending.round(store, dirs).await.unwrap();
    assert!(shown.is_file(), "somebody cleared the directory away");

    let (data, disk) = (f.dir.path().join("data"), f.dir.path().join("disk"));
    std::fs::rename(&data, &disk).unwrap();
    std::fs::create_dir(&data).unwrap();
    mending.round(store, dirs).await.unwrap();
    store.move_task(row.id, TaskState::Downloading, TaskState::DownloadError, "no answer", NOW).await.unwrap();
    let row = store.task(row.id).await.unwrap().unwrap();
    let fault = f.node.export(&row).await.expect_err("the disk is away");
    assert!(fault.away, "{fault}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "made below the mount point");

    std::fs::remove_dir(&data).unwrap();
    std::fs::rename(&disk, &data).unwrap();
    f.node.export(&row).await.unwrap();
    assert!(dirs.path(Role::Recv, TaskState::DownloadError, &row.name).is_file());
}

/// The clock is set between two steps of a tick: the seed time is judged by the clock that its end was moved with.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_in_the_middle_of_a_tick_ends_no_seed() {
    let f = Fixture::start().await;
    let new = NewTask { seed_until: Some(NOW + 3_600_000), ..f.new_task(&[given("a.mxf", Method::Bt)], false) };
    let task = f.node.store.accept_task(&new, NOW).await.unwrap();
    f.node.store.move_task(task, TaskState::Queues, TaskState::Downloaded, "", NOW).await.unwrap();
    let mut c = Conductor::new(Arc::clone(&f.node));
    c.seeds.look(&f.node).await.unwrap();
    f.node.clock.set(f.node.clock.now() + chrono::TimeDelta::days(1));
    let ends = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Move { to: TaskState::History, .. }));
    assert!(!ends(&decide(&c.snapshot().await.unwrap())), "a seed of an hour is over in an instant");
    let until = f.node.store.task(task).await.unwrap().unwrap().seed_until.unwrap();
    assert!(until > f.node.clock.now_ms(), "its end was not moved");
}

/// What a leg had left was copied while it failed for the last time: it is done, and ends no task.
#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_fails_with_nothing_left_to_bring_is_done() {
    let f = Fixture::start().await;
    let files = [given("a.mxf", Method::Cdn), given("b.mxf", Method::Bt)];
    let task = f.receive(&files, false).await.id;
    let last_try = crate::work::fixture::RETRIES - 1;
    for (there, legs) in [(true, "bt waiting 500, cdn done 500"), (false, "bt waiting 500, cdn failed 500")] {
        let mut c = with_leg(&f, task, Method::Cdn).await;
        f.node.store.set_leg(task, Method::Cdn, LegState::Running, "", last_try, None).await.unwrap();
        if there {
            put(&c, task, 0, &files[0].bytes).await;
        } else {
            c.assemblies[&task].reset(0, std::slice::from_ref(&(0..500))).await.unwrap();
        }
        c.leg_ended(task, Method::Cdn, Err(Fault::transient("no connection"))).await.unwrap();
        assert_eq!(f.legs(task).await, legs);
    }
}

/// Other things lie under the name of a task that is queued.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_place_of_a_queued_view_is_not_lost_and_stops_nobody() {
    let f = Fixture::start().await;
    let (store, dirs) = (&f.node.store, &f.node.dirs);
    let task = store.accept_task(&f.new_task(&[given("a.mxf", Method::Cdn)], false), NOW).await.unwrap();
    let row = store.task(task).await.unwrap().unwrap();
    f.node.export(&row).await.unwrap();
    let queue = dirs.path(Role::Recv, TaskState::Queues, &row.name);
    let view = std::fs::read(&queue).unwrap();
    let beside = || std::fs::read_dir(queue.parent().unwrap()).unwrap().count();
    let mut mending = crate::views::Mending::default();

    // Half a task file, which is being written.
    for part in [40, 50, 60] {
        std::fs::write(&queue, &view[..part]).unwrap();
        mending.round(store, dirs).await.unwrap();
        assert_eq!(std::fs::read(&queue).unwrap(), view[..part]);
    }
    // And by nobody any more.
    mending.round(store, dirs).await.unwrap();
    assert_eq!(std::fs::read(&queue).unwrap(), view);

    // Who reads this waits for ever.
    std::fs::remove_file(&queue).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &queue, kind, mode, 0).unwrap();
    let round = tokio::time::timeout(std::time::Duration::from_secs(60), mending.round(store, dirs)).await;
    round.expect("it reads no pipe").unwrap();
    std::fs::remove_file(&queue).unwrap();

    // Somebody's directory stays, and the task goes on.
    std::fs::create_dir(&queue).unwrap();
    for _ in 0..2 {
        mending.round(store, dirs).await.unwrap();
        assert!(queue.is_dir() && beside() == 1);
    }
    store.move_task(task, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap();
    let row = store.task(task).await.unwrap().unwrap();
    f.node.export(&row).await.unwrap();
    assert!(queue.is_dir() && beside() == 1);
    assert!(dirs.path(Role::Recv, TaskState::Downloading, &row.name).is_file());
}
