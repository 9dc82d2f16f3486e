//! What requests and dropped task files come to when something passing stands in their way, or when two of them meet.

mod world;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use world::{Node, PATIENCE, Reply, WallClock, World, entries, read_json, task_name, until};

const GENERATING: &str = "succeed, but the torrent is generating, please wait until ";

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
    assert_eq!(entries(&tmp), Vec::<String>::new(), "our copy is gone");

    // What speaks against the task itself ends it.
    std::fs::rename(&tmp, &away).expect("rename");
    std::fs::write(&tmp, "in the way").expect("write");
    assert!(sends(&world, "film", json!({"btobscdn": "0:1:0", "taskfile": taskfile})).await.ok);
    assert_eq!(wish(&world).await, [["finished", "wanted"]]);
    std::fs::write(&taskfile, "{").expect("write");
    let refused = async || (wish(&world).await == [["failed", "refused"]]).then_some(());
    until("it is refused", PATIENCE, refused).await;
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
    let world = World::started().await;
    let package = world.package("film", 5, 1);
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
