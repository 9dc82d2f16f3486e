//! Progress on a terminal as bars, elsewhere as a line now and then: logs of scripts stay readable, and a long transfer
//! into a file still shows life.

use super::amount::human;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two plain lines of one meter.
const PLAIN_EVERY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(120);
/// Before that a rate says more about the first question than about the transfer.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// Where plain lines go. Bars always go to the error stream, and only when both streams are a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// The text is the command's output (the demo).
    Output,
    /// The output is somebody's data (`--json`).
    Error,
}

/// A group of meters.
pub struct Bars {
    multi: Option<MultiProgress>,
    plain: Plain,
}

impl Bars {
    pub fn new(plain: Plain) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let multi = terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { multi, plain }
    }

    /// A bar over bytes, with rate and time left.
    pub fn bytes(&self, name: &str, total: u64) -> Meter<'_> {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let style = "  {prefix:<12} [{wide_bar:.green}] {decimal_bytes:>10}/{decimal_total_bytes:<10} {decimal_bytes_per_sec:>12} {eta:>5} {msg}";
        self.meter(name, bar, style)
    }

    /// A spinner for work whose end is not known.
    pub fn work(&self, name: &str) -> Meter<'_> {
        self.meter(
            name,
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            "  {prefix:<12} {spinner} {elapsed:>4} {msg}",
        )
    }

    /// A line above the bars.
    pub fn say(&self, text: &str) {
        match &self.multi {
            Some(multi) => multi.suspend(|| self.line(text)),
            None => self.line(text),
        }
    }

    /// A closed pipe (`| head`) must not end a network in the middle of its work.
    fn line(&self, text: &str) {
        let _ = match self.plain {
            Plain::Output => writeln!(std::io::stdout(), "{text}"),
            Plain::Error => writeln!(std::io::stderr(), "{text}"),
        };
    }

    fn meter(&self, name: &str, bar: ProgressBar, style: &str) -> Meter<'_> {
        let bar = match &self.multi {
            Some(multi) => multi.add(bar),
            None => bar,
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name.to_owned());
        if self.multi.is_some() {
            bar.enable_steady_tick(TICK);
        }
        Meter { bars: self, bar, said: Cell::new(None), name: name.to_owned() }
    }
}

/// One bar or spinner, or its plain lines.
pub struct Meter<'a> {
    bars: &'a Bars,
    bar: ProgressBar,
    name: String,
    said: Cell<Option<Instant>>,
}

impl Meter<'_> {
    /// Bytes so far.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
        let total = self.bar.length().unwrap_or(0);
        self.now_and_then(|| {
            let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
            let rate = match self.bar.elapsed() > RATE_AFTER {
                true => format!(", {}/s", human(self.bar.per_sec() as u64)),
                false => String::new(),
            };
            format!("{} of {}, {percent:.1} %{rate}", human(done), human(total))
        });
    }

    pub fn total(&self, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
        }
    }

    /// What is going on.
    pub fn note(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.now_and_then(|| text.to_owned());
    }

    /// Leaves the bar as it is, with a last word.
    pub fn done(&self, text: &str) {
        self.bar.abandon_with_message(text.to_owned());
        if self.bars.multi.is_none() {
            self.bars.line(&format!("  {:<12} {text}", self.name));
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn now_and_then(&self, text: impl FnOnce() -> String) {
        let due = self.said.get().is_none_or(|at| at.elapsed() >= PLAIN_EVERY);
        if self.bars.multi.is_none() && due {
            self.said.set(Some(Instant::now()));
            self.bars.line(&format!("  {:<12} {}", self.name, text()));
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        // On an error path the bar must stop ticking, or it draws over the message.
        if !self.bar.is_finished() {
            self.bar.abandon();
        }
    }
}
