//! Named examples of requests and replies for the OpenAPI document. poem-openapi knows one example per type; clients
//! of this protocol need one per reply text.

use poem_openapi::types::{Example, ToJSON};
use serde_json::Value;

use super::envelope::{Content, Envelope};
use super::request::{Params, Request};

/// One message with a name and what it means.
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) value: Value,
}

/// The examples of one operation.
pub(super) struct Examples {
    pub(super) path: &'static str,
    /// Empty for `GET`.
    pub(super) requests: Vec<Named>,
    pub(super) replies: Vec<Named>,
}

/// A request of `method`.
pub(super) fn request<P: Params>(name: &'static str, summary: &'static str, method: &str, params: P) -> Named {
    Named { name, summary, value: Request::sample(method, params).to_json().unwrap_or_default() }
}

/// A reply of `method`.
pub(super) fn reply<C: Content + Example + Clone>(
    name: &'static str,
    summary: &'static str,
    method: &str,
    (ok, content): (bool, C),
) -> Named {
    Named { name, summary, value: Envelope::new("321", method, ok, content).to_json().unwrap_or_default() }
}

/// A reply in plain text.
pub(super) fn text(name: &'static str, summary: &'static str, text: &str) -> Named {
    Named { name, summary, value: Value::String(text.into()) }
}
