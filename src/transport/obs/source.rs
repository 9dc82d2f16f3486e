//! A package file as the source of an upload: opened once, read at offsets, never written to, watched for changes.

use crate::error::Fault;
use crate::model::ids::RelPath;
use crate::transport::away::read_fault;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a change of the file would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    pub mtime_ns: i64,
    inode: (u64, u64),
}

impl Stamp {
    pub fn of(m: &Metadata) -> Self {
        Self { size: m.len(), mtime_ns: crate::clock::mtime_ns(m), inode: (m.dev(), m.ino()) }
    }
}

/// A package file that is being uploaded.
#[derive(Clone)]
pub(super) struct SourceFile {
    file: Arc<File>,
    path: PathBuf,
    name: RelPath,
    pub stamp: Stamp,
}

impl SourceFile {
    /// Opens the file below `root`; it must have the size that the task says.
    pub async fn open(root: &Path, name: &RelPath, size: u64) -> Result<Self, Fault> {
        let (path, name, root) = (name.under(root), name.clone(), root.to_owned());
        blocking(move || {
            let bad = |e: std::io::Error| read_fault("cannot read", &root, &path, &e).file(&name);
            let file = File::open(&path).map_err(bad)?;
            let meta = file.metadata().map_err(bad)?;
            if !meta.is_file() {
                return Err(Fault::permanent(format!("{name} is not a file")).file(&name));
            }
            if meta.len() != size {
                return Err(changed(&name, &format!("it has {} bytes instead of {size}", meta.len())));
            }
            Ok(Self { file: Arc::new(file), stamp: Stamp::of(&meta), path, name })
        })
        .await
    }

    /// A fault when the file is no longer the one that was opened.
    pub async fn check(&self) -> Result<(), Fault> {
        let this = self.clone();
        blocking(move || {
            let held = this.file.metadata().map(|m| Stamp::of(&m)).ok();
            let named = std::fs::metadata(&this.path).map(|m| Stamp::of(&m)).ok();
            if held == Some(this.stamp) && named == held {
                return Ok(());
            }
            Err(changed(&this.name, "it was written to or replaced"))
        })
        .await
    }

    pub fn read_block(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        let mut block = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0)];
        match self.file.read_exact_at(&mut block, range.start) {
            Ok(()) => Ok(block.into()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(changed(&self.name, "it became shorter")),
            Err(e) => Err(read_fault("cannot read", &self.path, &self.path, &e).file(&self.name)),
        }
    }

    /// The MD5 of a part, in hex, as a store gives it back.
    pub async fn md5(&self, range: Range<u64>) -> Result<String, Fault> {
        let this = self.clone();
        blocking(move || {
            let mut md5 = Md5::new();
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at + BLOCK);
                md5.update(this.read_block(at..end)?);
                at = end;
            }
            Ok(hex::encode(md5.finalize()))
        })
        .await
    }
}

/// Bytes read at a time: large enough that the hop to a blocking thread does not count.
pub(super) const BLOCK: u64 = 256 << 10;

/// The package is not what the task describes any more.
pub(super) fn changed(name: &RelPath, how: &str) -> Fault {
    Fault::permanent(format!("{name} changed after the task was made ({how}): make the task again")).file(name)
}

/// File work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Fault::local("reading or writing a file ended unexpectedly").detail(e)))
}
