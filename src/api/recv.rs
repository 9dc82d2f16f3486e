//! `POST /recv`: starts the reception of a task.

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls};
use super::envelope::ReplyContent;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, optional_text, text};
use crate::desk::Reply;

/// What to receive.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct RecvParams {
    /// Full path of the task file, which came from the sender.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
    /// `true`: on a cacher, seed for longer; on a receiver, stop a running download, keep its data and go on with the
    /// task file given. `false` (default): refuse while the task runs.
    #[oai(deserialize_with = "optional_text")]
    pub reactive: Option<String>,
}

impl Params for RecvParams {
    const METHOD: &'static str = "recv";
}

impl Example for RecvParams {
    fn example() -> Self {
        Self { taskfile: "/data/receiver/tmp/cfec-001-xiaofang.task.json".into(), reactive: Some("false".into()) }
    }
}

pub(super) struct RecvApi;

#[OpenApi(tag = "Tag::Receiving")]
impl RecvApi {
    /// Start the reception of a task
    ///
    /// Receiver, cacher, or a sender that receives. Files that the library has are copied, the rest is fetched. The
    /// package is complete when it lies in its store with `<name>.finished` beside it; ask `progress` meanwhile.
    #[oai(path = "/recv", method = "post", operation_id = "recv")]
    async fn recv(&self, calls: Data<&Calls>, body: Incoming<RecvParams>) -> Answer<ReplyContent> {
        calls.answer("recv", body, async |desk, p: RecvParams| desk.recv(&p.taskfile, p.reactive.as_deref()).await.into()).await
    }
}

pub(super) fn examples() -> Examples {
    let task = "cfec-001-xiaofang.task.json";
    let origin = "http://192.0.2.10/dcp/cfec-001";
    let ok = |name, summary, desc: String| reply(name, summary, "recv", Reply::ok(desc).into());
    let no = |name, summary, desc: String| reply(name, summary, "recv", Reply::err(desc).into());
    Examples {
        path: "/recv",
        requests: vec![request("start", "Receive a task", "recv", RecvParams::example())],
        replies: vec![
            ok("accepted", "The task is queued", "succeed!".into()),
            ok("seedLonger", "Cacher: the seed time was prolonged", format!("reactive cacher bt seeding with taskfile:{task}")),
            ok("again", "It was downloaded before", "same name task downloaded, to download again.".into()),
            ok("local", "The library has every file", "all localsamefiles existed copy and finished, succeed!".into()),
            no(
                "noFile",
                "No such task file",
                format!("open json file error:open /data/receiver/tmp/{task}: no such file or directory"),
            ),
            no("badFile", "The task file is no JSON", format!("invalid json format:/data/receiver/tmp/{task}")),
            no("emptyPackage", "The files sum to nothing", format!("total files size equal 0 :/data/receiver/tmp/{task}")),
            no("queued", "The task waits already", format!("same taskfile in queues:/data/receiver/queues/{task}")),
            no(
                "downloading",
                "The task is being downloaded",
                format!("same taskfile in downloading:/data/receiver/downloading/{task}"),
            ),
            no(
                "badLists",
                "The sender's lists do not sum to the size",
                format!("totalsize != all lists sum : /data/receiver/tmp/{task}"),
            ),
            no(
                "noTorrent",
                "The full torrent is away",
                format!("could not download torrent from {origin}/dcps/xiaofang.torrent"),
            ),
            no(
                "staleTorrent",
                "Torrent and task file disagree",
                format!(
                    "taskfile btlist is not equal torrent content, check taskfile or tmp torrent: {origin}/dcps-tmp/xiaofang-tmp.torrent"
                ),
            ),
        ],
    }
}
