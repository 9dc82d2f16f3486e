//! From a request to a use case and back: bounded in number and time, and never cut off half-way.
//!
//! A use case runs as a task of its own. Run inside the connection's future it would be dropped wherever it stands
//! when the client hangs up or the time is over, for instance between moving a task file and writing its row.
//! So the time limit bounds the client's waiting, not the work; the gate bounds the work.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use poem::http::StatusCode;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::envelope::{Content, Envelope};
use super::refusal::refusal;
use super::request::{Incoming, Params, UNREADABLE};
use super::use_cases::UseCases;

/// The desk as the endpoints see it.
pub(super) type SharedDesk = Arc<dyn UseCases>;

/// Calls the desk for the endpoints.
#[derive(Clone)]
pub(super) struct Calls {
    desk: SharedDesk,
    gate: Arc<Semaphore>,
    timeout: Duration,
    has_token: bool,
}

/// What a handler returns: the reply, or an HTTP refusal (busy, too late, broken).
pub(super) type Answer<C> = poem::Result<Json<Envelope<C>>>;

impl Calls {
    pub(super) fn new(desk: SharedDesk, concurrency: usize, timeout: Duration, has_token: bool) -> Self {
        let permits = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self { desk, gate: Arc::new(Semaphore::new(permits)), timeout, has_token }
    }

    /// The desk, for what needs no waiting (`heartbeat`, `version`): these answer on a busy node too.
    pub(super) fn desk(&self) -> &dyn UseCases {
        self.desk.as_ref()
    }

    /// Whether the guard let nobody through without a token.
    pub(super) fn has_token(&self) -> bool {
        self.has_token
    }

    /// The desk, for a use case that runs through [`Calls::run`].
    pub(super) fn shared(&self) -> SharedDesk {
        self.desk.clone()
    }

    /// Answers one request of the protocol.
    pub(super) async fn answer<P, C, F>(
        &self,
        method: &'static str,
        incoming: Incoming<P>,
        use_case: impl FnOnce(SharedDesk, P) -> F,
    ) -> Answer<C>
    where
        P: Params,
        C: Content + Example + Clone,
        F: Future<Output = (bool, C)> + Send + 'static,
    {
        let request = match incoming.0 {
            Ok(request) => request,
            Err(unreadable) => {
                return Ok(Json(Envelope::new(&unreadable.message_id, method, false, C::refused(UNREADABLE))));
            }
        };
        let (ok, content) = self.run(method, use_case(self.desk.clone(), request.method_params)).await?;
        Ok(Json(Envelope::new(&request.message_id, method, ok, content)))
    }

    /// Runs a use case to its end, whatever becomes of the client.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        method: &'static str,
        use_case: impl Future<Output = T> + Send + 'static,
    ) -> poem::Result<T> {
        let deadline = Instant::now() + self.timeout;
        let permit = match timeout_at(deadline, self.gate.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => {
                tracing::warn!(method, "refused: too many calls are running");
                let busy = refusal(StatusCode::SERVICE_UNAVAILABLE, method, "the service is busy, ask again later");
                return Err(poem::Error::from_response(busy));
            }
        };
        let task = tokio::spawn(async move {
            let _permit = permit;
            use_case.await
        });
        let (status, desc) = match timeout_at(deadline, task).await {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(e)) => {
                tracing::error!(method, "the call broke: {e}");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal error, see the log of the service")
            }
            Err(_) => {
                tracing::warn!(method, "the call goes on, but the client was told that it takes too long");
                (StatusCode::GATEWAY_TIMEOUT, "the call takes long and goes on, ask for its progress later")
            }
        };
        Err(poem::Error::from_response(refusal(status, method, desc)))
    }
}
