//! Time as a value: the real clock, and one that tests set by hand.

use chrono::{DateTime, Local};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The abbreviation of the machine's time zone at a moment (`CST`, `CEST`; `+08` where the zone has none).
pub fn zone_name(at: &DateTime<Local>) -> String {
    unsafe extern "C" {
        fn tzset();
    }
    let seconds: libc::time_t = at.timestamp();
    // SAFETY: tzset takes nothing and locks for itself; localtime_r alone would not see that the zone has changed. An
    // all-zero tm is valid, localtime_r fills it in or fails; tm_zone points into data of the C library that
    // lives as long as the process.
    let name = unsafe {
        tzset();
        let mut tm: libc::tm = std::mem::zeroed();
        match libc::localtime_r(&seconds, &mut tm) {
            p if p.is_null() || tm.tm_zone.is_null() => None,
            _ => std::ffi::CStr::from_ptr(tm.tm_zone).to_str().ok().map(str::to_owned),
        }
    };
    name.unwrap_or_else(|| at.format("%z").to_string())
}

/// When a file was modified last: nanoseconds since 1970. Times outside of 1677-2262 are held at the border.
pub fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

/// When a file or what is known of it was changed last; else as [`mtime_ns`].
pub fn ctime_ns(meta: &Metadata) -> i64 {
    meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec())
}

/// When a file or directory was made. `None`: its file system does not say.
pub fn born_ns(meta: &Metadata) -> Option<i64> {
    let at = meta.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(at.as_nanos()).ok()
}

/// When a loop last went round, so that others can see that it is alive.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// The loop is here.
    pub fn beat(&self) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now());
    }
    /// How long ago that was; `None` before the first time.
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).map(|at| at.elapsed())
    }
}

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
