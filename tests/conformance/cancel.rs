//! `cancel` where a task of one name is received and sent at the same time (section 3.7): the download first.
//!
//! Only a sender can do both. It receives one package while it serves another, under task files of the same name.

use super::asking::{Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::films::{MIB, film};
use super::world::{PATIENCE, World, task_name, until};
use serde_json::json;

#[tokio::test]
async fn cancel_takes_the_download_first() {
    let mut world = World::new();
    world.sender.set("splitfiles", false);
    world.receiver.set_all(&json!({"servertype": "sender", "cdnrate": "100K"}));
    world.start().await;
    let mut bench = Bench::new(Stage::Decisions);
    let node = Client::new(&world, &world.receiver);
    let task = task_name("both");

    film(&world.sender.store().join("both"), &[("reel.mxf", 6 * MIB)]);
    node.node.carry(&world.publish("both", "0:0:1").await);
    film(&node.path("/data/dcp/cfec-001/dcps/own"), &[("reel.mxf", 20_000)]);
    // Any name is taken for a task file (17.27).
    let gentask = ask("gentask/request-curl.json").about(&task).with("dcppath", "/data/dcp/cfec-001/dcps/own");
    bench.says(&node, "gentask", gentask.with("btobscdn", "1:0:0").once(), true, "please wait until …").await;
    let taskfile = node.path("/data/sender/tmp/").join(&task);
    until("the task file is made", PATIENCE, async || taskfile.exists().then_some(())).await;
    bench.says(&node, "send", ask("send/request.json").about(&task).once(), true, "succeeded!").await;
    bench.says(&node, "recv of a sender", ask("recv/request.json").about(&task).once(), true, "succeed!").await;
    let both = ["sender/uploaded", "receiver/downloading"];
    until("it is sent and received", PATIENCE, async || (node.node.places(&task) == both).then_some(())).await;

    let cancel = || ask("cancel/request.json").about(&task).once();
    bench.says(&node, "cancel of both", cancel(), true, "succeed!").await;
    bench.check(node.node.places(&task) == ["sender/uploaded", "receiver/history"], "download first", &node.node.places(&task));
    bench.says(&node, "cancel of what is left", cancel(), true, "succeed!").await;
    bench.check(node.node.places(&task) == ["sender/history", "receiver/history"], "then upload", &node.node.places(&task));
    let nothing = format!("no need to cancel, not found task: {task}");
    bench.says(&node, "cancel of nothing", ask("cancel/request.json").about(&task), true, &nothing).await;

    // What was received already does not run: the upload goes first.
    node.reconfigure(&json!({"cdnrate": ""})).await;
    node.node.carry(&world.publish("both", "0:0:1").await);
    bench.says(&node, "recv of a sender, to its end", ask("recv/request.json").about(&task).once(), true, "succeed!").await;
    until("it is received", PATIENCE, async || {
        (node.node.places(&task) == ["sender/history", "receiver/downloaded"]).then_some(())
    })
    .await;
    std::fs::copy(node.path("/data/sender/history/").join(&task), &taskfile).expect("copy");
    bench.says(&node, "send of what was received", ask("send/request.json").about(&task).once(), true, "succeeded!").await;
    until("it is sent", PATIENCE, async || (node.node.places(&task) == ["sender/uploaded", "receiver/downloaded"]).then_some(()))
        .await;
    bench.says(&node, "cancel of the upload", cancel(), true, "succeed!").await;
    let places = node.node.places(&task);
    bench.check(places == ["sender/history", "receiver/downloaded"], "the upload before what is over", &places);
    bench.says(&node, "cancel of what was received", cancel(), true, "succeed!").await;
    bench.check(node.node.places(&task) == ["sender/history", "receiver/history"], "then that", &node.node.places(&task));
    bench.finish();
}
