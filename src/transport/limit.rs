//! Rate caps in bytes per second that can be changed while transfers run.

use async_speed_limit::Limiter as Inner;
use async_speed_limit::clock::StandardClock;

/// One method's cap, shared by all its legs. Cheap to clone.
#[derive(Clone)]
pub struct Limiter(Inner<StandardClock>);

impl Limiter {
    /// `None` is unlimited.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self(Inner::new(to_inner(bytes_per_second)))
    }
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.0.set_speed_limit(to_inner(bytes_per_second));
    }
    /// Bytes per second, if capped.
    pub fn get(&self) -> Option<u64> {
        let limit = self.0.speed_limit();
        limit.is_finite().then_some(limit as u64)
    }
    /// Waits until `bytes` may pass. Call with chunks (up to about 1 MiB), not with whole files.
    pub async fn take(&self, bytes: usize) {
        self.0.consume(bytes).await;
    }
}

fn to_inner(limit: Option<u64>) -> f64 {
    limit.map_or(f64::INFINITY, |l| l.max(1) as f64)
}
