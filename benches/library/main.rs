//! What the library costs: one function per row of the table. `scripts/bench.sh --only library` runs it.

mod node;
#[path = "../delivery/table.rs"]
#[allow(dead_code, reason = "the deliveries' rows are of other kinds")]
mod table;
mod watched;

use bft2::model::ids::Sha1;
use bft2::store::Store;
use bft2::store::library::{LibraryFile, PackageRow};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use table::{Row, median};

/// What ends a benchmark early, as text.
type Trouble = Box<dyn std::error::Error>;

/// Files of a large library, files of a large task.
const LIBRARY: u64 = 1_000_000;
const TASK: u64 = 10_000;
/// Rows per transaction while the library is made.
const BATCH: u64 = 2_000;

/// Measures the library
#[derive(Parser, Debug)]
struct Args {
    /// Only these (comma-separated)
    #[arg(long, value_delimiter = ',', value_parser = ["lookup", "hashing", "latency", "burst", "restart"])]
    only: Vec<String>,
    /// Runs; the median counts
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Where to work [default: the system's temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new();
    match runtime.map_err(Trouble::from).and_then(|r| r.block_on(run(&args))) {
        Ok(rows) => {
            println!("\n{}", table::text(&rows));
            if rows.iter().all(Row::good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> Result<Vec<Row>, Trouble> {
    let wants = |what: &str| args.only.is_empty() || args.only.iter().any(|o| o == what);
    let mut rows = Vec::new();
    if wants("lookup") {
        rows.push(lookup(args).await?);
    }
    if wants("hashing") {
        rows.push(watched::hashing(args)?);
    }
    if wants("latency") {
        rows.push(watched::latency(args).await?);
    }
    if wants("burst") {
        rows.extend(watched::burst(args).await?);
    }
    if wants("restart") {
        rows.extend(watched::restart(args).await?);
    }
    Ok(rows)
}

/// A digest for a number; neighbours are far from each other.
fn sha1(n: u64) -> Sha1 {
    let mut state = bft2::package::digest::Sha1State::new();
    state.update(&n.to_le_bytes());
    state.finish()
}

/// `recv` of a task with many files: which of them does a large library have? Half of them.
async fn lookup(args: &Args) -> Result<Row, Trouble> {
    let dir = tempfile::tempdir_in(args.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    let store = Store::open(&dir.path().join("bft2.db")).await?;
    let begun = Instant::now();
    for first in (0..LIBRARY).step_by(usize::try_from(BATCH)?) {
        let package = PathBuf::from(format!("/data/dcp/cfec-001/dcps/film-{first}"));
        let file = |n: u64| LibraryFile {
            path: package.join(format!("reel-{n}.mxf")),
            size: n + 1,
            mtime_ns: 1,
            inode: n,
            sha1: sha1(n),
        };
        let files: Vec<_> = (first..first + BATCH).map(file).collect();
        let row = PackageRow {
            name: format!("film-{first}"),
            path: package.clone(),
            verdict: "complete".into(),
            title: String::new(),
            files: BATCH,
            bytes: files.iter().map(|f| f.size).sum(),
        };
        store.put_package(&row, &files, 1).await?;
    }
    println!("A library of {LIBRARY} files, made in {}", table::seconds(begun.elapsed()));
    // As after a start: what was just written does not lie in the log of the database any more.
    store.close().await;
    let store = Store::open(&dir.path().join("bft2.db")).await?;
    let mut times = Vec::new();
    for run in 0..args.runs.max(1) {
        // Every second one is in the library; other ones in every run, so that the first look at a page counts, too.
        let number = |n: u64| n * 97 + run as u64 + if n.is_multiple_of(2) { 0 } else { LIBRARY * 100 };
        let wanted: Vec<_> = (0..TASK).map(|n| (sha1(number(n)), number(n) + 1)).collect();
        let begun = Instant::now();
        let found = store.find_same(&wanted).await?;
        times.push(begun.elapsed());
        let hits = found.iter().filter(|list| !list.is_empty()).count() as u64;
        if hits != TASK / 2 {
            return Err(format!("{hits} of {TASK} were found, and half of them are there").into());
        }
    }
    println!("  lookup: {}", times.iter().map(|t| format!("{} ms", t.as_millis())).collect::<Vec<_>>().join(", "));
    store.close().await;
    let what = format!("lookup: {LIBRARY} rows, find_same of {TASK}");
    Ok(Row::latency(&what, median(&times), Duration::from_millis(200)))
}
