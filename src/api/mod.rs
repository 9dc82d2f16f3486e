//! The HTTP protocol: parse, ask the desk, translate.
//!
//! One file per endpoint holds its parameters, its content and its examples; [`envelope`] and [`request`] are shared by
//! all. Old clients were written from prose with several spellings, so the rule is: read anything that can be meant,
//! write every spelling. The OpenAPI document ([`spec_json`]) is generated from the same types, so it cannot drift.
//!
//! Around the endpoints stand a guard (token, body size, foreign web pages) and a gate (number and time of calls).
//! There is no CORS: no web page has a reason to call a node, save the node's own.

mod calls;
mod cancel;
mod config;
mod docs;
mod document;
pub mod envelope;
mod example;
mod gentask;
mod guard;
mod progress;
mod recv;
mod refusal;
pub mod request;
mod send;
mod sends;
mod spec;
mod taskfilesquery;
mod tools;
mod uploadprogress;
mod use_cases;
mod v1;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use poem::endpoint::make_sync;
use poem::{Endpoint, EndpointExt, Request, Response, Route, get};
use poem_openapi::Tags;

pub use cancel::CancelParams;
pub use gentask::GentaskParams;
pub use progress::{ProgressContent, ProgressParams, StateContent, TaskProgress};
pub use recv::RecvParams;
pub use send::SendParams;
pub use spec::{spec_json, spec_yaml};
pub use taskfilesquery::{QueryContent, QueryParams};
pub use uploadprogress::{UploadProgressContent, UploadProgressParams};
pub use use_cases::UseCases;

use crate::desk::overview::Overview;

/// The endpoints that take `POST` alone.
const POSTED: &[&str] =
    &["/gentask", "/taskfilesquery", "/send", "/sends", "/uploadprogress", "/recv", "/progress", "/cprogress", "/cancel"];

/// The one that takes both.
const CONFIG: &str = "/config";

/// Whether a path takes `POST` alone. Of the resources those do that end in a verb or begin something.
fn posted(path: &str) -> bool {
    POSTED.contains(&path) || (v1::owns(path) && (is_step(path) || matches!(path, "/v1/library/scans" | "/v1/library/imports")))
}

/// `/v1/tasks/{role}/{task}/cancel` and `…/priority`; a task may have such a name.
fn is_step(path: &str) -> bool {
    (path.ends_with("/cancel") || path.ends_with("/priority")) && path.split('/').count() == 6
}

/// Groups of the OpenAPI document.
#[derive(Tags)]
enum Tag {
    /// For senders: make a task, distribute it, watch it.
    Sending,
    /// For receivers and cachers: fetch a task, watch it.
    Receiving,
    /// For every role.
    Both,
    /// The service itself: alive, version, configuration.
    Service,
    /// `/v1`: tasks and what belongs to them.
    Tasks,
    /// `/v1`: what the node has.
    Library,
    /// `/v1`: what happened.
    Events,
}

/// How the API is served.
#[derive(Clone)]
pub struct ApiOptions {
    /// When set, everything but `/heartbeat` needs `Authorization: Bearer <token>`.
    pub token: Option<String>,
    /// Largest request body, in bytes.
    pub body_limit: usize,
    /// Calls that run at once; more wait for at most `request_timeout`.
    pub concurrency: usize,
    /// How long a client waits: for the body to be read, and for the answer.
    pub request_timeout: Duration,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self { token: None, body_limit: 1 << 20, concurrency: 64, request_timeout: Duration::from_secs(60) }
    }
}

impl fmt::Debug for ApiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiOptions")
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("body_limit", &self.body_limit)
            .field("concurrency", &self.concurrency)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// The whole API: the protocol's endpoints at `/`, the resources at `/v1`, the OpenAPI document at `/openapi.json` and `/openapi.yaml`, its page at `/docs`.
pub fn service(desk: Arc<dyn UseCases>, overview: Overview, options: ApiOptions) -> impl Endpoint<Output = Response> + 'static {
    let calls = calls::Calls::new(desk, options.concurrency, options.request_timeout, options.token.is_some());
    let guard = Arc::new(guard::Guard { token: options.token, body_limit: options.body_limit, timeout: options.request_timeout });
    let (json, yaml, page) = (Bytes::from(spec_json()), Bytes::from(spec_yaml()), Bytes::from(docs::page()));
    Route::new()
        .nest("/", spec::endpoints())
        .at("/openapi.json", get(make_sync(move |_| document("application/json", &json))))
        .at("/openapi.yaml", get(make_sync(move |_| document("application/yaml", &yaml))))
        .at("/docs", get(make_sync(move |_| docs::response(page.clone()))))
        .data(calls)
        .data(overview)
        .around(move |next, request: Request| {
            let guard = guard.clone();
            async move { Ok(guard.pass(next.as_ref(), request).await) }
        })
}

fn document(content_type: &str, text: &Bytes) -> Response {
    Response::builder().content_type(content_type).body(text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_posted_endpoints_is_complete() {
        let document = spec::document();
        let mut found: Vec<&str> = document["paths"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, verbs)| verbs.get("post").is_some() && verbs.get("get").is_none())
            .map(|(path, _)| path.as_str())
            .collect();
        assert!(found.iter().all(|path| posted(path)), "{found:?}");
        found.retain(|path| !v1::owns(path));
        let mut listed = POSTED.to_vec();
        found.sort_unstable();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
