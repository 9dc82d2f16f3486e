//! `POST /taskfilesquery`: is the task file made?

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls, SharedDesk};
use super::envelope::Content;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, text};
use crate::desk::QueryReply;

/// Which generation to look at.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct QueryParams {
    /// The package's directory, as given to `gentask`.
    #[oai(deserialize_with = "text")]
    pub dcppath: String,
    /// Path of the task file, as given to `gentask`.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
}

impl Params for QueryParams {
    const METHOD: &'static str = "taskfilesquery";
}

impl Example for QueryParams {
    fn example() -> Self {
        Self {
            dcppath: "/data/dcp/cfec-001/dcps/xiaofang".into(),
            taskfile: "/data/sender/tmp/cfec-001-xiaofang.task.json".into(),
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct QueryContent {
    /// `finished`, `unfinished` or `error`.
    pub status: String,
    /// The same in words. Some texts begin or end with a blank that belongs to them.
    pub desc: String,
}

impl Example for QueryContent {
    fn example() -> Self {
        Self { status: "finished".into(), desc: "succeed!".into() }
    }
}

impl Content for QueryContent {
    const METHOD: &'static str = "taskfilesquery";
    const REPEATED_AS_PARAMS: bool = true;

    fn refused(desc: &str) -> Self {
        Self { status: "error".into(), desc: desc.into() }
    }
}

impl From<QueryReply> for (bool, QueryContent) {
    fn from(reply: QueryReply) -> Self {
        (reply.ok, QueryContent { status: reply.status.into(), desc: reply.desc })
    }
}

pub(super) struct TaskfilesqueryApi;

#[OpenApi(tag = "Tag::Sending")]
impl TaskfilesqueryApi {
    /// Ask whether a task file is made
    ///
    /// Sender. The result stands in `return_content` and again in `method_params`, where some clients look for it.
    #[oai(path = "/taskfilesquery", method = "post", operation_id = "taskfilesquery")]
    async fn taskfilesquery(&self, calls: Data<&Calls>, body: Incoming<QueryParams>) -> Answer<QueryContent> {
        let query = async |desk: SharedDesk, p: QueryParams| desk.taskfilesquery(&p.dcppath, &p.taskfile).await.into();
        calls.answer("taskfilesquery", body, query).await
    }
}

pub(super) fn examples() -> Examples {
    let one = |name, summary, ok, status, desc: &str| {
        reply(name, summary, "taskfilesquery", QueryReply { ok, status, desc: desc.into() }.into())
    };
    Examples {
        path: "/taskfilesquery",
        requests: vec![request("query", "Ask for one generation", "taskfilesquery", QueryParams::example())],
        replies: vec![
            one("finished", "The task file is there", true, "finished", "succeed!"),
            one("running", "The torrent is being made", true, "unfinished", "process making seed "),
            one("absent", "Nothing runs, nothing is there", true, "unfinished", "no make seed process and not found task.json."),
            one("noPackage", "No such directory", false, "error", "not exist /data/dcp/cfec-001/dcps/xiaofang "),
        ],
    }
}
