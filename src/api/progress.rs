//! `POST /progress` and `POST /cprogress`: how far is a reception?
//!
//! Clients of receivers and of cachers post to the same URL and differ in `method_name`; `/cprogress` is served too.
//! The content repeats its values under every spelling that the protocol's samples have: old clients read either.

use poem::web::Data;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi, Union};

use super::Tag;
use super::calls::{Answer, Calls, SharedDesk};
use super::envelope::Content;
use super::example::{Examples, reply, request};
use super::request::{Incoming, Params, text};
use crate::desk::{CacherProgress, Progress};
use crate::model::progress::{percent_text, rate_text, share_texts, total_percent_text};

/// Which task.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct ProgressParams {
    /// Name of the task file, without a path.
    #[oai(deserialize_with = "text")]
    pub taskfile: String,
}

impl Params for ProgressParams {
    const METHOD: &'static str = "progress";
}

impl Example for ProgressParams {
    fn example() -> Self {
        Self { taskfile: "cfec-001-xiaofang.task.json".into() }
    }
}

/// Where a reception stands. Percents have three decimals; rates are `B/s`, `KB/s` or `MB/s`, empty while nothing is
/// downloaded.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct TaskProgress {
    /// `downloading`, `downloaderror`, `downloaded` or `history`.
    pub status: String,
    /// The same as `status`.
    #[oai(rename = "Status")]
    pub status_capital: String,
    /// Full path of the task file where it is now.
    pub taskfile: String,
    /// The same as `taskfile`.
    pub taskfullpath: String,
    /// The package's directory once it is in place and verified; empty before.
    pub dcppath: String,
    /// `btseeding` or `noseeding`.
    pub btstatus: String,
    /// What failed, with status `downloaderror` only; else empty.
    pub downerror: String,
    /// The same as `downerror`.
    pub downerr: String,
    /// More about the state, where there is more to say; else empty.
    pub desc: String,
    /// Bytes in place, copies from the library included.
    pub downloaded: u64,
    /// The same as `downloaded`, as a string.
    #[oai(rename = "Downloaded")]
    pub downloaded_text: String,
    /// Rate of all methods together.
    pub rate: String,
    /// The same as `rate`.
    #[oai(rename = "Rate")]
    pub rate_capital: String,
    /// Bytes in place / size of the package. `100.000%` only when it is in its store and verified.
    pub totalpercent: String,
    /// The same as `totalpercent`.
    pub totoalpercent: String,
    /// The same as `totalpercent`.
    #[oai(rename = "TotalPercent")]
    pub total_percent_capital: String,
    /// Rate of BitTorrent.
    pub btrate: String,
    /// Bytes that BitTorrent brought / size of the package.
    pub btpercent: String,
    /// The same as `btpercent`.
    #[oai(rename = "BtPercent")]
    pub bt_percent_capital: String,
    /// Rate of object storage.
    pub obsrate: String,
    /// Bytes that object storage brought / size of the package.
    pub obspercent: String,
    /// Rate of the CDN.
    pub cdnrate: String,
    /// Bytes that the CDN brought / size of the package.
    pub cdnpercent: String,
    /// Minutes left; -1 unknown or outside the window; 0 when done.
    pub ecompletedtime: i64,
    /// Share of the package that BitTorrent has to fetch.
    pub bt2downpercent: String,
    /// Share of the package that object storage has to fetch.
    pub obs2downpercent: String,
    /// Share of the package that the CDN has to fetch.
    pub cdn2downpercent: String,
    /// Share of the package that the library has already. This and the three before sum to 100 %.
    pub localsamepercent: String,
    /// Size of the package in bytes.
    pub totalbytes: String,
}

impl From<Progress> for TaskProgress {
    fn from(p: Progress) -> Self {
        let [bt_rate, obs_rate, cdn_rate] = p.rates.map_or_else(Default::default, |rates| rates.map(rate_text));
        let rate = p.rates.map_or_else(String::new, |[bt, obs, cdn]| rate_text(bt.saturating_add(obs).saturating_add(cdn)));
        let [bt, obs, cdn] = p.by_method.map(|bytes| percent_text(bytes, p.total));
        let [bt_fetch, obs_fetch, cdn_fetch] = p.to_fetch;
        let [bt2, obs2, cdn2, local] = share_texts([bt_fetch, obs_fetch, cdn_fetch, p.local_same], p.total);
        let percent = total_percent_text(p.downloaded, p.total, p.complete);
        Self {
            status_capital: p.status.clone(),
            status: p.status,
            taskfullpath: p.taskfile.clone(),
            taskfile: p.taskfile,
            dcppath: p.dcppath,
            btstatus: if p.bt_seeding { "btseeding" } else { "noseeding" }.into(),
            downerr: p.downerror.clone(),
            downerror: p.downerror,
            desc: p.desc.unwrap_or_default(),
            downloaded: p.downloaded,
            downloaded_text: p.downloaded.to_string(),
            rate_capital: rate.clone(),
            rate,
            totoalpercent: percent.clone(),
            total_percent_capital: percent.clone(),
            totalpercent: percent,
            btrate: bt_rate,
            bt_percent_capital: bt.clone(),
            btpercent: bt,
            obsrate: obs_rate,
            obspercent: obs,
            cdnrate: cdn_rate,
            cdnpercent: cdn,
            ecompletedtime: p.eta_minutes,
            bt2downpercent: bt2,
            obs2downpercent: obs2,
            cdn2downpercent: cdn2,
            localsamepercent: local,
            totalbytes: p.total.to_string(),
        }
    }
}

impl Example for TaskProgress {
    fn example() -> Self {
        Self::from(downloading())
    }
}

/// A state and a text: of a cacher, and of a task that has no numbers (queued, unknown).
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct StateContent {
    /// Cacher: `seeding`, `noseeding`, `seeding error` or `noseeding error`. Else `queues` or `unknown`.
    pub status: String,
    /// The same as `status`.
    #[oai(rename = "Status")]
    pub status_capital: String,
    /// The same in words, or where it seeds.
    pub desc: String,
}

impl StateContent {
    fn new(status: String, desc: String) -> Self {
        Self { status_capital: status.clone(), status, desc }
    }
}

impl Example for StateContent {
    fn example() -> Self {
        Self::new("seeding".into(), "btseeding dir:/data/transfer/bt/cfec-001/xiaofang4-tmp".into())
    }
}

impl Content for StateContent {
    const METHOD: &'static str = "cprogress";

    fn refused(desc: &str) -> Self {
        Self::new("unknown".into(), desc.into())
    }
}

impl From<CacherProgress> for (bool, StateContent) {
    fn from(p: CacherProgress) -> Self {
        (p.ok, StateContent::new(p.status, p.desc))
    }
}

/// The content of `/progress`.
///
/// A task with numbers has every key of a state as well, so the two do not exclude each other.
#[derive(Clone, Debug, PartialEq, Union)]
pub enum ProgressContent {
    /// A task with numbers.
    Task(Box<TaskProgress>),
    /// A cacher's state, or a task without numbers.
    State(StateContent),
}

impl Example for ProgressContent {
    fn example() -> Self {
        Self::Task(Box::new(TaskProgress::example()))
    }
}

impl Content for ProgressContent {
    const METHOD: &'static str = "progress";

    fn refused(desc: &str) -> Self {
        Self::State(StateContent::refused(desc))
    }
}

impl From<Progress> for (bool, ProgressContent) {
    /// A refused query has no numbers: zeros would read as a task that has not begun.
    fn from(p: Progress) -> Self {
        if p.ok {
            return (true, ProgressContent::Task(Box::new(p.into())));
        }
        let status = if p.status.is_empty() { "unknown".into() } else { p.status };
        (false, ProgressContent::State(StateContent::new(status, p.desc.unwrap_or_default())))
    }
}

impl From<CacherProgress> for (bool, ProgressContent) {
    fn from(p: CacherProgress) -> Self {
        let (ok, content) = p.into();
        (ok, ProgressContent::State(content))
    }
}

pub(super) struct ProgressApi;

#[OpenApi(tag = "Tag::Receiving")]
impl ProgressApi {
    /// Ask how far a reception is
    ///
    /// Receiver, or a sender that receives. On a cacher post with `method_name` `cprogress`, here or to `/cprogress`.
    #[oai(path = "/progress", method = "post", operation_id = "progress")]
    async fn progress(&self, calls: Data<&Calls>, body: Incoming<ProgressParams>) -> Answer<ProgressContent> {
        if body.method_name().eq_ignore_ascii_case("cprogress") {
            let query = async |desk: SharedDesk, p: ProgressParams| desk.cprogress(&p.taskfile).await.into();
            return calls.answer("cprogress", body, query).await;
        }
        let query = async |desk: SharedDesk, p: ProgressParams| desk.progress(&p.taskfile).await.into();
        calls.answer("progress", body, query).await
    }

    /// Ask whether a cacher seeds
    ///
    /// Cacher. The same as `/progress` with `method_name` `cprogress`.
    #[oai(path = "/cprogress", method = "post", operation_id = "cprogress")]
    async fn cprogress(&self, calls: Data<&Calls>, body: Incoming<ProgressParams>) -> Answer<StateContent> {
        let query = async |desk: SharedDesk, p: ProgressParams| desk.cprogress(&p.taskfile).await.into();
        calls.answer("cprogress", body, query).await
    }
}

/// A package of 668,521,472 bytes at two thirds.
fn downloading() -> Progress {
    Progress {
        ok: true,
        status: "downloading".into(),
        taskfile: "/data/receiver/downloading/cfec-001-xiaofang.task.json".into(),
        downloaded: 441_224_172,
        rates: Some([3_145_728, 5_242_880, 2_097_152]),
        by_method: [147_074_724, 153_759_939, 140_389_509],
        to_fetch: [267_408_589, 200_556_442, 200_556_441],
        total: 668_521_472,
        eta_minutes: 1,
        ..Progress::default()
    }
}

/// The same package, every file of which was in the library.
fn downloaded() -> Progress {
    Progress {
        ok: true,
        status: "downloaded".into(),
        taskfile: "/data/receiver/downloaded/cfec-001-xiaofang.task.json".into(),
        dcppath: "/data/dcp/xiaofang".into(),
        downloaded: 668_521_472,
        local_same: 668_521_472,
        total: 668_521_472,
        complete: true,
        ..Progress::default()
    }
}

pub(super) fn examples() -> Examples {
    let task = |name, summary, p: Progress| reply::<ProgressContent>(name, summary, "progress", p.into());
    let failed = Progress {
        status: "downloaderror".into(),
        downerror: "bt download error".into(),
        rates: None,
        eta_minutes: -1,
        ..downloading()
    };
    let none = |status: &str, desc: &str| Progress { status: status.into(), desc: Some(desc.into()), ..Progress::default() };
    let cacher = "do not support cacher type progress, change method_name to cprogress";
    Examples {
        path: "/progress",
        requests: vec![
            request("receiver", "Ask a receiver", "progress", ProgressParams::example()),
            request("cacher", "Ask a cacher", "cprogress", ProgressParams::example()),
        ],
        replies: vec![
            task("downloading", "It runs", downloading()),
            task("downloaded", "It is in its store and verified", downloaded()),
            task("failed", "A method failed for good", failed),
            task("queued", "It waits", none("queues", "task in queues, no progress now.")),
            task("unknown", "There is no such task", none("unknown", "unknown task, not found task.")),
            task("onCacher", "A cacher was asked as if it were a receiver", none("unknown", cacher)),
            reply("seeding", "A cacher seeds", "cprogress", (true, ProgressContent::State(StateContent::example()))),
        ],
    }
}

pub(super) fn cacher_examples() -> Examples {
    let none = StateContent::new("noseeding".into(), "unknown task, not found task.".into());
    Examples {
        path: "/cprogress",
        requests: vec![request("cacher", "Ask a cacher", "cprogress", ProgressParams::example())],
        replies: vec![
            reply("seeding", "It seeds", "cprogress", (true, StateContent::example())),
            reply("unknown", "There is no such task", "cprogress", (false, none)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poem_openapi::types::ToJSON;

    fn json(p: Progress) -> serde_json::Value {
        let (_, content): (bool, ProgressContent) = p.into();
        content.to_json().unwrap()
    }

    #[test]
    fn a_running_download_has_every_spelling() {
        let v = json(downloading());
        for (key, want) in [
            ("status", "downloading"),
            ("Status", "downloading"),
            ("taskfile", "/data/receiver/downloading/cfec-001-xiaofang.task.json"),
            ("taskfullpath", "/data/receiver/downloading/cfec-001-xiaofang.task.json"),
            ("dcppath", ""),
            ("btstatus", "noseeding"),
            ("downerror", ""),
            ("downerr", ""),
            ("Downloaded", "441224172"),
            ("rate", "10 MB/s"),
            ("Rate", "10 MB/s"),
            ("totalpercent", "66.000%"),
            ("totoalpercent", "66.000%"),
            ("TotalPercent", "66.000%"),
            ("btrate", "3072 KB/s"),
            ("btpercent", "22.000%"),
            ("BtPercent", "22.000%"),
            ("obsrate", "5120 KB/s"),
            ("obspercent", "23.000%"),
            ("cdnrate", "2048 KB/s"),
            ("cdnpercent", "21.000%"),
            ("bt2downpercent", "40.000%"),
            ("obs2downpercent", "30.000%"),
            ("cdn2downpercent", "30.000%"),
            ("localsamepercent", "0.000%"),
            ("totalbytes", "668521472"),
        ] {
            assert_eq!(v[key], want, "{key}");
        }
        assert_eq!(v["downloaded"], 441_224_172u64);
        assert_eq!(v["ecompletedtime"], 1);
        assert_eq!(v["desc"], "");
    }

    #[test]
    fn a_finished_download_has_no_rates_and_is_whole() {
        let v = json(downloaded());
        assert_eq!((&v["rate"], &v["btrate"]), (&"".into(), &"".into()));
        assert_eq!((&v["totalpercent"], &v["localsamepercent"]), (&"100.000%".into(), &"100.000%".into()));
        assert_eq!((&v["btpercent"], &v["ecompletedtime"]), (&"0.000%".into(), &0.into()));
        assert_eq!(v["dcppath"], "/data/dcp/xiaofang");
    }

    #[test]
    fn all_bytes_are_not_yet_a_whole_package() {
        let v = json(Progress { complete: false, ..downloaded() });
        assert_eq!(v["totalpercent"], "99.999%");
        assert_eq!(v["localsamepercent"], "100.000%");
    }

    #[test]
    fn numbers_from_outside_do_not_overflow() {
        let huge = Progress {
            rates: Some([u64::MAX; 3]),
            by_method: [u64::MAX; 3],
            to_fetch: [u64::MAX; 3],
            downloaded: u64::MAX,
            local_same: u64::MAX,
            total: 1,
            ..downloading()
        };
        assert_eq!(json(huge)["totalpercent"], "99.999%");
    }

    #[test]
    fn refusals_carry_a_state_and_a_text_only() {
        let v = json(Progress {
            status: "queues".into(),
            desc: Some("task in queues, no progress now.".into()),
            ..Default::default()
        });
        assert_eq!(v, serde_json::json!({"status": "queues", "Status": "queues", "desc": "task in queues, no progress now."}));
        assert_eq!(json(Progress::default())["status"], "unknown");
    }
}
