//! What requests and dropped task files come to when something passing stands in their way, or when two of them meet.

mod world;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use world::{Gate, Node, PATIENCE, Reply, WallClock, World, entries, read_json, task_name, until};

const GENERATING: &str = "succeed, but the torrent is generating, please wait until ";

/// Within this an answer comes that waits for nothing, also on a busy machine.
const SOON: Duration = Duration::from_secs(10);

async fn sends(world: &World, name: &str, more: Value) -> Reply {
    let mut params = json!({"dcppath": world.sender.store().join(name), "policy": "fulltime"});
    world::merge(&mut params, &more);
    world.sender.call("sends", params).await
}

async fn wish(world: &World) -> Vec<Vec<String>> {
    world.sender.sql("select state, send from v_generations").await
}

/// What `sends` made is sent when it can be sent, not only at the first try.
#[tokio::test]
async fn what_sends_made_is_sent_when_the_obstacle_is_gone() {
    let mut world = World::new();
    world.package("film", 5, 1);
    world.sender.start().await;
    // A copy of the task file cannot be put where it belongs.
    let (tmp, away) = (world.sender.data().join("sender/tmp"), world.sender.data().join("sender/away"));
    std::fs::rename(&tmp, &away).expect("rename");
    std::fs::write(&tmp, "in the way").expect("write");
    let taskfile = world.dir.path().join(task_name("film"));
    let reply = sends(&world, "film", json!({"btobscdn": "1:0:0", "taskfile": taskfile})).await;
    assert!(reply.ok && reply.desc().starts_with(GENERATING), "{reply:?}");
    let tried = async || world.sender.events(&task_name("film")).await.contains("is tried again").then_some(());
    until("it was tried", PATIENCE, tried).await;
    assert_eq!(wish(&world).await, [["finished", "wanted"]]);
    std::fs::remove_file(&tmp).expect("remove");
    std::fs::rename(&away, &tmp).expect("rename");
    let sent = async || (wish(&world).await == [["finished", "sent"]]).then_some(());
    until("it is sent", PATIENCE, sent).await;
    world.ready(&task_name("film")).await;
    until("our copy is gone", PATIENCE, async || entries(&tmp).is_empty().then_some(())).await;

    // What speaks against the task itself ends it.
    std::fs::rename(&tmp, &away).expect("rename");
    std::fs::write(&tmp, "in the way").expect("write");
    assert!(sends(&world, "film", json!({"btobscdn": "0:1:0", "taskfile": taskfile})).await.ok);
    let made = async || (wish(&world).await == [["finished", "wanted"]]).then_some(());
    until("it is made", PATIENCE, made).await;
    std::fs::write(&taskfile, "{").expect("write");
    let refused = async || (wish(&world).await == [["failed", "refused"]]).then_some(());
    until("it is refused", PATIENCE, refused).await;
}

/// The package of what `sends` made is looked at before it is sent, on a file server that does not answer.
#[tokio::test]
async fn a_cancel_does_not_wait_for_a_library_that_hangs() {
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.sender) else { return };
    world.package("film", 5, 1);
    world.package("other", 5, 1);
    world.sender.start().await;
    gate.close("read", "film.torrent");
    let (asked, cancelled) = tokio::join!(sends(&world, "film", json!({"btobscdn": "1:0:0"})), async {
        gate.holds("the look at the package").await;
        let began = Instant::now();
        let reply = world.sender.call("cancel", json!({"taskfile": task_name("film")})).await;
        let took = began.elapsed();
        // Another package is ordered meanwhile.
        let other = sends(&world, "other", json!({"btobscdn": "1:0:0"})).await;
        gate.open();
        (reply, took, other)
    });
    let (reply, took, other) = cancelled;
    assert!(reply.ok && reply.desc() == "succeed!", "{reply:?}");
    assert!(took < SOON, "the cancel took {took:?}");
    assert!(other.ok && other.desc().starts_with(GENERATING), "{other:?}");
    assert!(asked.desc() == "error, it was cancelled meanwhile." || asked.desc().starts_with(GENERATING), "{asked:?}");
    let sent = async |name: &str, ratio: &str| {
        let sql = format!("select count(*) from v_tasks where task = '{}' and ratio = '{ratio}'", task_name(name));
        until(&format!("{name} is sent"), PATIENCE, async || (world.sender.number(&sql).await == 1).then_some(())).await;
        world.ready(&task_name(name)).await;
    };
    sent("other", "1:0:0").await;
    let tasks = "select task from v_tasks";
    assert_eq!(world.sender.sql(tasks).await, [[task_name("other")]], "{}", world.sender.events(&task_name("film")).await);
    let told = format!("select text from v_events where task = '{}' and level = 'error'", task_name("film"));
    assert_eq!(world.sender.sql(&told).await, Vec::<Vec<String>>::new(), "it was wanted");
    // It may be ordered anew.
    assert!(sends(&world, "film", json!({"btobscdn": "0:1:0"})).await.ok);
    sent("film", "0:1:0").await;
}

/// An older task of that name that was accepted while the clock was ahead does not count as sent.
#[tokio::test]
async fn what_sends_made_is_sent_after_the_clock_was_ahead() {
    let mut world = World::new();
    let Some(clock) = WallClock::new(world.dir.path(), "UTC") else { return };
    clock.rule(&mut world.sender);
    clock.shift(chrono::TimeDelta::days(2));
    let package = world.package("film", 5, 1);
    world.sender.start().await;
    assert!(sends(&world, "film", json!({"btobscdn": "1:0:0"})).await.ok);
    let sent = async || (wish(&world).await == [["finished", "sent"]]).then_some(());
    until("it is sent", PATIENCE, sent).await;
    world.ready(&task_name("film")).await;
    clock.shift(chrono::TimeDelta::zero());
    std::fs::write(package.dir.join("more.bin"), vec![7; 100_000]).expect("write");
    assert!(sends(&world, "film", json!({"btobscdn": "0:1:0"})).await.ok);
    until("it is sent", PATIENCE, sent).await;
    world.ready(&task_name("film")).await;
    assert_eq!(world.sender.sql("select ratio from v_tasks").await, [["0:1:0"]]);
}

/// A lack of descriptors ends no gentask.
#[tokio::test]
async fn gentask_waits_for_descriptors() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let mut world = World::new();
    world.package("film", 5, 1);
    world.sender.start().await;
    let pid = Pid::from_raw(world.sender.pid() as i32);
    let limit = |most: u64| {
        let now = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(pid, Resource::Nofile, now).expect("prlimit").current.expect("a limit")
    };
    // Over the connection that is open.
    let before = limit(3);
    let (dcppath, taskfile) = (world.sender.store().join("film"), world.sender.data().join("sender/tmp").join(task_name("film")));
    let params = json!({"dcppath": dcppath, "taskfile": taskfile, "basesubdir": world::SUBDIR, "btobscdn": "1:1:1"});
    assert!(world.sender.call("gentask", params.clone()).await.ok);
    let met = async || world.sender.log().contains("Too many open files").then_some(());
    until("it is met", PATIENCE, met).await;
    // Before and after it is tried again.
    let state = world.sender.sql("select state from v_generations").await;
    assert!([["queued"], ["running"]].iter().any(|s| state == [*s]), "{state:?}");
    limit(before);
    let ended = async || {
        let state = world.sender.sql("select state, error from v_generations").await;
        assert_ne!(state[0][0], "failed", "{state:?}");
        (state == [["finished", ""]]).then_some(())
    };
    until("it ends well", PATIENCE, ended).await;
    world.send(&taskfile).await;
}

/// A server of one torrent that keeps everybody waiting until it is opened.
struct Slow {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Slow {
    fn new(torrent: &Path) -> Self {
        let body = std::fs::read(torrent).expect("torrent");
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let at = listener.local_addr().expect("address");
        let (asked, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, opened) = (Arc::clone(&asked), Arc::clone(&open));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let (body, count, opened) = (body.clone(), Arc::clone(&count), Arc::clone(&opened));
                std::thread::spawn(move || {
                    let _ = client.read(&mut [0; 4096]);
                    count.fetch_add(1, Ordering::SeqCst);
                    while !opened.load(Ordering::SeqCst) {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body));
                });
            }
        });
        Self { at, asked, open }
    }

    async fn is_asked(&self, times: usize) {
        until("it is asked", PATIENCE, async || (self.asked.load(Ordering::SeqCst) >= times).then_some(())).await;
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// The task file under another name in the receiver's `tmp`, its torrent from elsewhere.
fn carry_as(node: &Node, taskfile: &Path, name: &str, more: &Value) -> PathBuf {
    let mut document = read_json(taskfile);
    world::merge(&mut document, more);
    let to = node.data().join("receiver/tmp").join(name);
    std::fs::write(&to, document.to_string()).expect("write");
    to
}

/// Of two that arrive at once for one place in the store, one is received.
#[tokio::test]
async fn one_place_in_the_store_is_received_into_once() {
    let mut world = World::new();
    // The first is not done before the second has its torrent.
    world.receiver.set("btrate", "200K");
    let package = world.package("film", 5, 1);
    world.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    let slow = Slow::new(&world.sender.store().join("film.torrent"));
    let elsewhere = json!({"bt": {"url": format!("http://{}/film.torrent", slow.at)}});
    let names = ["one.task.json", "two.task.json"];
    let [one, two] = names.map(|n| json!({"taskfile": carry_as(&world.receiver, &taskfile, n, &elsewhere)}));
    let open = async {
        slow.is_asked(2).await;
        slow.open();
    };
    let (one, two, ()) = tokio::join!(world.receiver.call("recv", one), world.receiver.call("recv", two), open);
    assert!(one.ok != two.ok, "{one:?} {two:?}");
    let refused = if one.ok { &two } else { &one };
    assert!(refused.desc().contains("is being received into"), "{refused:?}");
    assert_eq!(world.receiver.number("select count(*) from v_tasks").await, 1);
    world.receiver.downloaded(if one.ok { names[0] } else { names[1] }).await;
    assert_eq!(world::tree(&world.receiver.store().join("film")), world::tree(&package.dir));
}

/// Puts a task file into the receiver's queue as a client does: written elsewhere, then moved. Returns where it lies.
fn drop_as(node: &Node, taskfile: &Path, name: &str, more: &Value) -> PathBuf {
    let made = carry_as(node, taskfile, name, more);
    let to = node.data().join("receiver/queues").join(name);
    std::fs::rename(made, &to).expect("rename");
    to
}

fn error_beside(drop: &Path) -> PathBuf {
    let mut name = drop.as_os_str().to_owned();
    name.push(".err");
    name.into()
}

async fn refused(drop: &Path, why: &str) {
    let says = async || std::fs::read_to_string(error_beside(drop)).is_ok_and(|text| text.contains(why)).then_some(());
    until("the drop is refused", PATIENCE, says).await;
}

/// A newer task file that comes while the first one of its name is taken in, or waits, does not vanish.
#[tokio::test]
async fn a_newer_drop_does_not_vanish() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"downloadingnum": 1, "cdnrate": "200K", "btrate": "200K"}));
    world.package("film", 5, 1);
    world.package("long", 24, 1);
    world.start().await;
    let (film, long) = (world.publish("film", "1:0:0").await, world.publish("long", "0:0:1").await);
    let slow = Slow::new(&world.sender.store().join("film.torrent"));
    let first = json!({"bt": {"url": format!("http://{}/film.torrent", slow.at)}, "requesters": [{"id": "first"}]});
    // Holds the place.
    assert!(world.recv(&world.receiver, &long).await.ok);
    drop_as(&world.receiver, &film, &task_name("film"), &first);
    slow.is_asked(1).await;
    let second = json!({"policy": "priortime", "bt": {"priortime": "00:00-23:59"}, "requesters": [{"id": "second"}]});
    let queued = drop_as(&world.receiver, &film, &task_name("film"), &second);
    slow.open();
    let policy = "select policy from v_tasks where task like '%film%'";
    let taken = async || (world.receiver.sql(policy).await == [["priortime"]]).then_some(());
    until("the second is taken in", PATIENCE, taken).await;
    assert_eq!(world.receiver.number("select count(*) from v_events where kind = 'drop'").await, 0);

    // And one that comes while that waits is told so, and stays.
    let third = json!({"requesters": [{"id": "third"}]});
    drop_as(&world.receiver, &film, &task_name("film"), &third);
    refused(&queued, "same taskfile in queues:").await;
    world.receiver.call("cancel", json!({"taskfile": task_name("long")})).await;
    world.receiver.downloaded(&task_name("film")).await;
    assert_eq!(read_json(&queued)["requesters"][0]["id"], "third");
    assert!(error_beside(&queued).exists());
    assert_eq!(world.receiver.sql(policy).await, [["priortime"]]);
}

/// A drop that has to wait is tried again; one that was refused stays refused, also over a restart.
#[tokio::test]
async fn refused_drops_are_tried_again_when_that_can_help() {
    let mut world = World::new();
    world.receiver.set("cdnrate", "50K");
    world.package("film", 8, 1);
    world.start().await;
    let film = world.publish("film", "0:0:1").await;
    assert!(world.recv(&world.receiver, &film).await.ok);
    let waits = drop_as(&world.receiver, &film, "other.task.json", &json!({}));
    let never = drop_as(&world.receiver, &film, &task_name("film"), &json!({"requesters": [{"id": "second"}]}));
    refused(&waits, "is being received into").await;
    refused(&waits, "It is tried again").await;
    refused(&never, "same taskfile in downloading:").await;
    world.receiver.kill();
    world.receiver.set("cdnrate", "");
    world.receiver.start().await;
    world.receiver.downloaded(&task_name("film")).await;
    let other = "select count(*) from v_tasks where task = 'other.task.json'";
    until("the other is taken in", PATIENCE, async || (world.receiver.number(other).await == 1).then_some(())).await;
    world.receiver.downloaded("other.task.json").await;
    assert!(!waits.exists() && !error_beside(&waits).exists());
    // After a start that finds nobody at work too.
    world.receiver.terminate().await;
    world.receiver.start().await;
    let last = drop_as(&world.receiver, &film, "last.task.json", &json!({"name": ".."}));
    refused(&last, "error").await;
    assert!(never.exists() && error_beside(&never).exists());
    let accepted = format!("select count(*) from v_events where task = '{}' and text like 'accepted%'", task_name("film"));
    assert_eq!(world.receiver.number(&accepted).await, 1);
    let told = "select count(*) from v_events where kind = 'drop' and task = 'other.task.json'";
    assert_eq!(world.receiver.number(told).await, 1, "once, however often it was tried");
    // Changed by somebody: it is tried.
    let mut document = read_json(&never);
    document["requesters"] = json!([]);
    std::fs::write(&never, document.to_string()).expect("write");
    until("it is taken in", PATIENCE, async || (world.receiver.number(&accepted).await == 2).then_some(())).await;
}

/// What can be no task file is told, once.
#[tokio::test]
async fn odd_drops_are_told_once() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut world = World::new();
    world.receiver.start().await;
    let queues = world.receiver.data().join("receiver/queues");
    let long = "n".repeat(240) + ".json";
    let plain = ["a\tb.task.json", long.as_str(), "UPPER.TASK.JSON"].map(|n| queues.join(n));
    let foreign = queues.join(std::ffi::OsStr::from_bytes(b"\xff\xfe.task.json"));
    for path in plain.iter().chain([&foreign]) {
        std::fs::write(path, "{}").expect("write");
    }
    let [link, dir, fifo] = ["link.task.json", "dir.task.json", "fifo.task.json"].map(|n| queues.join(n));
    std::os::unix::fs::symlink("/dev/zero", &link).expect("link");
    std::fs::create_dir(&dir).expect("directory");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    // Of no concern to us.
    std::fs::write(queues.join(".hidden.json"), "{}").expect("write");
    std::fs::write(queues.join("notes.txt"), "").expect("write");
    let told = "select count(*) from v_events where kind = 'drop'";
    until("all are told", PATIENCE, async || (world.receiver.number(told).await == 7).then_some(())).await;
    for (path, why) in [
        (&plain[0], "control character"),
        (&plain[1], "longer than 220"),
        (&plain[2], "small letters"),
        (&foreign, "not UTF-8"),
        (&link, "not a plain file"),
        (&dir, "not a plain file"),
        (&fifo, "not a plain file"),
    ] {
        refused(path, why).await;
    }
    // Stamps of some file systems are some milliseconds coarse: it is to be changed after its error was written.
    let now = async || {
        std::fs::write(dir.join("more"), "").expect("write");
        let changed = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).expect("time");
        (changed(&dir.join("more")) > changed(&error_beside(&dir))).then_some(())
    };
    until("another time", PATIENCE, now).await;
    std::fs::write(dir.join("even more"), "").expect("write");
    world.receiver.terminate().await;
    world.receiver.start().await;
    let last = queues.join("last.task.json");
    std::fs::write(&last, "{").expect("write");
    refused(&last, "invalid json").await;
    assert_eq!(world.receiver.number(told).await, 8 + 1, "the directory was changed");
    assert!(!error_beside(&queues.join("notes.txt")).exists());
}
