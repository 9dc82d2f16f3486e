//! A directory in place of a bucket: `obs://bucket/key` is `root/bucket/key`.
//!
//! Objects appear whole or not at all: they are copied into `root/.incoming`, verified, synced and renamed. Where the file
//! system can, the copy has no name until then, so that a kill leaves nothing. The copy is made here and not by opendal's
//! file service, because that neither verifies what it copies nor syncs the directory.
//! Nothing is written through a symlink below the root.

use super::location::{ObsLocation, Store};
use super::source::{SourceFile, Stamp, blocking, changed};
use super::{Entity, Opened, is_whole};
use crate::error::{Fault, io_fault};
use crate::model::span::Span;
use crate::transport::{FileMeta, LegContext};
use bytes::Bytes;
use futures::StreamExt as _;
use rustix::fs::{AtFlags, CWD};
use sha1::{Digest as _, Sha1};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes per read and write.
const BLOCK: u64 = 1 << 20;

/// The store cannot be read: its trouble, not this machine's, even if it is mounted here. Another method may have the file.
fn read_fault(path: &Path, e: &std::io::Error) -> Fault {
    Fault::transient(format!("object storage: cannot read {}: {e}", path.display()))
}

/// A bucket that is a directory.
#[derive(Clone)]
pub(super) struct Directory {
    root: PathBuf,
    bucket: String,
}

impl Directory {
    pub fn new(location: &ObsLocation) -> Result<Self, Fault> {
        match &location.store {
            Store::Directory { root } => Ok(Self { root: root.clone(), bucket: location.bucket.clone() }),
            _ => Err(Fault::permanent("object storage: the endpoint is not a directory")),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(&self.bucket).join(key)
    }

    /// Whether there is such a directory: a mount that is away leaves none, or an empty one that cannot be written.
    pub async fn probe(&self) -> Result<(), Fault> {
        let root = self.root.clone();
        blocking(move || fs::read_dir(&root).map(drop).map_err(|e| read_fault(&root, &e))).await
    }

    pub async fn stat(&self, key: &str) -> Result<Option<Entity>, Fault> {
        let path = self.path(key);
        blocking(move || match fs::symlink_metadata(&path) {
            Ok(m) if m.is_file() => Ok(Some(entity(&Stamp::of(&m)))),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(read_fault(&path, &e)),
        })
        .await
    }

    pub async fn open(&self, key: &str, wanted: &Entity, range: Range<u64>) -> Result<Opened, Fault> {
        let (path, wanted) = (self.path(key), wanted.clone());
        let file = blocking(move || {
            let file = File::open(&path).map_err(|e| read_fault(&path, &e))?;
            let now = file.metadata().map_err(|e| read_fault(&path, &e))?;
            Ok((entity(&Stamp::of(&now)) == wanted).then_some((Arc::new(file), path)))
        })
        .await?;
        let Some((file, path)) = file else { return Ok(Opened::Changed) };
        let blocks = futures::stream::try_unfold(range, move |left| {
            let (file, path) = (Arc::clone(&file), path.clone());
            async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let end = left.end.min(left.start + BLOCK);
                let start = left.start;
                let block = blocking(move || {
                    let mut block = vec![0; (end - start) as usize];
                    file.read_exact_at(&mut block, start).map_err(|e| read_fault(&path, &e))?;
                    Ok(Bytes::from(block))
                })
                .await?;
                Ok(Some((block, end..left.end)))
            }
        });
        Ok(Opened::Bytes(blocks.boxed()))
    }

    pub async fn delete(&self, key: &str) -> Result<(), Fault> {
        let path = self.path(key);
        blocking(move || match fs::remove_file(&path) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(io_fault("cannot delete", &path, &e))
            }
            _ => Ok(()),
        })
        .await
    }

    /// Copies the span into the store, unless it is there. `None`: stopped; the next run begins this object anew.
    pub async fn put(
        &self,
        key: &str,
        file: &FileMeta,
        span: &Span,
        source: &SourceFile,
        ctx: &LegContext,
    ) -> Result<Option<()>, Fault> {
        let there = match self.stat(key).await? {
            Some(entity) if entity.size == span.len => match self.equal(key, file, span, source, ctx).await? {
                Some(equal) => equal,
                None => return Ok(None),
            },
            _ => false,
        };
        if there {
            ctx.counters.add_done(span.len);
            return Ok(Some(()));
        }
        let (this, name) = (self.clone(), key.to_owned());
        let incoming = blocking(move || this.incoming(&name)).await?;
        let Some((incoming, digest)) = copy(incoming, span, source, ctx).await? else { return Ok(None) };
        source.check().await?;
        if is_whole(file, span) && digest != file.sha1.0 {
            return Err(changed(&file.path, "its SHA-1 differs"));
        }
        let (this, key) = (self.clone(), key.to_owned());
        blocking(move || this.place(incoming, &key)).await?;
        Ok(Some(()))
    }

    /// The object that is there has the right bytes: a whole file by its SHA-1, a part by comparison with the source.
    async fn equal(
        &self,
        key: &str,
        file: &FileMeta,
        span: &Span,
        source: &SourceFile,
        ctx: &LegContext,
    ) -> Result<Option<bool>, Fault> {
        let Some(entity) = self.stat(key).await? else { return Ok(Some(false)) };
        let Opened::Bytes(mut blocks) = self.open(key, &entity, 0..span.len).await? else { return Ok(Some(false)) };
        let (mut digest, mut at) = (Sha1::new(), span.offset);
        let whole = is_whole(file, span);
        while let Some(block) = blocks.next().await {
            if ctx.stop.is_cancelled() {
                return Ok(None);
            }
            let (block, from) = (block?, source.clone());
            let range = at..at + block.len() as u64;
            at = range.end;
            let same;
            (digest, same) = blocking(move || {
                digest.update(&block);
                Ok((digest, whole || from.read_block(range)? == block))
            })
            .await?;
            if !same {
                return Ok(Some(false));
            }
        }
        Ok(Some(!whole || digest.finalize().as_slice() == file.sha1.0))
    }

    /// Without a name where that is possible: what a power cut or a kill ends is gone, also when the object is never sent again.
    /// Else named by its object, so that the next try writes over it.
    fn incoming(&self, key: &str) -> Result<Incoming, Fault> {
        let dir = self.root.join(".incoming");
        make_dirs(&self.root, &dir)?;
        let path = dir.join(hex::encode(Sha1::digest(format!("{}/{key}", self.bucket))));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io_fault("cannot remove", &path, &e)),
            _ => {}
        }
        if let Ok(file) = File::options().write(true).custom_flags(libc::O_TMPFILE).open(&dir)
            && named_by(&file).symlink_metadata().is_ok()
        {
            return Ok(Incoming { file: Some(file), path, named: false });
        }
        let open = File::options().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = open.map_err(|e| io_fault("cannot create", &path, &e))?;
        Ok(Incoming { file: Some(file), path, named: true })
    }

    /// Syncs and renames: from here on the object exists, also after a power cut.
    fn place(&self, mut incoming: Incoming, key: &str) -> Result<(), Fault> {
        let to = self.path(key);
        let dir = to.parent().unwrap_or(&self.root).to_owned();
        make_dirs(&self.root, &dir)?;
        let bad = |e: std::io::Error| io_fault("cannot write", &to, &e);
        if let Some(file) = incoming.file.take() {
            file.sync_all().map_err(bad)?;
            if !incoming.named {
                let name = named_by(&file);
                rustix::fs::linkat(CWD, &name, CWD, &incoming.path, AtFlags::SYMLINK_FOLLOW).map_err(|e| bad(e.into()))?;
                incoming.named = true;
            }
        }
        fs::rename(&incoming.path, &to).map_err(bad)?;
        sync_dir(&dir)
    }
}

fn entity(stamp: &Stamp) -> Entity {
    Entity { size: stamp.size, etag: format!("{}-{}", stamp.size, stamp.mtime_ns), sha1: None, file_sha1: None }
}

/// By this a file without a name gets one.
fn named_by(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// An object that is being copied; removed unless it was placed.
struct Incoming {
    file: Option<File>,
    path: PathBuf,
    /// It lies at its path.
    named: bool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After the rename there is nothing of this name.
        _ = fs::remove_file(&self.path);
    }
}

async fn copy(
    mut incoming: Incoming,
    span: &Span,
    source: &SourceFile,
    ctx: &LegContext,
) -> Result<Option<(Incoming, [u8; 20])>, Fault> {
    let (mut digest, mut at) = (Sha1::new(), span.offset);
    while at < span.end() {
        if ctx.stop.is_cancelled() {
            return Ok(None);
        }
        let end = span.end().min(at + BLOCK);
        tokio::select! {
            () = ctx.limiter.take((end - at) as usize) => {}
            () = ctx.stop.cancelled() => return Ok(None),
        }
        let source = source.clone();
        let next = blocking(move || {
            let block = source.read_block(at..end)?;
            digest.update(&block);
            if let Some(file) = incoming.file.as_mut() {
                file.write_all(&block).map_err(|e| io_fault("cannot write", &incoming.path, &e))?;
            }
            Ok((incoming, digest))
        });
        (incoming, digest) = next.await?;
        ctx.counters.add_done(end - at);
        ctx.counters.add_wire(end - at);
        at = end;
    }
    Ok(Some((incoming, digest.finalize().into())))
}

/// Makes the directories from `root` down to `dir`; a symlink on the way is refused. The root itself may be one.
fn make_dirs(root: &Path, dir: &Path) -> Result<(), Fault> {
    fs::create_dir_all(root).map_err(|e| io_fault("cannot make", root, &e))?;
    let mut at = root.to_owned();
    for part in dir.strip_prefix(root).into_iter().flat_map(Path::components) {
        let above = at.clone();
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => sync_dir(&above)?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_fault("cannot make", &at, &e)),
        }
        let meta = fs::symlink_metadata(&at).map_err(|e| io_fault("cannot look at", &at, &e))?;
        if !meta.is_dir() {
            return Err(Fault::local(format!("{} is not a directory: the store takes nothing through links", at.display())));
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> Result<(), Fault> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_fault("cannot sync", dir, &e))
}
