//! A method that is done takes over what another one does not bring ([`help`] says when and how much).
//!
//! The one that is helped is stopped first: two that write the same bytes at the same time could leave a wrong byte behind
//! the running digest. What it has brought stays. A file goes to the CDN, which has the whole package, or back to the
//! method that the sender meant; no method is refused for it.

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
/// A method that failed is no help for so long.
const TIRED: Duration = Duration::from_secs(600);

/// What the conductor remembers between ticks.
#[derive(Default)]
pub struct Helping {
    looked: HashMap<i64, Instant>,
    /// Who is being stopped so that it can be helped.
    stopping: HashMap<i64, Help>,
    failed: HashMap<(i64, Method), Instant>,
}

impl Helping {
    /// A leg ended with a fault.
    pub fn note_fault(&mut self, task: i64, method: Method) {
        self.failed.insert((task, method), Instant::now());
    }

    fn is_tired(&self, task: i64, method: Method) -> bool {
        self.failed.get(&(task, method)).is_some_and(|at| at.elapsed() < TIRED)
    }

    fn is_due(&self, task: i64) -> bool {
        self.looked.get(&task).is_none_or(|at| at.elapsed() >= PAUSE)
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
        let at_work = |t: &&TaskSnap| t.role == Role::Recv && t.state == TaskState::Downloading && !t.verified && !t.finishing;
        for snap in snaps.iter().filter(at_work) {
            let asked = self.helping.stopping.contains_key(&snap.id);
            let stands: Vec<Stand> = snap.legs.iter().map(|l| self.stand(snap.id, l)).collect();
            let worth = stands.contains(&Stand::Done) && stands.iter().any(|s| matches!(s, Stand::Away | Stand::Works));
            if !(asked || (worth && self.helping.is_due(snap.id))) {
                continue;
            }
            if let Some(row) = tasks.iter().find(|t| t.id == snap.id) {
                self.helping.looked.insert(snap.id, Instant::now());
                let mine: Vec<&LegRow> = legs.iter().filter(|l| l.task == snap.id).collect();
                self.help_task(row, &mine, snap).await?;
            }
        }
        Ok(())
    }

    fn stand(&self, task: i64, l: &LegSnap) -> Stand {
        if !l.open || l.held || l.yields {
            return Stand::Apart;
        }
        match self.running.get(&(task, l.method)) {
            Some(leg) if leg.gauge.seen() >= help::SEEN => Stand::Works,
            Some(_) => Stand::Apart,
            None if l.state == LegState::Done && !self.helping.is_tired(task, l.method) => Stand::Done,
            None if l.state == LegState::Waiting && l.retry_at.is_some() => Stand::Away,
            None => Stand::Apart,
        }
    }

    async fn help_task(&mut self, row: &TaskRow, legs: &[&LegRow], snap: &TaskSnap) -> Result<(), Fault> {
        let Some(assembly) = self.assemblies.get(&row.id).cloned() else { return Ok(()) };
        use crate::transport::Sink as _;
        let spans = self.node.store.task_spans(row.id).await?;
        let refused: HashSet<(u32, Option<Method>)> =
            self.node.store.refusals(row.id).await?.into_iter().map(|(n, m, _)| (n, m)).collect();
        let held = self.sharing.held(row.id);
        let open = |from: Method, to: Method| -> Vec<(Span, Vec<Range<u64>>)> {
            let can = |s: &&SpanRow| {
                s.method == Some(from)
                    && (to == Method::Cdn || s.planned == to)
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
            let average = known.map_or(0, |r| r.bytes_wire.saturating_mul(1000) / r.active_ms.max(1));
            let mine = spans.iter().filter(|s| s.method == Some(l.method));
            let left = mine.flat_map(|s| assembly.missing(&s.span)).map(|r| r.end - r.start).sum();
            Part {
                method: l.method,
                stand: self.stand(row.id, l),
                left,
                rate: running.map_or(average, |leg| leg.gauge.calm_rate()),
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
        if !parts.iter().any(|p| p.method == agreed.to && p.stand == Stand::Done) {
            return Ok(());
        }
        let cut = agreed.from != Method::Bt && agreed.to != Method::Bt;
        let given = from_the_end(&open(agreed.from, agreed.to), agreed.bytes, cut);
        if given.is_empty() || !self.node.store.give_spans(row.id, agreed.from, agreed.to, &given).await? {
            return Ok(());
        }
        let away = parts.iter().any(|p| p.method == agreed.from && p.stand == Stand::Away);
        let why = if away { "does not answer" } else { "is slow" };
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
