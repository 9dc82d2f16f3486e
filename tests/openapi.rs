//! The OpenAPI document: committed, complete, and its page works without a network.

mod api_fake;

use std::sync::Arc;

use api_fake::FakeDesk;
use bft2::api::{ApiOptions, service, spec_json, spec_yaml};
use poem::http::{StatusCode, Uri, header};
use poem::{Endpoint, Request};
use serde_json::Value;

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/bft2.json");

fn spec() -> Value {
    serde_json::from_str(&spec_json()).unwrap()
}

/// Every operation with its path and verb.
fn operations(spec: &Value) -> Vec<(String, &Value)> {
    let paths = spec["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, verbs)| verbs.as_object().unwrap().iter().map(move |(verb, op)| (format!("{verb} {path}"), op)))
        .collect()
}

#[test]
fn the_committed_document_is_the_generated_one() {
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(
        committed.trim_end() == spec_json().trim_end(),
        "openapi/bft2.json is stale; write it anew with: bftv2 openapi > openapi/bft2.json"
    );
}

#[test]
fn the_document_is_the_same_each_time_and_in_both_forms() {
    assert_eq!(spec_json(), spec_json());
    assert_eq!(serde_yaml_ng::from_str::<Value>(&spec_yaml()).unwrap(), spec());
}

#[test]
fn every_endpoint_of_the_protocol_is_named() {
    let spec = spec();
    let mut found: Vec<String> = operations(&spec).into_iter().map(|(name, _)| name).collect();
    found.sort();
    let mut wanted = [
        "post /gentask",
        "post /taskfilesquery",
        "post /send",
        "post /uploadprogress",
        "post /recv",
        "post /progress",
        "post /cprogress",
        "post /cancel",
        "get /heartbeat",
        "get /version",
        "get /reloadconf",
        "get /showschedules",
        "post /sends",
        "get /config",
        "post /config",
    ];
    wanted.sort();
    let resources: Vec<String> = found.iter().filter(|name| name.contains(" /v1/")).cloned().collect();
    found.retain(|name| !resources.contains(name));
    assert_eq!(found, wanted);
    let mut wanted = [
        "get /v1/tasks",
        "get /v1/tasks/{role}/{task}",
        "get /v1/tasks/{role}/{task}/files",
        "get /v1/tasks/{role}/{task}/taskfile",
        "post /v1/tasks/{role}/{task}/cancel",
        "post /v1/tasks/{role}/{task}/priority",
        "get /v1/generations",
        "get /v1/schedules",
        "get /v1/library/files",
        "get /v1/library/packages",
        "get /v1/library/duplicates",
        "post /v1/library/scans",
        "post /v1/library/imports",
        "get /v1/library/queue",
        "get /v1/events",
        "get /v1/events/stream",
        "get /v1/health",
        "get /v1/ready",
    ];
    wanted.sort();
    assert_eq!(resources, wanted);
}

#[test]
fn every_operation_is_described_and_has_examples() {
    let spec = spec();
    for (name, op) in operations(&spec) {
        for key in ["operationId", "summary", "description"] {
            assert!(op[key].as_str().is_some_and(|s| !s.is_empty()), "{name} has no {key}");
        }
        assert!(op["tags"].as_array().is_some_and(|t| !t.is_empty()), "{name} has no tag");
        assert!(has_examples(&op["responses"]["200"]["content"]), "{name} has no example of a reply");
        assert!(op["responses"]["200"]["description"].as_str().is_some_and(|s| !s.is_empty()), "{name}: reply not described");
        if !op["requestBody"].is_null() {
            assert!(has_examples(&op["requestBody"]["content"]), "{name} has no example of a request");
        }
    }
}

/// Examples, none of which holds a null: no field may be one.
fn has_examples(content: &Value) -> bool {
    content.as_object().is_some_and(|types| {
        !types.is_empty()
            && types
                .values()
                .all(|t| t["examples"].as_object().is_some_and(|e| !e.is_empty() && !t["examples"].to_string().contains("null")))
    })
}

#[test]
fn every_field_is_described_and_has_an_example() {
    let spec = spec();
    for (name, schema) in spec["components"]["schemas"].as_object().unwrap() {
        let Some(properties) = schema["properties"].as_object() else { continue };
        for (field, property) in properties {
            let described = property["description"].is_string() || property["allOf"].is_array() || property["$ref"].is_string();
            assert!(described, "{name}.{field} is not described");
            // `method_params` of a reply is there for one method only.
            let example = !property["example"].is_null() || property["allOf"].is_array() || property["$ref"].is_string();
            assert!(example, "{name}.{field} has no example");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let spec = spec();
    let mut open = vec![&spec];
    while let Some(value) = open.pop() {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            assert!(spec.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
        }
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(map) => open.extend(map.values()),
            _ => {}
        }
    }
}

#[test]
fn the_document_introduces_itself() {
    let spec = spec();
    assert_eq!(spec["info"]["title"], "bft2");
    assert_eq!(spec["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(spec["info"]["license"]["name"], "Apache-2.0");
    assert!(spec["info"]["description"].as_str().unwrap().contains("return_status"));
    assert!(!spec["servers"].as_array().unwrap().is_empty());
}

async fn get(path: &'static str) -> poem::Response {
    let response = service(Arc::new(FakeDesk::default()), api_fake::overview().await, ApiOptions::default())
        .get_response(Request::builder().uri(Uri::from_static(path)).finish())
        .await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    response
}

#[tokio::test]
async fn the_document_is_served_in_both_forms() {
    let json = get("/openapi.json").await;
    assert_eq!(json.content_type(), Some("application/json"));
    assert_eq!(json.into_body().into_string().await.unwrap(), spec_json());
    assert_eq!(get("/openapi.yaml").await.into_body().into_string().await.unwrap(), spec_yaml());
}

#[tokio::test]
async fn the_page_needs_no_other_host() {
    let response = get("/docs").await;
    assert!(response.content_type().unwrap().starts_with("text/html"));
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");

    let html = response.into_body().into_string().await.unwrap();
    // Our document, with the examples, is the one in the page, and the validator of the page's makers is not asked.
    assert!(html.contains("let spec = {") && html.contains("same taskfile in queues:"), "the page lacks our document");
    assert!(html.contains("validatorUrl: null"));
    // Styles load nothing; outside script and style no address stands.
    let (style, rest) = cut(&html, "<style", "</style>");
    assert!(!style.is_empty() && !style.contains("@import") && !style.contains("url(http") && !style.contains("url(//"));
    let (bundle, rest) = cut(&rest, "<script", "</script>");
    assert!(!bundle.lines().next().unwrap_or_default().contains("src="));
    let (_, rest) = cut(&rest, "<script", "</script>");
    assert!(!rest.contains("://") && !rest.contains("src=") && !rest.contains("<link"), "{rest}");
}

/// The text between two marks, and the text without it.
fn cut(text: &str, from: &str, to: &str) -> (String, String) {
    let start = text.find(from).unwrap();
    let end = start + text[start..].find(to).unwrap() + to.len();
    (text[start..end].to_owned(), format!("{}{}", &text[..start], &text[end..]))
}
