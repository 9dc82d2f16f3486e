//! Rate caps in bytes per second that can be changed while transfers run.

use async_speed_limit::Limiter as Inner;
use async_speed_limit::clock::StandardClock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// One method's cap, shared by all its legs. Cheap to clone.
#[derive(Clone)]
pub struct Limiter {
    inner: Inner<StandardClock>,
    /// Rings at a change: who waits for a slow cap must not sleep through a faster one.
    changes: Arc<watch::Sender<()>>,
}

impl Limiter {
    /// `None` is unlimited.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { inner: Inner::new(to_inner(bytes_per_second)), changes: Arc::new(watch::Sender::new(())) }
    }
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.inner.set_speed_limit(to_inner(bytes_per_second));
        self.changes.send_replace(());
    }
    /// Bytes per second, if capped.
    pub fn get(&self) -> Option<u64> {
        let limit = self.inner.speed_limit();
        limit.is_finite().then_some(limit as u64)
    }
    /// Waits until `bytes` may pass. Call with chunks (up to about 1 MiB), not with whole files.
    pub async fn take(&self, bytes: usize) {
        let mut changes = self.changes.subscribe();
        let mut wait = self.inner.consume_duration(bytes);
        while wait > Duration::ZERO {
            tokio::select! {
                () = tokio::time::sleep(wait) => return,
                // What is owed is paid at the new rate.
                changed = changes.changed() => match changed {
                    Ok(()) => wait = self.inner.consume_duration(0),
                    Err(_) => return,
                }
            }
        }
    }
}

fn to_inner(limit: Option<u64>) -> f64 {
    limit.map_or(f64::INFINITY, |l| l.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cap of a byte per second would be waited for for days.
    #[tokio::test]
    async fn who_waits_follows_a_faster_cap() {
        let limiter = Limiter::new(Some(1));
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.take(1 << 20).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        limiter.set(None);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it went on").unwrap();
        assert_eq!(limiter.get(), None);
        limiter.take(1 << 30).await;
    }
}
