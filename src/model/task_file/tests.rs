use super::*;
use crate::model::ratio::{Order, allocate_lists, allocate_split};
use proptest::prelude::*;
use serde_json::json;

const XIAOFANG: &str = include_str!("../../../tests/fixtures/task/cfec-001-xiaofang.task.json");
const ZDS: &str =
    include_str!("../../../tests/fixtures/task/cfec-001-zds_3d_ADV_F_CMN-CMN_CN-G_20-CMN_2K_20160827__i3D_OV.task.json");
const RECOMMENDED: &str = include_str!("../../../tests/fixtures/task/recommended.task.json");

fn parse(v: &Value) -> Result<TaskFile, TaskFileError> {
    TaskFile::parse(v.to_string().as_bytes())
}

fn zds() -> Value {
    serde_json::from_str(ZDS).unwrap()
}

/// A valid task of three files, by methods.
fn small() -> Value {
    let hash = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    json!({
        "sourcetype": "sender", "senderid": "cfec", "name": "film", "type": "dir", "basesubdir": "cfec-001",
        "size": 60, "bt-obs-cdn": "1:1:1", "policy": "fulltime",
        "bt": {"seedtime": 72}, "obs": {"url": "obs://cfec-001/dcps/film"}, "cdn": {"url": "http://cdn.example.com/dcp/cfec-001/dcps/film"},
        "filelist": [
            {"file": "a.mxf", "hash": hash, "size": 10},
            {"file": "sub/b.mxf", "hash": hash, "size": 20},
            {"file": "sub/c.mxf", "hash": hash, "size": 30}
        ],
        "localsamefiles": [""], "btlist": ["a.mxf"], "obslist": ["sub/b.mxf"], "cdnlist": ["sub/c.mxf"],
        "btlistsize": 10, "obslistsize": 20, "cdnlistsize": 30
    })
}

fn bad_field(v: &Value) -> String {
    match parse(v) {
        Err(TaskFileError::Bad { field, allowed, .. }) => {
            assert!(!allowed.is_empty());
            field
        }
        other => panic!("expected a bad field, got {other:?}"),
    }
}

#[test]
fn the_field_example_fails_the_sum_check_only() {
    assert_eq!(TaskFile::parse(XIAOFANG.as_bytes()), Err(TaskFileError::ListsSum { size: 668_521_472, lists: 0 }));
    // With its lists filled everything else is fine.
    let mut v: Value = serde_json::from_str(XIAOFANG).unwrap();
    v["btlist"] = v["filelist"].as_array().unwrap().iter().map(|f| f["file"].clone()).collect();
    v["btlistsize"] = v["size"].clone();
    let t = parse(&v).unwrap();
    assert_eq!(t.bt.seedtime_hours, 72);
    assert_eq!(t.policy, Policy::Priortime);
    assert_eq!(t.obs.windows.as_ref().unwrap().to_string(), "08:00-00:00");
    assert_eq!(t.obs.ak.reveal(), "EXAMPLE-AK");
    assert_eq!(t.obs.endpoint.as_ref().unwrap().as_str(), "https://obs.example.com");
    assert_eq!(t.requesters.len(), 2);
    assert_eq!(t.list_sizes2, None);
}

#[test]
fn the_real_example_and_the_recommended_one_agree() {
    let t = TaskFile::parse(ZDS.as_bytes()).unwrap();
    let r = TaskFile::parse(RECOMMENDED.as_bytes()).unwrap();
    assert_eq!(t.bt.seedtime_hours, 169);
    assert_eq!(t.obs.sk.reveal(), "EXAMPLE-SK");
    assert_eq!(t.files, r.files);
    assert_eq!(t.lists, r.lists);
    assert_eq!(t.list_sizes, [933_597_669, 0, 8_627_566]);
    assert_eq!(t.file_name(), "cfec-001-zds_3d_ADV_F_CMN-CMN_CN-G_20-CMN_2K_20160827__i3D_OV.task.json");
    // The lists are what our own allocation makes.
    let files: Vec<(&RelPath, u64)> = t.files.iter().map(|f| (&f.path, f.size)).collect();
    let lists = allocate_lists(&files, t.ratio, Order::SizeDescending);
    assert_eq!((lists.paths, lists.sizes), (t.lists.clone(), t.list_sizes));
}

#[test]
fn the_recommended_example_is_what_we_write() {
    let mut want: Value = serde_json::from_str(RECOMMENDED).unwrap();
    // Our form of the end of the day.
    want["bt"]["priortime"] = "00:00-23:59".into();
    let got: Value = serde_json::from_str(&TaskFile::parse(RECOMMENDED.as_bytes()).unwrap().to_json()).unwrap();
    assert_eq!(got, want);
}

#[test]
fn unknown_fields_survive_in_their_order() {
    let mut v = small();
    v["zeta"] = json!({"deep": [1, 2]});
    v["alpha"] = json!("x");
    v["bt"]["vendor"] = json!(1);
    v["filelist"][1]["note"] = json!("reel 2");
    let text = parse(&v).unwrap().to_json();
    assert!(text.find("\"zeta\"").unwrap() < text.find("\"alpha\"").unwrap());
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(again["zeta"], v["zeta"]);
    assert_eq!(again["bt"]["vendor"], 1);
    assert_eq!(again["filelist"][1]["note"], "reel 2");
    assert_eq!(parse(&again).unwrap(), parse(&v).unwrap());
}

#[test]
fn sloppy_json_is_read_and_broken_json_has_its_own_error() {
    let text = format!("\u{feff}// by hand\n{}", ZDS.trim_end().trim_end_matches('}').trim_end().to_owned() + ",\n}");
    assert!(TaskFile::parse(text.as_bytes()).is_ok());
    for broken in [&ZDS[..ZDS.len() / 2], "", "{\"name\" \"x\"}", "\u{1}"] {
        assert!(matches!(TaskFile::parse(broken.as_bytes()), Err(TaskFileError::NotJson(_))), "{broken:.20?}");
    }
    assert!(matches!(TaskFile::parse(b"[]"), Err(TaskFileError::Bad { .. })));
    assert!(matches!(TaskFile::parse(&b"[".repeat(200_000)), Err(TaskFileError::NotJson(_))));
}

#[test]
fn every_wrong_value_names_its_field() {
    let table = [
        ("/sourcetype", json!("request"), "sourcetype"),
        ("/senderid", json!("cf_ec"), "senderid"),
        ("/name", json!("../x"), "name"),
        ("/name", json!(""), "name"),
        ("/name", json!({}), "name"),
        ("/type", json!("tree"), "type"),
        ("/type", json!("file"), "type"),
        ("/basesubdir", json!("a/b"), "basesubdir"),
        ("/size", json!(61), "size"),
        ("/size", json!(-1), "size"),
        ("/size", json!(1e300), "size"),
        ("/size", json!("many"), "size"),
        ("/bt-obs-cdn", json!("0:0:0"), "bt-obs-cdn"),
        ("/policy", json!("sometime"), "policy"),
        ("/bt", json!("x"), "bt"),
        ("/bt/seedtime", json!(87_601), "bt.seedtime"),
        ("/bt/seedtime", json!("-3"), "bt.seedtime"),
        ("/bt/url", json!("file:///etc/passwd"), "bt.url"),
        ("/bt/tmpurl", json!("ftp://example.com/x"), "bt.tmpurl"),
        ("/bt/tracker", json!("file:///etc/passwd"), "bt.tracker"),
        ("/bt/priortime", json!("25:00-26:00"), "bt.priortime"),
        ("/bt/peers", json!(["nowhere"]), "bt.peers"),
        ("/bt/peers", json!("a:1"), "bt.peers"),
        ("/obs/url", json!("obs://cfec-001"), "obs.url"),
        ("/obs/url", json!("obs://cfec-001/../x"), "obs.url"),
        ("/obs/endpoint", json!("file:///etc"), "obs.endpoint"),
        ("/obs/obsendpoint", json!("file:///etc"), "obs.endpoint"),
        ("/cdn/url", json!("file:///etc"), "cdn.url"),
        ("/filelist", json!({}), "filelist"),
        ("/filelist/0", json!("a.mxf"), "filelist[0]"),
        ("/filelist/0/file", json!("/etc/passwd"), "filelist[0].file"),
        ("/filelist/0/file", json!("sub/../../x"), "filelist[0].file"),
        ("/filelist/0/file", json!("sub/b.mxf"), "filelist"),
        ("/filelist/0/file", json!("sub"), "filelist"),
        ("/filelist/0/hash", json!("abc"), "hash of a.mxf"),
        ("/filelist/0/size", json!(-10), "size of a.mxf"),
        ("/filelist/0/size", json!(9_007_199_254_740_993u64), "size of a.mxf"),
        ("/filelist/0/size", json!(MAX_SIZE), "filelist"),
        ("/btlist", json!(["x.mxf"]), "btlist"),
        ("/btlist", json!([]), "btlist, obslist, cdnlist"),
        ("/btlist", json!(["a.mxf", "a.mxf"]), "btlist"),
        ("/obslist", json!(["a.mxf"]), "obslist"),
        ("/localsamefiles", json!(["x.mxf"]), "localsamefiles"),
        ("/localsamefiles", json!([7]), "localsamefiles"),
        ("/btlistsize", json!("x"), "btlistsize"),
        ("/gentime", json!("a\nb"), "gentime"),
        ("/spans", json!([{"file": "a.mxf", "offset": 0, "len": 10, "method": "ftp"}]), "spans[0].method"),
        ("/spans", json!([{"file": "a.mxf", "offset": 0, "method": "bt"}]), "spans[0].len"),
        ("/spans", json!([{"file": "../a", "offset": 0, "len": 1, "method": "bt"}]), "spans[0].file"),
    ];
    assert!(parse(&small()).is_ok());
    for (at, value, field) in table {
        let mut v = small();
        let (parent, key) = at.rsplit_once('/').unwrap();
        match v.pointer_mut(parent).unwrap() {
            Value::Array(a) => a[key.parse::<usize>().unwrap()] = value.clone(),
            Value::Object(o) => drop(o.insert(key.to_owned(), value.clone())),
            other => panic!("{other}"),
        }
        assert_eq!(bad_field(&v), field, "{at} = {value}");
    }
}

#[test]
fn the_protocols_own_checks_stay_apart() {
    let mut v = small();
    for i in 0..3 {
        v["filelist"][i]["size"] = 0.into();
    }
    assert_eq!(parse(&v), Err(TaskFileError::TotalZero));
    v["filelist"] = json!([]);
    assert_eq!(parse(&v), Err(TaskFileError::TotalZero));

    let mut v = small();
    v["btlistsize"] = 11.into();
    assert_eq!(parse(&v), Err(TaskFileError::ListsSum { size: 60, lists: 61 }));
    // The right sum, but not the sums of these lists.
    v["obslistsize"] = 19.into();
    assert!(matches!(parse(&v), Err(TaskFileError::ListsSum { .. })));
    // Left out, they are computed.
    for key in ["btlistsize", "obslistsize", "cdnlistsize"] {
        v.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(parse(&v).unwrap().list_sizes, [10, 20, 30]);
}

#[test]
fn too_many_files_are_refused() {
    let mut v = small();
    let entry = v["filelist"][0].clone();
    v["filelist"] = Value::Array(vec![entry; MAX_FILES + 1]);
    assert_eq!(bad_field(&v), "filelist");
}

#[test]
fn lists_rewritten_by_a_receiver_are_read() {
    let mut v = small();
    v["localsamefiles"] = json!(["sub/c.mxf", "a.mxf"]);
    v["btlist"] = json!([]);
    v["cdnlist"] = json!([""]);
    v["btlistsize2"] = 0.into();
    v["obslistsize2"] = 20.into();
    v["cdnlistsize2"] = 0.into();
    let t = parse(&v).unwrap();
    assert_eq!(t.list_sizes2, Some([0, 20, 0]));
    let methods: Vec<Method> = t.spans_by_method().into_iter().map(|(_, m)| m).collect();
    assert_eq!(methods, [Method::Cdn, Method::Obs, Method::Cdn]);
    assert_eq!(parse(&serde_json::from_str(&t.to_json()).unwrap()).unwrap(), t);
}

#[test]
fn spans_must_cover_their_file_once() {
    let span = |offset: u64, len: u64| json!({"file": "sub/c.mxf", "offset": offset, "len": len, "method": "bt"});
    let with = |spans: &[Value]| {
        let mut v = small();
        v["spans"] = spans.into();
        parse(&v)
    };
    let t = with(&[span(16, 14), span(0, 16)]).unwrap();
    let got: Vec<(u32, u64, u64)> = t.spans_by_method().iter().map(|(s, _)| (s.file, s.offset, s.len)).collect();
    assert_eq!(got, [(0, 0, 10), (1, 0, 20), (2, 0, 16), (2, 16, 14)]);
    for bad in [
        &[span(0, 16)][..],
        &[span(0, 16), span(15, 15)],
        &[span(0, 16), span(17, 13)],
        &[span(0, 30), span(0, 30)],
        &[span(0, 0), span(0, 30)],
        &[span(0, 31)],
    ] {
        assert!(matches!(with(bad), Err(TaskFileError::Bad { .. })), "{bad:?}");
    }
}

#[test]
fn a_single_file_task() {
    let mut v = small();
    v["type"] = "file".into();
    v["name"] = "film.mxf".into();
    v["filelist"] = json!([{"file": "film.mxf", "hash": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "size": "60"}]);
    v["btlist"] = json!(["film.mxf"]);
    (v["obslist"], v["cdnlist"]) = (json!([]), json!([]));
    (v["btlistsize"], v["obslistsize"], v["cdnlistsize"]) = (json!("60"), json!(0), json!(0));
    assert_eq!(parse(&v).unwrap().kind, Kind::File);
}

#[test]
fn secrets_show_nowhere() {
    let mut v = zds();
    v["cdn"]["url"] = "http://cdn.example.com/x?sig=EXAMPLE-SIGNATURE".into();
    let t = parse(&v).unwrap();
    let shown = format!("{t:?} {:?}", t.obs);
    assert!(!shown.contains("EXAMPLE-"), "{shown}");
    v["obs"]["obssk"] = "EXAMPLE-SK\n".into();
    v["obs"].as_object_mut().unwrap().remove("sk");
    assert!(!parse(&v).unwrap_err().to_string().contains("EXAMPLE-"));
    let mut v = zds();
    v["cdn"]["url"] = "ftp://u:EXAMPLE-SK@cdn.example.com/x?sig=EXAMPLE-SK".into();
    assert!(!parse(&v).unwrap_err().to_string().contains("EXAMPLE-"));
}

proptest! {
    #[test]
    fn split_tasks_round_trip(sizes in proptest::collection::vec(0u64..100_000, 1..20), bt in 0u32..4, obs in 0u32..4, piece in 1u64..5000) {
        prop_assume!(sizes.iter().sum::<u64>() > 0);
        let file = |(i, &size): (usize, &u64)| FileEntry { path: RelPath::parse(&format!("f{i:02}")).unwrap(), size, sha1: Sha1([7; 20]) };
        let files: Vec<FileEntry> = sizes.iter().enumerate().map(file).collect();
        let named: Vec<(&RelPath, u64)> = files.iter().map(|f| (&f.path, f.size)).collect();
        let ratio = Ratio::new(bt, obs, 1).unwrap();
        let spans = allocate_split(&named, ratio, piece);
        let mut t = TaskFile::new(PackageName::parse("film").unwrap(), BaseSubdir::parse("cfec-001").unwrap(), ratio, Policy::Fulltime, files.clone());
        t.set_spans(&spans, piece);
        prop_assert_eq!(&t.spans_by_method(), &spans);
        let again = TaskFile::parse(t.to_json().as_bytes()).unwrap();
        prop_assert_eq!(again.spans_by_method(), spans);
        prop_assert_eq!(again, t);
    }

    /// However an old system wrote it: lists in any order with empty names, numbers as text, one spelling of the keys or
    /// both, keys of its own, commas and comments. What is read is written so that it reads the same, and keeps all.
    #[test]
    fn old_tasks_round_trip(
        sizes in proptest::collection::vec((1u64..1 << 40, 0usize..3), 1..20),
        (text, both, second, commas) in any::<(bool, bool, bool, bool)>(),
        hours in 0u64..1000,
        note in "[a-z]{1,8}",
    ) {
        let number = |n: u64| if text { json!(n.to_string()) } else { json!(n) };
        let name = |i: usize| format!("reel_{i}.mxf");
        let list = |m: usize| -> Vec<String> {
            let mine = sizes.iter().enumerate().rev().filter(|(_, s)| s.1 == m).map(|(i, _)| name(i));
            mine.chain([String::new()]).collect()
        };
        let sum = |m: usize| number(sizes.iter().filter(|s| s.1 == m).map(|s| s.0).sum());
        let mut v = small();
        v["filelist"] = sizes
            .iter()
            .enumerate()
            .map(|(i, (size, _))| json!({"file": name(i), "hash": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "size": number(*size)}))
            .collect();
        v["size"] = number(sizes.iter().map(|s| s.0).sum());
        for (m, key) in ["bt", "obs", "cdn"].into_iter().enumerate() {
            v[format!("{key}list")] = json!(list(m));
            v[format!("{key}listsize")] = sum(m);
        }
        v["bt"]["seedtime"] = number(hours);
        if both || second {
            v["obs"]["obsak"] = json!("EXAMPLE-AK");
            v["gentasktime"] = json!("2021-04-25 16:56:37");
        }
        if both || !second {
            v["obs"]["ak"] = json!("EXAMPLE-AK");
            v["gentime"] = json!("2021-04-25 16:56:37");
        }
        v["x-note"] = json!(note);
        let mut written = format!("{v:#}");
        if commas {
            written = written.replace("\n}", ",\n} // end");
        }
        let read = TaskFile::parse(written.as_bytes()).unwrap();
        let again: Value = serde_json::from_str(&read.to_json()).unwrap();
        prop_assert_eq!(parse(&again).unwrap(), read);
        prop_assert_eq!(&again["x-note"], &json!(note));
        prop_assert_eq!(&again["bt"]["seedtime"], &json!(hours.to_string()));
        for (a, b) in [("/obs/ak", "/obs/obsak"), ("/gentime", "/gentasktime")] {
            prop_assert!(again.pointer(a).is_some_and(|v| v.as_str().is_some_and(|t| !t.is_empty())), "{}", a);
            prop_assert_eq!(again.pointer(a), again.pointer(b));
        }
    }

    #[test]
    fn damaged_texts_never_panic(at in 0usize..3000, with in any::<u8>(), cut in 0usize..4000) {
        let mut bytes = RECOMMENDED.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = with;
        bytes.truncate(cut.max(1));
        let _ = TaskFile::parse(&bytes);
    }
}
