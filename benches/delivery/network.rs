//! Our side: a network of processes of the binary that ships, driven through its HTTP interface.

use super::Trouble;
use bft2::cli::client::{Client, Download, Upload};
use bft2::cli::demo::network::{BASESUBDIR, Network, Plan};
use bft2::cli::exit::Exit;
use bft2::cli::follow::{download_exit, upload_exit};
use bft2::model::ratio::Ratio;
use bft2::package::sample::PackageSummary;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at a file name: finer than anything that is measured, and nearly free, unlike a question by HTTP.
const LOOK: Duration = Duration::from_millis(5);
/// Nothing that is measured here takes so long.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A network with the package in its sender's store.
pub struct Round {
    plan: Plan,
    network: Network,
    name: String,
    sender: Client,
    receiver: Client,
}

impl Round {
    /// Moves the package in and starts the processes.
    pub async fn open(dir: &Path, master: &PackageSummary, ratio: &str) -> Result<Self, Trouble> {
        Self::with(dir, master, ratio, async |_| Ok(())).await
    }

    /// The same, with something done to what the processes will find.
    pub async fn with(
        dir: &Path,
        master: &PackageSummary,
        ratio: &str,
        prepare: impl AsyncFnOnce(&Plan) -> Result<(), Trouble>,
    ) -> Result<Self, Trouble> {
        let dir = dir.join("network");
        let plan = Plan::lay_out(&dir, Ratio::parse(ratio)?, "fulltime").map_err(|f| f.message)?;
        // The rival must meet the sender's seed alone, and not a receiver that has just finished.
        let config = plan.receiver.config();
        let mut keys: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
        keys["receiverseed"] = json!(false);
        std::fs::write(&config, keys.to_string())?;
        prepare(&plan).await?;
        let name = master.dir.file_name().and_then(|n| n.to_str()).ok_or("the package has no name")?.to_owned();
        std::fs::rename(&master.dir, plan.sender.store().join(&name))?;
        let mut network = Network::of(Path::new(env!("CARGO_BIN_EXE_bftv2")));
        let started = network.start(&plan).await.map_err(|f| f.message);
        let (sender, receiver) = (plan.sender.client(), plan.receiver.client());
        let round =
            Self { sender: sender.map_err(|f| f.message)?, receiver: receiver.map_err(|f| f.message)?, plan, network, name };
        match started {
            Ok(()) => Ok(round),
            Err(e) => Err(round.close(master, Err(e.into())).await.err().unwrap_or_else(|| "no network".into())),
        }
    }

    /// Stops everything and takes the package out again. Passes `result` on, with the ends of the logs when it is bad.
    pub async fn close(mut self, master: &PackageSummary, result: Result<(), Trouble>) -> Result<(), Trouble> {
        let tails = self.network.tails();
        self.network.stop().await;
        std::fs::rename(self.package(), &master.dir)?;
        std::fs::remove_dir_all(&self.plan.dir)?;
        result.map_err(|e| format!("{e}{tails}").into())
    }

    pub fn package(&self) -> PathBuf {
        self.plan.sender.store().join(&self.name)
    }

    /// The full torrent.
    pub fn torrent(&self) -> PathBuf {
        self.plan.sender.store().join(format!("{}.torrent", self.name))
    }

    /// The receiver's service, and the task that it receives.
    pub fn receiver(&self) -> (String, String) {
        (self.plan.receiver.url(), self.task())
    }

    pub fn pid(&self, role: &str) -> Result<u32, Trouble> {
        Ok(self.network.pid(role).ok_or_else(|| format!("the {role} does not run"))?)
    }

    /// Where the embedded origin has each file, and the file's path in the package.
    pub fn urls(&self, master: &PackageSummary) -> Vec<(String, String)> {
        let base = format!("http://{}/dcp/{BASESUBDIR}/dcps/{}", self.plan.web, self.name);
        master.files.iter().map(|f| (format!("{base}/{}", f.path), f.path.clone())).collect()
    }

    /// The piece length of the full torrent.
    pub fn piece_length(&self) -> Result<u64, Trouble> {
        let torrent = std::fs::read(self.torrent())?;
        let key = b"12:piece lengthi";
        let at = torrent.windows(key.len()).position(|w| w == key).ok_or("the torrent has no piece length")? + key.len();
        let digits: String = torrent.iter().skip(at).map(|b| char::from(*b)).take_while(char::is_ascii_digit).collect();
        Ok(digits.parse()?)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn task(&self) -> String {
        format!("{BASESUBDIR}-{}.task.json", self.name)
    }

    fn taskfile(&self) -> PathBuf {
        self.plan.sender.data().join("sender/tmp").join(self.task())
    }

    /// From the request until the task file is there and the service says `finished`. `anew`: hash again what is known.
    pub async fn gentask(&self, ratio: &str, anew: bool) -> Result<Duration, Trouble> {
        let (package, taskfile) = (self.package(), self.taskfile());
        let _ = std::fs::remove_file(&taskfile);
        let params = json!({
            "dcppath": package, "taskfile": taskfile, "basesubdir": BASESUBDIR, "btobscdn": ratio, "policy": "fulltime",
            "deloldtorrent": anew.to_string(),
        });
        let started = Instant::now();
        accepted(&self.sender, "gentask", params).await?;
        let ask = json!({"dcppath": package, "taskfile": taskfile});
        let mut asked = Instant::now();
        loop {
            // A failure never makes the file, so ask from time to time as well.
            if taskfile.exists() || asked.elapsed() > Duration::from_secs(1) {
                let reply = self.sender.call("taskfilesquery", ask.clone()).await.map_err(|f| f.message)?;
                match reply.status().as_str() {
                    "finished" => return Ok(started.elapsed()),
                    "unfinished" => {}
                    other => return Err(format!("gentask: {other} {}", reply.desc()).into()),
                }
                asked = Instant::now();
            }
            wait(started, "gentask").await?;
        }
    }

    /// Until receivers may be told.
    pub async fn send(&self) -> Result<(), Trouble> {
        let started = Instant::now();
        accepted(&self.sender, "send", json!({"taskfile": self.taskfile(), "reactive": "true"})).await?;
        loop {
            let reply = self.sender.call("uploadprogress", json!({"taskfile": self.task()})).await.map_err(|f| f.message)?;
            let upload = Upload::from(&reply);
            match upload_exit(&upload) {
                Exit::Ok => return Ok(()),
                Exit::NotFinished => tokio::time::sleep(LOOK * 20).await,
                _ => return Err(format!("send: {} {}", upload.status, upload.desc).into()),
            }
            wait(started, "send").await?;
        }
    }

    /// The task file, where the sender shows it.
    pub fn sent_task(&self) -> Result<PathBuf, Trouble> {
        let sent = self.plan.sender.data().join("sender");
        let places = ["uploaded", "uploading", "queues"].map(|d| sent.join(d).join(self.task()));
        Ok(places.into_iter().find(|p| p.is_file()).ok_or("the sender has no task file")?)
    }

    /// From the request until the package is verified, in the store, and the service says so.
    pub async fn receive(&self) -> Result<Duration, Trouble> {
        let taskfile = self.plan.receiver.data().join("receiver/tmp").join(self.task());
        let from = self.sent_task()?;
        if let Some(dir) = taskfile.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::copy(&from, &taskfile)?;
        let marker = self.plan.receiver.store().join(format!("{}.finished", self.name));
        let started = Instant::now();
        accepted(&self.receiver, "recv", json!({"taskfile": taskfile, "reactive": "false"})).await?;
        let mut asked = Instant::now();
        loop {
            if marker.exists() || asked.elapsed() > Duration::from_secs(1) {
                let reply = self.receiver.call("progress", json!({"taskfile": self.task()})).await.map_err(|f| f.message)?;
                let download = Download::from(&reply);
                match download_exit(&download) {
                    Exit::Ok => return Ok(started.elapsed()),
                    Exit::NotFinished => {}
                    _ => return Err(format!("recv: {} {} {}", download.status, download.error, download.desc).into()),
                }
                asked = Instant::now();
            }
            wait(started, "recv").await?;
        }
    }

    /// Makes room for what the rival brings.
    pub fn drop_copy(&self) -> Result<(), Trouble> {
        Ok(std::fs::remove_dir_all(self.plan.receiver.store().join(&self.name))?)
    }
}

pub async fn accepted(client: &Client, method: &str, params: Value) -> Result<(), Trouble> {
    let reply = client.call(method, params).await.map_err(|f| f.message)?;
    if reply.ok { Ok(()) } else { Err(format!("{method} was refused: {}", reply.desc()).into()) }
}

pub async fn wait(started: Instant, what: &str) -> Result<(), Trouble> {
    if started.elapsed() > PATIENCE {
        return Err(format!("{what} does not end").into());
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}
