//! `bftv2 uprogress`: how far a distribution is.

use super::bars::{Bars, Plain};
use super::client::Upload;
use super::exit::Outcome;
use super::follow::{Follow, upload_exit};
use super::service::{ServiceArgs, task_name};
use clap::Args;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  bftv2 uprogress cfec-001-film
  bftv2 uprogress cfec-001-film.task.json --watch
  bftv2 uprogress cfec-001-film --json | jq -r .return_content.status";

/// Ask how far a distribution is (uploadprogress, sender)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct UprogressArgs {
    /// Name of the task file; `.task.json` may be left out
    taskfile: String,
    /// Wait until receivers may be told
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl UprogressArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let task = task_name(&self.taskfile)?;
        let reply = if self.watch {
            let bars = Bars::new(Plain::Error);
            Follow::patient(&client, &bars).upload(&task).await?
        } else {
            client.call("uploadprogress", json!({"taskfile": task})).await?
        };
        let upload = Upload::from(&reply);
        self.service.print(&reply, &human(&upload));
        Ok(upload_exit(&upload))
    }
}

/// One state and its reasons, a line each.
pub fn human(u: &Upload) -> String {
    let mut text = format!("{}\n  bt   {}\n  obs  {}\n  cdn  {}", u.status, u.bt, u.obs, u.cdn);
    for (name, value) in [("task", &u.taskfile), ("why", &u.desc)] {
        if !value.is_empty() {
            text.push_str(&format!("\n  {name:<4} {value}"));
        }
    }
    text
}
