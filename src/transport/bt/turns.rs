//! Several tasks of a cacher with one torrent (the same film for several institutions, or under several names).
//!
//! A session can hold a torrent once. So one task has its turn: it fetches, and then seeds for all. The others wait without
//! an error; once the data are complete they copy them, each to a place of its own, so that the end of one takes nothing
//! from another; then they stand by as heirs and say that they serve, as whoever wants the torrent finds it here. When the
//! turn becomes free, an heir takes it first. One that would have to fetch gives it back as soon as somebody has the data.

use super::BtTransport;
use super::layout::Layout;
use super::seed::Seeding;
use crate::error::Fault;
use crate::transport::{FetchJob, LegContext, Outcome, Sink};
use sha1::{Digest as _, Sha1};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks whether it is our turn.
const LOOK: Duration = Duration::from_secs(1);

type InfoHash = [u8; 20];

/// Whose turn it is, by torrent.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<InfoHash, Entry>>);

#[derive(Default)]
struct Entry {
    holder: Option<String>,
    /// What the holder serves, once all of it is there.
    seed: Option<Arc<Seeding>>,
    heirs: usize,
}

/// What a task that lacks bytes finds.
enum Asked {
    Mine(Turn),
    Seeded { by: String, seed: Arc<Seeding> },
    Taken { by: String },
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, HashMap<InfoHash, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, hash: &InfoHash, change: impl FnOnce(&mut Entry)) {
        let mut all = self.lock();
        let entry = all.entry(*hash).or_default();
        change(entry);
        if entry.holder.is_none() && entry.heirs == 0 {
            all.remove(hash);
        }
    }

    fn ask(self: &Arc<Self>, hash: &InfoHash, task: &str) -> Asked {
        let mut all = self.lock();
        let entry = all.entry(*hash).or_default();
        match (&entry.holder, &entry.seed) {
            (Some(by), Some(seed)) => Asked::Seeded { by: by.clone(), seed: Arc::clone(seed) },
            (Some(by), None) => Asked::Taken { by: by.clone() },
            (None, _) if entry.heirs > 0 => Asked::Taken { by: "another task that has it".to_owned() },
            (None, _) => {
                entry.holder = Some(task.to_owned());
                Asked::Mine(Turn { turns: Arc::clone(self), hash: *hash })
            }
        }
    }

    fn inherit(self: &Arc<Self>, hash: &InfoHash, task: &str) -> Option<Turn> {
        let mut all = self.lock();
        let entry = all.entry(*hash).or_default();
        if entry.holder.is_some() {
            return None;
        }
        entry.holder = Some(task.to_owned());
        Some(Turn { turns: Arc::clone(self), hash: *hash })
    }

    /// Does a task wait that has all the data?
    pub fn has_heirs(&self, hash: &InfoHash) -> bool {
        self.lock().get(hash).is_some_and(|e| e.heirs > 0)
    }

    fn is_seeded(&self, hash: &InfoHash) -> bool {
        self.lock().get(hash).is_some_and(|e| e.seed.is_some())
    }
}

/// The right of a task to have the torrent in the session, until it is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    hash: InfoHash,
}

impl Turn {
    /// The data are complete: others may copy them.
    pub fn serves(&self, seed: Option<Arc<Seeding>>) {
        self.turns.change(&self.hash, |e| e.seed = seed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.change(&self.hash, |e| (e.holder, e.seed) = (None, None));
    }
}

struct Heir<'a>(&'a Turns, InfoHash);

impl<'a> Heir<'a> {
    fn stand_by(turns: &'a Turns, hash: InfoHash) -> Self {
        turns.change(&hash, |e| e.heirs += 1);
        Self(turns, hash)
    }
}

impl Drop for Heir<'_> {
    fn drop(&mut self) {
        self.0.change(&self.1, |e| e.heirs -= 1);
    }
}

/// Fetches when it is our turn, or copies what another task has by then.
pub(super) async fn fetch(bt: &BtTransport, job: &FetchJob) -> Result<Outcome, Fault> {
    let layout = {
        let (source, files) = (bt.source.clone(), Arc::clone(&job.files));
        let parsing = tokio::task::spawn_blocking(move || Layout::parse(&source.torrent, &source.map, &files)).await;
        Arc::new(parsing.map_err(|e| Fault::local("a BitTorrent fetch could not start").detail(e))??)
    };
    let (turns, hash, mut told) = (&bt.engine.turns, &layout.info_hash, false);
    loop {
        if job.spans.iter().all(|s| job.sink.missing(s).is_empty()) {
            return Ok(Outcome::Done); // no turn is needed to stand by
        }
        let by = match turns.ask(hash, &job.ctx.task) {
            Asked::Mine(turn) => {
                let end = super::fetch::run(bt, job).await;
                match end {
                    Ok(Outcome::Done) => {
                        *bt.turn() = Some(turn);
                        return end;
                    }
                    // An heir came.
                    Ok(Outcome::Stopped) if !job.ctx.stop.is_cancelled() => continue,
                    _ => return end,
                }
            }
            Asked::Seeded { by, seed } => {
                tracing::info!(task = job.ctx.task, from = by, "the torrent is seeded by another task: copying its data");
                copy(&by, seed, bt, &layout, job).await?;
                by
            }
            Asked::Taken { by } => by,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::info!(task = job.ctx.task, by, "another task has the torrent: waiting for its data");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = job.ctx.stop.cancelled() => return Ok(Outcome::Stopped),
            () = bt.engine.closing.cancelled() => return Err(super::engine::stopped()),
        }
    }
}

/// Waits until this task is the one that seeds, if it is not yet. `false`: it was stopped.
pub(super) async fn stand_by(bt: &BtTransport, hash: InfoHash, ctx: &LegContext) -> Result<bool, Fault> {
    if bt.turn().is_some() {
        return Ok(true);
    }
    let turns = &bt.engine.turns;
    let _heir = Heir::stand_by(turns, hash);
    loop {
        if let Some(turn) = turns.inherit(&hash, &ctx.task) {
            ctx.counters.set_ready(false);
            *bt.turn() = Some(turn);
            return Ok(true);
        }
        ctx.counters.set_ready(turns.is_seeded(&hash));
        let end = tokio::select! {
            () = tokio::time::sleep(LOOK) => continue,
            () = ctx.stop.cancelled() => Ok(false),
            () = bt.engine.closing.cancelled() => Err(super::engine::stopped()),
        };
        ctx.counters.set_ready(false);
        return end;
    }
}

/// Takes from another task's data what is missing, piece by piece, each checked. That the other one ends meanwhile is no
/// fault: what was copied stays.
async fn copy(by: &str, seed: Arc<Seeding>, bt: &BtTransport, layout: &Arc<Layout>, job: &FetchJob) -> Result<(), Fault> {
    let (source, layout) = (bt.source.clone(), Arc::clone(layout));
    let (sink, ctx, from) = (Arc::clone(&job.sink), job.ctx.clone(), Arc::clone(&seed));
    let copied = tokio::task::spawn_blocking(move || copy_pieces(&from, &source.torrent, &layout, &*sink, &ctx));
    match copied.await.map_err(|e| Fault::local("copying from another task failed").detail(e))? {
        Err(Refused::Source(_)) if bt.turn_of_another_is_over(&seed) => Ok(()),
        Err(Refused::Source(fault)) => {
            let text = format!("the data of {} cannot be copied from those of {by}: {}", job.ctx.task, fault.message);
            Err(Fault { message: text, ..fault })
        }
        Err(Refused::Sink(fault)) => Err(fault),
        Ok(()) => Ok(()),
    }
}

impl BtTransport {
    pub(super) fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn_of_another_is_over(&self, seed: &Arc<Seeding>) -> bool {
        !self.engine.turns.lock().values().any(|e| e.seed.as_ref().is_some_and(|s| Arc::ptr_eq(s, seed)))
    }
}

enum Refused {
    Source(Fault),
    Sink(Fault),
}

fn copy_pieces(from: &Seeding, torrent: &[u8], layout: &Layout, sink: &dyn Sink, ctx: &LegContext) -> Result<(), Refused> {
    let source = |fault| Refused::Source(fault);
    let meta =
        librqbit::torrent_from_bytes(torrent).map_err(|e| source(Fault::permanent("its torrent cannot be read").detail(e)))?;
    let hashes = meta.info.data.pieces.as_ref();
    let mut files = None;
    for (piece, hash) in (0..layout.pieces()).zip(hashes.chunks(20)) {
        if ctx.stop.is_cancelled() {
            return Ok(());
        }
        if layout.piece_spans(piece).all(|s| sink.missing(&s).is_empty()) {
            continue;
        }
        let bytes = from.read_piece(piece, &mut files).map_err(source)?;
        if Sha1::digest(&bytes).as_slice() != hash {
            return Err(source(Fault::transient(format!("piece {piece} is not what the torrent describes"))));
        }
        let mut at = 0;
        for span in layout.piece_spans(piece) {
            for part in sink.missing(&span) {
                let offset = at + part.start.saturating_sub(span.offset) as usize;
                let len = part.end.saturating_sub(part.start);
                let Some(data) = bytes.get(offset..offset + len as usize) else {
                    return Err(source(Fault::transient(format!("piece {piece} is too short"))));
                };
                sink.write_at(span.file, part.start, data).map_err(Refused::Sink)?;
                sink.commit(span.file, part);
                ctx.counters.add_done(len);
            }
            at += span.len as usize;
        }
    }
    Ok(())
}
