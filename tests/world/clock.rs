//! A wall clock that a test moves while nodes run: libfaketime stands between them and the time of day. The monotonic
//! clock, and with it every timer, stays real.

use super::Node;
use chrono::{DateTime, TimeDelta, Utc};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// See the module's text. Nodes that share it show the same time.
pub struct WallClock {
    library: PathBuf,
    offset: PathBuf,
    zone: String,
}

impl WallClock {
    /// `zone`: `UTC`, `Europe/Berlin`, or as POSIX writes them. `None`, and a line that says so, where libfaketime is not
    /// installed.
    pub fn new(dir: &Path, zone: &str) -> Option<Self> {
        let of = |dir: &Path| ["libfaketimeMT.so.1", "libfaketime.so.1"].map(|name| dir.join("faketime").join(name));
        let mut dirs = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")];
        dirs.extend(std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|e| e.path()));
        let Some(library) = dirs.iter().flat_map(|d| of(d)).find(|f| f.exists()) else {
            println!("skipped: libfaketime is not installed (Debian, Ubuntu: apt-get install faketime)");
            return None;
        };
        let clock = Self { library, offset: dir.join("clock"), zone: zone.to_owned() };
        clock.set(Utc::now());
        Some(clock)
    }

    /// Sets it; it runs on from there.
    pub fn set(&self, to: DateTime<Utc>) {
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{:+}\n", (to - Utc::now()).num_seconds())).expect("write");
        std::fs::rename(new, &self.offset).expect("rename");
    }

    /// Sets it so that it shows `to` in so many seconds. Returns when that will be.
    pub fn set_before(&self, to: DateTime<Utc>, seconds: i64) -> Instant {
        self.set(to - TimeDelta::seconds(seconds));
        let left = (to - self.now()).to_std().unwrap_or_default();
        Instant::now() + left
    }

    pub fn now(&self) -> DateTime<Utc> {
        let text = std::fs::read_to_string(&self.offset).expect("read");
        Utc::now() + TimeDelta::seconds(text.trim().parse().expect("seconds"))
    }

    /// The node's next process lives by this clock.
    pub fn rule(&self, node: &mut Node) {
        node.runner = vec!["env".to_owned()];
        node.runner.extend(self.environment());
    }

    fn environment(&self) -> Vec<String> {
        vec![
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.offset.display()),
            "FAKETIME_NO_CACHE=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
            "NO_FAKE_STAT=1".into(),
            format!("TZ={}", self.zone),
        ]
    }

    /// What a command of the shipped program prints under this clock.
    pub fn run(&self, node: &Node, args: &[&str]) -> String {
        let mut command = std::process::Command::new("env");
        let output = command.args(self.environment()).arg(&node.binary).args(args).output().expect("a command");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// A query on the operator's views, in the zone of the clock.
    pub fn sql(&self, node: &Node, query: &str) -> String {
        self.run(node, &["sql", query, "--config", &node.config_path().display().to_string()])
    }
}

/// Waits for a moment; for what has to be seen *not* to happen until then.
pub async fn watch_until(moment: Instant) {
    tokio::time::sleep(moment.saturating_duration_since(Instant::now())).await;
}

/// Seconds between two moments, for messages; negative when the second came first.
pub fn seconds(from: Instant, to: Instant) -> f64 {
    let forth = |a: Instant, b: Instant| b.saturating_duration_since(a);
    match forth(from, to) {
        Duration::ZERO => -forth(to, from).as_secs_f64(),
        d => d.as_secs_f64(),
    }
}
