//! `bftv2 check DIR`: is this package what its own packing list, or a torrent, says?

use super::bars::{Bars, Plain};
use super::exit::{Exit, Failure, Outcome};
use crate::error::{Fault, io_fault};
use crate::package::check::{CheckReport, check_with};
use crate::package::metainfo::Metainfo;
use crate::package::one_pass::PassProgress;
use crate::package::scan::scan;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  bftv2 check /data/dcp/cfec-001/dcps/film
  bftv2 check film --torrent film.torrent
  bftv2 check . && echo whole";

/// Torrents of this service stay under 4 MiB; others are rarely larger.
const MAX_TORRENT: u64 = 64 << 20;
const LOOK: Duration = Duration::from_millis(100);

/// Verify a package against its packing lists, or a torrent
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The package's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Compare with this torrent, too
    #[arg(long, value_name = "FILE")]
    torrent: Option<PathBuf>,
}

impl CheckArgs {
    pub async fn run(self) -> Outcome {
        let torrent = self.torrent.as_deref().map(read_torrent).transpose()?;
        let report = examine(&self.dir, torrent, &Bars::new(Plain::Error)).await?;
        println!("{}", human(&report));
        Ok(if report.verdict.ok { Exit::Ok } else { Exit::Refused })
    }
}

/// Reads every file, with a meter. The demo ends with the same.
pub async fn examine(dir: &Path, torrent: Option<Metainfo>, bars: &Bars) -> Result<CheckReport, Failure> {
    let meter = bars.bytes("check", scan(dir)?.total());
    let progress = Arc::new(PassProgress::default());
    let (dir, shared) = (dir.to_owned(), progress.clone());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let job = tokio::task::spawn_blocking(move || check_with(&dir, torrent.as_ref(), cores, &shared));
    while !job.is_finished() {
        meter.set(progress.done.load(Ordering::Relaxed));
        tokio::time::sleep(LOOK).await;
    }
    let report = job.await.map_err(|e| Failure::local(format!("the check broke off: {e}")))??;
    meter.done(if report.verdict.ok { "good" } else { "NOT GOOD" });
    Ok(report)
}

fn read_torrent(path: &Path) -> Result<Metainfo, Fault> {
    let unreadable = |e| io_fault("cannot read the torrent", path, &e);
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_TORRENT {
        return Err(Fault::permanent(format!("{} is too large for a torrent", path.display())));
    }
    Metainfo::parse(&std::fs::read(path).map_err(unreadable)?)
}

/// The verdict, what the package is, and everything that was found.
pub fn human(report: &CheckReport) -> String {
    let word = if report.verdict.ok { "good" } else { "NOT GOOD" };
    let mut text = format!("{word}: {}", report.verdict.text);
    text.push_str(&format!("\n  {} files, {}", report.files.len(), super::amount::human(report.bytes)));
    if let Some(standard) = report.standard {
        text.push_str(&format!(", {}", standard.as_str()));
    }
    for title in &report.titles {
        text.push_str(&format!("\n  title {title}"));
    }
    for finding in &report.findings {
        text.push_str(&format!("\n  {finding}"));
    }
    text
}
