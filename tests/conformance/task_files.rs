//! The task file examples: a receiver reads each, and gentask writes the same for a package of the same files.
//!
//! The films of the examples are laid out with their real names by a sender with the recommended configuration. Their
//! track files have a hundredth of their size, which changes neither the allocation nor what is written about it but the
//! numbers ([`scaled`]), and other hashes. Two things are the example's own and no rule: the order of `filelist` (the
//! old service's directory order; ours is sorted), and an entry of empty texts in `requesters` (section 18, 6: nobody
//! reads it; it is carried through).

use super::asking::{Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::examples;
use super::films::{described, thirds};
use super::world::{World, read_json, task_name};
use serde_json::{Value, json};

const ZDS: &str = "zds_3d_ADV_F_CMN-CMN_CN-G_20-CMN_2K_20160827__i3D_OV";
const FIRST: &str = "task/cfec-001-xiaofang.task.json";
const SECOND: &str = "task/cfec-001-zds_3d_ADV_F_CMN-CMN_CN-G_20-CMN_2K_20160827__i3D_OV.task.json";
const RECOMMENDED: &str = "task/recommended.task.json";
/// What the old service's run decided, and a measure of it.
const TIMES: [&str; 5] = ["gentime", "gentasktime", "sendtime", "receivetime", "finishedtime"];

#[tokio::test]
async fn task_files_are_read_and_written_as_the_examples_are() {
    let mut world = World::new();
    let map = Client::new(&world, &world.sender).map;
    let mut keys = map.value(&examples::json("config/config.recommended-sender.json"));
    // By falling size, as the examples were allocated.
    super::world::merge(&mut keys, &json!({"ctfilesorder": false, "splitfiles": false}));
    world.sender.set_all(&keys);
    world.start().await;
    let mut bench = Bench::new(Stage::TaskFiles);
    let (sender, receiver) = (Client::new(&world, &world.sender), Client::new(&world, &world.receiver));
    read(&mut bench, &receiver).await;
    recommended(&mut bench, &sender, &world).await;
    second(&mut bench, &sender, &world).await;
    first(&mut bench, &sender, &world).await;
    settings_of_a_tms(&mut bench, &sender).await;
    bench.finish();
}

/// What a receiver says of each: the first one's lists are empty, the second one has no torrent of its bt part, and the
/// third one's sender does not have that torrent. All else in them was read by then.
async fn read(bench: &mut Bench, receiver: &Client<'_>) {
    for (file, name, desc) in [
        (FIRST, "xiaofang", "totalsize != all lists sum : /data/receiver/tmp/cfec-001-xiaofang.task.json".to_owned()),
        (SECOND, ZDS, "need tmptorrent and found bt.tmpurl is empty.".into()),
        (
            RECOMMENDED,
            ZDS,
            format!("could not download tmptorrent from http://192.0.2.20/dcp/cfec-001/dcps-tmp/{ZDS}-tmp.torrent"),
        ),
    ] {
        let at = receiver.path("/data/receiver/tmp/").join(task_name(name));
        std::fs::write(&at, receiver.map.text(&examples::text(file))).expect("write");
        let recv = ask("recv/request-curl-receiver.json").about(&task_name(name));
        bench.says(receiver, &format!("recv of {file}"), recv, false, &desc).await;
        std::fs::remove_file(at).expect("a refused task file stays");
    }
}

/// The example with track files of a hundredth of their size. The sums follow from the lists, as they do in the example.
fn scaled(file: &str) -> Value {
    let mut example = examples::json(file);
    let published = example.clone();
    let sum = |task: &Value, list: &str| -> u64 {
        let listed = |f: &Value| list == "filelist" || task[list].as_array().is_some_and(|l| l.contains(&f["file"]));
        let files = task["filelist"].as_array().expect("filelist");
        files.iter().filter(|f| listed(f)).map(|f| f["size"].as_u64().expect("size")).sum()
    };
    for entry in example["filelist"].as_array_mut().expect("filelist") {
        let size = entry["size"].as_u64().expect("size");
        entry["size"] = if size > 1 << 20 { size / 100 } else { size }.into();
    }
    for (key, list) in [("size", "filelist"), ("btlistsize", "btlist"), ("obslistsize", "obslist"), ("cdnlistsize", "cdnlist")] {
        assert_eq!(published[key], sum(&published, list), "{file}: {key} of the published example");
        example[key] = sum(&example, list).into();
    }
    example
}

/// Lays the example's package out and generates its task file.
async fn generated(world: &World, name: &str, example: &Value, params: Value) -> Value {
    let files = example["filelist"].as_array().expect("filelist");
    let files: Vec<(&str, u64)> =
        files.iter().map(|f| (f["file"].as_str().expect("file"), f["size"].as_u64().expect("size"))).collect();
    described(&world.sender.store().join(name), &files);
    read_json(&world.gentask_with(name, params).await)
}

async fn recommended(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    bench.case(RECOMMENDED);
    let example = scaled(RECOMMENDED);
    let params = json!({"btobscdn": "1:1:1", "policy": "fulltime", "seedtime": "169", "deloldtorrent": "true"});
    let made = generated(world, ZDS, &example, params).await;
    let rules = [("requesters", json!([]), "18.6: carried through, none are made up")];
    compare(bench, sender, RECOMMENDED, &example, &made, &rules);
}

/// Real output of the old service, whose windows were others.
async fn second(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    bench.case(SECOND);
    let example = scaled(SECOND);
    let windows = json!({"bttime": "06:00-18:00", "obstime": "08:00-18:00", "cdntime": "06:00-24:00"});
    sender.reconfigure(&windows).await;
    let made = generated(world, ZDS, &example, json!({"btobscdn": "1:1:1", "policy": "fulltime", "seedtime": 169})).await;
    let rules = [
        ("cdn.priortime", json!("06:00-00:00"), "17.31: 24:00 is read and written as 00:00"),
        ("obs.url", json!(format!("obs://cfec-001/dcps/{ZDS}")), "section 7: another film's name is a slip"),
        ("requesters", json!([]), "18.6: carried through, none are made up"),
    ];
    compare(bench, sender, SECOND, &example, &made, &rules);
}

/// An illustration of the fields: its lists are empty, so they are replaced by an allocation of its files.
async fn first(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    bench.case(FIRST);
    let example = scaled(FIRST);
    let windows = json!({"bttime": "00:00-23:00", "obstime": "08:00-24:00", "cdntime": "18:00-05:00"});
    sender.reconfigure(&windows).await;
    let params = json!({"btobscdn": "1:1:1", "policy": "priortime", "seedtime": "72", "endpoint": "https://obs.example.com"});
    let made = generated(world, "xiaofang", &example, params).await;
    let video = json!(["subdir/b9062d02-d9ce-6c4f-80c9-711985835c38.mxf"]);
    let rest = json!(["42e7346d-ff82-c248-9a25-85e3058b0d44.mxf", "ASSETMAP.xml", "PKL.XML", "subdir2/VOLINDEX"]);
    let allocated = "section 8: by falling size, the first method whose quota is not filled";
    let rules = [
        ("bt.seedtime", json!("72"), "17.29: a string"),
        ("bt.tmpurl", json!("http://192.0.2.10/dcp/cfec-001/dcps-tmp/xiaofang-tmp.torrent"), "17.26"),
        ("obs.priortime", json!("08:00-00:00"), "17.31"),
        ("localsamefiles", json!([]), "section 7: an empty text means an empty list"),
        ("btlist", video, allocated),
        ("obslist", json!([]), allocated),
        ("cdnlist", rest, allocated),
        ("btlistsize", json!(6_588_860), allocated),
        ("cdnlistsize", json!(98_906), allocated),
        ("requesters", json!([]), "18.6: carried through, none are made up"),
    ];
    compare(bench, sender, FIRST, &example, &made, &rules);
}

/// Every key of the example is in the generated file, with its value or the settled one.
fn compare(bench: &mut Bench, sender: &Client<'_>, file: &str, example: &Value, made: &Value, rules: &[(&str, Value, &str)]) {
    let (example, mut wrong) = (sender.map.value(example), Vec::new());
    let mut used = 0;
    let mut one = |name: &str, shown: &Value, got: &Value| {
        let rule = rules.iter().find(|(n, ..)| *n == name);
        used += usize::from(rule.is_some());
        let wanted = rule.map_or_else(|| shown.clone(), |(_, v, _)| sender.map.value(v));
        let fine = match name {
            "filelist" => same_files(&wanted, got),
            _ if TIMES.contains(&name) => got.as_str().is_some_and(|t| t.is_empty() || is_time(t)),
            _ => wanted == *got,
        };
        if !fine {
            wrong.push(format!("{name} is {got}, not {wanted} ({})", rule.map_or("as in the example", |r| r.2)));
        }
    };
    for (key, shown) in example.as_object().expect("an object") {
        match shown {
            Value::Object(part) => part.iter().for_each(|(k, v)| one(&format!("{key}.{k}"), v, &made[key][k])),
            _ => one(key, shown, &made[key]),
        }
    }
    if used != rules.len() {
        wrong.push("a rule names a key that the example does not have".into());
    }
    for (keys, what) in [(["gentime", "gentasktime"], "17.30: both"), (["sendtime", "receivetime"], "empty until then")] {
        if made[keys[0]] != made[keys[1]] || (keys[0] == "gentime") != made[keys[0]].as_str().is_some_and(is_time) {
            wrong.push(format!("{keys:?} {what}: {made}"));
        }
    }
    // 17.28: both spellings.
    for key in ["ak", "sk", "endpoint"] {
        if made["obs"][key] != made["obs"][format!("obs{key}")] {
            wrong.push(format!("obs.{key} and obs.obs{key} differ"));
        }
    }
    bench.note(file, wrong);
}

/// Names and sizes, in whatever order; hashes are 40 lower-case hexadecimal digits.
fn same_files(wanted: &Value, got: &Value) -> bool {
    let sorted = |v: &Value| {
        let list = v.as_array().cloned().unwrap_or_default();
        let mut out: Vec<(String, u64)> =
            list.iter().map(|f| (f["file"].as_str().unwrap_or_default().to_owned(), f["size"].as_u64().unwrap_or(0))).collect();
        out.sort();
        out
    };
    let hex = |h: &str| h.len() == 40 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let hashed = got.as_array().is_some_and(|l| l.iter().all(|f| f["hash"].as_str().is_some_and(hex)));
    hashed && sorted(wanted) == sorted(got)
}

fn is_time(text: &str) -> bool {
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").is_ok()
}

/// `tms.properties` belongs to the client. Its values are what the client puts into gentask, so gentask takes each.
async fn settings_of_a_tms(bench: &mut Bench, sender: &Client<'_>) {
    bench.case("config/tms.properties");
    let text = examples::text("config/tms.properties");
    let value = |name: &str| {
        let line =
            text.lines().find_map(|l| l.split_once('=').filter(|(key, _)| key.trim_end_matches(".wuxi-001").ends_with(name)));
        line.unwrap_or_else(|| panic!("{name} is not in the settings")).1.to_owned()
    };
    thirds(&sender.path("/data/dcp/wuxi-001/dcps/xiaofang"), 5000);
    let taskfile = "/data/sender/tmp/wuxi-001-xiaofang.task.json";
    let gentask = ask("gentask/request-curl.json")
        .with("dcppath", "/data/dcp/wuxi-001/dcps/xiaofang")
        .with("taskfile", taskfile)
        .with("basesubdir", "wuxi-001")
        .without("obsurl")
        .with("btobscdn", value(".btobscdn"))
        .with("policy", value(".policy"))
        .with("seedtime", value(".seedtime"))
        .with("deloldtorrent", value(".deloldtorrent"))
        .with("datasource", value(".datasource"))
        .with("ak", value(".obs.ak"))
        .with("sk", value(".obs.sk"))
        .with("endpoint", value(".obs.endpoint"));
    let wait = "please wait until /data/dcp/wuxi-001/dcps/xiaofang.torrent, /data/dcp/wuxi-001/dcps-tmp/xiaofang-tmp.torrent \
                and /data/sender/tmp/wuxi-001-xiaofang.task.json all are finished.";
    bench.says(sender, "gentask with a TMS's settings", gentask.sloppy(), true, wait).await;
    let path = sender.path(taskfile);
    super::world::until("the task file is made", super::world::PATIENCE, async || path.exists().then_some(())).await;
    let made = read_json(&path);
    for (at, wanted) in [
        ("/bt-obs-cdn", value(".btobscdn")),
        ("/policy", value(".policy")),
        ("/bt/seedtime", value(".seedtime")),
        ("/datasource", value(".datasource")),
        ("/obs/ak", value(".obs.ak")),
        ("/obs/obssk", value(".obs.sk")),
        ("/obs/endpoint", value(".obs.endpoint")),
        ("/obs/url", "obs://wuxi-001/dcps/xiaofang".into()),
    ] {
        bench.check(
            made.pointer(at).is_some_and(|v| *v == wanted.as_str()),
            &format!("tms.properties: {at} is not {wanted}"),
            &made.pointer(at),
        );
    }
}
