//! `bftv2 query`: is a generation finished?

use super::bars::{Bars, Plain};
use super::exit::Outcome;
use super::follow::{Follow, generation_exit};
use super::gentask::{default_taskfile, institution};
use super::service::{ServiceArgs, absolute};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  bftv2 query /data/dcp/cfec-001/dcps/film
  bftv2 query /data/dcp/cfec-001/dcps/film --watch && echo finished
  bftv2 query /data/dcp/cfec-001/dcps/film --taskfile /data/sender/tmp/film.task.json --json";

/// Ask whether a gentask has finished (taskfilesquery)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct QueryArgs {
    /// The package's directory, as given to gentask
    dcppath: PathBuf,
    /// The task file, as given to gentask [default: /data/sender/tmp/<basesubdir>-<name>.task.json]
    #[arg(long, value_name = "FILE")]
    taskfile: Option<PathBuf>,
    /// Wait until it has finished
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl QueryArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let dcppath = absolute(&self.dcppath)?;
        let taskfile = match &self.taskfile {
            Some(file) => absolute(file)?,
            None => default_taskfile(&institution(Path::new(&dcppath))?, &dcppath),
        };
        let reply = if self.watch {
            let bars = Bars::new(Plain::Error);
            Follow::patient(&client, &bars).generation(&dcppath, &taskfile).await?
        } else {
            client.call("taskfilesquery", json!({"dcppath": dcppath, "taskfile": taskfile})).await?
        };
        self.service.print(&reply, &format!("{}: {}", reply.status(), reply.desc()));
        Ok(generation_exit(&reply))
    }
}
