//! The library is hashed on request: a scan puts files into the queue of the hash table, which works on its own.

use super::Desk;
use crate::error::Fault;
pub use crate::library::{Imported, NotScanned, Scanned, Waiting};

impl Desk {
    /// Looks through the library or what is at `path`; `anew`: everything there is hashed again.
    pub async fn scan_library(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned> {
        match &self.library {
            Some(library) => library.scan(path, anew).await,
            None => Err(NotScanned::NoLibrary),
        }
    }

    /// What is still to hash; `None`: this node has no library.
    pub async fn library_queue(&self) -> Result<Option<Waiting>, Fault> {
        match &self.library {
            Some(library) => library.waiting().await.map(Some),
            None => Ok(None),
        }
    }

    /// Hashes the files that lines of `sha1sum` name, and compares; `None`: this node has no library.
    pub async fn import_library(&self, lines: Vec<String>) -> Result<Option<Imported>, Fault> {
        match &self.library {
            Some(library) => library.import(lines).await.map(Some),
            None => Ok(None),
        }
    }
}
