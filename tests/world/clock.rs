//! Another wall clock for one node, by Debian's `faketime`. Time that really passes (monotonic clocks) stays as it is, as it
//! does when a machine's clock is set.

use super::Node;
use std::path::{Path, PathBuf};

/// Where Debian has the library for programs with threads.
fn library() -> Option<PathBuf> {
    let arch = std::env::consts::ARCH;
    let at = PathBuf::from(format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketimeMT.so.1"));
    at.is_file().then_some(at)
}

/// A clock that can be set while its node runs.
pub struct WallClock(PathBuf);

impl WallClock {
    /// Before the node starts. `None`, with the reason printed, where `faketime` is not installed.
    pub fn of(node: &mut Node, dir: &Path) -> Option<Self> {
        let Some(library) = library() else {
            eprintln!("skipped: faketime is not installed");
            return None;
        };
        let at = dir.join(format!("{}-clock", node.role));
        let clock = Self(at);
        clock.set("+0");
        let env = [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.0.display()),
            "DONT_FAKE_MONOTONIC=1".into(),
            "FAKETIME_NO_CACHE=1".into(),
        ];
        node.runner = std::iter::once("env".to_owned()).chain(env).collect();
        Some(clock)
    }

    /// How far it is from the real one: `+0`, `+1d`, `-2h`.
    pub fn set(&self, offset: &str) {
        let draft = self.0.with_extension("draft");
        std::fs::write(&draft, offset).expect("clock");
        std::fs::rename(&draft, &self.0).expect("clock");
    }
}
