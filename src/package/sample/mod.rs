//! Sample packages: valid digital cinema packages of any size, made from nothing.
//!
//! Demonstrations, tests and speed trials need packages; real films are large, secret or not at hand. These pass a
//! package validator, hold incompressible bytes, and are a function of their options, so that two machines can make
//! the same one. Picture and sound are noise: the containers, headers, documents and digests are what servers check.
//!
//! [`options`] says what may be asked for, [`plan`] turns it into track files of known length, [`mxf`], [`metadata`],
//! [`labels`] and [`essence`] are the track file's format, [`track`] writes one, [`documents`] are the XML files. A
//! package grows in a hidden directory and gets its name when it is whole: a watcher of the library never sees half of one.

pub mod documents;
pub mod essence;
pub mod labels;
pub mod metadata;
pub mod mxf;
pub mod options;
pub mod plan;
pub mod track;

pub use options::{DEFAULT_SIZE, Names, SampleOptions, Standard, Version2};

use crate::error::{Fault, io_fault};
use crate::model::ids::{PackageName, Sha1};
use documents::{Asset, CplIds, Documents, Kind};
use mxf::Essence;
use options::{Checked, sibling_title};
use plan::{Ids, Plan, Reel, Seed, Track};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use track::{Progress, copy_track, write_document, write_track};
use uuid::Uuid;

/// What was made.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The package, then its VF, then its second version, as asked for.
    pub packages: Vec<PackageSummary>,
}

/// One finished package.
#[derive(Clone, Debug)]
pub struct PackageSummary {
    pub dir: PathBuf,
    pub title: String,
    /// Sorted by path.
    pub files: Vec<FileSummary>,
    /// All files together.
    pub bytes: u64,
    /// Bytes in files that are equal to files of the first package; 0 for the first itself.
    pub shared_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSummary {
    /// Relative to the package, `/` separated.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub sha1: Sha1,
}

/// How many bytes [`make`] will count in its progress; also checks the options, without touching a disk.
pub fn planned_bytes(options: &SampleOptions) -> Result<u64, Fault> {
    Ok(Plan::new(&options.check()?)?.track_bytes())
}

/// Makes the packages below `out` (created when missing). `progress` gets the bytes written so far, all packages
/// together, and ends at [`planned_bytes`]. Blocks: call it from a thread that may.
///
/// Refuses directories that exist and are not empty; with `force` it replaces packages, and still nothing else.
pub fn make(out: &Path, options: &SampleOptions, progress: &mut dyn FnMut(u64)) -> Result<Summary, Fault> {
    let checked = options.check()?;
    let plan = Plan::new(&checked)?;
    let names = [Some(&checked.name), checked.vf.as_ref(), checked.version2.as_ref().map(|(n, _)| n)];
    for name in names.into_iter().flatten() {
        refuse_occupied(&out.join(name.as_str()), options.force)?;
    }
    std::fs::create_dir_all(out).map_err(|e| io_fault("cannot create", out, &e))?;
    let mut maker = Maker { out, checked: &checked, seed: &plan.seed, progress: Progress::new(progress), made: HashMap::new() };
    let mut packages = Vec::new();

    let title = checked.title.clone();
    packages.push(maker.package(&checked.name, title, &plan.reels, &[])?);
    if let Some(name) = &checked.vf {
        let title = sibling_title(&checked.title, "VF", "");
        let reels: Vec<Reel> = plan
            .reels
            .iter()
            .zip(&plan.vf_sounds)
            .map(|(reel, sound)| Reel { picture: reel.picture.clone(), sound: sound.clone() })
            .collect();
        let elsewhere: Vec<Uuid> = reels.iter().map(|r| r.picture.layout.id).collect();
        packages.push(maker.package(name, title, &reels, &elsewhere)?);
    }
    if let Some((name, _)) = &checked.version2 {
        let title = sibling_title(&checked.title, "OV", "V2");
        packages.push(maker.package(name, title, &plan.version2, &[])?);
    }
    Ok(Summary { packages })
}

/// A directory that holds something is in the way, unless it is a package and may be replaced.
fn refuse_occupied(dir: &Path, force: bool) -> Result<(), Fault> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_fault("cannot read", dir, &e)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let shown = dir.display();
    if !force {
        return Err(Fault::permanent(format!("{shown} exists and is not empty: choose another name, or --force replaces it")));
    }
    if is_package(dir) {
        return Ok(());
    }
    Err(Fault::permanent(format!("{shown} is not a package (it has no ASSETMAP): --force replaces packages only")))
}

fn is_package(dir: &Path) -> bool {
    ["ASSETMAP", "ASSETMAP.xml"].iter().any(|n| dir.join(n).is_file())
}

/// The hidden directory a package grows in; removed when making it fails.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // After a success it is gone: renamed. After a failure the next run would clear it, too.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Maker<'a> {
    out: &'a Path,
    checked: &'a Checked,
    seed: &'a Seed,
    progress: Progress<'a>,
    /// Finished track files by identifier: where they lie, for copies and references.
    made: HashMap<Uuid, (PathBuf, Asset)>,
}

impl Maker<'_> {
    /// Makes one package; the tracks in `elsewhere` are referred to and lie in another package.
    fn package(
        &mut self,
        name: &PackageName,
        title: String,
        reels: &[Reel],
        elsewhere: &[Uuid],
    ) -> Result<PackageSummary, Fault> {
        let target = self.out.join(name.as_str());
        let staging = Staging(self.out.join(format!(".{name}.making")));
        let root = staging.0.as_path();
        if root.exists() {
            std::fs::remove_dir_all(root).map_err(|e| io_fault("cannot clear", root, &e))?;
        }
        std::fs::create_dir(root).map_err(|e| io_fault("cannot create", root, &e))?;

        let (mut own, mut shared_bytes, mut references) = (Vec::new(), 0, Vec::new());
        for reel in reels {
            let [picture, sound] = [(&reel.picture, Kind::Picture), (&reel.sound, Kind::Sound)].map(|(track, kind)| {
                let known = self.made.get(&track.layout.id).cloned();
                match known {
                    Some((_, asset)) if elsewhere.contains(&track.layout.id) => Ok(asset),
                    Some((path, asset)) => {
                        shared_bytes += self.copy(root, &path, &asset)?;
                        own.push(asset.clone());
                        Ok(asset)
                    }
                    None => {
                        let asset = self.write(root, &target, track, kind)?;
                        own.push(asset.clone());
                        Ok(asset)
                    }
                }
            });
            references.push((picture?, sound?));
        }
        let ids = self.seed.ids(&format!("documents of {name}"));
        let files = self.documents(root, &title, own, &references, ids)?;

        if target.exists() && is_package(&target) {
            std::fs::remove_dir_all(&target).map_err(|e| io_fault("cannot replace", &target, &e))?;
        }
        std::fs::rename(root, &target).map_err(|e| io_fault("cannot put the finished package at", &target, &e))?;
        let bytes = files.iter().map(|f| f.size).sum();
        Ok(PackageSummary { dir: target, title, files, bytes, shared_bytes })
    }

    fn write(&mut self, root: &Path, target: &Path, track: &Track, kind: Kind) -> Result<Asset, Fault> {
        let (id, path) = (track.layout.id, self.track_path(&track.layout.essence, track.layout.id));
        let file = place(root, &path)?;
        let (size, sha1) = write_track(&file, track, &mut self.progress)?;
        let asset = Asset { id, kind, path, size, sha1, frames: track.layout.frames.count() };
        self.made.insert(id, (target.join(&asset.path), asset.clone()));
        Ok(asset)
    }

    fn copy(&mut self, root: &Path, from: &Path, asset: &Asset) -> Result<u64, Fault> {
        copy_track(from, &place(root, &asset.path)?, &mut self.progress)
    }

    /// CPL, PKL, ASSETMAP and VOLINDEX; the list of all files of the package.
    fn documents(
        &self,
        root: &Path,
        title: &str,
        tracks: Vec<Asset>,
        references: &[(Asset, Asset)],
        mut ids: Ids,
    ) -> Result<Vec<FileSummary>, Fault> {
        let o = &self.checked.options;
        let documents = Documents {
            standard: o.standard,
            title,
            date: o.date,
            fps: o.fps,
            kind: &o.kind,
            picture: (plan::WIDTH, plan::HEIGHT),
        };
        let xml = |made: std::io::Result<Vec<u8>>| made.map_err(|e| Fault::local("cannot write XML").detail(e));
        let write = |id: Uuid, kind: Kind, path: String, bytes: Vec<u8>| -> Result<Asset, Fault> {
            let (size, sha1) = write_document(&root.join(&path), &bytes)?;
            Ok(Asset { id, kind, path, size, sha1, frames: 0 })
        };
        let cpl_ids = CplIds { cpl: ids.uuid(), version: ids.uuid(), reels: references.iter().map(|_| ids.uuid()).collect() };
        let bytes = xml(documents.cpl(&cpl_ids, references))?;
        let cpl = write(cpl_ids.cpl, Kind::Cpl, self.document_name("cpl", cpl_ids.cpl), bytes)?;
        let mut assets = vec![cpl];
        assets.extend(tracks);

        let pkl_id = ids.uuid();
        let bytes = xml(documents.pkl(pkl_id, &assets))?;
        assets.insert(0, write(pkl_id, Kind::Pkl, self.document_name("pkl", pkl_id), bytes)?);

        let extension = if o.standard == Standard::Smpte { ".xml" } else { "" };
        let map = xml(documents.assetmap(ids.uuid(), &assets))?;
        let mut files: Vec<FileSummary> =
            assets.into_iter().map(|a| FileSummary { path: a.path, size: a.size, sha1: a.sha1 }).collect();
        for (name, bytes) in [("ASSETMAP", map), ("VOLINDEX", xml(documents.volindex())?)] {
            let path = format!("{name}{extension}");
            let (size, sha1) = write_document(&root.join(&path), &bytes)?;
            files.push(FileSummary { path, size, sha1 });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn track_path(&self, essence: &Essence, id: Uuid) -> String {
        let (typed, suffix) = match essence {
            Essence::Picture(_) => ("j2c", "video"),
            Essence::Sound(_) => ("pcm", "audio"),
        };
        let name = match self.checked.options.names {
            Names::Typed => format!("{typed}_{id}.mxf"),
            Names::Uuid => format!("{id}.mxf"),
            Names::Suffix => format!("{id}_{suffix}.mxf"),
        };
        match &self.checked.subdir {
            Some(dir) => format!("{dir}/{name}"),
            None => name,
        }
    }

    fn document_name(&self, kind: &str, id: Uuid) -> String {
        match self.checked.options.names {
            Names::Typed => format!("{kind}_{id}.xml"),
            Names::Uuid => format!("{id}.xml"),
            Names::Suffix => format!("{id}_{kind}.xml"),
        }
    }
}

/// The place of a package file, with its directory made.
fn place(root: &Path, path: &str) -> Result<PathBuf, Fault> {
    let file = root.join(path);
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(|e| io_fault("cannot create", dir, &e))?;
    }
    Ok(file)
}
