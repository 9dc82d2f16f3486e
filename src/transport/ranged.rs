//! Fetching spans as parallel byte ranges: the part that HTTP-like methods (`obs`, `cdn`) share.

use crate::error::Fault;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::ops::Range;

/// A place that serves byte ranges of the job's files.
#[async_trait::async_trait]
pub trait RangeSource: Send + Sync {
    /// Opens one range of one file (index into the job's files). The stream yields exactly the range's bytes or a
    /// [`Fault`]; checks of identity (ETag, Last-Modified, total) and of the answer's own claims happen inside.
    async fn open(&self, file: u32, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault>;
}
