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

#[test]
fn an_interrupt_stops_every_process_and_says_where_things_are() {
    // One that was done before the signal came says nothing.
    assert!((0..5).any(|_| is_interrupted()), "five times it was done before the signal");
}

fn is_interrupted() -> bool {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("demo");
    let mut child = Command::new(env!("CARGO_BIN_EXE_bftv2"))
        .args(["demo", "--size", "100M", "--ratio", "0:1:1", "--policy", "priortime", "--dir"])
        .arg(&at)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("\n3  gentask") {
        assert_ne!(out.read_line(&mut said).unwrap(), 0, "it ended by itself:\n{said}");
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    out.read_to_string(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    if code == Some(0) {
        return false;
    }
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains(&format!("still in {}", at.display())), "{said}");
    let mine = format!("{}/", at.display());
    let left: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|p| std::fs::read(p.path().join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&mine)))
        .map(|p| p.file_name())
        .collect();
    assert!(left.is_empty(), "processes are left: {left:?}");
    true
}
