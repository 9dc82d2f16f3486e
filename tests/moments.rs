//! Orders, kills and lost answers at unlucky moments: between an act and the note of it. The moment is held until the test
//! goes on, so none of it is luck.

mod world;

use serde_json::json;
use sqlx::{ConnectOptions as _, Executor as _, SqliteConnection};
use std::path::{Path, PathBuf};
use std::time::Duration;
use world::{Gate, Node, PATIENCE, World, entries, file_name, task_name, tree, until};

/// Somebody's shell holds the database until it is dropped.
async fn hold(node: &Node) -> SqliteConnection {
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(node.database());
    let mut shell = database.busy_timeout(Duration::from_secs(PATIENCE)).connect().await.expect("database");
    shell.execute("BEGIN IMMEDIATE").await.expect("the lock");
    shell
}

/// A copy of a task file where no task directory is.
fn kept(world: &World, taskfile: &Path) -> PathBuf {
    let to = world.dir.path().join("carried").join(file_name(taskfile));
    std::fs::create_dir_all(to.parent().expect("a directory")).expect("directory");
    std::fs::copy(taskfile, &to).expect("copy");
    to
}

async fn cancelled(node: &Node, task: &str) {
    assert_eq!(node.call("cancel", json!({"taskfile": task})).await.desc(), "succeed!");
}

/// Whoever is told of a passing trouble, or gets no answer as the process is killed, asks the same again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_not_accepted_can_be_made_again() {
    let mut world = World::new();
    let package = world.package("film", 3, 1);
    world.start().await;
    let made = world.gentask("film", "0:0:1").await;
    let at = kept(&world, &made);
    std::fs::remove_file(&made).expect("remove");
    for kill in [false, true] {
        let shell = hold(&world.sender).await;
        if kill {
            let tmp = world.sender.data().join("sender/tmp").join(task_name("film"));
            tokio::select! {
                _ = world.sender.try_call("send", json!({"taskfile": at})) => panic!("it was answered"),
                () = until("it is being accepted", PATIENCE, async || tmp.exists().then_some(())) => {}
            }
            world.sender.kill();
            drop(shell);
            world.sender.start().await;
        } else {
            assert!(!world.sender.call("send", json!({"taskfile": at})).await.ok);
            drop(shell);
        }
        assert!(at.exists());
        if kill {
            world.send(&at).await;
        }
    }
    assert_eq!(entries(&world.sender.data().join("sender/tmp")), Vec::<String>::new());

    for kill in [false, true] {
        let shell = hold(&world.receiver).await;
        let tmp = world.receiver.data().join("receiver/tmp").join(task_name("film"));
        let recv = world.receiver.try_call("recv", json!({"taskfile": at}));
        if kill {
            tokio::select! {
                _ = recv => panic!("it was answered"),
                () = until("it is being accepted", PATIENCE, async || tmp.exists().then_some(())) => {}
            }
            world.receiver.kill();
            drop(shell);
            world.receiver.start().await;
        } else {
            assert!(!recv.await.expect("an answer").ok);
            drop(shell);
            assert!(!tmp.exists());
        }
        assert!(at.exists(), "killed: {kill}");
    }
    let reply = world.receiver.call("recv", json!({"taskfile": at})).await;
    assert!(reply.ok, "{}", reply.desc());
    assert!(!at.exists());
    assert_eq!(entries(&world.receiver.data().join("receiver/tmp")), Vec::<String>::new());
    world.receiver.downloaded(&task_name("film")).await;
    world.assert_delivered(&package);
}

/// The package is in its store and no row says so. What is cancelled then, and killed or received again, is a package like any
/// other, and its task can be received again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_while_a_package_is_handed_over_leaves_no_stranger() {
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.receiver) else { return };
    let package = world.package("film", 3, 1);
    world.start().await;
    let task = task_name("film");
    let at = kept(&world, &world.publish("film", "0:0:1").await);
    let there = world.receiver.store().join("film");
    let marker = world.receiver.store().join("film.finished");
    for kill in [true, false] {
        gate.close("fsync", "cfec-001/dcps");
        assert!(world.recv(&world.receiver, &at).await.ok);
        gate.holds("it is renamed").await;
        assert!(there.exists() && !marker.exists());
        cancelled(&world.receiver, &task).await;
        if kill {
            world.receiver.kill();
            gate.open();
            world.receiver.start().await;
            until("its marker", PATIENCE, async || marker.is_file().then_some(())).await;
            until("it is known", PATIENCE, async || {
                (world.receiver.number("select count(*) from v_packages where package = 'film'").await == 1).then_some(())
            })
            .await;
            assert_eq!(tree(&there), tree(&package.dir));
            until("nothing is staged", PATIENCE, async || entries(&world.receiver.stage()).is_empty().then_some(())).await;
        }
        let again = until("it is received again", PATIENCE, async || {
            let reply = world.recv(&world.receiver, &at).await;
            assert!(reply.ok || reply.desc().contains("is being put into the store"), "{}", reply.desc());
            reply.ok.then_some(())
        });
        tokio::join!(again, async { gate.open() });
        world.receiver.downloaded(&task).await;
        world.assert_delivered(&package);
        assert_eq!(world.receiver.places(&task), ["receiver/downloaded"]);
        std::fs::remove_dir_all(&there).expect("remove");
        std::fs::remove_file(&marker).expect("remove");
    }
}

/// A gentask that is cancelled when its task file is all but there: nobody who polls for the file finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gentask_that_is_cancelled_at_its_end_leaves_no_task_file() {
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.sender) else { return };
    world.package("film", 3, 1);
    world.sender.start().await;
    let (task, tmp) = (task_name("film"), world.sender.data().join("sender/tmp"));
    let order = json!({"dcppath": world.sender.store().join("film"), "taskfile": tmp.join(&task), "basesubdir": "cfec-001",
        "policy": "fulltime", "btobscdn": "0:0:1"});
    gate.close("fsync", "sender/tmp");
    assert!(world.sender.call("gentask", order.clone()).await.ok);
    gate.holds("the task file is written").await;
    cancelled(&world.sender, &task).await;
    gate.open();
    let ended = async || {
        let events = world.sender.events(&task).await;
        (events.contains("gentask: cancelled") || events.contains(" written: ")).then_some(())
    };
    until("the job ends", PATIENCE, ended).await;
    assert_eq!(entries(&tmp), Vec::<String>::new());
    assert_eq!(world.sender.sql("select state from generations").await, [["cancelled"]]);
    // And it can be ordered again.
    world.gentask("film", "0:0:1").await;
}

/// A gentask that is refused because somebody holds the database: what was made before is there still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gentask_that_is_refused_removes_nothing() {
    let world = &mut World::new();
    world.package("film", 3, 1);
    world.sender.start().await;
    let taskfile = world.gentask("film", "1:0:1").await;
    let dcp = world.sender.data().join("dcp").join("cfec-001");
    let torrents = [dcp.join("dcps/film.torrent"), dcp.join("dcps-tmp/film-tmp.torrent")];
    let order = json!({"dcppath": dcp.join("dcps/film"), "taskfile": taskfile, "basesubdir": "cfec-001", "policy": "fulltime",
        "btobscdn": "0:0:1", "deloldtorrent": "true"});
    let shell = hold(&world.sender).await;
    let refused = world.sender.call("gentask", order).await;
    assert!(!refused.ok, "{}", refused.desc());
    assert!(taskfile.exists() && torrents.iter().all(|t| t.exists()), "{:?}", entries(&dcp));
    drop(shell);
    world.send(&taskfile).await;
}

/// A cancel whose process is killed half-way: the error files go all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_is_killed_leaves_no_error_files() {
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.receiver) else { return };
    world.receiver.set("retries", 1000);
    world.package("film", 3, 1);
    world.start().await;
    let task = task_name("film");
    let at = kept(&world, &world.publish("film", "0:0:1").await);
    world.sender.kill();
    assert!(world.recv(&world.receiver, &at).await.ok);
    let downloading = world.receiver.data().join("receiver/downloading");
    let error = downloading.join(format!("{task}.err"));
    until("a try has failed", PATIENCE, async || error.exists().then_some(())).await;
    gate.close("fsync", "receiver/history");
    tokio::select! {
        _ = world.receiver.try_call("cancel", json!({"taskfile": task})) => panic!("it was answered"),
        () = gate.holds("it is being cancelled") => {}
    }
    world.receiver.kill();
    gate.open();
    world.receiver.start().await;
    until("it is shown", PATIENCE, async || (world.receiver.places(&task) == ["receiver/history"]).then_some(())).await;
    until("no error is left", PATIENCE, async || entries(&downloading).is_empty().then_some(())).await;
}

/// A task file that was put into the queue is queued, as far as anybody can tell who looks there: it can be cancelled before it
/// is taken in, and when it is tried again later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_is_cancelled_before_it_is_taken_in() {
    let mut world = World::new();
    world.package("film", 3, 1);
    world.package("next", 3, 1);
    world.start().await;
    let task = task_name("film");
    let at = kept(&world, &world.publish("film", "1:0:0").await);
    let next = kept(&world, &world.publish("next", "0:0:1").await);
    let queues = world.receiver.data().join("receiver/queues");
    let put = |file: &Path| {
        let draft = world.receiver.data().join("receiver/tmp").join("draft");
        std::fs::copy(file, &draft).expect("copy");
        std::fs::rename(&draft, queues.join(file_name(file))).expect("rename");
    };
    let is_over = async |node: &Node| {
        assert_eq!(node.places(&task), ["receiver/history"]);
        assert_eq!(entries(&queues), Vec::<String>::new());
        let again = node.call("cancel", json!({"taskfile": task})).await;
        assert_eq!((again.ok, again.desc()), (true, format!("no need to cancel, not found task: {task}")));
    };
    put(&at);
    cancelled(&world.receiver, &task).await;
    is_over(&world.receiver).await;
    // Without its torrent it cannot be received now.
    world.sender.kill();
    put(&at);
    until("it is told", PATIENCE, async || queues.join(format!("{task}.err")).exists().then_some(())).await;
    cancelled(&world.receiver, &task).await;
    is_over(&world.receiver).await;
    world.sender.start().await;
    put(&next);
    until("the next one is taken in", PATIENCE, async || entries(&queues).is_empty().then_some(())).await;
    world.receiver.downloaded(&task_name("next")).await;
    assert_eq!(
        world.receiver.number(&format!("select count(*) from v_tasks where task = '{task}' and state <> 'history'")).await,
        0
    );
    assert!(!world.receiver.store().join("film").exists());
}

/// Cancelled while its refusal is written: that goes with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_is_cancelled_while_it_is_refused_leaves_no_error() {
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.receiver) else { return };
    world.package("film", 3, 1);
    world.start().await;
    let task = task_name("film");
    let at = kept(&world, &world.publish("film", "1:0:0").await);
    // Without its torrent it cannot be received now.
    world.sender.kill();
    let queues = world.receiver.data().join("receiver/queues");
    gate.close("fsync", "receiver/queues/.");
    std::fs::copy(&at, queues.join(&task)).expect("copy");
    gate.holds("it is being refused").await;
    let mut cancel = std::pin::pin!(world.receiver.call("cancel", json!({"taskfile": task})));
    let early = tokio::time::timeout(Duration::from_secs(2), &mut cancel).await;
    gate.open();
    let reply = match early {
        Ok(reply) => reply,
        Err(_) => cancel.await,
    };
    assert_eq!(reply.desc(), "succeed!");
    // What comes later is told later.
    std::fs::write(queues.join("later.json"), "{}").expect("write");
    until("the next one is told", PATIENCE, async || queues.join("later.json.err").exists().then_some(())).await;
    assert_eq!(entries(&queues), ["later.json", "later.json.err"]);
    assert_eq!(world.receiver.places(&task), ["receiver/history"]);
}

/// A newer task file of its name that comes while the first one is being shown as queued, or as downloading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_comes_while_a_view_is_written_stays() {
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.receiver) else { return };
    world.receiver.set("cdnrate", "20K");
    let views = ["receiver/queues/.", "receiver/downloading/."];
    let names = ["queued", "begun"];
    for name in names {
        world.package(name, 3, 1);
    }
    world.start().await;
    let queues = world.receiver.data().join("receiver/queues");
    for (name, view) in names.iter().zip(views) {
        let task = task_name(name);
        let at = kept(&world, &world.publish(name, "0:0:1").await);
        let drop = |id: &str| {
            let mut document = world::read_json(&at);
            document["requesters"] = json!([{"id": id}]);
            let draft = world.dir.path().join("draft");
            std::fs::write(&draft, document.to_string()).expect("write");
            std::fs::rename(draft, queues.join(&task)).expect("rename");
        };
        gate.close("fsync", view);
        drop("first");
        gate.holds("the view is being written").await;
        drop("second");
        gate.open();
        let error = queues.join(format!("{task}.err"));
        let told = async || std::fs::read_to_string(&error).ok().filter(|text| text.contains("same taskfile in downloading"));
        until("the second is told", PATIENCE, told).await;
        assert_eq!(world::read_json(&queues.join(&task))["requesters"][0]["id"], "second");
        let first = "select count(*) from v_tasks where state = 'downloading'";
        assert_eq!(world.receiver.number(first).await, 1);
        cancelled(&world.receiver, &task).await;
    }
}
