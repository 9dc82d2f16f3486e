//! `bftv2 cancel`: stop a task.

use super::exit::Outcome;
use super::service::{ServiceArgs, task_name};
use clap::Args;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  bftv2 cancel cfec-001-film
  bftv2 cancel cfec-001-film.task.json --json";

/// Stop a reception, else a distribution
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CancelArgs {
    /// Name of the task file; `.task.json` may be left out
    taskfile: String,
    #[command(flatten)]
    service: ServiceArgs,
}

impl CancelArgs {
    pub async fn run(self) -> Outcome {
        let reply = self.service.client()?.call("cancel", json!({"taskfile": task_name(&self.taskfile)?})).await?;
        Ok(self.service.verdict(&reply))
    }
}
