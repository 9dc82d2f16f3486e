//! `bftv2 priority`: who comes first.

use super::exit::{Exit, Outcome};
use super::service::{ServiceArgs, task_name};
use clap::Args;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  bftv2 priority cfec-001-film 10              # before all that have less; 0 is what tasks begin with
  bftv2 priority cfec-001-film -5 --role sender";

/// Let a task leave the queue before others
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PriorityArgs {
    /// Name of the task file; `.task.json` may be left out
    taskfile: String,
    /// -1000 to 1000: higher ones come first, of equals the oldest. A task at work is not stopped for another
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1000..=1000))]
    priority: i64,
    /// Which side of the delivery
    #[arg(long, default_value = "receiver", value_parser = ["receiver", "sender"])]
    role: String,
    #[command(flatten)]
    service: ServiceArgs,
}

impl PriorityArgs {
    pub async fn run(self) -> Outcome {
        let task = task_name(&self.taskfile)?;
        let resource = format!("v1/tasks/{}/{task}/priority", self.role);
        let answer = self.service.client()?.post(&resource, &json!({"priority": self.priority})).await?;
        if self.service.json {
            println!("{answer}");
        } else {
            println!("{task} has priority {}; it is in {}", answer["priority"], answer["state"].as_str().unwrap_or("?"));
        }
        Ok(Exit::Ok)
    }
}
