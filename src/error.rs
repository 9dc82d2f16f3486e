//! [`Fault`]: the one error that crosses module borders. It says what a person may read, what belongs in the log
//! only, and whether trying again can help. Engines keep their own error types inside their folder.

use std::fmt;
use std::time::Duration;

/// What a failure means for the work that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// Trying again later may work: time-outs, 5xx, 429, a lost connection, a tracker that is away.
    Transient,
    /// Trying again cannot work without a change by a person: bad input, wrong credentials, a missing object.
    Permanent,
    /// The bytes are not the ones that were promised. The method that brought them must not be asked for that file again.
    Corrupt,
    /// No space, read-only file system, unreadable file: this machine needs a person.
    Local,
}

/// An error with a text for the client and a detail for the log.
#[derive(Clone, Debug)]
pub struct Fault {
    pub class: FaultClass,
    /// Safe for clients, `.err` files and the database: says what happened, to what, and what to do. Never a secret.
    pub message: String,
    /// For the log only.
    pub detail: Option<String>,
    /// The package file that is affected (relative path), where there is one.
    pub file: Option<String>,
    /// Further package files for which the same run failed for good.
    pub others: Vec<String>,
    /// What a server asked us to wait (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// The disk under the files is away, as far as can be seen: to wait helps, and a try that met it does not count.
    pub away: bool,
}

impl Fault {
    pub fn new(class: FaultClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), detail: None, file: None, others: Vec::new(), retry_after: None, away: false }
    }
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FaultClass::Transient, message)
    }
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FaultClass::Permanent, message)
    }
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(FaultClass::Corrupt, message)
    }
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(FaultClass::Local, message)
    }
    /// Adds what only the log should hold.
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }
    /// Names the package file that is affected.
    pub fn file(mut self, file: impl fmt::Display) -> Self {
        self.file = Some(file.to_string());
        self
    }
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
    /// Says that the disk under the files is away.
    pub fn away(mut self) -> Self {
        self.away = true;
        self
    }
    pub fn is_transient(&self) -> bool {
        self.class == FaultClass::Transient
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// Too many files are open, of this process or of the machine: it says nothing of the file that was to be opened.
pub fn lacks_descriptors(e: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(e), Some(Errno::MFILE | Errno::NFILE))
}

/// Errors of disks and servers that are away; also of a disk that has a bad place.
pub fn is_dead(e: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let dead = [Errno::IO, Errno::NXIO, Errno::NODEV, Errno::NOTCONN, Errno::STALE, Errno::SHUTDOWN, Errno::HOSTDOWN];
    Errno::from_io_error(e).is_some_and(|e| dead.contains(&e))
}

/// [`io_fault`] of what lies in a library and is only read: a disk that answers with errors is away, and waited for.
pub fn disk_fault(what: &str, path: &std::path::Path, e: &std::io::Error) -> Fault {
    if is_dead(e) {
        return Fault::transient(format!("{what} {}: {e}: is its disk mounted, and sound?", path.display())).away();
    }
    io_fault(what, path, e)
}

/// Local file errors with the path named, in the words the operating system uses.
/// Too many open files pass, and so does a server or a device that is away: [`FaultClass::Transient`]; everything else is
/// [`FaultClass::Local`].
pub fn io_fault(what: &str, path: &std::path::Path, e: &std::io::Error) -> Fault {
    use rustix::io::Errno;
    if lacks_descriptors(e) {
        let cure = "raise the limit of open files (LimitNOFILE of the unit, ulimit -n), or lower downloadingnum";
        return Fault::transient(format!("{what} {}: {e}; {cure}", path.display()));
    }
    if matches!(Errno::from_io_error(e), Some(Errno::NOTCONN | Errno::STALE | Errno::NODEV)) {
        return Fault::transient(format!("{what} {}: {e}: is its disk mounted?", path.display())).away();
    }
    Fault::local(format!("{what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_pass() {
        let fault = |n| io_fault("cannot open", "/x".as_ref(), &std::io::Error::from_raw_os_error(n));
        for n in [libc::EMFILE, libc::ENFILE] {
            assert!(fault(n).is_transient() && fault(n).message.contains("limit of open files"), "{}", fault(n));
        }
        assert_eq!(fault(libc::EIO).class, FaultClass::Local);
        assert!(fault(libc::ESTALE).is_transient() && fault(libc::ESTALE).away);
        let read = |n| disk_fault("cannot read", "/x".as_ref(), &std::io::Error::from_raw_os_error(n));
        for n in [libc::EIO, libc::ENXIO, libc::ESTALE] {
            assert!(read(n).is_transient() && read(n).away && read(n).message.contains("is its disk mounted"), "{}", read(n));
        }
        assert_eq!(read(libc::EACCES).class, FaultClass::Local);
    }
}
