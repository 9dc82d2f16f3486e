//! `POST /uploadprogress`: how far is the distribution?

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls, SharedDesk};
use super::envelope::Content;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, text};
use crate::desk::UploadProgress;

/// Which task.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct UploadProgressParams {
    /// Name of the task file, without a path.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
}

impl Params for UploadProgressParams {
    const METHOD: &'static str = "uploadprogress";
}

impl Example for UploadProgressParams {
    fn example() -> Self {
        Self { taskfile: "cfec-001-xiaofang.task.json".into() }
    }
}

/// Where a distribution stands.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct UploadProgressContent {
    /// Full path of the task file where it is now; empty for an unknown task.
    pub taskfile: String,
    /// `queues`, `uploading`, `uploaded`, `ready` (receivers may be told), `finished` (the seed time is over), `error`
    /// or `unknown`.
    pub status: String,
    /// Empty; on errors which methods failed.
    pub desc: String,
    /// `seeding`, `noseeding` or `unknown`.
    pub btstatus: String,
    /// `uncompleted 66%`, `completed` or `unknown`.
    pub obsstatus: String,
    /// `available`, `unavailable` or `unknown`.
    pub cdnstatus: String,
}

impl Example for UploadProgressContent {
    fn example() -> Self {
        Self {
            taskfile: "/data/sender/uploaded/cfec-001-xiaofang.task.json".into(),
            status: "ready".into(),
            desc: String::new(),
            btstatus: "seeding".into(),
            obsstatus: "completed".into(),
            cdnstatus: "available".into(),
        }
    }
}

impl Content for UploadProgressContent {
    const METHOD: &'static str = "uploadprogress";

    fn refused(desc: &str) -> Self {
        Self {
            taskfile: String::new(),
            status: "unknown".into(),
            desc: desc.into(),
            btstatus: "unknown".into(),
            obsstatus: "unknown".into(),
            cdnstatus: "unknown".into(),
        }
    }
}

impl From<UploadProgress> for (bool, UploadProgressContent) {
    fn from(p: UploadProgress) -> Self {
        let UploadProgress { ok, taskfile, status, desc, btstatus, obsstatus, cdnstatus } = p;
        (ok, UploadProgressContent { taskfile, status, desc, btstatus, obsstatus, cdnstatus })
    }
}

pub(super) struct UploadprogressApi;

#[OpenApi(tag = "Tag::Sending")]
impl UploadprogressApi {
    /// Ask how far a distribution is
    ///
    /// Sender. Receivers may be told when `status` is `ready`: every method of the task can be used then.
    #[oai(path = "/uploadprogress", method = "post", operation_id = "uploadprogress")]
    async fn uploadprogress(&self, calls: Data<&Calls>, body: Incoming<UploadProgressParams>) -> Answer<UploadProgressContent> {
        let query = async |desk: SharedDesk, p: UploadProgressParams| desk.uploadprogress(&p.taskfile).await.into();
        calls.answer("uploadprogress", body, query).await
    }
}

pub(super) fn examples() -> Examples {
    let uploading = UploadProgressContent {
        taskfile: "/data/sender/uploading/cfec-001-xiaofang.task.json".into(),
        status: "uploading".into(),
        obsstatus: "uncompleted 66%".into(),
        ..UploadProgressContent::example()
    };
    let failed = UploadProgressContent { status: "error".into(), desc: "bt obs errors".into(), ..uploading.clone() };
    let one = |name, summary, ok, content| reply(name, summary, "uploadprogress", (ok, content));
    Examples {
        path: "/uploadprogress",
        requests: vec![request("query", "Ask for one task", "uploadprogress", UploadProgressParams::example())],
        replies: vec![
            one("ready", "Every method can be used", true, UploadProgressContent::example()),
            one("uploading", "The upload runs", true, uploading),
            one("failed", "Methods failed; the task's .bterr file has details", true, failed),
            one("unknown", "There is no such task", false, UploadProgressContent::refused("")),
        ],
    }
}
