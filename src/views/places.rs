//! Where packages are put at the end: finishing one is a rename, so its store has to be on the file system of the transfer area.

use super::area::Guard;
use crate::config::Config;
use crate::error::{Fault, io_fault};
use crate::model::ids::BaseSubdir;
use crate::model::task::NodeType;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The directories that hold packages, now or once the first one comes: those of the configuration, and those that are
/// there already.
pub fn stores(config: &Config) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = config.basesubdir.iter().map(|subdir| config.dcps_dir(subdir)).collect();
    let names = std::fs::read_dir(&config.basedatapath).into_iter().flatten().flatten().map(|e| e.file_name());
    let subdirs = names.filter_map(|n| n.to_str().and_then(|n| BaseSubdir::parse(n).ok()));
    found.extend(subdirs.map(|subdir| config.dcps_dir(&subdir)).filter(|dcps| dcps.is_dir()));
    if found.is_empty() {
        found.push(config.basedatapath.clone());
    }
    found.sort();
    found.dedup();
    found
}

/// Makes the directories that must be there, and on one file system: finishing a package is a rename. `known`: rows
/// speak of packages, so what is empty may be a mount point, below which nothing is made; nor is it in an `area` that is
/// away. Blocking.
pub fn make_stores(config: &Config, area: &Guard, known: bool) -> Result<(), Fault> {
    let mut dirs = vec![config.basedatapath.clone(), config.transfer_dir().join("stage"), config.transfer_dir().join("engine")];
    if let Some(subdir) = config.basesubdir.as_ref().filter(|_| config.servertype == NodeType::Sender) {
        let made = [config.dcps_dir(subdir), config.dcps_tmp_dir(subdir)];
        dirs.extend(made.into_iter().filter(|dir| !(known && below_an_empty_directory(&config.basedatapath, dir))));
    }
    if let Some(why) = not_reachable(config, &config.basedatapath).filter(|_| !config.basedatapath.is_dir()) {
        return Err(Fault::local(why)); // a link that leads nowhere, or a file
    }
    // That may have taken long.
    area.check()?;
    for dir in &dirs {
        std::fs::create_dir_all(dir).map_err(|e| io_fault("cannot make the directory", dir, &e))?;
    }
    for why in stores(config).iter().filter_map(|store| not_reachable(config, store)) {
        tracing::warn!("{why}; until then receptions are refused");
    }
    Ok(())
}

/// Is the first of a path's parents that is there, `base` at most, empty?
fn below_an_empty_directory(base: &Path, path: &Path) -> bool {
    let there = path.ancestors().take_while(|at| at.starts_with(base)).find_map(|at| std::fs::read_dir(at).ok());
    !path.is_dir() && there.is_some_and(|mut entries| entries.next().is_none())
}

/// Why no package could be moved from the transfer area into a store, which need not be there yet; says what to do.
/// Blocking.
pub fn not_reachable(config: &Config, store: &Path) -> Option<String> {
    if config.servertype == NodeType::Cacher {
        return None; // it has no store
    }
    let stage = config.transfer_dir().join("stage");
    let [at, from] = match [nearest(store), nearest(&stage)] {
        [Ok(at), Ok(from)] => [at, from],
        [Err(why), _] | [_, Err(why)] => return Some(why),
    };
    let apart = match [mounted(&at), mounted(&from)] {
        [Ok(a), Ok(b)] => a != b,
        _ => false, // whoever goes there says why it cannot be looked at
    };
    apart.then(|| {
        format!(
            "{} and {} are on different file systems, or mounted apart: a package is renamed from one to the other. \
             Put datadir and basedatapath on one",
            store.display(),
            stage.display()
        )
    })
}

/// The first of a path's parents that is there: it has to be a directory.
fn nearest(path: &Path) -> Result<PathBuf, String> {
    for at in path.ancestors() {
        match at.metadata() {
            Ok(m) if m.is_dir() => return Ok(at.to_owned()),
            Ok(_) => return Err(format!("{} is not a directory: move it away, or correct basedatapath", at.display())),
            Err(e) if at.symlink_metadata().is_ok() => {
                return Err(match e.kind() {
                    ErrorKind::NotFound => format!("{} is a link to what is not there: is its disk mounted?", at.display()),
                    _ => format!("cannot look at {}: {e}", at.display()),
                });
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(format!("cannot look at {}: {e}", at.display())),
        }
    }
    Err(format!("{} is not below any directory", path.display()))
}

/// The file system, and where the kernel tells it the mount: nothing is renamed between two mounts of one either.
fn mounted(path: &Path) -> Result<(u32, u32, Option<u64>), Error> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let told = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok((found.stx_dev_major, found.stx_dev_minor, told.then_some(found.stx_mnt_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(dir: &Path) -> Config {
        let text =
            serde_json::json!({"servertype": "receiver", "datadir": dir.join("data"), "basedatapath": dir.join("data/dcp")});
        Config::parse(text.to_string().as_bytes()).expect("configuration").0
    }

    #[test]
    fn what_lies_in_the_way_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = node(dir.path());
        let base = &config.basedatapath;
        let store = base.join("cfec-001/dcps");
        assert_eq!(not_reachable(&config, &store), None, "nothing is there yet");
        std::fs::create_dir_all(config.transfer_dir().join("stage")).expect("directory");
        assert_eq!(not_reachable(&config, &store), None);
        std::os::unix::fs::symlink(dir.path().join("nowhere"), base).expect("link");
        let why = not_reachable(&config, &store).expect("a dangling link");
        assert!(why.contains("data/dcp is a link to what is not there"), "{why}");
        std::fs::create_dir(dir.path().join("nowhere")).expect("directory");
        assert_eq!(not_reachable(&config, &store), None, "a link that leads to a directory of the same file system");
        std::fs::write(base.join("cfec-001"), "").expect("write");
        let why = not_reachable(&config, &store).expect("a file");
        assert!(why.contains("cfec-001 is not a directory"), "{why}");
        assert_eq!(not_reachable(&config, Path::new("/proc")).map(|why| why.contains("different file systems")), Some(true));
    }

    #[test]
    fn all_stores_are_found() {
        let dir = tempfile::tempdir().expect("tempdir");
        let text = serde_json::json!({"servertype": "sender", "basesubdir": "cfec-009", "basedatapath": dir.path()});
        let config = Config::parse(text.to_string().as_bytes()).expect("configuration").0;
        std::fs::create_dir_all(dir.path().join("cfec-001/dcps")).expect("directory");
        std::fs::create_dir_all(dir.path().join("other")).expect("directory");
        assert_eq!(stores(&config), ["cfec-001/dcps", "cfec-009/dcps"].map(|n| dir.path().join(n)));
    }
}
