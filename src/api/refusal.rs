//! Refusals that happen before or beside a use case: HTTP statuses with a body in the form that clients of the path
//! read: the protocol's envelope, or problem details below `/v1`.

use poem::http::StatusCode;
use poem::{IntoResponse, Response};
use poem_openapi::payload::Json;

use super::envelope::{Envelope, ReplyContent};
use super::v1;
use super::v1::problem::Problem;

/// A refusal of a call of `path` with this status and text. The envelope names the path's method.
pub(super) fn refusal(status: StatusCode, path: &str, desc: &str) -> Response {
    if v1::owns(path) {
        return Problem::new(status, desc).response();
    }
    let method = path.trim_start_matches('/');
    let mut response = Json(Envelope::new("", method, false, ReplyContent { desc: desc.into() })).into_response();
    response.set_status(status);
    response
}
