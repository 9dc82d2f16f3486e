//! The decision table of `recv` (section 3.2 with its choices), row by row: where the task of that name is, what
//! `reactive` says, and the reply; for a receiver and for a cacher. With it the states that progress tells of.

use super::asking::{Ask, Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::films::{MIB, film};
use super::world::{PATIENCE, World, read_json, task_name, until};
use serde_json::{Value, json};
use std::path::PathBuf;

const NEW: &str = "succeed!";
const AGAIN: &str = "same name task downloaded, to download again.";
const AGAIN_LOCAL: &str = "same name task downloaded, all localsamefiles existed copy and finished, succeed!";

/// Absent, and the two.
fn ways() -> [Option<Value>; 3] {
    [None, Some(json!("false")), Some(json!("true"))]
}

/// A sent task, kept so that it can be carried again: outside the sender, which mends its own view when it is changed.
struct Task {
    name: String,
    kept: PathBuf,
}

impl Task {
    async fn sent(world: &World, name: &str, size: u64, params: Value) -> Self {
        film(&world.sender.store().join(name), &[("reel.mxf", size)]);
        let taskfile = world.gentask_with(name, params).await;
        // Tests change it: not the view, which is mended.
        let kept = world.dir.path().join(task_name(name));
        std::fs::copy(world.send(&taskfile).await, &kept).expect("copy");
        Self { name: name.to_owned(), kept }
    }

    fn file(&self) -> String {
        task_name(&self.name)
    }

    fn recv(&self, node: &Client<'_>, reactive: &Option<Value>) -> Ask {
        node.node.carry(&self.kept);
        self.recv_what_lies_there(reactive)
    }

    fn recv_what_lies_there(&self, reactive: &Option<Value>) -> Ask {
        let ask = ask("recv/request.json").about(&self.file());
        match reactive {
            None => ask.without("reactive"),
            Some(v) => ask.with("reactive", v.clone()),
        }
    }
}

#[tokio::test]
async fn the_decision_table_of_recv() {
    let mut world = World::new();
    world.receiver.set_all(&json!({"receiverstoreplan": "A", "downloadingnum": 1}));
    world.start().await;
    let mut bench = Bench::new(Stage::Decisions);
    let receiver = Client::new(&world, &world.receiver);
    downloaded(&mut bench, &receiver, &world).await;
    history_and_errors(&mut bench, &receiver, &world).await;
    a_task_file_elsewhere(&mut bench, &receiver, &world).await;
    downloading_and_queues(&mut bench, &receiver, &world).await;
    bench.finish();
}

async fn downloaded(bench: &mut Bench, receiver: &Client<'_>, world: &World) {
    for (n, reactive) in ways().into_iter().enumerate() {
        let task = Task::sent(world, &format!("new{n}"), 20_000, json!({"btobscdn": "0:0:1"})).await;
        let row = |state: &str| format!("{state}, reactive {reactive:?}");
        bench.says(receiver, &row("nowhere"), task.recv(receiver, &reactive).once(), true, NEW).await;
        receiver.node.downloaded(&task.file()).await;
        std::fs::remove_file(receiver.path("/data/dcp/").join(&task.name).join("reel.mxf")).expect("remove");
        bench.says(receiver, &row("downloaded, files missing"), task.recv(receiver, &reactive).once(), true, AGAIN).await;
        receiver.node.downloaded(&task.file()).await;
        bench.says(receiver, &row("downloaded, all there"), task.recv(receiver, &reactive).sloppy(), true, AGAIN_LOCAL).await;
        receiver.node.downloaded(&task.file()).await;
        // Without dedupe nothing is local.
        receiver.reconfigure(&json!({"avoidrepeat": false})).await;
        bench.says(receiver, &row("downloaded, avoidrepeat false"), task.recv(receiver, &reactive).once(), true, AGAIN).await;
        receiver.node.downloaded(&task.file()).await;
        receiver.reconfigure(&json!({"avoidrepeat": true})).await;
    }
}

async fn history_and_errors(bench: &mut Bench, receiver: &Client<'_>, world: &World) {
    let over = Task::sent(world, "over", 20_000, json!({"btobscdn": "0:0:1"})).await;
    let mut zero = read_json(&over.kept);
    zero["bt"]["seedtime"] = "0".into();
    std::fs::write(&over.kept, zero.to_string()).expect("write");
    let broken = Task::sent(world, "broken", 20_000, json!({"btobscdn": "0:0:1"})).await;
    let cancelled = Task::sent(world, "cancelled", 20_000, json!({"btobscdn": "0:0:1"})).await;
    let good = std::fs::read(&broken.kept).expect("task file");
    let mut wrong = read_json(&broken.kept);
    wrong["filelist"][0]["hash"] = "0123456789abcdef0123456789abcdef01234567".into();
    for (n, reactive) in [None, Some(json!("false")), Some(json!("true"))].into_iter().enumerate() {
        let row = |state: &str| if n == 0 { "nowhere".to_owned() } else { format!("{state}, reactive {reactive:?}") };
        let expected = if n == 0 { NEW } else { AGAIN_LOCAL };
        bench.says(receiver, &row("history, downloaded"), over.recv(receiver, &reactive).once(), true, expected).await;
        progress_status(bench, receiver, &over, "history").await;

        std::fs::write(&broken.kept, wrong.to_string()).expect("write");
        bench.says(receiver, &row("downloaderror"), broken.recv(receiver, &reactive).once(), true, NEW).await;
        progress_status(bench, receiver, &broken, "downloaderror").await;
        std::fs::write(&broken.kept, &good).expect("write");

        bench.says(receiver, &row("history, cancelled"), cancelled.recv(receiver, &reactive).once(), true, NEW).await;
        // Downloaded or not by now: cancelled in any case.
        receiver.node.downloaded(&cancelled.file()).await;
        let cancel = ask("cancel/request.json").about(&cancelled.file()).once();
        bench.says(receiver, "cancel of a downloaded task", cancel, true, "succeed!").await;
        for entry in ["cancelled", "cancelled.finished"] {
            let path = receiver.path("/data/dcp/").join(entry);
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("remove");
        }
    }
    bench.says(receiver, "downloaderror, the good file", broken.recv(receiver, &None).once(), true, NEW).await;
    progress_status(bench, receiver, &broken, "downloaded").await;
}

/// It is moved: the client's own file goes (section 3.2).
async fn a_task_file_elsewhere(bench: &mut Bench, receiver: &Client<'_>, world: &World) {
    let task = Task::sent(world, "elsewhere", 20_000, json!({"btobscdn": "0:0:1"})).await;
    let at = receiver.path("/tmp/").join(task.file());
    std::fs::create_dir_all(at.parent().expect("directory")).expect("directory");
    std::fs::copy(&task.kept, &at).expect("copy");
    let recv = ask("recv/request.json").with("taskfile", format!("/tmp/{}", task.file())).once();
    bench.says(receiver, "recv from elsewhere", recv, true, NEW).await;
    receiver.node.downloaded(&task.file()).await;
    let moved = receiver.path("/data/receiver/tmp/").join(task.file());
    bench.check(!at.exists() && !moved.exists(), "moved, and on from receiver/tmp", &at);
}

async fn downloading_and_queues(bench: &mut Bench, receiver: &Client<'_>, world: &World) {
    receiver.reconfigure(&json!({"cdnrate": "100K"})).await;
    let slow = Task::sent(world, "slow", 8 * MIB, json!({"btobscdn": "0:0:1"})).await;
    let behind = Task::sent(world, "behind", 20_000, json!({"btobscdn": "0:0:1"})).await;
    bench.says(receiver, "nowhere", slow.recv(receiver, &None).once(), true, NEW).await;
    progress_status(bench, receiver, &slow, "downloading").await;
    for reactive in [None, Some(json!("false"))] {
        let refused = format!("same taskfile in downloading:/data/receiver/downloading/{}", slow.file());
        let row = format!("downloading, reactive {reactive:?}");
        bench.says(receiver, &row, slow.recv(receiver, &reactive), false, &refused).await;
    }
    let kept = receiver.node.progress(&slow.file()).await.downloaded();
    bench.says(receiver, "downloading, reactive true", slow.recv(receiver, &Some(json!("true"))).once(), true, NEW).await;
    progress_status(bench, receiver, &slow, "downloading").await;
    // The figures are written once a second.
    let keeps = async || (receiver.node.progress(&slow.file()).await.downloaded() >= kept).then_some(());
    until("the restart keeps what was verified", PATIENCE, keeps).await;

    bench.says(receiver, "nowhere", behind.recv(receiver, &None).once(), true, NEW).await;
    for reactive in ways() {
        let refused = format!("same taskfile in queues:/data/receiver/queues/{}", behind.file());
        bench.says(receiver, &format!("queues, reactive {reactive:?}"), behind.recv(receiver, &reactive), false, &refused).await;
    }
    let query = ask("progress/request.json").about(&behind.file());
    let reply = bench.says(receiver, "progress in queues", query, false, "task in queues, no progress now.").await;
    bench.check(reply["return_content"]["status"] == "queues", "status in queues", &reply);
    for task in [&behind, &slow] {
        let cancel = ask("cancel/request-curl.json").about(&task.file()).once();
        bench.says(receiver, "cancel in queues and downloading", cancel, true, "succeed!").await;
    }
}

/// progress until this status, and what the status decides of the rest.
async fn progress_status(bench: &mut Bench, receiver: &Client<'_>, task: &Task, status: &str) {
    let p = until(&format!("{} is {status}", task.name), PATIENCE, async || {
        let p = receiver.node.progress(&task.file()).await;
        (p.status() == status).then_some(p)
    })
    .await;
    let dir = if status == "downloaderror" { "downloading" } else { status };
    let place = receiver.path("/data/receiver/").join(dir).join(task.file());
    let there = matches!(status, "downloaded" | "history");
    let store = if there { receiver.path("/data/dcp/").join(&task.name).display().to_string() } else { String::new() };
    let fine = p.0.ok
        && p.0.text("taskfullpath") == place.display().to_string()
        && p.dcppath() == store
        && p.error().is_empty() != (status == "downloaderror")
        && p.0.text("rate").is_empty() == (status != "downloading")
        && (p.percent("totalpercent") == 100.0) == there;
    bench.check(fine && place.is_file(), &format!("progress, {status}"), &p);
}

#[tokio::test]
async fn the_decision_table_of_recv_on_a_cacher() {
    let mut world = World::new();
    world.cacher.set("downloadingnum", 1);
    world.sender.start().await;
    world.cacher.start().await;
    let mut bench = Bench::new(Stage::Decisions);
    let cacher = Client::new(&world, &world.cacher);
    let seeded = Task::sent(&world, "seeded", 20_000, json!({"btobscdn": "1:0:0"})).await;
    let behind = Task::sent(&world, "behind", 20_000, json!({"btobscdn": "1:0:0"})).await;
    let unknown = |bench: &mut Bench, reply: &Value| {
        bench.check(reply["return_content"]["status"] == "noseeding", "status of an unknown task", reply);
    };
    let reply =
        bench.says(&cacher, "cprogress, nowhere", ask("cprogress/request.json"), false, "unknown task, not found task.").await;
    unknown(&mut bench, &reply);
    bench.says(&cacher, "nowhere", seeded.recv(&cacher, &None).once(), true, NEW).await;
    cacher_status(&cacher, &seeded, "seeding").await;
    bench.says(&cacher, "nowhere", behind.recv(&cacher, &None).once(), true, NEW).await;
    for reactive in ways() {
        let refused = format!("same taskfile in queues:/data/receiver/queues/{}", behind.file());
        bench.says(&cacher, &format!("queues, reactive {reactive:?}"), behind.recv(&cacher, &reactive), false, &refused).await;
        let row = format!("seeding, reactive {reactive:?}");
        if reactive == Some(json!("true")) {
            let longer = format!("reactive cacher bt seeding with taskfile:{}", seeded.file());
            bench.says(&cacher, &row, seeded.recv(&cacher, &reactive).sloppy(), true, &longer).await;
        } else {
            let refused = format!("same taskfile in downloading:/data/receiver/downloading/{}", seeded.file());
            bench.says(&cacher, &row, seeded.recv(&cacher, &reactive), false, &refused).await;
        }
    }
    let cancel = |task: &Task| ask("cancel/request-curl.json").about(&task.file()).once();
    bench.says(&cacher, "cancel in queues", cancel(&behind), true, "succeed!").await;
    bench.says(&cacher, "cancel while it seeds", cancel(&seeded), true, "succeed!").await;
    cacher_status(&cacher, &seeded, "noseeding").await;

    // The seed time is over, however often.
    let mut zero = read_json(&seeded.kept);
    zero["bt"]["seedtime"] = "0".into();
    std::fs::write(&seeded.kept, zero.to_string()).expect("write");
    for reactive in ways() {
        let row = format!("seed time over, reactive {reactive:?}");
        bench.says(&cacher, &row, seeded.recv(&cacher, &reactive).once(), true, NEW).await;
        let ended = async || (cacher.node.places(&seeded.file()) == ["receiver/downloaded"]).then_some(());
        until("the seed time ends", PATIENCE, ended).await;
    }
    bench.finish();
}

async fn cacher_status(cacher: &Client<'_>, task: &Task, status: &str) {
    until(&format!("{} is {status}", task.name), PATIENCE, async || {
        let reply = cacher.node.call("cprogress", json!({"taskfile": task.file()})).await;
        (reply.text("status") == status).then_some(())
    })
    .await;
}
