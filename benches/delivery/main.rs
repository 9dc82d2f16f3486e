//! Whole deliveries against what a person would use instead: mktorrent and aria2c, each followed by `openssl dgst -sha1`
//! of every file, because only then is as much known of the bytes as `bftv2` knows. `scripts/bench.sh` runs it.
//!
//! **Ratios of one run, not seconds.** Ours and theirs take turns on the same machine, with the same files in the page
//! cache, and medians are compared. Our time ends when the package is verified, synced, in the store, and the service
//! says so; theirs when openssl has printed the last digest, and the digests are compared with the package's.
//!
//! **In memory where there is room** (`/dev/shm`): what is compared is software, not the disk below it. With `--dir` on a
//! disk ours pays for `fdatasync` and theirs does not, unless `--durable` ends theirs with `sync`.

mod callers;
mod memory;
mod network;
mod rivals;
mod swarm;
#[allow(dead_code, reason = "the rows of the library are of other kinds")]
mod table;

use bft2::cli::amount::{human, size};
use bft2::package::sample::{PackageSummary, SampleOptions, make};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use table::{Row, median, seconds};

/// What ends a benchmark early, as text.
pub type Trouble = Box<dyn std::error::Error>;

/// A package is "several files": four reels of picture and sound.
const REELS: u32 = 4;
/// Databases, logs, torrents.
const SMALL_CHANGE: u64 = 256 << 20;
const MEMORY_BASE: u64 = 1_000_000_000;
const MEMORY_LIMIT: u64 = 300_000_000;

/// Measures the service against common tools
#[derive(Parser, Debug)]
struct Args {
    /// Bytes of the package for gentask, cdn and bt
    #[arg(long, default_value = "2G", value_parser = size)]
    size: u64,
    /// Bytes of the large package of the memory comparison (the small one has 1 GB)
    #[arg(long, default_value = "8G", value_parser = size)]
    memory_size: u64,
    /// Runs of each side, alternating; medians count
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// 200 MB, one run: shows that everything works; the fixed costs outweigh the rest
    #[arg(long)]
    quick: bool,
    /// Only these (comma-separated)
    #[arg(long, value_delimiter = ',', value_parser = ["gentask", "cdn", "bt", "api", "memory", "swarm"])]
    only: Vec<String>,
    /// Where to work [default: /dev/shm when the packages fit twice into free memory, else the system's temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Theirs ends with `sync` of its files, as ours does
    #[arg(long)]
    durable: bool,
    /// cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == what)
    }
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        args.size = 200_000_000;
        args.memory_size = args.memory_size.min(MEMORY_BASE * 2);
        args.runs = 1;
    }
    // One thread: the processes end with the thread that started them, and the cores are the contestants'.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Trouble::from).and_then(|r| r.block_on(run(&args)));
    match result {
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
    let mut rows = Vec::new();
    if args.wants("gentask") || args.wants("cdn") || args.wants("bt") {
        // The master, ours and theirs at once at the most; in memory the package's pages count once more while mapped.
        let place = Place::choose(args.dir.as_deref(), args.size.saturating_mul(3), true)?;
        let master = place.master(args.size)?;
        for (what, ratio, limit) in [("gentask", "", 0.5), ("cdn", "0:0:1", 1.0), ("bt", "1:0:0", 1.0)] {
            if !args.wants(what) {
                continue;
            }
            match what {
                "gentask" => rows.extend(gentask(args, &place, &master, limit).await?),
                _ => rows.push(delivery(args, &place, &master, what, ratio, limit).await?),
            }
        }
    }
    if args.wants("api") {
        let place = Place::choose(args.dir.as_deref(), args.size.saturating_mul(3), true)?;
        let master = place.master(args.size)?;
        rows.extend(api(args, &place, &master).await?);
    }
    if args.wants("swarm") {
        let place = Place::choose(args.dir.as_deref(), args.size.saturating_mul(12), true)?;
        let master = place.master(args.size)?;
        rows.push(swarm::row(&place, &master).await?);
    }
    if args.wants("memory") {
        // Two copies and, of the object store's third, the objects and one upload that is put together.
        let need = (args.memory_size / 3).saturating_mul(8);
        let place = Place::choose(args.dir.as_deref(), need, false)?;
        rows.extend(memory_rows(args, &place).await?);
    }
    Ok(rows)
}

/// A directory of our own, removed at the end.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn choose(dir: Option<&Path>, need: u64, memory: bool) -> Result<Self, Trouble> {
        let need = need.saturating_add(SMALL_CHANGE);
        let shm = Path::new("/dev/shm");
        let base = match dir {
            Some(dir) => dir.to_owned(),
            None if memory && free(shm)? > need && memory::available()? > need.saturating_mul(5) / 4 => shm.to_owned(),
            None => std::env::temp_dir(),
        };
        std::fs::create_dir_all(&base)?;
        let free = free(&base)?;
        println!("In {}: needs up to {}, {} are free", base.display(), human(need), human(free));
        if free < need {
            return Err(
                format!("not enough space in {}: choose a larger one with --dir, or a smaller --size", base.display()).into()
            );
        }
        Ok(Self { dir: tempfile::Builder::new().prefix("bft2-bench-").tempdir_in(&base)? })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a package; it moves from round to round.
    fn master(&self, size: u64) -> Result<PackageSummary, Trouble> {
        let options = SampleOptions { size: Some(size), reels: REELS, seed: size, ..SampleOptions::default() };
        let made = make(&self.path().join(format!("master-{size}")), &options, &mut |_| {})?;
        let package = made.packages.into_iter().next().ok_or("no package was made")?;
        println!("A package of {}: {} files", human(package.bytes), package.files.len());
        Ok(package)
    }

    /// What was written so far must not be written out while something is measured.
    fn settle(&self) -> Result<(), Trouble> {
        Ok(rustix::fs::syncfs(std::fs::File::open(self.path())?)?)
    }
}

fn free(dir: &Path) -> Result<u64, Trouble> {
    match rustix::fs::statvfs(dir) {
        Ok(s) => Ok(s.f_bavail.saturating_mul(s.f_frsize)),
        Err(rustix::io::Errno::NOENT) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

async fn gentask(args: &Args, place: &Place, master: &PackageSummary, limit: f64) -> Result<Vec<Row>, Trouble> {
    let (mut ours, mut again, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let round = network::Round::open(place.path(), master, "1:0:0").await?;
    let result = async {
        for n in 1..=args.runs {
            place.settle()?;
            ours.push(round.gentask("1:0:0", true).await?);
            again.push(round.gentask(["2:1:1", "1:1:1", "1:2:3"][n % 3], false).await?);
            theirs.push(rivals::mktorrent(&round.package(), master, round.piece_length()?, place.path())?);
            progress("gentask", n, &ours, &theirs);
        }
        Ok::<_, Trouble>(())
    }
    .await;
    round.close(master, result).await?;
    let what = format!("gentask, {}", human(master.bytes));
    Ok(vec![
        Row::race(&what, "mktorrent -t 2 + openssl", &ours, &theirs, limit),
        Row::at_most("gentask again, another ratio", median(&again), Duration::from_secs(1)),
    ])
}

async fn delivery(
    args: &Args,
    place: &Place,
    master: &PackageSummary,
    what: &str,
    ratio: &str,
    limit: f64,
) -> Result<Row, Trouble> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 1..=args.runs {
        // A receiver that has the package would copy it from its library: every run has a network of its own.
        let round = network::Round::open(place.path(), master, ratio).await?;
        let result = async {
            round.gentask(ratio, false).await?;
            round.send().await?;
            place.settle()?;
            ours.push(round.receive().await?);
            place.settle()?;
            round.drop_copy()?;
            let target = place.path().join("theirs");
            theirs.push(match what {
                "cdn" => rivals::aria2_http(&round.urls(master), &target, master, args.durable)?,
                _ => rivals::aria2_torrent(&round.torrent(), &target, master, args.durable)?,
            });
            std::fs::remove_dir_all(&target)?;
            progress(what, n, &ours, &theirs);
            Ok::<_, Trouble>(())
        }
        .await;
        round.close(master, result).await?;
    }
    let theirs_is = if args.durable { "aria2c + sync + openssl" } else { "aria2c + openssl" };
    Ok(Row::race(&format!("{what} alone, {}", human(master.bytes)), theirs_is, &ours, &theirs, limit))
}

/// A delivery with and without clients that ask meanwhile, in turns; and how long they wait for their answers.
async fn api(args: &Args, place: &Place, master: &PackageSummary) -> Result<Vec<Row>, Trouble> {
    let (mut with, mut without, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    // The difference is small: more rounds than for the others, and neither side always first.
    for n in 0..args.runs * 4 {
        let asked = n % 4 == 0 || n % 4 == 3;
        let prepare = async |plan: &bft2::cli::demo::network::Plan| callers::remember(&plan.receiver.database()).await;
        let round = network::Round::with(place.path(), master, "1:1:1", prepare).await?;
        let result = async {
            round.gentask("1:1:1", false).await?;
            round.send().await?;
            place.settle()?;
            let (url, task) = round.receiver();
            let callers = asked.then(|| callers::Callers::start(&url, &task)).transpose()?;
            let took = round.receive().await?;
            println!("  api, run {}: {} {}", n + 1, seconds(took), if asked { "with callers" } else { "alone" });
            match callers {
                Some(callers) => {
                    answers.extend(callers.stop()?);
                    with.push(took);
                }
                None => without.push(took),
            }
            Ok::<_, Trouble>(())
        }
        .await;
        round.close(master, result).await?;
    }
    println!("  api: {} answers", answers.len());
    let p99 = callers::percentile(&answers, 99);
    let what = format!("{} callers, {} tasks in history", callers::CALLERS, callers::HISTORY);
    Ok(vec![
        Row::latency(&format!("heartbeat and progress, p99, {what}"), p99, Duration::from_millis(10)),
        Row::beside(&format!("delivery of {} meanwhile", human(master.bytes)), &with, &without, 1.05),
    ])
}

fn progress(what: &str, run: usize, ours: &[Duration], theirs: &[Duration]) {
    let last = |d: &[Duration]| d.last().map(|d| seconds(*d)).unwrap_or_default();
    println!("  {what}, run {run}: ours {}, theirs {}", last(ours), last(theirs));
}

async fn memory_rows(args: &Args, place: &Place) -> Result<Vec<Row>, Trouble> {
    let mut peaks: Vec<Vec<memory::Peak>> = Vec::new();
    // A long delivery has more moments in which much happens at once than a short one: the short one runs several times.
    let small = std::iter::repeat_n(MEMORY_BASE, args.runs);
    for size in small.chain([args.memory_size]) {
        let master = place.master(size)?;
        let round = network::Round::open(place.path(), &master, "1:1:1").await?;
        let watch = memory::Watch::start(&[round.pid("sender")?, round.pid("receiver")?]);
        let result = async {
            round.gentask("1:1:1", false).await?;
            round.send().await?;
            let took = round.receive().await?;
            println!("  memory: {} delivered in {}", human(size), seconds(took));
            Ok::<_, Trouble>(())
        }
        .await;
        let seen = watch.stop();
        round.close(&master, result).await?;
        std::fs::remove_dir_all(&master.dir)?;
        peaks.push(seen);
    }
    let large = peaks.pop().ok_or("no memory was measured")?;
    let mut rows = Vec::new();
    for (n, (role, large)) in ["sender", "receiver"].iter().zip(large).enumerate() {
        let small = peaks.iter().filter_map(|p| p.get(n)).fold(memory::Peak::default(), |a, b| a.max(b));
        let what = |kind| format!("{role}, {kind}, {}", human(args.memory_size));
        rows.push(Row::memory(&what("VmHWM"), large.high_water, small.high_water, MEMORY_LIMIT));
        rows.push(Row::memory(&what("RssAnon"), large.anonymous, small.anonymous, MEMORY_LIMIT));
    }
    Ok(rows)
}
