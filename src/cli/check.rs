//! `bftv2 check DIR`: is this package what its own packing list, or a torrent, says?

use super::bars::{Bars, Plain};
use super::exit::{Exit, Failure, Outcome};
use crate::error::{Fault, io_fault};
use crate::model::ids::Sha1;
use crate::package::check::{Check, CheckReport};
use crate::package::documents::Finding;
use crate::package::metainfo::Metainfo;
use crate::package::one_pass::PassProgress;
use crate::package::scan::ScannedFile;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  bftv2 check /data/dcp/cfec-001/dcps/film
  bftv2 check film_VF --ov film_OV      # a version file: with the track files that it plays
  bftv2 check film --torrent film.torrent
  bftv2 check film --json | jq -r .verdict
  bftv2 check . && echo whole

The verdict is complete; or what is wrong: missing FILE, size differs FILE, hash differs FILE, …; or version file, needs
OV: the package is whole, and plays files of another one. Exit code 0: whole; 1: not whole, or no package; 5: a file
cannot be read.";

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
    /// A package that holds what this version file plays; may be given several times
    #[arg(long, value_name = "DIR")]
    ov: Vec<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub async fn run(self) -> Outcome {
        let torrent = self.torrent.as_deref().map(read_torrent).transpose()?;
        let report = examine(Check::prepare(&self.dir, torrent, &self.ov)?, &Bars::new(Plain::Error)).await?;
        match self.json {
            true => println!("{:#}", json(&self.dir, &report)),
            false => println!("{}", human(&report)),
        }
        Ok(if report.verdict.ok { Exit::Ok } else { Exit::Refused })
    }
}

/// Reads every file, with a meter. The demo ends with the same.
pub async fn examine(check: Check, bars: &Bars) -> Result<CheckReport, Failure> {
    let meter = bars.bytes("check", check.total());
    let progress = Arc::new(PassProgress::default());
    let shared = progress.clone();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let job = tokio::task::spawn_blocking(move || check.run(cores, &shared));
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
    for file in &report.borrowed {
        text.push_str(&format!("\n  plays {file}"));
    }
    for finding in &report.findings {
        text.push_str(&format!("\n  {finding}"));
    }
    text
}

/// The same for programs.
fn json(dir: &Path, report: &CheckReport) -> Value {
    let finding = |f: &Finding| json!({"file": f.file, "kind": f.what.kind(), "error": f.what.is_error(), "text": f.to_string()});
    let file = |(f, sha1): &(ScannedFile, Sha1)| json!({"path": f.path.as_str(), "size": f.size, "sha1": sha1.to_string()});
    json!({
        "package": dir.display().to_string(),
        "ok": report.verdict.ok,
        "verdict": report.verdict.text,
        "standard": report.standard.map(|s| s.as_str()),
        "titles": report.titles,
        "bytes": report.bytes,
        "files": report.files.iter().map(file).collect::<Vec<_>>(),
        "ov_files": report.borrowed,
        "left_out": report.skipped,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}
