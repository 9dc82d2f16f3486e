//! Whether the clock may be believed: what is deleted or ended because of a wrong clock does not come back when it is set
//! right.

use super::Node;
use crate::store::events::Level;
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
    /// When it was believed last, and what it showed.
    last: Option<(Instant, i64)>,
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
        Self { jump_ms: i64::try_from(jump.as_millis()).unwrap_or(i64::MAX), last: None, pieces: VecDeque::new() }
    }

    /// At a start: what the clock showed when it was believed last, before it. Whoever was off for longer than a day, or
    /// starts with a wrong clock, is not believed at first: the two look the same.
    pub fn start(&mut self, seen_at: Option<i64>, now_ms: i64, at: Instant) {
        let Some(seen) = seen_at.filter(|seen| now_ms.saturating_sub(*seen) > STAY_MS) else { return };
        self.last = Some((at, seen));
        self.pieces.push_back(Piece { from: at, to: at, least: seen });
    }

    pub fn believes(&mut self, now_ms: i64, at: Instant) -> bool {
        self.pieces.retain(|p| since(p.to, at) < STAY_MS);
        let shown = |p: &Piece| now_ms.saturating_sub(since(p.from, at));
        if self.pieces.iter().any(|p| shown(p).saturating_sub(p.least) > self.jump_ms) {
            return false;
        }
        self.last = Some((at, now_ms));
        match self.pieces.back_mut().filter(|p| since(p.from, at) < PIECE_MS) {
            Some(p) => {
                p.least = p.least.min(shown(p));
                p.to = at;
            }
            None => self.pieces.push_back(Piece { from: at, to: at, least: now_ms }),
        }
        true
    }

    /// What the clock would show without the jump that is not believed.
    pub fn time(&mut self, now_ms: i64, at: Instant) -> i64 {
        if self.believes(now_ms, at) {
            return now_ms;
        }
        self.last.map_or(now_ms, |(then, shown)| shown.saturating_add(since(then, at)))
    }
}

/// A clock that jumps ahead by more than this ends no seed at first.
const SEED_JUMP: Duration = Duration::from_secs(600);

/// The clock by which seed times end. A cacher deletes its data then, and receivers are told that a sender has finished.
pub struct SeedClock {
    trust: Trust,
    doubted: bool,
    noted: Option<Instant>,
}

impl Default for SeedClock {
    fn default() -> Self {
        Self { trust: Trust::new(SEED_JUMP), doubted: false, noted: None }
    }
}

/// Between two notes of the time that is believed.
const NOTE: Duration = Duration::from_secs(60);

impl SeedClock {
    pub fn start(&mut self, seen_at: Option<i64>, now_ms: i64) {
        self.trust.start(seen_at, now_ms, Instant::now());
    }

    /// By how much the clock is ahead of what is believed (milliseconds).
    pub async fn unbelieved_ms(&mut self, node: &Node) -> i64 {
        let now = node.clock.now_ms();
        let ahead = now.saturating_sub(self.trust.time(now, Instant::now()));
        if (ahead > 0) != self.doubted {
            self.doubted = ahead > 0;
            let text = match self.doubted {
                true => format!(
                    "the clock has jumped ahead by {} minutes, or the service was stopped for so long: no seed time ends by that, \
                     and nothing old is deleted, for a day",
                    ahead / 60_000
                ),
                false => "the clock is believed again".to_owned(),
            };
            node.event(Level::Warn, "clock", "", &text).await;
        }
        if ahead == 0 && self.noted.is_none_or(|at| at.elapsed() >= NOTE) {
            self.noted = Some(Instant::now());
            if let Err(fault) = node.store.note_seen_at(now).await {
                tracing::warn!(%fault, "cannot note the time");
            }
        }
        ahead
    }
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
            assert_eq!(trust.time(now, start), if believed { now } else { 5 });
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

    /// What the clock shows at each hour, and what is believed to be the time.
    #[test]
    fn time_goes_on_while_a_jump_is_not_believed() {
        let (mut trust, start) = (Trust::new(Duration::from_secs(600)), Instant::now());
        let table = [
            (0, 0, 0),
            (1, HOUR, HOUR),
            (2, 2 * HOUR + DAY, 2 * HOUR),
            (20, 20 * HOUR + DAY, 20 * HOUR),
            (21, 21 * HOUR + 5 * 60_000, 21 * HOUR + 5 * 60_000), // set right, but for what clocks drift
            (22, 22 * HOUR + DAY, 22 * HOUR + 5 * 60_000),
            (46, 46 * HOUR + DAY, 46 * HOUR + DAY), // it has stayed so for a day
            (47, -DAY, -DAY),
            (48, -DAY + HOUR, -DAY + HOUR),
        ];
        for (hour, shows, time) in table {
            assert_eq!(trust.time(shows, start + Duration::from_secs(hour * 3600)), time, "hour {hour}");
        }
    }
}
