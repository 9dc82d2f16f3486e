use super::fixture::*;
use super::*;
use crate::package::scan::scan;
use sha1::Digest;

fn read(f: &Fixture) -> PackageDocuments {
    PackageDocuments::read(f.path()).unwrap().unwrap()
}

fn hashed(f: &Fixture) -> Vec<(RelPath, u64, Sha1)> {
    let digest = |p: &RelPath| Sha1(sha1::Sha1::digest(std::fs::read(p.under(f.path())).unwrap()).into());
    scan(f.path()).unwrap().files.into_iter().map(|s| (s.path.clone(), s.size, digest(&s.path))).collect()
}

fn verdict(f: &Fixture) -> (bool, String) {
    let v = Verdict::of(&read(f).compare(&hashed(f)));
    (v.ok, v.text)
}

#[test]
fn both_families_are_read() {
    for (f, standard, title, picture) in [
        (Fixture::smpte(), Standard::Smpte, "Film_FTR_OV", "picture.mxf"),
        (Fixture::interop(), Standard::Interop, "Film_FTR_IOP", "sub/picture.mxf"),
    ] {
        let d = read(&f);
        assert_eq!((d.standard, d.title()), (standard, Some(title)));
        assert_eq!((d.compositions[0].reels.len(), d.compositions[0].tracks.len()), (2, 2));
        assert!(d.claims().any(|(p, n, _)| p.as_str() == picture && n == 70_000));
        assert_eq!(d.claims().count(), 3);
        let reel = &d.compositions[0].reels[0];
        let id = |text: &str| Some(text.parse().unwrap());
        assert_eq!((reel.id, reel.picture, reel.sound, reel.subtitle), (id(ABSENT_ID), id(PICTURE_ID), id(SOUND_ID), None));
        assert_eq!((reel.edit_rate, reel.duration), (Some(Rate { units: 24, seconds: 1 }), 48));
        assert_eq!(d.compositions[0].kind, "feature");
        assert_eq!(d.path_of(PICTURE_ID.parse().unwrap()).unwrap().as_str(), picture);
        assert_eq!(d.compare(&hashed(&f)), []);
        assert_eq!(verdict(&f), (true, "complete".into()));
    }
}

#[test]
fn no_map_means_no_cinema_package_and_two_maps_are_refused() {
    let d = tempfile::tempdir().unwrap();
    assert!(PackageDocuments::read(d.path()).unwrap().is_none());
    let f = Fixture::smpte();
    std::fs::copy(f.path().join("ASSETMAP.xml"), f.path().join("ASSETMAP")).unwrap();
    assert!(PackageDocuments::read(f.path()).unwrap_err().message.contains("both"));
}

#[test]
fn damage_is_named() {
    let f = Fixture::smpte();
    f.flip_byte("sound.mxf");
    assert_eq!(verdict(&f), (false, "hash differs sound.mxf".into()));
    std::fs::write(f.path().join("sound.mxf"), b"short").unwrap();
    assert_eq!(verdict(&f), (false, "size differs sound.mxf: listed 5000, found 5 bytes".into()));
    std::fs::remove_file(f.path().join("sound.mxf")).unwrap();
    assert_eq!(verdict(&f), (false, "missing sound.mxf".into()));
    let sizes: Vec<_> = hashed(&f).into_iter().map(|(p, n, _)| (p, n)).collect();
    assert_eq!(Verdict::of(&read(&f).compare_sizes(&sizes)).text, "missing sound.mxf");
    std::fs::remove_file(f.path().join("pkl.xml")).unwrap();
    assert_eq!(verdict(&f), (false, "missing pkl.xml (and 1 more)".into()));
}

#[test]
fn damaged_documents_are_findings_like_others() {
    let f = Fixture::smpte();
    f.edit("cpl.xml", "</Reel>", "</Reol>");
    assert_eq!(verdict(&f), (false, "hash differs cpl.xml".into()));
    assert!(read(&f).compare(&hashed(&f)).iter().any(|x| matches!(x.what, What::NotUnderstood(_))));

    let f = Fixture::smpte();
    f.edit("pkl.xml", "<Size>5000</Size>", "<Size>many</Size>");
    let (ok, text) = verdict(&f);
    assert!(!ok && text.contains("pkl.xml"), "{text}");
    let f = Fixture::smpte();
    f.edit("ASSETMAP.xml", "<PackingList>true</PackingList>", "");
    assert!(verdict(&f).1.contains("names no packing list"));
}

#[test]
fn a_version_file_is_complete_but_needs_its_original() {
    let f = Fixture::version_file();
    let (ok, text) = verdict(&f);
    assert!(ok);
    assert_eq!(text, format!("version file, needs OV: Film_FTR_VF plays 1 track file of another package ({ABSENT_ID})"));
}

#[test]
fn foreign_files_are_warnings() {
    let f = Fixture::interop();
    std::fs::write(f.path().join("sub/notes.txt"), b"x").unwrap();
    let findings = read(&f).compare(&hashed(&f));
    assert_eq!(findings, [Finding { file: "sub/notes.txt".into(), what: What::Foreign }]);
    assert_eq!(verdict(&f), (true, "complete".into()));
}

#[test]
fn lists_that_disagree_are_noticed() {
    let f = Fixture::smpte();
    f.edit("ASSETMAP.xml", "<Length>5000</Length>", "<Length>5001</Length>");
    assert!(verdict(&f).1.contains("contradict"));
    assert!(read(&f).claims().all(|(path, ..)| path.as_str() != "sound.mxf"), "nothing is claimed about it");
    let f = Fixture::smpte();
    f.edit("pkl.xml", SOUND_ID, ABSENT_ID);
    assert!(verdict(&f).1.starts_with("missing sound.mxf: the packing list names it"));
}

#[test]
fn unusual_maps_are_refused_not_guessed() {
    let edits = [
        ("<Offset>0<", "<Offset>10<"),
        ("<VolumeIndex>1<", "<VolumeIndex>2<"),
        ("<VolumeCount>1<", "<VolumeCount>2<"),
        ("<Chunk>", "<Chunk><Path>a</Path></Chunk><Chunk>"),
        ("<Path>sound.mxf<", "<Path>../sound.mxf<"),
        ("<Path>sound.mxf<", "<Path>/etc/passwd<"),
        ("<Path>sound.mxf<", "<Path>file:///sound.mxf<"),
        ("<Path>sound.mxf</Path>", ""),
        (SOUND_ID, PICTURE_ID),
        (SOUND_ID, "no-uuid"),
        ("<AssetMap ", "<!DOCTYPE a []><AssetMap "),
    ];
    for (from, to) in edits {
        let f = Fixture::smpte();
        f.edit("ASSETMAP.xml", from, to);
        let fault = PackageDocuments::read(f.path()).unwrap_err();
        assert_eq!(fault.file.as_deref(), Some("ASSETMAP.xml"), "{from} -> {to}: {fault}");
    }
}

#[test]
fn documents_are_bounded_together() {
    let f = Fixture::smpte();
    let (mut packed, mut mapped) = (String::new(), String::new());
    for n in 0..8 {
        let (id, name) = (Uuid::from_u128(n), format!("large{n}.xml"));
        std::fs::File::create(f.path().join(&name)).unwrap().set_len(xml::MAX_BYTES).unwrap();
        let hash = Sha1([0; 20]).to_base64();
        packed += &format!("<Asset><Id>{id}</Id><Hash>{hash}</Hash><Size>1</Size><Type>text/xml</Type></Asset>");
        mapped += &format!("<Asset><Id>{id}</Id><ChunkList><Chunk><Path>{name}</Path></Chunk></ChunkList></Asset>");
    }
    f.edit("pkl.xml", "</AssetList>", &format!("{packed}</AssetList>"));
    f.edit("ASSETMAP.xml", "</AssetList>", &format!("{mapped}</AssetList>"));
    let unread = |x: &&Finding| x.to_string().contains("was not read");
    let findings = read(&f).problems;
    assert_eq!(findings.iter().filter(unread).count(), 4, "{findings:?}");
    assert!(findings.iter().all(|x| !x.what.is_error()), "they are hashed like all files: {findings:?}");
}

#[test]
fn documents_are_not_read_through_links() {
    let f = Fixture::smpte();
    std::fs::rename(f.path().join("ASSETMAP.xml"), f.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", f.path().join("ASSETMAP.xml")).unwrap();
    assert!(PackageDocuments::read(f.path()).is_err());
}
