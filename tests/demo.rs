//! The demo is the product in small, and so its first test: four processes, one real delivery, a verdict.

use std::process::{Command, Output};

fn demo(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bftv2")).arg("demo").args(args).output().expect("the binary runs")
}

fn text(o: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

#[test]
fn a_package_crosses_a_whole_network() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("demo");
    let out = demo(&["--size", "24M", "--keep", "--dir", at.to_str().unwrap()]);
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    for expected in ["verified against the packing list: complete", "bt ", "obs ", "cdn ", "100.0 %", "sqlite3 -readonly"] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
    let sql = Command::new(env!("CARGO_BIN_EXE_bftv2"))
        .args(["sql", "--format", "csv", "--db"])
        .arg(at.join("receiver/bft2.db"))
        .arg("select state, percent from v_tasks")
        .output()
        .unwrap();
    assert!(text(&sql).contains("downloaded,100"), "{}", text(&sql));
    let running = Command::new("pgrep").args(["-f", at.to_str().unwrap()]).output();
    if let Ok(running) = running {
        assert!(running.stdout.is_empty(), "processes are left: {}", String::from_utf8_lossy(&running.stdout));
    }
}

#[test]
fn without_room_it_says_so_before_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("demo");
    let out = demo(&["--size", "900T", "--dir", at.to_str().unwrap()]);
    assert!(!out.status.success());
    assert!(text(&out).contains("free"), "{}", text(&out));
    assert!(!at.join("sender").exists(), "nothing was started");
}
