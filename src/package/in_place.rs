//! A package that lies already where it is to be received: nothing has to be copied or replaced, only read.

use super::digest::Sha1State;
use super::scan::{ScannedFile, scan};
use crate::error::{Fault, io_fault};
use crate::model::ids::{RelPath, Sha1};
use rustix::fs::{Advice, CWD, Mode, OFlags};
use std::fs::File;
use std::io::Read as _;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Bytes per read.
const BLOCK: usize = 1 << 20;
/// After so many bytes those behind us leave the page cache.
const BEHIND: u64 = 8 << 20;

/// Where a file of the package belongs. `single`: the package is one file.
pub fn place_of(target: &Path, single: bool, path: &RelPath) -> PathBuf {
    if single { target.to_owned() } else { path.under(target) }
}

/// Is there a plain file of this size? Blocks.
pub fn has_size(path: &Path, size: u64) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == size)
}

/// Is every file to be copied to where it lies? `files`: path, size and source. With `exact`, nothing else may lie there:
/// what a newer version does not have has to go. Blocks.
pub fn lies_in_place<'a>(
    target: &Path,
    single: bool,
    exact: bool,
    files: impl Iterator<Item = (&'a RelPath, u64, Option<&'a Path>)>,
) -> bool {
    let mut count = 0;
    for (path, size, source) in files {
        let place = place_of(target, single, path);
        let there = match source {
            Some(source) => source == place,
            None => size == 0 && has_size(&place, 0),
        };
        if !there {
            return false;
        }
        count += 1;
    }
    count > 0 && (single || !exact || scan(target).is_ok_and(|s| s.files.len() == count))
}

/// Reads the package and says which files (by number) are not what they should be, and why. `None`: stopped. Blocks for as
/// long as it takes.
pub fn verify_in_place(
    target: &Path,
    single: bool,
    files: &[(RelPath, u64, Sha1)],
    stop: &CancellationToken,
) -> Option<Vec<(u32, Fault)>> {
    let mut wrong = Vec::new();
    let mut buffer = vec![0; BLOCK];
    for (n, (path, size, sha1)) in (0u32..).zip(files) {
        let place = place_of(target, single, path);
        match hash(&place, path, *size, &mut buffer, stop) {
            Ok(None) => return None,
            Ok(Some(found)) if found == *sha1 => {}
            Ok(Some(_)) => wrong.push((n, Fault::corrupt(format!("wrong SHA-1 in {}", place.display())).file(path))),
            Err(fault) => wrong.push((n, Fault::corrupt(fault.message).file(path))),
        }
    }
    Some(wrong)
}

fn hash(place: &Path, path: &RelPath, size: u64, buffer: &mut [u8], stop: &CancellationToken) -> Result<Option<Sha1>, Fault> {
    let refused = |e: std::io::Error| io_fault("cannot read", place, &e);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(CWD, place, flags, Mode::empty()).map_err(|e| refused(e.into()))?);
    let before = file.metadata().map_err(refused)?;
    if !before.is_file() || before.len() != size {
        return Err(Fault::local(format!("{} is not a plain file of {size} bytes", place.display())));
    }
    let stamp = ScannedFile::new(path.clone(), &before);
    let (mut state, mut dropped) = (Sha1State::new(), 0);
    loop {
        if stop.is_cancelled() {
            return Ok(None);
        }
        match file.read(buffer).map_err(refused)? {
            0 => break,
            n => state.update(&buffer[..n]),
        }
        // A package would push everything else out of the page cache.
        if state.len() >= dropped + BEHIND {
            let _ = rustix::fs::fadvise(&file, dropped, NonZeroU64::new(state.len() - dropped), Advice::DontNeed);
            dropped = state.len();
        }
    }
    if state.len() != size || !place.symlink_metadata().is_ok_and(|m| stamp.is_still(&m)) {
        return Err(Fault::local(format!("{} changed while it was read", place.display())));
    }
    Ok(Some(state.finish()))
}
