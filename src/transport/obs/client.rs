//! A bucket over the network: opendal for looking, reading and deleting, requests of our own for uploading.
//!
//! opendal's writer cannot continue an upload after a restart, loses user metadata of multipart uploads, counts bytes
//! before they are sent and takes a lost reply for a failure. So the five requests of a multipart upload are sent here,
//! signed by the same signers that opendal uses. Both sides share one HTTP client: one pool, one set of time limits.

use super::answer::{Refusal, Wire, lost, opendal_fault, refusal};
use super::location::{ObsLocation, Store, is_huawei};
use super::{Entity, ObsOptions, Opened};
use crate::error::Fault;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use opendal::{HttpTransporter, OperationContext, Operator};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_core::{Context, Signer};
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

/// What a path in a URL keeps as it is: RFC 3986's unreserved characters and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Metadata of a whole file's object: its SHA-1 in hex.
pub(super) const SHA1: &str = "sha1";
/// Metadata of a part's object: the SHA-1 of the file that it is a part of.
pub(super) const FILE_SHA1: &str = "file-sha1";

enum Signing {
    Obs(Signer<reqsign_huaweicloud_obs::Credential>),
    S3(Signer<reqsign_aws_v4::Credential>),
}

/// What a request of ours ended in: an answer that is no success is a value, because some of them are no failures.
pub(super) enum Answer {
    Ok(reqwest::Response),
    Refused(Refusal),
}

impl Answer {
    pub fn or_fault(self, doing: &str) -> Result<reqwest::Response, Fault> {
        match self {
            Self::Ok(r) => Ok(r),
            Self::Refused(r) => Err(r.fault(doing)),
        }
    }
}

/// A request of ours, before it is signed.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub key: &'a str,
    /// Encoded, without the question mark.
    pub query: String,
    pub headers: HeaderMap,
    pub body: reqwest::Body,
}

impl<'a> Ask<'a> {
    pub fn new(method: Method, key: &'a str, query: impl Into<String>) -> Self {
        Self { method, key, query: query.into(), headers: HeaderMap::new(), body: reqwest::Body::default() }
    }
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
    /// A body whose length is known beforehand (no chunked encoding: stores refuse it).
    pub fn body(mut self, len: u64, body: impl Into<reqwest::Body>) -> Self {
        self.headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        self.body = body.into();
        self
    }
}

/// A bucket reached over the network.
pub(super) struct Bucket {
    http: reqwest::Client,
    signing: Signing,
    /// Scheme, host and, in path style, the bucket: everything before the key's slash.
    base: String,
    meta_prefix: &'static str,
    keys_in: &'static str,
    name: String,
    op: Operator,
    /// For an answer to begin, and between two pieces of it.
    pub patience: Duration,
}

impl Bucket {
    /// `None` for a directory store.
    pub fn new(location: &ObsLocation, options: &ObsOptions) -> Result<Option<Self>, Fault> {
        let bucket = location.bucket.as_str();
        let (base, host, signing, meta_prefix) = match &location.store {
            Store::Directory { .. } => return Ok(None),
            Store::Obs { scheme, host, keys } => {
                let huawei = is_huawei(host);
                let domain = if huawei { format!("{bucket}.{host}") } else { host.clone() };
                let signer = reqsign_huaweicloud_obs::RequestSigner::new(if huawei { bucket } else { &domain });
                let keys = reqsign_huaweicloud_obs::StaticCredentialProvider::new(&keys.ak, &keys.sk);
                let signing = Signing::Obs(Signer::new(Context::new(), keys, signer));
                (format!("{scheme}://{domain}"), domain, signing, "x-obs-meta-")
            }
            Store::S3 { scheme, authority, region, virtual_host, keys } => {
                let signer = reqsign_aws_v4::RequestSigner::new("s3", region);
                let keys = reqsign_aws_v4::StaticCredentialProvider::new(&keys.ak, &keys.sk);
                let signing = Signing::S3(Signer::new(Context::new(), keys, signer));
                let domain = if *virtual_host { format!("{bucket}.{authority}") } else { authority.clone() };
                let base = if *virtual_host { format!("{scheme}://{domain}") } else { format!("{scheme}://{domain}/{bucket}") };
                (base, domain, signing, "x-amz-meta-")
            }
        };
        let http = http_client(&host, options)?;
        let op = operator(location, http.clone())?;
        let (keys_in, patience) = (location.keys_in, options.ranged.period);
        Ok(Some(Self { http, signing, base, meta_prefix, keys_in, name: bucket.to_owned(), op, patience }))
    }

    pub fn meta(&self, name: &str) -> HeaderName {
        HeaderName::try_from(format!("{}{name}", self.meta_prefix)).unwrap_or(CONTENT_TYPE)
    }

    /// Signs and sends. Transport failures are transient faults. Does not limit the time: see [`Bucket::ask`].
    pub async fn send(&self, ask: Ask<'_>, doing: &str) -> Result<Answer, Fault> {
        let query = if ask.query.is_empty() { String::new() } else { format!("?{}", ask.query) };
        let uri = format!("{}/{}{query}", self.base, utf8_percent_encode(ask.key, PATH));
        let unsignable = |e: &dyn std::fmt::Display| Fault::permanent(format!("{doing}: the request cannot be signed")).detail(e);
        let mut request = http::Request::builder().method(ask.method).uri(&uri).body(()).map_err(|e| unsignable(&e))?;
        *request.headers_mut() = ask.headers;
        let (mut parts, ()) = request.into_parts();
        match &self.signing {
            Signing::Obs(s) => s.sign(&mut parts, None).await,
            Signing::S3(s) => s.sign(&mut parts, None).await,
        }
        .map_err(|e| unsignable(&e))?;
        let sent = self.http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(ask.body).send().await;
        let response = sent.map_err(|e| lost(doing, e))?;
        if response.status().is_success() {
            return Ok(Answer::Ok(response));
        }
        Ok(Answer::Refused(Refusal::read(response, self.keys_in).await))
    }

    /// A short request: answered in time, or a transient fault.
    pub async fn ask(&self, ask: Ask<'_>, doing: &str) -> Result<Answer, Fault> {
        in_time(self.patience, doing, self.send(ask, doing)).await?
    }

    /// As [`Bucket::ask`], with the answer's text (of at most a few MiB: lists of 1,000 parts).
    pub async fn ask_text(&self, ask: Ask<'_>, doing: &str) -> Result<Result<String, Refusal>, Fault> {
        // The store may have to join ten thousand parts before it answers.
        in_time(self.patience * 4, doing, async {
            match self.send(ask, doing).await? {
                Answer::Ok(r) => Ok(Ok(text_of(r, doing).await?)),
                Answer::Refused(r) => Ok(Err(r)),
            }
        })
        .await?
    }

    pub async fn stat(&self, key: &str) -> Result<Option<Entity>, Fault> {
        let doing = format!("cannot look at obs://{}/{key}", self.name);
        match in_time(self.patience, &doing, async { self.op.stat(key).await }).await? {
            Ok(meta) => {
                let user = |name| meta.user_metadata().and_then(|m| m.get(name)).map(str::to_owned);
                let etag = meta.etag().unwrap_or_default().to_owned();
                Ok(Some(Entity { size: meta.content_length(), etag, sha1: user(SHA1), file_sha1: user(FILE_SHA1) }))
            }
            Err(e) if refusal(&e).is_some_and(Refusal::is_missing) => Ok(None),
            Err(e) => Err(opendal_fault(&doing, &e)),
        }
    }

    /// Sizes by key of everything below a prefix: one request per thousand objects.
    pub async fn sizes(&self, prefix: &str) -> Result<HashMap<String, u64>, Fault> {
        let doing = format!("cannot list obs://{}/{prefix}", self.name);
        let path = if prefix.is_empty() { "/".to_owned() } else { format!("{prefix}/") };
        let fault = |e: opendal::Error| opendal_fault(&doing, &e);
        let mut lister = self.op.lister_with(&path).recursive(true).await.map_err(fault)?;
        let mut sizes = HashMap::new();
        while let Some(entry) = in_time(self.patience, &doing, lister.try_next()).await?.map_err(fault)? {
            sizes.insert(entry.path().to_owned(), entry.metadata().content_length());
        }
        Ok(sizes)
    }

    /// Reads a range of exactly this version of the object.
    pub async fn open(&self, key: &str, entity: &Entity, range: Range<u64>) -> Result<Opened, Fault> {
        let doing = format!("cannot read obs://{}/{key}", self.name);
        let fault = |e: &opendal::Error| opendal_fault(&doing, e);
        let reader = self.op.reader_with(key).if_match(&entity.etag).await.map_err(|e| fault(&e))?;
        let mut stream = reader.into_stream(range).await.map_err(|e| fault(&e))?;
        // The request is sent here. A store that does not know If-Match is found out by the answer's own ETag.
        let meta = match stream.metadata().await {
            Ok(meta) => meta,
            Err(e) if e.kind() == opendal::ErrorKind::ConditionNotMatch => return Ok(Opened::Changed),
            Err(e) => return Err(fault(&e)),
        };
        if meta.etag() != Some(entity.etag.as_str()) || meta.content_length() != entity.size {
            return Ok(Opened::Changed);
        }
        let pieces = stream.map(move |piece| piece.map_err(|e| opendal_fault(&doing, &e)));
        Ok(Opened::Bytes(pieces.map_ok(|buffer| futures::stream::iter(Iterator::map(buffer, Ok))).try_flatten().boxed()))
    }

    /// Deleting what is not there is a success.
    pub async fn delete(&self, key: &str) -> Result<(), Fault> {
        let doing = format!("cannot delete obs://{}/{key}", self.name);
        match in_time(self.patience, &doing, async { self.op.delete(key).await }).await? {
            Err(e) if !refusal(&e).is_some_and(Refusal::is_missing) => Err(opendal_fault(&doing, &e)),
            _ => Ok(()),
        }
    }
}

/// For a query: `uploadId=<encoded>`.
pub(super) fn query_value(value: &str) -> String {
    utf8_percent_encode(value, QUERY).to_string()
}

/// An entity tag without its quotation marks.
pub(super) fn etag_of(headers: &HeaderMap) -> &str {
    headers.get(ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default().trim_matches('"')
}

async fn in_time<F: Future>(patience: Duration, doing: &str, work: F) -> Result<F::Output, Fault> {
    tokio::time::timeout(patience, work).await.map_err(|_| Fault::transient(format!("{doing}: the store did not answer in time")))
}

/// No proxy from the environment, no redirects (a signature is good for one host), no time limit per request: parts of a
/// large file on a slow line take as long as they take, and stalls are watched where the bytes move.
fn http_client(host: &str, options: &ObsOptions) -> Result<reqwest::Client, Fault> {
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(options.connect_timeout)
        // On a line that has fallen silent each idle connection would cost a time-out.
        .pool_idle_timeout(Duration::from_secs(10))
        .tcp_keepalive(Duration::from_secs(30))
        .http1_only()
        .user_agent(concat!("bft2/", env!("CARGO_PKG_VERSION")));
    if let Some(addr) = options.resolve {
        builder = builder.resolve(host, addr);
    }
    builder.build().map_err(|e| Fault::local("object storage: the HTTP client cannot be set up").detail(e))
}

/// opendal on the same bucket, without layers: time limits and retries belong to our callers, who know what for.
fn operator(location: &ObsLocation, http: reqwest::Client) -> Result<Operator, Fault> {
    let built = match &location.store {
        Store::Directory { .. } => return Err(Fault::permanent("object storage: a directory is not a bucket")),
        Store::Obs { scheme, host, keys } => Operator::new(
            opendal::services::Obs::default()
                .bucket(&location.bucket)
                .endpoint(&format!("{scheme}://{host}"))
                .access_key_id(&keys.ak)
                .secret_access_key(&keys.sk),
        ),
        Store::S3 { scheme, authority, region, virtual_host, keys } => {
            let mut s3 = opendal::services::S3::default()
                .bucket(&location.bucket)
                .endpoint(&format!("{scheme}://{authority}"))
                .region(region)
                .access_key_id(&keys.ak)
                .secret_access_key(&keys.sk)
                .disable_config_load()
                .disable_ec2_metadata();
            if *virtual_host {
                s3 = s3.enable_virtual_host_style();
            }
            if authority.ends_with(".myhuaweicloud.com") {
                s3 = s3.disable_list_objects_v2();
            }
            Operator::new(s3)
        }
    };
    let op = built.map_err(|e| opendal_fault("object storage", &e))?;
    let transport = HttpTransporter::new(Wire { http, keys_in: location.keys_in });
    Ok(op.with_context(OperationContext::new().with_http_transport(transport)))
}

/// Lists of a thousand parts are a few hundred kilobytes; whoever sends more is no store.
const ANSWER_LIMIT: usize = 8 << 20;

async fn text_of(mut answer: reqwest::Response, doing: &str) -> Result<String, Fault> {
    let mut out = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|e| lost(doing, e))? {
        out.extend_from_slice(&part);
        if out.len() > ANSWER_LIMIT {
            return Err(Fault::permanent(format!("{doing}: the answer is larger than {} MiB", ANSWER_LIMIT >> 20)));
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}
