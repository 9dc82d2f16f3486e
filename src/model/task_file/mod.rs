//! The task file `<basesubdir>-<name>.task.json` (protocol section 7): what a sender hands to the receivers.
//!
//! [`TaskFile::parse`] is the border: beyond it every name, address, size and list has been checked, and what was
//! written in one of two spellings is one field. [`TaskFile::to_json`] writes both spellings, so that old readers find
//! theirs. Fields that we do not know are kept. Reading with serde's derive was rejected: its errors name neither the
//! field nor what is allowed, and it cannot take a number for a string.
//!
//! A task file may carry storage keys: [`std::fmt::Debug`] shows none, nor do the errors.

mod check;
mod parse;
#[cfg(test)]
mod tests;
mod write;

use super::endpoint::{ObsEndpoint, ObsUrl};
use super::ids::{BaseSubdir, PackageName, RelPath, Sha1};
use super::ratio::Ratio;
use super::secret::Secret;
use super::span::{Method, Span};
use super::task::{Policy, words};
use super::window::Windows;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Files in one package.
pub const MAX_FILES: usize = 100_000;
/// Bytes; above this a JSON number is not exact in every reader.
pub const MAX_SIZE: u64 = 1 << 53;
/// Ten years.
pub const MAX_SEEDTIME_HOURS: u64 = 87_600;
/// Spans in one task: two cuts split at most two files, moves between methods may add some.
pub const MAX_SPANS: usize = 200_000;
/// Peers named in one task.
pub const MAX_PEERS: usize = 100;

/// Why a task file was refused. The desk turns these into the protocol's texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFileError {
    /// "invalid json format:".
    #[error("it is not JSON: {0}")]
    NotJson(#[from] super::json::JsonError),
    /// "total files size equal 0".
    #[error("the files of filelist add up to 0 bytes")]
    TotalZero,
    /// "totalsize != all lists sum".
    #[error("size is {size}, but the lists add up to {lists}")]
    ListsSum { size: u64, lists: u64 },
    #[error("{field} is {value:?}; allowed: {allowed}")]
    Bad { field: String, value: String, allowed: String },
}

words!(
    /// What is delivered (`type`).
    Kind {
        Dir = "dir",
        /// A single file: the file list has one entry, equal to the name.
        File = "file",
    }
);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub path: RelPath,
    /// Bytes.
    pub size: u64,
    /// Of the whole file.
    pub sha1: Sha1,
}

/// A part of a file that travels by a method of its own (`spans`, ours).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanEntry {
    pub file: RelPath,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    pub method: Method,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BtPart {
    /// The sender's full torrent, for tracing only: never opened on a receiver.
    pub localtorrent: String,
    /// Of the full torrent.
    pub url: Option<String>,
    /// Of the `-tmp` torrent.
    pub tmpurl: Option<String>,
    pub tracker: Option<String>,
    pub seedtime_hours: u64,
    pub windows: Option<Windows>,
    /// `host:port` of peers to try without a tracker.
    pub peers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObsPart {
    /// Always with a key.
    pub url: Option<ObsUrl>,
    /// Empty: the node's own.
    pub ak: Secret,
    pub sk: Secret,
    /// `None`: the node's own.
    pub endpoint: Option<ObsEndpoint>,
    pub windows: Option<Windows>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CdnPart {
    /// Of the package's directory.
    pub url: Option<String>,
    pub windows: Option<Windows>,
}

/// Fields that we do not know, in the order in which they appeared.
#[derive(Clone, Default, PartialEq)]
pub struct Unknown {
    pub top: Map<String, Value>,
    pub bt: Map<String, Value>,
    pub obs: Map<String, Value>,
    pub cdn: Map<String, Value>,
    /// By file index.
    pub files: BTreeMap<usize, Map<String, Value>>,
}

/// A checked task file. `sourcetype` is not kept: only `sender` is accepted, and written.
#[derive(Clone, PartialEq)]
pub struct TaskFile {
    /// The centre; letters and digits, empty when not given.
    pub senderid: String,
    pub name: PackageName,
    pub kind: Kind,
    /// For tracing only.
    pub senderlocalpath: String,
    pub basesubdir: BaseSubdir,
    pub datasource: String,
    /// Bytes: the sum of the files.
    pub size: u64,
    pub ratio: Ratio,
    pub policy: Policy,
    pub bt: BtPart,
    pub obs: ObsPart,
    pub cdn: CdnPart,
    pub files: Vec<FileEntry>,
    /// Found in the receiver's library.
    pub local_same: Vec<RelPath>,
    /// By method. Of a file in `spans` the list says who brings it to receivers that know no spans.
    pub lists: [Vec<RelPath>; 3],
    /// Bytes of the sender's lists.
    pub list_sizes: [u64; 3],
    /// Bytes of the receiver's lists after dedupe.
    pub list_sizes2: Option<[u64; 3]>,
    /// Files that are split; empty when all travel whole.
    pub spans: Vec<SpanEntry>,
    /// Bytes per piece of the full torrent.
    pub piece_length: Option<u64>,
    /// `YYYY-MM-DD HH:MM:SS` local, or empty; so the other times.
    pub gentime: String,
    pub sendtime: String,
    pub receivetime: String,
    pub finishedtime: String,
    /// Carried through; the protocol names no consumer.
    pub requesters: Vec<Value>,
    pub extra: Unknown,
}

impl TaskFile {
    /// A task for these files by this ratio, with lists still empty and everything optional left out.
    pub fn new(name: PackageName, basesubdir: BaseSubdir, ratio: Ratio, policy: Policy, files: Vec<FileEntry>) -> Self {
        Self {
            senderid: String::new(),
            name,
            kind: Kind::Dir,
            senderlocalpath: String::new(),
            basesubdir,
            datasource: "local".into(),
            size: files.iter().fold(0, |sum: u64, f| sum.saturating_add(f.size)),
            ratio,
            policy,
            bt: BtPart::default(),
            obs: ObsPart::default(),
            cdn: CdnPart::default(),
            files,
            local_same: Vec::new(),
            lists: Default::default(),
            list_sizes: [0; 3],
            list_sizes2: None,
            spans: Vec::new(),
            piece_length: None,
            gentime: String::new(),
            sendtime: String::new(),
            receivetime: String::new(),
            finishedtime: String::new(),
            requesters: Vec::new(),
            extra: Unknown::default(),
        }
    }

    /// The window of a method. `None`: not limited by the task.
    pub fn windows(&self, method: Method) -> Option<&Windows> {
        match method {
            Method::Bt => self.bt.windows.as_ref(),
            Method::Obs => self.obs.windows.as_ref(),
            Method::Cdn => self.cdn.windows.as_ref(),
        }
    }

    /// Whether the package is one file rather than a directory.
    pub fn is_single(&self) -> bool {
        self.kind == Kind::File
    }

    /// The seed time in milliseconds.
    pub fn seed_ms(&self) -> i64 {
        i64::try_from(self.bt.seedtime_hours).unwrap_or(0).saturating_mul(3_600_000)
    }

    /// `<basesubdir>-<name>.task.json`.
    pub fn file_name(&self) -> String {
        format!("{}-{}.task.json", self.basesubdir, self.name)
    }

    /// Index of every file by its path.
    pub fn index(&self) -> HashMap<&RelPath, u32> {
        self.files.iter().map(|f| &f.path).zip(0u32..).collect()
    }

    /// Every byte of every file with its method, in the order of the files; files of `local_same` included.
    ///
    /// A receiver may have taken its local files out of the lists; should they be wanted again they come from the CDN,
    /// whose origin has every file, else from the last method that the task has an address for.
    pub fn spans_by_method(&self) -> Vec<(Span, Method)> {
        let index = self.index();
        let mut listed: Vec<Option<Method>> = vec![None; self.files.len()];
        for (method, list) in Method::ALL.into_iter().zip(&self.lists) {
            for slot in list.iter().filter_map(|p| index.get(p)) {
                listed[*slot as usize] = Some(method);
            }
        }
        let mut split: BTreeMap<u32, Vec<(Span, Method)>> = BTreeMap::new();
        for s in &self.spans {
            if let Some(&file) = index.get(&s.file) {
                split.entry(file).or_default().push((Span { file, offset: s.offset, len: s.len }, s.method));
            }
        }
        let mut out = Vec::with_capacity(self.files.len() + self.spans.len());
        for ((file, entry), method) in (0u32..).zip(&self.files).zip(listed) {
            match split.remove(&file) {
                Some(mut parts) => {
                    parts.sort();
                    out.extend(parts);
                }
                None => out.push((Span { file, offset: 0, len: entry.size }, method.unwrap_or_else(|| self.any_method()))),
            }
        }
        out
    }

    fn any_method(&self) -> Method {
        if self.cdn.url.is_some() {
            Method::Cdn
        } else if self.obs.url.is_some() && self.ratio.share(Method::Obs) > 0 {
            Method::Obs
        } else {
            Method::Bt
        }
    }

    /// Sets lists, sizes and spans from an allocation by spans, which must cover every file in order. A file that is
    /// split is listed under the last of its methods: that is cdn where cdn has a part, and the CDN has whole files.
    pub fn set_spans(&mut self, spans: &[(Span, Method)], piece_length: u64) {
        self.lists = Default::default();
        self.list_sizes = super::ratio::sizes_by_method(spans);
        self.spans.clear();
        self.piece_length = Some(piece_length);
        for group in spans.chunk_by(|a, b| a.0.file == b.0.file) {
            let Some((last, method)) = group.last() else { continue };
            let Some(entry) = self.files.get(last.file as usize) else { continue };
            self.lists[*method as usize].push(entry.path.clone());
            if group.len() > 1 {
                self.spans.extend(group.iter().map(|(s, m)| SpanEntry {
                    file: entry.path.clone(),
                    offset: s.offset,
                    len: s.len,
                    method: *m,
                }));
            }
        }
    }
}

impl fmt::Debug for TaskFile {
    /// Short, and without addresses and keys: what a log line needs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFile")
            .field("name", &self.name.as_str())
            .field("basesubdir", &self.basesubdir.as_str())
            .field("size", &self.size)
            .field("ratio", &self.ratio.to_string())
            .field("policy", &self.policy.as_str())
            .field("files", &self.files.len())
            .field("list_sizes", &self.list_sizes)
            .field("spans", &self.spans.len())
            .finish_non_exhaustive()
    }
}
