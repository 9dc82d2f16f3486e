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
        priority: 0,
        accepted_at: 0,
        goes_on: false,
        role,
        state,
        legs,
        seed_until: Some(10_000),
        ended_at: None,
        local_pending: false,
        copying: false,
        finishing: false,
        verified: false,
        no_seed: false,
        no_room: false,
    }
}

fn snapshot(tasks: Vec<TaskSnap>) -> Snapshot {
    Snapshot { now_ms: 1_000, node: Some(NodeType::Receiver), uploading_max: 2, downloading_max: 2, tasks, ..Default::default() }
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

fn begun(s: &Snapshot) -> Vec<i64> {
    decide(s).into_iter().filter_map(|a| if let Action::Begin { task } = a { Some(task) } else { None }).collect()
}

fn queued(id: i64) -> TaskSnap {
    TaskSnap { id, accepted_at: id, ..task(Role::Recv, TaskState::Queues, vec![leg(Method::Cdn, LegState::Waiting)]) }
}

#[test]
fn priorities_come_first_and_stop_nobody() {
    let urgent = |id, priority| TaskSnap { priority, ..queued(id) };
    assert_eq!(begun(&snapshot(vec![queued(1), urgent(2, -1), queued(3), urgent(4, 7)])), [4, 1]);
    let busy = |id| TaskSnap { id, ..task(Role::Recv, TaskState::Downloading, vec![leg(Method::Cdn, LegState::Running)]) };
    assert_eq!(decide(&snapshot(vec![busy(1), busy(2), urgent(4, 7)])), [], "who is at work stays there");
    // Windows open: a parked task comes before those in the queue that are not more urgent.
    let parked = |id, priority| TaskSnap {
        id,
        priority,
        accepted_at: id,
        ..task(Role::Recv, TaskState::Downloading, vec![leg(Method::Cdn, LegState::Waiting)])
    };
    let got = decide(&snapshot(vec![parked(1, 0), parked(2, 0), parked(3, 5), queued(4)]));
    assert_eq!(got, [3, 1].map(|task| Action::StartLeg { task, method: Method::Cdn }));
    let got = decide(&snapshot(vec![parked(1, 0), parked(2, 0), urgent(4, 7)]));
    assert_eq!(got, [Action::Begin { task: 4 }, Action::StartLeg { task: 1, method: Method::Cdn }]);
}

#[test]
fn a_task_that_is_received_again_goes_to_the_end_of_the_queue() {
    let again = TaskSnap { accepted_at: 9, ..queued(1) };
    assert_eq!(begun(&snapshot(vec![again, queued(2), queued(3)])), [2, 3]);
}

#[test]
fn a_download_that_is_told_to_go_on_does_not_wait_behind_the_others() {
    let told = TaskSnap { goes_on: true, ..queued(1) };
    let parked = |id| TaskSnap {
        id,
        accepted_at: -id,
        ..task(Role::Recv, TaskState::Downloading, vec![leg(Method::Cdn, LegState::Waiting)])
    };
    let mut s = snapshot(vec![parked(7), queued(2), told.clone(), queued(3)]);
    s.downloading_max = 1;
    assert_eq!(decide(&s), [Action::Begin { task: 1 }], "nor behind one that waited for its place");
    // While its old self stops, its place is its own.
    s.tasks[2].legs[0].running = true;
    assert_eq!(decide(&s), [Action::StopLeg { task: 1, method: Method::Cdn }]);
    s.tasks = vec![TaskSnap { state: TaskState::Downloading, ..told }, TaskSnap { priority: 1, ..queued(2) }];
    assert_eq!(decide(&s), [Action::Begin { task: 2 }], "who is more urgent comes first all the same");
}

#[test]
fn a_seed_that_is_sent_again_needs_no_place() {
    let sends = |id, method, state| TaskSnap { id, ..task(Role::Send, state, vec![leg(method, LegState::Waiting)]) };
    let mut busy = sends(1, Method::Obs, TaskState::Uploading);
    busy.legs[0] = leg(Method::Obs, LegState::Running);
    let seed = TaskSnap { goes_on: true, ..sends(2, Method::Bt, TaskState::Queues) };
    let mut s = snapshot(vec![busy, seed, sends(3, Method::Bt, TaskState::Queues), sends(4, Method::Obs, TaskState::Queues)]);
    s.uploading_max = 1;
    assert_eq!(decide(&s), [Action::Begin { task: 2 }]);
    // Its upload waits for a place, and the seed does not.
    s.tasks[1] = TaskSnap { goes_on: true, ..sends(2, Method::Bt, TaskState::Uploading) };
    s.tasks[1].legs.push(leg(Method::Obs, LegState::Waiting));
    assert_eq!(decide(&s), [Action::StartLeg { task: 2, method: Method::Bt }]);
    s.tasks[1].legs[0] = leg(Method::Bt, LegState::Running);
    assert_eq!(decide(&s), [], "nor while the seed begins");
}

#[test]
fn who_waits_for_room_takes_no_place_and_holds_nobody_up() {
    let large = TaskSnap { no_room: true, ..queued(1) };
    assert_eq!(begun(&snapshot(vec![large, queued(2), queued(3)])), [2, 3]);
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

/// What is local is no traffic.
#[test]
fn copies_and_the_end_of_a_reception_do_not_wait_for_windows() {
    let closed = LegSnap { open: false, ..leg(Method::Cdn, LegState::Waiting) };
    let parked = task(Role::Recv, TaskState::Downloading, vec![closed]);
    let copies = TaskSnap { local_pending: true, ..parked.clone() };
    assert_eq!(only(copies.clone()), [Action::CopyLocal { task: 1 }]);
    assert_eq!(only(TaskSnap { copying: true, ..copies }), []);
    assert_eq!(only(TaskSnap { finishing: true, ..parked.clone() }), []);
    assert_eq!(only(TaskSnap { verified: true, ..parked }), [Action::Finish { task: 1 }]);
}

/// More tasks than places: who was parked gets its place again before those in the queue, the oldest first, and nobody
/// who is at work loses his.
#[test]
fn a_window_that_opens_takes_no_more_places_than_there_are() {
    let with = |id, leg: LegSnap| TaskSnap { id, ..task(Role::Recv, TaskState::Downloading, vec![leg]) };
    let opened = |id| with(id, leg(Method::Cdn, LegState::Waiting));
    let busy = |id| with(id, leg(Method::Cdn, LegState::Running));
    let parked = |id| with(id, LegSnap { open: false, ..leg(Method::Cdn, LegState::Waiting) });
    let queued = |id| TaskSnap { id, ..task(Role::Recv, TaskState::Queues, vec![leg(Method::Cdn, LegState::Waiting)]) };
    let start = |task| Action::StartLeg { task, method: Method::Cdn };
    // Two places.
    let of = |tasks| decide(&snapshot(tasks));
    assert_eq!(of(vec![opened(1), opened(2), opened(3), queued(4)]), [start(1), start(2)]);
    assert_eq!(of(vec![opened(1), opened(2), busy(3), queued(4)]), [start(1)]);
    assert_eq!(of(vec![opened(1), busy(2), busy(3), queued(4)]), []);
    assert_eq!(of(vec![parked(1), opened(2), parked(3), queued(4), queued(5)]), [start(2), Action::Begin { task: 4 }]);
    // Its other method is at work: the place is its own already.
    let mut second = busy(3);
    second.legs.push(leg(Method::Obs, LegState::Waiting));
    assert_eq!(of(vec![opened(1), busy(2), second]), [Action::StartLeg { task: 3, method: Method::Obs }]);
    // Fewer places than before: who works goes on.
    let mut fewer = snapshot(vec![busy(1), busy(2), opened(3)]);
    fewer.downloading_max = 1;
    assert_eq!(decide(&fewer), []);
}

#[test]
fn who_only_serves_holds_no_place() {
    let seeds = LegSnap { ready: true, ..leg(Method::Bt, LegState::Running) };
    let upload = |id, seed: LegSnap, obs: LegSnap| TaskSnap { id, ..task(Role::Send, TaskState::Uploading, vec![seed, obs]) };
    let shut = LegSnap { open: false, ..leg(Method::Obs, LegState::Waiting) };
    let queued = TaskSnap { id: 9, ..task(Role::Send, TaskState::Queues, vec![leg(Method::Obs, LegState::Waiting)]) };
    let mut s = snapshot(vec![upload(1, seeds.clone(), shut.clone()), queued]);
    s.uploading_max = 1;
    assert_eq!(decide(&s), [Action::Begin { task: 9 }], "its upload waits for its window");
    // After a restart it seeds again at once, whoever has the places.
    let idle = leg(Method::Bt, LegState::Waiting);
    s.tasks = vec![upload(1, idle.clone(), shut), upload(2, idle, leg(Method::Obs, LegState::Running))];
    assert_eq!(decide(&s), [1, 2].map(|task| Action::StartLeg { task, method: Method::Bt }));
}

/// A cacher's tasks stay in `downloading` while they seed, and count there; a window that opens does not wait for their end.
#[test]
fn a_cacher_that_seeds_keeps_nobody_from_his_window() {
    let with = |id, leg| TaskSnap { id, ..task(Role::Recv, TaskState::Downloading, vec![leg]) };
    let seeds = LegSnap { ready: true, ..leg(Method::Bt, LegState::Running) };
    let cached = |id, leg| TaskSnap { verified: true, ..with(id, leg) };
    let waits = || leg(Method::Bt, LegState::Waiting);
    let queued = TaskSnap { id: 9, ..task(Role::Recv, TaskState::Queues, vec![waits()]) };
    let mut s = snapshot(vec![cached(1, seeds), cached(2, waits()), with(3, waits()), with(4, waits()), queued]);
    (s.node, s.downloading_max) = (Some(NodeType::Cacher), 1);
    // The second seeds again after a restart; the third has the place of those that fetch.
    assert_eq!(decide(&s), [2, 3].map(|task| Action::StartLeg { task, method: Method::Bt }));
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
    let failed =
        Action::Move { task: 1, from: TaskState::Downloading, to: TaskState::DownloadError, reason: "file a.mxf: gone".into() };
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
fn a_cachers_task_that_is_over_is_shown_for_a_day() {
    let over =
        TaskSnap { ended_at: Some(20_000), ..task(Role::Recv, TaskState::Downloaded, vec![leg(Method::Bt, LegState::Waiting)]) };
    let mut s = snapshot(vec![over]);
    let moved = [Action::Move { task: 1, from: TaskState::Downloaded, to: TaskState::History, reason: String::new() }];
    let day = 86_400_000;
    // Nothing is seeded any more, whatever became of the clock and the seed time.
    for (now, then) in [(20_000, &[][..]), (1_000, &[]), (20_000 + day - 1, &[]), (20_000 + day, &moved), (20_000 - day, &moved)]
    {
        (s.node, s.now_ms) = (Some(NodeType::Cacher), now);
        assert_eq!(decide(&s), then, "at {now}");
    }
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
