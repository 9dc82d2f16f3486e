//! The configuration examples: a node starts with each, shows what it read, and reads the file anew as people edit it.

use super::asking::{Answer, Client, write_config};
use super::bench::Bench;
use super::cases::Stage;
use super::compare;
use super::examples;
use super::world::World;
use serde_json::{Value, json};

/// Example, and the node of the test that starts with it.
const FILES: [(&str, &str); 3] = [
    ("config/config.example.json", "cacher"),
    ("config/config.explained-variant.json", "receiver"),
    ("config/config.recommended-sender.json", "sender"),
];
/// Never shown.
const SECRETS: [&str; 2] = ["obsak", "obssk"];

#[tokio::test]
async fn a_node_starts_with_every_configuration_example() {
    let mut bench = Bench::new(Stage::Configurations);
    for (file, at) in FILES {
        bench.case(file);
        let mut world = World::new();
        let node = match at {
            "cacher" => &world.cacher,
            "receiver" => &world.receiver,
            _ => &world.sender,
        };
        let map = Client::new(&world, node).map;
        // Paths are the test's; addresses of services that nobody calls here stay as they are.
        let mut keys = examples::json(file);
        for value in keys.as_object_mut().expect("an object").values_mut() {
            if value.as_str().is_some_and(|s| s.starts_with('/')) {
                *value = map.value(value);
            }
        }
        let node = match at {
            "cacher" => &mut world.cacher,
            "receiver" => &mut world.receiver,
            _ => &mut world.sender,
        };
        if let Some(table) = keys["hashtable"].as_str() {
            std::fs::create_dir_all(std::path::Path::new(table).parent().expect("directory")).expect("directory");
        }
        node.set_all(&keys);
        node.start().await;
        let client = Client { node, map };
        shows(&mut bench, &client, file, &keys).await;
        uploaded(&mut bench, &client, file).await;
        as_people_write_it(&mut bench, &client, file).await;
    }
    bench.finish();
}

async fn shown(client: &Client<'_>) -> Value {
    let text = client.node.get("config").await.expect("an answer");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// `GET /config` (section 3.10): every key of the example with its value, secrets masked.
async fn shows(bench: &mut Bench, client: &Client<'_>, file: &str, keys: &Value) {
    let shown = shown(client).await;
    if shown["servertype"].is_null() {
        return bench.note(file, [format!("GET /config is no configuration: {shown}")]);
    }
    let text = shown.to_string();
    for (key, value) in keys.as_object().expect("an object") {
        // 17.32: the default policy has two names.
        let key = if key == "prior" { "priorpolicy" } else { key };
        if SECRETS.contains(&key) {
            let hidden = shown[key].as_str().is_some_and(|s| !s.is_empty()) && !text.contains("EXAMPLE-");
            bench.check(hidden, &format!("{file}: {key} is masked"), &shown[key]);
        } else {
            bench.check(shown[key] == *value, &format!("{file}: {key} is not {value}"), &shown[key]);
        }
    }
}

/// `POST /config` (section 3.10): what was downloaded, with one change, alone or as the parameters of a request. A masked
/// secret stays as it is.
async fn uploaded(bench: &mut Bench, client: &Client<'_>, file: &str) {
    let secret = examples::json(file)["obssk"].as_str().expect("a secret").to_owned();
    // The number that is sent, the verdict, the number that holds afterwards.
    for (number, id, verdict, holds) in [(json!(7), "", "true", 7), (json!("8"), "321", "true", 8), (json!(0), "321", "false", 8)]
    {
        let mut config = shown(client).await;
        config["uploadingnum"] = number;
        let request = json!({"message_id": id, "method_name": "config", "method_params": config});
        let body = if id.is_empty() { &config } else { &request };
        let (status, text) = client.node.post("config", body.to_string().into_bytes()).await.expect("an answer");
        let reply: Value = serde_json::from_str(&text).unwrap_or_default();
        bench.check(status == 200 && reply["return_status"] == verdict, &format!("{file}: POST /config"), &text);
        let answer = Answer { id: id.into(), method: "config".into(), reply };
        bench.note(&format!("{file}: POST /config"), compare::envelope(&answer));
        let now = shown(client).await;
        bench.check(now["uploadingnum"] == holds, &format!("{file}: GET /config after POST"), &now["uploadingnum"]);
        let kept = std::fs::read_to_string(client.node.config_path()).expect("config");
        bench.check(kept.contains(&secret), "a masked secret stays as it is in the file", &client.node.config_path());
    }
}

/// Section 6: edited by hand, so commas may be missing or stand after the last entry, and there may be comments.
async fn as_people_write_it(bench: &mut Bench, client: &Client<'_>, file: &str) {
    let good = std::fs::read_to_string(client.node.config_path()).expect("config");
    let without_commas = good.replace(",\n", "\n");
    assert_ne!(without_commas, good, "an entry a line");
    let last = good.trim_end().trim_end_matches('}').trim_end().to_owned();
    for text in [good.clone(), without_commas, format!("\u{feff}{last},\n}}\n"), format!("// by hand\n{good}")] {
        write_config(client.node, &text);
        let said = client.node.get("reloadconf").await;
        bench.check(said.as_deref() == Some("reload config json ok."), &format!("{file}: reloadconf"), &said);
    }
    // A faulty one is reported, and the old one stays.
    write_config(client.node, &good[..good.len() / 2]);
    let said = client.node.get("reloadconf").await.unwrap_or_default();
    bench.check(!said.contains("json ok") && !said.is_empty(), &format!("{file}: reloadconf of half a file"), &said);
    let alive = client.node.get("heartbeat").await;
    bench.check(alive.is_some_and(|t| t.ends_with("is living.")), &format!("{file}: alive"), &said);
}
