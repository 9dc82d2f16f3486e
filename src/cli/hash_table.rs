//! `bftv2 hash verify`, `export`, `import`: the library against its disk, and as lines of `sha1sum`.

use super::bars::{Bars, Plain};
use super::client::{Client, Scanned};
use super::exit::{Exit, Failure, Outcome};
use super::follow::Follow;
use super::hash::scan_request;
use super::service::{ServiceArgs, absolute};
use clap::Args;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Damaged files that are named at most: a page of events.
const MOST: usize = 500;
/// Lines are sent in parts of this size: the service takes a megabyte at a time.
const PART: usize = 256 << 10;
/// Bytes of a line, at most: what is longer is no line of a table.
const LONGEST: u64 = 16 << 10;

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// A directory or a file of the library [default: the whole library]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only begin: events of the kind `damaged` will tell
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Where to write [default: the terminal]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only what is in this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Lines of sha1sum; `-` reads from the terminal or a pipe
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Wait until nothing is left to hash
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl VerifyArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let before = damages(&client).await?.first().and_then(|e| e["id"].as_i64()).unwrap_or(0);
        let request = scan_request(self.dir.as_deref(), true)?;
        let files = loop {
            match client.scan(&request).await? {
                Scanned::Busy(_) if !self.no_wait => tokio::time::sleep(Duration::from_secs(1)).await,
                Scanned::Busy(why) => return Err(Failure::new(Exit::NotFinished, why)),
                Scanned::Late(_) => break None,
                Scanned::Done(raw) => {
                    let scanned: Value = serde_json::from_str(&raw).unwrap_or_default();
                    break scanned["queued"].as_u64();
                }
            }
        };
        let read = files.map_or_else(|| "all files".to_owned(), |n| format!("{n} files"));
        if self.no_wait {
            println!("{read} are being read again: bftv2 hash status");
            return Ok(Exit::Ok);
        }
        let bars = Bars::new(Plain::Error);
        Follow::patient(&client, &bars).hash_queue().await?;
        let damaged: Vec<Value> =
            damages(&client).await?.into_iter().filter(|e| e["id"].as_i64().is_some_and(|id| id > before)).collect();
        if self.service.json {
            let texts: Vec<&Value> = damaged.iter().map(|e| &e["text"]).collect();
            println!("{}", json!({"files": files, "damaged": texts}));
        } else {
            for event in damaged.iter().rev() {
                println!("{}", event["text"].as_str().unwrap_or_default());
            }
            let more = if damaged.len() >= MOST { " or more: see the events" } else { "" };
            println!("{read} read, {} damaged{more}", damaged.len());
        }
        Ok(if damaged.is_empty() { Exit::Ok } else { Exit::Refused })
    }
}

/// The newest events about damage, newest first.
async fn damages(client: &Client) -> Result<Vec<Value>, Failure> {
    let text = client.resource(client.url(&format!("v1/events?kind=damaged&limit={MOST}"))?).await?.unwrap_or_default();
    let page: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(page["items"].as_array().cloned().unwrap_or_default())
}

impl ExportArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let below = self.dir.as_deref().map(absolute).transpose()?.map(|dir| format!("{}/", dir.trim_end_matches('/')));
        let files = match &self.file {
            None => export(&client, below.as_deref(), &mut std::io::stdout().lock()).await?,
            Some(file) => {
                let name = file.file_name().ok_or_else(|| Failure::usage(format!("{} is no file", file.display())))?;
                let part = file.with_file_name(format!(".{}.part", name.to_string_lossy()));
                let failed = |e: std::io::Error| Failure::local(format!("cannot write {}: {e}", file.display()));
                let mut out = std::fs::File::create(&part).map(std::io::BufWriter::new).map_err(failed)?;
                let written = export(&client, below.as_deref(), &mut out).await.and_then(|n| {
                    out.flush()
                        .and_then(|()| out.get_ref().sync_all())
                        .and_then(|()| std::fs::rename(&part, file))
                        .map_err(failed)?;
                    Ok(n)
                });
                if written.is_err() {
                    let _ = std::fs::remove_file(&part);
                }
                written?
            }
        };
        if self.file.is_some() {
            println!("{files} files");
        }
        Ok(Exit::Ok)
    }
}

async fn export(client: &Client, below: Option<&str>, out: &mut impl Write) -> Result<u64, Failure> {
    let (mut files, mut cursor) = (0, None::<String>);
    loop {
        let mut url = client.url("v1/library/files?limit=500")?;
        if let Some(cursor) = &cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let text = client.resource(url).await?.ok_or_else(|| Failure::refused("a cacher has no library"))?;
        let page: Value = serde_json::from_str(&text).map_err(|e| Failure::refused(format!("an odd reply: {e}")))?;
        let mut lines = String::new();
        for file in page["items"].as_array().into_iter().flatten() {
            let (Some(path), Some(sha1)) = (file["path"].as_str(), file["sha1"].as_str()) else { continue };
            if below.is_none_or(|below| path.starts_with(below)) && file["state"].as_str().is_none_or(|s| s == "ok") {
                lines += &format!("{sha1}  {path}\n");
                files += 1;
            }
        }
        out.write_all(lines.as_bytes()).map_err(|e| Failure::local(format!("cannot write: {e}")))?;
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(files);
        }
    }
}

impl ImportArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let failed = |e: std::io::Error| Failure::local(format!("cannot read {}: {e}", self.file.display()));
        let mut input: Box<dyn BufRead> = match self.file.as_path() == Path::new("-") {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(BufReader::new(std::fs::File::open(&self.file).map_err(failed)?)),
        };
        let mut sum = [0u64; 3];
        let mut first = String::new();
        loop {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while bytes < PART {
                let mut line = Vec::new();
                match (&mut input).take(LONGEST).read_until(b'\n', &mut line).map_err(failed)? {
                    0 => break,
                    n => bytes += n,
                }
                // A line that is not UTF-8 is refused by itself.
                part.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if part.is_empty() {
                break;
            }
            let imported = client.import(&part).await?;
            for (n, key) in ["same", "queued", "refused"].iter().enumerate() {
                sum[n] += imported[*key].as_u64().unwrap_or(0);
            }
            if first.is_empty() {
                imported["first_refused"].as_str().unwrap_or_default().clone_into(&mut first);
            }
        }
        let [same, queued, refused] = sum;
        if self.service.json {
            println!("{}", json!({"same": same, "queued": queued, "refused": refused, "first_refused": first}));
        } else {
            println!("{same} known, {queued} to hash, {refused} refused");
            if refused > 0 {
                eprintln!("bftv2: refused: {first}");
            }
        }
        if self.watch {
            let bars = Bars::new(Plain::Error);
            Follow::patient(&client, &bars).hash_queue().await?;
        }
        Ok(if refused > 0 { Exit::Refused } else { Exit::Ok })
    }
}
