//! `bftv2 check DIR`: is this package what its documents, or a torrent, say it is? Reads everything, changes nothing.

use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::package::documents::{Finding, PackageDocuments, Standard, Verdict, What};
use crate::package::metainfo::Metainfo;
use crate::package::one_pass::{PassProgress, PieceHash, hash_files, hash_package};
use crate::package::scan::{Scan, ScannedFile, scan};
use std::path::Path;

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
    pub findings: Vec<Finding>,
    pub verdict: Verdict,
}

/// Checks the package at `dir` against its own documents. Blocks while it hashes everything.
pub fn check(dir: &Path) -> Result<CheckReport, Fault> {
    check_with(dir, None, 2, &PassProgress::default())
}

/// Checks the package at `dir` against its own documents and, where one is given, a torrent. Uses `workers` cores.
pub fn check_with(dir: &Path, torrent: Option<&Metainfo>, workers: usize, progress: &PassProgress) -> Result<CheckReport, Fault> {
    let scanned = scan(dir)?;
    let documents = if scanned.single { None } else { PackageDocuments::read(dir)? };
    let (sha1, mut findings) = match torrent {
        Some(torrent) => {
            let out = hash_package(&scanned.base, &scanned.files, torrent.piece_length(), workers, progress)?;
            (out.sha1, compare_torrent(torrent, &scanned, &out.pieces))
        }
        None => (hash_files(&scanned.base, &scanned.files, workers, progress)?, vec![]),
    };
    let hashed: Vec<_> = scanned.files.iter().zip(&sha1).map(|(f, h)| (f.path.clone(), f.size, *h)).collect();
    findings.extend(documents.iter().flat_map(|d| d.compare(&hashed)));
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
        findings,
        verdict,
    })
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
    use crate::package::documents::fixture::Fixture;

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
        let against = |t: &Metainfo| check_with(f.path(), Some(t), 2, &PassProgress::default()).unwrap();
        assert!(against(&torrent).verdict.ok);

        f.flip_byte("picture.mxf");
        let report = against(&torrent);
        assert!(report.findings.iter().any(|x| x.file == "picture.mxf" && x.what == What::PiecesDiffer), "{:?}", report.findings);
        std::fs::remove_file(f.path().join("picture.mxf")).unwrap();
        assert!(against(&torrent).verdict.text.starts_with("missing picture.mxf"));
    }

    #[test]
    fn a_directory_without_documents_is_no_cinema_package() {
        let d = tempfile::tempdir().unwrap();
        std::fs::write(d.path().join("a"), b"x").unwrap();
        assert!(!check(d.path()).unwrap().verdict.ok);
    }
}
