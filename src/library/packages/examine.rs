//! One package, from its files to its rows. Blocks: it looks at every file and reads the documents.

use super::find::MAPS;
use crate::error::Fault;
use crate::library::hash::{Hashed, Known, Pace};
use crate::library::place::Place;
use crate::model::ids::{RelPath, Sha1};
use crate::package::digest::Sha1State;
use crate::package::documents::{Composition, Finding, PackageDocuments, Rate, Verdict, What};
use crate::package::scan::{Scan, ScannedFile, scan};
use crate::store::library::{LibraryFile, PackageRow};
use crate::store::library_queue::HashedFile;
use crate::store::packages::{CompositionRow, Need, PackageFacts, RateRow, ReelRow};
use rustix::fs::Access;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::Path;

/// The verdict on a package of ours without documents.
pub const NO_LIST: &str = "no packing list";
const COMPLETE: &str = "complete";
const PENDING: &str = "not verified yet";
/// More than real packages have; bounds for what hostile ones write into the database.
const MOST_COMPOSITIONS: usize = 500;
const MOST_REELS: usize = 5000;
const MOST_NEEDS: usize = 5000;
const LONGEST_TEXT: usize = 300;
/// Documents that no packing list lists are hashed here: a few small files, so no more bytes than these.
const MOST_DOCUMENT_BYTES: u64 = 64 << 20;
/// Another number when the rules of this file change: then everything is looked at again.
const RULES: &[u8] = b"1\n";

/// What a look finds.
pub enum Found {
    /// Nothing has changed since the last look.
    AsSeen,
    /// Certainly not there.
    Gone,
    /// A directory without ASSETMAP, or no directory.
    NoDocuments,
    Package(Box<PackageFacts>, Standing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Nothing is wrong as far as it is known.
    Pending,
    Bad,
}

/// Whether a verdict of the past complained of nothing.
pub fn is_good(verdict: &str) -> bool {
    verdict == COMPLETE || verdict == NO_LIST || verdict.starts_with(PENDING) || verdict.starts_with("version file")
}

/// Looks at the package in `dir`. `rows`: what was hashed below it; `seen`: what the last look saw.
pub fn examine(place: &Place, dir: &str, rows: Vec<LibraryFile>, seen: Option<Sha1>) -> Found {
    let Ok(rel) = place.admit(dir) else { return Found::AsSeen }; // not ours to judge
    let broken = |text: String| Found::broken(dir, &rows, seen, text);
    match place.look(&rel) {
        Ok(meta) if meta.is_dir() => {}
        Ok(meta) if meta.is_file() => return Found::AsSeen, // a package that is one file has no documents
        Ok(_) => return Found::NoDocuments,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Found::Gone,
        Err(e) => return broken(format!("cannot be looked at: {e}")),
    }
    let root = Path::new(dir);
    if MAPS.iter().all(|map| root.join(map).symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound)) {
        return Found::NoDocuments;
    }
    let scan = match scan(root) {
        Ok(scan) => scan,
        Err(fault) => return broken(fault.message),
    };
    let look = Look::new(place, root, rel, scan, &rows);
    let print = look.fingerprint();
    if Some(print) == seen {
        return Found::AsSeen;
    }
    match PackageDocuments::read(root) {
        Ok(Some(documents)) => look.facts(&documents, print),
        Ok(None) => Found::NoDocuments,
        // The reason may go away without a trace in size and time.
        Err(fault) => look.unreadable(&fault),
    }
}

impl Found {
    /// What cannot be listed: the verdict is all there is to say.
    fn broken(dir: &str, rows: &[LibraryFile], seen: Option<Sha1>, text: String) -> Self {
        let mut state = Sha1State::new();
        state.update(text.as_bytes());
        let print = Some(state.finish());
        if print == seen {
            return Self::AsSeen;
        }
        let (files, bytes) = (rows.len() as u64, rows.iter().map(|f| f.size).sum());
        let facts = PackageFacts { seen: print, ..empty(Path::new(dir), text, files, bytes) };
        Self::Package(Box::new(facts), Standing::Bad)
    }
}

fn empty(root: &Path, verdict: String, files: u64, bytes: u64) -> PackageFacts {
    let name = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let row = PackageRow { path: root.to_owned(), name, verdict, title: String::new(), files, bytes };
    PackageFacts { row, standard: "", seen: None, compositions: vec![], assets: vec![], needs: vec![], claims: vec![] }
}

/// A package's files, each with the digest that was computed here if it still is the file that was hashed.
struct Look<'a> {
    place: &'a Place,
    root: &'a Path,
    /// The package below the library's root.
    rel: RelPath,
    scan: Scan,
    hashed: Vec<Option<Sha1>>,
}

impl<'a> Look<'a> {
    fn new(place: &'a Place, root: &'a Path, rel: RelPath, scan: Scan, rows: &[LibraryFile]) -> Self {
        let by_path: HashMap<&Path, &LibraryFile> = rows.iter().map(|row| (row.path.as_path(), row)).collect();
        let digest = |file: &ScannedFile| {
            let row = by_path.get(file.path.under(root).as_path())?;
            let same = (row.size, row.mtime_ns, row.inode) == (file.size, file.mtime_ns, file.inode);
            same.then_some(row.sha1)
        };
        let hashed = scan.files.iter().map(digest).collect();
        Self { place, root, rel, scan, hashed }
    }

    /// Everything that the outcome depends on: a document that changes is a file that changes.
    fn fingerprint(&self) -> Sha1 {
        let mut state = Sha1State::new();
        state.update(RULES);
        for (file, sha1) in self.files() {
            let ScannedFile { path, size, mtime_ns, inode, ctime_ns } = file;
            let sha1 = sha1.map(|s| s.to_string()).unwrap_or_default();
            state.update(format!("{size} {mtime_ns} {inode} {ctime_ns} {sha1} {path}\n").as_bytes());
        }
        state.finish()
    }

    fn files(&self) -> impl Iterator<Item = (&ScannedFile, Option<Sha1>)> {
        self.scan.files.iter().zip(self.hashed.iter().copied())
    }

    fn unreadable(&self, fault: &Fault) -> Found {
        let facts = empty(self.root, fault.message.clone(), self.scan.files.len() as u64, self.scan.total());
        Found::Package(Box::new(facts), Standing::Bad)
    }

    fn facts(&self, documents: &PackageDocuments, print: Sha1) -> Found {
        let known = self.files().map(|(f, sha1)| (&f.path, (f.size, sha1))).collect();
        let mut findings = documents.compare_with(&known);
        let open = |path: &RelPath, sha1: Option<Sha1>| {
            sha1.is_none() && documents.files.get(path).is_some_and(|listed| listed.sha1.is_some())
        };
        let unhashed: Vec<&RelPath> = self.files().filter(|(f, sha1)| open(&f.path, *sha1)).map(|(f, _)| &f.path).collect();
        let refused: Vec<Finding> = unhashed.iter().filter_map(|path| cannot_be_read(self.root, path)).collect();
        let lasting = refused.is_empty();
        findings.extend(refused);
        // Who has what a version file lacks is asked of the database, each time anew.
        let verdict = Verdict::of(&findings.iter().filter(|f| f.what.is_error()).cloned().collect::<Vec<_>>());
        let (verdict, standing) = match unhashed.len() {
            _ if !verdict.ok => (verdict.text, Standing::Bad),
            0 => (verdict.text, Standing::Good),
            1 => (format!("{PENDING}: 1 file to hash"), Standing::Pending),
            n => (format!("{PENDING}: {n} files to hash"), Standing::Pending),
        };
        let facts = empty(self.root, verdict, self.scan.files.len() as u64, self.scan.total());
        let bad: BTreeSet<&str> = findings.iter().filter(|f| f.what.is_error()).map(|f| f.file.as_str()).collect();
        let assets = documents.assets().filter(|(_, path)| !bad.contains(path.as_str()));
        let facts = PackageFacts {
            row: PackageRow { title: plain(documents.title().unwrap_or_default()), ..facts.row },
            standard: documents.standard.as_str(),
            seen: lasting.then_some(print),
            compositions: compositions(documents),
            assets: assets.map(|(id, path)| (id.to_string(), path.to_string())).collect(),
            needs: needs(documents),
            claims: self.claims(documents),
        };
        Found::Package(Box::new(facts), standing)
    }

    /// What the packing lists say of files that are there in the size they list, and what the documents are that no packing
    /// list mentions: with them, a package that was never hashed is as good a source as any, for copies that are verified.
    fn claims(&self, documents: &PackageDocuments) -> Vec<LibraryFile> {
        let listed: BTreeMap<&RelPath, (u64, Sha1)> = documents.claims().map(|(path, size, sha1)| (path, (size, sha1))).collect();
        let mut room = MOST_DOCUMENT_BYTES;
        let mut claim = |file: &ScannedFile, hashed: Option<Sha1>| {
            let sha1 = match listed.get(&file.path) {
                Some((size, sha1)) => (*size == file.size).then_some(*sha1),
                None if file.size <= room && is_unlisted_document(documents, file) => {
                    room -= file.size;
                    hashed.or_else(|| self.hash(file))
                }
                None => None,
            };
            let path = file.path.under(self.root);
            Some(LibraryFile { path, size: file.size, mtime_ns: file.mtime_ns, inode: file.inode, sha1: sha1? })
        };
        self.files().filter_map(|(file, hashed)| claim(file, hashed)).collect()
    }

    fn hash(&self, file: &ScannedFile) -> Option<Sha1> {
        let rel = RelPath::parse(&format!("{}/{}", self.rel, file.path)).ok()?;
        let hashed = self.place.hash(&rel, Known::default(), &Pace::default(), &mut |_| {}).ok()?;
        let Hashed::Done(HashedFile { file: hashed, .. }) = hashed else { return None };
        ((hashed.size, hashed.mtime_ns, hashed.inode) == (file.size, file.mtime_ns, file.inode)).then_some(hashed.sha1)
    }
}

fn is_unlisted_document(documents: &PackageDocuments, file: &ScannedFile) -> bool {
    let name = file.path.as_str();
    let mapped = documents.files.get(&file.path).is_some_and(|listed| listed.sha1.is_none());
    mapped || MAPS.contains(&name) || ["VOLINDEX", "VOLINDEX.xml"].contains(&name)
}

fn cannot_be_read(root: &Path, path: &RelPath) -> Option<Finding> {
    let error = rustix::fs::access(path.under(root), Access::READ_OK).err()?;
    let error = std::io::Error::from(error);
    Some(Finding { file: path.to_string(), what: What::Unreadable(format!("cannot be read: {error}")) })
}

fn compositions(documents: &PackageDocuments) -> Vec<CompositionRow> {
    let mut room = MOST_REELS;
    let mut row = |c: &Composition| {
        let reels: Vec<ReelRow> = c.reels.iter().take(room).map(reel).collect();
        room -= reels.len();
        let rate = c.reels.first().and_then(|r| r.edit_rate);
        CompositionRow {
            id: c.id.to_string(),
            title: plain(&c.title),
            kind: plain(&c.kind),
            duration: c.reels.iter().map(|r| in_units(r.duration, r.edit_rate, rate)).fold(0, u64::saturating_add),
            rate: rate.map(rate_row),
            reels,
            reel_count: c.reels.len() as u64,
        }
    };
    documents.compositions.iter().take(MOST_COMPOSITIONS).map(&mut row).collect()
}

fn reel(reel: &crate::package::documents::Reel) -> ReelRow {
    let text = |id: Option<uuid::Uuid>| id.map(|id| id.to_string());
    ReelRow {
        id: text(reel.id),
        picture: text(reel.picture),
        sound: text(reel.sound),
        subtitle: text(reel.subtitle),
        duration: reel.duration,
        rate: reel.edit_rate.map(rate_row),
    }
}

fn rate_row(rate: Rate) -> RateRow {
    RateRow { units: rate.units, seconds: rate.seconds }
}

/// A duration at one rate in units of another.
fn in_units(duration: u64, from: Option<Rate>, to: Option<Rate>) -> u64 {
    let (Some(from), Some(to)) = (from, to) else { return duration };
    if from == to {
        return duration;
    }
    let units = u128::from(duration) * u128::from(from.seconds) * u128::from(to.units);
    u64::try_from(units / (u128::from(from.units) * u128::from(to.seconds))).unwrap_or(u64::MAX)
}

fn needs(documents: &PackageDocuments) -> Vec<Need> {
    let mut known = BTreeSet::new();
    let all = documents.compositions.iter().flat_map(|c| documents.needs(c).map(move |track| (c, track)));
    all.filter(|(_, track)| known.insert(track.id))
        .take(MOST_NEEDS)
        .map(|(c, track)| Need { asset: track.id.to_string(), name: plain(&track.shown()), title: plain(&c.shown()) })
        .collect()
}

/// A text from outside for a column: one line, not too long.
fn plain(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
