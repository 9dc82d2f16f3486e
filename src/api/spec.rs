//! The OpenAPI document: generated from the types by poem-openapi, then completed.
//!
//! Three things cannot be said through its macros and are added to the generated document here: several named examples
//! per operation, an example per field (taken from the type's example), and the replies that the guard gives for every
//! endpoint. Writing the document by hand was rejected: it would be wrong within a month.

use poem_openapi::{LicenseObject, OpenApi, OpenApiService, ServerObject};
use serde_json::{Map, Value, json};

use super::example::{Examples, Named};
use super::{cancel, config, gentask, guard, progress, recv, send, sends, taskfilesquery, tools, uploadprogress, v1};

/// Every endpoint of the protocol.
pub(super) fn endpoints() -> OpenApiService<impl OpenApi, ()> {
    let all = (
        gentask::GentaskApi,
        taskfilesquery::TaskfilesqueryApi,
        send::SendApi,
        sends::SendsApi,
        uploadprogress::UploadprogressApi,
        recv::RecvApi,
        progress::ProgressApi,
        cancel::CancelApi,
        tools::ToolsApi,
        config::ConfigApi,
        (v1::TasksApi, v1::PriorityApi),
        v1::GenerationsApi,
        v1::SchedulesApi,
        (v1::LibraryApi, v1::ScansApi),
        v1::EventsApi::default(),
        v1::HealthApi,
    );
    OpenApiService::new(all, "bft2", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("Apache-2.0").url("https://www.apache.org/licenses/LICENSE-2.0"))
        .server(ServerObject::new("/").description("The node that serves this document"))
        .server(ServerObject::new("http://localhost:8191").description("A node on this machine"))
}

const DESCRIPTION: &str = "Carries digital cinema packages from a centre to cinemas over BitTorrent, object storage and CDN at once.\n\n\
A delivery: `gentask` and `taskfilesquery` until `finished`, then `send` and `uploadprogress` until `ready` on the sender; \
carry the task file to the receivers; there `recv`, then `progress` until `downloaded`.\n\n\
Every outcome that the body expresses has HTTP status 200: look at `return_status`. Booleans are the strings `true` and `false`. \
Requests may have comments, trailing commas, a byte order mark and any content type. \
When the node has a token, everything but `/heartbeat`, `/v1/health`, `/v1/ready` and `/docs` needs `Authorization: Bearer <token>`.";

fn examples() -> Vec<Examples> {
    let mut all = vec![
        gentask::examples(),
        taskfilesquery::examples(),
        send::examples(),
        sends::examples(),
        uploadprogress::examples(),
        recv::examples(),
        progress::examples(),
        progress::cacher_examples(),
        cancel::examples(),
    ];
    all.extend(config::examples());
    all.extend(tools::examples());
    all.extend(v1::examples());
    all
}

/// The document as a JSON value; the same for the same build.
pub(super) fn document() -> Value {
    let mut document: Value = serde_json::from_str(&endpoints().spec()).unwrap_or_default();
    for operation in examples() {
        let pointer = format!("/paths/{}", operation.path.replace('/', "~1"));
        if let Some(path) = document.pointer_mut(&pointer) {
            add_examples(path, &operation);
        }
    }
    if let Some(Value::Object(paths)) = document.get_mut("paths") {
        for (path, operations) in paths.iter_mut() {
            for operation in operations.as_object_mut().into_iter().flat_map(Map::values_mut) {
                add_common_replies(path, operation);
            }
        }
    }
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        schemas.values_mut().for_each(add_field_examples);
    }
    if let Some(Value::Object(components)) = document.get_mut("components") {
        let scheme = json!({"type": "http", "scheme": "bearer", "description": "Needed when the node has a token."});
        components.insert("securitySchemes".into(), json!({"token": scheme}));
    }
    document
}

fn add_examples(path: &mut Value, examples: &Examples) {
    let verb = if examples.requests.is_empty() && path.get("get").is_some() { "get" } else { "post" };
    let Some(operation) = path.get_mut(verb) else { return };
    set_examples(operation.pointer_mut("/requestBody/content"), &examples.requests);
    set_examples(operation.pointer_mut("/responses/200/content"), &examples.replies);
}

fn set_examples(content: Option<&mut Value>, examples: &[Named]) {
    let Some(Value::Object(media_types)) = content else { return };
    let named: Map<String, Value> =
        examples.iter().map(|e| (e.name.to_owned(), json!({"summary": e.summary, "value": e.value}))).collect();
    for media_type in media_types.values_mut().filter_map(Value::as_object_mut) {
        media_type.insert("examples".into(), Value::Object(named.clone()));
    }
}

/// What the guard and the call gate answer, whichever endpoint was asked, in the form that clients of the path read.
fn add_common_replies(path: &str, operation: &mut Value) {
    let resource = v1::owns(path);
    let open = guard::needs_no_token(path);
    let Some(operation) = operation.as_object_mut() else { return };
    let posted = operation.contains_key("requestBody");
    let Some(Value::Object(responses)) = operation.get_mut("responses") else { return };
    if let Some(Value::Object(ok)) = responses.get_mut("200") {
        let text = if resource {
            "What was asked for."
        } else if posted {
            "The outcome, good or bad: see `return_status`."
        } else if path == super::CONFIG {
            "The configuration."
        } else {
            "A text."
        };
        ok.insert("description".into(), text.into());
    }
    let (content_type, schema) = match resource {
        true => (v1::problem::CONTENT_TYPE, "#/components/schemas/Problem"),
        false => ("application/json; charset=utf-8", "#/components/schemas/Response_ReplyContent"),
    };
    let mut refuse = |status: &str, description: &str| {
        let content = json!({content_type: {"schema": {"$ref": schema}}});
        responses.insert(status.into(), json!({"description": description, "content": content}));
    };
    if !open {
        refuse("401", "The node has a token, and the request does not carry it.");
    }
    refuse("403", "Sent by a web page of another site.");
    if posted {
        refuse("408", "The body did not arrive in time.");
        refuse("413", "The body is larger than the node reads.");
        if resource {
            refuse("415", "The body is not `application/json`.");
        }
    }
    if posted || matches!(path, "/reloadconf" | "/showschedules" | super::CONFIG) {
        refuse("503", "Too many calls are running; ask again later.");
        refuse("504", "The call takes long. It goes on: ask for its progress later.");
    }
    let security = if open { json!([]) } else { json!([{"token": []}, {}]) };
    operation.insert("security".into(), security);
}

/// Gives each field the value that it has in its type's example. A field that refers to another type has the example
/// there; what poem-openapi repeats beside the reference is dropped, as generators take it for one more base type.
fn add_field_examples(schema: &mut Value) {
    let Some(Value::Object(example)) = schema.get("example").cloned() else { return };
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (name, property) in properties.iter_mut().filter_map(|(n, p)| p.as_object_mut().map(|p| (n, p))) {
        if let Some(Value::Array(parts)) = property.get_mut("allOf") {
            parts.retain(|part| part.get("$ref").is_some());
        } else if let Some(value) = example.get(name) {
            property.insert("example".into(), value.clone());
        }
    }
}

/// The OpenAPI document as JSON, with a final newline.
pub fn spec_json() -> String {
    let mut text = format!("{:#}", document());
    text.push('\n');
    text
}

/// The OpenAPI document as YAML.
pub fn spec_yaml() -> String {
    serde_yaml_ng::to_string(&document()).unwrap_or_default()
}
