//! A network of real nodes for tests: the shipped binary in processes of its own, driven as a theatre management system
//! drives it (HTTP) and looked at as an operator looks at it (task directories, views of the database, the store).
//!
//! Nothing of the service is linked into what is tested here; a test that needed an inside view would prove less. The
//! library is used for three things only: making packages, hashing them, and reading the database read-only.
//!
//! Every process is killed by the kernel when the test's thread ends, and by [`Node`]'s drop before that. When a test
//! fails, the ends of all logs are printed.

// Each test binary uses its own part of this.
#![allow(dead_code)]

mod api;
mod clock;
mod disk;
mod gate;
mod link;
mod node;
mod ports;
mod trees;

#[allow(unused_imports)]
pub use api::{Progress, Reply};
#[allow(unused_imports)]
pub use clock::{WallClock, seconds, watch_until};
#[allow(unused_imports)]
pub use disk::{Loop, Served, Small};
#[allow(unused_imports)]
pub use gate::Gate;
#[allow(unused_imports)]
pub use link::{Line, Link};
pub use node::Node;
pub use ports::free_ports;
#[allow(unused_imports)]
pub use trees::{Tree, copy_tree, flip_byte, make_package, stamps, tree, try_tree};

use bft2::package::sample::PackageSummary;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const SUBDIR: &str = "cfec-001";
const MIB: u64 = 1 << 20;
/// Long enough for a slow machine that builds something else at the same time.
pub const PATIENCE: u64 = 300;

/// A sender with tracker, origin and directory store, a receiver, a cacher. Nodes run once they are started.
pub struct World {
    pub sender: Node,
    pub receiver: Node,
    pub cacher: Node,
    pub web: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl World {
    /// Lays everything out; nothing runs yet.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bft2-world-").tempdir().expect("tempdir");
        let at = dir.path().to_owned();
        Self::at(dir, &at, &at)
    }

    /// With the trees of sender and receiver elsewhere.
    pub fn at(dir: tempfile::TempDir, sender: &Path, receiver: &Path) -> Self {
        let [tracker, web] = free_ports();
        let mut world = Self {
            sender: Node::new("sender", sender),
            receiver: Node::new("receiver", receiver),
            cacher: Node::new("cacher", dir.path()),
            web,
            dir,
        };
        std::fs::create_dir_all(world.objects().join(SUBDIR)).expect("bucket");
        let common = json!({
            "tracker": format!("http://{tracker}/announce"),
            "senderdomain": format!("http://{web}"),
            "cdnurl": format!("http://{web}"),
            "obsurl": format!("obs://{SUBDIR}"),
            "obsendpoint": format!("file://{}", world.objects().display()),
            "btpeers": [world.sender.bt.to_string(), world.cacher.bt.to_string()],
        });
        for node in [&mut world.sender, &mut world.receiver, &mut world.cacher] {
            node.set_all(&common);
        }
        world.sender.set_all(&json!({"weblisten": web.to_string(), "trackerlisten": tracker.to_string()}));
        world
    }

    /// The usual pair, running.
    pub async fn started() -> Self {
        let mut world = Self::new();
        world.start().await;
        world
    }

    /// Starts sender and receiver; the cacher is started by the tests that need it.
    pub async fn start(&mut self) {
        self.sender.start().await;
        self.receiver.start().await;
    }

    /// The directory store.
    pub fn objects(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    /// A package of about so many MiB in the sender's store.
    pub fn package(&self, name: &str, mib: u64, reels: u32) -> PackageSummary {
        make_package(&self.sender.store(), name, mib * MIB, reels)
    }

    /// gentask and taskfilesquery until the task file is there. Returns its path.
    pub async fn gentask(&self, name: &str, ratio: &str) -> PathBuf {
        self.gentask_with(name, json!({"btobscdn": ratio})).await
    }

    pub async fn gentask_with(&self, name: &str, more: Value) -> PathBuf {
        let (dcppath, taskfile) = (self.sender.store().join(name), self.sender.data().join("sender/tmp").join(task_name(name)));
        let mut params = json!({"dcppath": dcppath, "taskfile": taskfile, "basesubdir": SUBDIR, "policy": "fulltime"});
        merge(&mut params, &more);
        let reply = self.sender.call("gentask", params).await;
        assert!(reply.ok, "gentask: {}", reply.desc());
        let query = json!({"dcppath": dcppath, "taskfile": taskfile});
        let last = until("gentask ends", PATIENCE, async || {
            let reply = self.sender.call("taskfilesquery", query.clone()).await;
            (reply.text("status") != "unfinished").then_some(reply)
        });
        let last = last.await;
        assert_eq!((last.ok, last.text("status").as_str()), (true, "finished"), "taskfilesquery: {}", last.desc());
        taskfile
    }

    /// send and uploadprogress until receivers may be told. Returns where the task file is then.
    pub async fn send(&self, taskfile: &Path) -> PathBuf {
        let reply = self.sender.call("send", json!({"taskfile": taskfile})).await;
        assert!(reply.ok, "send: {}", reply.desc());
        self.ready(&file_name(taskfile)).await
    }

    /// uploadprogress until `ready`.
    pub async fn ready(&self, task: &str) -> PathBuf {
        until("the task is ready", PATIENCE, async || {
            let reply = self.sender.call("uploadprogress", json!({"taskfile": task})).await;
            let status = reply.text("status");
            assert!(["queues", "uploading", "uploaded", "ready"].contains(&status.as_str()), "uploadprogress: {reply:?}");
            (status == "ready").then(|| PathBuf::from(reply.text("taskfile")))
        })
        .await
    }

    /// gentask and send.
    pub async fn publish(&self, name: &str, ratio: &str) -> PathBuf {
        let taskfile = self.gentask(name, ratio).await;
        self.send(&taskfile).await
    }

    /// The TMS carries a task file to a node and says recv.
    pub async fn recv(&self, node: &Node, taskfile: &Path) -> Reply {
        node.call("recv", json!({"taskfile": node.carry(taskfile)})).await
    }

    /// recv on the receiver, accepted, and progress until the package is in its store.
    pub async fn receive(&self, taskfile: &Path) -> Progress {
        let reply = self.recv(&self.receiver, taskfile).await;
        assert!(reply.ok, "recv: {}", reply.desc());
        self.receiver.downloaded(&file_name(taskfile)).await
    }

    /// The receiver's copy is the sender's master, to the byte, and marked.
    pub fn assert_delivered(&self, package: &PackageSummary) {
        let name = package.dir.file_name().and_then(|n| n.to_str()).expect("name");
        assert_eq!(tree(&self.receiver.store().join(name)), tree(&package.dir), "the copy differs from the master");
        assert!(self.receiver.store().join(format!("{name}.finished")).is_file(), "no marker");
        let staged = entries(&self.receiver.stage());
        // `<basesubdir>-<package>.<id>`; another package's name may begin like this one's.
        let ours = |e: &str| e.rsplit_once('.').is_some_and(|(task, _)| task.ends_with(&format!("-{name}")));
        assert!(!staged.iter().any(|e| ours(e)), "left in staging: {staged:?} {:?}", tree(&self.receiver.stage()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in [&mut self.sender, &mut self.receiver, &mut self.cacher] {
            node.kill();
            if std::thread::panicking() {
                eprintln!("{}", node.tail());
            }
        }
    }
}

pub fn task_name(package: &str) -> String {
    format!("{SUBDIR}-{package}.task.json")
}

pub fn file_name(path: &Path) -> String {
    path.file_name().and_then(|n| n.to_str()).expect("a file name").to_owned()
}

/// Names in a directory, sorted; empty when there is no such directory.
pub fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = found.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Sets the keys of `from` in `into`, objects within objects too.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Looks until there is an answer; fails after so many seconds.
pub async fn until<T>(what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
