//! BitTorrent's surroundings in a test: metainfo, engines, a running seed, a tracker.
#![allow(dead_code)]

#[path = "../world/ports.rs"]
mod ports;

use crate::support::sink::{FileSink, Package, ctx, until};
use bft2::error::Fault;
use bft2::model::span::Span;
use bft2::transport::bt::{BtEngine, BtSource, BtTransport, EngineOptions};
use bft2::transport::{LegContext, Outcome, Transport as _};
use bft2::web::tracker::{TrackerOptions, TrackerState, tracker};
use poem::listener::{Acceptor as _, Listener as _};
pub use ports::free_ports;
use sha1::Digest as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// Metainfo whose files are these spans of the package, in order.
pub fn torrent(package: &Package, map: &[Span], piece: u64) -> Vec<u8> {
    announced_torrent(package, map, piece, "http://127.0.0.1:1/announce")
}

/// With a tracker inside, for clients that are told nothing else.
pub fn announced_torrent(package: &Package, map: &[Span], piece: u64, announce: &str) -> Vec<u8> {
    let mut out = format!("d8:announce{}:{announce}4:infod5:filesl", announce.len()).into_bytes();
    let mut bytes = Vec::new();
    for span in map {
        out.extend(format!("d6:lengthi{}e4:pathl", span.len).bytes());
        let path = package.files[span.file as usize].path.as_str();
        let part = format!("{:08}", span.offset);
        for name in path.split('/').chain((span.offset > 0).then_some(part.as_str())) {
            out.extend(format!("{}:{name}", name.len()).bytes());
        }
        out.extend(b"ee");
        bytes.extend(package.read(span.file, span.range()));
    }
    let hashes: Vec<u8> = bytes.chunks(piece as usize).flat_map(sha1::Sha1::digest).collect();
    let name = &package.name;
    out.extend(format!("e4:name{}:{name}12:piece lengthi{piece}e6:pieces{}:", name.len(), hashes.len()).bytes());
    out.extend(hashes);
    out.extend(b"ee");
    out
}

pub fn source(package: &Package, piece: u64) -> BtSource {
    let map = package.spans();
    let torrent = torrent(package, &map, piece);
    BtSource { torrent, map, trackers: Vec::new(), peers: Vec::new(), known_good: true }
}

pub struct Engine {
    pub engine: Arc<BtEngine>,
    pub _state: TempDir,
}

pub async fn engine_at(listen: SocketAddr, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    // One that was there before may not be gone yet.
    until("the port is free", || ports::is_free(listen)).await;
    let state = tempfile::tempdir().unwrap();
    let mut options = EngineOptions::new(listen, state.path());
    change(&mut options);
    Engine { engine: BtEngine::start(options).await.unwrap(), _state: state }
}

/// At a port that nobody else gets: one of the system's choice could be another engine's connection before it is bound.
pub async fn engine_with(change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let [listen] = free_ports();
    engine_at(listen, change).await
}

pub async fn engine() -> Engine {
    engine_with(|_| {}).await
}

/// A running publish leg.
pub struct Seed {
    pub engine: Engine,
    pub ctx: LegContext,
    pub running: Option<JoinHandle<Result<Outcome, Fault>>>,
}

impl Seed {
    pub async fn start(engine: Engine, package: &Package, source: BtSource) -> Self {
        let seed = Self::launch(engine, package, source);
        until("the seed is up", || seed.ctx.counters.is_ready() || seed.running.as_ref().unwrap().is_finished()).await;
        assert!(seed.ctx.counters.is_ready(), "{:?}", seed.end().await);
        seed
    }

    pub fn launch(engine: Engine, package: &Package, source: BtSource) -> Self {
        let ctx = ctx();
        let job = package.publish_job(&ctx);
        let transport = BtTransport::new(engine.engine.clone(), source);
        let running = Some(tokio::spawn(async move { transport.publish(job).await }));
        Self { engine, ctx, running }
    }

    pub fn peer(&self) -> String {
        self.engine.engine.listen_addr().to_string()
    }

    /// Waits for the leg's end.
    pub async fn end(mut self) -> Result<Outcome, Fault> {
        self.running.take().unwrap().await.unwrap()
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.ctx.stop.cancel();
    }
}

pub async fn fetch(
    source: BtSource,
    package: &Package,
    spans: Vec<Span>,
    sink: &Arc<FileSink>,
) -> (Result<Outcome, Fault>, LegContext) {
    let (leech, ctx) = (engine().await, ctx());
    let job = package.fetch_job(spans, sink, &ctx);
    (BtTransport::new(leech.engine.clone(), source).fetch(job).await, ctx)
}

pub fn reel(seed: u64) -> Package {
    Package::make(
        "REEL_FTR",
        seed,
        &[("ASSETMAP", 700), ("empty", 0), ("reel1/pic.mxf", 5 * MIB + 11), ("reel1/snd.mxf", 2 * MIB)],
    )
}

/// An embedded tracker with members that announce themselves each second; its announce URL.
pub async fn start_tracker() -> String {
    let acceptor = poem::listener::TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let addr = acceptor.local_addr()[0].clone();
    let options = TrackerOptions { interval: Duration::from_secs(1), min_interval: Duration::from_secs(1), ..Default::default() };
    let endpoint = tracker(Arc::new(TrackerState::new(options)));
    tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(endpoint));
    format!("http://{}/announce", addr.as_socket_addr().unwrap())
}
