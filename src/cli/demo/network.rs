//! The demo's network: where everything lies, the configurations, and the processes, all of this same binary.
//!
//! Processes, not tasks in one process: what the demo shows is what an operator will run, and a node that leaks, hangs or
//! dies is seen as such. They lead their own process groups, so that Ctrl-C reaches the demo alone, which then stops them
//! in order; should the demo itself be killed, the kernel ends them.

use crate::cli::client::Client;
use crate::cli::exit::Failure;
use crate::model::ratio::Ratio;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The institution of the demo: directory and bucket.
pub const BASESUBDIR: &str = "demo-001";
/// How long a node may take to answer for the first time.
const START: Duration = Duration::from_secs(30);
/// How long a node may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(25);
/// How long one question for a sign of life may take.
const ASK: Duration = Duration::from_secs(2);
/// Below the range from which Linux gives ports to outgoing connections: none can take one before its node listens.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES: usize = 200;
const LOOK: Duration = Duration::from_millis(100);
/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 << 10;

/// One node: its tree and its addresses.
#[derive(Clone, Debug)]
pub struct Node {
    pub role: &'static str,
    pub root: PathBuf,
    api: SocketAddr,
    bt: SocketAddr,
    console: SocketAddr,
}

impl Node {
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }
    pub fn database(&self) -> PathBuf {
        self.root.join("bft2.db")
    }
    /// `datadir`: `sender/`, `receiver/`, `transfer/` and `dcp/` lie below it.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }
    /// Where packages lie.
    pub fn store(&self) -> PathBuf {
        self.data().join("dcp").join(BASESUBDIR).join("dcps")
    }
    /// Of its service.
    pub fn url(&self) -> String {
        format!("http://{}", self.api)
    }
    pub fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.url(), None)
    }
}

/// Everything that is decided before the first process starts.
#[derive(Debug)]
pub struct Plan {
    pub dir: PathBuf,
    pub tracker: SocketAddr,
    pub web: SocketAddr,
    pub sender: Node,
    pub cacher: Node,
    pub receiver: Node,
    /// Keep the ports until the processes start: the package is made meanwhile.
    held: Mutex<Vec<TcpListener>>,
}

impl Plan {
    /// Picks free ports and writes the trees and configurations below `dir`.
    pub fn lay_out(dir: &Path, ratio: Ratio, policy: &str) -> Result<Self, Failure> {
        // One address for all: a tracker knows a peer by the address that its announce comes from, which on one machine
        // is 127.0.0.1 for every node, whatever they listen on. The ports tell them apart.
        let ([tracker, web, a1, b1, c1, a2, b2, c2, a3, b3, c3], held) = free_ports()?;
        let node = |role, api, bt, console| Node { role, root: dir.join(role), api, bt, console };
        let plan = Self {
            dir: dir.to_owned(),
            tracker,
            web,
            sender: node("sender", a1, b1, c1),
            cacher: node("cacher", a2, b2, c2),
            receiver: node("receiver", a3, b3, c3),
            held: Mutex::new(held),
        };
        // An object store has its buckets before anybody uploads.
        make_dir(&plan.object_store().join(BASESUBDIR))?;
        for node in plan.nodes() {
            make_dir(&node.store())?;
            make_dir(&node.root.join("log"))?;
            let text = format!("{:#}\n", plan.configuration(node, ratio, policy));
            fs::write(node.config(), text).map_err(|e| trouble("write", &node.config(), &e))?;
        }
        make_dir(&dir.join("tracker/log"))?;
        Ok(plan)
    }

    pub fn nodes(&self) -> [&Node; 3] {
        [&self.sender, &self.cacher, &self.receiver]
    }

    pub fn object_store(&self) -> PathBuf {
        self.dir.join("objectstore")
    }

    /// The keys of a real `config.json`, each node's own.
    fn configuration(&self, node: &Node, ratio: Ratio, policy: &str) -> Value {
        let origin = format!("http://{}", self.web);
        let mut config = json!({
            "servertype": node.role,
            "machinetype": "local",
            "receiverid": format!("demo-{}", node.role),
            "vip": node.bt.ip().to_string(),
            "basedatapath": node.data().join("dcp"),
            "basesubdir": BASESUBDIR,
            "avoidrepeat": true,
            "senderid": "demo",
            "senderdomain": origin,
            "bt-obs-cdn": ratio.to_string(),
            "priorpolicy": policy,
            "tracker": format!("http://{}/announce", self.tracker),
            "defaultseedtime": "1",
            "obsurl": format!("obs://{BASESUBDIR}"),
            "cdnurl": origin,
            "bttime": "00:00-23:59",
            "obstime": "00:00-23:59",
            "cdntime": "00:00-23:59",
            "ctfilesorder": true,
            "obsendpoint": directory_url(&self.object_store()),
            "datasource": "local",
            "receiverstoreplan": "B",
            "uploadingnum": 5,
            "downloadingnum": 5,
            "hashtable": node.root.join("hashtable.txt"),
            "listen": node.api.to_string(),
            "console": node.console.to_string(),
            "datadir": node.data(),
            "database": node.database(),
            "logdir": node.root.join("log"),
            "btlisten": node.bt.to_string(),
            "btpeers": [self.sender.bt.to_string(), self.cacher.bt.to_string()],
            "splitfiles": true,
        });
        if let (Value::Object(map), true) = (&mut config, node.role == "sender") {
            map.insert("weblisten".to_owned(), Value::String(self.web.to_string()));
        }
        config
    }
}

/// Free ports, and what keeps them: none comes twice.
fn free_ports<const N: usize>() -> Result<([SocketAddr; N], Vec<TcpListener>), Failure> {
    let mut held = Vec::new();
    let mut found = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for slot in &mut found {
        let listener = (0..PORT_TRIES).find_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(PORTS))).ok());
        let listener =
            listener.ok_or_else(|| Failure::local(format!("no free port on 127.0.0.1 from {} to {}", PORTS.start, PORTS.end)))?;
        *slot = listener.local_addr().map_err(|e| Failure::local(format!("no free port on 127.0.0.1: {e}")))?;
        held.push(listener);
    }
    Ok((found, held))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|e| trouble("make", dir, &e))
}

fn trouble(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::local(format!("cannot {what} {}: {e}", path.display()))
}

struct Process {
    name: &'static str,
    child: Child,
    logs: [PathBuf; 2],
}

/// The running processes.
#[derive(Default)]
pub struct Network {
    running: Vec<Process>,
    /// What they run; this program when it is not said.
    program: Option<PathBuf>,
}

impl Network {
    /// A network of another build of this program: benchmarks drive the binary that ships, from a binary of their own.
    pub fn of(program: &Path) -> Self {
        Self { program: Some(program.to_owned()), ..Self::default() }
    }

    /// The process id of a running node, by its role.
    pub fn pid(&self, role: &str) -> Option<u32> {
        self.running.iter().find(|p| p.name == role)?.child.id()
    }

    /// Starts the tracker and the nodes and waits until each answers. Must run on the main thread: the kernel ends a
    /// process when the thread that started it ends.
    pub async fn start(&mut self, plan: &Plan) -> Result<(), Failure> {
        let tracker = plan.tracker.to_string();
        plan.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.spawn("tracker", &plan.dir.join("tracker"), &["tracker".as_ref(), "--listen".as_ref(), tracker.as_ref()])?;
        for node in plan.nodes() {
            self.spawn(node.role, &node.root, &["serve".as_ref(), "--config".as_ref(), node.config().as_os_str()])?;
        }
        self.answering("tracker", async || tokio::net::TcpStream::connect(plan.tracker).await.is_ok()).await?;
        for node in plan.nodes() {
            let client = node.client()?;
            self.answering(node.role, async || client.text("heartbeat").await.is_ok()).await?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &'static str, root: &Path, args: &[&std::ffi::OsStr]) -> Result<(), Failure> {
        let own = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|e| Failure::local(format!("cannot find this program: {e}")))?,
        };
        let output = root.join("log/output.log");
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&output);
        let log = log.map_err(|e| trouble("write", &output, &e))?;
        let again = log.try_clone().map_err(|e| trouble("write", &output, &e))?;
        let mut command = Command::new(own);
        command.args(args).current_dir(root).stdin(Stdio::null()).stdout(log).stderr(again).process_group(0).kill_on_drop(true);
        let parent = std::process::id();
        // SAFETY: between fork and exec only prctl, getppid and _exit are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                // The demo may have died before the line above.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| Failure::local(format!("cannot start the {name}: {e}")))?;
        self.running.push(Process { name, child, logs: [root.join("log/bftv2.log"), output] });
        Ok(())
    }

    async fn answering(&mut self, name: &str, ask: impl AsyncFn() -> bool) -> Result<(), Failure> {
        let started = Instant::now();
        while !tokio::time::timeout(ASK, ask()).await.unwrap_or(false) {
            self.look()?;
            if started.elapsed() > START {
                let text = format!("the {name} does not answer after {} s", START.as_secs());
                return Err(self.with_tail(name, text));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends only when a process ended that should not, with what its log says.
    pub async fn watch(&mut self) -> Failure {
        loop {
            if let Err(failure) = self.look() {
                return failure;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&mut self) -> Result<(), Failure> {
        let dead = self.running.iter_mut().find_map(|p| Some((p.name, p.child.try_wait().ok().flatten()?)));
        match dead {
            Some((name, status)) => Err(self.with_tail(name, format!("the {name} ended ({status})"))),
            None => Ok(()),
        }
    }

    fn with_tail(&self, name: &str, text: String) -> Failure {
        let logs = self.running.iter().find(|p| p.name == name).map(|p| &p.logs);
        let tails: String = logs.into_iter().flatten().filter_map(|log| tail(log)).collect();
        Failure::local(text + &tails)
    }

    /// The last lines of every node's log, for a failure whose culprit is not known.
    pub fn tails(&self) -> String {
        self.running.iter().flat_map(|p| &p.logs).filter_map(|log| tail(log)).collect()
    }

    /// Asks all to stop, waits, kills what is left. Says which had to be killed.
    pub async fn stop(&mut self) -> Vec<&'static str> {
        for process in &self.running {
            if let Some(pid) = process.child.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
                // SAFETY: a plain system call; the process is our child and not yet waited for, so the id is its own.
                unsafe {
                    libc::kill(pid, libc::SIGTERM);
                }
            }
        }
        let deadline = tokio::time::Instant::now() + STOP;
        let mut killed = Vec::new();
        for mut process in self.running.drain(..) {
            if tokio::time::timeout_at(deadline, process.child.wait()).await.is_err() {
                let _ = process.child.kill().await;
                killed.push(process.name);
            }
        }
        killed
    }
}

/// The end of a log, with its name above it.
fn tail(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(TAIL_LINES)..)?;
    (!last.is_empty()).then(|| format!("\n--- {}\n{}", path.display(), last.join("\n")))
}

/// `file:///dir` with whatever the name holds encoded.
fn directory_url(dir: &Path) -> String {
    let url = url::Url::from_directory_path(dir).map(String::from).unwrap_or_default();
    url.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_share_no_port_and_no_directory() {
        let dir = tempfile::tempdir().expect("tempdir");
        let plan = Plan::lay_out(dir.path(), Ratio::parse("1:1:1").expect("ratio"), "fulltime").expect("laid out");
        let mut all: Vec<_> = plan.nodes().iter().flat_map(|n| [n.api, n.bt, n.console]).collect();
        all.extend([plan.tracker, plan.web]);
        // Nor do those of another network, before either runs.
        for addr in &all {
            assert!(TcpListener::bind(addr).is_err(), "{addr} could be taken by somebody");
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        let read = |n: &Node| -> Value { serde_json::from_slice(&fs::read(n.config()).expect("config")).expect("json") };
        let (sender, receiver) = (read(&plan.sender), read(&plan.receiver));
        assert_eq!(sender["weblisten"], plan.web.to_string());
        assert!(receiver.get("weblisten").is_none());
        assert_ne!(sender["database"], receiver["database"]);
        assert_eq!(sender["obsendpoint"], receiver["obsendpoint"]);
        assert!(plan.object_store().join(BASESUBDIR).is_dir());
    }

    #[test]
    fn a_tail_is_short_whatever_the_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("a.log");
        fs::write(&log, (0..100_000).map(|i| format!("line {i}\n")).collect::<String>()).expect("write");
        let text = tail(&log).expect("a tail");
        assert!(text.ends_with("line 99999") && text.lines().count() < 20, "{text}");
        assert!(tail(&dir.path().join("none")).is_none());
    }
}
