//! A line to a server: a TCP relay that counts, and whose faults can be changed while it runs. What it passes on is what
//! was sent over the network, whatever a node believes.
//!
//! It has a thread of its own, so that what the test does meanwhile does not slow it down.

use super::free_ports;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the line does. A change holds for connections that are open, too.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    Good,
    /// Each block of 32 KiB arrives so much later, and the next one is taken after it.
    Late(Duration),
    /// Bytes per second from the server, for all connections together.
    Slow(u64),
    /// The same to the server: for uploads.
    SlowUp(u64),
    /// Each connection breaks after so many bytes from the server, a little fewer or more.
    Breaks(u64),
    /// Nothing arrives any more, and nobody is told.
    Silent,
    /// Connections are closed, new ones at once.
    Down,
    /// The connection with this number (from 0) brings so many bytes per second, the others are good.
    Crawls(u64, u64),
}

/// See the module's text; ends when dropped.
pub struct Link {
    pub addr: SocketAddr,
    line: watch::Sender<Line>,
    state: Arc<State>,
}

struct State {
    line: watch::Receiver<Line>,
    target: SocketAddr,
    /// From those who connect, and to them.
    bytes: [AtomicU64; 2],
    connections: AtomicU64,
    /// Those that the line broke.
    breaks: AtomicU64,
    /// Requests to store a part of an object, and to begin one.
    parts: AtomicU64,
    begun: AtomicU64,
    /// When bytes went either way for the first time and for the last.
    times: Mutex<Option<(Instant, Instant)>>,
    /// When a slow line is free again.
    free: Mutex<Instant>,
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
        let (line, seen) = watch::channel(Line::Good);
        let state = Arc::new(State {
            line: seen,
            target,
            bytes: Default::default(),
            connections: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            parts: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            times: Mutex::new(None),
            free: Mutex::new(Instant::now()),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(serve(listener, serving));
        });
        Self { addr, line, state }
    }

    /// One that is [`Line::Slow`] from the beginning.
    pub fn slow(target: SocketAddr, rate: u64) -> Self {
        let link = Self::to(target);
        link.set(Line::Slow(rate));
        link
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Bytes that were passed on to those who connected.
    pub fn bytes(&self) -> u64 {
        self.state.bytes[1].load(Relaxed)
    }

    /// Bytes either way.
    pub fn all(&self) -> u64 {
        self.bytes() + self.state.bytes[0].load(Relaxed)
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(Relaxed)
    }

    pub fn breaks(&self) -> u64 {
        self.state.breaks.load(Relaxed)
    }

    /// Parts of uploads that somebody began to send.
    pub fn parts(&self) -> u64 {
        self.state.parts.load(Relaxed)
    }

    /// Uploads in parts that somebody began.
    pub fn begun(&self) -> u64 {
        self.state.begun.load(Relaxed)
    }

    /// The first traffic since the last [`Link::forget`].
    pub fn first(&self) -> Option<Instant> {
        self.state.times().map(|(first, _)| first)
    }

    /// The last traffic.
    pub fn last(&self) -> Option<Instant> {
        self.state.times().map(|(_, last)| last)
    }

    pub fn forget(&self) {
        *self.state.times.lock().expect("times") = None;
    }
}

const CHUNK: usize = 32 << 10;

/// Until the [`Link`] is dropped, which ends the connections as well.
async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).expect("listener");
    let mut line = state.line.clone();
    let accept = async {
        loop {
            let Ok((client, _)) = listener.accept().await else { continue };
            let number = state.connections.fetch_add(1, Relaxed);
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let _ = state.connection(client, number).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        _ = line.wait_for(|_| false) => {}
    }
}

impl State {
    fn line(&self) -> Line {
        *self.line.borrow()
    }

    fn times(&self) -> Option<(Instant, Instant)> {
        *self.times.lock().expect("times")
    }

    /// Whichever ends first ends both ways.
    async fn connection(&self, client: TcpStream, number: u64) -> std::io::Result<()> {
        let mut line = self.line.clone();
        let both_ways = async {
            let server = TcpStream::connect(self.target).await?;
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
            tokio::select! {
                r = self.pump(&mut from_client, &mut to_server, number, false) => r,
                r = self.pump(&mut from_server, &mut to_client, number, true) => r,
            }
        };
        tokio::select! {
            biased;
            _ = line.wait_for(|l| matches!(l, Line::Down)) => Ok(()),
            r = both_ways => r,
        }
    }

    async fn pump(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, number: u64, down: bool) -> std::io::Result<()> {
        let mut line = self.line.clone();
        let mut buffer = vec![0; CHUNK];
        let mut passed = 0;
        loop {
            let a_tenth = |rate: u64| usize::try_from(rate / 10).unwrap_or(CHUNK).clamp(1, CHUNK);
            let most = match *line.borrow_and_update() {
                Line::Slow(rate) if down => a_tenth(rate),
                Line::SlowUp(rate) if !down => a_tenth(rate),
                Line::Crawls(n, rate) if n == number && down => a_tenth(rate),
                _ => CHUNK,
            };
            let len = tokio::select! {
                read = from.read(&mut buffer[..most]) => read?,
                changed = line.changed() => if changed.is_ok() { continue } else { 0 },
            };
            if len == 0 {
                return Ok(());
            }
            let _ = line.wait_for(|l| !matches!(l, Line::Silent)).await;
            let mut keep = len;
            match self.line() {
                Line::Late(by) => tokio::time::sleep(by).await,
                Line::Slow(rate) if down => self.turn(len, rate).await,
                Line::SlowUp(rate) if !down => self.turn(len, rate).await,
                Line::Crawls(n, _) if n == number && down => tokio::time::sleep(Duration::from_millis(100)).await,
                // The length differs from connection to connection, by half.
                Line::Breaks(after) if down => {
                    let after = after * (75 + number * 37 % 50) / 100;
                    keep = len.min(usize::try_from(after.saturating_sub(passed)).unwrap_or(len));
                }
                _ => {}
            }
            to.write_all(&buffer[..keep]).await?;
            passed += keep as u64;
            self.count(&buffer[..keep], down);
            if keep < len {
                self.breaks.fetch_add(1, Relaxed);
                return Ok(());
            }
        }
    }

    /// Waits until a slow line has carried what came before, and this.
    async fn turn(&self, bytes: usize, rate: u64) {
        let until = {
            let mut free = self.free.lock().expect("free");
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free
        };
        tokio::time::sleep_until(until.into()).await;
    }

    fn count(&self, block: &[u8], down: bool) {
        self.bytes[usize::from(down)].fetch_add(block.len() as u64, Relaxed);
        let now = Instant::now();
        let mut times = self.times.lock().expect("times");
        *times = Some((times.map_or(now, |(first, _)| first), now));
        // A client waits for its answer before it asks again, so a request stands at the beginning of a block.
        if !down && (block.starts_with(b"PUT ") || block.starts_with(b"POST ")) {
            let head = String::from_utf8_lossy(block.split(|b| *b == b'\r').next().unwrap_or_default());
            self.parts.fetch_add(head.contains("partNumber=").into(), Relaxed);
            self.begun.fetch_add(head.contains("?uploads").into(), Relaxed);
        }
    }
}
