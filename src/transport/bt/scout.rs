//! The scout: pieces are fetched in an order of our own.
//!
//! librqbit fetches from the front, so all members of a swarm would hold the same pieces and all ask the centre for the
//! next one. It has no rarest-first, but a stream that reads makes it want the pieces from there on first. The scout is
//! such a stream. It starts at a random place and walks on, a byte of each piece; so every member asks the centre for a
//! stretch of its own, and finds the rest with the others. When it comes to pieces that somebody else has brought, it lands
//! anew, in the rear half of a gap: in front, where the gap begins, somebody walks already.
//!
//! **No leaps.** Members that choose every piece at random choose one of those that are under way to others as often as
//! these are of what is missing, and those are many: librqbit looks only every five seconds at what its peers have got.

use super::POLL;
use super::layout::Layout;
use crate::transport::Sink;
use librqbit::ManagedTorrent;
use rand::Rng;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::Semaphore;

/// A place that nobody serves is given up after so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// A walk ends after so many steps, so that every fetch has its turn when there are more of them than streams.
const STEPS: usize = 64;

/// What a scout knows.
pub(super) struct Scout {
    pub handle: Arc<ManagedTorrent>,
    pub streams: Arc<Semaphore>,
    pub layout: Arc<Layout>,
    pub sink: Arc<dyn Sink>,
    /// The torrent files that are fetched, in their order.
    pub files: Vec<usize>,
    /// Bytes in front of it that may be there by its own doing: asked for while it waited.
    pub lead: u64,
}

impl Scout {
    /// Walks until it is aborted.
    pub async fn walk(self) {
        let mut first = true;
        loop {
            let Some(at) = landing(&self.gaps(), first, &mut rand::rng()) else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            first = false;
            let Ok(_permit) = self.streams.acquire().await else { return };
            if let Err(e) = self.follow(at).await {
                tracing::debug!(error = format!("{e:#}"), "asking for a piece out of order");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // A sink that is slow to count what was committed must not make this spin.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn follow(&self, from: u64) -> anyhow::Result<()> {
        let mut at = Some(from);
        let mut stream = None;
        for _ in 0..STEPS {
            let Some((file, offset)) = at.and_then(|at| self.layout.file_at(at)) else { break };
            let (_, open) = match stream.take().filter(|(n, _)| *n == file) {
                Some(open) => stream.insert(open),
                None => stream.insert((file, self.handle.clone().stream(file).await?)),
            };
            open.seek(std::io::SeekFrom::Start(offset)).await?;
            match tokio::time::timeout(PATIENCE, open.read_exact(&mut [0u8; 1])).await {
                Ok(read) => read?,
                Err(_) => break,
            };
            at = at.and_then(|at| self.next(at));
        }
        Ok(())
    }

    /// Where it goes on: `None` when others have been there, or at the end.
    fn next(&self, at: u64) -> Option<u64> {
        let end = self.layout.piece_end(at)?;
        let within = end..end.saturating_add(self.lead);
        self.files
            .iter()
            .find_map(|f| self.missing(*f, &within).find(|r| r.start < within.end && r.end > end))
            .map(|r| r.start.max(end))
    }

    /// What a torrent file lacks of a part of the torrent's line.
    fn missing(&self, file: usize, within: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let line = self.layout.line(file).filter(|l| l.start < within.end && within.start < l.end);
        let found = line.and_then(|l| {
            let (from, to) = (l.start.max(within.start), l.end.min(within.end));
            let span = self.layout.locate(file, from - l.start, to - from)?;
            Some(self.sink.missing(&span).into_iter().map(move |r| {
                let shift = |n: u64| from + n.saturating_sub(span.offset);
                shift(r.start)..shift(r.end)
            }))
        });
        found.into_iter().flatten().filter(|r| r.start < r.end)
    }

    /// What is missing on the torrent's line, in order.
    fn gaps(&self) -> Vec<Range<u64>> {
        let mut out: Vec<Range<u64>> = Vec::new();
        for r in self.files.iter().flat_map(|f| self.missing(*f, &(0..u64::MAX))) {
            match out.last_mut().filter(|last| last.end == r.start) {
                Some(last) => last.end = r.end,
                None => out.push(r),
            }
        }
        out
    }
}

/// A place to start from, any missing byte as likely as another (not any file: a package has many small ones). Not the
/// first time: then in the rear half of its gap.
fn landing(gaps: &[Range<u64>], first: bool, rng: &mut impl Rng) -> Option<u64> {
    let len = |r: &Range<u64>| r.end.saturating_sub(r.start);
    let all: u64 = gaps.iter().map(len).sum();
    let mut at = if all > 0 { rng.random_range(0..all) } else { return None };
    for gap in gaps {
        if at < len(gap) {
            return Some(gap.start + if first { at } else { len(gap) / 2 + at / 2 });
        }
        at -= len(gap);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn a_scout_lands_where_bytes_are_missing() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        assert_eq!(landing(&[], true, &mut rng), None);
        let gaps = [10..20, 1_000..1_001, 5_000..15_000];
        let mut halves = [0; 2];
        for n in 0..4_000 {
            let at = landing(&gaps, n % 2 == 0, &mut rng).unwrap();
            let gap = gaps.iter().find(|g| g.contains(&at)).unwrap();
            let rear = at >= gap.start + (gap.end - gap.start) / 2;
            assert!(rear || n % 2 == 0, "{at}");
            halves[usize::from(rear)] += 1;
        }
        assert!(halves[0] > 900 && halves[1] > 2_900, "the first landing is anywhere: {halves:?}");
    }
}
