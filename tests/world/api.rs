//! Replies as a client reads them.

use serde_json::Value;

/// A reply of any method.
#[derive(Clone, Debug)]
pub struct Reply {
    pub ok: bool,
    pub content: Value,
}

impl Reply {
    pub fn read(text: &str) -> Result<Self, String> {
        let reply: Value = serde_json::from_str(text).map_err(|e| format!("no JSON ({e}): {text}"))?;
        let ok = match reply["return_status"].as_str() {
            Some("true") => true,
            Some("false") => false,
            _ => return Err(format!("no return_status: {text}")),
        };
        Ok(Self { ok, content: reply["return_content"].clone() })
    }

    pub fn text(&self, key: &str) -> String {
        self.content[key].as_str().unwrap_or_default().to_owned()
    }

    pub fn desc(&self) -> String {
        self.text("desc")
    }
}

/// A reply of `progress`.
#[derive(Clone, Debug)]
pub struct Progress(pub Reply);

impl Progress {
    pub fn status(&self) -> String {
        self.0.text("status")
    }
    pub fn error(&self) -> String {
        self.0.text("downerror")
    }
    pub fn dcppath(&self) -> String {
        self.0.text("dcppath")
    }
    pub fn downloaded(&self) -> u64 {
        self.0.content["downloaded"].as_u64().unwrap_or(0)
    }
    /// `btpercent` and its like, as a number.
    pub fn percent(&self, key: &str) -> f64 {
        let text = self.0.text(key);
        text.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{key} is {text:?} in {:?}", self.0))
    }
}
