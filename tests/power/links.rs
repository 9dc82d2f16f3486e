//! Lines that are slow and count, and an object store.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// A line to a server. What the server sends shares its rate and is counted.
pub struct Link {
    pub at: SocketAddr,
    line: Arc<Line>,
    task: tokio::task::JoinHandle<()>,
}

struct Line {
    rate: AtomicU64,
    carried: AtomicU64,
    /// Requests to store a part of an object, and to begin one.
    parts: AtomicU64,
    begun: AtomicU64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
}

impl Link {
    pub async fn to(server: SocketAddr, rate: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let at = listener.local_addr().expect("address");
        let zero = || AtomicU64::new(0);
        let free_at = Mutex::new(Instant::now());
        let line = Arc::new(Line { rate: rate.into(), carried: zero(), parts: zero(), begun: zero(), free_at });
        let shared = Arc::clone(&line);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&shared)));
            }
        });
        Self { at, line, task }
    }

    pub fn carried(&self) -> u64 {
        self.line.carried.load(Relaxed)
    }

    pub fn parts(&self) -> u64 {
        self.line.parts.load(Relaxed)
    }

    pub fn begun(&self) -> u64 {
        self.line.begun.load(Relaxed)
    }

    /// Bytes per second.
    pub fn set_rate(&self, rate: u64) {
        self.line.rate.store(rate, Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: SocketAddr, line: Arc<Line>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    let up = async {
        let mut block = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from_client.read(&mut block).await {
            let asks = |what: &[u8]| block[..n].windows(what.len()).filter(|w| *w == what).count() as u64;
            // A head comes in one piece.
            line.parts.fetch_add(asks(b"?partNumber="), Relaxed);
            line.begun.fetch_add(asks(b"?uploads"), Relaxed);
            if to_server.write_all(&block[..n]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut block = vec![0; 8 << 10];
        while let Ok(n @ 1..) = from_server.read(&mut block).await {
            line.wait(n as u64).await;
            if to_client.write_all(&block[..n]).await.is_err() {
                return;
            }
            line.carried.fetch_add(n as u64, Relaxed);
        }
    };
    // Whoever ends first ends both.
    tokio::select! { () = up => {}, () = down => {} }
}

impl Line {
    async fn wait(&self, bytes: u64) {
        let time = Duration::from_secs_f64(bytes as f64 / self.rate.load(Relaxed) as f64);
        let turn = {
            let mut free_at = self.free_at.lock().await;
            *free_at = (*free_at).max(Instant::now()) + time;
            *free_at
        };
        tokio::time::sleep_until(turn.into()).await;
    }
}

/// An S3 server over a directory.
pub struct Objects {
    pub at: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

const KEYS: (&str, &str) = ("EXAMPLE-AK", "EXAMPLE-SK");

impl Objects {
    pub async fn start(dir: &Path) -> Self {
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir).expect("store"));
        service.set_auth(SimpleAuth::from_single(KEYS.0, KEYS.1));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let at = listener.local_addr().expect("address");
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await
                });
            }
        });
        Self { at, task }
    }

    /// What a node's configuration needs to use it, over a line to it.
    pub fn keys(line: &Link) -> Value {
        json!({"obsendpoint": format!("s3+http://{}", line.at), "obsak": KEYS.0, "obssk": KEYS.1})
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.task.abort();
    }
}
