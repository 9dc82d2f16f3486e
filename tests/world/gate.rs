//! Holds a process where it is: a small library that is loaded into it stops every `fsync`, `read` or `pread` of the files that
//! the test names, until the test lets them through. So a state that lasts milliseconds lasts as long as it is looked at.

use super::{Node, PATIENCE, until};
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
/* The gate's file: the call and a part of the path. */
static int is_closed(const char *call, int fd) {
    const char *gate = getenv("BFT2_TEST_GATE");
    char text[512] = {0}, link[64], path[4096] = {0};
    int g = gate ? (int)syscall(SYS_openat, AT_FDCWD, gate, O_RDONLY | O_CLOEXEC) : -1;
    if (g < 0) return 0;
    long n = syscall(SYS_read, g, text, sizeof text - 1);
    syscall(SYS_close, g);
    size_t len = strlen(call);
    if (n <= 0 || strncmp(text, call, len) || text[len] != ' ') return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path - 1) > 0 && strstr(path, text + len + 1);
}
static void pass(const char *call, int fd) {
    char held[4096];
    if (!is_closed(call, fd)) return;
    snprintf(held, sizeof held, "%s.held", getenv("BFT2_TEST_GATE"));
    long h = syscall(SYS_openat, AT_FDCWD, held, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (h >= 0) syscall(SYS_close, h);
    while (is_closed(call, fd)) usleep(20000);
}
#define WRAP(type, name, call, params, args) \
    type name params { static type (*real) params; if (!real) real = dlsym(RTLD_NEXT, #name); pass(call, fd); return real args; }
WRAP(int, fsync, "fsync", (int fd), (fd))
WRAP(ssize_t, read, "read", (int fd, void *to, size_t len), (fd, to, len))
WRAP(ssize_t, pread, "pread", (int fd, void *to, size_t len, off_t at), (fd, to, len, at))
WRAP(ssize_t, pread64, "pread", (int fd, void *to, size_t len, off64_t at), (fd, to, len, at))
"#;

/// See the module's text. Open at first.
pub struct Gate {
    dir: tempfile::TempDir,
}

impl Gate {
    /// Puts it into a node that is not started yet. `None`, and a line that says so, when it cannot be built here.
    pub fn before(node: &mut Node) -> Option<Self> {
        let gate = Self { dir: tempfile::tempdir().expect("directory") };
        let (source, library) = (gate.path("gate.c"), gate.path("gate.so"));
        std::fs::write(&source, SOURCE).expect("source");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).args(["-ldl"]).output();
        if !built.is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: needs a C compiler (cc)");
            return None;
        }
        node.env = vec![("LD_PRELOAD", library), ("BFT2_TEST_GATE", gate.path("gate"))];
        Some(gate)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// From now on who calls `fsync`, `read` or `pread` for a file with this in its path is held.
    pub fn close(&self, call: &str, path: &str) {
        let _ = std::fs::remove_file(self.path("gate.held"));
        std::fs::write(self.path("draft"), format!("{call} {path}")).expect("draft");
        std::fs::rename(self.path("draft"), self.path("gate")).expect("gate");
    }

    /// Waits until somebody is held.
    pub async fn holds(&self, what: &str) {
        until(what, PATIENCE, async || self.path("gate.held").exists().then_some(())).await;
    }

    pub fn open(&self) {
        let _ = std::fs::remove_file(self.path("gate"));
    }
}
