//! A swarm: what the centre has to send so that eight cinemas and two edge nodes have a package.

use super::network::Round;
use super::table::Row;
use super::{Place, Trouble};
use bft2::cli::amount::human;
use bft2::cli::client::{Client, Download};
use bft2::cli::demo::network::Plan;
use bft2::cli::exit::Exit;
use bft2::cli::follow::download_exit;
use bft2::package::sample::PackageSummary;
use bft2::store::shell;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RECEIVERS: usize = 8;
const CACHERS: usize = 2;
/// The centre's line, in bytes per second: 100 Mbit/s.
const LINE: u64 = 12_500_000;
/// Packages that the centre may send for ten nodes.
const LIMIT: f64 = 1.5;

/// One of the nodes that a [`Plan`] does not have.
struct Extra {
    child: Child,
    client: Client,
    data: PathBuf,
}

impl Extra {
    /// With the configuration of a node of the plan, and places of its own.
    fn start(plan: &Plan, like: &bft2::cli::demo::network::Node, n: usize) -> Result<Self, Trouble> {
        let root = plan.dir.join(format!("{}-{n}", like.role));
        let data = root.join("data");
        std::fs::create_dir_all(root.join("log"))?;
        std::fs::create_dir_all(data.join("receiver/tmp"))?;
        let mut keys: Value = serde_json::from_slice(&std::fs::read(like.config())?)?;
        let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let api: SocketAddr = port()?;
        for (key, value) in [
            ("listen", json!(api.to_string())),
            ("btlisten", json!(port()?.to_string())),
            ("console", json!(port()?.to_string())),
            ("datadir", json!(data)),
            ("basedatapath", json!(data.join("dcp"))),
            ("database", json!(root.join("bft2.db"))),
            ("logdir", json!(root.join("log"))),
            ("hashtable", json!(root.join("hashtable.txt"))),
        ] {
            keys[key] = value;
        }
        let config = root.join("config.json");
        std::fs::write(&config, keys.to_string())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftv2"));
        command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let client = Client::new(&format!("http://{api}"), None).map_err(|f| f.to_string())?;
        Ok(Self { child: command.spawn()?, client, data })
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One delivery to all of them.
pub async fn row(place: &Place, master: &PackageSummary) -> Result<Row, Trouble> {
    let prepare = async |plan: &Plan| {
        let config = plan.sender.config();
        let mut keys: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
        keys["btuprate"] = json!(LINE);
        Ok(std::fs::write(&config, keys.to_string())?)
    };
    let round = Round::with(place.path(), master, "1:0:0", prepare).await?;
    let mut sent = 0;
    let result = async {
        round.gentask("1:0:0", false).await?;
        round.send().await?;
        place.settle()?;
        let plan = round.plan();
        let mut nodes = Vec::new();
        for n in 0..RECEIVERS + CACHERS {
            nodes.push(Extra::start(plan, if n < CACHERS { &plan.cacher } else { &plan.receiver }, n)?);
        }
        let (task, from) = (round.task(), round.sent_task()?);
        let started = Instant::now();
        for node in &nodes {
            let taskfile = node.data.join("receiver/tmp").join(&task);
            std::fs::copy(&from, &taskfile)?;
            while node.client.text("heartbeat").await.is_err() {
                super::network::wait(started, "a start").await?;
            }
            super::network::accepted(&node.client, "recv", json!({"taskfile": taskfile, "reactive": "false"})).await?;
        }
        for node in nodes.iter().skip(CACHERS) {
            loop {
                let reply = node.client.call("progress", json!({"taskfile": task})).await.map_err(|f| f.message)?;
                let download = Download::from(&reply);
                match download_exit(&download) {
                    Exit::Ok => break,
                    Exit::NotFinished => tokio::time::sleep(Duration::from_millis(200)).await,
                    _ => return Err(format!("recv: {} {} {}", download.status, download.error, download.desc).into()),
                }
                super::network::wait(started, "a reception").await?;
            }
        }
        println!("  swarm: {} to {RECEIVERS} receivers in {:?}", human(master.bytes), started.elapsed());
        // The figures are written once a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let query = "select sum(bytes_sent) from v_legs where method = 'bt'";
        let rows = shell::query(&plan.sender.database(), query, Duration::from_secs(10)).await?.rows;
        sent = rows.first().and_then(|r| r.first()?.as_deref()?.parse::<u64>().ok()).ok_or("no figures")?;
        Ok::<_, Trouble>(())
    }
    .await;
    round.close(master, result).await?;
    let what = format!("centre's bytes, {RECEIVERS} receivers + {CACHERS} cachers, {}", human(master.bytes));
    Ok(Row::share(&what, sent, master.bytes, LIMIT))
}
