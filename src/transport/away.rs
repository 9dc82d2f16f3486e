//! Disks that are away: not mounted, unplugged, a server that does not answer. What lies on them is not gone.

use crate::error::{Fault, io_fault, is_dead};
use std::io::{Error, ErrorKind};
use std::path::Path;

const CURE: &str = "It goes on by itself when it is there again";

/// Why files below `root` (a package, or the store of a package that is one file) cannot be read although nobody may have
/// removed them. `None`: the disk is there, as far as can be seen. Blocks.
pub fn why_away(root: &Path) -> Option<String> {
    let shown = root.display();
    let is_empty = |dir: &Path| std::fs::read_dir(dir).map(|mut entries| entries.next().is_none());
    match is_empty(root) {
        Ok(false) => None,
        Ok(true) => Some(format!("{shown} is empty: is its disk mounted? {CURE}")),
        Err(e) if is_dead(&e) => Some(format!("cannot read {shown}: {e}: is its disk mounted, and sound? {CURE}")),
        // A link to what is not there.
        Err(e) if e.kind() == ErrorKind::NotFound && root.is_symlink() => {
            Some(format!("{shown} is a link to what is not there: is its disk mounted? {CURE}"))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let store = root.parent()?;
            // The store of other packages was not cleared as a whole: this one was removed.
            let alone = is_empty(store).unwrap_or(true);
            alone
                .then(|| format!("{shown} is not there, and nothing else is in {}: is its disk mounted? {CURE}", store.display()))
        }
        Err(_) => None,
    }
}

/// The fault of a package file that cannot be read: transient, and no try, when its disk is away.
pub fn read_fault(what: &str, root: &Path, path: &Path, e: &Error) -> Fault {
    if is_dead(e) {
        return Fault::transient(format!("{what} {}: {e}: is its disk mounted, and sound? {CURE}", path.display())).away();
    }
    match (e.kind(), why_away(root)) {
        (ErrorKind::NotFound | ErrorKind::NotADirectory, Some(why)) => Fault::transient(why).away(),
        _ => io_fault(what, path, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_away_is_told_from_a_package_that_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("dcps");
        let film = store.join("film");
        assert!(why_away(&film).unwrap().contains("is its disk mounted?"), "its store is not there");
        std::fs::create_dir_all(&film).unwrap();
        assert!(why_away(&film).unwrap().contains("is empty"));
        std::fs::write(film.join("a.mxf"), "a").unwrap();
        assert_eq!(why_away(&film), None, "a file may be gone, the disk is there");
        std::fs::remove_dir_all(&film).unwrap();
        assert!(why_away(&film).unwrap().contains("nothing else is in"), "an empty mount point");
        std::fs::create_dir(store.join("other")).unwrap();
        assert_eq!(why_away(&film), None, "this one was removed");
        std::os::unix::fs::symlink("/nowhere/at/all", &film).unwrap();
        assert!(why_away(&film).unwrap().contains("a link to what is not there"));
    }

    #[test]
    fn dead_disks_are_waited_for() {
        let fault = |n| read_fault("cannot seed", Path::new("/"), Path::new("/f"), &Error::from_raw_os_error(n));
        for n in [libc::EIO, libc::ENOTCONN, libc::ESTALE, libc::ENODEV] {
            assert!(fault(n).away && fault(n).is_transient() && fault(n).message.contains("is its disk mounted"), "{}", fault(n));
        }
        assert!(!fault(libc::EACCES).away && !fault(libc::ENOENT).away);
    }
}
