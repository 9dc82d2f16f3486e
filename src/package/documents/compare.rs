//! The package as it lies there against the package as its documents describe it.

use super::{Composition, Listed, PackageDocuments};
use crate::model::ids::{RelPath, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that the comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, or the identity of an asset that has none.
    pub file: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Listed, not there.
    Missing,
    /// Bytes as listed and as found.
    SizeDiffers {
        listed: u64,
        found: u64,
    },
    HashDiffers {
        listed: Sha1,
        found: Sha1,
    },
    /// A torrent piece that this file lies in has another SHA-1. A piece may hold the ends of several files.
    PiecesDiffer,
    /// The packing list names an asset that the asset map does not place.
    NoPath,
    /// Two packing lists, or the packing list and the asset map, contradict each other.
    Contradiction,
    /// A packing list cannot be read; the text says why. What it lists is unknown.
    Unreadable(String),
    /// What may be a composition cannot be read; the text says why. A warning: damage shows in the hash, and a document
    /// that is as it was made but not understood here (an old subtitle with a document type) must not stop a delivery.
    NotUnderstood(String),
    /// There, but listed nowhere. A warning: it is delivered all the same.
    Foreign,
    /// A composition plays this many track files that are not in this package. A version file: no error.
    NeedsOther {
        tracks: usize,
        /// One of them.
        first: String,
    },
    /// A composition plays this track file, and none of the packages at hand holds it.
    Nowhere,
}

impl What {
    /// Whether the package must not be delivered like this.
    pub fn is_error(&self) -> bool {
        !matches!(self, What::Foreign | What::NeedsOther { .. } | What::NotUnderstood(_))
    }
}

impl What {
    /// For programs.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Missing => "missing",
            What::SizeDiffers { .. } => "size differs",
            What::HashDiffers { .. } => "hash differs",
            What::PiecesDiffer => "pieces differ",
            What::NoPath => "no path",
            What::Contradiction => "contradiction",
            What::Unreadable(_) => "unreadable",
            What::NotUnderstood(_) => "not understood",
            What::Foreign => "foreign",
            What::NeedsOther { .. } => "needs OV",
            What::Nowhere => "in no OV",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.what {
            What::Missing => write!(f, "missing {file}"),
            What::SizeDiffers { listed, found } => write!(f, "size differs {file}: listed {listed}, found {found} bytes"),
            What::HashDiffers { listed, found } => write!(f, "hash differs {file}: listed {listed}, found {found}"),
            What::PiecesDiffer => write!(f, "differs from the torrent {file}"),
            What::NoPath => write!(f, "missing {file}: the packing list names it, the asset map does not"),
            What::Contradiction => write!(f, "the documents contradict each other about {file}"),
            What::Unreadable(why) | What::NotUnderstood(why) => write!(f, "{file} {why}"),
            What::Foreign => write!(f, "foreign {file}: no document lists it"),
            What::Nowhere => write!(f, "missing {file}: it is played, and neither this package nor the OV holds it"),
            What::NeedsOther { tracks, first } => {
                let (files, more) = if *tracks == 1 { ("file", "") } else { ("files", ", …") };
                write!(f, "version file, needs OV: {file} plays {tracks} track {files} of another package ({first}{more})")
            }
        }
    }
}

/// The comparison in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the package is what its documents describe.
    pub ok: bool,
    /// `complete`, `missing FILE`, `hash differs FILE`, `version file, needs OV ...`; how many more where there are more.
    pub text: String,
}

impl Verdict {
    pub fn of(findings: &[Finding]) -> Self {
        let mut errors = findings.iter().filter(|f| f.what.is_error());
        if let Some(first) = errors.next() {
            let text = match (&first.what, errors.count()) {
                (What::HashDiffers { .. }, 0) => format!("hash differs {}", first.file),
                (What::HashDiffers { .. }, more) => format!("hash differs {} (and {more} more)", first.file),
                (_, 0) => first.to_string(),
                (_, more) => format!("{first} (and {more} more)"),
            };
            return Self { ok: false, text };
        }
        let needs = findings.iter().find(|f| matches!(f.what, What::NeedsOther { .. }));
        Self { ok: true, text: needs.map_or_else(|| "complete".to_owned(), Finding::to_string) }
    }
}

impl PackageDocuments {
    /// Compares with files that were hashed here. Errors come first, in the order of the listed paths.
    pub fn compare(&self, files: &[(RelPath, u64, Sha1)]) -> Vec<Finding> {
        let with_hash: BTreeMap<&RelPath, (u64, Option<Sha1>)> = files.iter().map(|(p, n, h)| (p, (*n, Some(*h)))).collect();
        self.compare_with(&with_hash)
    }

    /// Compares names and sizes only: a quick look before anything is hashed.
    pub fn compare_sizes(&self, files: &[(RelPath, u64)]) -> Vec<Finding> {
        self.compare_with(&files.iter().map(|(p, n)| (p, (*n, None))).collect())
    }

    /// Compares what is known: size, and the digest of those that were hashed.
    pub fn compare_with(&self, files: &BTreeMap<&RelPath, (u64, Option<Sha1>)>) -> Vec<Finding> {
        let mut findings: Vec<Finding> =
            self.files.iter().filter_map(|(path, listed)| compare_file(path, listed, files.get(path))).collect();
        findings.extend(self.problems.iter().cloned());
        findings.extend(self.compositions.iter().filter_map(|c| self.needs_other(c)));
        let known: BTreeSet<&str> = ["ASSETMAP", "ASSETMAP.xml", "VOLINDEX", "VOLINDEX.xml"].into();
        for path in files.keys().filter(|p| !self.files.contains_key(**p) && !known.contains(p.as_str())) {
            findings.push(Finding { file: path.to_string(), what: What::Foreign });
        }
        findings
    }

    fn needs_other(&self, composition: &Composition) -> Option<Finding> {
        let mut needs = self.needs(composition);
        let first = needs.next()?.shown();
        Some(Finding { file: composition.shown(), what: What::NeedsOther { tracks: 1 + needs.count(), first } })
    }
}

fn compare_file(path: &RelPath, listed: &Listed, found: Option<&(u64, Option<Sha1>)>) -> Option<Finding> {
    let what = match found {
        None => What::Missing,
        Some((size, _)) if listed.size.is_some_and(|l| l != *size) => {
            What::SizeDiffers { listed: listed.size.unwrap_or(0), found: *size }
        }
        Some((_, found)) => match (listed.sha1, found) {
            (Some(l), Some(f)) if l != *f => What::HashDiffers { listed: l, found: *f },
            _ => return None,
        },
    };
    Some(Finding { file: path.to_string(), what })
}
