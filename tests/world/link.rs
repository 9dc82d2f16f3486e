//! A bad line between two nodes: a TCP proxy whose faults can be changed while it runs.
//!
//! It has a thread of its own, so that what the test does meanwhile does not slow it down.

use super::free_ports;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the line does. A change holds for connections that are open, too.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    Good,
    /// Everything arrives so much later.
    Late(Duration),
    /// Bytes per second, for all connections together.
    Slow(u64),
    /// Each connection breaks after so many bytes from the server, a little fewer or more.
    Breaks(u64),
    /// Nothing arrives any more, and nobody is told.
    Silent,
    /// Connections are closed, new ones at once.
    Down,
    /// The connection with this number (from 0) brings so many bytes per second, the others are good.
    Crawls(u64, u64),
}

pub struct Link {
    pub addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    line: Mutex<Line>,
    target: SocketAddr,
    /// Towards the client; connections so far; those that the line broke.
    bytes: AtomicU64,
    connections: AtomicU64,
    breaks: AtomicU64,
    end: AtomicBool,
    turn: tokio::sync::Mutex<()>,
}

impl Link {
    pub fn to(target: SocketAddr) -> Self {
        let [addr] = free_ports();
        Self::from(std::net::TcpListener::bind(addr).expect("a port"), target)
    }

    /// With an address that was chosen.
    pub fn from(listener: std::net::TcpListener, target: SocketAddr) -> Self {
        let addr = listener.local_addr().expect("address");
        listener.set_nonblocking(true).expect("socket");
        let state = Arc::new(State {
            line: Mutex::new(Line::Good),
            target,
            bytes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            end: AtomicBool::new(false),
            turn: tokio::sync::Mutex::new(()),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(serve(listener, serving));
        });
        Self { addr, state }
    }

    pub fn set(&self, line: Line) {
        *self.state.line.lock().expect("lock") = line;
    }

    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Relaxed)
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(Relaxed)
    }

    pub fn breaks(&self) -> u64 {
        self.state.breaks.load(Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.end.store(true, Relaxed);
    }
}

/// How often a waiting connection looks whether the line has changed.
const LOOK: Duration = Duration::from_millis(20);
const CHUNK: usize = 32 << 10;

async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).expect("listener");
    while !state.end.load(Relaxed) {
        if let Ok(Ok((client, _))) = tokio::time::timeout(LOOK, listener.accept()).await {
            let number = state.connections.fetch_add(1, Relaxed);
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let _ = state.connection(client, number).await;
            });
        }
    }
}

impl State {
    fn line(&self) -> Line {
        *self.line.lock().expect("lock")
    }

    async fn connection(&self, client: TcpStream, number: u64) -> std::io::Result<()> {
        if matches!(self.line(), Line::Down) {
            return Ok(());
        }
        let server = TcpStream::connect(self.target).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        // Whichever ends first ends both.
        tokio::select! {
            r = self.pump(&mut from_client, &mut to_server, number, false) => r,
            r = self.pump(&mut from_server, &mut to_client, number, true) => r,
        }
    }

    async fn pump(
        &self,
        from: &mut tokio::net::tcp::OwnedReadHalf,
        to: &mut tokio::net::tcp::OwnedWriteHalf,
        number: u64,
        down: bool,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut passed = 0;
        loop {
            let most = match self.line() {
                Line::Crawls(n, rate) if n == number && down => usize::try_from(rate / 10).unwrap_or(1).clamp(1, CHUNK),
                _ => CHUNK,
            };
            let read = tokio::time::timeout(LOOK, from.read(&mut buffer[..most])).await;
            if self.end.load(Relaxed) || matches!(self.line(), Line::Down) {
                return Ok(());
            }
            let len = match read {
                Err(_) => continue,
                Ok(Ok(0)) | Ok(Err(_)) => return Ok(()),
                Ok(Ok(len)) => len,
            };
            while matches!(self.line(), Line::Silent) && !self.end.load(Relaxed) {
                tokio::time::sleep(LOOK).await;
            }
            let mut keep = len;
            match self.line() {
                Line::Late(by) => tokio::time::sleep(by).await,
                Line::Slow(rate) => {
                    let _turn = self.turn.lock().await;
                    tokio::time::sleep(Duration::from_secs_f64(len as f64 / rate as f64)).await;
                }
                Line::Crawls(n, _) if n == number && down => tokio::time::sleep(Duration::from_millis(100)).await,
                // The length differs from connection to connection, by half.
                Line::Breaks(after) if down => {
                    let after = after * (75 + number * 37 % 50) / 100;
                    keep = len.min(usize::try_from(after.saturating_sub(passed)).unwrap_or(len));
                }
                Line::Down => return Ok(()),
                _ => {}
            }
            to.write_all(&buffer[..keep]).await?;
            passed += keep as u64;
            if down {
                self.bytes.fetch_add(keep as u64, Relaxed);
            }
            if keep < len {
                self.breaks.fetch_add(1, Relaxed);
                return Ok(());
            }
        }
    }
}
