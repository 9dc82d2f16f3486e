//! BitTorrent over spans, with librqbit as the engine.
//!
//! Every file of a torrent is mapped to a [`Span`] of a package file ([`BtSource::map`]). A sender seeds the package in
//! place and read-only; a receiver's pieces go straight through the [`Sink`] into the staged files. No second tree, no
//! symlinks, no renaming of what a torrent calls its files: the names inside a torrent are never used.
//!
//! librqbit is used for what it does well (peers, wire protocol) and kept away from the rest, because its own storage opens
//! masters for writing and truncates them, its own resume data accepts corrupt files, and it believes every tracker:
//!
//! * storage is ours: [`receive`] over a [`Sink`], [`seed`] read-only over the package;
//! * what is "have" at start is ours: a bitfield made from [`Sink::missing`] just before the torrent is added, never one
//!   that librqbit wrote ([`engine`]). Nothing is read again that the sink knows, nothing is believed that it does not;
//! * when a fetch is done is ours: the sink says so, librqbit's `finished` and its waiting functions are not asked;
//! * trackers are asked by us, within bounds ([`trackers`]);
//! * stalls are ours: a torrent that gets no byte is paused and resumed, which dials lost peers and asks trackers again
//!   (librqbit backs off for up to an hour).
//!
//! The natural alternative, letting librqbit download to a directory and moving files afterwards, needs the space
//! twice and cannot move parts of files. May import: model, error, librqbit.

mod check;
mod engine;
mod fetch;
mod layout;
mod publish;
mod receive;
mod scout;
mod seed;
mod trackers;
mod turns;

pub use check::wrong_files;
pub use engine::{BtEngine, EngineOptions};

use super::{FetchJob, Outcome, PublishJob, Transport};
use crate::error::Fault;
use crate::model::span::{Method, Span};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a leg knows about its torrent.
#[derive(Clone, Debug)]
pub struct BtSource {
    /// The metainfo file.
    pub torrent: Vec<u8>,
    /// For every file of the torrent, in its order, the span of the package file (index into the job's files).
    pub map: Vec<Span>,
    /// Announce URLs besides those in the torrent (`http`, `https`, `udp`; others are ignored).
    pub trackers: Vec<String>,
    /// `host:port` of peers that are dialled without a tracker, so that a dead tracker stops nobody.
    pub peers: Vec<String>,
    /// Publishing: the package's bytes are known to be those that were hashed; seed at once instead of reading them all.
    pub known_good: bool,
}

/// How long a fetch waits for bytes.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a byte for so long, peers and trackers are asked anew.
    pub stall: Duration,
    /// Without a byte for so long, the run ends with a transient fault.
    pub give_up: Duration,
    /// Bytes that arrive for so long without one piece that passes its check mean a seed that has something else. A busy
    /// machine checks late, and peers send some pieces twice: both are no proof.
    pub proof: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(20), give_up: Duration::from_secs(300), proof: Duration::from_secs(60) }
    }
}

/// One leg's BitTorrent side.
///
/// The leg's limiter caps fetching, for all torrents of the engine together ([`BtEngine`] says why); what is sent to
/// peers is capped by [`BtEngine::set_rates`] alone.
pub struct BtTransport {
    engine: Arc<BtEngine>,
    source: BtSource,
    patience: Patience,
    diversify: bool,
    caching: bool,
    /// A caching task's turn, from its fetch to the end of its seed.
    turn: Mutex<Option<turns::Turn>>,
}

impl BtTransport {
    pub fn new(engine: Arc<BtEngine>, source: BtSource) -> Self {
        Self { engine, source, patience: Patience::default(), diversify: true, caching: false, turn: Mutex::default() }
    }

    /// Changes how long a fetch waits for bytes.
    pub fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Whether a fetch asks for pieces at random places besides librqbit's sequential order, so that a swarm's members
    /// hold different pieces and relieve the centre. On by default.
    pub fn diversify(mut self, on: bool) -> Self {
        self.diversify = on;
        self
    }

    /// For a task that fetches and then seeds from the same place. It waits for other such tasks of the same torrent, without
    /// an error, and copies what they have. Its package is what the sink says it is: a file that changes ends it.
    pub fn caching(mut self, on: bool) -> Self {
        self.caching = on;
        self
    }
}

#[async_trait::async_trait]
impl Transport for BtTransport {
    fn method(&self) -> Method {
        Method::Bt
    }
    async fn fetch(&self, job: FetchJob) -> Result<Outcome, Fault> {
        if self.caching { turns::fetch(self, &job).await } else { fetch::run(self, &job).await }
    }
    async fn publish(&self, job: PublishJob) -> Result<Outcome, Fault> {
        publish::run(self, job).await
    }
}

/// How often a running torrent is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Names are looked up for so long at most, at each start.
const LOOKUP: Duration = Duration::from_secs(5);
/// Peers named by a task: a list longer than this helps nobody.
const MAX_NAMED_PEERS: usize = 64;

/// Addresses of `host:port` peers, ourselves left out. A name that cannot be resolved is logged and left out: another peer or the tracker may do.
async fn resolve_peers(task: &str, peers: &[String], listen: SocketAddr) -> Vec<SocketAddr> {
    let lookups = peers.iter().take(MAX_NAMED_PEERS).map(|peer| async move {
        match tokio::time::timeout(LOOKUP, tokio::net::lookup_host(peer.as_str())).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(e)) => {
                tracing::warn!(task, peer, error = %e, "cannot resolve a BitTorrent peer of the task");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(task, peer, "resolving a BitTorrent peer of the task took too long");
                Vec::new()
            }
        }
    });
    let mut all: Vec<SocketAddr> = futures::future::join_all(lookups).await.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|peer| !engine::is_self(listen, *peer));
    all
}

/// Turns a counter that starts from zero whenever librqbit restarts a torrent into increments.
#[derive(Default)]
struct Meter(u64);

impl Meter {
    fn increment(&mut self, now: u64) -> u64 {
        let increment = if now >= self.0 { now - self.0 } else { now };
        self.0 = now;
        increment
    }
    fn restarted(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_survives_restarts_of_its_counter() {
        let mut m = Meter::default();
        assert_eq!([m.increment(5), m.increment(5), m.increment(9), m.increment(2)], [5, 0, 4, 2]);
        m.restarted();
        assert_eq!(m.increment(7), 7);
    }

    #[tokio::test]
    async fn peers_that_cannot_be_resolved_are_left_out() {
        let listen = "127.0.0.1:7000".parse().unwrap();
        let peers = [
            "127.0.0.1:7000".to_owned(),
            "127.0.0.1:7001".to_owned(),
            "nonsense".to_owned(),
            "127.0.0.1:7001".to_owned(),
            "no.such.host.invalid:1".to_owned(),
        ];
        assert_eq!(resolve_peers("t", &peers, listen).await, vec!["127.0.0.1:7001".parse().unwrap()]);
    }
}
