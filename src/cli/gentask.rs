//! `bftv2 gentask`: make the task file and the torrents of a package.

use super::bars::{Bars, Plain};
use super::exit::{Exit, Failure, Outcome};
use super::follow::{Follow, generation_exit};
use super::service::{ServiceArgs, absolute, from_env};
use clap::Args;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  bftv2 gentask /data/dcp/cfec-001/dcps/film --watch
  bftv2 gentask /data/dcp/cfec-001/dcps/film --ratio 2:1:1 --policy priortime
  bftv2 gentask ./film --basesubdir cfec-001 --taskfile /data/sender/tmp/film.task.json --json

The keys of the object store come from the environment (BFT2_OBS_AK, BFT2_OBS_SK) or, when that
is empty, from the service's configuration.";

/// Make the task file and the torrents of a package
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct GentaskArgs {
    /// The package's directory, as the service sees it
    dcppath: PathBuf,
    /// The task file to write [default: /data/sender/tmp/<basesubdir>-<name>.task.json]
    #[arg(long, value_name = "FILE")]
    taskfile: Option<PathBuf>,
    /// Institution; known from a path …/<basesubdir>/dcps/<name>
    #[arg(long, value_name = "NAME")]
    basesubdir: Option<String>,
    /// Shares of bytes for bt:obs:cdn
    #[arg(long, value_name = "A:B:C", default_value = "1:1:1")]
    ratio: String,
    /// At any time, or inside the windows of each method
    #[arg(long, default_value = "fulltime", value_parser = ["fulltime", "priortime"])]
    policy: String,
    /// Announce URL [default: the service's]
    #[arg(long, value_name = "URL")]
    tracker: Option<String>,
    /// Hours to seed [default: the service's]
    #[arg(long, value_name = "HOURS")]
    seedtime: Option<u32>,
    /// obs://bucket/dcps/name [default: built by the service]
    #[arg(long, value_name = "URL")]
    obsurl: Option<String>,
    /// Endpoint of the object store [default: the service's]
    #[arg(long, value_name = "HOST")]
    endpoint: Option<String>,
    /// Delete old torrents first
    #[arg(long)]
    deloldtorrent: bool,
    /// Wait until the task file and the torrents are finished
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

impl GentaskArgs {
    pub async fn run(self) -> Outcome {
        let client = self.service.client()?;
        let dcppath = absolute(&self.dcppath)?;
        let basesubdir = self.basesubdir.clone().map_or_else(|| institution(Path::new(&dcppath)), Ok)?;
        let taskfile = match &self.taskfile {
            Some(file) => absolute(file)?,
            None => default_taskfile(&basesubdir, &dcppath),
        };
        let reply = client.call("gentask", self.params(&dcppath, &taskfile, &basesubdir)).await?;
        if !reply.ok || !self.watch {
            return Ok(self.service.verdict(&reply));
        }
        let bars = Bars::new(Plain::Error);
        let reply = Follow::patient(&client, &bars).generation(&dcppath, &taskfile).await?;
        let exit = generation_exit(&reply);
        let text = if exit == Exit::Ok { taskfile } else { format!("failed: {}", reply.desc()) };
        self.service.print(&reply, &text);
        Ok(exit)
    }

    fn params(&self, dcppath: &str, taskfile: &str, basesubdir: &str) -> Value {
        let mut params = Map::new();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                params.insert(key.to_owned(), Value::String(value));
            }
        };
        put("dcppath", Some(dcppath.to_owned()));
        put("taskfile", Some(taskfile.to_owned()));
        put("basesubdir", Some(basesubdir.to_owned()));
        put("btobscdn", Some(self.ratio.clone()));
        put("policy", Some(self.policy.clone()));
        put("tracker", self.tracker.clone());
        put("seedtime", self.seedtime.map(|h| h.to_string()));
        put("obsurl", self.obsurl.clone());
        put("endpoint", self.endpoint.clone());
        put("ak", from_env("BFT2_OBS_AK"));
        put("sk", from_env("BFT2_OBS_SK"));
        put("deloldtorrent", Some(self.deloldtorrent.to_string()));
        Value::Object(params)
    }
}

/// The institution of `…/<basesubdir>/dcps/<name>`.
pub fn institution(dcppath: &Path) -> Result<String, Failure> {
    let store = dcppath.parent().filter(|p| p.file_name().is_some_and(|n| n == "dcps"));
    let name = store.and_then(|p| p.parent()).and_then(|p| p.file_name()).and_then(|n| n.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("{} is not …/<basesubdir>/dcps/<name>: give --basesubdir", dcppath.display())))
}

/// Where the service's configuration has its task files unless it says otherwise.
pub fn default_taskfile(basesubdir: &str, dcppath: &str) -> String {
    let name = dcppath.rsplit('/').next().unwrap_or(dcppath);
    format!("/data/sender/tmp/{basesubdir}-{name}.task.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_institution_is_read_from_the_path() {
        assert_eq!(institution(Path::new("/data/dcp/cfec-001/dcps/film")).expect("known"), "cfec-001");
        assert!(institution(Path::new("/data/film")).is_err());
        assert_eq!(default_taskfile("cfec-001", "/x/film"), "/data/sender/tmp/cfec-001-film.task.json");
    }
}
