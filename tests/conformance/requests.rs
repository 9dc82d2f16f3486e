//! Every request example, as its file is and in the sloppy form, to nodes that have nothing: the refusal repeats what
//! was asked for, so it shows that the request was read. And the plain-text tools.

use super::asking::{Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::examples;
use super::world::World;
use serde_json::{Value, json};

const UNKNOWN: &str = "unknown task, not found task.";

/// Example, node, `desc` of the reply. All are refused, save that a task that is not there needs no cancelling.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("gentask/request.json", "sender", "error, not exist dcp path: /data/dcp/cfec-001/xiaofang."),
    ("gentask/request-curl.json", "sender", "error, not exist dcp path: /data/dcp/cfec-001/dcps/xiaofang."),
    ("taskfilesquery/request.json", "sender", "not exist /data/dcp/cfec-001/xiaofang "),
    ("taskfilesquery/request-curl.json", "sender", "not exist /data/dcp/cfec-001/dcps/xiaofang "),
    (
        "send/request.json",
        "sender",
        "open json file error:open /data/sender/tmp/cfec-001-xiaofang.task.json: no such file or directory",
    ),
    (
        "send/request-curl.json",
        "sender",
        "open json file error:open /data/sender/tmp/cfec-001-xiaofang.task.json: no such file or directory",
    ),
    ("sends/request.json", "sender", "error, not exist dcp path: /data/dcp/cfec-001/xiaofang."),
    ("uploadprogress/request.json", "sender", ""),
    ("uploadprogress/request-curl.json", "sender", ""),
    (
        "recv/request.json",
        "receiver",
        "open json file error:open /data/receiver/tmp/cfec-001-uuid.task.json: no such file or directory",
    ),
    (
        "recv/request-curl-receiver.json",
        "receiver",
        "open json file error:open /data/receiver/tmp/cfec-001-changjiang_FTR-1_F_EN-XX_20_2K_20210315_OV.task.json: \
         no such file or directory",
    ),
    (
        "recv/request-curl-cacher.json",
        "cacher",
        "open json file error:open /data/receiver/tmp/cfec-001-xiaofang.task.json: no such file or directory",
    ),
    ("progress/request.json", "receiver", UNKNOWN),
    ("progress/request-curl.json", "receiver", UNKNOWN),
    ("cprogress/request.json", "cacher", UNKNOWN),
    ("cprogress/request-curl.json", "cacher", UNKNOWN),
    ("cancel/request.json", "receiver", "no need to cancel, not found task: cfec-001-xiaofang.task.json"),
    ("cancel/request-curl.json", "sender", "no need to cancel, not found task: cfec-001-xiaofang.task.json"),
];

#[tokio::test]
async fn requests_are_read_in_every_form() {
    let mut world = World::new();
    world.start().await;
    world.cacher.start().await;
    let mut bench = Bench::new(Stage::Requests);
    let node = |role: &str| match role {
        "sender" => &world.sender,
        "receiver" => &world.receiver,
        _ => &world.cacher,
    };
    for (file, role, desc) in REQUESTS {
        bench.case(file);
        let client = Client::new(&world, node(role));
        bench.says(&client, "nothing is there", ask(file), file.starts_with("cancel/"), desc).await;
    }
    let sender = Client::new(&world, &world.sender);
    bodies(&mut bench, &sender).await;
    tools(&mut bench, &sender).await;
    bench.finish();
}

/// Section 2: what a body may be besides a request.
async fn bodies(bench: &mut Bench, sender: &Client<'_>) {
    let unreadable = "invalid json format:request body";
    let none = "open json file error:open : no such file or directory";
    let numbers = json!({"message_id": 12345, "method_params": {"taskfile": "/t.task.json", "reactive": true}}).to_string();
    for (body, id, desc) in [
        ("{\"message_id\": \"7\", \"method_params\": {", "", unreadable),
        ("", "", unreadable),
        ("{\"message_id\": \"7\"}", "7", none),
        ("{\"message_id\": \"7\", \"method_params\": {}}", "7", none),
        (&numbers, "12345", "open json file error:open /t.task.json: no such file or directory"),
    ] {
        let (status, text) = sender.node.post("send", body.as_bytes().to_vec()).await.expect("an answer");
        let reply: Value = serde_json::from_str(&text).unwrap_or_default();
        let got = (status, &reply["reqest_message_id"], &reply["return_status"], &reply["return_content"]["desc"]);
        bench.check(got == (200, &json!(id), &json!("false"), &json!(desc)), body, &got);
    }
}

/// Section 3.9. Without quotes; a final newline is harmless.
async fn tools(bench: &mut Bench, sender: &Client<'_>) {
    for (file, path) in [("get/version.txt", "version"), ("get/reloadconf.txt", "reloadconf"), ("get/heartbeat.txt", "heartbeat")]
    {
        bench.case(file);
        let example = examples::text(file).trim_end_matches('\n').to_owned();
        let got = sender.node.get(path).await.expect("an answer");
        let got = got.trim_end_matches('\n');
        let fine = match example.strip_prefix("2021-05-28 22:32:26") {
            Some(rest) => got.strip_suffix(rest).is_some_and(is_now),
            None => got == example,
        };
        bench.check(fine, file, &got);
    }
}

/// Local time, within a minute.
fn is_now(text: &str) -> bool {
    let read = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S");
    read.is_ok_and(|t| (chrono::Local::now().naive_local() - t).num_seconds().abs() < 60)
}
