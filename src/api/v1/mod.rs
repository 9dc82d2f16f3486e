//! `/v1`: resources for new clients and for those that are generated from the OpenAPI document.
//!
//! The protocol's endpoints are a remote procedure call with one envelope; here are nouns, typed fields, HTTP statuses,
//! and one form of error (problem details, RFC 9457). Both speak about the same rows. Nothing here changes what the
//! protocol's endpoints do, and there is one way to start work: theirs.

mod events;
mod examples;
mod generations;
mod health;
mod library;
mod packages;
mod page;
mod priority;
pub(super) mod problem;
mod scans;
mod schedules;
mod tasks;
mod words;

pub(super) use events::EventsApi;
pub(super) use examples::examples;
pub(super) use generations::GenerationsApi;
pub(super) use health::HealthApi;
pub(super) use library::LibraryApi;
pub(super) use priority::PriorityApi;
pub(super) use scans::ScansApi;
pub(super) use schedules::SchedulesApi;
pub(super) use tasks::TasksApi;

/// Whether a path belongs here: then errors are problems and not envelopes.
pub(super) fn owns(path: &str) -> bool {
    path.strip_prefix("/v1").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// For load balancers and watchdogs: these need no token.
pub(super) const OPEN_PATHS: [&str; 2] = ["/v1/health", "/v1/ready"];
