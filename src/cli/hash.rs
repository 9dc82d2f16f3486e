//! `bftv2 hash`: the library is hashed on request, checked, and exchanged with `sha1sum`.

use super::amount::human;
use super::bars::{Bars, Plain};
use super::client::Scanned;
use super::exit::{Exit, Failure, Outcome};
use super::follow::Follow;
use super::hash_table;
use super::service::{ServiceArgs, absolute};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  bftv2 hash add /data/dcp/cfec-001/dcps/film --watch   # after a package was copied in
  bftv2 hash init --watch                               # the whole library, from the beginning
  bftv2 hash verify --watch                             # is every byte still what it was?
  bftv2 hash export hashes.txt                          # as sha1sum -c reads it
  bftv2 hash status && echo nothing waits";

const ADD: &str = "\
Examples:
  bftv2 hash add /data/dcp/cfec-001/dcps/film
  bftv2 hash add /data/dcp --watch      # whatever is new or has changed";

const INIT: &str = "\
Examples:
  bftv2 hash init
  bftv2 hash init /data/dcp/cfec-001/dcps/film --watch";

const VERIFY: &str = "\
Examples:
  bftv2 hash verify                                     # the whole library; code 1 when a file is damaged
  bftv2 hash verify /data/dcp/cfec-001/dcps/film";

const EXPORT: &str = "\
Examples:
  bftv2 hash export hashes.txt && sha1sum -c hashes.txt
  bftv2 hash export --dir /data/dcp/cfec-001/dcps/film | sort -k2";

const IMPORT: &str = "\
Examples:
  bftv2 hash import hashes.txt --watch
  sha1sum /data/dcp/cfec-001/dcps/film/* | bftv2 hash import -";

const STATUS: &str = "\
Examples:
  bftv2 hash status                     # code 0: nothing waits, 4: it still hashes
  bftv2 hash status --json";

/// Hash files of the library, so that nothing is transferred that is there already
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct HashArgs {
    #[command(subcommand)]
    command: HashCommand,
}

#[derive(Subcommand, Debug)]
enum HashCommand {
    /// Hash what is new or has changed in a directory, and forget what is gone
    #[command(after_help = ADD)]
    Add {
        /// A directory or a file of the library
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        scan: ScanArgs,
    },
    /// Hash everything again
    #[command(after_help = INIT)]
    Init {
        /// A directory or a file of the library [default: the whole library]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        #[command(flatten)]
        scan: ScanArgs,
    },
    /// Read everything again and name the files whose bytes are not what they were
    #[command(after_help = VERIFY)]
    Verify(hash_table::VerifyArgs),
    /// Write the hashes as sha1sum does
    #[command(after_help = EXPORT)]
    Export(hash_table::ExportArgs),
    /// Compare lines of sha1sum: the files that they name are hashed
    #[command(after_help = IMPORT)]
    Import(hash_table::ImportArgs),
    /// Show how much is still to hash
    #[command(after_help = STATUS)]
    Status {
        #[command(flatten)]
        service: ServiceArgs,
    },
}

#[derive(Args, Debug)]
struct ScanArgs {
    /// Wait until nothing is left to hash
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl HashArgs {
    pub async fn run(self) -> Outcome {
        match self.command {
            HashCommand::Add { dir, scan } => scan.run(Some(dir), false).await,
            HashCommand::Init { dir, scan } => scan.run(dir, true).await,
            HashCommand::Verify(args) => args.run().await,
            HashCommand::Export(args) => args.run().await,
            HashCommand::Import(args) => args.run().await,
            HashCommand::Status { service } => status(&service).await,
        }
    }
}

impl ScanArgs {
    async fn run(self, dir: Option<PathBuf>, anew: bool) -> Outcome {
        let client = self.service.client()?;
        let request = scan_request(dir.as_deref(), anew)?;
        let scanned = loop {
            match client.scan(&request).await? {
                Scanned::Busy(_) if self.watch => tokio::time::sleep(Duration::from_secs(1)).await,
                other => break other,
            }
        };
        match scanned {
            Scanned::Done(raw) => self.print(&raw)?,
            Scanned::Busy(why) => return Err(Failure::new(Exit::NotFinished, why)),
            Scanned::Late(why) if !self.watch => return Err(Failure::new(Exit::NotFinished, why)),
            Scanned::Late(_) => {}
        }
        if self.watch {
            let bars = Bars::new(Plain::Error);
            Follow::patient(&client, &bars).hash_queue().await?;
        }
        Ok(Exit::Ok)
    }

    fn print(&self, raw: &str) -> Result<(), Failure> {
        if self.service.json {
            println!("{}", raw.trim_end());
            return Ok(());
        }
        let found: Value = serde_json::from_str(raw).map_err(|e| Failure::refused(format!("an odd reply: {e}")))?;
        let number = |key: &str| found[key].as_u64().unwrap_or(0);
        println!("{} to hash, {} known, {} gone", number("queued"), number("known"), number("gone"));
        match number("skipped") {
            0 => {}
            n => eprintln!(
                "bftv2: {n} left out: not readable, or with a name that is not UTF-8; the service's log names the first"
            ),
        }
        Ok(())
    }
}

/// What asks for a scan.
pub(super) fn scan_request(dir: Option<&Path>, anew: bool) -> Result<Value, Failure> {
    let mut request = json!({"anew": anew});
    if let Some(dir) = dir {
        let path = absolute(dir)?;
        // No path means everything.
        request["path"] = if path.is_empty() { "/".into() } else { path.into() };
    }
    Ok(request)
}

async fn status(service: &ServiceArgs) -> Outcome {
    let queue = service.client()?.hash_queue().await?;
    if service.json {
        println!("{}", queue.raw.trim_end());
    } else if queue.is_empty() {
        println!("nothing to hash");
    } else {
        let more = if queue.scanning { ", and a scan is running" } else { "" };
        println!("{} files, {} to hash{more}{}", queue.files, human(queue.bytes), how(&queue.raw));
    }
    Ok(if queue.is_empty() { Exit::Ok } else { Exit::NotFinished })
}

/// How the hashing goes, for a person.
fn how(queue: &str) -> String {
    let queue: Value = serde_json::from_str(queue).unwrap_or_default();
    let rate = queue["rate"].as_u64().unwrap_or(0);
    let slowly = if queue["state"] == "giving_way" { ", giving way to a delivery" } else { "" };
    match queue["eta_minutes"].as_i64() {
        Some(minutes) if rate > 0 && minutes >= 0 => format!(", {}/s, {minutes} min left{slowly}", human(rate)),
        _ => slowly.to_owned(),
    }
}
