//! Moving spans: one trait, three engines ([`bt`], [`obs`], [`cdn`]), one conformance suite that all of them pass.
//!
//! A transport object serves one leg (one task over one method). It knows where the other side is (a torrent, a bucket,
//! a URL); it knows nothing of tasks' states, windows, SQL or other methods. It may be stopped and started at any time:
//! what it must remember between runs goes through [`Checkpoints`], what it fetched goes into the [`Sink`], which
//! remembers by itself what is there. May import: model, error, and the engines of its own folder.

pub mod away;
pub mod bt;
pub mod cdn;
pub mod limit;
pub mod obs;
mod pace;
pub mod ranged;
pub mod retry;

use crate::error::Fault;
use crate::model::ids::{RelPath, Sha1};
use crate::model::span::{Method, Span};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// One file of a package, as the task lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    pub path: RelPath,
    /// Bytes.
    pub size: u64,
    pub sha1: Sha1,
}

/// What a leg counts while it runs. Workers only add; one sampler reads (the database is off the byte path).
#[derive(Debug, Default)]
pub struct Counters {
    /// Payload bytes that are in place since this run began (fetched, uploaded or confirmed).
    pub done: AtomicU64,
    /// Bytes that crossed the network for them, repeats included.
    pub wire: AtomicU64,
    /// Bytes sent to BitTorrent peers.
    pub sent: AtomicU64,
    /// Connected BitTorrent peers.
    pub peers: AtomicU32,
    /// A publishing leg can serve now: the seed is up, the upload is complete, the CDN answers.
    pub ready: AtomicBool,
}

impl Counters {
    pub fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
    pub fn add_wire(&self, bytes: u64) {
        self.wire.fetch_add(bytes, Ordering::Relaxed);
    }
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// Small durable notes of a leg, by key (JSON text): an upload's id, an entity's ETag. A save returns after the commit.
#[async_trait::async_trait]
pub trait Checkpoints: Send + Sync {
    async fn load(&self, key: &str) -> Result<Option<String>, Fault>;
    async fn save(&self, key: &str, value: &str) -> Result<(), Fault>;
    async fn remove(&self, key: &str) -> Result<(), Fault>;
    /// What other tasks have saved under this key.
    async fn of_others(&self, key: &str) -> Result<Vec<String>, Fault>;
}

/// Where fetched bytes go. Implemented by `assembly`; thread-safe; the calls block: on the file system,
/// and on a disk that is slower than what comes.
pub trait Sink: Send + Sync + 'static {
    /// The parts of a span that are not there yet.
    fn missing(&self, span: &Span) -> Vec<Range<u64>>;
    /// Writes into the staged file; never past the file's size. Overlapping writes of equal data are harmless.
    /// `data` counts as present only after [`Sink::commit`].
    fn write_at(&self, file: u32, offset: u64, data: &[u8]) -> Result<(), Fault>;
    /// Reads back what was written (BitTorrent checks pieces and serves peers from here).
    fn read_at(&self, file: u32, offset: u64, buf: &mut [u8]) -> Result<(), Fault>;
    /// These bytes are all written and, where the method can check parts, checked. The sink syncs and records them later.
    fn commit(&self, file: u32, range: Range<u64>);
}

/// What every leg gets from its conductor.
#[derive(Clone)]
pub struct LegContext {
    /// The task's name, for messages.
    pub task: String,
    pub counters: Arc<Counters>,
    /// Stop soon, keep everything, report [`Outcome::Stopped`]. Not an error.
    pub stop: CancellationToken,
    pub checkpoints: Arc<dyn Checkpoints>,
    /// Rate cap of the method, shared by all its legs; may change while we run.
    pub limiter: limit::Limiter,
}

/// Fetch these spans.
pub struct FetchJob {
    pub files: Arc<[FileMeta]>,
    pub spans: Vec<Span>,
    pub sink: Arc<dyn Sink>,
    pub ctx: LegContext,
}

/// Make these spans of the package below `root` available to others. The package is never written to.
pub struct PublishJob {
    pub files: Arc<[FileMeta]>,
    pub spans: Vec<Span>,
    pub root: PathBuf,
    pub ctx: LegContext,
}

/// How a run ended, errors aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for is there (fetch) or stays available without us (upload, CDN check).
    Done,
    /// The stop token fired.
    Stopped,
}

#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    fn method(&self) -> Method;
    /// Fetches what [`Sink::missing`] says is missing of the job's spans. Retries what is worth retrying within the run
    /// (seconds to a minute); returns a [`Fault`] when it gives up, with the file named where there is one.
    async fn fetch(&self, job: FetchJob) -> Result<Outcome, Fault>;
    /// Uploads (obs), seeds until stopped (bt; sets `ready` when it serves), checks that the origin serves (cdn).
    async fn publish(&self, job: PublishJob) -> Result<Outcome, Fault>;
}
