//! The embedded BitTorrent tracker (HTTP): tells the members of a swarm about each other.
//!
//! Small on purpose: everything is in memory, because members announce themselves again within the interval after a
//! restart. The query is decoded by hand, because `info_hash` and `peer_id` are 20 raw bytes, not text. A member's
//! address is the connection's, never what it claims, so that nobody can enter somebody else into a swarm; a tracker
//! behind a proxy would therefore see only the proxy, which is why this one is meant to be reached directly.
//!
//! Answers are always `200`, failures included (`failure reason`): old clients read nothing else.

use poem::http::header;
use poem::web::Data;
use poem::{Addr, Endpoint, EndpointExt as _, Request, Response, Route, get, handler};
use rand::seq::IteratorRandom as _;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub type InfoHash = [u8; 20];
type PeerId = [u8; 20];

/// What a client that names no number gets, and the most anyone gets.
const DEFAULT_WANT: usize = 50;
const MAX_WANT: usize = 200;
/// Torrents in one scrape.
const MAX_SCRAPE: usize = 64;
/// Members of one swarm behind one address: several cinemas behind one router are fine, one host filling the swarm is not.
const MAX_PEERS_PER_ADDRESS: usize = 64;

/// Bounds and times of a tracker.
#[derive(Clone, Copy, Debug)]
pub struct TrackerOptions {
    /// Members announce themselves so often. Short, because swarms are small and a lost seed should be found soon.
    pub interval: Duration,
    /// They may not do so more often.
    pub min_interval: Duration,
    /// A member that is silent for so long is forgotten.
    pub expiry: Duration,
    pub max_swarms: usize,
    pub max_peers_per_swarm: usize,
}

impl Default for TrackerOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            min_interval: Duration::from_secs(15),
            expiry: Duration::from_secs(120),
            max_swarms: 10_000,
            max_peers_per_swarm: 2_000,
        }
    }
}

/// Says which torrents may be tracked.
pub type Allow = Box<dyn Fn(&InfoHash) -> bool + Send + Sync>;

/// The swarms of one tracker.
pub struct TrackerState {
    options: TrackerOptions,
    allow: Option<Allow>,
    swarms: Mutex<HashMap<InfoHash, Swarm>>,
}

#[derive(Default)]
struct Swarm {
    /// By address: a client that restarts has another id and replaces itself.
    peers: HashMap<SocketAddr, Peer>,
    completed: u64,
}

struct Peer {
    id: PeerId,
    left: u64,
    seen: Instant,
}

impl Swarm {
    fn expire(&mut self, now: Instant, expiry: Duration) {
        self.peers.retain(|_, p| now.saturating_duration_since(p.seen) < expiry);
    }
    fn seeds(&self) -> usize {
        self.peers.values().filter(|p| p.left == 0).count()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    None,
    Started,
    Stopped,
    Completed,
}

#[derive(Debug, PartialEq, Eq)]
struct Announce {
    info_hash: InfoHash,
    peer_id: PeerId,
    port: u16,
    left: u64,
    event: Event,
    want: usize,
    compact: bool,
    no_peer_id: bool,
}

/// Numbers for the console and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerCounts {
    pub swarms: usize,
    pub peers: usize,
}

impl TrackerState {
    pub fn new(options: TrackerOptions) -> Self {
        Self { options, allow: None, swarms: Mutex::default() }
    }

    /// Tracks only torrents that `allow` names.
    pub fn only(mut self, allow: Allow) -> Self {
        self.allow = Some(allow);
        self
    }

    pub fn counts(&self) -> TrackerCounts {
        let swarms = self.swarms.lock().unwrap_or_else(PoisonError::into_inner);
        TrackerCounts { swarms: swarms.len(), peers: swarms.values().map(|s| s.peers.len()).sum() }
    }

    fn allowed(&self, hash: &InfoHash) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow(hash))
    }

    fn announce(&self, now: Instant, ip: IpAddr, a: &Announce) -> Result<Vec<u8>, &'static str> {
        if !self.allowed(&a.info_hash) {
            return Err("Requested download is not authorized for use with this tracker.");
        }
        let addr = SocketAddr::new(ip, a.port);
        let mut swarms = self.swarms.lock().unwrap_or_else(PoisonError::into_inner);
        if !swarms.contains_key(&a.info_hash) {
            if a.event == Event::Stopped {
                return Ok(self.reply(&Swarm::default(), a, addr));
            }
            self.make_room(&mut swarms, now)?;
        }
        let swarm = swarms.entry(a.info_hash).or_default();
        swarm.expire(now, self.options.expiry);
        if a.event == Event::Stopped {
            swarm.peers.remove(&addr);
            let reply = self.reply(&Swarm::default(), a, addr);
            if swarm.peers.is_empty() {
                swarms.remove(&a.info_hash);
            }
            return Ok(reply);
        }
        if a.event == Event::Completed && swarm.peers.get(&addr).is_some_and(|p| p.left > 0) {
            swarm.completed += 1;
        }
        let full = swarm.peers.len() >= self.options.max_peers_per_swarm
            || swarm.peers.keys().filter(|p| p.ip() == ip).count() >= MAX_PEERS_PER_ADDRESS;
        // Who finds the swarm full still learns of its members; it is only not passed on itself.
        if !full || swarm.peers.contains_key(&addr) {
            swarm.peers.insert(addr, Peer { id: a.peer_id, left: a.left, seen: now });
        }
        Ok(self.reply(swarm, a, addr))
    }

    fn make_room(&self, swarms: &mut HashMap<InfoHash, Swarm>, now: Instant) -> Result<(), &'static str> {
        if swarms.len() < self.options.max_swarms {
            return Ok(());
        }
        swarms.retain(|_, s| {
            s.expire(now, self.options.expiry);
            !s.peers.is_empty()
        });
        if swarms.len() < self.options.max_swarms { Ok(()) } else { Err("this tracker is full, try again later") }
    }

    fn reply(&self, swarm: &Swarm, a: &Announce, own: SocketAddr) -> Vec<u8> {
        // Seeds have nothing to give each other.
        let useful = swarm.peers.iter().filter(|(addr, p)| **addr != own && !(a.left == 0 && p.left == 0));
        let chosen = useful.choose_multiple(&mut rand::rng(), a.want);
        let seeds = swarm.seeds();
        let mut out = Vec::with_capacity(128 + chosen.len() * 6);
        out.push(b'd');
        entry(&mut out, "complete", seeds as u64);
        entry(&mut out, "incomplete", (swarm.peers.len() - seeds) as u64);
        entry(&mut out, "interval", self.options.interval.as_secs().max(1));
        entry(&mut out, "min interval", self.options.min_interval.as_secs().max(1));
        if a.compact {
            compact_peers(&mut out, &chosen)
        } else {
            listed_peers(&mut out, &chosen, a.no_peer_id)
        }
        out.push(b'e');
        out
    }

    fn scrape(&self, now: Instant, hashes: &[InfoHash]) -> Result<Vec<u8>, &'static str> {
        if hashes.is_empty() {
            return Err("name the torrents by info_hash: this tracker does not list all it has");
        }
        let mut hashes = hashes.to_vec();
        hashes.sort_unstable();
        hashes.dedup();
        let mut swarms = self.swarms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = b"d5:filesd".to_vec();
        for hash in hashes.iter().filter(|h| self.allowed(h)) {
            let Some(swarm) = swarms.get_mut(hash) else { continue };
            swarm.expire(now, self.options.expiry);
            let seeds = swarm.seeds();
            text(&mut out, hash);
            out.push(b'd');
            entry(&mut out, "complete", seeds as u64);
            entry(&mut out, "downloaded", swarm.completed);
            entry(&mut out, "incomplete", (swarm.peers.len() - seeds) as u64);
            out.push(b'e');
        }
        out.extend_from_slice(b"ee");
        Ok(out)
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

fn entry(out: &mut Vec<u8>, key: &str, value: u64) {
    text(out, key.as_bytes());
    out.extend_from_slice(format!("i{value}e").as_bytes());
}

/// Six bytes for an IPv4 member, eighteen for an IPv6 one.
fn compact_peers(out: &mut Vec<u8>, peers: &[(&SocketAddr, &Peer)]) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (addr, _) in peers {
        let list = match addr.ip() {
            IpAddr::V4(ip) => {
                v4.extend_from_slice(&ip.octets());
                &mut v4
            }
            IpAddr::V6(ip) => {
                v6.extend_from_slice(&ip.octets());
                &mut v6
            }
        };
        list.extend_from_slice(&addr.port().to_be_bytes());
    }
    text(out, b"peers");
    text(out, &v4);
    if !v6.is_empty() {
        text(out, b"peers6");
        text(out, &v6);
    }
}

fn listed_peers(out: &mut Vec<u8>, peers: &[(&SocketAddr, &Peer)], no_peer_id: bool) {
    text(out, b"peers");
    out.push(b'l');
    for (addr, peer) in peers {
        out.push(b'd');
        text(out, b"ip");
        text(out, addr.ip().to_string().as_bytes());
        if !no_peer_id {
            text(out, b"peer id");
            text(out, &peer.id);
        }
        entry(out, "port", u64::from(addr.port()));
        out.push(b'e');
    }
    out.push(b'e');
}

fn failure(reason: &str) -> Vec<u8> {
    let mut out = b"d".to_vec();
    text(&mut out, b"failure reason");
    text(&mut out, reason.as_bytes());
    out.push(b'e');
    out
}

/// The query's pairs with percent signs decoded to bytes. A broken escape makes the pair disappear.
fn pairs(query: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key, decode(value)?))
    })
}

fn decode(value: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digit = |d: u8| char::from(d).to_digit(16);
                (digit(digits[0])? * 16 + digit(digits[1])?) as u8
            }
            // Form encoding, which some clients use.
            b'+' => b' ',
            other => other,
        });
    }
    Some(out)
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn parse_announce(query: &str) -> Result<Announce, &'static str> {
    let (mut info_hash, mut peer_id, mut port, mut left) = (None, None, None, None);
    let mut announce = Announce {
        info_hash: [0; 20],
        peer_id: [0; 20],
        port: 0,
        left: 0,
        event: Event::None,
        want: DEFAULT_WANT,
        compact: false,
        no_peer_id: false,
    };
    for (key, value) in pairs(query) {
        match key {
            "info_hash" => info_hash = InfoHash::try_from(value).ok(),
            "peer_id" => peer_id = PeerId::try_from(value).ok(),
            "port" => port = number::<u16>(&value).filter(|p| *p > 0),
            "left" => left = number(&value),
            "compact" => announce.compact = value == b"1",
            "no_peer_id" => announce.no_peer_id = value == b"1",
            // Clients write -1 for "as many as you like".
            "numwant" => announce.want = number::<i64>(&value).and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_WANT),
            "event" => {
                announce.event = match value.as_slice() {
                    b"started" => Event::Started,
                    b"stopped" => Event::Stopped,
                    b"completed" => Event::Completed,
                    _ => Event::None,
                }
            }
            _ => {}
        }
    }
    announce.info_hash = info_hash.ok_or("info_hash is missing or does not have 20 bytes")?;
    announce.peer_id = peer_id.ok_or("peer_id is missing or does not have 20 bytes")?;
    announce.port = port.ok_or("port is missing or is not a port")?;
    // Unknown means not complete.
    announce.left = left.unwrap_or(u64::MAX);
    announce.want = announce.want.min(MAX_WANT);
    Ok(announce)
}

fn respond(result: Result<Vec<u8>, &'static str>) -> Response {
    let body = result.unwrap_or_else(failure);
    Response::builder().header(header::CONTENT_TYPE, "text/plain").header(header::CACHE_CONTROL, "no-store").body(body)
}

#[handler]
fn answer_announce(req: &Request, state: Data<&Arc<TrackerState>>) -> Response {
    let Addr::SocketAddr(remote) = &req.remote_addr().0 else {
        return respond(Err("the tracker does not know your address"));
    };
    let ip = remote.ip().to_canonical();
    let query = req.uri().query().unwrap_or("");
    respond(parse_announce(query).and_then(|a| state.announce(Instant::now(), ip, &a)))
}

#[handler]
fn answer_scrape(req: &Request, state: Data<&Arc<TrackerState>>) -> Response {
    let hashes: Vec<InfoHash> = pairs(req.uri().query().unwrap_or(""))
        .filter(|(key, _)| *key == "info_hash")
        .filter_map(|(_, value)| InfoHash::try_from(value).ok())
        .take(MAX_SCRAPE)
        .collect();
    respond(state.scrape(Instant::now(), &hashes))
}

/// `/announce` and `/scrape`.
pub fn tracker(state: Arc<TrackerState>) -> impl Endpoint {
    Route::new().at("/announce", get(answer_announce)).at("/scrape", get(answer_scrape)).data(state)
}

#[cfg(test)]
mod tests;
