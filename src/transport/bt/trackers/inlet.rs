//! The way by which peers get into librqbit.
//!
//! librqbit takes peers when a torrent is added, and from its own tracker client; there is no call that names one later. Of
//! these clients the one for UDP is bounded by its datagrams. So the inlet is a UDP tracker (BEP 15) on loopback: librqbit is
//! given its address in the place of all trackers, and gets from it what [`super`] has found.

use super::udp::{ANNOUNCE, CONNECT, MAGIC};
use crate::error::Fault;
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

/// librqbit asks no sooner again.
const AGAIN: u32 = 5;
/// While nothing is known an answer waits for the trackers so long. librqbit waits for ten seconds, and after none for a minute.
const WAIT: Duration = Duration::from_secs(5);
/// Answers that wait at once.
const WAITING: usize = 1024;
/// Peers in one answer: librqbit reads 16 KiB.
const MAX_PEERS: usize = 800;
/// Peers that a torrent is told of until it starts anew: librqbit remembers each of them.
const MAX_TOLD: usize = 4_000;

/// What the trackers of one torrent have found.
#[derive(Default)]
pub(super) struct Found {
    inner: Mutex<Inner>,
    /// A tracker has answered since the torrent started.
    settled: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    by_tracker: Vec<Vec<SocketAddr>>,
    told: HashSet<SocketAddr>,
}

impl Found {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What tracker `n` of the torrent knows now.
    pub fn put(&self, n: usize, mut peers: Vec<SocketAddr>) {
        let Inner { by_tracker, told } = &mut *self.inner();
        peers.retain(|peer| told.contains(peer) || (told.len() < MAX_TOLD && told.insert(*peer)));
        if by_tracker.len() <= n {
            by_tracker.resize_with(n + 1, Vec::new);
        }
        if let Some(known) = by_tracker.get_mut(n) {
            *known = peers;
        }
        self.settled.send_replace(true);
    }

    /// The torrent starts anew: what it was told is forgotten.
    pub fn restarted(&self) {
        self.inner().told.clear();
        self.settled.send_replace(false);
    }

    fn peers(&self, v6: bool) -> Vec<SocketAddr> {
        self.inner().by_tracker.iter().flatten().filter(|p| p.is_ipv6() == v6).take(MAX_PEERS).copied().collect()
    }
}

type ByTorrent = Arc<Mutex<HashMap<[u8; 20], Arc<Found>>>>;

/// One for each engine.
pub(super) struct Inlet {
    urls: Vec<String>,
    torrents: ByTorrent,
    _serving: Vec<AbortOnDropHandle<()>>,
}

impl Inlet {
    /// With `v6` also where peers of that kind come in, if this machine has it.
    pub async fn start(v6: bool) -> Result<Self, Fault> {
        let fault = |e: std::io::Error| Fault::local(format!("BitTorrent cannot listen on 127.0.0.1: {e}"));
        let mut sockets = vec![UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault)?];
        if v6 {
            sockets.extend(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.ok());
        }
        let torrents = ByTorrent::default();
        let mut urls = Vec::new();
        let mut serving = Vec::new();
        for socket in sockets {
            urls.push(format!("udp://{}", socket.local_addr().map_err(fault)?));
            serving.push(AbortOnDropHandle::new(tokio::spawn(serve(Arc::new(socket), torrents.clone()))));
        }
        Ok(Self { urls, torrents, _serving: serving })
    }

    /// For librqbit, which takes only one for a private torrent.
    pub fn urls(&self, private: bool) -> Vec<String> {
        self.urls.iter().take(if private { 1 } else { usize::MAX }).cloned().collect()
    }

    pub fn open(&self, hash: [u8; 20]) -> Open {
        let found = Arc::new(Found::default());
        self.torrents.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, found.clone());
        Open { torrents: self.torrents.clone(), hash, found }
    }
}

/// A torrent's place at the inlet. Gone when dropped.
pub(super) struct Open {
    torrents: ByTorrent,
    hash: [u8; 20],
    pub found: Arc<Found>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut torrents = self.torrents.lock().unwrap_or_else(PoisonError::into_inner);
        if torrents.get(&self.hash).is_some_and(|found| Arc::ptr_eq(found, &self.found)) {
            torrents.remove(&self.hash);
        }
    }
}

async fn serve(socket: Arc<UdpSocket>, torrents: ByTorrent) {
    let connection = rand::random::<u64>().to_be_bytes();
    let waiting = Arc::new(Semaphore::new(WAITING));
    let mut buf = [0; 256];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buf).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let said = buf.get(..len).unwrap_or_default();
        let (Some(head), Some(action), Some(transaction)) = (said.get(..8), said.get(8..12), said.get(12..16)) else { continue };
        if head == MAGIC && action == CONNECT {
            let answer = [CONNECT.as_slice(), transaction, &connection].concat();
            let _ = socket.send_to(&answer, from).await; // it asks again
            continue;
        }
        let hash = said.get(16..36).and_then(|h| h.first_chunk::<20>());
        let (Some(hash), true) = (hash, head == connection && action == ANNOUNCE) else { continue };
        let found = torrents.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        let Some(found) = found else { continue };
        let head = [ANNOUNCE.as_slice(), transaction, &AGAIN.to_be_bytes(), &[0; 8]].concat();
        let v6 = from.is_ipv6();
        let mut settled = found.settled.subscribe();
        let permit = waiting.clone().try_acquire_owned();
        let socket = socket.clone();
        let answer = async move {
            if permit.is_ok() && found.peers(v6).is_empty() {
                let _ = tokio::time::timeout(WAIT, settled.wait_for(|s| *s)).await; // without one it has nothing
            }
            let _ = socket.send_to(&in_bytes(head, &found.peers(v6)), from).await;
        };
        tokio::spawn(answer);
    }
}

fn in_bytes(mut head: Vec<u8>, peers: &[SocketAddr]) -> Vec<u8> {
    for peer in peers {
        match peer {
            SocketAddr::V4(a) => head.extend(a.ip().octets()),
            SocketAddr::V6(a) => head.extend(a.ip().octets()),
        }
        head.extend(peer.port().to_be_bytes());
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_torrent_is_told_has_a_limit_until_it_starts_anew() {
        let found = Found::default();
        let peers = |from: u32| (from..from + 200).map(|n| SocketAddr::from((Ipv4Addr::from(n), 1))).collect::<Vec<_>>();
        for n in 0..200 {
            found.put(0, peers(1 + n * 200));
        }
        assert_eq!(found.inner().told.len(), MAX_TOLD);
        assert_eq!(found.peers(false), [], "nobody new");
        found.put(1, peers(1));
        assert_eq!(found.peers(false).len(), 200, "who is known is told again");
        found.restarted();
        found.put(0, peers(1_000_000));
        assert_eq!(found.peers(false).len(), 400);
        assert!(in_bytes(Vec::new(), &vec![SocketAddr::from((Ipv6Addr::LOCALHOST, 1)); MAX_PEERS]).len() < 16_000);
    }
}
