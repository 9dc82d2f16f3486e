//! What a node is: a sender whose library lies in the bucket, data that come from the bucket, and nodes that become another
//! kind or store packages elsewhere.

mod world;

use serde_json::json;
use std::path::Path;
use world::{PATIENCE, SUBDIR, World, copy_tree, entries, task_name, tree, until};

/// Where an upload stands.
async fn status(world: &World, task: &str) -> String {
    world.sender.call("uploadprogress", json!({"taskfile": task})).await.text("status")
}

async fn failed(world: &World, task: &str) {
    until("the upload fails", PATIENCE, async || (status(world, task).await == "error").then_some(())).await;
}

/// The bucket is mounted where the library is: what lies in the one lies in the other.
#[tokio::test]
async fn a_library_in_the_bucket_is_not_uploaded() {
    let mut world = World::new();
    let mounted = format!("file://{}", world.sender.data().join("dcp").display());
    world.sender.set_all(&json!({"machinetype": "hwecs", "obsendpoint": mounted}));
    world.receiver.set("obsendpoint", mounted);
    let package = world.package("film", 9, 2);
    let before = tree(&package.dir);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
    assert_eq!((reply.text("obsstatus").as_str(), reply.text("status").as_str()), ("completed", "ready"));
    assert_eq!(world.sender.number("select sum(bytes_wire) from v_legs where method = 'obs'").await, 0);
    assert_eq!(tree(&package.dir), before, "something was put beside the files");
    assert!(entries(&world.sender.data().join("dcp")).iter().all(|e| e != ".incoming"));
    // Files that the ratio splits have no objects of their own there.
    assert!(world::read_json(&taskfile)["spans"].as_array().is_some_and(|s| !s.is_empty()), "nothing is split");
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    assert!(world.receiver.wire(&task, "obs").await > 0);
}

/// The directory holds a copy of what is in the bucket; what is not in the bucket is not put there.
#[tokio::test]
async fn data_that_come_from_the_bucket_are_compared() {
    let world = World::started().await;
    let package = world.package("film", 9, 2);
    let task = task_name("film");
    let (dcppath, tmp) = (package.dir.clone(), world.sender.data().join("sender/tmp").join(&task));
    let params = |datasource: &str| {
        json!({
            "dcppath": dcppath, "taskfile": tmp, "basesubdir": SUBDIR, "btobscdn": "0:1:0", "policy": "fulltime",
            "datasource": datasource,
        })
    };
    let refused = world.sender.call("gentask", params("tape")).await;
    let text = "error, invalid datasource: tape. Allowed: local or obs.";
    assert_eq!((refused.ok, refused.desc().as_str()), (false, text));

    // Not there at all, then there with one file that was cut short.
    let bucket = world.objects().join(SUBDIR).join("dcps/film");
    let taskfile = world.gentask_with("film", json!({"btobscdn": "0:1:0", "datasource": "obs"})).await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    failed(&world, &task).await;
    assert!(!bucket.exists(), "it was uploaded");
    copy_tree(&package.dir, &bucket);
    let name = package.files.iter().max_by_key(|f| f.size).map(|f| f.path.clone()).expect("a file");
    let object = std::fs::File::options().write(true).open(bucket.join(&name)).expect("object");
    object.set_len(1000).expect("cut");
    let taskfile = world.gentask_with("film", json!({"btobscdn": "0:1:0", "datasource": "obs"})).await;
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    failed(&world, &task).await;
    let error = world.sender.sql("select error from v_legs where method = 'obs'").await.concat().concat();
    assert!(error.contains(&name) && error.contains("does not upload"), "{error}");

    std::fs::copy(package.dir.join(&name), bucket.join(&name)).expect("copy");
    let taskfile = world.gentask_with("film", json!({"btobscdn": "0:1:0", "datasource": "obs"})).await;
    let taskfile = world.send(&taskfile).await;
    assert_eq!(world::read_json(&taskfile)["datasource"], "obs");
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
}

fn table_names(node: &world::Node, path: &Path) -> bool {
    let text = std::fs::read_to_string(node.hashtable()).unwrap_or_default();
    text.lines().any(|l| l.ends_with(&format!("  {}", path.display())))
}

/// From plan B to plan A: the library is compared, also where nobody watches it, and what was received under the old plan
/// is there for the new one.
#[tokio::test]
async fn another_store_plan_rebuilds_the_hash_table() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"watch": "off", "settle": 0}));
    let package = world.package("film", 6, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    world.receive(&taskfile).await;
    let old = world.receiver.store().join("film");
    // By hand, and nobody is told: with watching off it is not in the table.
    let by_hand = world.receiver.data().join("dcp/by-hand.mxf");
    std::fs::write(&by_hand, "by hand").expect("file");

    world.receiver.set("receiverstoreplan", "A");
    let said = world.receiver.get("reloadconf").await.expect("an answer");
    assert!(said.contains("receiverstoreplan has changed") && said.contains("hash table is rebuilt"), "{said}");
    assert!(world.receiver.terminate().await.success());
    world.receiver.start().await;
    let event = "select count(*) from v_events where text like 'receiverstoreplan has changed from B to A:%rebuilt%'";
    assert_eq!(world.receiver.number(event).await, 1);
    until("the file is in the table", PATIENCE, async || table_names(&world.receiver, &by_hand).then_some(())).await;

    let reply = world.recv(&world.receiver, &taskfile).await;
    let text = "same name task downloaded, all localsamefiles existed copy and finished, succeed!";
    assert_eq!((reply.ok, reply.desc().as_str()), (true, text));
    let done = world.receiver.downloaded(&task).await;
    let new = world.receiver.data().join("dcp/film");
    assert_eq!(done.dcppath(), new.display().to_string());
    assert_eq!((tree(&new), tree(&old)), (tree(&package.dir), tree(&package.dir)));
    assert!(world.receiver.data().join("dcp/film.finished").is_file());
    assert_eq!(world.receiver.wire(&task, "%").await, 0);

    // The same again is no change.
    assert!(world.receiver.terminate().await.success());
    world.receiver.start().await;
    assert_eq!(world.receiver.number("select count(*) from v_events where text like '%has changed from%'").await, 1);
}

/// A cacher has only a part of its tasks' packages: as a receiver it could never finish them, and a slip of the pen must
/// not cost tasks.
#[tokio::test]
async fn a_node_with_tasks_of_its_old_kind_does_not_start() {
    let mut world = World::new();
    world.package("film", 6, 1);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    let seeding = async || {
        let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "seeding").then_some(())
    };
    until("the cacher seeds", PATIENCE, seeding).await;
    assert!(world.cacher.terminate().await.success());

    world.cacher.set("servertype", "receiver");
    let (status, said) = world.cacher.refuses_to_start().await;
    assert!(!status.success());
    for words in [&task, "servertype has changed from cacher to receiver", "Set servertype back to cacher", "bftv2 cancel"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    world.cacher.set("servertype", "cacher");
    world.cacher.start().await;
    let seeding = async || {
        let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "seeding").then_some(())
    };
    until("it seeds as before", PATIENCE, seeding).await;

    assert!(world.cacher.call("cancel", json!({"taskfile": task})).await.ok);
    assert!(world.cacher.terminate().await.success());
    world.cacher.set("servertype", "receiver");
    let by_hand = world.cacher.store().join("by-hand.mxf");
    std::fs::write(&by_hand, "by hand").expect("file");
    world.cacher.start().await;
    let event = "select count(*) from v_events where text like 'servertype has changed from cacher to receiver:%rebuilt%'";
    assert_eq!(world.cacher.number(event).await, 1);
    until("it has a table now", PATIENCE, async || table_names(&world.cacher, &by_hand).then_some(())).await;
    // And it is a receiver.
    assert!(world.recv(&world.cacher, &taskfile).await.ok);
    world.cacher.downloaded(&task).await;
    assert_eq!(tree(&world.cacher.store().join("film")), tree(&world.sender.store().join("film")));
}

/// A sender receives like a receiver, into the store from which it sends, and passes on what it received.
#[tokio::test]
async fn a_sender_receives_and_passes_on() {
    let mut world = World::new();
    let [web] = world::free_ports();
    let base = format!("http://{web}");
    world.cacher.set_all(&json!({
        "servertype": "sender", "weblisten": web.to_string(), "senderdomain": base, "cdnurl": base,
        "btpeers": [world.cacher.bt.to_string()],
    }));
    let package = world.package("film", 9, 2);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let second = &world.cacher;
    assert_eq!(world.recv(second, &taskfile).await.desc(), "succeed!");
    second.downloaded(&task).await;
    let received = second.store().join("film");
    assert_eq!(tree(&received), tree(&package.dir));
    assert!(second.store().join("film.finished").is_file());

    // The first one goes; the second has everything.
    world.sender.kill();
    let tmp = second.data().join("sender/tmp").join(&task);
    let order = json!({"dcppath": received, "taskfile": tmp, "basesubdir": SUBDIR, "btobscdn": "1:0:1", "policy": "fulltime"});
    assert!(second.call("gentask", order.clone()).await.ok);
    let made = async || {
        let reply = second.call("taskfilesquery", json!({"dcppath": received, "taskfile": tmp})).await;
        assert!(reply.ok, "{reply:?}");
        (reply.text("status") == "finished").then_some(())
    };
    until("the task file is made", PATIENCE, made).await;
    assert!(second.call("send", json!({"taskfile": tmp})).await.ok);
    let ready = async || {
        let reply = second.call("uploadprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "ready").then(|| reply.text("taskfile"))
    };
    let sent = until("it is ready", PATIENCE, ready).await;
    assert_eq!(second.places(&task), ["sender/uploaded", "receiver/downloaded"], "one task of each kind");
    world.receive(Path::new(&sent)).await;
    world.assert_delivered(&package);
}
