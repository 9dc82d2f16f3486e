//! Before an endpoint sees a request: who may ask, and how large a body may be. After it: refusals get the envelope.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Body, Endpoint, Request, Response};
use subtle::ConstantTimeEq;

use super::refusal::refusal;

/// A body over the limit is read and thrown away up to this size, so that the client has sent all and reads our
/// answer. Closing at once would often reset the connection before the answer arrives.
const DISCARD_LIMIT: usize = 32 << 20;

/// The one endpoint that needs no token: watchdogs and load balancers ask it.
pub(super) const OPEN_PATH: &str = "/heartbeat";

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
        let method = path.trim_start_matches('/').to_owned();
        if path != OPEN_PATH && !self.knows(&request) {
            let mut response = refusal(StatusCode::UNAUTHORIZED, &method, "a valid bearer token is needed");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        if is_foreign_page(&request, self.token.is_some()) {
            return refusal(StatusCode::FORBIDDEN, &method, "requests of other sites' pages are not served");
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
                return refusal(status, &method, &desc);
            }
            Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, &method, "the request body did not arrive in time"),
        };
        request.set_body(body);
        dress(next.get_response(request).await, &path)
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
/// `Origin`.
fn is_foreign_page(request: &Request, has_token: bool) -> bool {
    let Some(origin) = request.header(header::ORIGIN) else { return false };
    let own = request.header(header::HOST).unwrap_or_default();
    let same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(own));
    // A foreign name may be made to resolve to this machine: without a token only names count that nobody else has.
    !same || !(has_token || is_own_name(own))
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

/// Gives the router's own refusals the envelope and a 405 its `Allow`.
fn dress(response: Response, path: &str) -> Response {
    let method = path.trim_start_matches('/');
    match response.status() {
        StatusCode::NOT_FOUND => refusal(StatusCode::NOT_FOUND, method, "no such endpoint, see /docs"),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = if super::POSTED.contains(&path) { Method::POST } else { Method::GET };
            let desc = format!("this endpoint takes {allowed} only");
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, method, &desc);
            if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
                response.headers_mut().insert(header::ALLOW, value);
            }
            response
        }
        _ => response,
    }
}
