//! Text to [`TaskFile`]: one field after the other, each error naming field, value and what is allowed.

use super::{BtPart, CdnPart, FileEntry, Kind, MAX_FILES, MAX_PEERS, MAX_SEEDTIME_HOURS, MAX_SIZE, MAX_SPANS};
use super::{ObsPart, SpanEntry, TaskFile, TaskFileError, Unknown, check};
use crate::model::endpoint::{self, ObsEndpoint, ObsUrl};
use crate::model::ids::{BaseSubdir, PackageName, RelPath, Sha1};
use crate::model::json::{as_number, as_text, parse_liberal};
use crate::model::ratio::{self, Ratio};
use crate::model::secret::Secret;
use crate::model::span::Method;
use crate::model::task::Policy;
use crate::model::window::{self, Windows};
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, TaskFileError>;

pub(super) fn bad(field: impl Into<String>, value: impl AsRef<str>, allowed: impl Into<String>) -> TaskFileError {
    let value = value.as_ref().chars().take(120).collect();
    TaskFileError::Bad { field: field.into(), value, allowed: allowed.into().trim_end().to_owned() }
}

/// An object whose known fields are taken out one by one; what is left is unknown.
struct Fields {
    map: Map<String, Value>,
    /// `bt.` for messages; empty at the top.
    prefix: &'static str,
}

impl Fields {
    fn section(&mut self, name: &'static str, prefix: &'static str) -> Result<Fields> {
        match self.map.shift_remove(name) {
            None | Some(Value::Null) => Ok(Fields { map: Map::new(), prefix }),
            Some(Value::Object(map)) => Ok(Fields { map, prefix }),
            Some(other) => Err(bad(name, kind_of(&other), "an object")),
        }
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// The first of the spellings that has a value. Null and the empty string count as none. All are taken out.
    fn take(&mut self, spellings: &[&str]) -> Option<Value> {
        let mut found = None;
        for s in spellings {
            let value = self.map.shift_remove(*s);
            found = found.or(value.filter(|v| !v.is_null() && v.as_str() != Some("")));
        }
        found
    }

    fn text(&mut self, spellings: &[&str]) -> Result<String> {
        match self.take(spellings) {
            None => Ok(String::new()),
            Some(v) => as_text(&v).ok_or_else(|| bad(self.name(spellings[0]), kind_of(&v), "a text")),
        }
    }

    /// Text that is only carried through: bounded and printable.
    fn note(&mut self, spellings: &[&str], most: usize) -> Result<String> {
        let text = self.text(spellings)?;
        if text.len() > most || text.chars().any(char::is_control) {
            return Err(bad(self.name(spellings[0]), text, format!("at most {most} printable characters")));
        }
        Ok(text)
    }

    /// Like a note, but never shown in an error.
    fn secret(&mut self, spellings: &[&str]) -> Result<Secret> {
        let name = self.name(spellings[0]);
        let hidden = || bad(name.clone(), "***", "at most 1024 printable characters");
        let text = self.text(spellings).map_err(|_| hidden())?;
        if text.len() > 1024 || text.chars().any(char::is_control) {
            return Err(hidden());
        }
        Ok(Secret::new(text))
    }

    fn parsed<T>(&mut self, spellings: &[&str], allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let text = self.text(spellings)?;
        if text.is_empty() {
            return Ok(None);
        }
        // URLs may be signed.
        parse(&text).map(Some).ok_or_else(|| bad(self.name(spellings[0]), endpoint::shown(&text), allowed))
    }

    fn needed<T>(&mut self, spellings: &[&str], allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.parsed(spellings, allowed, parse)?.ok_or_else(|| bad(self.name(spellings[0]), "", allowed))
    }

    fn number(&mut self, spellings: &[&str], most: u64) -> Result<Option<u64>> {
        let Some(v) = self.take(spellings) else { return Ok(None) };
        let n = as_number(&v).filter(|n| *n <= most);
        n.map(Some).ok_or_else(|| {
            let shown = as_text(&v).unwrap_or_else(|| kind_of(&v).to_owned());
            bad(self.name(spellings[0]), shown, format!("a whole number from 0 to {most}"))
        })
    }

    /// An array; absent means empty.
    fn array(&mut self, name: &str, most: usize) -> Result<Vec<Value>> {
        match self.take(&[name]) {
            None => Ok(Vec::new()),
            Some(Value::Array(a)) if a.len() <= most => Ok(a),
            Some(Value::Array(a)) => Err(bad(self.name(name), format!("{} entries", a.len()), format!("at most {most} entries"))),
            Some(other) => Err(bad(self.name(name), kind_of(&other), "an array")),
        }
    }

    /// A list of paths; empty strings in it are ignored (`[""]` means empty).
    fn paths(&mut self, name: &str) -> Result<Vec<RelPath>> {
        let mut out = Vec::new();
        for v in self.array(name, MAX_FILES + 1)? {
            match v.as_str() {
                Some("") => {}
                Some(s) => out.push(path(&self.name(name), s)?),
                None => return Err(bad(self.name(name), kind_of(&v), "an array of relative paths")),
            }
        }
        Ok(out)
    }

    fn windows(&mut self) -> Result<Option<Windows>> {
        self.parsed(&["priortime"], window::ALLOWED, |s| Windows::parse(s).ok())
    }
}

fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn path(field: &str, s: &str) -> Result<RelPath> {
    RelPath::parse(s).map_err(|e| bad(field, &e.value, format!("a relative path of plain names ({})", e.rule)))
}

impl TaskFile {
    /// Reads and checks everything. The order of checks is the protocol's: JSON, fields, total, sums, lists.
    pub fn parse(bytes: &[u8]) -> Result<TaskFile> {
        let map = match parse_liberal(bytes)? {
            Value::Object(map) => map,
            other => return Err(bad("the file", kind_of(&other), "an object")),
        };
        let mut f = Fields { map, prefix: "" };
        let (mut bt, mut obs, mut cdn) = (f.section("bt", "bt.")?, f.section("obs", "obs.")?, f.section("cdn", "cdn.")?);
        f.parsed(&["sourcetype"], "sender (requests by receivers are not supported)", |s| (s == "sender").then_some(()))?;
        let mut extra = Unknown::default();
        let files = files(&mut f, &mut extra)?;
        let sizes = |f: &mut Fields, names: [&str; 3]| -> Result<[Option<u64>; 3]> {
            let [a, b, c] = names.map(|n| f.number(&[n], MAX_SIZE));
            Ok([a?, b?, c?])
        };
        let declared = sizes(&mut f, ["btlistsize", "obslistsize", "cdnlistsize"])?;
        let second = sizes(&mut f, ["btlistsize2", "obslistsize2", "cdnlistsize2"])?;
        let senderid = |s: &str| (s.len() <= 64 && s.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| s.to_owned());
        let mut task = TaskFile {
            senderid: f.parsed(&["senderid"], "letters and digits", senderid)?.unwrap_or_default(),
            name: f.needed(&["name"], "a plain directory name, at most 200 bytes", |s| PackageName::parse(s).ok())?,
            kind: f.parsed(&["type"], Kind::ALLOWED, Kind::parse)?.unwrap_or(Kind::Dir),
            senderlocalpath: f.note(&["senderlocalpath"], 4096)?,
            basesubdir: f
                .needed(&["basesubdir"], "letters, digits, '-', '_', '.', e.g. cfec-001", |s| BaseSubdir::parse(s).ok())?,
            datasource: f.note(&["datasource"], 64)?,
            size: f.number(&["size"], MAX_SIZE)?.ok_or_else(|| bad("size", "", "the sum of the file sizes"))?,
            ratio: f.needed(&["bt-obs-cdn"], ratio::ALLOWED, |s| Ratio::parse(s).ok())?,
            policy: f.parsed(&["policy"], Policy::ALLOWED, Policy::parse)?.unwrap_or(Policy::Fulltime),
            bt: bt_part(&mut bt)?,
            obs: obs_part(&mut obs)?,
            cdn: CdnPart { url: cdn.parsed(&["url"], endpoint::HTTP_ALLOWED, endpoint::http_url)?, windows: cdn.windows()? },
            files,
            local_same: f.paths("localsamefiles")?,
            lists: [f.paths("btlist")?, f.paths("obslist")?, f.paths("cdnlist")?],
            list_sizes: [0; 3],
            list_sizes2: None,
            spans: spans(&mut f)?,
            piece_length: f.number(&["piecelength"], 1 << 32)?.filter(|n| *n > 0),
            gentime: f.note(&["gentime", "gentasktime"], 64)?,
            sendtime: f.note(&["sendtime"], 64)?,
            receivetime: f.note(&["receivetime"], 64)?,
            finishedtime: f.note(&["finishedtime"], 64)?,
            requesters: f.array("requesters", MAX_FILES)?,
            extra,
        };
        task.extra.top = f.map;
        (task.extra.bt, task.extra.obs, task.extra.cdn) = (bt.map, obs.map, cdn.map);
        check::all(&mut task, declared)?;
        // Zeros without local files are the sender's placeholder.
        let second = second.map(Option::unwrap_or_default);
        task.list_sizes2 = (second != [0; 3] || !task.local_same.is_empty()).then_some(second);
        Ok(task)
    }
}

fn bt_part(f: &mut Fields) -> Result<BtPart> {
    let mut peers = Vec::new();
    for v in f.array("peers", MAX_PEERS)? {
        match v.as_str() {
            Some("") => {}
            s => {
                let peer = s.and_then(endpoint::peer);
                peers.push(peer.ok_or_else(|| bad("bt.peers", s.unwrap_or(kind_of(&v)), endpoint::PEER_ALLOWED))?);
            }
        }
    }
    Ok(BtPart {
        localtorrent: f.note(&["localtorrent"], 4096)?,
        url: f.parsed(&["url"], endpoint::HTTP_ALLOWED, endpoint::http_url)?,
        tmpurl: f.parsed(&["tmpurl"], endpoint::HTTP_ALLOWED, endpoint::http_url)?,
        tracker: f.parsed(&["tracker"], endpoint::TRACKER_ALLOWED, endpoint::tracker_url)?,
        seedtime_hours: f.number(&["seedtime"], MAX_SEEDTIME_HOURS)?.unwrap_or(0),
        windows: f.windows()?,
        peers,
    })
}

fn obs_part(f: &mut Fields) -> Result<ObsPart> {
    Ok(ObsPart {
        url: f.parsed(&["url"], endpoint::OBS_URL_ALLOWED, ObsUrl::parse_with_key)?,
        ak: f.secret(&["ak", "obsak"])?,
        sk: f.secret(&["sk", "obssk"])?,
        endpoint: f.parsed(&["endpoint", "obsendpoint"], endpoint::OBS_ENDPOINT_ALLOWED, ObsEndpoint::parse)?,
        windows: f.windows()?,
    })
}

fn files(f: &mut Fields, extra: &mut Unknown) -> Result<Vec<FileEntry>> {
    let mut out = Vec::new();
    for (i, v) in f.array("filelist", MAX_FILES)?.into_iter().enumerate() {
        let Value::Object(map) = v else {
            return Err(bad(format!("filelist[{i}]"), kind_of(&v), "an object with file, hash and size"));
        };
        let mut e = Fields { map, prefix: "" };
        let name = e.text(&["file"])?;
        let path = path(&format!("filelist[{i}].file"), &name)?;
        let hash = e.text(&["hash"])?;
        let sha1 =
            Sha1::from_hex(&hash).map_err(|_| bad(format!("hash of {path}"), &hash, "a SHA-1 as 40 hexadecimal digits"))?;
        let size = e.map.shift_remove("size");
        let size = size.as_ref().and_then(as_number).filter(|n| *n <= MAX_SIZE).ok_or_else(|| {
            let shown = size.as_ref().and_then(as_text).unwrap_or_default();
            bad(format!("size of {path}"), shown, format!("a whole number from 0 to {MAX_SIZE}"))
        })?;
        if !e.map.is_empty() {
            extra.files.insert(i, e.map);
        }
        out.push(FileEntry { path, size, sha1 });
    }
    Ok(out)
}

fn spans(f: &mut Fields) -> Result<Vec<SpanEntry>> {
    let mut out = Vec::new();
    for (i, v) in f.array("spans", MAX_SPANS)?.into_iter().enumerate() {
        let field = format!("spans[{i}]");
        let Value::Object(map) = v else {
            return Err(bad(field, kind_of(&v), "an object with file, offset, len and method"));
        };
        let mut e = Fields { map, prefix: "" };
        let name = e.text(&["file"])?;
        let in_span = |err| match err {
            TaskFileError::Bad { field: inner, value, allowed } => bad(format!("{field}.{inner}"), value, allowed),
            other => other,
        };
        let mut number = |key| {
            let n = e.number(&[key], MAX_SIZE).map_err(in_span)?;
            n.ok_or_else(|| bad(format!("{field}.{key}"), "", format!("a whole number from 0 to {MAX_SIZE}")))
        };
        let (offset, len) = (number("offset")?, number("len")?);
        let method = e.needed(&["method"], "bt, obs or cdn", Method::parse).map_err(in_span)?;
        out.push(SpanEntry { file: path(&format!("{field}.file"), &name)?, offset, len, method });
    }
    Ok(out)
}
