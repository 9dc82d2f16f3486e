//! Bad lines: slow, late, cut, silent, gone; a server that is away, a bucket that refuses. What can be delivered is delivered,
//! nothing hangs, little is fetched twice, and what cannot be done is said.

#[allow(dead_code, reason = "not every test asks for all of it")]
mod bucket;
mod world;

use bucket::Bucket;
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use world::{Line, Link, Node, PATIENCE, WallClock, World, free_ports, read_json, task_name, until, watch_until};

const MIB: u64 = 1 << 20;

/// A world whose seed is reached over `link` only: no tracker knows another way.
fn behind(mut world: World, link: &Link) -> World {
    let [nobody] = free_ports();
    world.sender.set_all(&json!({
        "trackerlisten": "", "tracker": format!("http://{nobody}/announce"), "btpeers": [link.addr.to_string()],
    }));
    world
}

/// The origin over a line of its own.
fn edge(world: &mut World) -> Link {
    let link = Link::to(world.web);
    world.sender.set("cdnurl", format!("http://{}", link.addr));
    link
}

async fn downloaded_at_least(world: &World, task: &str, bytes: u64) {
    let far = async || (world.receiver.progress(task).await.downloaded() >= bytes).then_some(());
    until(&format!("{bytes} bytes are there"), PATIENCE, far).await;
}

fn report(what: &str, size: u64, wire: u64, began: Instant) {
    let more = 100.0 * (wire as f64 / size as f64 - 1.0);
    eprintln!("{what}: {size} bytes, {wire} on the wire ({more:+.1} %), {:.1} s", began.elapsed().as_secs_f64());
}

/// CDN and object storage over lines that are late, then break again and again, then are down for a while.
#[tokio::test]
async fn http_over_a_bad_line() {
    let mut world = World::new();
    let bucket = Bucket::start(&world.dir.path().join("bucket")).await;
    let store = Link::to(bucket.addr);
    let cdn = edge(&mut world);
    for node in [&mut world.sender, &mut world.receiver] {
        node.set_all(&bucket::keys(store.addr));
    }
    // A line that is down for seconds is no reason to give up.
    world.receiver.set_all(&json!({"retries": 60, "obsrate": "2M", "cdnrate": "2M"}));
    let package = world.package("film", 48, 3);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    let began = Instant::now();
    cdn.set(Line::Late(Duration::from_millis(60)));
    store.set(Line::Late(Duration::from_millis(60)));
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    downloaded_at_least(&world, &task, package.bytes / 10).await;
    for link in [&cdn, &store] {
        link.set(Line::Breaks(300 << 10));
    }
    let cuts = || cdn.breaks() + store.breaks();
    until("many connections broke", PATIENCE, async || (cuts() > 20).then_some(())).await;
    downloaded_at_least(&world, &task, package.bytes * 4 / 10).await;
    let cuts = cuts();
    for link in [&cdn, &store] {
        link.set(Line::Down);
    }
    let tried = async || {
        let away = world.receiver.number("select count(*) from v_legs where tries > 0").await;
        (away > 0).then_some(())
    };
    until("a run has failed", PATIENCE, tried).await;
    for link in [&cdn, &store] {
        link.set(Line::Good);
    }
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    report(&format!("late, cut {cuts} times, down"), package.bytes, wire, began);
    // After a cut only the rest of a segment is asked for.
    assert!(wire < package.bytes + package.bytes / 20, "{wire} bytes on the wire for {}", package.bytes);
}

/// A black hole: nothing breaks, nothing comes. It is noticed, and when the line is back the rest comes.
#[tokio::test]
async fn a_silent_line_is_noticed() {
    let mut world = World::new();
    let cdn = edge(&mut world);
    let package = world.package("film", 24, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    let began = Instant::now();
    cdn.set(Line::Slow(2 * MIB));
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    downloaded_at_least(&world, &task, package.bytes / 4).await;
    cdn.set(Line::Silent);
    let (before, silent) = (cdn.connections(), Instant::now());
    // The connections are given up, and others opened, without anybody's help.
    until("new connections", PATIENCE, async || (cdn.connections() > before).then_some(())).await;
    eprintln!("silence was noticed after {:.1} s", silent.elapsed().as_secs_f64());
    cdn.set(Line::Good);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    report("silent for a while", package.bytes, wire, began);
    assert!(wire < package.bytes + 2 * MIB, "{wire} bytes on the wire for {}", package.bytes);
}

/// One connection of four crawls: the end of the film must not wait for it.
#[tokio::test]
async fn one_connection_that_crawls_holds_nobody_up() {
    let mut world = World::new();
    let cdn = edge(&mut world);
    world.receiver.set("cdnrate", "8M");
    let package = world.package("film", 70, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    let began = Instant::now();
    // Two kilobytes per second are a server that answers, and 16 MiB in more than two hours.
    cdn.set(Line::Crawls(cdn.connections() + 1, 2000));
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    report("one connection at 2 KB/s", package.bytes, wire, began);
    assert!(wire < package.bytes + 4 * MIB, "{wire} bytes on the wire for {}", package.bytes);
}

/// BitTorrent from a single seed: late, silent for a while, cut.
#[tokio::test]
async fn a_seed_over_a_bad_line() {
    let world = World::new();
    let link = Link::to(world.sender.bt);
    let mut world = behind(world, &link);
    world.receiver.set_all(&json!({"retries": 60, "btrate": "3M"}));
    let package = world.package("film", 16, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:0:0").await;
    let began = Instant::now();
    link.set(Line::Late(Duration::from_millis(50)));
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    downloaded_at_least(&world, &task, package.bytes / 10).await;
    link.set(Line::Silent);
    let (before, silent) = (link.connections(), Instant::now());
    until("the seed is dialled anew", PATIENCE, async || (link.connections() > before).then_some(())).await;
    eprintln!("a silent seed was dialled anew after {:.1} s", silent.elapsed().as_secs_f64());
    link.set(Line::Breaks(4 * MIB));
    until("the line breaks", PATIENCE, async || (link.breaks() > 0).then_some(())).await;
    link.set(Line::Good);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    report(&format!("a seed, late, silent, cut {} times", link.breaks()), package.bytes, wire, began);
    // What was under way of pieces is lost with each connection.
    assert!(wire < package.bytes * 2, "{wire} bytes on the wire for {}", package.bytes);
}

/// Two seeds, one of which gets slow and then falls silent, with requests that it does not answer.
#[tokio::test]
async fn a_seed_that_falls_silent_holds_nobody_up() {
    let world = World::new();
    let slow = Link::to(world.cacher.bt);
    let mut world = behind(world, &slow);
    let fast = world.sender.bt.to_string();
    world.sender.set_all(&json!({"btuprate": "2M", "btpeers": [fast, slow.addr.to_string()]}));
    let package = world.package("film", 30, 1);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:0:0").await;
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    let seeding = async || {
        let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "seeding").then_some(())
    };
    until("the cacher seeds", PATIENCE, seeding).await;
    let (began, before) = (Instant::now(), slow.bytes());
    slow.set(Line::Slow(200 << 10));
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    until("the slow seed brings something", PATIENCE, async || (slow.bytes() > before + (100 << 10)).then_some(())).await;
    slow.set(Line::Silent);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    report("two seeds, one falls silent", package.bytes, wire, began);
    assert!(wire < package.bytes * 3 / 2, "{wire} bytes on the wire for {}", package.bytes);
}

/// The seed is gone for good, with the usual patience of hours. What the CDN has brought by then is not all that it can do.
#[tokio::test]
async fn what_a_seed_does_not_bring_comes_from_the_cdn() {
    let world = World::new();
    let link = Link::to(world.sender.bt);
    let mut world = behind(world, &link);
    world.receiver.set_all(&json!({"retries": 5, "retrydelay": 300}));
    let package = world.package("film", 20, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:0:1").await;
    link.set(Line::Down);
    let began = Instant::now();
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    report("no seed, the CDN takes over", package.bytes, wire, began);
    assert!(wire < package.bytes + MIB, "{wire} bytes on the wire for {}", package.bytes);
    let events = world.receiver.events(&task).await;
    assert!(events.contains("bt is slow: cdn, which is done, takes over"), "{events}");
}

/// A bucket that brings next to nothing: its spans are cut, and the CDN brings the ends.
#[tokio::test]
async fn a_slow_bucket_is_helped() {
    let mut world = World::new();
    let bucket = Bucket::start(&world.dir.path().join("bucket")).await;
    let store = Link::to(bucket.addr);
    for node in [&mut world.sender, &mut world.receiver] {
        node.set_all(&bucket::keys(store.addr));
    }
    world.receiver.set_all(&json!({"retries": 5, "retrydelay": 300, "cdnrate": "3M"}));
    let package = world.package("film", 40, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    store.set(Line::Slow(20 << 10));
    let began = Instant::now();
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let helped = async || world.receiver.events(&task).await.contains("takes over").then_some(());
    until("the CDN helps", PATIENCE, helped).await;
    store.set(Line::Good);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let (wire, share) = (world.receiver.wire(&task, "%").await, world.receiver.wire(&task, "obs").await);
    report("a bucket at 20 KB/s", package.bytes, wire, began);
    let events = world.receiver.events(&task).await;
    assert!(events.contains("obs is slow: cdn, which is done, takes over"), "{events}");
    assert!(!events.contains("handed over"), "{events}");
    assert!(share > 300 << 10, "what the bucket brought counts: {share}");
    assert!(wire < package.bytes + 4 * MIB, "{wire} bytes on the wire for {}", package.bytes);
}

/// The wrong key: no hours of tries, the CDN takes over at once, and the operator reads why. Without a CDN the task ends.
#[tokio::test]
async fn a_bucket_that_refuses_the_key() {
    let mut world = World::new();
    let bucket = Bucket::start(&world.dir.path().join("bucket")).await;
    let store = Link::to(bucket.addr);
    let endpoint = format!("s3+http://{}", store.addr);
    world.sender.set_all(&json!({"obsendpoint": endpoint, "obsak": bucket::AK, "obssk": bucket::SK, "splitfiles": false}));
    world.receiver.set_all(&json!({"retries": 5, "retrydelay": 300}));
    let package = world.package("film", 12, 6);
    world.start().await;
    let task = task_name("film");
    let mut document = read_json(&world.publish("film", "0:9:1").await);
    for key in ["sk", "obssk"] {
        document["obs"][key] = "WRONG-SK".into();
    }
    let taskfile = world.dir.path().join(&task);
    std::fs::write(&taskfile, document.to_string()).expect("write");
    let before = store.connections();
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let events = world.receiver.events(&task).await;
    assert!(events.contains("the store denies access: check ak, sk") && events.contains("cdn takes over"), "{events}");
    assert_eq!(events.matches("takes over").count(), 1, "all at once: {events}");
    assert!(!events.contains("WRONG-SK"), "{events}");
    eprintln!("a refused key: {} connections", store.connections() - before);

    assert!(world.receiver.call("cancel", json!({"taskfile": task})).await.ok);
    std::fs::remove_dir_all(world.receiver.store().join("film")).expect("remove");
    let taskfile = world.dir.path().join("again").join(&task);
    std::fs::create_dir_all(taskfile.parent().expect("parent")).expect("directory");
    let mut only = read_json(&world.gentask("film", "0:1:0").await);
    for key in ["sk", "obssk"] {
        only["obs"][key] = "WRONG-SK".into();
    }
    only["cdn"]["url"] = "".into();
    std::fs::write(&taskfile, only.to_string()).expect("write");
    let began = Instant::now();
    let reply = world.recv(&world.receiver, &taskfile).await;
    assert!(reply.ok, "{reply:?}");
    let p = world.receiver.download_fails(&task).await;
    assert!(p.error().contains("check ak, sk"), "{}", p.error());
    let err = world.receiver.data().join("receiver/downloading").join(format!("{task}.err"));
    let text = until("the .err file", PATIENCE, async || std::fs::read_to_string(&err).ok()).await;
    assert!(text.contains("check ak, sk") && !text.contains("WRONG-SK"), "{text}");
    // One more try would come after five minutes.
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
}

/// A cancelled upload leaves no parts in the bucket, which would keep them for ever; sent again, it goes up whole.
#[tokio::test]
async fn a_cancelled_upload_leaves_no_parts() {
    let mut world = World::new();
    let at = world.dir.path().join("bucket");
    let bucket = Bucket::start(&at).await;
    let line = Link::to(bucket.addr);
    let endpoint = format!("s3+http://{}", line.addr);
    world.sender.set_all(&json!({"obsendpoint": endpoint, "obsak": bucket::AK, "obssk": bucket::SK, "splitfiles": false}));
    let package = world.package("film", 40, 1);
    world.sender.start().await;
    let task = task_name("film");
    let taskfile = world.gentask("film", "0:1:0").await;
    let kept = world.dir.path().join(&task);
    std::fs::copy(&taskfile, &kept).expect("copy");
    world.sender.set("obsrate", "2M");
    assert!(world.sender.get("reloadconf").await.is_some_and(|said| said.starts_with("reload config json ok.")));
    let parts = || {
        world::entries(&at).into_iter().chain(world::entries(&at.join(world::SUBDIR))).filter(|e| e.contains("upload")).count()
    };
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    let sent = "select bytes_wire from v_legs where method = 'obs'";
    let under_way = async || (line.parts() > 0 && world.sender.number(sent).await > 1 << 20).then_some(());
    until("a part is under way", PATIENCE, under_way).await;
    // The line goes down, which is why somebody cancels. What is in the bucket is given up when it is up again.
    line.set(Line::Down);
    let before = line.connections();
    assert_eq!(world.sender.call("cancel", json!({"taskfile": task})).await.desc(), "succeed!");
    until("giving up is tried", PATIENCE, async || (line.connections() > before).then_some(())).await;
    assert!(parts() > 0);
    line.set(Line::Good);
    until("its parts are gone", PATIENCE, async || (parts() == 0).then_some(())).await;
    assert_eq!(world.sender.places(&task), ["sender/history"]);

    world.sender.set("obsrate", "");
    assert!(world.sender.get("reloadconf").await.is_some_and(|said| said.starts_with("reload config json ok.")));
    world.send(&kept).await;
    assert_eq!(parts(), 0);
    let there = world::tree(&at.join(world::SUBDIR).join("dcps/film"));
    assert_eq!(there.values().map(|(size, _)| size).sum::<u64>(), package.bytes);
}

/// The only method is away: so many tries and no more, then the task says so; received again it goes on where it was.
#[tokio::test]
async fn an_origin_that_is_gone_ends_the_task_and_nothing_is_lost() {
    let mut world = World::new();
    let cdn = edge(&mut world);
    world.receiver.set_all(&json!({"retries": 2, "retrydelay": 5}));
    world.sender.set_all(&json!({"obsurl": null, "obsendpoint": null}));
    let package = world.package("film", 24, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    // Slow on the line, or it would be in the buffers of this machine when the line goes down.
    cdn.set(Line::Slow(2 * MIB));
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    downloaded_at_least(&world, &task, package.bytes / 4).await;
    cdn.set(Line::Down);
    let beside = |ending: &str| world.receiver.data().join("receiver/downloading").join(format!("{task}.{ending}"));
    // While it is tried again, the error of the last try is shown, those before in the history.
    // (Whoever looks late sees both there.)
    let read = |ending: &str| std::fs::read_to_string(beside(ending)).unwrap_or_default();
    let shown = async || (read("err") + &read("errhistory")).contains("try 1: cdn").then_some(());
    until("the error of the first try", PATIENCE, shown).await;
    assert_eq!(world.receiver.progress(&task).await.status(), "downloading");
    let retired = async || std::fs::read_to_string(beside("errhistory")).ok().filter(|text| text.contains("try 1: cdn"));
    until("the next try", PATIENCE, retired).await;
    let p = world.receiver.download_fails(&task).await;
    assert!(p.error().contains("cdn") && p.error().contains(".mxf"), "{}", p.error());
    let failed = "select count(*) from v_events where kind = 'leg failed'";
    assert_eq!(world.receiver.number(failed).await, 1);
    let starts = || world.receiver.log().matches("leg starts").count();
    until("both tries are in the log", PATIENCE, async || (starts() >= 2).then_some(())).await;
    assert_eq!(starts(), 2, "two tries: {}", world.receiver.log());
    until("the .err file", PATIENCE, async || beside("err").exists().then_some(())).await;
    let fetched = world.receiver.wire(&task, "%").await;

    cdn.set(Line::Good);
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    assert!(!beside("err").exists() && beside("errhistory").exists());
    let wire = fetched + world.receiver.wire(&task, "%").await;
    eprintln!("{wire} bytes on the wire for {}, in two receptions", package.bytes);
    assert!(wire < package.bytes + MIB, "{wire} bytes on the wire for {}", package.bytes);
}

/// Origin and bucket are away for a day, each the only one that a task has: five tries, five minutes apart, then the error;
/// received again the next day, only the rest is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_without_origin_and_bucket() {
    let mut world = World::new();
    let Some(clock) = WallClock::new(world.dir.path(), "UTC") else { return };
    clock.set(Utc.with_ymd_and_hms(2026, 6, 1, 9, 0, 0).unwrap());
    let bucket = Bucket::start(&world.dir.path().join("bucket")).await;
    let (store, cdn) = (Link::to(bucket.addr), edge(&mut world));
    clock.rule(&mut world.sender);
    clock.rule(&mut world.receiver);
    world.sender.set_all(&json!({
        "obsendpoint": format!("s3+http://{}", store.addr), "obsak": bucket::AK, "obssk": bucket::SK, "defaultseedtime": "240",
    }));
    // The defaults.
    world.receiver.set_all(&json!({"retries": null, "retrydelay": null}));
    world.start().await;
    let mut films = Vec::new();
    for (name, ratio, other) in [("by-cdn", "0:0:1", "obs"), ("by-obs", "0:1:0", "cdn")] {
        let package = world.package(name, 16, 1);
        // Nobody can stand in.
        let mut document = read_json(&world.publish(name, ratio).await);
        document[other]["url"] = "".into();
        let taskfile = world.dir.path().join(task_name(name));
        std::fs::write(&taskfile, document.to_string()).expect("write");
        films.push((task_name(name), taskfile, package));
    }
    for line in [&store, &cdn] {
        line.set(Line::Slow(MIB));
    }
    for (_, taskfile, _) in &films {
        assert!(world.recv(&world.receiver, taskfile).await.ok);
    }
    for (task, _, package) in &films {
        downloaded_at_least(&world, task, package.bytes / 4).await;
    }
    for line in [&store, &cdn] {
        line.set(Line::Down);
    }
    let began = clock.now();
    // Half-way it is killed, and does not begin to count anew.
    let tried = async |node: &Node, n: u64| {
        tries_pass(&clock, node, async || node.number("select min(tries) from v_legs").await >= n).await;
    };
    tried(&world.receiver, 2).await;
    world.receiver.kill();
    world.receiver.start().await;
    tried(&world.receiver, 3).await;
    for (task, ..) in &films {
        let p = world.receiver.progress(task).await;
        assert_eq!((p.status().as_str(), p.error().as_str()), ("downloading", ""), "{p:?}");
    }
    let ended = "select count(*) from v_tasks where state = 'downloaderror'";
    tries_pass(&clock, &world.receiver, async || world.receiver.number(ended).await == 2).await;
    let passed = clock.now() - began;
    eprintln!("given up after {} minutes", passed.num_minutes());
    assert!((20..=30).contains(&passed.num_minutes()), "four waits of five minutes and up to a fifth more: {passed}");
    let beside = |task: &str, ending: &str| world.receiver.data().join("receiver/downloading").join(format!("{task}.{ending}"));
    let read = |task: &str, ending: &str| std::fs::read_to_string(beside(task, ending)).unwrap_or_default();
    for ((task, ..), method) in films.iter().zip(["cdn", "obs"]) {
        let error = world.receiver.download_fails(task).await.error();
        assert!(error.starts_with(&format!("{method}: ")) && error.contains(".mxf"), "{error}");
        until("the error is shown", PATIENCE, async || read(task, "err").contains(&error).then_some(())).await;
        let tries: Vec<_> = (1..=6).filter(|n| read(task, "errhistory").contains(&format!("try {n}: {method}"))).collect();
        assert_eq!(tries, [1, 2, 3, 4], "{}", read(task, "errhistory"));
    }

    // Nobody tries any more.
    clock.set(began + TimeDelta::days(1));
    let date = clock.now().format("%Y-%m-%d").to_string();
    let shown = async || world.receiver.get("heartbeat").await.filter(|text| text.starts_with(&date)).map(drop);
    until("it is the next day", PATIENCE, shown).await;
    let connections = store.connections() + cdn.connections();
    watch_until(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(store.connections() + cdn.connections(), connections, "tries after the error");
    for line in [&store, &cdn] {
        line.set(Line::Good);
    }
    for ((task, taskfile, package), reactive) in films.iter().zip([Value::Null, "true".into()]) {
        let fetched = world.receiver.wire(task, "%").await;
        let params = json!({"taskfile": world.receiver.carry(taskfile), "reactive": reactive});
        let reply = world.receiver.call("recv", params).await;
        assert!(reply.ok, "recv: {}", reply.desc());
        world.receiver.downloaded(task).await;
        world.assert_delivered(package);
        assert!(!beside(task, "err").exists() && beside(task, "errhistory").exists());
        let wire = fetched + world.receiver.wire(task, "%").await;
        eprintln!("{task}: {wire} bytes on the wire for {}, {fetched} of them the day before", package.bytes);
        assert!(wire < package.bytes + MIB, "{wire} bytes on the wire for {}", package.bytes);
    }
}

/// Puts the clock to the next try, again and again.
async fn tries_pass(clock: &WallClock, node: &Node, over: impl AsyncFn() -> bool) {
    let due = "select max(retry_at) from legs where not exists (select 1 from legs where state = 'running')";
    until("the tries are over", 3 * PATIENCE, async || {
        if over().await {
            return Some(());
        }
        let at = i64::try_from(node.number(due).await).expect("a time");
        if let Some(at) = DateTime::from_timestamp_millis(at).filter(|at| *at > clock.now()) {
            clock.set(at + TimeDelta::seconds(1));
        }
        None
    })
    .await;
}

/// The tracker is away while a day passes on the clock. Who knows a peer needs none; who knows none waits as long as his
/// tries last, and goes on when it is back; and the seed is known to it then. Nobody is started anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_without_a_tracker() {
    let mut world = World::new();
    let Some(clock) = WallClock::new(world.dir.path(), "UTC") else { return };
    clock.set(Utc.with_ymd_and_hms(2026, 6, 1, 9, 0, 0).unwrap());
    for node in [&mut world.sender, &mut world.receiver, &mut world.cacher] {
        clock.rule(node);
    }
    let tracker = read_json(&world.sender.config_path())["trackerlisten"].as_str().expect("an address").parse().expect("address");
    let tracker = Link::to(tracker);
    tracker.set(Line::Down);
    world.sender.set_all(&json!({
        "tracker": format!("http://{}/announce", tracker.addr), "btpeers": [world.sender.bt.to_string()], "defaultseedtime": "240",
    }));
    let package = world.package("film", 6, 1);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:0:0").await;
    let mut document = read_json(&taskfile);
    assert_eq!(document["bt"]["peers"], json!([world.sender.bt.to_string()]));
    document["bt"]["peers"] = json!([]);
    let lonely = world.dir.path().join(&task);
    std::fs::write(&lonely, document.to_string()).expect("write");
    assert!(world.recv(&world.receiver, &lonely).await.ok);
    let asked = async || world.receiver.log().contains("BitTorrent stalls: asking peers and trackers anew").then_some(());
    until("the receiver has asked again", PATIENCE, asked).await;

    clock.set(clock.now() + TimeDelta::days(1));
    // A cacher that knows the seed.
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    let seeding = async || {
        let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "seeding").then_some(())
    };
    until("the cacher seeds", PATIENCE, seeding).await;
    let p = world.receiver.progress(&task).await;
    assert_eq!((p.status().as_str(), p.error().as_str(), p.downloaded()), ("downloading", "", 0), "{p:?}");
    // The cacher's end takes nothing with it: the receiver has to find the sender.
    world.cacher.kill();
    let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
    assert_eq!(reply.text("status"), "ready", "{reply:?}");
    let back = Instant::now();
    tracker.set(Line::Good);
    world.receiver.downloaded_within(&task, 3 * PATIENCE).await;
    eprintln!("the package was there {:.0} s after the tracker was back", back.elapsed().as_secs_f64());
    world.assert_delivered(&package);
    // A machine on which all this takes minutes may have seen one end of its patience.
    assert!(world.receiver.number("select max(tries) from v_legs").await <= 1);
}
