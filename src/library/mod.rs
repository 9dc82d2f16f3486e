//! The library: which files this node has, by digest, kept right without anybody's help.
//!
//! * [`watch`] — what touches files below `basedatapath` is seen: fanotify, else inotify, else looking now and then.
//! * [`scan`] — what was touched, or everything, is compared with the rows. New, changed, renamed, gone.
//! * [`sort`] — what a look at the disk means for the rows. [`walk`] — what lies on the disk.
//! * [`queue`] — what is new or has changed is hashed when it has settled: nobody writes, and it was quiet for a while.
//! * [`table`] — `hashtable.txt`: the library as a file, written from the database; edits by another hand are taken in.
//! * [`place`] — which files may be in the library. [`hash`] — the digest of one.
//! * [`packages`] — which of its directories are packages, and whether these are what their documents say.
//!
//! Rows are `store::library`'s. Nothing here knows tasks or transports; a row says what was hashed here and how the file
//! looked then, nothing else gets in. What packing lists say of files that were not hashed is kept apart, as claims.

pub mod hash;
mod import;
pub mod packages;
pub mod place;
mod queue;
mod scan;
mod sort;
pub mod table;
mod tally;
#[cfg(test)]
mod tests;
mod walk;
pub mod watch;

use crate::clock::Clock;
use crate::config::ConfigHandle;
use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::store::Store;
use crate::store::events::Level;
use crate::store::hashtable::FileStamp;
pub use import::Imported;
use packages::Packages;
use place::Place;
pub use queue::Waiting;
pub use scan::{NotScanned, Scanned};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use watch::touched::Touched;

/// Unreadable files that are remembered.
const MOST_REFUSED: usize = 10_000;

/// Keeps the library. One per process.
pub struct Library {
    store: Store,
    config: ConfigHandle,
    clock: Clock,
    place: Place,
    /// Something was put into the queue.
    queued: Notify,
    /// Held by the scan that runs; what the last one complained about.
    scans: Mutex<String>,
    /// What a watch has seen and nobody has looked at.
    touched: Arc<Touched>,
    /// Where file systems of the library were mounted that are not there now: what they hold is not gone.
    away: std::sync::Mutex<Vec<PathBuf>>,
    /// Files that could not be read, as they looked: as long as they look so, they are not tried again and again.
    refused: std::sync::Mutex<HashMap<String, FileStamp>>,
    packages: Packages,
    dealt: table::Dealt,
}

impl Library {
    pub fn new(store: Store, config: ConfigHandle, clock: Clock) -> Self {
        let place = Place::of(&config.current());
        let packages = Packages::new(store.clone(), place.clone(), clock.clone());
        let touched = Arc::new(Touched::new(place.base.clone()));
        let (queued, scans, dealt) = (Notify::new(), Mutex::default(), table::Dealt::new());
        let away = std::sync::Mutex::default();
        let refused = std::sync::Mutex::default();
        Self { store, config, clock, place, queued, scans, touched, away, refused, packages, dealt }
    }

    /// Asks for a comparison of everything with the disk, whether or not it is watched.
    pub fn compare_all(&self) {
        self.touched.add(self.place.base.clone(), true);
    }

    /// Watches, hashes, exports and takes in until stopped.
    pub async fn keep(&self, stop: CancellationToken) {
        tokio::join!(self.keep_table(&stop), self.hash_queue(&stop), self.keep_watch(&stop));
    }

    /// How long a file must be quiet before it is hashed.
    fn settle_ms(&self) -> i64 {
        i64::try_from(self.config.current().settle.as_millis()).unwrap_or(i64::MAX)
    }

    /// Remembers a file that could not be read.
    fn refuse(&self, path: &str, stamp: Option<FileStamp>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MOST_REFUSED {
            refused.clear();
        }
        refused.extend(stamp.map(|stamp| (path.to_owned(), stamp)));
    }

    /// Could it not be read when it looked like this?
    fn was_refused(&self, path: &str, stamp: &FileStamp) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get(path) == Some(stamp)
    }

    async fn event(&self, level: Level, text: &str) {
        self.event_of("hashtable", level, text).await;
    }

    /// A file whose bytes are not what they were, though it looks the same.
    fn damaged(path: &str, was: Sha1, is: Sha1) -> String {
        let text =
            format!("{path} is damaged: its bytes changed, its size and times did not. SHA-1 was {was}, is {is}. Check the disk");
        tracing::error!("{text}");
        text
    }

    async fn event_of(&self, kind: &str, level: Level, text: &str) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        if let Err(fault) = self.store.add_event(level, kind, "", "library", text, self.clock.now_ms()).await {
            tracing::error!(%fault, "cannot write an event");
        }
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(Fault::local(format!("the library: {e}"))))
}
