//! Deliveries from end to end, through real processes and the public interface alone: every ratio, whole files and
//! split ones, dedupe, repetition, the cacher, file drop, cancel, and a stop in the middle.

mod world;

use serde_json::json;
use std::time::{Duration, Instant};
use world::{World, entries, file_name, make_package, read_json, stamps, task_name, tree, until};

/// Which methods moved bytes on the wire for a reception.
async fn methods_used(world: &World, task: &str) -> Vec<String> {
    let sql = format!("select method from v_legs where task = '{task}' and role = 'receiver' and bytes_wire > 0 order by method");
    world.receiver.sql(&sql).await.concat()
}

/// One delivery with everything that can be seen of it from outside.
async fn delivers(ratio: &str, split: bool, methods: &[&str]) {
    let mut world = World::new();
    world.sender.set("splitfiles", split);
    let package = world.package("film", 12, 3);
    let before = stamps(&package.dir);
    world.start().await;
    let task = task_name("film");

    let taskfile = world.gentask("film", ratio).await;
    let document = read_json(&taskfile);
    assert_eq!(document["spans"].is_array(), split && methods.len() > 1, "spans");
    let sum: u64 = ["btlistsize", "obslistsize", "cdnlistsize"].iter().filter_map(|k| document[k].as_u64()).sum();
    assert_eq!((document["size"].as_u64(), sum), (Some(package.bytes), package.bytes));

    let uploaded = world.send(&taskfile).await;
    assert_eq!(world.sender.places(&task), ["sender/uploaded"]);
    assert_eq!(uploaded, world.sender.data().join("sender/uploaded").join(&task));
    assert!(!taskfile.exists(), "send moves the task file out of tmp");

    let done = world.receive(&uploaded).await;
    world.assert_delivered(&package);
    assert_eq!(world.receiver.places(&task), ["receiver/downloaded"]);
    assert_eq!(entries(&world.receiver.data().join("receiver/tmp")), Vec::<String>::new());
    assert_eq!(done.dcppath(), world.receiver.store().join("film").display().to_string());
    assert_eq!((done.downloaded(), done.percent("totalpercent")), (package.bytes, 100.0));
    let shares: f64 = ["btpercent", "obspercent", "cdnpercent"].iter().map(|k| done.percent(k)).sum();
    assert!((shares - 100.0).abs() < 0.01 && done.percent("localsamepercent") == 0.0, "{done:?}");
    assert_eq!(methods_used(&world, &task).await, methods, "bytes on the wire");

    let shown = world.receiver.sql("select state, percent, bytes_total, bytes_done, finished_at <> '' from v_tasks").await;
    assert_eq!(shown, [["downloaded", "100", &package.bytes.to_string(), &package.bytes.to_string(), "1"]]);
    let files = world.receiver.sql("select path, size, sha1, state from v_files order by path").await;
    let expected: Vec<_> = tree(&package.dir)
        .into_iter()
        .map(|(path, (size, sha1))| vec![path, size.to_string(), sha1, "verified".into()])
        .collect();
    assert_eq!(files, expected);
    let verdicts = world.receiver.sql("select package, verdict from v_packages").await;
    assert_eq!(verdicts, [["film", "complete"]]);
    assert_eq!(world.receiver.number("select count(*) from v_library").await, package.files.len() as u64);
    assert!(world.receiver.number("select count(*) from v_progress").await > 0);
    world.receiver.told(&task, &["downloading -> downloaded"]).await;

    let reply = world.sender.call("cancel", json!({"taskfile": task})).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
    assert_eq!(world.sender.places(&task), ["sender/history"]);
    assert_eq!(stamps(&package.dir), before, "a master was touched");
    world.assert_delivered(&package);
}

#[tokio::test]
async fn three_methods_with_split_files() {
    delivers("1:1:1", true, &["bt", "cdn", "obs"]).await;
}

#[tokio::test]
async fn three_methods_with_whole_files() {
    delivers("1:1:1", false, &["bt", "cdn", "obs"]).await;
}

#[tokio::test]
async fn bittorrent_alone() {
    delivers("1:0:0", true, &["bt"]).await;
}

#[tokio::test]
async fn object_storage_alone() {
    delivers("0:1:0", true, &["obs"]).await;
}

#[tokio::test]
async fn cdn_alone() {
    delivers("0:0:1", false, &["cdn"]).await;
}

/// What is in the library is not fetched twice: not the same task, not the bytes a new version shares.
#[tokio::test]
async fn nothing_is_fetched_that_is_there() {
    let world = World::started().await;
    let options = bft2::package::sample::SampleOptions {
        name: Some("film".into()),
        size: Some(12 << 20),
        reels: 4,
        version2: Some(bft2::package::sample::Version2 { name: "film-v2".into(), share: 50.0 }),
        ..Default::default()
    };
    let made = bft2::package::sample::make(&world.sender.store(), &options, &mut |_| {}).expect("packages").packages;
    let [first, second] = [made[0].clone(), made[1].clone()];
    let taskfile = world.publish("film", "1:1:1").await;
    world.receive(&taskfile).await;

    // The same task again: everything is local.
    let reply = world.recv(&world.receiver, &taskfile).await;
    let text = "same name task downloaded, all localsamefiles existed copy and finished, succeed!";
    assert_eq!((reply.ok, reply.desc().as_str()), (true, text));
    let again = world.receiver.downloaded(&task_name("film")).await;
    assert_eq!((again.percent("localsamepercent"), again.percent("totalpercent")), (100.0, 100.0));
    assert_eq!(world.receiver.wire(&task_name("film"), "%").await, 0);
    world.assert_delivered(&first);

    // A damaged copy is noticed and fetched again.
    let track = first.files.iter().max_by_key(|f| f.size).expect("a file");
    std::fs::remove_file(world.receiver.store().join("film").join(&track.path)).expect("remove");
    let reply = world.recv(&world.receiver, &taskfile).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "same name task downloaded, to download again."));
    world.receiver.downloaded(&task_name("film")).await;
    world.assert_delivered(&first);
    let wire = world.receiver.wire(&task_name("film"), "%").await;
    assert!(wire >= track.size && wire < track.size + (2 << 20), "{wire} bytes for a file of {}", track.size);

    // A new version: only what is new.
    let taskfile = world.publish("film-v2", "1:1:1").await;
    let done = world.receive(&taskfile).await;
    world.assert_delivered(&second);
    assert!(second.shared_bytes > 0);
    let share = second.shared_bytes as f64 * 100.0 / second.bytes as f64;
    assert!((done.percent("localsamepercent") - share).abs() < 1.0, "{share}: {done:?}");
    let (new, wire) = (second.bytes - second.shared_bytes, world.receiver.wire(&task_name("film-v2"), "%").await);
    // BitTorrent's pieces reach over the ends of files.
    assert!(wire >= new - (1 << 20) && wire <= new + (3 << 20), "{wire} bytes on the wire, {new} are new");
    let local = read_json(&world.receiver.data().join("receiver/downloaded").join(task_name("film-v2")));
    assert!(local["localsamefiles"].as_array().is_some_and(|a| !a.is_empty()), "{local}");
}

#[tokio::test]
async fn a_single_file_is_a_package_too() {
    for ratio in ["1:1:1", "1:0:0"] {
        let world = World::started().await;
        let package = make_package(&world.dir.path().join("made"), "film", 9 << 20, 1);
        let track = package.files.iter().max_by_key(|f| f.size).expect("a file");
        std::fs::copy(package.dir.join(&track.path), world.sender.store().join("trailer.mxf")).expect("copy");
        let taskfile = world.publish("trailer.mxf", ratio).await;
        assert_eq!(read_json(&taskfile)["type"], "file");
        let done = world.receive(&taskfile).await;
        let received = world.receiver.store().join("trailer.mxf");
        assert_eq!(done.dcppath(), received.display().to_string());
        assert_eq!(std::fs::read(&received).expect("read"), std::fs::read(package.dir.join(&track.path)).expect("read"));
        assert!(world.receiver.store().join("trailer.mxf.finished").is_file());
        assert_eq!(entries(&world.receiver.stage()), Vec::<String>::new());
    }
}

/// recv → seeding → reactive prolongs → the end of the seed time deletes the data.
#[tokio::test]
async fn a_cacher_seeds_until_its_time_ends() {
    let mut world = World::new();
    let package = world.package("film", 9, 1);
    world.start().await;
    world.cacher.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let reply = world.recv(&world.cacher, &taskfile).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
    let seeding = async || {
        let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "seeding").then(|| reply.desc())
    };
    let desc = until("the cacher seeds", world::PATIENCE, seeding).await;
    let dir = std::path::PathBuf::from(desc.strip_prefix("btseeding dir:").expect("a directory"));
    assert!(tree(&dir).values().any(|(size, _)| *size > 0), "no data in {}", dir.display());
    assert_eq!(world.cacher.places(&task), ["receiver/downloading"]);
    let only_bt = read_json(&taskfile)["btlistsize"].as_u64().expect("size");
    assert_eq!(world.cacher.number("select bytes_total from v_tasks").await, only_bt);
    let reply = world.cacher.call("progress", json!({"taskfile": task})).await;
    assert_eq!(reply.desc(), "do not support cacher type progress, change method_name to cprogress");

    // Without reactive it is busy; with it the seed time begins anew.
    let reply = world.recv(&world.cacher, &taskfile).await;
    assert!(!reply.ok && reply.desc().starts_with("same taskfile in downloading:"), "{reply:?}");
    let ends = || world.cacher.sql("select seed_until from v_tasks");
    let before = ends().await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // the view shows whole seconds
    let reply = world.cacher.call("recv", json!({"taskfile": world.cacher.carry(&taskfile), "reactive": "true"})).await;
    assert_eq!((reply.ok, reply.desc()), (true, format!("reactive cacher bt seeding with taskfile:{task}")));
    assert!(ends().await > before);

    world.receive(&taskfile).await;
    world.assert_delivered(&package);

    // A seed time of zero ends at once.
    let mut document = read_json(&taskfile);
    document["bt"]["seedtime"] = "0".into();
    let zero = world.dir.path().join(&task);
    std::fs::write(&zero, document.to_string()).expect("write");
    let reply = world.cacher.call("recv", json!({"taskfile": world.cacher.carry(&zero), "reactive": "true"})).await;
    assert!(reply.ok, "{reply:?}");
    let ended = async || (world.cacher.places(&task) == ["receiver/downloaded"]).then_some(());
    until("the seed time ends", world::PATIENCE, ended).await;
    world.cacher.told(&task, &["downloading -> downloaded: seed time over"]).await;
    until("the data are deleted", world::PATIENCE, async || (!dir.exists()).then_some(())).await;
    let reply = world.cacher.call("cprogress", json!({"taskfile": task})).await;
    assert_eq!(reply.text("status"), "noseeding");
}

/// A task file moved into receiver/queues is taken in; one that cannot be used is refused beside itself.
#[tokio::test]
async fn a_dropped_task_file_is_received() {
    let world = World::started().await;
    let package = world.package("film", 8, 1);
    let taskfile = world.publish("film", "0:1:1").await;
    let queues = world.receiver.data().join("receiver/queues");
    std::fs::write(queues.join("cfec-001-bad.task.json"), "{\"filelist\": [").expect("write");
    std::fs::rename(world.receiver.carry(&taskfile), queues.join(file_name(&taskfile))).expect("rename");
    noticed(&world, "film").await;
    world.receiver.downloaded(&task_name("film")).await;
    world.assert_delivered(&package);
    assert_eq!(world.receiver.places(&task_name("film")), ["receiver/downloaded"]);
    let err = queues.join("cfec-001-bad.task.json.err");
    let text = until("the bad one is refused", world::PATIENCE, async || std::fs::read_to_string(&err).ok()).await;
    assert!(text.starts_with("invalid json format:"), "{text}");
    world.receiver.told("cfec-001-bad.task.json", &[text.trim()]).await;
    assert_eq!(world.receiver.number("select count(*) from v_tasks where task like '%bad%'").await, 0);
}

/// What a client names is taken, and nothing else: not the service's own views, nor what another client has put down.
#[tokio::test]
async fn recv_takes_only_what_it_was_given() {
    let world = World::started().await;
    let package = world.package("film", 8, 1);
    let uploaded = world.publish("film", "0:0:1").await;
    let waiting = world.receiver.data().join("receiver/tmp").join(task_name("film"));
    std::fs::write(&waiting, "another client's").expect("write");
    let given = world.dir.path().join(task_name("film"));
    std::fs::copy(&uploaded, &given).expect("copy");
    let reply = world.receiver.call("recv", json!({"taskfile": given})).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
    world.receiver.downloaded(&task_name("film")).await;
    world.assert_delivered(&package);
    assert_eq!(std::fs::read_to_string(&waiting).expect("read"), "another client's");
    assert!(!given.exists(), "it was taken");
    // What was received can be received again from where it is shown.
    let shown = world.receiver.data().join("receiver/downloaded").join(task_name("film"));
    let reply = world.receiver.call("recv", json!({"taskfile": shown})).await;
    assert!(reply.ok, "{reply:?}");
    world.receiver.downloaded(&task_name("film")).await;
}

/// Whoever moves bytes gives way to whoever answers, and does so by the same measure however long it runs.
#[tokio::test]
async fn threads_that_move_bytes_give_way() {
    let world = World::started().await;
    let package = world.package("film", 12, 2);
    let taskfile = world.publish("film", "1:1:1").await;
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    let own = rustix::process::getpriority_process(None).expect("priority");
    let threads = std::fs::read_dir(format!("/proc/{}/task", world.receiver.pid())).expect("threads");
    let mut seen = std::collections::BTreeSet::new();
    for thread in threads.flatten() {
        // Threads come and go.
        let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
        let (name, rest) = stat.split_once(") ").expect("a name");
        let nice: i32 = rest.split(' ').nth(16).and_then(|n| n.parse().ok()).expect("nice");
        if name.ends_with("(clients") {
            assert_eq!(nice, own, "{stat}");
        }
        // Who hashes the library gives way to all, for as long as there is something to hash.
        if nice != 19 {
            seen.insert(nice - own);
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 5]);
}

async fn noticed(world: &World, name: &str) {
    let known = async || {
        let p = world.receiver.progress(&task_name(name)).await;
        (p.0.desc() != "unknown task, not found task.").then_some(())
    };
    until("the drop is noticed", world::PATIENCE, known).await;
}

/// A task file that somebody still writes is left alone, however slowly it grows.
#[tokio::test]
async fn a_dropped_task_file_is_waited_out() {
    use std::io::Write as _;
    let world = World::started().await;
    let package = world.package("film", 8, 1);
    let text = std::fs::read(world.publish("film", "0:0:1").await).expect("task file");
    let queues = world.receiver.data().join("receiver/queues");
    // In six seconds: for as long as three looks of the service. A part that comes two seconds late looks like the last: when
    // this machine stood still for so long, it is tried with another one.
    let mut names = (0..10).map(|n| format!("film-{n}"));
    let name = loop {
        let name = names.next().expect("this machine stands still too often");
        let (began, parts) = (Instant::now(), text.chunks(text.len().div_ceil(24)));
        let mut file = std::fs::File::create(queues.join(task_name(&name))).expect("create");
        let (mut last, mut longest) = (began, Duration::ZERO);
        for part in parts {
            file.write_all(part).expect("write");
            longest = longest.max(last.elapsed());
            last = Instant::now();
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        drop(file);
        if longest.max(last.elapsed()) < Duration::from_millis(1500) {
            break name;
        }
        println!("stood still for {longest:?}");
        noticed(&world, &name).await;
        world.receiver.downloaded(&task_name(&name)).await;
    };
    noticed(&world, &name).await;
    world.receiver.downloaded(&task_name(&name)).await;
    world.assert_delivered(&package);
    let events = world.receiver.events(&task_name(&name)).await;
    assert!(!events.contains("invalid json"), "half a file was read: {events}");
    assert!(!queues.join(task_name(&name)).exists() && !queues.join(task_name(&name) + ".err").exists());
}

/// Two clients that say the same at the same time: one is right, the other is told.
#[tokio::test]
async fn of_two_identical_requests_one_is_accepted() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"cdnrate": "200K"}));
    // The upload outlasts the requests: to send what is uploaded is another matter.
    world.sender.set("obsrate", "300K");
    world.package("film", 8, 1);
    world.start().await;
    let taskfile = world.gentask("film", "0:1:1").await;
    let ask = || world.sender.call("send", json!({"taskfile": taskfile}));
    let replies = futures::future::join_all((0..8).map(|_| ask())).await;
    let (yes, no): (Vec<_>, Vec<_>) = replies.iter().partition(|r| r.ok);
    assert_eq!(yes.len(), 1, "{replies:?}");
    for reply in no {
        let said = reply.desc();
        // The first may have moved the file already.
        let documented = ["same taskfile in queues:", "same taskfile in uploading:", "open json file error:open "];
        assert!(documented.iter().any(|d| said.starts_with(d)), "{said}");
    }
    let taskfile = world.ready(&task_name("film")).await;
    let dropped = world.receiver.carry(&taskfile);
    let ask = || world.receiver.call("recv", json!({"taskfile": dropped}));
    let replies = futures::future::join_all((0..8).map(|_| ask())).await;
    let (yes, no): (Vec<_>, Vec<_>) = replies.iter().partition(|r| r.ok);
    assert_eq!(yes.len(), 1, "{replies:?}");
    for reply in no {
        let said = reply.desc();
        let documented = ["same taskfile in queues:", "same taskfile in downloading:", "open json file error:open "];
        assert!(documented.iter().any(|d| said.starts_with(d)), "{said}");
    }
    assert_eq!(world.receiver.number("select count(*) from v_tasks").await, 1);
}

/// The bytes of an unchanged package are read once, whatever the ratio.
#[tokio::test]
async fn another_ratio_needs_no_second_reading() {
    let world = World::started().await;
    let package = world.package("film", 40, 2);
    let first = read_json(&world.gentask("film", "1:1:1").await);
    let dcps = world.sender.store();
    let torrent = std::fs::read(dcps.join("film.torrent")).expect("torrent");
    // Nor does the library read it meanwhile.
    let quiet = async || (world.sender.number("select count(*) from v_hash_queue").await == 0).then_some(());
    until("nothing is left to hash", world::PATIENCE, quiet).await;
    let before = world.sender.bytes_read();
    let second = read_json(&world.gentask("film", "3:1:0").await);
    let read = world.sender.bytes_read() - before;
    assert!(read < package.bytes / 2, "{read} bytes were read for another ratio of {}", package.bytes);
    world.sender.told(&task_name("film"), &["from stored hashes"]).await;
    assert_eq!(second["filelist"], first["filelist"]);
    let size = second["size"].as_u64().expect("size");
    for (key, share) in [("btlistsize", 0.75), ("obslistsize", 0.25), ("cdnlistsize", 0.0)] {
        let got = second[key].as_u64().expect(key) as f64 / size as f64;
        assert!((got - share).abs() < 0.1, "{key}: {got}");
        assert_ne!(first[key], second[key], "{key}");
    }
    assert_eq!(std::fs::read(dcps.join("film.torrent")).expect("torrent"), torrent, "the full torrent is the same");
}

/// Hashing takes its time: its progress shows, and it can be called off.
#[tokio::test]
async fn a_generation_shows_its_progress_and_can_be_cancelled() {
    let world = World::started().await;
    let dcppath = world.sender.store().join("long");
    std::fs::create_dir_all(&dcppath).expect("directory");
    let file = std::fs::File::create(dcppath.join("reel.mxf")).expect("file");
    file.set_len(64 << 30).expect("a sparse file, hours of hashing");
    let taskfile = world.sender.data().join("sender/tmp").join(task_name("long"));
    let params =
        json!({"dcppath": dcppath, "taskfile": taskfile, "basesubdir": "cfec-001", "btobscdn": "1:0:0", "policy": "fulltime"});
    let reply = world.sender.call("gentask", params.clone()).await;
    assert!(reply.ok && reply.desc().starts_with("please wait until "), "{reply:?}");
    let rows = "select state, bytes_done, bytes_total from v_generations";
    let growing = async || {
        let row = world.sender.sql(rows).await.pop()?;
        (row[0] == "running" && row[1].parse::<u64>().ok()? > 0 && row[2] == (64u64 << 30).to_string()).then_some(())
    };
    until("its progress shows", world::PATIENCE, growing).await;
    let reply = world.sender.call("gentask", params).await;
    assert!(!reply.ok && reply.desc().starts_with("same torrent process is generating:"), "{reply:?}");
    let query = json!({"dcppath": dcppath, "taskfile": taskfile});
    assert_eq!(world.sender.call("taskfilesquery", query.clone()).await.desc(), "process making seed ");

    let reply = world.sender.call("cancel", json!({"taskfile": task_name("long")})).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
    let reply = world.sender.call("taskfilesquery", query).await;
    assert_eq!(reply.desc(), "no make seed process and not found task.json.");
    let events = async || world.sender.events(&task_name("long")).await.contains("cancelled").then_some(());
    until("the hashing has ended", world::PATIENCE, events).await;
    assert!(!taskfile.exists());
}

/// `sends` sends by itself when it has generated, also after a restart; and not after a cancel.
#[tokio::test]
async fn what_sends_generates_is_sent() {
    let mut world = World::started().await;
    let package = world.package("film", 8, 1);
    let long = world.sender.store().join("long");
    std::fs::create_dir_all(&long).expect("directory");
    std::fs::File::create(long.join("reel.mxf")).and_then(|f| f.set_len(64 << 30)).expect("a sparse file");
    let sends = async |world: &World, name: &str| {
        world
            .sender
            .call("sends", json!({"dcppath": world.sender.store().join(name), "btobscdn": "1:1:1", "policy": "fulltime"}))
            .await
    };
    // The first keeps the others waiting.
    let started = "succeed, but the torrent is generating, please wait until ";
    let reply = sends(&world, "long").await;
    assert!(reply.ok && reply.desc().starts_with(started), "{reply:?}");
    let reply = sends(&world, "film").await;
    assert!(reply.ok && reply.desc().starts_with(started), "{reply:?}");
    let reply = world.sender.call("cancel", json!({"taskfile": task_name("long")})).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
    world.sender.kill();
    world.sender.start().await;
    let known = async || {
        let reply = world.sender.call("uploadprogress", json!({"taskfile": task_name("film")})).await;
        (reply.text("status") != "unknown").then_some(())
    };
    until("it is sent", world::PATIENCE, known).await;
    let taskfile = world.ready(&task_name("film")).await;
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    assert_eq!(world.sender.sql("select send from v_generations where taskfile like '%film%'").await, [["sent"]]);

    // Known bytes are generated at once, or on a very busy machine a little later; a second distribution is a new task.
    let reply = sends(&world, "film").await;
    assert!(reply.ok && (reply.desc() == "succeeded!" || reply.desc().starts_with(started)), "{reply:?}");
    let wanted = "select count(*) from v_generations where send = 'wanted'";
    until("it is sent anew", world::PATIENCE, async || (world.sender.number(wanted).await == 0).then_some(())).await;
    world.ready(&task_name("film")).await;
    // What waits is called off, and the seed of before with it.
    assert!(sends(&world, "long").await.ok);
    let reply = world.sender.call("cancel", json!({"taskfile": task_name("long")})).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
    assert_eq!(world.sender.number(wanted).await, 0);
    let reply = world.receiver.call("sends", json!({"dcppath": world.receiver.store().join("film"), "btobscdn": "1:0:0"})).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (false, "error, sends is for senders, and this node is a receiver."));
}

#[tokio::test]
async fn a_cancelled_reception_leaves_nothing() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"btrate": "200K", "obsrate": "200K", "cdnrate": "200K"}));
    world.package("film", 12, 2);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    let store_before = tree(&world.receiver.store());
    for _ in 0..2 {
        let reply = world.recv(&world.receiver, &taskfile).await;
        assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
        let running = async || (world.receiver.progress(&task).await.downloaded() > 300_000).then_some(());
        until("it is running", world::PATIENCE, running).await;
        assert!(!entries(&world.receiver.stage()).is_empty());
        let reply = world.recv(&world.receiver, &taskfile).await;
        assert!(!reply.ok && reply.desc().starts_with("same taskfile in downloading:"), "{reply:?}");

        let reply = world.receiver.call("cancel", json!({"taskfile": task})).await;
        assert_eq!((reply.ok, reply.desc().as_str()), (true, "succeed!"));
        let reply = world.receiver.call("cancel", json!({"taskfile": task})).await;
        assert_eq!((reply.ok, reply.desc()), (true, format!("no need to cancel, not found task: {task}")));
        until("the partial data are gone", world::PATIENCE, async || entries(&world.receiver.stage()).is_empty().then_some(()))
            .await;
        assert_eq!(world.receiver.places(&task), ["receiver/history"]);
        assert_eq!(tree(&world.receiver.store()), store_before, "the store was touched");
    }
}

/// SIGTERM in the middle: what was received is recorded, and only the rest is fetched after the next start.
#[tokio::test]
async fn a_stopped_transfer_goes_on_where_it_was() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"btrate": "100K", "obsrate": "100K", "cdnrate": "100K"}));
    let package = world.package("film", 12, 2);
    let before = stamps(&package.dir);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "1:1:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let far = async || (world.receiver.progress(&task).await.downloaded() > package.bytes / 3).then_some(());
    until("a third is there", world::PATIENCE, far).await;
    let status = world.receiver.terminate().await;
    assert!(status.success(), "{status}");
    let recorded = world.receiver.number("select bytes_done from v_tasks").await;
    let fetched = world.receiver.wire(&task, "%").await;
    assert!(recorded >= package.bytes / 4, "only {recorded} of {} bytes are recorded", package.bytes);
    assert_eq!(world.receiver.places(&task), ["receiver/downloading"]);
    assert!(!world.receiver.store().join("film").exists(), "half a package in the store");

    world.receiver.set_all(&json!({"btrate": "", "obsrate": "", "cdnrate": ""}));
    world.receiver.start().await;
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    let (all, rest) = (world.receiver.wire(&task, "%").await, package.bytes - recorded);
    let again = (all - fetched).saturating_sub(rest);
    // Pieces and ranges that were under way when the stop came.
    assert!(again < 3 << 20, "{again} bytes were fetched again: {fetched} before, {all} in all, {recorded} recorded");
    assert_eq!(stamps(&package.dir), before, "a master was touched");

    // The sender too: it seeds again after a restart.
    assert!(world.sender.terminate().await.success());
    world.sender.start().await;
    assert_eq!(world.ready(&task).await, world.sender.data().join("sender/uploaded").join(&task));
}
