//! A package of random bytes, a sink of plain files and a context: what a transport needs around it in a test.

use bft2::error::{Fault, io_fault};
use bft2::model::ids::{RelPath, Sha1};
use bft2::model::ranges::RangeSet;
use bft2::model::span::Span;
use bft2::transport::limit::Limiter;
use bft2::transport::{Checkpoints, Counters, FetchJob, FileMeta, LegContext, PublishJob, Sink};
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use sha1::Digest as _;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A package on disk, its bytes fixed by the seed.
pub struct Package {
    dir: TempDir,
    pub name: String,
    pub files: Arc<[FileMeta]>,
}

impl Package {
    /// Writes `name/` with these files (path, size) into a directory of its own.
    pub fn make(name: &str, seed: u64, files: &[(&str, u64)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(name);
        let mut random = StdRng::seed_from_u64(seed);
        let files = files
            .iter()
            .map(|(path, size)| {
                let mut bytes = vec![0; *size as usize];
                random.fill_bytes(&mut bytes);
                let path = RelPath::parse(path).unwrap();
                let full = path.under(&root);
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, &bytes).unwrap();
                FileMeta { path, size: *size, sha1: Sha1(sha1::Sha1::digest(&bytes).into()) }
            })
            .collect();
        Self { dir, name: name.to_owned(), files }
    }

    /// The package's own directory.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// The directory that holds the package's directory.
    pub fn parent(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// One span per file.
    pub fn spans(&self) -> Vec<Span> {
        self.files.iter().enumerate().map(|(i, f)| Span { file: i as u32, offset: 0, len: f.size }).collect()
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    pub fn read(&self, file: u32, range: Range<u64>) -> Vec<u8> {
        let mut out = vec![0; (range.end - range.start) as usize];
        let f = File::open(self.files[file as usize].path.under(&self.root())).unwrap();
        f.read_exact_at(&mut out, range.start).unwrap();
        out
    }

    pub fn publish_job(&self, ctx: &LegContext) -> PublishJob {
        PublishJob { files: Arc::clone(&self.files), spans: self.spans(), root: self.root(), ctx: ctx.clone() }
    }

    pub fn fetch_job(&self, spans: Vec<Span>, sink: &Arc<FileSink>, ctx: &LegContext) -> FetchJob {
        let sink: Arc<dyn Sink> = Arc::clone(sink) as Arc<dyn Sink>;
        FetchJob { files: Arc::clone(&self.files), spans, sink, ctx: ctx.clone() }
    }
}

#[derive(Clone, Default)]
struct State {
    committed: RangeSet,
    written: RangeSet,
}

/// Plain files below a directory, with a memory of what was written and what was committed.
pub struct FileSink {
    dir: TempDir,
    files: Arc<[FileMeta]>,
    handles: Vec<File>,
    state: Mutex<Vec<State>>,
    /// Writes fail from this many bytes on, as on a full disk.
    room: Mutex<Option<u64>>,
}

impl FileSink {
    pub fn new(files: &Arc<[FileMeta]>) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let handles = files
            .iter()
            .map(|f| {
                let path = f.path.under(dir.path());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
                file.set_len(f.size).unwrap();
                file
            })
            .collect();
        let state = Mutex::new(vec![State::default(); files.len()]);
        Arc::new(Self { dir, files: Arc::clone(files), handles, state, room: Mutex::new(None) })
    }

    /// The disk is full after so many more bytes.
    pub fn limit_room(&self, bytes: u64) {
        *self.room.lock().unwrap() = Some(bytes);
    }

    pub fn committed(&self, file: u32) -> RangeSet {
        self.state.lock().unwrap()[file as usize].committed.clone()
    }

    /// Everything that [`Sink::write_at`] was called for.
    pub fn written(&self, file: u32) -> RangeSet {
        self.state.lock().unwrap()[file as usize].written.clone()
    }

    pub fn committed_bytes(&self) -> u64 {
        self.state.lock().unwrap().iter().map(|s| s.committed.total()).sum()
    }

    /// The digest of the whole staged file.
    pub fn digest(&self, file: u32) -> Sha1 {
        let bytes = fs::read(self.files[file as usize].path.under(self.dir.path())).unwrap();
        Sha1(sha1::Sha1::digest(&bytes).into())
    }

    /// Every byte committed, every digest right.
    pub fn complete(&self) -> bool {
        (0..self.files.len() as u32).all(|i| self.file_complete(i))
    }

    pub fn file_complete(&self, file: u32) -> bool {
        let meta = &self.files[file as usize];
        self.committed(file).contains(&(0..meta.size)) && self.digest(file) == meta.sha1
    }

    /// Fails the test unless the staged bytes of the span are the package's.
    pub fn assert_span(&self, package: &Package, span: &Span) {
        assert!(self.committed(span.file).contains(&span.range()), "{span:?} is not committed");
        let mut got = vec![0; span.len as usize];
        self.handles[span.file as usize].read_exact_at(&mut got, span.offset).unwrap();
        assert!(got == package.read(span.file, span.range()), "{span:?} holds other bytes");
    }
}

impl Sink for FileSink {
    fn missing(&self, span: &Span) -> Vec<Range<u64>> {
        self.state.lock().unwrap()[span.file as usize].committed.missing(&span.range())
    }

    fn write_at(&self, file: u32, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let meta = &self.files[file as usize];
        let end = offset + data.len() as u64;
        assert!(end <= meta.size, "a write past the end of {}", meta.path);
        if let Some(room) = self.room.lock().unwrap().as_mut() {
            *room = room.checked_sub(data.len() as u64).ok_or_else(|| {
                let full = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
                io_fault("cannot write", meta.path.as_str().as_ref(), &full)
            })?;
        }
        self.handles[file as usize].write_all_at(data, offset).map_err(|e| io_fault("cannot write", self.dir.path(), &e))?;
        self.state.lock().unwrap()[file as usize].written.insert(offset..end);
        Ok(())
    }

    fn read_at(&self, file: u32, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.handles[file as usize].read_exact_at(buf, offset).map_err(|e| io_fault("cannot read", self.dir.path(), &e))
    }

    fn commit(&self, file: u32, range: Range<u64>) {
        let mut state = self.state.lock().unwrap();
        let state = &mut state[file as usize];
        assert!(state.written.contains(&range), "a commit of {range:?} that was not written");
        state.committed.insert(range);
    }
}

/// Checkpoints in memory.
#[derive(Default)]
pub struct MemCheckpoints(Mutex<BTreeMap<String, String>>);

impl MemCheckpoints {
    pub fn entries(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Checkpoints for MemCheckpoints {
    async fn load(&self, key: &str) -> Result<Option<String>, Fault> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }
    async fn save(&self, key: &str, value: &str) -> Result<(), Fault> {
        self.0.lock().unwrap().insert(key.to_owned(), value.to_owned());
        Ok(())
    }
    async fn remove(&self, key: &str) -> Result<(), Fault> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
    async fn of_others(&self, key: &str) -> Result<Vec<String>, Fault> {
        Ok(self.0.lock().unwrap().get(&format!("others/{key}")).into_iter().cloned().collect())
    }
}

/// A fresh context: nothing counted, nothing remembered, no cap.
pub fn ctx() -> LegContext {
    LegContext {
        task: "cfec-001-test.task.json".into(),
        counters: Arc::new(Counters::default()),
        stop: CancellationToken::new(),
        checkpoints: Arc::new(MemCheckpoints::default()),
        limiter: Limiter::new(None),
    }
}

/// The context of the next run of the same leg: same checkpoints, counters and stop token new.
pub fn next_run(before: &LegContext) -> LegContext {
    LegContext { checkpoints: Arc::clone(&before.checkpoints), ..ctx() }
}

pub fn done(ctx: &LegContext) -> u64 {
    ctx.counters.done.load(Ordering::Relaxed)
}

pub fn wire(ctx: &LegContext) -> u64 {
    ctx.counters.wire.load(Ordering::Relaxed)
}

/// Waits until the condition holds; fails the test after three minutes.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let polling = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(180), polling).await.is_ok(), "waited three minutes for: {what}");
}
