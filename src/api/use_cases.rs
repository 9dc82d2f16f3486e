//! What the API asks of the desk, as a trait.
//!
//! The API could call [`Desk`] directly. The trait exists so that its tests can see what reaches the desk for each way
//! of writing a request, and answer with each kind of reply, without a database, torrents and a network behind it.

use async_trait::async_trait;

use serde_json::Value;

use crate::desk::scan::{Imported, NotScanned, Scanned, Waiting};
use crate::desk::{CacherProgress, Desk, GentaskRequest, Progress, QueryReply, Reply, UploadProgress};
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::task::Role;

/// The use cases behind the endpoints. [`Desk`] documents them.
#[async_trait]
#[allow(missing_docs)]
pub trait UseCases: Send + Sync + 'static {
    async fn gentask(&self, request: GentaskRequest) -> Reply;
    async fn taskfilesquery(&self, dcppath: &str, taskfile: &str) -> QueryReply;
    async fn send(&self, taskfile: &str, reactive: Option<&str>) -> Reply;
    async fn uploadprogress(&self, taskfile: &str) -> UploadProgress;
    async fn recv(&self, taskfile: &str, reactive: Option<&str>) -> Reply;
    async fn progress(&self, taskfile: &str) -> Progress;
    async fn cprogress(&self, taskfile: &str) -> CacherProgress;
    async fn cancel(&self, taskfile: &str) -> Reply;
    async fn cancel_of(&self, role: Role, task: &str) -> Result<bool, Fault>;
    async fn set_priority(&self, role: Role, task: &str, priority: i64) -> Result<bool, Fault>;
    async fn sends(&self, request: GentaskRequest) -> Reply;
    async fn scan_library(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned>;
    async fn library_queue(&self) -> Result<Option<Waiting>, Fault>;
    async fn import_library(&self, lines: Vec<String>) -> Result<Option<Imported>, Fault>;
    async fn showschedules(&self) -> String;
    async fn config(&self) -> Value;
    async fn put_config(&self, config: Value) -> Reply;
    async fn reloadconf(&self) -> String;
    fn heartbeat(&self) -> String;
    fn version(&self) -> String;
}

#[async_trait]
impl UseCases for Desk {
    async fn gentask(&self, request: GentaskRequest) -> Reply {
        Desk::gentask(self, request).await
    }
    async fn taskfilesquery(&self, dcppath: &str, taskfile: &str) -> QueryReply {
        Desk::taskfilesquery(self, dcppath, taskfile).await
    }
    async fn send(&self, taskfile: &str, reactive: Option<&str>) -> Reply {
        Desk::send(self, taskfile, reactive).await
    }
    async fn uploadprogress(&self, taskfile: &str) -> UploadProgress {
        Desk::uploadprogress(self, taskfile).await
    }
    async fn recv(&self, taskfile: &str, reactive: Option<&str>) -> Reply {
        Desk::recv(self, taskfile, reactive).await
    }
    async fn progress(&self, taskfile: &str) -> Progress {
        Desk::progress(self, taskfile).await
    }
    async fn cprogress(&self, taskfile: &str) -> CacherProgress {
        Desk::cprogress(self, taskfile).await
    }
    async fn cancel(&self, taskfile: &str) -> Reply {
        Desk::cancel(self, taskfile).await
    }
    async fn cancel_of(&self, role: Role, task: &str) -> Result<bool, Fault> {
        match TaskName::parse(task) {
            Ok(name) => Desk::cancel_of(self, role, &name).await,
            Err(_) => Ok(false),
        }
    }
    async fn set_priority(&self, role: Role, task: &str, priority: i64) -> Result<bool, Fault> {
        match TaskName::parse(task) {
            Ok(name) => Desk::set_priority(self, role, &name, priority).await,
            Err(_) => Ok(false),
        }
    }
    async fn sends(&self, request: GentaskRequest) -> Reply {
        Desk::sends(self, request).await
    }
    async fn scan_library(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned> {
        Desk::scan_library(self, path, anew).await
    }
    async fn library_queue(&self) -> Result<Option<Waiting>, Fault> {
        Desk::library_queue(self).await
    }
    async fn import_library(&self, lines: Vec<String>) -> Result<Option<Imported>, Fault> {
        Desk::import_library(self, lines).await
    }
    async fn showschedules(&self) -> String {
        Desk::showschedules(self).await
    }
    async fn config(&self) -> Value {
        Desk::config(self).await
    }
    async fn put_config(&self, config: Value) -> Reply {
        Desk::put_config(self, config).await
    }
    async fn reloadconf(&self) -> String {
        Desk::reloadconf(self).await
    }
    fn heartbeat(&self) -> String {
        Desk::heartbeat(self)
    }
    fn version(&self) -> String {
        Desk::version(self)
    }
}
