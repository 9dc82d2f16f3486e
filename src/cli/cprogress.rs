//! `bftv2 cprogress`: what a cacher does with a task.

use super::bars::{Bars, Plain};
use super::exit::{Exit, Outcome};
use super::follow::Follow;
use super::service::{ServiceArgs, task_name};
use clap::Args;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  bftv2 cprogress cfec-001-film
  bftv2 cprogress cfec-001-film --watch      # until it has the whole part and seeds it
  bftv2 cprogress cfec-001-film --url http://192.0.2.20:8191 --json";

/// Ask what a cacher does with a task
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CprogressArgs {
    /// Name of the task file; `.task.json` may be left out
    taskfile: String,
    /// Wait until it seeds
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl CprogressArgs {
    pub async fn run(self) -> Outcome {
        let (client, task) = (self.service.client()?, task_name(&self.taskfile)?);
        let reply = if self.watch {
            let bars = Bars::new(Plain::Error);
            Follow::patient(&client, &bars).cacher(&task).await?
        } else {
            client.call("cprogress", json!({"taskfile": task})).await?
        };
        self.service.print(&reply, &format!("{}: {}", reply.status(), reply.desc()));
        let fine = reply.ok && !reply.status().contains("error") && (!self.watch || reply.status() == "seeding");
        Ok(if fine { Exit::Ok } else { Exit::Refused })
    }
}
