//! Is the transfer area the one that the database speaks of? Its disk may be away: what is found then is an empty mount
//! point, or another disk. A mark in the area, whose text is in the database, tells.
//!
//! While it is away nothing is concluded from what is missing, and nothing is made there: it would lie below the mount point.

use crate::error::{Fault, io_fault, lacks_descriptors};
use crate::store::Store;
use crate::store::lock::Lock;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The name of the mark.
const MARK: &str = ".disk";
/// A longer text is none of ours (bytes).
const LONGEST: u64 = 200;

/// The transfer area of a node.
pub struct Area {
    dir: PathBuf,
    /// Another process must not use it, as each removes what it does not know.
    lock: Mutex<Option<Lock>>,
    /// It was there since the start: who clears it away later has to say so.
    seen: AtomicBool,
    /// It was said that it cannot be marked.
    told: AtomicBool,
}

/// For whoever concludes something from what is missing below the area.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    dir: PathBuf,
    mark: Option<String>,
}

fn read_mark(dir: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match File::open(dir.join(MARK)).and_then(|f| f.take(LONGEST).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text.trim().to_owned())),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn write_mark(dir: &Path, mark: &str) -> Result<(), Fault> {
    let (at, part) = (dir.join(MARK), dir.join(".disk.part"));
    let written = std::fs::create_dir_all(dir).and_then(|()| {
        let mut file = File::create(&part)?;
        writeln!(file, "{mark}")?;
        file.sync_all()?;
        std::fs::rename(&part, &at)?;
        File::open(dir)?.sync_all()
    });
    written.map_err(|e| io_fault("cannot write", &at, &e))
}

/// What is wrong, if something is.
fn why_away(dir: &Path, found: &io::Result<Option<String>>, mark: Option<&str>) -> Option<String> {
    let (shown, file) = (dir.display(), dir.join(MARK));
    let cure =
        "Nothing is lost or forgotten: all goes on by itself when it is. When another disk is to take its place: bftv2 newdisk";
    match found {
        Ok(Some(found)) if mark == Some(found) => None,
        Ok(Some(_)) => Some(format!(
            "{shown} is not the transfer area that the database speaks of, as {} is another one: is the right disk mounted? {cure}",
            file.display()
        )),
        Ok(None) => Some(format!(
            "{shown} is not the transfer area that the database speaks of, as {} is not there: is the disk mounted? {cure}",
            file.display()
        )),
        Err(e) if lacks_descriptors(e) => None,
        Err(e) => Some(format!("cannot read {}: {e}: is the disk mounted, and sound? {cure}", file.display())),
    }
}

impl Guard {
    /// For the area that is `dir`.
    pub async fn of(dir: &Path, store: &Store) -> Result<Self, Fault> {
        Ok(Self { dir: dir.to_owned(), mark: store.area_mark().await? })
    }

    /// A fault when the area is away. Without a mark in the database nobody knows. Blocks.
    pub fn check(&self) -> Result<(), Fault> {
        let Some(mark) = &self.mark else { return Ok(()) };
        match why_away(&self.dir, &read_mark(&self.dir), Some(mark)) {
            Some(why) => Err(Fault::transient(why).away()),
            None => Ok(()),
        }
    }
}

impl Area {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, lock: Mutex::default(), seen: AtomicBool::new(false), told: AtomicBool::new(false) }
    }

    /// Why the area is away, if it is. One that nobody has used yet, or of which no row speaks, is taken as it is.
    pub async fn look(&self, store: &Store) -> Result<Option<String>, Fault> {
        let noted = store.area_mark().await?;
        let dir = self.dir.clone();
        let look = tokio::task::spawn_blocking(move || (read_mark(&dir), dir.join("stage").is_dir())).await;
        let (found, used) = look.map_err(|e| Fault::local(format!("looking at the transfer area: {e}")))?;
        let away = why_away(&self.dir, &found, noted.as_deref());
        if let (Some(_), Ok(found)) = (&away, &found) {
            let seen = self.seen.load(Ordering::Relaxed);
            // A database of before there were marks, and one without rows.
            let unmarked = noted.is_none() && (seen || found.is_some() || used);
            if !unmarked && (seen || store.speaks_of_data().await?) {
                return Ok(away);
            }
            let mark = found.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
            if found.is_none() {
                let (dir, mark) = (self.dir.clone(), mark.clone());
                let written = tokio::task::spawn_blocking(move || write_mark(&dir, &mark)).await;
                // A full disk is no reason not to work.
                if let Err(fault) = written.unwrap_or_else(|e| Err(Fault::local(format!("marking the transfer area: {e}")))) {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%fault, "the transfer area cannot be marked now: that its disk is away would not be noticed");
                    }
                    self.seen.store(noted.is_none(), Ordering::Relaxed);
                    return Ok(None);
                }
            }
            store.set_area_mark(&mark).await?;
        } else if away.is_some() {
            return Ok(away);
        }
        self.seen.store(true, Ordering::Relaxed);
        Ok(None)
    }

    /// Takes it for this process. [`Area::look`] says before whether it is there.
    pub fn take(&self) -> Result<(), Fault> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            *lock = Some(Lock::take(&self.dir.join(".lock"), &format!("the transfer area {}", self.dir.display()))?);
        }
        Ok(())
    }

    pub fn is_taken(&self) -> bool {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Nothing of ours keeps the disk busy any more.
    pub fn let_go(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What a look of another program says.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    There,
    Away(String),
}

/// Compares the area with the mark that the database has. Blocks.
pub fn look(dir: &Path, mark: &str) -> Look {
    why_away(dir, &read_mark(dir), Some(mark)).map_or(Look::There, Look::Away)
}

/// The area is from now on the one that the database speaks of, whatever is in it. What is made belongs to whoever owns the
/// directory above, which has to be there. Blocks.
pub fn accept(dir: &Path, mark: &str) -> Result<(), Fault> {
    use std::os::unix::fs::MetadataExt as _;
    let above = dir.parent().unwrap_or(dir);
    let owner = std::fs::metadata(above).map_err(|e| io_fault("cannot look at", above, &e))?;
    write_mark(dir, mark)?;
    for made in [dir.to_owned(), dir.join(MARK)] {
        // Only root may; another one is the owner, or cannot help it.
        let _ = std::os::unix::fs::chown(&made, Some(owner.uid()), Some(owner.gid()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_says_nothing_of_the_disk() {
        let of = |errno| why_away(Path::new("/data/transfer"), &Err(io::Error::from_raw_os_error(errno)), Some("a"));
        assert_eq!((of(libc::EMFILE), of(libc::ENFILE)), (None, None));
        assert!(of(libc::EIO).is_some_and(|why| why.contains("is the disk mounted")));
    }

    struct Place {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Place {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
            Self { dir, store }
        }
        fn at(&self) -> PathBuf {
            self.dir.path().join("transfer")
        }
        /// As a process that starts now sees it.
        async fn away(&self) -> Option<String> {
            Area::new(self.at()).look(&self.store).await.unwrap()
        }
        async fn with_rows(self) -> Self {
            use crate::store::library::{LibraryFile, PackageRow};
            let sha1 = crate::model::ids::Sha1([7; 20]);
            let file = LibraryFile { path: "/dcp/film/f".into(), size: 1, sha1, mtime_ns: 1, inode: 1 };
            let (name, verdict) = ("film".to_owned(), "complete".to_owned());
            let package = PackageRow { name, path: "/dcp/film".into(), verdict, title: String::new(), files: 1, bytes: 1 };
            self.store.put_package(&package, &[file], 1).await.unwrap();
            self
        }
    }

    #[tokio::test]
    async fn an_empty_mount_point_and_another_disk_are_told_from_ours() {
        let p = Place::new().await;
        assert_eq!(p.away().await, None, "the first use");
        let p = p.with_rows().await;
        let area = Area::new(p.at());
        assert_eq!(area.look(&p.store).await.unwrap(), None);
        let guard = Guard::of(&p.at(), &p.store).await.unwrap();
        assert!(guard.check().is_ok());
        let aside = p.dir.path().join("aside");
        std::fs::rename(p.at(), &aside).unwrap();
        let why = p.away().await.unwrap();
        assert!(why.contains("is the disk mounted?") && why.contains("bftv2 newdisk"), "{why}");
        assert!(area.look(&p.store).await.unwrap().is_some());
        let fault = guard.check().unwrap_err();
        assert!(fault.away && fault.is_transient(), "{fault}");
        assert!(!p.at().exists(), "nothing is made below the mount point");
        // Another one of ours.
        write_mark(&p.at(), "other").unwrap();
        let why = p.away().await.unwrap();
        assert!(why.contains("is the right disk mounted?"), "{why}");
        std::fs::remove_dir_all(p.at()).unwrap();
        std::fs::rename(&aside, p.at()).unwrap();
        assert_eq!(p.away().await, None);
        assert_eq!(area.look(&p.store).await.unwrap(), None);
        // What is in it may go, as long as the mark stays.
        std::fs::create_dir(p.at().join("stage")).unwrap();
        std::fs::remove_dir(p.at().join("stage")).unwrap();
        assert_eq!(p.away().await, None);
    }

    #[tokio::test]
    async fn a_new_disk_is_taken_when_somebody_says_so() {
        let p = Place::new().await.with_rows().await;
        std::fs::create_dir_all(p.at().join("stage")).unwrap();
        assert_eq!(p.away().await, None, "of before there were marks");
        let mark = p.store.area_mark().await.unwrap().unwrap();
        std::fs::remove_dir_all(p.at()).unwrap();
        assert!(matches!(look(&p.at(), &mark), Look::Away(_)));
        accept(&p.at(), &mark).unwrap();
        assert_eq!((look(&p.at(), &mark), p.away().await), (Look::There, None));
        assert!(accept(&p.dir.path().join("nothing/transfer"), &mark).is_err(), "its datadir is not there");
    }

    #[tokio::test]
    async fn an_area_that_cannot_be_marked_is_used_all_the_same() {
        let p = Place::new().await.with_rows().await;
        std::fs::create_dir_all(p.at().join("stage")).unwrap();
        let in_the_way = p.at().join(".disk.part");
        std::fs::create_dir(&in_the_way).unwrap(); // as a full disk would be
        let area = Area::new(p.at());
        for _ in 0..2 {
            assert_eq!((area.look(&p.store).await.unwrap(), p.store.area_mark().await.unwrap()), (None, None));
        }
        std::fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(area.look(&p.store).await.unwrap(), None);
        assert!(p.store.area_mark().await.unwrap().is_some() && p.at().join(MARK).exists());
    }

    #[tokio::test]
    async fn without_rows_any_place_will_do() {
        let p = Place::new().await;
        assert_eq!(p.away().await, None);
        std::fs::remove_dir_all(p.at()).unwrap();
        assert_eq!(p.away().await, None);
        write_mark(&p.at(), "other").unwrap();
        assert_eq!(p.away().await, None);
        assert_eq!(p.store.area_mark().await.unwrap().as_deref(), Some("other"));
        // An old database whose disk is late: rows speak of what is not there.
        let p = Place::new().await.with_rows().await;
        assert!(p.away().await.is_some());
    }
}
