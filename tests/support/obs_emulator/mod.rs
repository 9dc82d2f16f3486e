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
use std::sync::{Arc, Mutex};

/// The endpoint to configure; connections to its buckets' hosts must be resolved to [`ObsEmulator::addr`].
pub const ENDPOINT: &str = "http://obs.test.myhuaweicloud.com";

/// What handlers share.
pub struct Shared {
    pub state: State,
    pub faults: Faults,
    pub requests: Mutex<Vec<(Op, String)>>,
}

/// A running emulator; stops when dropped.
pub struct ObsEmulator {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl ObsEmulator {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared { state: State::new(), faults: Faults::default(), requests: Mutex::default() });
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
