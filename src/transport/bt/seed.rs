//! [`Seeding`]: librqbit's storage for a publish: the package in place, never written to.
//!
//! Files are opened when a peer asks, read-only, without following a symlink below the root. A stamp of every file
//! (device, inode, size, mtime) is taken at the start; a file whose stamp differs later is no longer what was hashed, and
//! serving it would have every receiver throw the pieces away: the first difference ends the seeding, with the file named.
//! When as many bytes are there, `publish` has the pieces checked, and goes on if they are right.

use super::layout::Layout;
use crate::error::{Fault, io_fault};
use crate::model::span::Span;
use crate::transport::FileMeta;
use crate::transport::away::{read_fault, why_away};
use anyhow::{Context as _, bail};
use librqbit::storage::filesystem::FilesystemStorageFactory;
use librqbit::storage::{BoxStorageFactory, StorageFactory, StorageFactoryExt as _, TorrentStorage};
use librqbit::{ManagedTorrentShared, TorrentMetadata};
use rustix::fs::{Mode, OFlags};
use std::any::TypeId;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Files held open at once.
const MAX_OPEN: usize = 256;
/// An open file's stamp is compared at most so often.
const CHECK_MILLIS: u64 = 1_000;
/// A file that nobody asked for in this time is closed: a node may seed hundreds of packages, each with many files.
const IDLE_MILLIS: u64 = 60_000;
/// Files whose stamp one look by path compares; further files take their turn in the next look.
const FILES_PER_LOOK: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Stamp {
    fn of(m: &Metadata) -> Self {
        Self { device: m.dev(), inode: m.ino(), size: m.size(), mtime: (m.mtime(), m.mtime_nsec()) }
    }
}

struct Open {
    file: File,
    checked: AtomicU64,
}

#[derive(Default)]
struct OpenFiles {
    by_file: BTreeMap<u32, Arc<Open>>,
    oldest_first: VecDeque<u32>,
}

/// What all storage objects of one publish share.
pub(super) struct Seeding {
    layout: Arc<Layout>,
    files: Arc<[FileMeta]>,
    root: PathBuf,
    /// Of the files that are published; others are not opened.
    stamps: BTreeMap<u32, Stamp>,
    open: Mutex<OpenFiles>,
    fault: Mutex<Option<Fault>>,
    /// A file that looks different and has as many bytes as before.
    touched: Mutex<Option<String>>,
    next_look: AtomicUsize,
    started: Instant,
}

impl Seeding {
    /// Takes the stamps of the files that `spans` name. Blocks.
    pub fn start(layout: Arc<Layout>, files: Arc<[FileMeta]>, root: PathBuf, spans: &[Span]) -> Result<Arc<Self>, Fault> {
        let mut stamps = BTreeMap::new();
        for span in spans {
            if stamps.contains_key(&span.file) {
                continue;
            }
            let meta = files.get(span.file as usize).ok_or_else(|| Fault::permanent("the task has no such file"))?;
            let found = open_below(&root, meta).and_then(|f| f.metadata());
            let found = found.map_err(|e| read_fault("cannot seed", &root, &meta.path.under(&root), &e).file(&meta.path))?;
            if !found.is_file() {
                return Err(Fault::permanent(format!("cannot seed {}: it is not a file", meta.path)).file(&meta.path));
            }
            if found.len() != meta.size {
                return Err(Fault::permanent(format!(
                    "{} has {} bytes, {} when it was hashed: run gentask again",
                    meta.path,
                    found.len(),
                    meta.size
                ))
                .file(&meta.path));
            }
            stamps.insert(span.file, Stamp::of(&found));
        }
        Ok(Arc::new(Self {
            layout,
            files,
            root,
            stamps,
            open: Mutex::default(),
            fault: Mutex::default(),
            touched: Mutex::default(),
            next_look: AtomicUsize::new(0),
            started: Instant::now(),
        }))
    }

    /// Why the package can no longer be seeded.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A file was touched or replaced: whether its bytes are others only a check of the pieces tells.
    pub fn touched(&self) -> Option<String> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, fault: Fault) -> anyhow::Error {
        let error = anyhow::anyhow!("{fault}");
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
        error
    }

    fn changed(&self, meta: &FileMeta, how: &str) -> anyhow::Error {
        self.remember(Fault::permanent(format!("{} {how} since it was hashed: run gentask again", meta.path)).file(&meta.path))
    }

    fn unread(&self, meta: &FileMeta, e: &std::io::Error) -> anyhow::Error {
        if e.kind() == std::io::ErrorKind::NotFound && why_away(&self.root).is_none() {
            return self.changed(meta, "was removed");
        }
        self.remember(read_fault("cannot seed", &self.root, &meta.path.under(&self.root), e).file(&meta.path))
    }

    fn compare(&self, meta: &FileMeta, stamp: &Stamp, now: &Metadata) -> anyhow::Result<()> {
        if Stamp::of(now) == *stamp {
            return Ok(());
        }
        if now.is_file() && now.len() == stamp.size {
            self.touched.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| meta.path.to_string());
        }
        Err(self.changed(meta, "changed"))
    }

    /// Closes what nobody asks for, and compares the stamps of files by path, as opening them anew would find them. Blocks.
    pub fn look(&self) {
        self.close_idle();
        let from = self.next_look.fetch_add(FILES_PER_LOOK, Ordering::Relaxed);
        let turn = self.stamps.len().min(FILES_PER_LOOK);
        for (file, stamp) in self.stamps.iter().cycle().skip(from % self.stamps.len().max(1)).take(turn) {
            let Some(meta) = self.files.get(*file as usize) else { continue };
            let found = match std::fs::symlink_metadata(meta.path.under(&self.root)) {
                Ok(now) => self.compare(meta, stamp, &now),
                Err(e) => Err(self.unread(meta, &e)),
            };
            if found.is_err() {
                return;
            }
        }
    }

    fn close_idle(&self) {
        let now = self.millis();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.by_file.is_empty() {
            return;
        }
        open.by_file.retain(|_, o| now.saturating_sub(o.checked.load(Ordering::Relaxed)) < IDLE_MILLIS);
        let OpenFiles { by_file, oldest_first } = &mut *open;
        oldest_first.retain(|f| by_file.contains_key(f));
    }

    fn open_file(&self, file: u32, meta: &FileMeta, stamp: &Stamp) -> anyhow::Result<Arc<Open>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = open.by_file.get(&file) {
            return Ok(found.clone());
        }
        let opened = open_below(&self.root, meta).map_err(|e| self.unread(meta, &e))?;
        let now = opened.metadata().map_err(|e| self.unread(meta, &e))?;
        self.compare(meta, stamp, &now)?;
        let entry = Arc::new(Open { file: opened, checked: AtomicU64::new(self.millis()) });
        if open.oldest_first.len() >= MAX_OPEN
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.by_file.remove(&oldest);
        }
        open.oldest_first.push_back(file);
        open.by_file.insert(file, entry.clone());
        Ok(entry)
    }

    /// All bytes of a piece, for another task of this node. `open`: the file that was read last. Blocks.
    pub fn read_piece(&self, piece: u64, open: &mut Option<(u32, File)>) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; self.layout.piece_len(piece) as usize];
        let mut rest = bytes.as_mut_slice();
        for span in self.layout.piece_spans(piece) {
            let meta = self.files.get(span.file as usize).ok_or_else(|| Fault::local("there is no such file"))?;
            let unread = |e: &std::io::Error| io_fault("cannot read", &meta.path.under(&self.root), e);
            if open.as_ref().is_none_or(|(file, _)| *file != span.file) {
                *open = Some((span.file, open_below(&self.root, meta).map_err(|e| unread(&e))?));
            }
            let (part, after) = std::mem::take(&mut rest).split_at_mut(span.len as usize);
            rest = after;
            if let Some((_, file)) = open {
                file.read_exact_at(part, span.offset).map_err(|e| unread(&e))?;
            }
        }
        Ok(bytes)
    }

    fn millis(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn read(&self, torrent_file: usize, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        let at = self.layout.locate(torrent_file, offset, buf.len() as u64).context("outside of the torrent")?;
        let meta = self.files.get(at.file as usize).context("no such file")?;
        let stamp = self.stamps.get(&at.file).context("this file is not published")?;
        let open = self.open_file(at.file, meta, stamp)?;
        let now = self.millis();
        if now.saturating_sub(open.checked.load(Ordering::Relaxed)) >= CHECK_MILLIS {
            open.checked.store(now, Ordering::Relaxed);
            let found = open.file.metadata().map_err(|e| self.unread(meta, &e))?;
            self.compare(meta, stamp, &found)?;
        }
        open.file.read_exact_at(buf, at.offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                self.changed(meta, "became shorter")
            } else {
                self.unread(meta, &e)
            }
        })
    }
}

/// Opens a package file read-only. The root may be reached through symlinks, what lies below it may not.
fn open_below(root: &Path, meta: &FileMeta) -> std::io::Result<File> {
    const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    let mut dir = rustix::fs::open(root, DIR, Mode::empty())?;
    let mut parts = meta.path.parts().peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some() {
            dir = rustix::fs::openat(&dir, part, DIR | OFlags::NOFOLLOW, Mode::empty())?;
        } else {
            // Not blocking, should the name be a pipe by now.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            return Ok(File::from(rustix::fs::openat(&dir, part, flags, Mode::empty())?));
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}

#[derive(Clone)]
struct Factory {
    shared: Arc<Seeding>,
    known_good: bool,
}

/// Boxed for librqbit. With `known_good`, a bitfield of ours was written and librqbit need not read any file to start.
pub(super) fn factory(shared: &Arc<Seeding>, known_good: bool) -> BoxStorageFactory {
    Factory { shared: shared.clone(), known_good }.boxed()
}

impl StorageFactory for Factory {
    type Storage = Storage;

    fn create(&self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<Storage> {
        Ok(Storage { shared: self.shared.clone(), glance: self.known_good, alive: AtomicBool::new(true) })
    }
    /// librqbit reads a bitfield only for what it believes to be its own storage.
    fn is_type_id(&self, type_id: TypeId) -> bool {
        type_id == TypeId::of::<FilesystemStorageFactory>()
    }
    fn clone_box(&self) -> BoxStorageFactory {
        self.clone().boxed()
    }
}

struct Storage {
    shared: Arc<Seeding>,
    /// As in `receive`: reads while a torrent with a bitfield starts are for show.
    glance: bool,
    alive: AtomicBool,
}

impl TorrentStorage for Storage {
    fn init(&mut self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<()> {
        Ok(())
    }
    fn pread_exact(&self, file_id: usize, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        if !self.alive.load(Ordering::Acquire) {
            bail!("this storage was replaced");
        }
        if self.glance {
            buf.fill(0);
            return Ok(());
        }
        if buf.is_empty() { Ok(()) } else { self.shared.read(file_id, offset, buf) }
    }
    fn pwrite_all(&self, _: usize, _: u64, _: &[u8]) -> anyhow::Result<()> {
        bail!("a package that is seeded is never written to")
    }
    fn remove_file(&self, _: usize, _: &Path) -> anyhow::Result<()> {
        bail!("a package that is seeded is never written to")
    }
    fn remove_directory_if_empty(&self, _: &Path) -> anyhow::Result<()> {
        bail!("a package that is seeded is never written to")
    }
    fn ensure_file_length(&self, _: usize, _: u64) -> anyhow::Result<()> {
        Ok(())
    }
    fn take(&self) -> anyhow::Result<Box<dyn TorrentStorage>> {
        self.alive.store(false, Ordering::Release);
        Ok(Box::new(Self { shared: self.shared.clone(), glance: false, alive: AtomicBool::new(true) }))
    }
}
