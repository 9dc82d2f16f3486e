//! BitTorrent among several: trackers that work and trackers that hang, swarms, seeds that come back, and a client of
//! another make.

mod bt_world;
mod support;

use bft2::transport::bt::{BtTransport, Patience};
use bft2::transport::{Outcome, Transport as _};
use bt_world::{
    KIB, MIB, Seed, announced_torrent, engine, engine_at, engine_with, fetch, free_ports, reel, source, start_tracker,
};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::sink::{FileSink, Package, ctx, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_tracker_alone_brings_a_swarm_together() {
    let package = Arc::new(Package::make("SWARM_FTR", 8, &[("a.mxf", 6 * MIB), ("b.mxf", 2 * MIB)]));
    let mut source = source(&package, 64 * KIB);
    source.trackers = vec![start_tracker().await];
    // Members that meet with nothing to give look at each other again after five seconds.
    let slow = engine_with(|o| o.upload_bps = Some(2 * MIB)).await;
    let seed = Seed::start(slow, &package, source.clone()).await;
    let mut leechers = Vec::new();
    for _ in 0..4 {
        let (package, source) = (package.clone(), source.clone());
        leechers.push(tokio::spawn(async move {
            let sink = FileSink::new(&package.files);
            let (outcome, leg) = fetch(source, &package, package.spans(), &sink).await;
            assert_eq!(outcome.unwrap(), Outcome::Done);
            assert!(sink.complete());
            leg.counters.sent.load(Ordering::Relaxed)
        }));
    }
    let mut exchanged = 0;
    for leecher in leechers {
        exchanged += leecher.await.unwrap();
    }
    let sent = seed.ctx.counters.sent.load(Ordering::Relaxed);
    eprintln!("the seed sent {sent} bytes for 4 x {}, the leechers {exchanged} to each other", package.bytes());
    assert!(exchanged > 0, "the members of a swarm relieve the seed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_hangs_stops_nobody_who_knows_a_peer() {
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let package = reel(9);
    let mut source = source(&package, 64 * KIB);
    source.trackers =
        vec![format!("http://{}/announce", hung.local_addr().unwrap()), "nonsense".into(), "file:///etc/passwd".into()];
    let seed = Seed::start(engine().await, &package, source.clone()).await;
    source.peers = vec!["no.such.host.invalid:1".into(), seed.peer()];
    let sink = FileSink::new(&package.files);
    let (outcome, _) =
        tokio::time::timeout(Duration::from_secs(60), fetch(source, &package, package.spans(), &sink)).await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_comes_back_is_found_again() {
    let package = Package::make("BACK_FTR", 11, &[("a.mxf", 8 * MIB)]);
    let mut source = source(&package, 64 * KIB);
    // Nobody else gets it meanwhile.
    let [address] = free_ports();
    let slow = engine_at(address, |o| o.upload_bps = Some(2 * MIB)).await;
    let seed = Seed::start(slow, &package, source.clone()).await;
    source.peers = vec![seed.peer()];
    let (leech, leg, sink) = (engine().await, ctx(), FileSink::new(&package.files));
    let job = package.fetch_job(package.spans(), &sink, &leg);
    let transport = BtTransport::new(leech.engine.clone(), source.clone()).patience(Patience {
        stall: Duration::from_millis(500),
        give_up: Duration::from_secs(120),
        ..Default::default()
    });
    let running = tokio::spawn(async move { transport.fetch(job).await });
    until("some is there", || sink.committed_bytes() > MIB).await;
    seed.engine.engine.stop().await;
    assert!(seed.end().await.unwrap_err().is_transient());
    let back = engine_at(address, |_| {}).await;
    let _seed = Seed::start(back, &package, source).await;
    let outcome = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it goes on").unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
}

// Trackers are named by task files and torrents, which come from outside.

enum Says {
    Body(Vec<u8>),
    Status(u16),
    /// A body without an end.
    Endless(&'static [u8]),
    /// Somewhere else.
    Redirect(String),
}

/// A tracker that says what a test wants.
#[derive(Default)]
struct Tracker {
    /// The first lines of the requests.
    asked: Mutex<Vec<String>>,
    /// For every endless answer that was given up: the bytes that went into the socket.
    sent: Mutex<Vec<usize>>,
}

impl Tracker {
    /// `says` is told how many requests there were before.
    async fn start(says: impl Fn(usize) -> Says + Send + Sync + 'static) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/announce", listener.local_addr().unwrap());
        let (tracker, says) = (Arc::new(Self::default()), Arc::new(says));
        let state = tracker.clone();
        tokio::spawn(async move {
            while let Ok((line, _)) = listener.accept().await {
                let (state, says) = (state.clone(), says.clone());
                tokio::spawn(async move { state.answer(line, &*says).await });
            }
        });
        (tracker, url)
    }

    async fn answer(&self, mut line: TcpStream, says: &(impl Fn(usize) -> Says + Sync)) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(line.read_u8().await?);
        }
        let before = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned());
            asked.len() - 1
        };
        let head = |status: u16, more: &str| format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{more}\r\n");
        match says(before) {
            Says::Body(body) => {
                line.write_all(head(200, &format!("Content-Length: {}\r\n", body.len())).as_bytes()).await?;
                line.write_all(&body).await?;
            }
            Says::Status(status) => line.write_all(head(status, "Content-Length: 0\r\n").as_bytes()).await?,
            Says::Redirect(to) => {
                let more = format!("Location: {to}\r\nContent-Length: 0\r\n");
                line.write_all(head(302, &more).as_bytes()).await?;
            }
            Says::Endless(start) => {
                line.write_all(head(200, "").as_bytes()).await?;
                line.write_all(start).await?;
                let (block, mut sent) = (vec![b'1'; 1 << 16], 0);
                while line.write_all(&block).await.is_ok() {
                    sent += block.len();
                }
                self.sent.lock().unwrap().push(sent);
            }
        }
        line.shutdown().await
    }

    fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Whether somebody asked with all of these in his request.
    fn was_told(&self, what: &[&str]) -> bool {
        self.asked.lock().unwrap().iter().any(|line| what.iter().all(|w| line.contains(w)))
    }
}

/// A tracker's answer that names these peers.
fn naming(peers: &[SocketAddr]) -> Vec<u8> {
    let mut out = format!("d8:intervali1800e5:peers{}:", peers.len() * 6).into_bytes();
    out.extend(compact(peers));
    out.push(b'e');
    out
}

fn compact(peers: &[SocketAddr]) -> Vec<u8> {
    let one = |peer: &SocketAddr| match peer {
        SocketAddr::V4(a) => [&a.ip().octets()[..], &a.port().to_be_bytes()].concat(),
        SocketAddr::V6(_) => unreachable!("the tests use version 4"),
    };
    peers.iter().flat_map(one).collect()
}

/// Both the tracker of a torrent and that of a task.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_end_is_cut_off() {
    let package = reel(16);
    for start in [&b""[..], b"d8:intervali60e5:peers999999999:"] {
        let (tracker, url) = Tracker::start(move |_| Says::Endless(start)).await;
        let mut source = source(&package, 64 * KIB);
        source.torrent = announced_torrent(&package, &source.map, 64 * KIB, &url);
        let seed = Seed::start(engine().await, &package, source.clone()).await;
        until("the seed has hung up", || !tracker.sent.lock().unwrap().is_empty()).await;
        source.trackers = vec![format!("{url}?task")];
        source.peers = vec![seed.peer()];
        let (leech, leg, sink) = (engine().await, ctx(), FileSink::new(&package.files));
        let job = package.fetch_job(package.spans(), &sink, &leg);
        let slow = BtTransport::new(leech.engine.clone(), source);
        leech.engine.set_rates(None, Some(256 * KIB));
        let running = tokio::spawn(async move { slow.fetch(job).await });
        until("both are given up", || tracker.sent.lock().unwrap().len() >= 3).await;
        leech.engine.set_rates(None, None);
        assert_eq!(running.await.unwrap().unwrap(), Outcome::Done);
        // What the system holds for a connection is counted too.
        let sent = tracker.sent.lock().unwrap().clone();
        assert!(sent.iter().all(|n| *n < 16 << 20), "{sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_wants_to_be_asked_all_the_time_is_not() {
    let (tracker, url) = Tracker::start(|_| Says::Body(b"d8:intervali0e12:min intervali0e5:peers0:e".to_vec())).await;
    let package = reel(17);
    let mut source = source(&package, 64 * KIB);
    source.trackers = vec![url];
    let _seed = Seed::start(engine().await, &package, source).await;
    until("the tracker was asked", || tracker.times() > 0).await;
    tokio::time::sleep(Duration::from_secs(3)).await; // it would be hundreds of times
    assert!(tracker.times() <= 2, "{} times", tracker.times());
}

#[tokio::test(flavor = "multi_thread")]
async fn trackers_that_talk_nonsense_stop_nobody_who_knows_a_peer() {
    let package = reel(18);
    let deep = |n: usize| [b"d1:a".to_vec(), vec![b'l'; n]].concat();
    let nonsense: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"<html>not found</html>".to_vec(),
        b"d8:intervali-5e5:peers0:e".to_vec(),
        b"d8:intervali99999999999999999999999e5:peers0:e".to_vec(),
        b"d8:intervali1000000000000000000e5:peers0:e".to_vec(),
        b"d8:intervali60e5:peers5:abcdee".to_vec(),
        b"d14:failure reason8:go\nawaye".to_vec(),
        vec![b'l'; 200_000],
        deep(200_000),
        vec![b'i'; 200_000],
    ];
    let (mut trackers, mut urls) = (Vec::new(), Vec::new());
    for body in nonsense {
        let (tracker, url) = Tracker::start(move |_| Says::Body(body.clone())).await;
        trackers.push(tracker);
        urls.push(url);
    }
    let (chain, url) = Tracker::start(|n| Says::Redirect(format!("/announce?again={n}"))).await;
    urls.push(url);
    let (local, url) = Tracker::start(|_| Says::Redirect("file:///etc/passwd".into())).await;
    urls.push(url);
    let mut source = source(&package, 64 * KIB);
    source.trackers = urls;
    let seed = Seed::start(engine().await, &package, source.clone()).await;
    source.peers = vec![seed.peer()];
    let sink = FileSink::new(&package.files);
    let (outcome, _) =
        tokio::time::timeout(Duration::from_secs(60), fetch(source, &package, package.spans(), &sink)).await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Done);
    until("the seed has asked them all", || trackers.iter().chain([&local]).all(|t| t.times() > 0)).await;
    until("the seed has followed the chain", || chain.times() > 2).await;
    let asked = chain.asked.lock().unwrap().clone();
    let announces = asked.iter().filter(|line| !line.contains("again=")).count();
    assert!(announces <= 20 && asked.len() <= announces * 6, "{} requests for {announces} announces", asked.len());
}

/// It says what it has and lacks, in every word that trackers know.
#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_was_away_is_asked_again_and_told_all() {
    let package = reel(19);
    let mut source = source(&package, 64 * KIB);
    let seed = Seed::start(engine().await, &package, source.clone()).await;
    let address = seed.engine.engine.listen_addr();
    let strangers = ["0.0.0.0:0", "127.0.0.1:0", "255.255.255.255:9", "127.0.0.1:9"].map(|a| a.parse().unwrap());
    let named = naming(&[&strangers[..], &[address]].concat());
    let (tracker, url) = Tracker::start(move |n| if n == 0 { Says::Status(503) } else { Says::Body(named.clone()) }).await;
    source.trackers = vec![format!("{url}?passkey=abc")];
    let sink = FileSink::new(&package.files);
    let fetched = fetch(source.clone(), &package, package.spans(), &sink);
    let (outcome, _) = tokio::time::timeout(Duration::from_secs(60), fetched).await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
    let all = format!("left={}", package.bytes());
    assert!(tracker.was_told(&["event=started", &all, "downloaded=0", "passkey=abc"]), "{:?}", tracker.asked);
    for event in ["event=completed", "event=stopped"] {
        until(event, || tracker.was_told(&[event, "left=0"])).await;
    }
    let asked = tracker.times();
    let _seed = Seed::start(engine().await, &package, source).await;
    until("a seed has told", || tracker.asked.lock().unwrap()[asked..].iter().any(|l| l.contains("event=started"))).await;
    assert!(tracker.asked.lock().unwrap()[asked..].iter().all(|l| l.contains("left=0")), "{:?}", tracker.asked);
}

/// BEP 15. It asks for nothing more than where the seed is.
#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_over_udp_brings_a_receiver_to_the_seed() {
    let package = reel(20);
    let mut source = source(&package, 64 * KIB);
    let seed = Seed::start(engine().await, &package, source.clone()).await;
    let named = compact(&[seed.engine.engine.listen_addr()]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    source.trackers = vec![format!("udp://{}/announce", socket.local_addr().unwrap())];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buf = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buf).await {
            let (action, transaction) = (&buf[8..12], &buf[12..16]);
            let answer = match n {
                16 => [action, transaction, b"abcdefgh"].concat(),
                _ if &buf[..8] == b"abcdefgh" => {
                    count.fetch_add(1, Ordering::Relaxed);
                    [action, transaction, &[0; 12], &named].concat() // an interval of nothing
                }
                _ => continue,
            };
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    let sink = FileSink::new(&package.files);
    let fetched = fetch(source, &package, package.spans(), &sink);
    let (outcome, _) = tokio::time::timeout(Duration::from_secs(60), fetched).await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(asked.load(Ordering::Relaxed) >= 1);
}

/// The client that version 1 receivers run. It takes a connection from its own address for itself, hence 127.0.0.2.
#[tokio::test(flavor = "multi_thread")]
async fn ctorrent_downloads_from_our_seed_through_our_tracker() {
    let Ok(_) = Command::new("ctorrent").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status() else {
        eprintln!("skipped: ctorrent is not installed");
        return;
    };
    let package = Package::make("V1_FTR", 15, &[("ASSETMAP", 700), ("reel1/pic.mxf", 3 * MIB + 11), ("reel1/snd.mxf", MIB)]);
    let announce = start_tracker().await;
    let mut source = source(&package, 256 * KIB);
    source.torrent = announced_torrent(&package, &source.map, 256 * KIB, &announce);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("V1_FTR.torrent"), &source.torrent).unwrap();
    let seed = Seed::start(engine().await, &package, source).await;
    let [port] = free_ports().map(|at| at.port().to_string());
    let mut child = tokio::process::Command::new("ctorrent")
        .args(["-i", "127.0.0.2", "-p", &port, "-e", "0", "-s", "V1_FTR", "V1_FTR.torrent"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // It says goodbye to the tracker a quarter of a minute later: nobody waits for that.
    let same = |file: usize| {
        let meta = &package.files[file];
        let got = std::fs::read(meta.path.under(&dir.path().join("V1_FTR"))).unwrap_or_default();
        got == package.read(file as u32, 0..meta.size)
    };
    until("ctorrent has every byte", || (0..package.files.len()).all(same)).await;
    until("what was sent is counted", || seed.ctx.counters.sent.load(Ordering::Relaxed) >= package.bytes()).await;
    child.kill().await.unwrap();
}
