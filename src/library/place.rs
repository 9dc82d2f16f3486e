//! Which files may be in the library, and how they are reached.

use crate::config::Config;
use crate::model::ids::RelPath;
use crate::package::scan::is_service_name;
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where the library is, and what lies in it without belonging to it.
#[derive(Clone, Debug)]
pub struct Place {
    /// `basedatapath`.
    pub base: PathBuf,
    /// Packages on their way.
    pub transfer: PathBuf,
}

impl Place {
    pub fn of(config: &Config) -> Self {
        Self { base: config.basedatapath.clone(), transfer: config.transfer_dir() }
    }

    /// The path below the library's root, or why a file of this name is none of the library's.
    pub fn admit(&self, path: &str) -> Result<RelPath, &'static str> {
        let below = Path::new(path).strip_prefix(&self.base).map_err(|_| "it is not below basedatapath")?;
        // Only the plain spelling: `a//b` and `a/./b` would be a second name of the same file.
        let rel = below.to_str().filter(|rel| self.base.join(rel).as_os_str() == path).unwrap_or_default();
        let rel = RelPath::parse(rel).map_err(|_| "packages cannot hold a file of this name")?;
        if Path::new(path).starts_with(&self.transfer) {
            return Err("it is in the transfer area");
        }
        if rel.parts().any(|part| is_service_name(part) || part.ends_with("-tmp")) {
            return Err("it is one of the service's own files, hidden or temporary");
        }
        Ok(rel)
    }

    /// What is there, a symlink itself when it is one. Blocks.
    pub fn look(&self, rel: &RelPath) -> std::io::Result<Metadata> {
        self.open(rel, OFlags::PATH)?.metadata()
    }

    /// Opens a file below the root, through no symlink. Not `openat2`: part by part does the same on every kernel.
    pub(super) fn open(&self, rel: &RelPath, flags: OFlags) -> rustix::io::Result<File> {
        let mut dir: OwnedFd = rustix::fs::openat(CWD, &self.base, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut parts = rel.parts().peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return rustix::fs::openat(&dir, part, flags, Mode::empty()).map(File::from);
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, part, flags, Mode::empty())?;
        }
        Err(rustix::io::Errno::NOENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn place(base: &Path) -> Place {
        Place { base: base.to_owned(), transfer: base.join("transfer") }
    }

    #[test]
    fn only_files_of_packages_are_admitted() {
        let place = place(Path::new("/data/dcp"));
        for good in ["/data/dcp/film/a.mxf", "/data/dcp/cfec-001/dcps/film/sub/b.xml", "/data/dcp/名称", "/data/dcp/-tmp.mxf"] {
            assert!(place.admit(good).is_ok(), "{good} was refused");
        }
        for bad in [
            "/etc/passwd",
            "/data/dcp",
            "/data/dcp/",
            "/data/dcp2/a",
            "/data/dcp/../a",
            "/data/dcp/film/../../a",
            "/data/dcp//film/a",
            "/data/dcp/film//a",
            "/data/dcp/./a",
            "/data/dcp/film/",
            "/data/dcp/new\nline",
            "/data/dcp/back\\slash",
            "/data/dcp/.hidden",
            "/data/dcp/.trash/a",
            "/data/dcp/film.torrent",
            "/data/dcp/film.finished",
            "/data/dcp/film.task.json",
            "/data/dcp/a.mxf.part",
            "/data/dcp/cfec-001/dcps-tmp/film/a",
            "/data/dcp/film-tmp/a",
            "/data/dcp/transfer/stage/film/a",
            "data/dcp/film/a",
            "",
        ] {
            assert!(place.admit(bad).is_err(), "{bad:?} was admitted");
        }
    }

    #[test]
    fn links_are_seen_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("dcp");
        std::fs::create_dir_all(base.join("film")).unwrap();
        std::fs::write(base.join("film/a"), "abc").unwrap();
        std::fs::write(dir.path().join("outside"), "abc").unwrap();
        symlink("a", base.join("film/inner")).unwrap();
        symlink(dir.path(), base.join("away")).unwrap();
        let place = place(&base);
        let look = |rel: &str| place.look(&RelPath::parse(rel).unwrap());
        assert!(look("film/a").unwrap().is_file() && look("film").unwrap().is_dir());
        assert!(look("film/inner").unwrap().is_symlink() && look("away").unwrap().is_symlink());
        assert!(look("away/outside").is_err() && look("film/absent").is_err() && look("film/a/b").is_err());
    }
}
