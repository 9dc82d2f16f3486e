//! The decision table of `send` (section 3.1), row by row: where the task of that name is, whether its seed runs, what
//! `reactive` says, and the reply. With it the states that uploadprogress tells of (section 3.3).

use super::asking::{Ask, Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::films::{MIB, film, grow, vast};
use super::world::{Gate, PATIENCE, World, file_name, read_json, task_name, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const NEW: &str = "succeeded!";
const RESTARTED: &str = "restarted same name bt process, succeed!";

/// Absent, and every way of writing the two.
fn ways() -> [Option<Value>; 5] {
    [None, Some(json!("true")), Some(json!("false")), Some(json!(true)), Some(json!(false))]
}

fn says_false(reactive: &Option<Value>) -> bool {
    matches!(reactive, Some(v) if *v == "false" || *v == false)
}

/// A generated task of the table, kept outside the node so that it can be sent again.
struct Task {
    name: String,
    kept: PathBuf,
}

impl Task {
    async fn made(world: &World, name: &str, params: Value) -> Self {
        let taskfile = world.gentask_with(name, params).await;
        let kept = world.dir.path().join(file_name(&taskfile));
        std::fs::rename(taskfile, &kept).expect("rename");
        Self { name: name.to_owned(), kept }
    }

    fn file(&self) -> String {
        task_name(&self.name)
    }

    /// The client puts the task file into `sender/tmp` before each send.
    fn send(&self, sender: &Client<'_>, reactive: &Option<Value>) -> Ask {
        std::fs::copy(&self.kept, sender.path("/data/sender/tmp/").join(self.file())).expect("copy");
        let ask = ask("send/request.json").about(&self.file());
        match reactive {
            None => ask.without("reactive"),
            Some(v) => ask.with("reactive", v.clone()),
        }
    }
}

#[tokio::test]
async fn the_decision_table_of_send() {
    let mut world = World::new();
    let gate = Gate::before(&mut world.sender).expect("a C compiler, which links Rust");
    // Not watched: the library would hash a touched file by itself, and the seed would not have to read it again.
    world.sender.set_all(&json!({"splitfiles": false, "uploadingnum": 1, "obsrate": "20K", "retries": 0, "watch": "off"}));
    world.sender.start().await;
    let mut bench = Bench::new(Stage::Decisions);
    let sender = Client::new(&world, &world.sender);
    nowhere_and_seeding(&mut bench, &sender, &world).await;
    uploaded_without_a_seed(&mut bench, &sender, &world).await;
    broken_seeds(&mut bench, &sender, &world).await;
    a_task_file_elsewhere(&mut bench, &sender, &world).await;
    uploading_and_queues(&mut bench, &sender, &world).await;
    small(&world, "read-again");
    let seed = Task::made(&world, "read-again", json!({"btobscdn": "1:0:0"})).await;
    bench.says(&sender, "nowhere", seed.send(&sender, &None).once(), true, NEW).await;
    world.ready(&seed.file()).await;

    // After a restart it is read again before it is seeded: one method's step is done, and that is all.
    let reel = std::fs::File::options().write(true).open(world.sender.store().join("read-again/reel.mxf")).expect("open");
    reel.set_modified(std::time::SystemTime::now()).expect("another time");
    drop(sender);
    assert!(world.sender.terminate().await.success());
    gate.close("pread", "read-again/reel.mxf");
    world.sender.start().await;
    let sender = Client::new(&world, &world.sender);
    gate.holds("it is read again").await;
    upload_status(&mut bench, &sender, &seed, "uploaded", "").await;
    gate.open();
    upload_status(&mut bench, &sender, &seed, "ready", "").await;
    bench.finish();
}

/// One file is enough here; by `1:0:0` it is seeded, by `0:0:1` looked at.
fn small(world: &World, name: &str) -> PathBuf {
    film(&world.sender.store().join(name), &[("reel.mxf", 20_000)])
}

async fn nowhere_and_seeding(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    for (n, reactive) in ways().into_iter().enumerate() {
        let name = format!("new{n}");
        small(world, &name);
        let task = Task::made(world, &name, json!({"btobscdn": "1:0:0"})).await;
        let row = format!("nowhere, reactive {reactive:?}");
        bench.says(sender, &row, task.send(sender, &reactive).once(), true, NEW).await;
        world.ready(&task.file()).await;

        // Now it is uploaded and seeds.
        let row = format!("uploaded, seeding, reactive {reactive:?}");
        let torrent = format!("{name}.torrent in {}", task.file());
        if says_false(&reactive) {
            let exists = format!("exisited same name ct torrent bt process, send task failed: {torrent} ");
            bench.says(sender, &row, task.send(sender, &reactive), false, &exists).await;
        } else {
            bench.says(sender, &row, task.send(sender, &reactive).sloppy(), true, RESTARTED).await;
            world.ready(&task.file()).await;
        }
        upload_status(bench, sender, &task, "ready", "").await;
        if n == 0 {
            // For later: the seed notices that the package is no longer what was hashed.
            grow(&world.sender.store().join(&name).join("reel.mxf"));
        }
    }
}

async fn uploaded_without_a_seed(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    small(world, "nobt");
    let no_bt = Task::made(world, "nobt", json!({"btobscdn": "0:0:1"})).await;
    small(world, "over");
    let over = Task::made(world, "over", json!({"btobscdn": "1:0:0", "seedtime": "0"})).await;
    small(world, "cancelled");
    let cancelled = Task::made(world, "cancelled", json!({"btobscdn": "1:0:0"})).await;
    let expected = |row: &str, reactive: &Option<Value>| format!("{row}, reactive {reactive:?}");
    // The first round brings each task into its state.
    for (n, reactive) in [None, Some(json!("false")), Some(json!("true")), None].into_iter().enumerate() {
        let row = |name: &str| if n == 0 { "nowhere".to_owned() } else { expected(name, &reactive) };
        bench.says(sender, &row("uploaded, no bt"), no_bt.send(sender, &reactive).once(), true, NEW).await;
        bench.says(sender, &row("seed time over"), over.send(sender, &reactive).once(), true, NEW).await;
        bench.says(sender, &row("cancelled"), cancelled.send(sender, &reactive).once(), true, NEW).await;
        world.ready(&no_bt.file()).await;
        upload_status(bench, sender, &over, "finished", "").await;
        world.ready(&cancelled.file()).await;
        let cancel = ask("cancel/request.json").about(&cancelled.file()).once();
        bench.says(sender, "cancel of an uploaded task", cancel, true, "succeed!").await;
        for (row, task) in [("cancel of a cancelled task", &cancelled), ("cancel of a finished task", &over)] {
            let nothing = format!("no need to cancel, not found task: {}", task.file());
            bench.says(sender, row, ask("cancel/request.json").about(&task.file()), true, &nothing).await;
        }
    }
}

/// A seed that noticed that its files changed is no seed; its task failed.
async fn broken_seeds(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    // The first one of the table: its file grew while it was seeded.
    let broken = Task { name: "new0".into(), kept: world.dir.path().join(task_name("new0")) };
    upload_status(bench, sender, &broken, "error", "bt errors").await;
    for reactive in [Some(json!("false")), Some(json!("true"))] {
        let task = Task::made(world, "new0", json!({"btobscdn": "1:0:0"})).await;
        let row = format!("failed, reactive {reactive:?}");
        bench.says(sender, &row, task.send(sender, &reactive).once(), true, NEW).await;
        world.ready(&task.file()).await;
        grow(&world.sender.store().join("new0/reel.mxf"));
        upload_status(bench, sender, &task, "error", "bt errors").await;
    }

    // Nobody answers at the task's CDN: three tries, and the task has failed (section 3.3).
    small(world, "nocdn");
    let no_cdn = Task::made(world, "nocdn", json!({"btobscdn": "0:0:1"})).await;
    let mut wrong = read_json(&no_cdn.kept);
    wrong["cdn"]["url"] = "http://127.0.0.1:1/dcp/cfec-001/dcps/nocdn".into();
    std::fs::write(&no_cdn.kept, wrong.to_string()).expect("write");
    for reactive in [None, Some(json!("false"))] {
        bench.says(sender, "nowhere, then failed", no_cdn.send(sender, &reactive).once(), true, NEW).await;
        upload_status(bench, sender, &no_cdn, "error", "cdn errors").await;
    }

    // The tmp torrent is needed when bt has a share, the full one when it is alone, none when it has no share.
    let dcps = world.sender.store();
    film(&dcps.join("part"), &[("a.mxf", 9000), ("b.mxf", 9000)]);
    let part = Task::made(world, "part", json!({"btobscdn": "1:0:1"})).await;
    std::fs::remove_file(dcps.with_file_name("dcps-tmp").join("part-tmp.torrent")).expect("remove");
    let missing = "not found torrent:/data/dcp/cfec-001/dcps-tmp/part-tmp.torrent pls re generate task and torrent. ";
    bench.says(sender, "nowhere, no tmp torrent", part.send(sender, &None), false, missing).await;
    let none = Task::made(world, "part", json!({"btobscdn": "0:0:1"})).await;
    std::fs::remove_file(dcps.join("part.torrent")).expect("remove");
    bench.says(sender, "nowhere, no torrent needed", none.send(sender, &None).once(), true, NEW).await;
    world.ready(&none.file()).await;
}

/// It is copied: the client's own file stays (section 3.1).
async fn a_task_file_elsewhere(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    small(world, "elsewhere");
    let task = Task::made(world, "elsewhere", json!({"btobscdn": "1:0:0"})).await;
    let at = sender.path("/tmp/").join(task.file());
    std::fs::create_dir_all(at.parent().expect("directory")).expect("directory");
    std::fs::copy(&task.kept, &at).expect("copy");
    let path = format!("/tmp/{}", task.file());
    bench.says(sender, "send from elsewhere", ask("send/request.json").with("taskfile", path).once(), true, NEW).await;
    world.ready(&task.file()).await;
    let copied = sender.path("/data/sender/tmp/").join(task.file());
    bench.check(at.is_file() && !copied.exists(), "copied, and moved on from sender/tmp", &at);
}

async fn uploading_and_queues(bench: &mut Bench, sender: &Client<'_>, world: &World) {
    vast(&world.sender.store().join("hold"), &[("reel.mxf", 4 * MIB)]);
    let hold = Task::made(world, "hold", json!({"btobscdn": "0:1:0"})).await;
    bench.says(sender, "nowhere", hold.send(sender, &None).once(), true, NEW).await;
    upload_status(bench, sender, &hold, "uploading", "").await;
    small(world, "behind");
    let behind = Task::made(world, "behind", json!({"btobscdn": "1:0:0"})).await;
    bench.says(sender, "nowhere", behind.send(sender, &None).once(), true, NEW).await;
    for reactive in ways() {
        for (task, state) in [(&hold, "uploading"), (&behind, "queues")] {
            let refused = format!("same taskfile in {state}:/data/sender/{state}/{}", task.file());
            bench.says(sender, &format!("{state}, reactive {reactive:?}"), task.send(sender, &reactive), false, &refused).await;
        }
    }
    upload_status(bench, sender, &behind, "queues", "").await;
    for task in [&behind, &hold] {
        let cancel = ask("cancel/request-curl.json").about(&task.file()).once();
        bench.says(sender, "cancel in queues and uploading", cancel, true, "succeed!").await;
    }
}

/// uploadprogress until this status; then the whole content, as far as the status decides it.
async fn upload_status(bench: &mut Bench, sender: &Client<'_>, task: &Task, status: &str, desc: &str) {
    let query = ask("uploadprogress/request.json").about(&task.file()).once();
    let reply = until(&format!("{} is {status}", task.name), PATIENCE, async || {
        let reply = sender.ask(&query).await.ok()?.reply;
        (reply["return_content"]["status"] == status).then_some(reply)
    })
    .await;
    let content = &reply["return_content"];
    let dir = match status {
        "ready" => "uploaded",
        "finished" => "history",
        "error" => "failed",
        other => other,
    };
    let place = sender.path("/data/sender/").join(dir).join(task.file());
    let bt = match status {
        "ready" => ["seeding"].as_slice(),
        "queues" => &["unknown"],
        _ => &["noseeding"],
    };
    let fine = content["desc"] == desc
        && content["taskfile"] == place.display().to_string()
        && content["btstatus"].as_str().is_some_and(|s| bt.contains(&s))
        && Path::new(&place).is_file();
    bench.check(fine && reply["return_status"] == "true", &format!("uploadprogress, {status}"), &reply);
}
