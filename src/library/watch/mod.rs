//! What touches the library is seen.
//!
//! Each file system at and below `basedatapath` is watched in the best way that it allows: **fanotify**, one mark for all
//! of it; **inotify**, where the rights for that are missing or the file system does not support it; **polling**, a scan
//! now and then, where others write and this kernel does not see it (object storage, network). What is seen is only
//! where something happened ([`touched`]): a look at the disk says what it means, so a lost, doubled or late event does
//! no harm. The watch begins before the first scan, so nothing falls between them; events that were lost are repaired by
//! a scan, and once a day everything is compared, for what no watch can see.

mod fanotify;
mod inotify;
mod mounts;
pub mod touched;

use super::sort::is_unmounted;
use super::{Library, blocking};
use crate::config::WatchMethod;
use crate::error::Fault;
use crate::store::events::Level;
use crate::store::library_watch::WatchRow;
use fanotify::{Fanotify, Seen};
use inotify::Inotify;
use mounts::{Changes, Mount, mounts};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Events of this time are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// Between two looks for file systems that were mounted or unmounted, should the kernel not tell.
const MOUNTS: Duration = Duration::from_secs(30);
/// After the kernel told of one: others often come with it.
const MOUNTED: Duration = Duration::from_millis(500);
/// Everything is compared so often, whatever was seen.
const FULL: Duration = Duration::from_secs(24 * 3600);
/// Between two looks where there is no watch; a large library is looked at for a twentieth of the time at most.
const POLL: Duration = Duration::from_secs(30);
const POLL_REST: u32 = 20;
/// After a fault.
const RETRY: Duration = Duration::from_secs(10);
/// Between two notes of what was counted.
const NOTE: Duration = Duration::from_secs(2);

/// What watches one file system.
enum Watcher {
    Fanotify(Box<Fanotify>),
    Inotify(Box<Inotify>),
    /// The watch is a scan now and then.
    Polling,
    Off,
}

struct Watch {
    row: WatchRow,
    watcher: Watcher,
}

impl Watcher {
    fn name(&self) -> &'static str {
        match self {
            Self::Fanotify(_) => "fanotify",
            Self::Inotify(_) => "inotify",
            Self::Polling => "polling",
            Self::Off => "off",
        }
    }
}

impl Watch {
    /// The best way to watch a file system that works. Blocks.
    fn begin(mount: &Mount, wanted: WatchMethod) -> Self {
        let (watcher, why) = match wanted {
            WatchMethod::Off => (Watcher::Off, "the configuration says so (watch)".to_owned()),
            WatchMethod::Polling => (Watcher::Polling, "the configuration says so (watch)".to_owned()),
            WatchMethod::Auto if mount.is_remote() => {
                (Watcher::Polling, "others may write there, and this machine does not see it".to_owned())
            }
            WatchMethod::Inotify => Self::inotify(mount, "the configuration says so (watch)".into()),
            WatchMethod::Auto | WatchMethod::Fanotify => match Fanotify::new(&mount.root) {
                Ok(f) => (Watcher::Fanotify(Box::new(f)), String::new()),
                Err(e) => Self::inotify(mount, no_fanotify(&e)),
            },
        };
        let row = WatchRow {
            root: mount.root.to_string_lossy().into_owned(),
            filesystem: mount.kind.clone(),
            method: watcher.name().to_owned(),
            why,
            changes: 0,
            overflows: 0,
        };
        Self { row, watcher }
    }

    fn inotify(mount: &Mount, why: String) -> (Watcher, String) {
        match Inotify::new(&mount.root) {
            Ok(i) => (Watcher::Inotify(Box::new(i)), why),
            Err(e) => (Watcher::Polling, format!("{why}; no inotify: {}", inotify::reason(&e))),
        }
    }

    /// Waits until something was seen.
    async fn next(&mut self, touched: &touched::Touched) -> std::io::Result<Seen> {
        match &mut self.watcher {
            Watcher::Fanotify(f) => f.next(touched).await,
            Watcher::Inotify(i) => i.next(touched).await,
            Watcher::Polling | Watcher::Off => std::future::pending().await,
        }
    }
}

fn no_fanotify(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EPERM) => "no fanotify: it needs the capabilities CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH".into(),
        Some(libc::EXDEV | libc::EOPNOTSUPP | libc::ENODEV) => "no fanotify: this file system does not support it".into(),
        Some(libc::EINVAL | libc::ENOSYS) => "no fanotify: it needs Linux 5.17".into(),
        _ => format!("no fanotify: {e}"),
    }
}

impl Library {
    /// Watches until stopped.
    pub(super) async fn keep_watch(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = async { tokio::join!(self.watch_all(), self.follow_touched()) } => {}
        }
    }

    async fn watch_all(&self) {
        let mut complained = String::new();
        loop {
            let Err(fault) = self.watch().await;
            // A disk that is not there yet, for example: said once.
            if fault.message != complained {
                self.event(Level::Warn, &format!("the library is not watched: {fault}")).await;
            }
            complained = fault.message;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Watches until the file systems change, then begins again; ends with a fault only.
    async fn watch(&self) -> Result<std::convert::Infallible, Fault> {
        loop {
            let base = self.place.base.clone();
            let wanted = self.config.current().watch;
            let changes = Changes::new();
            let (found, watches) = blocking(move || {
                let found = look_for_mounts(&base)?;
                let watches: Vec<Watch> = found.iter().map(|mount| Watch::begin(mount, wanted)).collect();
                Ok((found, watches))
            })
            .await?;
            let mut rows: Vec<WatchRow> = watches.iter().map(|w| w.row.clone()).collect();
            rows.extend(self.look_for_missing(&rows).await?);
            self.store.put_watches(&rows, self.clock.now_ms()).await?;
            for row in &rows {
                let because = if row.why.is_empty() { String::new() } else { format!(" ({})", row.why) };
                tracing::info!("{} ({}) is watched by {}{because}", row.root, row.filesystem, row.method);
            }
            if wanted != WatchMethod::Off {
                self.touched.add(self.place.base.clone(), true);
            }
            let all = watches.into_iter().map(|watch| self.follow(watch));
            tokio::select! {
                ended = futures::future::try_join_all(all) => drop(ended?),
                changed = self.changed_mounts(&found, &changes) => changed?,
            }
        }
    }

    /// File systems that were watched before and whose directory is empty now: they are not mounted, and what they hold is
    /// not forgotten. Whoever means it removes the directory, or puts something into it.
    async fn look_for_missing(&self, mounted: &[WatchRow]) -> Result<Vec<WatchRow>, Fault> {
        let mut known = self.store.watches().await?;
        known.retain(|old| mounted.iter().all(|now| now.root != old.root));
        let missing = blocking(move || {
            known.retain(|w| is_unmounted(Path::new(&w.root)));
            Ok(known)
        })
        .await?;
        let why = "not mounted: what it holds is not forgotten".to_owned();
        let missing: Vec<WatchRow> = missing
            .into_iter()
            .map(|w| WatchRow { method: "off".into(), why: why.clone(), changes: 0, overflows: 0, ..w })
            .collect();
        // Also those that are there: one may go before the next look.
        let known = mounted.iter().chain(&missing).map(|w| PathBuf::from(&w.root)).filter(|root| *root != self.place.base);
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = known.collect();
        Ok(missing)
    }

    /// Where file systems are mounted below the library, or were.
    pub(super) fn away(&self) -> Vec<PathBuf> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when the file systems below the library are others than these, or the configuration wants another watch.
    async fn changed_mounts(&self, known: &[Mount], changes: &Changes) -> Result<(), Fault> {
        let wanted = self.config.current().watch;
        let mut full = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(MOUNTS) => {}
                () = changes.next() => tokio::time::sleep(MOUNTED).await,
            }
            let base = self.place.base.clone();
            if blocking(move || look_for_mounts(&base)).await? != known || self.config.current().watch != wanted {
                tracing::info!("the library's file systems have changed: watching them anew");
                return Ok(());
            }
            if full.elapsed() >= FULL && wanted != WatchMethod::Off {
                full = Instant::now();
                self.touched.add(self.place.base.clone(), true);
            }
        }
    }

    async fn follow(&self, mut watch: Watch) -> Result<(), Fault> {
        let root = watch.row.root.clone();
        if matches!(watch.watcher, Watcher::Polling) {
            return self.poll(&root).await;
        }
        let mut noted = Instant::now();
        let mut unnoted = false;
        loop {
            let seen = tokio::select! {
                seen = watch.next(&self.touched) => Some(seen),
                () = tokio::time::sleep(NOTE), if unnoted => None,
            };
            match seen {
                Some(Ok(seen)) => {
                    watch.row.changes += seen.changes;
                    unnoted |= seen.changes > 0;
                    if seen.overflow {
                        watch.row.overflows += 1;
                        unnoted = true;
                        self.event(Level::Warn, &format!("changes of {root} were too many to be told one by one: it is scanned"))
                            .await;
                        self.touched.add(root.clone().into(), true);
                    }
                }
                Some(Err(e)) => return Err(Fault::transient(format!("the watch of {root}: {e}"))),
                None => {}
            }
            if unnoted && noted.elapsed() >= NOTE {
                (noted, unnoted) = (Instant::now(), false);
                if let Err(fault) = self.store.note_watch(&root, watch.row.changes, watch.row.overflows).await {
                    tracing::debug!(%fault, "what a watch saw is not noted");
                }
            }
        }
    }

    /// A scan now and then.
    async fn poll(&self, root: &str) -> Result<(), Fault> {
        loop {
            let begun = Instant::now();
            if let Err(fault) = self.look_through(vec![root.into()]).await {
                tracing::warn!(%fault, root, "looking for changes failed; it is tried again");
            }
            tokio::time::sleep(POLL.max(begun.elapsed() * POLL_REST)).await;
        }
    }

    /// Looks at what was touched.
    async fn follow_touched(&self) {
        loop {
            self.touched.some().await;
            tokio::time::sleep(GATHER).await;
            let (deep, single) = self.touched.take();
            // Directories first: a renamed one keeps its digests if its old name still has its rows.
            if !deep.is_empty()
                && let Err(fault) = self.look_through(deep.clone()).await
            {
                tracing::warn!(%fault, "looking at what has changed failed; it is tried again");
                tokio::time::sleep(RETRY).await;
                deep.into_iter().for_each(|dir| self.touched.add(dir, true));
            }
            if let Err(fault) = self.look_at(single.clone()).await {
                tracing::warn!(%fault, "looking at what has changed failed; it is tried again");
                tokio::time::sleep(RETRY).await;
                single.into_iter().for_each(|path| self.touched.add(path, false));
            }
        }
    }
}

fn look_for_mounts(base: &Path) -> Result<Vec<Mount>, Fault> {
    mounts(base).map_err(|e| crate::error::io_fault("cannot look at the library", base, &e))
}
