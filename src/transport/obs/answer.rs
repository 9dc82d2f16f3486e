//! What a store's refusal means: one table for requests of our own and for those that opendal sends.
//!
//! opendal sorts answers by status alone: for it 429 is permanent, `Retry-After` does not exist, and a server that
//! ignores `Range` is trusted. [`Wire`] sits beneath it as its HTTP transport, checks ranges and keeps the whole
//! [`Refusal`] as the error's source, from which [`opendal_fault`] reads it back.

use crate::error::{Fault, FaultClass};
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use std::time::Duration;

/// How much of an error's body is read: an XML error has a few hundred bytes, a proxy's page may have any number.
const BODY: usize = 16 << 10;

/// An answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("{status} {code}")]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// `NoSuchKey` and alike; empty when the answer had none (HEAD, a proxy's page).
    pub code: String,
    pub retry_after: Option<Duration>,
    /// The store's own words and its request id, for the log.
    pub detail: String,
    /// Where the keys stand with which it was asked.
    keys_in: &'static str,
}

impl Refusal {
    pub async fn read(response: reqwest::Response, keys_in: &'static str) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(Ok(chunk)) = stream.next().await {
            body.extend_from_slice(chunk.get(..BODY.saturating_sub(body.len()).min(chunk.len())).unwrap_or_default());
            if body.len() >= BODY {
                break;
            }
        }
        Self::new(status, &headers, &String::from_utf8_lossy(&body), keys_in)
    }

    fn new(status: StatusCode, headers: &HeaderMap, body: &str, keys_in: &'static str) -> Self {
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let tag = |name: &str| element(body, name).unwrap_or_default();
        let mut code: String = tag("Code").chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        // The answer to a HEAD gives no reason; the store's clock does.
        if code.is_empty() && matches!(status.as_u16(), 401 | 403) && is_far(header("date")) {
            code = "RequestTimeTooSkewed".into();
        }
        let request = Some(header("x-obs-request-id")).filter(|r| !r.is_empty()).unwrap_or(header("x-amz-request-id"));
        let words: String = tag("Message").chars().filter(|c| !c.is_control()).take(300).collect();
        let retry_after = header(RETRY_AFTER.as_str());
        Self {
            status,
            retry_after: parse_retry_after(retry_after),
            detail: format!("{status} {code} {words} request {request}"),
            code,
            keys_in,
        }
    }

    pub fn is_missing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && !matches!(self.code.as_str(), "NoSuchBucket" | "NoSuchUpload")
    }

    pub fn is_lost_upload(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.code == "NoSuchUpload"
    }

    /// The store's parts are not the ones we sent: only a new upload helps.
    pub fn is_bad_upload(&self) -> bool {
        matches!(self.code.as_str(), "InvalidPart" | "InvalidPartOrder")
    }

    /// `doing`: "cannot upload reel1.mxf to obs://bucket/prefix" and alike.
    pub fn fault(&self, doing: &str) -> Fault {
        let (class, why) = self.verdict();
        Fault::new(class, format!("{doing}: {why}")).detail(&self.detail).retry_after(self.retry_after)
    }

    fn verdict(&self) -> (FaultClass, String) {
        use FaultClass::{Permanent, Transient};
        let (status, keys_in) = (self.status.as_u16(), self.keys_in);
        let permanent = |why: &str| (Permanent, why.to_owned());
        match (status, self.code.as_str()) {
            // After a power cut the clock is often set minutes later than the service is started.
            (_, "RequestTimeTooSkewed") => {
                (Transient, "the clocks of this machine and the store differ too much: set this machine's clock".into())
            }
            (_, "InvalidAccessKeyId") => (Permanent, format!("the store does not know the access key: check ak ({keys_in})")),
            (_, "SignatureDoesNotMatch") => (Permanent, format!("the store refuses the signature: check sk ({keys_in})")),
            (_, "NoSuchBucket") => permanent("the bucket does not exist: check the obs:// URL and the endpoint"),
            (401 | 403, _) => {
                (Permanent, format!("the store denies access: check ak, sk ({keys_in}) and the rights on the bucket"))
            }
            (404, "NoSuchUpload") => permanent("the store has dropped the unfinished upload"),
            (404, _) => permanent("the object is not there"),
            (301 | 302 | 307 | 308, _) => permanent("the store sends us elsewhere: the endpoint is not the bucket's region"),
            (412, _) => (FaultClass::Corrupt, "the object was replaced while it was being read".into()),
            (408 | 425 | 429, _)
            | (400, "RequestTimeout" | "BadDigest" | "IncompleteBody" | "XAmzContentChecksumMismatch")
            | (409, "OperationAborted") => (Transient, format!("the store asks to try again (status {status})")),
            (501 | 505, _) => permanent("the store does not support this request"),
            (500..=599, _) => (Transient, format!("the store has a failure of its own (status {status})")),
            (_, "") => (Permanent, format!("the store refuses (status {status})")),
            (_, code) => (Permanent, format!("the store refuses (status {status}, {code})")),
        }
    }
}

/// The text of the first such element; good enough for the two flat elements that errors have.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text)
}

/// A time so far from ours that no store takes what we sign.
fn is_far(date: &str) -> bool {
    let date = chrono::DateTime::parse_from_rfc2822(date);
    date.is_ok_and(|d| (d.to_utc() - chrono::Utc::now()).abs() > chrono::TimeDelta::minutes(15))
}

/// Seconds or an HTTP date (RFC 9110, section 10.2.3); nothing longer than an hour is believed.
fn parse_retry_after(text: &str) -> Option<Duration> {
    let seconds = match text.trim().parse::<u64>() {
        Ok(s) => s,
        Err(_) => {
            let date = chrono::DateTime::parse_from_rfc2822(text.trim()).ok()?;
            u64::try_from((date.with_timezone(&chrono::Utc) - chrono::Utc::now()).num_seconds()).ok()?
        }
    };
    Some(Duration::from_secs(seconds.min(3600)))
}

/// A request that brought no answer. All of these may pass: lines drop, names resolve again, servers come back.
pub(super) fn lost(doing: &str, e: reqwest::Error) -> Fault {
    let why = why_lost(&e);
    let e = e.without_url();
    let mut chain = e.to_string();
    let mut source = std::error::Error::source(&e);
    while let Some(s) = source {
        chain.push_str(": ");
        chain.push_str(&s.to_string());
        source = s.source();
    }
    Fault::transient(format!("{doing}: {why}")).detail(chain)
}

fn why_lost(e: &reqwest::Error) -> &'static str {
    if e.is_timeout() {
        "the store did not answer in time"
    } else if e.is_connect() {
        "the store cannot be reached"
    } else {
        "the connection broke"
    }
}

/// The refusal behind an error of opendal, if an answer caused it.
pub(super) fn refusal(e: &Error) -> Option<&Refusal> {
    std::error::Error::source(e)?.downcast_ref()
}

/// The fault for an error of opendal.
pub(super) fn opendal_fault(doing: &str, e: &Error) -> Fault {
    if let Some(r) = refusal(e) {
        return r.fault(doing);
    }
    match e.kind() {
        ErrorKind::ConfigInvalid | ErrorKind::Unsupported => Fault::permanent(format!("{doing}: the endpoint cannot be used")),
        _ => {
            let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<reqwest::Error>());
            Fault::transient(format!("{doing}: {}", source.map_or("the connection to the store failed", why_lost)))
        }
    }
    .detail(e)
}

/// Our one HTTP client as opendal's transport.
pub(super) struct Wire {
    pub http: reqwest::Client,
    pub keys_in: &'static str,
}

impl HttpTransport for Wire {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let broken =
            |e: reqwest::Error| Error::new(ErrorKind::Unexpected, "request failed").set_temporary().set_source(e.without_url());
        let asked = request.headers().get(RANGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (parts, body) = request.into_parts();
        let (uri, head) = (parts.uri.to_string(), parts.method == Method::HEAD);
        let answer =
            self.http.request(parts.method, &uri).headers(parts.headers).body(body.to_bytes()).send().await.map_err(broken)?;
        if !answer.status().is_success() {
            let refusal = Refusal::read(answer, self.keys_in).await;
            let kind = match refusal.status {
                StatusCode::NOT_FOUND => ErrorKind::NotFound,
                StatusCode::PRECONDITION_FAILED => ErrorKind::ConditionNotMatch,
                _ => ErrorKind::Unexpected,
            };
            return Err(Error::new(kind, "refused").set_source(refusal));
        }
        if let Some(asked) = asked
            && !range_honoured(&asked, answer.status(), answer.headers())
        {
            return Err(Error::new(ErrorKind::Unexpected, "the answer is not the range that was asked for").set_temporary());
        }
        let length = answer.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let mut response = Response::builder().status(answer.status()).version(answer.version());
        if let Some(headers) = response.headers_mut() {
            *headers = answer.headers().clone();
        }
        let stream = answer.bytes_stream().map_ok(Buffer::from).map_err(broken);
        response
            .body(HttpBody::new(stream, length.filter(|_| !head)))
            .map_err(|e| Error::new(ErrorKind::Unexpected, "bad answer").set_source(e))
    }
}

/// Whether a 206 says that it is what `Range: bytes=a-b` asked for.
fn range_honoured(asked: &str, status: StatusCode, headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("bytes "));
    let given = given.and_then(|v| v.split_once('/')).map(|(range, _)| range);
    status == StatusCode::PARTIAL_CONTENT && given.is_some() && given == asked.strip_prefix("bytes=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, body: &str) -> Fault {
        Refusal::new(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body, "in the task file").fault("cannot do it")
    }

    #[test]
    fn answers_fall_into_classes() {
        for (status, body, class) in [
            (502, "<html><body>Bad gateway", FaultClass::Transient),
            (429, "", FaultClass::Transient),
            (503, "<Error><Code>SlowDown</Code></Error>", FaultClass::Transient),
            (400, "<Error><Code>BadDigest</Code></Error>", FaultClass::Transient),
            (400, "<Error><Code>EntityTooLarge</Code></Error>", FaultClass::Permanent),
            (403, "", FaultClass::Permanent),
            (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", FaultClass::Transient),
            (404, "<Error><Code>NoSuchBucket</Code></Error>", FaultClass::Permanent),
            (412, "", FaultClass::Corrupt),
            (501, "", FaultClass::Permanent),
        ] {
            assert_eq!(verdict(status, body).class, class, "{status} {body}");
        }
        assert!(
            verdict(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>").message.contains("check sk (in the task file)")
        );
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_key() {
        for (minutes, class, text) in [
            (-20, FaultClass::Transient, "set this machine's clock"),
            (5, FaultClass::Permanent, "check ak, sk (in the task file)"),
        ] {
            let date = (chrono::Utc::now() + chrono::Duration::minutes(minutes)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            let headers = HeaderMap::from_iter([(http::header::DATE, date.parse().unwrap())]);
            let fault = Refusal::new(StatusCode::FORBIDDEN, &headers, "", "in the task file").fault("cannot do it");
            assert_eq!(fault.class, class, "{fault}");
            assert!(fault.message.contains(text), "{fault}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("999999999"), Some(Duration::from_secs(3600)));
        let soon = (chrono::Utc::now() + chrono::Duration::seconds(90)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(parse_retry_after(&soon).is_some_and(|d| (80..=90).contains(&d.as_secs())), "{soon}");
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn a_range_must_be_the_one_asked_for() {
        let headers = |range: &str| HeaderMap::from_iter([(CONTENT_RANGE, range.parse().unwrap())]);
        let partial = StatusCode::PARTIAL_CONTENT;
        assert!(range_honoured("bytes=5-9", partial, &headers("bytes 5-9/100")));
        assert!(!range_honoured("bytes=5-9", partial, &headers("bytes 0-4/100")));
        assert!(!range_honoured("bytes=5-9", StatusCode::OK, &headers("bytes 5-9/100")));
        assert!(!range_honoured("bytes=5-9", partial, &HeaderMap::new()));
    }
}
