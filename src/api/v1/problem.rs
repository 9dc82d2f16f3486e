//! Errors as problem details (RFC 9457): `application/problem+json` with a status, a title and a detail.

use poem::http::{StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object};

use crate::error::Fault;

pub(in crate::api) const CONTENT_TYPE: &str = "application/problem+json";

/// Why a request was not answered (RFC 9457).
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Problem {
    /// Which kind of problem, as a URI that never changes: compare this, not the texts.
    #[oai(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, and what to do.
    pub detail: String,
}

impl Problem {
    pub(in crate::api) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let word = title.to_ascii_lowercase().replace(' ', "-");
        Self { kind: format!("urn:bft2:problem:{word}"), title: title.into(), status: status.as_u16(), detail: detail.into() }
    }

    /// As a response of its status.
    pub(in crate::api) fn response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Json(self).into_response();
        response.set_status(status);
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

impl poem_openapi::types::Example for Problem {
    fn example() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no task cfec-001-film.task.json of the role sender")
    }
}

/// The errors of `/v1`.
#[derive(ApiResponse)]
pub enum Failed {
    /// A parameter has a value that it cannot have.
    #[oai(status = 400, content_type = "application/problem+json")]
    BadRequest(Json<Problem>),
    /// There is no such thing.
    #[oai(status = 404, content_type = "application/problem+json")]
    NotFound(Json<Problem>),
    /// Too many calls or event streams are open; ask again later.
    #[oai(status = 503, content_type = "application/problem+json")]
    Busy(Json<Problem>),
    /// The node itself has trouble (disk, database); its log says more.
    #[oai(status = 500, content_type = "application/problem+json")]
    Broken(Json<Problem>),
}

impl Failed {
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::BadRequest(Json(Problem::new(StatusCode::BAD_REQUEST, detail)))
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::NotFound(Json(Problem::new(StatusCode::NOT_FOUND, detail)))
    }

    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::Busy(Json(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)))
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        tracing::error!(%fault, detail = fault.detail, "a request failed");
        if fault.is_transient() {
            return Self::busy(fault.message);
        }
        Self::Broken(Json(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, fault.message)))
    }
}
