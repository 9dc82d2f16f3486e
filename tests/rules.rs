//! What every request means in every state, also for tasks that wait: for their window, for their next try, for a place.
//! And the end of a task: seed times, history, and what a clock that jumps does to them.

mod world;

use chrono::{Local, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};
use std::path::PathBuf;
use world::{
    Gate, Node, PATIENCE, Reply, SUBDIR, WallClock, World, copy_tree, entries, free_ports, read_json, task_name, tree, until,
};

const NEW: &str = "succeed!";
const AGAIN: &str = "same name task downloaded, to download again.";
const REQUESTS: [Request; 3] = [Request::Reactive(false), Request::Reactive(true), Request::Cancel];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// recv or send.
    Reactive(bool),
    Cancel,
}

/// A window that is closed for hours.
fn far_window() -> String {
    let at = |hours| (Local::now() + TimeDelta::hours(hours)).format("%H:%M").to_string();
    format!("{}-{}", at(8), at(9))
}

/// Task files made from one package: each with a name of its own.
struct Tasks {
    document: Value,
    dir: PathBuf,
}

impl Tasks {
    fn write(&self, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut document = self.document.clone();
        document["name"] = name.into();
        change(&mut document);
        let path = self.dir.join(task_name(name));
        std::fs::write(&path, document.to_string()).expect("write");
        path
    }
}

async fn is_at(node: &Node, task: &str, place: &str) {
    until(&format!("{task} is in {place}"), PATIENCE, async || (node.places(task) == [place]).then_some(())).await;
}

async fn leg_is(node: &Node, task: &str, condition: &str) {
    let sql = format!("select count(*) from v_legs where task = '{task}' and {condition}");
    until(&format!("{task}: {condition}"), PATIENCE, async || (node.number(&sql).await > 0).then_some(())).await;
}

/// Where a task is when its seed time is over.
fn where_it_ends(node: &Node) -> &'static str {
    match node.role {
        "sender" => "sender/history",
        "cacher" => "receiver/downloaded",
        _ => "receiver/history",
    }
}

/// Nothing of the task is left but its file in `history`, and cancelling once more says so.
async fn nothing_is_left(node: &Node, role: &str, name: &str) {
    let task = task_name(name);
    is_at(node, &task, &format!("{role}/history")).await;
    let mine = format!("{SUBDIR}-{name}.");
    let staged = async || entries(&node.stage()).iter().all(|e| !e.starts_with(&mine)).then_some(());
    until(&format!("nothing of {name} is staged"), PATIENCE, staged).await;
    for dir in ["downloading", "uploading"] {
        let left = entries(&node.data().join(role).join(dir));
        assert!(left.iter().all(|e| !e.starts_with(&task)), "left in {role}/{dir}: {left:?}");
    }
    let reply = node.call("cancel", json!({"taskfile": task})).await;
    assert_eq!((reply.ok, reply.desc()), (true, format!("no need to cancel, not found task: {task}")));
}

/// A state of a reception and what the requests mean in it. `DIR` stands for the task's directory.
struct Row {
    state: &'static str,
    /// The task directory that shows it.
    place: &'static str,
    refused: bool,
    accepted: &'static str,
    /// Where the task is in the end after it was accepted.
    then: &'static str,
    cancelled: bool,
}

const RECEIVER: [Row; 8] = [
    Row { state: "downloaded", place: "downloaded", refused: false, accepted: AGAIN, then: "downloaded", cancelled: true },
    Row { state: "finished", place: "history", refused: false, accepted: AGAIN, then: "history", cancelled: false },
    Row { state: "cancelled", place: "history", refused: false, accepted: NEW, then: "downloaded", cancelled: false },
    Row { state: "downloaderror", place: "downloading", refused: false, accepted: NEW, then: "downloading", cancelled: true },
    Row { state: "waits for a try", place: "downloading", refused: true, accepted: NEW, then: "downloading", cancelled: true },
    Row { state: "parked", place: "downloading", refused: true, accepted: NEW, then: "downloading", cancelled: true },
    Row { state: "running", place: "downloading", refused: true, accepted: NEW, then: "downloading", cancelled: true },
    Row { state: "queues", place: "queues", refused: true, accepted: "", then: "queues", cancelled: true },
];

async fn reconfigure(node: &mut Node, keys: &Value) {
    node.set_all(keys);
    assert_eq!(node.get("reloadconf").await.as_deref(), Some("reload config json ok."));
}

#[tokio::test]
async fn every_request_in_every_state_of_a_reception() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"avoidrepeat": false, "downloadingnum": 40, "retries": 5, "retrydelay": 300}));
    world.package("film", 3, 1);
    world.start().await;
    let document = read_json(&world.publish("film", "0:0:1").await);
    let tasks = Tasks { document, dir: world.dir.path().to_owned() };
    let [nobody] = free_ports();
    for row in &RECEIVER {
        let name_of = |n: usize| format!("{}-{n}", row.state.replace(' ', "-"));
        match row.state {
            // At this rate nothing ends while we look.
            "running" => reconfigure(&mut world.receiver, &json!({"cdnrate": "1K"})).await,
            "queues" => reconfigure(&mut world.receiver, &json!({"downloadingnum": 1})).await,
            _ => {}
        }
        let node = &world.receiver;
        let change = |d: &mut Value| match row.state {
            "finished" => d["bt"]["seedtime"] = "0".into(),
            "downloaderror" => d["cdn"]["url"] = format!("http://{}/dcp/nothing/film", world.web).into(),
            "waits for a try" => d["cdn"]["url"] = format!("http://{nobody}/dcp/film").into(),
            "parked" => {
                d["policy"] = "priortime".into();
                d["cdn"]["priortime"] = far_window().into();
            }
            _ => {}
        };
        let recv = async |name: &str, reactive: &str| -> Reply {
            let file = node.carry(&tasks.write(name, change));
            node.call("recv", json!({"taskfile": file, "reactive": reactive})).await
        };
        for n in 0..REQUESTS.len() {
            let reply = recv(&name_of(n), "false").await;
            assert_eq!((reply.ok, reply.desc().as_str()), (true, NEW), "{}", row.state);
        }
        for n in 0..REQUESTS.len() {
            let task = task_name(&name_of(n));
            is_at(node, &task, &format!("receiver/{}", if row.state == "cancelled" { "downloaded" } else { row.place })).await;
            match row.state {
                "cancelled" => assert_eq!(node.call("cancel", json!({"taskfile": task})).await.desc(), "succeed!"),
                "downloaderror" => {
                    node.download_fails(&task).await;
                }
                "waits for a try" => leg_is(node, &task, "tries = 1 and retry_at <> ''").await,
                "parked" => leg_is(node, &task, "state = 'waiting' and next_change_at <> ''").await,
                "running" => leg_is(node, &task, "state = 'running'").await,
                _ => {}
            }
        }
        for (n, request) in REQUESTS.into_iter().enumerate() {
            let (name, task) = (name_of(n), task_name(&name_of(n)));
            let row_is = format!("{}, {request:?}", row.state);
            match request {
                Request::Reactive(reactive) => {
                    let reply = recv(&name, &reactive.to_string()).await;
                    if row.refused && (!reactive || row.state == "queues") {
                        let place = node.data().join("receiver").join(row.place).join(&task);
                        let refused = format!("same taskfile in {}:{}", row.place, place.display());
                        assert_eq!((reply.ok, reply.desc()), (false, refused), "{row_is}");
                    } else {
                        assert_eq!((reply.ok, reply.desc().as_str()), (true, row.accepted), "{row_is}");
                    }
                    is_at(node, &task, &format!("receiver/{}", row.then)).await;
                }
                Request::Cancel => {
                    let reply = node.call("cancel", json!({"taskfile": task})).await;
                    let said = if row.cancelled { NEW.into() } else { format!("no need to cancel, not found task: {task}") };
                    assert_eq!((reply.ok, reply.desc()), (true, said), "{row_is}");
                    nothing_is_left(node, "receiver", &name).await;
                    let there = node.store().join(&name).exists();
                    assert_eq!(there, ["downloaded", "finished", "cancelled"].contains(&row.state), "{row_is}: its store");
                    // What was cancelled can be received at once.
                    if row.state == "parked" {
                        let reply = recv(&name, "false").await;
                        assert_eq!((reply.ok, reply.desc().as_str()), (true, NEW), "{row_is}, received again");
                        is_at(node, &task, "receiver/downloading").await;
                        assert_eq!(node.call("cancel", json!({"taskfile": task})).await.desc(), NEW);
                        nothing_is_left(node, "receiver", &name).await;
                    }
                }
            }
        }
        // Those that are not over must not stand in the way of the next row.
        for n in 0..REQUESTS.len() - 1 {
            if row.state != "running" {
                assert!(node.call("cancel", json!({"taskfile": task_name(&name_of(n))})).await.ok);
            }
        }
    }
    world.receiver.assert_alive();
}

const SENDER: [Row; 8] = [
    Row { state: "uploaded", place: "uploaded", refused: false, accepted: "succeeded!", then: "uploaded", cancelled: true },
    Row {
        state: "seeding",
        place: "uploaded",
        refused: true,
        accepted: "restarted same name bt process, succeed!",
        then: "uploaded",
        cancelled: true,
    },
    Row { state: "finished", place: "history", refused: false, accepted: "succeeded!", then: "history", cancelled: false },
    Row { state: "failed", place: "failed", refused: false, accepted: "succeeded!", then: "failed", cancelled: true },
    Row { state: "waits for a try", place: "uploading", refused: true, accepted: "", then: "uploading", cancelled: true },
    Row { state: "parked", place: "uploading", refused: true, accepted: "", then: "uploading", cancelled: true },
    Row { state: "running", place: "uploading", refused: true, accepted: "", then: "uploading", cancelled: true },
    Row { state: "queues", place: "queues", refused: true, accepted: "", then: "queues", cancelled: true },
];

#[tokio::test]
async fn every_request_in_every_state_of_a_distribution() {
    let mut world = World::new();
    world.sender.set_all(&json!({
        "uploadingnum": 40, "retries": 5, "retrydelay": 300, "uploadpriortime": true, "splitfiles": false, "obsrate": "1K",
    }));
    world.package("film", 3, 1);
    world.sender.start().await;
    let kept = |path: PathBuf| read_json(&path);
    let by_cdn = kept(world.gentask("film", "0:0:1").await);
    let by_obs = kept(world.gentask("film", "0:1:0").await);
    let [nobody] = free_ports();
    for row in &SENDER {
        if row.state == "queues" {
            reconfigure(&mut world.sender, &json!({"uploadingnum": 1})).await;
        }
        let name_of = |n: usize| format!("{}-{n}", row.state.replace(' ', "-"));
        let mut documents = Vec::new();
        for n in 0..REQUESTS.len() {
            let name = name_of(n);
            copy_tree(&world.sender.store().join("film"), &world.sender.store().join(&name));
            let mut document = match row.state {
                "seeding" => kept(world.gentask(&name, "1:0:0").await),
                "parked" | "running" => by_obs.clone(),
                _ => by_cdn.clone(),
            };
            document["name"] = name.as_str().into();
            match row.state {
                "finished" => document["bt"]["seedtime"] = "0".into(),
                "failed" => document["cdn"]["url"] = format!("http://{}/dcp/nothing/film", world.web).into(),
                "waits for a try" => document["cdn"]["url"] = format!("http://{nobody}/dcp/film").into(),
                "parked" => {
                    document["policy"] = "priortime".into();
                    document["obs"]["priortime"] = far_window().into();
                }
                _ => {}
            }
            documents.push(document);
        }
        let node = &world.sender;
        let send = async |n: usize, reactive: &str| -> Reply {
            let file = node.data().join("sender/tmp").join(task_name(&name_of(n)));
            std::fs::write(&file, documents[n].to_string()).expect("write");
            let reply = node.call("send", json!({"taskfile": file, "reactive": reactive})).await;
            let _ = std::fs::remove_file(file); // the client's own, when it was refused
            reply
        };
        for n in 0..REQUESTS.len() {
            let reply = send(n, "true").await;
            assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeeded!"), "{}", row.state);
        }
        for n in 0..REQUESTS.len() {
            let task = task_name(&name_of(n));
            is_at(node, &task, &format!("sender/{}", row.place)).await;
            match row.state {
                "seeding" => drop(world.ready(&task).await),
                "waits for a try" => leg_is(node, &task, "tries = 1 and retry_at <> ''").await,
                "parked" => leg_is(node, &task, "state = 'waiting' and next_change_at <> ''").await,
                "running" => leg_is(node, &task, "state = 'running'").await,
                "failed" => {
                    let beside = node.data().join("sender/uploading").join(format!("{task}.bterr"));
                    until("the .bterr file", PATIENCE, async || beside.exists().then_some(())).await;
                }
                _ => {}
            }
        }
        for (n, request) in REQUESTS.into_iter().enumerate() {
            let (name, task) = (name_of(n), task_name(&name_of(n)));
            let row_is = format!("{}, {request:?}", row.state);
            match request {
                Request::Reactive(reactive) => {
                    let reply = send(n, &reactive.to_string()).await;
                    if row.refused && row.state == "seeding" && !reactive {
                        let said =
                            format!("exisited same name ct torrent bt process, send task failed: {name}.torrent in {task} ");
                        assert_eq!((reply.ok, reply.desc()), (false, said), "{row_is}");
                    } else if row.refused && row.state != "seeding" {
                        let place = node.data().join("sender").join(row.place).join(&task);
                        let refused = format!("same taskfile in {}:{}", row.place, place.display());
                        assert_eq!((reply.ok, reply.desc()), (false, refused), "{row_is}");
                    } else {
                        assert_eq!((reply.ok, reply.desc().as_str()), (true, row.accepted), "{row_is}");
                    }
                    is_at(node, &task, &format!("sender/{}", row.then)).await;
                }
                Request::Cancel => {
                    let reply = node.call("cancel", json!({"taskfile": task})).await;
                    let said = if row.cancelled { NEW.into() } else { format!("no need to cancel, not found task: {task}") };
                    assert_eq!((reply.ok, reply.desc()), (true, said), "{row_is}");
                    nothing_is_left(node, "sender", &name).await;
                    assert!(node.store().join(&name).is_dir(), "{row_is}: the master");
                }
            }
        }
        for n in 0..REQUESTS.len() - 1 {
            if row.state != "running" {
                assert!(node.call("cancel", json!({"taskfile": task_name(&name_of(n))})).await.ok);
            }
        }
    }
    world.sender.assert_alive();
}

/// A cacher: fetching, outside its window, seeding.
#[tokio::test]
async fn every_request_in_every_state_of_a_cacher() {
    let mut world = World::new();
    world.cacher.set("downloadingnum", 1);
    let names = ["parked", "fetching", "seeding", "behind"];
    for name in names {
        world.package(name, 3, 1);
    }
    world.sender.start().await;
    world.cacher.start().await;
    for name in names {
        // At this rate nothing ends while we look.
        let rate = if name == "fetching" { "16K" } else { "" };
        reconfigure(&mut world.cacher, &json!({"btrate": rate})).await;
        let node = &world.cacher;
        let mut document = read_json(&world.publish(name, "1:0:0").await);
        let task = task_name(name);
        if name == "parked" {
            document["policy"] = "priortime".into();
            document["bt"]["priortime"] = far_window().into();
        }
        let kept = world.dir.path().join(&task);
        std::fs::write(&kept, document.to_string()).expect("write");
        let recv = async |reactive: &str| node.call("recv", json!({"taskfile": node.carry(&kept), "reactive": reactive})).await;
        for round in 0..2 {
            let reply = recv("false").await;
            assert_eq!((reply.ok, reply.desc().as_str()), (true, NEW), "{name}, round {round}");
            let dir = if name == "behind" { "queues" } else { "downloading" };
            is_at(node, &task, &format!("receiver/{dir}")).await;
            match name {
                "parked" => leg_is(node, &task, "state = 'waiting' and next_change_at <> ''").await,
                "fetching" => leg_is(node, &task, "state = 'running' and ready = 0").await,
                "seeding" => leg_is(node, &task, "state = 'running' and ready = 1").await,
                _ => {}
            }
            let refused = format!("same taskfile in {dir}:{}", node.data().join("receiver").join(dir).join(&task).display());
            let reply = recv("false").await;
            assert_eq!((reply.ok, reply.desc()), (false, refused.clone()), "{name}");
            let reply = recv("true").await;
            let longer = format!("reactive cacher bt seeding with taskfile:{task}");
            let want = if name == "behind" { (false, refused) } else { (true, longer) };
            assert_eq!((reply.ok, reply.desc()), want, "{name}");
            is_at(node, &task, &format!("receiver/{dir}")).await;
            // The seeding one stays, so that the last one has to wait.
            if name == "seeding" && round == 1 {
                continue;
            }
            assert_eq!(node.call("cancel", json!({"taskfile": task})).await.desc(), NEW);
            nothing_is_left(node, "receiver", name).await;
        }
    }
    let node = &world.cacher;
    let link = node.data().join("transfer/bt").join(SUBDIR).join("seeding");
    assert!(link.exists(), "{}", link.display());
    assert_eq!(node.call("cancel", json!({"taskfile": task_name("seeding")})).await.desc(), NEW);
    nothing_is_left(node, "receiver", "seeding").await;
    until("the link is gone", PATIENCE, async || link.symlink_metadata().is_err().then_some(())).await;
}

/// Who is told to start anew, and keeps what he has, does not lose his turn for it.
#[tokio::test]
async fn what_is_started_anew_goes_on_at_once() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"avoidrepeat": false, "cdnrate": "1K", "downloadingnum": 1}));
    world.sender.set("uploadingnum", 1);
    for name in ["seed", "mixed", "slow"] {
        world.package(name, 3, 1);
    }
    world.start().await;
    // A download, with others behind it.
    let taskfile = world.publish("slow", "0:0:1").await;
    let tasks = Tasks { document: read_json(&taskfile), dir: world.dir.path().to_owned() };
    let node = &world.receiver;
    let recv = async |name: &str, reactive: &str| -> Reply {
        let file = node.carry(&tasks.write(name, |_| {}));
        node.call("recv", json!({"taskfile": file, "reactive": reactive})).await
    };
    for name in ["first", "second", "third"] {
        assert_eq!(recv(name, "false").await.desc(), NEW);
    }
    for _ in 0..3 {
        leg_is(node, &task_name("first"), "state = 'running'").await;
        assert_eq!(recv("first", "true").await.desc(), NEW);
        is_at(node, &task_name("first"), "receiver/downloading").await;
    }
    for name in ["second", "third"] {
        assert_eq!(node.places(&task_name(name)), ["receiver/queues"]);
        assert!(!node.events(&task_name(name)).await.contains("queues -> downloading"), "{name} was put before it");
    }
    // Seeds, while another package is uploaded.
    let mut again = Vec::new();
    for (name, ratio) in [("seed", "1:0:0"), ("mixed", "1:1:0")] {
        again.push((name, read_json(&world.publish(name, ratio).await)));
    }
    reconfigure(&mut world.sender, &json!({"obsrate": "1K"})).await;
    let slow = world.gentask("slow", "0:1:0").await;
    assert!(world.sender.call("send", json!({"taskfile": slow})).await.ok);
    leg_is(&world.sender, &task_name("slow"), "method = 'obs' and state = 'running'").await;
    for (name, document) in &again {
        let node = &world.sender;
        let file = node.data().join("sender/tmp").join(task_name(name));
        std::fs::write(&file, document.to_string()).expect("write");
        let reply = node.call("send", json!({"taskfile": file, "reactive": "true"})).await;
        assert_eq!((reply.ok, reply.desc().as_str()), (true, "restarted same name bt process, succeed!"), "{name}");
        leg_is(node, &task_name(name), "method = 'bt' and state = 'running' and ready = 1").await;
    }
    world.ready(&task_name("seed")).await;
    let places = [("slow", "sender/uploading"), ("mixed", "sender/uploading"), ("seed", "sender/uploaded")];
    for (name, place) in places {
        assert_eq!(world.sender.places(&task_name(name)), [place], "{name}");
    }
    leg_is(&world.sender, &task_name("mixed"), "method = 'obs' and state = 'waiting'").await;
    assert_eq!(world.sender.call("cancel", json!({"taskfile": task_name("slow")})).await.desc(), NEW);
    world.ready(&task_name("mixed")).await;
}

/// A library that does not answer (here: a torrent that nobody writes) holds up who asks for what is in it, and nobody else.
#[tokio::test]
async fn cancel_does_not_wait_for_a_library_that_hangs() {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut world = World::new();
    for name in ["film", "other"] {
        world.package(name, 2, 1);
    }
    world.sender.start().await;
    world.publish("other", "1:0:0").await;
    let taskfile = world.gentask("film", "1:0:0").await;
    let torrent = world.sender.store().join("film.torrent");
    let bytes = std::fs::read(&torrent).expect("torrent");
    std::fs::remove_file(&torrent).expect("remove");
    let made = std::process::Command::new("mkfifo").arg(&torrent).status().expect("mkfifo");
    assert!(made.success(), "mkfifo: {made}");
    let node = &world.sender;
    let send = node.call("send", json!({"taskfile": taskfile}));
    let meanwhile = async {
        // Opens once somebody reads.
        let open = || std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&torrent).ok();
        let mut pipe = until("send reads the torrent", 50, async || open()).await;
        assert_eq!(node.call("cancel", json!({"taskfile": task_name("other")})).await.desc(), NEW);
        pipe.write_all(&bytes).expect("write");
    };
    let (reply, ()) = tokio::join!(send, meanwhile);
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeeded!"));
}

/// Somebody edits the row of a task by hand, and it cannot be read any more.
#[tokio::test]
async fn a_task_whose_row_is_broken_stops_nobody() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"avoidrepeat": false, "cdnrate": "1K"}));
    world.package("film", 3, 1);
    world.start().await;
    let document = read_json(&world.publish("film", "0:0:1").await);
    let tasks = Tasks { document, dir: world.dir.path().to_owned() };
    let names = ["cancelled", "replaced", "other"];
    for name in names {
        assert!(world.receiver.call("recv", json!({"taskfile": world.receiver.carry(&tasks.write(name, |_| {}))})).await.ok);
        leg_is(&world.receiver, &task_name(name), "state = 'running'").await;
    }
    let node = &world.receiver;
    for (name, edit) in [("cancelled", "package = 'a/b'"), ("replaced", "basesubdir = ''")] {
        let sql = format!("update tasks set {edit} where name = '{}'", task_name(name));
        let mut own = SqliteConnectOptions::new().filename(node.database()).connect().await.expect("database");
        own.execute(sqlx::AssertSqlSafe(sql)).await.expect("edit");
    }
    // The others go on, and it is said what stands still.
    reconfigure(&mut world.receiver, &json!({"cdnrate": ""})).await;
    let node = &world.receiver;
    node.downloaded(&task_name("other")).await;
    let told = async |name: &str| {
        let task = task_name(name);
        node.number(&format!("select count(*) from v_events where kind = 'broken' and level = 'error' and task = '{task}'")).await
    };
    for name in ["cancelled", "replaced"] {
        until(&format!("{name} is told"), 30, async || (told(name).await > 0).then_some(())).await;
    }
    let reply = node.call("progress", json!({"taskfile": task_name("replaced")})).await;
    assert!(reply.desc().contains("unexpected basesubdir"), "{reply:?}");
    // It can be cancelled, and received anew, with or without that.
    let task = task_name("cancelled");
    assert_eq!(node.call("cancel", json!({"taskfile": task})).await.desc(), NEW);
    assert_eq!(node.places(&task), Vec::<String>::new());
    let again = node.call("cancel", json!({"taskfile": task})).await.desc();
    assert_eq!(again, format!("no need to cancel, not found task: {task}"));
    let staged = async || entries(&node.stage()).iter().all(|e| !e.contains("-cancelled.")).then_some(());
    until("nothing of it is staged", 60, staged).await;
    for name in ["cancelled", "replaced"] {
        assert_eq!(told(name).await, 1, "{name} is told once");
        let reply = node.call("recv", json!({"taskfile": node.carry(&tasks.write(name, |_| {}))})).await;
        assert_eq!((reply.ok, reply.desc().as_str()), (true, NEW), "{name}");
        node.downloaded(&task_name(name)).await;
        assert_eq!(node.places(&task_name(name)), ["receiver/downloaded"]);
    }
}

/// The states that last for moments: a reception that copies, one that is handed over to its store, and one that was renamed
/// into it while no row says so yet.
#[tokio::test]
async fn every_request_while_a_reception_copies_or_is_handed_over() {
    const LOCAL: &str = "all localsamefiles existed copy and finished, succeed!";
    let mut world = World::new();
    let Some(gate) = Gate::before(&mut world.receiver) else { return };
    let film = world.package("film", 3, 1);
    world.start().await;
    let taskfile = world.publish("film", "0:0:1").await;
    world.receive(&taskfile).await;
    let tasks = Tasks { document: read_json(&taskfile), dir: world.dir.path().to_owned() };
    let node = &world.receiver;
    // The state, what is held, and whether the package is in its store by then.
    for (state, call, path, stored) in [
        ("copying", "pread", ".mxf", false),
        ("finishing", "fsync", "transfer/stage/", false),
        ("renamed", "fsync", "cfec-001/dcps", true),
    ] {
        for (n, request) in REQUESTS.into_iter().enumerate() {
            let (name, row_is) = (format!("{state}-{n}"), format!("{state}, {request:?}"));
            let (task, there) = (task_name(&name), node.store().join(&name));
            let recv = async |reactive: &str| -> Reply {
                let file = node.carry(&tasks.write(&name, |_| {}));
                node.call("recv", json!({"taskfile": file, "reactive": reactive})).await
            };
            gate.close(call, path);
            let reply = recv("false").await;
            assert_eq!((reply.ok, reply.desc().as_str()), (true, LOCAL), "{row_is}");
            gate.holds(&row_is).await;
            assert_eq!(there.exists(), stored, "{row_is}: its store");
            let p = node.progress(&task).await;
            assert_eq!((p.status().as_str(), p.dcppath().as_str()), ("downloading", ""), "{row_is}: {p:?}");
            assert!(p.percent("totalpercent") < 100.0, "{row_is}: {p:?}");
            assert!(!node.store().join(format!("{name}.finished")).exists(), "{row_is}: its marker");
            let place = node.data().join("receiver/downloading").join(&task);
            match request {
                Request::Reactive(reactive) => {
                    let reply = recv(&reactive.to_string()).await;
                    let refused = format!("same taskfile in downloading:{}", place.display());
                    let want = if reactive { (true, LOCAL.to_owned()) } else { (false, refused) };
                    assert_eq!((reply.ok, reply.desc()), want, "{row_is}");
                    gate.open();
                    node.downloaded(&task).await;
                    assert_eq!(tree(&there), tree(&film.dir), "{row_is}");
                    assert!(node.store().join(format!("{name}.finished")).is_file(), "{row_is}: its marker");
                    assert_eq!(entries(&node.stage()), Vec::<String>::new(), "{row_is}");
                    std::fs::remove_dir_all(&there).expect("remove");
                }
                Request::Cancel => {
                    assert_eq!(node.call("cancel", json!({"taskfile": task})).await.desc(), NEW, "{row_is}");
                    let again = node.call("cancel", json!({"taskfile": task})).await.desc();
                    assert_eq!(again, format!("no need to cancel, not found task: {task}"), "{row_is}");
                    gate.open();
                    nothing_is_left(node, "receiver", &name).await;
                    if stored {
                        let marker = node.store().join(format!("{name}.finished"));
                        until("its marker", PATIENCE, async || marker.is_file().then_some(())).await;
                        assert_eq!(tree(&there), tree(&film.dir), "{row_is}");
                    } else {
                        assert!(!there.exists(), "{row_is}: cancelled, and in its store");
                    }
                }
            }
        }
    }
    world.receiver.assert_alive();
}

/// A board whose clock is wrong at its start, years behind or ahead: what is accepted then lasts for the promised hours after
/// it was set right, and so does what was accepted before.
#[tokio::test]
async fn what_is_accepted_under_a_wrong_clock_lasts_as_long_as_was_promised() {
    const HOUR_MS: i64 = 3_600_000;
    // The time is noted once a minute, and machines may be slow.
    const CLOSE_MS: i64 = 600_000;
    let mut world = World::new();
    let Some(clock) = WallClock::new(world.dir.path(), "UTC") else { return };
    for node in [&mut world.receiver, &mut world.cacher] {
        clock.rule(node);
    }
    world.sender.set("defaultseedtime", "5");
    for name in ["before", "film-0", "film-1", "film-2"] {
        world.package(name, 2, 1);
    }
    world.sender.start().await;
    let before = world.publish("before", "1:0:0").await;
    let mut files = Vec::new();
    for n in 0..3 {
        files.push(world.publish(&format!("film-{n}"), "1:0:0").await);
    }
    let ends = async |node: &Node, name: &str| {
        let rows = node.sql(&format!("select seed_until from tasks where name = '{}'", task_name(name))).await.concat();
        rows.concat().parse::<i64>().unwrap_or_default()
    };
    // By how much an end is off, when the clock is right.
    let began = Utc::now().timestamp_millis();
    let off = async |node: &Node, name: &str| (ends(node, name).await - began - 5 * HOUR_MS).abs();
    let serves = async |node: &Node, name: &str| leg_is(node, &task_name(name), "state = 'running' and ready = 1").await;

    // Years ahead, when nothing is known of the time before; then years behind, and ahead, both with a restart between. The
    // epoch is where a board without a battery begins.
    let epoch = chrono::DateTime::UNIX_EPOCH + TimeDelta::days(1);
    let years = TimeDelta::days(400);
    for (n, wrong, restarted) in [(0, years, false), (1, epoch - Utc::now(), false), (2, years, true)] {
        clock.shift(wrong);
        let name = format!("film-{n}");
        for node in [&mut world.receiver, &mut world.cacher] {
            node.kill();
            node.start().await;
            assert!(node.call("recv", json!({"taskfile": node.carry(&files[n])})).await.ok);
            let node = &*node;
            serves(node, &name).await;
            let wanted = (Utc::now() + wrong).timestamp_millis() + 5 * HOUR_MS;
            let there = ends(node, &name).await;
            assert!((there - wanted).abs() < CLOSE_MS, "{name} on the {}: {there} for {wanted}", node.role);
        }
        if restarted {
            world.receiver.kill();
            world.cacher.kill();
        }
        clock.shift(TimeDelta::zero());
        for node in [&mut world.receiver, &mut world.cacher] {
            if restarted {
                node.start().await;
            }
            let node = &*node;
            until(&format!("{name} ends in five hours on the {}", node.role), PATIENCE, async || {
                (off(node, &name).await < CLOSE_MS).then_some(())
            })
            .await;
            if n == 0 {
                assert!(node.call("recv", json!({"taskfile": node.carry(&before)})).await.ok);
                serves(node, "before").await;
            }
            assert!(off(node, "before").await < CLOSE_MS, "before {name}, on the {}", node.role);
            serves(node, &name).await;
            let told = format!(
                "select count(*) from v_events where kind = 'clock' and text like '%{}%'",
                if n == 1 { "ahead" } else { "back" }
            );
            let what = format!("the clock is told of, {name} on the {}", node.role);
            until(&what, PATIENCE, async || (node.number(&told).await > 0).then_some(())).await;
        }
    }
    // And it ends then, as a machine that was off for a while knows.
    world.receiver.kill();
    world.cacher.kill();
    clock.shift(TimeDelta::hours(6));
    for node in [&mut world.receiver, &mut world.cacher] {
        node.start().await;
        for name in ["before", "film-0", "film-1", "film-2"] {
            let over = async || (node.places(&task_name(name)) == [where_it_ends(node)]).then_some(());
            until(&format!("{name} is over on the {}", node.role), PATIENCE, over).await;
        }
    }
    until("the cacher's data are gone", PATIENCE, async || entries(&world.cacher.stage()).is_empty().then_some(())).await;
}

/// Somebody sets the clock a day ahead while three nodes seed, and back again.
#[tokio::test]
async fn a_clock_that_jumps_ends_no_seed() {
    let mut world = World::new();
    let Some(clock) = WallClock::new(world.dir.path(), "UTC") else { return };
    for node in [&mut world.sender, &mut world.receiver, &mut world.cacher] {
        clock.rule(node);
        node.set_all(&json!({"defaultseedtime": "1"}));
    }
    world.receiver.set("historydays", 1);
    let package = world.package("film", 6, 1);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:0:0").await;
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    leg_is(&world.cacher, &task, "ready = 1").await;
    world.receive(&taskfile).await;
    leg_is(&world.receiver, &task, "ready = 1").await;
    let places = [("sender", "uploaded"), ("receiver", "downloaded"), ("receiver", "downloading")];
    let all_serve = async |world: &World| {
        for (node, (role, dir)) in [&world.sender, &world.receiver, &world.cacher].into_iter().zip(places) {
            assert_eq!(node.places(&task), [format!("{role}/{dir}")], "{}", node.role);
            assert_eq!(
                node.number("select count(*) from v_legs where state = 'running' and ready = 1").await,
                1,
                "{}",
                node.role
            );
        }
    };
    all_serve(&world).await;

    let told = "select count(*) from v_events where kind = 'clock'";
    for (days, events) in [(1, 1), (0, 2), (-1, 3), (0, 4)] {
        let offset = TimeDelta::days(days);
        clock.shift(offset);
        for node in [&world.sender, &world.receiver, &world.cacher] {
            let date = (Utc::now() + offset).format("%Y-%m-%d").to_string();
            let shown = async || node.get("heartbeat").await.filter(|t| t.starts_with(&date)).map(drop);
            until("the clock is set", PATIENCE, shown).await;
            let seen = async || (node.number(told).await == events).then_some(());
            until(&format!("{days} days: {events} events about the clock"), PATIENCE, seen).await;
        }
        all_serve(&world).await;
    }
    let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
    assert_eq!(reply.text("status"), "ready");

    // After a restart there is nothing to compare with: the hour is over.
    [&mut world.sender, &mut world.receiver, &mut world.cacher].into_iter().for_each(Node::kill);
    clock.shift(TimeDelta::hours(2));
    for node in [&mut world.sender, &mut world.receiver, &mut world.cacher] {
        node.start().await;
        let over = async |node: &Node| node.places(&task).iter().all(|p| p == where_it_ends(node)).then_some(());
        until("it is over", PATIENCE, async || over(node).await).await;
    }
    until("the cacher's data are gone", PATIENCE, async || entries(&world.cacher.stage()).is_empty().then_some(())).await;
    let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
    assert_eq!((reply.text("status").as_str(), reply.text("btstatus").as_str()), ("finished", "noseeding"));
    let p = world.receiver.progress(&task).await;
    assert_eq!((p.status().as_str(), p.percent("totalpercent")), ("history", 100.0));
    world.assert_delivered(&package);

    // And in some days the history forgets it, with everything that is left of it.
    let beside = world.receiver.data().join("receiver/downloading").join(format!("{task}.errhistory"));
    std::fs::write(&beside, "an error of long ago\n").expect("write");
    // Not by a clock that is four days ahead when it starts: nobody can tell that from a wrong one.
    let told_before = world.receiver.number(told).await;
    clock.shift(TimeDelta::days(4));
    world.receiver.kill();
    world.receiver.start().await;
    until("it is told", PATIENCE, async || (world.receiver.number(told).await > told_before).then_some(())).await;
    assert_eq!(world.receiver.places(&task), ["receiver/history"]);
    assert!(beside.exists());
    for hours in [22, 42] {
        clock.shift(TimeDelta::hours(hours));
        world.receiver.kill();
        world.receiver.start().await;
        let now = (Utc::now() + TimeDelta::hours(hours - 1)).timestamp_millis();
        let noted = format!("select count(*) from node where seen_at > {now}");
        until("the time is believed", PATIENCE, async || (world.receiver.number(&noted).await == 1).then_some(())).await;
    }
    until("the history forgets", PATIENCE, async || world.receiver.places(&task).is_empty().then_some(())).await;
    let rows = async || (world.receiver.number("select count(*) from v_tasks").await == 0).then_some(());
    until("its row is gone", PATIENCE, rows).await;
    until("its errors are gone", PATIENCE, async || (!beside.exists()).then_some(())).await;
    assert_eq!(world.receiver.progress(&task).await.0.desc(), "unknown task, not found task.");
    world.assert_delivered(&package);
}
