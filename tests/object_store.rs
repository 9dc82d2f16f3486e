//! Object storage through the shipped program, against a store that verifies every signature: uploads that are interrupted,
//! buckets that are the library, wrong keys, a store that is away for a day, two senders that are one.
//!
//! Nodes reach it as they reach the real one: by the name of the bucket's host, on port 80. So each gets a hosts file of its
//! own, which only root can give to a process; elsewhere these tests are skipped.

mod support;
mod world;

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::obs_emulator::faults::ObsFault;
use support::obs_emulator::{AK, ENDPOINT, ObsEmulator, Op, SK};
use world::{Line, Link, Node, PATIENCE, SUBDIR, WallClock, World, entries, file_name, task_name, tree, until, watch_until};

const MIB: u64 = 1 << 20;
/// Of uploads.
const PART: u64 = 16 * MIB;
/// Parts that are under way at a time.
const AT_ONCE: usize = 3;
const WRONG: &str = "EXAMPLE-WRONG-SK";

/// The store, the line to it, and the name by which nodes know it.
struct Cloud {
    store: ObsEmulator,
    line: Link,
    hosts: PathBuf,
}

impl Cloud {
    /// `None`, and a line that says so, where this machine does not let us.
    async fn start(dir: &Path) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = std::process::id();
        let (low, high) = (process % 250 + 1, process / 250 % 250);
        let at = format!("127.{}.{high}.{low}", 100 + NEXT.fetch_add(1, SeqCst));
        let hosts = dir.join("hosts");
        let all = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let host = ENDPOINT.trim_start_matches("http://");
        std::fs::write(&hosts, format!("{all}\n{at} {SUBDIR}.{host}\n")).expect("write");
        let mounts = Command::new("unshare").args(["-m", "sh", "-c", &mount(&hosts)]).output();
        let listener = TcpListener::bind(format!("{at}:80"));
        let (true, Ok(listener)) = (mounts.is_ok_and(|o| o.status.success()), listener) else {
            println!("skipped: only root can give a process a hosts file of its own and listen on port 80");
            return None;
        };
        let store = ObsEmulator::start().await;
        Some(Self { line: Link::from(listener, store.addr), store, hosts })
    }

    /// The node's next process knows the store's name.
    fn is_known_to(&self, node: &mut Node) {
        under(node, &mount(&self.hosts));
    }

    fn keys() -> Value {
        json!({"obsendpoint": ENDPOINT, "obsak": AK, "obssk": SK})
    }

    fn set_clock(&self, clock: &WallClock, to: DateTime<Utc>) {
        clock.set(to);
        self.store.set_clock(to);
    }

    /// Waits until it has seen the ends of all requests that were under way.
    async fn settles(&self) {
        until("nothing is under way", PATIENCE, async || (self.store.parts().under_way() == 0).then_some(())).await;
    }

    /// Every part that the package needs is there once, and nothing is left over.
    fn assert_uploaded_once(&self, package: &Path, uploads: usize) {
        self.assert_uploaded(package, uploads, 0);
    }

    /// `again`: parts that may have been sent once more, because the answer was lost.
    fn assert_uploaded(&self, package: &Path, uploads: usize, again: usize) {
        let large: Vec<_> = tree(package).into_iter().filter(|(_, (size, _))| *size >= 8 * MIB).collect();
        let mut kept = self.store.parts().kept;
        kept.sort();
        let sent = kept.len();
        kept.dedup();
        let name = file_name(package);
        let mut due: Vec<(String, u64)> = Vec::new();
        for (file, (size, _)) in &large {
            due.extend((1..=size.div_ceil(PART)).map(|n| (format!("dcps/{name}/{file}"), n)));
        }
        due.sort();
        assert_eq!(kept, due, "every part");
        assert!(sent <= due.len() + again, "{sent} parts were stored, and there are {}", due.len());
        assert_eq!((self.store.count(Op::Initiate), uploads), (large.len(), large.len()), "uploads begun");
        self.assert_holds(package);
    }

    fn assert_holds(&self, package: &Path) {
        let name = file_name(package);
        for file in tree(package).keys() {
            let there = self.store.bytes(SUBDIR, &format!("dcps/{name}/{file}"));
            assert!(there == Some(std::fs::read(package.join(file)).expect("read")), "{file} in the bucket");
        }
        assert_eq!(self.store.unfinished(), 0, "unfinished uploads");
    }
}

fn mount(hosts: &Path) -> String {
    format!("mount --bind '{}' /etc/hosts", hosts.display())
}

/// The node's next process has a file system of its own, after these commands.
fn under(node: &mut Node, commands: &str) {
    node.runner.extend(["unshare", "-m", "sh", "-c"].map(str::to_owned));
    node.runner.push(format!("{commands} && exec \"$0\" \"$@\""));
}

async fn reload(node: &mut Node, keys: &Value) {
    node.set_all(keys);
    assert!(node.get("reloadconf").await.is_some_and(|said| said.starts_with("reload config json ok.")));
}

async fn status(world: &World, task: &str) -> String {
    world.sender.call("uploadprogress", json!({"taskfile": task})).await.text("status")
}

/// Waits until the distribution has failed. Gives what it says.
async fn fails(world: &World, task: &str) -> String {
    until("the upload fails", PATIENCE, async || (status(world, task).await == "error").then_some(())).await;
    let errors = world.sender.data().join("sender/uploading").join(format!("{task}.bterr"));
    let said = until("the error file", PATIENCE, async || std::fs::read_to_string(&errors).ok()).await;
    let reason = world.sender.sql(&format!("select reason from v_tasks where task = '{task}'")).await.concat().concat();
    assert!(!reason.is_empty() && said.contains(&reason), "{reason:?} in {said}");
    assert_eq!(world.sender.places(task), ["sender/failed"]);
    reason
}

fn utc(day: u32, h: u32, m: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 6, day, h, m, 0).unwrap()
}

/// A world under a clock, whose nodes know the store.
async fn cloudy() -> Option<(World, WallClock, Cloud)> {
    let mut world = World::new();
    let clock = WallClock::new(world.dir.path(), "UTC")?;
    let cloud = Cloud::start(world.dir.path()).await?;
    for node in [&mut world.sender, &mut world.receiver] {
        clock.rule(node);
        cloud.is_known_to(node);
        node.set_all(&Cloud::keys());
        node.set("splitfiles", false);
    }
    Some((world, clock, cloud))
}

/// Killed, stopped, out of its window: it goes on from the parts that are there, and sends none of them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_interrupted_sends_every_part_once() {
    let Some((mut world, clock, cloud)) = cloudy().await else { return };
    cloud.set_clock(&clock, utc(1, 20, 0));
    world.sender.set_all(&json!({"obsrate": "8M", "obstime": "18:00-05:00", "uploadpriortime": true}));
    let package = world.package("film", 208, 2);
    world.sender.start().await;
    let task = task_name("film");
    let order = json!({"btobscdn": "0:1:0", "policy": "priortime", "seedtime": "480"});
    let taskfile = world.gentask_with("film", order).await;
    let began = Instant::now();
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);

    // So many parts are there, and others are under way.
    let amid = async |parts: usize| {
        let kept = async || (cloud.store.parts().kept.len() >= parts).then_some(());
        until(&format!("{parts} parts are there"), PATIENCE, kept).await;
        let more = cloud.store.received() + 4 * MIB;
        until("others are under way", PATIENCE, async || (cloud.store.received() >= more).then_some(())).await;
    };
    amid(1).await;
    for parts in [3, 5] {
        world.sender.kill();
        cloud.settles().await;
        world.sender.start().await;
        amid(parts).await;
    }
    assert!(world.sender.terminate().await.success());
    assert!(world.sender.log().contains("stopped: everything that was received is recorded"));
    cloud.settles().await;
    world.sender.start().await;
    amid(7).await;

    // The window closes: no byte, no error, and no place is held; a power cut in the day changes nothing.
    cloud.set_clock(&clock, utc(2, 5, 0));
    let leg = "select state || ' ' || error || tries from v_legs where method = 'obs'";
    until("it waits for its window", PATIENCE, async || (world.sender.sql(leg).await.concat() == ["waiting 0"]).then_some(()))
        .await;
    cloud.settles().await;
    let before = (cloud.store.received(), cloud.line.connections());
    world.sender.kill();
    world.sender.start().await;
    watch_until(Instant::now() + Duration::from_secs(3)).await;
    assert_eq!((cloud.store.received(), cloud.line.connections()), before, "outside the window");
    assert_eq!(
        (status(&world, &task).await.as_str(), world.sender.sql(leg).await.concat()),
        ("uploading", vec!["waiting 0".into()])
    );
    cloud.set_clock(&clock, utc(2, 18, 0));
    amid(9).await;
    world.sender.kill();
    cloud.settles().await;
    world.sender.start().await;
    reload(&mut world.sender, &json!({"obsrate": ""})).await;
    let sent = world.ready(&task).await;

    let (parts, received) = (cloud.store.parts(), cloud.store.received());
    eprintln!(
        "{} bytes in {} parts: {} broke off in 5 interruptions, {received} bytes were sent, {:.0?}",
        package.bytes,
        parts.kept.len(),
        parts.lost.len(),
        began.elapsed()
    );
    let large = tree(&package.dir).values().filter(|(size, _)| *size >= 8 * MIB).count();
    cloud.assert_uploaded_once(&package.dir, large);
    assert!(parts.lost.len() <= 5 * AT_ONCE, "{:?}", parts.lost);
    let notes = "select count(*) from checkpoints where key glob 'upload:*'";
    assert_eq!(world.sender.number(notes).await, 0, "notes of uploads that are done");

    world.receiver.start().await;
    world.receive(&sent).await;
    world.assert_delivered(&package);
    // The counts were not those of a store that takes anything.
    assert!(cloud.store.count(Op::ListParts) > 0);
}

/// The bucket is the library (or has the data already): nothing is uploaded, sizes are compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_the_library_is_compared_and_never_written() {
    let mut world = World::new();
    let Some(cloud) = Cloud::start(world.dir.path()).await else { return };
    for node in [&mut world.sender, &mut world.receiver] {
        cloud.is_known_to(node);
        node.set_all(&Cloud::keys());
    }
    world.sender.set_all(&json!({"machinetype": "hwecs", "retries": 3, "retrydelay": 1}));
    let package = world.package("film", 24, 2);
    world.start().await;
    let task = task_name("film");
    let looks = async |world: &World| {
        cloud.store.forget_requests();
        let taskfile = world.gentask("film", "0:1:1").await;
        assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    };
    let key = |file: &str| format!("dcps/film/{file}");
    let put = |file: &str, cut: usize| {
        let bytes = std::fs::read(package.dir.join(file)).expect("read");
        cloud.store.put(SUBDIR, &key(file), &bytes[cut..], &[]);
    };

    // Nothing is there: so many looks as are configured, then it says what is missing and where.
    looks(&world).await;
    let reason = fails(&world, &task).await;
    let all = "is not in the object storage with its size (obs://cfec-001/dcps/film), and this node does not upload";
    assert!(reason.starts_with("obs: ") && reason.contains(all) && reason.contains(" like this)"), "{reason}");
    assert_eq!(cloud.store.count(Op::List), 3, "looks");
    let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
    assert_eq!((reply.text("desc").as_str(), reply.text("obsstatus").as_str()), ("obs errors", "uncompleted 0%"));
    assert_eq!(reply.text("btstatus"), "noseeding");

    // One has another size, and is the only one that is named.
    let largest = package.files.iter().max_by_key(|f| f.size).map(|f| f.path.clone()).expect("a file");
    for file in tree(&package.dir).keys() {
        put(file, usize::from(*file == largest));
    }
    looks(&world).await;
    let reason = fails(&world, &task).await;
    assert!(reason.contains(&largest) && reason.contains(all), "{reason}");
    let named = tree(&package.dir).into_keys().filter(|f| reason.contains(f.as_str())).count();
    assert_eq!(named, 1, "{reason}");

    // A mounted bucket may show a file here some time before it is an object: it goes on by itself.
    reload(&mut world.sender, &json!({"retries": 100})).await;
    looks(&world).await;
    let tries = "select tries from v_legs where method = 'obs'";
    until("it has looked twice", PATIENCE, async || (world.sender.number(tries).await >= 2).then_some(())).await;
    put(&largest, 0);
    let sent = world.ready(&task).await;
    let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
    assert_eq!((reply.text("obsstatus").as_str(), reply.text("status").as_str()), ("completed", "ready"));

    // The wrong key: one look, and it says which key and where it stands, and does not show it.
    reload(&mut world.sender, &json!({"obssk": WRONG})).await;
    looks(&world).await;
    let reason = fails(&world, &task).await;
    assert!(reason.contains("the store refuses the signature: check sk (in the task file)"), "{reason}");
    assert_eq!(cloud.store.count(Op::List), 1, "looks with a wrong key");
    reload(&mut world.sender, &json!({"obsak": "EXAMPLE-UNKNOWN-AK"})).await;
    looks(&world).await;
    let reason = fails(&world, &task).await;
    assert!(reason.contains("the store does not know the access key: check ak (in the task file)"), "{reason}");
    // Keys stand in the task: another configuration alone does not help, another gentask does.
    reload(&mut world.sender, &Cloud::keys()).await;
    let failed = world.sender.data().join("sender/failed").join(&task);
    assert!(world.sender.call("send", json!({"taskfile": failed})).await.ok);
    fails(&world, &task).await;
    looks(&world).await;
    let again = world.ready(&task).await;
    assert_eq!(world::read_json(&again)["filelist"], world::read_json(&sent)["filelist"]);
    for secret in [WRONG, "EXAMPLE-UNKNOWN-AK", SK, AK] {
        assert_unknown(&world.sender, secret).await;
    }

    // The same for one package alone, on a sender that uploads otherwise.
    reload(&mut world.sender, &json!({"machinetype": "local", "retries": 2})).await;
    let other = world.package("other", 9, 1);
    let order = json!({"btobscdn": "0:1:0", "datasource": "obs"});
    let taskfile = world.gentask_with("other", order).await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    let reason = fails(&world, &task_name("other")).await;
    assert!(reason.contains("(obs://cfec-001/dcps/other), and this node does not upload"), "{reason}");
    for file in tree(&other.dir).keys() {
        let bytes = std::fs::read(other.dir.join(file)).expect("read");
        cloud.store.put(SUBDIR, &format!("dcps/other/{file}"), &bytes, &[]);
    }
    let failed = world.sender.data().join("sender/failed").join(task_name("other"));
    assert!(world.sender.call("send", json!({"taskfile": failed})).await.ok, "sent again");
    let other_sent = world.ready(&task_name("other")).await;

    let written = [Op::Put, Op::Initiate, Op::PutPart, Op::Delete].map(|op| cloud.store.count(op));
    assert_eq!((written, world.sender.number("select sum(bytes_wire) from v_legs where method = 'obs'").await), ([0; 4], 0));
    world.receive(&again).await;
    world.assert_delivered(&package);
    assert!(world.receiver.wire(&task, "obs").await > 0);
    world.receive(&other_sent).await;
    world.assert_delivered(&other);
}

/// No log, event, view or error file of a node knows it.
async fn assert_unknown(node: &Node, secret: &str) {
    assert!(!node.log().contains(secret), "the log knows {secret}");
    for view in ["v_events", "v_legs", "v_tasks"] {
        let rows = node.sql(&format!("select * from {view}")).await.concat().concat();
        assert!(!rows.contains(secret), "{view} knows {secret}");
    }
    for dir in ["sender/uploading", "receiver/downloading"].map(|d| node.data().join(d)) {
        for file in entries(&dir).iter().filter(|f| f.contains("err")) {
            let text = std::fs::read_to_string(dir.join(file)).expect("read");
            assert!(!text.contains(secret), "{file} knows {secret}");
        }
    }
}

/// Tries come as they are due, until the condition holds: the clock is put there. Gives how much time passed by the clock.
async fn days_pass(clock: &WallClock, cloud: &Cloud, node: &Node, over: impl AsyncFn() -> bool) -> TimeDelta {
    let began = clock.now();
    let due = "select min(retry_at) from legs where state = 'waiting' and not exists (select 1 from legs where state = 'running' and method = 'obs')";
    until("the tries are over", 2 * PATIENCE, async || {
        if over().await {
            return Some(());
        }
        let at = node.number(due).await;
        if let Some(at) = DateTime::from_timestamp_millis(at as i64).filter(|at| *at > clock.now()) {
            cloud.set_clock(clock, at + TimeDelta::seconds(1));
        }
        None
    })
    .await;
    clock.now() - began
}

/// The bucket is away in the middle of an upload: the documented tries, then an error; sent again, the rest goes up. What
/// else the sender does goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_away_for_a_day() {
    let Some((mut world, clock, cloud)) = cloudy().await else { return };
    cloud.set_clock(&clock, utc(1, 9, 0));
    // The defaults.
    world.sender.set_all(&json!({"obsrate": "8M", "retries": null, "retrydelay": null}));
    let (film, short) = (world.package("film", 96, 1), world.package("short", 9, 1));
    world.package("early", 4, 1);
    world.sender.start().await;

    // A clock that is wrong is no wrong key: it is tried again, and goes on when the clock is right.
    clock.set(utc(1, 12, 0));
    let taskfile = world.gentask("early", "0:1:0").await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    let skewed = "select count(*) from v_legs where state = 'waiting' and error like '%: set this machine''s clock'";
    until("it says that the clocks differ", PATIENCE, async || (world.sender.number(skewed).await == 1).then_some(())).await;
    clock.set(utc(1, 9, 0));
    world.ready(&task_name("early")).await;
    cloud.store.forget_requests();
    let task = task_name("film");
    let taskfile = world.gentask_with("film", json!({"btobscdn": "0:1:0", "seedtime": "240"})).await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    until("a part is there", PATIENCE, async || (!cloud.store.parts().kept.is_empty()).then_some(())).await;
    let more = cloud.store.received() + 4 * MIB;
    until("others are under way", PATIENCE, async || (cloud.store.received() >= more).then_some(())).await;
    cloud.line.set(Line::Down);

    // One try has failed, and the next one is minutes away: a restart does not begin to count anew.
    let tries = "select tries from v_legs where task like '%film%' and state = 'waiting'";
    until("a try has failed", PATIENCE, async || (world.sender.number(tries).await > 0).then_some(())).await;
    assert_eq!(status(&world, &task).await, "uploading");
    let error = world.sender.sql("select error from v_legs where task like '%film%'").await.concat().concat();
    assert!(error.contains("to obs://cfec-001/dcps/film: the connection broke"), "{error}");
    world.sender.kill();
    cloud.settles().await;
    let kept = cloud.store.parts().kept.len();
    world.sender.start().await;
    let passed = days_pass(&clock, &cloud, &world.sender, async || status(&world, &task).await == "error").await;
    let reason = fails(&world, &task).await;
    assert!(reason.starts_with("obs: cannot look at obs://cfec-001/dcps/film/"), "{reason}");
    assert!(reason.contains(": the connection broke") || reason.contains(": the store cannot be reached"), "{reason}");
    eprintln!("given up after {} minutes: {reason}", passed.num_minutes());
    assert!((20..=30).contains(&passed.num_minutes()), "five tries, five minutes apart: {passed}");

    // The next day. Nobody tries any more, and nobody else is held up.
    cloud.set_clock(&clock, utc(2, 9, 0));
    let seed = world.publish("short", "1:0:0").await;
    let before = cloud.line.connections();
    watch_until(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!((cloud.line.connections(), status(&world, &task).await.as_str()), (before, "error"));
    cloud.line.set(Line::Good);
    reload(&mut world.sender, &json!({"obsrate": ""})).await;
    let failed = world.sender.data().join("sender/failed").join(&task);
    let sent = world.send(&failed).await;
    cloud.assert_uploaded_once(&film.dir, tree(&film.dir).values().filter(|(size, _)| *size >= 8 * MIB).count());
    assert!(kept > 0 && cloud.store.parts().lost.len() <= 2 * AT_ONCE, "{:?}", cloud.store.parts().lost);
    let beside = |ending: &str| world.sender.data().join("sender/uploading").join(format!("{task}.{ending}"));
    assert!(!beside("bterr").exists(), "the error is history");
    let history = std::fs::read_to_string(beside("errhistory")).expect("the errors so far");
    assert!(["try 1: obs", "try 4: obs", &reason].iter().all(|text| history.contains(text)), "{history}");

    // Its own keys are wrong: the receiver says so at once, and that they are its own.
    world.receiver.set_all(&json!({"obssk": WRONG, "retries": null, "retrydelay": null}));
    world.receiver.start().await;
    let mut document = world::read_json(&sent);
    for key in ["ak", "obsak", "sk", "obssk"] {
        document["obs"][key] = "".into();
    }
    document["cdn"]["url"] = "".into();
    let bare = world.dir.path().join(&task);
    std::fs::write(&bare, document.to_string()).expect("write");
    assert!(world.recv(&world.receiver, &bare).await.ok);
    let p = world.receiver.download_fails(&task).await;
    assert!(p.error().contains("check ak, sk (in this node's configuration)"), "{}", p.error());
    assert_unknown(&world.receiver, WRONG).await;
    reload(&mut world.receiver, &Cloud::keys()).await;
    assert!(world.recv(&world.receiver, &bare).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&film);
    world.receive(&seed).await;
    world.assert_delivered(&short);
}

/// The line breaks again and again, each time before three parts that share it could be there: one at a time gets through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_a_line_that_breaks() {
    let mut world = World::new();
    let Some(cloud) = Cloud::start(world.dir.path()).await else { return };
    cloud.is_known_to(&mut world.sender);
    world.sender.set_all(&Cloud::keys());
    world.sender.set_all(&json!({"retries": 3, "splitfiles": false}));
    let package = world.package("film", 60, 1);
    world.sender.start().await;
    let task = task_name("film");
    let taskfile = world.gentask("film", "0:1:0").await;
    cloud.line.set(Line::SlowUp(4 * MIB));
    let began = Instant::now();
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    let (mut breaks, mut broken) = (0, Instant::now());
    until("it is ready", 2 * PATIENCE, async || {
        // Three parts take twelve seconds, one takes four.
        if broken.elapsed() > Duration::from_secs(8) {
            cloud.line.set(Line::Down);
            tokio::time::sleep(Duration::from_millis(100)).await;
            cloud.line.set(Line::SlowUp(4 * MIB));
            (breaks, broken) = (breaks + 1, Instant::now());
        }
        let now = status(&world, &task).await;
        assert!(["queues", "uploading", "uploaded", "ready"].contains(&now.as_str()), "{now}");
        (now == "ready").then_some(())
    })
    .await;
    let received = cloud.store.received();
    eprintln!("{} bytes over {breaks} breaks: {received} were sent, {:.0?}", package.bytes, began.elapsed());
    assert!(breaks > 0, "the line never broke");
    cloud.assert_uploaded(&package.dir, 1, breaks);
}

/// The answer that names a new upload is lost, and who asked is cancelled, or killed: nothing of it stays in the bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_beginning_was_not_answered_leaves_nothing() {
    let mut world = World::new();
    let Some(cloud) = Cloud::start(world.dir.path()).await else { return };
    cloud.is_known_to(&mut world.sender);
    world.sender.set_all(&Cloud::keys());
    world.sender.set("splitfiles", false);
    let package = world.package("film", 12, 1);
    world.sender.start().await;
    let task = task_name("film");
    let taskfile = world.gentask("film", "0:1:0").await;
    let kept = world.dir.path().join(&task);
    std::fs::copy(&taskfile, &kept).expect("copy");
    let begun = async || until("an upload has begun", PATIENCE, async || (cloud.store.unfinished() > 0).then_some(())).await;

    cloud.store.faults().next(Op::Initiate, 1000, ObsFault::LostReply);
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    begun().await;
    assert_eq!(world.sender.call("cancel", json!({"taskfile": task})).await.desc(), "succeed!");
    until("it is given up", PATIENCE, async || (cloud.store.unfinished() == 0).then_some(())).await;
    let notes = "select count(*) from checkpoints where key glob 'upload:*'";
    until("nothing is noted any more", PATIENCE, async || (world.sender.number(notes).await == 0).then_some(())).await;

    assert!(world.sender.call("send", json!({"taskfile": kept})).await.ok);
    begun().await;
    world.sender.kill();
    cloud.settles().await;
    cloud.store.faults().clear();
    world.sender.start().await;
    world.ready(&task).await;
    cloud.assert_holds(&package.dir);
}

/// A sender that was set up from another one's disk, so that both go on with the same upload: one object, whole and right,
/// and nothing is begun anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_senders_with_one_database_make_one_object() {
    let Some((mut world, clock, cloud)) = cloudy().await else { return };
    cloud.set_clock(&clock, utc(1, 9, 0));
    world.sender.set("obsrate", "16M");
    let package = world.package("film", 80, 1);
    world.sender.start().await;
    let task = task_name("film");
    let taskfile = world.gentask("film", "0:1:0").await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    until("a part is there", PATIENCE, async || (!cloud.store.parts().kept.is_empty()).then_some(())).await;
    world.sender.kill();
    cloud.settles().await;
    let mut twin = world.sender.twin(&world.dir.path().join("twin"));
    clock.rule(&mut twin);
    let there = mount(&cloud.hosts) + " && " + &twin.takes_the_place_of(&world.sender);
    under(&mut twin, &there);
    // The second one is slower, and so in the middle of its parts when the first one is done.
    twin.set("obsrate", "3M");
    world.sender.set("obsrate", "6M");
    world.sender.start().await;
    twin.start().await;
    let ready = async |node: &Node| {
        let reply = node.call("uploadprogress", json!({"taskfile": task})).await;
        assert!(["uploading", "uploaded", "ready"].contains(&reply.text("status").as_str()), "{reply:?}");
        (reply.text("status") == "ready").then_some(())
    };
    until("one is ready", PATIENCE, async || ready(&world.sender).await).await;
    until("the other one is ready", PATIENCE, async || ready(&twin).await).await;
    let large = tree(&package.dir).values().filter(|(size, _)| *size >= 8 * MIB).count();
    eprintln!(
        "{} uploads begun, {} parts kept for {} bytes",
        cloud.store.count(Op::Initiate),
        cloud.store.parts().kept.len(),
        package.bytes
    );
    assert_eq!(cloud.store.count(Op::Initiate), large, "begun anew");
    cloud.assert_holds(&package.dir);
    world.receiver.start().await;
    world.receive(&world.sender.data().join("sender/uploaded").join(&task)).await;
    world.assert_delivered(&package);
}
