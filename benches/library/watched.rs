//! What a watched library costs: hashing, from the close of a file to its row, a hundred thousand files at once, a start with
//! a million.

use super::node::Node;
use super::table::{Row, median, seconds};
use super::{Args, Trouble, sha1};
use bft2::cli::amount::human;
use bft2::library::hash::{Hashed, Known, Pace};
use bft2::library::place::Place;
use bft2::model::ids::{RelPath, Sha1};
use bft2::package::digest::Sha1State;
use bft2::store::Store;
use bft2::store::library::{LibraryFile, PackageRow};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: usize = 1 << 30;
const BURST: u64 = 100_000;
const MEMORY: u64 = 200_000_000;
const SMALL: u64 = 15;
const LARGE: u64 = 1_000_000;
const DIR: u64 = 1000;

fn scratch(args: &Args) -> Result<tempfile::TempDir, Trouble> {
    Ok(tempfile::tempdir_in(args.dir.clone().unwrap_or_else(std::env::temp_dir))?)
}

/// One file after the other against `openssl speed`, which reads nothing: the same bytes of memory again and again.
pub fn hashing(args: &Args) -> Result<Row, Trouble> {
    let dir = scratch(args)?;
    std::fs::write(dir.path().join("a.mxf"), vec![7; FILE])?;
    let place = Place { base: dir.path().to_owned(), transfer: dir.path().join("transfer") };
    let rel = RelPath::parse("a.mxf")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..args.runs.max(1) {
        std::fs::read(dir.path().join("a.mxf"))?; // into memory: not the disk is measured
        let begun = Instant::now();
        let hashed = place.hash(&rel, Known::default(), &Pace::default(), &mut |_| {}).map_err(|f| f.message)?;
        ours.push(begun.elapsed());
        if !matches!(hashed, Hashed::Done(_)) {
            return Err("the file was not hashed".into());
        }
        theirs.push(openssl()?);
    }
    println!("  hashing: ours {}/s, openssl {}/s", rate(median(&ours)), rate(median(&theirs)));
    // At least 0.9 of their rate: at most 1/0.9 of their time.
    Ok(Row::race("hashing of 1 GiB on one core", "openssl speed sha1", &ours, &theirs, 1.0 / 0.9))
}

fn rate(time: Duration) -> String {
    human((FILE as f64 / time.as_secs_f64()) as u64)
}

/// The time that openssl needs for as many bytes.
fn openssl() -> Result<Duration, Trouble> {
    let args = ["speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", "sha1"];
    let out = std::process::Command::new("openssl").args(args).output()?;
    // "+F:22:sha1:1650000000.00": bytes per second.
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let rate = text.lines().find(|l| l.starts_with("+F:")).and_then(|l| l.rsplit(':').next()?.trim().parse::<f64>().ok());
    let rate = rate.filter(|r| *r > 0.0).ok_or("openssl speed says nothing")?;
    Ok(Duration::from_secs_f64(FILE as f64 / rate))
}

/// From the close of a small file to its row.
pub async fn latency(args: &Args) -> Result<Row, Trouble> {
    let dir = scratch(args)?;
    let (node, _) = Node::start(dir.path()).await?;
    node.wait("select count(*) from v_watches where scanned_at <> ''", "1", Duration::from_millis(50)).await?;
    let mut times = Vec::new();
    for n in 0..SMALL {
        let path = Node::library(dir.path()).join(format!("film-{n}.xml"));
        std::fs::write(&path, n.to_string())?;
        let sql = format!("select count(*) from v_library where path = '{}' and state = 'ok'", path.display());
        times.push(node.wait(&sql, "1", Duration::from_millis(10)).await?);
    }
    Ok(Row::at_most("from close to row, small files", median(&times), Duration::from_secs(3)))
}

/// Many files at once: all of them right, in bounded memory.
pub async fn burst(args: &Args) -> Result<Vec<Row>, Trouble> {
    let dir = scratch(args)?;
    let (node, _) = Node::start(dir.path()).await?;
    node.wait("select count(*) from v_watches where scanned_at <> ''", "1", Duration::from_millis(50)).await?;
    let begun = Instant::now();
    let library = Node::library(dir.path());
    make(&library, BURST, |n| n.to_string())?;
    let made = begun.elapsed();
    let done = "select (select count(*) from v_library) || ' ' || (select count(*) from v_hash_queue)";
    node.wait(done, &format!("{BURST} 0"), Duration::from_millis(500)).await?;
    println!("  burst: {BURST} files made in {}, all have rows after {}", seconds(made), seconds(begun.elapsed()));
    let wrong = check(dir.path()).await?;
    if wrong > 0 {
        return Err(format!("{wrong} rows are wrong").into());
    }
    let peak = node.peak()?;
    let took = begun.elapsed();
    Ok(vec![
        Row::at_most(&format!("{BURST} files at once, all right"), took, Duration::from_secs(300)),
        Row::memory_at_most(&format!("memory meanwhile, {BURST} files"), peak, MEMORY),
    ])
}

/// Rows that are not what their file holds, its number.
async fn check(root: &Path) -> Result<u64, Trouble> {
    let store = Store::open(&Node::database(root)).await.map_err(|f| f.message)?;
    let (mut wrong, mut after) = (0, String::new());
    loop {
        let rows = store.library_page(&after, i64::MAX, 5000).await.map_err(|f| f.message)?;
        let Some((last, _)) = rows.last() else { break };
        after.clone_from(last);
        for (path, sha1) in rows {
            let mut state = Sha1State::new();
            state.update(path.rsplit('/').next().unwrap_or_default().as_bytes());
            wrong += u64::from(state.finish() != sha1);
        }
    }
    Ok(wrong)
}

/// A start with a large library whose files are all there.
pub async fn restart(args: &Args) -> Result<Vec<Row>, Trouble> {
    let dir = scratch(args)?;
    let begun = Instant::now();
    let library = Node::library(dir.path());
    make(&library, LARGE, |_| String::new())?;
    let store = Store::open(&Node::database(dir.path())).await.map_err(|f| f.message)?;
    for first in (0..LARGE).step_by(DIR as usize) {
        let package = library.join((first / DIR).to_string());
        let files: Vec<LibraryFile> =
            (first..first + DIR).map(|n| row(package.join(n.to_string()), sha1(n))).collect::<Result<_, Trouble>>()?;
        let row = PackageRow {
            name: (first / DIR).to_string(),
            path: package,
            verdict: "no packing list".into(),
            title: String::new(),
            files: DIR,
            bytes: 0,
        };
        store.put_package(&row, &files, 1).await.map_err(|f| f.message)?;
    }
    store.close().await;
    println!("  restart: a library of {LARGE} files, made in {}", seconds(begun.elapsed()));
    // The first start completes rows that gentask or a reception has written; the second one is as every other.
    let (first, _) = compared(dir.path()).await?;
    drop(first);
    let (node, [ready, scanned]) = compared(dir.path()).await?;
    let queued = node.ask("select count(*) from v_hash_queue").await?;
    if queued != "0" || node.ask("select count(*) from v_library").await? != LARGE.to_string() {
        return Err(format!("{queued} files would be hashed again").into());
    }
    println!("  restart: memory {}", human(node.peak()?));
    Ok(vec![
        Row::at_most(&format!("start with {LARGE} rows, ready"), ready, Duration::from_secs(10)),
        Row::at_most(&format!("start with {LARGE} rows, all files compared"), scanned, Duration::from_secs(30)),
    ])
}

/// Starts a node; says how long it took until it was ready, and until all files were compared.
async fn compared(root: &Path) -> Result<(Node, [Duration; 2]), Trouble> {
    let since = chrono::Local::now().format("%Y-%m-%d %H:%M:%S");
    let begun = Instant::now();
    let (node, ready) = Node::start(root).await?;
    // What an earlier process has noted does not count.
    let sql = format!("select count(*) from v_watches where since >= '{since}' and scanned_at <> ''");
    node.wait(&sql, "1", Duration::from_millis(50)).await?;
    Ok((node, [ready, begun.elapsed()]))
}

fn make(library: &Path, files: u64, text: impl Fn(u64) -> String) -> Result<(), Trouble> {
    for n in 0..files {
        let dir = library.join((n / DIR).to_string());
        if n % DIR == 0 {
            std::fs::create_dir_all(&dir)?;
        }
        std::fs::write(dir.join(n.to_string()), text(n))?;
    }
    Ok(())
}

fn row(path: PathBuf, sha1: Sha1) -> Result<LibraryFile, Trouble> {
    let meta = path.metadata()?;
    let mtime_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
    Ok(LibraryFile { path, size: meta.len(), mtime_ns, inode: meta.ino(), sha1 })
}
