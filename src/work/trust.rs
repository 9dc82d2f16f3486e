//! Whether the clock may be believed: what is deleted or ended because of a wrong clock does not come back when it is set
//! right.

use super::Node;
use crate::error::Fault;
use crate::store::events::Level;
use chrono::{DateTime, Local};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A clock that jumped ahead is believed when it has stayed there for so long.
const STAY_MS: i64 = 24 * 3600 * 1000;

/// What was believed is kept in pieces of this length.
const PIECE_MS: i64 = 3600 * 1000;

/// Compares the clock with the time that really passed. Many small jumps are one: what counts is by how much the clock is
/// ahead of what was believed in the last day.
pub struct Trust {
    /// A jump ahead by more than this is not believed at first (milliseconds).
    jump_ms: i64,
    pieces: VecDeque<Piece>,
}

/// A time in which the clock was believed.
struct Piece {
    from: Instant,
    to: Instant,
    /// By how much the clock was ahead of the time that had passed since `from`, at least.
    least: i64,
}

impl Trust {
    pub fn new(jump: Duration) -> Self {
        Self { jump_ms: i64::try_from(jump.as_millis()).unwrap_or(i64::MAX), pieces: VecDeque::new() }
    }

    /// At a start: what the clock showed when it was believed last, before it. Whoever was off for longer than a day, or
    /// starts with a wrong clock, is not believed at first: the two look the same.
    pub fn start(&mut self, seen_at: Option<i64>, now_ms: i64, at: Instant) {
        let Some(seen) = seen_at.filter(|seen| now_ms.saturating_sub(*seen) > STAY_MS) else { return };
        self.pieces.push_back(Piece { from: at, to: at, least: seen });
    }

    pub fn believes(&mut self, now_ms: i64, at: Instant) -> bool {
        self.pieces.retain(|p| since(p.to, at) < STAY_MS);
        let shown = |p: &Piece| now_ms.saturating_sub(since(p.from, at));
        if self.pieces.iter().any(|p| shown(p).saturating_sub(p.least) > self.jump_ms) {
            return false;
        }
        match self.pieces.back_mut().filter(|p| since(p.from, at) < PIECE_MS) {
            Some(p) => {
                p.least = p.least.min(shown(p));
                p.to = at;
            }
            None => self.pieces.push_back(Piece { from: at, to: at, least: now_ms }),
        }
        true
    }
}

/// A clock that is set by more than this, at once or little by little, changes no seed time.
const SEED_STEP: Duration = Duration::from_secs(600);

/// The clock by which seed times end. A cacher deletes its data then, and receivers are told that a sender has finished.
///
/// What was promised is a time to last, and `tasks.seed_until` is its end by the clock on the wall. So when that clock is
/// set, whichever of the two is right, the ends of the seeds are moved with it.
pub struct SeedClock {
    trust: Trust,
    noted: Option<Instant>,
    /// What the clock showed when it was set last, and when that was.
    set: Option<(Instant, i64)>,
    looked: Option<Instant>,
}

impl Default for SeedClock {
    fn default() -> Self {
        Self { trust: Trust::new(SEED_STEP), noted: None, set: None, looked: None }
    }
}

/// Between two notes of the time.
const NOTE: Duration = Duration::from_secs(60);

impl SeedClock {
    /// Moves the ends of the seeds when the clock was set. What it shows now is returned: by that, and not by what it shows a
    /// moment later, may be decided whether a seed time is over.
    pub async fn look(&mut self, node: &Node) -> Result<DateTime<Local>, Fault> {
        let (time, at) = (node.clock.now(), Instant::now());
        let now = time.timestamp_millis();
        let by = match self.set {
            Some((then, shown)) => now.saturating_sub(shown).saturating_sub(since(then, at)),
            None => {
                self.trust.start(node.store.seen_at().await?, now, at);
                node.store.clock_at().await?.map_or(0, |last| step_at_start(last, now))
            }
        };
        let limit = i64::try_from(SEED_STEP.as_millis()).unwrap_or(i64::MAX);
        if by.saturating_abs() > limit {
            let fresh = self.looked.map_or(0, |then| since(then, at));
            node.store.shift_seed_times(by, fresh, now).await?;
            let text = match by > 0 {
                true => format!(
                    "the clock has jumped ahead by {} minutes, or the service was stopped for so long: seed times end so much later, \
                     and nothing old is deleted for a day",
                    by / 60_000
                ),
                false => format!("the clock was set back by {} minutes: seed times end so much earlier", -(by / 60_000)),
            };
            node.event(Level::Warn, "clock", "", &text).await;
        }
        if by.saturating_abs() > limit || self.set.is_none() {
            self.set = Some((at, now));
        }
        self.looked = Some(at);
        let believed = self.trust.believes(now, at);
        if self.noted.is_none_or(|noted| noted.elapsed() >= NOTE) {
            self.noted = Some(at);
            if let Err(fault) = node.store.note_clock(now, believed).await {
                tracing::warn!(%fault, "cannot note the time");
            }
        }
        Ok(time)
    }
}

/// By how much the clock was set while the service was not running. It may have been off for a day; for longer, or with a
/// clock that went back, nobody can tell, and the seeds go on as if it had not been off.
fn step_at_start(last: i64, now: i64) -> i64 {
    let passed = now.saturating_sub(last);
    if (0..=STAY_MS).contains(&passed) { 0 } else { passed }
}

fn since(then: Instant, at: Instant) -> i64 {
    i64::try_from(at.saturating_duration_since(then).as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600 * 1000;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_a_day() {
        let (mut trust, start) = (Trust::new(Duration::from_secs(24 * 3600)), Instant::now());
        let hours = |n: u64| start + Duration::from_secs(n * 3600);
        assert!(trust.believes(0, start), "the first time there is nothing to compare with");
        assert!(trust.believes(HOUR, hours(1)));
        assert!(!trust.believes(400 * DAY, hours(2)), "a year ahead within an hour");
        assert!(trust.believes(3 * HOUR, hours(3)), "it was set right");
        assert!(trust.believes(-400 * DAY, hours(4)), "set back: nothing looks older than it is");
        assert!(!trust.believes(5 * HOUR, hours(5)), "set right again");
        assert!(trust.believes(29 * HOUR, hours(29)), "and so for a day");
        assert!(trust.believes(30 * HOUR, hours(30)));
    }

    #[test]
    fn a_start_believes_a_day() {
        let (start, jump) = (Instant::now(), Duration::from_secs(600));
        let hours = |n: u64| start + Duration::from_secs(n * 3600);
        for (seen, now, believed) in
            [(None, 400 * DAY, true), (Some(5), DAY, true), (Some(DAY), HOUR, true), (Some(5), DAY + HOUR, false)]
        {
            let mut trust = Trust::new(jump);
            trust.start(seen, now, start);
            assert_eq!(trust.believes(now, start), believed, "{seen:?} {now}");
            assert!(trust.believes(now + DAY, hours(24)), "and after a day in any case");
        }
    }

    #[test]
    fn many_small_jumps_are_one() {
        let (mut trust, start) = (Trust::new(Duration::from_secs(600)), Instant::now());
        let step = 9 * 60_000;
        assert!(trust.believes(0, start));
        assert!(trust.believes(step, start), "nine minutes");
        assert!(!trust.believes(2 * step, start), "and nine minutes");
        assert!(trust.believes(step, start), "set right");
        let hours = |n: u64| start + Duration::from_secs(n * 3600);
        assert!(!trust.believes(5 * HOUR + 2 * step, hours(5)), "hours later");
        assert!(trust.believes(5 * HOUR + step, hours(5)));
        assert!(trust.believes(25 * HOUR + 2 * step, hours(25)), "the next day");
        assert!(!trust.believes(25 * HOUR + 3 * step, hours(25)));
        // Set back, and set right.
        assert!(trust.believes(26 * HOUR - DAY, hours(26)));
        assert!(!trust.believes(26 * HOUR, hours(26)));
    }

    #[test]
    fn who_was_off_for_long_goes_on_as_if_he_was_not() {
        for (last, now, step) in
            [(DAY, DAY, 0), (DAY, 2 * DAY, 0), (DAY, 2 * DAY + 1, DAY + 1), (DAY, DAY - 1, -1), (400 * DAY, DAY, -399 * DAY)]
        {
            assert_eq!(step_at_start(last, now), step, "{last} {now}");
        }
    }
}
