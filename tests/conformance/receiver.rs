//! A receiver with store plan A from an empty library to packages that are all there: recv, progress, cancel.
//!
//! One download at a time, and slow where a case has to look at it: so a task can be held in `downloading`, and another
//! behind it in `queues`.

use super::asking::{Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::compare::is_percent;
use super::films::{MIB, film, thirds};
use super::world::{PATIENCE, World, copy_tree, read_json, task_name, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const CHANGJIANG: &str = "changjiang_FTR-1_F_EN-XX_20_2K_20210315_OV";
/// The shares of the recommended example: 40, 30 and 30%.
const FIRST: [(&str, u64); 3] = [("a.mxf", 4 * MIB), ("b.mxf", 3 * MIB), ("c.mxf", 3 * MIB)];
/// The shares of the other one, 99.084 and 0.916%: a hundredth of the film that it was taken from.
const SECOND: [(&str, u64); 2] = [("a-video.mxf", 9_335_977), ("b-audio.mxf", 86_275)];

#[tokio::test]
async fn a_receiver_answers_as_the_examples_do() {
    let mut world = World::new();
    world.sender.set("splitfiles", false);
    world.receiver.set_all(&json!({"receiverstoreplan": "A", "downloadingnum": 1}));
    world.start().await;
    let mut bench = Bench::new(Stage::Receiver);
    let receiver = Client::new(&world, &world.receiver);
    nothing_is_there(&mut bench, &receiver).await;
    film(&world.sender.store().join("xiaofang"), &FIRST);
    let full = read_json(&world.gentask("xiaofang", "1:0:0").await);
    let taskfile = world.publish("xiaofang", "4:3:3").await;
    unusable_task_files(&mut bench, &receiver, &world, &full, &read_json(&taskfile)).await;
    receiver.reconfigure(&json!({"btrate": "100K", "obsrate": "100K", "cdnrate": "100K"})).await;
    one_waits_for_another(&mut bench, &receiver, &world, &taskfile).await;
    bt_and_cdn_alone(&mut bench, &receiver, &world).await;
    receiver.reconfigure(&json!({"btrate": "", "obsrate": "", "cdnrate": ""})).await;
    downloads(&mut bench, &receiver, &world).await;
    bench.finish();
}

async fn nothing_is_there(bench: &mut Bench, receiver: &Client<'_>) {
    bench.reply(receiver, "recv/error-open.json", ask("recv/request-curl-cacher.json")).await;
    bench.reply(receiver, "progress/error-unknown.json", ask("progress/request.json")).await;
    let path = ask("progress/request-curl.json").with("taskfile", "/data/sender/tmp/cfec-001-xiaofang.task.json");
    bench.reply(receiver, "progress/error-open.json", path).await;
    let cancel = ask("cancel/request-curl.json").about("cfec-001-xiaoang.task.json");
    bench.reply(receiver, "cancel/curl-not-found.json", cancel).await;
    bench.reply(receiver, "cancel/prose-not-found.json", ask("cancel/request.json").about("xxx.task.json")).await;
}

/// Every refusal that comes of what the task file says. `full` and `part` are the same package with the full torrent and
/// with the `-tmp` torrent.
async fn unusable_task_files(bench: &mut Bench, receiver: &Client<'_>, world: &World, full: &Value, part: &Value) {
    let at = receiver.path("/data/receiver/tmp/cfec-001-xiaofang.task.json");
    let recv = || ask("recv/request-curl-cacher.json").with("reactive", "false");
    let changed = |pointer: &str, value: Value| {
        let mut task = part.clone();
        *task.pointer_mut(pointer).expect(pointer) = value;
        task.to_string()
    };
    for (file, text) in [
        ("recv/error-format.json", "{\"filelist\": [".to_owned()),
        ("recv/error-size-zero-path.json", changed("/filelist", json!([]))),
        ("recv/error-sum-lists.json", changed("/btlistsize", json!(17))),
        ("recv/error-no-tmpurl.json", changed("/bt/tmpurl", json!(""))),
    ] {
        std::fs::write(&at, text).expect("write");
        bench.reply(receiver, file, recv()).await;
    }

    let dcps = world.sender.store();
    let torrents = [dcps.join("xiaofang.torrent"), dcps.with_file_name("dcps-tmp").join("xiaofang-tmp.torrent")];
    let kept = torrents.clone().map(|t| std::fs::read(t).expect("torrent"));
    torrents.iter().for_each(|t| std::fs::remove_file(t).expect("remove"));
    for (file, task) in [("recv/error-torrent.json", full), ("recv/error-tmptorrent.json", part)] {
        std::fs::write(&at, task.to_string()).expect("write");
        bench.reply(receiver, file, recv()).await;
    }
    // The full torrent in the place of the other: a torrent, but not of these files.
    std::fs::write(&torrents[1], &kept[0]).expect("write");
    bench.reply(receiver, "recv/error-btlist.json", recv()).await;
    torrents.iter().zip(&kept).for_each(|(t, bytes)| std::fs::write(t, bytes).expect("write"));

    // A file stands where the directory should be, so nothing can be moved there.
    let tmp = at.parent().expect("tmp");
    let elsewhere = receiver.path("/tmp/cfec-001-xiaofang.task.json");
    std::fs::create_dir_all(elsewhere.parent().expect("directory")).expect("directory");
    std::fs::rename(&at, &elsewhere).expect("rename");
    std::fs::remove_dir(tmp).expect("an empty directory");
    std::fs::write(tmp, "in the way").expect("write");
    let from_elsewhere = recv().with("taskfile", "/tmp/cfec-001-xiaofang.task.json");
    bench.reply(receiver, "recv/error-move.json", from_elsewhere).await;
    std::fs::remove_file(tmp).expect("remove");
    std::fs::create_dir(tmp).expect("directory");
}

async fn one_waits_for_another(bench: &mut Bench, receiver: &Client<'_>, world: &World, taskfile: &Path) {
    film(&world.sender.store().join(CHANGJIANG), &[("reel.mxf", 8 * MIB)]);
    receiver.node.carry(&world.publish(CHANGJIANG, "0:0:1").await);
    bench.reply(receiver, "recv/curl-ok-receiver.json", ask("recv/request-curl-receiver.json").once()).await;
    running(receiver, CHANGJIANG, 0).await;

    let carried = receiver.node.carry(taskfile);
    let recv = || ask("recv/request-curl-cacher.json").with("reactive", "false");
    bench.says(receiver, "recv behind another", recv().once(), true, "succeed!").await;
    bench.check(!carried.exists(), "recv moves the task file out of receiver/tmp", &carried);
    receiver.node.carry(taskfile);
    bench.reply(receiver, "recv/error-in-queues.json", recv()).await;
    let reply = bench.reply(receiver, "progress/error-in-queues.json", ask("progress/request-curl.json")).await;
    // The error and the status that it stands for, in one reply (17.19).
    bench.check(reply["return_content"]["status"] == "queues", "status of a task in queues", &reply);
    let cancel = ask("cancel/request-curl.json").about(&task_name(CHANGJIANG)).once();
    bench.says(receiver, "cancel of a download", cancel, true, "succeed!").await;

    running(receiver, "xiaofang", 300_000).await;
    bench.reply(receiver, "recv/error-in-downloading.json", recv()).await;
    let given = [("/return_content/totalbytes", json!(sum(&FIRST).to_string()))];
    let query = ask("progress/request-curl.json").once();
    let reply = bench.reply_given(receiver, "progress/recommended-downloading.json", query, &given).await;
    consistent(bench, &reply["return_content"]);
    bench.reply(receiver, "cancel/curl-ok.json", ask("cancel/request-curl.json").once()).await;
}

/// The other running example: nothing of it comes by obs.
async fn bt_and_cdn_alone(bench: &mut Bench, receiver: &Client<'_>, world: &World) {
    std::fs::remove_dir_all(world.sender.store().join("xiaofang")).expect("remove");
    film(&world.sender.store().join("xiaofang"), &SECOND);
    receiver.node.carry(&world.publish("xiaofang", "1:1:1").await);
    let recv = ask("recv/request-curl-cacher.json").once();
    bench.says(receiver, "recv after a cancel", recv, true, "succeed!").await;
    running(receiver, "xiaofang", 300_000).await;
    let given = [("/return_content/totalbytes", json!(sum(&SECOND).to_string()))];
    let query = ask("progress/request.json").about(&task_name("xiaofang")).once();
    let reply = bench.reply_given(receiver, "progress/prose-downloading.json", query, &given).await;
    consistent(bench, &reply["return_content"]);
    bench.reply(receiver, "cancel/prose-ok.json", ask("cancel/request.json").sloppy()).await;
}

async fn downloads(bench: &mut Bench, receiver: &Client<'_>, world: &World) {
    thirds(&world.sender.store().join("uuid"), 30_000);
    receiver.node.carry(&world.publish("uuid", "1:1:1").await);
    bench.reply(receiver, "recv/ok.json", ask("recv/request.json").once()).await;
    receiver.node.downloaded(&task_name("uuid")).await;

    let taskfile = world.sender.data().join("sender/uploaded").join(task_name("xiaofang"));
    let recv = ask("recv/request.json").about(&task_name("xiaofang"));
    receiver.node.carry(&taskfile);
    bench.says(receiver, "recv after a cancel", recv.clone().once(), true, "succeed!").await;
    receiver.node.downloaded(&task_name("xiaofang")).await;
    let size = sum(&SECOND);
    // Asked twice, and it begins to seed a moment after it is downloaded.
    let seeds = async || (receiver.node.progress(&task_name("xiaofang")).await.0.text("btstatus") == "btseeding").then_some(());
    until("it seeds", PATIENCE, seeds).await;
    let given = [
        ("/return_content/Downloaded", json!(size.to_string())),
        ("/return_content/BtPercent", json!("99.084%")),
        ("/return_content/obspercent", json!("0.000%")),
        ("/return_content/cdnpercent", json!("0.916%")),
        ("/return_content/totalbytes", json!(size.to_string())),
    ];
    bench.reply_given(receiver, "progress/prose-downloaded.json", ask("progress/request-curl.json"), &given).await;
    let store = receiver.path("/data/dcp/xiaofang");
    bench.check(store.with_file_name("xiaofang.finished").is_file(), "the end marker beside the package", &store);

    // A file is gone: downloaded again, whatever reactive is.
    for (file, recv) in [
        ("recv/error-in-downloaded.json", recv.clone().with("reactive", "false").once()),
        ("recv/ok-again.json", recv.clone().sloppy()),
    ] {
        std::fs::remove_file(store.join(SECOND[1].0)).expect("remove");
        receiver.node.carry(&taskfile);
        bench.reply(receiver, file, recv).await;
        receiver.node.downloaded(&task_name("xiaofang")).await;
    }
    receiver.node.carry(&taskfile);
    bench.reply(receiver, "recv/ok-again-all-local.json", recv.clone().once()).await;
    receiver.node.downloaded(&task_name("xiaofang")).await;
    let given = [("/return_content/downloaded", json!(size))];
    bench.reply_given(receiver, "progress/curl-downloaded.json", ask("progress/request-curl.json"), &given).await;

    // The same bytes under another name.
    copy_tree(&world.sender.store().join("xiaofang"), &world.sender.store().join("file99M"));
    receiver.node.carry(&world.publish("file99M", "1:1:1").await);
    bench.reply(receiver, "recv/ok-all-local.json", ask("recv/request.json").about(&task_name("file99M")).sloppy()).await;
    receiver.node.downloaded(&task_name("file99M")).await;
    let copy: PathBuf = receiver.path("/data/dcp/file99M");
    bench.check(super::world::tree(&copy) == super::world::tree(&store), "the local copy", &copy);
}

fn sum(files: &[(&str, u64)]) -> u64 {
    files.iter().map(|(_, size)| size).sum()
}

/// progress until the download has brought so much.
async fn running(receiver: &Client<'_>, name: &str, bytes: u64) {
    until(&format!("{name} is being downloaded"), PATIENCE, async || {
        let p = receiver.node.progress(&task_name(name)).await;
        (p.status() == "downloading" && p.downloaded() >= bytes).then_some(())
    })
    .await;
}

/// Section 5 on a running download: every spelling says the same, and the parts add up.
fn consistent(bench: &mut Bench, content: &Value) {
    for (one, other) in [
        ("status", "Status"),
        ("taskfile", "taskfullpath"),
        ("downerror", "downerr"),
        ("rate", "Rate"),
        ("totalpercent", "totoalpercent"),
        ("totalpercent", "TotalPercent"),
        ("btpercent", "BtPercent"),
    ] {
        bench.check(content[one] == content[other], &format!("{one} and {other}"), content);
    }
    let number = content["downloaded"].to_string();
    bench.check(content["Downloaded"].as_str() == Some(&number), "Downloaded", content);
    let thousandths = |key: &str| {
        let text = content[key].as_str().filter(|t| is_percent(t)).unwrap_or("0.000%");
        text.replace(['.', '%'], "").parse::<i64>().expect("digits")
    };
    let add = |keys: [&str; 4]| keys.into_iter().map(thousandths).sum::<i64>();
    let shares = add(["bt2downpercent", "obs2downpercent", "cdn2downpercent", "localsamepercent"]);
    bench.check(shares == 100_000, "the four shares sum to 100%", content);
    // Nothing is local here, so the methods have brought all that is there; each is rounded by itself.
    let brought = add(["btpercent", "obspercent", "cdnpercent", "localsamepercent"]);
    bench.check((brought - thousandths("totalpercent")).abs() <= 2, "totalpercent is the sum of the methods", content);
}
