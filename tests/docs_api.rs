//! The commands of docs/api.md, run by a shell against real nodes in the order of the document, and their replies.

mod world;

use serde_json::{Value, json};
use world::{Node, World, task_name, until};

/// A shell block of the document with its heading and the JSON that follows it, if any.
struct Example {
    heading: String,
    script: String,
    reply: Option<Value>,
}

fn examples() -> Vec<Example> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
    let text = std::fs::read_to_string(path).expect("docs/api.md");
    let (mut heading, mut out, mut block) = (String::new(), Vec::<Example>::new(), None::<(String, String)>);
    for line in text.lines() {
        block = match (block.take(), line.strip_prefix("```")) {
            (None, Some(language)) => Some((language.to_owned(), String::new())),
            (Some((language, body)), Some(_)) => {
                match (language.as_str(), out.last_mut()) {
                    ("sh", _) => out.push(Example { heading: heading.clone(), script: body, reply: None }),
                    ("json", Some(last)) if last.heading == heading && last.reply.is_none() => {
                        last.reply = Some(serde_json::from_str(&body).unwrap_or_else(|e| panic!("{heading}: {e}\n{body}")));
                    }
                    _ => {}
                }
                None
            }
            (Some((language, body)), None) => Some((language, format!("{body}{line}\n"))),
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    heading = title.to_owned();
                }
                None
            }
        };
    }
    out
}

/// Runs a block as the document's reader would, on a node of the test.
fn run(node: &Node, prelude: &str, script: &str, dir: &std::path::Path) -> String {
    let here = |text: &str| {
        let text = text.replace("http://127.0.0.1:8191", node.url("").trim_end_matches('/'));
        text.replace("/data/", &format!("{}/", node.data().display()))
    };
    let script = here(&format!("{prelude}\n{script}"));
    let out = std::process::Command::new("bash").args(["-euc", &script]).current_dir(dir).output().expect("bash");
    assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// The same keys, and the same values where they are no amounts, which depend on the package.
fn assert_alike(documented: &Value, got: &Value, what: &str) {
    let (Value::Object(want), Value::Object(have)) = (documented, got) else { panic!("{what}: {got}") };
    assert_eq!(want.keys().collect::<Vec<_>>(), have.keys().collect::<Vec<_>>(), "{what}");
    let amount = |v: &Value| {
        let text = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        !text.is_empty()
            && text.trim_end_matches(" KB/s").trim_end_matches(" MB/s").bytes().all(|b| b.is_ascii_digit() || b".%-".contains(&b))
    };
    for (key, value) in want {
        assert!(
            have[key] == *value || (amount(value) && amount(&have[key])),
            "{what}: {key} is {}, documented {value}",
            have[key]
        );
    }
}

/// Bytes that take hours to hash, in no time.
fn long_package(world: &World, name: &str) {
    let dir = world.sender.store().join(name);
    std::fs::create_dir_all(&dir).expect("directory");
    std::fs::File::create(dir.join("reel.mxf")).and_then(|f| f.set_len(64 << 30)).expect("a sparse file");
}

/// What has to be true before the commands of a section are run.
async fn prepare(world: &World, heading: &str) {
    let film = task_name("film");
    match heading {
        "taskfilesquery" => {
            let (dcppath, taskfile) = (world.sender.store().join("film"), world.sender.data().join("sender/tmp").join(&film));
            let query = json!({"dcppath": dcppath, "taskfile": taskfile});
            let finished =
                async || (world.sender.call("taskfilesquery", query.clone()).await.text("status") == "finished").then_some(());
            until("gentask finishes", world::PATIENCE, finished).await;
        }
        "sends" => long_package(world, "film2"),
        "uploadprogress" => {
            assert!(world.sender.call("cancel", json!({"taskfile": task_name("film2")})).await.ok);
            world.ready(&film).await;
        }
        "recv" => {
            let task = world.sender.data().join("sender/uploaded").join(&film);
            world.receiver.carry(&task);
            let taskfile = world.cacher.carry(&task);
            assert!(world.cacher.call("recv", json!({"taskfile": taskfile})).await.ok);
        }
        "progress" => {
            world.receiver.downloaded(&film).await;
            let seeding = async || {
                (world.receiver.call("progress", json!({"taskfile": film})).await.text("btstatus") == "btseeding").then_some(())
            };
            until("the receiver seeds", world::PATIENCE, seeding).await;
        }
        "cprogress" => {
            let seeding = async || {
                (world.cacher.call("cprogress", json!({"taskfile": film})).await.text("status") == "seeding").then_some(())
            };
            until("the cacher seeds", world::PATIENCE, seeding).await;
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_command_of_the_document_answers_as_documented() {
    let mut world = World::new();
    world.receiver.set("receiverstoreplan", "A");
    world.package("film", 8, 1);
    world.start().await;
    world.cacher.start().await;
    let (mut prelude, mut seen) = (String::new(), 0);
    for example in examples() {
        let Example { heading, script, reply } = example;
        if script.starts_with("call() {") {
            prelude = script;
            continue;
        }
        prepare(&world, &heading).await;
        let node = match heading.as_str() {
            "gentask" | "taskfilesquery" | "send" | "sends" | "uploadprogress" => &world.sender,
            "cprogress" => &world.cacher,
            _ => &world.receiver,
        };
        let out = run(node, &prelude, &script, world.dir.path());
        seen += 1;
        assert!(!out.trim().is_empty(), "{heading}: {script}");
        if let Some(documented) = reply {
            let documented = documented.to_string().replace("/data/", &format!("{}/", node.data().display()));
            let documented: Value = serde_json::from_str(&documented).expect("json");
            let got: Value = serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{heading}: {e}: {out}"));
            assert_alike(&documented, got.get("return_content").unwrap_or(&got), &heading);
        } else if heading == "Resources for new clients" {
            for one in serde_json::Deserializer::from_str(&out).into_iter::<Value>() {
                let one = one.unwrap_or_else(|e| panic!("{heading}: {e}: {out}"));
                assert!(one.get("items").is_some() || one.get("task").is_some() || one["ready"] == true, "{one}");
            }
        } else if heading == "Configuration" {
            assert!(out.contains("reload config json ok."), "{out}");
        } else if heading == "showschedules" {
            assert!(out.starts_with("Now: ") && out.contains("\nAll Current Downloading:"), "{out}");
        }
    }
    assert!(seen >= 13, "only {seen} blocks were found");
}
