//! `bftv2 send`: start the distribution of a task.

use super::bars::{Bars, Plain};
use super::client::Upload;
use super::exit::Outcome;
use super::follow::{Follow, upload_exit};
use super::service::{ServiceArgs, absolute, task_name};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  bftv2 send /data/sender/tmp/cfec-001-film.task.json
  bftv2 send /data/sender/tmp/cfec-001-film.task.json --watch   # then hand it to the receivers
  bftv2 send /data/sender/tmp/cfec-001-film.task.json --reactive false";

/// Start the distribution of a task (sender)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SendArgs {
    /// The task file that gentask made, full path
    taskfile: PathBuf,
    /// Stop a seed of the same name and start it again
    #[arg(long, value_name = "BOOL", default_value = "true", value_parser = ["true", "false"])]
    reactive: String,
    /// Wait until receivers may be told
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl SendArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let taskfile = absolute(&self.taskfile)?;
        let reply = client.call("send", json!({"taskfile": taskfile, "reactive": self.reactive})).await?;
        if !reply.ok || !self.watch {
            return Ok(self.service.verdict(&reply));
        }
        let bars = Bars::new(Plain::Error);
        let reply = Follow::patient(&client, &bars).upload(&task_name(&taskfile)?).await?;
        let upload = Upload::from(&reply);
        self.service.print(&reply, &super::uprogress::human(&upload));
        Ok(upload_exit(&upload))
    }
}
