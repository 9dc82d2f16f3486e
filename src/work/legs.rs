//! One worker per leg: builds the leg's transport from the task and the configuration, runs it, reports how it ended.

use super::Node;
use crate::assembly::Assembly;
use crate::config::{Config, MachineType};
use crate::error::Fault;
use crate::model::span::{Method, Span};
use crate::model::task_file::TaskFile;
use crate::package;
use crate::store::Store;
use crate::store::task_files::SpanRow;
use crate::store::tasks::TaskRow;
use crate::transport::bt::{BtSource, BtTransport, wrong_files};
use crate::transport::cdn::{CdnOptions, CdnTransport};
use crate::transport::obs::{EndpointFrom, ObsLocation, ObsOptions, ObsTransport};
use crate::transport::{Checkpoints, Counters, FetchJob, FileMeta, LegContext, Outcome, PublishJob, Transport};
use percent_encoding::percent_decode_str;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether what others wrote into is hashed again.
const LOOK: Duration = Duration::from_millis(200);

/// What a leg's run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Fetch,
    Publish,
    /// A cacher: fetch, then seed at once from the same place.
    FetchThenSeed,
}

/// A task with everything its legs need.
pub struct Plan {
    pub task: TaskRow,
    pub file: TaskFile,
    pub files: Arc<[FileMeta]>,
    pub spans: Vec<SpanRow>,
}

impl Plan {
    pub async fn load(store: &Store, task: TaskRow) -> Result<Self, Fault> {
        let document = store.task_document(task.id).await?;
        let file =
            TaskFile::parse(document.as_bytes()).map_err(|e| Fault::local(format!("stored task file of {}: {e}", task.name)))?;
        let files = store.task_files(task.id).await?;
        let files = files.into_iter().map(|f| FileMeta { path: f.path, size: f.size, sha1: f.sha1 }).collect();
        let spans = store.task_spans(task.id).await?;
        Ok(Self { task, file, files, spans })
    }

    /// What the file list's paths are relative to: the package, or the store for a package of a single file.
    pub fn package_root(&self) -> PathBuf {
        let path = &self.task.store_path;
        match path.parent().filter(|_| self.file.is_single()) {
            Some(store) => store.to_owned(),
            None => path.clone(),
        }
    }

    pub fn spans_of(&self, method: Method) -> Vec<Span> {
        self.spans.iter().filter(|s| s.method == Some(method)).map(|s| s.span).collect()
    }
}

/// Everything one run needs.
pub struct Run {
    pub node: Arc<Node>,
    pub plan: Arc<Plan>,
    pub method: Method,
    pub purpose: Purpose,
    /// Files that others bring.
    pub leaves: HashSet<u32>,
    /// For receiving tasks.
    pub assembly: Option<Arc<Assembly>>,
    pub counters: Arc<Counters>,
    pub stop: CancellationToken,
}

impl Run {
    pub async fn run(self) -> Result<Outcome, Fault> {
        let transport = self.transport().await?;
        match self.purpose {
            Purpose::Publish => transport.publish(self.publish_job(self.plan.package_root())).await,
            Purpose::Fetch => {
                let outcome = transport.fetch(self.fetch_job()?).await?;
                // Done is recorded after this, and whoever reads it does not look for missing bytes again.
                if outcome == Outcome::Done {
                    self.assembly()?.sync().await?;
                }
                Ok(outcome)
            }
            Purpose::FetchThenSeed => {
                if transport.fetch(self.fetch_job()?).await? == Outcome::Stopped {
                    return Ok(Outcome::Stopped);
                }
                let assembly = self.assembly()?;
                assembly.sync().await?;
                if !self.hashed_again(assembly).await? {
                    return Ok(Outcome::Stopped);
                }
                transport.publish(self.publish_job(assembly.root().to_owned())).await
            }
        }
    }

    /// Waits until files into which others wrote are hashed again: nobody gets a byte of them before. `false`: stopped.
    async fn hashed_again(&self, assembly: &Arc<Assembly>) -> Result<bool, Fault> {
        while assembly.is_hashing_again() {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        let parts = assembly.doubted_parts();
        if !parts.is_empty() {
            let (source, files, sink) = (self.bt_source(true).await?, Arc::clone(&self.plan.files), Arc::clone(assembly));
            let check = move || wrong_files(&source, &files, &parts, &*sink).map(|wrong| sink.checked_parts(&parts, &wrong));
            tokio::task::spawn_blocking(check).await.map_err(|e| Fault::local(format!("checking pieces: {e}")))??;
        }
        if assembly.has_vanished() {
            self.stop.cancelled().await;
        }
        Ok(!self.stop.is_cancelled())
    }

    async fn bt_source(&self, known_good: bool) -> Result<BtSource, Fault> {
        let file = &self.plan.file;
        let torrent = self.node.store.task_torrent(self.plan.task.id).await?;
        let torrent = torrent.ok_or_else(|| Fault::permanent("the task has no torrent: generate and send it again"))?;
        let map = file.spans_by_method().into_iter().filter(|(_, m)| *m == Method::Bt).map(|(s, _)| s).collect();
        let trackers = file.bt.tracker.iter().cloned().collect();
        Ok(BtSource { torrent, map, trackers, peers: file.bt.peers.clone(), known_good })
    }

    fn assembly(&self) -> Result<&Arc<Assembly>, Fault> {
        self.assembly.as_ref().ok_or_else(|| Fault::local("the staging directory is not open"))
    }

    fn context(&self) -> LegContext {
        LegContext {
            task: self.plan.task.name.to_string(),
            counters: Arc::clone(&self.counters),
            stop: self.stop.clone(),
            checkpoints: Arc::new(LegNotes { store: self.node.store.clone(), task: self.plan.task.id, method: self.method }),
            limiter: self.node.limiter(self.method),
        }
    }

    fn fetch_job(&self) -> Result<FetchJob, Fault> {
        Ok(FetchJob {
            files: Arc::clone(&self.plan.files),
            spans: self.plan.spans_of(self.method).into_iter().filter(|s| !self.leaves.contains(&s.file)).collect(),
            sink: Arc::clone(self.assembly()?) as _,
            ctx: self.context(),
        })
    }

    fn publish_job(&self, root: PathBuf) -> PublishJob {
        let spans = match self.method {
            // A seed serves what its torrent holds, however this node came by it.
            Method::Bt => {
                self.plan.file.spans_by_method().into_iter().filter(|(_, m)| *m == Method::Bt).map(|(s, _)| s).collect()
            }
            other => self.plan.spans_of(other),
        };
        PublishJob { files: Arc::clone(&self.plan.files), spans, root, ctx: self.context() }
    }

    async fn transport(&self) -> Result<Box<dyn Transport>, Fault> {
        let (config, file) = (self.node.config.current(), &self.plan.file);
        Ok(match self.method {
            Method::Cdn => {
                let url = file.cdn.url.as_deref().ok_or_else(|| Fault::permanent("the task has no cdn.url"))?;
                let url = file_base(url, file)
                    .parse()
                    .map_err(|e| Fault::permanent(format!("bad cdn.url {:?}: {e}", crate::model::endpoint::shown(url))))?;
                Box::new(CdnTransport::new(url, CdnOptions::default())?)
            }
            Method::Obs => {
                let options = ObsOptions { upload: uploads(&config, file), ..ObsOptions::default() };
                let sent = file.spans_by_method().into_iter().filter(|(_, m)| *m == Method::Obs).map(|(s, _)| s).collect();
                Box::new(ObsTransport::new(obs_location(&config, file)?, options)?.objects(sent))
            }
            Method::Bt => {
                let known_good = self.purpose != Purpose::Publish || self.unchanged().await?;
                let caching = self.purpose == Purpose::FetchThenSeed;
                Box::new(BtTransport::new(Arc::clone(&self.node.bt), self.bt_source(known_good).await?).caching(caching))
            }
        })
    }

    /// Are the package's files still those that were hashed here? Then a seed need not read them all again.
    async fn unchanged(&self) -> Result<bool, Fault> {
        let root = self.plan.task.store_path.clone();
        let known = self.node.store.library_below(&root).await?;
        let files = Arc::clone(&self.plan.files);
        let single = self.plan.file.is_single();
        tokio::task::spawn_blocking(move || {
            let known: std::collections::HashMap<_, _> = known.iter().map(|k| (k.path.as_path(), k)).collect();
            files.iter().all(|f| {
                let path = if single { root.clone() } else { f.path.under(&root) };
                known
                    .get(path.as_path())
                    .is_some_and(|k| k.sha1 == f.sha1 && package::scan::is_unchanged(&path, k.size, k.mtime_ns, k.inode))
            })
        })
        .await
        .map_err(|e| Fault::local(format!("looking at the package: {e}")))
    }
}

/// Are objects uploaded? A library in a mounted bucket, and data that came from the bucket, are there (protocol sections 1, 6).
pub fn uploads(config: &Config, file: &TaskFile) -> bool {
    config.machinetype == MachineType::Local && file.datasource != Config::IN_BUCKET
}

/// The store of a task: an empty endpoint or key in the task file means the node's own. `file:` comes from the node's own
/// configuration alone.
pub fn obs_location(config: &Config, file: &TaskFile) -> Result<ObsLocation, Fault> {
    let url = file.obs.url.as_ref().ok_or_else(|| Fault::permanent("the task has no obs.url"))?.to_string();
    let (endpoint, from) = match (&file.obs.endpoint, &config.obsendpoint) {
        (Some(given), _) => (given.as_str(), EndpointFrom::Outside),
        (None, Some(own)) => (own.as_str(), EndpointFrom::OwnConfig),
        (None, None) => ("", EndpointFrom::OwnConfig),
    };
    // Our keys sign for our own store only: a task could name any host and collect what they signed.
    let ours = file.obs.endpoint.as_ref().is_none_or(|e| config.obsendpoint.as_ref().is_some_and(|own| own.store() == e.store()));
    let pick = |task: &str, own: &str| if task.is_empty() && ours { own.to_owned() } else { task.to_owned() };
    let ak = pick(file.obs.ak.reveal(), config.obsak.reveal());
    let sk = pick(file.obs.sk.reveal(), config.obssk.reveal());
    let location = ObsLocation::parse(file_base(&url, file), endpoint, &ak, &sk, from)?;
    Ok(if file.obs.sk.reveal().is_empty() { location.with_own_keys() } else { location })
}

/// What the paths of the file list are added to. The address of a package that is one file is that file's own.
fn file_base<'a>(url: &'a str, file: &TaskFile) -> &'a str {
    match url.trim_end_matches('/').rsplit_once('/') {
        Some((base, last)) if file.is_single() && percent_decode_str(last).eq(file.name.as_str().bytes()) => base,
        _ => url,
    }
}

/// A leg's notes in the database.
pub struct LegNotes {
    pub store: Store,
    pub task: i64,
    pub method: Method,
}

#[async_trait::async_trait]
impl Checkpoints for LegNotes {
    async fn load(&self, key: &str) -> Result<Option<String>, Fault> {
        self.store.checkpoint(self.task, self.method, key).await
    }
    async fn save(&self, key: &str, value: &str) -> Result<(), Fault> {
        self.store.save_checkpoint(self.task, self.method, key, value).await
    }
    async fn remove(&self, key: &str) -> Result<(), Fault> {
        self.store.remove_checkpoint(self.task, self.method, key).await
    }
    async fn of_others(&self, key: &str) -> Result<Vec<String>, Fault> {
        self.store.checkpoints_of_others(self.task, self.method, key).await
    }
}
