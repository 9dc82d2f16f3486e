//! A disk that loses what was not synced: a file system in a file. At a power cut the file is copied as it is then, which
//! is without whatever the kernel has not written back yet; the copy is mounted in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Disk {
    pub at: PathBuf,
    image: PathBuf,
    kind: &'static str,
    options: &'static str,
    lives: u32,
    _dir: tempfile::TempDir,
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
}

impl Disk {
    /// `None` when this machine does not let us mount, or has no such file system.
    pub fn new(kind: &'static str) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("bft2-disk-").tempdir().expect("directory");
        let (at, image) = (dir.path().join("mounted"), dir.path().join("0.img"));
        fs::create_dir_all(&at).expect("directory");
        fs::File::create(&image).and_then(|f| f.set_len(400 << 20)).expect("image");
        // ext4 writes its journal every five seconds: what is lost should not depend on luck. XFS minds that a copy has the
        // UUID of what is mounted, and a mount that another process still sees is.
        let options = if kind == "ext4" { "loop,commit=300" } else { "loop,nouuid" };
        let disk = Self { at, image, kind, options, lives: 0, _dir: dir };
        let made = run(&format!("mkfs.{kind}"), &["-q".as_ref(), disk.image.as_os_str()]);
        if made && disk.mount() {
            return Some(disk);
        }
        eprintln!("skipped: no {kind} to be had here (needs root, loop devices, mkfs.{kind})");
        None
    }

    fn mount(&self) -> bool {
        let (image, at) = (self.image.as_os_str(), self.at.as_os_str());
        run("mount", &["-t".as_ref(), self.kind.as_ref(), "-o".as_ref(), self.options.as_ref(), image, at])
    }

    /// The power goes. Nobody may have files open there.
    pub fn cut(&mut self) {
        self.lives += 1;
        let probe = self.at.join("unsynced");
        fs::write(&probe, "never synced").expect("probe");
        let copy = self.image.with_file_name(format!("{}.img", self.lives));
        // A copy takes its time, and the kernel may write back meanwhile: one that is torn is no disk after a power cut.
        let torn = (0..10).take_while(|_| !self.copy_to(&copy)).count();
        assert!(torn < 10, "no copy of the image can be mounted");
        // A program that another test starts has what is open here, until it is loaded.
        let done = (0..1000).any(|n| {
            std::thread::sleep(std::time::Duration::from_millis(n));
            run("umount", &[self.at.as_os_str()])
        });
        assert!(done, "{} is in use", self.at.display());
        fs::remove_file(&self.image).expect("the old image");
        self.image = copy;
        assert!(self.mount(), "the copy cannot be mounted");
        assert!(!fs::read(&probe).is_ok_and(|b| b == b"never synced"), "nothing was lost: this is no power cut");
    }

    /// Copies the image, and sees whether it can be mounted: so its journal is replayed.
    fn copy_to(&self, copy: &Path) -> bool {
        let (there, beside) = (copy.as_os_str(), self.at.with_file_name("copy"));
        fs::create_dir_all(&beside).expect("directory");
        assert!(run("cp", &["--sparse=always".as_ref(), self.image.as_os_str(), there]), "cannot copy the image");
        run("mount", &["-t".as_ref(), self.kind.as_ref(), "-o".as_ref(), self.options.as_ref(), there, beside.as_os_str()])
            && run("umount", &[beside.as_os_str()])
    }

    /// Everything reaches the disk.
    pub fn settle(&self) {
        assert!(run("sync", &["--file-system".as_ref(), self.at.as_os_str()]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
    }
}
