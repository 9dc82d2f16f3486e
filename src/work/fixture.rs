//! A node with a real database in a temporary directory, for the tests of this folder.

use super::Node;
use super::legs::Plan;
use crate::clock::Clock;
use crate::config::{Config, ConfigHandle};
use crate::model::endpoint::{ObsEndpoint, ObsUrl};
use crate::model::ids::{BaseSubdir, PackageName, RelPath, Sha1, TaskName};
use crate::model::ratio::Ratio;
use crate::model::secret::Secret;
use crate::model::span::{Method, Span};
use crate::model::task::{Policy, Role, TaskState};
use crate::model::task_file::{FileEntry, TaskFile};
use crate::store::Store;
use crate::store::tasks::{NewFile, NewSpan, NewTask, TaskRow};
use crate::transport::bt::{BtEngine, EngineOptions};
use crate::transport::limit::Limiter;
use crate::views::TaskDirs;
use crate::views::area::Area;
use chrono::{Local, TimeZone as _};
use sha1::Digest as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the fixed clock shows (milliseconds).
pub const NOW: i64 = 1_000_000;
/// `retries` and `retrydelay` of the node.
pub const RETRIES: u32 = 2;
pub const DELAY_MS: i64 = 10_000;

pub struct Fixture {
    pub dir: TempDir,
    pub node: Arc<Node>,
}

/// One file of a task: path, bytes, its method (`None`: a library copy from `source`), what the sender planned.
pub struct Given {
    pub path: &'static str,
    pub bytes: Vec<u8>,
    pub method: Option<Method>,
    pub planned: Method,
    pub source: Option<PathBuf>,
}

pub fn given(path: &'static str, method: Method) -> Given {
    Given { path, bytes: path.repeat(100).into_bytes(), method: Some(method), planned: method, source: None }
}

/// Whatever port is free is somebody else's by the time that it is used, now and then.
async fn engine(dir: &Path) -> Arc<BtEngine> {
    let mut tries = 0;
    loop {
        match BtEngine::start(EngineOptions::new("127.0.0.1:0".parse().unwrap(), dir.to_owned())).await {
            Ok(engine) => return engine,
            Err(fault) if tries == 20 => panic!("{fault}"),
            Err(_) => tries += 1,
        }
    }
}

impl Fixture {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = serde_json::json!({
            "servertype": "receiver", "receiverid": "cfec0001", "basedatapath": at("dcp"), "datadir": at("data"),
            "database": at("bft2.db"), "logdir": at("log"), "retries": RETRIES, "retrydelay": DELAY_MS / 1000,
        });
        let (config, _) = Config::parse(text.to_string().as_bytes()).unwrap();
        let bt = engine(&at("engine")).await;
        let dirs = TaskDirs::of(&config);
        dirs.create(&[Role::Recv]).unwrap();
        let area = Area::new(config.transfer_dir());
        area.take().unwrap();
        let store = Store::open(&config.database).await.unwrap();
        assert_eq!(area.look(&store).await.unwrap(), None);
        let node = Node {
            store,
            config: ConfigHandle::new(at("config.json"), config),
            clock: Clock::fixed(Local.timestamp_millis_opt(NOW).unwrap()),
            dirs,
            bt,
            limiters: [Limiter::new(None), Limiter::new(None), Limiter::new(None)],
            http: reqwest::Client::new(),
            nudge: Arc::default(),
            pulse: Default::default(),
            area,
        };
        Self { dir, node: Arc::new(node) }
    }

    /// The rows of a reception. `obs`: the bucket may have the files too.
    pub fn new_task(&self, files: &[Given], obs: bool) -> NewTask {
        let sha1 = |b: &[u8]| Sha1(sha1::Sha1::digest(b).into());
        let rel = |p: &str| RelPath::parse(p).unwrap();
        let entries = files.iter().map(|f| FileEntry { path: rel(f.path), size: f.bytes.len() as u64, sha1: sha1(&f.bytes) });
        let (package, subdir) = (PackageName::parse("Film_FTR").unwrap(), BaseSubdir::parse("cfec-001").unwrap());
        let ratio = Ratio::new(1, 1, 1).unwrap();
        let mut doc = TaskFile::new(package.clone(), subdir.clone(), ratio, Policy::Fulltime, entries.collect());
        let whole = |n: usize| Span { file: n as u32, offset: 0, len: files[n].bytes.len() as u64 };
        let planned: Vec<_> = files.iter().enumerate().map(|(n, f)| (whole(n), f.planned)).collect();
        doc.set_spans(&planned, 1 << 20);
        doc.cdn.url = Some("http://cdn.example.com/dcp/Film_FTR".into());
        if obs {
            doc.obs.url = ObsUrl::parse_with_key("obs://cfec-001/dcps/Film_FTR");
            doc.obs.endpoint = ObsEndpoint::parse("obs.example.com");
            (doc.obs.ak, doc.obs.sk) = (Secret::new("EXAMPLE-AK"), Secret::new("EXAMPLE-SK"));
        }
        let spans: Vec<_> =
            (0..).zip(files).map(|(n, f)| NewSpan { span: whole(n), method: f.method, planned: f.planned }).collect();
        let bytes = |m: Option<Method>| spans.iter().filter(|s| s.method == m).map(|s| s.span.len).sum::<u64>();
        NewTask {
            role: Role::Recv,
            name: TaskName::parse("film.task.json").unwrap(),
            package,
            basesubdir: subdir,
            policy: Policy::Fulltime,
            ratio: ratio.to_string(),
            bytes_total: doc.size,
            bytes_local: bytes(None),
            document: doc.to_json(),
            torrent: None,
            store_path: self.dir.path().join("dcp/Film_FTR"),
            files: files
                .iter()
                .map(|f| NewFile {
                    path: rel(f.path),
                    size: f.bytes.len() as u64,
                    sha1: sha1(&f.bytes),
                    local_source: f.source.clone(),
                })
                .collect(),
            legs: Method::ALL.into_iter().filter(|m| bytes(Some(*m)) > 0).map(|m| (m, bytes(Some(m)))).collect(),
            spans,
            schedules: Vec::new(),
            seed_until: None,
        }
    }

    /// A reception that is at work.
    pub async fn receive(&self, files: &[Given], obs: bool) -> TaskRow {
        let id = self.node.store.accept_task(&self.new_task(files, obs), NOW).await.unwrap();
        assert!(self.node.store.move_task(id, TaskState::Queues, TaskState::Downloading, "", NOW).await.unwrap());
        self.node.store.task(id).await.unwrap().unwrap()
    }

    pub async fn plan(&self, task: i64) -> Plan {
        let row = self.node.store.task(task).await.unwrap().unwrap();
        Plan::load(&self.node.store, row).await.unwrap()
    }

    /// `bt waiting 5, cdn done 0`: the legs with the bytes that they have to bring.
    pub async fn legs(&self, task: i64) -> String {
        let legs = self.node.store.legs(task).await.unwrap();
        legs.iter().map(|l| format!("{} {} {}", l.method, l.state, l.bytes_total)).collect::<Vec<_>>().join(", ")
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
