//! `config.json`: typed and checked when it is read, swapped as a whole when it is reloaded.
//!
//! The file is edited by hand: comments, trailing and missing commas and numbers in quotes are accepted; a key that we do
//! not know is a warning that names it, a wrong value an error that names key, value and what is allowed. A reload that
//! fails leaves the old configuration in force ([`ConfigHandle`]). Keys are those of the protocol's section 6 plus ours.
//! The samples in `config/` describe them for operators; the fields below say what the code needs.

mod edit;
mod handle;
mod keys;
#[cfg(test)]
mod tests;

pub use handle::ConfigHandle;

use crate::model::endpoint::{ObsEndpoint, ObsUrl};
use crate::model::ids::BaseSubdir;
use crate::model::json::JsonError;
use crate::model::ratio::Ratio;
use crate::model::secret::Secret;
use crate::model::span::Method;
use crate::model::task::{NodeType, Policy, words};
use crate::model::window::Windows;
use chrono::NaiveTime;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is when the command line does not say.
pub const DEFAULT_PATH: &str = "/etc/bft2/config.json";
/// A larger file is no configuration.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} is larger than 1 MiB", path.display())]
    TooLarge { path: PathBuf },
    #[error("the configuration is not JSON: {0}")]
    NotJson(#[from] JsonError),
    #[error("configuration key {key} is {value:?}; allowed: {allowed}")]
    Bad { key: String, value: String, allowed: String },
}

words!(
    /// Where a sender's library is (`machinetype`).
    MachineType {
        /// On local disks: OBS needs an upload.
        Local = "local",
        /// In a mounted bucket: the data are in OBS already.
        HwEcs = "hwecs",
    }
);

words!(
    /// Where a receiver puts packages (`receiverstoreplan`).
    StorePlan {
        /// All centres side by side in `basedatapath`.
        A = "A",
        /// Each in `basedatapath/<basesubdir>/dcps`.
        B = "B",
    }
);

words!(
    /// What the log keeps.
    LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" }
);

words!(
    /// How the library is watched.
    WatchMethod { Auto = "auto", Fanotify = "fanotify", Inotify = "inotify", Polling = "polling", Off = "off" }
);

/// A cap outside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideRate {
    /// As inside.
    Same,
    /// Another one; `None` is no cap.
    Other(Option<u64>),
}

/// BitTorrent's caps cannot be lower (bytes per second): one block. The engine's upload scheduler dies below it.
pub const LOWEST_BT_RATE: u32 = 16 << 10;

impl OutsideRate {
    fn or(self, inside: Option<u64>) -> Option<u64> {
        match self {
            OutsideRate::Same => inside,
            OutsideRate::Other(cap) => cap,
        }
    }
}

/// A checked configuration. Paths are absolute; rates are bytes per second, `None` for no cap.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub servertype: NodeType,
    pub machinetype: MachineType,
    pub receiverid: String,
    pub vip: String,
    pub basedatapath: PathBuf,
    pub basesubdir: Option<BaseSubdir>,
    /// Dedupe against the library.
    pub avoidrepeat: bool,
    /// Control address of a v1 BitTorrent server beside us; kept for coexistence.
    pub ctcs: String,
    pub senderid: String,
    /// Base of torrent URLs, without `/` at the end.
    pub senderdomain: Option<String>,
    pub ratio: Ratio,
    pub policy: Policy,
    pub tracker: Option<String>,
    pub defaultseedtime_hours: u64,
    pub obsurl: Option<ObsUrl>,
    pub cdnurl: Option<String>,
    pub bttime: Windows,
    pub obstime: Windows,
    pub cdntime: Windows,
    /// Allocate in the torrent's order of files, else by size.
    pub ctfilesorder: bool,
    pub obsak: Secret,
    pub obssk: Secret,
    /// The only place that may name a directory store.
    pub obsendpoint: Option<ObsEndpoint>,
    pub datasource: String,
    pub receiverstoreplan: StorePlan,
    /// Tasks that upload, download at the same time.
    pub uploadingnum: usize,
    pub downloadingnum: usize,
    /// The exported hash table.
    pub hashtable: PathBuf,

    pub listen: SocketAddr,
    /// `None`: off. So the other optional addresses.
    pub console: Option<SocketAddr>,
    /// Bearer token of the API; never empty when `listen` is not loopback.
    pub token: Secret,
    pub datadir: PathBuf,
    pub database: PathBuf,
    pub logdir: PathBuf,
    pub btlisten: SocketAddr,
    /// `host:port`, put into tasks.
    pub btpeers: Vec<String>,
    pub trackerlisten: Option<SocketAddr>,
    pub weblisten: Option<SocketAddr>,
    pub btrate: Option<u64>,
    pub obsrate: Option<u64>,
    pub cdnrate: Option<u64>,
    pub btuprate: Option<u64>,
    /// The caps while the method's window of this configuration is closed.
    pub btrateoutside: OutsideRate,
    pub obsrateoutside: OutsideRate,
    pub cdnrateoutside: OutsideRate,
    pub btuprateoutside: OutsideRate,
    /// Split files at piece borders to meet the ratio.
    pub splitfiles: bool,
    pub retries: u32,
    pub retrydelay: Duration,
    pub receiverseed: bool,
    /// The OBS upload obeys `obs.priortime` too.
    pub uploadpriortime: bool,
    /// Called when a task changes state. May hold a key, so it does not print.
    pub webhook: Option<Secret>,
    /// A cancelled download keeps what it has.
    pub keeppartial: bool,
    pub eventdays: u32,
    pub historydays: u32,
    pub sampledays: u32,
    /// Samples stay as they were written for so long ...
    pub finedays: u32,
    /// ... and are one a minute for so long, then one an hour.
    pub minutedays: u32,
    pub loglevel: LogLevel,
    /// How long a stop may drain.
    pub stoptimeout: Duration,
    /// How long a library file must be quiet before it is hashed.
    pub settle: Duration,
    /// Automatic: the best that each file system allows.
    pub watch: WatchMethod,
}

impl Config {
    /// The `datasource` of packages that are in object storage already.
    pub const IN_BUCKET: &str = "obs";
    /// What `datasource` may be, for messages.
    pub const DATASOURCES: &str = "local or obs";

    pub fn is_datasource(word: &str) -> bool {
        matches!(word, "local" | Self::IN_BUCKET)
    }

    /// Reads and checks a file. The warnings are for the log.
    pub fn load(path: &Path) -> Result<(Config, Vec<String>), ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(unreadable)?;
        if meta.len() > MAX_BYTES {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let text = std::fs::read(path).map_err(unreadable)?;
        let (config, mut warnings) = Self::parse(&text)?;
        use std::os::unix::fs::PermissionsExt;
        if config.has_secrets() && meta.permissions().mode() & 0o077 != 0 {
            warnings.push(format!("{} holds keys and others can read it: chmod 600 it", path.display()));
        }
        Ok((config, warnings))
    }

    /// Checks a text; the warnings name unknown keys.
    pub fn parse(text: &[u8]) -> Result<(Config, Vec<String>), ConfigError> {
        keys::parse(text)
    }

    /// Everything as JSON, by key, with secrets masked.
    pub fn masked_json(&self) -> Value {
        keys::masked(self)
    }

    fn has_secrets(&self) -> bool {
        [&self.obsak, &self.obssk, &self.token].iter().any(|s| !s.is_empty()) || self.webhook.is_some()
    }

    /// The store: where packages of a `basesubdir` lie. Senders and plan B keep centres apart, plan A does not.
    pub fn dcps_dir(&self, basesubdir: &BaseSubdir) -> PathBuf {
        if self.servertype == NodeType::Receiver && self.receiverstoreplan == StorePlan::A {
            self.basedatapath.clone()
        } else {
            self.basedatapath.join(basesubdir.as_str()).join("dcps")
        }
    }

    /// Where a sender keeps `-tmp` torrents.
    pub fn dcps_tmp_dir(&self, basesubdir: &BaseSubdir) -> PathBuf {
        self.basedatapath.join(basesubdir.as_str()).join("dcps-tmp")
    }

    /// The exported task directories of the role `send`.
    pub fn sender_dir(&self) -> PathBuf {
        self.datadir.join("sender")
    }

    /// The exported task directories of the role `recv`.
    pub fn receiver_dir(&self) -> PathBuf {
        self.datadir.join("receiver")
    }

    /// Download areas and staging. On the file system of the store, so that a finished package is moved by a rename.
    pub fn transfer_dir(&self) -> PathBuf {
        self.datadir.join("transfer")
    }

    pub fn hashtable(&self) -> &Path {
        &self.hashtable
    }

    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The default window of a method.
    pub fn windows(&self, method: Method) -> &Windows {
        match method {
            Method::Bt => &self.bttime,
            Method::Obs => &self.obstime,
            Method::Cdn => &self.cdntime,
        }
    }

    /// The download cap of a method, by the wall clock.
    pub fn rate_at(&self, method: Method, now: NaiveTime) -> Option<u64> {
        let (inside, outside) = match method {
            Method::Bt => (self.btrate, self.btrateoutside),
            Method::Obs => (self.obsrate, self.obsrateoutside),
            Method::Cdn => (self.cdnrate, self.cdnrateoutside),
        };
        if self.windows(method).is_open(now) { inside } else { outside.or(inside) }
    }

    /// The first method with a share for which a key is missing, and that key. A bucket may be named in the request.
    pub fn lacks(&self, ratio: Ratio, obsurl: &str) -> Option<(Method, &'static str)> {
        let bucket = !obsurl.is_empty() || self.obsurl.is_some() || self.obsendpoint.is_some();
        [
            (Method::Bt, "senderdomain", self.senderdomain.is_some()),
            (Method::Obs, "obsurl", bucket),
            (Method::Cdn, "cdnurl", self.cdnurl.is_some()),
        ]
        .into_iter()
        .find(|(method, _, there)| !there && ratio.share(*method) > 0)
        .map(|(method, key, _)| (method, key))
    }

    /// The cap of BitTorrent uploads, by the wall clock.
    pub fn upload_rate_at(&self, now: NaiveTime) -> Option<u64> {
        if self.bttime.is_open(now) { self.btuprate } else { self.btuprateoutside.or(self.btuprate) }
    }
}
