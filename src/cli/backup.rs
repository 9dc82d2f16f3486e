//! `bftv2 backup`: a checked copy of the database, also while the service writes.

use super::amount::human;
use super::bars::{Bars, Plain};
use super::exit::{Exit, Failure, Outcome};
use crate::store::backup::backup;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  bftv2 backup /backup/bft2.db                   # refuses when the file is there
  bftv2 backup /backup/bft2.db --force           # replaces it, when the new one is whole
  bftv2 backup --db /tmp/copy.db --json /backup/copy.db

The copy shows one moment. It has the rights 0600: it holds keys. It has its name when it is checked and safe on disk.
To restore: stop the service, move the old database with its -wal and -shm aside, put the copy in its place, start.";

/// Copy the database while the service runs
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BackupArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// The database [default: `database` of the configuration]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Replace FILE if it is there
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl BackupArgs {
    pub async fn run(self, config: &Path) -> Outcome {
        let db = match self.db {
            Some(db) => db,
            None => super::configuration(config)?.database,
        };
        let bars = Bars::new(Plain::Error);
        let meter = bars.bytes("backup", 0);
        let told = backup(&db, &self.to, self.force, |done, total| {
            meter.total(total);
            meter.set(done);
        });
        let done = told.await.map_err(Failure::from)?;
        meter.clear();
        if self.json {
            let result = json!({
                "file": self.to, "bytes": done.bytes, "schema": done.schema, "tasks": done.tasks, "library_files": done.library_files,
            });
            println!("{result}");
        } else {
            println!(
                "{}: {}, {} tasks, {} library files; checked: whole",
                self.to.display(),
                human(done.bytes),
                done.tasks,
                done.library_files
            );
        }
        Ok(Exit::Ok)
    }
}
