//! Packages and directory trees.

use bft2::package::sample::{PackageSummary, SampleOptions, make};
use sha1::{Digest as _, Sha1};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

/// Relative path → length and SHA-1.
pub type Tree = BTreeMap<String, (u64, String)>;

/// A package with the same bytes for the same arguments.
pub fn make_package(store: &Path, name: &str, size: u64, reels: u32) -> PackageSummary {
    let options = SampleOptions { name: Some(name.into()), size: Some(size), reels, seed: size, ..SampleOptions::default() };
    make(store, &options, &mut |_| {}).expect("a package").packages.remove(0)
}

/// Every file below a directory.
pub fn tree(dir: &Path) -> Tree {
    try_tree(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

/// The same, while somebody else is at work there: files may go between two looks.
pub fn try_tree(dir: &Path) -> std::io::Result<Tree> {
    let mut out = Tree::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let bytes = std::fs::read(&path)?;
            let name = path.strip_prefix(dir).expect("below").to_string_lossy().into_owned();
            out.insert(name, (bytes.len() as u64, hex::encode(Sha1::digest(&bytes))));
        }
    }
    Ok(out)
}

/// What must never change about masters: path, length, modification time, inode.
pub fn stamps(dir: &Path) -> Vec<(String, u64, i64, i64, u64)> {
    let names = tree(dir).into_keys();
    names
        .map(|name| {
            let m = std::fs::metadata(dir.join(&name)).expect("metadata");
            (name, m.len(), m.mtime(), m.mtime_nsec(), m.ino())
        })
        .collect()
}

/// Changes one byte in place.
pub fn flip_byte(path: &Path, at: u64) {
    let file =
        std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("write");
}

pub fn copy_tree(from: &Path, to: &Path) {
    for name in tree(from).into_keys() {
        let target = to.join(&name);
        std::fs::create_dir_all(target.parent().expect("parent")).expect("directory");
        std::fs::copy(from.join(&name), target).expect("copy");
    }
}
