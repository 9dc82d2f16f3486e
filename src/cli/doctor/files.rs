//! What lies on this machine's disks: configuration, directories, room, database.

use super::Finding;
use crate::cli::amount::human;
use crate::cli::newdisk::AREA_MARK;
use crate::config::Config;
use crate::error::FaultClass;
use crate::model::task::NodeType;
use crate::store::inspect::{Depth, inspect, newest_schema};
use crate::store::shell;
use crate::store::wal::{WAL_LIMIT, holders, wal_bytes, writer};
use crate::views::area::{self, Look};
use crate::views::places::{not_reachable, stores};
use rustix::fs::{Access, access, statfs, statvfs};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With less room than this nothing works (bytes); with less than the second, not for long.
const NO_ROOM: u64 = 64 << 20;
const LITTLE_ROOM: u64 = 5 << 30;
/// A database of which more is free than used, and more than this, is worth making smaller.
const MUCH_FREE: u64 = 256 << 20;
/// So many files are counted of what was put aside.
const MOST_ASIDE: u32 = 100_000;
/// So many looks at who may write, so far apart.
const LOCK_LOOKS: u32 = 20;
const LOCK_LOOK: Duration = Duration::from_millis(50);
/// Magic numbers of NFS, SMB, CIFS and FUSE.
const NETWORK: [u64; 4] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x6573_5546];

pub(super) fn config(path: &Path) -> (Option<Config>, Vec<Finding>) {
    match Config::load(path) {
        Ok((config, warnings)) => {
            let mut out = vec![Finding::ok("config", format!("{}: a {}", path.display(), config.servertype))];
            out.extend(warnings.into_iter().map(|w| Finding::warn("config", w, format!("correct {}", path.display()))));
            (Some(config), out)
        }
        Err(e) => {
            let todo =
                format!("correct {}, or name another one with --config; as the service's user, who may read it", path.display());
            (None, vec![Finding::fail("config", e.to_string(), todo)])
        }
    }
}

/// The first of a path's parents that is there.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

pub(super) fn directories(config: &Config) -> Vec<Finding> {
    let parent = |p: &Path| p.parent().unwrap_or(Path::new("/")).to_owned();
    let mut dirs = vec![
        ("datadir", config.datadir.clone()),
        ("basedatapath", config.basedatapath.clone()),
        ("database", parent(&config.database)),
        ("logdir", config.logdir.clone()),
    ];
    if config.servertype != NodeType::Cacher {
        dirs.push(("hashtable", parent(&config.hashtable)));
    }
    if let Some(subdir) = &config.basesubdir {
        dirs.push(("dcps", config.dcps_dir(subdir)));
    }
    for below in [config.receiver_dir(), config.transfer_dir(), config.transfer_dir().join("stage")] {
        dirs.push(("datadir", below));
    }
    let mut out: Vec<Finding> = dirs.iter().filter_map(|(key, dir)| directory(key, dir)).collect();
    if out.is_empty() {
        out.push(Finding::ok("directories", "all of them can be written"));
    }
    if config.servertype != NodeType::Cacher {
        let (stores, transfer) = (stores(config), config.transfer_dir());
        let apart: Vec<String> = stores.iter().filter_map(|store| not_reachable(config, store)).collect();
        out.extend(apart.iter().map(|why| {
            Finding::fail("file system", format!("{why}: receptions are refused"), "put datadir and basedatapath on one")
        }));
        if apart.is_empty() {
            let text = format!("{} and {} are on one file system", config.basedatapath.display(), transfer.display());
            out.push(Finding::ok("file system", text));
        }
    }
    out
}

/// What is wrong with a directory that the service writes to.
fn directory(key: &'static str, dir: &Path) -> Option<Finding> {
    let at = nearest(dir);
    if !at.is_dir() {
        return Some(Finding::fail(
            "directories",
            format!("{} ({key}) is not a directory", at.display()),
            format!("correct {key}, or move it away"),
        ));
    }
    let refused = access(at, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).err()?;
    let what =
        if at == dir { "cannot be written".to_owned() } else { format!("is not there, and {} cannot be written", at.display()) };
    let text = format!("{} ({key}) {what}: {}", dir.display(), std::io::Error::from(refused));
    let todo = match refused {
        rustix::io::Errno::ROFS => "mount it for writing; a disk that turned read-only has errors: see dmesg".to_owned(),
        _ => format!("let the service's user own {}", dir.display()),
    };
    // The log then goes to the terminal, and a hash table that cannot be written stops no delivery.
    Some(if matches!(key, "logdir" | "hashtable") {
        Finding::warn("directories", text, todo)
    } else {
        Finding::fail("directories", text, todo)
    })
}

/// What others had put into staging directories, and was moved out of the way: it is theirs, so nobody else removes it.
pub(super) fn aside(config: &Config) -> Option<Finding> {
    let dir = config.transfer_dir().join("stage/aside");
    let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let things: Vec<PathBuf> = below(&dir).iter().flat_map(|task| below(task)).collect();
    if things.is_empty() {
        return None;
    }
    let (mut bytes, mut seen, mut todo) = (0u64, 0, things.clone());
    while let Some(path) = todo.pop().filter(|_| seen < MOST_ASIDE) {
        seen += 1;
        match path.symlink_metadata() {
            Ok(m) if m.is_dir() => todo.extend(below(&path)),
            Ok(m) => bytes = bytes.saturating_add(m.blocks().saturating_mul(512)),
            Err(_) => {}
        }
    }
    let more = if todo.is_empty() { "" } else { "more than " };
    let text = format!("{} of others in {} ({more}{})", things.len(), dir.display(), human(bytes));
    Some(Finding::warn("aside", text, "it lay in the way of receptions; look at it, keep what is needed, delete the rest"))
}

/// Each file system once.
pub(super) fn room(config: &Config) -> Vec<Finding> {
    let (mut seen, mut out) = (Vec::new(), Vec::new());
    let dirs: [PathBuf; 4] =
        [config.datadir.clone(), config.basedatapath.clone(), config.database.clone(), config.logdir.clone()];
    for dir in &dirs {
        let at = nearest(dir);
        let Ok(device) = std::fs::metadata(at).map(|m| m.dev()) else { continue };
        if seen.contains(&device) {
            continue;
        }
        seen.push(device);
        let Ok(fs) = statvfs(at) else { continue };
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        let text = format!("{} free at {}", human(free), at.display());
        let todo = "delete packages that are not needed any more, or add a disk";
        out.push(match free {
            _ if fs.f_files > 0 && fs.f_favail == 0 => {
                Finding::fail("room", format!("no inode is free at {}", at.display()), todo)
            }
            n if n < NO_ROOM => Finding::fail("room", text, todo),
            n if n < LITTLE_ROOM => Finding::warn("room", text, todo),
            _ => Finding::ok("room", text),
        });
    }
    out
}

pub(super) async fn database(config: &Config, depth: Depth) -> Vec<Finding> {
    let db = &config.database;
    let shown = db.display();
    match std::fs::metadata(db) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return vec![Finding::ok("database", format!("{shown} is not there yet: the first start makes it"))];
        }
        Ok(m) if m.len() == 0 => return vec![Finding::ok("database", format!("{shown} is empty: the next start fills it"))],
        Ok(_) => {}
        Err(e) => return vec![Finding::fail("database", format!("{shown}: {e}"), "run this as the service's user")],
    }
    let sound = match inspect(db, depth).await {
        Ok(sound) => sound,
        Err(fault) => {
            let todo = if fault.class == FaultClass::Local { "see operating.md, Backup" } else { "try again; see the log" };
            return vec![Finding::fail("database", fault.message, todo)];
        }
    };
    let mut out = Vec::new();
    let old = sound.schema.is_none_or(|v| v < newest_schema());
    let schema = if old { ", an older schema: the next start brings it up to date" } else { "" };
    let check = if depth == Depth::Full { "integrity_check" } else { "quick_check" };
    out.push(Finding::ok("database", format!("{shown}: {}, {check} ok{schema}", human(sound.bytes))));
    if sound.free > MUCH_FREE && sound.free > sound.bytes / 2 {
        let text = format!("{} of it are free for new rows", human(sound.free));
        out.push(Finding::warn("database", text, "a backup has no free pages: restore one to make the file smaller"));
    }
    let wal = wal_bytes(db);
    if wal > WAL_LIMIT {
        let who: Vec<String> = holders(db).iter().map(ToString::to_string).collect();
        let who = if who.is_empty() {
            "no reader is seen; the service writes it back when it runs".to_owned()
        } else {
            format!("held by {}", who.join(", "))
        };
        let text = format!("the log {shown}-wal has grown to {}: {who}", human(wal));
        out.push(Finding::warn("database log", text, "end the transaction of that program, or the program"));
    } else {
        out.push(Finding::ok("database log", human(wal)));
    }
    if let Some(dir) = db.parent()
        && statfs(dir).is_ok_and(|fs| NETWORK.contains(&(fs.f_type as u64 & 0xffff_ffff)))
    {
        out.push(Finding::warn(
            "database",
            format!("{} is a network file system: locks may not hold there", dir.display()),
            "put the database on a local disk",
        ));
    }
    out.extend(locked(db).await);
    out.extend(owner(db));
    out.extend(times(db).await);
    out
}

/// A program that holds the right to write for a second. The service holds it for milliseconds at a time.
async fn locked(db: &Path) -> Option<Finding> {
    let first = writer(db)?;
    for _ in 0..LOCK_LOOKS {
        tokio::time::sleep(LOCK_LOOK).await;
        writer(db).filter(|now| *now == first)?;
    }
    let text = format!("{first} is in a transaction that writes: the service cannot");
    Some(Finding::fail("database", text, "end that transaction, or the program; ask with bftv2 sql or sqlite3 -readonly"))
}

/// Is the transfer area the one that the database speaks of?
pub(super) async fn disk(config: &Config) -> Option<Finding> {
    let found = shell::query(&config.database, AREA_MARK, Duration::from_secs(5)).await.ok()?.rows;
    let mark = found.first()?.first()?.clone()?;
    Some(match area::look(&config.transfer_dir(), &mark) {
        Look::There => Finding::ok("disk", format!("{} is the one that the database speaks of", config.transfer_dir().display())),
        Look::Away(why) => Finding::fail("disk", why, "mount it; or, when another disk takes its place: bftv2 newdisk"),
    })
}

/// Whoever asks should be the one who serves.
fn owner(db: &Path) -> Option<Finding> {
    let (owner, me) = (std::fs::metadata(db).ok()?.uid(), rustix::process::geteuid().as_raw());
    (owner != me).then(|| {
        let text = format!("the database belongs to user {owner}, this is user {me}: rights were checked for the wrong one");
        Finding::warn("user", text, format!("sudo -u '#{owner}' bftv2 doctor"))
    })
}

/// Rows from the future: the clock was set back, or was ahead when they were written.
async fn times(db: &Path) -> Option<Finding> {
    let sql = "select count(*) from v_events where at > datetime('now', 'localtime', '+1 hour')";
    let rows = shell::query(db, sql, Duration::from_secs(5)).await.ok()?.rows;
    let later = rows.first()?.first()?.clone().filter(|n| n != "0")?;
    let text = format!("{later} events are later than now: the clock was set back, or was ahead");
    Some(Finding::warn("clock", text, "set the clock; retention and windows follow it, nothing is lost"))
}
