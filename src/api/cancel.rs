//! `POST /cancel`: stops a task.

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls};
use super::envelope::ReplyContent;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, text};
use crate::desk::Reply;

/// What to stop.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct CancelParams {
    /// Name of the task file, without a path.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
}

impl Params for CancelParams {
    const METHOD: &'static str = "cancel";
}

impl Example for CancelParams {
    fn example() -> Self {
        Self { taskfile: "cfec-001-xiaofang.task.json".into() }
    }
}

pub(super) struct CancelApi;

#[OpenApi(tag = "Tag::Both")]
impl CancelApi {
    /// Stop a task
    ///
    /// Stops the download of that name, else the upload; also a task that waits or is outside its window. A task that
    /// does not exist needs no stopping: that is a success too.
    #[oai(path = "/cancel", method = "post", operation_id = "cancel")]
    async fn cancel(&self, calls: Data<&Calls>, body: Incoming<CancelParams>) -> Answer<ReplyContent> {
        calls.answer("cancel", body, async |desk, p: CancelParams| desk.cancel(&p.taskfile).await.into()).await
    }
}

pub(super) fn examples() -> Examples {
    let ok = |name, summary, desc: &str| reply(name, summary, "cancel", Reply::ok(desc).into());
    Examples {
        path: "/cancel",
        requests: vec![request("stop", "Stop a task", "cancel", CancelParams::example())],
        replies: vec![
            ok("stopped", "The task was stopped", "succeed!"),
            ok("unknown", "There is no such task", "no need to cancel, not found task: cfec-001-xiaoang.task.json"),
        ],
    }
}
