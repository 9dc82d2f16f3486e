//! Requests to the CDN, and the memory of what its files were when their first byte came.

use super::answer::{self, Entity};
use crate::error::Fault;
use crate::model::span::Span;
use crate::transport::ranged::RangeSource;
use crate::transport::{Checkpoints, FetchJob, FileMeta, Sink};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Response, header, redirect};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use url::{Host, Url};

/// RFC 3986 unreserved characters stay; everything else is encoded, `+` too, which some stores read as a space.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const REDIRECTS: usize = 5;

/// An idle connection is not used again after so long: on a line that has fallen silent each would cost a time-out.
const IDLE: Duration = Duration::from_secs(10);

/// A package's URL and a client for it.
pub struct Origin {
    client: Client,
    base: Url,
}

impl Origin {
    pub fn new(base: Url, connect_timeout: Duration, read_timeout: Duration) -> Result<Self, Fault> {
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(Fault::permanent(format!(
                "the CDN's address must begin with http:// or https://, not {}:",
                base.scheme()
            )));
        }
        let follow = redirect::Policy::custom(|attempt| {
            if attempt.previous().len() > REDIRECTS {
                attempt.error("too many redirects")
            } else if matches!(attempt.url().scheme(), "http" | "https") {
                attempt.follow()
            } else {
                attempt.error("a redirect to something that is not http")
            }
        });
        let mut client = Client::builder()
            .user_agent(concat!("bftv2/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .read_timeout(read_timeout)
            .pool_idle_timeout(IDLE)
            .redirect(follow)
            .referer(false)
            // HTTP/2 would put all segments into one TCP connection: one lost packet would stop all of them.
            .http1_only();
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| Fault::permanent("cannot set up HTTPS").detail(e))?;
        Ok(Self { client, base })
    }

    fn url(&self, file: &FileMeta) -> Url {
        let mut path = self.base.path().trim_end_matches('/').to_owned();
        for part in file.path.parts() {
            path.push('/');
            path.extend(utf8_percent_encode(part, SEGMENT));
        }
        let mut url = self.base.clone();
        url.set_path(&path);
        url
    }

    async fn get(&self, file: &FileMeta, range: Option<&Range<u64>>) -> Result<(Response, String), Fault> {
        let url = self.url(file);
        let shown = shown(&url);
        let mut request = self.client.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(r) = range {
            request = request.header(header::RANGE, format!("bytes={}-{}", r.start, r.end.saturating_sub(1)));
        }
        let answer = request.send().await.map_err(|e| network(&shown, e).file(&file.path))?;
        Ok((answer, shown))
    }

    /// Looks whether a file is served with its size and, with `by_range`, in parts.
    pub async fn check(&self, file: &FileMeta, by_range: bool) -> Result<(), Fault> {
        let (asked, whole) = (0..file.size.min(1), 0..file.size);
        let (answer, shown) = self.get(file, (file.size > 0).then_some(&asked)).await?;
        let expected = if answer.status() == reqwest::StatusCode::OK && !by_range { &whole } else { &asked };
        let found = answer::check(answer.status(), answer.headers(), expected, file.size, &shown);
        // A page of an error or a login may come without a length: only a size that is said counts.
        match found.map_err(|f| f.file(&file.path))?.total {
            None if file.size > 0 => Err(Fault::permanent(format!(
                "{shown}: the server does not say how large the file is (neither Content-Length nor a total in Content-Range): \
                 it may be anything; let the CDN send files with their length"
            ))
            .file(&file.path)),
            _ => Ok(()),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// For messages: without user, password and query, which may be secrets.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// A request that got no answer, or an answer that broke off.
fn network(url: &str, e: reqwest::Error) -> Fault {
    let e = e.without_url();
    let what = if e.is_redirect() {
        return Fault::permanent(format!("{url}: the CDN redirects without end or to something that is not http"))
            .detail(chain(&e));
    } else if e.is_builder() {
        return Fault::permanent(format!("{url}: not an address that can be asked")).detail(chain(&e));
    } else if e.is_connect() {
        "no connection to the server"
    } else if e.is_timeout() {
        "the server fell silent"
    } else {
        "the connection broke off"
    };
    Fault::transient(format!("{url}: {what}")).detail(chain(&e))
}

/// An error with all its causes: the outermost text alone says nothing.
fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        out.push_str(": ");
        out.push_str(&c.to_string());
        cause = c.source();
    }
    out
}

/// What is known of a file's identity.
enum Known {
    /// Not looked up yet.
    Unread,
    /// Seen by an earlier run.
    Before(Entity),
    /// Seen by this run.
    Now(Entity),
    Nothing,
}

/// One job's files on the CDN.
pub struct Source {
    origin: Arc<Origin>,
    files: Arc<[FileMeta]>,
    sink: Arc<dyn Sink>,
    checkpoints: Arc<dyn Checkpoints>,
    known: Vec<Mutex<Known>>,
}

impl Source {
    pub fn new(origin: Arc<Origin>, job: &FetchJob) -> Self {
        Self {
            origin,
            files: Arc::clone(&job.files),
            sink: Arc::clone(&job.sink),
            checkpoints: Arc::clone(&job.ctx.checkpoints),
            known: job.files.iter().map(|_| Mutex::new(Known::Unread)).collect(),
        }
    }

    /// Bytes of two versions must not meet in one file: the first answer is remembered before its first byte is used,
    /// later ones must agree with it. A file of which nothing is held may begin anew with another version.
    async fn same_entity(&self, index: u32, file: &FileMeta, seen: Entity, url: &str) -> Result<(), Fault> {
        let Some(known) = self.known.get(index as usize) else { return Ok(()) };
        let mut known = known.lock().await;
        let key = format!("entity:{}", file.path);
        if matches!(*known, Known::Unread) {
            let saved = self.checkpoints.load(&key).await?;
            let entity = saved.and_then(|text| serde_json::from_str(&text).ok());
            *known = entity.map_or(Known::Nothing, Known::Before);
        }
        let agrees = match &*known {
            Known::Now(entity) => entity.agrees(&seen),
            Known::Before(entity) => entity.agrees(&seen) || !self.holds_any(index, file),
            Known::Nothing | Known::Unread => true,
        };
        if !agrees {
            let what = format!("{url} changed on the origin while it was fetched: publish the package anew");
            return Err(Fault::corrupt(what));
        }
        if !matches!(*known, Known::Now(_)) {
            let text = serde_json::to_string(&seen).map_err(|e| Fault::permanent("cannot keep an ETag").detail(e))?;
            self.checkpoints.save(&key, &text).await?;
            *known = Known::Now(seen);
        }
        Ok(())
    }

    fn holds_any(&self, index: u32, file: &FileMeta) -> bool {
        let missing = self.sink.missing(&Span { file: index, offset: 0, len: file.size });
        missing.iter().map(|m| m.end - m.start).sum::<u64>() < file.size
    }
}

#[async_trait::async_trait]
impl RangeSource for Source {
    async fn open(&self, index: u32, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        let Some(file) = self.files.get(index as usize) else {
            return Err(Fault::permanent(format!("no file {index} in the package")));
        };
        let (answer, shown) = self.origin.get(file, Some(&range)).await?;
        let entity =
            answer::check(answer.status(), answer.headers(), &range, file.size, &shown).map_err(|f| f.file(&file.path))?;
        self.same_entity(index, file, entity, &shown).await.map_err(|f| f.file(&file.path))?;
        let path = file.path.clone();
        let body = answer.bytes_stream();
        Ok(body.map(move |chunk| chunk.map_err(|e| network(&shown, e).file(&path))).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RelPath, Sha1};

    fn origin(base: &str) -> Result<Origin, Fault> {
        let wait = Duration::from_secs(1);
        Origin::new(Url::parse(base).unwrap(), wait, wait)
    }

    #[test]
    fn paths_are_encoded_and_secrets_are_not_shown() {
        let file = FileMeta { path: RelPath::parse("a b/100%#?+ü.mxf").unwrap(), size: 1, sha1: Sha1([0; 20]) };
        let url = origin("http://user:pass@cdn.example.com/dcp/cfec-001/dcps/x%20y/?sig=EXAMPLE").unwrap().url(&file);
        let path = "/dcp/cfec-001/dcps/x%20y/a%20b/100%25%23%3F%2B%C3%BC.mxf";
        assert_eq!(url.as_str(), format!("http://user:pass@cdn.example.com{path}?sig=EXAMPLE"));
        assert_eq!(shown(&url), format!("http://cdn.example.com{path}"));
    }

    #[test]
    fn only_http() {
        for bad in ["file:///etc", "ftp://example.com/x", "data:text/plain,x"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
