//! `bftv2 version`.

use super::exit::{Exit, Outcome};
use super::service::ServiceArgs;
use clap::Args;

const EXAMPLES: &str = "\
Examples:
  bftv2 version
  bftv2 version --service --url http://192.0.2.10:8191";

/// Print the version
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct VersionArgs {
    /// Ask the running service instead
    #[arg(long)]
    service: bool,
    #[command(flatten)]
    at: ServiceArgs,
}

impl VersionArgs {
    pub async fn run(self) -> Outcome {
        if self.service {
            println!("{}", self.at.client()?.text("version").await?.trim_end());
        } else {
            println!("bftv2 {}", env!("CARGO_PKG_VERSION"));
        }
        Ok(Exit::Ok)
    }
}
