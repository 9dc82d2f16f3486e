//! BitTorrent among several: trackers that work and trackers that hang, swarms, seeds that come back, and a client of
//! another make.

mod bt_world;
#[path = "world/ports.rs"]
mod ports;
mod support;

use bft2::transport::bt::{BtTransport, Patience};
use bft2::transport::{Outcome, Transport as _};
use bt_world::{KIB, MIB, Seed, announced_torrent, engine, engine_at, fetch, reel, source, start_tracker};
use ports::free_ports;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::sink::{FileSink, Package, ctx, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_tracker_alone_brings_a_swarm_together() {
    let package = Arc::new(Package::make("SWARM_FTR", 8, &[("a.mxf", 6 * MIB), ("b.mxf", 2 * MIB)]));
    let mut source = source(&package, 64 * KIB);
    source.trackers = vec![start_tracker().await];
    let slow = engine_at("127.0.0.1:0".parse().unwrap(), |o| o.upload_bps = Some(8 * MIB)).await;
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
