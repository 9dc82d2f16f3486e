//! `gentask` and `taskfilesquery` (protocol sections 3.5 and 3.6): check the request, queue the job, tell how it is.

use super::{Desk, GentaskRequest, QueryReply, Reply, failed};
use crate::config::Config;
use crate::model::endpoint::{OBS_ENDPOINT_ALLOWED, OBS_URL_ALLOWED, ObsEndpoint, ObsUrl, TRACKER_ALLOWED, tracker_url};
use crate::model::generation::GenerationOrder;
use crate::model::ids::{BaseSubdir, PackageName, TaskName};
use crate::model::ratio::{self, Ratio};
use crate::model::task::Policy;
use crate::model::task_file::{MAX_SEEDTIME_HOURS, TaskFile};
use crate::package::paths;
use crate::store::events::Level;
use crate::store::generations::{GenerationRow, GenerationState};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A generation from stored hashes is over in an instant: so long the reply waits for it.
pub(super) const SOON: Duration = Duration::from_secs(3);

/// A job that was queued, and the files to wait for.
pub(super) struct Job {
    pub(super) id: i64,
    pub(super) dcppath: String,
    pub(super) taskfile: String,
    pub(super) full: PathBuf,
    pub(super) part: PathBuf,
    /// Everything is known already: it will be over in an instant.
    pub(super) cached: bool,
}

impl Desk {
    pub async fn gentask(&self, r: GentaskRequest) -> Reply {
        let job = match self.queue_gentask(&r, false).await {
            Ok(job) => job,
            Err(refused) => return refused,
        };
        if job.cached && self.ends_soon(&job).await {
            return Reply::ok("succeeded!");
        }
        let (full, part) = (job.full.display(), job.part.display());
        Reply::ok(format!("please wait until {full}, {part} and {} all are finished.", job.taskfile))
    }

    /// Checks a request and queues its job; `send`: what it makes is sent when it is finished.
    pub(super) async fn queue_gentask(&self, r: &GentaskRequest, send: bool) -> Result<Job, Reply> {
        let (config, request) = (self.config.current(), r.clone());
        let order = self.glance(move || check_gentask(&config, &request)).await.map_err(Reply::from)?.map_err(Reply::err)?;
        self.must_be_sender(if send { "sends" } else { "gentask" })?;
        let config = self.config.current();
        let full = paths::full_torrent(&config.dcps_dir(&order.basesubdir), &order.name);
        let part = paths::part_torrent(&config.dcps_tmp_dir(&order.basesubdir), &order.name);
        let (dcppath, taskfile) = (order.dcppath.display().to_string(), order.taskfile.display().to_string());
        let generating = || Reply::err(format!("same torrent process is generating:{} ", full.display()));
        // Nobody else's job comes between: what is removed below would be what it has just written.
        let _one = self.generating.lock().await;
        if matches!(self.store.generation(&dcppath, &taskfile).await, Ok(Some(g)) if g.state.is_live()) {
            return Err(generating());
        }
        // Of a request that is refused since somebody holds the database, everything stays.
        self.store.can_write().await.map_err(|fault| failed(&fault))?;
        // The client polls for the file's existence: an old one must not look like the new one.
        let (torrent, old) = (full.clone(), order.taskfile.clone());
        let look = move || crate::views::remove(&old).map(|()| torrent.exists());
        let there = self.glance(look).await.map_err(Reply::from)?.map_err(|fault| failed(&fault))?;
        let cached = there && !order.deloldtorrent && matches!(self.store.torrent(&order.dcppath).await, Ok(Some(_)));
        let queued = self.store.queue_generation(&dcppath, &taskfile, &order.to_json(), send, self.clock.now_ms()).await;
        let id = queued.map_err(|fault| failed(&fault))?.ok_or_else(generating)?;
        let name = order.taskfile.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let kind = if send { "sends" } else { "gentask" };
        self.event(Level::Info, kind, &name, &format!("{dcppath}: {} {}", order.ratio, order.policy)).await;
        self.nudge.notify_one();
        Ok(Job { id, dcppath, taskfile, full, part, cached })
    }

    pub(super) async fn ends_soon(&self, job: &Job) -> bool {
        let looks = SOON.as_millis() / 50;
        for _ in 0..looks {
            match self.store.generation(&job.dcppath, &job.taskfile).await {
                Ok(Some(g)) if g.id == job.id && g.state == GenerationState::Finished => return true,
                Ok(Some(g)) if g.id == job.id && g.state.is_live() => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => return false,
            }
        }
        false
    }

    pub async fn taskfilesquery(&self, dcppath: &str, taskfile: &str) -> QueryReply {
        let reply = |ok, status, desc: String| QueryReply { ok, status, desc };
        let given = dcppath.trim_end_matches('/').to_owned();
        let job = match self.store.generation(&given, taskfile).await {
            // One that waits for its disk has no package there.
            Ok(job) => job.filter(|g| g.state.is_live() && spellings(&given).contains(&PathBuf::from(&g.dcppath))),
            Err(fault) => return reply(false, "error", failed(&fault).desc),
        };
        if let Some(reply) = job.and_then(|job| unfinished(&job, taskfile)) {
            return reply;
        }
        let path = given.clone();
        let found = match self.glance(move || locate(&path)).await {
            Ok(Some(found)) => found,
            Ok(None) => return reply(false, "error", format!("not exist {given} ")),
            Err(refused) => return reply(false, "error", refused.desc),
        };
        let job = match self.store.generation(&found.display().to_string(), taskfile).await {
            Ok(job) => job.filter(|g| g.taskfile == taskfile || g.state.is_live()),
            Err(fault) => return reply(false, "error", failed(&fault).desc),
        };
        if let Some(reply) = job.as_ref().and_then(|job| unfinished(job, taskfile)) {
            return reply;
        }
        if let Some(failed) = job.filter(|g| g.state == GenerationState::Failed) {
            return reply(false, "error", failed.error);
        }
        let file = PathBuf::from(taskfile);
        match self.glance(move || file.exists()).await {
            Ok(true) => {}
            Ok(false) => return reply(true, "unfinished", "no make seed process and not found task.json.".into()),
            Err(refused) => return reply(false, "error", refused.desc),
        }
        match self.read_task_file(taskfile).await.map(|(bytes, _)| TaskFile::parse(&bytes)) {
            Ok(Ok(task)) => {
                let torrent = self.torrent_path(&task);
                match self.glance(move || torrent.is_none_or(|t| t.exists())).await {
                    Ok(true) => reply(true, "finished", "succeed!".into()),
                    Ok(false) => reply(true, "unfinished", not_all_there(&found, taskfile)),
                    Err(refused) => reply(false, "error", refused.desc),
                }
            }
            _ => reply(false, "error", format!("open json file error: {taskfile} ")),
        }
    }
}

/// Looks at the library.
fn check_gentask(config: &Config, r: &GentaskRequest) -> Result<GenerationOrder, String> {
    if r.taskfile.is_empty() {
        return Err("error, please provide taskfile path.".into());
    }
    let taskfile = PathBuf::from(&r.taskfile);
    if !taskfile.is_absolute() || !r.taskfile.ends_with(".task.json") {
        return Err(format!("error, invalid taskfile: {}. Give an absolute path that ends with .task.json.", r.taskfile));
    }
    TaskName::from_path(&r.taskfile).map_err(|e| format!("error, invalid taskfile: {e}."))?;
    if let Some(dir) = taskfile.parent().filter(|d| !d.is_dir()) {
        return Err(format!("error, invalid taskfile: {}. The directory {} does not exist.", r.taskfile, dir.display()));
    }
    let given = r.dcppath.trim_end_matches('/');
    let subdir = if r.basesubdir.is_empty() { config.basesubdir.clone() } else { BaseSubdir::parse(&r.basesubdir).ok() };
    let basesubdir = subdir.ok_or_else(|| format!("error, invalid basesubdir: {}.", r.basesubdir))?;
    let dcppath = locate(given).ok_or_else(|| format!("error, not exist dcp path: {given}."))?;
    let name = dcppath.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name = PackageName::parse(name).map_err(|e| format!("error, invalid dcppath: {e}."))?;
    let store = config.dcps_dir(&basesubdir);
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(x), Ok(y)) if x == y);
    if !dcppath.parent().is_some_and(|p| same(p, &store)) {
        return Err(format!("error, invalid dcppath: {given}. A package of {basesubdir} lies in {}.", store.display()));
    }
    let or = |given: &str, default: String| if given.is_empty() { default } else { given.to_owned() };
    let ratio = Ratio::parse(&or(&r.btobscdn, config.ratio.to_string()))
        .map_err(|_| format!("error, invalid btobscdn: {}. Allowed: {}.", r.btobscdn, ratio::ALLOWED))?;
    // Told at once, and not after hours of hashing.
    if let Some((method, key)) = config.lacks(ratio, &r.obsurl) {
        return Err(format!("error, invalid btobscdn: {ratio}. It needs {method}, but {key} is not configured."));
    }
    let policy = Policy::parse(&or(&r.policy, config.policy.to_string()))
        .ok_or_else(|| format!("error, invalid policy: {}. Allowed: {}.", r.policy, Policy::ALLOWED.trim()))?;
    let hours = or(&r.seedtime, config.defaultseedtime_hours.to_string());
    let seedtime_hours = hours
        .parse()
        .ok()
        .filter(|h| *h <= MAX_SEEDTIME_HOURS)
        .ok_or_else(|| format!("error, invalid seedtime: {hours}. Allowed: whole hours from 0 to {MAX_SEEDTIME_HOURS}."))?;
    let tracker = match r.tracker.as_str() {
        "" => config.tracker.clone().unwrap_or_default(),
        given => tracker_url(given).ok_or_else(|| format!("error, invalid tracker: {given}. Allowed: {TRACKER_ALLOWED}."))?,
    };
    if !r.obsurl.is_empty() && ObsUrl::parse_with_key(&r.obsurl).is_none() {
        return Err(format!("error, invalid obsurl: {}. Allowed: {OBS_URL_ALLOWED}.", r.obsurl));
    }
    if !r.endpoint.is_empty() && ObsEndpoint::parse(&r.endpoint).is_none() {
        return Err(format!("error, invalid endpoint: {}. Allowed: {OBS_ENDPOINT_ALLOWED}.", r.endpoint));
    }
    let datasource = or(&r.datasource, config.datasource.clone());
    if !Config::is_datasource(&datasource) {
        return Err(format!("error, invalid datasource: {datasource}. Allowed: {}.", Config::DATASOURCES));
    }
    Ok(GenerationOrder {
        dcppath: store.join(name.as_str()),
        taskfile,
        name,
        basesubdir,
        ratio: ratio.to_string(),
        policy: policy.to_string(),
        tracker,
        seedtime_hours,
        datasource,
        obsurl: r.obsurl.clone(),
        ak: r.ak.clone(),
        sk: r.sk.clone(),
        endpoint: r.endpoint.clone(),
        deloldtorrent: r.deloldtorrent,
    })
}

/// The torrent is not there yet, whatever the task file (protocol section 3.6; the leading blank belongs to it).
fn not_all_there(dcppath: &Path, taskfile: &str) -> String {
    format!(" please wait until {}.torrent and {taskfile} all are finished.", dcppath.display())
}

/// What is said of a job that is to be done or at work.
fn unfinished(job: &GenerationRow, taskfile: &str) -> Option<QueryReply> {
    let desc = match job.state {
        GenerationState::Queued => not_all_there(Path::new(&job.dcppath), taskfile),
        GenerationState::Running => "process making seed ".into(),
        _ => return None,
    };
    Some(QueryReply { ok: true, status: "unfinished", desc })
}

/// A package by the path a client gives. Looks whether it is there.
pub(super) fn locate(given: &str) -> Option<PathBuf> {
    spellings(given).into_iter().find(|p| p.exists())
}

/// What a client can mean by a path; some write it without `/dcps` (protocol section 17, 25).
fn spellings(given: &str) -> Vec<PathBuf> {
    let path = Path::new(given);
    if given.is_empty() || !path.is_absolute() || given.split('/').any(|p| p == "..") {
        return Vec::new();
    }
    let with_dcps = || Some(path.parent()?.join("dcps").join(path.file_name()?));
    [Some(path.to_owned()), with_dcps()].into_iter().flatten().collect()
}
