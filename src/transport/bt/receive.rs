//! [`Receiving`]: librqbit's storage for a fetch, over a [`Sink`].
//!
//! A peer's bytes are unproven until their whole piece is checked, and a piece may reach over a border into spans that
//! other methods bring. Two rules keep unproven bytes away from what others wrote and verified:
//!
//! * bytes that the sink has are never written again;
//! * a piece that covers bytes nobody asked this leg for (a border piece) is gathered in memory, and written once its
//!   hash is right. There are few: at most two for each gap in what was asked for.

use super::layout::Layout;
use crate::error::Fault;
use crate::model::ranges::RangeSet;
use crate::model::span::Span;
use crate::transport::Sink;
use anyhow::Context as _;
use librqbit::storage::filesystem::FilesystemStorageFactory;
use librqbit::storage::{BoxStorageFactory, StorageFactory, StorageFactoryExt as _, TorrentStorage};
use librqbit::{ManagedTorrentShared, TorrentMetadata};
use librqbit_core::lengths::ValidPieceIndex;
use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Border pieces of one fetch in memory at once: four of the largest. More of them in flight is a torrent cut in an
/// absurd way.
const MAX_GATHERED_BYTES: u64 = 64 << 20;

/// What all storage objects of one fetch share.
pub(super) struct Receiving {
    layout: Arc<Layout>,
    sink: Arc<dyn Sink>,
    /// Pieces that cover bytes outside of what was asked for.
    border: HashSet<u64>,
    gathered: Mutex<HashMap<u64, Vec<u8>>>,
    fault: Mutex<Option<Fault>>,
    /// Calls hold it shared; closing waits for them, so that nothing is written after a leg has ended.
    open: RwLock<bool>,
}

impl Receiving {
    pub fn new(layout: Arc<Layout>, sink: Arc<dyn Sink>, asked: &[Span]) -> Arc<Self> {
        let mut by_file: HashMap<u32, RangeSet> = HashMap::new();
        for span in asked {
            by_file.entry(span.file).or_default().insert(span.range());
        }
        let inside = |s: &Span| by_file.get(&s.file).is_some_and(|set| set.contains(&s.range()));
        let border = (0..layout.pieces()).filter(|p| !layout.piece_spans(*p).all(|s| inside(&s))).collect();
        let open = RwLock::new(true);
        Arc::new(Self { layout, sink, border, gathered: Mutex::default(), fault: Mutex::default(), open })
    }

    /// The first fault the sink answered with. librqbit would blame the peer or only log it.
    pub fn fault(&self) -> Option<Fault> {
        lock(&self.fault).clone()
    }

    /// Waits for running calls and refuses further ones. Blocks.
    pub fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    fn remember(&self, fault: Fault) -> anyhow::Error {
        let error = anyhow::anyhow!("{fault}");
        lock(&self.fault).get_or_insert(fault);
        error
    }

    /// `None`: the fetch has ended.
    fn while_open<T>(&self, call: impl FnOnce() -> anyhow::Result<T>) -> Option<anyhow::Result<T>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.then(call)
    }

    fn read(&self, torrent_file: usize, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        let at = self.layout.locate(torrent_file, offset, buf.len() as u64).context("outside of the torrent")?;
        if let Some((piece, within)) = self.layout.piece_at(torrent_file, offset)
            && let Some(bytes) = lock(&self.gathered).get(&piece)
        {
            let within = within as usize;
            buf.copy_from_slice(bytes.get(within..within + buf.len()).context("beyond the piece")?);
            return Ok(());
        }
        self.sink.read_at(at.file, at.offset, buf).map_err(|f| self.remember(f))
    }

    fn write(&self, torrent_file: usize, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let at = self.layout.locate(torrent_file, offset, data.len() as u64).context("outside of the torrent")?;
        let (piece, within) = self.layout.piece_at(torrent_file, offset).context("outside of the torrent")?;
        if self.border.contains(&piece) { self.gather(piece, within as usize, data) } else { self.put(&at, data) }
    }

    fn gather(&self, piece: u64, within: usize, data: &[u8]) -> anyhow::Result<()> {
        let len = self.layout.piece_len(piece);
        let mut gathered = lock(&self.gathered);
        let held: u64 = gathered.values().map(|b| b.len() as u64).sum();
        if held + len > MAX_GATHERED_BYTES && !gathered.contains_key(&piece) {
            return Err(self.remember(Fault::transient("too many pieces at the borders of the wanted spans at once")));
        }
        // Zeroed memory is only mapped: it costs what arrives.
        let bytes = gathered.entry(piece).or_insert_with(|| vec![0; len as usize]);
        bytes.get_mut(within..within + data.len()).context("beyond the piece")?.copy_from_slice(data);
        Ok(())
    }

    /// Writes what is missing of `at`.
    fn put(&self, at: &Span, data: &[u8]) -> anyhow::Result<()> {
        for part in self.sink.missing(at) {
            let from = part.start.saturating_sub(at.offset) as usize;
            let to = part.end.saturating_sub(at.offset) as usize;
            let bytes = data.get(from..to).context("the sink named bytes that were not asked for")?;
            self.sink.write_at(at.file, part.start, bytes).map_err(|f| self.remember(f))?;
        }
        Ok(())
    }

    /// The piece's hash is right: all its bytes count, also those in torrent files that nobody selected.
    fn completed(&self, piece: u64) -> anyhow::Result<()> {
        // The gathered bytes stay until they are written: peers may read the piece from now on.
        let mut gathered = lock(&self.gathered);
        let mut at = 0;
        for span in self.layout.piece_spans(piece) {
            let end = at + span.len as usize;
            if let Some(bytes) = gathered.get(&piece) {
                self.put(&span, bytes.get(at..end).context("beyond the piece")?)?;
            }
            for part in self.sink.missing(&span) {
                self.sink.commit(span.file, part);
            }
            at = end;
        }
        gathered.remove(&piece);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Factory(Arc<Receiving>);

/// Boxed for librqbit.
pub(super) fn factory(shared: &Arc<Receiving>) -> BoxStorageFactory {
    Factory(shared.clone()).boxed()
}

impl StorageFactory for Factory {
    type Storage = Storage;

    fn create(&self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<Storage> {
        Ok(Storage { shared: self.0.clone(), glance: true, alive: AtomicBool::new(true) })
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
    shared: Arc<Receiving>,
    /// While a torrent starts, librqbit looks at a few pieces of the bitfield, one per file at least, and ignores what
    /// it finds unless reading fails. The sink's word stands, so these reads are answered without touching the disk.
    glance: bool,
    /// librqbit hands its storage on when it pauses or starts; the object left behind must not work any more.
    alive: AtomicBool,
}

impl Storage {
    /// `None`: another object took over, or the fetch has ended.
    fn call<T>(&self, call: impl FnOnce(&Receiving) -> anyhow::Result<T>) -> Option<anyhow::Result<T>> {
        if !self.alive.load(Ordering::Acquire) {
            return None;
        }
        self.shared.while_open(|| call(&self.shared))
    }
}

const ENDED: &str = "the fetch has ended";

impl TorrentStorage for Storage {
    fn init(&mut self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<()> {
        Ok(())
    }
    fn pread_exact(&self, file_id: usize, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        if self.glance {
            buf.fill(0);
            return Ok(());
        }
        if buf.is_empty() {
            return Ok(());
        }
        self.call(|shared| shared.read(file_id, offset, buf)).context(ENDED)?
    }
    /// What a peer still brings after the end is dropped: librqbit would log a fatal error of the disk. Nothing comes of
    /// it, because no piece can be read back and checked any more.
    fn pwrite_all(&self, file_id: usize, offset: u64, buf: &[u8]) -> anyhow::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        self.call(|shared| shared.write(file_id, offset, buf)).unwrap_or(Ok(()))
    }
    /// Also for an object that was replaced meanwhile: librqbit has noted the piece already, and never asks for it again.
    fn on_piece_completed(&self, piece: ValidPieceIndex) -> anyhow::Result<()> {
        self.shared.while_open(|| self.shared.completed(u64::from(piece.get()))).context(ENDED)?
    }
    // The sink owns the files: librqbit may neither remove nor size them.
    fn remove_file(&self, _: usize, _: &Path) -> anyhow::Result<()> {
        Ok(())
    }
    fn remove_directory_if_empty(&self, _: &Path) -> anyhow::Result<()> {
        Ok(())
    }
    fn ensure_file_length(&self, _: usize, _: u64) -> anyhow::Result<()> {
        Ok(())
    }
    fn take(&self) -> anyhow::Result<Box<dyn TorrentStorage>> {
        self.alive.store(false, Ordering::Release);
        Ok(Box::new(Self { shared: self.shared.clone(), glance: false, alive: AtomicBool::new(true) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RelPath, Sha1};
    use crate::package::metainfo::Metainfo;
    use crate::transport::FileMeta;
    use std::ops::Range;
    use std::sync::atomic::AtomicU64;

    /// Counts bytes: written, committed.
    #[derive(Default)]
    struct Counting([AtomicU64; 2]);

    impl Sink for Counting {
        fn missing(&self, span: &Span) -> Vec<Range<u64>> {
            vec![span.range()]
        }
        fn write_at(&self, _: u32, _: u64, data: &[u8]) -> Result<(), Fault> {
            self.0[0].fetch_add(data.len() as u64, Ordering::Relaxed);
            Ok(())
        }
        fn read_at(&self, _: u32, _: u64, buf: &mut [u8]) -> Result<(), Fault> {
            buf.fill(0);
            Ok(())
        }
        fn commit(&self, _: u32, range: Range<u64>) {
            self.0[1].fetch_add(range.end - range.start, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_comes_after_the_end_is_dropped() {
        const PIECE: u64 = 16_384;
        const SIZE: u64 = 3 * PIECE;
        let torrent = Metainfo::single_file("http://127.0.0.1/announce", "a", SIZE, PIECE, vec![[0; 20]; 3]).unwrap();
        let file = FileMeta { path: RelPath::parse("a").unwrap(), size: SIZE, sha1: Sha1([0; 20]) };
        let span = Span { file: 0, offset: 0, len: SIZE };
        let layout = Arc::new(Layout::parse(&torrent.encode(), &[span], &[file]).unwrap());
        let sink = Arc::new(Counting::default());
        let receiving = Receiving::new(layout, sink.clone(), &[span]);
        let storage = Storage { shared: receiving.clone(), glance: false, alive: AtomicBool::new(true) };
        let lengths = librqbit_core::lengths::Lengths::new(SIZE, PIECE as u32).unwrap();
        let piece = |n| lengths.validate_piece_index(n).unwrap();
        let counted = || sink.0.each_ref().map(|n| n.load(Ordering::Relaxed));
        storage.pwrite_all(0, 0, &[1; 100]).unwrap();
        assert_eq!(counted(), [100, 0]);

        // librqbit hands it on while a peer still writes. A piece that was checked just before counts.
        let next = storage.take().unwrap();
        storage.pwrite_all(0, 0, &[1; 100]).unwrap();
        assert!(storage.pread_exact(0, 0, &mut [0; 100]).is_err(), "a piece could be checked");
        assert_eq!(counted(), [100, 0], "it reached the disk");
        storage.on_piece_completed(piece(0)).unwrap();
        assert_eq!(counted(), [100, PIECE]);
        next.pwrite_all(0, 0, &[1; 100]).unwrap();
        next.on_piece_completed(piece(1)).unwrap();
        assert_eq!(counted(), [200, 2 * PIECE]);

        receiving.close();
        next.pwrite_all(0, 0, &[1; 100]).unwrap();
        assert!(next.pread_exact(0, 0, &mut [0; 100]).is_err(), "a piece could be checked");
        assert!(next.on_piece_completed(piece(2)).is_err());
        assert_eq!(counted(), [200, 2 * PIECE], "it reached the disk");
        assert!(receiving.fault().is_none());
    }
}
