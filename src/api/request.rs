//! The request envelope, read liberally.
//!
//! Clients were written from samples with trailing commas, send booleans and numbers as strings or bare, and leave
//! fields out. So the derived JSON payload of poem-openapi (strict JSON, strict content type, a 400 with its own text)
//! is not used: [`Incoming`] takes any content type, reads the body with the liberal parser, and a body that cannot be
//! read becomes a reply in the envelope, not an HTTP error, because old clients look at the body only.
//! The schema in the OpenAPI document stays strict: it says what new clients should send.

use poem::{Request as HttpRequest, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::{Example, ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, Object};
use serde_json::Value;

use crate::model::json::parse_liberal;

/// The text of a reply to a body that is not a request.
pub const UNREADABLE: &str = "invalid json format:request body";

/// The parameters of one method.
pub trait Params: ParseFromJSON + ToJSON + Example + Send + Sync + 'static {
    /// The method that takes them.
    const METHOD: &'static str;
}

/// The envelope of every request.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Request<P: Params> {
    /// Chosen by the client and echoed. A number is taken too and echoed as a string.
    #[oai(deserialize_with = "text")]
    pub message_id: String,
    /// `request`; not insisted on.
    #[oai(deserialize_with = "text")]
    pub message_type: String,
    /// Who asks; not insisted on.
    #[oai(deserialize_with = "text")]
    pub message_source: String,
    /// The method, the same as the last part of the URL. Read on `/progress` only, where `cprogress` may stand.
    #[oai(deserialize_with = "text")]
    pub method_name: String,
    /// The parameters of the method.
    #[oai(deserialize_with = "object")]
    pub method_params: P,
}

impl<P: Params> Request<P> {
    /// A request as the protocol's samples write it.
    pub fn sample(method: &str, params: P) -> Self {
        Self {
            message_id: "321".into(),
            message_type: "request".into(),
            message_source: "tms".into(),
            method_name: method.into(),
            method_params: params,
        }
    }
}

impl<P: Params> Example for Request<P> {
    fn example() -> Self {
        Self::sample(P::METHOD, P::example())
    }
}

/// A text that may be absent (then empty), a number or a boolean.
pub fn text(value: Option<Value>) -> ParseResult<String> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        some => String::parse_from_json(some),
    }
}

/// An optional text: `null` is absent.
pub fn optional_text(value: Option<Value>) -> ParseResult<Option<String>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        some => String::parse_from_json(some).map(Some).map_err(ParseError::propagate),
    }
}

/// Whether a text means yes: `true` or `1`.
pub fn is_yes(text: &str) -> bool {
    let text = text.trim();
    text == "1" || text.eq_ignore_ascii_case("true")
}

/// Parameters that may be absent: then every one of them is.
fn object<P: ParseFromJSON>(value: Option<Value>) -> ParseResult<P> {
    match value {
        None | Some(Value::Null) => P::parse_from_json(Some(Value::Object(serde_json::Map::new()))),
        some => P::parse_from_json(some),
    }
}

/// A request body: the request, or the id to answer to when it is none.
pub struct Incoming<P: Params>(pub Result<Request<P>, Unreadable>);

/// A body that is not a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The message id, when that much could be read; else empty.
    pub message_id: String,
}

impl<P: Params> Incoming<P> {
    /// Reads a body. The reason of a refusal goes to the log without any value of the body, which may hold keys.
    pub fn read(bytes: &[u8]) -> Self {
        let value = match parse_liberal(bytes) {
            Ok(value) => value,
            Err(e) => {
                tracing::info!(bytes = bytes.len(), "request body is not JSON: {e}");
                return Self(Err(Unreadable { message_id: String::new() }));
            }
        };
        let message_id = text(value.get("message_id").cloned()).unwrap_or_default();
        Self(Request::parse_from_json(Some(value)).map_err(|_| {
            tracing::info!(bytes = bytes.len(), "request body is JSON, but a field has a wrong type");
            Unreadable { message_id }
        }))
    }

    /// The `method_name` of the request; empty when it has none.
    pub fn method_name(&self) -> &str {
        self.0.as_ref().map_or("", |r| r.method_name.trim())
    }
}

impl<'a, P: Params> ApiExtractor<'a> for Incoming<P> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        Request::<P>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: Some(
                "The request envelope. Comments, trailing commas, a byte order mark and any Content-Type are tolerated.",
            ),
            content: vec![MetaMediaType { content_type: "application/json", schema: Request::<P>::schema_ref() }],
            required: true,
        })
    }

    async fn from_request(
        _request: &'a HttpRequest,
        body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self::read(&body.take()?.into_bytes().await?))
    }
}
