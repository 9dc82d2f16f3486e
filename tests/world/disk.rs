//! Small disks.

use std::path::{Path, PathBuf};
use std::process::Command;

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
