//! A sender from an empty store to a finished distribution: gentask, taskfilesquery, send, sends, uploadprogress.
//!
//! One upload at a time, and it can be slowed down: so a task is held in `uploading`, and another behind it in `queues`,
//! for as long as it takes to look.

use super::asking::{Ask, Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::films::{MIB, film, grow, thirds, vast};
use super::world::{PATIENCE, SUBDIR, World, copy_tree, read_json, task_name, until};
use serde_json::json;
use std::path::Path;

const CHANGJIANG: &str = "changjiang_FTR-1_F_EN-XX_20_2K_20210315_OV";
/// Ten seconds for each MiB: longer than a busy machine stands still, and than the second between two looks at the figures.
const SLOW: &str = "100K";
/// Nearly a minute for each MiB.
const HELD: &str = "20K";

#[tokio::test]
async fn a_sender_answers_as_the_examples_do() {
    let mut world = World::new();
    world.sender.set_all(&json!({"splitfiles": false, "uploadingnum": 1, "obsrate": SLOW}));
    world.sender.start().await;
    let mut bench = Bench::new(Stage::Sender);
    let sender = Client::new(&world, &world.sender);
    nothing_is_there(&mut bench, &sender).await;
    a_generation_runs(&mut bench, &sender).await;
    a_task_is_made(&mut bench, &sender, &world).await;
    task_files_that_cannot_be_sent(&mut bench, &sender, &world).await;
    a_distribution(&mut bench, &sender, &world).await;
    simplified_send(&mut bench, &sender, &world).await;
    bench.finish();
}

async fn nothing_is_there(bench: &mut Bench, sender: &Client<'_>) {
    let gentask = || ask("gentask/request-curl.json");
    bench.reply(sender, "gentask/error-no-taskfile.json", gentask().without("taskfile")).await;
    let nonexists = gentask().with("dcppath", "/data/dcp/cfec-001/dcps/xiaofang-nonexists");
    bench.reply(sender, "gentask/error-no-dcppath.json", nonexists).await;
    // Open in the protocol: the value is named, what is allowed follows.
    std::fs::create_dir_all(sender.path("/data/dcp/cfec-001/dcps/xiaofang")).expect("directory");
    for (key, value) in [("btobscdn", "0:0:0"), ("policy", "sometimes"), ("seedtime", "-1")] {
        let refused = format!("error, invalid {key}: {value}.…");
        bench.says(sender, "gentask", gentask().with(key, value), false, &refused).await;
    }
    std::fs::remove_dir(sender.path("/data/dcp/cfec-001/dcps/xiaofang")).expect("remove");
    bench.reply(sender, "taskfilesquery/prose-error-no-dir.json", ask("taskfilesquery/request-curl.json")).await;
    bench.reply(sender, "uploadprogress/prose-unknown.json", ask("uploadprogress/request.json")).await;
    bench.reply(sender, "send/error-open.json", ask("send/request-curl.json")).await;
    bench.reply(sender, "send/error-reactive.json", ask("send/request.json").with("reactive", "perhaps")).await;
    let odd = sender.path("/data/sender/tmp/cfec-001-xiaofang.task.json");
    std::fs::write(&odd, "{\"filelist\": [").expect("write");
    bench.reply(sender, "send/error-format.json", ask("send/request-curl.json")).await;
    std::fs::remove_file(odd).expect("remove");
}

/// A file that takes hours to hash, so that the generation runs until it is cancelled.
async fn a_generation_runs(bench: &mut Bench, sender: &Client<'_>) {
    let dcps = sender.path("/data/dcp/cfec-001/dcps/");
    let xiaofang = vast(&dcps.join("xiaofang"), &[("reel.mxf", 64 << 30)]);
    thirds(&dcps.join("xiaofang2"), 1000);
    let query = || ask("taskfilesquery/request-curl.json");
    bench.reply(sender, "taskfilesquery/curl-unfinished.json", query()).await;
    bench.reply(sender, "gentask/curl-ok-started.json", ask("gentask/request-curl.json").once()).await;
    running(sender, 1).await;
    bench.reply(sender, "gentask/error-generating.json", ask("gentask/request-curl.json")).await;
    bench.reply(sender, "taskfilesquery/prose-unfinished.json", ask("taskfilesquery/request.json")).await;

    // Behind it.
    let second = |a: Ask| a.about(&task_name("xiaofang2")).with("dcppath", "/data/dcp/cfec-001/dcps/xiaofang2");
    let wait = "please wait until /data/dcp/cfec-001/dcps/xiaofang2.torrent, \
                /data/dcp/cfec-001/dcps-tmp/xiaofang2-tmp.torrent \
                and /data/sender/tmp/cfec-001-xiaofang2.task.json all are finished.";
    bench.says(sender, "gentask behind another", second(ask("gentask/request-curl.json")).once(), true, wait).await;
    let wait = " please wait until /data/dcp/cfec-001/dcps/xiaofang2.torrent and /data/sender/tmp/cfec-001-xiaofang2.task.json \
                all are finished.";
    bench.says(sender, "taskfilesquery of one that waits", second(query()), true, wait).await;
    for name in ["xiaofang2", "xiaofang"] {
        let cancel = ask("cancel/request-curl.json").about(&task_name(name)).once();
        bench.says(sender, "cancel of a generation", cancel, true, "succeed!").await;
    }
    running(sender, 0).await;
    bench.reply(sender, "taskfilesquery/curl-unfinished.json", query()).await;

    bench.reply(sender, "sends/ok-generating.json", ask("sends/request.json").once()).await;
    bench.says(sender, "cancel of sends", ask("cancel/request.json").once(), true, "succeed!").await;
    running(sender, 0).await;
    std::fs::remove_dir_all(xiaofang).expect("remove");
}

/// So many generations are at work, and a cancelled one has let go of its files.
async fn running(sender: &Client<'_>, number: usize) {
    until("the generation starts or ends", PATIENCE, async || {
        let states = sender.node.sql("select state from v_generations where state in ('queued', 'running')").await;
        let ended = sender.node.sql("select text from v_events where kind = 'gentask' and text = 'cancelled'").await;
        let started = states.iter().filter(|s| s[0] == "running").count();
        (started == number && states.len() == number && (number > 0 || !ended.is_empty())).then_some(())
    })
    .await;
}

async fn a_task_is_made(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    // The smallest package that gives each method a file, and obs three MiB.
    film(&world.sender.store().join("xiaofang"), &[("a.mxf", 2 * MIB), ("b.mxf", 3 * MIB), ("c.mxf", MIB)]);
    let query = || ask("taskfilesquery/request.json");
    bench.reply(sender, "gentask/ok-started.json", ask("gentask/request.json").once()).await;
    let finished = |c: &serde_json::Value| c["status"] != "unfinished";
    bench.reply_when(sender, "taskfilesquery/prose-finished.json", query(), &[], finished).await;
    bench.reply_when(sender, "gentask/ok-ready.json", ask("gentask/request.json").sloppy(), &[], in_time).await;
    bench.reply(sender, "taskfilesquery/prose-finished.json", query()).await;
    let slash = ask("gentask/request-curl.json").with("dcppath", "/data/dcp/cfec-001/dcps/xiaofang/");
    bench.says_when(sender, "gentask, a slash at the end", slash, true, "succeeded!", in_time).await;

    // Open in the protocol: a generation that failed is told with its reason.
    std::fs::create_dir(world.sender.store().join("empty")).expect("directory");
    let empty = |a: Ask| a.about(&task_name("empty")).with("dcppath", "/data/dcp/cfec-001/dcps/empty");
    bench.says(sender, "gentask", empty(ask("gentask/request-curl.json")).once(), true, "please wait until …").await;
    let failed = until("the generation fails", PATIENCE, async || {
        let answer = sender.ask(&empty(query()).once()).await.ok()?;
        (answer.reply["return_content"]["status"] != "unfinished").then_some(answer)
    })
    .await;
    let (status, desc) = (&failed.reply["return_status"], &failed.reply["return_content"]["desc"]);
    let reason = desc.as_str().is_some_and(|d| d.contains("/dcps/empty holds no bytes"));
    bench.check(status == "false" && reason, "taskfilesquery of a failed generation", &failed.reply);

    let odd = sender.path("/data/receiver/bt/cfec-001/cfec-001-xiaofang.task.json");
    std::fs::create_dir_all(odd.parent().expect("directory")).expect("directory");
    std::fs::write(odd, "no task").expect("write");
    let of_another =
        ask("taskfilesquery/request-curl.json").with("taskfile", "/data/receiver/bt/cfec-001/cfec-001-xiaofang.task.json");
    bench.reply(sender, "taskfilesquery/prose-error-open.json", of_another).await;

    // A task file without the torrent that it needs, and no job.
    let torrent = world.sender.store().with_file_name("dcps-tmp").join("xiaofang-tmp.torrent");
    let bytes = std::fs::read(&torrent).expect("torrent");
    std::fs::remove_file(&torrent).expect("remove");
    let wait = " please wait until /data/dcp/cfec-001/dcps/xiaofang.torrent and /data/sender/tmp/cfec-001-xiaofang.task.json \
                all are finished.";
    bench.says(sender, "taskfilesquery without a torrent", query(), true, wait).await;
    std::fs::write(&torrent, bytes).expect("write");
}

async fn task_files_that_cannot_be_sent(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    let taskfile = world.gentask("xiaofang", "1:0:0").await;
    std::fs::remove_file(world.sender.store().join("xiaofang.torrent")).expect("remove");
    bench.reply(sender, "send/error-no-torrent.json", ask("send/request-curl.json")).await;

    // A file stands where the directory should be, so nothing can be copied there.
    std::fs::remove_file(taskfile).expect("remove");
    let taskfile = world.gentask("xiaofang", "1:1:1").await;
    let elsewhere = sender.path("/tmp/cfec-001-xiaofang.task.json");
    std::fs::create_dir_all(elsewhere.parent().expect("directory")).expect("directory");
    std::fs::copy(&taskfile, &elsewhere).expect("copy");
    let tmp = taskfile.parent().expect("tmp");
    let aside = tmp.with_file_name("aside");
    std::fs::rename(tmp, &aside).expect("rename");
    std::fs::write(tmp, "in the way").expect("write");
    let copied = ask("send/request-curl.json").with("taskfile", "/tmp/cfec-001-xiaofang.task.json");
    bench.reply(sender, "send/error-copy.json", copied).await;
    std::fs::remove_file(tmp).expect("remove");
    std::fs::rename(&aside, tmp).expect("rename");
}

async fn a_distribution(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    thirds(&world.sender.store().join(CHANGJIANG), 10_000);
    world.publish(CHANGJIANG, "1:1:1").await;
    bench.reply(sender, "uploadprogress/ready.json", ask("uploadprogress/request-curl.json")).await;

    sender.reconfigure(&json!({"obsrate": HELD})).await;
    vast(&world.sender.store().join("hold"), &[("reel.mxf", 4 * MIB)]);
    let hold = world.gentask("hold", "0:1:0").await;
    assert!(sender.node.call("send", json!({"taskfile": hold})).await.ok);
    status(sender, "hold", "uploading").await;

    let taskfile = world.sender.data().join("sender/tmp").join(task_name("xiaofang"));
    let copy = world.dir.path().join("xiaofang.kept");
    std::fs::copy(&taskfile, &copy).expect("copy");
    bench.reply(sender, "send/ok.json", ask("send/request.json").once()).await;
    bench.check(!taskfile.exists(), "send moves the task file out of sender/tmp", &taskfile);
    place(&copy, &taskfile);
    bench.reply(sender, "send/error-in-queues.json", ask("send/request-curl.json")).await;
    bench.reply(sender, "sends/error-in-queues.fragment.json", ask("sends/request.json")).await;

    sender.reconfigure(&json!({"obsrate": SLOW})).await;
    assert!(sender.node.call("cancel", json!({"taskfile": task_name("hold")})).await.ok);
    status(sender, "xiaofang", "uploading").await;
    bench.reply(sender, "send/error-in-uploading.json", ask("send/request-curl.json")).await;
    bench.reply(sender, "sends/error-in-uploading.fragment.json", ask("sends/request.json")).await;
    // Two of the three MiB of the obs part: the example's 66%.
    let two_thirds = |c: &serde_json::Value| c["obsstatus"] == "uncompleted 66%" || c["status"] != "uploading";
    bench.reply_when(sender, "uploadprogress/prose-uploading.json", ask("uploadprogress/request.json"), &[], two_thirds).await;
    world.ready(&task_name("xiaofang")).await;

    bench.reply(sender, "send/error-bt-exists.json", ask("send/request.json")).await;
    bench.reply(sender, "send/ok-restarted.json", ask("send/request.json").with("reactive", "true").sloppy()).await;
    world.ready(&task_name("xiaofang")).await;
    // The file travels by cdn, so the seed itself runs on.
    place(&copy, &taskfile);
    grow(&world.sender.store().join("xiaofang/c.mxf"));
    bench.reply(sender, "send/error-restart-failed.json", ask("send/request-curl.json")).await;
    bench.reply(sender, "send/error-bt-exists.json", ask("send/request.json")).await;
}

async fn simplified_send(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    bench.says(sender, "cancel of a distribution", ask("cancel/request.json").sloppy(), true, "succeed!").await;
    // Small enough to be hashed before the reply. The parameter has two names (17.36).
    std::fs::remove_dir_all(world.sender.store().join("xiaofang")).expect("remove");
    thirds(&world.sender.store().join("xiaofang"), 10_000);
    // `obs`: the bucket has it already.
    copy_tree(&world.sender.store().join("xiaofang"), &world.objects().join(SUBDIR).join("dcps/xiaofang"));
    let sends = ask("sends/request.json").without("datasource").with("data", "obs");
    bench.reply_when(sender, "sends/ok.json", sends.sloppy(), &[], in_time).await;
    // It is sent without another call.
    let sent = async || (sender.node.places(&task_name("xiaofang")) != ["sender/history"]).then_some(());
    until("it is sent by itself", PATIENCE, sent).await;
    let task = read_json(&world.ready(&task_name("xiaofang")).await);
    let kept = (&task["datasource"], &task["obs"]["url"], &task["bt"]["seedtime"]);
    bench.check(kept == (&json!("obs"), &json!("obs://cfec-001/dcps/xiaofang"), &json!("72")), "parameters of sends", &kept);
}

/// A machine that is very busy may not be done in the time that the reply waits: then it says so, and is asked again.
fn in_time(content: &serde_json::Value) -> bool {
    let desc = content["desc"].as_str().unwrap_or_default();
    !["please wait until ", "same torrent process ", "succeed, but ", "same task in "].iter().any(|said| desc.starts_with(said))
}

/// uploadprogress until this status.
async fn status(sender: &Client<'_>, name: &str, wanted: &str) {
    until(&format!("{name} is {wanted}"), PATIENCE, async || {
        let reply = sender.node.call("uploadprogress", json!({"taskfile": task_name(name)})).await;
        (reply.text("status") == wanted).then_some(())
    })
    .await;
}

/// What the client does before every send: the task file lies in `sender/tmp`.
fn place(copy: &Path, taskfile: &Path) {
    std::fs::copy(copy, taskfile).expect("copy");
}
