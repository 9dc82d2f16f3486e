//! Where a sender keeps a package's torrents, and how the torrent of a part names its files.

use super::metainfo::Metainfo;
use crate::model::ids::{PackageName, RelPath};
use crate::model::span::Span;
use std::path::{Path, PathBuf};

/// `dcps/<name>.torrent`: the whole package.
pub fn full_torrent(dcps: &Path, name: &PackageName) -> PathBuf {
    dcps.join(format!("{name}.torrent"))
}

/// `dcps-tmp/<name>-tmp.torrent`: the part that goes over BitTorrent.
pub fn part_torrent(dcps_tmp: &Path, name: &PackageName) -> PathBuf {
    dcps_tmp.join(format!("{name}-tmp.torrent"))
}

/// A span's name in torrents and buckets: the file's path, with the position appended when it is not the whole file.
pub fn span_name(path: &RelPath, size: u64, span: &Span) -> String {
    if span.offset == 0 && span.len == size { path.to_string() } else { format!("{path}.span-{}-{}", span.offset, span.len) }
}

/// Does a torrent hold exactly these files, in this order? `None` is yes; else what differs, in words.
pub fn difference(torrent: &Metainfo, expected: &[(String, u64)]) -> Option<String> {
    if torrent.files().len() != expected.len() {
        return Some(format!("the torrent has {} files, the task lists {}", torrent.files().len(), expected.len()));
    }
    torrent
        .files()
        .iter()
        .zip(expected)
        .find(|((p, n), (q, m))| p.as_str() != q || n != m)
        .map(|((p, n), (q, m))| format!("the torrent has {p} of {n} bytes where the task lists {q} of {m} bytes"))
}
