//! Nothing is fetched that is on this node, or on its way to it: library copies and what may go wrong with them, receptions
//! that share files, packages that lie already where they are to be received. Through real nodes; bytes are counted.

mod world;

use bft2::package::sample::{PackageSummary, SampleOptions, Version2, make};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use world::{
    Line, Link, Node, PATIENCE, SUBDIR, World, copy_tree, entries, file_name, flip_byte, free_ports, make_package, read_json,
    stamps, task_name, tree, until,
};

const MIB: u64 = 1 << 20;
/// BitTorrent's pieces reach over the ends of files, and what runs when a leg stops may be asked for again.
const SLACK: u64 = 3 * MIB;

/// A film and a second version that shares half of it.
fn two_versions(world: &World, mib: u64) -> [PackageSummary; 2] {
    let options = SampleOptions {
        name: Some("film".into()),
        size: Some(mib * MIB),
        reels: 4,
        version2: Some(Version2 { name: "film-v2".into(), share: 50.0 }),
        ..Default::default()
    };
    let made = make(&world.sender.store(), &options, &mut |_| {}).expect("packages").packages;
    [made[0].clone(), made[1].clone()]
}

fn slow(node: &mut Node, rate: &str) {
    node.set_all(&json!({"btrate": rate, "obsrate": rate, "cdnrate": rate}));
}

async fn fast(node: &mut Node) {
    slow(node, "");
    assert!(node.get("reloadconf").await.is_some());
}

async fn begun(node: &Node, name: &str) {
    let look = async || (node.progress(&task_name(name)).await.downloaded() > 100_000).then_some(());
    until(&format!("{name} is under way"), PATIENCE, look).await;
}

/// The largest file that both versions have, by its path in the first.
fn shared_track(versions: &[PackageSummary; 2]) -> (PathBuf, u64) {
    let second = tree(&versions[1].dir);
    let shared = tree(&versions[0].dir).into_iter().filter(|(_, what)| second.values().any(|w| w == what));
    let (path, (size, _)) = shared.max_by_key(|(_, (size, _))| *size).expect("a shared file");
    (PathBuf::from(path), size)
}

/// Both at once: the shared bytes cross the network once, whatever the methods, and the figures stay true meanwhile.
async fn shared_once(ratio: &str) {
    let mut world = World::new();
    slow(&mut world.receiver, "700K");
    let packages = two_versions(&world, 24);
    world.start().await;
    let tasks = ["film", "film-v2"];
    for name in tasks {
        world.publish(name, ratio).await;
    }
    for name in tasks {
        let taskfile = world.sender.data().join("sender/uploaded").join(task_name(name));
        assert_eq!(world.recv(&world.receiver, &taskfile).await.desc(), "succeed!");
    }
    for (name, package) in tasks.iter().zip(&packages) {
        until(&format!("{name} is downloaded"), PATIENCE, async || {
            let p = world.receiver.progress(&task_name(name)).await;
            if p.status() == "queues" {
                return None;
            }
            assert!(p.downloaded() <= package.bytes, "{p:?}");
            let parts = ["btpercent", "obspercent", "cdnpercent", "localsamepercent"];
            let sum: f64 = parts.iter().map(|k| p.percent(k)).sum();
            assert!(sum < 100.01, "{p:?}");
            (p.status() == "downloaded").then_some(())
        })
        .await;
        world.assert_delivered(package);
    }
    let new = packages[1].bytes - packages[1].shared_bytes;
    let wire = world.receiver.number("select sum(bytes_wire) from v_legs").await;
    assert!(wire <= packages[0].bytes + new + SLACK, "{wire} bytes for {} and {new}", packages[0].bytes);
    let done = world.receiver.progress(&task_name("film-v2")).await;
    let first = world.receiver.progress(&task_name("film")).await;
    assert!(done.percent("localsamepercent") + first.percent("localsamepercent") > 40.0, "{first:?} {done:?}");
    let shown = world.receiver.sql("select sum(bytes_total) from v_legs").await.concat().concat();
    let local = world.receiver.number("select sum(bytes_local) from v_tasks").await;
    assert_eq!(shown.parse::<u64>().expect("sum") + local, packages[0].bytes + packages[1].bytes);
    let events = world.receiver.events(&task_name("film-v2")).await + &world.receiver.events(&task_name("film")).await;
    assert!(events.contains("they will be copied") && events.contains("and not fetched"), "{events}");
}

#[tokio::test]
async fn two_receptions_fetch_shared_files_once() {
    shared_once("0:0:1").await;
}

#[tokio::test]
async fn two_receptions_over_three_methods_fetch_shared_files_once() {
    shared_once("1:1:1").await;
}

/// The same package from two institutions: even the torrent is the same.
#[tokio::test]
async fn the_same_package_twice_crosses_the_network_once() {
    const OTHER: &str = "cfec-002";
    let mut world = World::new();
    slow(&mut world.receiver, "500K");
    let package = world.package("film", 16, 2);
    let other = world.sender.data().join("dcp").join(OTHER).join("dcps");
    std::fs::create_dir_all(&other).expect("directory");
    std::fs::create_dir_all(world.objects().join(OTHER)).expect("bucket");
    make_package(&other, "film", 16 * MIB, 2);
    world.start().await;
    let mut files = vec![world.publish("film", "1:1:1").await];
    let taskfile = world.sender.data().join("sender/tmp").join(format!("{OTHER}-film.task.json"));
    let params = json!({"dcppath": other.join("film"), "taskfile": taskfile, "basesubdir": OTHER, "btobscdn": "1:1:1", "policy": "fulltime"});
    assert!(world.sender.call("gentask", params).await.ok);
    until("the task file is there", PATIENCE, async || {
        let query = json!({"dcppath": other.join("film"), "taskfile": taskfile});
        (world.sender.call("taskfilesquery", query).await.text("status") == "finished").then_some(())
    })
    .await;
    files.push(world.send(&taskfile).await);
    for file in &files {
        assert_eq!(world.recv(&world.receiver, file).await.desc(), "succeed!");
    }
    for file in &files {
        world.receiver.downloaded(&file_name(file)).await;
    }
    world.assert_delivered(&package);
    let second = world.receiver.data().join("dcp").join(OTHER).join("dcps/film");
    assert_eq!(tree(&second), tree(&package.dir));
    let wire = world.receiver.number("select sum(bytes_wire) from v_legs").await;
    assert!(wire <= package.bytes + SLACK, "{wire} bytes for {}", package.bytes);
}

/// The one that brings is cancelled: the one that waits does not wait any longer.
#[tokio::test]
async fn a_cancelled_reception_holds_nobody_back() {
    let mut world = World::new();
    slow(&mut world.receiver, "1M");
    let packages = two_versions(&world, 16);
    world.start().await;
    let files = [world.publish("film", "0:0:1").await, world.publish("film-v2", "0:0:1").await];
    for file in &files {
        assert!(world.recv(&world.receiver, file).await.ok);
    }
    begun(&world.receiver, "film").await;
    begun(&world.receiver, "film-v2").await;
    assert!(world.receiver.call("cancel", json!({"taskfile": task_name("film")})).await.ok);
    fast(&mut world.receiver).await;
    world.receiver.downloaded(&task_name("film-v2")).await;
    world.assert_delivered(&packages[1]);
}

/// The one that should bring gets nothing from its server: the other fetches for itself, and the first copies.
#[tokio::test]
async fn a_reception_that_stands_still_holds_nobody_back() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"retries": 1000}));
    let packages = two_versions(&world, 12);
    world.start().await;
    let files = [world.publish("film", "0:0:1").await, world.publish("film-v2", "0:0:1").await];
    let [nobody] = free_ports();
    let mut document = read_json(&files[0]);
    document["cdn"]["url"] = json!(format!("http://{nobody}/dcp/{SUBDIR}/dcps/film"));
    let lost = world.dir.path().join(task_name("film"));
    std::fs::write(&lost, document.to_string()).expect("write");
    assert!(world.recv(&world.receiver, &lost).await.ok);
    assert!(world.recv(&world.receiver, &files[1]).await.ok);
    world.receiver.downloaded(&task_name("film-v2")).await;
    world.assert_delivered(&packages[1]);
    // What the second has brought the first need not fetch.
    let copied = async || {
        let p = world.receiver.progress(&task_name("film")).await;
        (p.percent("localsamepercent") > 40.0 && p.downloaded() >= packages[1].shared_bytes).then_some(())
    };
    until("the first has copied it", PATIENCE, copied).await;
    assert_eq!(world.receiver.progress(&task_name("film")).await.status(), "downloading");
}

/// The only source of one reception does not have a file that another one will bring: it waits for that, and goes on.
#[tokio::test]
async fn who_cannot_fetch_a_file_waits_for_another_who_brings_it() {
    let mut world = World::new();
    slow(&mut world.receiver, "500K");
    let packages = two_versions(&world, 12);
    let (track, size) = shared_track(&packages);
    let edge = world.dir.path().join("edge");
    copy_tree(&world.sender.data().join("dcp"), &edge);
    std::fs::remove_file(edge.join(SUBDIR).join("dcps/film").join(&track)).expect("remove");
    let [at] = free_ports();
    let routes = poem::Route::new().nest("/dcp", bft2::web::origin::origin(edge));
    let server = tokio::spawn(poem::Server::new(poem::listener::TcpListener::bind(at)).run(routes));
    world.start().await;
    let files = [world.publish("film", "0:0:1").await, world.publish("film-v2", "0:0:1").await];
    let line = Link::to(at);
    let mut document = read_json(&files[0]);
    document["cdn"]["url"] = json!(format!("http://{}/dcp/{SUBDIR}/dcps/film", line.addr));
    document["obs"]["url"] = json!("");
    let poor = world.dir.path().join(task_name("film"));
    std::fs::write(&poor, document.to_string()).expect("write");
    // The other one brings the file later than this one notices that it cannot.
    let late = Link::slow(world.web, 30 << 10);
    let mut document = read_json(&files[1]);
    document["cdn"]["url"] = json!(format!("http://{}/dcp/{SUBDIR}/dcps/film-v2", late.addr));
    let rich = world.dir.path().join(task_name("film-v2"));
    std::fs::write(&rich, document.to_string()).expect("write");
    // Until the other one is there, nobody tells it that the file is missing.
    line.set(Line::Silent);
    for file in [&poor, &rich] {
        assert!(world.recv(&world.receiver, file).await.ok);
    }
    let both = "select count(*) from v_tasks where state = 'downloading'";
    until("both are at work", PATIENCE, async || (world.receiver.number(both).await == 2).then_some(())).await;
    line.set(Line::Good);
    let waits =
        async || world.receiver.events(&task_name("film")).await.contains("brings the same, it will be copied").then_some(());
    until("it waits for the other one", PATIENCE, waits).await;
    late.set(Line::Good);
    fast(&mut world.receiver).await;
    for (name, package) in ["film-v2", "film"].iter().zip([&packages[1], &packages[0]]) {
        world.receiver.downloaded(&task_name(name)).await;
        world.assert_delivered(package);
    }
    let events = world.receiver.events(&task_name("film")).await;
    let track = track.display().to_string();
    assert!(events.contains(&track) && events.contains("brings the same, it will be copied"), "{events}");
    assert!(events.contains("leg failed") && !events.contains("downloaderror"), "{events}");
    let wire = world.receiver.number("select sum(bytes_wire) from v_legs").await;
    let all = packages[0].bytes + packages[1].bytes - packages[1].shared_bytes;
    assert!(wire <= all + SLACK, "{wire} bytes for {all}, the track has {size}");
    server.abort();
}

/// Outside its window a task holds nobody back, and copies what the other has brought: that is no transfer.
#[tokio::test]
async fn a_reception_outside_its_window_holds_nobody_back() {
    let world = World::started().await;
    let packages = two_versions(&world, 12);
    let files = [world.publish("film", "0:0:1").await, world.publish("film-v2", "0:0:1").await];
    let at = |hours| (chrono::Local::now() + chrono::Duration::hours(hours)).format("%H:%M").to_string();
    let mut document = read_json(&files[0]);
    document["policy"] = json!("priortime");
    document["cdn"]["priortime"] = json!(format!("{}-{}", at(3), at(5)));
    let parked = world.dir.path().join(task_name("film"));
    std::fs::write(&parked, document.to_string()).expect("write");
    assert!(world.recv(&world.receiver, &parked).await.ok);
    let work = async || (world.receiver.progress(&task_name("film")).await.status() == "downloading").then_some(());
    until("the first has its place", PATIENCE, work).await;
    assert!(world.recv(&world.receiver, &files[1]).await.ok);
    world.receiver.downloaded(&task_name("film-v2")).await;
    world.assert_delivered(&packages[1]);
    let copied = async || {
        let p = world.receiver.progress(&task_name("film")).await;
        (p.downloaded() >= packages[1].shared_bytes).then_some(p)
    };
    let p = until("the first has copied it", PATIENCE, copied).await;
    assert_eq!((p.status().as_str(), world.receiver.wire(&task_name("film"), "%").await), ("downloading", 0), "{p:?}");
    assert!(world.receiver.number("select sum(bytes_wire) from v_legs").await >= packages[1].bytes);
}

/// Power cuts while one waits for the other, and while it copies.
#[tokio::test]
async fn killed_receptions_that_share_files_finish() {
    let mut world = World::new();
    // More than three rounds bring, also when they last longer than they should.
    slow(&mut world.receiver, "400K");
    let packages = two_versions(&world, 20);
    world.start().await;
    let files = [world.publish("film", "1:0:1").await, world.publish("film-v2", "1:0:1").await];
    for file in &files {
        assert!(world.recv(&world.receiver, file).await.ok);
    }
    for _ in 0..3 {
        let recorded = world.receiver.number("select sum(bytes_done) from v_tasks").await;
        let more = async || (world.receiver.number("select sum(bytes_done) from v_tasks").await > recorded).then_some(());
        until("more is recorded", PATIENCE, more).await;
        world.receiver.kill();
        world.receiver.start().await;
    }
    fast(&mut world.receiver).await;
    let local = async || (world.receiver.number("select sum(bytes_local) from v_tasks").await > 0).then_some(());
    until("something is to be copied", PATIENCE, local).await;
    world.receiver.kill();
    world.receiver.start().await;
    for (name, package) in ["film", "film-v2"].iter().zip(&packages) {
        world.receiver.downloaded(&task_name(name)).await;
        world.assert_delivered(package);
    }
}

/// Changed in place, with its old size and time: only the digest can tell. The row goes, the file is fetched.
#[tokio::test]
async fn a_stale_entry_is_dropped_and_the_file_fetched() {
    let mut world = World::new();
    // A watch would see it, if it came to it before the reception.
    world.receiver.set("watch", "off");
    world.start().await;
    let packages = two_versions(&world, 12);
    let taskfile = world.publish("film", "0:0:1").await;
    world.receive(&taskfile).await;
    let (track, size) = shared_track(&packages);
    let stale = world.receiver.store().join("film").join(track);
    let modified = std::fs::metadata(&stale).and_then(|m| m.modified()).expect("time");
    flip_byte(&stale, size / 2);
    set_modified(&stale, modified);
    let listed = format!("select count(*) from v_library where path = '{}'", stale.display());
    assert_eq!(world.receiver.number(&listed).await, 1);

    let taskfile = world.publish("film-v2", "0:0:1").await;
    let reply = world.recv(&world.receiver, &taskfile).await;
    assert_eq!(reply.desc(), "succeed!");
    let shown = world.receiver.data().join("receiver/downloaded").join(task_name("film-v2"));
    world.receiver.downloaded(&task_name("film-v2")).await;
    world.assert_delivered(&packages[1]);
    let document = read_json(&shown);
    let local = document["localsamefiles"].as_array().expect("a list").len();
    assert!(local > 1, "{document}");
    // The second allocation: what the methods were to bring and what was local is the whole.
    let sums = ["btlistsize2", "obslistsize2", "cdnlistsize2"].map(|k| document[k].as_u64().unwrap_or_default());
    assert!(packages[1].bytes - sums.iter().sum::<u64>() >= packages[1].shared_bytes, "{document}");
    assert_eq!(world.receiver.number(&listed).await, 0, "it is still believed");
    let events = world.receiver.events(&task_name("film-v2")).await;
    assert!(events.contains("wrong SHA-1") && events.contains("cdn takes over"), "{events}");
    let wire = world.receiver.wire(&task_name("film-v2"), "%").await;
    let new = packages[1].bytes - packages[1].shared_bytes + size;
    // Small files that are alike in all packages are not in these sums.
    assert!(wire.abs_diff(new) < MIB, "{wire} bytes for {new}");
}

fn set_modified(path: &Path, time: SystemTime) {
    std::fs::File::options().write(true).open(path).and_then(|f| f.set_modified(time)).expect("time");
}

/// The package that is copied from is deleted while it is copied.
#[tokio::test]
async fn a_source_that_is_deleted_halfway_fails_no_task() {
    let world = World::started().await;
    let packages = two_versions(&world, 48);
    world.receive(&world.publish("film", "0:0:1").await).await;
    let taskfile = world.publish("film-v2", "0:0:1").await;
    assert_eq!(world.recv(&world.receiver, &taskfile).await.desc(), "succeed!");
    std::fs::remove_dir_all(world.receiver.store().join("film")).expect("remove");
    world.receiver.downloaded(&task_name("film-v2")).await;
    world.assert_delivered(&packages[1]);
}

/// Two copies in the library: when one is stale, the other one is taken.
#[tokio::test]
async fn another_copy_is_tried_before_the_network() {
    let world = World::started().await;
    let packages = two_versions(&world, 12);
    world.receive(&world.publish("film", "0:0:1").await).await;
    world.receive(&world.publish("film-v2", "0:0:1").await).await;
    let (track, size) = shared_track(&packages);
    let wanted = tree(&packages[0].dir)[&track.display().to_string()].clone();
    let stale = world.receiver.store().join("film").join(track);
    let modified = std::fs::metadata(&stale).and_then(|m| m.modified()).expect("time");
    flip_byte(&stale, size / 2);
    set_modified(&stale, modified);
    // The second goes from the store; its files are wanted again.
    let old = world.receiver.store().join("film-v2");
    let kept = tree(&old).into_iter().find(|(_, what)| *what == wanted).expect("the shared track").0;
    for name in tree(&old).into_keys().filter(|n| *n != kept) {
        std::fs::remove_file(old.join(name)).expect("remove");
    }
    let taskfile = world.sender.data().join("sender/uploaded").join(task_name("film"));
    // In place as far as anybody can tell, until it is read.
    assert!(world.recv(&world.receiver, &taskfile).await.desc().contains("all localsamefiles existed"));
    world.receiver.downloaded(&task_name("film")).await;
    world.assert_delivered(&packages[0]);
    assert_eq!(world.receiver.wire(&task_name("film"), "%").await, 0, "the second has the same track");
}

/// Received again where it lies: nothing is copied, replaced or fetched.
#[tokio::test]
async fn a_package_that_lies_in_its_place_stays() {
    let world = World::started().await;
    let package = world.package("film", 10, 2);
    let taskfile = world.publish("film", "1:1:1").await;
    world.receive(&taskfile).await;
    let before = stamps(&world.receiver.store().join("film"));
    let reply = world.recv(&world.receiver, &taskfile).await;
    assert_eq!(reply.desc(), "same name task downloaded, all localsamefiles existed copy and finished, succeed!");
    let done = world.receiver.downloaded(&task_name("film")).await;
    assert_eq!(
        (done.percent("localsamepercent"), done.percent("totalpercent"), done.downloaded()),
        (100.0, 100.0, package.bytes)
    );
    assert_eq!(stamps(&world.receiver.store().join("film")), before);
    world.assert_delivered(&package);
    assert_eq!(world.receiver.number("select count(*) from v_files where state = 'verified'").await, package.files.len() as u64);
    // Something else lies there, too: the package is put together anew, without it.
    std::fs::write(world.receiver.store().join("film/left-over.mxf"), "x").expect("write");
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    world.receiver.downloaded(&task_name("film")).await;
    world.assert_delivered(&package);
}

/// A sender that is told to receive its own package: the master is read, and stays what and where it is.
#[tokio::test]
async fn a_master_is_never_replaced() {
    let world = World::started().await;
    let package = world.package("film", 10, 2);
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let before = (stamps(&package.dir), inode(&package.dir));
    let shown = entries(&world.sender.store());
    for text in [
        "all localsamefiles existed copy and finished, succeed!",
        "same name task downloaded, all localsamefiles existed copy and finished, succeed!",
    ] {
        let reply = world.recv(&world.sender, &taskfile).await;
        assert_eq!((reply.ok, reply.desc().as_str()), (true, text));
        let done = world.sender.downloaded(&task).await;
        assert_eq!((done.percent("localsamepercent"), done.dcppath()), (100.0, package.dir.display().to_string()));
        assert_eq!((stamps(&package.dir), inode(&package.dir)), before, "a master was touched");
        assert_eq!(entries(&world.sender.stage()), Vec::<String>::new());
        assert_eq!(entries(&world.sender.store()), shown, "an end mark would allow scripts to clear the master");
    }
    // It is still served.
    world.receive(&taskfile).await;
    world.assert_delivered(&package);

    // A master that is not what the task describes, unnoticed until it is read, and then by a look.
    let track = package.files.iter().max_by_key(|f| f.size).expect("a file");
    let path = package.dir.join(&track.path);
    let modified = std::fs::metadata(&path).and_then(|m| m.modified()).expect("time");
    flip_byte(&path, track.size / 2);
    set_modified(&path, modified);
    let before = (stamps(&package.dir), tree(&package.dir));
    assert!(world.recv(&world.sender, &taskfile).await.ok);
    let p = world.sender.download_fails(&task).await;
    assert!(p.error().contains(&track.path) && p.error().contains("master"), "{}", p.error());
    std::fs::remove_file(package.dir.join("ASSETMAP.xml"))
        .or_else(|_| std::fs::remove_file(package.dir.join("ASSETMAP")))
        .expect("remove");
    let reply = world.recv(&world.sender, &taskfile).await;
    assert!(!reply.ok && reply.desc().contains("is a master of this node"), "{reply:?}");
    let after = tree(&package.dir);
    assert!(before.1.iter().filter(|(n, _)| !n.starts_with("ASSETMAP")).all(|(n, what)| after.get(n) == Some(what)));
    assert_eq!(entries(&world.sender.stage()), Vec::<String>::new());
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).expect("metadata").ino()
}

/// Odd things in the place of a file that the library knew.
#[tokio::test]
async fn what_is_not_a_plain_file_any_more_is_fetched() {
    let world = World::started().await;
    let packages = two_versions(&world, 12);
    world.receive(&world.publish("film", "0:0:1").await).await;
    let taskfile = world.publish("film-v2", "0:0:1").await;
    let (track, _) = shared_track(&packages);
    let path = world.receiver.store().join("film").join(track);
    for pipe in [true, false] {
        std::fs::remove_file(&path).expect("remove");
        if pipe {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        } else {
            std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        }
        assert!(world.recv(&world.receiver, &taskfile).await.ok);
        tokio::time::timeout(Duration::from_secs(PATIENCE), world.receiver.downloaded(&task_name("film-v2")))
            .await
            .expect("in time");
        world.assert_delivered(&packages[1]);
        std::fs::remove_dir_all(world.receiver.store().join("film-v2")).expect("remove");
    }
}
