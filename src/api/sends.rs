//! `POST /sends`: gentask and send in one.

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls};
use super::envelope::ReplyContent;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, optional_text, text};
use crate::desk::{GentaskRequest, Reply};

/// What to make and send. The institution follows from the package's path; other values that are absent or empty come
/// from the node's configuration.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct SendsParams {
    /// The package's directory, absolute.
    #[oai(deserialize_with = "text")]
    pub dcppath: String,
    /// Path of the task file to write; `<sender>/tmp/<basesubdir>-<package>.task.json` when absent.
    #[oai(deserialize_with = "optional_text")]
    pub taskfile: Option<String>,
    /// The shares of BitTorrent, object storage and CDN.
    #[oai(deserialize_with = "text")]
    pub btobscdn: String,
    /// `fulltime`, or `priortime`: each method inside its own window only.
    #[oai(deserialize_with = "text")]
    pub policy: String,
    /// URL of the tracker.
    #[oai(deserialize_with = "optional_text")]
    pub tracker: Option<String>,
    /// Hours to seed.
    #[oai(deserialize_with = "optional_text")]
    pub seedtime: Option<String>,
    /// `local` or `obs`: where the bytes of an upload come from.
    #[oai(deserialize_with = "optional_text")]
    pub datasource: Option<String>,
    /// The same as `datasource`, as some clients spell it.
    #[oai(deserialize_with = "optional_text")]
    pub data: Option<String>,
    /// Where the package lies in object storage; built as `obs://<basesubdir>/dcps/<package>` when absent.
    #[oai(deserialize_with = "optional_text")]
    pub obsurl: Option<String>,
    /// Access key of the bucket.
    #[oai(deserialize_with = "optional_text")]
    pub ak: Option<String>,
    /// Secret key of the bucket.
    #[oai(deserialize_with = "optional_text")]
    pub sk: Option<String>,
    /// Endpoint of the bucket.
    #[oai(deserialize_with = "optional_text")]
    pub endpoint: Option<String>,
}

impl Params for SendsParams {
    const METHOD: &'static str = "sends";
}

impl Example for SendsParams {
    fn example() -> Self {
        Self {
            dcppath: "/data/dcp/cfec-001/dcps/xiaofang".into(),
            taskfile: Some("/data/sender/tmp/cfec-001-xiaofang.task.json".into()),
            btobscdn: "1:1:1".into(),
            policy: "fulltime".into(),
            tracker: Some("http://tracker.example.com:6969/announce".into()),
            seedtime: Some("72".into()),
            datasource: Some("local".into()),
            data: Some("local".into()),
            obsurl: Some("obs://cfec-001/dcps/xiaofang".into()),
            ak: Some("EXAMPLE-AK".into()),
            sk: Some("EXAMPLE-SK".into()),
            endpoint: Some("https://obs.example.com".into()),
        }
    }
}

impl From<SendsParams> for GentaskRequest {
    fn from(p: SendsParams) -> Self {
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        Self {
            dcppath: p.dcppath,
            taskfile: p.taskfile.unwrap_or_default(),
            basesubdir: String::new(),
            btobscdn: p.btobscdn,
            policy: p.policy,
            tracker: p.tracker.unwrap_or_default(),
            seedtime: p.seedtime.unwrap_or_default(),
            datasource: given(p.datasource).or(p.data).unwrap_or_default(),
            obsurl: p.obsurl.unwrap_or_default(),
            ak: p.ak.unwrap_or_default(),
            sk: p.sk.unwrap_or_default(),
            endpoint: p.endpoint.unwrap_or_default(),
            deloldtorrent: false,
        }
    }
}

pub(super) struct SendsApi;

#[OpenApi(tag = "Tag::Sending")]
impl SendsApi {
    /// Make a task file and send it
    ///
    /// Sender. `gentask`, and when it has finished `send`, by itself. Ask `uploadprogress` until its status is `ready`;
    /// `taskfilesquery` says why when it comes to nothing.
    #[oai(path = "/sends", method = "post", operation_id = "sends")]
    async fn sends(&self, calls: Data<&Calls>, body: Incoming<SendsParams>) -> Answer<ReplyContent> {
        calls.answer("sends", body, async |desk, p: SendsParams| desk.sends(p.into()).await.into()).await
    }
}

pub(super) fn examples() -> Examples {
    let task = "cfec-001-xiaofang.task.json";
    let ok = |name, summary, desc: &str| reply(name, summary, "sends", Reply::ok(desc).into());
    let no = |name, summary, desc: String| reply(name, summary, "sends", Reply::err(desc).into());
    let short = SendsParams { data: None, ak: None, sk: None, endpoint: None, ..SendsParams::example() };
    Examples {
        path: "/sends",
        requests: vec![request("start", "Make and send", "sends", short)],
        replies: vec![
            ok("sent", "Everything was known already, and it is queued", "succeeded!"),
            ok(
                "started",
                "The work has started",
                "succeed, but the torrent is generating, please wait until /data/dcp/cfec-001/dcps/xiaofang.torrent is finished.",
            ),
            no("queued", "The task waits already", format!("same task in queues:/data/sender/queues/{task}")),
            no("uploading", "The task is being uploaded", format!("same task in uploading:/data/sender/uploading/{task}")),
        ],
    }
}
