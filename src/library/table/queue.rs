//! Files that an edit or a scan asks for are hashed here, one after the other, in the background.

use super::HashTable;
use super::export::blocking;
use super::intake::Tally;
use crate::error::Fault;
use crate::store::events::Level;
use crate::store::hashtable::QueuedFile;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// After a fault of the database.
const RETRY: Duration = Duration::from_secs(30);
/// A long queue is hashed for hours: so often its packages are reviewed meanwhile.
const REVIEW: Duration = Duration::from_secs(10);
const MOST_TOUCHED: usize = 1000;

/// What became of the files of the queue.
#[derive(Default)]
struct Hashed {
    files: u64,
    /// The line said otherwise.
    wrong: Tally,
    refused: Tally,
    /// Their packages are to be reviewed.
    touched: Vec<PathBuf>,
}

impl HashTable {
    /// Works until stopped. What is in the queue then is hashed after the next start.
    pub(super) async fn hash_queue(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let hashed = self.hash_all(stop).await;
            if let Err(fault) = &hashed {
                tracing::warn!(%fault, "hashing what the hash table names; it is tried again");
            }
            tokio::select! {
                () = self.queued.notified() => {}
                () = tokio::time::sleep(RETRY), if hashed.is_err() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Hashes what is in the queue and tells what became of it.
    pub(super) async fn hash_all(&self, stop: &CancellationToken) -> Result<(), Fault> {
        let (mut hashed, mut reviewed) = (Hashed::default(), Instant::now());
        let result = loop {
            let next = self.hash_next(&mut hashed, stop).await;
            self.hashing.store(0, Ordering::Relaxed);
            match next {
                Ok(true) if reviewed.elapsed() < REVIEW && hashed.touched.len() < MOST_TOUCHED => {}
                Ok(true) => {
                    if let Err(fault) = self.packages.review(&std::mem::take(&mut hashed.touched)).await {
                        break Err(fault);
                    }
                    reviewed = Instant::now();
                }
                Ok(false) => break Ok(()),
                Err(fault) => break Err(fault),
            }
        };
        let review = self.packages.review(&std::mem::take(&mut hashed.touched)).await;
        self.tell(hashed).await;
        result.and(review)
    }

    /// Hashes the next file. `false`: there is none, or the service stops. A fault is the database's.
    async fn hash_next(&self, hashed: &mut Hashed, stop: &CancellationToken) -> Result<bool, Fault> {
        let Some(QueuedFile { path, listed, .. }) = self.store.next_queued_file().await? else { return Ok(false) };
        let rel = match self.place.admit(&path) {
            Ok(rel) => rel,
            Err(why) => return self.refuse(hashed, &path, why).await,
        };
        let (place, stopped, done) = (self.place.clone(), stop.clone(), Arc::clone(&self.hashing));
        let file = match blocking(move || place.hash(&rel, &stopped, &done)).await {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(false),
            Err(fault) => return self.refuse(hashed, &path, &fault.message).await,
        };
        if self.store.put_queued_file(&file, self.clock.now_ms()).await? {
            hashed.files += 1;
            hashed.touched.push(file.path.clone());
            if let Some(listed) = listed.filter(|l| *l != file.sha1) {
                hashed.wrong.add(|| format!("{path}: {listed}, it is {}", file.sha1));
            }
        }
        Ok(true)
    }

    async fn refuse(&self, hashed: &mut Hashed, path: &str, why: &str) -> Result<bool, Fault> {
        self.store.refuse_queued_file(path).await?;
        hashed.touched.push(path.into());
        hashed.refused.add(|| format!("{}: {why}", path.escape_debug()));
        Ok(true)
    }

    async fn tell(&self, hashed: Hashed) {
        let Hashed { files, wrong, refused, .. } = hashed;
        if files + refused.count == 0 {
            return;
        }
        let mut text = format!("files of the hash table: {files} hashed");
        if wrong.count > 0 {
            text += &format!("; {} had another digest there ({})", wrong.count, wrong.first);
        }
        if refused.count > 0 {
            text += &format!("; {} not taken in ({})", refused.count, refused.first);
        }
        let level = if wrong.count + refused.count > 0 { Level::Warn } else { Level::Info };
        self.event(level, &text).await;
    }
}
