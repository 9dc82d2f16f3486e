//! When each method of the tasks that are not over runs.

use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::super::Tag;
use super::problem::Failed;
use super::tasks::example_time;
use crate::desk::overview::{self, Overview, Time};
use crate::model::span::Method;
use crate::model::task::Role;

/// When one method of a task runs.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Schedule {
    /// Name of the task file.
    pub task: String,
    /// Which side of the delivery.
    pub role: Role,
    /// The method.
    pub method: Method,
    /// `18:00-05:00` in the node's local time; several with commas; empty when it may run at any time.
    pub window: String,
    /// Whether one is open now.
    pub open_now: bool,
    /// When it opens next; absent while it is open.
    pub opens_at: Option<Time>,
    /// When it closes; absent while it is closed, and when it never closes.
    pub closes_at: Option<Time>,
    /// What it waits for: `window`, `retry` (its next try), `place` (the task is in the queue), `turn` (a place, or another
    /// task that brings the same files); `done` when it has nothing to do any more; empty when it runs.
    pub waits_for: String,
    /// It does not run before; absent when it runs, and when nobody can say.
    pub runs_at: Option<Time>,
}

impl Example for Schedule {
    fn example() -> Self {
        Self {
            task: "cfec-001-xiaofang.task.json".into(),
            role: Role::Recv,
            method: Method::Cdn,
            window: "22:34-22:37".into(),
            open_now: false,
            opens_at: Some(example_time(94)),
            closes_at: None,
            waits_for: "window".into(),
            runs_at: Some(example_time(94)),
        }
    }
}

impl From<overview::Schedule> for Schedule {
    fn from(s: overview::Schedule) -> Self {
        let overview::Schedule { task, role, method, window, open_now, opens_at, closes_at, waits_for, runs_at } = s;
        Self { task, role, method, window, open_now, opens_at, closes_at, waits_for, runs_at }
    }
}

/// All methods of all tasks.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Schedules {
    /// By task, then method.
    pub items: Vec<Schedule>,
}

impl Example for Schedules {
    fn example() -> Self {
        Self { items: vec![Schedule::example()] }
    }
}

pub(in crate::api) struct SchedulesApi;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Tasks")]
impl SchedulesApi {
    /// List schedules
    ///
    /// Every method of the tasks that are not over: its windows, what it waits for, when it runs next.
    #[oai(path = "/schedules", method = "get", operation_id = "listSchedules")]
    async fn list(&self, overview: Data<&Overview>) -> Result<Json<Schedules>, Failed> {
        let items = overview.schedules().await?.into_iter().map(Schedule::from).collect();
        Ok(Json(Schedules { items }))
    }
}
