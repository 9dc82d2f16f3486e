//! From the examples' world to a test node's: the one substitution of this suite.
//!
//! The examples speak of a node whose files lie below `/data`, of a sender that is reached at `http://192.0.2.10` (its
//! CDN at `http://192.0.2.20` or `http://cdn.example.com`, which both go back to it), of a tracker, and of a client that
//! keeps task files in `/tmp`. A test node has the same tree below a directory of its own, and one origin that is also
//! the CDN. Everything else (names, texts, blanks, numbers that do not measure anything) is compared as it stands; the
//! packages of the tests have the examples' names.

use super::world::{Node, World, read_json};
use serde_json::Value;
use std::path::PathBuf;

/// What is replaced at one node.
pub struct Mapping {
    /// From, to, and whether it is a path: a path counts only where it begins.
    rules: Vec<(&'static str, String, bool)>,
}

impl Mapping {
    pub fn of(world: &World, node: &Node) -> Self {
        let origin = format!("http://{}", world.web);
        let tracker = read_json(&world.sender.config_path())["tracker"].as_str().expect("a tracker").to_owned();
        Self {
            rules: vec![
                ("/data/", format!("{}/", node.data().display()), true),
                ("/tmp/", format!("{}/", world.dir.path().join("client").display()), true),
                ("http://192.0.2.10", origin.clone(), false),
                ("http://192.0.2.20", origin.clone(), false),
                ("http://cdn.example.com", origin, false),
                ("http://tracker.example.com:6969/announce", tracker, false),
            ],
        }
    }

    /// One pass from left to right, so that nothing that was put in is replaced again.
    pub fn text(&self, text: &str) -> String {
        let (mut out, mut rest, mut before) = (String::new(), text, ' ');
        while let Some(c) = rest.chars().next() {
            let inside = before.is_ascii_alphanumeric() || "._-/".contains(before);
            let rule = self.rules.iter().find(|(from, _, path)| rest.starts_with(from) && !(*path && inside));
            let taken = match rule {
                Some((from, to, _)) => {
                    out.push_str(to);
                    from.len()
                }
                None => {
                    out.push(c);
                    c.len_utf8()
                }
            };
            before = rest[..taken].chars().next_back().unwrap_or(' ');
            rest = &rest[taken..];
        }
        out
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.text(path).into()
    }

    /// Every text in a value; keys stay.
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(s) => Value::String(self.text(s)),
            Value::Array(list) => list.iter().map(|v| self.value(v)).collect(),
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), self.value(v))).collect(),
            other => other.clone(),
        }
    }
}

#[test]
fn only_the_examples_places_are_replaced() {
    let rules =
        vec![("/data/", "/t/data/".to_owned(), true), ("/tmp/", "/t/tmp/".into(), true), ("http://a", "http://b".into(), false)];
    let map = Mapping { rules };
    for (from, to) in [
        ("x:/data/sender/tmp/a.json ", "x:/t/data/sender/tmp/a.json "),
        ("copy taskfile: /tmp/a.json error.", "copy taskfile: /t/tmp/a.json error."),
        ("http://a/dcp/data/x", "http://b/dcp/data/x"),
        ("nothing/data/here", "nothing/data/here"),
    ] {
        assert_eq!(map.text(from), to);
    }
}
