//! One process per database: two that do the work of the same rows would undo each other's.

use crate::error::{Fault, io_fault};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Held until it is dropped; the kernel lets go of it with the process, however that ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held")] File);

impl Lock {
    /// Takes the lock file `at` for `what`, which is named in the refusal. A file system that knows no locks is used without.
    pub fn take(at: &Path, what: &str) -> Result<Self, Fault> {
        if let Some(dir) = at.parent() {
            std::fs::create_dir_all(dir).map_err(|e| io_fault("cannot create the directory", dir, &e))?;
        }
        let open = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(at);
        let mut file = open.map_err(|e| io_fault("cannot open the lock", at, &e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // For the text below; nobody needs it to be right.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Self(file))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut holder);
                Err(Fault::local(format!(
                    "{what} is in use by another bftv2 (process {}): stop that one first, or give this node its own",
                    holder.trim()
                )))
            }
            Err(e) => {
                tracing::warn!(error = %e, lock = %at.display(), "this file system has no locks: see to it that one process uses it");
                Ok(Self(file))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("new/db.lock");
        let first = Lock::take(&at, "the database x").unwrap();
        let refused = Lock::take(&at, "the database x").unwrap_err();
        assert!(refused.message.starts_with("the database x is in use by another bftv2 (process "), "{refused}");
        assert!(refused.message.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Lock::take(&at, "the database x").unwrap();
    }
}
