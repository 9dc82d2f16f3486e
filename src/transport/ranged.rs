//! Fetching spans as parallel byte ranges: the part that HTTP-like methods (`obs`, `cdn`) share.
//!
//! What is missing is cut into segments, which a few workers take **in order**, so that the bytes arrive almost in
//! file order and the sink's running digest follows closely behind. One long stream per file was rejected: it is half as
//! fast on a long line and loses its place at every cut. One range per worker (a quarter of the file each) was rejected
//! too: the digest could start only when the first quarter is complete, and would reread the rest from the disk.
//!
//! Within a segment the network and the disk overlap: while one block is written on a blocking thread, the next one is
//! received. Memory is two blocks per connection whatever the size of the file. After a cut, only the rest of a segment
//! is asked for again; a try that brought more than a little does not count as a failed one.
//!
//! A connection that crawls while the others do not is given up and its rest asked for on a new one: the end of a file must
//! not wait for one bad line.
//!
//! A file that cannot be had (missing, changed, always answered with an error) does not stop the others: what can be had
//! is fetched, then its fault is returned. When a second file fails in a row because the server stays away, no new
//! segments are taken up. A full disk stops everything at once.

use super::pace::{Usual, Watchdog};
use super::retry::{Policy, with_retries};
use super::{FetchJob, FileMeta, LegContext, Outcome, Sink};
use crate::error::{Fault, FaultClass};
use crate::model::span::Span;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A place that serves byte ranges of the job's files.
#[async_trait::async_trait]
pub trait RangeSource: Send + Sync {
    /// Opens one range of one file (index into the job's files). Checks of identity (ETag, Last-Modified, total) and of
    /// the answer's claims happen inside; [`fetch_ranges`] counts the bytes, so a stream that ends early or runs on is
    /// noticed there.
    async fn open(&self, file: u32, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault>;
}

/// Bytes per write and per commit. Large enough that the hop to a blocking thread costs nothing, small enough that a
/// stop loses little and memory stays at two of them per connection.
const BLOCK: usize = 1 << 20;

/// A try that brought so many bytes before it was cut off has not failed.
const WORTH: u64 = 64 << 10;

/// Connections of one segment that are given up for crawling: on a line that is slow for all, one must do in the end.
const CRAWLERS: u32 = 4;
/// A block that grows slowly is written after this time all the same: on a slow line megabytes of every connection would
/// come again after a power cut.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// How a leg fetches.
#[derive(Clone, Debug)]
pub struct RangedOptions {
    /// Segments in flight at a time.
    pub connections: usize,
    /// Bytes per request. 8-32 MiB: smaller wastes round trips, larger lets the digest fall behind.
    pub segment: u64,
    /// Bytes per second that one connection must bring, measured over `period`. Only time spent waiting for the server
    /// counts: our own rate cap and a slow disk are not the server's fault.
    pub min_rate: u64,
    /// Also the longest wait for an answer to begin.
    pub period: Duration,
    pub retry: Policy,
}

impl Default for RangedOptions {
    fn default() -> Self {
        Self { connections: 4, segment: 16 << 20, min_rate: 1024, period: Duration::from_secs(30), retry: Policy::default() }
    }
}

/// Fetches what the job's sink misses. Returns [`Outcome::Done`] when nothing is missing any more, [`Outcome::Stopped`]
/// when the job's stop token ended it early (everything received is committed), or the first fault, its file named.
pub async fn fetch_ranges(job: &FetchJob, source: Arc<dyn RangeSource>, options: &RangedOptions) -> Result<Outcome, Fault> {
    let fetch = Arc::new(Fetch {
        queue: Mutex::new(Queue::new(job)?),
        halt: job.ctx.stop.child_token(),
        files: Arc::clone(&job.files),
        sink: Arc::clone(&job.sink),
        ctx: job.ctx.clone(),
        source,
        options: options.clone(),
        usual: Usual::default(),
        passes: AtomicBool::new(false),
    });
    let mut workers = JoinSet::new();
    for _ in 0..options.connections.max(1) {
        workers.spawn(Arc::clone(&fetch).work());
    }
    while let Some(ended) = workers.join_next().await {
        if let Err(e) = ended {
            fetch.queue().fail(None, Fault::transient(format!("{}: a transfer ended unexpectedly", job.ctx.task)).detail(e));
        }
    }
    let queue = &mut *fetch.queue();
    if let Some(fault) = queue.fault.as_mut() {
        if fault.class == FaultClass::Local && fetch.passes.load(Ordering::Relaxed) {
            fault.class = FaultClass::Transient;
        }
        fault.others = std::mem::take(&mut queue.lost).into_iter().filter(|f| Some(f) != fault.file.as_ref()).collect();
    }
    match queue.fault.take() {
        Some(fault) if fault.is_transient() && job.ctx.stop.is_cancelled() => Ok(Outcome::Stopped),
        Some(fault) => Err(fault),
        None if queue.unfinished || !queue.ranges.is_empty() => Ok(Outcome::Stopped),
        None => Ok(Outcome::Done),
    }
}

/// One run of a leg: what its workers share.
struct Fetch {
    queue: Mutex<Queue>,
    /// Fires with the leg's stop token, or when this machine cannot go on.
    halt: CancellationToken,
    files: Arc<[FileMeta]>,
    sink: Arc<dyn Sink>,
    ctx: LegContext,
    source: Arc<dyn RangeSource>,
    options: RangedOptions,
    usual: Usual,
    /// What stopped this machine passes: the leg may be tried again.
    passes: AtomicBool,
}

/// What is still to be taken up, and what went wrong.
struct Queue {
    ranges: VecDeque<(u32, Range<u64>)>,
    /// Files that cannot be had: their other segments are not asked for.
    refused: HashSet<u32>,
    /// Files whose tries were used up since the last segment that succeeded.
    silent: HashSet<u32>,
    fault: Option<Fault>,
    /// Paths of the files that failed for good.
    lost: Vec<String>,
    /// A segment was left incomplete because of a stop.
    unfinished: bool,
    /// No new segments: the server stays away, or this machine cannot go on.
    closed: bool,
}

impl Queue {
    fn new(job: &FetchJob) -> Result<Self, Fault> {
        let mut ranges = VecDeque::new();
        for span in &job.spans {
            let known = job
                .files
                .get(span.file as usize)
                .is_some_and(|f| span.offset.checked_add(span.len).is_some_and(|end| end <= f.size));
            if !known {
                return Err(Fault::permanent(format!("{}: a part of file {} lies outside the package", job.ctx.task, span.file)));
            }
            if span.len > 0 {
                ranges.extend(job.sink.missing(span).into_iter().map(|r| (span.file, r)));
            }
        }
        Ok(Self {
            ranges,
            refused: HashSet::new(),
            silent: HashSet::new(),
            fault: None,
            lost: Vec::new(),
            unfinished: false,
            closed: false,
        })
    }

    /// The next segment, in order.
    fn next(&mut self, segment: u64) -> Option<(u32, Range<u64>)> {
        if self.closed {
            return None;
        }
        loop {
            let (file, range) = self.ranges.pop_front()?;
            if self.refused.contains(&file) || range.is_empty() {
                continue;
            }
            let cut = range.end.min(range.start.saturating_add(segment.max(1)));
            if cut < range.end {
                self.ranges.push_front((file, cut..range.end));
            }
            return Some((file, range.start..cut));
        }
    }

    /// Keeps the first fault. One that will not pass outranks one that may, a fault of this machine all others.
    fn fail(&mut self, file: Option<u32>, fault: Fault) {
        match file.filter(|_| fault.class != FaultClass::Local) {
            Some(file) => {
                self.refused.insert(file);
                match &fault.file {
                    _ if fault.is_transient() => {
                        self.silent.insert(file);
                    }
                    Some(path) if !self.lost.contains(path) => self.lost.push(path.clone()),
                    _ => {}
                }
                self.closed |= self.silent.len() > 1;
            }
            None => self.closed = true,
        }
        let rank = |f: &Fault| match f.class {
            FaultClass::Transient => 0,
            FaultClass::Permanent | FaultClass::Corrupt => 1,
            FaultClass::Local => 2,
        };
        if self.fault.as_ref().is_none_or(|known| rank(known) < rank(&fault)) {
            self.fault = Some(fault);
        }
    }
}

impl Fetch {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes segments until none is left.
    async fn work(self: Arc<Self>) {
        while !self.halt.is_cancelled() {
            let Some((file, range)) = self.queue().next(self.options.segment) else { return };
            // Another method may have brought it meanwhile.
            let span = Span { file, offset: range.start, len: range.end - range.start };
            for part in self.sink.missing(&span) {
                match self.segment(file, part).await {
                    Ok(true) => self.queue().silent.clear(),
                    Ok(false) => {
                        self.queue().unfinished = true;
                        return;
                    }
                    Err(fault) => {
                        self.failed(file, fault);
                        break;
                    }
                }
            }
        }
    }

    fn failed(&self, file: u32, mut fault: Fault) {
        if let (None, Some(meta)) = (&fault.file, self.files.get(file as usize)) {
            fault = fault.file(&meta.path);
        }
        tracing::debug!(task = self.ctx.task, file = fault.file, %fault, detail = fault.detail, "segment given up");
        if fault.class == FaultClass::Local {
            self.halt.cancel();
        }
        self.queue().fail(Some(file), fault);
    }

    /// Fetches one segment; `false` when a stop cut it short. Whatever arrived is written and committed in every case.
    async fn segment(&self, file: u32, range: Range<u64>) -> Result<bool, Fault> {
        // A lock, because a try can be dropped at any await by the stop token while its bytes must survive it.
        let segment = tokio::sync::Mutex::new(Segment::new(self, file, range));
        loop {
            let tried = with_retries(self.options.retry, &self.halt, || async { segment.lock().await.attempt().await }).await;
            if let Some(Ok(Try::Cut)) = tried {
                continue;
            }
            segment.lock().await.finish().await?;
            return match tried {
                None => Ok(false),
                Some(Ok(_)) => Ok(true),
                Some(Err(fault)) => Err(fault),
            };
        }
    }
}

/// How one try of a segment ended, if it was not a failure.
enum Try {
    Complete,
    /// Cut off, but it had brought something: go on at once.
    Cut,
}

/// The state of one segment over all its tries. Every method may be dropped at any await without losing its place.
struct Segment<'a> {
    fetch: &'a Fetch,
    file: u32,
    /// Where `block` belongs in the file.
    at: u64,
    end: u64,
    /// Received, not yet handed to the disk.
    block: BytesMut,
    /// When the last block was handed over.
    flushed: Instant,
    /// On its way to the disk; gives its buffer back.
    writing: Option<JoinHandle<(BytesMut, Result<(), Fault>)>>,
    spare: Option<BytesMut>,
    /// The sink failed: nothing more is written.
    broken: bool,
    /// Connections that were given up for crawling, and whether the last one was.
    crawlers: u32,
    crawled: bool,
}

impl<'a> Segment<'a> {
    fn new(fetch: &'a Fetch, file: u32, range: Range<u64>) -> Self {
        let block = BytesMut::with_capacity(BLOCK.min((range.end - range.start) as usize));
        Self {
            fetch,
            file,
            at: range.start,
            end: range.end,
            block,
            flushed: Instant::now(),
            writing: None,
            spare: None,
            broken: false,
            crawlers: 0,
            crawled: false,
        }
    }

    /// The first byte that has not arrived.
    fn position(&self) -> u64 {
        self.at + self.block.len() as u64
    }

    async fn attempt(&mut self) -> Result<Try, Fault> {
        let began = self.position();
        if began == self.end {
            return Ok(Try::Complete);
        }
        match self.receive().await {
            Ok(()) => Ok(Try::Complete),
            Err(f) if std::mem::take(&mut self.crawled) => {
                tracing::debug!(fault = %f, at = self.position(), "asking on a new connection");
                Ok(Try::Cut)
            }
            Err(f) if f.is_transient() && f.retry_after.is_none() && self.position() - began >= WORTH => {
                tracing::debug!(fault = %f, detail = f.detail, at = self.position(), "cut, going on");
                Ok(Try::Cut)
            }
            Err(f) => Err(f),
        }
    }

    /// One request for the rest of the segment.
    async fn receive(&mut self) -> Result<(), Fault> {
        let fetch = self.fetch;
        let (began, from) = (Instant::now(), self.position());
        let mut watchdog = Watchdog::new(fetch.options.min_rate, fetch.options.period);
        let open = fetch.source.open(self.file, self.position()..self.end);
        let mut stream = watchdog.wait(open).await??;
        while self.position() < self.end {
            let Some(chunk) = watchdog.wait(stream.next()).await? else {
                return Err(Fault::transient("the server's answer ended too early"));
            };
            let chunk = chunk?;
            watchdog.received(chunk.len())?;
            fetch.ctx.counters.add_wire(chunk.len() as u64);
            let len = chunk.len();
            if len as u64 > self.end - self.position() {
                return Err(Fault::transient("the server sent more than it was asked for"));
            }
            self.push(chunk).await?;
            fetch.ctx.limiter.take(len).await;
            if self.position() < self.end && self.crawlers < CRAWLERS && watchdog.crawls(&fetch.usual) {
                self.crawlers += 1;
                self.crawled = true;
                return Err(Fault::transient("the connection is much slower than the others"));
            }
        }
        fetch.usual.learn(self.end - from, began.elapsed());
        Ok(())
    }

    async fn push(&mut self, mut chunk: Bytes) -> Result<(), Fault> {
        while !chunk.is_empty() {
            if self.block.len() == BLOCK {
                self.flush().await?;
            }
            let n = chunk.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&chunk[..n]);
            chunk.advance(n);
        }
        let due = self.block.len() == BLOCK || self.flushed.elapsed() >= FLUSH_AFTER;
        if due { self.flush().await } else { Ok(()) }
    }

    /// Hands the block to the disk, after the one before it.
    async fn flush(&mut self) -> Result<(), Fault> {
        self.written().await?;
        self.flushed = Instant::now();
        if self.block.is_empty() {
            return Ok(());
        }
        let next = self.spare.take().unwrap_or_else(|| BytesMut::with_capacity(BLOCK));
        let mut block = std::mem::replace(&mut self.block, next);
        let (sink, counters) = (Arc::clone(&self.fetch.sink), Arc::clone(&self.fetch.ctx.counters));
        let (file, at) = (self.file, self.at);
        self.at += block.len() as u64;
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let result = sink.write_at(file, at, &block).map(|()| {
                sink.commit(file, at..at + block.len() as u64);
                counters.add_done(block.len() as u64);
            });
            block.clear();
            (block, result)
        }));
        Ok(())
    }

    /// Waits for the block that is on its way to the disk.
    async fn written(&mut self) -> Result<(), Fault> {
        let Some(writing) = self.writing.as_mut() else { return Ok(()) };
        let ended = writing.await;
        self.writing = None;
        let result = match ended {
            Ok((block, result)) => {
                self.spare = Some(block);
                result
            }
            Err(e) => Err(Fault::local("writing to the staging directory ended unexpectedly").detail(e)),
        };
        result.map_err(|mut f| {
            self.broken = true;
            if f.class == FaultClass::Transient {
                f.class = FaultClass::Local; // another request would not mend the disk
                self.fetch.passes.store(true, Ordering::Relaxed);
            }
            f
        })
    }

    /// Writes and commits everything that arrived.
    async fn finish(&mut self) -> Result<(), Fault> {
        if !self.broken {
            self.flush().await?;
        }
        self.written().await
    }
}
