//! What the node knows, for clients that list and look (`/v1`): reads only.
//!
//! It stands beside the desk rather than in it: it takes no part in admission, and what it answers can be tested with a
//! database alone.

use crate::clock::{Clock, Pulse};
use crate::config::ConfigHandle;
use crate::error::Fault;
use crate::model::forecast::minutes_until;
use crate::model::ids::TaskName;
use crate::model::progress::eta_minutes;
use crate::model::span::Method;
use crate::model::task::{NodeType, Role, TaskState};
use crate::model::window::Windows;
use crate::store::Store;
pub use crate::store::legs::LegRow;
pub use crate::store::lists::{
    DuplicateListed, EventFilter, EventListed, FileListed, GenerationListed, LibraryFilter, LibraryListed, SampleListed,
    TaskFilter, TaskListed,
};
pub use crate::store::packages::{CompositionRow, PackageListed, RateRow, ReelRow};
use chrono::{DateTime, FixedOffset, Local, TimeZone as _};
use std::collections::HashMap;
use std::time::Duration;

/// The conductor goes round twice a second; silent for longer, it is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// Who asks whether a node is ready does not wait for long.
const PATIENCE: Duration = Duration::from_secs(2);
/// With less room than this nothing can be received (bytes).
const LITTLE_ROOM: u64 = 64 << 20;

/// A moment with the offset of the machine's zone.
pub type Time = DateTime<FixedOffset>;

/// A time of the database (milliseconds since the epoch) for people.
pub fn local_time(ms: i64) -> Time {
    Local.timestamp_millis_opt(ms).single().unwrap_or_default().fixed_offset()
}

/// See the module's text.
#[derive(Clone)]
pub struct Overview {
    pub store: Store,
    pub config: ConfigHandle,
    pub clock: Clock,
    /// The conductor's.
    pub pulse: Pulse,
    pub started_at: Time,
}

/// When a method of a task runs.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub task: String,
    pub role: Role,
    pub method: Method,
    /// `18:00-05:00`, several with commas; empty when it may run at any time.
    pub window: String,
    pub open_now: bool,
    /// The next opening, of a window that is closed now.
    pub opens_at: Option<Time>,
    /// The end of a window that is open now; `None` when it never closes.
    pub closes_at: Option<Time>,
    /// Empty when it runs.
    pub waits_for: String,
    /// It does not run before.
    pub runs_at: Option<Time>,
}

/// One look at whether the node can work.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}

impl Overview {
    pub fn role(&self) -> NodeType {
        self.config.current().servertype
    }

    /// `None`: there is no such task.
    pub async fn task(&self, role: Role, name: &str) -> Result<Option<TaskListed>, Fault> {
        let Ok(name) = TaskName::parse(name) else { return Ok(None) };
        match self.store.task_by_name(role, &name).await? {
            Some(row) => self.store.listed_task(row.id).await,
            None => Ok(None),
        }
    }

    pub async fn legs(&self, task: i64) -> Result<Vec<LegRow>, Fault> {
        self.store.legs(task).await
    }

    /// The task file. Holds keys.
    pub async fn task_file(&self, task: i64) -> Result<String, Fault> {
        self.store.task_document(task).await
    }

    /// When each method of the tasks that are not over runs, with the windows as they are now.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, Fault> {
        let now = self.clock.now();
        let rows = self.store.list_runs(now.timestamp_millis()).await?;
        // Many tasks have the same few windows.
        let mut known = HashMap::<String, Option<(bool, Option<Time>)>>::new();
        let one = |r: crate::store::lists::RunListed| {
            let look = || {
                let windows = if r.windows.is_empty() { Windows::all_day() } else { Windows::parse(&r.windows).ok()? };
                Some((windows.is_open(now.time()), windows.next_change(now).map(|t| t.fixed_offset())))
            };
            let (open_now, change) = (*known.entry(r.windows.clone()).or_insert_with(look))?;
            Some(Schedule {
                role: Role::parse(&r.role)?,
                method: Method::parse(&r.method)?,
                task: r.task,
                window: r.windows,
                open_now,
                opens_at: change.filter(|_| !open_now),
                closes_at: change.filter(|_| open_now),
                waits_for: r.waits_for,
                runs_at: r.runs_at.map(local_time),
            })
        };
        Ok(rows.into_iter().filter_map(one).collect())
    }

    /// Whether the node can take work: database, conductor, room.
    pub async fn readiness(&self) -> Vec<Check> {
        let patient = tokio::time::timeout(PATIENCE, self.store.check()).await;
        let patient = patient.unwrap_or_else(|_| Err(Fault::transient("it does not answer: another program may have locked it")));
        let database = match patient {
            Ok(()) => Check { name: "database", ok: true, detail: "it can be read and written".into() },
            Err(fault) => Check { name: "database", ok: false, detail: fault.message },
        };
        let conductor = match self.pulse.age() {
            None => Check { name: "conductor", ok: false, detail: "it has not begun yet".into() },
            Some(age) if age > STUCK => {
                Check { name: "conductor", ok: false, detail: format!("it has been silent for {} s: see the log", age.as_secs()) }
            }
            Some(_) => Check { name: "conductor", ok: true, detail: "it works".into() },
        };
        let config = self.config.current();
        let room = match rustix::fs::statvfs(&config.datadir) {
            Ok(fs) => {
                let free = fs.f_bavail.saturating_mul(fs.f_frsize);
                let detail = format!("{free} bytes are free in {}", config.datadir.display());
                Check { name: "room", ok: free >= LITTLE_ROOM, detail }
            }
            Err(e) => Check { name: "room", ok: false, detail: format!("cannot look at {}: {e}", config.datadir.display()) },
        };
        vec![database, conductor, room]
    }
}

impl TaskListed {
    /// In its store and verified, or served.
    pub fn is_complete(&self) -> bool {
        match self.row.state {
            TaskState::Downloaded | TaskState::Uploaded => true,
            TaskState::History => self.row.reason.is_empty(),
            _ => false,
        }
    }

    /// 100 only when it is complete.
    pub fn percent(&self) -> f64 {
        if self.is_complete() {
            return 100.0;
        }
        if self.row.bytes_total == 0 {
            return 0.0;
        }
        let part = self.bytes_done.min(self.row.bytes_total) as f64 * 100_000.0 / self.row.bytes_total as f64;
        part.floor().min(99_999.0) / 1000.0
    }

    /// Minutes, those of closed windows included; -1 unknown; 0 when it is complete.
    pub fn eta_minutes(&self, now_ms: i64) -> i64 {
        let over = self.is_complete() || self.row.state == TaskState::History;
        match self.expected_at {
            // An older one was left by a service that does not run any more.
            Some(at) if !over && at > now_ms - 60_000 => minutes_until(at, now_ms),
            _ => eta_minutes(self.row.bytes_total.saturating_sub(self.bytes_done), self.rate, over),
        }
    }
}
