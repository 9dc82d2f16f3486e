//! Power cuts: kills at the commit points, disks that lose what was not synced, many kills in one delivery, and what a
//! start costs. After every start everything goes on by itself, and nothing that was accepted is lost.

#[allow(dead_code, reason = "not every test asks for all of it")]
mod bucket;
#[path = "power/disk.rs"]
mod disk;
#[path = "power/points.rs"]
mod points;
mod world;

use bft2::package::sample::PackageSummary;
use bucket::Bucket;
use disk::Disk;
use points::{Points, chosen, leftovers};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use world::{Line, Link, Node, PATIENCE, SUBDIR, World, entries, free_ports, read_json, stamps, task_name, tree, until};

const MIB: u64 = 1 << 20;

async fn is_sound(node: &Node) {
    assert_eq!(node.sql("PRAGMA integrity_check").await, [["ok"]], "the database of the {}", node.role);
    assert_eq!(node.sql("PRAGMA foreign_key_check").await, Vec::<Vec<String>>::new());
}

/// The table of the library shows what lies in the store.
async fn table_shows(node: &Node, package: &str, files: usize) {
    until("the hash table shows the package", PATIENCE, async || shows(node, package, files).then_some(())).await;
}

fn shows(node: &Node, package: &str, files: usize) -> bool {
    let below = format!("{}/", node.store().join(package).display());
    let table = std::fs::read_to_string(node.hashtable()).unwrap_or_default();
    table.lines().filter(|l| l.contains(&below)).count() == files
}

/// What the task file says of the files is what lies in the store.
fn is_right(taskfile: &Path, package: &PackageSummary) {
    let task = read_json(taskfile);
    let listed = task["filelist"].as_array().or_else(|| task["files"].as_array()).expect("a list of files").len();
    assert_eq!(listed, tree(&package.dir).len(), "{}", taskfile.display());
}

/// A client that does not give up: whatever was not answered is asked again after the start, and only that.
struct Client<'a> {
    node: &'a mut Node,
    points: &'a Points,
    died: bool,
}

impl Client<'_> {
    async fn revived(&mut self) {
        let points = self.points;
        // A connection that breaks is the first sign of it.
        let node = &mut *self.node;
        until("the process is dead", PATIENCE, async || node.is_dead().then_some(())).await;
        assert!(points.revive(self.node).await);
        self.died = true;
    }

    /// Asks until it is answered. `None`: the answer got lost, it may have been done.
    async fn ask(&mut self, method: &str, params: serde_json::Value) -> Option<world::Reply> {
        match self.node.try_call(method, params).await {
            Ok(reply) => Some(reply),
            Err(_) => {
                self.revived().await;
                None
            }
        }
    }

    /// Asks for a state until it is the wanted one.
    async fn wait(&mut self, method: &str, params: serde_json::Value, status: &str, on_the_way: &[&str]) -> world::Reply {
        let deadline = std::time::Instant::now() + Duration::from_secs(PATIENCE);
        loop {
            if let Some(reply) = self.ask(method, params.clone()).await {
                let now = reply.text("status");
                if now == status {
                    return reply;
                }
                assert!(on_the_way.contains(&now.as_str()), "{method}: {reply:?}");
            }
            assert!(std::time::Instant::now() < deadline, "{method}: not {status}\n{}", self.node.tail());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

#[tokio::test]
async fn a_sender_is_killed_at_its_commit_points() {
    let mut world = World::new();
    let Some(points) = Points::watch(&mut world.sender) else { return };
    world.sender.start().await;
    let (first, step) = chosen(9);
    let (mut n, mut kills) = (first, 0);
    let all = std::time::Instant::now();
    let last = loop {
        let name = format!("film-{n}");
        let package = world.package(&name, 1, 1);
        let masters = stamps(&package.dir);
        let (dcppath, taskfile) =
            (world.sender.store().join(&name), world.sender.data().join("sender/tmp").join(task_name(&name)));
        let mut client = Client { node: &mut world.sender, points: &points, died: false };
        points.arm(n);
        let query = json!({"dcppath": dcppath, "taskfile": taskfile});
        let order =
            json!({"dcppath": dcppath, "taskfile": taskfile, "basesubdir": SUBDIR, "policy": "fulltime", "btobscdn": "1:1:1"});
        loop {
            // Not answered: it is not known whether it was accepted.
            if let Some(reply) = client.ask("gentask", order.clone()).await {
                assert!(reply.ok || reply.desc().contains("is generating"), "gentask at {n}: {}", reply.desc());
                break;
            }
        }
        client.wait("taskfilesquery", query, "finished", &["unfinished"]).await;
        is_right(&taskfile, &package);
        let task = task_name(&name);
        loop {
            match client.ask("send", json!({"taskfile": taskfile})).await {
                Some(reply) => {
                    assert!(reply.ok, "send at {n}: {}", reply.desc());
                    break;
                }
                None => {
                    let known = client.ask("uploadprogress", json!({"taskfile": task})).await.expect("disarmed");
                    if known.ok && !known.text("status").is_empty() {
                        break;
                    }
                }
            }
        }
        client.wait("uploadprogress", json!({"taskfile": task}), "ready", &["queues", "uploading", "uploaded"]).await;
        let died = client.died || points.revive(&mut world.sender).await;
        points.disarm();
        until("one view", PATIENCE, async || (world.sender.places(&task) == ["sender/uploaded"]).then_some(())).await;
        assert_eq!(stamps(&package.dir), masters, "a master was touched");
        kills += u32::from(died);
        if !died {
            break package;
        }
        n += step;
    };
    assert_eq!(leftovers(world.sender.data()), Vec::<PathBuf>::new());
    is_sound(&world.sender).await;
    eprintln!("sender: {kills} kills, up to operation {n}, {:.0?}", all.elapsed());
    assert!(kills > 2, "{kills} kills");
    // Everything that was sent is there to be fetched: look at the last.
    world.receiver.start().await;
    let task = task_name(&world::file_name(&last.dir));
    world.receive(&world.sender.data().join("sender/uploaded").join(task)).await;
    world.assert_delivered(&last);
}

#[tokio::test]
async fn a_receiver_is_killed_at_its_commit_points() {
    let mut world = World::new();
    let Some(points) = Points::watch(&mut world.receiver) else { return };
    let disk = Disk::new("ext4");
    if let Some(disk) = &disk {
        world.receiver.put_data_at(disk.at.join("data"));
    }
    points.on(disk);
    world.start().await;
    let package = world.package("film", 1, 1);
    let files = tree(&package.dir).len();
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let (first, step) = chosen(7);
    let (mut n, mut kills, mut rounds) = (first, 0, 0);
    let all = std::time::Instant::now();
    loop {
        let here = world.receiver.store().join("film");
        // From nothing, over an older version of the package, and with part of it in the library, in turn.
        if here.exists() && rounds % 2 == 0 {
            std::fs::remove_dir_all(&here).expect("remove");
            std::fs::remove_file(here.with_extension("finished")).expect("remove");
        } else if here.exists() {
            let (name, (size, _)) = tree(&here).into_iter().max_by_key(|(_, (size, _))| *size).expect("a file");
            world::flip_byte(&here.join(name), size / 2);
        }
        rounds += 1;
        let carried = world.receiver.carry(&taskfile);
        points.settle();
        let mut client = Client { node: &mut world.receiver, points: &points, died: false };
        points.arm(n);
        loop {
            match client.ask("recv", json!({"taskfile": carried})).await {
                Some(reply) => {
                    assert!(reply.ok, "recv at {n}: {}", reply.desc());
                    break;
                }
                None => {
                    // What was accepted is not there to be accepted again.
                    let known = client.ask("progress", json!({"taskfile": task})).await.expect("disarmed");
                    if !carried.exists() || ["queues", "downloading"].contains(&known.text("status").as_str()) {
                        break;
                    }
                }
            }
        }
        client.wait("progress", json!({"taskfile": task}), "downloaded", &["queues", "downloading"]).await;
        // The last steps come after the state, and it may die in them.
        let over = async || (client.node.is_dead() || shows(client.node, "film", files)).then_some(());
        until("the hash table shows the package", PATIENCE, over).await;
        let died = client.died || points.revive(&mut world.receiver).await;
        points.disarm();
        world.assert_delivered(&package);
        until("one view", PATIENCE, async || (world.receiver.places(&task) == ["receiver/downloaded"]).then_some(())).await;
        table_shows(&world.receiver, "film", files).await;
        kills += u32::from(died);
        if !died {
            break;
        }
        n += step;
    }
    assert_eq!(leftovers(world.receiver.data()), Vec::<PathBuf>::new());
    is_sound(&world.receiver).await;
    world.receiver.kill();
    eprintln!("receiver: {kills} kills, up to operation {n}, {:.0?}", all.elapsed());
    assert!(kills > 2, "{kills} kills");
}

/// A reception on a disk that loses what was not synced, cut again and again. `apart`: the database is on another one, so
/// that its own syncs do not help the files.
async fn lost_writes_of_a_receiver(kind: &'static str, apart: bool, seed: u64) {
    let Some(mut disk) = Disk::new(kind) else { return };
    let dir = tempfile::Builder::new().prefix("bft2-world-").tempdir().expect("tempdir");
    let at = dir.path().to_owned();
    let mut world = World::at(dir, &at, if apart { &at } else { &disk.at });
    world.receiver.put_data_at(disk.at.join("data"));
    world.receiver.set_all(&json!({"btrate": "400K", "obsrate": "400K", "cdnrate": "400K", "retries": 60}));
    let package = world.package("film", 12, 2);
    disk.settle();
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let mut rng = StdRng::seed_from_u64(seed);
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let mut recorded = 0;
    let mut cuts = 0;
    loop {
        if cuts > 0 {
            // Not always after something new; longer when the machine is slow.
            let wait = rng.random_range(0..2500) * (1 + cuts / 8);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        world.receiver.kill();
        disk.cut();
        cuts += 1;
        let there = world.receiver.store().join("film");
        if there.exists() {
            assert_eq!(tree(&there), tree(&package.dir), "a package with its name that is not whole");
        }
        if cuts == 6 {
            world.receiver.set_all(&json!({"btrate": "", "obsrate": "", "cdnrate": ""}));
        }
        world.receiver.start().await;
        let now = world.receiver.number("select bytes_done from v_tasks").await;
        assert!(now >= recorded, "what was recorded is gone: {now} after {recorded}");
        recorded = now;
        let p = world.receiver.progress(&task).await;
        assert!(["queues", "downloading", "downloaded"].contains(&p.status().as_str()), "{p:?}");
        if p.status() == "downloaded" {
            break;
        }
        assert!(cuts < 40, "it gets nowhere");
    }
    world.assert_delivered(&package);
    until("one view", PATIENCE, async || (world.receiver.places(&task) == ["receiver/downloaded"]).then_some(())).await;
    table_shows(&world.receiver, "film", tree(&package.dir).len()).await;
    is_sound(&world.receiver).await;
    // Nothing of what was verified is doubted: the rows name the files as they are, times included.
    world.receiver.kill();
    disk.cut();
    world.receiver.start().await;
    let seeds = "select count(*) from v_legs where method = 'bt' and state = 'running'";
    until("it seeds", PATIENCE, async || (world.receiver.number(seeds).await == 1).then_some(())).await;
    table_shows(&world.receiver, "film", tree(&package.dir).len()).await;
    let read = world.receiver.bytes_read();
    assert!(read < package.bytes / 2, "{read} bytes read at the start of a receiver that seeds {}", package.bytes);
    world.receiver.kill();
    eprintln!("{kind}: {cuts} power cuts");
}

#[tokio::test]
async fn a_receiver_on_ext4_loses_what_was_not_synced_and_nothing_else() {
    lost_writes_of_a_receiver("ext4", true, 1).await;
}

#[tokio::test]
async fn a_receiver_on_xfs_loses_what_was_not_synced_and_nothing_else() {
    lost_writes_of_a_receiver("xfs", false, 2).await;
}

#[tokio::test]
async fn a_sender_that_loses_unsynced_writes_keeps_what_it_accepted() {
    let Some(mut disk) = Disk::new("ext4") else { return };
    let dir = tempfile::Builder::new().prefix("bft2-world-").tempdir().expect("tempdir");
    let at = dir.path().to_owned();
    // The database's own syncs do not help the files: they are on another disk.
    let mut world = World::at(dir, &at, &at);
    world.sender.put_data_at(disk.at.join("data"));
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..3 {
        let name = format!("film-{round}");
        let package = world.package(&name, 2, 1);
        disk.settle();
        world.sender.start().await;
        let (dcppath, taskfile) =
            (world.sender.store().join(&name), world.sender.data().join("sender/tmp").join(task_name(&name)));
        let order =
            json!({"dcppath": dcppath, "taskfile": taskfile, "basesubdir": SUBDIR, "policy": "fulltime", "btobscdn": "1:1:1"});
        assert!(world.sender.call("gentask", order).await.ok);
        let cut = async |world: &mut World, disk: &mut Disk, wait: u64| {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            world.sender.kill();
            disk.cut();
            world.sender.start().await;
        };
        cut(&mut world, &mut disk, rng.random_range(0..300)).await;
        let query = json!({"dcppath": dcppath, "taskfile": taskfile});
        until("gentask ends", PATIENCE, async || {
            let reply = world.sender.call("taskfilesquery", query.clone()).await;
            assert!(reply.ok, "{reply:?}");
            (reply.text("status") == "finished").then_some(())
        })
        .await;
        // A task file that was shown is there.
        cut(&mut world, &mut disk, 0).await;
        assert!(taskfile.is_file(), "the task file that was told of is gone");
        is_right(&taskfile, &package);
        assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
        cut(&mut world, &mut disk, rng.random_range(0..300)).await;
        let sent = world.ready(&task_name(&name)).await;
        cut(&mut world, &mut disk, 0).await;
        assert!(sent.is_file(), "{}", sent.display());
        world.ready(&task_name(&name)).await;
        is_sound(&world.sender).await;
        assert_eq!(world.sender.places(&task_name(&name)), ["sender/uploaded"]);
        if round == 2 {
            world.receiver.start().await;
            world.receive(&sent).await;
            world.assert_delivered(&package);
        }
        world.sender.kill();
    }
    assert_eq!(leftovers(world.sender.data()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn twenty_kills_in_one_delivery_repeat_little() {
    const KILLS: u64 = 20;
    /// Bytes per second of each line when a kill may come. What is not recorded then is five seconds' worth at the most, so
    /// this is what the share depends on, and how busy the machine is: usually it is a third of what is allowed.
    const RATE: u64 = 30 << 10;
    /// And when much is brought that has to be kept: a start that keeps nothing of it repeats a quarter of the package.
    const FAST: u64 = 1 << 20;
    let mut world = World::new();
    let objects = Bucket::start(&world.objects()).await;
    let links = [world.sender.bt, objects.addr, world.web].map(|server| Link::slow(server, RATE));
    let [bt, obs, cdn] = &links;
    let [nobody] = free_ports();
    for node in [&mut world.sender, &mut world.receiver] {
        node.set_all(&bucket::keys(obs.addr));
        node.set_all(&json!({
            "tracker": format!("http://{nobody}/announce"), "cdnurl": format!("http://{}", cdn.addr), "btpeers": [], "retries": 60,
        }));
        node.set("btpeers", json!([bt.addr.to_string()]));
    }
    world.sender.set("trackerlisten", "");
    let package = world.package("film", 130, 3);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let before = links.each_ref().map(Link::bytes);
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let mut rng = StdRng::seed_from_u64(20);
    let recorded = async |node: &Node| node.number("select bytes_done from v_tasks").await;
    let grown = async |node: &Node, by: u64| {
        let before = recorded(node).await;
        until("more is recorded", PATIENCE, async || (recorded(node).await > before + by).then_some(())).await;
    };
    for kill in 1..=KILLS {
        if kill % 4 == 0 {
            links.iter().for_each(|l| l.set(Line::Slow(FAST)));
            grown(&world.receiver, 6 * MIB).await;
            links.iter().for_each(|l| l.set(Line::Slow(RATE)));
            grown(&world.receiver, 0).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..1800))).await;
        world.receiver.kill();
        world.receiver.start().await;
    }
    links.iter().for_each(|l| l.set(Line::Good));
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let mut twice = 0;
    for ((link, before), method) in links.iter().zip(before).zip(["bt", "obs", "cdn"]) {
        let own = world.receiver.number(&format!("select bytes_total from v_legs where method = '{method}'")).await;
        let carried = link.bytes() - before;
        eprintln!("{method}: {own} bytes, {carried} carried");
        twice += carried.saturating_sub(own);
    }
    let share = twice as f64 * 100.0 / package.bytes as f64;
    eprintln!("{KILLS} kills: {twice} of {} bytes fetched twice, {share:.1} %", package.bytes);
    assert!(share <= 5.0, "{share:.1} %");
}

/// An upload that was begun goes on after a kill, under the id that the store gave it: none is begun twice. (That its parts
/// are not sent twice is tested at the transport; this store does not list their ETags.)
#[tokio::test]
async fn an_upload_is_finished_over_kills() {
    let mut world = World::new();
    let objects = Bucket::start(&world.objects()).await;
    let line = Link::to(objects.addr);
    world.sender.set_all(&bucket::keys(line.addr));
    world.sender.set("obsrate", "12M");
    let package = world.package("film", 60, 1);
    world.sender.start().await;
    let taskfile = world.gentask("film", "0:1:0").await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    for parts in [3, 6] {
        until("some parts are on their way", PATIENCE, async || (line.parts() >= parts).then_some(())).await;
        world.sender.kill();
        world.sender.start().await;
    }
    world.sender.set("obsrate", "");
    assert!(world.sender.get("reloadconf").await.is_some());
    let sent = world.ready(&task_name("film")).await;
    eprintln!("{} uploads begun, {} parts sent for {} bytes", line.begun(), line.parts(), package.bytes);
    let large = tree(&package.dir).values().filter(|(size, _)| *size > 8 << 20).count() as u64;
    assert!(line.begun() <= large, "{} uploads begun for {large} large files", line.begun());
    world.receiver.set_all(&bucket::keys(line.addr));
    world.receiver.start().await;
    world.receive(&sent).await;
    world.assert_delivered(&package);
}

#[tokio::test]
async fn a_start_reads_no_package_again_and_seeds_go_on() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"btrate": "5M", "obsrate": "5M", "cdnrate": "5M"}));
    let package = world.package("film", 80, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let until_sender = world.sender.sql("select seed_until from v_tasks").await;
    // A sender that seeds.
    world.sender.kill();
    world.sender.start().await;
    world.ready(&task).await;
    let seeds = async || {
        (world.sender.number("select count(*) from v_legs where method = 'bt' and state = 'running'").await == 1).then_some(())
    };
    until("the sender seeds again", PATIENCE, seeds).await;
    let read = world.sender.bytes_read();
    eprintln!("a sender that seeds reads {read} bytes at its start");
    assert!(read < package.bytes / 4, "{read} bytes read at the start of a sender that seeds {}", package.bytes);
    assert_eq!(world.sender.sql("select seed_until from v_tasks").await, until_sender);

    // A receiver in the middle: what it reads in its second life is what arrives there.
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let half = async || (world.receiver.number("select bytes_done from v_tasks").await > package.bytes / 2).then_some(());
    until("half of it is recorded", PATIENCE, half).await;
    world.receiver.set_all(&json!({"btrate": "100K", "obsrate": "100K", "cdnrate": "100K"}));
    world.receiver.kill();
    let rest = "select sum(bytes_done - digest_at) from task_files";
    let unhashed = world.receiver.number(rest).await;
    world.receiver.start().await;
    let runs = async || (world.receiver.number("select count(*) from v_legs where state = 'running'").await > 0).then_some(());
    until("the legs run again", PATIENCE, runs).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let read = world.receiver.bytes_read();
    eprintln!(
        "a receiver in the middle of {} reads {read} bytes at its start, {unhashed} of them for the first time",
        package.bytes
    );
    assert!(read < unhashed + (16 << 20), "{read} bytes read at the start, {unhashed} were not hashed yet");
    world.receiver.set_all(&json!({"btrate": "", "obsrate": "", "cdnrate": ""}));
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);

    // A receiver that seeds.
    let until_receiver = world.receiver.sql("select seed_until from v_tasks").await;
    assert_ne!(until_receiver, [[""]]);
    world.receiver.kill();
    world.receiver.start().await;
    let seeds = async || {
        (world.receiver.number("select count(*) from v_legs where method = 'bt' and state = 'running'").await == 1).then_some(())
    };
    until("the receiver seeds again", PATIENCE, seeds).await;
    table_shows(&world.receiver, "film", tree(&package.dir).len()).await;
    let read = world.receiver.bytes_read();
    eprintln!("a receiver that seeds reads {read} bytes at its start");
    assert!(read < package.bytes / 4, "{read} bytes read at the start of a receiver that seeds {}", package.bytes);
    assert_eq!(world.receiver.sql("select seed_until from v_tasks").await, until_receiver);
}

async fn removed_while_it_runs(how: impl FnOnce(&Path, &Path, u64)) {
    let mut world = World::new();
    world.receiver.set_all(&json!({"btrate": "100K", "obsrate": "100K"}));
    let package = world.package("film", 9, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let cdn = "select count(*) from v_legs where method = 'cdn' and state = 'done'";
    until("the cdn is done", PATIENCE, async || (world.receiver.number(cdn).await == 1).then_some(())).await;
    let stage = world.receiver.stage();
    let staged = stage.join(&entries(&stage)[0]);
    let (name, (size, _)) = tree(&staged).into_iter().max_by_key(|(_, (size, _))| *size).expect("a file");
    how(&staged, &staged.join(&name), size);
    let said = async || world.receiver.events(&task).await.contains("removed or replaced").then_some(());
    until("it is said", PATIENCE, said).await;
    world.receiver.set_all(&json!({"btrate": "", "obsrate": ""}));
    assert!(world.receiver.get("reloadconf").await.is_some());
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
}

/// Somebody tidies up while it is being received.
#[tokio::test]
async fn a_staging_directory_that_is_removed_under_a_reception_comes_again() {
    removed_while_it_runs(|staged, _, _| {
        // The reception may make a file in it meanwhile.
        while let Err(e) = std::fs::remove_dir_all(staged) {
            assert_eq!(e.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{e}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_staged_file_that_is_replaced_under_a_reception_comes_again() {
    removed_while_it_runs(|_, file, size| {
        let other = file.with_extension("other");
        std::fs::write(&other, vec![7; size as usize]).expect("write");
        std::fs::rename(&other, file).expect("rename");
    })
    .await;
}

/// A file system of its own, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("directory");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        let mounted = done.is_ok_and(|o| o.status.success()).then(|| Self(at.to_owned()));
        if mounted.is_none() {
            eprintln!("skipped: mounting a tmpfs is not permitted here");
        }
        mounted
    }

    /// Takes all the room there is.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::options().append(true).create(true).open(self.0.join("ballast")).expect("ballast");
        for size in [64 << 10, 4 << 10, 1] {
            while ballast.write_all(&vec![1u8; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("ballast");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// Whatever method is writing when the disk is full: it is said, nothing wrong comes of it, and it goes on later.
#[tokio::test]
async fn a_disk_that_fills_up_under_each_method() {
    let mut world = World::new();
    let at = world.dir.path().join("small");
    let Some(small) = Small::mount(&at, "48m") else { return };
    world.receiver.put_data_at(at.join("data"));
    world.start().await;
    for (method, ratio) in [("bt", "1:0:0"), ("obs", "0:1:0"), ("cdn", "0:0:1")] {
        let name = format!("film-{method}");
        let package = world.package(&name, 9, 3);
        let task = task_name(&name);
        let taskfile = world.publish(&name, ratio).await;
        let rate = |rate: &str| json!({"btrate": rate, "obsrate": rate, "cdnrate": rate});
        world.receiver.set_all(&rate("500K"));
        assert!(world.receiver.get("reloadconf").await.is_some());
        assert!(world.recv(&world.receiver, &taskfile).await.ok);
        let running = async || (world.receiver.progress(&task).await.downloaded() > MIB / 2).then_some(());
        until("it is running", PATIENCE, running).await;
        small.fill();
        world.receiver.set_all(&rate(""));
        assert!(world.receiver.get("reloadconf").await.is_some());
        let ended = async || {
            let p = world.receiver.progress(&task).await;
            ["downloaded", "downloaderror"].contains(&p.status().as_str()).then_some(p)
        };
        let p = until("it ends", PATIENCE, ended).await;
        eprintln!("{method}: {} {}", p.status(), p.error());
        small.free();
        if p.status() != "downloaded" {
            assert!(p.error().contains("no space"), "{p:?}");
            assert!(!world.receiver.store().join(&name).exists(), "half a package has its name");
            assert!(world.recv(&world.receiver, &taskfile).await.ok);
            world.receiver.downloaded(&task).await;
        }
        world.assert_delivered(&package);
        std::fs::remove_dir_all(world.receiver.store().join(&name)).expect("room for the next");
    }
}

#[tokio::test]
async fn a_database_on_a_full_disk_loses_nothing_and_goes_on() {
    let dir = tempfile::Builder::new().prefix("bft2-world-").tempdir().expect("tempdir");
    let at = dir.path().to_owned();
    let Some(small) = Small::mount(&at.join("small"), "8m") else { return };
    let mut world = World::at(dir, &at, &small.0);
    world.receiver.put_data_at(at.join("data"));
    // What it says is to be read.
    let (log, elsewhere) = (world.receiver.config_path().with_file_name("log"), at.join("log"));
    std::fs::create_dir(&elsewhere).expect("directory");
    std::fs::remove_dir(&log).expect("an empty directory");
    std::os::unix::fs::symlink(&elsewhere, &log).expect("link");
    world.receiver.set_all(&json!({"btrate": "500K", "obsrate": "500K", "cdnrate": "500K"}));
    let package = world.package("film", 12, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    small.fill();
    let reply = world.recv(&world.receiver, &taskfile).await;
    eprintln!("recv: {} {}", reply.ok, reply.desc());
    assert!(!reply.ok && reply.desc().contains("full"), "{}", reply.desc());
    small.free();
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let running = async || (world.receiver.progress(&task).await.downloaded() > MIB).then_some(());
    until("it is running", PATIENCE, running).await;
    let told = || world.receiver.log().matches("disk is full").count();
    let before = told();
    small.fill();
    // Until something could not be recorded.
    let met = async || (told() > before).then_some(());
    until("it is met", PATIENCE, met).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.receiver.assert_alive();
    small.free();
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    is_sound(&world.receiver).await;
    world.receiver.kill();
}

/// Somebody's shell holds the database for longer than a write waits: what arrives is recorded afterwards.
#[tokio::test]
async fn a_database_that_is_held_ends_no_reception() {
    use sqlx::{ConnectOptions as _, Executor as _};
    let mut world = World::new();
    world.receiver.set_all(&json!({"btrate": "300K", "obsrate": "300K", "cdnrate": "300K"}));
    let package = world.package("film", 12, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let running = async || (world.receiver.progress(&task).await.downloaded() > MIB).then_some(());
    until("it is running", PATIENCE, running).await;
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(world.receiver.database());
    let mut shell = database.busy_timeout(Duration::from_secs(PATIENCE)).connect().await.expect("database");
    shell.execute("BEGIN IMMEDIATE").await.expect("the lock");
    let met = async || world.receiver.log().contains("cannot be recorded now").then_some(());
    until("it is met", PATIENCE, met).await;
    shell.execute("ROLLBACK").await.expect("the end of it");
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    is_sound(&world.receiver).await;
}

/// Too many open files pass: nothing fails for good.
#[tokio::test]
async fn a_lack_of_descriptors_is_waited_for() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let mut world = World::new();
    world.receiver.set_all(&json!({"cdnrate": "1M", "retries": 60}));
    let package = world.package("film", 12, 6);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let running = async || (world.receiver.progress(&task).await.downloaded() > MIB).then_some(());
    until("it is running", PATIENCE, running).await;
    let pid = world.receiver.pid();
    let limit = |most: u64| {
        let now = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(Pid::from_raw(pid as i32), Resource::Nofile, now).expect("prlimit").current.expect("a limit")
    };
    let open = entries(Path::new(&format!("/proc/{pid}/fd"))).len() as u64;
    let before = limit(open / 2);
    let met = async || world.receiver.log().contains("Too many open files").then_some(());
    until("it is met", PATIENCE, met).await;
    world.receiver.assert_alive();
    limit(before);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
}

/// Sets a value in a node's database, which does not run.
async fn change(node: &Node, sql: &'static str) {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(node.database());
    let mut connection = options.connect().await.expect("database");
    sqlx::query(sql).execute(&mut connection).await.expect(sql);
}

/// Cancelled, at the end of its seed time, and received by the sender itself: killed at all points of it.
#[tokio::test]
async fn kills_at_the_ends_of_tasks() {
    let mut world = World::new();
    let [Some(receiver), Some(cacher), Some(sender)] =
        [&mut world.receiver, &mut world.cacher, &mut world.sender].map(Points::watch)
    else {
        return;
    };
    world.start().await;
    world.cacher.start().await;
    let package = world.package("film", 6, 1);
    let masters = stamps(&package.dir);
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let (first, step) = chosen(5);

    let mut kills = 0;
    for n in (first..).step_by(step as usize) {
        world.receiver.set_all(&json!({"btrate": "50K", "obsrate": "50K", "cdnrate": "50K"}));
        assert!(world.receiver.get("reloadconf").await.is_some());
        assert!(world.recv(&world.receiver, &taskfile).await.ok);
        let staged = async || (!entries(&world.receiver.stage()).is_empty()).then_some(());
        until("it is staged", PATIENCE, staged).await;
        receiver.arm(n);
        let mut client = Client { node: &mut world.receiver, points: &receiver, died: false };
        while client.ask("cancel", json!({"taskfile": task})).await.is_none_or(|r| !r.ok) {}
        let swept = async || (client.node.is_dead() || entries(&client.node.stage()).is_empty()).then_some(());
        until("staging is empty", PATIENCE, swept).await;
        let died = client.died || receiver.revive(&mut world.receiver).await;
        receiver.disarm();
        until("staging is empty", PATIENCE, async || entries(&world.receiver.stage()).is_empty().then_some(())).await;
        until("its view", PATIENCE, async || (world.receiver.places(&task) == ["receiver/history"]).then_some(())).await;
        kills += u32::from(died);
        if !died {
            break;
        }
    }
    eprintln!("cancel: {kills} kills");

    let mut kills = 0;
    for n in (first..).step_by(step as usize) {
        assert!(world.recv(&world.cacher, &taskfile).await.ok);
        until("the cacher seeds", PATIENCE, async || {
            let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
            (reply.text("status") == "seeding").then_some(())
        })
        .await;
        world.cacher.kill();
        change(&world.cacher, "UPDATE tasks SET seed_until = 1").await;
        cacher.arm(n);
        world.cacher.spawn();
        let gone = async || {
            let swept = entries(&world.cacher.stage()).is_empty() && world.cacher.places(&task) == ["receiver/downloaded"];
            (world.cacher.is_dead() || swept).then_some(())
        };
        until("its data are deleted", PATIENCE, gone).await;
        let died = cacher.revive(&mut world.cacher).await;
        cacher.disarm();
        let gone = async || {
            let swept = entries(&world.cacher.stage()).is_empty() && world.cacher.places(&task) == ["receiver/downloaded"];
            swept.then_some(())
        };
        until("its data are deleted", PATIENCE, gone).await;
        kills += u32::from(died);
        if !died {
            break;
        }
    }
    eprintln!("end of a cacher's seed time: {kills} kills");

    let mut kills = 0;
    for n in (first..).step_by(step as usize) {
        let carried = world.sender.carry(&taskfile);
        sender.arm(n);
        let mut client = Client { node: &mut world.sender, points: &sender, died: false };
        while client.ask("recv", json!({"taskfile": carried})).await.is_none() && carried.exists() {}
        client.wait("progress", json!({"taskfile": task}), "downloaded", &["queues", "downloading"]).await;
        let died = client.died || sender.revive(&mut world.sender).await;
        sender.disarm();
        assert_eq!(stamps(&package.dir), masters, "a master was touched");
        kills += u32::from(died);
        if !died {
            break;
        }
    }
    eprintln!("the sender's own package: {kills} kills");
    world.ready(&task).await;
    for node in [&world.receiver, &world.cacher, &world.sender] {
        is_sound(node).await;
        assert_eq!(leftovers(node.data()), Vec::<PathBuf>::new());
    }
}

/// Files of the library by path, as the rows, the table and the disk have them.
async fn three_views(node: &Node) -> [BTreeMap<String, String>; 3] {
    let rows = node.sql("select path, sha1 from v_library").await.into_iter().map(|r| (r[0].clone(), r[1].clone())).collect();
    let table = std::fs::read_to_string(node.hashtable()).unwrap_or_default();
    let table = table.lines().filter_map(|l| l.split_once("  ")).map(|(sha1, path)| (path.to_owned(), sha1.to_owned())).collect();
    let dir = node.data().join("dcp");
    let disk = tree(&dir).into_iter().map(|(name, (_, sha1))| (dir.join(name).display().to_string(), sha1)).collect();
    [rows, table, disk]
}

#[tokio::test]
async fn the_library_is_hashed_and_its_table_is_written_over_kills() {
    let mut world = World::new();
    let Some(points) = Points::watch(&mut world.sender) else { return };
    world.sender.set("settle", 0);
    world.sender.start().await;
    let (first, step) = chosen(4);
    let mut kills = 0;
    for n in (first..).step_by(step as usize) {
        let agree = async |node: &Node| {
            let [rows, table, disk] = three_views(node).await;
            (rows == disk && table == disk).then_some(())
        };
        points.arm(n);
        let dir = world.sender.store().join(format!("film-{n}"));
        std::fs::create_dir_all(&dir).expect("directory");
        for file in 0..8 {
            std::fs::write(dir.join(file.to_string()), format!("{n} {file}").repeat(500)).expect("file");
        }
        until(
            "it is hashed, or dead",
            PATIENCE,
            async || {
                if world.sender.is_dead() { Some(()) } else { agree(&world.sender).await }
            },
        )
        .await;
        let died = points.revive(&mut world.sender).await;
        points.disarm();
        until("rows, table and disk agree", PATIENCE, async || agree(&world.sender).await).await;
        kills += u32::from(died);
        if !died {
            break;
        }
    }
    eprintln!("library: {kills} kills");
    is_sound(&world.sender).await;
    assert_eq!(leftovers(world.sender.data()), Vec::<PathBuf>::new());
}
