//! `send` (protocol section 3.1): start the distribution of a task that gentask has made.

use super::torrents::{TorrentKind, mismatch, torrent_kind};
use super::{Desk, Refusal, Reply, open_error};
use crate::config::Config;
use crate::error::Fault;
use crate::model::ids::TaskName;
use crate::model::span::Method;
use crate::model::task::{LegState, Role, TaskState};
use crate::model::task_file::{Kind, TaskFile, TaskFileError};
use crate::package::documents::{PackageDocuments, Verdict};
use crate::package::paths;
use crate::store::events::Level;
use crate::store::tasks::{NewFile, NewSpan, NewTask, TaskRow};
use crate::views;
use std::path::{Path, PathBuf};

/// The reply to a send that starts a running seed anew.
const RESTARTED: &str = "restarted same name bt process, succeed!";

/// Why a package cannot be sent.
enum Unfit {
    /// The torrent that the ratio needs is not there.
    NoTorrent(Refusal),
    /// Package, torrent and task file do not agree, or cannot be compared.
    Changed(Refusal),
}

impl Desk {
    /// `reactive`: the raw text, `None` when absent (default true).
    pub async fn send(&self, taskfile: &str, reactive: Option<&str>) -> Reply {
        let reactive = match reactive.unwrap_or("true") {
            "" | "true" => true,
            "false" => false,
            _ => return Reply::err("reactive parameter input error "),
        };
        self.send_file(taskfile, reactive, None).await.unwrap_or_else(Reply::from)
    }

    /// `job`: of `sends`, which made the task file.
    pub(super) async fn send_file(&self, taskfile: &str, reactive: bool, job: Option<i64>) -> Result<Reply, Refusal> {
        let read = self.read_task_file(taskfile).await;
        let (bytes, _) = read.map_err(|e| Refusal::unread(format!("open json file error:{}", open_error(taskfile, &e)), &e))?;
        let mut task = TaskFile::parse(&bytes).map_err(|e| Refusal::for_good(parse_error(&e, taskfile)))?;
        let name = TaskName::from_path(taskfile).map_err(|e| Refusal::for_good(format!("error, {e}")))?;
        self.must_be_sender("send").map_err(|reply| Refusal::for_good(reply.desc))?;
        // Twice: before the library is read, which may take its time, and again when nobody else can come between.
        let (reply, _) = self.admit_send(&name, &task, reactive).await?;
        task.sendtime = self.task_time();
        let torrent = match self.check_package(&task).await {
            Ok(torrent) => torrent,
            Err(Unfit::NoTorrent(why)) => return Err(why),
            Err(Unfit::Changed(why)) if reply.desc == RESTARTED => {
                // The text has no room for the reason.
                self.event(Level::Error, "send", name.as_str(), &why.desc).await;
                let desc = format!("restart bt serving failed: {} in {name} ", torrent_name(&task));
                return Err(Refusal { desc, ..why });
            }
            Err(Unfit::Changed(why)) => return Err(why),
        };
        let _one = self.admission.lock().await;
        let (reply, old) = self.admit_send(&name, &task, reactive).await?;
        let tmp = self.dirs.tmp(Role::Send).join(name.as_str());
        let elsewhere = Path::new(taskfile).parent() != tmp.parent();
        // One of that name that waits there is another client's: it stays.
        // (The same bytes are of a try of ours that was killed.)
        let taken = elsewhere && tmp.is_file() && !views::holds(&tmp, &bytes);
        if elsewhere
            && !taken
            && let Err(fault) = self.dirs.guard(&self.store).await.and_then(|area| self.dirs.put(&area, &tmp, &bytes))
        {
            self.event(Level::Error, "send", name.as_str(), &fault.message).await;
            return Err(Refusal::for_now(format!("copy taskfile: {taskfile} error.")));
        }
        let now = self.clock.now_ms();
        let new = new_send(&self.config.current(), &name, &task, torrent, now);
        let accepted = match job {
            Some(job) => self.store.accept_generated(&new, job, now).await,
            None => self.store.accept_task(&new, now).await,
        };
        if accepted.is_err() && elsewhere && !taken {
            let _ = std::fs::remove_file(&tmp); // our copy
        }
        if let Ok(Some(row)) = self.store.task(accepted?).await {
            self.export(&row).await;
        }
        if !taken {
            let _ = std::fs::remove_file(tmp); // moved: it lies in queues now
        }
        let again = if old.is_some() { " (again)" } else { "" };
        self.event(Level::Info, "send", name.as_str(), &format!("accepted{again}: {} bytes, {}", task.size, task.ratio)).await;
        self.nudge.notify_one();
        Ok(reply)
    }

    /// The decision table of section 3.1.
    async fn admit_send(&self, name: &TaskName, task: &TaskFile, reactive: bool) -> Result<(Reply, Option<TaskRow>), Refusal> {
        let old = self.store.task_to_replace(Role::Send, name).await?;
        let Some(row) = old else { return Ok((Reply::ok("succeeded!"), None)) };
        let place = self.dirs.path(Role::Send, row.state, name);
        match row.state {
            TaskState::Queues => Err(Refusal::for_good(format!("same taskfile in queues:{}", place.display()))),
            TaskState::Uploading => Err(Refusal::for_good(format!("same taskfile in uploading:{}", place.display()))),
            _ => {
                let legs = self.store.legs(row.id).await?;
                let seeding = row.state == TaskState::Uploaded
                    && legs.iter().any(|l| l.method == Method::Bt && l.state == LegState::Running);
                let torrent = torrent_name(task);
                match (seeding, reactive) {
                    (true, false) => Err(Refusal::for_good(format!(
                        "exisited same name ct torrent bt process, send task failed: {torrent} in {name} "
                    ))),
                    (true, true) => Ok((Reply::ok(RESTARTED), Some(row))),
                    (false, _) => Ok((Reply::ok("succeeded!"), Some(row))),
                }
            }
        }
    }

    /// Where the torrent that a task of ours needs lies; `None` when bt has no part.
    pub(super) fn torrent_path(&self, task: &TaskFile) -> Option<PathBuf> {
        let config = self.config.current();
        torrent_kind(task).map(|kind| match kind {
            TorrentKind::Full => paths::full_torrent(&config.dcps_dir(&task.basesubdir), &task.name),
            TorrentKind::Part => paths::part_torrent(&config.dcps_tmp_dir(&task.basesubdir), &task.name),
        })
    }

    /// The package is still what the task says; the torrent that the ratio needs is there and agrees. Returns the torrent.
    async fn check_package(&self, task: &TaskFile) -> Result<Option<Vec<u8>>, Unfit> {
        let root = package_path(&self.config.current(), task);
        let torrent = self.torrent_path(task);
        let task = task.clone();
        self.look_through(move || {
            let bytes = match torrent {
                None => None,
                Some(path) => {
                    let missing = format!("not found torrent:{} pls re generate task and torrent. ", path.display());
                    let bytes = std::fs::read(&path).map_err(|e| Unfit::NoTorrent(Refusal::unread(missing, &e)))?;
                    if let Some(difference) = mismatch(&task, &bytes) {
                        return Err(Unfit::Changed(Refusal::for_good(format!(
                            "taskfile btlist is not equal torrent content, check taskfile or tmp torrent: {}: {difference}",
                            path.display()
                        ))));
                    }
                    Some(bytes)
                }
            };
            check_sizes(&root, &task).map_err(Unfit::Changed)?;
            check_documents(&root, &task).map_err(|fault| Unfit::Changed(fault.into()))?;
            Ok(bytes)
        })
        .await
        .unwrap_or_else(|refused| Err(Unfit::Changed(refused)))
    }
}

/// What a task file that cannot be used says to the client.
pub(super) fn parse_error(e: &TaskFileError, path: &str) -> String {
    match e {
        TaskFileError::NotJson(_) => format!("invalid json format:{path}"),
        TaskFileError::TotalZero => format!("total files size equal 0 :{path}"),
        TaskFileError::ListsSum { .. } => format!("totalsize != all lists sum : {path}"),
        bad @ TaskFileError::Bad { .. } => format!("error, invalid task file {path}: {bad}"),
    }
}

fn torrent_name(task: &TaskFile) -> String {
    match torrent_kind(task) {
        Some(TorrentKind::Part) => format!("{}-tmp.torrent", task.name),
        _ => format!("{}.torrent", task.name),
    }
}

/// Where a sender keeps the package of a task.
fn package_path(config: &Config, task: &TaskFile) -> PathBuf {
    config.dcps_dir(&task.basesubdir).join(task.name.as_str())
}

fn check_sizes(root: &Path, task: &TaskFile) -> Result<(), Refusal> {
    for f in &task.files {
        let path = if task.kind == Kind::File { root.to_owned() } else { f.path.under(root) };
        match path.symlink_metadata() {
            Ok(m) if m.is_file() && m.len() == f.size => {}
            Ok(m) => {
                return Err(Refusal::for_good(format!(
                    "error, {} has {} bytes and the task says {}: the package changed, run gentask again.",
                    path.display(),
                    m.len(),
                    f.size
                )));
            }
            Err(e) => {
                let why = open_error(&path.display().to_string(), &e);
                return Err(Refusal::unread(format!("error, {why}: the package changed, run gentask again."), &e));
            }
        }
    }
    Ok(())
}

fn check_documents(root: &Path, task: &TaskFile) -> Result<(), Fault> {
    if task.kind == Kind::File {
        return Ok(());
    }
    let Some(documents) = PackageDocuments::read(root)? else { return Ok(()) };
    let files: Vec<_> = task.files.iter().map(|f| (f.path.clone(), f.size, f.sha1)).collect();
    let verdict = Verdict::of(&documents.compare(&files));
    if verdict.ok {
        return Ok(());
    }
    Err(Fault::permanent(format!(
        "{} does not match its packing list: {}. Repair the package and run gentask again.",
        root.display(),
        verdict.text
    )))
}

fn new_send(config: &Config, name: &TaskName, task: &TaskFile, torrent: Option<Vec<u8>>, now_ms: i64) -> NewTask {
    let spans: Vec<NewSpan> =
        task.spans_by_method().into_iter().map(|(span, m)| NewSpan { span, method: Some(m), planned: m }).collect();
    NewTask {
        role: Role::Send,
        name: name.clone(),
        package: task.name.clone(),
        basesubdir: task.basesubdir.clone(),
        policy: task.policy,
        ratio: task.ratio.to_string(),
        bytes_total: task.size,
        bytes_local: 0,
        document: task.to_json(),
        torrent,
        store_path: package_path(config, task),
        files: new_files(task),
        legs: legs_of(&spans),
        spans,
        schedules: schedules_of(config, task),
        seed_until: Some(now_ms.saturating_add(task.seed_ms())),
    }
}

pub(super) fn new_files(task: &TaskFile) -> Vec<NewFile> {
    task.files.iter().map(|f| NewFile { path: f.path.clone(), size: f.size, sha1: f.sha1, local_source: None }).collect()
}

/// One leg for every method that has a span, with its bytes.
pub(super) fn legs_of(spans: &[NewSpan]) -> Vec<(Method, u64)> {
    Method::ALL
        .into_iter()
        .filter(|m| spans.iter().any(|s| s.method == Some(*m)))
        .map(|m| (m, spans.iter().filter(|s| s.method == Some(m)).map(|s| s.span.len).sum()))
        .collect()
}

/// The task's windows, else the node's own.
pub(super) fn schedules_of(config: &Config, task: &TaskFile) -> Vec<(Method, String)> {
    let own = [&config.bttime, &config.obstime, &config.cdntime];
    Method::ALL
        .into_iter()
        .zip(own)
        .filter(|_| task.policy == crate::model::task::Policy::Priortime)
        .map(|(m, own)| (m, task.windows(m).unwrap_or(own).to_string()))
        .collect()
}
