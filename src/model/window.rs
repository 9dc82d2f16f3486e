//! Off-peak windows (protocol section 11): `HH:MM-HH:MM` in local wall-clock time, several separated by commas.
//!
//! Start inclusive, stop exclusive, over midnight when the stop is not after the start. `23:59`, `24:00` and `00:00` as
//! stop all mean the end of the day, so "all day" has no gap; equal start and stop mean all day. Minutes of the day are
//! kept, not durations: a window is what the clock on the wall shows, so a day with a clock change has a shorter or
//! longer window, and an hour that comes twice is open twice.

use chrono::{DateTime, Duration, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike};
use std::fmt;

const DAY: u16 = 24 * 60;
/// More are a mistake; it also bounds the work of [`Windows::next_change`].
const MAX_WINDOWS: usize = 24;

/// What is allowed, for messages.
pub const ALLOWED: &str = "HH:MM-HH:MM, several separated by commas, e.g. 18:00-05:00 or 00:00-23:59 for all day";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad time window {value:?}: {rule}; allowed: {ALLOWED}")]
pub struct WindowError {
    pub value: String,
    pub rule: &'static str,
}

/// One window. Minutes of the day; `start` below 1440, `stop` from 1 to 1440.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    start: u16,
    stop: u16,
}

impl Window {
    pub const ALL_DAY: Window = Window { start: 0, stop: DAY };

    pub fn parse(text: &str) -> Result<Self, WindowError> {
        let bad = |rule| WindowError { value: text.chars().take(40).collect(), rule };
        let (start, stop) = text.split_once('-').ok_or_else(|| bad("there is no '-'"))?;
        let clock = |s: &str| clock(s.trim()).ok_or_else(|| bad("a time is not HH:MM from 00:00 to 24:00"));
        let (start, stop) = (clock(start)? % DAY, clock(stop)?);
        if start == stop % DAY {
            return Ok(Self::ALL_DAY);
        }
        Ok(Self { start, stop: if stop == 0 || stop == DAY - 1 { DAY } else { stop } })
    }

    fn is_open_at(self, minute: u16) -> bool {
        if self.start < self.stop {
            self.start <= minute && minute < self.stop
        } else {
            minute >= self.start || minute < self.stop
        }
    }
}

/// `HH:MM` as minutes, 0 to 1440.
fn clock(s: &str) -> Option<u16> {
    let (h, m) = s.split_once(':')?;
    let digits = |t: &str, most: usize| (1..=most).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(h, 2) || !digits(m, 2) || m.len() != 2 {
        return None;
    }
    let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
    let minute = h * 60 + m;
    (m < 60 && minute <= DAY).then_some(minute)
}

impl fmt::Display for Window {
    /// Never `24:00`, which other nodes may refuse: all day is `00:00-23:59`, else midnight is `00:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stop = match (self.start, self.stop) {
            (0, DAY) => DAY - 1,
            (_, stop) => stop % DAY,
        };
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.start / 60, self.start % 60, stop / 60, stop % 60)
    }
}

/// One or more windows; open when any is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Windows(Vec<Window>);

impl Windows {
    pub fn all_day() -> Self {
        Self(vec![Window::ALL_DAY])
    }

    pub fn parse(text: &str) -> Result<Self, WindowError> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts.len() > MAX_WINDOWS {
            return Err(WindowError { value: text.chars().take(40).collect(), rule: "there are more than 24 windows" });
        }
        Ok(Self(parts.into_iter().map(Window::parse).collect::<Result<_, _>>()?))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.0.iter()
    }

    /// Whether the wall clock is inside a window.
    pub fn is_open(&self, time: NaiveTime) -> bool {
        // hour() and minute() cannot exceed 23 and 59.
        let minute = (time.hour() * 60 + time.minute()) as u16;
        self.0.iter().any(|w| w.is_open_at(minute))
    }

    /// The first moment after `now` at which [`Windows::is_open`] changes; `None` when it never does.
    pub fn next_change<Tz: TimeZone>(&self, now: DateTime<Tz>) -> Option<DateTime<Tz>> {
        let open = self.is_open(now.time());
        // The state can change where the clock meets a border, and where the clock itself jumps.
        let mut moments = self.borders_after(&now);
        moments.extend(clock_jumps(&now));
        moments.sort();
        moments.into_iter().find(|t| *t > now && self.is_open(t.time()) != open)
    }

    /// The window that is open at `now`, else the one that opens next: its opening and its closing. `None` when it is
    /// always open (or, on a day that the clock skips, not found within two days).
    pub fn current_or_next<Tz: TimeZone>(&self, now: DateTime<Tz>) -> Option<(DateTime<Tz>, DateTime<Tz>)> {
        if !self.is_open(now.time()) {
            let opens = self.next_change(now)?;
            let closes = self.next_change(opens.clone())?;
            return Some((opens, closes));
        }
        let closes = self.next_change(now.clone())?;
        // Where the clock meets a border, or jumps over one.
        let from = now.clone().checked_sub_signed(TimeDelta::days(2))?;
        let mut moments = self.borders_after(&from);
        moments.extend(clock_jumps(&from));
        let opens = |t: &DateTime<Tz>| {
            let before = t.clone().checked_sub_signed(TimeDelta::seconds(1));
            self.is_open(t.time()) && before.is_some_and(|b| !self.is_open(b.time()))
        };
        let opened = moments.into_iter().filter(|t| *t <= now && opens(t)).max()?;
        Some((opened, closes))
    }

    /// Every border of today and the next two days. A border that the clock skips has no moment (the jump has); one
    /// that comes twice has two.
    fn borders_after<Tz: TimeZone>(&self, now: &DateTime<Tz>) -> Vec<DateTime<Tz>> {
        let zone = now.timezone();
        let midnight: NaiveDateTime = now.date_naive().and_time(NaiveTime::MIN);
        let mut out = Vec::with_capacity(self.0.len() * 12);
        for day in 0..=2 {
            for minute in self.0.iter().flat_map(|w| [w.start, w.stop]) {
                let Some(at) = midnight.checked_add_signed(TimeDelta::minutes(day * i64::from(DAY) + i64::from(minute))) else {
                    continue;
                };
                let found = zone.from_local_datetime(&at);
                out.extend(found.clone().earliest());
                out.extend(found.latest());
            }
        }
        out
    }
}

/// The moments in the next two days at which the zone's offset from UTC changes.
fn clock_jumps<Tz: TimeZone>(now: &DateTime<Tz>) -> Vec<DateTime<Tz>> {
    use chrono::Offset;
    const STEP_HOURS: i64 = 6;
    let offset = |t: &DateTime<Tz>| t.offset().fix().local_minus_utc();
    let mut out = Vec::new();
    // Clocks are changed at full seconds.
    let part = TimeDelta::nanoseconds(i64::from(now.timestamp_subsec_nanos()));
    let mut from = now.clone().checked_sub_signed(part).unwrap_or_else(|| now.clone());
    for _ in 0..(48 / STEP_HOURS) {
        let Some(to) = from.clone().checked_add_signed(Duration::hours(STEP_HOURS)) else { break };
        if offset(&from) != offset(&to) {
            // Halve down to the second; `low` is always before the jump, `high` at or after it.
            let (mut low, mut high) = (0, STEP_HOURS * 3600);
            while high - low > 1 {
                let middle = (low + high) / 2;
                let same =
                    from.clone().checked_add_signed(Duration::seconds(middle)).is_some_and(|t| offset(&t) == offset(&from));
                if same { low = middle } else { high = middle }
            }
            out.extend(from.clone().checked_add_signed(Duration::seconds(high)));
        }
        from = to;
    }
    out
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, w) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            w.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use chrono::{FixedOffset, MappedLocalTime, NaiveDate, Utc};
    use proptest::prelude::*;

    fn at(h: u32, m: u32, s: u32) -> NaiveTime {
        NaiveTime::from_hms_opt(h, m, s).unwrap()
    }

    #[test]
    fn open_and_closed() {
        type Times<'a> = &'a [(u32, u32)];
        let table: &[(&str, Times, Times)] = &[
            ("06:00-18:00", &[(6, 0), (17, 59)], &[(5, 59), (18, 0), (0, 0)]),
            ("18:00-05:00", &[(18, 0), (23, 59), (0, 0), (4, 59)], &[(5, 0), (17, 59)]),
            ("06:00-00:00", &[(6, 0), (23, 59)], &[(0, 0), (5, 59)]),
            ("06:00-24:00", &[(6, 0), (23, 59)], &[(0, 0), (5, 59)]),
            ("08:00-23:59", &[(23, 59)], &[(7, 59)]),
            ("00:00-23:59", &[(0, 0), (23, 59)], &[]),
            ("00:00-24:00", &[(0, 0), (23, 59)], &[]),
            ("00:00-00:00", &[(0, 0), (12, 0)], &[]),
            ("07:00-07:00", &[(0, 0), (7, 0)], &[]),
            ("24:00-08:00", &[(0, 0), (7, 59)], &[(8, 0)]),
            ("23:59-00:01", &[(23, 59), (0, 0)], &[(0, 1), (23, 58)]),
            ("01:00-02:00, 12:00-13:00", &[(1, 0), (12, 59)], &[(2, 0), (13, 0)]),
            ("6:00 - 7:30", &[(6, 0)], &[(7, 30)]),
        ];
        for (text, open, closed) in table {
            let w = Windows::parse(text).unwrap();
            for &(h, m) in *open {
                assert!(w.is_open(at(h, m, 59)), "{text} at {h}:{m}");
            }
            for &(h, m) in *closed {
                assert!(!w.is_open(at(h, m, 0)), "{text} at {h}:{m}");
            }
        }
    }

    #[test]
    fn the_window_of_now_or_the_next() {
        let day = |d: u32, h: u32, m: u32| {
            let date = NaiveDate::from_ymd_opt(2021, 5, d).unwrap();
            Utc.from_utc_datetime(&date.and_hms_opt(h, m, 0).unwrap())
        };
        type At = (u32, u32, u32);
        type Row<'a> = (&'a str, At, Option<(At, At)>);
        let table: &[Row] = &[
            ("22:34-22:37", (28, 22, 33), Some(((28, 22, 34), (28, 22, 37)))),
            ("22:34-22:37", (28, 22, 34), Some(((28, 22, 34), (28, 22, 37)))),
            ("22:34-22:37", (28, 22, 36), Some(((28, 22, 34), (28, 22, 37)))),
            ("22:34-22:37", (28, 22, 37), Some(((29, 22, 34), (29, 22, 37)))),
            ("18:00-05:00", (28, 3, 0), Some(((27, 18, 0), (28, 5, 0)))),
            ("18:00-05:00", (28, 19, 0), Some(((28, 18, 0), (29, 5, 0)))),
            ("01:00-02:00,03:00-04:00", (28, 3, 30), Some(((28, 3, 0), (28, 4, 0)))),
            ("01:00-02:00,03:00-04:00", (28, 2, 30), Some(((28, 3, 0), (28, 4, 0)))),
            ("00:00-23:59", (28, 3, 30), None),
        ];
        for (text, (d, h, m), want) in table {
            let got = Windows::parse(text).unwrap().current_or_next(day(*d, *h, *m));
            let want = want.map(|(a, b)| (day(a.0, a.1, a.2), day(b.0, b.1, b.2)));
            assert_eq!(got, want, "{text} at {d} {h}:{m}");
        }
    }

    #[test]
    fn malformed_windows() {
        for bad in [
            "",
            "08:00",
            "08:00-",
            "-08:00",
            "8-9",
            "24:01-01:00",
            "00:60-01:00",
            "25:00-26:00",
            "aa:bb-cc:dd",
            "08:00-09:00,",
            "08:00-+9:00",
            "08:00–09:00",
        ] {
            assert!(Windows::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(Windows::parse(&vec!["01:00-02:00"; 25].join(",")).is_err());
    }

    #[test]
    fn written_without_24_00() {
        for (text, shown) in [
            ("00:00-24:00", "00:00-23:59"),
            ("06:00-24:00", "06:00-00:00"),
            ("08:00-23:59", "08:00-00:00"),
            ("18:00-05:00", "18:00-05:00"),
            ("01:00-02:00, 03:00-04:00", "01:00-02:00,03:00-04:00"),
        ] {
            assert_eq!(Windows::parse(text).unwrap().to_string(), shown);
        }
    }

    fn utc(day: u32, h: u32, m: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 3, day, h, m, 0).unwrap()
    }

    #[test]
    fn next_change_on_plain_days() {
        for (text, now, want) in [
            ("06:00-18:00", utc(1, 3, 0), Some(utc(1, 6, 0))),
            ("06:00-18:00", utc(1, 6, 0), Some(utc(1, 18, 0))),
            ("06:00-18:00", utc(1, 18, 0), Some(utc(2, 6, 0))),
            ("18:00-05:00", utc(1, 20, 0), Some(utc(2, 5, 0))),
            ("06:00-00:00", utc(1, 20, 0), Some(utc(2, 0, 0))),
            ("00:00-23:59", utc(1, 20, 0), None),
            ("00:00-08:00,08:00-00:00", utc(1, 20, 0), None),
            ("00:00-08:00,08:00-10:00", utc(1, 1, 0), Some(utc(1, 10, 0))),
        ] {
            assert_eq!(Windows::parse(text).unwrap().next_change(now), want, "{text} at {now}");
        }
    }

    /// UTC+1, and UTC+2 between the last Sundays of March and October 2026, as central Europe.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(in crate::model) struct Europe;

    impl Europe {
        fn summer() -> (NaiveDateTime, NaiveDateTime) {
            let day = |m, d| NaiveDate::from_ymd_opt(2026, m, d).unwrap().and_hms_opt(1, 0, 0).unwrap();
            (day(3, 29), day(10, 25))
        }
        fn hours(h: i32) -> FixedOffset {
            FixedOffset::east_opt(h * 3600).unwrap()
        }
    }

    impl TimeZone for Europe {
        type Offset = FixedOffset;
        fn from_offset(_: &FixedOffset) -> Self {
            Europe
        }
        fn offset_from_local_date(&self, d: &NaiveDate) -> MappedLocalTime<FixedOffset> {
            self.offset_from_local_datetime(&d.and_time(NaiveTime::MIN))
        }
        fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
            let fits = |h: i32| self.offset_from_utc_datetime(&(*local - TimeDelta::hours(h.into()))) == Self::hours(h);
            match (fits(2), fits(1)) {
                (true, true) => MappedLocalTime::Ambiguous(Self::hours(2), Self::hours(1)),
                (true, false) => MappedLocalTime::Single(Self::hours(2)),
                (false, true) => MappedLocalTime::Single(Self::hours(1)),
                (false, false) => MappedLocalTime::None,
            }
        }
        fn offset_from_utc_date(&self, d: &NaiveDate) -> FixedOffset {
            self.offset_from_utc_datetime(&d.and_time(NaiveTime::MIN))
        }
        fn offset_from_utc_datetime(&self, t: &NaiveDateTime) -> FixedOffset {
            let (from, to) = Self::summer();
            Self::hours(if *t >= from && *t < to { 2 } else { 1 })
        }
    }

    #[test]
    fn next_change_over_clock_changes() {
        let utc = |m, d, h, min| Utc.with_ymd_and_hms(2026, m, d, h, min, 0).unwrap();
        for (text, now, want) in [
            // March 29th, 02:00 becomes 03:00 at 01:00 UTC. A border in the gap takes effect at the jump.
            ("02:30-05:00", utc(3, 29, 0, 30), utc(3, 29, 1, 0)),
            ("01:00-02:30", utc(3, 29, 0, 30), utc(3, 29, 1, 0)),
            ("18:00-05:00", utc(3, 28, 20, 0), utc(3, 29, 3, 0)),
            // October 25th, 03:00 becomes 02:00 at 01:00 UTC: the hour from 02:00 comes twice.
            ("01:00-02:30", utc(10, 24, 23, 30), utc(10, 25, 0, 30)),
            ("01:00-02:30", utc(10, 25, 0, 30), utc(10, 25, 1, 0)),
            ("01:00-02:30", utc(10, 25, 1, 0), utc(10, 25, 1, 30)),
            ("02:15-02:45", utc(10, 25, 0, 50), utc(10, 25, 1, 15)),
            ("18:00-05:00", utc(10, 24, 20, 0), utc(10, 25, 4, 0)),
        ] {
            for part in [0, 472] {
                let now = now + TimeDelta::milliseconds(part);
                let got = Windows::parse(text).unwrap().next_change(now.with_timezone(&Europe)).unwrap();
                assert_eq!(got.with_timezone(&Utc), want, "{text} at {now}");
            }
        }
    }

    proptest! {
        #[test]
        fn texts_round_trip_and_changes_are_changes(a in 0u32..1440, b in 0u32..1440, now in 0i64..(400 * 1440)) {
            let text = format!("{:02}:{:02}-{:02}:{:02}", a / 60, a % 60, b / 60, b % 60);
            let w = Windows::parse(&text).unwrap();
            prop_assert_eq!(&Windows::parse(&w.to_string()).unwrap(), &w);
            let now = Europe.timestamp_opt(1_767_225_600 + now * 60, 0).unwrap();
            match w.next_change(now) {
                None => prop_assert!((0..1440).all(|m| w.is_open(at(m / 60, m % 60, 0)))),
                Some(t) => {
                    prop_assert!(t > now);
                    let just_before = t - TimeDelta::seconds(1);
                    prop_assert_eq!(w.is_open(just_before.time()), w.is_open(now.time()));
                    prop_assert_ne!(w.is_open(t.time()), w.is_open(now.time()));
                    // No minute between had the other state.
                    let minutes = (t - now).num_minutes();
                    for m in (0..minutes).step_by(7) {
                        prop_assert_eq!(w.is_open((now + TimeDelta::minutes(m)).time()), w.is_open(now.time()));
                    }
                }
            }
        }

        #[test]
        fn never_panics(text in "[0-9:,\\- ]{0,24}") {
            let _ = Windows::parse(&text);
        }
    }
}
