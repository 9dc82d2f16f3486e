//! A sender that has nothing to do but to keep its library.

use super::Trouble;
use bft2::store::shell;
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(10);

pub struct Node {
    root: PathBuf,
    url: String,
    child: Child,
}

impl Node {
    /// The library of a node below `root`.
    pub fn library(root: &Path) -> PathBuf {
        root.join("data/dcp/cfec-001/dcps")
    }

    pub fn database(root: &Path) -> PathBuf {
        root.join("bft2.db")
    }

    /// Starts it; says how long it took until it was ready.
    pub async fn start(root: &Path) -> Result<(Self, Duration), Trouble> {
        let [api, bt] = [free_port()?, free_port()?];
        std::fs::create_dir_all(Self::library(root))?;
        let config = json!({
            "servertype": "sender", "basesubdir": "cfec-001", "senderid": "cfec", "datadir": root.join("data"),
            "basedatapath": root.join("data/dcp"), "database": Self::database(root), "logdir": root.join("log"),
            "hashtable": root.join("hashtable.txt"), "listen": api, "btlisten": bt, "console": "",
        });
        let path = root.join("config.json");
        std::fs::write(&path, config.to_string())?;
        let begun = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_bftv2"))
            .args(["serve", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut node = Self { root: root.to_owned(), url: format!("http://{api}"), child };
        let http = reqwest::Client::builder().no_proxy().build()?;
        loop {
            let ready = http.get(format!("{}/v1/ready", node.url)).send().await;
            if ready.is_ok_and(|r| r.status().is_success()) {
                return Ok((node, begun.elapsed()));
            }
            if node.child.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                return Err("the node does not start: see its log".into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The first cell of the answer.
    pub async fn ask(&self, sql: &str) -> Result<String, Trouble> {
        let rows = shell::query(&Self::database(&self.root), sql, Duration::from_secs(60)).await.map_err(|f| f.message)?;
        Ok(rows.rows.into_iter().flatten().next().flatten().unwrap_or_default())
    }

    /// Waits for an answer; says how long that took.
    pub async fn wait(&self, sql: &str, answer: &str, every: Duration) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        while self.ask(sql).await? != answer {
            if begun.elapsed() > PATIENCE {
                return Err(format!("not in time: {sql} is not {answer}").into());
            }
            tokio::time::sleep(every).await;
        }
        Ok(begun.elapsed())
    }

    /// Most memory that it has used so far (bytes).
    pub fn peak(&self) -> Result<u64, Trouble> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<String, Trouble> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string())
}
