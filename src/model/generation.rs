//! What gentask was asked to make, checked: the durable form of a generation job.

use super::ids::{BaseSubdir, PackageName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A gentask job. Kept as JSON with its row; holds keys.
#[derive(Clone, Serialize, Deserialize)]
pub struct GenerationOrder {
    /// The package's directory or file.
    pub dcppath: PathBuf,
    /// The task file to write.
    pub taskfile: PathBuf,
    pub name: PackageName,
    pub basesubdir: BaseSubdir,
    /// `1:1:1`
    pub ratio: String,
    pub policy: String,
    pub tracker: String,
    pub seedtime_hours: u64,
    pub datasource: String,
    pub obsurl: String,
    pub ak: String,
    pub sk: String,
    pub endpoint: String,
    pub deloldtorrent: bool,
}

impl GenerationOrder {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".into())
    }
    pub fn from_json(s: &str) -> Option<Self> {
        serde_json::from_str(s).ok()
    }
}
