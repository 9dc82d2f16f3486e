//! `bftv2 recv`: start the reception of a task.

use super::bars::{Bars, Plain};
use super::client::Download;
use super::exit::Outcome;
use super::follow::{Follow, download_exit};
use super::service::{ServiceArgs, absolute, task_name};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  bftv2 recv /data/receiver/tmp/cfec-001-film.task.json --watch
  bftv2 recv /data/receiver/tmp/cfec-001-film.task.json --reactive true   # a cacher: seed longer
  bftv2 recv ./cfec-001-film.task.json --json";

/// Start the reception of a task (receiver, cacher)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RecvArgs {
    /// The task file; the service moves it
    taskfile: PathBuf,
    /// A cacher that seeds goes on for longer; a receiver starts again with what it has
    #[arg(long, value_name = "BOOL", default_value = "false", value_parser = ["true", "false"])]
    reactive: String,
    /// Wait until the package is in its store
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl RecvArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let taskfile = absolute(&self.taskfile)?;
        let reply = client.call("recv", json!({"taskfile": taskfile, "reactive": self.reactive})).await?;
        if !reply.ok || !self.watch {
            return Ok(self.service.verdict(&reply));
        }
        let bars = Bars::new(Plain::Error);
        let reply = Follow::patient(&client, &bars).download(&task_name(&taskfile)?, |_| {}).await?;
        let download = Download::from(&reply);
        self.service.print(&reply, &super::progress::human(&download));
        Ok(download_exit(&download))
    }
}
