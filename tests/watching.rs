//! The library of a real node is watched: what people and programs do to its files is in the database a moment later.

mod world;

use bft2::package::digest::Sha1State;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use world::{Node, PATIENCE, World, copy_tree, tree, until};

type Rows = BTreeMap<String, String>;

/// Seconds for what does not wait for a look every half a minute.
const AT_ONCE: u64 = 28;

async fn rows(node: &Node) -> Rows {
    let rows = node.sql("select path, sha1 from v_library").await;
    rows.into_iter().map(|r| (r[0].clone(), r[1].clone())).collect()
}

/// What the rows should say, by the files that are there.
fn files(node: &Node) -> Rows {
    let dir = node.data().join("dcp");
    tree(&dir).into_iter().map(|(name, (_, sha1))| (dir.join(name).display().to_string(), sha1)).collect()
}

/// Waits until the rows are the files, and nothing is left to do.
async fn agrees(node: &Node, what: &str) {
    until(what, PATIENCE, async || {
        let quiet = node.number("select count(*) from v_hash_queue").await == 0;
        (quiet && rows(node).await == files(node)).then_some(())
    })
    .await;
}

/// How the library is watched.
async fn method(node: &Node) -> String {
    until("it says how it watches", PATIENCE, async || {
        node.sql("select method from v_watches order by root").await.first().map(|r| r[0].clone())
    })
    .await
}

async fn started(watch: &str, data: Option<PathBuf>) -> World {
    let mut world = World::new();
    if let Some(data) = data {
        world.sender.put_data_at(data);
    }
    world.sender.set_all(&json!({"watch": watch, "settle": 1}));
    world.sender.start().await;
    world
}

/// Everything that may happen to files.
async fn a_day_of_a_library(world: &World) {
    let node = &world.sender;
    let away = world.dir.path().join("away");
    bft2_package(&away.join("film"));
    bft2_package(&away.join("film-2"));

    // Copied in; copied in under a temporary name; moved in as a whole.
    copy_tree(&away.join("film"), &node.store().join("film"));
    copy_tree(&away.join("film"), &node.store().join("copying-tmp"));
    agrees_but(node, "a copy is hashed", "copying-tmp").await;
    fs::rename(node.store().join("copying-tmp"), node.store().join("copied")).expect("rename");
    let moved = node.data().join("film-2.arriving");
    copy_tree(&away.join("film-2"), &moved);
    fs::rename(&moved, node.store().join("film-2")).expect("rename");
    agrees(node, "what was moved in is hashed").await;

    // Renamed: the digest is kept, it is not made again.
    let hashed = "select group_concat(hashed_at || sha1) from (select hashed_at, sha1 from v_library where path like '%/film-%' order by path)";
    let before = node.sql(hashed).await;
    fs::rename(node.store().join("film-2"), node.store().join("film-3")).expect("rename");
    agrees(node, "what was renamed has its digests").await;
    assert_eq!(node.sql(hashed).await, before);

    // Directories that did not exist before, deep down.
    let deep = node.data().join("dcp/cfec-002/dcps/new/sub");
    fs::create_dir_all(&deep).expect("directory");
    fs::write(deep.join("a.xml"), "deep").expect("file");
    fs::hard_link(deep.join("a.xml"), deep.join("b.xml")).expect("link");
    agrees(node, "files of new directories are hashed").await;

    // Changed, deleted, a whole directory deleted, a directory moved out.
    fs::write(deep.join("a.xml"), "changed").expect("file");
    let some = fs::read_dir(node.store().join("film")).expect("directory").next().expect("a file").expect("a file").path();
    fs::remove_file(some).expect("file");
    fs::remove_dir_all(node.store().join("copied")).expect("directory");
    fs::rename(node.store().join("film-3"), node.data().join("out")).expect("rename");
    agrees(node, "what is gone is forgotten, what changed is hashed").await;
    assert!(rows(node).await.len() > 3);
}

/// The rows are the files, but for a name that is none of the library's.
async fn agrees_but(node: &Node, what: &str, not: &str) {
    until(what, PATIENCE, async || {
        let wanted: Rows = files(node).into_iter().filter(|(path, _)| !path.contains(not)).collect();
        (rows(node).await == wanted).then_some(())
    })
    .await;
}

fn bft2_package(dir: &Path) {
    fs::create_dir_all(dir).expect("directory");
    for (name, size) in [("ASSETMAP.xml", 900), ("picture.mxf", 3 << 20), ("sound.mxf", 400_000), ("empty", 0)] {
        let seed = dir.display().to_string().len() as u8;
        fs::write(dir.join(name), vec![seed; size]).expect("file");
    }
}

/// The capabilities that fanotify needs, and the kernel's word for it: root has them, but not in every container, nor do they
/// count in a user namespace.
fn may_watch_all() -> bool {
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let held = status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
    // SAFETY: a plain system call.
    let fd = unsafe { libc::fanotify_init(libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC, libc::O_RDONLY as u32) };
    if fd >= 0 {
        // SAFETY: a descriptor of our own that nobody else knows.
        unsafe { libc::close(fd) };
    }
    fd >= 0 && held & (DAC_READ_SEARCH | SYS_ADMIN) == DAC_READ_SEARCH | SYS_ADMIN
}

/// Where the capabilities are there, it is watched by fanotify. A file system that we do not know may refuse that, which is
/// said.
async fn by_the_best(node: &Node) {
    let rows = node.sql("select filesystem, method, why from v_watches order by root").await;
    let [kind, method, why] = &rows[0][..] else { panic!("{rows:?}") };
    let refused = !["ext4", "xfs", "tmpfs"].contains(&kind.as_str()) && why.starts_with("no fanotify");
    let best = if may_watch_all() && !refused { "fanotify" } else { "inotify" };
    assert_eq!(method, best, "{rows:?}");
}

#[tokio::test]
async fn by_fanotify_where_it_may() {
    let world = started("auto", None).await;
    method(&world.sender).await;
    by_the_best(&world.sender).await;
    a_day_of_a_library(&world).await;
}

#[tokio::test]
async fn by_inotify() {
    let world = started("inotify", None).await;
    assert_eq!(method(&world.sender).await, "inotify");
    a_day_of_a_library(&world).await;
}

#[tokio::test]
async fn by_looking_now_and_then() {
    let world = started("polling", None).await;
    assert_eq!(method(&world.sender).await, "polling");
    bft2_package(&world.sender.store().join("film"));
    agrees(&world.sender, "a copy is hashed").await;
}

/// As a user of its own, with the two capabilities that the unit grants, and without.
#[tokio::test]
async fn by_a_user_with_capabilities() {
    if !rustix::process::geteuid().is_root() || !may_watch_all() || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: it takes root with all its capabilities, and setpriv");
        return;
    }
    const CAPS: &str = "+sys_admin,+dac_read_search,+lease";
    let with = vec![format!("--inh-caps={CAPS}"), format!("--ambient-caps={CAPS}")];
    for (caps, expected) in [(with, "fanotify"), (vec![], "inotify")] {
        let mut world = World::new();
        let node = &mut world.sender;
        node.set_all(&json!({"settle": 1}));
        node.binary = world.dir.path().join("bftv2");
        // By a process of its own: a program that another test starts at that moment would hold ours open for writing.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_bftv2")).arg(&node.binary).status();
        assert!(copied.is_ok_and(|s| s.success()));
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned);
        node.runner = ["setpriv".to_owned()].into_iter().chain(user).chain(caps).collect();
        let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(world.dir.path()).status();
        assert!(owned.is_ok_and(|s| s.success()));
        world.sender.start().await;
        let method = method(&world.sender).await;
        if expected == "fanotify" {
            by_the_best(&world.sender).await;
        } else {
            assert_eq!(method, expected, "{:?}", world.sender.sql("select * from v_watches").await);
        }
        // Files of another user: with the capabilities it is known whether somebody writes, without them it takes longer.
        bft2_package(&world.sender.store().join("film"));
        agrees(&world.sender, "a package of another user is hashed").await;
    }
}

/// Object storage and network file systems: others write there, and this kernel does not see it.
#[tokio::test]
async fn where_others_write_and_nobody_tells() {
    let mut world = World::new();
    let (backing, at) = (world.dir.path().join("backing"), world.sender.data().join("dcp"));
    fs::create_dir_all(backing.join("cfec-001/dcps")).expect("directory");
    fs::create_dir_all(&at).expect("directory");
    if !Command::new("bindfs").arg(&backing).arg(&at).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no bindfs to be had here");
        return;
    }
    let _mounted = Mounted { at, image: PathBuf::new(), kind: "fuse".into(), dir: None };
    world.sender.set_all(&json!({"settle": 1}));
    world.sender.start().await;
    assert_eq!(method(&world.sender).await, "polling");
    bft2_package(&backing.join("cfec-001/dcps/film"));
    agrees(&world.sender, "what came from outside is hashed").await;
    world.sender.kill();
}

/// File systems of their own, where the machine lets us make some.
#[tokio::test]
async fn on_xfs_and_on_a_file_system_that_is_mounted_below() {
    let Some(xfs) = Mounted::new("mkfs.xfs", "xfs").filter(|_| may_watch_all()) else { return };
    let mut world = started("auto", Some(xfs.at.join("data"))).await;
    assert_eq!(method(&world.sender).await, "fanotify");
    a_day_of_a_library(&world).await;

    // One more, below the library: it is watched, too, once it is seen.
    let at = world.sender.store().join("disk");
    fs::create_dir_all(&at).expect("directory");
    let Some(below) = Mounted::at(&at, world.dir.path(), "mkfs.ext4", "ext4") else { return };
    let watches = "select group_concat(filesystem || ' ' || method) from (select * from v_watches order by root)";
    until("the new disk is watched", AT_ONCE, async || {
        (world.sender.sql(watches).await[0][0] == "xfs fanotify,ext4 fanotify").then_some(())
    })
    .await;
    fs::write(at.join("a.mxf"), "on a disk of its own").expect("file");
    agrees(&world.sender, "a file on the new disk is hashed").await;

    // The disk is taken away while the service runs, which holds nothing of it; what it holds is not forgotten, also over a
    // restart, and not hashed again when it is back.
    let hashed = world.sender.sql("select * from v_library where path like '%/disk/%'").await;
    let umount = || Command::new("umount").arg(&at).output().is_ok_and(|o| o.status.success()).then_some(());
    until("it can be unmounted", PATIENCE, async || umount()).await;
    let missing = "select count(*) from v_watches where why like 'not mounted%'";
    until("the disk is missed", AT_ONCE, async || (world.sender.number(missing).await == 1).then_some(())).await;
    world.sender.kill();
    fs::write(world.sender.store().join("b.mxf"), "something else").expect("file");
    world.sender.start().await;
    let beside = "select count(*) from v_library where path like '%/b.mxf'";
    until("the library was compared", PATIENCE, async || (world.sender.number(beside).await == 1).then_some(())).await;
    assert_eq!(world.sender.sql("select * from v_library where path like '%/disk/%'").await, hashed);
    assert!(below.mount());
    until("the disk is watched again", AT_ONCE, async || {
        (world.sender.sql(watches).await[0][0] == "xfs fanotify,ext4 fanotify").then_some(())
    })
    .await;
    agrees(&world.sender, "all is as it was").await;
    assert_eq!(world.sender.sql("select * from v_library where path like '%/disk/%'").await, hashed);
    until("it can be unmounted again", PATIENCE, async || umount()).await;
    // Without its directory it is meant.
    fs::remove_dir(&at).expect("directory");
    agrees(&world.sender, "it is forgotten").await;
    world.sender.kill();
}

#[tokio::test]
async fn a_file_is_not_hashed_while_somebody_writes() {
    let world = started("auto", None).await;
    let node = &world.sender;
    let path = node.store().join("long.mxf");
    let mut writer = fs::File::create(&path).expect("file");
    writer.write_all(b"the first half, ").expect("write");
    let state = "select coalesce(max(state), '') from v_hash_queue";
    until("it is seen that it is being written", PATIENCE, async || {
        (node.sql(state).await[0][0] == "being written").then_some(())
    })
    .await;
    assert_eq!(rows(node).await, Rows::new());
    writer.write_all(b"and the second").expect("write");
    drop(writer);
    agrees(node, "it is hashed when it is whole").await;
}

#[tokio::test]
async fn what_happened_while_the_service_was_down_is_found() {
    let mut world = started("auto", None).await;
    bft2_package(&world.sender.store().join("film"));
    bft2_package(&world.sender.store().join("film-2"));
    agrees(&world.sender, "all is hashed").await;
    let hashed = world.sender.sql("select max(hashed_at) from v_library where path like '%/film/%'").await;
    world.sender.kill();
    fs::rename(world.sender.store().join("film"), world.sender.store().join("renamed")).expect("rename");
    fs::write(world.sender.store().join("film-2/sound.mxf"), "changed").expect("file");
    fs::remove_file(world.sender.store().join("film-2/empty")).expect("file");
    fs::write(world.sender.store().join("film-2/new"), "new").expect("file");
    world.sender.start().await;
    agrees(&world.sender, "the changes are found").await;
    let renamed = world.sender.sql("select max(hashed_at) from v_library where path like '%/renamed/%'").await;
    assert_eq!(renamed, hashed, "a renamed file was hashed again");
}

/// The kernel keeps 16,384 events for inotify: what comes on top is lost, said, and found again.
#[tokio::test]
async fn lost_events_are_counted_and_made_up_for() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").ok().and_then(|t| t.trim().parse::<usize>().ok());
    let files = limit.map_or(0, |n| n + 2000);
    if files == 0 || files > 40_000 {
        eprintln!("skipped: the queue of inotify holds {limit:?} events");
        return;
    }
    let world = started("inotify", None).await;
    let node = &world.sender;
    fs::create_dir_all(node.store().join("many")).expect("directory");
    fs::write(node.store().join("many/first"), "1").expect("file");
    agrees(node, "the directory is watched").await;
    let pid = rustix::process::Pid::from_raw(node.pid().cast_signed()).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stops");
    for n in 0..files {
        fs::write(node.store().join("many").join(n.to_string()), n.to_string()).expect("file");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
    until("the loss is counted", 3 * PATIENCE, async || {
        (node.number("select sum(overflows) from v_watches").await > 0).then_some(())
    })
    .await;
    until("all have rows", 3 * PATIENCE, async || {
        (node.number("select count(*) from v_library").await as usize == files + 1).then_some(())
    })
    .await;
    for (path, sha1) in rows(node).await.iter().filter(|(path, _)| !path.ends_with("first")) {
        let mut state = Sha1State::new();
        state.update(path.rsplit('/').next().expect("a name").as_bytes());
        assert_eq!(state.finish().to_string(), *sha1, "{path}");
    }
    node.told("", &["too many to be told one by one"]).await;
}

/// A file system in a file.
struct Mounted {
    at: PathBuf,
    image: PathBuf,
    kind: String,
    dir: Option<tempfile::TempDir>,
}

impl Mounted {
    fn new(mkfs: &str, kind: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("directory");
        let at = dir.path().join("mounted");
        fs::create_dir_all(&at).expect("directory");
        let mut mounted = Self::at(&at, dir.path(), mkfs, kind)?;
        mounted.dir = Some(dir);
        Some(mounted)
    }

    fn at(at: &Path, scratch: &Path, mkfs: &str, kind: &str) -> Option<Self> {
        let image = scratch.join(format!("{kind}.img"));
        fs::File::create(&image).and_then(|f| f.set_len(400 << 20)).expect("image");
        let mounted = Self { at: at.to_owned(), image, kind: kind.to_owned(), dir: None };
        let made = Command::new(mkfs).arg("-q").arg(&mounted.image).output().is_ok_and(|o| o.status.success());
        if made && mounted.mount() {
            return Some(mounted);
        }
        eprintln!("skipped: no {kind} to be had here");
        None
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-t", &self.kind, "-o", "loop"]).arg(&self.image).arg(&self.at);
        mount.output().is_ok_and(|o| o.status.success())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        drop(self.dir.take());
    }
}
