//! Fetching spans: a loop that looks at the torrent a few times per second and decides by what the sink has.

use super::engine::{Add, Torrent, stopped};
use super::layout::Layout;
use super::receive::{self, Receiving};
use super::scout::Scout;
use super::{BtSource, BtTransport, Meter, POLL, Patience, resolve_peers};
use crate::error::Fault;
use crate::model::span::Span;
use crate::transport::{Counters, FetchJob, FileMeta, Outcome, Sink};
use librqbit::{TorrentStats, TorrentStatsState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// librqbit has all it was told to fetch, yet the sink still misses bytes: it may be syncing.
const SINK_GRACE: Duration = Duration::from_secs(30);
/// Bytes that may arrive without a piece passing its check, besides the pieces in flight: twice librqbit's request window.
const UNCHECKED_SLACK: u64 = 4 << 20;

/// Unfinished pieces, one for each peer, are lost at a stop or a power cut: together not more than this, so that with what
/// the sink may lose at most 64 MiB of a leg are fetched again ...
const OPEN_BYTES: u64 = 56 << 20;
/// ... and not with fewer peers than this: one that is slow or has little must not hold up a film. More than librqbit's own
/// number of peers helps nobody.
const PEERS: std::ops::RangeInclusive<u64> = 4..=128;

/// How many peers a fetch with pieces of this length may have at once.
fn most_peers(piece_len: u64) -> usize {
    (OPEN_BYTES / piece_len.max(1)).clamp(*PEERS.start(), *PEERS.end()) as usize
}

/// What is asked of a peer at once.
const BLOCK: u64 = 16 << 10;
/// Blocks under way from one peer. The lower bound keeps 4 MB/s up over a line of 30 ms, the upper one is
/// librqbit's own.
const WINDOW: std::ops::RangeInclusive<u64> = 8..=128;
/// What is under way from the centre to a whole swarm is to be a small part of the package: it cannot be had from anybody
/// else meanwhile, and many members ask for the same. For a member that is this part of the bytes.
const WINDOW_PART: u64 = 1280;

/// How much is asked of one peer at a time, in blocks, for a torrent of so many bytes.
fn request_window(total: u64) -> usize {
    (total / WINDOW_PART / BLOCK).clamp(*WINDOW.start(), *WINDOW.end()) as usize
}

/// What a run works out before it begins.
struct Plan {
    layout: Arc<Layout>,
    only_files: Vec<usize>,
    have: Vec<u8>,
    shared: Arc<Receiving>,
}

/// `None` when nothing is missing. Blocks: a large torrent asks the sink a hundred thousand times.
fn plan(source: &BtSource, task: &str, files: &[FileMeta], spans: &[Span], sink: &Arc<dyn Sink>) -> Result<Option<Plan>, Fault> {
    let layout = Arc::new(Layout::parse(&source.torrent, &source.map, files)?);
    let open: Vec<Span> = spans.iter().filter(|s| missing_bytes(&**sink, s) > 0).copied().collect();
    if open.is_empty() {
        return Ok(None);
    }
    if let Some(span) = open.iter().find(|s| !layout.covers(s)) {
        let path = files.get(span.file as usize).map_or("?", |f| f.path.as_str());
        return Err(Fault::permanent(format!("the torrent of {task} does not hold all of {path}")).file(path));
    }
    let only_files = layout.files_meeting(&open);
    let have = layout.bitfield(|s| sink.missing(s).is_empty());
    let shared = Receiving::new(layout.clone(), sink.clone(), spans);
    Ok(Some(Plan { layout, only_files, have, shared }))
}

pub(super) async fn run(bt: &BtTransport, job: &FetchJob) -> Result<Outcome, Fault> {
    let planning = {
        let (source, task, sink) = (bt.source.clone(), job.ctx.task.clone(), job.sink.clone());
        let (files, spans) = (job.files.clone(), job.spans.clone());
        tokio::task::spawn_blocking(move || plan(&source, &task, &files, &spans, &sink)).await
    };
    let planned = planning.map_err(|e| Fault::local("a BitTorrent fetch could not start").detail(e))??;
    let Some(Plan { layout, only_files, have, shared }) = planned else { return Ok(Outcome::Done) };
    let mut progress = Progress::new(job);
    let peers = tokio::select! {
        peers = resolve_peers(&job.ctx.task, &bt.source.peers, bt.engine.listen_addr()) => peers,
        () = job.ctx.stop.cancelled() => return Ok(Outcome::Stopped),
    };
    bt.engine.follow_cap(job.ctx.limiter.get());
    let window = request_window(layout.total());
    let torrent = bt
        .engine
        .add(Add {
            task: &job.ctx.task,
            torrent: &bt.source.torrent,
            layout: &layout,
            have: Some(&have),
            only_files: only_files.clone(),
            storage: receive::factory(&shared),
            trackers: &bt.source.trackers,
            peers,
            window: Some(window),
            most_peers: Some(most_peers(layout.piece_len(0))),
        })
        .await?;
    let mut scouts = JoinSet::new();
    if bt.diversify {
        let scout = Scout {
            handle: torrent.handle.clone(),
            streams: bt.engine.streams.clone(),
            layout: layout.clone(),
            sink: job.sink.clone(),
            files: only_files.clone(),
            lead: window as u64 * BLOCK + layout.piece_len(0),
        };
        scouts.spawn(scout.walk());
    }
    let mut watch = Watch::new(bt.patience, layout.piece_len(0));
    let end = follow(bt, job, &torrent, &shared, &mut progress, &mut watch).await;
    scouts.shutdown().await;
    watch.count(&torrent.handle.stats(), &job.ctx.counters);
    torrent.remove().await;
    // No byte may arrive after the leg has ended.
    let closing = shared.clone();
    let closed = tokio::task::spawn_blocking(move || closing.close()).await;
    closed.map_err(|e| Fault::transient("the end of a BitTorrent fetch failed").detail(e))?;
    job.ctx.counters.peers.store(0, Ordering::Relaxed);
    progress.update(job);
    end
}

async fn follow(
    bt: &BtTransport,
    job: &FetchJob,
    torrent: &Torrent,
    shared: &Receiving,
    progress: &mut Progress,
    watch: &mut Watch,
) -> Result<Outcome, Fault> {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = job.ctx.stop.cancelled() => return Ok(Outcome::Stopped),
            () = bt.engine.closing.cancelled() => return Err(stopped()),
            _ = tick.tick() => {}
        }
        // Another task of this node has it all: it can be copied.
        if bt.caching && bt.engine.turns.has_heirs(&torrent.info_hash()) {
            return Ok(Outcome::Stopped);
        }
        bt.engine.follow_cap(job.ctx.limiter.get());
        let stats = torrent.handle.stats();
        let traffic = watch.count(&stats, &job.ctx.counters);
        progress.update(job);
        if progress.complete() {
            return Ok(Outcome::Done);
        }
        if let Some(fault) = shared.fault() {
            return Err(fault);
        }
        match watch.judge(&stats, traffic, &job.ctx.task)? {
            Advice::Go => {}
            Advice::Restart => {
                tracing::info!(task = job.ctx.task, "BitTorrent stalls: asking peers and trackers anew");
                torrent.restart().await;
                watch.restarted();
            }
        }
    }
}

/// What of the job is still missing.
struct Progress {
    open: Vec<(Span, u64)>,
}

fn missing_bytes(sink: &dyn Sink, span: &Span) -> u64 {
    sink.missing(span).iter().map(|r| r.end.saturating_sub(r.start)).sum()
}

impl Progress {
    fn new(job: &FetchJob) -> Self {
        let open = job.spans.iter().map(|s| (*s, missing_bytes(&*job.sink, s))).filter(|(_, missing)| *missing > 0).collect();
        Self { open }
    }

    fn complete(&self) -> bool {
        self.open.is_empty()
    }

    fn update(&mut self, job: &FetchJob) {
        for (span, missing) in &mut self.open {
            let now = missing_bytes(&*job.sink, span);
            job.ctx.counters.add_done(missing.saturating_sub(now));
            *missing = now;
        }
        self.open.retain(|(_, missing)| *missing > 0);
        if self.open.is_empty() {
            // The sink may have thrown away what failed its own verification.
            *self = Self::new(job);
        }
    }
}

enum Advice {
    Go,
    Restart,
}

struct Traffic {
    fetched: u64,
    checked: u64,
    peers: u32,
}

/// Judges by a torrent's traffic whether it still gets anywhere.
struct Watch {
    patience: Patience,
    piece_len: u64,
    fetched: Meter,
    checked: Meter,
    sent: Meter,
    last_byte: Instant,
    last_restart: Instant,
    finished_since: Option<Instant>,
    unchecked: u64,
    last_proof: Instant,
    most_peers: u32,
}

impl Watch {
    fn new(patience: Patience, piece_len: u64) -> Self {
        let now = Instant::now();
        Self {
            patience,
            piece_len,
            fetched: Meter::default(),
            checked: Meter::default(),
            sent: Meter::default(),
            last_byte: now,
            last_restart: now,
            finished_since: None,
            unchecked: 0,
            last_proof: now,
            most_peers: 0,
        }
    }

    fn count(&mut self, stats: &TorrentStats, counters: &Counters) -> Traffic {
        let Some(live) = &stats.live else { return Traffic { fetched: 0, checked: 0, peers: 0 } };
        let fetched = self.fetched.increment(live.snapshot.fetched_bytes);
        let checked = self.checked.increment(live.snapshot.downloaded_and_checked_bytes);
        let peers = live.snapshot.peer_stats.live;
        counters.add_wire(fetched);
        counters.sent.fetch_add(self.sent.increment(stats.uploaded_bytes), Ordering::Relaxed);
        counters.peers.store(peers, Ordering::Relaxed);
        Traffic { fetched, checked, peers }
    }

    fn restarted(&mut self) {
        self.last_restart = Instant::now();
        for meter in [&mut self.fetched, &mut self.checked, &mut self.sent] {
            meter.restarted();
        }
    }

    fn judge(&mut self, stats: &TorrentStats, traffic: Traffic, task: &str) -> Result<Advice, Fault> {
        if matches!(stats.state, TorrentStatsState::Error) {
            let detail = stats.error.clone().unwrap_or_default();
            return Err(Fault::permanent(format!("BitTorrent gave up on {task}: see the log")).detail(detail));
        }
        if matches!(stats.state, TorrentStatsState::Initializing { .. }) {
            // Waiting for its turn to start is nobody's stall.
            self.last_byte = Instant::now();
            return Ok(Advice::Go);
        }
        self.check_quality(&traffic)?;
        if stats.finished {
            let since = *self.finished_since.get_or_insert_with(Instant::now);
            if since.elapsed() > SINK_GRACE {
                return Err(Fault::transient(format!(
                    "{task}: bytes that BitTorrent brought are missing again, they are fetched anew"
                )));
            }
            return Ok(Advice::Go);
        }
        self.finished_since = None;
        if traffic.fetched > 0 {
            self.last_byte = Instant::now();
            return Ok(Advice::Go);
        }
        let silent = self.last_byte.elapsed();
        if silent >= self.patience.give_up {
            return Err(Fault::transient(format!(
                "no peer has sent anything for {}: check the tracker and the sender's seed",
                in_words(self.patience.give_up)
            )));
        }
        // A restart throws away unfinished pieces: connected peers get more time than an empty line.
        let stall = if traffic.peers > 0 { self.patience.stall * 3 } else { self.patience.stall };
        Ok(if silent >= stall && self.last_restart.elapsed() >= stall { Advice::Restart } else { Advice::Go })
    }

    /// Every peer works on one piece at a time: when far more arrives than the pieces in flight and none of them passes
    /// its check, the seed does not have what the torrent describes.
    fn check_quality(&mut self, traffic: &Traffic) -> Result<(), Fault> {
        self.most_peers = self.most_peers.max(traffic.peers);
        if traffic.checked > 0 || self.unchecked == 0 {
            self.last_proof = Instant::now();
        }
        if traffic.checked > 0 {
            self.unchecked = 0;
            self.most_peers = traffic.peers;
            return Ok(());
        }
        self.unchecked += traffic.fetched;
        let in_flight = (u64::from(self.most_peers) + 2) * 2 * self.piece_len + UNCHECKED_SLACK;
        if self.unchecked > in_flight && self.last_proof.elapsed() >= self.patience.proof {
            return Err(Fault::transient(
                "what the peers send does not match the torrent: check the sender's package (bftv2 check) and run gentask again",
            ));
        }
        Ok(())
    }
}

fn in_words(d: Duration) -> String {
    if d.as_secs() >= 120 { format!("{} minutes", d.as_secs() / 60) } else { format!("{} seconds", d.as_secs()) }
}
