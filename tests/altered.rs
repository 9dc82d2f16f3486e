//! Others write into staged files while nobody looks (a file system check, a restored backup, a person): no byte of it gets
//! into a library or to a peer, what was good is not fetched again, and whoever brought the file is not blamed.

mod world;

use serde_json::json;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use world::{Node, PATIENCE, World, entries, task_name, tree, until};

/// Its only staging directory.
fn staged(node: &Node) -> PathBuf {
    let stage = node.stage();
    stage.join(entries(&stage).first().expect("a staging directory"))
}

/// Other bytes in the same file: size and inode stay.
fn overwrite(path: &Path, at: u64, len: usize) {
    let file = std::fs::File::options().write(true).open(path).expect("open");
    file.write_all_at(&vec![b'X'; len], at).expect("write");
}

#[tokio::test]
async fn files_that_were_edited_while_a_receiver_was_down_are_hashed_again() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"cdnrate": "2M", "retries": 1}));
    let package = world.package("film", 30, 3);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:0:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let verified = "select path from task_files where state = 'verified' and size > 1000000 order by size desc";
    let growing = "select path from task_files where state = 'partial' and digest_at > 1000000 order by digest_at desc";
    let both = async |node: &Node| {
        let (verified, growing) = (node.sql(verified).await, node.sql(growing).await);
        Some([verified.first()?.first()?.clone(), growing.first()?.first()?.clone()])
    };
    let names = until("one is verified and one is partly hashed", PATIENCE, async || both(&world.receiver).await).await;
    world.receiver.kill();
    // What is recorded now: since the look one more may have been.
    let names = both(&world.receiver).await.unwrap_or(names);
    let have = world.receiver.number("select bytes_done from v_tasks").await;
    for name in &names {
        overwrite(&staged(&world.receiver).join(name), 500_000, 1000);
    }
    // Only its time is another one.
    let fine = world.receiver.sql("select path from task_files where state = 'verified' and size > 1000").await;
    let fine = fine.concat().into_iter().find(|p| !names.contains(p));
    if let Some(fine) = &fine {
        let file = std::fs::File::options().write(true).open(staged(&world.receiver).join(fine)).expect("open");
        file.set_modified(std::time::SystemTime::now()).expect("time");
    }
    let wire = world.receiver.wire(&task, "%").await;
    world.receiver.set_all(&json!({"cdnrate": ""}));
    world.receiver.start().await;
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let verified = format!("{} is not as it was when it was verified", names[0]);
    world.receiver.told(&task, &[&verified, "others wrote into them"]).await;
    let sizes = tree(&package.dir);
    let again: u64 = names.iter().map(|n| sizes[n].0).sum();
    let (most, fetched) = (package.bytes - have + again + (4 << 20), world.receiver.wire(&task, "%").await - wire);
    assert!(fetched <= most, "{fetched} bytes fetched, {most} were to be fetched");
}

/// Of a package that goes over BitTorrent alone, and of one of which a cacher has a part of a file.
#[tokio::test]
async fn a_cacher_serves_nothing_that_was_changed_while_it_was_down() {
    let mut world = World::new();
    world.package("whole", 12, 1);
    world.package("parts", 12, 1);
    world.sender.start().await;
    world.cacher.start().await;
    for (name, ratio) in [("whole", "1:0:0"), ("parts", "1:1:1")] {
        let taskfile = world.publish(name, ratio).await;
        assert!(world.recv(&world.cacher, &taskfile).await.ok);
        let task = task_name(name);
        let seeds = async |world: &World| {
            let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
            (reply.text("status") == "seeding").then(|| reply.desc())
        };
        let ready = format!("select count(*) from v_legs where task = '{task}' and state = 'running' and ready = 1");
        let ready = async |world: &World| (world.cacher.number(&ready).await == 1).then_some(());
        until("the cacher seeds", PATIENCE, async || ready(&world).await).await;
        let dir = seeds(&world).await.expect("it seeds");
        let dir = std::fs::canonicalize(dir.strip_prefix("btseeding dir:").expect("a directory")).expect("staged");
        let of = if name == "whole" { "s.len = f.size" } else { "s.len < f.size" };
        let sql = format!(
            "select f.path, s.offset, s.len from spans s join task_files f using (task_id, idx) join tasks t on t.id = f.task_id \
             where t.name = '{task}' and s.method = 'bt' and {of} order by s.len desc limit 1"
        );
        let rows = world.cacher.sql(&sql).await;
        let [path, offset, len] = &rows.concat()[..] else { panic!("no such span of {name}: {rows:?}") };
        let (at, len): (u64, u64) = (offset.parse().expect("number"), len.parse().expect("number"));
        let (at, file) = (at + len / 2, dir.join(path));
        // Recorded as it is at rest.
        let sql = format!(
            "select count(*) from task_files f join tasks t on t.id = f.task_id where t.name = '{task}' and f.path = '{path}' \
             and f.ctime_ns <> 0"
        );
        until("its times are recorded", PATIENCE, async || (world.cacher.number(&sql).await == 1).then_some(())).await;
        world.cacher.kill();
        overwrite(&file, at, 1000);
        world.cacher.start().await;
        let said = async || world.cacher.events(&task).await.contains("others wrote into them").then_some(());
        until("it is said", PATIENCE, said).await;
        until("the cacher seeds again", PATIENCE, async || ready(&world).await).await;
        let read = |file: &Path| {
            let mut bytes = vec![0; 1000];
            std::fs::File::open(file).and_then(|f| f.read_exact_at(&mut bytes, at)).expect("read");
            bytes
        };
        assert_eq!(read(&dir.join(path)), read(&world.sender.store().join(name).join(path)), "{name}: what is served");
    }
}
