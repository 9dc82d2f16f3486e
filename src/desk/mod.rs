//! Use cases: what a request means. No HTTP types, no SQL.
//!
//! Every call answers with plain values; the texts are the protocol's, byte for byte (protocol section 3).

/// A reply that carries a verdict and a text (`send`, `recv`, `gentask`, `cancel`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub ok: bool,
    pub desc: String,
}

impl Reply {
    pub fn ok(desc: impl Into<String>) -> Self {
        Self { ok: true, desc: desc.into() }
    }
    pub fn err(desc: impl Into<String>) -> Self {
        Self { ok: false, desc: desc.into() }
    }
}

/// `gentask` as it came in: absent and empty mean the same. Values are checked by the desk.
#[derive(Clone, Debug, Default)]
pub struct GentaskRequest {
    pub dcppath: String,
    pub taskfile: String,
    pub basesubdir: String,
    pub btobscdn: String,
    pub policy: String,
    pub tracker: String,
    pub seedtime: String,
    pub datasource: String,
    pub obsurl: String,
    pub ak: String,
    pub sk: String,
    pub endpoint: String,
    pub deloldtorrent: bool,
}

/// `taskfilesquery`: `status` is `finished`, `unfinished` or `error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryReply {
    pub ok: bool,
    pub status: &'static str,
    pub desc: String,
}

/// `uploadprogress` (protocol section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    pub ok: bool,
    pub taskfile: String,
    pub status: String,
    pub desc: String,
    pub btstatus: String,
    pub obsstatus: String,
    pub cdnstatus: String,
}

/// `progress` (protocol section 3.4): numbers; the API writes them in the protocol's forms (section 5).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub ok: bool,
    /// Set on errors and for a queued task.
    pub desc: Option<String>,
    pub status: String,
    pub taskfile: String,
    pub dcppath: String,
    pub bt_seeding: bool,
    pub downerror: String,
    /// Bytes in place, local copies included.
    pub downloaded: u64,
    /// Bytes per second, when downloading: bt, obs, cdn.
    pub rates: Option<[u64; 3]>,
    /// Bytes by method: bt, obs, cdn.
    pub by_method: [u64; 3],
    /// Bytes that each method has to fetch after dedupe.
    pub to_fetch: [u64; 3],
    /// Bytes found in the library.
    pub local_same: u64,
    pub total: u64,
    /// The package is in its store and verified: only then 100 %.
    pub complete: bool,
    /// Minutes; -1 unknown; 0 when done.
    pub eta_minutes: i64,
}

/// `cprogress` (protocol section 3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacherProgress {
    pub ok: bool,
    pub status: String,
    pub desc: String,
}

/// The use cases. One per process; cheap to share in an `Arc`.
pub struct Desk {}

impl Desk {
    pub async fn gentask(&self, _r: GentaskRequest) -> Reply {
        Reply::err("not wired")
    }
    pub async fn taskfilesquery(&self, _dcppath: &str, _taskfile: &str) -> QueryReply {
        QueryReply { ok: false, status: "error", desc: "not wired".into() }
    }
    /// `reactive`: the raw text, `None` when absent (default true).
    pub async fn send(&self, _taskfile: &str, _reactive: Option<&str>) -> Reply {
        Reply::err("not wired")
    }
    pub async fn uploadprogress(&self, _taskfile: &str) -> UploadProgress {
        UploadProgress {
            ok: false,
            taskfile: String::new(),
            status: "unknown".into(),
            desc: String::new(),
            btstatus: "unknown".into(),
            obsstatus: "unknown".into(),
            cdnstatus: "unknown".into(),
        }
    }
    /// `reactive`: the raw text, `None` when absent (default false).
    pub async fn recv(&self, _taskfile: &str, _reactive: Option<&str>) -> Reply {
        Reply::err("not wired")
    }
    pub async fn progress(&self, _taskfile: &str) -> Progress {
        Progress::default()
    }
    pub async fn cprogress(&self, _taskfile: &str) -> CacherProgress {
        CacherProgress { ok: false, status: "noseeding".into(), desc: "not wired".into() }
    }
    pub async fn cancel(&self, _taskfile: &str) -> Reply {
        Reply::err("not wired")
    }
    /// Plain text of `GET /reloadconf`.
    pub async fn reloadconf(&self) -> String {
        "not wired".into()
    }
    /// Plain text of `GET /heartbeat`.
    pub fn heartbeat(&self) -> String {
        "not wired".into()
    }
    /// Plain text of `GET /version`.
    pub fn version(&self) -> String {
        "2.001".into()
    }
}
