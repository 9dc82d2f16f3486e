//! A desk for the API's tests: writes down what reaches it and answers from a script.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bft2::api::UseCases;
use bft2::desk::{CacherProgress, GentaskRequest, Progress, QueryReply, Reply, UploadProgress};
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
