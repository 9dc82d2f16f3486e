//! Bad input, as it would come to real nodes: every case gets a clear text, changes nothing, and ends no process.

mod world;

use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use world::{PATIENCE, World, entries, file_name, make_package, read_json, task_name, tree, until};

/// Sets one value by JSON pointer.
fn put(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match document.pointer_mut(parent).expect("parent") {
        Value::Object(map) => _ = map.insert(key.to_owned(), value),
        Value::Array(list) => list[key.parse::<usize>().expect("index")] = value,
        other => panic!("{pointer}: {other}"),
    }
}

/// Everything of a receiver that a refused request must leave as it was.
async fn state(world: &World) -> (u64, Vec<String>, Vec<String>, usize) {
    let r = &world.receiver;
    (
        r.number("select count(*) from v_tasks").await,
        entries(&r.stage()),
        entries(&r.data().join("receiver/queues")),
        tree(&r.data().join("dcp")).len(),
    )
}

/// recv of a document; returns the refusal. Nothing else may have happened.
async fn refused(world: &mut World, document: &str) -> String {
    let before = state(world).await;
    let path = world.receiver.data().join("receiver/tmp/cfec-001-odd.task.json");
    std::fs::write(&path, document).expect("write");
    let reply = world.receiver.call("recv", json!({"taskfile": path})).await;
    assert!(!reply.ok, "accepted: {document}");
    assert_eq!(state(world).await, before, "{}", reply.desc());
    assert!(path.exists(), "a refused task file stays where it was");
    world.receiver.assert_alive();
    assert!(world.receiver.get("heartbeat").await.is_some());
    reply.desc()
}

#[tokio::test]
async fn bad_task_files_are_refused() {
    let mut world = World::started().await;
    world.package("film", 12, 2);
    let good = read_json(&world.publish("film", "1:1:1").await);
    let path = world.receiver.data().join("receiver/tmp/cfec-001-odd.task.json").display().to_string();
    let first = good["filelist"][0]["file"].as_str().expect("file").to_owned();
    let at = format!("error, invalid task file {path}: ");

    let name = "/filelist/0/file";
    let cases: Vec<(&str, Value, String)> = vec![
        (name, json!("../../../etc/passwd"), at.clone() + "filelist[0].file is \"..\""),
        (name, json!("a/../b"), at.clone() + "filelist[0].file is"),
        (name, json!("/etc/passwd"), at.clone() + "filelist[0].file is"),
        (name, json!("a//b"), at.clone() + "filelist[0].file is"),
        (name, json!("a\\b"), at.clone() + "filelist[0].file is"),
        (name, json!("a\u{0}b"), at.clone() + "filelist[0].file is"),
        (name, json!(""), at.clone() + "filelist[0].file is"),
        (name, good["filelist"][1]["file"].clone(), at.clone() + "filelist is"),
        (name, json!(format!("{}/x", good["filelist"][1]["file"].as_str().expect("file"))), at.clone() + "filelist is"),
        ("/filelist/0/size", json!(-1), format!("{at}size of {first} is \"-1\"")),
        ("/filelist/0/size", json!(1u64 << 60), format!("{at}size of {first} is \"1152921504606846976\"")),
        ("/filelist/0/size", json!(1e300), format!("{at}size of {first} is")),
        ("/filelist/0/size", json!("many"), format!("{at}size of {first} is \"many\"")),
        ("/filelist/0/size", json!(1), at.clone() + "size is"),
        ("/filelist/0/hash", json!("0123"), format!("{at}hash of {first} is \"0123\"; allowed: a SHA-1")),
        ("/size", json!(17), at.clone() + "size is \"17\""),
        ("/btlistsize", json!(17), format!("totalsize != all lists sum : {path}")),
        ("/btlist", json!([]), at.clone() + "btlist, obslist, cdnlist is"),
        ("/btlist", json!(["nobody.mxf"]), at.clone() + "btlist is \"nobody.mxf\""),
        ("/filelist", json!([]), format!("total files size equal 0 :{path}")),
        ("/spans/0/method", json!("ftp"), at.clone() + "spans[0].method is \"ftp\"; allowed: bt, obs or cdn"),
        ("/spans/0/len", json!(1), at.clone() + "spans of "),
        ("/spans/0/offset", json!(-5), at.clone() + "spans[0].offset is"),
        ("/name", json!("../film"), at.clone() + "name is"),
        ("/name", json!("a/b"), at.clone() + "name is"),
        ("/basesubdir", json!(".."), at.clone() + "basesubdir is"),
        ("/bt-obs-cdn", json!("0:0:0"), at.clone() + "bt-obs-cdn is"),
        ("/sourcetype", json!("request"), at.clone() + "sourcetype is"),
        // Nothing in a task file may make a node read its own files.
        ("/obs/endpoint", json!("file:///etc"), at.clone() + "obs.endpoint is \"file:///etc\""),
        ("/obs/url", json!("file:///etc/passwd"), at.clone() + "obs.url is"),
        ("/cdn/url", json!("file:///etc"), at.clone() + "cdn.url is \"file:///etc\""),
        ("/bt/url", json!("file:///etc/passwd"), at.clone() + "bt.url is"),
        ("/bt/tmpurl", json!("/etc/passwd"), at.clone() + "bt.tmpurl is"),
        ("/bt/tracker", json!("file:///etc"), at.clone() + "bt.tracker is"),
        ("/bt/tmpurl", json!(""), "need tmptorrent and found bt.tmpurl is empty.".into()),
        ("/bt/tmpurl", json!("http://127.0.0.1:1/x"), "could not download tmptorrent from http://127.0.0.1:1/x".into()),
    ];
    for (pointer, value, expected) in cases {
        let mut document = good.clone();
        put(&mut document, pointer, value.clone());
        if pointer == "/obs/endpoint" {
            put(&mut document, "/obs/obsendpoint", value.clone());
        }
        let said = refused(&mut world, &document.to_string()).await;
        assert!(said.starts_with(&expected), "{pointer} = {value}\n  said {said:?}\n  not  {expected:?}");
    }

    let text = good.to_string();
    for broken in [&text[..text.len() / 2], "", "[1, 2", "\"x\u{0}", "{\"size\": 1e"] {
        assert_eq!(refused(&mut world, broken).await, format!("invalid json format:{path}"), "{broken:.20}");
    }
    assert!(refused(&mut world, "[]").await.starts_with(&at));
    // Deep nesting must not exhaust the stack.
    assert_eq!(refused(&mut world, &"[".repeat(1 << 20)).await, format!("invalid json format:{path}"));
    let reply = world.receiver.call("recv", json!({"taskfile": "/nowhere/cfec-001-x.task.json"})).await;
    let text = "open json file error:open /nowhere/cfec-001-x.task.json: no such file or directory";
    assert_eq!((reply.ok, reply.desc().as_str()), (false, text));
}

/// A digest that is well-formed and wrong: the bytes arrive, are not what was promised, and never get a name.
#[tokio::test]
async fn a_wrong_hash_ends_in_downloaderror_with_the_file_named() {
    let world = World::started().await;
    let package = world.package("film", 8, 1);
    let before = tree(&world.receiver.store());
    for ratio in ["0:0:1", "1:1:1", "1:0:0"] {
        let taskfile = world.publish("film", ratio).await;
        let mut document = read_json(&taskfile);
        let list = document["filelist"].as_array().expect("list");
        let n = (0..list.len()).max_by_key(|n| list[*n]["size"].as_u64()).expect("a file");
        let name = list[n]["file"].as_str().expect("file").to_owned();
        document["filelist"][n]["hash"] = "0123456789abcdef0123456789abcdef01234567".into();
        let bad = world.dir.path().join(task_name("film"));
        std::fs::write(&bad, document.to_string()).expect("write");
        let reply = world.recv(&world.receiver, &bad).await;
        assert!(reply.ok, "{}", reply.desc());
        let p = world.receiver.download_fails(&task_name("film")).await;
        assert!(p.error().contains(&name) && p.error().contains("SHA-1"), "{ratio}: {}", p.error());
        assert_eq!((p.dcppath().as_str(), p.percent("totalpercent") < 100.0), ("", true));
        let err = world.receiver.data().join("receiver/downloading").join(format!("{}.err", task_name("film")));
        let text = until("the .err file", PATIENCE, async || std::fs::read_to_string(&err).ok()).await;
        assert!(text.contains(&name), "{text}");
        assert_eq!(tree(&world.receiver.store()), before, "the store was touched");
        // The good task of the same name is received after that.
        assert!(world.recv(&world.receiver, &taskfile).await.ok);
        world.receiver.downloaded(&task_name("film")).await;
        // What the bad task left goes with the next sweep.
        let swept = async || std::fs::read_dir(world.receiver.stage()).is_ok_and(|d| d.count() == 0).then_some(());
        until("staging is empty", PATIENCE, swept).await;
        world.assert_delivered(&package);
        assert!(!err.exists());
        std::fs::remove_dir_all(world.receiver.store().join("film")).expect("remove");
        std::fs::remove_file(world.receiver.store().join("film.finished")).expect("remove");
    }
}

#[tokio::test]
async fn a_torrent_that_does_not_match_is_refused() {
    let mut world = World::started().await;
    for (name, mib) in [("film", 12), ("other", 9)] {
        world.package(name, mib, 1);
        world.gentask(name, "1:1:1").await;
    }
    let taskfile = world.sender.data().join("sender/tmp").join(task_name("film"));
    let document = read_json(&taskfile);
    let url = document["bt"]["tmpurl"].as_str().expect("url").to_owned();
    let torrents = world.sender.store().with_file_name("dcps-tmp");
    let theirs = torrents.join("film-tmp.torrent");
    let original = std::fs::read(&theirs).expect("torrent");
    let foreign = std::fs::read(torrents.join("other-tmp.torrent")).expect("torrent");
    let garbage =
        [b"<html>404</html>".to_vec(), Vec::new(), original[..original.len() / 2].to_vec(), vec![b'l'; 1 << 20], foreign];
    let not_equal = format!("taskfile btlist is not equal torrent content, check taskfile or tmp torrent: {url}");
    for bytes in garbage {
        std::fs::write(&theirs, &bytes).expect("write");
        assert_eq!(refused(&mut world, &document.to_string()).await, not_equal, "{} bytes", bytes.len());
        let reply = world.sender.call("send", json!({"taskfile": taskfile})).await;
        assert!(!reply.ok && reply.desc().contains("btlist is not equal torrent content"), "{reply:?}");
    }
    std::fs::remove_file(&theirs).expect("remove");
    let gone = format!("could not download tmptorrent from {url}");
    assert_eq!(refused(&mut world, &document.to_string()).await, gone);
    let reply = world.sender.call("send", json!({"taskfile": taskfile})).await;
    assert_eq!(reply.desc(), format!("not found torrent:{} pls re generate task and torrent. ", theirs.display()));
    assert_eq!(world.sender.number("select count(*) from v_tasks").await, 0);
}

#[tokio::test]
async fn odd_request_bodies_get_an_answer() {
    let mut world = World::started().await;
    let big = format!("{{\"message_id\":\"1\",\"method_params\":{{\"taskfile\":\"{}\"}}}}", "x".repeat(10 << 20));
    for (node, paths) in
        [(&mut world.sender, ["send", "gentask", "uploadprogress"]), (&mut world.receiver, ["recv", "progress", "cancel"])]
    {
        for path in paths {
            let unreadable = "invalid json format:request body";
            for body in [&b"{\"message_id\":\"7\",\"method_params\":{\"taskfile\":"[..], b"", b"\xff\xfe\x00", b"[[[[[[", b"null"]
            {
                let (status, text) = node.post(path, body.to_vec()).await.expect("an answer");
                let reply = world::Reply::read(&text).expect("an envelope");
                assert_eq!((status, reply.ok, reply.desc().as_str()), (200, false, unreadable), "{path} {body:?}");
            }
            // 10 MB: refused as too large, or answered; never a dead process. The answer may be a reset connection.
            if let Ok((status, text)) = node.post(path, big.clone().into_bytes()).await {
                assert!(status == 413 || world::Reply::read(&text).is_ok_and(|r| !r.ok), "{path}: {status} {text:.200}");
                assert!(text.len() < 4096, "{path}: an answer of {} bytes", text.len());
            }
            node.assert_alive();
            assert!(node.get("heartbeat").await.is_some(), "{path}");
        }
        assert_eq!(node.number("select count(*) from v_tasks").await, 0);
    }
}

#[tokio::test]
async fn a_wrong_configuration_names_the_key_and_changes_nothing() {
    let mut world = World::new();
    let good = std::fs::read(world.receiver.config_path()).expect("config");
    for (key, value) in [("servertype", "postman"), ("cdntime", "25:00-26:00"), ("btrate", "fast"), ("listen", "nowhere")] {
        world.receiver.set(key, value);
        let (status, output) = world.receiver.refuses_to_start().await;
        assert!(!status.success() && output.contains(key) && output.contains(value), "{key}: {status}\n{output}");
        assert!(!output.contains("panicked"), "{output}");
        std::fs::write(world.receiver.config_path(), &good).expect("config");
        world.receiver.set(key, serde_json::from_slice::<Value>(&good).expect("json")[key].clone());
    }

    world.start().await;
    assert_eq!(world.receiver.get("reloadconf").await.as_deref(), Some("reload config json ok."));
    world.package("film", 8, 1);
    let taskfile = world.publish("film", "0:0:1").await;
    for (key, value) in [("downloadingnum", "0"), ("cdnrate", "fast")] {
        world.receiver.set(key, value);
        let said = world.receiver.get("reloadconf").await.expect("an answer");
        assert!(said.contains(key) && said.contains(value) && said.ends_with("the old configuration stays"), "{said}");
        world.receiver.set(key, Value::Null);
    }
    std::fs::write(world.receiver.config_path(), &good[..good.len() / 2]).expect("config");
    let said = world.receiver.get("reloadconf").await.expect("an answer");
    assert!(said.starts_with("reload config json error:"), "{said}");
    world.receive(&taskfile).await; // with the old one
    std::fs::write(world.receiver.config_path(), &good).expect("config");
    world.receiver.set("surprise", 1);
    let said = world.receiver.get("reloadconf").await.expect("an answer");
    assert!(said.starts_with("reload config json ok.") && said.contains("surprise"), "{said}");
}

/// What was downloaded can be uploaded again: nothing is lost, neither secrets nor what waits for a restart.
#[tokio::test]
async fn a_downloaded_configuration_can_be_uploaded() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"obsak": "EXAMPLE-AK", "obssk": "EXAMPLE-SK", "ours": "kept"}));
    world.receiver.start().await;
    let get = async || -> Value { serde_json::from_str(&world.receiver.get("config").await.expect("an answer")).expect("json") };
    let post = async |config: &Value| {
        let (status, text) = world.receiver.post("config", config.to_string().into_bytes()).await.expect("an answer");
        assert_eq!(status, 200, "{text}");
        world::Reply::read(&text).expect("an envelope")
    };
    let file = || read_json(&world.receiver.config_path());
    let shown = get().await;
    assert_eq!((&shown["obssk"], &shown["stoptimeout"]), (&json!("***"), &json!(20)));
    let before = file();
    assert!(post(&shown).await.desc().starts_with("reload config json ok. unknown configuration key \"ours\" is ignored"));
    assert_eq!(file(), before);

    let mut changed = shown.clone();
    changed["stoptimeout"] = json!(7);
    changed["cdnrate"] = json!("5M");
    let said = post(&changed).await.desc();
    assert!(said.contains("stoptimeout has changed: it takes effect when the service is restarted"), "{said}");
    let again = get().await;
    assert_eq!((&again["stoptimeout"], &again["cdnrate"]), (&json!(7), &json!(5 << 20)));
    assert!(post(&again).await.ok);
    let now = file();
    for (key, want) in
        [("stoptimeout", json!(7)), ("obssk", json!("EXAMPLE-SK")), ("ours", json!("kept")), ("cdnrate", json!("5M"))]
    {
        assert_eq!(now[key], want, "{key}");
    }
    changed["cdntime"] = json!("8-18");
    let reply = post(&changed).await;
    assert!(!reply.ok && reply.desc().contains("cdntime") && reply.desc().ends_with("the old configuration stays"), "{reply:?}");
    assert_eq!(file(), now);
}

/// taskfilesquery until gentask has failed; the reason.
async fn gentask_fails(world: &World, name: &str, ratio: &str) -> String {
    gentask_ends(world, name, ratio).await.expect("it fails")
}

/// `None`: it was made all the same.
async fn gentask_ends(world: &World, name: &str, ratio: &str) -> Option<String> {
    let (dcppath, taskfile) = (world.sender.store().join(name), world.sender.data().join("sender/tmp").join(task_name(name)));
    let params =
        json!({"dcppath": dcppath, "taskfile": taskfile, "basesubdir": world::SUBDIR, "btobscdn": ratio, "policy": "fulltime"});
    let reply = world.sender.call("gentask", params.clone()).await;
    if !reply.ok {
        return Some(reply.desc());
    }
    let ended = until("gentask ends", world::PATIENCE, async || {
        let reply = world.sender.call("taskfilesquery", params.clone()).await;
        (reply.text("status") != "unfinished").then_some(reply)
    });
    let reply = ended.await;
    if reply.ok && reply.text("status") == "finished" {
        return None;
    }
    assert_eq!((reply.ok, reply.text("status").as_str()), (false, "error"), "{reply:?}");
    assert!(!taskfile.exists(), "a task file of a refused package");
    Some(reply.desc())
}

#[tokio::test]
async fn a_package_that_is_not_what_it_says_is_refused() {
    let mut world = World::started().await;
    let package = world.package("flipped", 8, 1);
    let track = package.files.iter().max_by_key(|f| f.size).expect("a file");
    world::flip_byte(&package.dir.join(&track.path), track.size / 2);
    let said = gentask_fails(&world, "flipped", "1:1:1").await;
    assert!(said.contains("does not match its packing list") && said.contains(&track.path), "{said}");

    let package = world.package("short", 9, 1);
    let track = package.files.iter().min_by_key(|f| f.size.abs_diff(1 << 20)).expect("a file");
    std::fs::remove_file(package.dir.join(&track.path)).expect("remove");
    let said = gentask_fails(&world, "short", "1:1:1").await;
    assert!(said.contains(&track.path), "{said}");

    let package = world.package("linked", 10, 1);
    std::os::unix::fs::symlink("/etc/passwd", package.dir.join("notes.txt")).expect("symlink");
    let said = gentask_fails(&world, "linked", "1:1:1").await;
    assert!(said.contains("notes.txt") && said.contains("link"), "{said}");

    std::fs::create_dir(world.sender.store().join("empty")).expect("directory");
    let said = gentask_fails(&world, "empty", "1:1:1").await;
    assert!(said.contains("empty"), "{said}");

    std::os::unix::fs::symlink("/etc", world.sender.store().join("elsewhere")).expect("symlink");
    let said = gentask_fails(&world, "elsewhere", "1:1:1").await;
    assert!(said.contains("elsewhere"), "{said}");
    for (key, value) in [
        ("btobscdn", "0:0:0"),
        ("policy", "sometimes"),
        ("seedtime", "-1"),
        ("tracker", "file:///x"),
        ("endpoint", "file:///etc"),
    ] {
        let mut params = json!({
            "dcppath": package.dir, "taskfile": world.sender.data().join("sender/tmp/cfec-001-linked.task.json"),
            "basesubdir": world::SUBDIR, "btobscdn": "1:1:1", "policy": "fulltime",
        });
        params[key] = value.into();
        let reply = world.sender.call("gentask", params).await;
        assert!(!reply.ok && reply.desc().starts_with(&format!("error, invalid {key}: {value}.")), "{key}: {reply:?}");
    }
    world.sender.assert_alive();
    assert_eq!(entries(&world.sender.data().join("sender/tmp")), Vec::<String>::new());
}

/// Before the first byte is hashed, which may take hours.
#[tokio::test]
async fn a_ratio_without_what_it_needs_is_refused_at_once() {
    let mut world = World::new();
    world.sender.set_all(&json!({"senderdomain": "", "obsurl": "", "obsendpoint": "", "cdnurl": ""}));
    world.sender.start().await;
    world.package("film", 3, 1);
    let jobs = async |world: &World| world.sender.number("select count(*) from v_generations").await;
    for (ratio, method, key) in [("1:0:0", "bt", "senderdomain"), ("0:1:0", "obs", "obsurl"), ("0:0:1", "cdn", "cdnurl")] {
        let said = gentask_fails(&world, "film", ratio).await;
        assert_eq!(said, format!("error, invalid btobscdn: {ratio}. It needs {method}, but {key} is not configured."));
        assert_eq!(jobs(&world).await, 0, "nothing is queued");
    }
    // A bucket may be named in the request.
    world.gentask_with("film", json!({"btobscdn": "0:1:0", "obsurl": "obs://cfec-001/dcps/film"})).await;
}

/// Appends to a file until told to stop.
fn keep_appending(path: &Path, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("open");
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            file.write_all(b"x").expect("append");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    })
}

#[tokio::test]
async fn a_package_that_changes_is_noticed() {
    let mut world = World::started().await;
    // While it is hashed. Without a packing list, so that nothing else could notice.
    let bytes = make_package(&world.dir.path().join("made"), "film", 40 << 20, 1);
    let dir = world.sender.store().join("growing");
    std::fs::create_dir(&dir).expect("directory");
    for f in bytes.files.iter().filter(|f| f.path.ends_with(".mxf")) {
        std::fs::copy(bytes.dir.join(&f.path), dir.join(&f.path)).expect("copy");
    }
    std::fs::write(dir.join("zz.log"), vec![b'a'; 4 << 20]).expect("write");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = keep_appending(&dir.join("zz.log"), Arc::clone(&stop));
    // Who appends may be held up for longer than the hashing takes.
    let mut said = None;
    for _ in 0..10 {
        said = gentask_ends(&world, "growing", "1:1:1").await;
        if said.is_some() {
            break;
        }
    }
    let said = said.expect("a change is noticed");
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("writer");
    assert!(said.contains("zz.log") && said.contains("chang"), "{said}");
    let taskfile = world.gentask("growing", "1:1:1").await; // quiet again: fine

    // Between gentask and send.
    std::fs::OpenOptions::new().append(true).open(dir.join("zz.log")).expect("open").write_all(b"more").expect("append");
    let reply = world.sender.call("send", json!({"taskfile": taskfile})).await;
    assert!(!reply.ok && reply.desc().contains("zz.log") && reply.desc().contains("run gentask again"), "{reply:?}");
    assert_eq!(world.sender.number("select count(*) from v_tasks").await, 0);

    // While it is seeded: same length, other bytes.
    let taskfile = world.gentask("growing", "1:0:0").await;
    world.send(&taskfile).await;
    world::flip_byte(&dir.join("zz.log"), 1000);
    let task = task_name("growing");
    let failed = async || {
        let reply = world.sender.call("uploadprogress", json!({"taskfile": task})).await;
        (reply.text("status") == "error").then_some(reply)
    };
    let reply = until("the seed stops", PATIENCE, failed).await;
    assert_eq!((reply.text("desc").as_str(), reply.text("btstatus").as_str()), ("bt errors", "noseeding"), "{reply:?}");
    let file = world.sender.data().join("sender/uploading").join(format!("{task}.bterr"));
    let text = until("the .bterr file", PATIENCE, async || std::fs::read_to_string(&file).ok()).await;
    assert!(text.contains("zz.log"), "{text}");
    assert_eq!(file_name(&std::path::PathBuf::from(reply.text("taskfile"))), task);
    world.sender.assert_alive();
}

/// Keys of a request travel in the task file, which only the service's user reads, and nowhere else.
#[tokio::test]
async fn keys_reach_no_log_event_view_or_error_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::started().await;
    world.package("film", 4, 1);
    let keys =
        json!({"btobscdn": "0:1:0", "ak": "EXAMPLE-AK-HIDDEN", "sk": "EXAMPLE-SK-HIDDEN", "endpoint": "s3+http://127.0.0.1:9"});
    let taskfile = world.gentask_with("film", keys).await;
    assert!(std::fs::read_to_string(&taskfile).expect("task file").contains("EXAMPLE-SK-HIDDEN"), "receivers need them");
    let mode = std::fs::metadata(&taskfile).expect("task file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    assert!(world.sender.call("send", json!({"taskfile": taskfile})).await.ok);
    let task = task_name("film");
    let failed = async || {
        let rows = world.sender.sql("select tries, error from v_legs where method = 'obs' and error <> ''").await;
        (!rows.is_empty()).then_some(())
    };
    until("the upload has failed once", PATIENCE, failed).await;
    let mut seen = world.sender.events(&task).await;
    for view in ["v_tasks", "v_legs", "v_files", "v_generations", "v_events"] {
        seen.push_str(&format!("{:?}", world.sender.sql(&format!("select * from {view}")).await));
    }
    let root = world.sender.config_path().parent().expect("root").to_owned();
    let mut logs = 0;
    for entry in std::fs::read_dir(root.join("log")).expect("log directory").flatten() {
        seen.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
        logs += 1;
    }
    assert!(logs > 0 && seen.contains("film"), "nothing was looked at");
    assert!(!seen.contains("HIDDEN"), "a key is shown");
}
