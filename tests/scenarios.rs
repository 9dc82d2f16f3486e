//! The acceptance scenarios of the protocol: S on a sender, R on a receiver, D for repeated receptions, T for schedules.
//! Every step is an operator's: the scripts of `scripts/`, in an environment that points them at real nodes. Then the scripts themselves:
//! what they refuse, what they never delete, the watchdog.

mod world;

use chrono::TimeZone as _;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use world::{
    Node, PATIENCE, Progress, Reply, WallClock, World, entries, flip_byte, make_package, read_json, seconds, tree, until,
    watch_until,
};

const ZDS: &str = "zds_3d_ADV_F_CMN-CMN_CN-G_20-CMN_2K_20160827__i3D_OV";
const OTHER: &str = "cfec-002";
/// The sender's. The receiver has none.
const TOKEN: &str = "token-of-a-test";
const MIB: u64 = 1 << 20;
/// `progress` and its like: not finished yet.
const NOT_FINISHED: i32 = 4;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// What a script answered.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// It ended well. What it printed.
    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
    /// The last line of what a good one printed: the service's answer.
    #[track_caller]
    fn answer(self) -> String {
        self.good().lines().next_back().unwrap_or_default().to_owned()
    }
    /// It ended with this code, and some line says so.
    #[track_caller]
    fn refused(self, code: i32, text: &str) {
        assert!(self.code == code && (self.out.contains(text) || self.err.contains(text)), "{code}, {text:?}: {self:?}");
    }
}

/// An operator's shell on a node's machine: the environment that the scripts read, and nothing else.
struct Shell {
    env: Vec<(String, String)>,
}

impl Shell {
    fn at(data: &Path, url: &str) -> Self {
        let path = std::env::var("PATH").expect("PATH");
        let fixed = [("PATH", path.as_str()), ("BFTV2", env!("CARGO_BIN_EXE_bftv2")), ("BFT2_URL", url)];
        let mut shell = Self { env: fixed.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec() };
        shell.set("BFT2_DATA", &data.display().to_string());
        shell.set("BFT2_BUCKETS", "/nowhere/buckets.txt");
        shell
    }

    fn on(node: &Node) -> Self {
        Self::at(node.data(), &node.url(""))
    }

    fn set(&mut self, key: &str, value: &str) {
        self.env.retain(|(k, _)| k != key);
        self.env.push((key.into(), value.into()));
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    /// Starts a script, with an end that comes in any case.
    fn start(&self, program: &Path, args: &[&str]) -> Child {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &PATIENCE.to_string()]).arg(program).args(args);
        command.env_clear().envs(self.env.iter().cloned()).current_dir(std::env::temp_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()))
    }

    fn run(&self, script: &str, args: &[&str]) -> Said {
        said(self.start(&scripts().join(script), args))
    }

    /// A function of functions.sh, as a script calls it.
    fn call(&self, function: &str, args: &[&str]) -> Said {
        let source = scripts().join("functions.sh").display().to_string();
        let body = r#"set -euo pipefail; . "$0"; "$@""#;
        said(self.start(Path::new("bash"), &[&["-c", body, &source, function], args].concat()))
    }

    /// `progress.sh`, as soon as the task is not in the queue any more.
    async fn progress(&self, name: &str, basesubdir: &str) -> (i32, Progress) {
        until("the reception is under way", PATIENCE, async || {
            let said = self.run("progress.sh", &[name, basesubdir, "--json"]);
            let progress = Progress(Reply::read(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}")));
            (progress.status() != "queues").then_some((said.code, progress))
        })
        .await
    }
}

fn said(child: Child) -> Said {
    let output = child.wait_with_output().expect("output");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

fn task_of(name: &str, basesubdir: &str) -> String {
    format!("{basesubdir}-{name}.task.json")
}

/// The hash table, edited by hand: only the lines that `keep` wants stay, and the database follows. Returns the others.
async fn edit_hash_table(node: &Node, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let file = node.hashtable();
    let known = async || node.number("select count(*) from v_library where state = 'ok'").await;
    let shown = until("the hash table shows the library", PATIENCE, async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let quiet = node.number("select count(*) from v_hash_queue").await == 0;
        (quiet && lines.len() as u64 == known().await).then_some(lines)
    });
    let (kept, gone): (Vec<_>, Vec<_>) = shown.await.into_iter().partition(|line| keep(line));
    std::fs::write(&file, kept.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("write");
    let wanted = kept.len() as u64;
    until("the database follows the hash table", PATIENCE, async || (known().await == wanted).then_some(())).await;
    gone
}

/// Packages of different sizes: none shares a file with another.
fn fixtures(world: &World) {
    let dcps = world.sender.store();
    let other = world.sender.data().join("dcp").join(OTHER).join("dcps");
    std::fs::create_dir_all(&other).expect("directory");
    std::fs::create_dir_all(world.objects().join(OTHER)).expect("bucket");
    make_package(&dcps, "xiaofang", 9 * MIB, 1);
    make_package(&other, "xiaofang", 9 * MIB, 1);
    make_package(&dcps, "xiaofang2", 8 * MIB, 1);
    make_package(&dcps, "xiaofang4", 10 * MIB, 2);
    make_package(&dcps, ZDS, 12 * MIB, 3);
}

#[tokio::test]
async fn the_acceptance_scenarios() {
    let mut world = World::new();
    world.sender.set("token", TOKEN);
    // The scripts' default store, and time enough to look at a reception.
    world.receiver.set("receiverstoreplan", "A");
    rate(&mut world.receiver, "50K");
    fixtures(&world);
    world.start().await;
    send_scenario(&world).await;
    receive_scenario(&mut world).await;
    repeat_scenario(&world).await;

    // What was served can be stopped.
    let sender = Shell::on(&world.sender).with("BFT2_TOKEN", TOKEN);
    sender.run("cancel.sh", &["xiaofang", OTHER]).good();
    assert_eq!(world.sender.places(&task_of("xiaofang", OTHER)), ["sender/history"]);
}

fn rate(node: &mut Node, rate: &str) {
    for key in ["btrate", "obsrate", "cdnrate"] {
        node.set(key, rate);
    }
}

async fn send_scenario(world: &World) {
    let sender = Shell::on(&world.sender).with("BFT2_TOKEN", TOKEN);
    // Not without the token.
    Shell::on(&world.sender).run("query.sh", &["xiaofang", OTHER]).refused(1, "token");

    // S1, S2
    assert!(sender.run("gentask.sh", &["xiaofang", "", "", OTHER]).good().contains("please wait until"));
    let asked = sender.run("query.sh", &["xiaofang", OTHER]);
    assert!(
        (asked.code == 0 && asked.out.starts_with("finished:"))
            || (asked.code == NOT_FINISHED && asked.out.starts_with("unfinished:")),
        "{asked:?}"
    );
    // S3, with a very long generation behind it, so that the next one is not over before it is asked about
    sender.run("gentask.sh", &["xiaofang2", "1:1:0", "priortime"]).good();
    let long = world.sender.store().join("long");
    std::fs::create_dir(&long).expect("directory");
    std::fs::File::create(long.join("reel.mxf")).expect("file").set_len(64 << 30).expect("a sparse file");
    sender.run("gentask.sh", &["long", "1:0:0"]).good();
    // S4
    sender.run("gentask.sh", &["xiaofang4", "1:1:1", "priortime"]).good();
    // S5
    sender.run("gentask.sh", &["xiaofang-nonexists"]).refused(1, "refused: error, not exist dcp path: ");
    // S6
    sender.run("query.sh", &["xiaofang4"]).refused(NOT_FINISHED, "unfinished: ");
    // S7
    sender.run("query.sh", &["xiaofang-nonexists"]).refused(1, "error: not exist ");
    sender.run("gentask.sh", &[ZDS, "1:1:1", "fulltime", world::SUBDIR]).good();
    sender.run("cancel.sh", &["long"]).good();
    // The library would hash all of it, and what the test does later would wait behind it.
    std::fs::remove_dir_all(&long).expect("remove");
    // S8
    let all = [("xiaofang2", world::SUBDIR), ("xiaofang4", world::SUBDIR), ("xiaofang", OTHER), (ZDS, world::SUBDIR)];
    for (name, basesubdir) in all {
        sender.call("waitfinished", &[name, basesubdir]).good();
        let task = read_json(&world.sender.data().join("sender/tmp").join(task_of(name, basesubdir)));
        assert_eq!((task["name"].as_str(), task["basesubdir"].as_str()), (Some(name), Some(basesubdir)));
        let dcps = world.sender.data().join("dcp").join(basesubdir).join("dcps");
        assert!(dcps.join(format!("{name}.torrent")).is_file());
        let (ratio, policy) = match name {
            "xiaofang2" => ("1:1:0", "priortime"),
            "xiaofang4" => ("1:1:1", "priortime"),
            _ => ("1:1:1", "fulltime"),
        };
        assert_eq!((task["bt-obs-cdn"].as_str(), task["policy"].as_str()), (Some(ratio), Some(policy)));
    }
    let (dcppath, task) = (world.sender.store().join("xiaofang2"), task_of("xiaofang2", world::SUBDIR));
    let task = world.sender.data().join("sender/tmp").join(task);
    sender.call("waitfinished2", &[&dcppath.display().to_string(), &task.display().to_string()]).good();

    // S9
    assert_eq!(sender.run("send.sh", &["xiaofang", OTHER, "true"]).good(), "succeeded!\n");
    // S10; the file may move on between the script's look and the service's
    until("a second send is refused", PATIENCE, async || {
        let again = sender.run("send.sh", &["xiaofang", OTHER, "false"]);
        assert_eq!(again.code, 1, "{again:?}");
        let texts = ["same taskfile in queues:", "same taskfile in uploading:", "exisited same name ct torrent bt process"];
        texts.iter().any(|text| again.out.contains(text)).then_some(())
    })
    .await;
    // S11
    sender.run("uprogress.sh", &["xiaofang-nonexists"]).refused(1, "unknown");
    // S12
    assert!(sender.call("waitready", &["xiaofang", OTHER]).good().starts_with("ready\n"));
    assert_eq!(world.sender.places(&task_of("xiaofang", OTHER)), ["sender/uploaded"]);
    // S13
    sender.run("send.sh", &[ZDS]).good();
    sender.run("send.sh", &["xiaofang2"]).good();
    sender.run("autosend.sh", &["xiaofang4", "1:1:1", "priortime"]).good();
    for (name, basesubdir) in all {
        sender.call("waitready", &[name, basesubdir]).good();
        let served = sender.run("uprogress.sh", &[name, basesubdir]).good();
        assert!(served.starts_with("ready\n") && served.contains("bt   seeding\n"), "{served}");
        assert_eq!(world.sender.places(&task_of(name, basesubdir)), ["sender/uploaded"]);
    }
}

/// The receiver's shell, which may fetch task files from the sender.
fn receiving(world: &World) -> (Shell, String) {
    let from = world.sender.url("");
    (Shell::on(&world.receiver).with("BFT2_FROM_TOKEN", TOKEN), from.trim_end_matches('/').to_owned())
}

fn received(world: &World, name: &str) -> PathBuf {
    world.receiver.data().join("dcp").join(name)
}

fn master(world: &World, name: &str, basesubdir: &str) -> PathBuf {
    world.sender.data().join("dcp").join(basesubdir).join("dcps").join(name)
}

/// The copy is the master to the byte, marked, and good in the eyes of `checkdcp`.
fn assert_intact(world: &World, name: &str, basesubdir: &str) {
    assert_eq!(tree(&received(world, name)), tree(&master(world, name, basesubdir)), "{name} differs from the master");
    assert!(received(world, &format!("{name}.finished")).is_file());
    let (shell, _) = receiving(world);
    let text = shell.call("checkdcp", &[name, basesubdir]).good();
    assert!(text.contains("good: "), "{text}");
    if Command::new("ctorrent").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok() {
        let pieces = text.lines().find_map(|l| l.strip_prefix("ctorrent: ")?.strip_suffix(" pieces")?.split_once('/'));
        assert!(pieces.is_some_and(|(have, all)| have == all), "{text}");
    }
    assert!(entries(&world.sender.store()).iter().all(|e| !e.ends_with(".bf")), "ctorrent left its bitfield");
}

async fn receive_scenario(world: &mut World) {
    let (receiver, from) = receiving(world);
    let from = from.as_str();
    let task = task_of("xiaofang", OTHER);
    let here = world.receiver.data().join("receiver/tmp").join(&task);

    // R1
    assert!(receiver.run("cancel.sh", &["xiaofang", OTHER]).good().contains("no need to cancel, not found task: "));
    receiver.call("cleanstore", &["xiaofang"]).good();
    edit_hash_table(&world.receiver, |_| false).await;
    // R2; not without the sender's token
    let stranger = Shell::on(&world.receiver).call("cpsendertask", &[&task, from]);
    assert!(stranger.code != 0 && !here.exists(), "{stranger:?}");
    receiver.call("cpsendertask", &[&task, from]).good();
    assert_eq!(read_json(&here), read_json(&world.sender.data().join("sender/uploaded").join(&task)));
    assert_eq!(std::fs::metadata(&here).expect("metadata").permissions().mode() & 0o777, 0o600);

    // R3
    assert_eq!(receiver.run("recv.sh", &["xiaofang", OTHER, "false"]).good(), "succeed!\n");
    // R4
    receiver.run("recv.sh", &["xiaofang-nonexists", OTHER]).refused(1, "no such file or directory");
    // R5
    let (code, before) = receiver.progress("xiaofang", OTHER).await;
    assert_eq!((code, before.status().as_str()), (NOT_FINISHED, "downloading"));
    assert_eq!(receiver.run("recv2.sh", &["xiaofang", OTHER, "true", from]).answer(), "succeed!");
    // R6
    let (code, progress) = receiver.progress("xiaofang", OTHER).await;
    assert_eq!((code, progress.0.text("localsamepercent").as_str()), (NOT_FINISHED, "0.000%"));
    // R7
    rate(&mut world.receiver, "");
    assert!(world.receiver.get("reloadconf").await.is_some());
    assert!(receiver.call("waitdownloaded", &["xiaofang", OTHER]).good().starts_with("downloaded: 100.000 %"));
    assert_intact(world, "xiaofang", OTHER);
    let files = tree(&received(world, "xiaofang")).len() as u64;
    assert_eq!(world.receiver.number("select count(*) from v_library").await, files);

    // R8
    let local = "same name task downloaded, all localsamefiles existed copy and finished, succeed!";
    assert_eq!(receiver.run("recv2.sh", &["xiaofang", OTHER, "false", from]).answer(), local);
    receiver.call("waitdownloaded", &["xiaofang", OTHER]).good();
    assert_eq!(world.receiver.wire(&task, "%").await, 0);
    // R9
    receiver.run("recv2.sh", &["xiaofang-nonexists", OTHER]).refused(1, "no such file or directory");
    // R10
    assert_eq!(receiver.run("recv2.sh", &["xiaofang", OTHER, "true", from]).answer(), local);
    // R11
    let (_, progress) = receiver.progress("xiaofang", OTHER).await;
    assert_eq!(progress.0.text("localsamepercent"), "100.000%");
    // R12, and a check that would see damage
    receiver.call("waitdownloaded", &["xiaofang", OTHER]).good();
    assert_intact(world, "xiaofang", OTHER);
    flip_byte(&largest(&received(world, "xiaofang")), 4321);
    receiver.call("checkdcp", &["xiaofang", OTHER]).refused(1, "NOT GOOD");

    // R13
    let names = ["xiaofang2", "xiaofang4", ZDS];
    for name in ["xiaofang"].iter().chain(&names) {
        receiver.call("cleanstore", &[name]).good();
    }
    edit_hash_table(&world.receiver, |_| false).await;
    assert_eq!(entries(&received(world, "")), [world::SUBDIR]);
    let script = scripts().join("autorecv.sh");
    let running = names.map(|name| receiver.start(&script, &[name, world::SUBDIR, "false", from]));
    for (name, child) in names.iter().zip(running) {
        let text = said(child).good();
        assert!(text.contains("\nsucceed!\n") && text.contains("downloaded: 100.000 %"), "{text}");
        assert_intact(world, name, world::SUBDIR);
        assert_eq!(world.receiver.places(&task_of(name, world::SUBDIR)), ["receiver/downloaded"]);
    }
}

fn largest(dir: &Path) -> PathBuf {
    let files = tree(dir);
    let (path, _) = files.iter().max_by_key(|(_, (size, _))| *size).expect("a file");
    dir.join(path)
}

async fn repeat_scenario(world: &World) {
    let (receiver, from) = receiving(world);
    let task = task_of(ZDS, world::SUBDIR);
    let again = || receiver.run("recv2.sh", &[ZDS, world::SUBDIR, "false", &from]).answer();

    // D1
    assert!(again().ends_with("all localsamefiles existed copy and finished, succeed!"));
    receiver.call("waitdownloaded", &[ZDS]).good();
    assert_eq!(world.receiver.wire(&task, "%").await, 0);
    assert_intact(world, ZDS, world::SUBDIR);

    // D2: the lines of two files, one of them a track
    let dir = received(world, ZDS);
    let missing = [largest(&dir), dir.join("ASSETMAP.xml")].map(|f| f.display().to_string());
    let gone = edit_hash_table(&world.receiver, |line| !missing.iter().any(|f| line.ends_with(f.as_str()))).await;
    assert_eq!(gone.len(), missing.len(), "{gone:?}");
    assert_eq!(again(), "same name task downloaded, to download again.");
    receiver.call("waitdownloaded", &[ZDS]).good();
    let size: u64 = missing.iter().map(|f| std::fs::metadata(f).expect("metadata").len()).sum();
    let wire = world.receiver.wire(&task, "%").await;
    // BitTorrent's pieces reach over the ends of files.
    assert!(wire >= size && wire < size + 2 * MIB, "{wire} bytes on the wire for {size} that were missing");
    let local = read_json(&world.receiver.data().join("receiver/downloaded").join(&task));
    let mut local: Vec<_> = local["localsamefiles"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    local.sort_unstable();
    let files = tree(&dir);
    let expected: Vec<_> = files.keys().filter(|f| !missing.contains(&dir.join(f).display().to_string())).collect();
    assert_eq!(local, expected);
    assert_intact(world, ZDS, world::SUBDIR);
}

/// Names and ratios of scenario T; the last one needs the slots of two days.
const SLOTTED: [(&str, &str, u64); 6] = [
    ("slot-bt", "1:0:0", 3),
    ("slot-all", "1:1:1", 6),
    ("slot-bt-cdn", "1:0:1", 4),
    ("slot-obs-cdn", "0:1:1", 5),
    ("slot-cdn", "0:0:1", 7),
    ("slot-large", "0:0:1", 160),
];
const SLOT: &str = "21:00-21:02";

/// In real time, save that the clock is moved over what nothing happens in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schedule_scenario() {
    let mut world = World::new();
    let Some(clock) = WallClock::new(world.dir.path(), "CST-8") else { return };
    let slot = |day: u32, minute: u32| chrono::Utc.with_ymd_and_hms(2026, 6, day, 13, minute, 0).unwrap();
    clock.set(slot(1, 0) - chrono::TimeDelta::minutes(30));
    clock.rule(&mut world.sender);
    clock.rule(&mut world.receiver);
    world.receiver.set("receiverstoreplan", "A");
    world.receiver.set("downloadingnum", SLOTTED.len());
    rate(&mut world.receiver, "1200K");
    for (name, _, mib) in SLOTTED {
        make_package(&world.sender.store(), name, mib * MIB, 3);
    }
    world.start().await;

    // T1
    for key in ["bttime", "obstime", "cdntime"] {
        world.sender.set(key, SLOT);
    }
    assert_eq!(world.sender.get("reloadconf").await.as_deref(), Some("reload config json ok."));
    // T2, T3, T4: nothing starts now
    let sender = Shell::on(&world.sender);
    let (receiver, from) = receiving(&world);
    let script = scripts().join("autosend.sh");
    let running = SLOTTED.map(|(name, ratio, _)| sender.start(&script, &[name, ratio, "priortime", world::SUBDIR]));
    for child in running {
        said(child).good();
    }
    for (name, ..) in SLOTTED {
        assert_eq!(receiver.run("recv2.sh", &[name, world::SUBDIR, "false", &from]).answer(), "succeed!");
        let (_, progress) = receiver.progress(name, world::SUBDIR).await;
        assert_eq!((progress.status().as_str(), progress.downloaded()), ("downloading", 0), "{name}");
    }
    watch_until(Instant::now() + Duration::from_secs(3)).await;
    let wire = async || world.receiver.number("select sum(bytes_wire) from v_legs where role = 'receiver'").await;
    assert_eq!(wire().await, 0, "bytes before the slot");
    // T5
    let shown = world.receiver.get("showschedules").await.expect("an answer");
    assert!(shown.starts_with("Now: 2026-06-01 20:"), "{shown}");
    let lines: Vec<&str> = shown.lines().skip(1).collect();
    assert_eq!(lines, wanted_schedules(), "{shown}");

    // T4: the five come in the slot; T6: the large one is at work in it
    let opens = clock.set_before(slot(1, 0), 3);
    until("the first byte of the slot", PATIENCE, async || (wire().await > 0).then_some(())).await;
    println!("measured: the first byte was seen {:.1} s after the slot began", seconds(opens, Instant::now()));
    assert!(Instant::now() >= opens, "bytes before the slot");
    let five = || SLOTTED.iter().map(|(name, ..)| *name).filter(|name| *name != "slot-large");
    for name in five() {
        assert!(receiver.call("waitdownloaded", &[name, world::SUBDIR]).good().starts_with("downloaded: 100.000 %"));
        assert_eq!(world.receiver.places(&task_of(name, world::SUBDIR)), ["receiver/downloaded"]);
    }
    let large = task_of("slot-large", world::SUBDIR);
    let leg = format!("select state || ' ' || error from v_legs where task = '{large}'");
    assert_eq!(world.receiver.sql(&leg).await.concat(), ["running "]);
    assert!(world.receiver.get("showschedules").await.is_some_and(|t| t.contains(&format!("0:0:1 priortime cdn: 1 {SLOT}\n"))));
    // ... and gone after it, which is no error
    clock.set_before(slot(1, 2), 2);
    until("it stops", PATIENCE, async || (world.receiver.sql(&leg).await.concat() == ["waiting "]).then_some(())).await;
    let before = wire().await;
    watch_until(Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(wire().await, before, "bytes after the slot");
    let (code, progress) = receiver.progress("slot-large", world::SUBDIR).await;
    let first_day = progress.downloaded();
    assert_eq!((code, progress.status().as_str(), progress.error().as_str()), (NOT_FINISHED, "downloading", ""));
    assert!(first_day > MIB, "{first_day}");
    assert_eq!(entries(&world.receiver.data().join("receiver/downloading")), std::slice::from_ref(&large), "no .err beside it");
    for name in five() {
        assert_intact(&world, name, world::SUBDIR);
    }
    // The second day
    clock.set_before(slot(2, 0), 2);
    until("more progress", PATIENCE, async || {
        let (_, progress) = receiver.progress("slot-large", world::SUBDIR).await;
        (progress.downloaded() > first_day + MIB).then_some(())
    })
    .await;
    rate(&mut world.receiver, "");
    assert!(world.receiver.get("reloadconf").await.is_some());
    receiver.call("waitdownloaded", &["slot-large", world::SUBDIR]).good();
    assert_intact(&world, "slot-large", world::SUBDIR);
}

/// `showschedules` of scenario T before its first slot, without the line of the time.
fn wanted_schedules() -> Vec<String> {
    let (start, stop) = ("2026-06-01 21:00:00 +0800 CST", "2026-06-01 21:02:00 +0800 CST");
    let mut out = vec!["Scheduls by Methods:".to_owned()];
    let share = |ratio: &str, at: usize| ratio.split(':').nth(at) == Some("1");
    for (method, at) in [("bt", 0), ("cdn", 2), ("obs", 1)] {
        out.push(format!("{method} schedules"));
        let named = SLOTTED.iter().filter(|(_, ratio, _)| share(ratio, at));
        out.extend(named.map(|(name, ..)| format!("{}-{name} priortime: start: {start} stop: {stop}", world::SUBDIR)));
        out.push(format!("{method} next runtime:2026-06-01 21:00:00"));
    }
    out.push("Schedules by TaskNames:".to_owned());
    for (name, ..) in SLOTTED {
        out.push(format!("{}-{name}", world::SUBDIR));
        out.extend(["bt", "cdn", "obs"].map(|m| format!("{m} priortime: start: {start} stop: {stop}")));
    }
    out.push("All Current Downloading:".to_owned());
    for (name, ratio, _) in SLOTTED {
        let legs = ["bt", "obs", "cdn"].iter().enumerate().filter(|(at, _)| share(ratio, *at));
        let legs: String = legs.map(|(_, m)| format!(" {m}: 0 {SLOT}")).collect();
        out.push(format!("{}-{name} bt:obs:cdn = {ratio} priortime{legs}", world::SUBDIR));
    }
    out
}

/// A data directory without a service: everything that asks one is told so.
fn alone() -> (tempfile::TempDir, Shell) {
    let dir = tempfile::tempdir().expect("tempdir");
    for sub in ["dcp", "sender/tmp", "receiver/tmp", "receiver/queues"] {
        std::fs::create_dir_all(dir.path().join(sub)).expect("directory");
    }
    let [nobody] = world::free_ports();
    let shell = Shell::at(dir.path(), &format!("http://{nobody}"));
    (dir, shell)
}

/// The scripts that end by themselves and take a package's name.
const WITH_NAME: [&str; 11] =
    ["gentask", "query", "send", "recv", "recv2", "progress", "uprogress", "cprogress", "cancel", "autosend", "autorecv"];

#[test]
fn every_script_has_a_manual() {
    let (_dir, shell) = alone();
    for script in WITH_NAME.iter().chain(&["changetest", "bftv2run"]).map(|s| format!("{s}.sh")) {
        let mut ways = vec![vec!["-h"], vec!["--help"]];
        if script != "bftv2run.sh" {
            ways.extend([vec![], vec![""]]);
        }
        for args in ways {
            let said = shell.run(&script, &args);
            assert!(said.out.is_empty() && said.err.lines().any(|l| l.starts_with(&format!("  {script} "))), "{said:?}");
            said.refused(2, "");
        }
    }
}

#[test]
fn odd_names_are_refused_and_nothing_is_deleted() {
    let (dir, shell) = alone();
    for file in ["dcp/film/reel.mxf", "dcp/film.finished", "receiver/queues/cfec-001-film.task.json", "precious"] {
        let file = dir.path().join(file);
        std::fs::create_dir_all(file.parent().expect("parent")).expect("directory");
        std::fs::write(file, "x").expect("write");
    }
    let before = tree(dir.path());
    for name in ["/", ".", "..", "../film", "film/", "/film", "-rf", "a\nb", ".hidden"] {
        for script in WITH_NAME {
            shell.run(&format!("{script}.sh"), &[name]).refused(2, "odd name");
        }
        shell.run("recv.sh", &["film", name]).refused(2, "odd basesubdir");
        for function in ["cleanstore", "checkdcp", "waitready"] {
            shell.call(function, &[name]).refused(2, "odd name");
        }
    }
    shell.call("cleanstore", &[""]).refused(2, "odd name");
    shell.call("cleanstore", &[]).refused(2, "odd name");
    for store in ["/", "//", "relative", "."] {
        let at = Shell { env: shell.env.clone() }.with("BFT2_STORE", store);
        at.call("cleanstore", &["film"]).refused(2, "BFT2_STORE");
    }
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_reception_from_scratch_deletes_its_own_package_alone() {
    let (dir, shell) = alone();
    let put = |path: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(path, "x").expect("write");
    };
    for other in ["dcp/film2/reel.mxf", "dcp/film2.finished", "receiver/queues/cfec-001-film2.task.json"] {
        put(other);
    }
    put("receiver/tmp/cfec-001-film.task.json");
    let others = tree(dir.path());
    // No task file: the service would have refused, so nothing is cleared.
    put("dcp/unsent/reel.mxf");
    put("dcp/unsent.finished");
    shell.run("recv.sh", &["unsent"]).refused(3, "cannot reach the service");
    assert!(dir.path().join("dcp/unsent/reel.mxf").exists());
    shell.call("cleanstore", &["unsent"]).good();

    // A master, or what was put there by hand, has no end mark.
    put("dcp/film/reel.mxf");
    shell.run("recv.sh", &["film"]).refused(1, "was not received here");
    assert!(dir.path().join("dcp/film/reel.mxf").exists());
    put("dcp/film.finished");
    put("receiver/queues/cfec-001-film.task.json");
    shell.run("recv.sh", &["film"]).refused(3, "cannot reach the service");
    assert_eq!(tree(dir.path()), others);

    // What is linked to is not the library's.
    put("elsewhere/reel.mxf");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("dcp/film")).expect("link");
    put("dcp/film.finished");
    shell.call("cleanstore", &["film"]).good();
    assert!(dir.path().join("elsewhere/reel.mxf").exists() && !dir.path().join("dcp/film").exists());
}

#[test]
fn task_files_may_still_come_by_scp() {
    let (dir, shell) = alone();
    let tools = dir.path().join("tools");
    std::fs::create_dir(&tools).expect("directory");
    let scp = "#!/bin/sh\n[ \"$1 $2\" = '-q --' ] && [ \"${3%%:*}\" = root@sender ] && cp \"${3#*:}\" \"$4\"\n";
    std::fs::write(tools.join("draft"), scp).expect("write");
    // By a process of its own: a program that another test starts at that moment would hold ours open for writing.
    let made = Command::new("install").arg("-m755").arg(tools.join("draft")).arg(tools.join("scp")).status();
    assert!(made.is_ok_and(|s| s.success()));
    let far = dir.path().join("far");
    std::fs::create_dir_all(far.join("sender/uploaded")).expect("directory");
    std::fs::write(far.join("sender/uploaded/cfec-001-film.task.json"), "{}").expect("write");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("PATH"));
    let shell = shell.with("BFT2_COPY", "scp").with("BFT2_SENDER_DATA", &far.display().to_string()).with("PATH", &path);
    shell.call("cpsendertask", &["cfec-001-film", "root@sender"]).good();
    assert_eq!(entries(&dir.path().join("receiver/tmp")), ["cfec-001-film.task.json"]);
    assert_ne!(shell.call("cpsendertask", &["cfec-001-none", "root@sender"]).code, 0);
    assert_eq!(entries(&dir.path().join("receiver/tmp")), ["cfec-001-film.task.json"]);
    for odd in ["", "-oProxyCommand=x", "a b"] {
        shell.call("cpsendertask", &["cfec-001-film", odd]).refused(2, "odd sender");
    }
}

#[test]
fn the_institution_of_test_files_is_changed() {
    let (dir, shell) = alone();
    let file = dir.path().join("case1.frank");
    std::fs::write(&file, "/data/dcp/cfec-001/dcps \"cfec-001-film.task.json\" cfec-0012 xcfec-001\nnothing\n").expect("write");
    let path = file.display().to_string();
    assert!(shell.run("changetest.sh", &["cfec-001", "wuxi-001", &path]).good().contains("1 lines"));
    let text = std::fs::read_to_string(&file).expect("read");
    assert_eq!(text, "/data/dcp/wuxi-001/dcps \"wuxi-001-film.task.json\" cfec-0012 xcfec-001\nnothing\n");
    shell.run("changetest.sh", &["cfec-001", "wuxi-001", &path]).refused(1, "");
    shell.run("changetest.sh", &["cfec/001", "wuxi-001", &path]).refused(2, "odd basesubdir");
    shell.run("changetest.sh", &["cfec-001"]).refused(2, "changetest.sh OLD NEW");
    shell.run("changetest.sh", &["cfec-001", "wuxi-001", "/nowhere/case.frank"]).refused(5, "no such file");
}

/// Keys of a bucket of its own, by the list of buckets: they reach the task file, and no command line.
#[tokio::test]
async fn a_bucket_may_have_keys_of_its_own() {
    let world = World::started().await;
    world.package("film", 6, 1);
    let buckets = world.dir.path().join("buckets.txt");
    let lines = "other ak-of-other sk-of-other other.example.com\ncfec-001 ak-of-bucket sk-of-bucket obs.example.com";
    std::fs::write(&buckets, lines).expect("write");
    let sender = Shell::on(&world.sender).with("BFT2_BUCKETS", &buckets.display().to_string());
    sender.run("gentask.sh", &["film", "0:1:0"]).good();
    sender.call("waitfinished", &["film"]).good();
    let task = read_json(&world.sender.data().join("sender/tmp/cfec-001-film.task.json"));
    let obs = ["obsak", "obssk", "obsendpoint"].map(|key| task["obs"][key].as_str().unwrap_or_default().to_owned());
    assert_eq!(obs, ["ak-of-bucket", "sk-of-bucket", "obs.example.com"]);
}

#[tokio::test]
async fn a_cacher_is_asked_by_cprogress() {
    let mut world = World::started().await;
    world.cacher.start().await;
    let cacher = Shell::on(&world.cacher);
    cacher.run("cprogress.sh", &["film"]).refused(1, "noseeding: unknown task, not found task.");
    world.package("film", 6, 1);
    let sender = Shell::on(&world.sender);
    sender.run("autosend.sh", &["film", "1:0:0"]).good();
    let from = world.sender.url("");
    assert_eq!(cacher.run("recv.sh", &["film", "", "false", from.trim_end_matches('/')]).answer(), "succeed!");
    until("the cacher seeds", PATIENCE, async || {
        let said = cacher.run("cprogress.sh", &["film", "cfec-001"]);
        said.out.starts_with("seeding: btseeding dir:").then_some(())
    })
    .await;
    let again = cacher.run("recv.sh", &["film", "", "true", from.trim_end_matches('/')]).answer();
    assert_eq!(again, "reactive cacher bt seeding with taskfile:cfec-001-film.task.json");
    assert_eq!(cacher.run("cancel.sh", &["film"]).good(), "succeed!\n");
}

/// The watchdog's process group, which ends with the test.
struct Group(Child);

impl Group {
    fn kill(&self, signal: libc::c_int, whole: bool) {
        let pid = libc::pid_t::try_from(self.0.id()).expect("pid");
        // SAFETY: plain system calls; the child leads a group of its own and is not yet waited for.
        unsafe {
            libc::kill(if whole { -pid } else { pid }, signal);
        }
    }

    /// The service, as long as it runs.
    fn service(&self) -> Option<libc::pid_t> {
        let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).ok()?;
        children.split_whitespace().find(|pid| of(pid).trim() == "bftv2")?.parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill(libc::SIGKILL, true);
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_watchdog_starts_the_service_again() {
    let world = World::new();
    let node = &world.receiver;
    let logs = world.dir.path().join("watchdog");
    let shell = Shell::on(node).with("BFT2_LOGDIR", &logs.display().to_string()).with("BFT2_RESTART_DELAY", "1");
    let config = node.config_path().display().to_string();
    let mut command = Command::new(scripts().join("bftv2run.sh"));
    command.arg(&config).env_clear().envs(shell.env.iter().cloned()).stdin(Stdio::null()).process_group(0);
    let mut watchdog = Group(command.spawn().expect("a watchdog"));
    let answers = async || node.get("heartbeat").await.and_then(|_| watchdog.service());
    let first = until("the service answers", PATIENCE, answers).await;

    shell.run("bftv2run.sh", &[&config]).refused(1, "a watchdog writes to ");

    // SAFETY: a plain system call; the watchdog has not yet waited for this child of its own.
    unsafe {
        libc::kill(first, libc::SIGKILL);
    }
    let another = async || node.get("heartbeat").await.and_then(|_| watchdog.service()).filter(|pid| *pid != first);
    until("the service answers again", PATIENCE, another).await;

    watchdog.kill(libc::SIGTERM, false);
    let ended = until("the watchdog ends", PATIENCE, async || watchdog.0.try_wait().expect("status")).await;
    assert!(ended.success(), "{ended}");
    assert!(node.get("heartbeat").await.is_none(), "the service outlived the watchdog");
    let log = std::fs::read_to_string(logs.join("bftv2run.log")).expect("log");
    assert_eq!(log.matches(" start: ").count(), 2, "{log}");
    assert!(log.contains(" ended with code 137 after ") && log.trim_end().ends_with(" stop"), "{log}");
}
