//! Clients that ask a node while it works: a theatre management system, consoles, watchdogs.
//!
//! Each has a connection of its own and asks at a fixed pace, whether or not the answer before was slow, as real ones do.
//! (Clients that ask again as soon as they are answered would measure the machine, and take it from the delivery.)

use super::Trouble;
use bft2::model::ids::{BaseSubdir, PackageName, RelPath, Sha1, TaskName};
use bft2::model::span::{Method, Span};
use bft2::model::task::{Policy, Role, TaskState};
use bft2::store::Store;
use bft2::store::tasks::{NewFile, NewSpan, NewTask};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections.
pub const CALLERS: u32 = 16;
/// Tasks that the node remembers.
pub const HISTORY: u32 = 500;
/// Between two questions of one caller. Consoles ask once a second; their work is done by the same cores here.
const PACE: Duration = Duration::from_millis(200);

/// Writes tasks that ended long ago into the database of a node that does not run yet.
pub async fn remember(database: &Path) -> Result<(), Trouble> {
    let store = Store::open(database).await.map_err(|f| f.message)?;
    for n in 0..HISTORY {
        let files: Vec<NewFile> = (0..20)
            .map(|f| {
                let path = RelPath::parse(&format!("reel_{f}.mxf")).map_err(|e| e.to_string())?;
                Ok(NewFile { path, size: 1 << 30, sha1: Sha1([f; 20]), local_source: None })
            })
            .collect::<Result<_, String>>()?;
        let whole = |(idx, f): (usize, &NewFile)| NewSpan {
            span: Span { file: idx as u32, offset: 0, len: f.size },
            method: Some(Method::Cdn),
            planned: Method::Cdn,
        };
        let total = files.iter().map(|f| f.size).sum();
        let task = NewTask {
            role: Role::Recv,
            name: TaskName::parse(&name(n))?,
            package: PackageName::parse(&format!("film-{n}"))?,
            basesubdir: BaseSubdir::parse("cfec-001")?,
            policy: Policy::Fulltime,
            ratio: "0:0:1".into(),
            bytes_total: total,
            bytes_local: 0,
            document: "{}".into(),
            torrent: None,
            store_path: format!("/nowhere/film-{n}").into(),
            spans: files.iter().enumerate().map(whole).collect(),
            files,
            legs: vec![(Method::Cdn, total)],
            schedules: Vec::new(),
            seed_until: None,
        };
        let now = chrono::Utc::now().timestamp_millis();
        let id = store.accept_task(&task, now).await.map_err(|f| f.message)?;
        store.move_task(id, TaskState::Queues, TaskState::History, "cancelled", now).await.map_err(|f| f.message)?;
    }
    store.close().await;
    Ok(())
}

fn name(n: u32) -> String {
    format!("cfec-001-film-{n}.task.json")
}

/// Callers at work, in a thread of their own.
pub struct Callers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Duration>, String>>,
}

impl Callers {
    /// Every other question is a heartbeat; the others ask for the progress of `task` and of tasks that ended. Returns when
    /// each caller was answered once: 16 HTTP clients that are made at once cost a tenth of a second of this machine, and
    /// in the field other machines pay that.
    pub fn start(url: &str, task: &str) -> Result<Self, Trouble> {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, task, stopped) = (url.trim_end_matches('/').to_owned(), task.to_owned(), Arc::clone(&stop));
        let (ready, first) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
            runtime.block_on(async {
                let callers = (0..CALLERS).map(|n| call(n, &url, &task, ready.clone(), &stopped));
                let times = futures::future::try_join_all(callers).await?;
                Ok(times.concat())
            })
        });
        let callers = Self { stop, thread };
        if (0..CALLERS).any(|_| first.recv().is_err()) {
            callers.stop()?;
            return Err("a caller ended before it asked".into());
        }
        Ok(callers)
    }

    /// How long each answer took.
    pub fn stop(self) -> Result<Vec<Duration>, Trouble> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "a caller broke")??)
    }
}

async fn call(n: u32, url: &str, task: &str, ready: Sender<()>, stopped: &AtomicBool) -> Result<Vec<Duration>, String> {
    let refused = |e: reqwest::Error| format!("a caller was not answered: {e}");
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build().map_err(refused)?;
    http.get(format!("{url}/heartbeat")).send().await.map_err(refused)?.bytes().await.map_err(refused)?;
    let _ = ready.send(());
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + PACE * n / CALLERS, PACE);
    let (mut times, mut turn) = (Vec::new(), n);
    while !stopped.load(Ordering::Relaxed) {
        pace.tick().await;
        turn += 1;
        let asked = if turn % 4 == 1 { name(turn % HISTORY) } else { task.to_owned() };
        let body = json!({"message_id": "1", "method_name": "progress", "method_params": {"taskfile": asked}});
        let request = match turn % 2 {
            0 => http.get(format!("{url}/heartbeat")),
            _ => http.post(format!("{url}/progress")).json(&body),
        };
        let began = Instant::now();
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).map_err(refused)?;
        answer.bytes().await.map_err(refused)?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// The time within which so many of a hundred answers came.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}
