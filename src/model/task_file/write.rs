//! [`TaskFile`] to text: strict JSON, both spellings of the keys that have two.

use super::TaskFile;
use crate::model::ids::RelPath;
use crate::model::window::Windows;
use serde_json::{Map, Value, json};

impl TaskFile {
    /// Pretty, in the field order of the protocol's example; unknown fields follow in the order in which they came.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.to_value()).unwrap_or_default();
        text.push('\n');
        text
    }

    fn to_value(&self) -> Value {
        let mut m = Map::new();
        let mut put = |key: &str, value: Value| {
            m.insert(key.to_owned(), value);
        };
        put("sourcetype", "sender".into());
        put("senderid", self.senderid.as_str().into());
        put("name", self.name.as_str().into());
        put("type", self.kind.as_str().into());
        put("senderlocalpath", self.senderlocalpath.as_str().into());
        put("basesubdir", self.basesubdir.as_str().into());
        put("datasource", self.datasource.as_str().into());
        put("size", self.size.into());
        put("bt-obs-cdn", self.ratio.to_string().into());
        put("policy", self.policy.as_str().into());
        put("bt", self.bt_value());
        put("obs", self.obs_value());
        put("cdn", self.cdn_value());
        put("filelist", self.files_value());
        put("localsamefiles", paths(&self.local_same));
        for (key, list) in ["btlist", "obslist", "cdnlist"].into_iter().zip(&self.lists) {
            put(key, paths(list));
        }
        put("requesters", Value::Array(self.requesters.clone()));
        for (key, size) in ["btlistsize", "obslistsize", "cdnlistsize"].into_iter().zip(self.list_sizes) {
            put(key, size.into());
        }
        let second = self.list_sizes2.unwrap_or_default();
        for (key, size) in ["btlistsize2", "obslistsize2", "cdnlistsize2"].into_iter().zip(second) {
            put(key, size.into());
        }
        if !self.spans.is_empty() {
            let span = |s: &super::SpanEntry| json!({"file": s.file.as_str(), "offset": s.offset, "len": s.len, "method": s.method.as_str()});
            put("spans", self.spans.iter().map(span).collect());
        }
        if let Some(n) = self.piece_length {
            put("piecelength", n.into());
        }
        put("gentime", self.gentime.as_str().into());
        put("gentasktime", self.gentime.as_str().into());
        put("sendtime", self.sendtime.as_str().into());
        put("receivetime", self.receivetime.as_str().into());
        put("finishedtime", self.finishedtime.as_str().into());
        with(m, &self.extra.top)
    }

    fn bt_value(&self) -> Value {
        let mut m = Map::new();
        m.insert("localtorrent".into(), self.bt.localtorrent.as_str().into());
        m.insert("url".into(), text(&self.bt.url));
        m.insert("tmpurl".into(), text(&self.bt.tmpurl));
        m.insert("tracker".into(), text(&self.bt.tracker));
        // A string, as real task files have it.
        m.insert("seedtime".into(), self.bt.seedtime_hours.to_string().into());
        m.insert("priortime".into(), windows(&self.bt.windows));
        if !self.bt.peers.is_empty() {
            m.insert("peers".into(), self.bt.peers.iter().map(String::as_str).collect());
        }
        with(m, &self.extra.bt)
    }

    fn obs_value(&self) -> Value {
        let mut m = Map::new();
        let url = self.obs.url.as_ref().map(ToString::to_string);
        m.insert("url".into(), text(&url));
        m.insert("priortime".into(), windows(&self.obs.windows));
        let endpoint = self.obs.endpoint.as_ref().map_or("", |e| e.as_str());
        let keys = [("ak", self.obs.ak.reveal()), ("sk", self.obs.sk.reveal()), ("endpoint", endpoint)];
        for prefix in ["", "obs"] {
            for (key, value) in keys {
                m.insert(format!("{prefix}{key}"), value.into());
            }
        }
        with(m, &self.extra.obs)
    }

    fn cdn_value(&self) -> Value {
        let mut m = Map::new();
        m.insert("url".into(), text(&self.cdn.url));
        m.insert("priortime".into(), windows(&self.cdn.windows));
        with(m, &self.extra.cdn)
    }

    fn files_value(&self) -> Value {
        let entry = |(i, f): (usize, &super::FileEntry)| {
            let mut m = Map::new();
            m.insert("file".into(), f.path.as_str().into());
            m.insert("hash".into(), f.sha1.to_string().into());
            m.insert("size".into(), f.size.into());
            match self.extra.files.get(&i) {
                Some(extra) => with(m, extra),
                None => Value::Object(m),
            }
        };
        self.files.iter().enumerate().map(entry).collect()
    }
}

/// Unknown fields never replace ours.
fn with(mut known: Map<String, Value>, extra: &Map<String, Value>) -> Value {
    for (key, value) in extra {
        known.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Value::Object(known)
}

fn text(v: &Option<String>) -> Value {
    v.as_deref().unwrap_or("").into()
}

fn windows(w: &Option<Windows>) -> Value {
    w.as_ref().map_or_else(String::new, ToString::to_string).into()
}

fn paths(list: &[RelPath]) -> Value {
    list.iter().map(RelPath::as_str).collect()
}
