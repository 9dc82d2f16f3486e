//! `/docs`: Swagger UI in one page, with the document in it.
//!
//! Nodes stand in cinemas without a way out, so nothing may come from elsewhere. The page embeds its script, style and
//! document; a content security policy makes the browser refuse the rest, whatever a later Swagger UI tries.

use poem::Response;
use poem::http::header;

use super::spec;

/// No other host, no frame around the page; "Try it out" may ask this node.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page. poem-openapi fills in its own document: ours, which has the examples, takes its place.
pub(super) fn page() -> String {
    let endpoints = spec::endpoints();
    endpoints
        .swagger_ui_html()
        .replacen(&format!("let spec = {};", endpoints.spec()), &format!("let spec = {};", script_safe(&spec::spec_json())), 1)
        .replacen("<title>Swagger UI</title>", "<title>bft2</title>", 1)
        .replacen("deepLinking: true,", "deepLinking: true,\n        validatorUrl: null,", 1)
}

/// JSON that cannot end the script element it stands in.
fn script_safe(json: &str) -> String {
    json.trim_end().replace("</", "<\\/")
}

/// A reply with the page.
pub(super) fn response(page: bytes::Bytes) -> Response {
    Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .body(page)
}
