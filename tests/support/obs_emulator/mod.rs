//! An object store that speaks Huawei's OBS protocol and **verifies every signature**, which no server in the package
//! registries does. It streams to disk, remembers the requests it saw and breaks on demand. It is itself checked by
//! Huawei's own SDK (`tests/obs_sdk.rs`).
//!
//! Buckets exist as soon as they are named: `bucket.obs.<region>.myhuaweicloud.com`, resolved to [`ObsEmulator::addr`].

pub mod faults;
pub mod serve;
pub mod sign;
pub mod state;
mod xml;

pub use faults::{Faults, Op};
#[allow(unused_imports)] // each test binary uses its part
pub use sign::{AK, SK};

use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use state::State;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The endpoint to configure; connections to its buckets' hosts must be resolved to [`ObsEmulator::addr`].
pub const ENDPOINT: &str = "http://obs.test.myhuaweicloud.com";

/// What handlers share.
pub struct Shared {
    pub state: State,
    pub faults: Faults,
    pub requests: Mutex<Vec<(Op, String)>>,
    pub parts: Mutex<Parts>,
    /// Bytes of bodies, of those that broke off, too.
    pub received: AtomicU64,
    /// Seconds by which its clock is ahead of this machine's, now and before it was set last: a request may be under way
    /// when a test sets the clocks.
    pub ahead: [AtomicI64; 2],
}

impl Shared {
    fn clocks(&self) -> [chrono::DateTime<chrono::Utc>; 2] {
        [0, 1].map(|n| chrono::Utc::now() + chrono::TimeDelta::seconds(self.ahead[n].load(SeqCst)))
    }
}

/// Requests to store a part, each as its key and number.
#[derive(Clone, Default)]
pub struct Parts {
    pub begun: Vec<(String, u64)>,
    /// The store has them.
    pub kept: Vec<(String, u64)>,
    /// They broke off, or were refused.
    pub lost: Vec<(String, u64)>,
}

impl Parts {
    pub fn under_way(&self) -> usize {
        self.begun.len() - self.kept.len() - self.lost.len()
    }
}

/// A running emulator; stops when dropped.
pub struct ObsEmulator {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl ObsEmulator {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            state: State::new(),
            faults: Faults::default(),
            requests: Mutex::default(),
            parts: Mutex::default(),
            received: AtomicU64::new(0),
            ahead: Default::default(),
        });
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let addr = *acceptor.local_addr()[0].as_socket_addr().unwrap();
        let service = serve::endpoint(Arc::clone(&shared));
        let server = tokio::spawn(async move { _ = poem::Server::new_with_acceptor(acceptor).run(service).await });
        Self { addr, shared, server }
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// How many requests of this kind came in (failed ones too).
    pub fn count(&self, op: Op) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|(o, _)| *o == op).count()
    }

    /// The requests of this kind: `METHOD /bucket/key?query`.
    pub fn seen(&self, op: Op) -> Vec<String> {
        self.shared.requests.lock().unwrap().iter().filter(|(o, _)| *o == op).map(|(_, r)| r.clone()).collect()
    }

    pub fn forget_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// What became of the requests to store parts.
    pub fn parts(&self) -> Parts {
        self.shared.parts.lock().unwrap().clone()
    }

    /// Bytes of bodies that came in, of those that broke off, too.
    pub fn received(&self) -> u64 {
        self.shared.received.load(SeqCst)
    }

    /// Its clock, which signatures are compared with.
    pub fn set_clock(&self, to: chrono::DateTime<chrono::Utc>) {
        let [now, before] = &self.shared.ahead;
        before.store(now.swap((to - chrono::Utc::now()).num_seconds(), SeqCst), SeqCst);
    }

    /// Puts an object behind the clients' backs.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8], meta: &[(&str, &str)]) {
        let headers = meta.iter().map(|(k, v)| (format!("x-obs-meta-{k}"), v.to_string())).collect::<BTreeMap<_, _>>();
        self.shared.state.put(bucket, key, bytes, headers);
    }

    pub fn remove(&self, bucket: &str, key: &str) -> bool {
        self.shared.state.tables.lock().unwrap().objects.remove(&(bucket.into(), key.into())).is_some()
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<state::Object> {
        self.shared.state.tables.lock().unwrap().objects.get(&(bucket.to_owned(), key.to_owned())).cloned()
    }

    pub fn bytes(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.object(bucket, key)?.blob.path).ok()
    }

    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let tables = self.shared.state.tables.lock().unwrap();
        tables.objects.keys().filter(|(b, _)| b == bucket).map(|(_, k)| k.clone()).collect()
    }

    /// Uploads that are neither completed nor given up.
    pub fn unfinished(&self) -> usize {
        self.shared.state.tables.lock().unwrap().uploads.len()
    }

    /// Somebody else's upload, begun so long ago. Gives its id.
    pub fn begin_upload(&self, bucket: &str, key: &str, ago: chrono::TimeDelta) -> String {
        let initiated = self.shared.clocks()[0] - ago;
        let (bucket, key, headers, parts) = (bucket.to_owned(), key.to_owned(), BTreeMap::new(), BTreeMap::new());
        let upload = state::Upload { bucket, key, headers, parts, initiated };
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.shared.state.tables.lock().unwrap().uploads.insert(id.clone(), upload);
        id
    }

    /// Gives up every unfinished upload behind the clients' backs.
    pub fn drop_uploads(&self) {
        self.shared.state.tables.lock().unwrap().uploads.clear();
    }
}

impl Drop for ObsEmulator {
    fn drop(&mut self) {
        self.server.abort();
    }
}
