//! Small disks.

use super::{PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A file system of its own, unmounted at the end.
pub struct Small(PathBuf);

impl Small {
    /// `None` when this machine does not let us mount.
    pub fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("directory");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        done.is_ok_and(|o| o.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A disk that can be unplugged: a file system in a file, with a mount point.
pub struct Loop {
    pub at: PathBuf,
    image: PathBuf,
}

impl Loop {
    /// Formatted and mounted. `None`, with the reason printed, when this machine does not let us mount.
    pub fn plug_in(at: &Path, image: PathBuf, megabytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).expect("directory");
        let disk = Self { at: at.to_owned(), image };
        if disk.format(megabytes) && disk.mount() {
            return Some(disk);
        }
        eprintln!("skipped: no ext4 in a file to be had here (needs root, loop devices, mkfs.ext4)");
        None
    }

    fn format(&self, megabytes: u64) -> bool {
        std::fs::File::create(&self.image).and_then(|f| f.set_len(megabytes << 20)).expect("image");
        Command::new("mkfs.ext4").arg("-q").arg(&self.image).output().is_ok_and(|o| o.status.success())
    }

    pub fn mount(&self) -> bool {
        let done = Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&self.image).arg(&self.at).output();
        done.is_ok_and(|o| o.status.success())
    }

    /// Mounted again. The kernel gives the device free when the last file is closed that was open when it was unplugged,
    /// which may be now.
    pub async fn mount_again(&self) {
        until("it is mounted again", PATIENCE, async || self.mount().then_some(())).await;
    }

    /// The name leads to an empty mount point at once; files that are open stay open.
    pub fn unplug(&self) {
        let done = Command::new("umount").arg("--lazy").arg(&self.at).output().expect("umount");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// An empty one in its place. It is not mounted now.
    pub fn replace(&mut self, megabytes: u64) {
        self.image = self.image.with_extension("new");
        assert!(self.format(megabytes), "mkfs.ext4");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
    }
}

/// A file server that can hang: a directory that is served by a process.
pub struct Served {
    at: PathBuf,
    server: Child,
}

impl Served {
    /// `None`, with the reason printed, when this machine does not let us mount.
    pub async fn mount(backing: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(backing).expect("directory");
        std::fs::create_dir_all(at).expect("directory");
        // The kernel is to remember nothing: it would answer in the server's place.
        let ask_always = ["-f", "-o", "attr_timeout=0,entry_timeout=0"];
        let Ok(server) = Command::new("bindfs").args(ask_always).arg(backing).arg(at).spawn() else {
            eprintln!("skipped: no bindfs to be had here");
            return None;
        };
        let mut served = Self { at: at.to_owned(), server };
        let is_mounted = || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
        };
        let ended = until("bindfs is there, or not", PATIENCE, async || {
            let ended = served.server.try_wait().expect("bindfs").is_some();
            (ended || is_mounted()).then_some(ended)
        })
        .await;
        if ended {
            eprintln!("skipped: bindfs cannot mount here (needs root, /dev/fuse)");
            return None;
        }
        Some(served)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("a signal to bindfs");
    }

    /// Nobody gets an answer from now on.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    pub fn answer(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
