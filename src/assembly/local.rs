//! Files that the library has already: reflinked where the file system can, else copied; hashed here either way.

use super::{Assembly, lock, staging};
use crate::error::{Fault, io_fault};
use crate::transport::Sink as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

impl Assembly {
    /// Files that are to come from the library and are not complete: number and source.
    pub fn local_pending(&self) -> Vec<u32> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, s)| lock(&s.local_source).is_some() && !lock(&s.state).have.contains(&(0..s.size)))
            .map(|(n, _)| n)
            .collect()
    }

    /// Brings one file from the library. Its digest decides later whether the source was what the table said; a source
    /// that is gone or has another size is an error at once. Blocking.
    pub fn copy_local(&self, file: u32, stop: &CancellationToken) -> Result<(), Fault> {
        let slot = self.slot(file)?;
        let Some(source) = &lock(&slot.local_source).clone() else { return Ok(()) };
        let refused = |e: &std::io::Error| Fault::corrupt(format!("cannot copy {}: {e}", source.display())).file(&slot.path);
        let mut from = File::open(source).map_err(|e| refused(&e))?;
        let meta = from.metadata().map_err(|e| refused(&e))?;
        if !meta.is_file() || meta.len() != slot.size {
            return Err(Fault::corrupt(format!("{} is not what the library says: {} bytes", source.display(), meta.len()))
                .file(&slot.path));
        }
        if !self.reflink(file, source)? {
            let mut buffer = vec![0u8; 1 << 20];
            let mut at = 0;
            while at < slot.size {
                if stop.is_cancelled() {
                    return Ok(()); // not committed: copied anew when the task goes on
                }
                let n = from.read(&mut buffer).map_err(|e| refused(&e))?;
                if n == 0 {
                    return Err(
                        Fault::corrupt(format!("{} became shorter while it was copied", source.display())).file(&slot.path)
                    );
                }
                let n = n.min(usize::try_from(slot.size - at).unwrap_or(n));
                self.write_at(file, at, &buffer[..n])?;
                at += n as u64;
            }
        }
        self.commit(file, 0..slot.size);
        Ok(())
    }

    /// The library cannot bring this file: a method does. Returns the library file that was to be copied.
    pub fn forget_source(&self, file: u32) -> Option<PathBuf> {
        self.slots.get(file as usize).and_then(|slot| lock(&slot.local_source).take())
    }

    /// Shares the source's blocks if nothing was written yet and the file system can. `false`: copy instead.
    fn reflink(&self, file: u32, source: &Path) -> Result<bool, Fault> {
        let slot = self.slot(file)?;
        if !lock(&slot.state).have.is_empty() || slot.size == 0 {
            return Ok(false);
        }
        let mut open = lock(&slot.file);
        let target = slot.path.under(&self.root);
        open.take();
        match std::fs::remove_file(&target) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_fault("cannot replace", &target, &e)),
            _ => {}
        }
        if reflink_copy::reflink(source, &target).is_err() {
            return Ok(false);
        }
        staging::open(&self.root, &slot.path, slot.size, slot.wanted)?;
        Ok(true)
    }
}
