//! The HTTP client of the protocol (sections 2 and 3): wraps calls in the envelope and reads replies of every spelling
//! that services of this protocol have been seen to send. A client generated from the OpenAPI document would accept
//! only our own service; operators also point these commands at older nodes.

use super::amount;
use super::exit::{Exit, Failure};
use crate::model::span::Method;
use reqwest::{StatusCode, Url};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// `recv` validates, dedupes and fetches torrents before it answers.
const ANSWER: Duration = Duration::from_secs(120);
/// Replies are a few kilobytes, task files of very many files some megabytes; anything larger is not this service.
const MAX_REPLY: usize = 64 << 20;

/// One service.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    ids: AtomicU64,
}

impl Client {
    /// `base` is `http://host:port`; `token` goes as a bearer token and is never printed.
    pub fn new(base: &str, token: Option<String>) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("--url {base:?}: {why}; write http://host:8191"));
        let mut url = Url::parse(base).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("only http and https"));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER);
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            http = http.no_proxy(); // a proxy of the environment does not see this machine's loopback
        }
        let http = http.build().map_err(|e| Failure::local(format!("cannot make an HTTP client: {e}")))?;
        let token = token.filter(|t| !t.is_empty());
        Ok(Self { http, base: url, token, ids: AtomicU64::new(1) })
    }

    /// A method of the protocol. `cprogress` shares its path with `progress`.
    pub async fn call(&self, method: &str, params: Value) -> Result<Reply, Failure> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed).to_string();
        let body = json!({
            "message_id": id, "message_type": "request", "message_source": "bftv2-cli",
            "method_name": method, "method_params": params,
        });
        let path = if method == "cprogress" { "progress" } else { method };
        let text = self.send(self.http.post(self.url(path)?).json(&body)).await?;
        Reply::parse(text).map_err(|why| self.odd(&why))
    }

    /// A GET tool: `heartbeat`, `version`, `reloadconf`, `showschedules`.
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        self.send(self.http.get(self.url(path)?)).await
    }

    /// The state of a reception. `None` where the service does not tell.
    pub async fn reception_state(&self, task: &str) -> Option<String> {
        let text = self.resource(self.task_url("receiver", task, None).ok()?).await.ok()??;
        let detail: Value = serde_json::from_str(&text).ok()?;
        Some(detail["task"]["state"].as_str()?.to_owned())
    }

    /// When a reception will be done, by its windows, and why that is too late; empty where that is not known.
    pub async fn prospects(&self, task: &str) -> Option<(String, String)> {
        let text = self.resource(self.task_url("receiver", task, None).ok()?).await.ok()??;
        let detail: Value = serde_json::from_str(&text).ok()?;
        let text = |key: &str| detail["task"][key].as_str().unwrap_or_default().to_owned();
        Some((text("expected_at"), text("at_risk")))
    }

    fn task_url(&self, role: &str, task: &str, below: Option<&str>) -> Result<Url, Failure> {
        let mut url = self.url(&format!("v1/tasks/{role}"))?;
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.push(task).extend(below);
        }
        Ok(url)
    }

    /// The text of a sender's task file.
    pub async fn task_file(&self, task: &str) -> Result<String, Failure> {
        let url = self.task_url("sender", task, Some("taskfile"))?;
        self.resource(url).await.map(|text| text.unwrap_or_default()).and_then(|text| match text.is_empty() {
            false => Ok(text),
            true => Err(Failure::refused(format!("{} has no task {task} that it sends", self.base))),
        })
    }

    /// How far the hashing for a task file is: bytes done and in all. `None` where the service does not tell.
    pub async fn generation(&self, taskfile: &str) -> Option<(u64, u64)> {
        let text = self.resource(self.url("v1/generations?limit=500").ok()?).await.ok()??;
        let page: Value = serde_json::from_str(&text).ok()?;
        let job = page.get("items")?.as_array()?.iter().find(|g| g["taskfile"] == taskfile)?;
        Some((job["bytes_done"].as_u64()?, job["bytes_total"].as_u64()?))
    }

    /// Asks for a scan of the library.
    pub async fn scan(&self, request: &Value) -> Result<Scanned, Failure> {
        let (status, text) = self.exchange(self.http.post(self.url("v1/library/scans")?).json(request)).await?;
        let detail = detail_of(&text);
        match (status, detail) {
            (s, _) if s.is_success() => Ok(Scanned::Done(text)),
            (StatusCode::SERVICE_UNAVAILABLE, Some(why)) => Ok(Scanned::Busy(why)),
            (StatusCode::GATEWAY_TIMEOUT, Some(why)) => Ok(Scanned::Late(why)),
            (_, Some(why)) => Err(Failure::refused(format!("refused: {why}"))),
            (s, None) => Err(self.odd(&format!("HTTP {s}"))),
        }
    }

    /// Lines of `sha1sum` for the library.
    pub async fn import(&self, lines: &[String]) -> Result<Value, Failure> {
        self.post("v1/library/imports", &json!({"lines": lines})).await
    }

    /// Asks a resource for something, and says what it answers.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let (status, text) = self.exchange(self.http.post(self.url(path)?).json(body)).await?;
        match (status, serde_json::from_str(&text)) {
            (s, Ok(answer)) if s.is_success() => Ok(answer),
            (s, _) => match detail_of(&text) {
                Some(why) => Err(Failure::refused(format!("refused: {why}"))),
                None => Err(self.odd(&format!("HTTP {s}"))),
            },
        }
    }

    /// What is still to hash.
    pub async fn hash_queue(&self) -> Result<HashQueue, Failure> {
        let (status, raw) = self.exchange(self.http.get(self.url("v1/library/queue")?)).await?;
        match (status, serde_json::from_str::<Value>(&raw)) {
            (s, Ok(queue)) if s.is_success() => {
                let number = |key: &str| queue[key].as_u64().unwrap_or(0);
                let (files, bytes, scanning) = (number("files"), number("bytes"), queue["scanning"] == true);
                Ok(HashQueue { raw, files, bytes, scanning })
            }
            (s, _) => match detail_of(&raw) {
                Some(why) => Err(Failure::refused(format!("refused: {why}"))),
                None => Err(self.odd(&format!("HTTP {s}"))),
            },
        }
    }

    /// A resource below `/v1`; `None` when there is no such thing.
    pub(super) async fn resource(&self, url: Url) -> Result<Option<String>, Failure> {
        let (status, text) = self.exchange(self.http.get(url)).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            s if s.is_success() => Ok(Some(text)),
            s => Err(self.odd(&detail_of(&text).unwrap_or_else(|| format!("HTTP {s}")))),
        }
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base.join(path).map_err(|e| Failure::usage(format!("{path}: {e}")))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<String, Failure> {
        match self.exchange(request).await? {
            (s, text) if s.is_success() || text.trim_start().starts_with('{') => Ok(text),
            (s, _) => Err(self.odd(&format!("HTTP {s}"))),
        }
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, String), Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let mut answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(&e))? {
            if body.len() + chunk.len() > MAX_REPLY {
                return Err(self.odd("its reply is larger than 64 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Failure::refused(format!(
                "{} wants a token (HTTP {}): give --token or set BFT2_TOKEN (fetch: --from-token, BFT2_FROM_TOKEN) to the `token` of its configuration",
                self.base,
                status.as_u16()
            )));
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn unreachable(&self, e: &reqwest::Error) -> Failure {
        let why = if e.is_timeout() {
            "no answer in time".to_owned()
        } else {
            // The innermost cause says most: "Connection refused (os error 111)".
            let mut cause: &dyn std::error::Error = e;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            cause.to_string()
        };
        Failure::new(
            Exit::Unreachable,
            format!("cannot reach the service at {}: {why}. Is `bftv2 serve` running there, and is --url right?", self.base),
        )
    }

    fn odd(&self, why: &str) -> Failure {
        Failure::refused(format!("{} does not answer like this service: {why}", self.base))
    }
}

/// What a problem says.
fn detail_of(text: &str) -> Option<String> {
    serde_json::from_str::<Value>(text).ok()?.get("detail")?.as_str().map(str::to_owned)
}

/// The answer to a scan.
#[derive(Clone, Debug)]
pub enum Scanned {
    /// As it came.
    Done(String),
    /// Nothing was begun: another scan runs.
    Busy(String),
    /// It takes long and goes on.
    Late(String),
}

/// What is still to hash.
#[derive(Clone, Debug)]
pub struct HashQueue {
    /// As it came.
    pub raw: String,
    pub files: u64,
    pub bytes: u64,
    pub scanning: bool,
}

impl HashQueue {
    pub fn is_empty(&self) -> bool {
        self.files == 0 && !self.scanning
    }
}

/// A reply's envelope, read liberally: two spellings of the status, content under either name.
#[derive(Clone, Debug)]
pub struct Reply {
    /// As it came.
    pub raw: String,
    pub ok: bool,
    content: Map<String, Value>,
}

impl Reply {
    fn parse(raw: String) -> Result<Self, String> {
        let Value::Object(mut all) = serde_json::from_str(&raw).map_err(|_| "the reply is not JSON".to_owned())? else {
            return Err("the reply is not a JSON object".to_owned());
        };
        let content = ["return_content", "method_params"].iter().find_map(|key| match all.remove(*key) {
            Some(Value::Object(map)) => Some(map),
            _ => None,
        });
        let content = content.ok_or("the reply has no return_content")?;
        let status = ["return_status", "message_status"].iter().find_map(|key| all.get(*key));
        let ok = match status {
            Some(Value::Bool(b)) => *b,
            Some(Value::String(s)) => s.trim().eq_ignore_ascii_case("true"),
            // Progress samples of the old service carry no status at all.
            None => true,
            Some(_) => false,
        };
        Ok(Self { raw, ok, content })
    }

    /// The first of the spellings that is there, numbers as text, blanks trimmed.
    pub fn get(&self, keys: &[&str]) -> String {
        let text = keys.iter().find_map(|key| match self.content.get(*key)? {
            Value::String(s) => Some(s.trim().to_owned()),
            Value::Number(n) => Some(n.to_string()),
            Value::Bool(b) => Some(b.to_string()),
            _ => None,
        });
        text.unwrap_or_default()
    }

    /// The reply without its envelope, for comparing two of them.
    pub fn content(&self) -> &Map<String, Value> {
        &self.content
    }

    pub fn desc(&self) -> String {
        self.get(&["desc"])
    }

    pub fn status(&self) -> String {
        self.get(&["status", "Status"])
    }

    fn percent(&self, keys: &[&str]) -> f64 {
        amount::percent(&self.get(keys)).unwrap_or(0.0)
    }
}

/// `uploadprogress`.
#[derive(Clone, Debug)]
pub struct Upload {
    pub ok: bool,
    pub status: String,
    pub taskfile: String,
    pub desc: String,
    pub bt: String,
    pub obs: String,
    pub cdn: String,
}

impl From<&Reply> for Upload {
    fn from(r: &Reply) -> Self {
        Self {
            ok: r.ok,
            status: r.status(),
            taskfile: r.get(&["taskfile", "taskfullpath"]),
            desc: r.desc(),
            bt: r.get(&["btstatus"]),
            obs: r.get(&["obsstatus"]),
            cdn: r.get(&["cdnstatus"]),
        }
    }
}

/// One method of a download. Bytes follow from percents with three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    pub done: u64,
    /// Bytes that the method has to fetch after dedupe.
    pub to_fetch: u64,
    /// Bytes per second, when the service knows.
    pub rate: Option<u64>,
}

/// `progress`.
#[derive(Clone, Debug)]
pub struct Download {
    pub ok: bool,
    pub status: String,
    pub desc: String,
    pub error: String,
    pub taskfile: String,
    pub dcppath: String,
    pub total: u64,
    pub downloaded: u64,
    pub percent: f64,
    pub rate: String,
    /// Minutes; -1 unknown.
    pub eta_minutes: i64,
    /// In the order of [`Method::ALL`].
    pub methods: [Share; 3],
    pub local_same: u64,
}

impl From<&Reply> for Download {
    fn from(r: &Reply) -> Self {
        let total = r.get(&["totalbytes"]).parse().unwrap_or(0);
        let share = |m: Method| Share {
            done: amount::part(r.percent(&[&format!("{m}percent"), capital(m)]), total),
            to_fetch: amount::part(r.percent(&[&format!("{m}2downpercent")]), total),
            rate: amount::rate(&r.get(&[&format!("{m}rate")])),
        };
        Self {
            ok: r.ok,
            status: r.status(),
            desc: r.desc(),
            error: r.get(&["downerror", "downerr"]),
            taskfile: r.get(&["taskfullpath", "taskfile"]),
            dcppath: r.get(&["dcppath"]),
            total,
            downloaded: r.get(&["downloaded", "Downloaded"]).parse().unwrap_or(0),
            percent: r.percent(&["totalpercent", "totoalpercent", "TotalPercent"]),
            rate: r.get(&["rate", "Rate"]),
            eta_minutes: r.get(&["ecompletedtime"]).parse().unwrap_or(-1),
            methods: Method::ALL.map(share),
            local_same: amount::part(r.percent(&["localsamepercent"]), total),
        }
    }
}

fn capital(m: Method) -> &'static str {
    match m {
        Method::Bt => "BtPercent",
        Method::Obs => "ObsPercent",
        Method::Cdn => "CdnPercent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::parse(text.to_owned()).expect("parses")
    }

    #[test]
    fn replies_of_all_three_forms_are_read() {
        let a = reply(r#"{"request_message_id":"1","return_status":"true","return_content":{"desc":"succeeded!"}}"#);
        assert!(a.ok && a.desc() == "succeeded!");
        let b = reply(r#"{"message_id":"1","message_status":"false","return_content":{"status":"unknown","desc":""}}"#);
        assert!(!b.ok && b.status() == "unknown");
        let c = reply(
            r#"{"message_id":"1","return_status":"true","method_params":{"status":"unfinished","desc":"process making seed "}}"#,
        );
        assert!(c.ok && c.desc() == "process making seed");
        let d = reply(r#"{"method_name":"cprogress","return_status":"true","return_content":{"Status":"seeding"}}"#);
        assert_eq!(d.status(), "seeding");
    }

    #[test]
    fn what_is_no_reply_is_said_to_be_none() {
        for bad in ["", "hello", "[]", "{}", r#"{"return_content":"x"}"#, r#"{"return_status":"true","return_content":[1]}"#] {
            assert!(Reply::parse(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_download_is_read_in_either_spelling() {
        let d = Download::from(&reply(
            r#"{"return_status":"true","return_content":{"Status":"downloading","taskfile":"/d/a.task.json","downloaded":"660",
            "Rate":"10 KB/s","totoalpercent":"66.000%","BtPercent":"22.000%","btrate":"3072 B/s","obspercent":"23.000%","cdnpercent":"21.000%",
            "bt2downpercent":"40.000%","obs2downpercent":"30.000%","cdn2downpercent":"30.000%","localsamepercent":"0.000%",
            "ecompletedtime":370,"totalbytes":"1000"}}"#,
        ));
        assert_eq!((d.status.as_str(), d.total, d.downloaded, d.percent), ("downloading", 1000, 660, 66.0));
        assert_eq!(d.methods[0], Share { done: 220, to_fetch: 400, rate: Some(3072) });
        assert_eq!(d.methods[1], Share { done: 230, to_fetch: 300, rate: None });
        assert_eq!(d.eta_minutes, 370);
    }

    #[test]
    fn urls_are_checked() {
        assert!(Client::new("http://127.0.0.1:8191", None).is_ok());
        for bad in ["", "127.0.0.1:8191", "ftp://x/", "file:///etc/passwd"] {
            assert_eq!(Client::new(bad, None).err().map(|f| f.exit), Some(Exit::Usage), "{bad}");
        }
    }
}
