//! `POST /send`: starts the distribution of a task.

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls};
use super::envelope::ReplyContent;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, optional_text, text};
use crate::desk::Reply;

/// What to send.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct SendParams {
    /// Full path of the task file that `gentask` made.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
    /// `true` (default): stop a BitTorrent seed of the same name and start it anew. `false`: refuse then.
    #[oai(deserialize_with = "optional_text")]
    pub reactive: Option<String>,
}

impl Params for SendParams {
    const METHOD: &'static str = "send";
}

impl Example for SendParams {
    fn example() -> Self {
        Self { taskfile: "/data/sender/tmp/cfec-001-xiaofang.task.json".into(), reactive: Some("true".into()) }
    }
}

pub(super) struct SendApi;

#[OpenApi(tag = "Tag::Sending")]
impl SendApi {
    /// Start the distribution of a task
    ///
    /// Sender. The task waits in the queue, is uploaded and seeded; ask `uploadprogress` until its status is `ready`,
    /// then give the task file to the receivers.
    #[oai(path = "/send", method = "post", operation_id = "send")]
    async fn send(&self, calls: Data<&Calls>, body: Incoming<SendParams>) -> Answer<ReplyContent> {
        calls.answer("send", body, async |desk, p: SendParams| desk.send(&p.taskfile, p.reactive.as_deref()).await.into()).await
    }
}

pub(super) fn examples() -> Examples {
    let task = "cfec-001-xiaofang.task.json";
    let ok = |name, summary, desc: &str| reply(name, summary, "send", Reply::ok(desc).into());
    let no = |name, summary, desc: String| reply(name, summary, "send", Reply::err(desc).into());
    let again = SendParams { reactive: Some("false".into()), ..SendParams::example() };
    Examples {
        path: "/send",
        requests: vec![
            request("start", "Start a task", "send", SendParams::example()),
            request("keepSeed", "Start a task, but do not restart a seed of the same name", "send", again),
        ],
        replies: vec![
            ok("accepted", "The task is queued", "succeeded!"),
            ok("restarted", "A seed of the same name was started anew", "restarted same name bt process, succeed!"),
            no(
                "noFile",
                "No such task file",
                format!("open json file error:open /data/sender/tmp/{task}: no such file or directory"),
            ),
            no("badFile", "The task file is no JSON", format!("invalid json format:/data/sender/tmp/{task}")),
            no("queued", "The task waits already", format!("same taskfile in queues:/data/sender/queues/{task}")),
            no("uploading", "The task is being uploaded", format!("same taskfile in uploading:/data/sender/uploading/{task}")),
            no(
                "noTorrent",
                "The torrent that the ratio needs is missing",
                "not found torrent:/data/dcp/cfec-001/dcps/xiaofang.torrent pls re generate task and torrent. ".into(),
            ),
            no("badReactive", "`reactive` is neither true nor false", "reactive parameter input error ".into()),
        ],
    }
}
