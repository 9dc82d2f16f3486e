//! `cdn`: plain HTTP(S) downloads from `<cdnurl>/dcp/<basesubdir>/dcps/<name>/<file>`.
//!
//! Parallel ranges, see [`super::ranged`]. What a CDN may do wrong is checked on the answer itself ([`answer`]): many
//! edges answer a conditional `If-Range` with a whole 200 whatever the ETag, so a plain Range is sent and the 206's
//! Content-Range, total, ETag and Last-Modified are compared with what was asked and what was seen before ([`source`]).
//! Bytes that an edge has flipped cannot be seen here: the assembly's digest finds them.
//!
//! Publishing means looking: the origin (or the CDN in front of it) must serve every file with the right size.

mod answer;
mod source;

use super::ranged::{RangedOptions, fetch_ranges};
use super::retry::{Policy, with_retries};
use super::{FetchJob, Outcome, PublishJob, Transport};
use crate::error::Fault;
use crate::model::span::Method;
use futures::{StreamExt as _, TryStreamExt as _};
use source::{Origin, Source};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How a CDN leg behaves.
#[derive(Clone, Debug)]
pub struct CdnOptions {
    pub ranged: RangedOptions,
    pub connect_timeout: Duration,
    /// The longest silence of a server within an answer.
    pub read_timeout: Duration,
    /// For each file that [`Transport::publish`] looks at.
    pub check_retry: Policy,
}

impl Default for CdnOptions {
    fn default() -> Self {
        Self {
            ranged: RangedOptions::default(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            check_retry: Policy { tries: 3, ..Policy::default() },
        }
    }
}

/// Files looked at in parallel by [`Transport::publish`].
const CHECKS: usize = 4;

/// One package on a CDN.
pub struct CdnTransport {
    origin: Arc<Origin>,
    options: CdnOptions,
}

impl CdnTransport {
    /// `base` is the package's URL, `<cdnurl>/dcp/<basesubdir>/dcps/<name>`; http and https only.
    pub fn new(base: Url, options: CdnOptions) -> Result<Self, Fault> {
        let origin = Arc::new(Origin::new(base, options.connect_timeout, options.read_timeout)?);
        Ok(Self { origin, options })
    }
}

#[async_trait::async_trait]
impl Transport for CdnTransport {
    fn method(&self) -> Method {
        Method::Cdn
    }

    async fn fetch(&self, job: FetchJob) -> Result<Outcome, Fault> {
        let source = Arc::new(Source::new(Arc::clone(&self.origin), &job));
        fetch_ranges(&job, source, &self.options.ranged).await
    }

    /// Sets `ready` and returns [`Outcome::Done`] when every file of the spans is served with the right size and, where
    /// receivers will need it, by ranges.
    async fn publish(&self, job: PublishJob) -> Result<Outcome, Fault> {
        let files: BTreeSet<u32> = job.spans.iter().map(|s| s.file).collect();
        let checks = futures::stream::iter(files).map(|i| {
            let (job, stop) = (&job, &job.ctx.stop);
            async move {
                let Some(file) = job.files.get(i as usize) else {
                    return Err(Fault::permanent(format!("{}: no file {i} in the package", job.ctx.task)));
                };
                let by_range = file.size > self.options.ranged.segment;
                let check = with_retries(self.options.check_retry, stop, || self.origin.check(file, by_range)).await;
                check.unwrap_or(Ok(()))
            }
        });
        checks.buffer_unordered(CHECKS).try_collect::<()>().await?;
        if job.ctx.stop.is_cancelled() {
            return Ok(Outcome::Stopped);
        }
        job.ctx.counters.set_ready(true);
        Ok(Outcome::Done)
    }
}
