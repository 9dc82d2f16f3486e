//! The demo as a theatre management system: it drives the public HTTP interface and carries the task file, nothing else.

use super::network::{BASESUBDIR, Node, Plan};
use super::report::Timings;
use crate::cli::bars::Bars;
use crate::cli::client::{Client, Download, Reply, Upload};
use crate::cli::exit::{Exit, Failure};
use crate::cli::follow::{Follow, download_exit, generation_exit, upload_exit};
use crate::model::ratio::Ratio;
use crate::model::span::Method;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Often enough for bars that move and for seconds with one decimal.
const EVERY: Duration = Duration::from_millis(200);
/// How long the cacher may take to seed once the receiver is done.
const CACHER_PATIENCE: Duration = Duration::from_secs(10);
/// A task file is a few megabytes at the most (ten thousand files).
const MAX_TASK: u64 = 64 << 20;

/// What the TMS knows.
pub struct Tms<'a> {
    pub plan: &'a Plan,
    pub bars: &'a Bars,
    pub ratio: Ratio,
    pub policy: &'a str,
    /// No change for so long is a failure.
    pub patience: Duration,
}

/// What came of it.
pub struct Delivery {
    pub timings: Timings,
    /// Where the receiver says that the package is.
    pub store: PathBuf,
    /// What the cacher says of itself, when it has a part.
    pub cacher: Option<String>,
}

impl Tms<'_> {
    /// gentask → taskfilesquery → send → uploadprogress → the task file → recv → progress.
    pub async fn deliver(&self, package: &str) -> Result<Delivery, Failure> {
        let sender = self.plan.sender.client()?;
        let task = format!("{BASESUBDIR}-{package}.task.json");
        let mut timings = Timings::default();

        let started = Instant::now();
        let taskfile = self.plan.sender.data().join("sender/tmp").join(&task);
        self.generate(&sender, package, &taskfile).await?;
        timings.gentask = started.elapsed();

        let started = Instant::now();
        let at = self.publish(&sender, &task, &taskfile).await?;
        timings.send = started.elapsed();

        if self.ratio.share(Method::Bt) > 0 {
            self.carry(&task, &at, &self.plan.cacher)?;
            self.receive(&self.plan.cacher, &task).await?;
        }
        self.carry(&task, &at, &self.plan.receiver)?;
        timings.start();
        self.receive(&self.plan.receiver, &task).await?;
        let store = self.follow_reception(&task, &mut timings).await?;
        let cacher = match self.ratio.share(Method::Bt) {
            0 => None,
            _ => Some(self.ask_cacher(&task).await?),
        };
        Ok(Delivery { timings, store, cacher })
    }

    /// Its fetch may end a moment after the receiver's.
    async fn ask_cacher(&self, task: &str) -> Result<String, Failure> {
        let client = self.plan.cacher.client()?;
        let until = Instant::now() + CACHER_PATIENCE;
        loop {
            let reply = client.call("cprogress", json!({"taskfile": task})).await?;
            if reply.status() == "seeding" || Instant::now() >= until {
                return Ok(format!("{}, {}", reply.status(), reply.desc()));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn generate(&self, sender: &Client, package: &str, taskfile: &Path) -> Result<(), Failure> {
        let dcppath = self.plan.sender.store().join(package);
        let params = json!({
            "dcppath": dcppath, "taskfile": taskfile, "basesubdir": BASESUBDIR,
            "btobscdn": self.ratio.to_string(), "policy": self.policy,
        });
        accepted("gentask", &sender.call("gentask", params).await?)?;
        let reply = self.follow(sender).generation(&dcppath.to_string_lossy(), &taskfile.to_string_lossy()).await?;
        match generation_exit(&reply) {
            Exit::Ok => Ok(()),
            _ => Err(Failure::refused(format!("gentask failed: {}", reply.desc()))),
        }
    }

    /// Returns where the task file is when receivers may have it.
    async fn publish(&self, sender: &Client, task: &str, taskfile: &Path) -> Result<PathBuf, Failure> {
        accepted("send", &sender.call("send", json!({"taskfile": taskfile, "reactive": "true"})).await?)?;
        let upload = Upload::from(&self.follow(sender).upload(task).await?);
        match upload_exit(&upload) {
            Exit::Ok => Ok(PathBuf::from(upload.taskfile)),
            _ => Err(Failure::refused(format!("send failed: {} {}", upload.status, upload.desc))),
        }
    }

    /// The TMS brings the task file to a node; the services never talk to each other about it.
    fn carry(&self, task: &str, at: &Path, to: &Node) -> Result<(), Failure> {
        let sender = self.plan.sender.data().join("sender");
        let places = [at.to_owned(), sender.join("uploaded").join(task), sender.join("tmp").join(task)];
        let from = places.iter().find(|p| p.is_file());
        let from =
            from.ok_or_else(|| Failure::local(format!("the sender has no {task} in {}", sender.join("uploaded").display())))?;
        copy_task(from, &to.data().join("receiver/tmp").join(task))
            .map_err(|e| Failure::local(format!("cannot carry {} to the {}: {e}", from.display(), to.role)))
    }

    async fn receive(&self, node: &Node, task: &str) -> Result<(), Failure> {
        let file = node.data().join("receiver/tmp").join(task);
        let reply = node.client()?.call("recv", json!({"taskfile": file, "reactive": "false"})).await?;
        accepted(&format!("recv on the {}", node.role), &reply)
    }

    async fn follow_reception(&self, task: &str, timings: &mut Timings) -> Result<PathBuf, Failure> {
        let receiver = self.plan.receiver.client()?;
        let reply = self.follow(&receiver).download(task, |d| timings.see(d)).await?;
        let d = Download::from(&reply);
        match download_exit(&d) {
            Exit::Ok if !d.dcppath.is_empty() => Ok(PathBuf::from(d.dcppath)),
            Exit::Ok => Err(Failure::refused(format!("recv: {} but no dcppath in the reply", d.status))),
            _ => Err(Failure::refused(format!("recv failed: {} {} {}", d.status, d.error, d.desc))),
        }
    }

    fn follow<'a>(&'a self, client: &'a Client) -> Follow<'a> {
        Follow { client, bars: self.bars, every: EVERY, patience: Some(self.patience) }
    }
}

fn accepted(what: &str, reply: &Reply) -> Result<(), Failure> {
    if reply.ok { Ok(()) } else { Err(Failure::refused(format!("{what} was refused: {}", reply.desc()))) }
}

/// Whole or not at all, and for its owner only: task files may hold keys.
fn copy_task(from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = fs::read(from)?;
    if bytes.len() as u64 > MAX_TASK {
        return Err(std::io::Error::other("it is too large for a task file"));
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let part = to.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&part, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn task_files_arrive_whole_and_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (from, to) = (dir.path().join("a.task.json"), dir.path().join("b/tmp/a.task.json"));
        fs::write(&from, "{}").expect("write");
        copy_task(&from, &to).expect("copied");
        assert_eq!(fs::read_to_string(&to).expect("read"), "{}");
        assert_eq!(fs::metadata(&to).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("b/tmp")).expect("dir").count(), 1);
    }
}
