//! The table: every example of the protocol, the scenario that reaches it, and what is emitted where that is not what
//! the example shows. `why` names the row of the protocol's section 17, or the section that settles it.

use Stage::*;
use What::*;

/// Where a case is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Request examples, each in both forms, and the plain-text tools.
    Requests,
    Sender,
    Receiver,
    Cacher,
    Schedules,
    Configurations,
    TaskFiles,
    /// The decision tables: no examples.
    Decisions,
    /// Nothing outside a node can bring it about; the reason.
    Unreachable(&'static str),
    /// The protocol says that it is not part of v2; the section.
    NotPartOfV2(&'static str),
}

/// What a key of an example becomes.
#[derive(Debug)]
pub enum What {
    AsShown,
    /// This text, in the examples' world.
    Is(&'static str),
    /// A value that the scenario knows: it measures the scenario's package.
    Given,
    Percent,
    Rate,
    /// A JSON number.
    Count,
    /// A number in quotes.
    CountText,
    Minutes,
    Absent,
}

impl What {
    /// Says the same as the example.
    pub fn repeats(&self, shown: &serde_json::Value) -> bool {
        matches!(self, Is(text) if shown == text)
    }
}

#[derive(Debug)]
pub struct Emit {
    /// JSON pointer.
    pub at: &'static str,
    pub what: What,
    pub why: &'static str,
}

#[derive(Debug)]
pub struct Case {
    pub file: &'static str,
    pub stage: Stage,
    pub emits: &'static [Emit],
}

pub fn find(file: &str) -> Option<&'static Case> {
    CASES.iter().find(|c| c.file == file)
}

const fn case(file: &'static str, stage: Stage) -> Case {
    Case { file, stage, emits: &[] }
}

const fn settled(file: &'static str, stage: Stage, emits: &'static [Emit]) -> Case {
    Case { file, stage, emits }
}

const fn emit(at: &'static str, what: What, why: &'static str) -> Emit {
    Emit { at, what, why }
}

const MEASURED: &str = "measures the package of the scenario";
const RATES: &str = "17.12 and section 5: KB/s; a measurement";
const DECIMALS: &str = "17.11: three decimals; a measurement";
const GROUPS: Stage = NotPartOfV2("section 14: private groups are a module of their own");

pub const CASES: &[Case] = &[
    case("cancel/request.json", Requests),
    case("cancel/request-curl.json", Requests),
    case("cancel/curl-not-found.json", Receiver),
    case("cancel/prose-not-found.json", Receiver),
    case("cancel/curl-ok.json", Receiver),
    settled("cancel/prose-ok.json", Receiver, &[emit("/return_content/desc", Is("succeed!"), "17.5: the transcript's word")]),
    case("config/config.example.json", Configurations),
    case("config/config.explained-variant.json", Configurations),
    case("config/config.recommended-sender.json", Configurations),
    case("config/tms.properties", TaskFiles),
    case("config/downloadedtorrents.txt", GROUPS),
    case("config/groupsettings.json", GROUPS),
    case("config/serversettings.json", GROUPS),
    case("cprogress/request.json", Requests),
    case("cprogress/request-curl.json", Requests),
    case("cprogress/curl-seeding.json", Cacher),
    case("cprogress/prose-seeding.json", Cacher),
    case("gentask/request.json", Requests),
    case("gentask/request-curl.json", Requests),
    case("gentask/error-no-taskfile.json", Sender),
    case("gentask/error-no-dcppath.json", Sender),
    case("gentask/error-generating.json", Sender),
    case("gentask/curl-ok-started.json", Sender),
    case("gentask/ok-started.json", Sender),
    case("gentask/ok-ready.json", Sender),
    case("get/heartbeat.txt", Requests),
    case("get/reloadconf.txt", Requests),
    case("get/version.txt", Requests),
    case("get/showschedules.txt", Schedules),
    case("progress/request.json", Requests),
    case("progress/request-curl.json", Requests),
    case("progress/error-unknown.json", Receiver),
    case("progress/error-open.json", Receiver),
    case("progress/error-cacher.json", Cacher),
    case("progress/error-in-queues.json", Receiver),
    settled(
        "progress/prose-downloading.json",
        Receiver,
        &[
            emit("/return_content/dcppath", Is(""), "17.15: only when downloaded"),
            emit("/return_content/btstatus", Is("noseeding"), "17.13, and seeding comes after the download"),
            emit("/return_content/downloaded", Count, "17.10: a number"),
            emit("/return_content/rate", Rate, RATES),
            emit("/return_content/btrate", Rate, RATES),
            emit("/return_content/obsrate", Rate, RATES),
            emit("/return_content/cdnrate", Rate, RATES),
            emit("/return_content/totalpercent", Percent, DECIMALS),
            emit("/return_content/btpercent", Percent, DECIMALS),
            emit("/return_content/obspercent", Percent, DECIMALS),
            emit("/return_content/cdnpercent", Percent, DECIMALS),
            emit("/return_content/ecompletedtime", Minutes, "a measurement"),
            emit("/return_content/totalbytes", Given, MEASURED),
        ],
    ),
    settled(
        "progress/recommended-downloading.json",
        Receiver,
        &[
            emit("/return_content/btstatus", Is("noseeding"), "17.13"),
            emit("/return_content/downloaded", Count, "a measurement"),
            emit("/return_content/Downloaded", CountText, "a measurement"),
            emit("/return_content/rate", Rate, RATES),
            emit("/return_content/Rate", Rate, RATES),
            emit("/return_content/btrate", Rate, RATES),
            emit("/return_content/obsrate", Rate, RATES),
            emit("/return_content/cdnrate", Rate, RATES),
            emit("/return_content/totalpercent", Percent, DECIMALS),
            emit("/return_content/totoalpercent", Percent, DECIMALS),
            emit("/return_content/TotalPercent", Percent, DECIMALS),
            emit("/return_content/btpercent", Percent, DECIMALS),
            emit("/return_content/BtPercent", Percent, DECIMALS),
            emit("/return_content/obspercent", Percent, DECIMALS),
            emit("/return_content/cdnpercent", Percent, DECIMALS),
            emit("/return_content/ecompletedtime", Minutes, "a measurement"),
            emit("/return_content/totalbytes", Given, MEASURED),
        ],
    ),
    settled(
        "progress/prose-downloaded.json",
        Receiver,
        &[
            emit("/return_content/taskfile", Is("/data/receiver/downloaded/cfec-001-xiaofang.task.json"), "17.16: the real path"),
            emit("/return_content/Downloaded", Given, MEASURED),
            emit("/return_content/BtPercent", Given, "17.14: a percentage"),
            emit("/return_content/obspercent", Given, "17.14: a percentage"),
            emit("/return_content/cdnpercent", Given, "17.14: a percentage"),
            emit("/return_content/totalbytes", Given, MEASURED),
        ],
    ),
    settled("progress/curl-downloaded.json", Receiver, &[emit("/return_content/downloaded", Given, MEASURED)]),
    case("recv/request.json", Requests),
    case("recv/request-curl-cacher.json", Requests),
    case("recv/request-curl-receiver.json", Requests),
    case("recv/ok.json", Receiver),
    case("recv/curl-ok-receiver.json", Receiver),
    case("recv/curl-ok-cacher.json", Cacher),
    case("recv/ok-cacher-reactive.json", Cacher),
    case("recv/ok-again.json", Receiver),
    case("recv/ok-all-local.json", Receiver),
    case("recv/ok-again-all-local.json", Receiver),
    case("recv/error-open.json", Receiver),
    case("recv/error-format.json", Receiver),
    case("recv/error-size-zero-path.json", Receiver),
    case("recv/error-size-zero.json", Cacher),
    case("recv/error-sum-lists.json", Receiver),
    case(
        "recv/error-sum-lists2.json",
        Unreachable("the second allocation is made by the receiver itself: no task file can make it wrong"),
    ),
    case("recv/error-in-queues.json", Receiver),
    case("recv/error-in-downloading.json", Receiver),
    settled(
        "recv/error-in-downloaded.json",
        Receiver,
        &[
            emit("/return_status", Is("true"), "17.20: downloaded again, whatever reactive is"),
            emit("/return_content/desc", Is("same name task downloaded, to download again."), "17.20"),
        ],
    ),
    case("recv/error-move.json", Receiver),
    case("recv/error-no-tmpurl.json", Receiver),
    case("recv/error-tmptorrent.json", Receiver),
    case("recv/error-torrent.json", Receiver),
    case("recv/error-btlist.json", Receiver),
    case("send/request.json", Requests),
    case("send/request-curl.json", Requests),
    case("send/ok.json", Sender),
    case("send/ok-restarted.json", Sender),
    case("send/error-open.json", Sender),
    case("send/error-format.json", Sender),
    case("send/error-copy.json", Sender),
    case("send/error-in-queues.json", Sender),
    case("send/error-in-uploading.json", Sender),
    case("send/error-no-torrent.json", Sender),
    settled(
        "send/error-restart-failed.json",
        Sender,
        &[emit(
            "/return_content/desc",
            Is("restart bt serving failed: xiaofang-tmp.torrent in cfec-001-xiaofang.task.json "),
            "17.38: the real torrent",
        )],
    ),
    settled(
        "send/error-bt-exists.json",
        Sender,
        &[emit(
            "/return_content/desc",
            Is("exisited same name ct torrent bt process, send task failed: xiaofang-tmp.torrent in \
                 cfec-001-xiaofang.task.json "),
            "17.38: the real torrent",
        )],
    ),
    case("send/error-reactive.json", Sender),
    case("sends/request.json", Requests),
    case("sends/ok.json", Sender),
    settled(
        "sends/ok-generating.json",
        Sender,
        &[emit(
            "/return_content/desc",
            Is("succeed, but the torrent is generating, please wait until /data/dcp/cfec-001/dcps/xiaofang.torrent is finished."),
            "17.25: where the torrent is",
        )],
    ),
    case("sends/error-in-queues.fragment.json", Sender),
    case("sends/error-in-uploading.fragment.json", Sender),
    case("task/cfec-001-xiaofang.task.json", TaskFiles),
    case("task/cfec-001-zds_3d_ADV_F_CMN-CMN_CN-G_20-CMN_2K_20160827__i3D_OV.task.json", TaskFiles),
    case("task/recommended.task.json", TaskFiles),
    case("taskfilesquery/request.json", Requests),
    case("taskfilesquery/request-curl.json", Requests),
    case("taskfilesquery/curl-unfinished.json", Sender),
    case("taskfilesquery/prose-finished.json", Sender),
    case("taskfilesquery/prose-unfinished.json", Sender),
    case("taskfilesquery/prose-error-no-dir.json", Sender),
    case("taskfilesquery/prose-error-open.json", Sender),
    case("uploadprogress/request.json", Requests),
    case("uploadprogress/request-curl.json", Requests),
    case("uploadprogress/ready.json", Sender),
    settled(
        "uploadprogress/prose-uploading.json",
        Sender,
        &[
            emit("/return_content/status", Is("uploading"), "17.17: without the blank"),
            emit("/return_content/taskfile", Is("/data/sender/uploading/cfec-001-xiaofang.task.json"), "17.16: the real path"),
        ],
    ),
    settled(
        "uploadprogress/prose-unknown.json",
        Sender,
        &[emit("/return_content/obsstatus", Is("unknown"), "17.18: nothing is known of it")],
    ),
];
