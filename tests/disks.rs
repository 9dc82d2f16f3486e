//! Disks that are away for a while: not mounted yet at a start, or unplugged while the service runs. An empty mount point
//! says nothing about what was accepted: all waits, says why, makes nothing below the mount point, and goes on by itself.

mod world;

use serde_json::json;
use std::path::Path;
use std::process::Command;
use world::{Loop, Node, PATIENCE, World, entries, task_name, until};

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
    let events = node.number("select count(*) from v_events where kind = 'disk' and text like '%disk mounted%'").await;
    assert!(events > 0, "an operator should be told");
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
    assert!(disk.mount());
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
    world.sender.set("obsrate", "300K");
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
    assert!(disk.mount());
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
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    assert!(disk.mount());
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
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(entries(&disk.at), Vec::<String>::new(), "made below the mount point");
    assert!(disk.mount());
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
    assert!(disk.mount());
    seeding(&world).await;
    assert_eq!(world.cacher.wire(&task, "%").await, wire, "fetched again");

    disk.unplug();
    asks_for_the_disk(&world.cacher, 1).await;
    disk.replace(200);
    assert!(disk.mount());
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
