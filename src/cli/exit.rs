//! How commands end: the exit codes are a public interface for scripts, so they live in one place.

use crate::error::Fault;
use std::fmt;

/// Exit codes. `2` is also what the command line parser uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// The service refused, the task failed, or a verdict is bad.
    Refused = 1,
    Usage = 2,
    /// No service answers at the URL.
    Unreachable = 3,
    /// Asked about something that still runs.
    NotFinished = 4,
    /// This machine: no space, an unreadable file, a process that does not start.
    Local = 5,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// For `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done, and the answer is good
  1    the service refused, the task failed, the package is not valid, or doctor says FAIL
  2    wrong usage
  3    cannot reach the service
  4    not finished yet (query, progress, uprogress, hash without --watch)
  5    trouble on this machine: no space, an unreadable file, a process that does not start
  130  interrupted (Ctrl-C or SIGTERM)";

/// Why a command ends before its work is done.
#[derive(Clone, Debug)]
pub struct Failure {
    pub exit: Exit,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(Exit::Local, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Fault> for Failure {
    /// On the command line the reader is the operator, who may see what is otherwise kept for the log.
    fn from(fault: Fault) -> Self {
        let exit = if fault.class == crate::error::FaultClass::Local { Exit::Local } else { Exit::Refused };
        let file = fault.file.map(|f| format!(" ({f})")).unwrap_or_default();
        let detail = fault.detail.map(|d| format!(": {d}")).unwrap_or_default();
        Self::new(exit, format!("{}{file}{detail}", fault.message))
    }
}

/// What every command returns.
pub type Outcome = Result<Exit, Failure>;
