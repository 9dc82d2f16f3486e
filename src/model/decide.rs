//! What to do next, as a pure function of what is.
//!
//! The conductor reads a [`Snapshot`], asks [`decide`], and carries the actions out. Nothing else starts or stops work,
//! so a lost message costs a tick, and a restart is the first tick of a new process: there is no other recovery path.
//! Every action is safe to repeat: a leg that runs is not started twice, a task that moved on is not moved again.

use super::span::Method;
use super::task::{LegState, NodeType, Role, TaskState};
use std::cmp::Reverse;
use std::collections::HashSet;

/// Everything a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    pub node: Option<NodeType>,
    /// Tasks in `uploading` / `downloading` at the same time.
    pub uploading_max: usize,
    pub downloading_max: usize,
    pub tasks: Vec<TaskSnap>,
    /// Queued gentask jobs, oldest first, and whether one is at work.
    pub generations: Vec<i64>,
    pub generating: bool,
}

/// One live task.
#[derive(Clone, Debug)]
pub struct TaskSnap {
    pub id: i64,
    /// Tasks with a higher one come first, whatever their age. Nobody is stopped for them.
    pub priority: i64,
    /// When it was accepted; of a task that goes on, at first.
    pub accepted_at: i64,
    /// It was at work (a reception) or seeding (a distribution) when it was accepted again, and goes on.
    pub goes_on: bool,
    pub role: Role,
    pub state: TaskState,
    pub legs: Vec<LegSnap>,
    pub seed_until: Option<i64>,
    /// When it came to its end.
    pub ended_at: Option<i64>,
    /// Library copies are still to be made.
    pub local_pending: bool,
    /// A worker copies or finishes this task now.
    pub copying: bool,
    pub finishing: bool,
    /// Every file is fetched, hashed here and equal to the task's digests. A cacher's task: all that it wants is there.
    pub verified: bool,
    /// A receiver that does not seed after its download.
    pub no_seed: bool,
    /// There was no room for it when it was looked at last, a moment ago.
    pub no_room: bool,
}

/// One leg.
#[derive(Clone, Debug)]
pub struct LegSnap {
    pub method: Method,
    pub state: LegState,
    /// A worker has it.
    pub running: bool,
    pub ready: bool,
    /// Its window is open.
    pub open: bool,
    pub retry_at: Option<i64>,
    pub error: String,
    /// All that it could bring now is being brought by other receptions (see [`share`](super::share)). One that has failed:
    /// they bring what it failed on.
    pub held: bool,
    /// It is at a file that another reception brings.
    pub yields: bool,
}

/// What the conductor carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// From the queue into work.
    Begin {
        task: i64,
    },
    StartLeg {
        task: i64,
        method: Method,
    },
    /// Not an error: the data stay, the leg waits.
    StopLeg {
        task: i64,
        method: Method,
    },
    CopyLocal {
        task: i64,
    },
    /// Rename into the store, marker, library: the end of a reception.
    Finish {
        task: i64,
    },
    /// The end of a cacher's task: its data go.
    DropCache {
        task: i64,
    },
    Move {
        task: i64,
        from: TaskState,
        to: TaskState,
        reason: String,
    },
    StartGeneration {
        id: i64,
    },
}

/// What is to be done now.
pub fn decide(s: &Snapshot) -> Vec<Action> {
    let mut out = Vec::new();
    if !s.generating
        && let Some(id) = s.generations.first()
    {
        out.push(Action::StartGeneration { id: *id });
    }
    let tasks = in_turn(&s.tasks);
    let (uploads, sends) = places(s.node, &tasks, TaskState::Uploading, s.uploading_max);
    let (downloads, recvs) = places(s.node, &tasks, TaskState::Downloading, s.downloading_max);
    for task in tasks {
        // Received again while it was at work: what still runs belongs to its old self.
        if task.state == TaskState::Queues && (!stop_legs(task, &mut out) || task.copying || task.finishing) {
            continue;
        }
        match (task.role, task.state) {
            (_, TaskState::Queues) if sends.contains(&task.id) || recvs.contains(&task.id) => {
                out.push(Action::Begin { task: task.id });
            }
            (Role::Send, TaskState::Uploading) => uploading_task(s, task, uploads.contains(&task.id), &mut out),
            (Role::Send, TaskState::Uploaded) => serving_task(s, task, &mut out, true),
            (Role::Recv, TaskState::Downloading) if s.node == Some(NodeType::Cacher) => {
                caching_task(s, task, downloads.contains(&task.id), &mut out);
            }
            (Role::Recv, TaskState::Downloading) => downloading_task(s, task, downloads.contains(&task.id), &mut out),
            (Role::Recv, TaskState::Downloaded) if s.node == Some(NodeType::Cacher) => cached_task(s, task, &mut out),
            (Role::Recv, TaskState::Downloaded) => serving_task(s, task, &mut out, !task.no_seed),
            _ => {}
        }
    }
    out
}

/// Whether a task is at work, as far as places are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Holds,
    /// It could work: its window has just opened, or it waits for its next try.
    Wants,
    /// All that is unfinished waits, for its window or for another task.
    NeedsNone,
    /// A cacher's task that has everything. It keeps those in the queue out, and nobody who is at work.
    Serves,
}

fn place(t: &TaskSnap, node: Option<NodeType>) -> Place {
    if node == Some(NodeType::Cacher) && t.verified {
        return Place::Serves;
    }
    let mut unfinished = t.legs.iter().filter(|l| l.state != LegState::Done && l.state != LegState::Off).peekable();
    let mut place = if unfinished.peek().is_none() { Place::Holds } else { Place::NeedsNone };
    // A seed that is ready serves, as does one that was at it and goes on; it does not upload.
    let goes_on = |l: &LegSnap| t.goes_on && t.role == Role::Send && l.method == Method::Bt;
    for l in unfinished.filter(|l| !(l.running && (l.ready || goes_on(l)))) {
        if l.running {
            return Place::Holds;
        }
        if l.open && !l.held {
            place = Place::Wants;
        }
    }
    place
}

/// By priority; of equals those that were stopped to go on at once, those at work, then the one that was accepted first.
fn in_turn(tasks: &[TaskSnap]) -> Vec<&TaskSnap> {
    let mut out: Vec<&TaskSnap> = tasks.iter().collect();
    let rank = |t: &TaskSnap| match t.state {
        TaskState::Queues if t.goes_on => 0,
        TaskState::Queues => 2,
        _ => 1,
    };
    out.sort_by_key(|t| (Reverse(t.priority), rank(t), t.accepted_at, t.id));
    out
}

/// The tasks of a state that have a place, and those that get one from the queue. A task that gave its place away because
/// its windows were closed gets one again when it is its turn. Who finds no room is passed by smaller ones.
fn places(node: Option<NodeType>, tasks: &[&TaskSnap], state: TaskState, max: usize) -> (HashSet<i64>, HashSet<i64>) {
    let role = if state == TaskState::Uploading { Role::Send } else { Role::Recv };
    let of = |wanted: Place| tasks.iter().filter(move |t| t.state == state && place(t, node) == wanted).map(|t| t.id);
    let (mut have, serving) = (of(Place::Holds).collect::<HashSet<i64>>(), of(Place::Serves).count());
    let mut begin = HashSet::new();
    for t in tasks.iter().filter(|t| t.role == role) {
        let taken = have.len() + begin.len();
        // It serves, and serving takes no place.
        let seeds = t.goes_on && role == Role::Send;
        if t.state == state && place(t, node) == Place::Wants && taken < max {
            have.insert(t.id);
        } else if t.state == TaskState::Queues && !t.no_room && (seeds || taken + serving < max) {
            begin.insert(t.id);
        }
    }
    (have, begin)
}

impl LegSnap {
    /// A leg that is `running` in its row and has no worker lost it to an error that could not be recorded.
    pub fn may_start(&self, now_ms: i64) -> bool {
        let due = self.retry_at.is_none_or(|at| at <= now_ms);
        matches!(self.state, LegState::Waiting | LegState::Running) && !self.running && self.open && due
    }
}

fn start_legs(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>, may: impl Fn(&LegSnap) -> bool) {
    for l in &t.legs {
        if l.may_start(s.now_ms) && !l.held && may(l) {
            out.push(Action::StartLeg { task: t.id, method: l.method });
        } else if l.running && (!l.open || l.yields) {
            out.push(Action::StopLeg { task: t.id, method: l.method });
        }
    }
}

/// Stops what runs; true when nothing runs any more.
fn stop_legs(t: &TaskSnap, out: &mut Vec<Action>) -> bool {
    let mut idle = true;
    for l in t.legs.iter().filter(|l| l.running) {
        idle = false;
        out.push(Action::StopLeg { task: t.id, method: l.method });
    }
    idle
}

fn step(t: &TaskSnap, to: TaskState, reason: &str) -> Action {
    Action::Move { task: t.id, from: t.state, to, reason: reason.to_owned() }
}

fn failed_leg(t: &TaskSnap) -> Option<&LegSnap> {
    t.legs.iter().find(|l| l.state == LegState::Failed && !l.held)
}

fn uploading_task(s: &Snapshot, t: &TaskSnap, has_place: bool, out: &mut Vec<Action>) {
    if let Some(bad) = failed_leg(t) {
        if stop_legs(t, out) {
            out.push(step(t, TaskState::Failed, &bad.error));
        }
        return;
    }
    // Seeding takes no place.
    start_legs(s, t, out, |l| has_place || l.method == Method::Bt);
    let usable = |l: &LegSnap| match l.method {
        Method::Bt => l.running && l.ready,
        Method::Obs | Method::Cdn => l.state == LegState::Done,
    };
    if t.legs.iter().all(usable) {
        out.push(step(t, TaskState::Uploaded, ""));
    }
}

/// Seeds until the seed time is over (sender after the upload, receiver after the download).
fn serving_task(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>, seeds: bool) {
    if t.seed_until.is_none_or(|end| end <= s.now_ms) {
        if stop_legs(t, out) {
            out.push(step(t, TaskState::History, ""));
        }
        return;
    }
    if let Some(bad) = failed_leg(t)
        && t.role == Role::Send
    {
        if stop_legs(t, out) {
            out.push(step(t, TaskState::Failed, &bad.error));
        }
        return;
    }
    let seed = t.legs.iter().find(|l| l.method == Method::Bt);
    // Seeding is not bound to the windows of a download (protocol section 11).
    if let Some(l) = seed.filter(|l| seeds && LegSnap { open: true, ..(*l).clone() }.may_start(s.now_ms)) {
        out.push(Action::StartLeg { task: t.id, method: l.method });
    }
}

fn downloading_task(s: &Snapshot, t: &TaskSnap, has_place: bool, out: &mut Vec<Action>) {
    if t.finishing {
        return;
    }
    if t.verified {
        if stop_legs(t, out) && !t.copying {
            out.push(Action::Finish { task: t.id });
        }
        return;
    }
    if let Some(bad) = failed_leg(t) {
        if stop_legs(t, out) && !t.copying {
            out.push(step(t, TaskState::DownloadError, &bad.error));
        }
        return;
    }
    if t.local_pending && !t.copying {
        out.push(Action::CopyLocal { task: t.id });
    }
    start_legs(s, t, out, |_| has_place);
}

/// A cacher's task that is over, and its data gone, is shown as `downloaded` (protocol section 4) for so long.
const SHOWN_MS: u64 = 24 * 3600 * 1000;

fn cached_task(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>) {
    // Also when the clock was years ahead then.
    let over = t.ended_at.is_none_or(|at| s.now_ms.abs_diff(at) >= SHOWN_MS);
    if stop_legs(t, out) && over {
        out.push(step(t, TaskState::History, ""));
    }
}

fn caching_task(s: &Snapshot, t: &TaskSnap, has_place: bool, out: &mut Vec<Action>) {
    if t.seed_until.is_none_or(|end| end <= s.now_ms) {
        if stop_legs(t, out) && !t.finishing {
            out.push(Action::DropCache { task: t.id });
        }
        return;
    }
    if let Some(bad) = failed_leg(t) {
        if stop_legs(t, out) {
            out.push(step(t, TaskState::DownloadError, &bad.error));
        }
        return;
    }
    // What is complete is only seeded.
    start_legs(s, t, out, |_| has_place || t.verified);
}

#[cfg(test)]
mod tests;
