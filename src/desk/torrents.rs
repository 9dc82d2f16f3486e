//! Torrents of tasks: what a task expects in one, and fetching it.

use super::Desk;
use crate::error::Fault;
use crate::model::span::{Method, Span};
use crate::model::task_file::TaskFile;
use crate::package::metainfo::Metainfo;
use crate::package::paths::{difference, span_name};
use futures::StreamExt as _;
use std::time::Duration;

/// A full torrent stays under 4 MiB; a foreign one may be somewhat larger.
const TORRENT_LIMIT: usize = 16 << 20;
/// The reply to `recv` waits for the torrent at most so long (protocol section 3.2).
const TORRENT_TIME: Duration = Duration::from_secs(10);

/// Which torrent a task's bt part uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorrentKind {
    /// The whole package (`n:0:0`), readable by old clients.
    Full,
    /// The bt part.
    Part,
}

/// The torrent that the ratio needs; `None` when bt has no part.
pub fn torrent_kind(task: &TaskFile) -> Option<TorrentKind> {
    if task.ratio.is_bt_only() {
        return Some(TorrentKind::Full);
    }
    bt_spans(task).next().map(|_| TorrentKind::Part)
}

fn bt_spans(task: &TaskFile) -> impl Iterator<Item = Span> + '_ {
    task.spans_by_method().into_iter().filter(|(_, m)| *m == Method::Bt).map(|(s, _)| s)
}

/// What the torrent must hold: names and bytes, in order.
pub fn expected_files(task: &TaskFile) -> Vec<(String, u64)> {
    bt_spans(task).filter_map(|s| task.files.get(s.file as usize).map(|f| (span_name(&f.path, f.size, &s), s.len))).collect()
}

/// Does the torrent hold what the task says? `None` is yes.
pub fn mismatch(task: &TaskFile, torrent: &[u8]) -> Option<String> {
    match Metainfo::parse(torrent) {
        Err(fault) => Some(fault.message),
        Ok(info) => difference(&info, &expected_files(task)),
    }
}

impl Desk {
    /// Fetches a torrent from the sender within the time of a reply.
    pub(super) async fn fetch_torrent(&self, url: &str) -> Result<Vec<u8>, Fault> {
        let work = async {
            let refused = |e: reqwest::Error| Fault::transient("the torrent cannot be fetched").detail(e.without_url());
            let reply = self.http.get(url).send().await.map_err(refused)?.error_for_status().map_err(refused)?;
            let mut body = reply.bytes_stream();
            let mut out = Vec::new();
            while let Some(part) = body.next().await {
                out.extend_from_slice(&part.map_err(refused)?);
                if out.len() > TORRENT_LIMIT {
                    return Err(Fault::permanent("the torrent is larger than 16 MiB"));
                }
            }
            Ok(out)
        };
        tokio::time::timeout(TORRENT_TIME, work)
            .await
            .unwrap_or_else(|_| Err(Fault::transient("the torrent did not arrive in time")))
    }
}
