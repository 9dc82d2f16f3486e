//! `GET /config`, `POST /config`: the configuration, for a management system that keeps it.
//!
//! What goes out has its secrets masked; a mask that comes back in means "as it is". Only for the node's own machine,
//! or for who has the token: the configuration says where everything is.

use std::net::SocketAddr;

use poem::http::StatusCode;
use poem::web::Data;
use poem::{Request, RequestBody};
use poem_openapi::payload::Json;
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, OpenApi};
use serde_json::Value;

use super::Tag;
use super::calls::{Answer, Calls};
use super::document::Configuration;
use super::envelope::{Envelope, ReplyContent};
use super::example::{Examples, Named, reply};
use super::refusal::refusal;
use super::request::UNREADABLE;
use crate::desk::Reply;
use crate::model::json::{as_text, parse_config};

pub(super) struct ConfigApi;

#[OpenApi(tag = "Tag::Service")]
impl ConfigApi {
    /// Download the configuration
    ///
    /// Every key as the configuration file has it, defaults included. Secrets that are set read `***`.
    #[oai(path = "/config", method = "get", operation_id = "getConfig")]
    async fn get(&self, calls: Data<&Calls>, request: &Request) -> poem::Result<Json<Configuration>> {
        at_home(&calls, request)?;
        let desk = calls.shared();
        calls.run("config", async move { desk.config().await }).await.map(|config| Json(Configuration(config)))
    }

    /// Upload a configuration
    ///
    /// The whole object, as it was downloaded and then changed: a key that is left out has its default from then on. A
    /// value that comes back as it went out, a mask too, stays as it is in the file, and so do comments. A wrong value
    /// is refused with the key, the value and what is allowed, and nothing changes. It holds at once; the reply names
    /// keys that wait for the next start. The file before it is kept beside it, as `config.json.bak`.
    #[oai(path = "/config", method = "post", operation_id = "putConfig")]
    async fn put(&self, calls: Data<&Calls>, request: &Request, body: Uploaded) -> Answer<ReplyContent> {
        at_home(&calls, request)?;
        let (id, config) = body.0;
        let Some(config) = config else {
            return Ok(Json(Envelope::new(&id, "config", false, ReplyContent { desc: UNREADABLE.into() })));
        };
        let desk = calls.shared();
        let (ok, content) = calls.run("config", async move { desk.put_config(config).await }).await?.into();
        Ok(Json(Envelope::new(&id, "config", ok, content)))
    }
}

fn at_home(calls: &Calls, request: &Request) -> poem::Result<()> {
    let far = request.remote_addr().as_socket_addr().is_some_and(|a: &SocketAddr| !a.ip().is_loopback());
    if far && !calls.has_token() {
        let text = "the configuration is served on the node's own machine only, or with a token";
        return Err(poem::Error::from_response(refusal(StatusCode::FORBIDDEN, super::CONFIG, text)));
    }
    Ok(())
}

/// The message id, and the object that was sent: bare, or as the `method_params` of a request.
struct Uploaded((String, Option<Value>));

impl Uploaded {
    fn read(bytes: &[u8]) -> Self {
        let mut value = match parse_config(bytes) {
            Ok(value) => value,
            Err(e) => {
                tracing::info!(bytes = bytes.len(), "the uploaded configuration is not JSON: {e}");
                return Self((String::new(), None));
            }
        };
        let id = value.get("message_id").and_then(as_text).unwrap_or_default();
        let inner = value.get_mut("method_params").map(Value::take);
        Self((id, Some(inner.unwrap_or(value)).filter(Value::is_object)))
    }
}

impl<'a> ApiExtractor<'a> for Uploaded {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        Configuration::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: Some("The configuration. Comments, trailing and missing commas are tolerated."),
            content: vec![MetaMediaType { content_type: "application/json", schema: Configuration::schema_ref() }],
            required: true,
        })
    }

    async fn from_request(
        _request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self::read(&body.take()?.into_bytes().await?))
    }
}

pub(super) fn examples() -> Vec<Examples> {
    let shown = serde_json::json!({"servertype": "receiver", "cdntime": "08:00-18:00", "obssk": "***", "uploadingnum": 5});
    let config = serde_json::json!({"servertype": "receiver", "cdntime": "08:00-18:00", "obssk": "***"});
    let wrong = "reload config json error: configuration key cdntime is \"8-18\"; allowed: HH:MM-HH:MM, several separated by \
                 commas, e.g. 18:00-05:00 or 00:00-23:59 for all day; the old configuration stays";
    let download = Examples {
        path: super::CONFIG,
        requests: vec![],
        replies: vec![Named { name: "shown", summary: "Some of the keys", value: shown }],
    };
    let upload = Examples {
        path: super::CONFIG,
        requests: vec![Named { name: "change", summary: "With a secret as it is", value: config }],
        replies: vec![
            reply("accepted", "It holds", "config", Reply::ok("reload config json ok.").into()),
            reply("refused", "A value is wrong", "config", Reply::err(wrong).into()),
        ],
    };
    vec![download, upload]
}
