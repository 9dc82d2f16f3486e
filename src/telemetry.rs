//! Logs: one file per day, and the terminal on request.
//!
//! The file is `bftv2.log` (a link to today's `bftv2.<date>.log`; fourteen days are kept), because a daemon that has
//! to be restarted or signalled to rotate its log is one that somebody forgets. Lines go through a bounded queue to a
//! thread of their own: a slow disk loses log lines, never transfer time.
//!
//! Nothing here filters secrets out. They must not reach a log call in the first place: `Fault::message` is free of
//! them by rule, and the engines that see credentials (opendal, reqwest, hyper) are held at `warn`.

use std::path::Path;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Daily files that are kept.
const KEEP_FILES: usize = 14;
/// Lines that may wait for the disk; more are dropped and counted by the appender.
const QUEUE_LINES: usize = 16_384;
/// Libraries whose `info` is noise to an operator, or whose `debug` could show request headers.
const QUIET: [&str; 10] =
    ["librqbit", "librqbit_core", "opendal", "poem", "hyper", "hyper_util", "reqwest", "rustls", "sqlx", "h2"];

/// Keeps the log writer alive. Drop it last: that writes what still waits.
#[must_use = "dropping the guard ends the log"]
pub struct Guard {
    _file: Option<WorkerGuard>,
}

/// Starts logging for the process. `level` is a level (`info`) or a filter (`info,bft2::work=debug`); the environment
/// variable `BFT2_LOG` overrides it. Without a writable `logdir` the log goes to the terminal, and says so: a service
/// that cannot log must still run. A second call in one process changes nothing.
pub fn init(logdir: Option<&Path>, console: bool, level: &str) -> Guard {
    let (file, trouble) = match logdir.map(open) {
        None => (None, None),
        Some(Ok(pair)) => (Some(pair), None),
        Some(Err(e)) => (None, Some(e)),
    };
    let (writer, guard) = file.map_or((None, None), |(w, g)| (Some(w), Some(g)));
    let terminal = console || writer.is_none();
    let _ = tracing_subscriber::registry()
        .with(writer.map(|w| fmt::layer().with_ansi(false).with_writer(w).with_filter(filter(level))))
        .with(terminal.then(|| {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            fmt::layer().with_ansi(colour).with_writer(std::io::stderr).with_filter(filter(level))
        }))
        .try_init();
    if let (Some(text), Some(dir)) = (trouble, logdir) {
        tracing::warn!(dir = %dir.display(), "no log file, logging to the terminal: {text}; check logdir in the configuration");
    }
    Guard { _file: guard }
}

fn open(dir: &Path) -> Result<(NonBlocking, WorkerGuard), String> {
    std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    let appender = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("bftv2")
        .filename_suffix("log")
        .latest_symlink("bftv2.log")
        .max_log_files(KEEP_FILES)
        .build(dir)
        .map_err(|e| e.to_string())?;
    Ok(NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).lossy(true).finish(appender))
}

fn filter(level: &str) -> EnvFilter {
    let wanted = std::env::var("BFT2_LOG").ok().filter(|s| !s.trim().is_empty());
    parse(wanted.as_deref()).or_else(|| parse(Some(level))).unwrap_or_else(|| EnvFilter::new(with_quiet("info")))
}

fn parse(spec: Option<&str>) -> Option<EnvFilter> {
    EnvFilter::try_new(with_quiet(spec?)).ok()
}

/// Puts the quiet libraries in front, so that what the operator names wins.
fn with_quiet(spec: &str) -> String {
    let mut all: String = QUIET.iter().map(|name| format!("{name}=warn,")).collect();
    // Warns of every piece that is not there yet: the normal state of a download.
    all.push_str(&format!("{}::file_ops=error,", QUIET[0]));
    // An error for every task of a torrent that is stopped. How a torrent ended is told by those who started it.
    all.push_str(&format!("{}::spawn_utils=off,", QUIET[1]));
    all.push_str(spec);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_may_still_ask_for_a_quiet_library() {
        let text = parse(Some("info,librqbit=debug")).expect("valid").to_string();
        assert!(text.contains("librqbit=debug"), "{text}");
        assert!(!text.contains("librqbit=warn"), "{text}");
        assert!(text.contains("opendal=warn"), "{text}");
        assert!(parse(Some("info,=,=")).is_none());
    }

    #[test]
    fn the_file_is_found_under_its_fixed_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (writer, guard) = open(&dir.path().join("log")).expect("opens");
        let subscriber = tracing_subscriber::registry().with(fmt::layer().with_ansi(false).with_writer(writer));
        tracing::subscriber::with_default(subscriber, || tracing::info!("a line for the file"));
        drop(guard); // writes what waits, in a thread for which it waits a second
        let read = || std::fs::read_to_string(dir.path().join("log/bftv2.log")).expect("bftv2.log");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while read().is_empty() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        let text = read();
        assert!(text.contains("a line for the file"), "{text}");
    }

    #[test]
    fn a_log_directory_that_cannot_be_made_is_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("plain");
        std::fs::write(&file, "x").expect("write");
        assert!(open(&file.join("log")).is_err());
    }
}
