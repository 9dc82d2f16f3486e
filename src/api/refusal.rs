//! Refusals that happen before or beside a use case: HTTP statuses, with the protocol's envelope as the body, so that
//! a client that reads only bodies finds its keys here too.

use poem::http::StatusCode;
use poem::{IntoResponse, Response};
use poem_openapi::payload::Json;

use super::envelope::{Envelope, ReplyContent};

/// A refusal of `method` (empty for an unknown one) with this status and text.
pub(super) fn refusal(status: StatusCode, method: &str, desc: &str) -> Response {
    let mut response = Json(Envelope::new("", method, false, ReplyContent { desc: desc.into() })).into_response();
    response.set_status(status);
    response
}
