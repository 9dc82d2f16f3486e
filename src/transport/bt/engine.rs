//! [`BtEngine`]: the one librqbit session of a process, and the life of a torrent in it.
//!
//! Resume data: librqbit reads `<info hash>.bitv` from its folder when a torrent is added and believes it after a glance
//! at a few pieces, even when the glance finds wrong data. So the folder is ours: it is emptied when the engine starts,
//! a `.bitv` is written from what the sink knows (or removed) right before each add, and librqbit removes it with the
//! torrent. What librqbit writes there is never read by anyone.

use super::layout::Layout;
use super::trackers::{Announcing, Trackers};
use super::turns::Turns;
use crate::config::LOWEST_BT_RATE;
use crate::error::{Fault, io_fault};
use librqbit::limits::LimitsConfig;
use librqbit::storage::BoxStorageFactory;
use librqbit::{AddTorrent, AddTorrentOptions, AddTorrentResponse, ManagedTorrent, Session, SessionOptions};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// With librqbit's 10 s, peers behind a shared slow line give up before their turn comes.
const READ_WRITE_TIMEOUT: Duration = Duration::from_secs(180);
/// Torrents that are checked at once: one long check must not keep every other torrent from starting.
const CHECKS_AT_ONCE: usize = 4;
/// Storage calls that may block worker threads at once.
const BLOCKING_CALLS: usize = 8;
/// Random-access reads of all fetches together (see `fetch`). librqbit takes a blocking permit for each, hence the sum.
const STREAMS: usize = 16;

/// How the process takes part in BitTorrent.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where peers reach us (TCP); its port is announced. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The engine's own directory: everything librqbit leaves there is removed at start.
    pub state_dir: PathBuf,
    /// Bytes per second over all torrents, `None` is unlimited, less than 16 KiB/s counts as 16 KiB/s.
    pub upload_bps: Option<u64>,
    pub download_bps: Option<u64>,
    /// Connected peers per torrent.
    pub peer_limit: usize,
}

impl EngineOptions {
    pub fn new(listen: SocketAddr, state_dir: impl Into<PathBuf>) -> Self {
        Self { listen, state_dir: state_dir.into(), upload_bps: None, download_bps: None, peer_limit: 128 }
    }
}

#[derive(Default)]
struct Rates {
    upload: Option<u64>,
    download: Option<u64>,
    /// The method's cap as the legs see it.
    cap: Option<u64>,
}

/// Who has a torrent in the session.
struct Holder {
    task: String,
    publishing: bool,
}

/// The BitTorrent engine of the process. librqbit's rate caps per torrent are fixed when a torrent is added, those of
/// the session can be changed: so caps hold for all torrents together.
pub struct BtEngine {
    session: Arc<Session>,
    state_dir: PathBuf,
    listen: SocketAddr,
    /// Peers per torrent.
    peer_limit: usize,
    rates: Mutex<Rates>,
    /// Info hash → the task that has the torrent; a session can hold each only once.
    busy: Mutex<HashMap<[u8; 20], Holder>>,
    /// Adds one after the other: librqbit's choice of the next number races with itself.
    adding: tokio::sync::Mutex<()>,
    next_id: AtomicUsize,
    trackers: Trackers,
    pub(super) streams: Arc<Semaphore>,
    pub(super) turns: Arc<Turns>,
    pub(super) closing: CancellationToken,
}

impl BtEngine {
    /// Opens the listening port. Needs a multi-threaded runtime.
    pub async fn start(options: EngineOptions) -> Result<Arc<Self>, Fault> {
        let dir = options.state_dir.clone();
        if dir.to_str().is_none() {
            // librqbit would panic.
            return Err(Fault::local(format!("BitTorrent cannot use {}: the name is not UTF-8", dir.display())));
        }
        tokio::task::spawn_blocking(move || empty_state_dir(&dir))
            .await
            .map_err(|e| Fault::local("starting BitTorrent failed").detail(e))??;
        let listen = with_port(options.listen)?;
        let ipv4_only = listen.is_ipv4();
        let trackers = Trackers::start(listen).await?;
        let session_options = SessionOptions {
            dht: None,
            disable_local_service_discovery: true,
            ipv4_only,
            fastresume: true,
            persistence: Some(librqbit::SessionPersistenceConfig::Json { folder: Some(options.state_dir.clone()) }),
            concurrent_init_limit: Some(CHECKS_AT_ONCE),
            runtime_worker_threads: Some(BLOCKING_CALLS + STREAMS),
            ratelimits: LimitsConfig { upload_bps: to_limit(options.upload_bps), download_bps: to_limit(options.download_bps) },
            listen: Some(librqbit::ListenerOptions {
                mode: librqbit::ListenerMode::TcpOnly,
                listen_addr: listen,
                // Without it a listener on loopback announces port 4240.
                announce_port: Some(listen.port()),
                ipv4_only,
                ..Default::default()
            }),
            connect: Some(librqbit::ConnectionOptions {
                enable_tcp: true,
                proxy_url: None,
                peer_opts: Some(librqbit::PeerConnectionOptions {
                    read_write_timeout: Some(READ_WRITE_TIMEOUT),
                    ..Default::default()
                }),
            }),
            client_name_and_version: Some(format!("bft2 {}", env!("CARGO_PKG_VERSION"))),
            ..Default::default()
        };
        let session = Session::new_with_opts(options.state_dir.clone(), session_options).await.map_err(|e| {
            Fault::local(format!("BitTorrent cannot start on {listen}: is the port taken by another program?"))
                .detail(format!("{e:#}"))
        })?;
        tracing::info!(%listen, "BitTorrent is up");
        Ok(Arc::new(Self {
            session,
            state_dir: options.state_dir,
            listen,
            peer_limit: options.peer_limit.max(1),
            rates: Mutex::new(Rates { upload: options.upload_bps, download: options.download_bps, cap: None }),
            busy: Mutex::default(),
            adding: tokio::sync::Mutex::new(()),
            next_id: AtomicUsize::new(0),
            trackers,
            streams: Arc::new(Semaphore::new(STREAMS)),
            turns: Arc::default(),
            closing: CancellationToken::new(),
        }))
    }

    /// The address we listen on, with the real port.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Changes the caps (bytes per second over all torrents) while torrents run.
    pub fn set_rates(&self, upload_bps: Option<u64>, download_bps: Option<u64>) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.upload = upload_bps;
        rates.download = download_bps;
        self.apply(&rates);
    }

    /// Follows the method's cap on fetching; the lower of it and [`BtEngine::set_rates`] holds.
    pub(super) fn follow_cap(&self, cap: Option<u64>) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.cap != cap {
            rates.cap = cap;
            self.apply(&rates);
        }
    }

    fn apply(&self, rates: &Rates) {
        let download = to_limit([rates.download, rates.cap].into_iter().flatten().min());
        let (limits, upload) = (&self.session.ratelimits, to_limit(rates.upload));
        // A limit that is set begins with a second's worth of bytes for free, also when it was the same before.
        if limits.get_upload_bps() != upload {
            limits.set_upload_bps(upload);
        }
        if limits.get_download_bps() != download {
            limits.set_download_bps(download);
        }
    }

    /// Ends all torrents and the session. Legs that still run end with a transient fault.
    pub async fn stop(&self) {
        self.closing.cancel();
        self.session.stop().await;
    }

    /// Does another task of this node publish the torrent already? (The same package may be sent for two institutions.)
    pub(super) fn is_published(&self, hash: &[u8; 20]) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).get(hash).is_some_and(|h| h.publishing)
    }

    fn claim(self: &Arc<Self>, hash: [u8; 20], task: &str, publishing: bool) -> Result<Claim, Fault> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = busy.get(&hash) {
            return Err(Fault::transient(format!(
                "the torrent of {task} is in use on this node by {}: it can run when that ends",
                holder.task
            )));
        }
        busy.insert(hash, Holder { task: task.to_owned(), publishing });
        Ok(Claim { engine: self.clone(), hash })
    }

    /// Puts a torrent into the session and starts it. Of the torrent's pieces those in `add.have` are believed; `None`
    /// has librqbit check them all.
    pub(super) async fn add(self: &Arc<Self>, add: Add<'_>) -> Result<Torrent, Fault> {
        if self.closing.is_cancelled() {
            return Err(stopped());
        }
        let claim = self.claim(add.layout.info_hash, add.task, add.only_files.is_empty())?;
        let _one_at_a_time = self.adding.lock().await;
        let bitv = self.state_dir.join(format!("{}.bitv", add.layout.info_hash_hex()));
        write_bitfield(&bitv, add.have).await?;
        let mut prepared = self.trackers.prepare(add.torrent, add.trackers)?;
        let options = AddTorrentOptions {
            only_files: Some(add.only_files),
            overwrite: true,
            // Never used by our storage, but librqbit would refuse some names if it had to choose.
            output_folder: Some(self.state_dir.display().to_string()),
            initial_peers: Some(add.peers),
            peer_opts: add.window.map(|blocks| librqbit::PeerConnectionOptions {
                max_request_window: Some(blocks),
                ..Default::default() // what is not said here is as the session has it
            }),
            peer_limit: Some(add.most_peers.unwrap_or(usize::MAX).min(self.peer_limit)),
            trackers: Some(prepared.for_engine.clone()),
            preferred_id: Some(self.next_id.fetch_add(1, Ordering::Relaxed)),
            storage_factory: Some(add.storage),
            ..Default::default()
        };
        let refused = || Fault::permanent(format!("BitTorrent refused the torrent of {}", add.task));
        let added = self.session.add_torrent(AddTorrent::from_bytes(std::mem::take(&mut prepared.torrent)), Some(options)).await;
        match added.map_err(|e| refused().detail(format!("{e:#}")))? {
            AddTorrentResponse::Added(_, handle) => {
                let announcing = Some(self.trackers.announce(add.task, &handle, prepared));
                Ok(Torrent { engine: self.clone(), claim: Some(claim), handle, announcing, removed: false })
            }
            AddTorrentResponse::AlreadyManaged(..) | AddTorrentResponse::ListOnly(_) => Err(refused().detail("already managed")),
        }
    }
}

pub(super) fn stopped() -> Fault {
    Fault::transient("BitTorrent is shutting down")
}

/// What [`BtEngine::add`] needs.
pub(super) struct Add<'a> {
    pub task: &'a str,
    pub torrent: &'a [u8],
    pub layout: &'a Layout,
    pub have: Option<&'a [u8]>,
    pub only_files: Vec<usize>,
    pub storage: BoxStorageFactory,
    pub trackers: &'a [String],
    pub peers: Vec<SocketAddr>,
    /// Blocks of 16 KiB that are asked of one peer at a time, at most; `None`: as many as librqbit likes.
    pub window: Option<usize>,
    /// Peers at once, at most; `None`: as many as the session allows.
    pub most_peers: Option<usize>,
}

/// The right to have a torrent in the session.
struct Claim {
    engine: Arc<BtEngine>,
    hash: [u8; 20],
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.engine.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}

/// A torrent in the session. [`Torrent::remove`] it; when it is dropped instead (its leg was aborted), it is removed in
/// the background and the claim is kept until then.
pub(super) struct Torrent {
    engine: Arc<BtEngine>,
    claim: Option<Claim>,
    pub handle: Arc<ManagedTorrent>,
    /// Ends first: it tells the trackers how far the torrent was.
    announcing: Option<Announcing>,
    removed: bool,
}

impl Torrent {
    /// Pauses and starts again: lost peers are dialled, trackers are asked.
    pub async fn restart(&self) {
        // Both fail when the torrent is in another state; the caller's loop sees that by itself.
        if let Err(e) = self.engine.session.pause(&self.handle).await {
            tracing::debug!(error = format!("{e:#}"), "pausing a torrent");
        }
        self.announcing.iter().for_each(Announcing::again);
        if let Err(e) = self.engine.session.unpause(&self.handle).await {
            tracing::debug!(error = format!("{e:#}"), "resuming a torrent");
        }
    }

    pub fn info_hash(&self) -> [u8; 20] {
        self.handle.info_hash().0
    }

    /// Takes the torrent out of the session. Files stay as they are.
    pub async fn remove(mut self) {
        self.removed = true;
        self.announcing = None;
        delete(&self.engine.session, &self.handle).await;
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        self.announcing = None;
        if self.removed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (session, handle, claim) = (self.engine.session.clone(), self.handle.clone(), self.claim.take());
            runtime.spawn(async move {
                delete(&session, &handle).await;
                drop(claim);
            });
        }
    }
}

async fn delete(session: &Session, handle: &Arc<ManagedTorrent>) {
    if let Err(e) = session.delete(handle.id().into(), false).await {
        tracing::debug!(error = format!("{e:#}"), "removing a torrent");
    }
}

fn to_limit(bytes_per_second: Option<u64>) -> Option<NonZeroU32> {
    // What does not fit 32 bits (4 GB/s) is as good as unlimited.
    bytes_per_second.and_then(|b| u32::try_from(b).ok()).and_then(|b| NonZeroU32::new(b.max(LOWEST_BT_RATE)))
}

/// The port must be known before librqbit binds it, because it is announced.
fn with_port(listen: SocketAddr) -> Result<SocketAddr, Fault> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    let fault = |e: std::io::Error| Fault::local(format!("BitTorrent cannot listen on {listen}: {e}"));
    let port = std::net::TcpListener::bind(listen).and_then(|l| l.local_addr()).map_err(fault)?.port();
    Ok(SocketAddr::new(listen.ip(), port))
}

/// librqbit re-adds what it finds in `session.json` and believes every `.bitv`.
fn empty_state_dir(dir: &Path) -> Result<(), Fault> {
    std::fs::create_dir_all(dir).map_err(|e| io_fault("cannot create", dir, &e))?;
    let entries = std::fs::read_dir(dir).map_err(|e| io_fault("cannot read", dir, &e))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".tmp").unwrap_or(&name);
        if name == "session.json" || name.ends_with(".bitv") || name.ends_with(".torrent") {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|e| io_fault("cannot remove", &path, &e))?;
        }
    }
    Ok(())
}

async fn write_bitfield(path: &Path, have: Option<&[u8]>) -> Result<(), Fault> {
    match have {
        Some(bits) => tokio::fs::write(path, bits).await.map_err(|e| io_fault("cannot write", path, &e)),
        None => match tokio::fs::remove_file(path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_fault("cannot remove", path, &e)),
            _ => Ok(()),
        },
    }
}

/// Whether a peer address is our own listener (a task names its sender as a peer, and the sender may be this node).
pub(super) fn is_self(listen: SocketAddr, peer: SocketAddr) -> bool {
    peer == listen || (listen.ip().is_unspecified() && peer.ip().is_loopback() && peer.port() == listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_fit_what_librqbit_survives() {
        assert_eq!(to_limit(None), None);
        assert_eq!(to_limit(Some(1)).map(NonZeroU32::get), Some(16_384));
        assert_eq!(to_limit(Some(1_000_000)).map(NonZeroU32::get), Some(1_000_000));
        assert_eq!(to_limit(Some(1 << 40)), None);
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["session.json", "session.json.tmp", "ab.bitv", "ab.bitv.tmp", "ab.torrent", "keep.me"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        empty_state_dir(dir.path()).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["keep.me"]);
    }

    #[test]
    fn our_own_listener_is_no_peer() {
        let listen = "0.0.0.0:26881".parse().unwrap();
        assert!(is_self(listen, "127.0.0.1:26881".parse().unwrap()));
        assert!(!is_self(listen, "127.0.0.1:26882".parse().unwrap()));
        assert!(!is_self(listen, "192.0.2.7:26881".parse().unwrap()));
    }
}
