//! Packages of real nodes: recognised after a scan, followed when they change, and used before they were hashed.

mod world;

use bft2::package::sample::{SampleOptions, make};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use world::{Node, PATIENCE, World, copy_tree, flip_byte, task_name, until};

/// Waits until the view says this of a package.
async fn verdict_is(node: &Node, package: &str, expected: impl Fn(&str) -> bool) -> String {
    until(&format!("the verdict on {package}"), PATIENCE, async || {
        let rows = node.sql(&format!("select verdict from v_packages where package = '{package}'")).await;
        rows.first().map(|r| r[0].clone()).filter(|v| expected(v))
    })
    .await
}

async fn scan(node: &Node, path: &Path) -> Value {
    let (status, text) = node.post("v1/library/scans", json!({"path": path}).to_string().into_bytes()).await.expect("a scan");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

async fn listed(node: &Node, search: &str) -> Value {
    let text = node.get(&format!("v1/library/packages?search={search}")).await.expect("packages");
    let page: Value = serde_json::from_str(&text).expect("JSON");
    page["items"][0].clone()
}

/// The package's file whose name begins so.
fn file(dir: &Path, begin: &str) -> PathBuf {
    let mut found: Vec<_> = fs::read_dir(dir).expect("directory").map(|e| e.expect("entry").path()).collect();
    found.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(begin)));
    found.sort();
    found.remove(0)
}

fn name(path: &Path) -> String {
    world::file_name(path)
}

#[tokio::test]
async fn a_package_that_was_copied_in_is_recognised_and_followed() {
    let mut world = World::new();
    // A watch would be faster than a scan now and then, and would hash what is only looked at here.
    world.sender.set("watch", "off");
    world.sender.start().await;
    let node = &world.sender;
    let options = SampleOptions {
        name: Some("film".into()),
        size: Some(8 << 20),
        reels: 2,
        vf: Some("film_VF".into()),
        ..SampleOptions::default()
    };
    let made = make(&world.dir.path().join("disk"), &options, &mut |_| {}).expect("packages").packages;
    let (film, vf) = (node.store().join("film"), node.store().join("film_VF"));

    // The version file alone.
    copy_tree(&made[1].dir, &vf);
    assert_eq!(scan(node, &vf).await["queued"], 6);
    let lonely = verdict_is(node, "film_VF", |v| v.starts_with("version file, needs OV")).await;
    assert!(lonely.contains(&made[1].title) && lonely.contains("plays 2 track files of another package"), "{lonely}");
    assert_eq!(listed(node, "film_VF").await["verdict"], json!(lonely));

    // Its OV comes: both are complete, and the version file tells where its pictures are.
    copy_tree(&made[0].dir, &film);
    scan(node, &film).await;
    verdict_is(node, "film", |v| v == "complete").await;
    verdict_is(node, "film_VF", |v| v == "complete").await;
    let package = listed(node, &made[0].title).await;
    assert_eq!((&package["package"], &package["standard"], &package["ov"]), (&json!("film"), &json!("SMPTE"), &json!([])));
    assert_eq!(package["files"], json!(made[0].files.len()));
    let composition = &package["compositions"][0];
    assert_eq!((&composition["title"], &composition["edit_rate"]), (&json!(made[0].title), &json!("24/1")), "{package:#}");
    let reels = composition["reels"].as_array().expect("reels");
    assert_eq!(reels.len(), 2);
    let (frames, seconds) =
        (composition["duration"].as_u64().expect("frames"), composition["seconds"].as_f64().expect("seconds"));
    assert_eq!(reels.iter().map(|r| r["duration"].as_u64().expect("frames")).sum::<u64>(), frames);
    assert!((seconds - frames as f64 / 24.0).abs() < 0.001, "{seconds}");
    assert_eq!(listed(node, "film_VF").await["ov"], json!([film]));
    let rows = node.sql("select title, kind, reels, duration from v_compositions where package = 'film'").await;
    assert_eq!(rows, [[&made[0].title, "test", "2", &frames.to_string()]]);
    let rows = node.sql("select reel, picture, sound from v_reels where package = 'film' order by reel").await;
    for (row, reel) in rows.iter().zip(reels) {
        assert_eq!([&json!(row[1]), &json!(row[2])], [&reel["picture"], &reel["sound"]]);
        assert!(file(&film, &format!("j2c_{}", row[1])).is_file());
    }

    // A byte changes, a file goes, all of it goes.
    let sound = file(&film, "pcm_");
    flip_byte(&sound, 70_000);
    scan(node, &film).await;
    verdict_is(node, "film", |v| v == format!("hash differs {}", name(&sound))).await;
    node.told("", &[&format!("warn package: {}: hash differs", film.display())]).await;
    fs::remove_file(&sound).expect("file");
    assert_eq!(scan(node, &film).await["gone"], 1);
    verdict_is(node, "film", |v| v == format!("missing {}", name(&sound))).await;
    verdict_is(node, "film_VF", |v| v == "complete").await;
    fs::remove_dir_all(&film).expect("directory");
    scan(node, &node.store()).await;
    verdict_is(node, "film_VF", |v| v == lonely).await;
    assert_eq!(node.number("select count(*) from v_packages").await, 1);
    assert_eq!(node.number("select count(*) from v_compositions").await, 1);

    // What happens while the service is down is seen at its start.
    world.sender.terminate().await;
    copy_tree(&made[0].dir, &film);
    world.sender.start().await;
    verdict_is(&world.sender, "film", |v| v == "not verified yet: 5 files to hash").await;
    verdict_is(&world.sender, "film_VF", |v| v == "complete").await;
}

#[tokio::test]
async fn a_receiver_copies_what_a_packing_list_claims_and_believes_none() {
    let mut world = World::new();
    let package = world.package("film", 6, 2);
    world.sender.start().await;
    let taskfile = world.publish("film", "1:1:1").await;

    // On a disk of the receiver's library, not hashed by anybody.
    let disk = world.receiver.data().join("dcp/disk/old-name");
    copy_tree(&package.dir, &disk);
    world.receiver.set("watch", "off");
    world.receiver.start().await;
    let receiver = &world.receiver;
    let claimed = "select count(*) from v_library where state = 'claimed' and package like '%/disk/old-name'";
    until("the claims", PATIENCE, async || (receiver.number(claimed).await == package.files.len() as u64).then_some(())).await;
    assert_eq!(fs::read_to_string(receiver.hashtable()).unwrap_or_default(), "", "only what was hashed here is shown");
    let done = world.receive(&taskfile).await;
    assert_eq!(done.percent("localsamepercent"), 100.0);
    let task = task_name("film");
    assert_eq!(receiver.wire(&task, "%").await, 0);
    world.assert_delivered(&package);
    until("titles and reels of what was received", PATIENCE, async || {
        let reels =
            "select count(*) from v_reels r join v_packages p using (path) where p.package = 'film' and p.verdict = 'complete'";
        (receiver.number(reels).await == 2).then_some(())
    })
    .await;
    assert_eq!(receiver.number(claimed).await, package.files.len() as u64, "the disk itself was not hashed");

    // The list lies about a track file: its copy is found wrong, the file is fetched, the claim is gone.
    let film = receiver.store().join("film");
    fs::remove_dir_all(&film).expect("directory");
    fs::remove_file(receiver.store().join("film.finished")).expect("marker");
    scan(receiver, &receiver.store()).await;
    assert_eq!(receiver.number("select count(*) from v_library where state = 'ok'").await, 0);
    let sound = file(&disk, "pcm_");
    let time = fs::metadata(&sound).and_then(|m| m.modified()).expect("time");
    flip_byte(&sound, 70_000);
    fs::File::options().write(true).open(&sound).and_then(|f| f.set_modified(time)).expect("time");
    let done = world.receive(&taskfile).await;
    let size = fs::metadata(&sound).expect("file").len();
    assert!(done.percent("localsamepercent") < 100.0);
    assert!((size..2 * size).contains(&receiver.wire(&task, "%").await));
    world.assert_delivered(&package);
    let path = sound.display();
    assert_eq!(receiver.number(&format!("select count(*) from v_library where path = '{path}'")).await, 0);
    assert!(receiver.events(&task).await.contains(&format!("wrong SHA-1 in {path}")), "{}", receiver.events(&task).await);

    // Who empties the hash table means all of the library.
    assert!(receiver.number(claimed).await > 0);
    let shown = async || fs::read_to_string(receiver.hashtable()).ok().filter(|t| t.lines().count() == package.files.len());
    let text = until("the hash table shows the package", PATIENCE, shown).await;
    assert!(!text.contains("old-name"), "{text}");
    fs::write(receiver.hashtable(), "").expect("table");
    let known = "select count(*) from v_library";
    until("nothing is known", PATIENCE, async || (receiver.number(known).await == 0).then_some(())).await;
}

/// `bftv2 check …`: the code, the output, the errors.
fn check(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_bftv2")).arg("check").args(args).output().expect("bftv2");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
    (out.status.code().expect("a code"), text(out.stdout), text(out.stderr))
}

#[test]
fn check_prints_the_verdict_and_ends_accordingly() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options =
        SampleOptions { name: Some("film".into()), size: Some(4 << 20), vf: Some("film_VF".into()), ..SampleOptions::default() };
    let made = make(dir.path(), &options, &mut |_| {}).expect("packages").packages;
    let text = |p: &Path| p.to_str().expect("utf-8").to_owned();
    let (film, vf) = (text(&made[0].dir), text(&made[1].dir));

    let (code, out, err) = check(&[&film]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("good: complete\n") && out.contains(&format!("title {}", made[0].title)), "{out}");
    assert!(err.contains("check") && err.contains("good"), "a meter: {err}");
    let (code, out, _) = check(&[&vf]);
    assert_eq!(code, 0);
    assert!(out.starts_with("good: version file, needs OV: ") && out.contains("plays 1 track file of another package"), "{out}");
    let (code, out, _) = check(&[&vf, "--ov", &film]);
    assert_eq!(code, 0);
    assert!(out.starts_with("good: complete\n") && out.contains(&format!("plays {film}/j2c_")), "{out}");
    let (code, out, _) = check(&[&vf, "--ov", &vf]);
    assert!(code == 1 && out.contains("neither this package nor the OV holds it"), "{out}");

    let json = |args: &[&str]| {
        let (code, out, err) = check(args);
        (code, serde_json::from_str::<Value>(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}")))
    };
    let (code, report) = json(&[&film, "--json"]);
    assert_eq!((code, &report["ok"], &report["verdict"], &report["findings"]), (0, &json!(true), &json!("complete"), &json!([])));
    assert_eq!((&report["standard"], &report["titles"]), (&json!("SMPTE"), &json!([made[0].title])));
    let files: Vec<_> = report["files"].as_array().expect("files").iter().map(|f| f["sha1"].clone()).collect();
    assert!(made[0].files.iter().all(|f| files.contains(&json!(f.sha1))), "{report:#}");

    let picture = file(&made[0].dir, "j2c_");
    flip_byte(&picture, 100_000);
    let (code, report) = json(&[&vf, "--json", "--ov", &film]);
    assert_eq!((code, &report["ok"]), (1, &json!(false)));
    assert_eq!(report["verdict"], json!(format!("hash differs {}", picture.display())));
    assert_eq!(report["findings"][0]["kind"], "hash differs");
    let (code, out, _) = check(&[&film]);
    assert!(code == 1 && out.starts_with(&format!("NOT GOOD: hash differs {}\n", name(&picture))), "{out}");
    fs::File::options().write(true).open(&picture).and_then(|f| f.set_len(5)).expect("file");
    let (code, out, _) = check(&[&film]);
    assert!(code == 1 && out.starts_with(&format!("NOT GOOD: size differs {}: listed ", name(&picture))), "{out}");
    fs::remove_file(&picture).expect("file");
    let (code, report) = json(&[&film, "--json"]);
    assert_eq!((code, &report["verdict"]), (1, &json!(format!("missing {}", name(&picture)))));

    // What cannot be checked at all.
    let nothing = text(&dir.path().join("nothing"));
    let empty = text(dir.path());
    for (args, code, says) in [
        (vec![nothing.as_str()], 5, "nothing"),
        (vec![empty.as_str()], 1, "not a cinema package"),
        (vec![vf.as_str(), "--ov", &nothing], 1, "is no OV"),
        (vec![film.as_str(), "--torrent", &nothing], 5, "cannot read the torrent"),
        (vec![], 2, "Usage"),
    ] {
        let (got, out, err) = check(&args);
        assert!(got == code && (out.clone() + &err).contains(says), "{args:?}: {got} {out} {err}");
    }
}
