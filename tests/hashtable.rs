//! `hashtable.txt` of real nodes: it is what `sha1sum` takes, and what people do to it is obeyed.

mod world;

use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use world::{Node, PATIENCE, World, flip_byte, read_json, task_name, tree, until};

type Table = BTreeMap<String, String>;

/// Path → digest, as the file says. `None`: it is not (yet) as the service writes it.
fn table(node: &Node) -> Option<Table> {
    let text = fs::read_to_string(node.hashtable()).ok()?;
    text.lines().map(|l| l.split_once("  ").map(|(hash, path)| (path.to_owned(), hash.to_owned()))).collect()
}

/// Waits until the file and the database say this.
async fn shows(node: &Node, what: &str, expected: &Table) {
    until(what, PATIENCE, async || {
        let rows = node.sql("select path, sha1 from v_library where state = 'ok'").await;
        let rows: Table = rows.into_iter().map(|r| (r[0].clone(), r[1].clone())).collect();
        let quiet = node.number("select count(*) from v_hash_queue").await == 0;
        (quiet && rows == *expected && table(node)? == *expected).then_some(())
    })
    .await;
}

/// The table of the packages in these directories.
fn table_of(dirs: &[&Path]) -> Table {
    let of = |dir: &Path| {
        let files = tree(dir).into_iter();
        files.map(|(name, (_, sha1))| (dir.join(name).display().to_string(), sha1)).collect::<Vec<_>>()
    };
    dirs.iter().flat_map(|dir| of(dir)).collect()
}

/// Takes lines out, as `grep -v` and a redirection do.
fn delete_lines(node: &Node, gone: impl Fn(&str) -> bool) {
    let text = fs::read_to_string(node.hashtable()).expect("table");
    let kept: Vec<&str> = text.lines().filter(|l| !gone(l)).collect();
    fs::write(node.hashtable(), kept.join("\n") + "\n").expect("table");
}

fn sha1sum_accepts(node: &Node) {
    let out = Command::new("sha1sum").args(["--check", "--strict", "--quiet"]).arg(node.hashtable()).output().expect("sha1sum");
    assert!(out.status.success(), "{out:?}");
}

fn stamp(path: &Path) -> (u64, i64, i64) {
    let m = fs::metadata(path).expect("table");
    (m.ino(), m.mtime(), m.mtime_nsec())
}

#[tokio::test]
async fn a_receiver_fetches_what_was_deleted_from_its_table() {
    let world = World::started().await;
    let package = world.package("film", 12, 3);
    let taskfile = world.publish("film", "1:1:1").await;
    world.receive(&taskfile).await;
    let receiver = &world.receiver;
    let whole = table_of(&[&receiver.store().join("film")]);
    assert_eq!(whole.len(), package.files.len());
    shows(receiver, "the package is in the table", &whole).await;
    sha1sum_accepts(receiver);

    // Some lines are deleted: exactly these files are fetched.
    let mut files: Vec<_> = package.files.iter().map(|f| (f.size, f.path.to_string())).collect();
    files.sort();
    let gone = [files[0].clone(), files[files.len() - 1].clone()];
    let is_gone = |text: &str| gone.iter().any(|(_, name)| text.ends_with(&format!("/{name}")));
    delete_lines(receiver, is_gone);
    let rest = whole.iter().filter(|(path, _)| !is_gone(path)).map(|(p, h)| (p.clone(), h.clone())).collect();
    shows(receiver, "their rows are gone", &rest).await;
    world.receive(&taskfile).await;
    let task = task_name("film");
    let missing: u64 = gone.iter().map(|(size, _)| size).sum();
    let legs = "select sum(bytes_total) from v_legs where role = 'receiver'";
    assert_eq!(receiver.number(legs).await, missing);
    assert_eq!(receiver.number("select sum(bytes_local) from v_tasks").await, package.bytes - missing);
    let document = read_json(&receiver.data().join("receiver/downloaded").join(&task));
    assert_eq!(document["localsamefiles"].as_array().map(Vec::len), Some(whole.len() - gone.len()), "{document:#}");
    world.assert_delivered(&package);
    shows(receiver, "all of it is in the table again", &whole).await;

    // Emptied, and recv at once: nothing counts as local.
    fs::write(receiver.hashtable(), "").expect("table");
    let reply = world.recv(receiver, &taskfile).await;
    assert_eq!((reply.ok, reply.desc().as_str()), (true, "same name task downloaded, to download again."));
    let done = receiver.downloaded(&task).await;
    assert_eq!(done.percent("localsamepercent"), 0.0);
    assert_eq!(receiver.number(legs).await, package.bytes);
    world.assert_delivered(&package);
    shows(receiver, "it is in the table once more", &whole).await;
    sha1sum_accepts(receiver);
}

#[tokio::test]
async fn a_senders_table_is_edited_by_hand() {
    let mut world = World::new();
    let package = world.package("film", 6, 2);
    // A watch would hash the files by itself, sometimes before the table is read.
    world.sender.set("watch", "off");
    world.start().await;
    world.cacher.start().await;
    shows(&world.sender, "an empty table", &Table::new()).await;
    world.gentask("film", "1:1:1").await;
    let whole = table_of(&[&package.dir]);
    shows(&world.sender, "the generated package", &whole).await;
    sha1sum_accepts(&world.sender);

    // Nothing changes: not by a stop and a start, not by the same package again.
    let before = stamp(&world.sender.hashtable());
    world.sender.terminate().await;
    world.sender.start().await;
    world.gentask("film", "1:0:0").await;
    shows(&world.sender, "the same package", &whole).await;
    assert_eq!(stamp(&world.sender.hashtable()), before, "it was written again");

    // Garbage changes nothing, and is replaced.
    let sender = &world.sender;
    fs::write(sender.hashtable(), [0, 255, 10, 7, 10]).expect("table");
    shows(sender, "no garbage", &whole).await;
    sender.told("", &["has no good line"]).await;

    // A file that was copied in: hashed here, whatever the line says. The torrent beside the package is none.
    let copied = sender.store().join("other/copied.mxf");
    fs::create_dir_all(copied.parent().expect("parent")).expect("directory");
    fs::write(&copied, vec![7; 3 << 20]).expect("file");
    let torrent = sender.store().join("film.torrent");
    assert!(torrent.is_file());
    let wrong = "0123456789abcdef0123456789abcdef01234567";
    let text = fs::read_to_string(sender.hashtable()).expect("table");
    let more = format!("{wrong} *{}\r\n\r\n{wrong}  {}\r\n", copied.display(), torrent.display());
    fs::write(sender.hashtable(), more + &text).expect("table");
    let both = table_of(&[&package.dir, copied.parent().expect("parent")]);
    assert_eq!(both.len(), whole.len() + 1);
    shows(sender, "the copied file", &both).await;
    sha1sum_accepts(sender);
    until("the wrong digest is told", PATIENCE, async || {
        let told = sender.events("").await;
        (told.contains("1 had another digest in the hash table") && told.contains("1 line refused")).then_some(())
    })
    .await;

    // Vanished: written again. Emptied, while the service is down: empty, and the package itself is untouched.
    fs::remove_file(sender.hashtable()).expect("table");
    shows(sender, "the file is back", &both).await;
    world.sender.terminate().await;
    fs::write(world.sender.hashtable(), "").expect("table");
    world.sender.start().await;
    shows(&world.sender, "an empty table", &Table::new()).await;
    assert_eq!(table_of(&[&package.dir]), whole);

    // Another place, at a reload.
    let elsewhere = world.dir.path().join("elsewhere/table.txt");
    world.sender.set_all(&json!({"hashtable": elsewhere}));
    world.sender.get("reloadconf").await.expect("reloaded");
    until("the table at its new place", PATIENCE, async || elsewhere.is_file().then_some(())).await;
    assert!(!world.cacher.hashtable().exists(), "a cacher has no library");
}

/// `bftv2 hash …`: the code, the output, the errors.
fn hash(node: &Node, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftv2"));
    let out = command.arg("hash").args(args).args(["--url", &node.url("")]).output().expect("bftv2");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
    (out.status.code().expect("a code"), text(out.stdout), text(out.stderr))
}

/// The row of a file is that of other bytes.
async fn damage(node: &Node, path: &Path) {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(node.database()).busy_timeout(Duration::from_secs(20));
    let mut db = options.connect().await.expect("database");
    let done = sqlx::query("UPDATE library_files SET sha1 = zeroblob(20) WHERE path = ?")
        .bind(path.to_str().expect("utf-8"))
        .execute(&mut db)
        .await
        .expect("update");
    assert_eq!(done.rows_affected(), 1);
}

/// It succeeds and says this.
fn hashes(node: &Node, args: &[&str], says: &str) {
    let (code, out, err) = hash(node, args);
    assert_eq!((code, out.as_str()), (0, says), "{args:?}: {err}");
}

#[tokio::test]
async fn the_library_is_hashed_on_request() {
    let mut world = World::new();
    let package = world.package("film", 6, 2);
    world.sender.set_all(&json!({"watch": "off", "settle": 0}));
    world.sender.start().await;
    world.cacher.start().await;
    let (sender, dir) = (&world.sender, package.dir.to_str().expect("utf-8"));
    let n = package.files.len();

    // Copied in by hand, beside things that are no files of packages.
    let links = sender.store().join("links");
    fs::create_dir_all(&links).expect("directory");
    symlink(&package.dir, links.join("film")).expect("link");
    symlink(package.dir.join("ASSETMAP.xml"), links.join("ASSETMAP.xml")).expect("link");
    for ignored in ["film.torrent", ".hidden", "film.finished", "a.mxf.part"] {
        fs::write(sender.store().join(ignored), "x").expect("file");
    }
    fs::write(links.join(OsStr::from_bytes(b"odd\xff.mxf")), "x").expect("file");
    assert_eq!(hash(sender, &["status"]), (0, "nothing to hash".into(), String::new()));
    hashes(sender, &["add", dir, "--watch"], &format!("{n} to hash, 0 known, 0 gone"));
    let whole = table_of(&[&package.dir]);
    shows(sender, "the package", &whole).await;
    sha1sum_accepts(sender);
    hashes(sender, &["add", dir, "--watch"], &format!("0 to hash, {n} known, 0 gone"));
    let (code, out, err) = hash(sender, &["add", sender.data().join("dcp").to_str().expect("utf-8"), "--watch"]);
    assert_eq!((code, out), (0, format!("0 to hash, {n} known, 0 gone")));
    assert!(err.contains("1 left out"), "{err}");
    let events = sender.told("", &["not UTF-8", "odd"]).await;
    assert!(!events.contains("another digest"), "{events}");

    // One file gone, one changed, one new.
    let mut files: Vec<_> = package.files.iter().map(|f| package.dir.join(f.path.as_str())).collect();
    files.sort();
    fs::remove_file(&files[0]).expect("file");
    flip_byte(&files[1], 3);
    fs::write(package.dir.join("new.xml"), "new").expect("file");
    hashes(sender, &["add", dir, "--watch"], &format!("2 to hash, {} known, 1 gone", n - 2));
    let now = table_of(&[&package.dir]);
    assert!(now != whole && now.len() == n);
    shows(sender, "what has changed", &now).await;
    sha1sum_accepts(sender);

    // A file that got its old time back is found all the same; the others' rows stay the same.
    let time = fs::metadata(&files[2]).and_then(|m| m.modified()).expect("time");
    flip_byte(&files[2], 3);
    fs::File::options().write(true).open(&files[2]).and_then(|f| f.set_modified(time)).expect("time");
    hashes(sender, &["add", dir, "--watch"], &format!("1 to hash, {} known, 0 gone", n - 1));
    shows(sender, "the changed byte", &table_of(&[&package.dir])).await;
    hashes(sender, &["init", "--watch"], &format!("{n} to hash, 0 known, 0 gone"));
    sha1sum_accepts(sender);

    // What a disk does to bytes leaves no trace in the times (here the row is of other bytes): a look at everything names it.
    damage(sender, &files[2]).await;
    let (code, out, err) = hash(sender, &["verify", dir]);
    let name = files[2].display().to_string();
    assert!(
        code == 1 && out.contains(&format!("{name} is damaged")) && out.ends_with(&format!("{n} files read, 1 damaged")),
        "{out} {err}"
    );
    hashes(sender, &["verify", dir], &format!("{n} files read, 0 damaged"));

    // Out to sha1sum and in again.
    let list = world.dir.path().join("hashes.txt");
    hashes(sender, &["export", list.to_str().expect("utf-8")], &format!("{n} files"));
    let check = Command::new("sha1sum").args(["--check", "--strict", "--quiet"]).arg(&list).status().expect("sha1sum");
    assert!(check.success());
    hashes(sender, &["import", list.to_str().expect("utf-8")], &format!("{n} known, 0 to hash, 0 refused"));
    fs::write(package.dir.join("late.xml"), "late").expect("file");
    let line = format!("{}  {}\n", "0".repeat(40), package.dir.join("late.xml").display());
    fs::write(&list, line + "garbage\n0000000000000000000000000000000000000000  /etc/passwd\n").expect("list");
    let (code, out, err) = hash(sender, &["import", list.to_str().expect("utf-8"), "--watch"]);
    assert_eq!((code, out.as_str()), (1, "0 known, 1 to hash, 2 refused"), "{err}");
    shows(sender, "the late file with its own digest", &table_of(&[&package.dir])).await;
    fs::remove_file(package.dir.join("late.xml")).expect("file");
    hashes(sender, &["add", dir], &format!("0 to hash, {n} known, 1 gone"));
    hashes(sender, &["init", dir, "--watch", "--json"], &format!(r#"{{"queued":{n},"known":0,"gone":0,"skipped":0}}"#));

    // What is none of the library's is refused by name.
    let link = links.join("film").display().to_string();
    let below = format!("{link}/ASSETMAP.xml");
    for bad in ["/", "/etc", &format!("{dir}/.."), &format!("{dir}/absent"), &link, &below] {
        let (code, out, err) = hash(sender, &["add", bad]);
        assert_eq!((code, out.as_str()), (1, ""), "{bad}");
        assert!(err.contains("refused: ") && err.contains(bad), "{bad}: {err}");
    }
    for args in [&["status"][..], &["init"]] {
        let (code, _, err) = hash(&world.cacher, args);
        assert!(code == 1 && err.contains("a cacher has no library"), "{err}");
    }
}
