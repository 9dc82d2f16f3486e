//! The one table at the end.

use bft2::cli::amount::human;
use std::time::Duration;

/// A large delivery may hold so many bytes more than a small one: peaks of the same delivery differ by about as much from
/// run to run. Memory that grew with the bytes would be seven times what the small one has.
const NOISE: u64 = 30_000_000;

/// One line.
pub struct Row {
    cells: [String; 6],
    good: bool,
}

impl Row {
    /// Medians of ours and theirs; the ratio must not exceed `limit`.
    pub fn race(what: &str, rival: &str, ours: &[Duration], theirs: &[Duration], limit: f64) -> Self {
        let (ours, theirs) = (median(ours), median(theirs));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64().max(1e-9);
        Self::new(
            what,
            seconds(ours),
            format!("{} {rival}", seconds(theirs)),
            format!("{ratio:.2}"),
            format!("{limit:.2}"),
            ratio <= limit,
        )
    }

    pub fn at_most(what: &str, ours: Duration, limit: Duration) -> Self {
        Self::new(what, seconds(ours), String::new(), String::new(), seconds(limit), ours <= limit)
    }

    /// Bytes of memory against a limit.
    pub fn memory_at_most(what: &str, ours: u64, limit: u64) -> Self {
        Self::new(what, human(ours), String::new(), String::new(), human(limit), ours <= limit)
    }

    /// Bytes as a multiple of others.
    pub fn share(what: &str, ours: u64, of: u64, limit: f64) -> Self {
        let ratio = ours as f64 / (of as f64).max(1.0);
        Self::new(what, human(ours), human(of), format!("{ratio:.2}"), format!("{limit:.2}"), ratio <= limit)
    }

    /// A latency, in milliseconds.
    pub fn latency(what: &str, ours: Duration, limit: Duration) -> Self {
        let ms = |d: Duration| format!("{:.2} ms", d.as_secs_f64() * 1000.0);
        Self::new(what, ms(ours), String::new(), String::new(), ms(limit), ours <= limit)
    }

    /// Medians of the same work with and without something beside it.
    pub fn beside(what: &str, with: &[Duration], without: &[Duration], limit: f64) -> Self {
        Self::race(what, "without callers", with, without, limit)
    }

    /// Bytes of a large delivery against a limit and against those of a small one.
    pub fn memory(what: &str, large: u64, small: u64, limit: u64) -> Self {
        let ratio = large as f64 / (small as f64).max(1.0);
        let limits = format!("{}, + {}", human(limit), human(NOISE));
        let good = large < limit && large <= small.saturating_add(NOISE);
        Self::new(what, human(large), format!("{} with 1 GB", human(small)), format!("{ratio:.2}"), limits, good)
    }

    fn new(what: &str, ours: String, theirs: String, ratio: String, limit: String, good: bool) -> Self {
        let verdict = if good { "good" } else { "MISSED" };
        Self { cells: [what.to_owned(), ours, theirs, ratio, limit, verdict.to_owned()], good }
    }

    pub fn good(&self) -> bool {
        self.good
    }
}

/// Aligned columns.
pub fn text(rows: &[Row]) -> String {
    let head = ["what", "ours", "theirs", "ratio", "limit", "verdict"].map(str::to_owned);
    let lines: Vec<&[String; 6]> = std::iter::once(&head).chain(rows.iter().map(|r| &r.cells)).collect();
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line.iter()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 6]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    lines.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The middle one; the upper of two.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
