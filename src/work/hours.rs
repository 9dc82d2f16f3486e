//! Windows at work: which legs may run now, what the views say of them, the rate caps of the hour, and when tasks will be
//! done.
//!
//! The wall clock is asked at every tick, and nothing is planned for a moment that may never come: a clock that jumps or
//! a zone that changes is met by the next tick. What a window is for the next minutes is remembered, as many legs have
//! the same few windows, and finding out takes longer than everything else in a tick.

use super::conductor::Conductor;
use crate::error::Fault;
use crate::model::decide::LegSnap;
use crate::model::forecast::{HORIZON_DAYS, LegLeft, OpenSpans, Outlook, open_spans, outlook};
use crate::model::span::Method;
use crate::model::task::{LegState, NodeType, Policy, Role, TaskState};
use crate::model::task_file::TaskFile;
use crate::model::window::Windows;
use crate::store::events::Level;
use crate::store::legs::LegRow;
use crate::store::tasks::TaskRow;
use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, TimeZone as _};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What is known of a window is found out anew after so long, at the latest: the rules of the zone may have changed.
const LOOK_AGAIN: TimeDelta = TimeDelta::hours(1);
/// Between two looks ahead.
const OUTLOOK_EVERY: Duration = Duration::from_secs(5);
/// An expected end that moved by less than this is not written again.
const SAME_MS: i64 = 30_000;
/// A leg that ran for so long and brings nothing is not waited for.
const NOTHING_MS: u64 = 300_000;
/// Different windows that are remembered.
const MANY: usize = 1000;
/// Finding out the open hours of a month takes a while: no look spends more on it than this and the last one.
const SPEND: Duration = Duration::from_millis(20);

/// What the conductor remembers between ticks.
#[derive(Default)]
pub struct Hours {
    known: HashMap<String, Known>,
    /// What the row of a leg's windows says. A task that is accepted again has new rows.
    told: HashMap<(i64, Method), (i64, Hour)>,
    looked: Option<Instant>,
    /// What the look of now has spent on finding out hours.
    spent: Duration,
    /// When what a task offers ends, by the acceptance that it was found for.
    deadlines: HashMap<i64, (i64, Option<i64>)>,
    /// As the database has them, with the acceptance that they are about.
    outlooks: Option<HashMap<i64, (i64, Outlook)>>,
}

/// A window now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hour {
    open: bool,
    /// When that changes (milliseconds).
    change: Option<i64>,
}

struct Known {
    windows: Windows,
    hour: Hour,
    /// It holds from here ...
    since: DateTime<Local>,
    /// ... to here, exclusive.
    until: DateTime<Local>,
    spans: Option<OpenSpans>,
}

/// Is the zone what it was when this was the time? Each thread sees within a second that it has changed, and the next step of
/// a tick may run in another one.
fn is_of_this_zone(now: &DateTime<Local>) -> bool {
    Local.offset_from_utc_datetime(&now.naive_utc()) == *now.offset()
}

impl Known {
    fn look(windows: Windows, now: DateTime<Local>) -> Self {
        let before = is_of_this_zone(&now);
        let change = windows.next_change(now);
        let hour = Hour { open: windows.is_open(now.time()), change: change.map(|c| c.timestamp_millis()) };
        let again = now + LOOK_AGAIN;
        // What was found in another zone than that of `now` is found out anew at once.
        let until = if before && is_of_this_zone(&now) { change.map_or(again, |c| c.min(again)) } else { now };
        Self { windows, hour, since: now, until, spans: None }
    }

    /// Clocks jump, and zones change.
    fn holds(&self, now: DateTime<Local>) -> bool {
        self.since <= now && now < self.until && self.since.offset() == now.offset()
    }
}

/// It has to be found out first, and another look does.
struct NotYet;

impl Hours {
    /// `None` for a text that is no window: the rows hold none.
    fn known(&mut self, text: &str, now: DateTime<Local>) -> Option<&mut Known> {
        if !self.known.get(text).is_some_and(|k| k.holds(now)) {
            if self.known.len() >= MANY {
                self.known.clear();
            }
            let windows = match self.known.remove(text) {
                Some(k) => k.windows,
                None => Windows::parse(text).ok()?,
            };
            self.known.insert(text.to_owned(), Known::look(windows, now));
        }
        self.known.get_mut(text)
    }

    fn spans(&mut self, text: Option<&str>, now: DateTime<Local>) -> Result<OpenSpans, NotYet> {
        let always = || OpenSpans::from([(now.timestamp_millis(), (now + TimeDelta::days(HORIZON_DAYS)).timestamp_millis())]);
        let spent = self.spent;
        let Some(known) = text.and_then(|t| self.known(t, now)) else { return Ok(always()) };
        if let Some(spans) = &known.spans {
            return Ok(spans.clone());
        }
        if spent >= SPEND {
            return Err(NotYet);
        }
        let began = Instant::now();
        let before = is_of_this_zone(&now);
        let spans = open_spans(&known.windows, &now);
        known.spans = Some(spans.clone()).filter(|_| before && is_of_this_zone(&now));
        self.spent += began.elapsed();
        Ok(spans)
    }
}

impl Conductor {
    /// Rate caps follow the configuration and the hour while transfers run.
    pub(super) fn apply_rates(&self) {
        let config = self.node.config.current();
        let now = self.node.clock.now().time();
        for (limiter, method) in self.node.limiters.iter().zip(Method::ALL) {
            let cap = config.rate_at(method, now);
            if limiter.get() != cap {
                limiter.set(cap);
            }
        }
        self.node.bt.set_rates(config.upload_rate_at(now), config.rate_at(Method::Bt, now));
    }

    /// The windows that bind a leg now. They bind what is fetched; seeding serves all the time, an upload unless told
    /// otherwise (protocol section 11).
    fn bound<'a>(&self, t: &TaskRow, l: &'a LegRow) -> Option<&'a str> {
        let config = self.node.config.current();
        let upload = l.method == Method::Obs && config.uploadpriortime;
        let at_work = matches!(t.state, TaskState::Queues | TaskState::Uploading | TaskState::Downloading);
        // What a cacher has, it seeds for the whole seed time.
        let seeds = config.servertype == NodeType::Cacher && self.assemblies.get(&t.id).is_some_and(|a| a.is_complete());
        let bound = t.policy == Policy::Priortime && at_work && !seeds && (t.role == Role::Recv || upload);
        l.windows.as_deref().filter(|_| bound)
    }

    /// `now`: one for all legs of a snapshot, so that windows which open together do so for all tasks.
    pub(super) async fn leg_snap(&mut self, t: &TaskRow, l: &LegRow, now: DateTime<Local>) -> Result<LegSnap, Fault> {
        let hour = self.bound(t, l).and_then(|text| Some(self.hours.known(text, now)?.hour));
        let hour = hour.unwrap_or(Hour { open: true, change: None });
        if l.windows.is_some() && self.hours.told.get(&(t.id, l.method)) != Some(&(t.created_at, hour)) {
            let (opens, closes) = if hour.open { (None, hour.change) } else { (hour.change, None) };
            self.node.store.set_schedule(t.id, l.method, hour.open, opens, closes).await?;
            self.hours.told.insert((t.id, l.method), (t.created_at, hour));
        }
        let running = self.running.get(&(t.id, l.method));
        Ok(LegSnap {
            method: l.method,
            state: l.state,
            running: running.is_some(),
            ready: running.is_some_and(|r| r.gauge.counters.is_ready()),
            open: hour.open,
            retry_at: l.retry_at.filter(|at| super::repair::may_be_a_next_try(&self.node, *at)),
            error: l.error.clone(),
            held: false,
            yields: false,
        })
    }

    /// When the window of a leg closes that is open now; `None`: not in sight.
    pub(super) fn closes_at(&mut self, t: &TaskRow, l: &LegRow) -> Option<i64> {
        let now = self.node.clock.now();
        let hour = self.bound(t, l).and_then(|text| Some(self.hours.known(text, now)?.hour))?;
        hour.change.filter(|_| hour.open)
    }

    /// Finds out when tasks will be done, and says when one will be too late. A failure is made up for by the next look.
    pub(super) async fn look_ahead(&mut self, tasks: &[TaskRow], legs: &[LegRow]) {
        if self.node.store.thrifty() || self.hours.looked.is_some_and(|at| at.elapsed() < OUTLOOK_EVERY) {
            return;
        }
        self.hours.looked = Some(Instant::now());
        if let Err(fault) = self.outlooks(tasks, legs).await {
            tracing::warn!(%fault, "cannot say when tasks will be done");
        }
    }

    async fn outlooks(&mut self, tasks: &[TaskRow], legs: &[LegRow]) -> Result<(), Fault> {
        let accepted: HashMap<i64, i64> = tasks.iter().map(|t| (t.id, t.created_at)).collect();
        self.hours.told.retain(|(task, _), _| accepted.contains_key(task));
        self.hours.deadlines.retain(|task, _| accepted.contains_key(task));
        let mut known = match self.hours.outlooks.take() {
            Some(known) => known,
            None => {
                let stored = self.node.store.outlooks().await?;
                stored.into_iter().filter_map(|(task, o)| Some((task, (*accepted.get(&task)?, o)))).collect()
            }
        };
        // One that is accepted again begins without an outlook.
        known.retain(|task, (of, _)| accepted.get(task) == Some(of));
        let now = self.node.clock.now();
        let (mut news, mut turns) = (Vec::new(), Vec::new());
        self.hours.spent = Duration::ZERO;
        for t in tasks.iter().filter(|t| matches!(t.state, TaskState::Queues | TaskState::Uploading | TaskState::Downloading)) {
            let mine = legs.iter().filter(|l| l.task == t.id).filter_map(|l| self.leg_left(t, l, now).transpose());
            let Ok(mine) = mine.collect::<Result<Vec<LegLeft>, NotYet>>() else { continue };
            let before = known.get(&t.id).map(|(_, o)| o.clone()).unwrap_or_default();
            let deadline = self.deadline(t).await?;
            let next = outlook(&now, &mine, deadline, !before.risk.is_empty());
            let moved = match (before.expected_at, next.expected_at) {
                (Some(a), Some(b)) => (a - b).abs() >= SAME_MS,
                (a, b) => a != b,
            };
            if next.risk.is_empty() != before.risk.is_empty() {
                turns.push((t, next.risk.clone()));
            }
            if moved || next.risk.is_empty() != before.risk.is_empty() {
                known.insert(t.id, (t.created_at, next.clone()));
                news.push((t.id, next));
            }
        }
        let written = self.node.store.record_outlooks(&news).await;
        if written.is_ok() {
            self.hours.outlooks = Some(known);
            for (t, risk) in turns {
                let (level, text) =
                    if risk.is_empty() { (Level::Info, "it will be done in time".to_owned()) } else { (Level::Warn, risk) };
                self.node.event(level, "at risk", t.name.as_str(), &text).await;
            }
        }
        written
    }

    /// What is left of a leg; `None` when nothing is, or nobody waits for it.
    fn leg_left(&mut self, t: &TaskRow, l: &LegRow, now: DateTime<Local>) -> Result<Option<LegLeft>, NotYet> {
        let bytes = l.bytes_total.saturating_sub(l.bytes_done);
        let moves = t.role == Role::Recv || l.method == Method::Obs;
        if bytes == 0 || !moves || !matches!(l.state, LegState::Waiting | LegState::Running) {
            return Ok(None);
        }
        let bound = self.bound(t, l);
        Ok(Some(LegLeft {
            method: l.method,
            bytes,
            rate: l.measured.filter(|rate| *rate > 0 || l.active_ms >= NOTHING_MS),
            windows: bound.unwrap_or_default().to_owned(),
            open: self.hours.spans(bound, now)?,
            from: l.retry_at.unwrap_or(0),
        }))
    }

    /// When what the task offers ends: the seed time after it was sent. A seed time of 0 says nothing about the others.
    async fn deadline(&mut self, t: &TaskRow) -> Result<Option<i64>, Fault> {
        if t.role == Role::Send || self.node.config.current().servertype == NodeType::Cacher {
            return Ok(t.seed_until.filter(|end| *end > t.created_at));
        }
        if let Some((_, found)) = self.hours.deadlines.get(&t.id).filter(|(of, _)| *of == t.created_at) {
            return Ok(*found);
        }
        let document = self.node.store.task_document(t.id).await?;
        let found = TaskFile::parse(document.as_bytes()).ok().filter(|file| file.seed_ms() > 0).map(|file| {
            // By the sender's clock, in the sender's zone: never believed to be after the task came here.
            let sent = NaiveDateTime::parse_from_str(&file.sendtime, "%Y-%m-%d %H:%M:%S").ok();
            let sent = sent.and_then(|s| Local.from_local_datetime(&s).earliest()).map(|s| s.timestamp_millis());
            sent.map_or(t.created_at, |s| s.min(t.created_at)).saturating_add(file.seed_ms())
        });
        self.hours.deadlines.insert(t.id, (t.created_at, found));
        Ok(found)
    }
}
