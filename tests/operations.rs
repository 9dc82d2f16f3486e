//! What operators do to a node from outside, through the shipped binary: backup and restore, doctor, a database that is
//! damaged, and a shell that somebody left in a transaction.

mod world;

use bft2::store::Store;
use bft2::store::events::Level;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use world::{Node, PATIENCE, World, entries, free_ports, merge, task_name, until};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn bftv2(args: &[&str]) -> Ran {
    let out = Command::new(env!("CARGO_BIN_EXE_bftv2")).args(args).stdin(Stdio::null()).output().expect("bftv2 starts");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ran { code: out.status.code().expect("ended by itself"), out: text(&out.stdout), err: text(&out.stderr) }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// A connection of the test's own: somebody's shell.
async fn shell(db: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(db).busy_timeout(Duration::from_secs(30)).connect().await.expect("opens")
}

async fn run(conn: &mut SqliteConnection, sql: &str) {
    conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[tokio::test]
async fn a_backup_is_made_while_the_node_writes_and_can_be_restored() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"obsrate": "100K", "cdnrate": "100K"}));
    let package = world.package("film", 9, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    assert!(world.recv(&world.receiver, &taskfile).await.ok);
    let running = async || (world.receiver.number("select sum(bytes_wire) from v_legs").await > 0).then_some(());
    until("it is running", PATIENCE, running).await;

    let to = world.dir.path().join("backup.db");
    let config = world.receiver.config_path();
    let backup = |more: &[&str]| bftv2(&[&["backup", utf8(&to), "--config", utf8(&config)], more].concat());
    let first = backup(&["--json"]);
    assert_eq!(first.code, 0, "{}", first.err);
    let told: Value = serde_json::from_str(&first.out).expect("JSON");
    assert_eq!((told["tasks"].as_i64(), told["bytes"].as_u64()), (Some(1), Some(std::fs::metadata(&to).expect("there").len())));
    assert_eq!(std::fs::metadata(&to).expect("there").mode() & 0o777, 0o600);
    // What is there is not replaced by mistake, and a refusal leaves nothing behind.
    let bytes = std::fs::read(&to).expect("read");
    let again = backup(&[]);
    assert!(again.code == 1 && again.err.contains("is there already") && again.err.contains("--force"), "{}", again.err);
    assert_eq!(std::fs::read(&to).expect("read"), bytes);
    let forced = backup(&["--force"]);
    assert!(forced.code == 0 && forced.out.contains("1 tasks"), "{}{}", forced.out, forced.err);
    let db = world.receiver.database();
    for wrong in [db.as_path(), world.dir.path()] {
        let ran = bftv2(&["backup", utf8(wrong), "--force", "--config", utf8(&config)]);
        assert!(ran.code == 1 && ran.err.contains("give"), "{}: {}", wrong.display(), ran.err);
    }
    let nowhere = bftv2(&["backup", utf8(&world.dir.path().join("no/b.db")), "--config", utf8(&config)]);
    assert!(nowhere.code == 5 && nowhere.err.contains("No such file"), "{}", nowhere.err);
    assert!(!entries(world.dir.path()).iter().any(|e| e.ends_with(".part")), "{:?}", entries(world.dir.path()));

    // The disk breaks; the copy takes the database's place, and the task of that moment is delivered.
    world.receiver.assert_alive();
    world.receiver.kill();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(PathBuf::from(format!("{}{suffix}", db.display())));
    }
    std::fs::copy(&to, &db).expect("restored");
    world.receiver.set_all(&json!({"obsrate": "", "cdnrate": ""}));
    world.receiver.start().await;
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
}

/// A database of some hundred pages.
async fn database(db: &Path) {
    let store = Store::open(db).await.expect("opens");
    for n in 0..200 {
        store.add_event(Level::Info, "test", "", "test", &"x".repeat(3000), n).await.expect("event");
    }
    store.close().await;
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("tempdir");
    let good = dir.path().join("good.db");
    database(&good).await;
    let size = std::fs::metadata(&good).expect("there").len();
    let write = |at: u64, bytes: Vec<u8>| {
        move |db: &Path| {
            std::fs::OpenOptions::new().write(true).open(db).expect("opens").write_all_at(&bytes, at).expect("writes")
        }
    };
    type Harm<'a> = Box<dyn Fn(&Path) + 'a>;
    // What happens to the file, what is said, and whether a question on all rows meets it.
    let cases: Vec<(&str, Harm<'_>, &str, bool)> = vec![
        ("garbage at the beginning", Box::new(write(0, vec![0x5a; 512])), "is not a database, or its beginning is damaged", true),
        ("pages in the middle", Box::new(write(size / 2 / 4096 * 4096, vec![0xff; 8192])), "is damaged", true),
        (
            "cut off",
            Box::new(|db| {
                std::fs::OpenOptions::new().write(true).open(db).expect("opens").set_len(size / 2 + 100).expect("cuts")
            }),
            "is damaged (it has",
            true,
        ),
        ("a text", Box::new(|db| std::fs::write(db, "notes of last week").expect("writes")), "is not a database", true),
    ];
    let mut node = Node::new("receiver", dir.path());
    let config = node.config_path();
    for (what, harm, says, asked) in cases {
        std::fs::copy(&good, node.database()).expect("copy");
        harm(&node.database());
        refused(&mut node, &config, what, says, asked).await;
    }
    // Sound files, but not ours.
    let _ = std::fs::remove_file(node.database());
    let mut other = SqliteConnectOptions::new().filename(node.database()).create_if_missing(true).connect().await.expect("opens");
    run(&mut other, "create table songs (id integer primary key, title text)").await;
    drop(other);
    refused(&mut node, &config, "another program's", "is the database of another program (it has the tables songs)", false).await;
    std::fs::copy(&good, node.database()).expect("copy");
    let mut newer = shell(&node.database()).await;
    run(&mut newer, "insert into _sqlx_migrations values (9999, 'of next year', '2030-01-01', 1, x'00', 1)").await;
    run(&mut newer, "pragma wal_checkpoint(truncate)").await;
    sqlx::Connection::close(newer).await.expect("closes");
    refused(&mut node, &config, "a newer version's", "was made by a newer version (schema 9999", false).await;
}

/// Neither the service nor a command opens it; all say why, and not a byte of it changes.
async fn refused(node: &mut Node, config: &Path, what: &str, says: &str, asked: bool) {
    let before = std::fs::read(node.database()).expect("read");
    let db = node.database();
    let same = |who: &str| {
        assert_eq!(std::fs::read(&db).expect("read"), before, "{who} changed it: {what}");
    };
    let backup = node.database().with_file_name("backup.db");
    let config = utf8(config);
    let all = "select sum(length(text)) from v_events";
    let mut runs = vec![
        ("backup", bftv2(&["backup", utf8(&backup), "--config", config])),
        ("doctor", bftv2(&["doctor", "--config", config])),
    ];
    if asked {
        runs.push(("sql", bftv2(&["sql", all, "--config", config])));
    }
    for (who, ran) in runs {
        let said = format!("{}{}", ran.out, ran.err);
        assert!(ran.code != 0 && said.contains(says), "{what}: {who} says, with {}: {said}", ran.code);
        assert!(said.contains("nothing was changed"), "{what}: {who} does not say that nothing was changed: {said}");
        same(who);
    }
    assert!(!backup.exists(), "{what}: a backup was made");
    let (status, output) = node.refuses_to_start().await;
    assert_eq!(status.code(), Some(5), "{what}: {output}");
    assert!(output.lines().next_back().is_some_and(|l| l.contains(says)), "{what}: {output}");
    same("the service");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(PathBuf::from(format!("{}{suffix}", node.database().display())));
    }
}

#[tokio::test]
async fn a_transaction_that_is_left_open_is_named_and_survived() {
    let mut world = World::new();
    world.receiver.start().await;
    let db = world.receiver.database();
    let log = PathBuf::from(format!("{}-wal", db.display()));
    let mut left = shell(&db).await;
    run(&mut left, "begin").await;
    let _: i64 = sqlx::query_scalar("select count(*) from events").fetch_one(&mut left).await.expect("reads");
    // A week's writes in a few seconds.
    let mut busy = shell(&db).await;
    for _ in 0..70 {
        run(&mut busy, "insert into events (at, level, kind, text) values (1, 'info', 'test', printf('%.*c', 1000000, 'x'))")
            .await;
    }
    sqlx::Connection::close(busy).await.expect("closes");
    assert!(std::fs::metadata(&log).expect("log").len() > 64 << 20);
    let complaint = "select text from v_events where kind = 'database' and level = 'warn'";
    let text = until("the service complains", PATIENCE, async || world.receiver.sql(complaint).await.pop()).await;
    assert!(text[0].contains(&format!("process {}", std::process::id())), "{text:?}");
    // The node works, and doctor knows.
    assert!(world.receiver.get("heartbeat").await.is_some());
    let doctor = bftv2(&["doctor", "--config", utf8(&world.receiver.config_path())]);
    assert!(doctor.out.contains("warn  database log") && doctor.out.contains(&std::process::id().to_string()), "{}", doctor.out);

    // Worse than reading: nobody else can write.
    let mut worse = shell(&db).await;
    run(&mut worse, "begin immediate").await;
    let doctor = bftv2(&["doctor", "--config", utf8(&world.receiver.config_path())]);
    assert!(doctor.code == 1 && doctor.out.contains("is in a transaction that writes"), "{}", doctor.out);
    run(&mut worse, "rollback").await;

    run(&mut left, "commit").await;
    let calm = "select text from v_events where kind = 'database' and level = 'info'";
    until("the log is written back", PATIENCE, async || world.receiver.sql(calm).await.pop()).await;
    until("its file is cut", PATIENCE, async || (std::fs::metadata(&log).expect("log").len() < 1 << 20).then_some(())).await;
    assert_eq!(world.receiver.sql(complaint).await.len(), 1, "it complains once");
    assert!(world.receiver.terminate().await.success());
}

/// A file system of its own, unmounted at the end.
struct Small(PathBuf);

impl Small {
    /// `None` when this machine does not let us mount.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("directory");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        done.is_ok_and(|o| o.status.success()).then(|| Self(at.to_owned()))
    }

    fn remount(&self, how: &str) -> bool {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).output();
        done.is_ok_and(|o| o.status.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_backup_to_a_full_disk_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let db = dir.path().join("bft2.db");
    database(&db).await;
    let at = dir.path().join("small");
    let Some(_small) = Small::mount(&at, "200k") else {
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    let ran = bftv2(&["backup", utf8(&at.join("b.db")), "--db", utf8(&db)]);
    assert!(ran.code == 5 && ran.err.contains("no space in") && ran.err.contains("are free"), "{}: {}", ran.code, ran.err);
    assert_eq!(entries(&at), [""; 0]);
}

/// The disk of the library turns read-only under a node, and is mended.
#[tokio::test]
async fn a_library_that_turns_read_only_is_said_and_survived() {
    let mut world = World::new();
    let at = world.dir.path().join("small");
    let Some(small) = Small::mount(&at, "64m") else {
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    world.receiver.put_data_at(at.join("data"));
    let package = world.package("film", 9, 1);
    world.start().await;
    let task = task_name("film");
    let taskfile = world.publish("film", "0:1:1").await;
    let carried = world.receiver.carry(&taskfile);
    if !small.remount("ro") {
        eprintln!("skipped: the file system cannot be mounted read-only here");
        return;
    }
    let reply = world.receiver.call("recv", json!({"taskfile": carried})).await;
    if reply.ok {
        let p = world.receiver.download_fails(&task).await;
        assert!(p.error().contains("Read-only file system"), "{}", p.error());
    } else {
        assert!(reply.desc().contains("Read-only file system"), "{}", reply.desc());
    }
    let (code, checks, _) = doctor(&world.receiver.config_path());
    let (level, text, todo) = finding(&checks, "directories");
    assert!(code == 1 && level == "fail" && text.contains("Read-only") && todo.contains("dmesg"), "{level} {text} -> {todo}");
    assert!(small.remount("rw"));
    assert!(world.receiver.call("recv", json!({"taskfile": carried})).await.ok);
    world.receiver.downloaded(&task).await;
    world.assert_delivered(&package);
    world.receiver.kill();
}

fn doctor(config: &Path) -> (i32, Vec<Value>, String) {
    let ran = bftv2(&["doctor", "--json", "--config", utf8(config)]);
    let told: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}{}", ran.out, ran.err));
    assert_eq!(told["ok"], json!(ran.code == 0));
    (ran.code, told["checks"].as_array().expect("checks").clone(), ran.out)
}

/// The first finding of a name that is not ok, or its first.
fn finding(checks: &[Value], name: &str) -> (String, String, String) {
    let mine: Vec<&Value> = checks.iter().filter(|c| c["name"] == name).collect();
    let worst = mine.iter().find(|c| c["level"] == "fail").or(mine.iter().find(|c| c["level"] == "warn")).or(mine.first());
    let text = |key: &str| worst.map_or(String::new(), |c| c[key].as_str().unwrap_or_default().to_owned());
    (text("level"), text("text"), text("todo"))
}

#[tokio::test]
async fn doctor_finds_a_good_node_good() {
    let mut world = World::new();
    world.start().await;
    world.cacher.start().await;
    for node in [&world.sender, &world.receiver, &world.cacher] {
        // A node that stands still for seconds does not answer in time.
        let good = until("it is found good", 60, async || Some(doctor(&node.config_path())).filter(|(code, ..)| *code == 0));
        let (_, checks, all) = good.await;
        for name in
            ["config", "directories", "service", "ports", "tracker", "object store", "cdn", "origin", "database", "database log"]
        {
            assert_eq!(finding(&checks, name).0, "ok", "{} {name}: {all}", node.role);
        }
        until("all of it is found good", 60, async || {
            let full = bftv2(&["doctor", "--full", "--config", utf8(&node.config_path())]);
            (full.code == 0 && full.out.contains("integrity_check ok")).then_some(())
        })
        .await;
    }
}

/// Answers any request with the same text.
fn answering(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::{Read as _, Write as _};
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
        }
    });
    at
}

/// A tracker that knows the first message only.
fn udp_tracker() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let at = socket.local_addr().expect("address");
    std::thread::spawn(move || {
        let mut ask = [0u8; 64];
        while let Ok((16, from)) = socket.recv_from(&mut ask) {
            let answer = [&[0; 4][..], &ask[12..16], &[7; 8]].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
    at
}

#[tokio::test]
async fn doctor_names_what_is_broken_and_what_to_do() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut node = Node::new("sender", dir.path());
    node.set_all(&json!({"obsak": "EXAMPLE-AK", "obssk": "EXAMPLE-SK", "obsurl": "obs://cfec-001", "token": "EXAMPLE-TOKEN"}));
    let sound = world::read_json(&node.config_path());
    let [nobody] = free_ports();
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let held_at = held.local_addr().expect("address").to_string();
    let (other, udp) = (answering("hello").to_string(), udp_tracker());
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("writes");
    let damaged = dir.path().join("damaged.db");
    std::fs::write(&damaged, "x".repeat(5000)).expect("writes");
    let left = node.data().join("transfer/stage/aside/cfec-001-film.1/left");
    std::fs::create_dir_all(&left).expect("directory");
    std::fs::write(left.join("notes.txt"), "theirs").expect("writes");
    // What is changed; name, level, and a part of what is said and of what to do.
    let cases: Vec<(Value, &str, &str, &str, &str)> = vec![
        (json!({}), "config", "ok", "a sender", ""),
        (json!({}), "aside", "warn", "1 of others", "delete the rest"),
        (json!({"datadri": "/x"}), "config", "warn", "datadri", "correct"),
        (json!({"retries": "many"}), "config", "fail", "retries", "correct"),
        (json!({"datadir": file.join("data")}), "directories", "fail", "is not a directory", "datadir"),
        (json!({"btlisten": held_at}), "ports", "fail", "btlisten", "ss -ltnp"),
        (json!({"listen": other}), "service", "fail", "another program answers", "listen"),
        (json!({"listen": nobody.to_string()}), "service", "warn", "nobody answers", "systemctl start"),
        (json!({"tracker": format!("http://{nobody}/announce")}), "tracker", "fail", "refused", "firewall"),
        (json!({"tracker": format!("http://{other}/announce")}), "tracker", "ok", "answers", ""),
        (json!({"tracker": format!("udp://{udp}")}), "tracker", "ok", "answers", ""),
        (json!({"cdnurl": format!("http://{nobody}")}), "cdn", "fail", "refused", "cdnurl"),
        (json!({"senderdomain": format!("http://{nobody}")}), "origin", "fail", "refused", "senderdomain"),
        (
            json!({"obsendpoint": format!("file://{}", dir.path().join("gone").display())}),
            "object store",
            "fail",
            "No such file",
            "obsendpoint",
        ),
        (json!({"obsendpoint": format!("s3+http://{nobody}")}), "object store", "fail", "obs://cfec-001", "obsendpoint"),
        (json!({"database": damaged}), "database", "fail", "is not a database", "Backup"),
        (json!({"servertype": "receiver", "cdnurl": format!("http://{nobody}")}), "cdn", "warn", "refused", ""),
    ];
    for (change, name, level, says, todo) in cases {
        let mut config = sound.clone();
        merge(&mut config, &change);
        std::fs::write(node.config_path(), config.to_string()).expect("writes");
        std::fs::set_permissions(node.config_path(), std::fs::Permissions::from_mode(0o600)).expect("chmod");
        let (mut code, mut checks, mut all) = doctor(&node.config_path());
        if finding(&checks, name).0 != level {
            // An answer may have come too late.
            (code, checks, all) = doctor(&node.config_path());
        }
        let (found, text, advice) = finding(&checks, name);
        assert!(
            found == level && text.contains(says) && advice.contains(todo),
            "{change}: {name} is {found}: {text} -> {advice}"
        );
        assert_eq!(code, i32::from(level == "fail"), "{change}: {all}");
        assert!(!all.contains("EXAMPLE-"), "a secret is told: {all}");
        let lines = bftv2(&["doctor", "--config", utf8(&node.config_path())]).out;
        let word = if level == "fail" { "FAIL" } else { level };
        assert!(lines.lines().any(|l| l.starts_with(word) && l.contains(says)), "{change}: {lines}");
    }
    let missing = bftv2(&["doctor", "--config", utf8(&dir.path().join("none.json"))]);
    assert!(missing.code == 1 && missing.out.contains("FAIL  config"), "{}", missing.out);
    assert!(entries(dir.path()).iter().all(|e| !e.contains("-wal")), "it left files behind");
}

#[tokio::test]
async fn doctor_sees_another_file_system() {
    let dir = tempfile::tempdir().expect("tempdir");
    let elsewhere = tempfile::tempdir_in("/dev/shm").ok();
    let device = |p: &Path| std::fs::metadata(p).expect("there").dev();
    let Some(elsewhere) = elsewhere.filter(|e| device(e.path()) != device(dir.path())) else {
        eprintln!("skipped: there is no second file system here");
        return;
    };
    let mut node = Node::new("receiver", dir.path());
    node.set("basedatapath", utf8(elsewhere.path()));
    let (code, checks, _) = doctor(&node.config_path());
    let (level, text, todo) = finding(&checks, "file system");
    assert!(
        code == 1 && level == "fail" && text.contains("different file systems") && todo.contains("on one"),
        "{text} -> {todo}"
    );
}

/// As services do: the configuration is read again, and nothing is interrupted.
#[tokio::test]
async fn sighup_reads_the_configuration_again() {
    let mut world = World::new();
    world.receiver.start().await;
    let hup = |pid: u32| {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).expect("a pid"), rustix::process::Signal::HUP)
    };
    let events = async || world.receiver.sql("select text from v_events where kind = 'reloadconf'").await.concat();
    hup(world.receiver.pid()).expect("a signal");
    until("it is read again", PATIENCE, async || (events().await == ["configuration read again"]).then_some(())).await;
    std::fs::write(world.receiver.config_path(), "{").expect("config");
    hup(world.receiver.pid()).expect("a signal");
    let refused = async || (events().await.len() == 2).then_some(());
    until("a bad one is refused", PATIENCE, refused).await;
    world.receiver.assert_alive();
    assert!(world.receiver.get("heartbeat").await.is_some());
}
