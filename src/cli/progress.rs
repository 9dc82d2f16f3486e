//! `bftv2 progress`: how far a reception is.

use super::amount;
use super::bars::{Bars, Plain};
use super::client::Download;
use super::exit::Outcome;
use super::follow::{Follow, download_exit};
use super::service::{ServiceArgs, task_name};
use crate::model::span::Method;
use clap::Args;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  bftv2 progress cfec-001-film
  bftv2 progress cfec-001-film.task.json --watch
  bftv2 progress cfec-001-film --json | jq -r .return_content.totalpercent";

/// Ask how far a reception is (receiver)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ProgressArgs {
    /// Name of the task file; `.task.json` may be left out
    taskfile: String,
    /// Wait until the package is in its store
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl ProgressArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let task = task_name(&self.taskfile)?;
        let reply = if self.watch {
            let bars = Bars::new(Plain::Error);
            Follow::patient(&client, &bars).download(&task, |_| {}).await?
        } else {
            client.call("progress", json!({"taskfile": task})).await?
        };
        let download = Download::from(&reply);
        let mut text = human(&download);
        if download.status == "downloading" || download.status == "queues" {
            let (expected, risk) = client.prospects(&task).await.unwrap_or_default();
            for (name, value) in [("done", minute(&expected)), ("risk", risk)] {
                if !value.is_empty() {
                    text.push_str(&format!("\n  {name:<5} {value}"));
                }
            }
        }
        self.service.print(&reply, &text);
        Ok(download_exit(&download))
    }
}

/// `at about 2026-05-28 22:34` of an RFC 3339 time; empty when there is none.
fn minute(time: &str) -> String {
    match chrono::DateTime::parse_from_rfc3339(time) {
        Ok(at) => at.format("at about %Y-%m-%d %H:%M").to_string(),
        Err(_) => String::new(),
    }
}

/// The state, then a line per method and one for local copies.
pub fn human(d: &Download) -> String {
    let state = if d.status.is_empty() { "unknown" } else { d.status.as_str() };
    let mut text = state.to_owned();
    if d.total > 0 {
        text = format!("{state}: {:.3} % of {}", d.percent, amount::human(d.total));
        if !d.rate.is_empty() {
            text.push_str(&format!(", {}", d.rate));
        }
        if d.eta_minutes > 0 {
            text.push_str(&format!(", {} min left", d.eta_minutes));
        }
        for (method, share) in Method::ALL.iter().zip(&d.methods).filter(|(_, s)| s.to_fetch > 0 || s.done > 0) {
            let rate = share.rate.map(|r| format!(", {}/s", amount::human(r))).unwrap_or_default();
            text.push_str(&format!("\n  {method:<5} {} of {}{rate}", amount::human(share.done), amount::human(share.to_fetch)));
        }
        if d.local_same > 0 {
            text.push_str(&format!("\n  local {}", amount::human(d.local_same)));
        }
    }
    for (name, value) in [("store", &d.dcppath), ("task", &d.taskfile), ("error", &d.error), ("why", &d.desc)] {
        if !value.is_empty() {
            text.push_str(&format!("\n  {name:<5} {value}"));
        }
    }
    text
}
