//! The loop: read a snapshot, decide, act; results become rows and wake the loop again.
//!
//! It owns everything that runs, so there are no locks: workers report through one channel. A tick that finds nothing to
//! do costs a few small reads. Whatever was running when the process ended is simply not running at the first tick of
//! the next one, and is started again from its rows.

#[cfg(test)]
mod tests;

use super::Node;
use super::legs::{Plan, Purpose, Run};
use super::sampler::{self, Gauge};
use crate::assembly::{self, Assembly};
use crate::error::Fault;
use crate::model::decide::{Action, LegSnap, Snapshot, TaskSnap, decide};
use crate::model::span::Method;
use crate::model::task::{LegState, NodeType, Role, TaskState};
use crate::store::events::Level;
use crate::store::tasks::TaskRow;
use crate::transport::{Counters, Outcome};
use crate::views;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two looks when nothing wakes us.
const TICK: Duration = Duration::from_millis(500);
/// Results that may wait to be handled; a worker with one more waits.
const RESULTS: usize = 64;

/// See the module's text.
pub struct Conductor {
    pub(super) node: Arc<Node>,
    pub(super) running: HashMap<(i64, Method), Leg>,
    pub(super) assemblies: HashMap<i64, Arc<Assembly>>,
    /// Tasks that are being copied to; those that are being handed over, with what is staged.
    pub(super) copying: HashMap<i64, CancellationToken>,
    pub(super) finishing: HashMap<i64, Option<Arc<Assembly>>>,
    /// Packages that lie where they are to be received.
    pub(super) in_place: HashSet<i64>,
    pub(super) sharing: super::sharing::Sharing,
    pub(super) helping: super::helping::Helping,
    pub(super) hours: super::hours::Hours,
    pub(super) rooms: super::rooms::Rooms,
    pub(super) generating: Option<super::generate::Job>,
    /// gentask jobs that met something that passes, and when they are begun anew.
    pub(super) postponed: HashMap<i64, super::generate::Postponed>,
    pub(super) looks: super::disk::Looks,
    pub(super) results: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Report>,
    pub(super) samples: u32,
    upkeep: super::upkeep::Upkeep,
    thrift: super::thrift::Thrift,
    pub(super) seeds: super::trust::SeedClock,
    pub(super) giving_up: Option<super::uploads::Round>,
    pub(super) swept: Option<Instant>,
    /// Why the transfer area is away, while it is.
    pub(super) away: Option<String>,
}

/// A leg that has a worker.
pub struct Leg {
    stop: CancellationToken,
    pub(super) gauge: Gauge,
    pub(super) purpose: Purpose,
    pub(super) plan: Arc<Plan>,
    /// Files that it does not fetch: others bring them.
    pub(super) leaves: HashSet<u32>,
    pub(super) done_before: u64,
}

impl Leg {
    pub(super) fn fetches(&self, file: u32) -> bool {
        self.purpose != Purpose::Publish && !self.leaves.contains(&file)
    }

    pub(super) fn moved_within(&self, time: Duration) -> bool {
        self.gauge.moved_within(time)
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// What workers tell.
pub enum Report {
    Leg {
        task: i64,
        method: Method,
        outcome: Result<Outcome, Fault>,
    },
    Copied {
        task: i64,
        outcome: Result<(), Fault>,
    },
    /// Whether the task became `downloaded`.
    Finished {
        task: i64,
        outcome: Result<bool, Fault>,
    },
    Generated {
        outcome: super::generate::Ended,
    },
}

impl Conductor {
    pub fn new(node: Arc<Node>) -> Self {
        let (results, inbox) = mpsc::channel(RESULTS);
        Self {
            node,
            running: HashMap::new(),
            assemblies: HashMap::new(),
            copying: HashMap::new(),
            finishing: HashMap::new(),
            in_place: HashSet::new(),
            sharing: Default::default(),
            helping: Default::default(),
            hours: Default::default(),
            rooms: Default::default(),
            generating: None,
            postponed: HashMap::new(),
            looks: Default::default(),
            results,
            inbox,
            samples: 0,
            upkeep: super::upkeep::Upkeep::default(),
            thrift: super::thrift::Thrift::default(),
            seeds: super::trust::SeedClock::default(),
            giving_up: None,
            swept: None,
            away: None,
        }
    }

    /// Runs until `stop` fires, then drains: legs are stopped, everything committed is synced and recorded. Returns
    /// whether that was done within `deadline`.
    pub async fn run(mut self, stop: CancellationToken, deadline: Duration) -> bool {
        match self.node.store.seen_at().await {
            Ok(seen) => self.upkeep.start(seen, self.node.clock.now_ms()),
            Err(fault) => tracing::error!(%fault, "cannot read what the clock showed last"),
        }
        if let Err(fault) = self.seeds.look(&Arc::clone(&self.node)).await {
            tracing::error!(%fault, "cannot read what the clock showed last; trying again");
        }
        let mut sampled = Instant::now();
        while !stop.is_cancelled() {
            if sampled.elapsed() >= sampler::PERIOD {
                sampled = Instant::now();
                self.sample().await;
            }
            if let Err(fault) = self.tick().await {
                tracing::error!(%fault, detail = fault.detail, "a tick failed; trying again");
            } else {
                self.node.pulse.beat();
            }
            let nudge = Arc::clone(&self.node.nudge);
            tokio::select! {
                () = nudge.notified() => {}
                () = tokio::time::sleep(TICK) => {}
                Some(report) = self.inbox.recv() => self.handle(report).await,
                () = stop.cancelled() => {}
            }
            while let Ok(report) = self.inbox.try_recv() {
                self.handle(report).await;
            }
        }
        tokio::time::timeout(deadline, self.drain()).await.is_ok()
    }

    async fn drain(&mut self) {
        for leg in self.running.values() {
            leg.stop.cancel();
        }
        self.copying.values().for_each(CancellationToken::cancel);
        if let Some(job) = &self.generating {
            job.pause();
        }
        while !self.running.is_empty() || !self.finishing.is_empty() || !self.copying.is_empty() || self.generating.is_some() {
            let Some(report) = self.inbox.recv().await else { break };
            self.handle(report).await;
        }
        for (task, assembly) in self.assemblies.drain() {
            if let Err(fault) = assembly.close().await {
                tracing::warn!(%fault, task, "the last sync failed; what it would have recorded is fetched again");
            }
        }
    }

    async fn tick(&mut self) -> Result<(), Fault> {
        self.seeds.look(&Arc::clone(&self.node)).await?;
        self.apply_rates();
        self.watch_generation().await?;
        if self.disk_is_away().await? {
            return Ok(());
        }
        for task in self.node.store.tasks_to_export().await? {
            if let Err(fault) = self.node.export(&task).await {
                tracing::warn!(%fault, task = %task.name, "cannot export the task file; trying again");
            }
        }
        self.upkeep.run(&self.node).await;
        let idle = self.running.is_empty() && self.generating.is_none();
        self.thrift.look(&self.node, idle).await;
        self.look_after_assemblies().await?;
        self.find_copies().await?;
        self.sweep_staging().await;
        let snapshot = self.snapshot().await?;
        for action in decide(&snapshot) {
            if let Err(fault) = self.act(&action).await {
                tracing::warn!(%fault, ?action, "an action failed; it is decided anew");
            }
        }
        Ok(())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Fault> {
        let node = Arc::clone(&self.node);
        // What came before in this tick may have taken its time.
        let now = self.seeds.look(&node).await?;
        let tasks = node.store.live_tasks().await?;
        let legs = node.store.live_legs().await?;
        // After the rows: a task that came after a change is not judged by what was before it.
        let config = node.config.current();
        self.tell_of_broken().await;
        self.release_dead(&tasks).await;
        let cacher = config.servertype == NodeType::Cacher;
        let mut snaps = Vec::with_capacity(tasks.len());
        for t in &tasks {
            let mut mine = Vec::new();
            for l in legs.iter().filter(|l| l.task == t.id) {
                mine.push(self.leg_snap(t, l, now).await?);
            }
            // Received again without a part for this method: it still runs, and is stopped like one whose window closed.
            for (_, method) in
                self.running.keys().filter(|(id, m)| *id == t.id && !legs.iter().any(|l| l.task == t.id && l.method == *m))
            {
                mine.push(LegSnap {
                    method: *method,
                    state: LegState::Off,
                    running: true,
                    ready: false,
                    open: false,
                    retry_at: None,
                    error: String::new(),
                    held: false,
                    yields: false,
                });
            }
            let assembly = self.assemblies.get(&t.id);
            snaps.push(TaskSnap {
                id: t.id,
                priority: t.priority,
                accepted_at: t.turn.unwrap_or(t.created_at),
                goes_on: t.turn.is_some(),
                role: t.role,
                state: t.state,
                legs: mine,
                seed_until: t.seed_until,
                ended_at: t.finished_at,
                local_pending: assembly.is_some_and(|a| !a.local_pending().is_empty()) || self.in_place.contains(&t.id),
                copying: self.copying.contains_key(&t.id),
                finishing: self.finishing.contains_key(&t.id),
                // Of a file that a cacher wants in part there is no digest: its pieces were checked.
                verified: assembly.is_some_and(|a| if cacher { a.is_complete() } else { a.verified() })
                    || (t.state == TaskState::Downloading && assembly::already_renamed(t)),
                no_seed: t.role == Role::Recv && !config.receiverseed,
                no_room: self.rooms.waits(t.id),
            });
        }
        self.hold_back(&tasks, &mut snaps, now.timestamp_millis()).await?;
        self.help_out(&tasks, &legs, &snaps).await?;
        self.look_ahead(&tasks, &legs).await;
        let generations = self.generations_due().await?;
        Ok(Snapshot {
            now_ms: now.timestamp_millis(),
            node: Some(config.servertype),
            uploading_max: config.uploadingnum,
            downloading_max: config.downloadingnum,
            tasks: snaps,
            generations,
            generating: self.generating.is_some(),
        })
    }

    async fn act(&mut self, action: &Action) -> Result<(), Fault> {
        match action {
            Action::Begin { task } => self.begin(*task).await,
            Action::StartLeg { task, method } => self.start_leg(*task, *method).await,
            Action::StopLeg { task, method } => {
                if let Some(leg) = self.running.get(&(*task, *method)) {
                    leg.stop.cancel();
                }
                Ok(())
            }
            Action::CopyLocal { task } => self.copy_local(*task).await,
            Action::Finish { task } => self.finish(*task).await,
            Action::DropCache { task } => self.drop_cache(*task).await,
            Action::Move { task, from, to, reason } => self.move_task(*task, *from, *to, reason).await,
            Action::StartGeneration { id } => self.start_generation(*id).await,
        }
    }

    pub(super) async fn row(&self, task: i64) -> Result<TaskRow, Fault> {
        self.node.store.task(task).await?.ok_or_else(|| Fault::permanent("the task is gone"))
    }

    async fn begin(&mut self, task: i64) -> Result<(), Fault> {
        let row = self.row(task).await?;
        let to = if row.role == Role::Send { TaskState::Uploading } else { TaskState::Downloading };
        // One that is open belongs to what the task was before it was received again.
        if let Some(old) = self.assemblies.remove(&task) {
            old.close().await?;
        }
        if row.role == Role::Recv && !assembly::already_renamed(&row) && !self.lies_in_place(&row).await? {
            let mut opened = self.open_assembly(&row).await;
            if opened.as_ref().is_err_and(|f| self.swept.is_none() || !f.is_transient()) {
                // What tasks that are over left goes before anybody is told that there is no room.
                self.swept = None;
                self.sweep_staging().await;
                opened = self.open_assembly(&row).await;
            }
            let Err(fault) = opened else { return self.move_task(task, TaskState::Queues, to, "").await };
            if fault.is_transient() {
                return self.wait_for_room(&row, fault).await;
            }
            return self.move_task(task, TaskState::Queues, TaskState::DownloadError, &fault.message).await;
        }
        self.move_task(task, TaskState::Queues, to, "").await
    }

    pub(super) async fn move_task(&mut self, task: i64, from: TaskState, to: TaskState, reason: &str) -> Result<(), Fault> {
        // Of an empty mount point everything could be said.
        if matches!(to, TaskState::Failed | TaskState::DownloadError) && self.away_now().await?.is_some() {
            return Ok(());
        }
        if !self.node.store.move_task(task, from, to, reason, self.node.clock.now_ms()).await? {
            return Ok(()); // somebody was faster: the next snapshot shows where it is
        }
        self.moved(task, from, to, reason).await
    }

    /// Tells of a step, and shows it.
    pub(super) async fn moved(&mut self, task: i64, from: TaskState, to: TaskState, reason: &str) -> Result<(), Fault> {
        let row = self.row(task).await?;
        let level = if matches!(to, TaskState::Failed | TaskState::DownloadError) { Level::Error } else { Level::Info };
        let text = if reason.is_empty() { format!("{from} -> {to}") } else { format!("{from} -> {to}: {reason}") };
        self.node.event(level, "state", row.name.as_str(), &text).await;
        self.node.announce(&row);
        if let Err(fault) = self.node.export(&row).await {
            tracing::warn!(%fault, task = %row.name, "cannot export the task file; the next tick tries again");
        }
        self.node.nudge.notify_one();
        Ok(())
    }

    pub(super) async fn open_assembly(&mut self, row: &TaskRow) -> Result<Arc<Assembly>, Fault> {
        if let Some(a) = self.assemblies.get(&row.id) {
            return Ok(Arc::clone(a));
        }
        let root = self.node.staging(row);
        let room = self.room_beside(row).await?;
        let assembly = Assembly::open_beside(row.id, &root, &self.node.store, Arc::clone(&self.node.nudge), room).await?;
        self.rearm_short_legs(row, &assembly).await?;
        self.tell_of_dropped(row, &assembly).await;
        let config = self.node.config.current();
        if config.servertype == NodeType::Cacher {
            let link = views::seeding_dir(&config.transfer_dir(), row);
            if let Err(fault) = views::link_seeding_dir(&link, &root) {
                tracing::warn!(%fault, task = %row.name, "clients will not find the data where they look; nothing else suffers");
            }
        }
        self.assemblies.insert(row.id, Arc::clone(&assembly));
        self.sharing.look.insert(row.id);
        Ok(assembly)
    }

    async fn start_leg(&mut self, task: i64, method: Method) -> Result<(), Fault> {
        let row = self.row(task).await?;
        // The same task, accepted anew: its old self is still stopping and may hold the torrent.
        if self
            .running
            .iter()
            .any(|((id, _), leg)| *id != task && leg.plan.task.name == row.name && leg.plan.task.role == row.role)
        {
            return Ok(());
        }
        let purpose = match (row.role, row.state, self.node.config.current().servertype) {
            (Role::Recv, TaskState::Downloading, NodeType::Cacher) => Purpose::FetchThenSeed,
            (Role::Recv, TaskState::Downloading, _) => Purpose::Fetch,
            (Role::Send, TaskState::Uploading | TaskState::Uploaded, _) => Purpose::Publish,
            (Role::Recv, TaskState::Downloaded, _) if method == Method::Bt => Purpose::Publish,
            // Received or cancelled anew since the snapshot: it is decided anew.
            _ => return Ok(()),
        };
        let assembly = if purpose == Purpose::Publish { None } else { Some(self.open_assembly(&row).await?) };
        let plan = Arc::new(Plan::load(&self.node.store, row).await?);
        if self.package_is_away(&plan, method, purpose, false).await.is_some() {
            return self.wait_for_disk(&plan, method, purpose, None).await.map(drop);
        }
        self.note_package(&plan, method, purpose).await?;
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let tries = self.tries(task, method).await?;
        if tries > 0
            && let Err(fault) = views::retire_error(&self.node.store, &self.node.dirs, task).await
        {
            tracing::warn!(%fault, task = %plan.task.name, "cannot move an error to the history of errors");
        }
        self.node.store.set_leg(task, method, LegState::Running, "", tries, None).await?;
        let leaves = if purpose == Purpose::Fetch { self.sharing.held(task) } else { HashSet::new() };
        let run = Run {
            node: Arc::clone(&self.node),
            plan: Arc::clone(&plan),
            method,
            purpose,
            leaves: leaves.clone(),
            assembly,
            counters: Arc::clone(&counters),
            stop: stop.clone(),
        };
        tracing::info!(task = %plan.task.name, %method, ?purpose, "leg starts");
        let results = self.results.clone();
        tokio::spawn(async move {
            let outcome = tokio::spawn(run.run()).await.unwrap_or_else(|e| Err(Fault::local(format!("a worker failed: {e}"))));
            let _ = results.send(Report::Leg { task, method, outcome }).await;
        });
        let spans = plan.spans_of(method);
        let row = self.leg_row(task, method).await?;
        let before = row.as_ref().map_or(0, |l| l.bytes_done);
        let done_before = self.assemblies.get(&task).map_or(before, |a| a.covered(spans.iter()));
        let gauge = Gauge::new(counters, spans, purpose == Purpose::Publish && method == Method::Bt);
        let gauge = gauge.measured(row.and_then(|l| l.measured));
        let gauge = if tries > 0 { gauge.doubted() } else { gauge };
        self.running.insert((task, method), Leg { stop, gauge, purpose, plan, leaves, done_before });
        Ok(())
    }
}
