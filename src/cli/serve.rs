//! `bftv2 serve` and `bftv2 console`: the daemon.

use super::exit::{Exit, Outcome};
use clap::Args;
use std::path::Path;

const SERVE_EXAMPLES: &str = "\
Examples:
  bftv2 serve
  bftv2 serve --config /etc/bft2/config.json

SIGTERM and Ctrl-C stop it: running transfers are drained and resume at the next start.
BFT2_LOG sets what is logged: BFT2_LOG=info,bft2::work=debug";

const CONSOLE_EXAMPLES: &str = "\
Examples:
  bftv2 console
  BFT2_LOG=debug bftv2 console --config ./config.json";

/// Run the service
#[derive(Args, Debug)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArgs {}

/// Run the service with its log on the terminal
#[derive(Args, Debug)]
#[command(after_help = CONSOLE_EXAMPLES)]
pub struct ConsoleArgs {}

pub async fn run(config: &Path, console: bool) -> Outcome {
    crate::app::serve(config, console).await?;
    Ok(Exit::Ok)
}
