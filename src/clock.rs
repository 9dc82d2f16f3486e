//! Time as a value: the real clock, and one that tests set by hand.

use chrono::{DateTime, Local};
use std::sync::{Arc, Mutex};

/// Wall-clock time in the machine's time zone (windows are local time, protocol section 11).
#[derive(Clone)]
pub struct Clock(Option<Arc<Mutex<DateTime<Local>>>>);

impl Clock {
    pub fn real() -> Self {
        Self(None)
    }
    /// A clock that stands still until [`Clock::set`] moves it.
    pub fn fixed(at: DateTime<Local>) -> Self {
        Self(Some(Arc::new(Mutex::new(at))))
    }
    pub fn now(&self) -> DateTime<Local> {
        match &self.0 {
            None => Local::now(),
            Some(t) => *t.lock().unwrap_or_else(|e| e.into_inner()),
        }
    }
    /// Milliseconds since the epoch, as the database keeps times.
    pub fn now_ms(&self) -> i64 {
        self.now().timestamp_millis()
    }
    /// Moves a fixed clock; the real clock ignores it.
    pub fn set(&self, at: DateTime<Local>) {
        if let Some(t) = &self.0 {
            *t.lock().unwrap_or_else(|e| e.into_inner()) = at;
        }
    }
}
