//! A watch per directory, where a mark for the whole file system is not to be had.

use super::fanotify::Seen;
use super::touched::Touched;
use notify::event::{CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::Path;
use tokio::sync::mpsc::{Receiver, channel, error::TrySendError};

/// Events that nobody has read: beyond that they count as lost.
const QUEUE: usize = 100_000;

/// A watch of a directory and all below it.
pub struct Inotify {
    events: Receiver<notify::Result<Event>>,
    lost: std::sync::Arc<std::sync::atomic::AtomicBool>,
    _watcher: RecommendedWatcher,
}

impl Inotify {
    /// Blocks while it goes through the directories.
    pub fn new(root: &Path) -> notify::Result<Self> {
        let (sender, events) = channel(QUEUE);
        let lost = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let losing = std::sync::Arc::clone(&lost);
        let handler = move |event| {
            if let Err(TrySendError::Full(_)) = sender.try_send(event) {
                losing.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let mut watcher = RecommendedWatcher::new(handler, Config::default().with_follow_symlinks(false))?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { events, lost, _watcher: watcher })
    }

    /// Waits for events and adds what they touched.
    pub async fn next(&mut self, touched: &Touched) -> std::io::Result<Seen> {
        let Some(first) = self.events.recv().await else { return Err(std::io::Error::other("the watch ended")) };
        let mut seen = Seen::default();
        let mut next = Some(first);
        while let Some(event) = next.take() {
            match event {
                Ok(event) => take(event, touched, &mut seen),
                // One directory cannot be watched, or the limit of watches is reached: something may be missed.
                Err(e) => return Err(std::io::Error::other(reason(&e))),
            }
            next = self.events.try_recv().ok();
        }
        seen.overflow |= self.lost.swap(false, std::sync::atomic::Ordering::Relaxed);
        Ok(seen)
    }
}

/// What is the matter, and what to do.
pub fn reason(e: &notify::Error) -> String {
    match e.kind {
        notify::ErrorKind::MaxFilesWatch => "too many directories to watch: raise the sysctl fs.inotify.max_user_watches".into(),
        _ => e.to_string(),
    }
}

fn take(event: Event, touched: &Touched, seen: &mut Seen) {
    use notify::event::{AccessKind, AccessMode};
    seen.overflow |= event.need_rescan();
    let deep = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => false,
        // A directory may have got files before it was watched.
        EventKind::Create(kind) => kind != CreateKind::File,
        EventKind::Modify(ModifyKind::Metadata(_)) => false,
        EventKind::Modify(ModifyKind::Name(mode)) => mode != RenameMode::From,
        _ => return,
    };
    let last = event.paths.len().saturating_sub(1);
    for (n, path) in event.paths.into_iter().enumerate() {
        seen.changes += 1;
        // Of a rename that is told as one event, the first path is the old name.
        touched.add(path, deep && n == last);
    }
}
