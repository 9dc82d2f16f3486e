//! Use cases: what a request means. No HTTP types, no SQL.
//!
//! One file per use case. Requests become rows; the conductor does the work. Every call answers with plain values; the texts are the protocol's, byte for byte (protocol section 3).

mod cancel;
mod configuration;
mod gentask;
pub mod intake;
mod looks;
pub mod overview;
mod progress;
mod recv;
pub mod scan;
mod schedules;
mod send;
pub mod sends;
mod torrents;
mod upload_progress;

use crate::clock::Clock;
use crate::config::ConfigHandle;
use crate::error::{Fault, FaultClass};
use crate::library::Library;
use crate::model::ids::TaskName;
use crate::model::task::{NodeType, Role};
use crate::store::Store;
use crate::store::events::Level;
use crate::store::legs::LegRow;
use crate::store::tasks::TaskRow;
use crate::views::{self, Found, TASK_FILE_LIMIT, TaskDirs};
use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

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

/// Why a request is not carried out.
struct Refusal {
    /// For the client.
    desc: String,
    /// Nothing speaks against the request, but this machine or the moment does: the same one may be accepted later.
    passes: bool,
}

impl Refusal {
    fn for_good(desc: impl Into<String>) -> Self {
        Self { desc: desc.into(), passes: false }
    }
    fn for_now(desc: impl Into<String>) -> Self {
        Self { desc: desc.into(), passes: true }
    }
    /// A file that cannot be read. One that is not there, or is none, is what the client said.
    fn unread(desc: impl Into<String>, e: &std::io::Error) -> Self {
        use libc::{EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
        let clients = [EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR];
        let hangs = e.kind() == std::io::ErrorKind::TimedOut;
        Self { desc: desc.into(), passes: hangs || e.raw_os_error().is_some_and(|n| !clients.contains(&n)) }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let passes = matches!(fault.class, FaultClass::Transient | FaultClass::Local);
        Self { desc: failed(&fault).desc, passes }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::err(refusal.desc)
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

/// The use cases. One per process.
pub struct Desk {
    pub store: Store,
    pub config: ConfigHandle,
    pub clock: Clock,
    pub dirs: TaskDirs,
    /// Wakes the conductor.
    pub nudge: Arc<Notify>,
    /// For torrents of tasks that are received.
    pub http: reqwest::Client,
    /// One `send` or `recv` at a time: two of the same task must not both be accepted.
    pub admission: tokio::sync::Mutex<()>,
    /// Held while a gentask job is queued: one at a time.
    pub generating: tokio::sync::Mutex<()>,
    /// One round of sending what `sends` generated at a time. By job: when one that could not be sent is tried again.
    pub sending: tokio::sync::Mutex<HashMap<i64, Instant>>,
    /// Places of those who look at the library.
    pub looks: looks::Looks,
    /// The hash table, where there is a library.
    pub library: Option<Arc<Library>>,
}

/// Times in task files.
const TASK_TIME: &str = "%Y-%m-%d %H:%M:%S";

impl Desk {
    /// Plain text of `GET /reloadconf`.
    pub async fn reloadconf(&self) -> String {
        match self.config.reload() {
            Ok(warnings) => {
                self.event(Level::Info, "reloadconf", "", "configuration read again").await;
                self.nudge.notify_one();
                match warnings.is_empty() {
                    true => "reload config json ok.".into(),
                    false => format!("reload config json ok. {}", warnings.join("; ")),
                }
            }
            Err(e) => {
                self.event(Level::Error, "reloadconf", "", &e.to_string()).await;
                format!("reload config json error: {e}; the old configuration stays")
            }
        }
    }

    /// Plain text of `GET /heartbeat`.
    pub fn heartbeat(&self) -> String {
        format!("{} is living.", self.clock.now().format(TASK_TIME))
    }

    /// Plain text of `GET /version`: the protocol's version, which clients compare.
    pub fn version(&self) -> String {
        "2.001".into()
    }

    /// `Err`: what a node says that is no sender and was asked to be one.
    fn must_be_sender(&self, method: &str) -> Result<(), Reply> {
        match self.config.current().servertype {
            NodeType::Sender => Ok(()),
            other => Err(Reply::err(format!("error, {method} is for senders, and this node is a {other}."))),
        }
    }

    async fn event(&self, level: Level, kind: &str, task: &str, text: &str) {
        if let Err(fault) = self.store.add_event(level, kind, task, "api", text, self.clock.now_ms()).await {
            tracing::error!(%fault, "cannot write an event");
        }
    }

    fn task_time(&self) -> String {
        self.clock.now().format(TASK_TIME).to_string()
    }

    /// Shows the row in the task directories; what fails is repeated by the conductor.
    async fn export(&self, row: &TaskRow) {
        if let Err(fault) = views::export_task(&self.store, &self.dirs, row).await {
            tracing::warn!(%fault, task = %row.name, "cannot export the task file; trying again");
        }
    }

    /// Reads a task file that a client names. Also returns how it looked.
    async fn read_task_file(&self, path: &str) -> std::io::Result<(Vec<u8>, Found)> {
        let path = PathBuf::from(path);
        let read = self.glance(move || read_task_file(path)).await;
        read.unwrap_or_else(|refused| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, refused.desc)))
    }

    /// A task by the file name that clients give, with its legs; `None` when there is no such task (or it cannot be a name).
    async fn find(&self, role: Role, taskfile: &str) -> Result<Option<(TaskRow, Vec<LegRow>)>, Fault> {
        let Ok(name) = TaskName::from_path(taskfile) else { return Ok(None) };
        let found = self.store.task_with_legs(role, &name).await?;
        // Clients go and fetch the file from the path of the reply: it must be there by then.
        if let Some((row, _)) = found.as_ref().filter(|(row, _)| row.exported < row.revision) {
            self.export(row).await;
        }
        Ok(found)
    }
}

/// The words of the old service for a file that cannot be read: `open PATH: no such file or directory`.
fn open_error(path: &str, e: &std::io::Error) -> String {
    let why = match e.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => e.to_string(),
    };
    format!("open {path}: {why}")
}

/// Reads a task file that a client names. Also returns how it looked. Blocking.
fn read_task_file(path: PathBuf) -> std::io::Result<(Vec<u8>, Found)> {
    if path.as_os_str().is_empty() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let meta = std::fs::metadata(&path)?;
    if meta.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() || meta.len() > TASK_FILE_LIMIT {
        return Err(std::io::Error::other("not a task file (larger than 64 MiB, or not a plain file)"));
    }
    let mut file = std::fs::File::open(&path)?;
    let found = Found::new(path, &file.metadata()?);
    let mut bytes = Vec::new();
    file.by_ref().take(TASK_FILE_LIMIT).read_to_end(&mut bytes)?;
    Ok((bytes, found))
}

/// An error of ours (disk, database) in a reply.
fn failed(fault: &Fault) -> Reply {
    tracing::error!(%fault, detail = fault.detail, "a request failed");
    Reply::err(format!("error, {}", fault.message))
}
