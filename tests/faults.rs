//! Breakdowns: power cuts of either side, damaged and missing copies, a full disk, no tracker. Whatever happens, no wrong
//! byte gets a name, and what can still be delivered is delivered without anybody's help.

mod world;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use world::{
    PATIENCE, Small, World, copy_tree, entries, file_name, flip_byte, free_ports, read_json, stamps, task_name, tree, until,
};

/// The assembly records what it has at least this often, in seconds.
const SYNC_PERIOD: u64 = 5;

/// What the receiver's database has recorded as safe.
async fn recorded(world: &World) -> u64 {
    world.receiver.number("select bytes_done from v_tasks").await
}

#[tokio::test]
async fn a_receiver_that_is_killed_again_and_again_finishes() {
    const RATE: u64 = 200 << 10;
    let mut world = World::new();
    world.receiver.set_all(&json!({"btrate": RATE, "obsrate": RATE, "cdnrate": RATE}));
    // More than five rounds bring, also when they last longer than they should.
    let package = world.package("film", 40, 3);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    assert_eq!(world.recv(&world.receiver, &taskfile).await.desc(), "succeed!");
    // At once after the reply: accepted means kept.
    world.receiver.kill();
    for round in 0..5u64 {
        world.receiver.start().await;
        let place = async || (!world.receiver.places(&task).is_empty()).then_some(());
        until("the task is shown", PATIENCE, place).await;
        // Mostly after something new was recorded, once in the very beginning of a run, each time a little later.
        let before = recorded(&world).await;
        let grown = async || (round == 2 || recorded(&world).await > before).then_some(());
        until("more is recorded", PATIENCE, grown).await;
        tokio::time::sleep(Duration::from_millis(170 * round)).await;
        world.receiver.kill();
        assert!(recorded(&world).await >= before, "what was recorded is gone");
        assert!(!world.receiver.store().join("film").exists(), "half a package has its name");
    }
    let (done, wire) = (recorded(&world).await, world.receiver.wire(&task, "%").await);
    assert!(done > 0 && done < package.bytes, "{done} of {}", package.bytes);
    world.receiver.set_all(&json!({"btrate": "", "obsrate": "", "cdnrate": ""}));
    world.receiver.start().await;
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    // After each kill at most what three capped legs bring between two records is repeated, and what was under way.
    let all = world.receiver.wire(&task, "%").await;
    let bound = package.bytes + 6 * (3 * RATE * (SYNC_PERIOD + 2)) + (4 << 20);
    assert!(all <= bound, "{all} bytes on the wire for {}, bound {bound}", package.bytes);
    let rest = all - wire;
    assert!(rest <= package.bytes - done + (4 << 20), "{rest} bytes for the last {}", package.bytes - done);
}

/// One method is done long before the others and before the next record is due; then the power goes.
#[tokio::test]
async fn a_kill_after_one_method_is_done_loses_nothing() {
    let mut world = World::new();
    world.receiver.set("obsrate", "200K");
    let package = world.package("film", 8, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let cdn = "select count(*) from v_legs where method = 'cdn' and state = 'done'";
    until("the cdn is done", PATIENCE, async || (world.receiver.number(cdn).await == 1).then_some(())).await;
    world.receiver.kill();
    world.receiver.set("obsrate", "");
    world.receiver.start().await;
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let (wire, size) = (world.receiver.wire(&task, "cdn").await, read_json(&taskfile)["cdnlistsize"].as_u64().expect("size"));
    assert!(wire < size + size / 2, "{wire} bytes on the wire for {size}: it was fetched twice");
}

/// Somebody tidies up the staging directory of a task that is not finished.
#[tokio::test]
async fn staged_files_that_vanish_are_fetched_again() {
    let mut world = World::new();
    world.receiver.set("obsrate", "200K");
    let package = world.package("film", 8, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let cdn = "select count(*) from v_legs where method = 'cdn' and state = 'done'";
    until("the cdn is done", PATIENCE, async || (world.receiver.number(cdn).await == 1).then_some(())).await;
    assert!(world.receiver.terminate().await.success());
    let stage = world.receiver.stage();
    std::fs::remove_dir_all(stage.join(&entries(&stage)[0])).expect("remove");
    world.receiver.set("obsrate", "");
    world.receiver.start().await;
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
}

/// Kills while the last steps run: hashing, rename, marker. Found again by what the database knows.
#[tokio::test]
async fn a_kill_around_the_end_leaves_a_whole_package_or_none() {
    let mut world = World::started().await;
    let package = world.package("film", 8, 1);
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    for wait in [0u64, 120, 240, 360, 480, 600] {
        assert!(world.recv(&world.receiver, &taskfile).await.ok);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        world.receiver.kill();
        let there = world.receiver.store().join("film");
        if there.exists() {
            assert_eq!(tree(&there), tree(&package.dir), "a package with its name that is not whole, after {wait} ms");
        }
        world.receiver.start().await;
        world.receiver.downloaded(&task).await;
        world.assert_delivered(&package);
        // Again from nothing.
        std::fs::remove_dir_all(&there).expect("remove");
    }
}

#[tokio::test]
async fn a_sender_that_is_killed_goes_on() {
    let mut world = World::new();
    // A sender that is away for some seconds is not the end of a task.
    world.receiver.set_all(&json!({"retries": 60, "btrate": "300K", "obsrate": "300K", "cdnrate": "300K"}));
    world.sender.set("obsrate", "1M");
    let package = world.package("film", 12, 2);
    let masters = stamps(&package.dir);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.gentask("film", "1:1:1").await;

    // While it uploads.
    let reply = world.sender.call("send", json!({"taskfile": taskfile})).await;
    assert!(reply.ok, "{}", reply.desc());
    world.sender.kill();
    world.sender.start().await;
    let uploads = async || (world.sender.number("select bytes_done from v_legs where method = 'obs'").await > 0).then_some(());
    until("the upload has begun", PATIENCE, uploads).await;
    world.sender.kill();
    world.sender.start().await;
    let taskfile = world.ready(&task).await;

    // While it seeds and serves.
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    for share in [8, 3] {
        let far = async || (world.receiver.progress(&task).await.downloaded() > package.bytes / share).then_some(());
        until("some bytes are there", PATIENCE, far).await;
        world.sender.kill();
        tokio::time::sleep(Duration::from_millis(1500)).await; // long enough for a try to fail
        world.sender.start().await;
    }
    world.receiver.set_all(&json!({"btrate": "", "obsrate": "", "cdnrate": ""}));
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    assert!(wire < package.bytes + (6 << 20), "{wire} bytes on the wire for {}", package.bytes);
    assert_eq!(stamps(&package.dir), masters, "a master was touched");
}

/// The largest object of the directory store, and the package file it belongs to.
fn largest_object(world: &World) -> (PathBuf, String) {
    let root = world.objects().join(world::SUBDIR);
    let (name, _) = tree(&root).into_iter().max_by_key(|(_, (size, _))| *size).expect("an object");
    // A part of a split file is an object of its own.
    let file = file_name(Path::new(&name));
    (root.join(&name), file.split(".span-").next().unwrap_or(&file).to_owned())
}

#[tokio::test]
async fn a_damaged_object_is_repaired_from_the_cdn() {
    let world = World::started().await;
    let package = world.package("film", 12, 2);
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    let (object, name) = largest_object(&world);
    let size = std::fs::metadata(&object).expect("metadata").len();
    flip_byte(&object, size / 2);
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    let events = world.receiver.events(&task).await;
    assert!(events.contains(&name) && events.contains("cdn takes over"), "{name}: {events}");
}

#[tokio::test]
async fn a_missing_object_is_fetched_by_another_method() {
    let world = World::started().await;
    let package = world.package("film", 12, 2);
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:0").await;
    let (object, name) = largest_object(&world);
    std::fs::remove_file(&object).expect("remove");
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    let events = world.receiver.events(&task).await;
    assert!(events.contains(&name) && events.contains("cdn takes over"), "{name}: {events}");
    assert!(world.receiver.wire(&task, "cdn").await > 0);
}

/// An origin of its own, which a test may damage: a copy of the sender's packages.
struct Edge {
    copy: PathBuf,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Edge {
    /// The only method that a receiver has. To be called before anything runs.
    fn at(world: &mut World, edge: std::net::SocketAddr) -> Self {
        world.sender.set("cdnurl", format!("http://{edge}"));
        world.sender.set("obsurl", serde_json::Value::Null);
        world.sender.set("obsendpoint", serde_json::Value::Null);
        let copy = world.dir.path().join("edge");
        copy_tree(&world.sender.data().join("dcp"), &copy);
        let listener = poem::listener::TcpListener::bind(edge);
        let routes = poem::Route::new().nest("/dcp", bft2::web::origin::origin(copy.clone()));
        Self { copy, server: tokio::spawn(poem::Server::new(listener).run(routes)) }
    }

    fn file(&self, package: &str, name: &str) -> PathBuf {
        self.copy.join(world::SUBDIR).join("dcps").join(package).join(name)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn largest(package: &bft2::package::sample::PackageSummary) -> (String, u64) {
    package.files.iter().map(|f| (f.path.clone(), f.size)).max_by_key(|(_, size)| *size).expect("a file")
}

const AGAIN: &str = "select count(*) from v_events where kind = 'fetched anew' and text like '%once more'";

/// The CDN holds a damaged copy and nobody else has the file: it is fetched once more, over a kill, and not a third time. The
/// task ends with the file named.
#[tokio::test]
async fn a_damaged_origin_without_another_method_ends_the_task() {
    let mut world = World::new();
    let [at] = free_ports();
    let package = world.package("film", 9, 1);
    let edge = Edge::at(&mut world, at);
    let before = tree(&world.receiver.store());
    world.receiver.set("cdnrate", "4M");
    world.start().await;
    let (name, size) = largest(&package);
    let damaged = edge.file("film", &name);
    flip_byte(&damaged, size / 2);

    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    until("it is fetched once more", PATIENCE, async || (world.receiver.number(AGAIN).await == 1).then_some(())).await;
    world.receiver.kill();
    world.receiver.start().await;
    let p = world.receiver.download_fails(&task).await;
    assert!(p.error().contains(&name) && p.error().contains("SHA-1"), "{}", p.error());
    assert_eq!(world.receiver.number(AGAIN).await, 1);
    let wire = world.receiver.wire(&task, "%").await;
    assert!(wire < package.bytes + 2 * size, "{wire} bytes for {}, and {size} once more", package.bytes);
    assert_eq!(world.receiver.places(&task), ["receiver/downloading"]);
    let err = world.receiver.data().join("receiver/downloading").join(format!("{task}.err"));
    let text = until("the .err file", PATIENCE, async || std::fs::read_to_string(&err).ok()).await;
    assert!(text.contains(&name), "{text}");
    assert_eq!(tree(&world.receiver.store()), before, "something in the store");

    // The edge is repaired, recv again: only the damaged file is fetched anew.
    std::fs::copy(package.dir.join(&name), &damaged).expect("copy");
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    assert!(!err.exists());
    let history = world.receiver.data().join("receiver/downloading").join(format!("{task}.errhistory"));
    assert!(std::fs::read_to_string(&history).expect("history").contains(&name));
    let wire = world.receiver.wire(&task, "%").await;
    assert!(wire <= size + (1 << 20), "{wire} bytes for a file of {size}");
}

/// The only source brings a wrong byte once, as a bad line or a bad disk does: nobody is needed.
#[tokio::test]
async fn a_file_that_arrives_damaged_once_is_fetched_once_more() {
    let mut world = World::new();
    let [at] = free_ports();
    let package = world.package("film", 6, 1);
    let edge = Edge::at(&mut world, at);
    world.receiver.set("cdnrate", "200K");
    world.start().await;
    let (name, size) = largest(&package);
    let damaged = edge.file("film", &name);
    let modified = std::fs::metadata(&damaged).and_then(|m| m.modified()).expect("time");
    let flip = || {
        flip_byte(&damaged, 0);
        std::fs::File::options().write(true).open(&damaged).and_then(|f| f.set_modified(modified)).expect("time");
    };
    flip();
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    // Mended while the rest is fetched, so that nothing of the second time is sent before.
    let begun = format!("select count(*) from v_files where path = '{name}' and bytes_done > {}", size / 8);
    until("the wrong byte is there", PATIENCE, async || (world.receiver.number(&begun).await == 1).then_some(())).await;
    flip();
    until("it is fetched once more", PATIENCE, async || (world.receiver.number(AGAIN).await == 1).then_some(())).await;
    world.receiver.set("cdnrate", "");
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let wire = world.receiver.wire(&task, "%").await;
    assert!(wire <= package.bytes + size + (1 << 20), "{wire} bytes for {} and {size}", package.bytes);
    let left = entries(&world.receiver.data().join("receiver/downloading"));
    assert_eq!(left, [format!("{task}.errhistory")]);
}

/// Somebody puts other things where files are received, before the start and while it runs: they are moved aside, and the
/// reception needs nobody.
#[tokio::test]
async fn what_lies_in_the_way_of_staged_files_is_moved_aside() {
    let mut world = World::new();
    // What lies there before the task is accepted belongs to none, and is not to be swept away.
    world.receiver.set_all(&json!({"cdnrate": "300K", "keeppartial": true}));
    let package = world.package("film", 6, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    let stage = world.receiver.stage().join(format!("{}.1", task.trim_end_matches(".task.json")));
    let paths: Vec<String> = tree(&package.dir).into_iter().filter(|(_, (size, _))| *size > 0).map(|(path, _)| path).collect();
    let [first, second, third, ..] = &paths[..] else { panic!("{paths:?}") };
    let precious = world.dir.path().join("precious");
    std::fs::write(&precious, "precious").expect("write");
    let note = |path: &str| {
        std::fs::create_dir_all(stage.join(path)).expect("directory");
        std::fs::write(stage.join(path).join("note"), "not yours").expect("write");
    };
    note(first);
    std::os::unix::fs::symlink(&precious, stage.join(second)).expect("link");
    std::fs::hard_link(&precious, stage.join(third)).expect("link");
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let begun = async || (world.receiver.progress(&task).await.downloaded() > 100_000).then_some(());
    until("it is under way", PATIENCE, begun).await;
    let (track, _) = largest(&package);
    let there = async || stage.join(&track).is_file().then_some(());
    until("the track is being received", PATIENCE, there).await;
    let taken = world.dir.path().join("taken");
    std::fs::create_dir(&taken).expect("directory");
    std::fs::write(taken.join("note"), "not yours").expect("write");
    let cwd = rustix::fs::CWD;
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(cwd, &taken, cwd, stage.join(&track), exchange).expect("exchange");
    world.receiver.set("cdnrate", "");
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    assert_eq!(std::fs::read_to_string(&precious).expect("read"), "precious");
    let aside = world.receiver.stage().join("aside").join(stage.file_name().expect("name"));
    for path in [first, &track] {
        let kept = aside.join(Path::new(path).file_name().expect("name")).join("note");
        assert_eq!(std::fs::read_to_string(&kept).expect("read"), "not yours", "{}", kept.display());
    }
    assert_eq!(std::fs::read_link(aside.join(file_name(Path::new(second)))).expect("the link"), precious);
    world.receiver.told(&task, &["was a directory, in the way", &track]).await;
}

#[tokio::test]
async fn a_full_disk_is_said_and_survived() {
    let mut world = World::new();
    let at = world.dir.path().join("small");
    let Some(_mount) = Small::mount(&at, "24m") else {
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    world.receiver.put_data_at(at.join("data"));
    world.receiver.set_all(&json!({"btrate": "1M", "obsrate": "1M", "cdnrate": "1M"}));
    let package = world.package("film", 12, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    // Full before the start.
    let ballast = at.join("ballast");
    std::fs::write(&ballast, vec![1u8; 18 << 20]).expect("ballast");
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let p = world.receiver.download_fails(&task).await;
    assert!(p.error().contains("no space"), "{}", p.error());
    assert!(!world.receiver.store().join("film").exists());
    std::fs::remove_file(&ballast).expect("remove");

    // Filled by somebody else in the middle. Nothing but the staged files is left to us then.
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let running = async || (world.receiver.progress(&task).await.downloaded() > 1 << 20).then_some(());
    until("it is running", PATIENCE, running).await;
    while std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&ballast)
        .and_then(|mut f| std::io::Write::write_all(&mut f, &[1u8; 64 << 10]))
        .is_ok()
    {}
    let ended = async || {
        let p = world.receiver.progress(&task).await;
        ["downloaded", "downloaderror"].contains(&p.status().as_str()).then_some(p)
    };
    let p = until("it ends", PATIENCE, ended).await;
    // Space is reserved when a file is opened, so it may well get through; if not, it says why.
    assert!(p.status() == "downloaded" || p.error().to_lowercase().contains("no space"), "{p:?}");
    std::fs::remove_file(&ballast).expect("remove");
    if p.status() != "downloaded" {
        assert!(world.recv(&world.receiver, &taskfile).await.ok);
        world.receiver.downloaded(&task).await;
    }
    world.assert_delivered(&package);
    world.receiver.kill();
}

#[tokio::test]
async fn without_a_tracker_the_named_peers_deliver() {
    let mut world = World::new();
    let [nobody] = free_ports();
    for node in [&mut world.sender, &mut world.receiver, &mut world.cacher] {
        node.set("tracker", format!("http://{nobody}/announce"));
    }
    world.sender.set("trackerlisten", "");
    let package = world.package("film", 9, 1);
    world.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    assert!(world.receiver.wire(&task_name("film"), "bt").await >= package.bytes);
}

/// The sender goes for good in the middle; a cacher has the BitTorrent part, the store has the rest.
#[tokio::test]
async fn a_cacher_stands_in_for_a_sender_that_is_gone() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"retries": 60, "btrate": "500K", "obsrate": "500K"}));
    let package = world.package("film", 9, 1);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:0").await;
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    let seeding = async || {
        let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "seeding").then_some(())
    };
    until("the cacher seeds", PATIENCE, seeding).await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let running = async || (world.receiver.progress(&task).await.downloaded() > 300_000).then_some(());
    until("it is running", PATIENCE, running).await;
    world.sender.kill();
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    // The figures are written once a second.
    let sent = async || (world.cacher.number("select bytes_sent from v_legs").await > 0).then_some(());
    until("the cacher has sent something", PATIENCE, sent).await;
    assert_eq!(entries(&world.receiver.stage()), Vec::<String>::new());
}
