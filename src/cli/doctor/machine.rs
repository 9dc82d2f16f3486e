//! The machine: who we are, what we may, how many files, and the clock.

use super::Finding;
use chrono::{Datelike as _, Local};
use rustix::process::{Resource, getrlimit};

/// What the service raises its limit to, if it may.
const OPEN_FILES: u64 = 65_536;
/// Of `CapEff` in /proc/self/status: what a watch of the library by fanotify needs.
const WATCHING: [(&str, u32); 2] = [("CAP_DAC_READ_SEARCH", 2), ("CAP_SYS_ADMIN", 21)];
/// Before this year the product was not there.
const FIRST_YEAR: i32 = 2025;
const LAST_YEAR: i32 = 2100;

pub(super) fn checks() -> Vec<Finding> {
    let mut out = vec![user(), open_files(), clock()];
    out.extend(synchronised());
    out
}

fn user() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
    let lacking: Vec<&str> = WATCHING.iter().filter(|(_, bit)| held >> bit & 1 == 0).map(|(name, _)| *name).collect();
    let who = rustix::process::geteuid().as_raw();
    if lacking.is_empty() {
        return Finding::ok("user", format!("user {who}, may watch the library by fanotify"));
    }
    let text =
        format!("user {who}, without {}: the library is watched by inotify or by looking now and then", lacking.join(" and "));
    Finding::ok("user", text)
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < OPEN_FILES => {
            let text = format!("at most {most} open files");
            Finding::warn("open files", text, format!("LimitNOFILE={OPEN_FILES} in the unit, or ulimit -n"))
        }
        _ => Finding::ok("open files", format!("{OPEN_FILES} are allowed")),
    }
}

fn clock() -> Finding {
    let now = Local::now();
    let shown = format!("{} {}", now.format("%Y-%m-%d %H:%M:%S"), crate::clock::zone_name(&now));
    if (FIRST_YEAR..LAST_YEAR).contains(&now.year()) {
        return Finding::ok("clock", format!("{shown}; windows are in this time"));
    }
    Finding::fail("clock", format!("it shows {shown}"), "set it (timedatectl set-ntp true); replace the battery of the board")
}

/// What the kernel knows of a time service. `None`: it does not tell.
fn synchronised() -> Option<Finding> {
    // SAFETY: an all-zero timex asks and changes nothing; the kernel fills it in.
    let (state, status) = unsafe {
        let mut t: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&mut t);
        (state, t.status)
    };
    if state < 0 {
        return None;
    }
    Some(if status & libc::STA_UNSYNC == 0 {
        Finding::ok("time service", "the clock is kept by a time service")
    } else {
        let text =
            "the clock is not synchronised: object storage refuses clocks that are off by minutes, windows open at wrong times";
        Finding::warn("time service", text, "timedatectl set-ntp true, or install chrony")
    })
}
