//! The receiving side: bytes arrive at offsets, are hashed as they come, are synced before they are recorded, and the
//! package gets its name only when every file's SHA-1 is right.
//!
//! One [`Assembly`] per task that is being received. It is the [`Sink`] of all its legs: three methods write into the same
//! staged files, each its own spans. One thread follows the contiguous edge of every file and keeps a running SHA-1, so
//! that the digest is ready when the last byte is; it reads back what was just written, from the page cache. (Hashing
//! in the writers was rejected: parallel ranges arrive out of order, and bt writes pieces in any order.)
//!
//! **What the database says is on disk.** [`Assembly::sync`] takes a snapshot of ranges and digests, calls `fdatasync`,
//! then records the snapshot. After a power cut exactly the recorded ranges are trusted, the digest goes on from its
//! recorded state, and nothing that was recorded is read again.

mod aside;
mod digest;
mod doubt;
mod finish;
mod local;
mod room;
mod sink;
mod staging;
mod stake;
mod sync;
mod vanished;

pub use finish::{Finished, already_renamed, check_packing_list, complete_after_rename, finish};
pub use local::{Copied, Way, has_times_of_its_own};
pub use room::Room;
pub use staging::remove as remove_staged;
pub use vanished::times_as_recorded;

use crate::error::Fault;
use crate::model::ids::{RelPath, Sha1};
use crate::model::ranges::RangeSet;
use crate::model::span::Span;
use crate::package::digest::Sha1State;
use crate::store::Store;
use crate::store::task_files::{FileProgress, FileRow, Times};
use crate::views::area::Guard;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use vanished::{Identity, Stamp};

/// Staged files of a task that are open at the same time: a package may have ten thousand files, a process not as many
/// descriptors.
static OPEN_FILES: AtomicUsize = AtomicUsize::new(MOST_OPEN_FILES);
const MOST_OPEN_FILES: usize = 128;

/// Divides a quarter of the descriptors that the process may have among so many receptions.
pub fn share_open_files(descriptors: u64, receptions: usize) {
    let each = usize::try_from(descriptors / 4).unwrap_or(usize::MAX) / receptions.max(1);
    OPEN_FILES.store(each.clamp(4, MOST_OPEN_FILES), Ordering::Relaxed);
}

/// A task's package while it is being received. See the module's text.
pub struct Assembly {
    task: i64,
    root: PathBuf,
    aside: aside::Aside,
    slots: Vec<Slot>,
    /// Copies share the blocks of their sources.
    clones: bool,
    /// Times of files are those of a server.
    served: bool,
    /// Slots whose file is open, oldest first; the oldest is closed when there are too many.
    opened: Mutex<VecDeque<u32>>,
    store: Store,
    digester: digest::Queue,
    stake: stake::Stake,
    /// A sync is due after so many bytes, if the last one is not too fresh.
    sync_share: u64,
    sync_due: Notify,
    sync_lock: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    /// A sync of files failed: the system reports that once, so nothing may be recorded any more.
    poisoned: AtomicBool,
    /// Somebody should look: a file was verified or found wrong, or the disk failed.
    news: Arc<Notify>,
    broken: Mutex<Option<Fault>>,
    /// Files that somebody removed or replaced: their bytes count until the database has forgotten them.
    vanished: Mutex<BTreeSet<u32>>,
    /// Files of which the database spoke when this was opened, and that were not there or others.
    dropped: Vec<u32>,
    /// Nothing is forgotten, and nothing made anew, while the disk is away.
    guard: Guard,
}

struct Slot {
    path: RelPath,
    size: u64,
    sha1: Sha1,
    /// Bytes that this node wants of the file: all of it, save on a cacher, which has only the bt part.
    wanted: u64,
    /// A file of this node to copy from, until it turns out to be wrong.
    local_source: Mutex<Option<PathBuf>>,
    file: Mutex<Option<Arc<File>>>,
    /// Which file it is, once it was opened or found with its bytes.
    identity: Mutex<Option<Identity>>,
    /// It was seen with all its blocks: a hole is none of ours.
    solid: AtomicBool,
    /// Which inode is recorded for it.
    recorded: Mutex<Option<u64>>,
    /// Which times were recorded for it before the start.
    times: Option<Times>,
    mark: Mutex<Option<doubt::Mark>>,
    /// Held from the look at what is missing until it is written, and while bytes are counted as present: so a byte that
    /// counts is never written again. (File systems let one writer at a time into a file anyway.)
    gate: Mutex<()>,
    state: Mutex<SlotState>,
}

struct SlotState {
    have: RangeSet,
    /// Written, not committed yet.
    written: RangeSet,
    digest: Sha1State,
    verdict: Verdict,
    /// Changed since the last sync.
    dirty: bool,
    /// In the digester's queue.
    queued: bool,
    /// A copy is at work, and hashes as it goes.
    copying: bool,
    /// What the file was once all its bytes were there.
    stamp: Option<Stamp>,
    /// Others wrote into it, and it was not hashed to its end since.
    doubted: bool,
    /// Counts resets, so that a digest of old bytes is not taken for one of the new.
    epoch: u64,
}

/// What the digest says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not all bytes are there or hashed.
    Open,
    Verified,
    /// All bytes are there and the SHA-1 is not the task's.
    Wrong,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Slot {
    fn new(row: FileRow, wanted: u64) -> Self {
        let mut have = row.have;
        have.remove(row.size..u64::MAX);
        let digest = row
            .digest
            .as_deref()
            .and_then(Sha1State::from_bytes)
            .filter(|d| d.len() == row.digest_at && have.contains(&(0..row.digest_at)) && row.digest_at <= row.size);
        Self {
            path: row.path,
            size: row.size,
            sha1: row.sha1,
            wanted,
            local_source: Mutex::new(row.local_source),
            file: Mutex::new(None),
            identity: Mutex::new(None),
            solid: AtomicBool::new(false),
            recorded: Mutex::new(row.inode),
            times: row.times,
            mark: Mutex::default(),
            gate: Mutex::default(),
            state: Mutex::new(SlotState {
                verdict: if row.verified { Verdict::Verified } else { Verdict::Open },
                have,
                written: RangeSet::new(),
                digest: digest.unwrap_or_default(),
                dirty: false,
                queued: false,
                copying: false,
                stamp: None,
                doubted: row.doubted,
                epoch: 0,
            }),
        }
    }
}

impl Assembly {
    /// [`Assembly::open_beside`] nobody else.
    pub async fn open(task: i64, root: &Path, store: &Store, news: Arc<Notify>) -> Result<Arc<Self>, Fault> {
        Self::open_beside(task, root, store, news, Room::default()).await
    }

    /// Opens the staging directory of a task: makes it if needed, checks that there is room for what is missing, trusts
    /// what the database recorded (as far as the files are there with it), and starts the digest where it stood. A
    /// transient fault: there will be room when others are done.
    pub async fn open_beside(task: i64, root: &Path, store: &Store, news: Arc<Notify>, room: Room) -> Result<Arc<Self>, Fault> {
        let rows = store.task_files(task).await?;
        let mut wanted = vec![0; rows.len()];
        for s in store.task_spans(task).await? {
            if let Some(w) = wanted.get_mut(s.span.file as usize) {
                *w += s.span.len;
            }
        }
        let stage_inode = store.task(task).await?.and_then(|t| t.stage_inode);
        let root = root.to_owned();
        let guard = Guard::of(root.parent().and_then(Path::parent).unwrap_or(&root), store).await?;
        let before = guard.clone();
        let (root, aside, slots, prepared) = tokio::task::spawn_blocking(move || {
            let slots: Vec<Slot> = rows.into_iter().zip(wanted).map(|(row, w)| Slot::new(row, w)).collect();
            let aside = aside::Aside::of(&root);
            before.check()?;
            let prepared = staging::prepare(&root, &aside, &slots, stage_inode, room);
            before.check()?; // it may have gone while we looked
            Ok((root, aside, slots, prepared))
        })
        .await
        .unwrap_or_else(|e| Err(Fault::local(format!("staging: {e}"))))?;
        // At once: when the files are made anew, nothing would tell them from those that the database vouches for.
        let dropped = (0u32..).zip(&slots).filter(|(_, s)| std::mem::take(&mut lock(&s.state).dirty));
        let mut dropped: Vec<u32> = dropped.map(|(n, _)| n).collect();
        store.record_files(task, &dropped.iter().map(|n| forgotten(*n)).collect::<Vec<_>>()).await?;
        let staging::Prepared { found, clones, served } = prepared?;
        if found == staging::Found::Another {
            store.forget_stage_inode(task).await?;
            dropped.clear();
        }
        let wanted: u64 = slots.iter().map(|s| s.wanted).sum();
        let assembly = Arc::new_cyclic(|assembly| Self {
            task,
            root,
            aside,
            slots,
            sync_share: sync::share_of(wanted),
            clones,
            served,
            opened: Mutex::default(),
            store: store.clone(),
            digester: digest::Queue::new(assembly.clone()),
            stake: stake::Stake::default(),
            sync_due: Notify::new(),
            sync_lock: tokio::sync::Mutex::new(()),
            closed: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            news,
            broken: Mutex::new(None),
            vanished: Mutex::default(),
            dropped,
            guard,
        });
        for (n, slot) in assembly.slots.iter().enumerate() {
            {
                let mut state = lock(&slot.state);
                state.dirty = state.doubted;
            }
            assembly.follow(n);
        }
        tokio::spawn(sync::keep_synced(Arc::downgrade(&assembly)));
        Ok(assembly)
    }

    /// Files that were not there, or were others than the database spoke of, when this was opened: somebody removed or
    /// replaced them while nobody looked, or the database is another machine's.
    pub fn dropped(&self) -> &[u32] {
        &self.dropped
    }

    /// The staging directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What lay in the way of staged files and was moved aside since the last call, and who wrote into them, in words.
    pub fn take_put_aside(&self) -> Vec<String> {
        self.aside.take_told()
    }

    /// Every file is there and hashed to the task's SHA-1.
    pub fn verified(&self) -> bool {
        self.slots.iter().all(|s| lock(&s.state).verdict == Verdict::Verified)
    }

    pub fn verdict(&self, file: u32) -> Verdict {
        self.slots.get(file as usize).map_or(Verdict::Open, |s| lock(&s.state).verdict)
    }

    /// Files whose digest came out wrong and that nobody has reset yet.
    pub fn wrong_files(&self) -> Vec<u32> {
        (0u32..).zip(&self.slots).filter(|(_, s)| lock(&s.state).verdict == Verdict::Wrong).map(|(n, _)| n).collect()
    }

    pub fn path_of(&self, file: u32) -> String {
        self.slots.get(file as usize).map(|s| s.path.to_string()).unwrap_or_default()
    }

    /// Content and number of every file that has bytes.
    pub fn contents(&self) -> impl Iterator<Item = (u32, Sha1, u64)> {
        (0u32..).zip(&self.slots).filter(|(_, s)| s.size > 0).map(|(n, s)| (n, s.sha1, s.size))
    }

    /// Bytes of a file that are in place.
    pub fn have(&self, file: u32) -> u64 {
        self.slots.get(file as usize).map_or(0, |s| lock(&s.state).have.total())
    }

    /// Where a file is staged.
    pub fn staged(&self, file: u32) -> PathBuf {
        self.slots.get(file as usize).map_or_else(PathBuf::new, |s| s.path.under(&self.root))
    }

    /// Bytes of these spans that are in place.
    pub fn covered<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> u64 {
        spans.filter_map(|s| Some(lock(&self.slots.get(s.file as usize)?.state).have.covered(&s.range()))).sum()
    }

    /// An error of the disk under us, once.
    pub fn take_broken(&self) -> Option<Fault> {
        lock(&self.broken).take()
    }

    /// Forgets ranges of a file whose bytes turned out wrong; they are missing from now on.
    ///
    /// The database forgets them first: were they written anew while it still vouches for the old ones, a power cut
    /// would join the digest of the old bytes with the new ones on disk.
    pub async fn reset(&self, file: u32, ranges: &[Range<u64>]) -> Result<(), Fault> {
        let Some(slot) = self.slots.get(file as usize) else { return Ok(()) };
        let _one = self.sync_lock.lock().await;
        let mut have = lock(&slot.state).have.clone();
        for r in ranges {
            have.remove(r.clone());
        }
        self.store.record_files(self.task, &[FileProgress { have, times: slot.growing(), ..forgotten(file) }]).await?;
        {
            // Whoever looks at the file meanwhile looks at one state of it.
            let _gate = lock(&slot.gate);
            let mut state = lock(&slot.state);
            for r in ranges {
                state.have.remove(r.clone());
            }
            state.digest = Sha1State::default();
            state.verdict = Verdict::Open;
            state.stamp = None;
            state.doubted = false;
            state.copying = false;
            state.epoch += 1;
            state.dirty = true;
            drop(state);
            // It grows again: whoever opens it gives it a mark, which one that was complete at the start has not.
            lock(&slot.file).take();
        }
        self.follow(file as usize);
        Ok(())
    }

    /// Records what is there and stops the digest. The files stay.
    pub async fn close(&self) -> Result<(), Fault> {
        self.closed.store(true, Ordering::Release);
        self.digester.stop();
        self.sync_due.notify_one();
        let done = self.sync().await;
        for slot in &self.slots {
            lock(&slot.file).take();
        }
        done
    }

    /// Puts a file into the digester's queue when it has something to hash.
    fn follow(&self, n: usize) {
        let Some(slot) = self.slots.get(n) else { return };
        if lock(&slot.local_source).is_some() {
            return; // whoever copies it hashes it
        }
        let mut state = lock(&slot.state);
        let at = state.digest.len();
        let idle = !state.queued && !state.copying;
        let due = state.verdict == Verdict::Open && idle && (state.have.contiguous_end(at) > at || at == slot.size);
        if due {
            state.queued = true;
            drop(state);
            self.digester.push(n);
        }
    }

    fn slot(&self, file: u32) -> Result<&Slot, Fault> {
        self.slots.get(file as usize).ok_or_else(|| Fault::permanent(format!("no file number {file} in this task")))
    }

    fn open_file(&self, n: u32) -> Result<Arc<File>, Fault> {
        let slot = self.slot(n)?;
        let mut file = lock(&slot.file);
        if let Some(f) = &*file {
            return Ok(Arc::clone(f));
        }
        // Asked while nobody takes the file away to have it opened anew.
        let settled = lock(&slot.state).stamp.is_some();
        let known = *lock(&slot.identity);
        if known.is_none() {
            self.guard.check()?;
        }
        let Some((opened, identity)) = staging::open(&self.root, &self.aside, &slot.path, (slot.size, slot.wanted), known)?
        else {
            drop(file);
            self.missed(n);
            return Err(vanished::fault(&slot.path.under(&self.root)).file(&slot.path));
        };
        let opened = Arc::new(opened);
        if vanished::is_solid(&opened, slot.size) {
            slot.solid.store(true, Ordering::Relaxed);
        }
        if !self.served && !settled {
            slot.mark_first(&opened);
        }
        *lock(&slot.identity) = Some(identity);
        *file = Some(Arc::clone(&opened));
        drop(file);
        let oldest = {
            let mut queue = lock(&self.opened);
            queue.push_back(n);
            if queue.len() > OPEN_FILES.load(Ordering::Relaxed) { queue.pop_front() } else { None }
        };
        // Whoever is using it holds a share of its own.
        if let Some(old) = oldest.and_then(|n| self.slots.get(n as usize)) {
            lock(&old.file).take();
        }
        Ok(opened)
    }
}

/// What the database says of a file of which nothing is there.
fn forgotten(file: u32) -> FileProgress {
    FileProgress { idx: file, ..FileProgress::default() }
}
