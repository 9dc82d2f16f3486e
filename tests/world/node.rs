//! One node: its tree, its configuration, its process.

use super::{PATIENCE, Progress, Reply, SUBDIR, entries, file_name, free_ports, merge, until};
use bft2::store::shell;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const TAIL_LINES: usize = 40;

pub struct Node {
    pub role: &'static str,
    root: PathBuf,
    data: PathBuf,
    api: SocketAddr,
    pub bt: SocketAddr,
    config: Value,
    /// What runs the process, if anything: `setpriv …`.
    pub runner: Vec<String>,
    pub binary: PathBuf,
    /// Added to its environment.
    pub env: Vec<(&'static str, PathBuf)>,
    child: Option<Child>,
    http: reqwest::Client,
}

impl Node {
    pub fn new(role: &'static str, dir: &Path) -> Self {
        let root = dir.join(role);
        let [api, bt, console] = free_ports();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().expect("client");
        let data = root.join("data");
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_bftv2"));
        let mut node =
            Self { role, root, data, api, bt, config: Value::Null, runner: vec![], binary, env: vec![], child: None, http };
        std::fs::create_dir_all(node.root.join("log")).expect("directory");
        let fixed = json!({
            "servertype": role, "basesubdir": SUBDIR, "senderid": "cfec", "receiverstoreplan": "B",
            "bttime": "00:00-23:59", "obstime": "00:00-23:59", "cdntime": "00:00-23:59", "defaultseedtime": "1",
            "listen": api.to_string(), "console": console.to_string(), "btlisten": bt.to_string(),
            "database": node.database(), "logdir": node.root.join("log"), "hashtable": node.hashtable(),
            "retries": 2, "retrydelay": 1, "splitfiles": true,
        });
        node.config = fixed;
        node.put_data_at(node.data.clone());
        node
    }

    /// A copy of a node that does not run, below another directory: what a machine is that was set up from its disk. It
    /// shares nothing with the first but what it believes; ports are its own.
    pub fn twin(&self, dir: &Path) -> Self {
        let mut twin = Self::new(self.role, dir);
        let own = ["listen", "console", "btlisten"].map(|key| (key, twin.config[key].clone()));
        std::fs::remove_dir_all(&twin.root).expect("remove");
        let copied = Command::new("cp").arg("-a").arg(&self.root).arg(&twin.root).status().expect("cp");
        assert!(copied.success(), "cp: {copied}");
        twin.config = self.config.clone();
        for (key, value) in own {
            twin.set(key, value);
        }
        twin.set_all(&json!({"weblisten": "", "trackerlisten": ""}));
        twin
    }

    /// The command by which the tree of a twin lies where the first one's does.
    pub fn takes_the_place_of(&self, first: &Self) -> String {
        format!("mount --bind '{}' '{}'", self.root.display(), first.root.display())
    }

    /// Another place for `datadir` and the store, before the first start.
    pub fn put_data_at(&mut self, data: PathBuf) {
        self.data = data;
        std::fs::create_dir_all(self.store()).expect("directory");
        std::fs::create_dir_all(self.data.join("receiver/tmp")).expect("directory");
        std::fs::create_dir_all(self.data.join("sender/tmp")).expect("directory");
        self.set_all(&json!({"datadir": self.data, "basedatapath": self.data.join("dcp")}));
    }

    pub fn config_path(&self) -> PathBuf {
        self.root.join("config.json")
    }
    pub fn database(&self) -> PathBuf {
        self.root.join("bft2.db")
    }
    pub fn hashtable(&self) -> PathBuf {
        self.root.join("hashtable.txt")
    }
    pub fn data(&self) -> &Path {
        &self.data
    }
    /// Of the running process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }
    /// Bytes that the running process has read by now, from files and pipes.
    pub fn bytes_read(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("io");
        io.lines().find_map(|l| l.strip_prefix("rchar: ")).and_then(|n| n.parse().ok()).expect("rchar")
    }
    /// Where packages lie.
    pub fn store(&self) -> PathBuf {
        self.data.join("dcp").join(SUBDIR).join("dcps")
    }
    /// Where packages grow.
    pub fn stage(&self) -> PathBuf {
        self.data.join("transfer/stage")
    }
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.api)
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.set_all(&json!({key: value.into()}));
    }

    /// Changes the configuration file; a running node reads it at `reloadconf`.
    pub fn set_all(&mut self, keys: &Value) {
        merge(&mut self.config, keys);
        std::fs::write(self.config_path(), format!("{:#}", self.config)).expect("config");
    }

    /// `bftv2 serve` as a process of its own that ends with this thread, at the latest.
    fn command(&self) -> Command {
        let mut line = self.runner.iter().map(AsRef::<std::ffi::OsStr>::as_ref).chain([self.binary.as_os_str()]);
        let mut command = Command::new(line.next().expect("a program"));
        command.args(line);
        let output = std::fs::OpenOptions::new().create(true).append(true).open(self.root.join("log/output.log")).expect("log");
        command.arg("serve").arg("--config").arg(self.config_path()).current_dir(&self.root).stdin(Stdio::null());
        command.envs(self.env.iter().map(|(key, value)| (*key, value)));
        command.env("BFT2_LOG", "info").stdout(output.try_clone().expect("log")).stderr(output).process_group(0);
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    /// Starts the process and waits for its first answer.
    pub async fn start(&mut self) {
        self.spawn();
        let role = self.role;
        until(&format!("the {role} answers"), PATIENCE, async || {
            self.assert_alive();
            self.get("heartbeat").await.filter(|t| t.ends_with("is living."))
        })
        .await;
    }

    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the {} runs already", self.role);
        self.child = Some(self.command().spawn().expect("bftv2 starts"));
    }

    /// Runs it where it is expected to end by itself, and says how.
    pub async fn refuses_to_start(&mut self) -> (ExitStatus, String) {
        self.spawn();
        let status =
            until("the process ends", PATIENCE, async || self.child.as_mut().and_then(|c| c.try_wait().expect("status"))).await;
        self.child = None;
        (status, std::fs::read_to_string(self.root.join("log/output.log")).expect("output"))
    }

    /// Was it killed by somebody?
    pub fn is_dead(&mut self) -> bool {
        self.child.as_mut().is_none_or(|c| c.try_wait().expect("status").is_some())
    }

    /// The process is there: it did not panic its way out.
    pub fn assert_alive(&mut self) {
        let ended = self.child.as_mut().expect("running").try_wait().expect("status");
        assert!(ended.is_none(), "the {} ended: {ended:?}", self.role);
    }

    /// kill -9, as a power cut would look to the process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let pid = libc::pid_t::try_from(child.id()).expect("pid");
        // SAFETY: a plain system call; the process is our child and not yet waited for.
        unsafe {
            libc::kill(pid, libc::SIGTERM);
        }
        let status = until("the process ends after SIGTERM", PATIENCE, async || child.try_wait().expect("status")).await;
        let _ = child.wait();
        status
    }

    /// A GET tool; `None` when nobody answers.
    pub async fn get(&self, path: &str) -> Option<String> {
        self.http.get(self.url(path)).send().await.ok()?.text().await.ok()
    }

    /// A method of the protocol.
    pub async fn call(&self, method: &str, params: Value) -> Reply {
        self.try_call(method, params).await.unwrap_or_else(|e| panic!("{method} on the {}: {e}", self.role))
    }

    pub async fn try_call(&self, method: &str, params: Value) -> Result<Reply, String> {
        let body = json!({
            "message_id": "321", "message_type": "request", "message_source": "tms",
            "method_name": method, "method_params": params,
        });
        let path = if method == "cprogress" { "progress" } else { method };
        let answer = self.http.post(self.url(path)).json(&body).send().await.map_err(|e| e.to_string())?;
        Reply::read(&answer.text().await.map_err(|e| e.to_string())?)
    }

    /// Any body to any endpoint.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<(u16, String), String> {
        let request = self.http.post(self.url(path)).header("content-type", "application/json").body(body);
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|e| e.to_string())?))
    }

    pub async fn progress(&self, task: &str) -> Progress {
        Progress(self.call("progress", json!({"taskfile": task})).await)
    }

    /// Asks until the package is in its store; any error ends the test.
    pub async fn downloaded(&self, task: &str) -> Progress {
        self.downloaded_within(task, PATIENCE).await
    }

    /// The same, for what takes longer.
    pub async fn downloaded_within(&self, task: &str, seconds: u64) -> Progress {
        until(&format!("{task} is downloaded"), seconds, async || {
            let p = self.progress(task).await;
            assert!(["queues", "downloading", "downloaded"].contains(&p.status().as_str()), "progress: {p:?}");
            (p.status() == "downloaded").then_some(p)
        })
        .await
    }

    /// Asks until the task has ended in an error.
    pub async fn download_fails(&self, task: &str) -> Progress {
        until(&format!("{task} ends in downloaderror"), PATIENCE, async || {
            let p = self.progress(task).await;
            assert!(["queues", "downloading", "downloaderror"].contains(&p.status().as_str()), "progress: {p:?}");
            (p.status() == "downloaderror").then_some(p)
        })
        .await
    }

    /// Copies a task file to where a TMS puts it. Returns its path there.
    pub fn carry(&self, taskfile: &Path) -> PathBuf {
        let to = self.data.join("receiver/tmp").join(file_name(taskfile));
        std::fs::copy(taskfile, &to).unwrap_or_else(|e| panic!("{}: {e}", taskfile.display()));
        to
    }

    /// Where the task directories show this task file now, e.g. `["receiver/downloaded"]`; `tmp` is the client's own.
    pub fn places(&self, task: &str) -> Vec<String> {
        let mut found = Vec::new();
        for role in ["sender", "receiver"] {
            for state in entries(&self.data.join(role)).iter().filter(|s| *s != "tmp") {
                if self.data.join(role).join(state).join(task).is_file() {
                    found.push(format!("{role}/{state}"));
                }
            }
        }
        found
    }

    /// A query on the operator's views. NULL is the empty text.
    pub async fn sql(&self, query: &str) -> Vec<Vec<String>> {
        let rows = shell::query(&self.database(), query, Duration::from_secs(60)).await;
        let rows = rows.unwrap_or_else(|e| panic!("{query}: {e}")).rows;
        rows.into_iter().map(|r| r.into_iter().map(Option::unwrap_or_default).collect()).collect()
    }

    /// A query with one number as its answer; 0 when there is no row.
    pub async fn number(&self, query: &str) -> u64 {
        let rows = self.sql(query).await;
        let cell = rows.first().and_then(|r| r.first()).map_or("0", |c| if c.is_empty() { "0" } else { c });
        cell.parse().unwrap_or_else(|e| panic!("{query}: {cell}: {e}"))
    }

    /// Bytes that really crossed the network for a reception, by method or all.
    pub async fn wire(&self, task: &str, method: &str) -> u64 {
        self.number(&format!(
            "select sum(bytes_wire) from v_legs where task = '{task}' and role = 'receiver' and method like '{method}'"
        ))
        .await
    }

    /// The texts of a task's events.
    pub async fn events(&self, task: &str) -> String {
        let rows = self.sql(&format!("select level || ' ' || kind || ': ' || text from v_events where task = '{task}'")).await;
        rows.concat().join("\n")
    }

    /// Waits until the texts of a task's events say all this: they follow what they tell of. Gives them.
    pub async fn told(&self, task: &str, words: &[&str]) -> String {
        let told = async || Some(self.events(task).await).filter(|told| words.iter().all(|words| told.contains(words)));
        until(&format!("{words:?} is told"), PATIENCE, told).await
    }

    /// All that it wrote into its logs, once: the fixed name of the newest one is a link. A line is there a moment after it was
    /// written: it goes through a queue.
    pub fn log(&self) -> String {
        let logs = entries(&self.root.join("log")).into_iter().map(|log| self.root.join("log").join(log));
        let all = logs.filter(|log| !log.is_symlink()).map(|log| std::fs::read(log).unwrap_or_default());
        all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// Waits until its logs say this.
    pub async fn logged(&self, words: &str) {
        until(&format!("{words:?} is in the log"), PATIENCE, async || self.log().contains(words).then_some(())).await;
    }

    /// The ends of its logs.
    pub fn tail(&self) -> String {
        let mut text = String::new();
        for log in entries(&self.root.join("log")) {
            let all = std::fs::read(self.root.join("log").join(&log)).unwrap_or_default();
            let all = String::from_utf8_lossy(&all);
            let lines: Vec<&str> = all.lines().collect();
            text += &format!("--- {} {log}\n{}\n", self.role, lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
        }
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
