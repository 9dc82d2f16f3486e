//! How long the pieces of a package's torrent are.

use crate::model::ids::RelPath;

/// The engine's picker slows down with the number of queued pieces, and beyond 131,968 it cannot seed at all.
pub const MAX_PIECES: u64 = 100_000;
/// ctorrent refuses a .torrent of 4 MiB and more.
pub const MAX_TORRENT_BYTES: u64 = (4 << 20) - 1;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Packages up to this many bytes get pieces of this length. Small pieces let a swarm of cinemas share early, and little is
/// lost with those that a stop or a power cut leaves unfinished, one for each peer; large ones keep the torrent and the
/// picker small (beyond 65,536 pieces it is felt). 16 MiB is the largest that old clients were seen to take.
const STEPS: [(u64, u64); 6] = [
    (256 * MIB, 256 * KIB),
    (512 * MIB, 512 * KIB),
    (8 * GIB, MIB),
    (64 * GIB - 1, 2 * MIB),
    (256 * GIB - 1, 4 * MIB),
    (512 * GIB - 1, 8 * MIB),
];
const LARGEST: u64 = 16 * MIB;

/// The piece length for a package of `total` bytes with these files: a power of two of at least 256 KiB, never more
/// than [`MAX_PIECES`], and a .torrent within [`MAX_TORRENT_BYTES`] unless the paths alone are longer than that.
pub fn piece_length_for<'a>(total: u64, paths: impl IntoIterator<Item = &'a RelPath>) -> u64 {
    let names: u64 = paths.into_iter().map(file_entry_bytes).sum();
    let mut length = STEPS.iter().find(|(up_to, _)| total <= *up_to).map_or(LARGEST, |s| s.1);
    // Announce URL, package name, keys.
    let fixed = 1024 + names;
    while length < LARGEST && total.div_ceil(length) * 20 + fixed > MAX_TORRENT_BYTES {
        length *= 2;
    }
    while total.div_ceil(length) > MAX_PIECES {
        length *= 2;
    }
    length
}

/// `d6:lengthi<size>e4:pathl<n>:<part>...ee`, counted generously.
fn file_entry_bytes(path: &RelPath) -> u64 {
    path.parts().map(|p| p.len() as u64 + 5).sum::<u64>() + 44
}
