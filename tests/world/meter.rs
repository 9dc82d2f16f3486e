//! Counts on the other side: a TCP relay in front of an origin, a store or a seed. What it passes on is what the receiver
//! was sent, whatever the receiver believes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Counts {
    /// To those who connect, and from them.
    sent: AtomicU64,
    asked: AtomicU64,
    connections: AtomicUsize,
    refuses: AtomicBool,
    /// Every time at which bytes went either way, of the last while.
    times: Mutex<Vec<Instant>>,
}

/// A relay; ends when dropped.
pub struct Meter {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
    server: tokio::task::JoinHandle<()>,
}

impl Meter {
    pub async fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("address");
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                shared.connections.fetch_add(1, SeqCst);
                if shared.refuses.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(upstream).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(relay(from_client, to_server, Arc::clone(&shared), false));
                tokio::spawn(relay(from_server, to_client, Arc::clone(&shared), true));
            }
        });
        Self { addr, counts, server }
    }

    /// Bytes that were passed on to those who connected.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(SeqCst)
    }

    /// Bytes either way.
    pub fn all(&self) -> u64 {
        self.sent() + self.counts.asked.load(SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// Whether it hangs up at once.
    pub fn refuse(&self, on: bool) {
        self.counts.refuses.store(on, SeqCst);
    }

    /// The first traffic since the last [`Meter::forget`].
    pub fn first(&self) -> Option<Instant> {
        self.counts.times.lock().expect("times").first().copied()
    }

    /// The last traffic.
    pub fn last(&self) -> Option<Instant> {
        self.counts.times.lock().expect("times").last().copied()
    }

    pub fn forget(&self) {
        self.counts.times.lock().expect("times").clear();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn relay(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    counts: Arc<Counts>,
    to_client: bool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        let counter = if to_client { &counts.sent } else { &counts.asked };
        counter.fetch_add(n as u64, SeqCst);
        counts.times.lock().expect("times").push(Instant::now());
    }
}
