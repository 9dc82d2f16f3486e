//! Which tasks come first.

use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::super::Tag;
use super::super::calls::Calls;
use super::problem::Failed;
use super::tasks::{Task, find};
use crate::desk::overview::Overview;
use crate::model::task::Role;

/// How urgent a task is.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, deny_unknown_fields)]
pub struct TaskPriority {
    /// Higher ones leave the queue first; tasks have 0 until they are given another one.
    #[oai(validator(minimum(value = "-1000"), maximum(value = "1000")))]
    pub priority: i64,
}

impl Example for TaskPriority {
    fn example() -> Self {
        Self { priority: 10 }
    }
}

pub(in crate::api) struct PriorityApi;

#[OpenApi(prefix_path = "/v1/tasks", tag = "Tag::Tasks")]
impl PriorityApi {
    /// Give a task a priority
    ///
    /// Of the tasks that wait for a place, the one with the highest priority gets it. A task that is at work is not stopped
    /// for another one. It lasts until the task is over.
    #[oai(path = "/:role/:task/priority", method = "post", operation_id = "setTaskPriority")]
    async fn priority(
        &self,
        overview: Data<&Overview>,
        calls: Data<&Calls>,
        /// Which side of the delivery.
        role: Path<Role>,
        /// Name of the task file.
        task: Path<String>,
        request: Json<TaskPriority>,
    ) -> Result<Json<Task>, Failed> {
        find(&overview, role.0, &task.0).await?;
        if !calls.desk().set_priority(role.0, &task.0, request.0.priority).await? {
            return Err(Failed::not_found(format!("{:.120} is over: only tasks that wait or work have a priority", task.0)));
        }
        Ok(Json(find(&overview, role.0, &task.0).await?.into()))
    }
}
