//! The documents of a digital cinema package: what the mastering house says is in it.
//!
//! ASSETMAP places identities (UUIDs) in files, PKLs give each its size and SHA-1, CPLs say what plays. Together they are
//! an end-to-end check that depends on no task file and no sender: a sender refuses a damaged master with it, a receiver
//! trusts a delivery by it. Both families, SMPTE and Interop, differ in namespaces and small habits only, so one reader
//! serves both and the namespace is just reported.
//!
//! The documents come from outside. An ASSETMAP that cannot be used is a fault. A PKL that cannot be read is a
//! [`Finding`] like any other (a CPL a warning: its hash tells damage), because the reason is mostly that this file is
//! damaged, and the report should say all that is wrong at once. Anything unusual (split assets, several volumes, odd
//! paths) is refused, never guessed.

mod asset_map;
mod compare;
mod composition;
mod packing_list;
mod xml;

pub use compare::{Finding, Verdict, What};
pub use composition::{Composition, Rate, Reel, Track};

use crate::error::{Fault, io_fault};
use crate::model::ids::{RelPath, Sha1};
use asset_map::AssetMap;
use packing_list::PackedAsset;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use uuid::Uuid;

/// Bytes. Bounds the time and the memory that a hostile package takes; of real ones all documents have a few MiB.
const MAX_TOTAL: u64 = 64 << 20;

/// The family of a package, by the ASSETMAP's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    Smpte,
    Interop,
    Other,
}

impl Standard {
    fn of(namespace: &str) -> Self {
        if namespace.contains("smpte-ra.org/") {
            Self::Smpte
        } else if namespace.contains("digicine.com/") {
            Self::Interop
        } else {
            Self::Other
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smpte => "SMPTE",
            Self::Interop => "Interop",
            Self::Other => "other",
        }
    }
}

/// What the documents say about one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Bytes: the packing list's, else the asset map's.
    pub size: Option<u64>,
    /// The packing list's. Packing lists themselves have none.
    pub sha1: Option<Sha1>,
}

/// All documents of one package.
#[derive(Clone, Debug)]
pub struct PackageDocuments {
    pub standard: Standard,
    /// Every file that the asset map places.
    pub files: BTreeMap<RelPath, Listed>,
    pub compositions: Vec<Composition>,
    /// What was wrong with the documents themselves.
    problems: Vec<Finding>,
    /// Identities that this package holds, and where.
    assets: BTreeMap<Uuid, RelPath>,
    /// Bytes of lists and compositions that were read.
    read: u64,
}

impl PackageDocuments {
    /// Reads the documents of the package at `root`. `None` when there is no ASSETMAP: not a cinema package.
    pub fn read(root: &Path) -> Result<Option<Self>, Fault> {
        let mut maps = Vec::new();
        for name in ["ASSETMAP.xml", "ASSETMAP"] {
            let path = RelPath::parse(name).map_err(|e| Fault::local(e.to_string()))?;
            if let Some(data) = read_bounded(root, &path)? {
                maps.push((path, data));
            }
        }
        let (path, data) = match (maps.pop(), maps.pop()) {
            (None, _) => return Ok(None),
            (Some(one), None) => one,
            (Some(_), Some(_)) => {
                return Err(Fault::permanent(format!(
                    "{} holds both ASSETMAP and ASSETMAP.xml: it is not clear which one counts, remove one",
                    root.display()
                )));
            }
        };
        let map = xml::read(&data).and_then(|d| AssetMap::read(&d));
        let map = map.map_err(|why| Fault::permanent(format!("{path} in {} {why}", root.display())).file(&path))?;
        Self::with_map(root, map).map(Some)
    }

    fn with_map(root: &Path, map: AssetMap) -> Result<Self, Fault> {
        let mut documents = Self {
            standard: map.standard,
            files: BTreeMap::new(),
            compositions: vec![],
            problems: vec![],
            assets: map.assets.iter().map(|(id, asset)| (*id, asset.path.clone())).collect(),
            read: 0,
        };
        for asset in map.assets.values() {
            let listed = documents.files.entry(asset.path.clone()).or_default();
            listed.size = listed.size.or(asset.length);
        }
        let lists: Vec<&RelPath> = map.assets.values().filter(|a| a.packing_list).map(|a| &a.path).collect();
        if lists.is_empty() {
            documents.problem("ASSETMAP", What::Unreadable("names no packing list".into()));
        }
        let mut maybe_compositions = BTreeSet::new();
        for path in lists {
            let Some(packed) = documents.document(root, path, packing_list::read, What::Unreadable)? else { continue };
            for asset in packed {
                documents.pack(&map, &asset, &mut maybe_compositions);
            }
        }
        for path in maybe_compositions {
            if let Some(Some(composition)) = documents.document(root, &path, Composition::read, What::NotUnderstood)? {
                documents.compositions.push(composition);
            }
        }
        Ok(documents)
    }

    /// Takes in one line of a packing list.
    fn pack(&mut self, map: &AssetMap, asset: &PackedAsset, maybe_compositions: &mut BTreeSet<RelPath>) {
        let Some(mapped) = map.assets.get(&asset.id) else {
            let name = asset.original_name.clone().unwrap_or_else(|| asset.id.to_string());
            return self.problem(&name, What::NoPath);
        };
        let listed = self.files.entry(mapped.path.clone()).or_default();
        let contradicted = listed.sha1.is_some_and(|h| h != asset.sha1) || listed.size.is_some_and(|n| n != asset.size);
        listed.size = Some(asset.size);
        listed.sha1 = Some(asset.sha1);
        if contradicted {
            self.problem(mapped.path.as_str(), What::Contradiction);
        }
        if asset.maybe_composition {
            maybe_compositions.insert(mapped.path.clone());
        }
    }

    /// Reads one document. A missing one is found by the comparison; one that cannot be read is noted here.
    fn document<T>(
        &mut self,
        root: &Path,
        path: &RelPath,
        read: fn(&xml::Document) -> Result<T, String>,
        otherwise: fn(String) -> What,
    ) -> Result<Option<T>, Fault> {
        if self.read > MAX_TOTAL {
            self.problem(
                path.as_str(),
                otherwise("was not read: the documents before it are larger than 64 MiB together".into()),
            );
            return Ok(None);
        }
        let Some(data) = read_bounded(root, path)? else { return Ok(None) };
        self.read += data.len() as u64;
        match xml::read(&data).and_then(|d| read(&d)) {
            Ok(value) => Ok(Some(value)),
            Err(why) => {
                self.problem(path.as_str(), otherwise(why));
                Ok(None)
            }
        }
    }

    fn problem(&mut self, file: &str, what: What) {
        self.problems.push(Finding { file: file.to_owned(), what });
    }

    /// The title of the package: that of its first composition.
    pub fn title(&self) -> Option<&str> {
        self.compositions.first().map(|c| c.title.as_str()).filter(|t| !t.is_empty())
    }

    /// What the packing lists claim, as keys for deduplication. Claims, not facts: verify what is used. Nothing is claimed
    /// about a file about which the documents contradict each other.
    pub fn claims(&self) -> impl Iterator<Item = (&RelPath, u64, Sha1)> {
        let disputed = self.problems.iter().filter(|p| p.what == What::Contradiction).map(|p| p.file.as_str());
        let disputed: BTreeSet<&str> = disputed.collect();
        self.files.iter().filter_map(move |(path, l)| (!disputed.contains(path.as_str())).then_some((path, l.size?, l.sha1?)))
    }

    /// Identities that this package holds, and where the asset map places them.
    pub fn assets(&self) -> impl Iterator<Item = (Uuid, &RelPath)> {
        self.assets.iter().map(|(id, path)| (*id, path))
    }

    /// Where the asset map places the file of this identity.
    pub fn path_of(&self, id: Uuid) -> Option<&RelPath> {
        self.assets.get(&id)
    }

    /// Track files that a composition plays and this package does not hold.
    pub fn needs<'a>(&'a self, composition: &'a Composition) -> impl Iterator<Item = &'a Track> {
        composition.tracks.iter().filter(|t| !self.assets.contains_key(&t.id))
    }
}

/// Reads a small plain file below `root`. `None` when it is not there; one byte more than allowed when it is too large,
/// which the XML reader refuses.
fn read_bounded(root: &Path, path: &RelPath) -> Result<Option<Vec<u8>>, Fault> {
    let full = path.under(root);
    let fault = |e: std::io::Error| io_fault("cannot read", &full, &e).file(path);
    let file = match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&full) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(fault(e)),
    };
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(Fault::permanent(format!("{} is not a plain file", full.display())).file(path));
    }
    let mut data = Vec::new();
    file.take(xml::MAX_BYTES + 1).read_to_end(&mut data).map_err(fault)?;
    Ok(Some(data))
}

/// The identity of an element that has one.
fn asset_id(element: &xml::Element) -> Result<Uuid, String> {
    parse_id(element.text_of("Id").unwrap_or_default())
}

/// `urn:uuid:` and a UUID, in any case; some old packages leave the prefix out.
fn parse_id(text: &str) -> Result<Uuid, String> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_prefix("urn:uuid:").unwrap_or(&lower);
    Uuid::parse_str(plain)
        .map_err(|_| format!("has the identity {:?}, which is not a UUID", text.chars().take(60).collect::<String>()))
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
