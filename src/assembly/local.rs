//! Files that this node has already: cloned where the file system can, else copied, and hashed on the way.
//!
//! **A clone** (`FICLONE`) costs neither room nor time. Its bytes are read once afterwards, so that what is verified is what
//! is staged. Else **read, hash, write**: one pass. `copy_file_range` is left to servers (NFS, SMB, Ceph), which copy by
//! themselves and save the bytes two ways over the network. On a disk it saves nothing, because a copy that did not pass
//! through here has to be read to be hashed: measured on ext4, both ways bring 1.0 GB/s of the 1.6 that SHA-1 allows. Blocks
//! of 128 KiB stay in the processor's cache: with 1 MiB the same pass was half as fast.
//!
//! While a file is copied the digest is the copy's: the digester keeps away from it. Ranges and digest are recorded by the
//! same [`Assembly::sync`] as everything else, so a copy that was cut off goes on where it stood.

use super::{Assembly, Slot, Verdict, lock, staging, vanished};
use crate::error::Fault;
use crate::package::digest::Sha1State;
use crate::transport::Sink as _;
use rustix::fs::{Advice, CWD, Mode, OFlags};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Bytes at a time; see the module's text.
const BLOCK: usize = 128 << 10;
/// Bytes that a server is asked to copy at a time.
const SERVED: u64 = 16 << 20;
/// After so many bytes those behind us leave the page cache: a copied package would push out everything else.
const BEHIND: u64 = 8 << 20;

/// How a copy ended, errors aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    Verified,
    /// The stop token fired. What was copied stays.
    Stopped,
    /// The SHA-1 is wrong, and bytes that were there before may be why: after a reset the source deserves another try.
    Mixed,
}

/// How bytes get from the source into the staged file, at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A clone; else what the file system allows.
    Clone,
    /// The file server copies.
    Served,
    /// Read, hash, write.
    Through,
}

impl Assembly {
    /// Files that are to be copied on this node and are not complete.
    pub fn local_pending(&self) -> Vec<u32> {
        let pending = |s: &Slot| lock(&s.local_source).is_some() && lock(&s.state).verdict == Verdict::Open;
        (0u32..).zip(&self.slots).filter(|(_, s)| pending(s)).map(|(n, _)| n).collect()
    }

    pub fn local_source(&self, file: u32) -> Option<PathBuf> {
        self.slots.get(file as usize).and_then(|slot| lock(&slot.local_source).clone())
    }

    /// A file is to be copied from here, whoever was to bring it before.
    pub fn set_source(&self, file: u32, source: PathBuf) {
        if let Some(slot) = self.slots.get(file as usize) {
            *lock(&slot.local_source) = Some(source);
        }
    }

    /// The node cannot bring this file: a method does. Returns the file that was to be copied.
    pub fn forget_source(&self, file: u32) -> Option<PathBuf> {
        self.slots.get(file as usize).and_then(|slot| lock(&slot.local_source).take())
    }

    /// [`Assembly::copy_local`] with what has to follow it: bytes of a bad source are forgotten, and what may have suffered
    /// from earlier bytes is copied anew.
    pub async fn copy(self: &Arc<Self>, file: u32, source: &Path, stop: &CancellationToken) -> Result<Copied, Fault> {
        loop {
            let (this, path, token) = (Arc::clone(self), source.to_owned(), stop.clone());
            let copied = tokio::task::spawn_blocking(move || this.copy_local(file, &path, &token))
                .await
                .unwrap_or_else(|e| Err(Fault::local(format!("copying: {e}"))));
            let slot = self.slot(file)?;
            if lock(&slot.state).copying {
                self.reset(file, std::slice::from_ref(&(0..slot.size))).await?;
            }
            if !matches!(copied, Ok(Copied::Mixed)) {
                return copied;
            }
        }
    }

    /// Brings one file from a copy of it on this node, verified. Blocking. A source that is gone, unreadable or not what it
    /// should be is a fault of class [`Corrupt`](crate::error::FaultClass::Corrupt); after it, as after [`Copied::Mixed`],
    /// the file must be [reset](Assembly::reset) before anything else is done with it: [`Assembly::copy`] does that.
    pub fn copy_local(&self, file: u32, source: &Path, stop: &CancellationToken) -> Result<Copied, Fault> {
        self.copy_by(file, source, Way::Clone, stop)
    }

    /// [`Assembly::copy_local`] without better ways than the given one.
    pub fn copy_by(&self, file: u32, source: &Path, way: Way, stop: &CancellationToken) -> Result<Copied, Fault> {
        let slot = self.slot(file)?;
        let mut from = Source::open(slot, source)?;
        let (before, epoch) = {
            let mut state = lock(&slot.state);
            if state.verdict == Verdict::Verified {
                return Ok(Copied::Verified);
            }
            state.copying = true;
            state.epoch += 1; // what the digester is at now does not count
            (!state.have.is_empty(), state.epoch)
        };
        let cloned = if way == Way::Clone { self.clone_file(slot, &from) } else { Ok(false) };
        let copied = cloned.and_then(|cloned| {
            from.served = way == Way::Served || (way == Way::Clone && !cloned && is_served(&from.file));
            self.copy_and_hash(file, slot, &from, stop)
        });
        let right = match copied {
            Ok(Some(digest)) => digest.finish() == slot.sha1,
            Ok(None) | Err(Fault { class: crate::error::FaultClass::Local | crate::error::FaultClass::Transient, .. }) => {
                lock(&slot.state).copying = false;
                self.follow(file as usize);
                return copied.map(|_| Copied::Stopped);
            }
            Err(fault) => return Err(fault),
        };
        if !right && before {
            return Ok(Copied::Mixed);
        }
        if !right {
            return Err(Fault::corrupt(format!("wrong SHA-1 in {}", source.display())).file(&slot.path));
        }
        self.settle(file, epoch)?;
        {
            let mut state = lock(&slot.state);
            state.copying = false;
            state.dirty = true;
            if state.epoch != epoch {
                // Others wrote into it: what is there now is hashed by the next run.
                state.digest = Sha1State::default();
                return Ok(Copied::Stopped);
            }
            state.verdict = Verdict::Verified;
            state.doubted = false;
        }
        self.news.notify_one();
        Ok(Copied::Verified)
    }

    /// Follows the file from where its digest stands: what is staged is read back, what is missing is copied.
    fn copy_and_hash(&self, file: u32, slot: &Slot, from: &Source, stop: &CancellationToken) -> Result<Option<Sha1State>, Fault> {
        let mut buffer = vec![0u8; BLOCK];
        let (mut served, mut dropped) = (from.served, 0);
        let mut digest = lock(&slot.state).digest.clone();
        while digest.len() < slot.size {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let at = digest.len();
            let (there, next) = {
                let state = lock(&slot.state);
                let next = state.have.missing(&(at..slot.size)).first().map_or(at, |gap| gap.end);
                (state.have.contiguous_end(at), next)
            };
            if there > at {
                let part = &mut buffer[..usize::try_from(there - at).unwrap_or(BLOCK).min(BLOCK)];
                self.read_at(file, at, part)?;
                digest.update(part);
                let mut state = lock(&slot.state);
                state.digest = digest.clone();
                state.dirty = true;
            } else if served {
                served = self.let_serve(file, slot, from, at..next.min(at + SERVED))?;
            } else {
                let part = &mut buffer[..usize::try_from(next - at).unwrap_or(BLOCK).min(BLOCK)];
                from.file.read_exact_at(part, at).map_err(|e| from.refused(slot, &e))?;
                let mut further = digest.clone();
                further.update(part);
                if self.put(file, slot, at, part, &further)? {
                    digest = further;
                }
            }
            if at >= dropped + BEHIND {
                from.drop_behind(dropped, at);
                dropped = at;
            }
        }
        from.drop_behind(dropped, slot.size);
        Ok(Some(digest))
    }

    /// Writes bytes that nobody has brought, and counts them in the same step. `false`: somebody was faster.
    fn put(&self, file: u32, slot: &Slot, at: u64, part: &[u8], digest: &Sha1State) -> Result<bool, Fault> {
        let range = at..at + part.len() as u64;
        {
            let _gate = lock(&slot.gate);
            let target = self.open_whole(file, slot)?;
            if lock(&slot.state).have.covered(&range) > 0 {
                return Ok(false);
            }
            let wrote = target.write_all_at(part, at);
            slot.mark_again(&target);
            wrote.map_err(|e| staging::write_fault(&self.root, &slot.path, &e))?;
            let mut state = lock(&slot.state);
            state.have.insert(range);
            state.digest = digest.clone();
            state.dirty = true;
        }
        self.count(part.len() as u64);
        Ok(true)
    }

    /// Opens a file to write into it.
    fn open_whole(&self, file: u32, slot: &Slot) -> Result<Arc<File>, Fault> {
        let target = self.open_file(file)?;
        if self.is_uncut(file, slot, &target)? {
            return Ok(target);
        }
        Err(vanished::fault(&slot.path.under(&self.root)).file(&slot.path))
    }

    /// Has the file server copy a range. `false`: it cannot.
    fn let_serve(&self, file: u32, slot: &Slot, from: &Source, range: std::ops::Range<u64>) -> Result<bool, Fault> {
        let _gate = lock(&slot.gate);
        let target = self.open_whole(file, slot)?;
        if lock(&slot.state).have.covered(&range) > 0 {
            return Ok(true); // somebody was faster with a part of it
        }
        let (mut source_at, mut target_at) = (range.start, range.start);
        let len = usize::try_from(range.end - range.start).unwrap_or(BLOCK);
        match rustix::fs::copy_file_range(&from.file, Some(&mut source_at), &*target, Some(&mut target_at), len) {
            Ok(n) if n > 0 => {
                slot.mark_again(&target);
                let mut state = lock(&slot.state);
                state.have.insert(range.start..range.start + n as u64);
                state.dirty = true;
                drop(state);
                self.count(n as u64);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Shares the source's blocks, if nothing was written yet and the file system can.
    fn clone_file(&self, slot: &Slot, from: &Source) -> Result<bool, Fault> {
        let _gate = lock(&slot.gate);
        let untouched = slot.path.under(&self.root).symlink_metadata().map_or(true, |m| m.blocks() == 0);
        if slot.size == 0 || !untouched || !lock(&slot.state).have.is_empty() {
            return Ok(false);
        }
        // Without its blocks: on a full disk there is room for a clone all the same.
        let mut open = lock(&slot.file);
        let Some((target, identity)) = staging::open(&self.root, &self.aside, &slot.path, (slot.size, 0), None)? else {
            return Ok(false);
        };
        if let Err(e) = rustix::fs::ioctl_ficlone(&target, &from.file) {
            tracing::trace!(file = %slot.path, error = %e, "no clone");
            // The next who opens it reserves its blocks.
            target.set_len(0).map_err(|e| staging::write_fault(&self.root, &slot.path, &e))?;
            open.take();
            *lock(&slot.identity) = None;
            return Ok(false);
        }
        *lock(&slot.identity) = Some(identity);
        slot.take_mark(None);
        if !self.served {
            slot.mark_first(&target);
        }
        drop(open);
        let mut state = lock(&slot.state);
        state.have.insert(0..slot.size);
        state.dirty = true;
        drop(state);
        self.count(slot.size);
        Ok(true)
    }
}

/// A file that is copied from.
struct Source<'a> {
    path: &'a Path,
    file: File,
    /// A file server copies it.
    served: bool,
}

impl<'a> Source<'a> {
    fn open(slot: &Slot, path: &'a Path) -> Result<Self, Fault> {
        // A pipe must not hold us up, and a link is not the file that was hashed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let refused = |e: io::Error| Fault::corrupt(format!("cannot copy {}: {e}", path.display())).file(&slot.path);
        let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| refused(e.into()))?);
        let meta = file.metadata().map_err(refused)?;
        if !meta.is_file() || meta.len() != slot.size {
            let what = if meta.is_file() { format!("it has {} bytes", meta.len()) } else { "it is not a plain file".into() };
            return Err(Fault::corrupt(format!("{} is not what was hashed: {what}", path.display())).file(&slot.path));
        }
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { path, file, served: false })
    }

    fn refused(&self, slot: &Slot, e: &io::Error) -> Fault {
        let path = self.path.display();
        let text = match e.kind() {
            io::ErrorKind::UnexpectedEof => format!("{path} became shorter while it was copied"),
            _ => format!("cannot copy {path}: {e}"),
        };
        Fault::corrupt(text).file(&slot.path)
    }

    fn drop_behind(&self, from: u64, to: u64) {
        let _ = rustix::fs::fadvise(&self.file, from, NonZeroU64::new(to.saturating_sub(from)), Advice::DontNeed);
    }
}

const SERVERS: [u32; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400]; // NFS, CIFS, SMB2, Ceph

/// Is it on a file server? Such a one may copy by itself.
fn is_served(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|fs| SERVERS.contains(&(fs.f_type as u32)))
}

/// Does it set the times and blocks of files by itself, perhaps long after we wrote? Then they do not tell who wrote.
pub fn has_times_of_its_own(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|fs| sets_times(fs.f_type as u32))
}

fn sets_times(kind: u32) -> bool {
    // FUSE (virtiofs, sshfs, object stores), 9p, the older SMB, Lustre, GPFS, AFS, shared folders of VirtualBox.
    const OTHERS: [u32; 7] = [0x6573_5546, 0x0102_1997, 0x517b, 0x0bd0_0bd0, 0x4750_4653, 0x5346_414f, 0x786f_4256];
    SERVERS.contains(&kind) || OTHERS.contains(&kind)
}

#[cfg(test)]
mod tests {
    #[test]
    fn disks_tell_who_wrote_and_servers_do_not() {
        // ext4, XFS, btrfs, tmpfs, overlay, ZFS; NFS, SMB2, Ceph, FUSE.
        for disk in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert!(!super::sets_times(disk), "{disk:x}");
        }
        for server in [0x6969, 0xfe53_4d42, 0x00c3_6400, 0x6573_5546] {
            assert!(super::sets_times(server), "{server:x}");
        }
    }
}
