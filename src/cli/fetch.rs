//! `bftv2 fetch`: the task file of a sender, for who has no theatre management system that carries it.

use super::client::Client;
use super::exit::{Exit, Failure, Outcome};
use super::service::{from_env, task_name};
use crate::model::task_file::TaskFile;
use crate::views;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  bftv2 fetch cfec-001-film --from http://192.0.2.10:8191 --to /data/receiver/tmp/cfec-001-film.task.json
  BFT2_FROM_TOKEN=… bftv2 fetch cfec-001-film --from http://192.0.2.10:8191
  bftv2 recv \"$(bftv2 fetch cfec-001-film --from http://192.0.2.10:8191)\" --watch

The sender needs a token to be reachable from elsewhere. The file may hold the keys of a bucket: it is
written so that its owner alone can read it.";

/// Fetch a task file from a sender
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct FetchArgs {
    /// Name of the task file; `.task.json` may be left out
    task: String,
    /// The sender's service
    #[arg(long, value_name = "URL")]
    from: String,
    /// The sender's token; the environment keeps it out of the process list [env: BFT2_FROM_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    from_token: Option<String>,
    /// The file to write [default: its name, here]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl FetchArgs {
    pub async fn run(self) -> Outcome {
        let task = task_name(&self.task)?;
        let client = Client::new(&self.from, self.from_token.or_else(|| from_env("BFT2_FROM_TOKEN")))?;
        let text = client.task_file(&task).await?;
        // What comes from elsewhere is looked at before it is kept.
        TaskFile::parse(text.as_bytes())
            .map_err(|e| Failure::refused(format!("{} sent something that is no task file: {e}", self.from)))?;
        let to = std::path::absolute(self.to.unwrap_or_else(|| PathBuf::from(&task)))
            .map_err(|e| Failure::usage(format!("--to: {e}")))?;
        let to = if to.is_dir() { to.join(&task) } else { to };
        views::write_file(&to, text.as_bytes())?;
        println!("{}", to.display());
        Ok(Exit::Ok)
    }
}
