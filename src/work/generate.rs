//! gentask jobs: hash a package once, check it against its packing list, write torrents and task file.
//!
//! The piece hashes and digests of an unchanged package come from the database, so that another allocation of it needs
//! at most one piece read again. One job at a time: hashing uses all cores by itself.

mod again;

pub use again::Postponed;

use super::conductor::{Conductor, Report};
use super::{Node, patiently};
use crate::config::Config;
use crate::error::{Fault, disk_fault, io_fault};
use crate::model::endpoint::ObsStore;
use crate::model::generation::GenerationOrder;
use crate::model::ids::{RelPath, Sha1};
use crate::model::ratio::{self, Order, Ratio};
use crate::model::span::{Method, Span};
use crate::model::task::Policy;
use crate::model::task_file::{FileEntry, Kind, TaskFile};
use crate::package::documents::{PackageDocuments, Verdict};
use crate::package::metainfo::{Metainfo, piece_length_for};
use crate::package::one_pass::{self, PassProgress, Segment};
use crate::package::paths;
use crate::package::scan::{self, Scan, ScannedFile};
use crate::store::generations::{GenerationRow, GenerationState};
use crate::store::library::{LibraryFile, PackageRow};
use crate::store::torrents::TorrentRow;
use crate::views;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Between two progress rows of a running job.
const PROGRESS: Duration = Duration::from_millis(500);

/// A job at work.
pub struct Job {
    pub id: i64,
    progress: Arc<PassProgress>,
    total: Arc<AtomicU64>,
    /// Set when the service stops: the job stays queued and starts again.
    paused: Arc<AtomicBool>,
}

impl Job {
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
        self.cancel();
    }
    pub fn cancel(&self) {
        self.progress.cancel.store(true, Ordering::Relaxed);
    }
}

/// How a job ended.
pub struct Ended {
    id: i64,
    task: String,
    /// Why the disk of its package is away, when it failed.
    away: Option<String>,
    outcome: Result<String, Fault>,
}

/// A hashed file as `torrents.files` keeps it.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
struct Stamp {
    path: RelPath,
    size: u64,
    mtime_ns: i64,
    inode: u64,
    /// 0: it was not kept. Such a package is read once more.
    #[serde(default)]
    ctime_ns: i64,
    sha1: Sha1,
}

/// A package with its digests and piece hashes.
struct Hashed {
    scan: Scan,
    stamps: Vec<Stamp>,
    piece_length: u64,
    pieces: Vec<[u8; 20]>,
}

impl Conductor {
    pub(super) async fn start_generation(&mut self, id: i64) -> Result<(), Fault> {
        let rows = self.node.store.live_generations().await?;
        let Some(row) = rows.into_iter().find(|g| g.id == id) else { return Ok(()) };
        let job = Job { id, progress: Arc::new(PassProgress::default()), total: Arc::default(), paused: Arc::default() };
        let (node, results) = (Arc::clone(&self.node), self.results.clone());
        let (progress, total) = (Arc::clone(&job.progress), Arc::clone(&job.total));
        tokio::spawn(async move {
            let (task, package) = (row.taskfile.clone(), row.dcppath.clone());
            let work = tokio::spawn(generate(Arc::clone(&node), row, progress, total));
            let outcome = work.await.unwrap_or_else(|e| Err(Fault::local(format!("the generation failed: {e}"))));
            let away = match outcome {
                Ok(_) => None,
                Err(_) => blocking(move || again::disk_of(Path::new(&package))).await.err().map(|fault| fault.message),
            };
            let _ = results.send(Report::Generated { outcome: Ended { id, task, away, outcome } }).await;
        });
        let (node, progress, total) = (Arc::clone(&self.node), Arc::clone(&job.progress), Arc::clone(&job.total));
        tokio::spawn(async move {
            // Ends with the job: then this is the only holder left.
            while Arc::strong_count(&progress) > 1 {
                let (done, all) = (progress.done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
                // One that waits for its disk knows of no bytes.
                if all > 0
                    && let Err(fault) = node.store.record_generation(id, done, all).await
                {
                    tracing::warn!(%fault, "cannot write the progress of gentask");
                }
                tokio::time::sleep(if node.store.thrifty() { PROGRESS * super::sampler::THRIFTY_EVERY } else { PROGRESS }).await;
            }
        });
        self.generating = Some(job);
        Ok(())
    }

    /// Cancels the running job when its row says so.
    pub(super) async fn watch_generation(&self) -> Result<(), Fault> {
        if let Some(job) = &self.generating
            && !self.node.store.live_generations().await?.iter().any(|g| g.id == job.id)
        {
            job.cancel();
        }
        Ok(())
    }
}

fn fault_text(fault: &Fault) -> String {
    match &fault.file {
        Some(f) if !fault.message.contains(f.as_str()) => format!("{f}: {}", fault.message),
        _ => fault.message.clone(),
    }
}

async fn generate(
    node: Arc<Node>,
    row: GenerationRow,
    progress: Arc<PassProgress>,
    total: Arc<AtomicU64>,
) -> Result<String, Fault> {
    let order = GenerationOrder::from_json(&row.request).ok_or_else(|| Fault::local("the stored request cannot be read"))?;
    let config = node.config.current();
    // Until then it stays in the queue.
    let root = order.dcppath.clone();
    blocking(move || again::disk_of(&root)).await?;
    patiently(&progress.cancel, || node.store.set_generation(row.id, GenerationState::Running, "", node.clock.now_ms())).await?;
    if order.deloldtorrent {
        patiently(&progress.cancel, || node.store.forget_torrent(&order.dcppath)).await?;
    }
    let cached = patiently(&progress.cancel, || node.store.torrent(&order.dcppath)).await?;
    let now = node.clock.now();
    let started = std::time::Instant::now();
    let (dcppath, pass) = (order.dcppath.clone(), Arc::clone(&progress));
    let (hashed, fresh) = blocking(move || hash(&dcppath, cached, &pass, &total)).await?;
    let hashed = Arc::new(hashed);
    let verdict = patiently(&progress.cancel, || {
        let (h, root) = (Arc::clone(&hashed), order.dcppath.clone());
        blocking(move || still_there(&h.scan).and_then(|()| check(&root, &h)))
    })
    .await?;
    if fresh {
        patiently(&progress.cancel, || remember(&node, &order, &hashed, verdict.clone())).await?;
    }
    let gentime = now.format("%Y-%m-%d %H:%M:%S").to_string();
    let h = Arc::clone(&hashed);
    let path = order.taskfile.clone();
    blocking(move || {
        let mut file = task_file(&order, &config, &h, gentime)?;
        still_there(&h.scan)?; // else the torrents would lie below the mount point
        write_torrents(&order, &config, &h, &mut file, &progress)?;
        if progress.cancel.load(Ordering::Relaxed) {
            return Err(Fault::permanent("cancelled")); // whoever polls for the task file must not find it
        }
        views::write_file(&order.taskfile, file.to_json().as_bytes())
    })
    .await?;
    let how = if fresh { "hashed" } else { "from stored hashes" };
    Ok(format!(
        "{} written: {} files, {} bytes, {how}, {:.1} s",
        path.display(),
        hashed.stamps.len(),
        hashed.scan.total(),
        started.elapsed().as_secs_f64()
    ))
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(Fault::local(format!("the generation failed: {e}"))))
}

/// From the cache when every file is as it was hashed, else in one pass over the bytes. Says whether it was read anew.
fn hash(root: &Path, cached: Option<TorrentRow>, progress: &PassProgress, total: &AtomicU64) -> Result<(Hashed, bool), Fault> {
    let scan = scan::scan(root)?;
    if scan.total() == 0 {
        return Err(Fault::permanent(format!("{} holds no bytes", root.display())));
    }
    total.store(scan.total(), Ordering::Relaxed);
    let piece_length = piece_length_for(scan.total(), scan.files.iter().map(|f| &f.path));
    if let Some(row) = cached.filter(|c| c.piece_length == piece_length)
        && let Ok(stamps) = serde_json::from_str::<Vec<Stamp>>(&row.files)
        && stamps.len() == scan.files.len()
        && stamps.iter().zip(&scan.files).all(|(s, f)| {
            (&s.path, s.size, s.mtime_ns, s.inode, s.ctime_ns) == (&f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns)
        })
    {
        progress.done.store(scan.total(), Ordering::Relaxed);
        return Ok((Hashed { scan, stamps, piece_length, pieces: row.pieces }, false));
    }
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let pass = one_pass::hash_package(&scan.base, &scan.files, piece_length, workers, progress)?;
    let stamp = |(f, sha1): (&ScannedFile, &Sha1)| Stamp {
        path: f.path.clone(),
        size: f.size,
        mtime_ns: f.mtime_ns,
        inode: f.inode,
        ctime_ns: f.ctime_ns,
        sha1: *sha1,
    };
    let stamps = scan.files.iter().zip(&pass.sha1).map(stamp).collect();
    Ok((Hashed { scan, stamps, piece_length, pieces: pass.pieces }, true))
}

/// What was read may lie on a disk that is away by now.
fn still_there(scan: &Scan) -> Result<(), Fault> {
    let path = |f: &ScannedFile| f.path.under(&scan.base);
    scan.files.iter().map(path).try_for_each(|p| match p.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(e) => Err(disk_fault("cannot read", &p, &e)),
    })
}

/// A package that is not what its packing list says is refused before it is sent to anybody.
fn check(root: &Path, hashed: &Hashed) -> Result<(String, String), Fault> {
    if hashed.scan.single {
        return Ok(("complete".into(), String::new()));
    }
    let Some(documents) = PackageDocuments::read(root)? else { return Ok(("no packing list".into(), String::new())) };
    let files: Vec<_> = hashed.stamps.iter().map(|s| (s.path.clone(), s.size, s.sha1)).collect();
    let verdict = Verdict::of(&documents.compare(&files));
    if !verdict.ok {
        return Err(Fault::permanent(format!(
            "{} does not match its packing list: {}. Repair or replace the package, then run gentask again",
            root.display(),
            verdict.text
        )));
    }
    Ok((verdict.text, documents.title().unwrap_or_default().to_owned()))
}

async fn remember(
    node: &Node,
    order: &GenerationOrder,
    hashed: &Hashed,
    (verdict, title): (String, String),
) -> Result<(), Fault> {
    let files = serde_json::to_string(&hashed.stamps).map_err(|e| Fault::local(format!("stamps: {e}")))?;
    let row = TorrentRow { files, piece_length: hashed.piece_length, pieces: hashed.pieces.clone() };
    let now = node.clock.now_ms();
    node.store.save_torrent(&order.dcppath, &row, now).await?;
    let library: Vec<LibraryFile> = hashed
        .stamps
        .iter()
        .map(|s| LibraryFile {
            path: s.path.under(&hashed.scan.base),
            size: s.size,
            mtime_ns: s.mtime_ns,
            inode: s.inode,
            sha1: s.sha1,
        })
        .collect();
    let package = PackageRow {
        path: order.dcppath.clone(),
        name: order.name.to_string(),
        verdict,
        title,
        files: library.len() as u64,
        bytes: hashed.scan.total(),
    };
    node.store.put_package(&package, &library, now).await?;
    node.review_package(&order.dcppath).await;
    Ok(())
}

fn task_file(order: &GenerationOrder, config: &Config, hashed: &Hashed, gentime: String) -> Result<TaskFile, Fault> {
    let bad = |what: &str, value: &str| Fault::permanent(format!("the stored request has a bad {what}: {value:?}"));
    let ratio = Ratio::parse(&order.ratio).map_err(|_| bad("btobscdn", &order.ratio))?;
    let policy = Policy::parse(&order.policy).ok_or_else(|| bad("policy", &order.policy))?;
    let entries = hashed.stamps.iter().map(|s| FileEntry { path: s.path.clone(), size: s.size, sha1: s.sha1 }).collect();
    let mut t = TaskFile::new(order.name.clone(), order.basesubdir.clone(), ratio, policy, entries);
    t.kind = if hashed.scan.single { Kind::File } else { Kind::Dir };
    t.senderid.clone_from(&config.senderid);
    let dcps = config.dcps_dir(&order.basesubdir);
    t.senderlocalpath = dcps.display().to_string();
    t.datasource.clone_from(&order.datasource);
    t.gentime = gentime;
    let (sub, name) = (&order.basesubdir, &order.name);
    let web = |base: &Option<String>, dir: &str, file: &str| {
        base.as_ref().map(|base| format!("{base}/dcp/{sub}/{dir}/{}", encode(file)))
    };
    t.bt.localtorrent = paths::full_torrent(&dcps, name).display().to_string();
    t.bt.url = web(&config.senderdomain, "dcps", &format!("{name}.torrent"));
    t.bt.tracker = Some(order.tracker.clone()).filter(|s| !s.is_empty());
    t.bt.seedtime_hours = order.seedtime_hours;
    t.bt.peers.clone_from(&config.btpeers);
    t.bt.windows = Some(config.bttime.clone());
    t.obs.windows = Some(config.obstime.clone());
    t.cdn.windows = Some(config.cdntime.clone());
    t.cdn.url = web(&config.cdnurl, "dcps", name.as_str());
    fill_obs(&mut t, order, config)?;
    allocate(&mut t, config, ratio, hashed.piece_length);
    if ratio.share(Method::Bt) > 0 && !ratio.is_bt_only() {
        t.bt.tmpurl = web(&config.senderdomain, "dcps-tmp", &format!("{name}-tmp.torrent"));
    }
    // The request was refused without it; the configuration may be another one by now.
    if let Some((method, key)) = config.lacks(ratio, &order.obsurl) {
        return Err(Fault::permanent(format!("the ratio {ratio} needs {method}, but {key} is not configured")));
    }
    Ok(t)
}

fn fill_obs(t: &mut TaskFile, order: &GenerationOrder, config: &Config) -> Result<(), Fault> {
    use crate::model::endpoint::{OBS_URL_ALLOWED, ObsEndpoint, ObsUrl};
    let default = config.basesubdir.as_ref() == Some(&order.basesubdir);
    let url = match (order.obsurl.as_str(), &config.obsurl) {
        ("", None) if config.obsendpoint.is_none() => return Ok(()),
        ("", Some(base)) if default => format!("{base}/dcps/{}", order.name),
        // One bucket per institution, named like its directory (protocol section 1).
        ("", _) => format!("obs://{}/dcps/{}", order.basesubdir, order.name),
        (given, _) => given.to_owned(),
    };
    t.obs.url = Some(
        ObsUrl::parse_with_key(&url)
            .ok_or_else(|| Fault::permanent(format!("bad obsurl {url:?}; allowed: {OBS_URL_ALLOWED}")))?,
    );
    if !order.endpoint.is_empty() {
        t.obs.endpoint = ObsEndpoint::parse(&order.endpoint);
    } else if let Some(own) = config.obsendpoint.as_ref().filter(|e| !matches!(e.store(), ObsStore::Dir(_))) {
        t.obs.endpoint = ObsEndpoint::parse(own.as_str());
    }
    if t.obs.endpoint.is_some() {
        let pick = |given: &str, own: &crate::model::secret::Secret| {
            if given.is_empty() { own.clone() } else { crate::model::secret::Secret::new(given) }
        };
        t.obs.ak = pick(&order.ak, &config.obsak);
        t.obs.sk = pick(&order.sk, &config.obssk);
    }
    Ok(())
}

fn allocate(t: &mut TaskFile, config: &Config, ratio: Ratio, piece_length: u64) {
    let files: Vec<(RelPath, u64)> = t.files.iter().map(|f| (f.path.clone(), f.size)).collect();
    let files: Vec<(&RelPath, u64)> = files.iter().map(|(p, n)| (p, *n)).collect();
    if config.splitfiles && !ratio.is_bt_only() {
        t.set_spans(&ratio::allocate_split(&files, ratio, piece_length), piece_length);
        return;
    }
    let order = if config.ctfilesorder { Order::Torrent } else { Order::SizeDescending };
    let lists = ratio::allocate_lists(&files, ratio, order);
    t.lists = lists.paths;
    t.list_sizes = lists.sizes;
    t.piece_length = Some(piece_length);
}

/// One path part of a URL.
fn encode(part: &str) -> String {
    percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
        .replace("%5F", "_")
        .replace("%2E", ".")
}

/// The full torrent always (kept when it is the same), the `-tmp` torrent when bt has a part of the package.
fn write_torrents(
    order: &GenerationOrder,
    config: &Config,
    h: &Hashed,
    t: &mut TaskFile,
    progress: &PassProgress,
) -> Result<(), Fault> {
    let (tracker, name) = (order.tracker.as_str(), order.name.as_str());
    let all = || h.stamps.iter().map(|s| (s.path.clone(), s.size)).collect::<Vec<_>>();
    let full = if h.scan.single {
        Metainfo::single_file(tracker, name, h.scan.total(), h.piece_length, h.pieces.clone())?
    } else {
        Metainfo::directory(tracker, name, all(), h.piece_length, h.pieces.clone())?
    };
    write_public(&paths::full_torrent(&config.dcps_dir(&order.basesubdir), &order.name), &full.encode())?;
    let part = paths::part_torrent(&config.dcps_tmp_dir(&order.basesubdir), &order.name);
    let spans: Vec<Span> = t.spans_by_method().into_iter().filter(|(_, m)| *m == Method::Bt).map(|(s, _)| s).collect();
    if spans.is_empty() || t.ratio.is_bt_only() {
        t.bt.tmpurl = None;
        return views::remove(&part);
    }
    let pieces = part_pieces(h, &spans, progress)?;
    let mut names = Vec::with_capacity(spans.len());
    for span in &spans {
        let stamp = h.stamps.get(span.file as usize).ok_or_else(|| Fault::local("the allocation names an unknown file"))?;
        let path =
            RelPath::parse(&paths::span_name(&stamp.path, stamp.size, span)).map_err(|e| Fault::permanent(e.to_string()))?;
        names.push((path, span.len));
    }
    let part_info = Metainfo::directory(tracker, &format!("{name}-tmp"), names, h.piece_length, pieces)?;
    write_public(&part, &part_info.encode())
}

/// Piece hashes of the bt part. When it is a run from the front, they are the full torrent's up to the last piece.
fn part_pieces(h: &Hashed, spans: &[Span], progress: &PassProgress) -> Result<Vec<[u8; 20]>, Fault> {
    let mut front = true;
    let mut next = (0usize, 0u64);
    for s in spans {
        front &= (s.file as usize, s.offset) == next;
        let size = h.scan.files.get(s.file as usize).map_or(0, |f| f.size);
        next = if s.end() == size { (s.file as usize + 1, 0) } else { (s.file as usize, s.end()) };
    }
    let len: u64 = spans.iter().map(|s| s.len).sum();
    if front {
        return one_pass::hash_prefix(&h.scan.base, &h.scan.files, &h.pieces, h.piece_length, len);
    }
    let segments: Vec<Segment<'_>> = spans
        .iter()
        .filter_map(|s| Some(Segment { file: h.scan.files.get(s.file as usize)?, offset: s.offset, len: s.len }))
        .collect();
    one_pass::hash_segments(&h.scan.base, &segments, h.piece_length, 2, progress)
}

/// Torrents are served by the origin: readable by all, written whole or not at all, left alone when they are the same.
fn write_public(path: &Path, data: &[u8]) -> Result<(), Fault> {
    use std::os::unix::fs::PermissionsExt as _;
    views::write_file(path, data)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .map_err(|e| io_fault("cannot set the rights of", path, &e))
}
