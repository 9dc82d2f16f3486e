//! What the demo says at its end: what each method brought and how fast, the verdict, and where to look around.

use super::network::Plan;
use crate::cli::amount::human;
use crate::cli::client::Download;
use crate::cli::sql;
use crate::model::span::Method;
use crate::store::shell;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// A query that takes longer is not shown.
const QUERY: Duration = Duration::from_secs(5);

/// How long each step and each method took.
#[derive(Debug, Default)]
pub struct Timings {
    pub gentask: Duration,
    pub send: Duration,
    started: Option<Instant>,
    /// recv until the package was in its store.
    pub recv: Duration,
    pub methods: [Part; 3],
    pub local: u64,
    pub total: u64,
}

/// One method's part in the delivery.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    pub bytes: u64,
    /// Until its last byte was seen.
    pub took: Duration,
}

impl Timings {
    /// The reception begins.
    pub fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Looks at a progress reply.
    pub fn see(&mut self, d: &Download) {
        let now = self.started.map(|s| s.elapsed()).unwrap_or_default();
        self.recv = now;
        self.total = d.total;
        self.local = d.local_same;
        for (method, share) in self.methods.iter_mut().zip(&d.methods) {
            if share.done > method.bytes {
                *method = Part { bytes: share.done, took: now };
            }
        }
    }

    /// The table: bytes, seconds, rate and share of every method, local copies, and the whole.
    pub fn table(&self) -> String {
        let mut text = format!("  {:<8}{:>12}{:>10}{:>14}{:>10}\n", "method", "bytes", "seconds", "rate", "share");
        let mut row = |name: &str, bytes: u64, took: Duration| {
            let seconds = took.as_secs_f64();
            let share = if self.total == 0 { 0.0 } else { bytes as f64 * 100.0 / self.total as f64 };
            let rate = if seconds > 0.0 { format!("{}/s", human((bytes as f64 / seconds) as u64)) } else { String::new() };
            let _ = writeln!(text, "  {name:<8}{:>12}{seconds:>10.1}{rate:>14}{share:>8.1} %", human(bytes));
        };
        for (method, part) in Method::ALL.iter().zip(&self.methods) {
            row(method.as_str(), part.bytes, part.took);
        }
        row("local", self.local, Duration::ZERO);
        row("all", self.total, self.recv);
        let _ = write!(
            text,
            "  gentask {:.1} s, send {:.1} s, recv with verification {:.1} s",
            self.gentask.as_secs_f64(),
            self.send.as_secs_f64(),
            self.recv.as_secs_f64()
        );
        text
    }
}

/// The receiver's database, as an operator sees it. Empty when the views cannot be read: the delivery counts, not this.
pub async fn glimpse(plan: &Plan) -> String {
    let sql = "select method, state, bytes_done, bytes_wire, rate, tries from v_legs";
    let Ok(rows) = shell::query(&plan.receiver.database(), sql, QUERY).await else { return String::new() };
    let mut out = Vec::new();
    if rows.rows.is_empty() || sql::table(&mut out, &rows).is_err() {
        return String::new();
    }
    let indented: String = String::from_utf8_lossy(&out).lines().map(|l| format!("  {l}\n")).collect();
    format!("The receiver's database says (bftv2 sql '{sql}'):\n{indented}")
}

/// The lines to look around with.
pub fn explore(plan: &Plan) -> String {
    let program = std::env::current_exe().map_or_else(|_| "bftv2".into(), |p| p.display().to_string());
    let mut text = String::new();
    for (node, query) in [
        (&plan.receiver, "select task, state, percent, finished_at from v_tasks"),
        (&plan.receiver, "select path, method, bytes_done, size, state from v_files"),
        (&plan.receiver, "select at, method, bytes_done, rate from v_progress"),
        (&plan.sender, "select * from v_events"),
    ] {
        let _ = writeln!(text, "  {program} sql --db {} '{query}'", node.database().display());
    }
    let _ = writeln!(text, "  sqlite3 -readonly -box {} 'select * from v_legs'", plan.receiver.database().display());
    let _ = writeln!(text, "  {program} serve --config {}    # start a node again", plan.receiver.config().display());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Share;

    #[test]
    fn a_method_ends_with_its_last_byte() {
        let mut t = Timings::default();
        t.start();
        let mut d = Download {
            ok: true,
            status: "downloading".into(),
            desc: String::new(),
            error: String::new(),
            taskfile: String::new(),
            dcppath: String::new(),
            total: 1000,
            downloaded: 0,
            percent: 0.0,
            rate: String::new(),
            eta_minutes: -1,
            methods: [Share { done: 500, to_fetch: 500, rate: None }, Share::default(), Share::default()],
            local_same: 250,
        };
        t.see(&d);
        let first = t.methods[0].took;
        d.methods[1].done = 250;
        t.see(&d);
        assert_eq!(t.methods[0].took, first);
        assert_eq!((t.methods[0].bytes, t.methods[1].bytes, t.local), (500, 250, 250));
        let table = t.table();
        assert!(table.contains("50.0 %") && table.contains("25.0 %") && table.contains("100.0 %"), "{table}");
    }
}
