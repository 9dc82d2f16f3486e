//! From a request to its answer: address, signature, fault, deed.

use super::faults::{ObsFault, Op};
use super::state::{Blob, Object, kept_headers};
use super::{Shared, sign, xml};
use base64::Engine as _;
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use percent_encoding::percent_decode_str;
use poem::http::{HeaderMap, Method, StatusCode};
use poem::{Body, Endpoint, Request, Response};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What a request is about.
pub struct Target {
    pub bucket: String,
    pub key: String,
    /// As it stood in the URL: this is what is signed.
    pub raw_key: String,
    pub raw_query: String,
}

impl Target {
    fn of(request: &Request) -> Self {
        let host = request.header("host").unwrap_or_default().split(':').next().unwrap_or_default();
        // Path style is refused for buckets of today: a host without a bucket has an empty one, which no key signs for.
        let bucket = host.split_once(".obs.").map(|(bucket, _)| bucket).unwrap_or_default();
        let raw_key = request.original_uri().path().trim_start_matches('/');
        Self {
            bucket: bucket.to_owned(),
            key: percent_decode_str(raw_key).decode_utf8_lossy().into_owned(),
            raw_key: raw_key.to_owned(),
            raw_query: request.original_uri().query().unwrap_or_default().to_owned(),
        }
    }

    pub fn query(&self, name: &str) -> Option<String> {
        let pairs = self.raw_query.split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
        pairs.into_iter().find(|(k, _)| *k == name).map(|(_, v)| {
            let plain = v.replace('+', " ");
            percent_decode_str(&plain).decode_utf8_lossy().into_owned()
        })
    }

    fn has(&self, name: &str) -> bool {
        self.query(name).is_some()
    }

    fn op(&self, method: &Method) -> Op {
        let upload = self.has("uploadId");
        match (method.as_str(), self.key.is_empty()) {
            ("GET", true) if self.has("uploads") => Op::ListUploads,
            ("GET", true) if !self.has("location") => Op::List,
            (_, true) => Op::Other,
            ("POST", _) if self.has("uploads") => Op::Initiate,
            ("POST", _) if upload => Op::Complete,
            ("PUT", _) if upload => Op::PutPart,
            ("GET", _) if upload => Op::ListParts,
            ("DELETE", _) if upload => Op::Abort,
            ("PUT", _) => Op::Put,
            ("GET", _) => Op::Get,
            ("HEAD", _) => Op::Head,
            ("DELETE", _) => Op::Delete,
            _ => Op::Other,
        }
    }
}

pub fn endpoint(shared: Arc<Shared>) -> impl Endpoint<Output = Response> + 'static {
    poem::endpoint::make(move |request: Request| {
        let shared = Arc::clone(&shared);
        async move {
            let mut response = answer(&shared, request).await;
            let date = shared.clocks()[0].format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            response.headers_mut().insert("date", date.parse().unwrap());
            Ok::<_, poem::Error>(response)
        }
    })
}

async fn answer(shared: &Shared, mut request: Request) -> Response {
    let target = Target::of(&request);
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let op = target.op(&method);
    let line = format!("{method} /{}/{}?{}", target.bucket, target.key, target.raw_query);
    shared.requests.lock().unwrap().push((op, line));
    let fault = shared.faults.take(op);
    if fault == Some(ObsFault::Drop) {
        break_connection();
    }
    let mut part = (op == Op::PutPart).then(|| PartWatch::begin(shared, &target));
    let body = request.take_body().into_bytes_stream().inspect_ok(|piece| {
        shared.received.fetch_add(piece.len() as u64, SeqCst);
    });
    let Ok(body) = shared.state.receive(Box::pin(body)).await else { return error(400, "IncompleteBody") };
    if method == Method::HEAD && target.key.is_empty() && target.has("apiversion") {
        // How the SDK asks which signature to use: the one request without any.
        return reply(200).header("x-obs-api", "3.0").finish();
    }
    if let Err(code) = sign::verify(&method, &target, &headers, shared.clocks()) {
        return error(403, code);
    }
    match fault {
        Some(ObsFault::BadGateway) => return reply(502).content_type("text/html").body("<html><body>Bad gateway"),
        Some(ObsFault::TooMany) => {
            return reply(429).header("retry-after", "1").content_type("application/xml").body(xml::error("SlowDown"));
        }
        Some(ObsFault::Denied) => return error(403, "AccessDenied"),
        Some(ObsFault::Slow(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let response = Deed { shared, target, headers, body, fault }.carry_out(&method, op);
    if let Some(part) = part.as_mut().filter(|_| response.status().is_success()) {
        part.kept = true;
    }
    if fault == Some(ObsFault::LostReply) {
        break_connection();
    }
    response
}

/// Sees how a request to store a part ends, also when its connection does.
struct PartWatch<'a> {
    shared: &'a Shared,
    part: (String, u64),
    kept: bool,
}

impl<'a> PartWatch<'a> {
    fn begin(shared: &'a Shared, target: &Target) -> Self {
        let number = target.query("partNumber").and_then(|n| n.parse().ok()).unwrap_or(0);
        let part = (target.key.clone(), number);
        shared.parts.lock().unwrap().begun.push(part.clone());
        Self { shared, part, kept: false }
    }
}

impl Drop for PartWatch<'_> {
    fn drop(&mut self) {
        let mut parts = self.shared.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let list = if self.kept { &mut parts.kept } else { &mut parts.lost };
        list.push(self.part.clone());
    }
}

/// Ends the connection's task without an answer (and without the noise of a panic).
fn break_connection() -> ! {
    std::panic::resume_unwind(Box::new("the connection breaks, as the test asked"))
}

fn reply(status: u16) -> poem::ResponseBuilder {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("x-obs-request-id", "0000018A00000000")
        .header("server", "OBS")
}

fn xml_reply(text: String) -> Response {
    reply(200).content_type("application/xml").body(text)
}

fn error(status: u16, code: &str) -> Response {
    reply(status).content_type("application/xml").body(xml::error(code))
}

struct Deed<'a> {
    shared: &'a Shared,
    target: Target,
    headers: HeaderMap,
    body: Blob,
    fault: Option<ObsFault>,
}

impl Deed<'_> {
    fn carry_out(self, method: &Method, op: Op) -> Response {
        let md5 = base64::engine::general_purpose::STANDARD.encode(self.body.md5);
        if self.header("content-md5").is_some_and(|claimed| claimed != md5) {
            return error(400, "BadDigest");
        }
        match op {
            Op::Put => self.put(),
            Op::Get | Op::Head => self.get(op == Op::Head),
            Op::Delete => {
                self.tables().objects.remove(&self.place());
                reply(204).finish()
            }
            Op::List => self.list(),
            Op::ListUploads => self.uploads(),
            Op::Initiate => self.initiate(),
            Op::PutPart | Op::ListParts | Op::Complete | Op::Abort => self.upload(op),
            Op::Other => self.other(method),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    fn place(&self) -> (String, String) {
        (self.target.bucket.clone(), self.target.key.clone())
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, super::state::Tables> {
        self.shared.state.tables.lock().unwrap()
    }

    fn put(self) -> Response {
        let (bucket, key) = self.place();
        if let Some(from) = self.header("x-obs-copy-source") {
            let from = percent_decode_str(from.trim_start_matches('/')).decode_utf8_lossy().into_owned();
            let (b, k) = from.split_once('/').unwrap_or_default();
            let Some(object) = self.tables().objects.get(&(b.to_owned(), k.to_owned())).cloned() else {
                return error(404, "NoSuchKey");
            };
            let etag = object.etag.clone();
            self.tables().objects.insert((bucket, key), Object { modified: chrono::Utc::now(), ..object });
            return xml_reply(xml::copied(&etag));
        }
        let etag = hex::encode(self.body.md5);
        self.shared.state.insert(&bucket, &key, self.body.clone(), etag.clone(), kept_headers(&self.headers));
        reply(200).header("etag", format!("\"{etag}\"")).finish()
    }

    fn get(self, head: bool) -> Response {
        let Some(object) = self.tables().objects.get(&self.place()).cloned() else { return error(404, "NoSuchKey") };
        if self.header("if-match").is_some_and(|m| m.trim_matches('"') != object.etag) {
            return error(412, "PreconditionFailed");
        }
        let size = object.blob.size;
        let mut answer = reply(200).header("etag", format!("\"{}\"", object.etag)).header("accept-ranges", "bytes");
        answer = answer.header("last-modified", object.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        for (name, value) in &object.headers {
            answer = answer.header(name, value);
        }
        if !object.headers.contains_key("content-type") {
            answer = answer.content_type("binary/octet-stream");
        }
        let mut range = 0..size;
        if let Some(asked) = self.header("range").filter(|_| self.fault != Some(ObsFault::IgnoreRange)) {
            match parse_range(asked, size) {
                Some(r) => range = r,
                None => return error(416, "InvalidRange"),
            }
            answer = answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header("content-range", format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        answer = answer.header("content-length", range.end - range.start);
        if head { answer.finish() } else { answer.body(self.stream(object.blob, range)) }
    }

    /// The range's bytes, with the fault that was asked for.
    fn stream(self, blob: Blob, range: Range<u64>) -> Body {
        let fault = self.fault;
        let first = range.start;
        let file = std::fs::File::open(&blob.path);
        let blocks = futures::stream::unfold((file, range), move |(file, range)| async move {
            if range.is_empty() {
                return None;
            }
            let mut end = range.end.min(range.start + (64 << 10));
            if let Some(ObsFault::Cut(after)) = fault {
                if range.start - first >= after {
                    return Some((Err(io::Error::other("cut")), (file, 0..0)));
                }
                end = end.min(first + after);
            }
            let mut block = vec![0; (end - range.start) as usize];
            let read = match &file {
                Ok(f) => std::os::unix::fs::FileExt::read_exact_at(f, &mut block, range.start),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            };
            if fault == Some(ObsFault::FlipByte) && range.start == first {
                block[0] ^= 1;
            }
            Some((read.map(|()| block), (file, end..range.end)))
        });
        Body::from_bytes_stream(blocks)
    }

    fn list(&self) -> Response {
        let query = |name| self.target.query(name).unwrap_or_default();
        let (prefix, delimiter, marker) = (query("prefix"), query("delimiter"), query("marker"));
        let max = self.target.query("max-keys").and_then(|m| m.parse().ok()).unwrap_or(1000);
        let ask = xml::Listing { bucket: &self.target.bucket, prefix: &prefix, delimiter: &delimiter, marker: &marker, max };
        xml_reply(xml::list(&ask, &self.tables().objects))
    }

    fn uploads(&self) -> Response {
        let prefix = self.target.query("prefix").unwrap_or_default();
        xml_reply(xml::uploads(&self.target.bucket, &prefix, &self.tables().uploads))
    }

    fn initiate(&self) -> Response {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (bucket, key) = self.place();
        let text = xml::initiated(&bucket, &key, &id);
        let (headers, initiated) = (kept_headers(&self.headers), self.shared.clocks()[0]);
        let upload = super::state::Upload { bucket, key, headers, parts: BTreeMap::new(), initiated };
        self.tables().uploads.insert(id, upload);
        xml_reply(text)
    }

    fn upload(self, op: Op) -> Response {
        let id = self.target.query("uploadId").unwrap_or_default();
        let number = |name: &str| self.target.query(name).and_then(|n| n.parse::<u64>().ok());
        let place = self.place();
        let mut tables = self.tables();
        let Some(upload) = tables.uploads.get_mut(&id).filter(|u| (u.bucket.clone(), u.key.clone()) == place) else {
            return error(404, "NoSuchUpload");
        };
        match op {
            Op::PutPart => {
                let Some(n) = number("partNumber").filter(|n| (1..=10_000).contains(n)) else {
                    return error(400, "InvalidArgument");
                };
                upload.parts.insert(n, self.body.clone());
                reply(200).header("etag", format!("\"{}\"", hex::encode(self.body.md5))).finish()
            }
            // Few parts to a page, so that clients have to turn it.
            Op::ListParts => xml_reply(xml::parts(upload, &id, number("part-number-marker").unwrap_or(0), 4)),
            Op::Abort => {
                tables.uploads.remove(&id);
                reply(204).finish()
            }
            _ => {
                let upload = upload.clone();
                drop(tables);
                self.complete(&id, &upload)
            }
        }
    }

    fn complete(&self, id: &str, upload: &super::state::Upload) -> Response {
        let bytes = self.shared.state.read(&self.body, 0..self.body.size).unwrap_or_default();
        let Some(asked) = xml::read_completion(&String::from_utf8_lossy(&bytes)).filter(|a| !a.is_empty()) else {
            return error(400, "MalformedXML");
        };
        if !asked.is_sorted_by(|a, b| a.0 < b.0) {
            return error(400, "InvalidPartOrder");
        }
        let mut blobs = Vec::new();
        for (n, etag) in &asked {
            match upload.parts.get(n).filter(|b| hex::encode(b.md5) == *etag) {
                Some(blob) => blobs.push(blob.clone()),
                None => return error(400, "InvalidPart"),
            }
        }
        let Ok(blob) = self.shared.state.join(&blobs) else { return error(500, "InternalError") };
        let mut md5 = Md5::new();
        blobs.iter().for_each(|b| md5.update(b.md5));
        let etag = format!("{}-{}", hex::encode(md5.finalize()), blobs.len());
        let (bucket, key) = self.place();
        self.shared.state.insert(&bucket, &key, blob, etag.clone(), upload.headers.clone());
        self.tables().uploads.remove(id);
        xml_reply(xml::completed(&bucket, &key, &etag))
    }

    fn other(&self, method: &Method) -> Response {
        match method.as_str() {
            "HEAD" => reply(200).header("x-obs-api", "3.0").header("x-obs-bucket-location", "test").finish(),
            "PUT" => reply(200).finish(),
            "GET" if self.target.has("location") => xml_reply("<Location>test</Location>".into()),
            _ => error(405, "MethodNotAllowed"),
        }
    }
}

/// `bytes=a-b`, `a-` or `-n`; `None` when nothing of it is in the object.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (a, b) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a..b.saturating_add(1).min(size),
        (Ok(a), Err(_)) => a..size,
        (Err(_), Ok(n)) => size.saturating_sub(n)..size,
        _ => return None,
    };
    (range.start < range.end).then_some(range)
}
