//! `bftv2 check DIR`: is this package what its own packing list says?

use super::exit::{Exit, Failure, Outcome};
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  bftv2 check /data/dcp/cfec-001/dcps/film
  bftv2 check . && echo whole";

/// Verify a package against its packing lists
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The package's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl CheckArgs {
    pub async fn run(self) -> Outcome {
        let dir = self.dir.clone();
        let done = tokio::task::spawn_blocking(move || crate::package::check(&dir)).await;
        let report = done.map_err(|_| Failure::local(format!("the check of {} was cut off", self.dir.display())))??;
        let (good, text) = verdict(&report);
        println!("{text}");
        Ok(if good { Exit::Ok } else { Exit::Refused })
    }
}

/// Good or not, and why, in words. The demo ends with the same.
pub fn verdict(report: &crate::package::CheckReport) -> (bool, String) {
    (report.ok(), report.to_string())
}
