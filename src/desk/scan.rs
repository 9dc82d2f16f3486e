//! The library is hashed on request: a scan puts files into the queue of the hash table, which works on its own.

use super::Desk;
use crate::error::Fault;
pub use crate::library::table::{NotScanned, Scanned, Waiting};

impl Desk {
    /// Looks through the library or what is at `path`; `anew`: everything there is hashed again.
    pub async fn scan_library(&self, path: Option<&str>, anew: bool) -> Result<Scanned, NotScanned> {
        match &self.table {
            Some(table) => table.scan(path, anew).await,
            None => Err(NotScanned::NoLibrary),
        }
    }

    /// What is still to hash; `None`: this node has no library.
    pub async fn library_queue(&self) -> Result<Option<Waiting>, Fault> {
        match &self.table {
            Some(table) => table.waiting().await.map(Some),
            None => Ok(None),
        }
    }
}
