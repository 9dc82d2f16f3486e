//! What is planned for when: the text of `showschedules` (protocol section 3.9), as a pure function.

use super::ratio::Ratio;
use super::span::Method;
use super::task::Policy;
use super::window::Windows;
use chrono::{DateTime, NaiveTime, TimeDelta, TimeZone};
use std::collections::HashMap;
use std::fmt::{Display, Write as _};

/// A task that is not done, with the legs that still have something to do.
#[derive(Clone, Debug)]
pub struct Planned {
    /// `<basesubdir>-<name>`
    pub name: String,
    pub ratio: Ratio,
    pub policy: Policy,
    /// It was taken out of the queue, as a reception.
    pub downloading: bool,
    pub legs: Vec<PlannedLeg>,
    /// The task's windows, whether or not the method has a share; none of a task that may work at any time.
    pub windows: Vec<(Method, Windows)>,
}

/// A leg that is not done. `windows` is `None` where it may work at any time.
#[derive(Clone, Debug)]
pub struct PlannedLeg {
    pub method: Method,
    pub windows: Option<Windows>,
    pub running: bool,
}

/// What the clock does with windows.
struct Times<Tz: TimeZone> {
    text: String,
    /// `None` when they are open all day.
    next: Option<DateTime<Tz>>,
}

/// The order of the sections; the last one has the ratio's order.
const ORDER: [Method; 3] = [Method::Bt, Method::Cdn, Method::Obs];

/// The whole text. `zone` gives the zone's abbreviation at a moment.
pub fn text<Tz: TimeZone>(now: &DateTime<Tz>, tasks: &[Planned], zone: impl Fn(&DateTime<Tz>) -> String) -> String
where
    Tz::Offset: Display,
{
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = out.write_fmt(text);
        out.push('\n');
    };
    let stamp = |t: &DateTime<Tz>| format!("{} {}", t.format("%Y-%m-%d %H:%M:%S %z"), zone(t));
    // Many tasks have the same few windows, and what the clock does with them takes a while to find out.
    let mut known = HashMap::<&Windows, Times<Tz>>::new();
    let all = tasks.iter().flat_map(|t| t.windows.iter().map(|(_, w)| w).chain(t.legs.iter().filter_map(|l| l.windows.as_ref())));
    for windows in all {
        known.entry(windows).or_insert_with(|| {
            let (start, stop) = windows.current_or_next(now.clone()).unwrap_or_else(|| all_day(now));
            Times { text: format!("start: {} stop: {}", stamp(&start), stamp(&stop)), next: next_opening(windows, now) }
        });
    }
    let span = |w: &Windows| known.get(w).map(|t| t.text.as_str()).unwrap_or_default();
    let next = |w: &Windows| known.get(w).and_then(|t| t.next.clone());
    line(format_args!("Now: {}", now.format("%Y-%m-%d %H:%M:%S")));
    line(format_args!("Scheduls by Methods:"));
    for method in ORDER {
        line(format_args!("{method} schedules"));
        let planned = || tasks.iter().filter_map(|t| Some((t, window(t, method)?)));
        for (task, windows) in planned() {
            line(format_args!("{} priortime: {}", task.name, span(windows)));
        }
        match planned().filter_map(|(_, w)| next(w)).min() {
            Some(at) => line(format_args!("{method} next runtime:{}", at.format("%Y-%m-%d %H:%M:%S"))),
            None => line(format_args!("{method} next runtime: no schedule")),
        }
    }
    line(format_args!("Schedules by TaskNames:"));
    for task in tasks.iter().filter(|t| !t.windows.is_empty()) {
        line(format_args!("{}", task.name));
        for method in ORDER {
            // One that is open all day limits nothing.
            let windows = task.windows.iter().find(|(m, w)| *m == method && next(w).is_some());
            match windows {
                Some((_, windows)) => line(format_args!("{method} priortime: {}", span(windows))),
                None => line(format_args!("{method} priortime: none")),
            }
        }
    }
    line(format_args!("All Current Downloading:"));
    for task in tasks.iter().filter(|t| t.downloading) {
        let legs = Method::ALL.iter().filter_map(|m| task.legs.iter().find(|l| l.method == *m)).map(|l| {
            let windows = l.windows.as_ref().map_or_else(|| Windows::all_day().to_string(), ToString::to_string);
            format!(" {}: {} {windows}", l.method, u8::from(l.running))
        });
        line(format_args!("{} bt:obs:cdn = {} {}{}", task.name, task.ratio, task.policy, legs.collect::<String>()));
    }
    out
}

fn window(task: &Planned, method: Method) -> Option<&Windows> {
    task.legs.iter().find(|l| l.method == method).and_then(|l| l.windows.as_ref())
}

/// When a leg of these windows starts next; one that may work now starts again after this window.
fn next_opening<Tz: TimeZone>(windows: &Windows, now: &DateTime<Tz>) -> Option<DateTime<Tz>> {
    let change = windows.next_change(now.clone())?;
    if windows.is_open(change.time()) { Some(change) } else { windows.next_change(change) }
}

fn all_day<Tz: TimeZone>(now: &DateTime<Tz>) -> (DateTime<Tz>, DateTime<Tz>) {
    let midnight = now.date_naive().and_time(NaiveTime::MIN);
    // A midnight that the clock skips is as good as now.
    let start = now.timezone().from_local_datetime(&midnight).earliest().unwrap_or_else(|| now.clone());
    let stop = start.clone() + TimeDelta::minutes(24 * 60 - 1);
    (start, stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::FixedOffset;

    fn planned(name: &str, ratio: &str, windows: &str) -> Planned {
        let ratio = Ratio::parse(ratio).unwrap();
        let windows = Windows::parse(windows).unwrap();
        let leg = |m: &Method| PlannedLeg { method: *m, windows: Some(windows.clone()), running: false };
        let legs = Method::ALL.iter().filter(|m| ratio.share(**m) > 0).map(leg).collect();
        let all = [(Method::Bt, Windows::all_day()), (Method::Obs, windows.clone()), (Method::Cdn, windows.clone())];
        Planned { name: name.into(), ratio, policy: Policy::Priortime, downloading: true, legs, windows: all.into() }
    }

    fn china(h: u32, m: u32, s: u32) -> DateTime<FixedOffset> {
        FixedOffset::east_opt(8 * 3600).unwrap().with_ymd_and_hms(2021, 5, 28, h, m, s).unwrap()
    }

    #[test]
    fn the_documented_text() {
        let tasks =
            [planned("cfec-001-xiaofang7", "0:1:1", "22:34-22:37"), planned("cfec-001-xiaofang9", "0:0:1", "22:34-22:37")];
        let got = text(&china(22, 33, 57), &tasks, |_| "CST".into());
        assert_eq!(got, include_str!("../../tests/fixtures/protocol/get/showschedules.txt"));
    }

    #[test]
    fn nothing_planned() {
        let got = text(&china(1, 2, 3), &[], |_| "CST".into());
        let want = "Now: 2021-05-28 01:02:03\nScheduls by Methods:\nbt schedules\nbt next runtime: no schedule\ncdn schedules\n\
                    cdn next runtime: no schedule\nobs schedules\nobs next runtime: no schedule\nSchedules by TaskNames:\n\
                    All Current Downloading:\n";
        assert_eq!(got, want);
    }

    #[test]
    fn a_running_leg_and_one_without_limits() {
        let mut task = planned("a", "1:0:1", "22:00-23:00");
        task.legs[0].running = true;
        task.legs[0].windows = Some(Windows::all_day());
        let mut free = planned("b", "1:0:0", "22:00-23:00");
        free.policy = Policy::Fulltime;
        free.legs[0].windows = None;
        free.windows.clear();
        let got = text(&china(22, 30, 0), &[task, free], |_| "CST".into());
        for line in [
            "a priortime: start: 2021-05-28 00:00:00 +0800 CST stop: 2021-05-28 23:59:00 +0800 CST",
            "bt next runtime: no schedule",
            "a priortime: start: 2021-05-28 22:00:00 +0800 CST stop: 2021-05-28 23:00:00 +0800 CST",
            "cdn next runtime:2021-05-29 22:00:00",
            "a bt:obs:cdn = 1:0:1 priortime bt: 1 00:00-23:59 cdn: 0 22:00-23:00",
            "b bt:obs:cdn = 1:0:0 fulltime bt: 0 00:00-23:59",
        ] {
            assert!(got.lines().any(|l| l == line), "{line} is not in\n{got}");
        }
        assert!(!got.contains("\nb\n"), "{got}");
    }
}
