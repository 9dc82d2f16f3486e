//! Which packages a path has to do with: the nearest directory above it that is one, and what lies below it.

use crate::library::place::Place;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What is looked for.
pub struct Asked {
    pub touched: Vec<String>,
    /// Paths above these (or these themselves) that are known packages.
    pub known: HashSet<String>,
    /// Known packages below these.
    pub below: Vec<String>,
}

/// A path of the library and every directory above it, up to the root (which is no package).
fn upwards<'a>(place: &'a Place, path: &'a str) -> impl Iterator<Item = &'a str> {
    let path = Path::new(path);
    path.ancestors().take_while(|p| *p != place.base && p.starts_with(&place.base)).filter_map(Path::to_str)
}

/// Where packages that hold these paths could be.
pub fn candidates(place: &Place, touched: &[String]) -> BTreeSet<String> {
    touched.iter().flat_map(|t| upwards(place, t)).map(str::to_owned).collect()
}

/// The packages, each once. Blocks.
pub fn packages_of(place: &Place, asked: Asked) -> Vec<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut maps: HashMap<String, bool> = HashMap::new();
    for touched in &asked.touched {
        let mut is_package =
            |dir: &str| asked.known.contains(dir) || *maps.entry(dir.to_owned()).or_insert_with(|| has_map(place, dir));
        found.extend(upwards(place, touched).find(|dir| is_package(dir)).map(str::to_owned));
        let is_root = Path::new(touched) == place.base;
        if is_root || place.admit(touched).and_then(|rel| place.look(&rel).map_err(|_| "gone")).is_ok_and(|m| m.is_dir()) {
            let files = walk(place, Path::new(touched), &mut found);
            if is_root && files == 0 {
                return Vec::new(); // rather a disk that is not mounted than a library that was emptied
            }
        }
    }
    found.extend(asked.below);
    found.into_iter().collect()
}

/// Whether the directory has an asset map, of whatever kind. Blocks.
fn has_map(place: &Place, dir: &str) -> bool {
    MAPS.iter().any(|map| place.admit(&format!("{dir}/{map}")).is_ok_and(|rel| place.look(&rel).is_ok_and(|m| !m.is_dir())))
}

pub const MAPS: [&str; 2] = ["ASSETMAP", "ASSETMAP.xml"];

/// Adds the directories with an asset map, by symlinks nowhere. Counts files. What cannot be read is left out: a scan tells.
fn walk(place: &Place, root: &Path, found: &mut BTreeSet<String>) -> u64 {
    let (mut todo, mut files): (Vec<PathBuf>, u64) = (vec![root.to_owned()], 0);
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let (Ok(kind), Some(name)) = (entry.file_type(), path.to_str()) else { continue };
            if place.admit(name).is_err() {
                continue;
            }
            if kind.is_dir() {
                todo.push(path);
                continue;
            }
            files += 1;
            let is_map = entry.file_name().to_str().is_some_and(|n| MAPS.contains(&n));
            if is_map && dir != place.base {
                found.extend(dir.to_str().map(str::to_owned));
            }
        }
    }
    files
}
