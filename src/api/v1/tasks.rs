//! Tasks: list, look at one with its legs, files and recent samples, fetch its task file, cancel it.

use chrono::{FixedOffset, Offset as _, TimeZone as _, Utc};
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};

use super::super::Tag;
use super::super::calls::Calls;
use super::super::document::TaskDocument;
use super::page::{Page, Wanted, default_limit};
use super::problem::Failed;
use crate::desk::overview::{FileListed, LegRow, Overview, SampleListed, TaskFilter, TaskListed, Time, local_time};
use crate::model::json::parse_liberal;
use crate::model::span::Method;
use crate::model::task::{LegState, Policy, Role, TaskState};

/// A task: one send or reception of a package.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Task {
    /// Number of this acceptance; a task that is sent or received again gets a new one.
    pub id: i64,
    /// Name of the task file: with the role, the task's key.
    pub task: String,
    /// Which side of the delivery.
    pub role: Role,
    /// Name of the package.
    pub package: String,
    /// Where it stands.
    pub state: TaskState,
    /// Why, in words; empty when there is nothing to say.
    pub reason: String,
    /// When its methods may work.
    pub policy: Policy,
    /// Shares of bt:obs:cdn.
    pub ratio: String,
    /// Higher ones leave the queue first, of equals the oldest.
    pub priority: i64,
    /// Size in bytes.
    pub bytes_total: u64,
    /// Bytes in place (receiver) or published (sender).
    pub bytes_done: u64,
    /// Bytes that the library had already.
    pub bytes_local: u64,
    /// 100 only when it is verified and in its store (receiver), or served (sender).
    pub percent: f64,
    /// Bytes per second now, all methods together.
    pub rate: u64,
    /// Minutes left, those of closed windows included; -1 unknown; 0 when done.
    pub eta_minutes: i64,
    /// When it will be done, by its windows and the rates that were measured in them; absent when that is not known.
    pub expected_at: Option<Time>,
    /// Why it will not be done before its offer ends; empty when it will, or when nothing is known.
    pub at_risk: String,
    /// When it was accepted.
    pub created_at: Time,
    /// When work on it began.
    pub started_at: Option<Time>,
    /// When it was done.
    pub finished_at: Option<Time>,
    /// The end of its seed time.
    pub seed_until: Option<Time>,
}

impl From<TaskListed> for Task {
    fn from(t: TaskListed) -> Self {
        let (percent, eta_minutes) = (t.percent(), t.eta_minutes(Utc::now().timestamp_millis()));
        let row = t.row;
        Self {
            id: row.id,
            task: row.name.to_string(),
            role: row.role,
            package: row.package.to_string(),
            state: row.state,
            reason: row.reason,
            policy: row.policy,
            ratio: row.ratio,
            priority: row.priority,
            bytes_total: row.bytes_total,
            bytes_done: t.bytes_done,
            bytes_local: row.bytes_local,
            percent,
            rate: t.rate,
            eta_minutes,
            expected_at: t.expected_at.map(local_time),
            at_risk: t.risk,
            created_at: local_time(row.created_at),
            started_at: row.started_at.map(local_time),
            finished_at: row.finished_at.map(local_time),
            seed_until: row.seed_until.map(local_time),
        }
    }
}

impl Example for Task {
    fn example() -> Self {
        Self {
            id: 17,
            task: "cfec-001-xiaofang.task.json".into(),
            role: Role::Recv,
            package: "xiaofang".into(),
            state: TaskState::Downloaded,
            reason: String::new(),
            policy: Policy::Fulltime,
            ratio: "1:1:1".into(),
            priority: 0,
            bytes_total: 668_521_472,
            bytes_done: 668_521_472,
            bytes_local: 9_632_846,
            percent: 100.0,
            rate: 0,
            eta_minutes: 0,
            expected_at: Some(example_time(90)),
            at_risk: String::new(),
            created_at: example_time(0),
            started_at: Some(example_time(1)),
            finished_at: Some(example_time(90)),
            seed_until: Some(example_time(72 * 3600)),
        }
    }
}

/// The same moment whatever the zone of the machine that generates the document.
pub(super) fn example_time(seconds: i64) -> Time {
    let zone = FixedOffset::east_opt(8 * 3600).unwrap_or_else(|| Utc.fix());
    zone.timestamp_opt(1_622_212_346 + seconds, 0).single().unwrap_or_default()
}

/// One method's part of a task.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Leg {
    /// The method.
    pub method: Method,
    /// Where it stands.
    pub state: LegState,
    /// Others can use it (sender).
    pub ready: bool,
    /// Bytes it has to move.
    pub bytes_total: u64,
    /// Bytes it moved.
    pub bytes_done: u64,
    /// Bytes that really crossed the network, repeats included.
    pub bytes_wire: u64,
    /// Bytes sent to peers.
    pub bytes_sent: u64,
    /// Bytes per second now.
    pub rate: u64,
    /// Connected peers.
    pub peers: u32,
    /// Its off-peak windows; empty when it may work at any time.
    pub window: String,
    /// Tries that failed in a row.
    pub tries: u32,
    /// When it tries again.
    pub retry_at: Option<Time>,
    /// What went wrong last; empty when nothing did.
    pub error: String,
}

impl Example for Leg {
    fn example() -> Self {
        Self {
            method: Method::Cdn,
            state: LegState::Waiting,
            ready: false,
            bytes_total: 222_840_491,
            bytes_done: 140_389_509,
            bytes_wire: 140_391_200,
            bytes_sent: 0,
            rate: 0,
            peers: 0,
            window: "18:00-05:00".into(),
            tries: 1,
            retry_at: Some(example_time(300)),
            error: "the origin answers with HTTP 503".into(),
        }
    }
}

impl From<LegRow> for Leg {
    fn from(l: LegRow) -> Self {
        Self {
            method: l.method,
            state: l.state,
            ready: l.ready,
            bytes_total: l.bytes_total,
            bytes_done: l.bytes_done,
            bytes_wire: l.bytes_wire,
            bytes_sent: l.bytes_sent,
            rate: l.rate,
            peers: l.peers,
            window: l.windows.unwrap_or_default(),
            tries: l.tries,
            retry_at: l.retry_at.map(local_time),
            error: l.error,
        }
    }
}

/// How much of a file is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "lowercase")]
pub enum FileState {
    /// Nothing is in place.
    Waiting,
    /// A part is.
    Partial,
    /// All of it, and its SHA-1 was computed here and is right.
    Verified,
}

/// A file of a task.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct File {
    /// Below the package's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha1: String,
    /// `bt`, `obs`, `cdn` or `local`; several with commas when the file is split; empty when this node does not move it.
    pub method: String,
    /// Where it stands (receiver).
    pub state: FileState,
    /// Bytes in place (receiver).
    pub bytes_done: u64,
}

impl Example for File {
    fn example() -> Self {
        Self {
            path: "subdir/b9062d02-d9ce-6c4f-80c9-711985835c38.mxf".into(),
            size: 658_886_048,
            sha1: "5efb3b8530afcb5c8ae1c4d182492d4434f5da3e".into(),
            method: "bt,cdn".into(),
            state: FileState::Partial,
            bytes_done: 441_224_172,
        }
    }
}

impl From<FileListed> for File {
    fn from(f: FileListed) -> Self {
        let state = match f.state.as_str() {
            "verified" => FileState::Verified,
            "partial" => FileState::Partial,
            _ => FileState::Waiting,
        };
        Self { path: f.path, size: count(f.size), sha1: f.sha1, method: f.method, state, bytes_done: count(f.bytes_done) }
    }
}

/// The database keeps counts as signed numbers that are not negative.
pub(super) fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// A point of one method's progress.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Sample {
    /// The method.
    pub method: Method,
    /// When.
    pub at: Time,
    /// Bytes it had moved.
    pub bytes_done: u64,
    /// Bytes per second.
    pub rate: u64,
    /// Connected peers.
    pub peers: u64,
}

impl Example for Sample {
    fn example() -> Self {
        Self { method: Method::Bt, at: example_time(2), bytes_done: 147_074_724, rate: 3_145_728, peers: 3 }
    }
}

impl Sample {
    /// `None` for a method that does not exist: the schema does not let such a row in.
    fn of(s: &SampleListed) -> Option<Self> {
        let (bytes_done, rate, peers) = (count(s.bytes_done), count(s.rate), count(s.peers));
        Some(Self { method: Method::parse(&s.method)?, at: local_time(s.at), bytes_done, rate, peers })
    }
}

/// A task with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct TaskDetail {
    /// The task.
    pub task: Task,
    /// Its methods.
    pub legs: Vec<Leg>,
    /// The newest samples of its progress, at most 300, oldest first.
    pub samples: Vec<Sample>,
    /// Its first files, at most 500.
    pub files: Vec<File>,
    /// When there are more files: the `cursor` to go on with at `/v1/tasks/{role}/{task}/files`.
    pub files_next: Option<String>,
}

impl Example for TaskDetail {
    fn example() -> Self {
        Self {
            task: Task::example(),
            legs: vec![Leg::example()],
            samples: vec![Sample::example()],
            files: vec![File::example()],
            files_next: Some("499".into()),
        }
    }
}

const SAMPLES: u32 = 300;
const FILES: u32 = 500;

pub(in crate::api) struct TasksApi;

#[OpenApi(prefix_path = "/v1/tasks", tag = "Tag::Tasks")]
impl TasksApi {
    /// List tasks
    ///
    /// Newest first.
    #[oai(path = "/", method = "get", operation_id = "listTasks")]
    async fn list(
        &self,
        overview: Data<&Overview>,
        /// Only tasks of this side.
        role: Query<Option<Role>>,
        /// Only tasks in this state.
        state: Query<Option<TaskState>>,
        /// Part of the task's or the package's name.
        search: Query<Option<String>>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<Task>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        let filter = TaskFilter { role: role.0, state: state.0, search: search.0.filter(|s| !s.is_empty()) };
        let rows = overview.store.list_tasks(&filter, wanted.after_number()?, wanted.rows()).await?;
        Ok(Json(wanted.page(rows, |t| t.row.id.to_string(), Task::from)))
    }

    /// Look at a task
    ///
    /// With its legs, recent samples and files.
    #[oai(path = "/:role/:task", method = "get", operation_id = "getTask")]
    async fn get(
        &self,
        overview: Data<&Overview>,
        /// Which side of the delivery.
        role: Path<Role>,
        /// Name of the task file.
        task: Path<String>,
    ) -> Result<Json<TaskDetail>, Failed> {
        let found = find(&overview, role.0, &task.0).await?;
        let id = found.row.id;
        let wanted = Wanted::new(FILES, None);
        let files = overview.store.list_task_files(id, None, wanted.rows()).await?;
        let files = wanted.page(files, |f| f.idx.to_string(), File::from);
        Ok(Json(TaskDetail {
            task: found.into(),
            legs: overview.legs(id).await?.into_iter().map(Leg::from).collect(),
            samples: overview.store.recent_samples(id, SAMPLES).await?.iter().filter_map(Sample::of).collect(),
            files: files.items,
            files_next: files.next,
        }))
    }

    /// List the files of a task
    ///
    /// In the order of its file list.
    #[oai(path = "/:role/:task/files", method = "get", operation_id = "listTaskFiles")]
    async fn files(
        &self,
        overview: Data<&Overview>,
        /// Which side of the delivery.
        role: Path<Role>,
        /// Name of the task file.
        task: Path<String>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<File>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        let found = find(&overview, role.0, &task.0).await?;
        let rows = overview.store.list_task_files(found.row.id, wanted.after_number()?, wanted.rows()).await?;
        Ok(Json(wanted.page(rows, |f| f.idx.to_string(), File::from)))
    }

    /// Fetch the task file
    ///
    /// As it lies in the directory of its state: what a theatre management system carries from a sender to receivers.
    /// It may hold the keys of the bucket.
    #[oai(path = "/:role/:task/taskfile", method = "get", operation_id = "getTaskFile")]
    async fn task_file(
        &self,
        overview: Data<&Overview>,
        /// Which side of the delivery.
        role: Path<Role>,
        /// Name of the task file.
        task: Path<String>,
    ) -> Result<Json<TaskDocument>, Failed> {
        let found = find(&overview, role.0, &task.0).await?;
        let text = overview.task_file(found.row.id).await?;
        let document = parse_liberal(&text)
            .map_err(|e| crate::error::Fault::local(format!("the stored task file of {} cannot be read: {e}", found.row.name)))?;
        Ok(Json(TaskDocument(document)))
    }

    /// Cancel a task
    ///
    /// Stops it wherever it is; partial data are removed, a package in its store stays. May be repeated: a task that is
    /// over stays as it is.
    #[oai(path = "/:role/:task/cancel", method = "post", operation_id = "cancelTask")]
    async fn cancel(
        &self,
        overview: Data<&Overview>,
        calls: Data<&Calls>,
        /// Which side of the delivery.
        role: Path<Role>,
        /// Name of the task file.
        task: Path<String>,
    ) -> Result<Json<Task>, Failed> {
        find(&overview, role.0, &task.0).await?;
        let (desk, side, name) = (calls.shared(), role.0, task.0.clone());
        let done = calls.run("/v1/tasks/cancel", async move { desk.cancel_of(side, &name).await }).await;
        done.map_err(|_| Failed::busy("the node is busy, or the call takes long and goes on: look at the task later"))??;
        Ok(Json(find(&overview, role.0, &task.0).await?.into()))
    }
}

pub(super) async fn find(overview: &Overview, role: Role, task: &str) -> Result<TaskListed, Failed> {
    let found = overview.task(role, task).await?;
    found.ok_or_else(|| Failed::not_found(format!("there is no task {task:.120} of the role {role}")))
}
