//! Reviews of real packages in a real library, with a database and no service.

use super::*;
use crate::library::hash::{Hashed, Known, Pace};
use crate::package::sample::{SampleOptions, make};
use crate::store::library_queue::{Put, QueuedFile};
use crate::store::shell;
use sha1::Digest as _;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

struct Library {
    dir: tempfile::TempDir,
    packages: Packages,
}

impl Library {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("dcp");
        fs::create_dir_all(&base).unwrap();
        let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
        let place = Place { transfer: base.join("transfer"), base };
        Self { packages: Packages::new(store, place, Clock::real()), dir }
    }

    fn store(&self) -> &Store {
        &self.packages.store
    }

    fn path(&self, below: &str) -> PathBuf {
        self.packages.place.base.join(below)
    }

    /// A package of two reels.
    fn make(&self, name: &str, vf: Option<&str>) {
        let vf = vf.map(str::to_owned);
        let options = SampleOptions { name: Some(name.into()), size: Some(4_000_000), reels: 2, vf, ..SampleOptions::default() };
        make(&self.packages.place.base, &options, &mut |_| {}).unwrap();
    }

    /// The package's file whose name begins so.
    fn file(&self, package: &str, begin: &str) -> PathBuf {
        let entries = fs::read_dir(self.path(package)).unwrap().map(|e| e.unwrap().path());
        let mut found: Vec<_> = entries.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(begin)).collect();
        found.sort();
        found.remove(0)
    }

    async fn hash_file(&self, path: &Path) {
        let text = path.to_str().unwrap().to_owned();
        let rel = self.packages.place.admit(&text).unwrap();
        let hashed = self.packages.place.hash(&rel, Known::default(), &Pace::default(), &mut |_| {});
        let Hashed::Done(file) = hashed.unwrap() else { panic!("{text} is not hashed") };
        let queued = QueuedFile { path: text, listed: None, stamp: None, anew: false, due_at: 0 };
        self.store().queue_library_files(&[queued]).await.unwrap();
        assert_ne!(self.store().put_hashed_files(&[(file, 0)], 1, |_, _, _| None).await.unwrap(), [Put::Outdated]);
    }

    async fn hash(&self, package: &str) {
        for entry in fs::read_dir(self.path(package)).unwrap() {
            self.hash_file(&entry.unwrap().path()).await;
        }
    }

    async fn review(&self, touched: &[&str]) {
        let touched: Vec<_> = touched.iter().map(|t| self.path(t)).collect();
        self.packages.review(&touched).await.unwrap();
    }

    async fn sql(&self, sql: &str) -> Vec<String> {
        let rows = shell::query(self.store().path(), sql, Duration::from_secs(20)).await.unwrap().rows;
        rows.into_iter().map(|r| r.into_iter().map(|c| c.unwrap_or("NULL".into())).collect::<Vec<_>>().join("|")).collect()
    }

    async fn verdict(&self, package: &str) -> String {
        self.sql(&format!("select verdict from v_packages where package = '{package}'")).await.join(", ")
    }

    async fn count(&self, from: &str) -> usize {
        self.sql(&format!("select 1 from {from}")).await.len()
    }
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn flip_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_package_is_followed_from_its_first_day_to_its_last() {
    let l = Library::new().await;
    l.make("film", None);
    l.packages.review_all().await.unwrap();
    assert_eq!(l.verdict("film").await, "not verified yet: 5 files to hash");
    let title = "select title, kind, reels, edit_rate, duration, seconds from v_compositions";
    let [composition] = &l.sql(title).await[..] else { panic!("one composition") };
    assert!(composition.contains("_OV|test|2|24/1|"), "{composition}");
    assert_eq!(l.count("v_reels r join package_assets a on a.asset = r.picture where r.subtitle is null").await, 2);
    // Also those that no packing list lists: ASSETMAP, VOLINDEX and the list itself.
    assert_eq!(l.count("v_library where state = 'claimed' and hashed_at is null").await, 8);
    assert_eq!(l.sql("select package, standard, ov, files from v_packages").await, ["film|SMPTE||8"]);

    l.hash_file(&l.file("film", "cpl_")).await;
    l.review(&["film/unknown.xml"]).await;
    assert_eq!(l.verdict("film").await, "not verified yet: 4 files to hash");
    l.hash("film").await;
    assert_eq!(l.count("v_library where state = 'claimed'").await, 0, "what is hashed is claimed no more");
    l.review(&["film"]).await;
    assert_eq!(l.verdict("film").await, "complete");
    assert_eq!(l.count("library_files where package <> ''").await, 8);

    // Damage behind an unchanged time is the hash's to find; here the file tells that it is another one.
    let sound = l.file("film", "pcm_");
    flip_byte(&sound);
    l.review(&["film"]).await;
    assert_eq!(l.verdict("film").await, "not verified yet: 1 file to hash");
    assert_eq!(l.count("v_library where state = 'claimed'").await, 0, "its row is still there");
    l.hash_file(&sound).await;
    l.packages.review(std::slice::from_ref(&sound)).await.unwrap();
    assert_eq!(l.verdict("film").await, format!("hash differs {}", name(&sound)));
    assert_eq!(l.count("package_assets").await, 5, "a damaged file is nobody's track file");
    flip_byte(&sound);
    l.hash_file(&sound).await;
    l.review(&["film"]).await;
    let damage = l.sql("select level, text from v_events where kind = 'package' order by at, level desc").await;
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert!(damage.iter().any(|e| e.starts_with("warn") && e.contains("hash differs")), "{damage:?}");
    assert!(damage.iter().any(|e| e.starts_with("info") && e.ends_with(": complete")), "{damage:?}");

    let whole = fs::read(&sound).unwrap();
    fs::write(&sound, &whole[..100]).unwrap();
    l.review(&["film"]).await;
    let verdict = l.verdict("film").await;
    assert!(verdict.starts_with(&format!("size differs {}: listed ", name(&sound))), "{verdict}");
    fs::remove_file(&sound).unwrap();
    l.review(&["film"]).await;
    assert_eq!(l.verdict("film").await, format!("missing {}", name(&sound)));

    fs::rename(l.path("film/ASSETMAP.xml"), l.path("map")).unwrap();
    l.review(&["film/ASSETMAP.xml"]).await;
    assert_eq!((l.count("packages").await, l.count("library_files where package <> ''").await), (0, 0));
    for table in ["compositions", "reels", "package_assets", "package_needs", "library_claims"] {
        assert_eq!(l.count(table).await, 0, "{table}");
    }
    fs::rename(l.path("map"), l.path("film/ASSETMAP.xml")).unwrap();
    l.review(&["film/ASSETMAP.xml"]).await;
    assert_eq!(l.count("packages").await, 1);
    fs::remove_dir_all(l.path("film")).unwrap();
    l.make("other", None);
    l.packages.review_all().await.unwrap();
    assert_eq!(l.sql("select package from v_packages").await, ["other"]);
}

#[tokio::test]
async fn a_version_file_follows_its_ov() {
    let l = Library::new().await;
    l.make("film", Some("film_VF"));
    let away = l.dir.path().join("film");
    fs::rename(l.path("film"), &away).unwrap();
    l.hash("film_VF").await;
    l.packages.review_all().await.unwrap();
    let verdict = l.verdict("film_VF").await;
    assert!(verdict.starts_with("version file, needs OV: ") && verdict.contains("plays 2 track files"), "{verdict}");
    assert!(verdict.contains("_VF plays"), "{verdict}");
    let listed = &l.store().list_packages(None, None, 9).await.unwrap()[0];
    assert_eq!((&listed.verdict, listed.ov.len()), (&verdict, 0));

    // Its OV arrives; nobody looks at the version file.
    fs::rename(&away, l.path("film")).unwrap();
    l.review(&["film"]).await;
    assert_eq!(l.verdict("film_VF").await, "complete");
    let ov = l.path("film").display().to_string();
    assert_eq!(l.sql("select ov from v_packages where package = 'film_VF'").await.concat(), ov);
    let listed = l.store().list_packages(Some("vf"), None, 9).await.unwrap();
    assert_eq!((listed.len(), &listed[0].ov[..]), (1, &[ov][..]));
    assert_eq!((listed[0].compositions.len(), listed[0].compositions[0].reels.len()), (1, 2));

    // One picture of it is lost.
    let picture = l.file("film", "j2c_");
    fs::remove_file(&picture).unwrap();
    l.packages.review(&[picture]).await.unwrap();
    assert!(l.verdict("film_VF").await.contains("plays 1 track file of another package ("));
    fs::remove_dir_all(l.path("film")).unwrap();
    l.review(&["film"]).await;
    assert_eq!(l.verdict("film_VF").await, verdict);
}

#[tokio::test]
async fn odd_packages_get_a_verdict_and_stop_nobody() {
    let l = Library::new().await;
    let odd = ["link", "hostile", "unnamed", "linked", "twice", "pipe", "dir", "huge", "good"];
    for name in odd {
        l.make(name, None);
    }
    fs::rename(l.path("link/ASSETMAP.xml"), l.path("link/map")).unwrap();
    symlink("map", l.path("link/ASSETMAP.xml")).unwrap();
    fs::write(l.path("hostile/ASSETMAP.xml"), "<!DOCTYPE a [<!ENTITY x \"&x;&x;\">]><AssetMap>&x;</AssetMap>").unwrap();
    fs::write(l.path("unnamed").join(OsStr::from_bytes(b"odd\xff.mxf")), "x").unwrap();
    symlink("ASSETMAP.xml", l.path("linked/inner")).unwrap();
    fs::copy(l.path("twice/ASSETMAP.xml"), l.path("twice/ASSETMAP")).unwrap();
    fs::remove_file(l.path("pipe/ASSETMAP.xml")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        l.path("pipe/ASSETMAP.xml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::remove_file(l.path("dir/ASSETMAP.xml")).unwrap();
    fs::create_dir(l.path("dir/ASSETMAP.xml")).unwrap();
    fs::File::create(l.path("huge/ASSETMAP.xml")).unwrap().set_len(17 << 20).unwrap();
    // What looks like a package from afar, and is none of the library's.
    symlink(l.path("good"), l.path("away")).unwrap();
    l.make("transfer", None);
    l.make("film-tmp", None);
    fs::copy(l.path("good/ASSETMAP.xml"), l.path("ASSETMAP.xml")).unwrap();

    for _ in 0..2 {
        l.packages.review_all().await.unwrap();
        for (package, says) in [
            ("link", "symbolic link"),
            ("hostile", "document type"),
            ("unnamed", "not UTF-8"),
            ("linked", "symbolic link"),
            ("twice", "both ASSETMAP and ASSETMAP.xml"),
            ("pipe", "not a plain file"),
            ("dir", ""),
            ("huge", "larger than 16 MiB"),
            ("good", "not verified yet: 5 files to hash"),
        ] {
            let verdict = l.verdict(package).await;
            assert!(verdict.contains(says), "{package}: {verdict}");
        }
        assert_eq!(l.count("packages").await, odd.len() - 1, "a directory of that name is no asset map");
    }
    let warnings = l.count("v_events where kind = 'package'").await;
    assert_eq!(warnings, odd.len() - 2, "each trouble is told once");
    assert_eq!(l.count("v_library where state = 'claimed'").await, 8, "only the good one claims anything");
    fs::remove_file(l.path("unnamed").join(OsStr::from_bytes(b"odd\xff.mxf"))).unwrap();
    l.review(&["unnamed"]).await;
    assert!(l.verdict("unnamed").await.starts_with("not verified yet"));
}

#[tokio::test]
async fn claims_end_with_what_they_are_about() {
    let l = Library::new().await;
    l.make("film", None);
    l.review(&["film/ASSETMAP.xml"]).await;
    let (sound, picture) = (l.file("film", "pcm_"), l.file("film", "j2c_"));
    let bytes = fs::read(&sound).unwrap();
    let wanted = [(crate::model::ids::Sha1(sha1::Sha1::digest(&bytes).into()), bytes.len() as u64)];
    let offered = async || l.store().find_same(&wanted).await.unwrap()[0].iter().map(|f| f.path.clone()).collect::<Vec<_>>();
    assert_eq!(offered().await, std::slice::from_ref(&sound));
    // What was hashed here comes first.
    fs::copy(&sound, l.path("copy.mxf")).unwrap();
    l.hash_file(&l.path("copy.mxf")).await;
    assert_eq!(offered().await, [l.path("copy.mxf"), sound.clone()]);
    // A copy of it was wrong: it is offered no more, however often the package is looked at.
    l.store().forget_library_file(&sound).await.unwrap();
    l.hash_file(&l.file("film", "cpl_")).await;
    l.review(&["film"]).await;
    assert_eq!(offered().await, [l.path("copy.mxf")]);
    // Another file of that name is another matter.
    fs::remove_file(&sound).unwrap();
    fs::write(&sound, &bytes).unwrap();
    l.review(&["film"]).await;
    assert_eq!(offered().await, [l.path("copy.mxf"), sound.clone()]);
    fs::write(&sound, &bytes[1..]).unwrap();
    l.review(&["film"]).await;
    assert_eq!(offered().await, [l.path("copy.mxf")], "the list's size is not the file's");

    // Hashed, and then taken out of the table: the packing list does not count instead.
    l.hash_file(&picture).await;
    l.review(&["film"]).await;
    let id = l.store().library_rows(&[picture.to_str().unwrap()]).await.unwrap()[0].unwrap().0;
    l.store().forget_library_rows(&[id]).await.unwrap();
    l.review(&["film"]).await;
    let claimed = format!("v_library where state = 'claimed' and path = '{}'", picture.display());
    assert_eq!(l.count(&claimed).await, 0);
}

#[tokio::test]
async fn what_is_touched_leads_to_its_package() {
    let l = Library::new().await;
    fs::create_dir_all(l.path("cfec-001/dcps")).unwrap();
    for name in ["cfec-001/dcps/film", "cfec-001/dcps/film/extra"] {
        l.make("made", None);
        fs::rename(l.path("made"), l.path(name)).unwrap();
    }
    // Nothing: not a package, not in the library, not there.
    l.review(&["cfec-001/dcps/none/a.mxf", "../outside", "transfer/x", "a", "cfec-001/dcps/film.torrent"]).await;
    assert_eq!(l.count("packages").await, 0);
    l.review(&["cfec-001/dcps/film/extra/new.mxf"]).await;
    assert_eq!(l.sql("select package from v_packages").await, ["extra"], "the nearest one");
    l.review(&["cfec-001"]).await;
    assert_eq!(l.sql("select package from v_packages order by 1").await, ["extra", "film"], "what lies below");
    l.hash("cfec-001/dcps/film/extra").await;
    l.review(&["cfec-001/dcps/film/x", "cfec-001/dcps/film/extra/y"]).await;
    assert_eq!(l.verdict("extra").await, "complete");
    assert_eq!(l.count("v_library where package like '%/film/extra' and state = 'ok'").await, 8, "each file is the inner one's");

    // The disk is not mounted: nothing is forgotten. A directory is gone: what was below it is.
    fs::rename(l.path("cfec-001"), l.dir.path().join("unmounted")).unwrap();
    l.packages.review_all().await.unwrap();
    assert_eq!(l.count("packages").await, 2);
    l.review(&["cfec-001"]).await;
    assert_eq!(l.count("packages").await, 0);
}

#[tokio::test]
async fn rows_without_documents_stay_while_their_package_does() {
    let l = Library::new().await;
    fs::create_dir_all(l.path("plain")).unwrap();
    fs::write(l.path("plain/a"), "a").unwrap();
    fs::write(l.path("single.mxf"), "b").unwrap();
    for (name, verdict) in [("plain", NO_LIST), ("single.mxf", "complete")] {
        let row = crate::store::library::PackageRow {
            path: l.path(name),
            name: name.into(),
            verdict: verdict.into(),
            title: String::new(),
            files: 1,
            bytes: 1,
        };
        l.store().put_package(&row, &[], 1).await.unwrap();
    }
    l.packages.review_all().await.unwrap();
    l.review(&["plain/a", "single.mxf"]).await;
    assert_eq!(l.count("packages").await, 2);
    fs::remove_file(l.path("single.mxf")).unwrap();
    l.packages.review_all().await.unwrap();
    assert_eq!(l.sql("select package from v_packages").await, ["plain"]);

    // One that was only recognised is still a stranger's.
    l.make("film", None);
    l.packages.review_all().await.unwrap();
    assert!(l.store().has_package(&l.path("plain")).await.unwrap());
    assert!(!l.store().has_package(&l.path("film")).await.unwrap());
}

#[tokio::test]
async fn ten_thousand_files_are_no_trouble() {
    const FILES: usize = 10_000;
    let l = Library::new().await;
    fs::create_dir_all(l.path("film/sub")).unwrap();
    let (mut packed, mut mapped, mut queue) = (String::new(), String::new(), Vec::new());
    for n in 0..FILES {
        let (id, path, text) = (uuid::Uuid::from_u128(n as u128), format!("sub/{n}.xml"), n.to_string());
        let full = l.path("film").join(&path);
        fs::write(&full, &text).unwrap();
        queue.push(full);
        let hash = crate::model::ids::Sha1(sha1::Sha1::digest(&text).into()).to_base64();
        packed += &format!(
            "<Asset><Id>{id}</Id><Hash>{hash}</Hash><Size>{}</Size><Type>application/ttml+xml</Type></Asset>",
            text.len()
        );
        mapped += &format!("<Asset><Id>{id}</Id><ChunkList><Chunk><Path>{path}</Path></Chunk></ChunkList></Asset>");
    }
    let list = uuid::Uuid::from_u128(u128::MAX);
    fs::write(l.path("film/pkl.xml"), format!("<PackingList><AssetList>{packed}</AssetList></PackingList>")).unwrap();
    let mark = "<PackingList>true</PackingList><ChunkList><Chunk><Path>pkl.xml</Path></Chunk></ChunkList>";
    let map = format!("<AssetMap><AssetList><Asset><Id>{list}</Id>{mark}</Asset>{mapped}</AssetList></AssetMap>");
    fs::write(l.path("film/ASSETMAP.xml"), map).unwrap();

    let begun = Instant::now();
    l.packages.review_all().await.unwrap();
    assert_eq!(l.verdict("film").await, format!("not verified yet: {FILES} files to hash"));
    l.packages.review(&queue).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    assert_eq!(l.count("v_library where state = 'claimed'").await, FILES + 2);
}
