//! When a task will be done, and whether that is in time: what is left of each leg, at the rate that was measured while it
//! ran, in the hours in which its windows are open.
//!
//! A pure function of rows, asked every few seconds. A leg that was not measured yet makes the end unknown; it does not
//! hide that another one will be late.

use super::progress::rate_text;
use super::span::Method;
use super::window::Windows;
use chrono::{DateTime, TimeDelta, TimeZone};
use std::fmt::Display;
use std::sync::Arc;

/// Nobody asks what will be later.
pub const HORIZON_DAYS: i64 = 31;
/// A task that was late stays so until it is early by this part of the time that is left, so that it does not flicker.
const SLACK_PART: i64 = 50;

/// When windows are open: from, to (milliseconds since the epoch), in order, apart.
pub type OpenSpans = Arc<[(i64, i64)]>;

/// A leg that still has something to move.
#[derive(Clone, Debug)]
pub struct LegLeft {
    pub method: Method,
    pub bytes: u64,
    /// Bytes per second; `None` is not known yet, 0 is that nothing comes.
    pub rate: Option<u64>,
    /// As a text; empty when it may run at any time.
    pub windows: String,
    pub open: OpenSpans,
    /// The next try is not before this.
    pub from: i64,
}

/// What is to be expected of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// `None`: unknown, or never.
    pub expected_at: Option<i64>,
    /// Why it will not be done in time; empty when it will, or when nothing is known.
    pub risk: String,
}

/// The hours of the next [`HORIZON_DAYS`] in which windows are open.
pub fn open_spans<Tz: TimeZone>(windows: &Windows, now: &DateTime<Tz>) -> OpenSpans {
    let end = now.clone().checked_add_signed(TimeDelta::days(HORIZON_DAYS)).unwrap_or_else(|| now.clone());
    let (mut at, mut out) = (now.clone(), Vec::new());
    while at < end {
        let change = windows.next_change(at.clone());
        if windows.is_open(at.time()) {
            let close = change.clone().unwrap_or_else(|| end.clone()).min(end.clone());
            out.push((at.timestamp_millis(), close.timestamp_millis()));
        }
        let Some(change) = change else { break };
        at = change;
    }
    out.into()
}

/// When so many bytes have come at this rate (bytes per second, not 0); `None`: not in these hours.
pub fn end_of(bytes: u64, rate: u64, from: i64, open: &[(i64, i64)]) -> Option<i64> {
    let need = (u128::from(bytes) * 1000).div_ceil(u128::from(rate.max(1)));
    let mut need = i64::try_from(need).ok()?;
    for &(opens, closes) in open {
        let start = opens.max(from);
        let room = closes - start;
        if room <= 0 {
            continue;
        }
        if need <= room {
            return Some(start + need);
        }
        need -= room;
    }
    None
}

/// What is to be expected. `deadline`: when what is offered ends, if it does. `late`: it was at risk until now.
pub fn outlook<Tz: TimeZone>(now: &DateTime<Tz>, legs: &[LegLeft], deadline: Option<i64>, late: bool) -> Outlook
where
    Tz::Offset: Display,
{
    let (mut last, mut known) = (None::<(i64, &LegLeft)>, true);
    for leg in legs {
        let what = format!("{}: {} still to come", leg.method, amount(leg.bytes));
        let within = format!("in the next {HORIZON_DAYS} days");
        let never = |risk: String| Outlook { expected_at: None, risk };
        match leg.rate {
            _ if leg.open.is_empty() => return never(format!("{what}, and {} does not open {within}", leg.windows)),
            None => known = false,
            Some(0) => return never(format!("{what}, and nothing comes")),
            Some(rate) => match end_of(leg.bytes, rate, leg.from, &leg.open) {
                None => return never(format!("{what} {}: not done {within}", speed(leg))),
                Some(end) if last.as_ref().is_none_or(|(at, _)| *at < end) => last = Some((end, leg)),
                Some(_) => {}
            },
        }
    }
    let slack = |end: i64| if late { (end - now.timestamp_millis()) / SLACK_PART } else { 0 };
    let risk = match (last, deadline) {
        (Some((end, leg)), Some(deadline)) if end + slack(end) > deadline => {
            let shown = |ms| now.timezone().timestamp_millis_opt(ms).single().map(|t| t.format("%Y-%m-%d %H:%M").to_string());
            let (end, deadline) = (shown(end).unwrap_or_default(), shown(deadline).unwrap_or_default());
            let what = format!("{}: {} still to come {}", leg.method, amount(leg.bytes), speed(leg));
            format!("{what}: done at about {end}, the offer ends at {deadline}")
        }
        _ => String::new(),
    };
    Outlook { expected_at: last.map(|(end, _)| end).filter(|_| known), risk }
}

/// Minutes until then, rounded up; 1 at least, as it is not done.
pub fn minutes_until(at_ms: i64, now_ms: i64) -> i64 {
    at_ms.saturating_sub(now_ms).max(1).saturating_add(59_999) / 60_000
}

fn speed(leg: &LegLeft) -> String {
    let windows = if leg.windows.is_empty() { String::new() } else { format!(" in {}", leg.windows) };
    format!("at {}{windows}", rate_text(leg.rate.unwrap_or(0)))
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{} KB", bytes.div_ceil(1000)),
        10_000_000..10_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{} GB", bytes.div_ceil(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::Europe;
    use super::*;
    use chrono::Utc;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    fn leg(method: Method, bytes: u64, rate: Option<u64>, windows: &str, now: &DateTime<Utc>) -> LegLeft {
        let open = open_spans(&Windows::parse(windows).unwrap(), now);
        LegLeft { method, bytes, rate, windows: windows.into(), open, from: now.timestamp_millis() }
    }

    fn noon() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 5, 1, 12, 0, 0).unwrap()
    }

    #[test]
    fn closed_hours_count() {
        let now = noon();
        for (windows, hours_of_work, want_hours) in [
            ("00:00-23:59", 5, 5),
            // Open from 18:00 to 05:00: eleven hours a night.
            ("18:00-05:00", 2, 8),
            ("18:00-05:00", 11, 17),
            ("18:00-05:00", 12, 31),
            ("10:00-14:00", 2, 2),
            ("10:00-14:00", 3, 23),
            ("01:00-02:00,13:00-14:00", 3, 26),
        ] {
            let open = open_spans(&Windows::parse(windows).unwrap(), &now);
            let end = end_of(hours_of_work * 3600, 1, now.timestamp_millis(), &open).unwrap();
            assert_eq!((end - now.timestamp_millis()) / HOUR, want_hours, "{windows}, {hours_of_work} h of work");
        }
        // A next try later than the opening.
        let open = open_spans(&Windows::parse("13:00-14:00").unwrap(), &now);
        let from = now.timestamp_millis() + HOUR + HOUR / 2;
        assert_eq!(end_of(1800, 1, from, &open), Some(from + HOUR / 2));
        assert_eq!(end_of(1801, 1, from, &open), Some(now.timestamp_millis() + 25 * HOUR + 1000));
        assert_eq!(end_of(u64::MAX, 1, from, &open), None);
    }

    /// The night of March 29th is an hour shorter, that of October 25th an hour longer.
    #[test]
    fn clock_changes_count() {
        // Eight hours of work fit into the short night, the ninth is done the next evening; ten fit into the long one.
        for (month, day, hours_of_work, want_hours) in [(3, 28, 8, 10), (3, 28, 9, 26), (10, 24, 10, 12), (10, 24, 11, 28)] {
            let now = Europe.with_ymd_and_hms(2026, month, day, 20, 0, 0).unwrap();
            let open = open_spans(&Windows::parse("22:00-07:00").unwrap(), &now);
            let end = end_of(hours_of_work * 3600, 1, now.timestamp_millis(), &open).unwrap();
            assert_eq!((end - now.timestamp_millis()) / HOUR, want_hours, "{month}-{day}, {hours_of_work} h of work");
        }
    }

    #[test]
    fn what_is_at_risk() {
        let now = noon();
        let at = |hours: i64| Some(now.timestamp_millis() + hours * HOUR);
        let fast = leg(Method::Bt, 3600, Some(1), "00:00-23:59", &now);
        let slow = leg(Method::Cdn, 3 * 3600, Some(1), "10:00-14:00", &now);
        let good = outlook(&now, &[fast.clone(), slow.clone()], at(24), false);
        assert_eq!(good, Outlook { expected_at: at(23), risk: String::new() });
        let bad = outlook(&now, &[slow.clone(), fast.clone()], at(22), false);
        assert_eq!(
            (bad.expected_at, bad.risk.as_str()),
            (
                at(23),
                "cdn: 11 KB still to come at 1 B/s in 10:00-14:00: done at about 2026-05-02 11:00, the offer ends at \
                 2026-05-02 10:00"
            )
        );
        // It does not flicker.
        let just = at(23).map(|t| t + 60_000);
        assert!(outlook(&now, std::slice::from_ref(&slow), just, false).risk.is_empty());
        assert!(!outlook(&now, std::slice::from_ref(&slow), just, true).risk.is_empty());
        assert!(outlook(&now, std::slice::from_ref(&slow), at(24), true).risk.is_empty());
        // What is not known yet hides nothing, and is no risk by itself.
        let unknown = LegLeft { rate: None, ..fast.clone() };
        assert_eq!(outlook(&now, &[fast.clone(), unknown.clone()], at(24), false), Outlook::default());
        assert!(!outlook(&now, &[unknown.clone(), slow.clone()], at(22), false).risk.is_empty());
        assert_eq!(outlook(&now, &[], at(0), false), Outlook::default());
        // No end at all.
        let nothing = LegLeft { rate: Some(0), ..fast.clone() };
        assert_eq!(outlook(&now, &[nothing], None, false).risk, "bt: 4 KB still to come, and nothing comes");
        let shut = LegLeft { open: Vec::new().into(), ..slow.clone() };
        assert!(outlook(&now, &[shut], None, false).risk.ends_with("10:00-14:00 does not open in the next 31 days"));
        let large = LegLeft { bytes: u64::MAX, ..slow };
        assert!(outlook(&now, &[large], None, false).risk.ends_with("at 1 B/s in 10:00-14:00: not done in the next 31 days"));
    }

    #[test]
    fn minutes_are_rounded_up() {
        for (ms, want) in [(-5, 1), (0, 1), (1, 1), (60_000, 1), (60_001, 2), (i64::MAX, i64::MAX / 60_000)] {
            assert_eq!(minutes_until(ms, 0), want, "{ms}");
        }
    }

    proptest! {
        /// What is open by the spans is open by the clock, and the other way round.
        #[test]
        fn spans_are_the_open_hours(a in 0u32..1440, b in 0u32..1440, start in 0i64..(300 * 1440), probe in 0i64..(31 * 1440)) {
            let text = format!("{:02}:{:02}-{:02}:{:02}", a / 60, a % 60, b / 60, b % 60);
            let windows = Windows::parse(&text).unwrap();
            let now = Europe.timestamp_opt(1_767_225_600 + start * 60, 0).unwrap();
            let spans = open_spans(&windows, &now);
            prop_assert!(spans.windows(2).all(|w| w[0].1 < w[1].0));
            let at = now + TimeDelta::minutes(probe);
            let inside = spans.iter().any(|(from, to)| (*from..*to).contains(&at.timestamp_millis()));
            prop_assert_eq!(inside, windows.is_open(at.time()));
        }
    }
}
