//! Requests: an example, changed where a case needs it, sent as a client might write it.

use super::examples;
use super::mapping::Mapping;
use super::world::{Node, World};
use serde_json::Value;

/// How the body is written.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// As the file is.
    AsIs,
    /// As the published samples are: a trailing comma inside `method_params`, and a byte order mark before all.
    Sloppy,
    /// Both, one after the other; the replies must be equal.
    Twice,
}

/// A request example and what is changed in it.
#[derive(Clone)]
pub struct Ask {
    file: &'static str,
    /// Parameter and value; none removes it.
    changes: Vec<(&'static str, Option<Value>)>,
    id: Option<String>,
    form: Form,
}

/// Asked in both forms, unless said otherwise: right for questions and for what is refused.
pub fn ask(file: &'static str) -> Ask {
    Ask { file, changes: Vec::new(), id: None, form: Form::Twice }
}

impl Ask {
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.changes.push((key, Some(value.into())));
        self
    }

    pub fn without(mut self, key: &'static str) -> Self {
        self.changes.push((key, None));
        self
    }

    /// For a task of the examples' institution.
    pub fn about(self, task: &str) -> Self {
        let old = examples::json(self.file)["method_params"]["taskfile"].as_str().unwrap_or_default().to_owned();
        let dir = old.rfind('/').map_or("", |n| &old[..=n]);
        self.with("taskfile", format!("{dir}{task}"))
    }

    /// Once, as the file is: it changes something.
    pub fn once(mut self) -> Self {
        self.form = Form::AsIs;
        self
    }

    /// Once, in the sloppy form: it changes something.
    pub fn sloppy(mut self) -> Self {
        self.form = Form::Sloppy;
        self
    }

    /// In one form: as it is sloppy, or as the file is.
    pub fn single(self) -> Self {
        if self.form == Form::Twice { self.once() } else { self }
    }

    /// The `message_id` of the reply that is compared.
    pub fn id(mut self, id: Option<&str>) -> Self {
        self.id = id.map(str::to_owned);
        self
    }

    pub fn file(&self) -> &'static str {
        self.file
    }

    fn value(&self) -> Value {
        let mut value = examples::json(self.file);
        if let Some(id) = &self.id {
            value["message_id"] = id.as_str().into();
        }
        let params = value["method_params"].as_object_mut().expect("method_params");
        for (key, change) in &self.changes {
            match change {
                Some(v) => _ = params.insert((*key).to_owned(), v.clone()),
                None => _ = params.shift_remove(*key),
            }
        }
        value
    }

    /// The file's own bytes where nothing is changed.
    fn bodies(&self, map: &Mapping) -> Vec<String> {
        let value = self.value();
        let text = if value == examples::json(self.file) { examples::text(self.file) } else { format!("{value:#}\n") };
        let text = map.text(&text);
        match self.form {
            Form::AsIs => vec![text],
            Form::Sloppy => vec![sloppy(&text)],
            Form::Twice => vec![text.clone(), sloppy(&text)],
        }
    }
}

fn sloppy(text: &str) -> String {
    let outer = text.rfind('}').expect("an object");
    let inner = text[..outer].rfind('}').expect("method_params, the last member");
    let end = text[..inner].trim_end().len();
    format!("\u{feff}{},{}", &text[..end], &text[end..])
}

#[test]
fn the_sloppy_form_is_like_the_published_samples() {
    let text = "{\n  \"a\": 1,\n  \"method_params\": {\n    \"b\": \"x\"\n  }\n}\n";
    assert_eq!(sloppy(text), "\u{feff}{\n  \"a\": 1,\n  \"method_params\": {\n    \"b\": \"x\",\n  }\n}\n");
}

/// A reply together with what was asked.
pub struct Answer {
    pub id: String,
    pub method: String,
    pub reply: Value,
}

/// One node as a client sees it.
pub struct Client<'a> {
    pub node: &'a Node,
    pub map: Mapping,
}

impl<'a> Client<'a> {
    pub fn new(world: &World, node: &'a Node) -> Self {
        Self { node, map: Mapping::of(world, node) }
    }

    /// Sends a request in its form or forms.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, String> {
        let request = ask.value();
        let method = request["method_name"].as_str().expect("method_name").to_owned();
        let id = request["message_id"].as_str().expect("message_id").to_owned();
        // The one method that is not posted to its own name.
        let path = if method == "cprogress" { "progress" } else { method.as_str() };
        let mut replies = Vec::new();
        for body in ask.bodies(&self.map) {
            let (status, text) = self.node.post(path, body.into_bytes()).await?;
            if status != 200 {
                return Err(format!("HTTP status {status}: {text}"));
            }
            if text.trim_end_matches('\n').contains('\n') {
                return Err(format!("a reply is one line: {text}"));
            }
            replies.push(serde_json::from_str::<Value>(&text).map_err(|e| format!("no JSON ({e}): {text}"))?);
        }
        let reply = replies.remove(0);
        match replies.iter().find(|other| **other != reply) {
            Some(other) => Err(format!("the sloppy form is answered otherwise:\n  {reply}\n  {other}")),
            None => Ok(Answer { id, method, reply }),
        }
    }

    /// `<data>/<role>/tmp` and the like, by the examples' path.
    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.map.path(path)
    }

    /// Changes keys of the configuration and has them read.
    pub async fn reconfigure(&self, keys: &Value) {
        let mut config = super::world::read_json(&self.node.config_path());
        super::world::merge(&mut config, keys);
        write_config(self.node, &config.to_string());
        assert_eq!(self.node.get("reloadconf").await.as_deref(), Some("reload config json ok."));
    }
}

/// Readable by its owner alone, as a file with keys should be: else the node warns.
pub fn write_config(node: &Node, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(node.config_path(), text).expect("config");
    std::fs::set_permissions(node.config_path(), std::fs::Permissions::from_mode(0o600)).expect("rights");
}
