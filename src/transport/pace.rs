//! How fast connections of a fetch are: a server that falls silent or drips, a connection that crawls while others do not.

use crate::error::Fault;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A connection crawls when it brings less than this part of what is usual.
const CRAWL: f64 = 0.1;
/// Weight of the newest segment in what is usual.
const WEIGHT: f64 = 0.3;
/// Segments of fewer bytes say nothing about a line.
const TELLING: u64 = 1 << 20;

/// Bytes per second that a connection of this run brings, by the segments so far.
#[derive(Default)]
pub struct Usual(Mutex<Option<f64>>);

impl Usual {
    fn value(&self) -> MutexGuard<'_, Option<f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self) -> Option<f64> {
        *self.value()
    }

    /// A connection has brought its segment. Our own cap counts as its slowness here, so that what is usual is not taken
    /// for faster than it is.
    pub fn learn(&self, bytes: u64, time: Duration) {
        if bytes >= TELLING {
            let now = bytes as f64 / time.as_secs_f64().max(0.001);
            let mut usual = self.value();
            *usual = Some(usual.map_or(now, |before| before + WEIGHT * (now - before)));
        }
    }
}

/// Notices a server that sends nothing, or next to nothing: HTTP time-outs never fire at one byte per second.
pub struct Watchdog {
    min_rate: u64,
    period: Duration,
    waited: Duration,
    bytes: u64,
}

impl Watchdog {
    pub fn new(min_rate: u64, period: Duration) -> Self {
        Self { min_rate, period, waited: Duration::ZERO, bytes: 0 }
    }

    /// Waits for the server as long as its rate over the period suffices, and never for a whole period in silence.
    pub async fn wait<F: Future>(&mut self, answer: F) -> Result<F::Output, Fault> {
        let mut answer = std::pin::pin!(answer);
        let asked = Instant::now();
        loop {
            let (began, silent) = (Instant::now(), asked.elapsed());
            if silent >= self.period {
                return Err(Fault::transient(format!("the server sent nothing for {} seconds", silent.as_secs())));
            }
            let left = self.period.saturating_sub(self.waited.max(silent));
            let result = tokio::time::timeout(left, answer.as_mut()).await;
            self.waited += began.elapsed();
            match result {
                Ok(value) => return Ok(value),
                Err(_) => self.check()?,
            }
        }
    }

    pub fn received(&mut self, bytes: usize) -> Result<(), Fault> {
        self.bytes += bytes as u64;
        self.check()
    }

    /// Much slower than usual, for a third of a period of waiting.
    pub fn crawls(&self, usual: &Usual) -> bool {
        let rate = self.bytes as f64 / self.waited.as_secs_f64().max(0.001);
        self.waited >= self.period / 3 && usual.rate().is_some_and(|usual| rate < usual * CRAWL)
    }

    /// Judges the rate when a period is over, and begins the next one.
    fn check(&mut self) -> Result<(), Fault> {
        if self.waited < self.period {
            return Ok(());
        }
        let seconds = self.period.as_secs_f64();
        if (self.bytes as f64) < (self.min_rate as f64 * seconds).max(1.0) {
            return Err(Fault::transient(format!("the server sent {} bytes in {seconds} seconds: too slow", self.bytes)));
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(())
    }
}
