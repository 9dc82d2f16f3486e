//! The sampler: what running legs count becomes rows, once a second. The database is off the byte path.

use super::conductor::Conductor;
use crate::error::Fault;
use crate::model::span::{Method, Span};
use crate::store::legs::LegSample;
use crate::transport::Counters;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Between two writes of the legs' figures.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Every so many periods the figures are kept as history.
const HISTORY_EVERY: u32 = 2;
/// While the database's log cannot be written back, the figures are written every so many periods, and no history.
pub(super) const THRIFTY_EVERY: u32 = 60;
/// Weight of the newest second in the shown rate: a few seconds of memory.
const WEIGHT: f64 = 0.3;

/// Memory of the rate by which it is judged whether a leg is slow.
const CALM: Duration = Duration::from_secs(20);
/// Memory of the measured rate (seconds of running), and how much of it is needed for a figure.
const STEADY: f64 = 45.0;
const KNOWN: f64 = 10.0;

/// The sampler's memory of one leg.
pub struct Gauge {
    pub counters: Arc<Counters>,
    pub spans: Vec<Span>,
    /// Seeds count what they send; the others what they bring.
    pub seeding: bool,
    wire: u64,
    sent: u64,
    rate: f64,
    /// The same with a longer memory.
    calm: f64,
    began: Instant,
    /// Bytes per second over the last [`STEADY`] seconds of running, and over how many of them that is.
    steady: (f64, f64),
    at: Instant,
    moved: Option<Instant>,
}

impl Gauge {
    pub fn new(counters: Arc<Counters>, spans: Vec<Span>, seeding: bool) -> Self {
        let now = Instant::now();
        Self {
            counters,
            spans,
            seeding,
            wire: 0,
            sent: 0,
            rate: 0.0,
            calm: 0.0,
            steady: (0.0, 0.0),
            began: now,
            at: now,
            moved: Some(now),
        }
    }

    /// For how long the leg was running when it was sampled last.
    pub fn seen(&self) -> Duration {
        self.at.duration_since(self.began)
    }

    /// Bytes per second over some twenty seconds of this run.
    pub fn calm_rate(&self) -> u64 {
        self.calm as u64
    }

    /// Goes on with what was measured when the leg ran last.
    pub fn measured(mut self, before: Option<u64>) -> Self {
        if let Some(rate) = before {
            self.steady = (rate as f64, STEADY);
        }
        self
    }

    /// After a failure only bytes are believed.
    pub fn doubted(mut self) -> Self {
        self.moved = None;
        self
    }

    /// Did bytes move lately? A first try that has just begun counts.
    pub fn moved_within(&self, time: Duration) -> bool {
        self.moved.is_some_and(|at| at.elapsed() < time)
    }

    /// The figures since the last call.
    pub fn sample(&mut self, task: i64, method: Method, bytes_done: u64) -> LegSample {
        let (wire, sent) = (self.counters.wire.load(Relaxed), self.counters.sent.load(Relaxed));
        let elapsed = self.at.elapsed();
        self.at = Instant::now();
        let add_wire = wire.saturating_sub(std::mem::replace(&mut self.wire, wire));
        let add_sent = sent.saturating_sub(std::mem::replace(&mut self.sent, sent));
        let moved = if self.seeding { add_sent } else { add_wire };
        if moved > 0 {
            self.moved = Some(self.at);
        }
        let now = moved as f64 / elapsed.as_secs_f64().max(0.001);
        let weight = if self.calm == 0.0 { 1.0 } else { 1.0 - (-elapsed.as_secs_f64() / CALM.as_secs_f64()).exp() };
        self.calm += weight * (now - self.calm);
        self.rate = if self.rate == 0.0 { now } else { self.rate + WEIGHT * (now - self.rate) };
        let seconds = elapsed.as_secs_f64();
        let (steady, of) = self.steady;
        self.steady = (steady + (now - steady) * (seconds / (of + seconds).clamp(0.001, STEADY)).min(1.0), of + seconds);
        let measured = (!self.seeding && self.steady.1 >= KNOWN).then_some(self.steady.0 as u64);
        LegSample {
            task,
            method,
            bytes_done,
            add_wire,
            add_sent,
            add_active_ms: elapsed.as_millis() as u64,
            rate: self.rate as u64,
            peers: self.counters.peers.load(Relaxed),
            ready: self.counters.is_ready(),
            measured,
        }
    }
}

impl Conductor {
    /// Writes the figures of all running legs.
    pub(super) async fn sample(&mut self) {
        self.samples = self.samples.wrapping_add(1);
        let thrifty = self.node.store.thrifty();
        if thrifty && !self.samples.is_multiple_of(THRIFTY_EVERY) {
            return;
        }
        let mut samples = Vec::with_capacity(self.running.len());
        for ((task, method), leg) in &mut self.running {
            let done = bytes_done(self.assemblies.get(task).map(|a| &**a), &leg.gauge);
            samples.push(leg.gauge.sample(*task, *method, done));
        }
        let history = !thrifty && self.samples.is_multiple_of(HISTORY_EVERY);
        if let Err(fault) = self.node.store.record_legs(&samples, history, self.node.clock.now_ms()).await {
            tracing::warn!(%fault, "cannot write progress");
        }
    }

    /// After a hand-over: the figures of running legs are those of the spans that are theirs now.
    pub(super) async fn follow_spans(&mut self, task: i64) -> Result<(), Fault> {
        let spans = self.node.store.task_spans(task).await?;
        let assembly = self.assemblies.get(&task);
        for ((_, method), leg) in self.running.iter_mut().filter(|((id, _), _)| *id == task) {
            leg.gauge.spans = spans.iter().filter(|s| s.method == Some(*method)).map(|s| s.span).collect();
            leg.done_before = assembly.map_or(leg.done_before, |a| a.covered(leg.gauge.spans.iter()));
        }
        Ok(())
    }

    /// The last figures of a leg that has ended.
    pub(super) async fn last_sample(&self, task: i64, method: Method, gauge: &mut Gauge) {
        let done = bytes_done(self.assemblies.get(&task).map(|a| &**a), gauge);
        let sample = LegSample { rate: 0, ..gauge.sample(task, method, done) };
        if let Err(fault) = self.node.store.record_legs(&[sample], true, self.node.clock.now_ms()).await {
            tracing::warn!(%fault, "cannot write progress");
        }
    }
}

fn bytes_done(assembly: Option<&crate::assembly::Assembly>, gauge: &Gauge) -> u64 {
    match assembly {
        Some(a) => a.covered(gauge.spans.iter()),
        None if gauge.seeding => gauge.spans.iter().map(|s| s.len).sum(),
        None => gauge.counters.done.load(Relaxed),
    }
}
