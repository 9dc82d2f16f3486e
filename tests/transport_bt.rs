//! The bt transport: the conformance suite, then seeding in place, spans and faults. Swarms are in `bt_swarm.rs`.

mod bt_world;
mod support;

use bft2::error::{Fault, FaultClass};
use bft2::model::ids::RelPath;
use bft2::model::span::Span;
use bft2::transport::bt::{BtSource, BtTransport, Patience};
use bft2::transport::{Outcome, Sink, Transport};
use bt_world::{Engine, KIB, MIB, Seed, engine, engine_with, fetch, reel, source, torrent};
use sha1::Digest as _;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::conformance::{Bench, Published};
use support::sink::{FileSink, Package, ctx, done, until, wire};

// The conformance suite.

struct BtBench;

struct BtPublished {
    seed: Seed,
    source: BtSource,
    fetchers: Mutex<Vec<Engine>>,
}

#[async_trait::async_trait]
impl Bench for BtBench {
    async fn publish(&self, package: Arc<Package>) -> Box<dyn Published> {
        let mut source = source(&package, 256 * KIB);
        let seed = Seed::start(engine().await, &package, source.clone()).await;
        source.peers = vec![seed.peer()];
        Box::new(BtPublished { seed, source, fetchers: Mutex::default() })
    }
    fn overlaps(&self) -> bool {
        true
    }
}

#[async_trait::async_trait]
impl Published for BtPublished {
    fn fetcher(&self) -> Box<dyn Transport> {
        let started = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(engine()));
        let transport = BtTransport::new(started.engine.clone(), self.source.clone());
        self.fetchers.lock().unwrap().push(started);
        Box::new(transport)
    }
    async fn lose(&self, _: &RelPath) -> bool {
        assert!(self.seed.ctx.counters.is_ready());
        false
    }
}

conformance_tests!(BtBench);

// Seeding in place.

/// Everything about a file that seeding must not change: path, inode, length, mtime, mode, digest.
type Portrait = (String, u64, u64, (i64, i64), u32, Vec<u8>);

fn portrait(root: &Path) -> Vec<Portrait> {
    let mut all = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            let m = std::fs::symlink_metadata(&path).unwrap();
            let bytes = if m.is_file() { sha1::Sha1::digest(std::fs::read(&path).unwrap()).to_vec() } else { Vec::new() };
            all.push((path.display().to_string(), m.ino(), m.len(), (m.mtime(), m.mtime_nsec()), m.mode(), bytes));
            if m.is_dir() {
                dirs.push(path);
            }
        }
    }
    all.sort();
    all
}

fn chmod(root: &Path, dir: u32, file: u32) {
    let mode = |p: &Path, m| std::fs::set_permissions(p, std::fs::Permissions::from_mode(m)).unwrap();
    for sub in [root.to_owned(), root.join("reel1")] {
        mode(&sub, dir);
        for path in std::fs::read_dir(&sub).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
            mode(&path, file);
        }
    }
}

async fn seeds_untouched(root: &Path, package: &Package, known_good: bool) {
    let before = portrait(root);
    let mut source = source(package, 64 * KIB);
    source.known_good = known_good;
    let (seeder, leg) = (engine().await, ctx());
    let mut job = package.publish_job(&leg);
    job.root = root.to_owned();
    let transport = BtTransport::new(seeder.engine.clone(), source.clone());
    let running = tokio::spawn(async move { transport.publish(job).await });
    until("the seed is up", || leg.counters.is_ready()).await;
    assert_eq!(done(&leg), package.bytes(), "all is confirmed when the seed is up");
    source.peers = vec![seeder.engine.listen_addr().to_string()];
    let sink = FileSink::new(&package.files);
    let (outcome, _) = fetch(source, package, package.spans(), &sink).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
    until("what was sent is counted", || leg.counters.sent.load(Ordering::Relaxed) >= package.bytes()).await;
    leg.stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    assert!(!leg.counters.is_ready());
    assert_eq!(portrait(root), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_without_write_permission_is_seeded_and_stays_as_it_is() {
    let package = reel(1);
    chmod(&package.root(), 0o555, 0o444);
    for known_good in [true, false] {
        seeds_untouched(&package.root(), &package, known_good).await;
    }
    chmod(&package.root(), 0o755, 0o644);
}

/// Needs the right to mount; says so when it has not.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_mount_is_seeded() {
    let package = reel(2);
    let target = tempfile::tempdir().unwrap();
    let mount = |args: &[&std::ffi::OsStr]| {
        std::process::Command::new("mount").args(args).stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let bound = mount(&["--bind".as_ref(), package.root().as_os_str(), target.path().as_os_str()]);
    if !bound {
        eprintln!("skipped: this user may not mount");
        return;
    }
    let read_only = mount(&["-o".as_ref(), "remount,bind,ro".as_ref(), target.path().as_os_str()]);
    if read_only {
        assert!(std::fs::write(target.path().join("x"), "").is_err());
        seeds_untouched(target.path(), &package, false).await;
    } else {
        eprintln!("skipped: this user may not mount read-only");
    }
    // A program that another test starts may still have open what we had.
    until("it is unmounted", || std::process::Command::new("umount").arg(target.path()).status().unwrap().success()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_notices_that_a_file_changed() {
    for how in ["byte", "replaced", "removed"] {
        let package = reel(3);
        let seed = Seed::start(engine().await, &package, source(&package, 64 * KIB)).await;
        let path = package.files[2].path.under(&package.root());
        match how {
            "byte" => std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"x", 77).unwrap(),
            "replaced" => {
                let other = vec![7; std::fs::metadata(&path).unwrap().len() as usize];
                std::fs::write(package.root().join("copy"), other).unwrap();
                std::fs::rename(package.root().join("copy"), &path).unwrap();
            }
            _ => std::fs::remove_file(&path).unwrap(),
        }
        let counters = seed.ctx.counters.clone();
        let fault = tokio::time::timeout(Duration::from_secs(60), seed.end()).await.expect("it notices").unwrap_err();
        assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("reel1/pic.mxf")), "{how}: {fault}");
        assert!(fault.message.contains("run gentask again"), "{fault}");
        assert!(!counters.is_ready());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_what_the_torrent_says_is_not_seeded() {
    let package = reel(4);
    let mut source = source(&package, 64 * KIB);
    source.known_good = false;
    let path = package.files[3].path.under(&package.root());
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"wrong", MIB).unwrap();
    let fault = Seed::launch(engine().await, &package, source.clone()).end().await.unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("reel1/snd.mxf")), "{fault}");

    std::fs::File::options().write(true).open(&path).unwrap().set_len(9).unwrap();
    let fault = Seed::launch(engine().await, &package, source.clone()).end().await.unwrap_err();
    assert!(fault.message.contains("has 9 bytes"), "{fault}");

    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    let fault = Seed::launch(engine().await, &package, source).end().await.unwrap_err();
    assert_eq!(fault.file.as_deref(), Some("reel1/snd.mxf"), "a symlink is not followed: {fault}");
}

// Spans.

#[tokio::test(flavor = "multi_thread")]
async fn spans_at_piece_borders_touch_nothing_else() {
    let package = Package::make("SPANS_FTR", 5, &[("pic.mxf", 6 * MIB)]);
    let map: Vec<Span> = (0..12).map(|i| Span { file: 0, offset: i * 512 * KIB, len: 512 * KIB }).collect();
    let mut source = BtSource { torrent: torrent(&package, &map, 128 * KIB), map, ..source(&package, MIB) };
    let seed = Seed::start(engine().await, &package, source.clone()).await;
    source.peers = vec![seed.peer()];
    let wanted: Vec<Span> = source.map.iter().skip(1).step_by(3).copied().collect();
    let sink = FileSink::new(&package.files);
    let (outcome, leg) = fetch(source, &package, wanted.clone(), &sink).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let mut only = bft2::model::ranges::RangeSet::new();
    for span in &wanted {
        sink.assert_span(&package, span);
        only.insert(span.range());
    }
    assert_eq!(sink.written(0), only);
    assert_eq!(done(&leg), 4 * 512 * KIB);
    assert!(wire(&leg) < 3 * MIB, "{} bytes for 2 MiB", wire(&leg));
}

/// A sink that remembers how many bytes were read of what was committed from the start, and in which state foreign
/// bytes are written.
struct WatchedSink {
    inner: Arc<FileSink>,
    from_start: Vec<bft2::model::ranges::RangeSet>,
    read_again: AtomicU64,
    written_again: AtomicU64,
}

impl WatchedSink {
    fn new(inner: Arc<FileSink>, files: u32) -> Arc<Self> {
        let from_start = (0..files).map(|f| inner.committed(f)).collect();
        Arc::new(Self { inner, from_start, read_again: AtomicU64::new(0), written_again: AtomicU64::new(0) })
    }
    fn known(&self, file: u32, offset: u64, len: usize) -> u64 {
        self.from_start[file as usize].covered(&(offset..offset + len as u64))
    }
}

impl Sink for WatchedSink {
    fn missing(&self, span: &Span) -> Vec<Range<u64>> {
        self.inner.missing(span)
    }
    fn write_at(&self, file: u32, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.written_again.fetch_add(self.known(file, offset, data.len()), Ordering::Relaxed);
        self.inner.write_at(file, offset, data)
    }
    fn read_at(&self, file: u32, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.read_again.fetch_add(self.known(file, offset, buf.len()), Ordering::Relaxed);
        self.inner.read_at(file, offset, buf)
    }
    fn commit(&self, file: u32, range: Range<u64>) {
        self.inner.commit(file, range);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sink_has_is_neither_read_nor_fetched_nor_written_again_and_the_rest_is_not_believed() {
    let package = Package::make("RESUME_FTR", 6, &[("a.mxf", 4 * MIB + 100), ("b.mxf", 4 * MIB)]);
    let mut source = source(&package, 64 * KIB);
    let seed = Seed::start(engine().await, &package, source.clone()).await;
    source.peers = vec![seed.peer()];
    let staged = FileSink::new(&package.files);
    // Half is there, in pieces' middles too; the rest holds garbage that nobody committed.
    for (file, range) in [(0, 0..3 * MIB + 5), (1, 3 * MIB..4 * MIB)] {
        staged.write_at(file, range.start, &package.read(file, range.clone())).unwrap();
        staged.commit(file, range);
    }
    staged.write_at(0, 3 * MIB + 5, &vec![7; MIB as usize]).unwrap();
    staged.write_at(1, 0, &vec![7; 3 * MIB as usize]).unwrap();
    let (leech, leg) = (engine().await, ctx());
    let watched = WatchedSink::new(staged.clone(), 2);
    let mut job = package.fetch_job(package.spans(), &staged, &leg);
    job.sink = watched.clone();
    assert_eq!(BtTransport::new(leech.engine.clone(), source).fetch(job).await.unwrap(), Outcome::Done);
    assert!(staged.complete());
    let missing = 4 * MIB + 95;
    assert_eq!(done(&leg), missing);
    assert!(wire(&leg) <= missing + 3 * 64 * KIB, "{} bytes for {missing}", wire(&leg));
    assert_eq!(watched.written_again.load(Ordering::Relaxed), 0);
    // Pieces at the borders are read whole when they are checked.
    assert!(watched.read_again.load(Ordering::Relaxed) <= 3 * 64 * KIB, "{:?}", watched.read_again);
}

/// Pieces reach over the border of what was asked for: what a peer sends of foreign bytes is written only when the
/// piece is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_border_piece_with_wrong_bytes_never_reaches_foreign_spans() {
    let honest = Package::make("BORDER_FTR", 7, &[("a.mxf", MIB + 500 * KIB), ("b.mxf", 2 * MIB)]);
    let mut source = source(&honest, MIB);
    // The seed claims to be good, but the foreign half of the border piece is not.
    std::fs::File::options().write(true).open(honest.root().join("b.mxf")).unwrap().write_all_at(&[9; 1000], 0).unwrap();
    let seed = Seed::start(engine().await, &honest, source.clone()).await;
    source.peers = vec![seed.peer()];
    let sink = FileSink::new(&honest.files);
    let (leech, leg) = (engine().await, ctx());
    let job = honest.fetch_job(vec![Span { file: 0, offset: 0, len: MIB + 500 * KIB }], &sink, &leg);
    // In order: a peer that sends a bad piece is left at once, and takes what is under way beside it along.
    let transport = BtTransport::new(leech.engine.clone(), source).diversify(false).patience(Patience {
        stall: Duration::from_millis(200),
        give_up: Duration::from_secs(60),
        proof: Duration::ZERO,
    });
    let fault = transport.fetch(job).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Transient);
    assert!(fault.message.contains("does not match the torrent"), "{fault}");
    assert!(sink.written(1).is_empty(), "{:?}", sink.written(1));
    assert_eq!(sink.committed(0).to_text(), format!("0-{MIB}"), "the honest piece is there");
}

/// What is published of a torrent in part is served, the rest is neither opened nor offered.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_torrent_can_be_seeded() {
    let package = Package::make("PART_FTR", 16, &[("a.mxf", 2 * MIB), ("b.mxf", MIB), ("c.mxf", 300)]);
    let mut source = source(&package, 256 * KIB);
    std::fs::remove_file(package.root().join("b.mxf")).unwrap();
    for known_good in [true, false] {
        source.known_good = known_good;
        let (seeder, leg) = (engine().await, ctx());
        let mut job = package.publish_job(&leg);
        job.spans = vec![package.spans()[0], package.spans()[2]];
        let transport = BtTransport::new(seeder.engine.clone(), source.clone());
        let running = tokio::spawn(async move { transport.publish(job).await });
        until("the seed is up", || leg.counters.is_ready()).await;
        let reachable = BtSource { peers: vec![seeder.engine.listen_addr().to_string()], ..source.clone() };
        let sink = FileSink::new(&package.files);
        let (outcome, _) = fetch(reachable, &package, vec![package.spans()[0], package.spans()[2]], &sink).await;
        assert_eq!(outcome.unwrap(), Outcome::Done);
        assert!(sink.file_complete(0) && sink.file_complete(2));
        leg.stop.cancel();
        assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    }
}

// Faults.

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_a_transient_fault_that_says_what_to_check() {
    let package = reel(10);
    let (leech, leg, sink) = (engine().await, ctx(), FileSink::new(&package.files));
    let transport = BtTransport::new(leech.engine.clone(), source(&package, 64 * KIB)).patience(Patience {
        stall: Duration::from_millis(300),
        give_up: Duration::from_secs(1),
        ..Default::default()
    });
    let fault = transport.fetch(package.fetch_job(package.spans(), &sink, &leg)).await.unwrap_err();
    assert_eq!(fault.message, "no peer has sent anything for 1 seconds: check the tracker and the sender's seed");
    assert!(fault.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_torrent_twice_on_a_node_is_a_clear_fault_until_the_first_ends() {
    let package = reel(12);
    let source = source(&package, 64 * KIB);
    let node = engine().await;
    let seed =
        Seed::start(Engine { engine: node.engine.clone(), _state: tempfile::tempdir().unwrap() }, &package, source.clone()).await;
    let (sink, leg) = (FileSink::new(&package.files), ctx());
    let again = BtTransport::new(node.engine.clone(), source.clone());
    let fault = again.fetch(package.fetch_job(package.spans(), &sink, &leg)).await.unwrap_err();
    assert!(fault.is_transient() && fault.message.contains("in use on this node"), "{fault}");
    // A leg that is aborted frees its torrent too.
    seed.running.as_ref().unwrap().abort();
    let elsewhere = Seed::start(engine().await, &package, source.clone()).await;
    let reachable = BtSource { peers: vec![elsewhere.peer()], ..source };
    let second = async {
        loop {
            let transport = BtTransport::new(node.engine.clone(), reachable.clone());
            match transport.fetch(package.fetch_job(package.spans(), &sink, &leg)).await {
                Err(f) if f.message.contains("in use") => tokio::time::sleep(Duration::from_millis(20)).await,
                other => break other,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), second).await.unwrap().unwrap(), Outcome::Done);
    assert!(sink.complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_can_be_changed_while_a_torrent_runs() {
    let package = Package::make("RATE_FTR", 13, &[("a.mxf", 32 * MIB)]);
    let mut source = source(&package, 64 * KIB);
    let slow = engine_with(|o| o.upload_bps = Some(256 * KIB)).await;
    let seed = Seed::start(slow, &package, source.clone()).await;
    source.peers = vec![seed.peer()];
    let (leech, leg, sink) = (engine().await, ctx(), FileSink::new(&package.files));
    let job = package.fetch_job(package.spans(), &sink, &leg);
    let transport = BtTransport::new(leech.engine.clone(), source);
    let running = tokio::spawn(async move { transport.fetch(job).await });
    until("it runs", || sink.committed_bytes() > 0).await;
    assert!(sink.committed_bytes() < 8 * MIB, "two minutes' worth at this rate");
    seed.engine.engine.set_rates(None, None);
    let outcome = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it is fast now").unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
}

/// Twelve pieces and twelve seeds, of which each could bring one: what a power cut would take stays small.
#[tokio::test(flavor = "multi_thread")]
async fn few_large_pieces_are_open_at_once() {
    let package = Package::make("OPEN_FTR", 15, &[("a.mxf", 96 * MIB)]);
    let mut source = source(&package, 8 * MIB);
    let mut seeds = Vec::new();
    for _ in 0..12 {
        let slow = engine_with(|o| o.upload_bps = Some(2 * MIB)).await;
        seeds.push(Seed::start(slow, &package, source.clone()).await);
    }
    source.peers = seeds.iter().map(Seed::peer).collect();
    let (leech, leg, sink) = (engine().await, ctx(), FileSink::new(&package.files));
    let job = package.fetch_job(package.spans(), &sink, &leg);
    let transport = BtTransport::new(leech.engine.clone(), source);
    let running = tokio::spawn(async move { transport.fetch(job).await });
    let (most, peers) = (AtomicU64::new(0), AtomicU32::new(0));
    until("most of it is there", || {
        // In this order: what is counted as committed meanwhile makes the difference smaller than it was.
        let written = sink.written(0).total();
        most.fetch_max(written.saturating_sub(sink.committed_bytes()), Relaxed);
        peers.fetch_max(leg.counters.peers.load(Relaxed), Relaxed);
        sink.committed_bytes() >= 64 * MIB
    })
    .await;
    let (most, peers) = (most.into_inner(), peers.into_inner());
    // Seven pieces, and what the others bring between the two looks at the sink.
    assert!(most <= 72 * MIB, "{} MiB were open at once", most / MIB);
    assert!((4..=7).contains(&peers), "and yet several bring them: {peers}");
    leg.stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_that_does_not_fit_is_refused() {
    let package = reel(14);
    let (sink, good) = (FileSink::new(&package.files), source(&package, 64 * KIB));
    let mut fewer = good.clone();
    fewer.map.pop();
    let mut other = good.clone();
    other.map.swap(0, 3);
    let html = BtSource { torrent: b"<html>404</html>".to_vec(), ..good.clone() };
    for bad in [fewer, other, html] {
        let (outcome, _) = fetch(bad, &package, package.spans(), &sink).await;
        assert_eq!(outcome.unwrap_err().class, FaultClass::Permanent);
    }
    // A torrent of one file cannot bring another.
    let map = vec![package.spans()[3]];
    let part = BtSource { torrent: torrent(&package, &map, 64 * KIB), map, ..good };
    let (outcome, _) = fetch(part, &package, package.spans(), &sink).await;
    let fault = outcome.unwrap_err();
    assert!(fault.message.contains("does not hold all of"), "{fault}");
}
