//! What to do next, as a pure function of what is.
//!
//! The conductor reads a [`Snapshot`], asks [`decide`], and carries the actions out. Nothing else starts or stops work,
//! so a lost message costs a tick, and a restart is the first tick of a new process: there is no other recovery path.
//! Every action is safe to repeat: a leg that runs is not started twice, a task that moved on is not moved again.

use super::span::Method;
use super::task::{LegState, NodeType, Role, TaskState};

/// Everything a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    pub node: Option<NodeType>,
    /// Tasks in `uploading` / `downloading` at the same time.
    pub uploading_max: usize,
    pub downloading_max: usize,
    /// Oldest first.
    pub tasks: Vec<TaskSnap>,
    /// Queued gentask jobs, oldest first, and whether one is at work.
    pub generations: Vec<i64>,
    pub generating: bool,
}

/// One live task.
#[derive(Clone, Debug)]
pub struct TaskSnap {
    pub id: i64,
    pub role: Role,
    pub state: TaskState,
    pub legs: Vec<LegSnap>,
    pub seed_until: Option<i64>,
    /// Library copies are still to be made.
    pub local_pending: bool,
    /// A worker copies or finishes this task now.
    pub copying: bool,
    pub finishing: bool,
    /// Every file is fetched, hashed here and equal to the task's digests.
    pub verified: bool,
    /// A receiver that does not seed after its download.
    pub no_seed: bool,
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
    /// All that it could bring now is being brought by other receptions (see [`share`](super::share)).
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
    let holds = |t: &&TaskSnap, state: TaskState| t.state == state && holds_slot(t);
    let mut uploading = s.tasks.iter().filter(|t| holds(t, TaskState::Uploading)).count();
    let mut downloading = s.tasks.iter().filter(|t| holds(t, TaskState::Downloading)).count();
    for task in &s.tasks {
        // Received again while it was at work: what still runs belongs to its old self.
        if task.state == TaskState::Queues && (!stop_legs(task, &mut out) || task.copying || task.finishing) {
            continue;
        }
        match (task.role, task.state) {
            (Role::Send, TaskState::Queues) if uploading < s.uploading_max => {
                uploading += 1;
                out.push(Action::Begin { task: task.id });
            }
            (Role::Recv, TaskState::Queues) if downloading < s.downloading_max => {
                downloading += 1;
                out.push(Action::Begin { task: task.id });
            }
            (Role::Send, TaskState::Uploading) => uploading_task(s, task, &mut out),
            (Role::Send, TaskState::Uploaded) => serving_task(s, task, &mut out, true),
            (Role::Recv, TaskState::Downloading) if s.node == Some(NodeType::Cacher) => caching_task(s, task, &mut out),
            (Role::Recv, TaskState::Downloading) => downloading_task(s, task, &mut out),
            (Role::Recv, TaskState::Downloaded) => serving_task(s, task, &mut out, !task.no_seed),
            _ => {}
        }
    }
    out
}

/// A task whose unfinished legs all wait, for their windows or for another task, gives its place to another.
fn holds_slot(t: &TaskSnap) -> bool {
    let mut unfinished = t.legs.iter().filter(|l| l.state != LegState::Done && l.state != LegState::Off).peekable();
    unfinished.peek().is_none() || unfinished.any(|l| (l.open && !l.held) || l.running)
}

impl LegSnap {
    /// A leg that is `running` in its row and has no worker lost it to an error that could not be recorded.
    pub fn may_start(&self, now_ms: i64) -> bool {
        let due = self.retry_at.is_none_or(|at| at <= now_ms);
        matches!(self.state, LegState::Waiting | LegState::Running) && !self.running && self.open && due
    }
}

fn start_legs(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>) {
    for l in &t.legs {
        if l.may_start(s.now_ms) && !l.held {
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
    t.legs.iter().find(|l| l.state == LegState::Failed)
}

fn uploading_task(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>) {
    if let Some(bad) = failed_leg(t) {
        if stop_legs(t, out) {
            out.push(step(t, TaskState::Failed, &bad.error));
        }
        return;
    }
    start_legs(s, t, out);
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

fn downloading_task(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>) {
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
    start_legs(s, t, out);
}

fn caching_task(s: &Snapshot, t: &TaskSnap, out: &mut Vec<Action>) {
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
    start_legs(s, t, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(method: Method, state: LegState) -> LegSnap {
        LegSnap {
            method,
            state,
            running: state == LegState::Running,
            ready: false,
            open: true,
            retry_at: None,
            error: String::new(),
            held: false,
            yields: false,
        }
    }

    fn task(role: Role, state: TaskState, legs: Vec<LegSnap>) -> TaskSnap {
        TaskSnap {
            id: 1,
            role,
            state,
            legs,
            seed_until: Some(10_000),
            local_pending: false,
            copying: false,
            finishing: false,
            verified: false,
            no_seed: false,
        }
    }

    fn snapshot(tasks: Vec<TaskSnap>) -> Snapshot {
        Snapshot {
            now_ms: 1_000,
            node: Some(NodeType::Receiver),
            uploading_max: 2,
            downloading_max: 2,
            tasks,
            ..Default::default()
        }
    }

    fn only(t: TaskSnap) -> Vec<Action> {
        decide(&snapshot(vec![t]))
    }

    #[test]
    fn the_queue_is_first_in_first_out_and_bounded() {
        let q = |id| TaskSnap { id, ..task(Role::Recv, TaskState::Queues, vec![leg(Method::Cdn, LegState::Waiting)]) };
        let busy = TaskSnap { id: 9, ..task(Role::Recv, TaskState::Downloading, vec![leg(Method::Cdn, LegState::Running)]) };
        let begun: Vec<_> = decide(&snapshot(vec![q(1), q(2), q(3), busy]))
            .into_iter()
            .filter_map(|a| if let Action::Begin { task } = a { Some(task) } else { None })
            .collect();
        assert_eq!(begun, [1], "one of two places is taken, the oldest gets the other");
    }

    #[test]
    fn a_task_outside_its_windows_gives_its_place_away() {
        let parked = |id| {
            let closed = LegSnap { open: false, ..leg(Method::Cdn, LegState::Waiting) };
            TaskSnap { id, ..task(Role::Recv, TaskState::Downloading, vec![closed]) }
        };
        let waiting = TaskSnap { id: 3, ..task(Role::Recv, TaskState::Queues, vec![leg(Method::Cdn, LegState::Waiting)]) };
        assert_eq!(decide(&snapshot(vec![parked(1), parked(2), waiting])), [Action::Begin { task: 3 }]);
    }

    #[test]
    fn a_leg_that_is_held_back_waits_and_one_that_yields_stops() {
        let held = LegSnap { held: true, ..leg(Method::Cdn, LegState::Waiting) };
        let yields = LegSnap { yields: true, ..leg(Method::Obs, LegState::Running) };
        assert_eq!(only(task(Role::Recv, TaskState::Downloading, vec![held.clone()])), []);
        let got = only(task(Role::Recv, TaskState::Downloading, vec![yields]));
        assert_eq!(got, [Action::StopLeg { task: 1, method: Method::Obs }]);
        let waiting = TaskSnap { id: 2, ..task(Role::Recv, TaskState::Queues, vec![leg(Method::Cdn, LegState::Waiting)]) };
        let mut s = snapshot(vec![task(Role::Recv, TaskState::Downloading, vec![held]), waiting]);
        s.downloading_max = 1;
        assert_eq!(decide(&s), [Action::Begin { task: 2 }], "who waits for another gives its place away");
    }

    #[test]
    fn a_closed_window_stops_a_leg_without_an_error() {
        let closed = LegSnap { open: false, ..leg(Method::Obs, LegState::Running) };
        let got = only(task(Role::Recv, TaskState::Downloading, vec![closed, leg(Method::Cdn, LegState::Running)]));
        assert_eq!(got, [Action::StopLeg { task: 1, method: Method::Obs }]);
    }

    #[test]
    fn a_retry_waits_for_its_time() {
        let later = |at| LegSnap { retry_at: Some(at), ..leg(Method::Cdn, LegState::Waiting) };
        assert_eq!(only(task(Role::Recv, TaskState::Downloading, vec![later(1_001)])), []);
        let start = [Action::StartLeg { task: 1, method: Method::Cdn }];
        assert_eq!(only(task(Role::Recv, TaskState::Downloading, vec![later(1_000)])), start);
    }

    #[test]
    fn an_upload_is_done_when_every_method_can_be_used() {
        let seeding = |ready| LegSnap { ready, ..leg(Method::Bt, LegState::Running) };
        let done = leg(Method::Obs, LegState::Done);
        assert_eq!(only(task(Role::Send, TaskState::Uploading, vec![seeding(false), done.clone()])), []);
        let moved = Action::Move { task: 1, from: TaskState::Uploading, to: TaskState::Uploaded, reason: String::new() };
        assert_eq!(only(task(Role::Send, TaskState::Uploading, vec![seeding(true), done])), [moved]);
    }

    #[test]
    fn a_failed_leg_stops_the_others_first_and_then_fails_the_task() {
        let bad = LegSnap { error: "file a.mxf: gone".into(), ..leg(Method::Obs, LegState::Failed) };
        let got = only(task(Role::Recv, TaskState::Downloading, vec![bad.clone(), leg(Method::Cdn, LegState::Running)]));
        assert_eq!(got, [Action::StopLeg { task: 1, method: Method::Cdn }]);
        let got = only(task(Role::Recv, TaskState::Downloading, vec![bad, leg(Method::Cdn, LegState::Waiting)]));
        let failed = Action::Move {
            task: 1,
            from: TaskState::Downloading,
            to: TaskState::DownloadError,
            reason: "file a.mxf: gone".into(),
        };
        assert_eq!(got, [failed]);
    }

    #[test]
    fn only_verified_packages_are_finished() {
        let done = vec![leg(Method::Cdn, LegState::Done)];
        assert_eq!(only(task(Role::Recv, TaskState::Downloading, done.clone())), [], "the digest is still running");
        let verified = TaskSnap { verified: true, ..task(Role::Recv, TaskState::Downloading, done) };
        assert_eq!(only(verified.clone()), [Action::Finish { task: 1 }]);
        assert_eq!(only(TaskSnap { finishing: true, ..verified }), []);
    }

    #[test]
    fn seeds_serve_for_the_seed_time_whatever_the_window_says() {
        let closed = LegSnap { open: false, ..leg(Method::Bt, LegState::Waiting) };
        let t = task(Role::Recv, TaskState::Downloaded, vec![closed]);
        assert_eq!(only(t.clone()), [Action::StartLeg { task: 1, method: Method::Bt }]);
        assert_eq!(only(TaskSnap { no_seed: true, ..t.clone() }), []);
        let over = TaskSnap { seed_until: Some(1_000), ..t };
        let moved = Action::Move { task: 1, from: TaskState::Downloaded, to: TaskState::History, reason: String::new() };
        assert_eq!(only(over), [moved]);
    }

    #[test]
    fn a_cacher_drops_its_data_when_the_seed_time_ends() {
        let mut s = snapshot(vec![task(Role::Recv, TaskState::Downloading, vec![leg(Method::Bt, LegState::Running)])]);
        s.node = Some(NodeType::Cacher);
        assert_eq!(decide(&s), []);
        s.now_ms = 10_000;
        assert_eq!(decide(&s), [Action::StopLeg { task: 1, method: Method::Bt }]);
        s.tasks[0].legs[0] = leg(Method::Bt, LegState::Waiting);
        assert_eq!(decide(&s), [Action::DropCache { task: 1 }]);
    }

    #[test]
    fn a_task_that_is_received_again_waits_for_its_old_self() {
        let queued = |legs| task(Role::Recv, TaskState::Queues, legs);
        let old = LegSnap { running: true, ..leg(Method::Cdn, LegState::Waiting) };
        assert_eq!(only(queued(vec![old])), [Action::StopLeg { task: 1, method: Method::Cdn }]);
        let idle = queued(vec![leg(Method::Cdn, LegState::Waiting)]);
        assert_eq!(only(TaskSnap { finishing: true, ..idle.clone() }), []);
        assert_eq!(only(TaskSnap { copying: true, ..idle.clone() }), []);
        assert_eq!(only(idle), [Action::Begin { task: 1 }]);
    }

    #[test]
    fn one_generation_at_a_time() {
        let mut s = snapshot(vec![]);
        s.generations = vec![7, 8];
        assert_eq!(decide(&s), [Action::StartGeneration { id: 7 }]);
        s.generating = true;
        assert_eq!(decide(&s), []);
    }
}
