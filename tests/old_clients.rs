//! Clients of other makes, as they come from Debian, beside our nodes: ctorrent, which version 1 receivers and senders run,
//! opentracker, aria2c, transmission. A test whose program is not installed is skipped, and says so.

mod world;

use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use world::{PATIENCE, SUBDIR, World, file_name, free_ports, task_name, tree, try_tree, until};

/// ctorrent takes a connection from its own address for itself, and ours come from 127.0.0.1.
const CTORRENT: &str = "127.0.0.2";

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// Ends with the test. Its output goes to a file that is shown when the test fails.
struct Program(Child, std::path::PathBuf);

impl Program {
    fn start(dir: &Path, program: &str, args: &[&str]) -> Self {
        std::fs::create_dir_all(dir).expect("directory");
        let log = dir.join(format!("{program}.log"));
        let out = std::fs::File::create(&log).expect("log");
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).stdin(Stdio::null()).env("HOME", dir);
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.stdout(out.try_clone().expect("log")).stderr(out).kill_on_drop(true);
        Self(command.spawn().unwrap_or_else(|e| panic!("{program}: {e}")), log)
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.1).unwrap_or_default()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.start_kill();
        // Its port may be the next one's.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while matches!(self.0.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            let said = self.said();
            eprintln!("--- {}\n{}", self.1.display(), &said[said.len().saturating_sub(2000)..]);
        }
    }
}

async fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().await.expect(program);
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn free_port() -> String {
    let [at] = free_ports();
    at.port().to_string()
}

/// A torrent as an old system gets it: from the sender's web server.
async fn fetch_torrent(world: &World, name: &str, to: &Path) {
    let url = format!("http://{}/dcp/{SUBDIR}/dcps/{name}.torrent", world.web);
    let answer = reqwest::get(&url).await.expect("the web server answers");
    assert!(answer.status().is_success(), "{url}: {}", answer.status());
    std::fs::create_dir_all(to.parent().expect("parent")).expect("directory");
    std::fs::write(to, answer.bytes().await.expect("body")).expect("write");
}

fn info_hash(torrent: &Path) -> [u8; 20] {
    bft2::package::metainfo::Metainfo::parse(&std::fs::read(torrent).expect("torrent")).expect("metainfo").info_hash()
}

fn same(copy: &Path, master: &Path) -> bool {
    // A client renames its files when they are whole.
    try_tree(copy).is_ok_and(|copy| copy == tree(master))
}

/// A version 1 cinema fetches with ctorrent what a version 2 sender sends with `1:0:0`.
#[tokio::test]
async fn ctorrent_downloads_from_our_sender_and_finds_all_of_it_good() {
    if !installed("ctorrent") {
        return;
    }
    let world = World::started().await;
    let package = world.package("film", 9, 2);
    world.publish("film", "1:0:0").await;
    let dir = world.dir.path().join("v1");
    fetch_torrent(&world, "film", &dir.join("film.torrent")).await;
    let port = free_port();
    let args = ["-i", CTORRENT, "-p", &port, "-e", "0", "-s", "film", "film.torrent"];
    let client = Program::start(&dir, "ctorrent", &args);
    until("ctorrent has every byte", PATIENCE, async || same(&dir.join("film"), &package.dir).then_some(())).await;
    drop(client);
    let said = run(&dir, "ctorrent", &["-c", "-s", "film", "film.torrent"]).await;
    assert!(said.replace('\r', "\n").lines().any(|l| l.contains("Already/Total") && l.contains("(100%)")), "{said}");
}

/// Only `n:0:0` has the full torrent served: with another ratio a version 1 client is not even answered, and nothing of a
/// part is sent for it.
#[tokio::test]
async fn with_another_ratio_a_version_1_client_gets_nothing() {
    let world = World::started().await;
    world.package("film", 9, 2);
    world.publish("film", "1:1:1").await;
    let full = world.sender.store().join("film.torrent");
    let part = world.sender.data().join("dcp").join(SUBDIR).join("dcps-tmp/film-tmp.torrent");
    let bt = world.sender.bt;
    let answer = move |hash: [u8; 20]| tokio::task::spawn_blocking(move || handshake(bt, hash));
    assert_eq!(answer(info_hash(&part)).await.expect("answer"), Some(info_hash(&part)), "the part is served");
    assert_eq!(answer(info_hash(&full)).await.expect("answer"), None, "the full torrent is not");
    if !installed("ctorrent") {
        return;
    }
    let dir = world.dir.path().join("v1");
    fetch_torrent(&world, "film", &dir.join("film.torrent")).await;
    let port = free_port();
    let args = ["-i", CTORRENT, "-p", &port, "-e", "0", "-s", "film", "film.torrent"];
    let client = Program::start(&dir, "ctorrent", &args);
    // It has asked the tracker, and shows its line of progress.
    until("ctorrent shows how far it is", PATIENCE, async || client.said().contains("[0/").then_some(())).await;
    let sent = world.sender.number("select sum(bytes_sent) from v_legs").await;
    assert_eq!(sent, 0, "{}", client.said());
}

/// What a seed answers to the first message of a peer: the torrent's hash, or nothing.
fn handshake(seed: SocketAddr, hash: [u8; 20]) -> Option<[u8; 20]> {
    let mut line = TcpStream::connect(seed).expect("connect");
    line.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    hello.extend(hash);
    hello.extend(b"-CD0303-012345678901");
    line.write_all(&hello).expect("write");
    let mut answer = [0; 68];
    line.read_exact(&mut answer).ok()?;
    answer[28..48].try_into().ok()
}

/// A version 1 centre: the torrent is seeded by ctorrent alone.
#[tokio::test]
async fn we_download_from_a_ctorrent_seed() {
    if !installed("ctorrent") {
        return;
    }
    let mut world = World::new();
    let port = free_port();
    world.sender.set("btpeers", json!([format!("{CTORRENT}:{port}")]));
    let package = world.package("film", 9, 2);
    world.start().await;
    // Made, and never sent: our sender does not seed it.
    let taskfile = world.gentask("film", "1:0:0").await;
    let dir = world.dir.path().join("v1");
    fetch_torrent(&world, "film", &dir.join("film.torrent")).await;
    let master = package.dir.to_str().expect("path");
    let seed = Program::start(&dir, "ctorrent", &["-i", CTORRENT, "-p", &port, "-e", "1", "-s", master, "film.torrent"]);
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
    assert_eq!(world.sender.number("select count(*) from v_tasks").await, 0);
    drop(seed);
}

/// Debian's opentracker tracks what is on its white list, and brings a receiver that knows nobody to the sender.
#[tokio::test]
async fn opentracker_brings_a_receiver_to_the_sender() {
    if !installed("opentracker") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: opentracker wants to be root, to leave it");
        return;
    }
    let mut world = World::new();
    let [tracker] = free_ports();
    for node in [&mut world.sender, &mut world.receiver] {
        node.set_all(&json!({"tracker": format!("http://{tracker}/announce"), "btpeers": []}));
    }
    world.sender.set("trackerlisten", "");
    let package = world.package("film", 9, 2);
    world.start().await;
    let taskfile = world.gentask("film", "1:0:0").await;
    // It drops to nobody, and reads its list from its new root.
    let dir = tempfile::tempdir().expect("directory");
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("directory");
    let open = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
    };
    std::fs::write(root.join("whitelist.txt"), hex::encode_upper(info_hash(&world.sender.store().join("film.torrent"))) + "\n")
        .expect("write");
    open(dir.path(), 0o755);
    open(&root, 0o755);
    let lines = format!(
        "listen.tcp_udp {tracker}\naccess.whitelist /whitelist.txt\ntracker.rootdir {}\ntracker.user nobody\n",
        root.display()
    );
    std::fs::write(dir.path().join("ot.conf"), lines).expect("write");
    let _tracker = Program::start(dir.path(), "opentracker", &["-f", "ot.conf"]);
    let up = async || tokio::net::TcpStream::connect(tracker).await.ok().map(drop);
    until("opentracker listens", PATIENCE, up).await;
    let taskfile = world.send(&taskfile).await;
    assert!(!std::fs::read_to_string(&taskfile).expect("task file").contains(&world.sender.bt.to_string()), "nobody is named");
    world.receive(&taskfile).await;
    world.assert_delivered(&package);
}

/// aria2c and transmission, from our sender and to our receiver.
#[tokio::test]
async fn aria2c_is_served_and_serves() {
    if !installed("aria2c") {
        return;
    }
    both_ways("aria2c", None, |dir, port, torrent, seeds| {
        let mut args = vec![
            format!("--dir={dir}"),
            format!("--listen-port={port}"),
            "--enable-dht=false".into(),
            "--enable-peer-exchange=false".into(),
            "--check-integrity=true".into(),
            "--bt-exclude-tracker=".into(),
            "--seed-ratio=0.0".into(),
        ];
        args.push(if seeds { "--seed-time=60" } else { "--seed-time=0" }.into());
        args.push(torrent.into());
        args
    })
    .await;
}

#[tokio::test]
async fn transmission_is_served_and_serves() {
    if !installed("transmission-cli") {
        return;
    }
    // It takes nobody on a loopback address for a peer. Nothing is sent: the system only says which address it would use.
    let outward = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("192.0.2.1:9").and(s.local_addr()));
    let Some(own) = outward.ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified()) else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    both_ways("transmission-cli", Some(own), |dir, port, torrent, _| {
        ["-w", dir, "-p", port, "-M", "-et", "-g", &format!("{dir}/.config"), "-v", torrent].map(str::to_owned).to_vec()
    })
    .await;
}

/// `at`: the address that everybody uses, when it is not to be loopback. `args`: the directory that holds the package, a
/// port, the torrent, whether it is there already.
async fn both_ways(program: &str, at: Option<IpAddr>, args: impl Fn(&str, &str, &str, bool) -> Vec<String>) {
    let mut world = World::new();
    let port = free_port();
    world.sender.set("btpeers", json!([format!("127.0.0.1:{port}")]));
    if let Some(ip) = at {
        let listen = world::read_json(&world.sender.config_path())["trackerlisten"].as_str().expect("tracker").to_owned();
        let tracker: SocketAddr = listen.parse().expect("address");
        world.sender.set("trackerlisten", format!("0.0.0.0:{}", tracker.port()));
        for node in [&mut world.sender, &mut world.receiver] {
            let bt = format!("0.0.0.0:{}", node.bt.port());
            let tracker = format!("http://{ip}:{}/announce", tracker.port());
            node.set_all(&json!({"btlisten": bt, "tracker": tracker, "btpeers": [format!("{ip}:{port}")]}));
        }
    }
    let package = world.package("film", 4, 2);
    let other = world.package("other", 4, 1);
    world.start().await;
    world.publish("film", "1:0:0").await;
    let dir = world.dir.path().join("client");
    fetch_torrent(&world, "film", &dir.join("film.torrent")).await;
    let (at, torrent) = (dir.to_str().expect("path"), dir.join("film.torrent"));
    let list = args(at, &port, torrent.to_str().expect("path"), false);
    let client = Program::start(&dir, program, &list.iter().map(String::as_str).collect::<Vec<_>>());
    until(&format!("{program} has every byte"), PATIENCE, async || same(&dir.join("film"), &package.dir).then_some(())).await;
    drop(client);

    let taskfile = world.gentask("other", "1:0:0").await;
    assert_eq!(file_name(&taskfile), task_name("other"));
    fetch_torrent(&world, "other", &dir.join("other.torrent")).await;
    world::copy_tree(&other.dir, &dir.join("other"));
    let torrent = dir.join("other.torrent");
    let list = args(at, &port, torrent.to_str().expect("path"), true);
    let _client = Program::start(&dir, program, &list.iter().map(String::as_str).collect::<Vec<_>>());
    world.receive(&taskfile).await;
    world.assert_delivered(&other);
    assert_eq!(
        world.sender.number("select count(*) from v_tasks where task like '%other%'").await,
        0,
        "our sender did not seed it"
    );
}
