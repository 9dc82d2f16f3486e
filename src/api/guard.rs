//! Before an endpoint sees a request: who may ask, and how large a body may be. After it: refusals get the envelope.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, Endpoint, Request, Response};
use subtle::ConstantTimeEq;

use super::refusal::refusal;
use super::v1;

/// A body over the limit is read and thrown away up to this size, so that the client has sent all and reads our
/// answer. Closing at once would often reset the connection before the answer arrives.
const DISCARD_LIMIT: usize = 32 << 20;

/// The endpoint of the protocol that needs no token: watchdogs and load balancers ask it.
const OPEN_PATH: &str = "/heartbeat";
/// Where the document is shown.
const PAGE: &str = "/docs";

/// What is checked of every request.
pub(super) struct Guard {
    pub(super) token: Option<String>,
    pub(super) body_limit: usize,
    pub(super) timeout: Duration,
}

impl Guard {
    /// Checks `request`, passes it on with its body in memory, and dresses what the router refuses.
    pub(super) async fn pass(&self, next: &impl Endpoint, mut request: Request) -> Response {
        let path = request.uri().path().to_owned();
        if !needs_no_token(&path) && !self.knows(&request) {
            let mut response = refusal(StatusCode::UNAUTHORIZED, &path, "a valid bearer token is needed");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        // What needs no token tells nothing: a proxy may ask for it under any name.
        if is_foreign_page(&request, self.token.is_some() || needs_no_token(&path)) {
            return refusal(StatusCode::FORBIDDEN, &path, "requests of other sites' pages are not served");
        }
        let body = match tokio::time::timeout(self.timeout, self.body(&mut request)).await {
            Ok(Ok(body)) => body,
            Ok(Err(status)) => {
                let desc = match status {
                    StatusCode::PAYLOAD_TOO_LARGE => {
                        format!("request body too large, at most {} bytes are read", self.body_limit)
                    }
                    _ => "request body could not be read".to_owned(),
                };
                return refusal(status, &path, &desc);
            }
            Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, &path, "the request body did not arrive in time"),
        };
        request.set_body(body);
        dress(next.get_response(request).await, &path).await
    }

    /// Whether the request carries the token, if one is set. The comparison takes the same time for every wrong token
    /// of the right length.
    fn knows(&self, request: &Request) -> bool {
        let Some(token) = &self.token else { return true };
        let given = request.header(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && bool::from(given.trim().as_bytes().ct_eq(token.as_bytes()))
        })
    }

    /// The body, or the status that refuses it.
    async fn body(&self, request: &mut Request) -> Result<Body, StatusCode> {
        let announced = request.header(header::CONTENT_LENGTH).and_then(|v| v.parse::<usize>().ok());
        if announced.is_some_and(|n| n > self.body_limit) && request.header(header::EXPECT).is_some() {
            return Err(StatusCode::PAYLOAD_TOO_LARGE); // The client waits for a word before it sends: this is it.
        }
        let mut stream = request.take_body().into_bytes_stream();
        let (mut kept, mut seen) = (BytesMut::new(), 0usize);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| StatusCode::BAD_REQUEST)?;
            seen = seen.saturating_add(chunk.len());
            if seen <= self.body_limit {
                kept.extend_from_slice(&chunk);
            } else {
                kept = BytesMut::new();
                if seen > DISCARD_LIMIT {
                    break;
                }
            }
        }
        if seen > self.body_limit { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(Body::from_bytes(kept.freeze())) }
    }
}

/// Whether a browser sent this for a page of another site. Any body is read whatever its content type, so without
/// this check every web page could post to a node on the reader's own machine. Clients that are no browsers send no
/// `Origin`, and nor do browsers when a page reads from its own site. But a foreign name may be made to resolve to this
/// machine: without a token only names count that nobody else has.
fn is_foreign_page(request: &Request, any_name: bool) -> bool {
    let own = request.header(header::HOST).or(request.uri().authority().map(|a| a.as_str()));
    let same = |origin: &str| {
        origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(own.unwrap_or_default()))
    };
    request.header(header::ORIGIN).is_some_and(|origin| !same(origin)) || !(any_name || own.is_none_or(is_own_name))
}

/// `localhost` or an address, with or without a port.
fn is_own_name(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok()
}

/// Gives the router's own refusals the form of their path, and a 405 its `Allow`.
async fn dress(response: Response, path: &str) -> Response {
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = if super::posted(path) {
                "POST"
            } else if path == super::CONFIG {
                "GET, POST"
            } else {
                "GET"
            };
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, path, &format!("this endpoint takes {allowed} only"));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            response
        }
        status if status.is_client_error() && v1::owns(path) && !is_problem(&response) => {
            let text = match status {
                StatusCode::NOT_FOUND => NOWHERE.to_owned(),
                _ => response.into_body().into_string().await.unwrap_or_default(),
            };
            refusal(status, path, &text)
        }
        StatusCode::NOT_FOUND if !v1::owns(path) => refusal(StatusCode::NOT_FOUND, path, NOWHERE),
        _ => response,
    }
}

const NOWHERE: &str = "no such endpoint, see /docs";

fn is_problem(response: &Response) -> bool {
    response.content_type().is_some_and(|t| t.starts_with(v1::problem::CONTENT_TYPE))
}

/// Paths for watchdogs and load balancers; and the page of the document: a browser sends no token when it opens a page. It
/// is the same page on every node, and asks for the token before it calls one.
pub(super) fn needs_no_token(path: &str) -> bool {
    path == OPEN_PATH || path == PAGE || v1::OPEN_PATHS.contains(&path)
}
