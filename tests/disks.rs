//! Disks that are away for a while: not mounted yet at a start, or unplugged while the service runs. An empty mount point
//! says nothing about what was accepted: all waits, says why, makes nothing below the mount point, and goes on by itself.

mod world;

use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use world::{Gate, Loop, Node, PATIENCE, Served, World, entries, task_name, until};

const MIB: u64 = 1 << 20;

/// Puts all data of a node on a disk of its own, which can be unplugged.
fn on_a_disk(node: &mut Node, dir: &Path, megabytes: u64) -> Option<Loop> {
    let data = node.data().to_owned();
    std::fs::remove_dir_all(&data).expect("remove");
    let disk = Loop::plug_in(&data, dir.join(format!("{}.img", node.role)), megabytes)?;
    node.put_data_at(data);
    Some(disk)
}

async fn asks_for_the_disk(node: &Node, legs: u64) {
    let asking = "select count(*) from v_legs where error like '%disk mounted%'";
    until("it asks for the disk", PATIENCE, async || (node.number(asking).await >= legs).then_some(())).await;
    let told = "select count(*) from v_events where kind = 'disk' and text like '%disk mounted%'";
    until("an operator is told", PATIENCE, async || (node.number(told).await > 0).then_some(())).await;
    nothing_failed(node).await;
}

async fn nothing_failed(node: &Node) {
    let failed = "select task, state, reason from v_tasks where state in ('failed', 'downloaderror')";
    let tries = "select task, method, state, tries, error from v_legs where state = 'failed' or tries > 0";
    for sql in [failed, tries] {
        assert_eq!(node.sql(sql).await, Vec::<Vec<String>>::new());
    }
}

async fn seeds(node: &Node, package: &str) {
    let sql = format!("select count(*) from v_legs where task like '%-{package}.%' and method = 'bt' and ready and error = ''");
    until(&format!("the {} seeds {package}", node.role), PATIENCE, async || (node.number(&sql).await == 1).then_some(())).await;
}

async fn forgotten(node: &Node) -> u64 {
    node.number("select count(*) from v_events where kind = 'staging'").await
}

/// Everything of a sender is on the disk, and the service starts before it is mounted.
#[tokio::test]
async fn a_sender_that_starts_before_its_disk_is_mounted_waits_and_seeds_on() {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let Some(disk) = on_a_disk(&mut world.sender, &dir, 200) else { return };
    let package = world.package("film", 9, 1);
    world.package("other", 9, 1);
    world.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    let kept = dir.join(task_name("film"));
    std::fs::copy(&taskfile, &kept).expect("copy");
    world.publish("other", "1:1:0").await;
    world.sender.kill();
    disk.unplug();
    world.sender.start().await;
    asks_for_the_disk(&world.sender, 2).await;
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    // Whoever asks gets an answer.
    assert!(world.sender.get("heartbeat").await.is_some());
    disk.mount_again().await;
    for name in ["film", "other"] {
        seeds(&world.sender, name).await;
    }
    nothing_failed(&world.sender).await;
    world.receive(&kept).await;
    world.assert_delivered(&package);
}

/// Only the library is on the disk, which goes while packages are seeded and uploaded.
#[tokio::test]
async fn seeds_and_uploads_outlive_a_library_that_is_away_for_a_moment() {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let library = world.sender.data().join("dcp");
    std::fs::remove_dir_all(&library).expect("remove");
    let Some(disk) = Loop::plug_in(&library, dir.join("library.img"), 200) else { return };
    std::fs::create_dir_all(world.sender.store()).expect("store");
    world.sender.set("obsrate", "50K");
    let package = world.package("film", 9, 1);
    world.package("other", 9, 1);
    world.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    let sent = world.gentask("other", "0:1:0").await;
    assert!(world.sender.call("send", json!({"taskfile": sent})).await.ok);
    let begun = "select count(*) from v_legs where method = 'obs' and bytes_done > 0";
    until("the upload has begun", PATIENCE, async || (world.sender.number(begun).await == 1).then_some(())).await;
    disk.unplug();
    asks_for_the_disk(&world.sender, 1).await;
    // A restart meanwhile: both ask.
    world.sender.kill();
    world.sender.start().await;
    asks_for_the_disk(&world.sender, 2).await;
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    disk.mount_again().await;
    world.sender.set("obsrate", "");
    assert!(world.sender.get("reloadconf").await.is_some());
    seeds(&world.sender, "film").await;
    world.ready(&task_name("other")).await;
    nothing_failed(&world.sender).await;
    world.receive(&taskfile).await;
    world.assert_delivered(&package);

    // One that is removed from a store which is there is another matter.
    std::fs::remove_dir_all(&package.dir).expect("remove");
    let removed = "select count(*) from v_tasks where state = 'failed' and reason like '%was removed since it was hashed%'";
    until("it has failed", PATIENCE, async || (world.sender.number(removed).await == 1).then_some(())).await;
}

/// The library is there, the task directories are not: a task file that lies elsewhere cannot be put into `tmp`.
#[tokio::test]
async fn a_send_while_the_disk_is_away_is_refused_and_makes_nothing() {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let Some(disk) = Loop::plug_in(&dir.join("tasks"), dir.join("tasks.img"), 100) else { return };
    world.sender.set("datadir", json!(disk.at));
    let package = world.package("film", 3, 1);
    world.start().await;
    let taskfile = world.gentask("film", "0:0:1").await;
    disk.unplug();
    asks_for_the_disk(&world.sender, 0).await;
    let reply = world.sender.call("send", json!({"taskfile": taskfile})).await;
    assert_eq!((reply.ok, reply.desc()), (false, format!("copy taskfile: {} error.", taskfile.display())));
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    assert_eq!(world.sender.number("select count(*) from v_tasks").await, 0);
    assert!(taskfile.exists(), "whoever is refused asks again");
    disk.mount_again().await;
    let again = async || world.sender.call("send", json!({"taskfile": taskfile})).await.ok.then_some(());
    until("it is accepted", PATIENCE, again).await;
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
}

/// What was fetched is still known when the disk comes later than the service; what was received is seeded again.
#[tokio::test]
async fn a_receiver_that_starts_before_its_disk_is_mounted_forgets_nothing() {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let Some(disk) = on_a_disk(&mut world.receiver, &dir, 300) else { return };
    world.receiver.set("btrate", "1500K");
    world.package("old", 9, 1);
    let package = world.package("film", 24, 2);
    world.start().await;
    let old = world.publish("old", "1:0:0").await;
    world.receive(&old).await;
    seeds(&world.receiver, "old").await;
    world.package("other", 3, 1);
    let third = world.publish("other", "0:0:1").await;
    let taskfile = world.publish("film", "1:0:0").await;
    let task = task_name("film");
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let half = format!("select bytes_done from v_tasks where task = '{task}'");
    until("half of it is there", PATIENCE, async || (world.receiver.number(&half).await > 10 * MIB).then_some(())).await;
    world.receiver.kill();
    let (wire, have) = (world.receiver.wire(&task, "%").await, world.receiver.number(&half).await);
    disk.unplug();
    world.receiver.start().await;
    asks_for_the_disk(&world.receiver, 2).await;
    // A task file that lies somewhere else would be put into receiver/tmp.
    let other = dir.join(task_name("other"));
    std::fs::copy(&third, &other).expect("copy");
    let reply = world.receiver.call("recv", json!({"taskfile": other})).await;
    let tmp = world.receiver.data().join("receiver/tmp");
    assert_eq!((reply.ok, reply.desc()), (false, format!("move json file to {} erro", tmp.display())));
    assert!(other.exists(), "whoever is refused asks again");
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    disk.mount_again().await;
    world.receiver.set("btrate", "");
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    for name in ["old", "film"] {
        seeds(&world.receiver, name).await;
    }
    nothing_failed(&world.receiver).await;
    assert_eq!(forgotten(&world.receiver).await, 0, "{}", world.receiver.events(&task).await);
    assert!(!world.receiver.stage().join("aside").exists());
    let (fetched, most) = (world.receiver.wire(&task, "%").await - wire, package.bytes - have + 10 * MIB);
    assert!(fetched <= most, "{fetched} bytes fetched, {most} were to be fetched");
}

/// The same while the service runs, with a reception at work over the CDN.
#[tokio::test]
async fn a_receiver_whose_disk_is_unplugged_goes_on_where_it_was() {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let Some(disk) = on_a_disk(&mut world.receiver, &dir, 300) else { return };
    world.receiver.set("cdnrate", "2M");
    world.package("old", 9, 1);
    let package = world.package("film", 30, 2);
    world.start().await;
    let old = world.publish("old", "1:0:0").await;
    world.receive(&old).await;
    seeds(&world.receiver, "old").await;
    let taskfile = world.publish("film", "0:0:1").await;
    let task = task_name("film");
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let half = format!("select bytes_done from v_tasks where task = '{task}'");
    until("half of it is there", PATIENCE, async || (world.receiver.number(&half).await > 8 * MIB).then_some(())).await;
    disk.unplug();
    asks_for_the_disk(&world.receiver, 2).await;
    // Long enough for every look at the staged files.
    let waits = "select count(*) from v_legs where state = 'waiting'";
    until("all wait", PATIENCE, async || (world.receiver.number(waits).await == 2).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    disk.mount_again().await;
    world.receiver.set("cdnrate", "");
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    seeds(&world.receiver, "old").await;
    nothing_failed(&world.receiver).await;
    assert_eq!(forgotten(&world.receiver).await, 0, "{}", world.receiver.events(&task).await);
    assert!(!world.receiver.stage().join("aside").exists());
    let (fetched, most) = (world.receiver.wire(&task, "%").await, package.bytes + 12 * MIB);
    assert!(fetched <= most, "{fetched} bytes crossed the network for {}", package.bytes);
}

/// A cacher that seeds, and one disk that does not come back: somebody has to say so.
#[tokio::test]
async fn a_cacher_goes_on_when_its_disk_is_back_and_starts_anew_when_told_to() {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let Some(mut disk) = on_a_disk(&mut world.cacher, &dir, 200) else { return };
    let package = world.package("film", 9, 1);
    world.sender.start().await;
    world.cacher.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    let task = task_name("film");
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    let seeding = async |world: &World| {
        let look = async || {
            let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
            (reply.text("status") == "seeding").then_some(())
        };
        until("the cacher seeds", PATIENCE, look).await;
    };
    seeding(&world).await;
    let wire = world.cacher.wire(&task, "%").await;
    disk.unplug();
    asks_for_the_disk(&world.cacher, 1).await;
    disk.mount_again().await;
    seeding(&world).await;
    assert_eq!(world.cacher.wire(&task, "%").await, wire, "fetched again");

    disk.unplug();
    asks_for_the_disk(&world.cacher, 1).await;
    disk.replace(200);
    disk.mount_again().await;
    let bftv2 = |command: &str| {
        let mut run = Command::new(&world.cacher.binary);
        let done = run.arg(command).arg("--config").arg(world.cacher.config_path()).output().expect("bftv2");
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let (fine, said) = bftv2("doctor");
    assert!(!fine && said.contains("is the disk mounted?") && said.contains("bftv2 newdisk"), "{said}");
    asks_for_the_disk(&world.cacher, 1).await;
    assert_eq!(entries(&disk.at), ["lost+found"], "an empty disk is not taken for ours");
    std::fs::create_dir_all(world.cacher.data().join("receiver/tmp")).expect("directory");
    let (fine, said) = bftv2("newdisk");
    assert!(fine && said.contains("is fetched again"), "{said}");
    seeding(&world).await;
    let (fine, said) = bftv2("newdisk");
    assert!(fine && said.contains("nothing to do"), "{said}");
    let fetched = world.cacher.wire(&task, "%").await - wire;
    assert!(fetched >= package.bytes, "{fetched} bytes fetched anew");
    nothing_failed(&world.cacher).await;
}

/// A library of a sender on a disk of its own.
fn library_on_a_disk(world: &mut World, megabytes: u64) -> Option<Loop> {
    let library = world.sender.data().join("dcp");
    std::fs::remove_dir_all(&library).expect("remove");
    let disk = Loop::plug_in(&library, world.dir.path().join("library.img"), megabytes)?;
    std::fs::create_dir_all(world.sender.store()).expect("store");
    Some(disk)
}

/// The disk goes while a package on it is hashed: the library's, or that of all data.
#[tokio::test]
async fn gentask_waits_for_its_disk() {
    for all in [false, true] {
        let mut world = World::new();
        let Some(gate) = Gate::before(&mut world.sender) else { return };
        let dir = world.dir.path().to_owned();
        let disk = if all { on_a_disk(&mut world.sender, &dir, 200) } else { library_on_a_disk(&mut world, 200) };
        let Some(disk) = disk else { return };
        let package = world.package("film", 9, 2);
        world.start().await;
        gate.close("pread", "dcps/film/");
        let (dcppath, taskfile) =
            (world.sender.store().join("film"), world.sender.data().join("sender/tmp").join(task_name("film")));
        let names = json!({"dcppath": dcppath, "taskfile": taskfile});
        let mut order = json!({"basesubdir": world::SUBDIR, "btobscdn": "1:0:0"});
        world::merge(&mut order, &names);
        assert!(world.sender.call("gentask", order).await.ok);
        gate.holds("hashing").await;
        disk.unplug();
        gate.open();
        let job = "select count(*) from v_generations where state = 'queued' and error like '%disk mounted%'";
        for restart in [false, true] {
            if restart {
                world.sender.kill();
                world.sender.start().await;
            }
            until("it asks for the disk", PATIENCE, async || (world.sender.number(job).await == 1).then_some(())).await;
            let reply = world.sender.call("taskfilesquery", names.clone()).await;
            assert!(reply.ok && reply.text("status") == "unfinished", "{reply:?}");
            let wait = format!(" please wait until {}.torrent and {} all are finished.", dcppath.display(), taskfile.display());
            assert_eq!(reply.text("desc"), wait);
        }
        assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
        let told = "select count(*) from v_events where kind = 'disk' and task like '%-film.%'";
        let told = world.sender.number(told).await;
        assert!((1..=2).contains(&told), "told {told} times");
        disk.mount_again().await;
        let look = async || {
            let reply = world.sender.call("taskfilesquery", names.clone()).await;
            assert!(reply.ok, "{reply:?}");
            (reply.text("status") == "finished").then_some(())
        };
        until("it is finished", PATIENCE, look).await;
        let sent = world.send(&taskfile).await;
        world.receive(&sent).await;
        world.assert_delivered(&package);
    }
}

/// The only package of a store is missing: with its disk, and then without.
#[tokio::test]
async fn a_package_that_was_deleted_is_told_from_a_disk_that_is_away() {
    let mut world = World::new();
    let Some(disk) = library_on_a_disk(&mut world, 200) else { return };
    let package = world.package("film", 9, 1);
    world.start().await;
    world.publish("film", "1:0:0").await;
    seeds(&world.sender, "film").await;
    disk.unplug();
    asks_for_the_disk(&world.sender, 1).await;
    // The directories are below the mount point, too.
    std::fs::create_dir_all(world.sender.store()).expect("directory");
    let empty = "select count(*) from v_legs where error like '%nothing else is in%'";
    until("it sees the directory", PATIENCE, async || (world.sender.number(empty).await == 1).then_some(())).await;
    world.sender.kill();
    world.sender.start().await;
    until("it sees it again", PATIENCE, async || (world.sender.number(empty).await == 1).then_some(())).await;
    nothing_failed(&world.sender).await;
    disk.mount_again().await;
    seeds(&world.sender, "film").await;

    let removed =
        "select count(*) from v_tasks where state = 'failed' and reason like '%dcps/film was removed%run gentask again%'";
    let torrent = world.sender.store().join("film.torrent");
    let (kept, kept_torrent) = (disk.at.join("kept"), disk.at.join("kept.torrent"));
    std::fs::rename(&torrent, &kept_torrent).expect("rename");
    std::fs::rename(&package.dir, &kept).expect("rename");
    until("it has failed", PATIENCE, async || (world.sender.number(removed).await == 1).then_some(())).await;
    // Put back and sent again; deleted while nobody looks.
    std::fs::rename(&kept_torrent, &torrent).expect("rename");
    std::fs::rename(&kept, &package.dir).expect("rename");
    let failed = world.sender.data().join("sender/failed").join(task_name("film"));
    until("it is shown", PATIENCE, async || failed.exists().then_some(())).await;
    let reply = world.sender.call("send", json!({"taskfile": failed})).await;
    assert!(reply.ok, "{reply:?}");
    world.ready(&task_name("film")).await;
    seeds(&world.sender, "film").await;
    world.sender.kill();
    std::fs::remove_dir_all(&package.dir).expect("remove");
    std::fs::remove_file(&torrent).expect("remove");
    world.sender.start().await;
    until("it has failed again", PATIENCE, async || (world.sender.number(removed).await == 1).then_some(())).await;
}

/// A file server that does not answer holds up those who ask for what lies there, and nobody else.
#[tokio::test]
async fn a_library_that_hangs_holds_up_no_other_client() {
    let mut world = World::new();
    std::fs::remove_dir_all(world.sender.data().join("dcp")).expect("remove");
    let Some(server) = Served::mount(&world.dir.path().join("backing"), &world.sender.data().join("dcp")).await else { return };
    std::fs::create_dir_all(world.sender.store()).expect("store");
    world.package("film", 5, 1);
    world.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    server.hang();
    let names = json!({"dcppath": world.sender.store().join("film"), "taskfile": taskfile});
    let queries = futures::future::join_all((0..20).map(|_| world.sender.try_call("taskfilesquery", names.clone())));
    tokio::pin!(queries);
    let early = tokio::time::timeout(Duration::from_secs(3), &mut queries).await;
    assert!(early.is_err(), "the server does not hang: {early:?}");
    // A CDN asks for more files at a time than there are threads for file work.
    let mut edge = Vec::new();
    for _ in 0..80 {
        let mut connection = tokio::net::TcpStream::connect(world.web).await.expect("the origin");
        let ask = b"GET /dcp/cfec-001/dcps/film/ASSETMAP.xml HTTP/1.1\r\nhost: origin\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut connection, ask).await.expect("asked");
        edge.push(connection);
    }
    let began = Instant::now();
    assert!(world.sender.get("heartbeat").await.is_some());
    let reply = world.sender.call("cancel", json!({"taskfile": task_name("film")})).await;
    let took = began.elapsed();
    assert!(reply.ok && reply.desc() == "succeed!", "{reply:?}");
    assert!(took < Duration::from_secs(10), "they took {took:?}");
    assert_eq!(world.sender.places(&task_name("film")), ["sender/history"]);
    world.sender.logged("stopping its leg").await;
    // Who asked for what lies there is told so; what the kernel remembers is answered.
    let replies = queries.await;
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    let told = replies.iter().flatten().filter(|r| r.desc().contains("the library does not answer")).count();
    assert!(told > 10, "{replies:?}");
    let mut answer = [0; 12];
    let first = edge.first_mut().expect("a connection");
    tokio::io::AsyncReadExt::read_exact(first, &mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 503");
    server.answer();
    let works = async || {
        let reply = world.sender.call("taskfilesquery", names.clone()).await;
        reply.ok.then_some(())
    };
    until("it answers again", PATIENCE, works).await;
}

/// The package of one task lies on a file server that does not answer, those of others do not.
#[tokio::test]
async fn a_package_that_hangs_holds_up_no_other_task() {
    let mut world = World::new();
    let backing = world.dir.path().join("backing");
    std::fs::create_dir_all(&backing).expect("directory");
    world::make_package(&backing, "film", 5 * MIB, 1);
    let Some(server) = Served::mount(&backing.join("film"), &world.sender.store().join("film")).await else { return };
    world.package("slow", 20, 1);
    world.package("third", 5, 1);
    world.sender.set_all(&json!({"uploadingnum": 1, "obsrate": "20K"}));
    world.sender.start().await;
    let mut files = Vec::new();
    for (name, ratio) in [("slow", "0:1:0"), ("film", "1:0:0"), ("third", "1:0:0")] {
        files.push(world.gentask(name, ratio).await);
    }
    assert!(world.sender.call("send", json!({"taskfile": files[0]})).await.ok);
    let begun = "select count(*) from v_tasks where state = 'uploading'";
    until("the place is taken", PATIENCE, async || (world.sender.number(begun).await == 1).then_some(())).await;
    assert!(world.sender.call("send", json!({"taskfile": files[1]})).await.ok);
    server.hang();
    assert!(world.sender.call("cancel", json!({"taskfile": task_name("slow")})).await.ok);
    let asks = "select count(*) from v_legs where task like '%-film.%' and error like '%does not answer%'";
    until("it is told", PATIENCE, async || (world.sender.number(asks).await == 1).then_some(())).await;
    world.sender.set("uploadingnum", 5);
    assert!(world.sender.get("reloadconf").await.is_some());
    world.send(&files[2]).await;
    nothing_failed(&world.sender).await;
    server.answer();
    seeds(&world.sender, "film").await;
}

/// The file server of the library does not answer when the service starts: who asks gets an answer, and the seed goes on
/// when the server does.
#[tokio::test]
async fn a_service_starts_while_its_library_hangs() {
    let mut world = World::new();
    let library = world.sender.data().join("dcp");
    std::fs::remove_dir_all(&library).expect("remove");
    let Some(server) = Served::mount(&world.dir.path().join("backing"), &library).await else { return };
    std::fs::create_dir_all(world.sender.store()).expect("store");
    let package = world.package("film", 5, 1);
    world.start().await;
    let taskfile = world.publish("film", "1:0:0").await;
    for stops in [true, false] {
        world.sender.kill();
        let told = "select count(*) from v_events where kind = 'disk' and text like '%dcp does not answer%'";
        let before = world.sender.number(told).await;
        server.hang();
        world.sender.start().await;
        until("it is told", PATIENCE, async || (world.sender.number(told).await > before).then_some(())).await;
        assert_eq!(world.sender.call("uploadprogress", json!({"taskfile": task_name("film")})).await.text("status"), "uploaded");
        nothing_failed(&world.sender).await;
        if stops {
            assert!(world.sender.terminate().await.success(), "a stop waits for nobody");
            server.answer();
            world.sender.start().await;
            seeds(&world.sender, "film").await;
        }
    }
    server.answer();
    seeds(&world.sender, "film").await;
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
}
