//! A cacher: recv, cprogress, and what it does not support.

use super::asking::{Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::films::thirds;
use super::world::{PATIENCE, World, task_name, until};
use serde_json::json;

const CHANGJIANG: &str = "changjiang_FTR-1_F_EN-XX_20_2K_20210315_OV";

#[tokio::test]
async fn a_cacher_answers_as_the_examples_do() {
    let mut world = World::new();
    world.sender.set("splitfiles", false);
    world.sender.start().await;
    world.cacher.start().await;
    let mut bench = Bench::new(Stage::Cacher);
    let cacher = Client::new(&world, &world.cacher);
    for (name, ratio) in [("xiaofang9", "0:0:1"), ("xiaofang", "1:1:1"), ("xiaofang4", "1:1:1"), (CHANGJIANG, "1:1:1")] {
        thirds(&world.sender.store().join(name), 40_000);
        cacher.node.carry(&world.publish(name, ratio).await);
    }
    let recv = |name: &str| ask("recv/request-curl-cacher.json").about(&task_name(name)).with("reactive", "false");

    // Without a bt part there is nothing to do for a cacher.
    bench.reply(&cacher, "recv/error-size-zero.json", recv("xiaofang9")).await;
    for name in ["xiaofang", "xiaofang4", CHANGJIANG] {
        bench.says(&cacher, "recv of a cacher", recv(name).once(), true, "succeed!").await;
    }
    for name in ["xiaofang", "xiaofang4", CHANGJIANG] {
        until("the cacher seeds", PATIENCE, async || {
            let reply = cacher.node.call("cprogress", json!({"taskfile": task_name(name)})).await;
            (reply.text("status") == "seeding").then_some(())
        })
        .await;
    }
    bench.reply(&cacher, "cprogress/curl-seeding.json", ask("cprogress/request-curl.json")).await;
    let xiaofang4 = ask("cprogress/request.json").about(&task_name("xiaofang4"));
    let reply = bench.reply(&cacher, "cprogress/prose-seeding.json", xiaofang4).await;
    // 17.21: under both spellings.
    bench.check(reply["return_content"]["status"] == "seeding", "status beside Status", &reply);
    let dir = reply["return_content"]["desc"].as_str().and_then(|d| d.strip_prefix("btseeding dir:")).unwrap_or_default();
    bench.check(std::path::Path::new(dir).is_dir(), "the directory that is named", &dir);
    bench.reply(&cacher, "progress/error-cacher.json", ask("progress/request-curl.json")).await;

    // Each of these takes the task file that lies in receiver/tmp.
    let taskfile = world.sender.data().join("sender/uploaded").join(task_name("xiaofang"));
    cacher.node.carry(&taskfile);
    bench.reply(&cacher, "recv/curl-ok-cacher.json", ask("recv/request-curl-cacher.json").once()).await;
    cacher.node.carry(&taskfile);
    let longer = ask("recv/request.json").about(&task_name("xiaofang"));
    bench.reply(&cacher, "recv/ok-cacher-reactive.json", longer.sloppy()).await;
    bench.finish();
}
