//! `bftv2 check DIR`: is this package what its documents, or a torrent, say it is? Reads everything, changes nothing.

use crate::error::{Fault, io_fault};
use crate::model::ids::Sha1;
use crate::package::documents::{Finding, PackageDocuments, Standard, Verdict, What};
use crate::package::metainfo::Metainfo;
use crate::package::one_pass::{PassProgress, PieceHash, hash_files, hash_package};
use crate::package::scan::{Scan, ScannedFile, scan};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a check found, for a person and for JSON.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// Files that were read, in torrent order, with their digests.
    pub files: Vec<(ScannedFile, Sha1)>,
    /// Bytes.
    pub bytes: u64,
    /// Names that were left out (dot files, the service's own).
    pub skipped: Vec<String>,
    /// `None`: no ASSETMAP, so there was nothing to compare with but the torrent, if one was given.
    pub standard: Option<Standard>,
    /// Titles of the compositions.
    pub titles: Vec<String>,
    /// Files of other packages that were read, because this one plays them.
    pub borrowed: Vec<String>,
    pub findings: Vec<Finding>,
    pub verdict: Verdict,
}

/// Checks the package at `dir` against its own documents. Blocks while it hashes everything.
pub fn check(dir: &Path) -> Result<CheckReport, Fault> {
    Check::prepare(dir, None, &[])?.run(2, &PassProgress::default())
}

/// A check of which it is known what has to be read; nothing is hashed yet.
pub struct Check {
    scanned: Scan,
    documents: Option<PackageDocuments>,
    torrent: Option<Metainfo>,
    /// Track files of other packages that this one plays.
    borrowed: Vec<Borrowed>,
    findings: Vec<Finding>,
    /// Whether other packages were given.
    with_ov: bool,
}

struct Borrowed {
    root: PathBuf,
    file: ScannedFile,
    listed: Option<Sha1>,
}

impl Borrowed {
    fn shown(&self) -> String {
        self.file.path.under(&self.root).display().to_string()
    }
}

impl Check {
    /// `ov`: packages that hold what a version file plays without holding it.
    pub fn prepare(dir: &Path, torrent: Option<Metainfo>, ov: &[PathBuf]) -> Result<Self, Fault> {
        let scanned = scan(dir)?;
        let documents = if scanned.single { None } else { PackageDocuments::read(dir)? };
        let mut others = Vec::with_capacity(ov.len());
        for root in ov {
            let read = if root.is_dir() { PackageDocuments::read(root)? } else { None };
            let none = || Fault::permanent(format!("{} is no OV: there is no ASSETMAP in it", root.display()));
            others.push((root.as_path(), read.ok_or_else(none)?));
        }
        let mut check = Self { scanned, documents, torrent, borrowed: vec![], findings: vec![], with_ov: !ov.is_empty() };
        if check.with_ov {
            check.borrow(&others)?;
        }
        Ok(check)
    }

    /// Bytes to read.
    pub fn total(&self) -> u64 {
        self.scanned.total() + self.borrowed.iter().map(|b| b.file.size).sum::<u64>()
    }

    fn borrow(&mut self, others: &[(&Path, PackageDocuments)]) -> Result<(), Fault> {
        let Some(documents) = &self.documents else { return Ok(()) };
        let mut known = BTreeSet::new();
        let needs = documents.compositions.iter().flat_map(|c| documents.needs(c)).filter(|track| known.insert(track.id));
        for track in needs {
            let holder = others.iter().find_map(|(root, other)| Some((*root, other, other.path_of(track.id)?)));
            let Some((root, other, path)) = holder else {
                self.findings.push(Finding { file: track.shown(), what: What::Nowhere });
                continue;
            };
            let full = path.under(root);
            let listed = other.files.get(path).cloned().unwrap_or_default();
            let file = match full.symlink_metadata() {
                Ok(meta) if meta.is_file() => ScannedFile::new(path.clone(), &meta),
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_fault("cannot look at", &full, &e)),
                _ => {
                    self.findings.push(Finding { file: full.display().to_string(), what: What::Missing });
                    continue;
                }
            };
            match listed.size {
                Some(size) if size != file.size => {
                    let what = What::SizeDiffers { listed: size, found: file.size };
                    self.findings.push(Finding { file: full.display().to_string(), what });
                }
                _ => self.borrowed.push(Borrowed { root: root.to_owned(), file, listed: listed.sha1 }),
            }
        }
        Ok(())
    }

    /// Reads and compares everything. Uses `workers` cores.
    pub fn run(self, workers: usize, progress: &PassProgress) -> Result<CheckReport, Fault> {
        let Self { scanned, documents, torrent, borrowed, findings: about_ov, with_ov } = self;
        let (sha1, mut findings) = match &torrent {
            Some(torrent) => {
                let out = hash_package(&scanned.base, &scanned.files, torrent.piece_length(), workers, progress)?;
                (out.sha1, compare_torrent(torrent, &scanned, &out.pieces))
            }
            None => (hash_files(&scanned.base, &scanned.files, workers, progress)?, vec![]),
        };
        let hashed: Vec<_> = scanned.files.iter().zip(&sha1).map(|(f, h)| (f.path.clone(), f.size, *h)).collect();
        let own = documents.iter().flat_map(|d| d.compare(&hashed));
        findings.extend(own.filter(|f| !with_ov || !matches!(f.what, What::NeedsOther { .. })));
        findings.extend(about_ov);
        for one in &borrowed {
            let found = hash_files(&one.root, std::slice::from_ref(&one.file), workers, progress)?;
            if let (Some(found), Some(listed)) = (found.first(), one.listed)
                && *found != listed
            {
                findings.push(Finding { file: one.shown(), what: What::HashDiffers { listed, found: *found } });
            }
        }
        let mut verdict = Verdict::of(&findings);
        if documents.is_none() && torrent.is_none() {
            verdict = Verdict { ok: false, text: "not a cinema package: there is no ASSETMAP to check against".into() };
        }
        Ok(CheckReport {
            bytes: scanned.total(),
            skipped: scanned.skipped,
            standard: documents.as_ref().map(|d| d.standard),
            titles: documents.map(|d| d.compositions.into_iter().map(|c| c.title).collect()).unwrap_or_default(),
            files: scanned.files.into_iter().zip(sha1).collect(),
            borrowed: borrowed.iter().map(Borrowed::shown).collect(),
            findings,
            verdict,
        })
    }
}

/// Names and sizes first; pieces only mean something when those agree, in the same order.
fn compare_torrent(torrent: &Metainfo, scanned: &Scan, pieces: &[PieceHash]) -> Vec<Finding> {
    let finding = |file: &str, what| Finding { file: file.to_owned(), what };
    let mut findings = Vec::new();
    for (path, size) in torrent.files() {
        match scanned.files.binary_search_by(|f| crate::package::scan::torrent_order(&f.path, path)) {
            Err(_) => findings.push(finding(path.as_str(), What::Missing)),
            Ok(i) if scanned.files[i].size != *size => {
                findings.push(finding(path.as_str(), What::SizeDiffers { listed: *size, found: scanned.files[i].size }));
            }
            Ok(_) => {}
        }
    }
    if !findings.is_empty() {
        return findings;
    }
    let same_list = torrent.files().iter().map(|f| &f.0).eq(scanned.files.iter().map(|f| &f.path));
    if !same_list {
        let why = "does not list the files of this directory in this program's order: its pieces cannot be compared";
        return vec![finding(&format!("the torrent {}", torrent.name()), What::Unreadable(why.into()))];
    }
    let mut start = 0;
    for (path, size) in torrent.files() {
        let (first, last) = (start / torrent.piece_length(), (start + size).div_ceil(torrent.piece_length()));
        if *size > 0 && (first..last).any(|k| pieces.get(k as usize) != torrent.pieces().get(k as usize)) {
            findings.push(finding(path.as_str(), What::PiecesDiffer));
        }
        start += size;
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::documents::fixture::{ABSENT_ID, Fixture, PICTURE_ID};

    #[test]
    fn a_package_is_checked_against_its_documents() {
        let f = Fixture::smpte();
        let report = check(f.path()).unwrap();
        assert!(report.verdict.ok, "{:?}", report.findings);
        assert_eq!(report.verdict.text, "complete");
        assert_eq!(report.titles, ["Film_FTR_OV"]);
        assert_eq!(report.bytes, report.files.iter().map(|f| f.0.size).sum::<u64>());

        f.flip_byte("picture.mxf");
        let report = check(f.path()).unwrap();
        assert!(!report.verdict.ok);
        assert_eq!(report.verdict.text, "hash differs picture.mxf");
    }

    #[test]
    fn a_package_is_checked_against_a_torrent() {
        let f = Fixture::smpte();
        let s = scan(f.path()).unwrap();
        let out = hash_package(&s.base, &s.files, 16 << 10, 2, &PassProgress::default()).unwrap();
        let list = s.files.iter().map(|f| (f.path.clone(), f.size)).collect();
        let torrent = Metainfo::directory("", "film", list, 16 << 10, out.pieces).unwrap();
        let against = |t: &Metainfo| {
            let check = Check::prepare(f.path(), Some(t.clone()), &[]).unwrap();
            check.run(2, &PassProgress::default()).unwrap()
        };
        assert!(against(&torrent).verdict.ok);

        f.flip_byte("picture.mxf");
        let report = against(&torrent);
        assert!(report.findings.iter().any(|x| x.file == "picture.mxf" && x.what == What::PiecesDiffer), "{:?}", report.findings);
        std::fs::remove_file(f.path().join("picture.mxf")).unwrap();
        assert!(against(&torrent).verdict.text.starts_with("missing picture.mxf"));
    }

    #[test]
    fn a_version_file_is_checked_beside_its_ov() {
        let (f, ov) = (Fixture::version_file(), Fixture::smpte());
        let beside = |ov: &Fixture| {
            let check = Check::prepare(f.path(), None, &[ov.path().to_owned()]).unwrap();
            let (total, progress) = (check.total(), PassProgress::default());
            let report = check.run(2, &progress).unwrap();
            assert_eq!(progress.done.load(std::sync::atomic::Ordering::Relaxed), total);
            report
        };
        assert!(check(f.path()).unwrap().verdict.text.starts_with("version file, needs OV"));
        let report = beside(&ov);
        assert!(!report.verdict.ok && report.verdict.text.contains("neither this package nor the OV"), "{:?}", report.verdict);

        ov.edit("ASSETMAP.xml", PICTURE_ID, ABSENT_ID);
        ov.edit("pkl.xml", PICTURE_ID, ABSENT_ID);
        let report = beside(&ov);
        assert_eq!((report.verdict.ok, report.verdict.text.as_str()), (true, "complete"), "{:?}", report.findings);
        assert_eq!(report.borrowed, [ov.path().join("picture.mxf").display().to_string()]);
        ov.flip_byte("picture.mxf");
        assert!(beside(&ov).verdict.text.starts_with("hash differs "));
        std::fs::write(ov.path().join("picture.mxf"), "short").unwrap();
        assert!(beside(&ov).verdict.text.starts_with("size differs "));
        std::fs::remove_file(ov.path().join("picture.mxf")).unwrap();
        assert!(beside(&ov).verdict.text.starts_with("missing "));
        let none = tempfile::tempdir().unwrap();
        assert!(Check::prepare(f.path(), None, &[none.path().to_owned()]).is_err());
    }

    #[test]
    fn a_directory_without_documents_is_no_cinema_package() {
        let d = tempfile::tempdir().unwrap();
        std::fs::write(d.path().join("a"), b"x").unwrap();
        assert!(!check(d.path()).unwrap().verdict.ok);
    }
}
