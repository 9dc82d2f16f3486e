//! A package that was removed, and one whose disk is away, look the same where it was the only one of its store. While it
//! is there it is noted which directories it and its store are: inode and time of birth. When the store is that very
//! directory, and the package is not in it, the disk is there and the package was removed. An empty mount point is another
//! directory. Servers make up their numbers, so nothing is noted there, and the disk is asked for.

use crate::assembly::has_times_of_its_own;
use crate::clock::born_ns;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A directory, whatever its name and its disk are called. `None`: its file system does not say.
fn identity(dir: &File) -> Option<String> {
    let meta = dir.metadata().ok()?;
    // Of the root of some file systems it is 0.
    let born = born_ns(&meta).filter(|at| *at != 0)?;
    (!has_times_of_its_own(dir)).then(|| format!("{}@{born}", meta.ino()))
}

/// The store, opened, and the name of the package in it.
fn store_of(root: &Path) -> Option<(File, &std::ffi::OsStr)> {
    Some((File::open(root.parent()?).ok()?, root.file_name()?))
}

fn open_in(store: &File, name: &std::ffi::OsStr) -> Result<File, Errno> {
    openat(store, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

fn is_empty(dir: &File) -> bool {
    let names = Dir::read_from(dir).map(|entries| entries.flatten().map(|e| e.file_name().to_bytes().to_vec()).collect());
    names.is_ok_and(|names: Vec<Vec<u8>>| names.iter().all(|n| n == b"." || n == b".."))
}

/// What is noted of a package that is there: its directory, and the one that it lies in; nothing where that would not tell.
/// `None`: it is not there, or that cannot be seen. Blocking.
pub fn whereabouts(root: &Path) -> Option<String> {
    let (store, name) = store_of(root)?;
    let package = open_in(&store, name).ok()?;
    let on_one_disk = store.metadata().ok()?.dev() == package.metadata().ok()?.dev();
    if is_empty(&package) {
        return None;
    }
    let (package, within) = (identity(&package), identity(&store));
    let known = package.zip(within).filter(|_| on_one_disk);
    Some(known.map(|(package, within)| format!("{package} {within}")).unwrap_or_default())
}

/// The package, or all that was in it, is gone from where it was noted to be. Blocking.
pub fn was_removed(root: &Path, noted: &str) -> bool {
    let (Some((package, within)), Some((store, name))) = (noted.split_once(' '), store_of(root)) else { return false };
    match statat(&store, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => identity(&store).is_some_and(|id| id == within),
        Ok(_) => open_in(&store, name).is_ok_and(|dir| identity(&dir).is_some_and(|id| id == package) && is_empty(&dir)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, remove_dir_all, remove_file, rename, write};

    #[test]
    fn what_was_removed_is_told_from_another_directory_of_that_name() {
        let dir = tempfile::tempdir().unwrap();
        let (store, film) = (dir.path().join("dcps"), dir.path().join("dcps/film"));
        assert_eq!(whereabouts(&film), None, "not there");
        create_dir_all(&film).unwrap();
        assert_eq!(whereabouts(&film), None, "empty");
        write(film.join("a.mxf"), "a").unwrap();
        let noted = whereabouts(&film).expect("it is there");
        if noted.is_empty() {
            eprintln!("skipped: this file system does not tell when directories were made");
            return;
        };
        assert!(!was_removed(&film, &noted), "it is there");
        remove_file(film.join("a.mxf")).unwrap();
        assert!(was_removed(&film, &noted), "emptied");
        remove_dir_all(&film).unwrap();
        assert!(was_removed(&film, &noted));
        for odd in ["", " ", "1@2", "1@2 3@4"] {
            assert!(!was_removed(&film, odd), "{odd:?}");
        }
        create_dir_all(&film).unwrap();
        assert!(!was_removed(&film, &noted), "another one, like a mount point");
        remove_dir_all(&film).unwrap();
        std::os::unix::fs::symlink("/nowhere", &film).unwrap();
        assert!(!was_removed(&film, &noted), "a link");
        remove_file(&film).unwrap();
        // As when the disk goes: a directory of the same name, and none.
        let kept = dir.path().join("kept");
        rename(&store, &kept).unwrap();
        assert!(!was_removed(&film, &noted), "no store");
        create_dir_all(&store).unwrap();
        assert!(!was_removed(&film, &noted), "another store");
        remove_dir_all(&store).unwrap();
        rename(&kept, &store).unwrap();
        assert!(was_removed(&film, &noted), "the disk is back, the package is not");
    }
}
