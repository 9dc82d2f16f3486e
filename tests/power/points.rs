//! Kills at commit points: a small library that is loaded into the process counts what makes something durable or visible
//! (`fsync`, `fdatasync`, `rename`, `unlink`), and kills the process right before the one that was asked for.

use super::disk::Disk;
use super::world::{Node, PATIENCE, until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static atomic_int passed;
static void point(void) {
    const char *path = getenv("BFT2_TEST_POINT");
    char text[16] = {0};
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) { passed = 0; return; }
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (n > 0 && atomic_fetch_add(&passed, 1) + 1 == atoi(text)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}
#define WRAP(type, name, params, args) \
    type name params { static type (*real) params; if (!real) real = dlsym(RTLD_NEXT, #name); point(); return real args; }
WRAP(int, fsync, (int fd), (fd))
WRAP(int, fdatasync, (int fd), (fd))
WRAP(int, rename, (const char *a, const char *b), (a, b))
WRAP(int, unlink, (const char *a), (a))
WRAP(int, unlinkat, (int fd, const char *a, int flags), (fd, a, flags))
"#;

/// See the module's text.
pub struct Points {
    dir: tempfile::TempDir,
    /// The node's disk, and the lives so far: every other one ends with what was not synced.
    disk: Mutex<(Option<Disk>, u32)>,
}

impl Points {
    /// Loads the library into a node that is not started yet. `None` when it cannot be built here.
    pub fn watch(node: &mut Node) -> Option<Self> {
        let points = Self { dir: tempfile::tempdir().expect("directory"), disk: Mutex::default() };
        let (source, library) = (points.path("points.c"), points.path("points.so"));
        std::fs::write(&source, SOURCE).expect("source");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).args(["-ldl"]).output();
        if !built.is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: needs a C compiler (cc)");
            return None;
        }
        node.env = vec![("LD_PRELOAD", library), ("BFT2_TEST_POINT", points.path("point"))];
        Some(points)
    }

    /// From now on every other kill is a power cut. Nobody but the node may use this disk.
    pub fn on(&self, disk: Option<Disk>) {
        self.disk.lock().expect("disk").0 = disk;
    }

    /// What the test did to the disk is there to stay.
    pub fn settle(&self) {
        if let Some(disk) = &self.disk.lock().expect("disk").0 {
            disk.settle();
        }
    }

    fn cut(&self) {
        let mut disk = self.disk.lock().expect("disk");
        disk.1 += 1;
        let with_losses = disk.1.is_multiple_of(2);
        if let Some(disk) = disk.0.as_mut().filter(|_| with_losses) {
            disk.cut();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// From now on so many operations are let through, less one.
    pub fn arm(&self, n: u32) {
        let draft = self.path("draft");
        std::fs::write(&draft, n.to_string()).expect("draft");
        std::fs::rename(&draft, self.path("point")).expect("point");
    }

    pub fn disarm(&self) {
        let _ = std::fs::remove_file(self.path("point"));
    }

    /// From now on everything is let through. Starts a node again that died at its point. `false`: it is alive.
    pub async fn revive(&self, node: &mut Node) -> bool {
        self.disarm();
        // Who was killed takes a moment to end, and answers nobody.
        let lives = async || if node.is_dead() { Some(false) } else { node.get("heartbeat").await.map(|_| true) };
        if until("it lives or is dead", PATIENCE, lives).await {
            // Who has read the point before it was taken away kills a moment later.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            if !node.is_dead() {
                return false;
            }
        }
        node.kill();
        self.cut();
        node.start().await;
        true
    }
}

/// Which points a run tries: every one when `BFT2_ALL_POINTS` is set, else one of `step` with another beginning each time.
pub fn chosen(step: u32) -> (u32, u32) {
    if std::env::var_os("BFT2_ALL_POINTS").is_some() {
        return (1, 1);
    }
    (1 + std::process::id() % step, step)
}

/// Files below a directory that were never finished.
pub fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "part") {
                found.push(path);
            }
        }
    }
    found
}
