//! A method that is done takes over what another one does not bring ([`help`] says when and how much).
//!
//! The one that is helped is stopped first: two that write the same bytes at the same time could leave a wrong byte behind
//! the running digest. What it has brought stays. A file goes to the CDN, which has the whole package, or back to the
//! method that the sender meant; no method is refused for it. What was moved to one whose window is closed by now goes
//! back as well.

use super::conductor::Conductor;
use crate::error::Fault;
use crate::model::decide::{LegSnap, TaskSnap};
use crate::model::help::{self, Help, Part, Stand, from_the_end, help};
use crate::model::span::{Method, Span};
use crate::model::task::{LegState, NodeType, Role, TaskState};
use crate::store::events::Level;
use crate::store::legs::LegRow;
use crate::store::task_files::SpanRow;
use crate::store::tasks::TaskRow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Between two looks at a task.
const PAUSE: Duration = Duration::from_secs(5);
/// The same where all that could be moved goes back from one whose window is closed.
const LONG_PAUSE: Duration = Duration::from_secs(30);
/// A method that failed is no help for so long. One that gave its part away, too; twice as long each time that it did so
/// without having brought anything.
const TIRED: Duration = Duration::from_secs(600);
const MOST_TIRED: Duration = Duration::from_secs(6 * 3600);
/// A next try is waited for so long before others are asked (milliseconds): after one that failed, and after several.
const SOON_MS: i64 = 120_000;
const AGAIN_SOON_MS: i64 = 60_000;
/// After so many in a row there is no waiting.
const MANY_TRIES: u32 = 4;

/// What the conductor remembers between ticks.
#[derive(Default)]
pub struct Helping {
    looked: HashMap<i64, Instant>,
    /// Who is being stopped so that it can be helped.
    stopping: HashMap<i64, Help>,
    failed: HashMap<(i64, Method), Instant>,
    gave: HashMap<(i64, Method), Gave>,
}

/// A method gave a part away because it did not work.
struct Gave {
    at: Instant,
    rest: Duration,
    /// What it had brought by then.
    wire: u64,
}

impl Gave {
    fn has_worked(&self, wire: u64) -> bool {
        wire >= self.wire.saturating_add(help::GRAIN)
    }
}

impl Helping {
    /// A leg ended with a fault.
    pub fn note_fault(&mut self, task: i64, method: Method) {
        self.failed.insert((task, method), Instant::now());
    }

    /// `wire`: what the method has brought.
    fn note_gave(&mut self, task: i64, method: Method, wire: u64) {
        let again = self.gave.get(&(task, method)).filter(|g| !g.has_worked(wire));
        let rest = again.map_or(TIRED, |g| (g.rest * 2).min(MOST_TIRED));
        self.gave.insert((task, method), Gave { at: Instant::now(), rest, wire });
    }

    /// How a method stands that has nothing left to bring.
    fn when_free(&self, task: i64, method: Method, wire: u64) -> Stand {
        let failed = self.failed.get(&(task, method)).is_some_and(|at| at.elapsed() < TIRED);
        match self.gave.get(&(task, method)).filter(|g| !g.has_worked(wire)) {
            _ if failed => Stand::Tired,
            Some(g) if g.at.elapsed() < g.rest => Stand::Tired,
            Some(_) => Stand::Spare,
            None => Stand::Done,
        }
    }

    fn is_due(&self, task: i64, pause: Duration) -> bool {
        self.looked.get(&task).is_none_or(|at| at.elapsed() >= pause)
    }
}

#[cfg(test)]
impl Helping {
    /// The next look is due.
    pub fn looked_at_nothing(mut self) -> Self {
        self.looked.clear();
        self
    }
}

impl Conductor {
    /// Looks whether somebody can help. What is moved shows in the next snapshot; until then nothing of it is started.
    pub(super) async fn help_out(&mut self, tasks: &[TaskRow], legs: &[LegRow], snaps: &[TaskSnap]) -> Result<(), Fault> {
        if self.node.config.current().servertype == NodeType::Cacher {
            return Ok(());
        }
        let live: HashSet<i64> = tasks.iter().map(|t| t.id).collect();
        self.helping.looked.retain(|id, _| live.contains(id));
        self.helping.stopping.retain(|id, _| live.contains(id));
        self.helping.failed.retain(|(id, _), _| live.contains(id));
        self.helping.gave.retain(|(id, _), _| live.contains(id));
        let at_work = |t: &&TaskSnap| t.role == Role::Recv && t.state == TaskState::Downloading && !t.verified && !t.finishing;
        for snap in snaps.iter().filter(at_work) {
            let asked = self.helping.stopping.contains_key(&snap.id);
            let mine: Vec<&LegRow> = legs.iter().filter(|l| l.task == snap.id).collect();
            let stands: Vec<Stand> = snap.legs.iter().map(|l| self.stand(snap.id, l, &mine)).collect();
            let any = |which: fn(&Stand) -> bool| stands.iter().any(which);
            let helps = any(|s| matches!(s, Stand::Done | Stand::Spare));
            let lacks = any(|s| matches!(s, Stand::Away | Stand::Stumbled | Stand::Works));
            let back = any(|s| s.is_free()) && any(|s| *s == Stand::Closed);
            let pause = if helps && lacks { PAUSE } else { LONG_PAUSE };
            if !(asked || ((back || (helps && lacks)) && self.helping.is_due(snap.id, pause))) {
                continue;
            }
            if let Some(row) = tasks.iter().find(|t| t.id == snap.id) {
                self.helping.looked.insert(snap.id, Instant::now());
                self.help_task(row, &mine, snap).await?;
            }
        }
        Ok(())
    }

    fn stand(&self, task: i64, l: &LegSnap, rows: &[&LegRow]) -> Stand {
        let row = rows.iter().find(|r| r.method == l.method);
        let tries = row.map_or(0, |r| r.tries);
        let running = self.running.get(&(task, l.method));
        let waits = running.is_none() && l.state == LegState::Waiting;
        let idle = running.is_none() && (l.state == LegState::Done || (waits && l.held && l.retry_at.is_none()));
        // One that is due is tried first.
        let wait = l.retry_at.map_or(0, |at| at.saturating_sub(self.node.clock.now_ms()));
        match running {
            _ if !l.open && waits => Stand::Closed,
            _ if !l.open || l.yields => Stand::Apart,
            None if idle => self.helping.when_free(task, l.method, row.map_or(0, |r| r.bytes_wire)),
            _ if l.held => Stand::Apart,
            Some(leg) if leg.gauge.seen() >= help::SEEN => Stand::Works,
            None if waits && wait > 0 && tries >= MANY_TRIES => Stand::Away,
            None if waits && wait > AGAIN_SOON_MS && tries > 1 => Stand::Away,
            None if waits && wait > SOON_MS => Stand::Stumbled,
            _ => Stand::Apart,
        }
    }

    /// Bytes that a method can bring before its window closes, as far as that is known.
    fn most(&mut self, t: &TaskRow, l: &LegRow) -> u64 {
        let closes = self.closes_at(t, l);
        let known = l.measured.zip(closes);
        known.map_or(u64::MAX, |(rate, at)| {
            let ms = u64::try_from(at.saturating_sub(self.node.clock.now_ms())).unwrap_or(0);
            rate.saturating_mul(ms) / 1000
        })
    }

    async fn help_task(&mut self, row: &TaskRow, legs: &[&LegRow], snap: &TaskSnap) -> Result<(), Fault> {
        let Some(assembly) = self.assemblies.get(&row.id).cloned() else { return Ok(()) };
        use crate::transport::Sink as _;
        let spans = self.node.store.task_spans(row.id).await?;
        let refused: HashSet<(u32, Option<Method>)> =
            self.node.store.refusals(row.id).await?.into_iter().map(|(n, m, _)| (n, m)).collect();
        let held = self.sharing.held(row.id);
        let most: HashMap<Method, u64> = legs.iter().map(|l| (l.method, self.most(row, l))).collect();
        let stands: HashMap<Method, Stand> = snap.legs.iter().map(|l| (l.method, self.stand(row.id, l, legs))).collect();
        let is = |m: Method, stand: Stand| stands.get(&m) == Some(&stand);
        let open = |from: Method, to: Method| -> Vec<(Span, Vec<Range<u64>>)> {
            let can = |s: &&SpanRow| {
                s.method == Some(from)
                    && (s.planned == to || (to == Method::Cdn && !is(from, Stand::Closed)))
                    && !refused.contains(&(s.span.file, Some(to)))
                    && !held.contains(&s.span.file)
            };
            spans.iter().filter(can).map(|s| (s.span, assembly.missing(&s.span))).collect()
        };
        let bytes = |list: &[(Span, Vec<Range<u64>>)]| list.iter().flat_map(|(_, m)| m).map(|r| r.end - r.start).sum::<u64>();
        let asked = self.helping.stopping.get(&row.id).copied();
        let part = |l: &LegSnap| {
            let running = self.running.get(&(row.id, l.method));
            let known = legs.iter().find(|r| r.method == l.method);
            let average = |r: &&&LegRow| r.bytes_wire.saturating_mul(1000) / r.active_ms.max(1);
            let lately = known.map_or(0, |r| r.measured.unwrap_or_else(|| average(&r)));
            let mine = spans.iter().filter(|s| s.method == Some(l.method));
            let left = mine.flat_map(|s| assembly.missing(&s.span)).map(|r| r.end - r.start).sum();
            Part {
                method: l.method,
                stand: stands.get(&l.method).copied().unwrap_or(Stand::Apart),
                left,
                rate: running.map_or(lately, |leg| leg.gauge.calm_rate()),
                most: most.get(&l.method).copied().unwrap_or(u64::MAX),
            }
        };
        let parts: Vec<Part> = snap.legs.iter().map(part).collect();
        let agreed = match asked {
            Some(h) if self.running.contains_key(&(row.id, h.from)) => return Ok(()), // it is still stopping
            Some(h) => Some(h),
            None => help(&parts, |from, to| bytes(&open(from, to))),
        };
        let Some(agreed) = agreed else { return Ok(()) };
        if let Some(leg) = self.running.get(&(row.id, agreed.from)) {
            leg.stop();
            self.helping.stopping.insert(row.id, agreed);
            return Ok(());
        }
        self.helping.stopping.remove(&row.id);
        if !stands.get(&agreed.to).is_some_and(|s| s.is_free()) {
            return Ok(());
        }
        // What was brought has to be known: whose bytes are whose is asked when a digest is wrong.
        if let Err(fault) = assembly.sync().await {
            tracing::warn!(%fault, task = %row.name, "cannot sync; nothing is moved");
            return Ok(());
        }
        let cut = agreed.from != Method::Bt && agreed.to != Method::Bt;
        let given = from_the_end(&open(agreed.from, agreed.to), agreed.bytes, cut);
        if given.is_empty() || !self.node.store.give_spans(row.id, agreed.from, agreed.to, &given).await? {
            return Ok(());
        }
        let closed = is(agreed.from, Stand::Closed);
        let away = is(agreed.from, Stand::Away) || is(agreed.from, Stand::Stumbled);
        if !closed {
            let wire = legs.iter().find(|r| r.method == agreed.from).map_or(0, |r| r.bytes_wire);
            self.helping.note_gave(row.id, agreed.from, wire);
        }
        let why = match (closed, away) {
            (true, _) => "may not fetch now",
            (_, true) => "does not answer",
            _ => "is slow",
        };
        let moved = given.iter().map(|(s, at)| assembly.missing(&Span { file: s.file, offset: *at, len: s.end() - at }));
        let mib = moved.flatten().map(|r| r.end - r.start).sum::<u64>() >> 20;
        let Help { from, to, .. } = agreed;
        let text = format!("{from} {why}: {to}, which is done, takes over {mib} MiB in {} parts", given.len());
        self.node.event(Level::Warn, "helped", row.name.as_str(), &text).await;
        self.follow_spans(row.id).await?;
        self.node.nudge.notify_one();
        Ok(())
    }
}
