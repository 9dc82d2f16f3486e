//! `bftv2 doctor`: looks at everything that a node needs, says what is wrong and what to do. Changes nothing.

mod files;
mod machine;
mod network;

use super::exit::{Exit, Outcome};
use crate::store::inspect::Depth;
use clap::Args;
use serde_json::json;
use std::path::Path;

const EXAMPLES: &str = "\
Examples:
  sudo -u bft2 bftv2 doctor                      # as the service's user: rights are part of it
  bftv2 doctor --full                            # compare every index of the database with its table, too
  bftv2 doctor --json | jq '.checks[] | select(.level != \"ok\")'

Changes nothing; safe while the service runs. FAIL: the node cannot do its work as it is; the exit code is 1.
warn: it can, but somebody should look.";

/// Check this node, and say what to do
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Check the database thoroughly: also whether indexes agree with tables
    #[arg(long)]
    full: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One look.
#[derive(Clone, Debug)]
struct Finding {
    name: &'static str,
    level: Level,
    text: String,
    /// What to do; empty when all is well.
    todo: String,
}

impl Finding {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, text: text.into(), todo: String::new() }
    }
    fn warn(name: &'static str, text: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, level: Level::Warn, text: text.into(), todo: todo.into() }
    }
    fn fail(name: &'static str, text: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, level: Level::Fail, text: text.into(), todo: todo.into() }
    }

    fn line(&self) -> String {
        let word = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let todo = if self.todo.is_empty() { String::new() } else { format!(" -> {}", self.todo) };
        format!("{word:<5} {:<14} {}{todo}", self.name, self.text)
    }
}

impl DoctorArgs {
    pub async fn run(self, config: &Path) -> Outcome {
        let (config, mut findings) = files::config(config);
        if let Some(config) = config {
            let depth = if self.full { Depth::Full } else { Depth::Quick };
            findings.extend(machine::checks());
            findings.extend(files::directories(&config));
            findings.extend(files::room(&config));
            findings.extend(files::aside(&config));
            let (database, network) = tokio::join!(files::database(&config, depth), network::checks(&config));
            findings.extend(database);
            findings.extend(files::disk(&config).await);
            findings.extend(network);
        } else {
            findings.extend(machine::checks());
        }
        let worst = findings.iter().any(|f| f.level == Level::Fail);
        if self.json {
            let word = |l: Level| match l {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            let one = |f: &Finding| json!({"name": f.name, "level": word(f.level), "text": f.text, "todo": f.todo});
            println!("{:#}", json!({"ok": !worst, "checks": findings.iter().map(one).collect::<Vec<_>>()}));
        } else {
            findings.iter().for_each(|f| println!("{}", f.line()));
        }
        Ok(if worst { Exit::Refused } else { Exit::Ok })
    }
}
