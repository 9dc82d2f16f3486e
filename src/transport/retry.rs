//! Retries by class of error, with backoff and jitter; `Retry-After` is honoured.

use crate::error::Fault;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often and how patiently one request is tried within a run of a leg. (Tries of a whole leg, minutes apart, belong
/// to the conductor.)
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub tries: usize,
    pub first_wait: Duration,
    pub longest_wait: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { tries: 6, first_wait: Duration::from_millis(300), longest_wait: Duration::from_secs(20) }
    }
}

/// A server that asks for more patience than this is not waited for within a run: the whole leg waits then, as long as it
/// was asked to, and other methods may take over.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// Runs `attempt` until it succeeds, fails for good, or the tries are used up. Only [`Fault::is_transient`] faults are
/// tried again. Returns `None` when `stop` fired while waiting.
pub async fn with_retries<T, F, Fut>(policy: Policy, stop: &CancellationToken, mut attempt: F) -> Option<Result<T, Fault>>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Fault>>,
{
    let mut waits = ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(policy.first_wait)
        .with_max_delay(policy.longest_wait)
        .with_max_times(policy.tries.saturating_sub(1))
        .build();
    loop {
        let fault = tokio::select! {
            r = attempt() => match r {
                Ok(v) => return Some(Ok(v)),
                Err(f) => f,
            },
            () = stop.cancelled() => return None,
        };
        let asked = fault.retry_after.unwrap_or_default();
        let again = fault.is_transient() && asked <= LONGEST_ASKED;
        let Some(wait) = waits.next().filter(|_| again).map(|wait| wait.max(asked)) else { return Some(Err(fault)) };
        tracing::debug!(fault = %fault, detail = fault.detail, wait_ms = wait.as_millis() as u64, "trying again");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return None,
        }
    }
}
