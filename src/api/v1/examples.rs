//! An example of each reply for the OpenAPI document: the types' own.

use poem_openapi::types::{Example, ToJSON};
use serde_json::json;

use super::super::example::{Examples, Named};
use super::events::Event;
use super::generations::Generation;
use super::health::{Health, Readiness};
use super::library::{Duplicate, LibraryFile};
use super::packages::Package;
use super::page::Page;
use super::priority::TaskPriority;
use super::scans::{LibraryImport, LibraryImportRequest, LibraryQueue, LibraryScan, LibraryScanRequest};
use super::schedules::Schedules;
use super::tasks::{File, Task, TaskDetail};

fn one<T: Example + ToJSON>(path: &'static str, name: &'static str, summary: &'static str) -> Examples {
    let value = T::example().to_json().unwrap_or_default();
    Examples { path, requests: vec![], replies: vec![Named { name, summary, value }] }
}

/// A scan of one directory, and of everything.
fn scan() -> Examples {
    let again = LibraryScanRequest { path: None, anew: true };
    let named =
        |name, summary, request: &LibraryScanRequest| Named { name, summary, value: request.to_json().unwrap_or_default() };
    let mut requests = vec![named("package", "A package that was copied in", &LibraryScanRequest::example())];
    requests.push(named("anew", "The whole library, from the beginning", &again));
    Examples { requests, ..one::<LibraryScan>("/v1/library/scans", "found", "Six files to hash") }
}

fn priority() -> Examples {
    let value = TaskPriority::example().to_json().unwrap_or_default();
    let urgent = Named { name: "urgent", summary: "Before the others", value };
    let path = "/v1/tasks/{role}/{task}/priority";
    Examples { requests: vec![urgent], ..one::<Task>(path, "task", "The task as it is then") }
}

fn import() -> Examples {
    let value = LibraryImportRequest::example().to_json().unwrap_or_default();
    let line = Named { name: "line", summary: "A line of sha1sum", value };
    Examples { requests: vec![line], ..one::<LibraryImport>("/v1/library/imports", "queued", "One file to hash") }
}

/// One of each operation.
pub(in crate::api) fn examples() -> Vec<Examples> {
    let task_file = json!({"name": "xiaofang", "basesubdir": "cfec-001", "size": 668_521_472u64, "bt-obs-cdn": "1:1:1"});
    let document = Named { name: "taskFile", summary: "Some of the keys", value: task_file };
    // A schema cannot say "one after the other": the document calls a stream a list.
    let events = json!([Event::example().to_json()]);
    let stream = Named { name: "events", summary: "The data of one event", value: events };
    vec![
        one::<Page<Task>>("/v1/tasks", "page", "A page with one task"),
        one::<TaskDetail>("/v1/tasks/{role}/{task}", "task", "A task"),
        one::<Page<File>>("/v1/tasks/{role}/{task}/files", "page", "A page with one file"),
        Examples { path: "/v1/tasks/{role}/{task}/taskfile", requests: vec![], replies: vec![document] },
        one::<Task>("/v1/tasks/{role}/{task}/cancel", "task", "The task as it is then"),
        priority(),
        one::<Page<Generation>>("/v1/generations", "page", "A page with one job"),
        one::<Schedules>("/v1/schedules", "windows", "One window"),
        one::<Page<LibraryFile>>("/v1/library/files", "page", "A page with one file"),
        one::<Page<Package>>("/v1/library/packages", "page", "A page with one package"),
        one::<Page<Duplicate>>("/v1/library/duplicates", "page", "A page with two files that are the same"),
        scan(),
        import(),
        one::<LibraryQueue>("/v1/library/queue", "hashing", "Six files wait"),
        one::<Page<Event>>("/v1/events", "page", "A page with one event"),
        Examples { path: "/v1/events/stream", requests: vec![], replies: vec![stream] },
        one::<Health>("/v1/health", "alive", "It is alive"),
        one::<Readiness>("/v1/ready", "ready", "It can work"),
    ]
}
