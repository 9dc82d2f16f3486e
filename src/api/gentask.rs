//! `POST /gentask`: makes a task file and the torrents.

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::calls::{Answer, Calls};
use super::envelope::ReplyContent;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, is_yes, optional_text, text};
use crate::desk::{GentaskRequest, Reply};

/// What to make. Optional values that are absent or empty come from the node's configuration.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct GentaskParams {
    /// The package's directory, absolute.
    #[oai(deserialize_with = "text")]
    pub dcppath: String,
    /// Path of the task file to write, named `<basesubdir>-<package>.task.json`; an existing one is replaced.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
    /// `<centre>-<institution>`: also the bucket's name and the directory under the library.
    #[oai(deserialize_with = "text")]
    pub basesubdir: String,
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
    /// `true`: delete torrents of the same name first. `false` (default): keep a full torrent that still fits.
    #[oai(deserialize_with = "optional_text")]
    pub deloldtorrent: Option<String>,
}

impl Params for GentaskParams {
    const METHOD: &'static str = "gentask";
}

impl Example for GentaskParams {
    fn example() -> Self {
        Self {
            dcppath: "/data/dcp/cfec-001/dcps/xiaofang".into(),
            taskfile: "/data/sender/tmp/cfec-001-xiaofang.task.json".into(),
            basesubdir: "cfec-001".into(),
            btobscdn: "1:1:1".into(),
            policy: "fulltime".into(),
            tracker: Some("http://tracker.example.com:6969/announce".into()),
            seedtime: Some("168".into()),
            datasource: Some("local".into()),
            obsurl: Some("obs://cfec-001/dcps/xiaofang".into()),
            ak: Some("EXAMPLE-AK".into()),
            sk: Some("EXAMPLE-SK".into()),
            endpoint: Some("https://obs.example.com".into()),
            deloldtorrent: Some("false".into()),
        }
    }
}

impl From<GentaskParams> for GentaskRequest {
    fn from(p: GentaskParams) -> Self {
        Self {
            dcppath: p.dcppath,
            taskfile: p.taskfile,
            basesubdir: p.basesubdir,
            btobscdn: p.btobscdn,
            policy: p.policy,
            tracker: p.tracker.unwrap_or_default(),
            seedtime: p.seedtime.unwrap_or_default(),
            datasource: p.datasource.unwrap_or_default(),
            obsurl: p.obsurl.unwrap_or_default(),
            ak: p.ak.unwrap_or_default(),
            sk: p.sk.unwrap_or_default(),
            endpoint: p.endpoint.unwrap_or_default(),
            deloldtorrent: p.deloldtorrent.as_deref().is_some_and(is_yes),
        }
    }
}

pub(super) struct GentaskApi;

#[OpenApi(tag = "Tag::Sending")]
impl GentaskApi {
    /// Make a task file and its torrents
    ///
    /// Sender. Runs in the background: ask `taskfilesquery` until its status is `finished`, then `send`.
    #[oai(path = "/gentask", method = "post", operation_id = "gentask")]
    async fn gentask(&self, calls: Data<&Calls>, body: Incoming<GentaskParams>) -> Answer<ReplyContent> {
        calls.answer("gentask", body, async |desk, p: GentaskParams| desk.gentask(p.into()).await.into()).await
    }
}

pub(super) fn examples() -> Examples {
    let ok = |name, summary, desc: &str| reply(name, summary, "gentask", Reply::ok(desc).into());
    let no = |name, summary, desc: &str| reply(name, summary, "gentask", Reply::err(desc).into());
    let short = GentaskParams { ak: None, sk: None, endpoint: None, deloldtorrent: None, ..GentaskParams::example() };
    Examples {
        path: "/gentask",
        requests: vec![
            request("configured", "With the configured keys and endpoint", "gentask", short),
            request("everything", "Every parameter", "gentask", GentaskParams::example()),
        ],
        replies: vec![
            ok("ready", "Torrents were there already", "succeeded!"),
            ok(
                "started",
                "The work has started",
                "please wait until /data/dcp/cfec-001/dcps/xiaofang.torrent, /data/dcp/cfec-001/dcps-tmp/xiaofang-tmp.torrent and /data/sender/tmp/cfec-001-xiaofang.task.json all are finished.",
            ),
            no("noTaskfile", "No `taskfile` was given", "error, please provide taskfile path."),
            no("noPackage", "No such directory", "error, not exist dcp path: /data/dcp/cfec-001/dcps/xiaofang-nonexists."),
            no(
                "running",
                "It is being made already",
                "same torrent process is generating:/data/dcp/cfec-001/dcps/xiaofang.torrent ",
            ),
        ],
    }
}
