//! Retention: samples are thinned with age; samples, events, jobs and the history of tasks end.

use super::Node;
use crate::error::Fault;
use crate::model::task::TaskState;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(3600);
const MINUTE_MS: i64 = 60 * 1000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// A clock that jumps ahead by more than this is believed when it has stayed there for as long.
const JUMP_MS: i64 = DAY_MS;

/// Remembers when it ran last.
#[derive(Default)]
pub struct Upkeep {
    last: Option<Instant>,
    trust: Trust,
}

impl Upkeep {
    /// Does a round if one is due.
    pub async fn run(&mut self, node: &Node) {
        if self.last.is_some_and(|t| t.elapsed() < PERIOD) {
            return;
        }
        self.last = Some(Instant::now());
        let now = node.clock.now_ms();
        if !self.trust.believes(now, Instant::now()) {
            tracing::warn!("the clock has jumped ahead by more than a day: no old records are deleted before it has stayed so for a day");
            return;
        }
        if let Err(fault) = round(node, now).await {
            tracing::warn!(%fault, "upkeep of the database failed; it is repeated in an hour");
        }
    }
}

pub(super) async fn round(node: &Node, now: i64) -> Result<(), Fault> {
    let (config, store) = (node.config.current(), &node.store);
    let before = |days: u32| now.saturating_sub(i64::from(days) * DAY_MS);
    store.drop_samples(before(config.sampledays)).await?;
    store.thin_samples(before(config.finedays), MINUTE_MS).await?;
    store.thin_samples(before(config.minutedays), HOUR_MS).await?;
    store.prune_events(before(config.eventdays), now).await?;
    store.prune_generations(before(config.historydays), now).await?;
    for (role, name) in store.prune_history(before(config.historydays), now).await? {
        if let Err(fault) = crate::views::remove(&node.dirs.path(role, TaskState::History, &name)) {
            tracing::warn!(%fault, "cannot remove an old task file");
        }
    }
    for path in store.old_torrents(before(config.historydays)).await? {
        if is_gone(Path::new(&path)) {
            store.forget_torrent(Path::new(&path)).await?;
        }
    }
    Ok(())
}

/// The package is not there, and that is not because its disk is not mounted.
fn is_gone(package: &Path) -> bool {
    let missing = std::fs::symlink_metadata(package).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    missing && package.parent().is_some_and(Path::is_dir)
}

/// Whether the clock may be believed: what is deleted because of a wrong clock does not come back when it is set right.
#[derive(Default)]
struct Trust {
    /// When it was believed last, and what it showed.
    last: Option<(Instant, i64)>,
}

impl Trust {
    fn believes(&mut self, now_ms: i64, at: Instant) -> bool {
        let (then, shown) = *self.last.get_or_insert((at, now_ms));
        let elapsed = i64::try_from(at.saturating_duration_since(then).as_millis()).unwrap_or(i64::MAX);
        let ahead = now_ms.saturating_sub(shown).saturating_sub(elapsed);
        if ahead > JUMP_MS && elapsed < JUMP_MS {
            return false;
        }
        self.last = Some((at, now_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_a_day() {
        let (mut trust, start) = (Trust::default(), Instant::now());
        let hours = |n: u64| start + Duration::from_secs(n * 3600);
        assert!(trust.believes(0, start), "the first time there is nothing to compare with");
        assert!(trust.believes(HOUR_MS, hours(1)));
        assert!(!trust.believes(400 * DAY_MS, hours(2)), "a year ahead within an hour");
        assert!(trust.believes(3 * HOUR_MS, hours(3)), "it was set right");
        assert!(trust.believes(-400 * DAY_MS, hours(4)), "set back: nothing looks older than it is");
        assert!(!trust.believes(5 * HOUR_MS, hours(5)), "set right again");
        assert!(trust.believes(29 * HOUR_MS, hours(29)), "and so for a day");
        assert!(trust.believes(30 * HOUR_MS, hours(30)));
    }

    #[test]
    fn packages_of_a_disk_that_is_away_are_not_gone() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(is_gone(&dir.path().join("film")));
        assert!(!is_gone(&dir.path().join("dcps/film")), "its store is away as well");
        assert!(!is_gone(dir.path()));
    }
}
