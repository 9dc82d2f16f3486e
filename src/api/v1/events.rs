//! What happened: in pages, and as a stream of server-sent events that goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use poem::web::Data;
use poem::web::sse;
use poem_openapi::param::{Header, Query};
use poem_openapi::payload::{EventStream, Json};
use poem_openapi::types::{Example, ToJSON};
use poem_openapi::{Enum, Object, OpenApi};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::Tag;
use super::page::{Page, Wanted, default_limit};
use super::problem::Failed;
use super::tasks::example_time;
use crate::desk::overview::{EventFilter, EventListed, Overview, Time, local_time};
use crate::error::Fault;

/// Streams that may be open at once: each holds a connection for as long as its client likes.
const STREAMS: usize = 32;
/// Events that are read at a time.
const BATCH: u32 = 200;
/// A comment keeps proxies from closing a quiet stream, and shows us that a client has gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How much an operator should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Info,
    /// Worth a look.
    Warn,
    /// Something failed.
    Error,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Event {
    /// Grows with every event.
    pub id: i64,
    /// When.
    pub at: Time,
    /// How much it matters.
    pub level: Level,
    /// What kind: `send`, `recv`, `gentask`, `state`, `cancel`, `start`, …
    pub kind: String,
    /// Name of the task file; empty when it is about none.
    pub task: String,
    /// Who caused it: `api`, `drop`, `conductor`, …
    pub actor: String,
    /// In words.
    pub text: String,
}

impl Example for Event {
    fn example() -> Self {
        Self {
            id: 42,
            at: example_time(0),
            level: Level::Info,
            kind: "state".into(),
            task: "cfec-001-xiaofang.task.json".into(),
            actor: "conductor".into(),
            text: "queues -> downloading".into(),
        }
    }
}

impl From<EventListed> for Event {
    fn from(e: EventListed) -> Self {
        let level = match e.level.as_str() {
            "error" => Level::Error,
            "warn" => Level::Warn,
            _ => Level::Info,
        };
        Self { id: e.id, at: local_time(e.at), level, kind: e.kind, task: e.task, actor: e.actor, text: e.text }
    }
}

fn filter(task: Query<Option<String>>, level: Query<Option<Level>>, kind: Query<Option<String>>) -> EventFilter {
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let level = level.0.and_then(|l| l.to_json()).and_then(|v| v.as_str().map(str::to_owned));
    EventFilter { task: given(task.0), level, kind: given(kind.0) }
}

pub(in crate::api) struct EventsApi {
    open: Arc<Semaphore>,
}

impl Default for EventsApi {
    fn default() -> Self {
        Self { open: Arc::new(Semaphore::new(STREAMS)) }
    }
}

#[OpenApi(prefix_path = "/v1/events", tag = "Tag::Events")]
impl EventsApi {
    /// List events
    ///
    /// Newest first.
    #[oai(path = "/", method = "get", operation_id = "listEvents")]
    async fn list(
        &self,
        overview: Data<&Overview>,
        /// Only of this task file.
        task: Query<Option<String>>,
        /// Only of this level.
        level: Query<Option<Level>>,
        /// Only of this kind.
        kind: Query<Option<String>>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<Event>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        let rows = overview.store.list_events(&filter(task, level, kind), wanted.after_number()?, wanted.rows()).await?;
        Ok(Json(wanted.page(rows, |e| e.id.to_string(), Event::from)))
    }

    /// Follow events
    ///
    /// Server-sent events: `id` is the event's number, `data` the event as JSON. Begins after the event `after`, or the
    /// one that `Last-Event-ID` names (browsers send it when they connect again), else with what happens from now on.
    #[oai(path = "/stream", method = "get", operation_id = "streamEvents")]
    async fn stream(
        &self,
        overview: Data<&Overview>,
        /// Only of this task file.
        task: Query<Option<String>>,
        /// Only of this level.
        level: Query<Option<Level>>,
        /// Only of this kind.
        kind: Query<Option<String>>,
        /// Begin after the event with this number.
        after: Query<Option<i64>>,
        /// The number of the last event that was seen.
        #[oai(name = "Last-Event-ID")]
        last: Header<Option<i64>>,
    ) -> Result<EventStream<BoxStream<'static, Event>>, Failed> {
        let permit = self.open.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Failed::busy(format!("{STREAMS} event streams are open, and no more are served")))?;
        // A number that is not given yet belongs to a database that was replaced by an older one.
        let newest = overview.store.newest_event().await?;
        let after = last.0.or(after.0).unwrap_or(newest).min(newest);
        let follow =
            Follow { overview: overview.clone(), filter: filter(task, level, kind), after, ready: VecDeque::new(), permit };
        let events = stream::unfold(follow, Follow::next).boxed();
        let to_event = |e: Event| sse::Event::message(e.to_json_string()).id(e.id.to_string());
        Ok(EventStream::new(events).keep_alive(KEEP_ALIVE).to_event(to_event))
    }
}

/// One open stream.
struct Follow {
    overview: Overview,
    filter: EventFilter,
    after: i64,
    ready: VecDeque<Event>,
    #[allow(dead_code, reason = "held until the stream ends")]
    permit: OwnedSemaphorePermit,
}

impl Follow {
    /// Waits for the next event. Ends when the database cannot be read: the client connects again.
    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.id;
                return Some((event, self));
            }
            // Before the look: what is added after it rings.
            let rings = self.overview.store.next_event();
            match self.look().await {
                Ok((rows, newest)) if rows.is_empty() => {
                    // What the filter left out is not looked at again.
                    self.after = self.after.max(newest);
                    rings.await;
                }
                Ok((rows, _)) => self.ready = rows.into_iter().map(Event::from).collect(),
                Err(fault) => {
                    tracing::warn!(%fault, "an event stream ends");
                    return None;
                }
            }
        }
    }

    /// The next events, and the number of the newest before the look.
    async fn look(&self) -> Result<(Vec<EventListed>, i64), Fault> {
        let newest = self.overview.store.newest_event().await?;
        let rows = self.overview.store.events_after(&self.filter, self.after, BATCH).await?;
        Ok((rows, newest))
    }
}
