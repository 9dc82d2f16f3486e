//! Files that are new, have changed or are asked for are hashed here, in the background.
//!
//! Small files go in batches, so that a hundred thousand of them are not a hundred thousand transactions; large ones one
//! by one, and how far they are is kept now and then. Several files are read at once where the disk can do that. While
//! deliveries move bytes, one is, with pauses.

use super::hash::{Hashed, Known, Midway, Pace, at_lowest_priority};
use super::place::Place;
use super::tally::Tally;
use super::{Library, blocking};
use crate::clock::{ctime_ns, mtime_ns};
use crate::error::Fault;
use crate::package::digest::Sha1State;
use crate::store::events::Level;
use crate::store::hashtable::FileStamp;
use crate::store::library_queue::{DueFile, HashedFile, Put, QueueLength, Wait};
use crate::store::library_watch::HashingRow;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::collections::{HashSet, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// After a fault of the database.
const RETRY: Duration = Duration::from_secs(30);
/// A batch: so many files, or so many bytes.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 64 << 20;
/// Files that are asked for at a time.
const FETCH: usize = 1024;
/// Between two looks at a file that is open for writing. Its end is seen by the watch, as a rule.
const LOOK_AGAIN_MS: i64 = 10_000;
/// Where nobody can tell whether a file is being written, it is quiet for so many times longer, and at least for so long.
const UNSURE_TIMES: i64 = 5;
const UNSURE_MS: i64 = 10_000;
const UNSURE_MOST_MS: i64 = 3_600_000;
/// A long queue is hashed for hours: so often its packages are reviewed meanwhile.
const REVIEW: Duration = Duration::from_secs(10);
const MOST_TOUCHED: usize = 1000;
/// Between two updates of what the database shows.
const SHOW: Duration = Duration::from_secs(1);
/// Damaged files that get an event each.
const MOST_DAMAGED: u64 = 500;
/// More readers than this bring no disk further.
const MOST_READERS: usize = 4;
/// Weight of the newest second in the rate that is shown.
const WEIGHT: f64 = 0.3;

/// What is still to hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub left: QueueLength,
    /// A scan runs: there may be more.
    pub scanning: bool,
    /// `idle`, `hashing` or `giving way`.
    pub state: String,
    /// One of the files that are read.
    pub file: String,
    /// Bytes per second.
    pub rate: u64,
}

/// What became of the files of the queue, for one event.
#[derive(Default)]
struct Told {
    files: u64,
    /// The line said otherwise.
    wrong: Tally,
    refused: Tally,
    damaged: u64,
    /// Their packages are to be reviewed.
    touched: Vec<PathBuf>,
}

type Batch = Vec<(DueFile, Result<Hashed, Fault>)>;
type Note = (String, i64, Midway);

impl Library {
    /// Works until stopped. What is in the queue then is hashed after the next start.
    pub(super) async fn hash_queue(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let hashed = self.hash_all(stop).await;
            if let Err(fault) = &hashed {
                tracing::warn!(%fault, "hashing files of the library; it is tried again");
            }
            let due = self.store.next_library_file_due().await.ok().flatten();
            let wait = match due {
                Some(at) if hashed.is_ok() => {
                    Duration::from_millis(at.saturating_sub(self.clock.now_ms()).clamp(20, 60_000) as u64)
                }
                Some(_) => RETRY,
                None => Duration::from_secs(3600),
            };
            tokio::select! {
                () = self.queued.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Hashes what is due and tells what became of it.
    pub(super) async fn hash_all(&self, stop: &CancellationToken) -> Result<(), Fault> {
        let mut told = Told::default();
        let result = Run::new(self, stop).await.work(&mut told).await;
        let review = self.packages.review(&std::mem::take(&mut told.touched)).await;
        self.tell(told).await;
        result.and(review)
    }

    /// What is still to hash.
    pub async fn waiting(&self) -> Result<Waiting, Fault> {
        let scanning = self.scans.try_lock().is_err() || !self.touched.is_empty();
        let left = self.store.library_queue().await?;
        let row = self.store.hashing().await?.unwrap_or_default();
        let shown = left.files > 0;
        Ok(Waiting {
            left,
            scanning,
            state: if shown { row.state } else { "idle".into() },
            file: if shown { row.file } else { String::new() },
            rate: if shown { row.rate } else { 0 },
        })
    }

    async fn tell(&self, told: Told) {
        let Told { files, wrong, refused, damaged, .. } = told;
        if files + refused.count == 0 {
            return;
        }
        let mut text = format!("files of the library: {files} hashed");
        if wrong.count > 0 {
            text += &format!("; {} had another digest in the hash table ({})", wrong.count, wrong.first);
        }
        if refused.count > 0 {
            text += &format!("; {} not taken in ({})", refused.count, refused.first);
        }
        if damaged > 0 {
            text += &format!("; {damaged} damaged, the first {MOST_DAMAGED} have an event each");
        }
        match wrong.count + refused.count + damaged {
            // Every day has many of these.
            0 => tracing::info!("{text}"),
            _ => self.event(Level::Warn, &text).await,
        }
    }
}

/// One time through the queue.
struct Run<'a> {
    library: &'a Library,
    pace: Arc<Pace>,
    readers: usize,
    /// Due, and not begun.
    due: VecDeque<DueFile>,
    /// Begun, by path.
    begun: HashSet<String>,
    shown: HashingRow,
    counted: Option<Instant>,
    seen: (u64, Instant),
}

impl<'a> Run<'a> {
    async fn new(library: &'a Library, stop: &CancellationToken) -> Self {
        let base = library.place.base.clone();
        let readers = blocking(move || Ok(readers(&base))).await.unwrap_or(1);
        let pace = Arc::new(Pace { stop: stop.clone(), ..Pace::default() });
        Self {
            library,
            pace,
            readers,
            due: VecDeque::new(),
            begun: HashSet::new(),
            shown: HashingRow::default(),
            counted: None,
            seen: (0, Instant::now()),
        }
    }

    async fn work(mut self, told: &mut Told) -> Result<(), Fault> {
        let (notes, mut noted) = mpsc::channel::<Note>(16);
        let mut running = FuturesUnordered::new();
        let mut tick = tokio::time::interval(SHOW);
        let (mut result, mut reviewed) = (Ok(()), Instant::now());
        loop {
            let readers = if self.pace.give_way.load(Ordering::Relaxed) { 1 } else { self.readers };
            while result.is_ok() && running.len() < readers && !self.pace.stop.is_cancelled() {
                match self.next_batch().await {
                    Ok(Some(batch)) => running.push(self.begin(batch, notes.clone())),
                    Ok(None) => break,
                    Err(fault) => result = Err(fault),
                }
            }
            if running.is_empty() {
                break;
            }
            tokio::select! {
                Some(batch) = running.next() => {
                    let broken = |_| Fault::local("a thread that hashes ended: its files are tried again");
                    let dealt = match batch.map_err(broken) {
                        Ok(batch) => self.deal(batch, told).await,
                        Err(fault) => Err(fault),
                    };
                    result = result.and(dealt);
                    if reviewed.elapsed() >= REVIEW || told.touched.len() >= MOST_TOUCHED {
                        reviewed = Instant::now();
                        result = result.and(self.library.packages.review(&std::mem::take(&mut told.touched)).await);
                    }
                }
                Some((path, due_at, midway)) = noted.recv() => self.keep(&path, due_at, &midway).await,
                _ = tick.tick() => self.show("").await,
            }
        }
        if self.counted.is_some() {
            self.show("idle").await;
        }
        result
    }

    /// Files for one reader; `None`: nothing is due.
    async fn next_batch(&mut self) -> Result<Option<Vec<DueFile>>, Fault> {
        if self.due.is_empty() {
            let most = (FETCH + self.begun.len()) as u32;
            let due = self.library.store.due_library_files(self.library.clock.now_ms(), most).await?;
            self.due = due.into_iter().filter(|f| !self.begun.contains(&f.queued.path)).collect();
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_FILES && bytes < BATCH_BYTES {
            let size = |f: &DueFile| f.queued.stamp.map_or(BATCH_BYTES, |s| s.size);
            let Some(file) = self.due.pop_front_if(|f| batch.is_empty() || size(f) + bytes <= BATCH_BYTES) else { break };
            bytes += size(&file);
            self.begun.insert(file.queued.path.clone());
            batch.push(file);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Gives files to a thread of their own: its priority is the lowest.
    fn begin(&mut self, batch: Vec<DueFile>, notes: mpsc::Sender<Note>) -> oneshot::Receiver<Batch> {
        let (done, result) = oneshot::channel();
        let (place, pace) = (self.library.place.clone(), Arc::clone(&self.pace));
        if let Some(first) = batch.first() {
            self.shown.file.clone_from(&first.queued.path);
        }
        let reader = std::thread::Builder::new().name("hash".into()).spawn(move || {
            at_lowest_priority();
            let hash = |file: DueFile| {
                let hashed = hash(&place, &pace, &file, &notes);
                (file, hashed)
            };
            let _ = done.send(batch.into_iter().map(hash).collect());
        });
        if let Err(e) = reader {
            tracing::warn!(error = %e, "no thread to hash with; it is tried again");
        }
        result
    }

    /// Writes down what became of a batch.
    async fn deal(&mut self, batch: Batch, told: &mut Told) -> Result<(), Fault> {
        let library = self.library;
        let (mut done, mut known, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let (mut written, mut unsure) = (Vec::new(), Vec::new());
        for (file, hashed) in batch {
            let (path, due_at) = (file.queued.path.clone(), file.queued.due_at);
            self.begun.remove(&path);
            match hashed {
                Ok(Hashed::Done(row)) => done.push((file, row)),
                Ok(Hashed::Known) => known.push((path, due_at)),
                Ok(Hashed::Written(stamp) | Hashed::Changed(stamp)) => written.push((path, due_at, stamp)),
                Ok(Hashed::Unsure(stamp)) => unsure.push((path, due_at, stamp)),
                // Not worth a word, unless somebody asked for it.
                Ok(Hashed::Gone) if file.queued.listed.is_none() => refused.push((path, due_at)),
                Ok(Hashed::Gone) => {
                    told.refused.add(|| format!("{}: there is no such file", path.escape_debug()));
                    refused.push((path, due_at));
                }
                Ok(Hashed::Stopped(Some(midway))) => self.keep(&path, due_at, &midway).await,
                Ok(Hashed::Stopped(None)) => {}
                Err(fault) => {
                    // Known before, and not readable any more: rather a disk that dies than a wish.
                    if file.row.is_some() {
                        library.event_of("damaged", Level::Error, &fault.message).await;
                    }
                    told.refused.add(|| format!("{}: {fault}", path.escape_debug()));
                    library.refuse(&path, file.queued.stamp);
                    refused.push((path, due_at));
                }
            }
        }
        let (store, now, settle) = (&library.store, library.clock.now_ms(), library.settle_ms());
        told.touched.extend(refused.iter().map(|(path, _)| PathBuf::from(path)));
        self.put(done, told).await?;
        store.drop_queued_files(&known).await?;
        store.refuse_queued_files(&refused).await?;
        store.postpone_queued_files(&written, Wait::Written, now + settle.clamp(LOOK_AGAIN_MS, UNSURE_MOST_MS)).await?;
        store.postpone_queued_files(&unsure, Wait::Quiet, now + (settle * UNSURE_TIMES).clamp(UNSURE_MS, UNSURE_MOST_MS)).await
    }

    async fn put(&mut self, done: Vec<(DueFile, HashedFile)>, told: &mut Told) -> Result<(), Fault> {
        if done.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = done.iter().map(|(due, file)| (file.clone(), due.queued.due_at)).collect();
        let mut damaged = told.damaged;
        let tell = |path: &str, was, is| {
            damaged += 1;
            (damaged <= MOST_DAMAGED).then(|| Library::damaged(path, was, is))
        };
        let put = self.library.store.put_hashed_files(&rows, self.library.clock.now_ms(), tell).await?;
        for ((due, HashedFile { file, .. }), put) in done.into_iter().zip(put) {
            let path = &due.queued.path;
            match put {
                Put::Outdated => continue,
                Put::Done => {}
                Put::Damaged => told.damaged += 1,
            }
            told.files += 1;
            told.touched.push(path.into());
            if let Some(listed) = due.queued.listed.filter(|l| *l != file.sha1) {
                told.wrong.add(|| format!("{path}: {listed}, it is {}", file.sha1));
            }
        }
        Ok(())
    }

    async fn keep(&self, path: &str, due_at: i64, midway: &Midway) {
        let (state, done) = (midway.state.to_bytes(), midway.state.len());
        if let Err(fault) = self.library.store.keep_queued_digest(path, due_at, &midway.stamp, &state, done).await {
            tracing::warn!(%fault, path, "how far the hashing is cannot be kept");
        }
    }

    /// Shows in the database how it goes, and looks whether deliveries need the machine.
    async fn show(&mut self, state: &str) {
        let store = &self.library.store;
        let busy = store.is_delivering().await.unwrap_or(false);
        self.pace.give_way.store(busy, Ordering::Relaxed);
        let (done, elapsed) = (self.pace.done.load(Ordering::Relaxed), self.seen.1.elapsed());
        let now = (done - self.seen.0) as f64 / elapsed.as_secs_f64().max(0.01);
        self.seen = (done, Instant::now());
        let rate = self.shown.rate as f64;
        self.shown.rate = if rate == 0.0 { now } else { rate + WEIGHT * (now - rate) } as u64;
        self.shown.state = match (state, busy) {
            ("", true) => "giving way",
            ("", false) => "hashing",
            _ => state,
        }
        .into();
        // Counting a million rows takes a moment: not more than a hundredth of the time.
        let begun = Instant::now();
        if state == "idle" || self.counted.is_none_or(|next| begun >= next) {
            match store.library_queue().await {
                Ok(left) => self.shown.left = left,
                Err(fault) => tracing::debug!(%fault, "what is left to hash cannot be counted"),
            }
            self.counted = Some(Instant::now() + SHOW.max(begun.elapsed() * 100));
        }
        if state == "idle" {
            (self.shown.rate, self.shown.file) = (0, String::new());
        }
        if let Err(fault) = store.put_hashing(&self.shown, self.library.clock.now_ms()).await {
            tracing::debug!(%fault, "how the hashing goes cannot be shown");
        }
    }
}

/// Hashes one file. Blocks.
fn hash(place: &Place, pace: &Pace, file: &DueFile, notes: &mpsc::Sender<Note>) -> Result<Hashed, Fault> {
    let DueFile { queued, wait, digest, row } = file;
    let rel = place.admit(&queued.path).map_err(|why| Fault::local(why.to_owned()))?;
    let fits = row.filter(|(_, sha1)| !queued.anew && queued.listed.is_none_or(|l| l == *sha1)).map(|(stamp, _)| stamp);
    let midway =
        queued.stamp.zip(digest.as_deref().and_then(Sha1State::from_bytes)).map(|(stamp, state)| Midway { stamp, state });
    let known = Known { fits, quiet: queued.stamp.filter(|_| *wait == Some(Wait::Quiet)), midway };
    let mut note = |midway: &Midway| drop(notes.try_send((queued.path.clone(), queued.due_at, midway.clone())));
    place.hash(&rel, known, pace, &mut note)
}

/// How many files may be read at once: one from a disk that has to move its head, and where that is not known.
fn readers(base: &Path) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Ok(device) = base.metadata().map(|m| m.dev()) else { return 1 };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has no queue of its own: its disk's is one up.
    let rotates = [block.join("queue/rotational"), block.join("../queue/rotational")];
    match rotates.iter().find_map(|p| std::fs::read_to_string(p).ok()) {
        Some(text) if text.trim() == "0" => cores.min(MOST_READERS),
        // No block device at all: memory.
        None if major == 0 && !block.exists() && is_memory(base) => cores.min(MOST_READERS),
        _ => 1,
    }
}

fn is_memory(base: &Path) -> bool {
    /// linux/magic.h
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    // The field's type differs from machine to machine.
    rustix::fs::statfs(base).is_ok_and(|s| u64::try_from(s.f_type) == Ok(TMPFS_MAGIC))
}

impl FileStamp {
    /// How a file looks.
    pub(super) fn of(meta: &std::fs::Metadata) -> Self {
        Self { size: meta.len(), mtime_ns: mtime_ns(meta), inode: meta.ino(), ctime_ns: ctime_ns(meta) }
    }
}
