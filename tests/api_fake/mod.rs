//! A desk for the API's tests: writes down what reaches it and answers from a script.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bft2::api::UseCases;
use bft2::clock::{Clock, Pulse};
use bft2::config::{Config, ConfigHandle};
use bft2::desk::overview::Overview;
use bft2::desk::scan::{Imported, NotScanned, Scanned, Waiting};
use bft2::desk::{CacherProgress, GentaskRequest, Progress, QueryReply, Reply, UploadProgress};
use bft2::error::Fault;
use bft2::model::task::Role;
use bft2::store::Store;
use bft2::store::library_queue::QueueLength;
use tokio::sync::Semaphore;

/// Writes down every call. `cancel` waits until [`FakeDesk::release`] has permits, `recv` of `panic` panics.
pub struct FakeDesk {
    pub seen: Mutex<Vec<String>>,
    pub release: Semaphore,
    pub progress: Mutex<Progress>,
}

impl Default for FakeDesk {
    fn default() -> Self {
        let progress = Progress { ok: true, status: "downloading".into(), total: 3, downloaded: 1, ..Progress::default() };
        Self { seen: Mutex::default(), release: Semaphore::new(0), progress: Mutex::new(progress) }
    }
}

#[allow(dead_code)]
impl FakeDesk {
    fn note(&self, call: String) {
        self.seen.lock().unwrap().push(call);
    }
    /// The calls since the last look.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
    /// Waits until a call was written down.
    pub async fn wait_for_call(&self) {
        tokio::time::timeout(Duration::from_secs(20), async {
            while self.seen.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .expect("no call reached the desk");
    }
}

/// What a node knows that has done nothing yet: a real database in a directory that is there until the process ends.
#[allow(dead_code)]
pub async fn overview() -> Overview {
    let dir = tempfile::Builder::new().prefix("bft2-api-").tempdir().unwrap().keep();
    let config = serde_json::json!({"servertype": "receiver", "datadir": dir, "obssk": "EXAMPLE-SK"}).to_string();
    let (config, _) = Config::parse(config.as_bytes()).unwrap();
    let clock = Clock::real();
    Overview {
        store: Store::open(&dir.join("bft2.db")).await.unwrap(),
        config: ConfigHandle::new(dir.join("config.json"), config),
        started_at: clock.now().fixed_offset(),
        clock,
        pulse: Pulse::default(),
    }
}

#[async_trait]
impl UseCases for FakeDesk {
    async fn gentask(&self, r: GentaskRequest) -> Reply {
        self.note(format!("gentask {r:?}"));
        if r.taskfile.is_empty() {
            return Reply::err("error, please provide taskfile path.");
        }
        Reply::ok("succeeded!")
    }
    async fn taskfilesquery(&self, dcppath: &str, taskfile: &str) -> QueryReply {
        self.note(format!("taskfilesquery {dcppath:?} {taskfile:?}"));
        QueryReply { ok: true, status: "unfinished", desc: "process making seed ".into() }
    }
    async fn send(&self, taskfile: &str, reactive: Option<&str>) -> Reply {
        self.note(format!("send {taskfile:?} {reactive:?}"));
        Reply::ok("succeeded!")
    }
    async fn uploadprogress(&self, taskfile: &str) -> UploadProgress {
        self.note(format!("uploadprogress {taskfile:?}"));
        UploadProgress {
            ok: true,
            taskfile: format!("/data/sender/uploaded/{taskfile}"),
            status: "ready".into(),
            desc: String::new(),
            btstatus: "seeding".into(),
            obsstatus: "completed".into(),
            cdnstatus: "available".into(),
        }
    }
    async fn recv(&self, taskfile: &str, reactive: Option<&str>) -> Reply {
        self.note(format!("recv {taskfile:?} {reactive:?}"));
        assert!(taskfile != "panic", "asked to");
        Reply::err("move json file to /data/receiver/tmp erro")
    }
    async fn progress(&self, taskfile: &str) -> Progress {
        self.note(format!("progress {taskfile:?}"));
        self.progress.lock().unwrap().clone()
    }
    async fn cprogress(&self, taskfile: &str) -> CacherProgress {
        self.note(format!("cprogress {taskfile:?}"));
        CacherProgress { ok: true, status: "seeding".into(), desc: "btseeding dir:/data/transfer/bt/cfec-001/x-tmp".into() }
    }
    async fn cancel(&self, taskfile: &str) -> Reply {
        self.note(format!("cancel begins {taskfile:?}"));
        self.release.acquire().await.unwrap().forget();
        self.note(format!("cancel ends {taskfile:?}"));
        Reply::ok("succeed!")
    }
    async fn set_priority(&self, role: Role, task: &str, priority: i64) -> Result<bool, Fault> {
        self.note(format!("set_priority {role} {task:?} {priority}"));
        Ok(true)
    }
    async fn cancel_of(&self, role: Role, task: &str) -> Result<bool, Fault> {
        self.note(format!("cancel_of {role} {task:?}"));
        Ok(true)
    }
    async fn sends(&self, r: GentaskRequest) -> Reply {
        self.note(format!("sends {r:?}"));
        Reply::ok("succeeded!")
    }
    async fn scan_library(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned> {
        self.note(format!("scan_library {path:?} {anew}"));
        match path {
            Some("/elsewhere") => Err(NotScanned::Refused("/elsewhere: it is not below basedatapath".into())),
            Some("/busy") => Err(NotScanned::Busy),
            Some("/cacher") => Err(NotScanned::NoLibrary),
            Some("/broken") => Err(NotScanned::Broken(Fault::local("no space"))),
            _ => Ok(Scanned { queued: 3, known: 2, gone: 1, skipped: 0 }),
        }
    }
    async fn import_library(&self, lines: Vec<String>) -> Result<Option<Imported>, Fault> {
        Ok(Some(Imported { queued: lines.len() as u64, ..Imported::default() }))
    }
    async fn library_queue(&self) -> Result<Option<Waiting>, Fault> {
        Ok(Some(Waiting { left: QueueLength { files: 3, bytes: 700 }, ..Waiting::default() }))
    }
    async fn showschedules(&self) -> String {
        "Now: 2021-05-28 22:33:57\n".into()
    }
    async fn config(&self) -> serde_json::Value {
        serde_json::json!({"servertype": "receiver", "obssk": "***"})
    }
    async fn put_config(&self, config: serde_json::Value) -> Reply {
        self.note(format!("put_config {config}"));
        Reply::ok("reload config json ok.")
    }
    async fn reloadconf(&self) -> String {
        "reload config json ok.".into()
    }
    fn heartbeat(&self) -> String {
        "2021-05-28 22:32:26 is living.".into()
    }
    fn version(&self) -> String {
        "2.001".into()
    }
}
