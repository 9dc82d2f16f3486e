//! Sample packages: reproducible, of the size that was asked for, and true to their own documents.

use bft2::model::ids::Sha1;
use bft2::package::sample::{
    Names, PackageSummary, SampleOptions, Standard, Summary, Version2, make as make_sample, planned_bytes,
};
use quick_xml::Reader;
use quick_xml::events::Event;
use sha1::Digest as _;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn make(out: &Path, options: &SampleOptions) -> Summary {
    make_sample(out, options, &mut |_| {}).unwrap()
}

fn small() -> SampleOptions {
    SampleOptions { size: Some(3_000_000), ..SampleOptions::default() }
}

/// All files of a directory: path below it, content.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(d) = open.pop() {
        for entry in std::fs::read_dir(d).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn sha1(bytes: &[u8]) -> Sha1 {
    Sha1(sha1::Sha1::digest(bytes).into())
}

/// The leaf elements of each `Asset` of a PKL or ASSETMAP.
fn assets(xml: &[u8]) -> Vec<BTreeMap<String, String>> {
    let mut reader = Reader::from_reader(xml);
    let (mut all, mut name) = (Vec::new(), String::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(e) => {
                name = String::from_utf8(e.local_name().as_ref().to_vec()).unwrap();
                if name == "Asset" {
                    all.push(BTreeMap::new());
                }
            }
            Event::Empty(e) => {
                let name = String::from_utf8(e.local_name().as_ref().to_vec()).unwrap();
                all.last_mut().map(|a: &mut BTreeMap<_, _>| a.insert(name, String::new()));
            }
            Event::Text(t) => {
                let text = t.decode().unwrap().trim().to_owned();
                if let Some(asset) = all.last_mut().filter(|_| !text.is_empty()) {
                    asset.insert(name.clone(), text);
                }
            }
            Event::Eof => return all,
            _ => {}
        }
    }
}

/// What every package must keep: summary, PKL and ASSETMAP agree with the files on the disk.
fn check_package(package: &PackageSummary) {
    let files = tree(&package.dir);
    assert_eq!(files.keys().collect::<Vec<_>>(), package.files.iter().map(|f| &f.path).collect::<Vec<_>>());
    for f in &package.files {
        assert_eq!((f.size, f.sha1), (files[&f.path].len() as u64, sha1(&files[&f.path])), "{}", f.path);
    }
    assert_eq!(package.bytes, files.values().map(|b| b.len() as u64).sum::<u64>());

    let map = assets(files.get("ASSETMAP.xml").or(files.get("ASSETMAP")).unwrap());
    let paths: BTreeMap<&str, &str> = map.iter().map(|a| (a["Id"].as_str(), a["Path"].as_str())).collect();
    assert_eq!(paths.len() + 2, files.len(), "all but ASSETMAP and VOLINDEX are mapped");
    for a in &map {
        assert_eq!(a["Length"], files[&a["Path"]].len().to_string());
    }
    let pkl_path = &map.iter().find(|a| a.contains_key("PackingList")).unwrap()["Path"];
    let pkl = assets(&files[pkl_path]);
    assert_eq!(pkl.len(), map.len() - 1, "all but itself");
    for a in &pkl {
        let content = &files[paths[a["Id"].as_str()]];
        assert_eq!(a["Size"], content.len().to_string());
        assert_eq!(Sha1::from_base64(&a["Hash"]).unwrap(), sha1(content));
    }
}

/// The keys of an MXF file's packets with their lengths; the walk must end exactly at the end of the file.
fn packets(file: &[u8]) -> Vec<([u8; 16], usize)> {
    let (mut at, mut all) = (0, Vec::new());
    while at < file.len() {
        assert_eq!(file[at + 16], 0x83, "a four-byte length at {at}");
        let len = usize::from(file[at + 17]) << 16 | usize::from(file[at + 18]) << 8 | usize::from(file[at + 19]);
        all.push((file[at..at + 16].try_into().unwrap(), len));
        at += 20 + len;
    }
    assert_eq!(at, file.len());
    all
}

#[test]
fn the_same_options_make_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = SampleOptions {
        name: Some("a".to_owned()),
        reels: 2,
        vf: Some("a_VF".to_owned()),
        version2: Some(Version2 { name: "a2".to_owned(), share: 90.0 }),
        ..small()
    };
    make(&dir.path().join("1"), &options);
    make(&dir.path().join("2"), &options);
    let (first, second) = (tree(&dir.path().join("1")), tree(&dir.path().join("2")));
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    assert!(first == second, "the bytes differ");

    // Another seed or another name is another film: no track file is equal.
    let digests = |s: &Summary| s.packages[0].files.iter().map(|f| f.sha1).collect::<BTreeSet<_>>();
    let base = make(&dir.path().join("3"), &SampleOptions { seed: 2, ..options.clone() });
    let other = make(&dir.path().join("4"), &SampleOptions { name: Some("b".to_owned()), ..options.clone() });
    let again = make(&dir.path().join("5"), &options);
    let alone = make(&dir.path().join("6"), &SampleOptions { vf: None, version2: None, ..options.clone() });
    assert_eq!(alone.packages[0].files, again.packages[0].files, "companions do not change the package");
    let volindex = 1;
    assert_eq!(digests(&base).intersection(&digests(&again)).count(), volindex);
    assert_eq!(digests(&other).intersection(&digests(&again)).count(), volindex);
}

#[test]
fn documents_agree_with_the_files() {
    let dir = tempfile::tempdir().unwrap();
    for (standard, names, fps, channels) in [
        (Standard::Smpte, Names::Typed, 24, 6),
        (Standard::Interop, Names::Uuid, 25, 2),
        (Standard::Smpte, Names::Suffix, 48, 8),
        (Standard::Interop, Names::Typed, 30, 6),
    ] {
        let options = SampleOptions {
            name: Some(format!("p{fps}")),
            standard,
            names,
            fps,
            channels,
            reels: 2,
            size: Some(8_000_000),
            vf: Some(format!("vf{fps}")),
            version2: Some(Version2 { name: format!("v{fps}"), share: 50.0 }),
            ..SampleOptions::default()
        };
        let made = make(dir.path(), &options);
        assert_eq!(made.packages.len(), 3);
        made.packages.iter().for_each(check_package);
        let [first, vf, _] = &made.packages[..] else { panic!("three packages") };
        assert_eq!(first.files.len(), 8, "two reels, four documents");
        assert_eq!(vf.files.len(), 6, "a VF has its own sounds only");
        assert_eq!(first.files.iter().any(|f| f.path == "ASSETMAP.xml"), standard == Standard::Smpte);
    }
}

/// Walks the track files: every packet in place, an index entry for every frame, all pictures different.
#[test]
fn track_files_are_whole_mxf_files() {
    let dir = tempfile::tempdir().unwrap();
    for standard in [Standard::Smpte, Standard::Interop] {
        let options = SampleOptions { standard, name: Some(format!("{standard:?}")), seconds: Some(2.0), ..small() };
        let made = make(dir.path(), &options);
        for (path, bytes) in tree(&made.packages[0].dir).into_iter().filter(|(p, _)| p.ends_with(".mxf")) {
            let all = packets(&bytes);
            let frame_key = [0x06, 0x0e, 0x2b, 0x34, 0x01, 0x02, 0x01, 0x01, 0x0d, 0x01, 0x03, 0x01];
            assert_eq!(all.iter().filter(|(k, _)| k[..12] == frame_key).count(), 48, "{path}");
            let partitions =
                all.iter().filter(|(k, _)| k[..13] == *b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01" && k[15] == 0);
            let kinds: Vec<u8> = partitions.map(|(k, _)| k[13]).filter(|k| (2..=4).contains(k)).collect();
            assert_eq!(kinds, if standard == Standard::Smpte { vec![2, 3, 4] } else { vec![2, 4] }, "{path}");

            // The header's pointer and the random index pack's both lead to the footer partition.
            let be64 = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let footer = be64(20 + 24);
            assert_eq!(bytes[footer + 13], 4, "{path}: a footer partition");
            assert_eq!(be64(bytes.len() - 12), footer, "{path}: the last entry of the random index");
            let rip_len = u32::from_be_bytes(bytes[bytes.len() - 4..].try_into().unwrap()) as usize;
            assert_eq!(all.last().unwrap().1 + 20, rip_len);
            if path.starts_with("j2c") {
                // The index's last entry is the last frame's offset from the first.
                let (frames, rest) = (all.iter().filter(|(k, _)| k[..12] == frame_key), bytes.len() - rip_len);
                let lens: Vec<usize> = frames.map(|(_, n)| n + 20).collect();
                assert_eq!(be64(rest - 8), lens[..lens.len() - 1].iter().sum::<usize>());
            }
        }
    }
}

#[test]
fn the_size_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (i, size) in [20_000_000, 33_333_333].into_iter().enumerate() {
        let options =
            SampleOptions { name: Some(format!("p{i}")), size: Some(size), reels: 1 + i as u32, ..SampleOptions::default() };
        let (mut last, mut calls) = (0, 0);
        let made = make_sample(dir.path(), &options, &mut |bytes| {
            assert!(bytes >= last, "progress never falls");
            (last, calls) = (bytes, calls + 1);
        })
        .unwrap();
        let bytes = made.packages[0].bytes;
        assert!(bytes.abs_diff(size) < 8_000, "{bytes} for {size}");
        assert_eq!(last, planned_bytes(&options).unwrap());
        assert!(calls > 10);
    }
    // Without a size, the running time decides.
    let options = SampleOptions { seconds: Some(1.5), fps: 48, ..SampleOptions::default() };
    let planned = planned_bytes(&options).unwrap();
    assert!(planned > 20_000_000 && planned < 40_000_000, "{planned}");
}

#[test]
fn a_second_version_shares_the_part_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for share in [0.0, 40.0, 80.0, 97.0, 100.0] {
        let options = SampleOptions {
            name: Some(format!("one{share}")),
            reels: 5,
            size: Some(12_000_000),
            channels: 2,
            version2: Some(Version2 { name: format!("two{share}"), share }),
            ..SampleOptions::default()
        };
        let made = make(dir.path(), &options);
        let [one, two] = &made.packages[..] else { panic!("two packages") };
        check_package(two);
        let known: BTreeSet<Sha1> = one.files.iter().map(|f| f.sha1).collect();
        let tracks = |f: &&bft2::package::sample::FileSummary| f.path.ends_with(".mxf");
        let common: u64 = two.files.iter().filter(tracks).filter(|f| known.contains(&f.sha1)).map(|f| f.size).sum();
        assert_eq!(common, two.shared_bytes);
        let percent = 100.0 * common as f64 / two.bytes as f64;
        assert!((percent - share).abs() < 4.0, "{percent} for {share}");
        assert_ne!(one.title, two.title);
    }
}

#[test]
fn track_files_may_lie_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = SampleOptions { subdir: Some("media/reels".to_owned()), standard: Standard::Interop, ..small() };
    let made = make(dir.path(), &options);
    check_package(&made.packages[0]);
    for f in &made.packages[0].files {
        assert_eq!(f.path.starts_with("media/reels/"), f.path.ends_with(".mxf"), "{}", f.path);
    }
}

#[test]
fn bad_options_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let version2 = |name: &str, share| Some(Version2 { name: name.to_owned(), share });
    let text = |s: &str| Some(s.to_owned());
    let base = SampleOptions::default;
    for (word, options) in [
        ("--share 101", SampleOptions { version2: version2("b", 101.0), ..base() }),
        ("--share NaN", SampleOptions { version2: version2("b", f64::NAN), ..base() }),
        ("--size 1000000", SampleOptions { size: Some(1_000_000), reels: 2, ..base() }),
        ("--size 0", SampleOptions { size: Some(0), ..base() }),
        ("--size", SampleOptions { size: Some(u64::MAX), ..base() }),
        ("250 Mbit/s", SampleOptions { size: Some(8_000_000_000), seconds: Some(10.0), ..base() }),
        ("--seconds", SampleOptions { seconds: Some(1.0), reels: 2, ..base() }),
        ("--seconds", SampleOptions { seconds: Some(f64::INFINITY), ..base() }),
        ("--fps 23", SampleOptions { fps: 23, ..base() }),
        ("--fps 0", SampleOptions { fps: 0, ..base() }),
        ("--channels 7", SampleOptions { channels: 7, ..base() }),
        ("--reels 0", SampleOptions { reels: 0, ..base() }),
        ("--subdir", SampleOptions { subdir: text("../up"), ..base() }),
        ("--subdir", SampleOptions { subdir: text("a b"), ..base() }),
        ("--name", SampleOptions { name: text("a/b"), ..base() }),
        ("--vf", SampleOptions { name: text("a"), vf: text(".."), ..base() }),
        ("different", SampleOptions { name: text("a"), vf: text("a"), ..base() }),
        ("different", SampleOptions { vf: text("a"), version2: version2("a", 50.0), ..base() }),
        ("--kind", SampleOptions { kind: "Big <Film>".to_owned(), ..base() }),
        ("--title", SampleOptions { title: text(""), ..base() }),
    ] {
        let fault = make_sample(&out, &options, &mut |_| {}).unwrap_err();
        assert!(fault.message.contains(word), "{:?} does not say {word:?}", fault.message);
    }
    assert!(!out.exists(), "a refusal leaves nothing behind");
}

#[test]
fn directories_with_something_in_them_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = SampleOptions { name: Some("film".to_owned()), vf: Some("film_VF".to_owned()), ..small() };
    let forced = SampleOptions { force: true, ..options.clone() };
    std::fs::create_dir_all(dir.path().join("film_VF")).unwrap();
    let precious = dir.path().join("film_VF/precious");
    std::fs::write(&precious, "work of years").unwrap();
    for options in [&options, &forced] {
        let fault = make_sample(dir.path(), options, &mut |_| {}).unwrap_err();
        assert!(fault.message.contains("film_VF"), "{}", fault.message);
        assert!(!dir.path().join("film").exists(), "nothing is made when one name is taken");
    }
    assert_eq!(std::fs::read(&precious).unwrap(), b"work of years");

    std::fs::remove_file(&precious).unwrap();
    make(dir.path(), &options); // an empty directory is no obstacle
    let fault = make_sample(dir.path(), &options, &mut |_| {}).unwrap_err();
    assert!(fault.message.contains("--force"), "{}", fault.message);
    let replaced = make(dir.path(), &SampleOptions { seed: 9, ..forced });
    replaced.packages.iter().for_each(check_package);
    let names: BTreeSet<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["film".to_owned(), "film_VF".to_owned()]), "no staging directory is left");
}

#[test]
fn titles_are_full_isdcf_names_and_are_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let made = make(dir.path(), &SampleOptions { name: Some("xiao fang".to_owned()), channels: 2, fps: 25, ..small() });
    assert_eq!(made.packages[0].title, "xiaofang_TST-1-2D-25_F_XX-XX_INT-TD_20_2K_BFT_20260101_BFT_SMPTE_OV");
    let options = SampleOptions { name: Some("tom".to_owned()), title: Some("Tom & <Jerry>".to_owned()), ..small() };
    let made = make(dir.path(), &options);
    check_package(&made.packages[0]);
    let files = tree(&made.packages[0].dir);
    let cpl = files.iter().find(|(p, _)| p.starts_with("cpl_")).unwrap().1;
    assert!(String::from_utf8_lossy(cpl).contains("<ContentTitleText>Tom &amp; &lt;Jerry&gt;</ContentTitleText>"));
}
