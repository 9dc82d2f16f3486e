//! What was touched, and nobody has looked at yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// More paths than this are not remembered one by one: their directories are, then the whole library.
const MOST: usize = 200_000;

/// A bounded set of paths.
pub struct Touched {
    base: PathBuf,
    /// Whether all that is below counts, too.
    paths: Mutex<BTreeMap<PathBuf, bool>>,
    ring: Notify,
}

impl Touched {
    pub fn new(base: PathBuf) -> Self {
        Self { base, paths: Mutex::default(), ring: Notify::new() }
    }

    /// `deep`: a directory with all that is in it.
    pub fn add(&self, path: PathBuf, deep: bool) {
        let mut paths = self.lock();
        *paths.entry(path).or_default() |= deep;
        if paths.len() > MOST {
            self.condense(&mut paths);
        }
        drop(paths);
        self.ring.notify_one();
    }

    fn condense(&self, paths: &mut BTreeMap<PathBuf, bool>) {
        let dirs = std::mem::take(paths).into_keys().map(|p| match p.parent() {
            Some(dir) if dir.starts_with(&self.base) => (dir.to_owned(), true),
            _ => (self.base.clone(), true),
        });
        paths.extend(dirs);
        if paths.len() > MOST / 2 {
            *paths = BTreeMap::from([(self.base.clone(), true)]);
        }
    }

    /// Takes all: directories to be looked through, none below another, and single paths outside of them.
    pub fn take(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut deep, mut single) = (Vec::<PathBuf>::new(), Vec::new());
        let mut covered: Option<PathBuf> = None;
        // A path sorts before all that is below it.
        for (path, is_deep) in std::mem::take(&mut *self.lock()) {
            if covered.as_ref().is_some_and(|dir| path.starts_with(dir)) {
                continue;
            }
            if is_deep {
                covered = Some(path.clone());
                deep.push(path);
            } else {
                single.push(path);
            }
        }
        (deep, single)
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns when there is something.
    pub async fn some(&self) {
        while self.is_empty() {
            self.ring.notified().await;
        }
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, bool>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn what_lies_in_a_touched_directory_is_not_told_twice() {
        let t = Touched::new("/l".into());
        for (path, deep) in
            [("/l/a/b", false), ("/l/a", true), ("/l/a/b/c", true), ("/l/ab", false), ("/l/a.x", false), ("/l/d", true)]
        {
            t.add(path.into(), deep);
        }
        assert_eq!(t.take(), (paths(&["/l/a", "/l/d"]), paths(&["/l/a.x", "/l/ab"])));
        assert!(t.is_empty());
    }

    #[test]
    fn it_stays_bounded() {
        let t = Touched::new("/l".into());
        for n in 0..=MOST {
            t.add(format!("/l/film/{n}").into(), false);
        }
        assert_eq!(t.take(), (paths(&["/l/film"]), paths(&[])));
        for n in 0..=MOST {
            t.add(format!("/l/{n}/a").into(), false);
        }
        assert_eq!(t.take(), (paths(&["/l"]), paths(&[])));
    }
}
