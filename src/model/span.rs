//! Methods and spans: what every transport moves.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How bytes travel. The order is the protocol's (`bt:obs:cdn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Bt,
    Obs,
    Cdn,
}

impl Method {
    pub const ALL: [Method; 3] = [Method::Bt, Method::Obs, Method::Cdn];

    /// The protocol's word, also the database's.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Bt => "bt",
            Method::Obs => "obs",
            Method::Cdn => "cdn",
        }
    }

    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == s)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A byte range of one package file. A whole file is one span; empty files have one span of length 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Index into the task's file list.
    pub file: u32,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Span {
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.end()
    }
}
