//! Publishing: the package is seeded in place until the leg is stopped or a file is no longer what was hashed.

use super::engine::{Add, Torrent, stopped};
use super::layout::Layout;
use super::seed::{self, Seeding};
use super::{BtSource, BtTransport, Meter, POLL, turns};
use crate::error::{Fault, FaultClass};
use crate::model::ranges::RangeSet;
use crate::model::span::Span;
use crate::transport::{FileMeta, Outcome, PublishJob};
use librqbit::{TorrentStats, TorrentStatsState};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often files are compared with their stamps by path.
const LOOK: Duration = Duration::from_secs(1);
/// A seed without peers for so long asks its trackers anew: one that has lost its memory does not send them.
const LONELY: Duration = Duration::from_secs(600);

/// What a run works out before it begins.
struct Plan {
    layout: Arc<Layout>,
    /// The pieces to offer without a check.
    have: Option<Vec<u8>>,
    shared: Arc<Seeding>,
}

/// Blocks: looks at every file, and at every piece.
fn plan(source: &BtSource, task: &str, files: &Arc<[FileMeta]>, spans: &[Span], root: &Path) -> Result<Plan, Fault> {
    let layout = Arc::new(Layout::parse(&source.torrent, &source.map, files)?);
    if let Some(span) = spans.iter().find(|s| !layout.covers(s)) {
        let path = files.get(span.file as usize).map_or("?", |f| f.path.as_str());
        return Err(Fault::permanent(format!("the torrent of {task} does not hold all of {path}")).file(path));
    }
    let shared = Seeding::start(layout.clone(), files.clone(), root.to_owned(), spans)?;
    // Of a torrent that is published in part, only pieces that lie within the published spans are offered.
    let have = source.known_good.then(|| {
        let mut by_file: HashMap<u32, RangeSet> = HashMap::new();
        for span in spans {
            by_file.entry(span.file).or_default().insert(span.range());
        }
        layout.bitfield(|s| by_file.get(&s.file).is_some_and(|set| set.contains(&s.range())))
    });
    Ok(Plan { layout, have, shared })
}

pub(super) async fn run(bt: &BtTransport, job: PublishJob) -> Result<Outcome, Fault> {
    let (mut source, mut confirmed) = (bt.source.clone(), 0);
    let mut changed = None;
    loop {
        let planning = {
            let (source, task, root) = (source.clone(), job.ctx.task.clone(), job.root.clone());
            let (files, spans) = (job.files.clone(), job.spans.clone());
            tokio::task::spawn_blocking(move || plan(&source, &task, &files, &spans, &root)).await
        };
        let plan = planning.map_err(|e| Fault::local("seeding could not start").detail(e))??;
        if bt.caching && !turns::stand_by(bt, plan.layout.info_hash, &job.ctx).await? {
            return Ok(Outcome::Stopped);
        }
        let end = seed(bt, &job, &plan, &mut confirmed).await;
        match plan.shared.touched().filter(|_| !bt.caching && end.is_err()) {
            // Serving it on trust would be wrong, and so would be giving up what may be the same bytes.
            Some(file) => {
                tracing::warn!(task = job.ctx.task, file, "a file of the package was touched: all pieces are checked again");
                source.known_good = false;
                changed = end.err();
            }
            // The check names a file whose pieces are wrong, which may be a neighbour of the one that was touched.
            None => return end.map_err(|fault| changed.filter(|_| fault.class == FaultClass::Permanent).unwrap_or(fault)),
        }
    }
}

/// Has the torrent in the session until stopped or until a file changes.
async fn seed(bt: &BtTransport, job: &PublishJob, plan: &Plan, confirmed: &mut u64) -> Result<Outcome, Fault> {
    let Plan { layout, have, shared } = plan;
    let torrent = loop {
        // Another task of this node serves the same torrent: receivers of this one find it there, until it ends.
        while bt.engine.is_published(&layout.info_hash) {
            job.ctx.counters.set_ready(true);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = job.ctx.stop.cancelled() => {
                    job.ctx.counters.set_ready(false);
                    return Ok(Outcome::Stopped);
                }
            }
        }
        job.ctx.counters.set_ready(false);
        let added = bt
            .engine
            .add(Add {
                task: &job.ctx.task,
                torrent: &bt.source.torrent,
                layout,
                have: have.as_deref(),
                // Nothing is selected, so nothing is ever fetched: what librqbit does not have, it must not get.
                only_files: Vec::new(),
                storage: seed::factory(shared, have.is_some()),
                trackers: &bt.source.trackers,
                // Who wants the package dials the seed. Were it to dial too, many pairs would be connected twice, and librqbit
                // fetches pieces twice over two connections.
                peers: Vec::new(),
                window: None,
                most_peers: None,
            })
            .await;
        match added {
            Ok(torrent) => break torrent,
            Err(_) if bt.engine.is_published(&layout.info_hash) => {} // another task was faster
            Err(fault) => return Err(fault),
        }
    };
    let serves = |seed| bt.turn().iter().for_each(|turn| turn.serves(Option::clone(&seed)));
    serves(Some(Arc::clone(shared)));
    let mut seeder = Seeder { layout, have: have.as_deref(), job, sent: Meter::default(), confirmed, ready: false };
    let end = seeder.follow(bt, &torrent, shared).await;
    serves(None);
    job.ctx.counters.set_ready(false);
    job.ctx.counters.peers.store(0, Ordering::Relaxed);
    torrent.remove().await;
    end
}

struct Seeder<'a> {
    layout: &'a Layout,
    have: Option<&'a [u8]>,
    job: &'a PublishJob,
    sent: Meter,
    /// Bytes counted as done: checked by librqbit, or all of them once the seed is up.
    confirmed: &'a mut u64,
    ready: bool,
}

impl Seeder<'_> {
    async fn follow(&mut self, bt: &BtTransport, torrent: &Torrent, shared: &Arc<Seeding>) -> Result<Outcome, Fault> {
        let ctx = &self.job.ctx;
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last_look, mut last_peer) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                () = ctx.stop.cancelled() => return Ok(Outcome::Stopped),
                () = bt.engine.closing.cancelled() => return Err(stopped()),
                _ = tick.tick() => {}
            }
            if last_look.elapsed() >= LOOK {
                let shared = shared.clone();
                let looked = tokio::task::spawn_blocking(move || shared.look()).await;
                looked.map_err(|e| Fault::local("looking at the package failed").detail(e))?;
                last_look = Instant::now();
            }
            if let Some(fault) = shared.fault() {
                return Err(fault);
            }
            let stats = torrent.handle.stats();
            match stats.state {
                TorrentStatsState::Error => {
                    let detail = stats.error.unwrap_or_default();
                    return Err(Fault::permanent(format!("BitTorrent cannot seed {}: see the log", ctx.task)).detail(detail));
                }
                TorrentStatsState::Initializing { .. } => self.confirm(stats.progress_bytes),
                TorrentStatsState::Live if !self.ready => {
                    let have = torrent.handle.live().map_or(0, |l| l.get_approx_have_bytes());
                    self.verify(&stats, have)?;
                    self.ready = true;
                    self.confirm(u64::MAX);
                    ctx.counters.set_ready(true);
                }
                TorrentStatsState::Live => {}
                // Only a restart that failed half-way leaves it so.
                TorrentStatsState::Paused => {
                    torrent.restart().await;
                    self.sent.restarted();
                }
            }
            let peers = stats.live.as_ref().map_or(0, |l| l.snapshot.peer_stats.live);
            ctx.counters.peers.store(peers, Ordering::Relaxed);
            if stats.live.is_some() {
                ctx.counters.sent.fetch_add(self.sent.increment(stats.uploaded_bytes), Ordering::Relaxed);
            }
            if peers > 0 || !self.ready {
                last_peer = Instant::now();
            } else if last_peer.elapsed() >= LONELY {
                torrent.restart().await;
                self.sent.restarted();
                last_peer = Instant::now();
            }
        }
    }

    fn confirm(&mut self, bytes: u64) {
        let all: u64 = self.job.spans.iter().map(|s| s.len).sum();
        let now = bytes.min(all).max(*self.confirmed);
        self.job.ctx.counters.add_done(now - *self.confirmed);
        *self.confirmed = now;
    }

    /// librqbit has what is to be published: what we told it, or what its own check found.
    fn verify(&self, stats: &TorrentStats, have: u64) -> Result<(), Fault> {
        if let Some(bits) = self.have {
            let expected = self.layout.bytes_of(bits);
            return if have == expected {
                Ok(())
            } else {
                let detail = format!("{have} bytes instead of {expected}");
                Err(Fault::transient(format!("seeding {} did not start as it should", self.job.ctx.task)).detail(detail))
            };
        }
        for file in self.layout.files_meeting(&self.job.spans) {
            let Some(Span { file: package_file, len, .. }) = self.layout.span(file) else { continue };
            if stats.file_progress.get(file) != Some(len) {
                let path = self.job.files.get(*package_file as usize).map_or("?", |f| f.path.as_str());
                return Err(Fault::permanent(format!("{path} is not what the torrent describes: run gentask again")).file(path));
            }
        }
        Ok(())
    }
}
