//! The requests of a multipart upload, and the note by which a later run goes on where this one stopped.
//!
//! The note names the upload and the file's size and time: an upload is continued only from the file that began it.
//! Which parts are there is asked of the store (ListParts), not remembered; what is remembered is which of them were
//! checked against their MD5 here, so that after a crash at most the few parts in flight are read again.
//!
//! The note is made before the store is asked to begin: whenever the answer does not reach us (the line breaks, the process
//! is killed, the task is cancelled), the upload is found in the store's list of unfinished ones.

use super::answer::Refusal;
use super::client::{Ask, Bucket, etag_of, query_value};
use super::source::{BLOCK, SourceFile, blocking};
use crate::error::Fault;
use crate::model::ranges::RangeSet;
use crate::transport::{Checkpoints, LegContext};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Method};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The stores' limit.
const MAX_PARTS: u64 = 10_000;
const MIB: u64 = 1 << 20;

/// An upload that has begun, or was asked for, as the leg remembers it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Empty until the store has told it.
    pub upload_id: String,
    /// It was asked for more than once, so there may be another one.
    #[serde(default)]
    pub unsure: bool,
    /// When it was asked for, in ms since the Unix epoch.
    #[serde(default)]
    pub asked_ms: i64,
    /// Store and bucket.
    pub place: String,
    pub part_size: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub sha1: String,
    /// Part numbers whose MD5 was compared, as [`RangeSet`] text.
    pub checked: String,
    /// Parts from the first one on that the digest has passed, and its midstate in hex.
    pub digested: u64,
    pub midstate: String,
}

impl Note {
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The store was asked to begin, and no answer came.
    pub fn is_unanswered(&self) -> bool {
        self.upload_id.is_empty()
    }
}

pub(super) fn note_key(key: &str) -> String {
    format!("{}{key}", super::UPLOAD_NOTES)
}

pub(super) async fn load_note(checkpoints: &dyn Checkpoints, key: &str) -> Result<Option<Note>, Fault> {
    let text = checkpoints.load(&note_key(key)).await?;
    Ok(text.and_then(|t| serde_json::from_str(&t).map_err(|e| tracing::warn!(key, %e, "unreadable note of an upload")).ok()))
}

pub(super) async fn save_note(checkpoints: &dyn Checkpoints, key: &str, note: &Note) -> Result<(), Fault> {
    let text = serde_json::to_string(note).map_err(|e| Fault::local("cannot note an upload").detail(e))?;
    checkpoints.save(&note_key(key), &text).await
}

/// Bytes per part: small enough that a restart repeats little, large enough for the limit of parts.
pub(super) fn part_size(size: u64, asked: Option<u64>) -> u64 {
    let usual = match size {
        0..=0xF_FFFF_FFFF => 16 * MIB,               // below 64 GiB: at most 4,096 parts
        0x10_0000_0000..=0x3F_FFFF_FFFF => 32 * MIB, // below 256 GiB: at most 8,192
        _ => 64 * MIB,
    };
    let least = size.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB;
    asked.unwrap_or(usual).max(if size > asked.unwrap_or(usual).saturating_mul(MAX_PARTS) { least } else { 1 })
}

/// The bytes of part `n` (from 1) within `span`.
pub(super) fn part_range(span: &Range<u64>, part_size: u64, n: u64) -> Range<u64> {
    let start = span.start.saturating_add((n - 1).saturating_mul(part_size)).min(span.end);
    start..start.saturating_add(part_size).min(span.end)
}

pub(super) async fn initiate(bucket: &Bucket, key: &str, meta: &[(HeaderName, String)], doing: &str) -> Result<String, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Initiated {
        upload_id: String,
    }
    let mut ask = Ask::new(Method::POST, key, "uploads").header(CONTENT_TYPE, "application/octet-stream").body(0, "");
    for (name, value) in meta {
        ask = ask.header(name.clone(), value);
    }
    let text = bucket.ask_text(ask, doing).await?.map_err(|r| r.fault(doing))?;
    let initiated: Initiated = quick_xml::de::from_str(&text).map_err(|e| unreadable(doing, e))?;
    Ok(initiated.upload_id)
}

fn unreadable(doing: &str, e: impl std::fmt::Display) -> Fault {
    Fault::transient(format!("{doing}: the store's answer cannot be read")).detail(e)
}

/// A part that the store has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Part {
    pub part_number: u64,
    /// Some stores list a part that broke off, without an ETag.
    #[serde(default, rename = "ETag")]
    pub etag: String,
    pub size: u64,
}

/// The parts that the store has; `None` when it does not know the upload.
pub(super) async fn list_parts(bucket: &Bucket, key: &str, id: &str, doing: &str) -> Result<Option<BTreeMap<u64, Part>>, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Page {
        #[serde(default, rename = "Part")]
        parts: Vec<Part>,
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        next_part_number_marker: Option<u64>,
    }
    let mut found = BTreeMap::new();
    let mut marker = 0;
    loop {
        let query = format!("part-number-marker={marker}&uploadId={}", query_value(id));
        let page: Page = match bucket.ask_text(Ask::new(Method::GET, key, query), doing).await? {
            Ok(text) => quick_xml::de::from_str(&text).map_err(|e| unreadable(doing, e))?,
            Err(r) if r.is_lost_upload() => return Ok(None),
            Err(r) => return Err(r.fault(doing)),
        };
        let next = page.next_part_number_marker.or_else(|| page.parts.last().map(|p| p.part_number)).unwrap_or(0);
        found.extend(page.parts.into_iter().filter(|p| !p.etag.is_empty()).map(|mut p| {
            p.etag = p.etag.trim_matches('"').to_owned();
            (p.part_number, p)
        }));
        if !page.is_truncated {
            return Ok(Some(found));
        }
        if next <= marker {
            return Err(unreadable(doing, "a list of parts that does not advance"));
        }
        marker = next;
    }
}

/// How a request that may find its upload gone ended.
pub(super) enum Sent<T> {
    Ok(T),
    /// The store does not know the upload: aborted by someone, or completed.
    LostUpload,
}

/// Sends one part from the file; its ETag.
pub(super) async fn put_part(
    bucket: &Bucket,
    (key, id, n): (&str, &str, u64),
    (source, range): (&SourceFile, Range<u64>),
    ctx: &LegContext,
    doing: &str,
) -> Result<Sent<String>, Fault> {
    let query = format!("partNumber={n}&uploadId={}", query_value(id));
    let body = FileBody::new(source, range.clone(), ctx);
    let pace = Arc::clone(&body.pace);
    let md5 = Arc::clone(&body.md5);
    let failed = Arc::clone(&body.failed);
    let ask = Ask::new(Method::PUT, key, query).body(range.end - range.start, reqwest::Body::wrap_stream(body.into_stream()));
    let answer = tokio::select! {
        answer = bucket.send(ask, doing) => answer,
        () = pace.stalled(bucket.patience) => Err(Fault::transient(format!("{doing}: no byte moved for {} s", bucket.patience.as_secs()))),
    };
    // A file that cannot be read shows up as a broken connection: its own words are better.
    if let Some(fault) = failed.get() {
        return Err(fault.clone());
    }
    let response = match answer? {
        super::client::Answer::Ok(r) => r,
        super::client::Answer::Refused(r) if r.is_lost_upload() => return Ok(Sent::LostUpload),
        super::client::Answer::Refused(r) => return Err(r.fault(doing)),
    };
    let etag = etag_of(response.headers()).to_owned();
    let sent = md5.get().map(String::as_str).unwrap_or_default();
    check_etag(response.headers(), sent, doing)?;
    Ok(Sent::Ok(etag))
}

/// A part's ETag is its MD5, unless the store encrypts with keys of its own.
pub(super) fn check_etag(headers: &HeaderMap, md5: &str, doing: &str) -> Result<(), Fault> {
    let encrypted = ["x-obs-server-side-encryption", "x-amz-server-side-encryption"]
        .iter()
        .any(|h| headers.get(*h).is_some_and(|v| v.as_bytes() != b"AES256"));
    let etag = etag_of(headers);
    if encrypted || etag.eq_ignore_ascii_case(md5) {
        return Ok(());
    }
    Err(Fault::transient(format!("{doing}: the store received other bytes than were sent"))
        .detail(format!("ETag {etag}, MD5 {md5}")))
}

/// Asks the store to join the parts. A refusal is a value: it may mean that it was done before.
pub(super) async fn complete(
    bucket: &Bucket,
    key: &str,
    id: &str,
    etags: &BTreeMap<u64, String>,
    doing: &str,
) -> Result<Result<(), Refusal>, Fault> {
    let mut xml = String::from("<CompleteMultipartUpload>");
    for (n, etag) in etags {
        let etag = quick_xml::escape::escape(etag);
        xml.push_str(&format!("<Part><PartNumber>{n}</PartNumber><ETag>\"{etag}\"</ETag></Part>"));
    }
    xml.push_str("</CompleteMultipartUpload>");
    let ask = Ask::new(Method::POST, key, format!("uploadId={}", query_value(id)))
        .header(CONTENT_TYPE, "application/xml")
        .body(xml.len() as u64, xml);
    match bucket.ask_text(ask, doing).await? {
        // S3 stores may find out after they have said 200.
        Ok(text) if text.contains("<Error>") => Err(Fault::transient(format!("{doing}: the store could not join the parts"))),
        Ok(_) => Ok(Ok(())),
        Err(r) => Ok(Err(r)),
    }
}

/// Watches that bytes move while a part is sent.
#[derive(Default)]
struct Pace {
    moved: AtomicU64,
    /// Waiting for our own rate cap: not the store's fault.
    capped: AtomicBool,
    /// The last block was handed over.
    all_given: AtomicBool,
}

impl Pace {
    async fn stalled(&self, patience: Duration) {
        let mut quiet = 0;
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            tokio::time::sleep(patience).await;
            let moved = self.moved.load(Ordering::Relaxed) != before || self.capped.load(Ordering::Relaxed);
            quiet = if moved { 0 } else { quiet + 1 };
            // The kernel holds megabytes of what was handed over: on a slow line they take minutes to leave.
            if quiet >= if self.all_given.load(Ordering::Relaxed) { 10 } else { 1 } {
                return;
            }
        }
    }
}

/// Pieces of a second's worth, where a cap makes them smaller than a block, and their least size.
const PIECES: u64 = 8;
const SMALLEST: u64 = 4 << 10;

/// A part's bytes on their way from the file: one block at a time, digested as they pass, held back by the rate cap.
struct FileBody {
    source: SourceFile,
    at: u64,
    end: u64,
    ctx: LegContext,
    digest: Md5,
    md5: Arc<OnceLock<String>>,
    failed: Arc<OnceLock<Fault>>,
    pace: Arc<Pace>,
}

impl FileBody {
    fn new(source: &SourceFile, range: Range<u64>, ctx: &LegContext) -> Self {
        Self {
            source: source.clone(),
            at: range.start,
            end: range.end,
            ctx: ctx.clone(),
            digest: Md5::new(),
            md5: Arc::default(),
            failed: Arc::default(),
            pace: Arc::default(),
        }
    }

    fn into_stream(self) -> BoxStream<'static, Result<Bytes, Fault>> {
        let failed = Arc::clone(&self.failed);
        futures::stream::try_unfold(self, |body| body.next()).inspect_err(move |f| _ = failed.set(f.clone())).boxed()
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Fault> {
        if self.at >= self.end {
            return Ok(None);
        }
        // Under a low cap in small pieces: a store closes a connection on which nothing comes for some seconds.
        let most = self.ctx.limiter.get().map_or(BLOCK, |cap| (cap / PIECES).clamp(SMALLEST, BLOCK));
        let (this, block) = blocking(move || {
            let end = self.end.min(self.at + most);
            let block = self.source.read_block(self.at..end)?;
            self.digest.update(&block);
            self.at = end;
            if end == self.end {
                // Known before the last byte leaves: the answer cannot come earlier.
                _ = self.md5.set(hex::encode(std::mem::take(&mut self.digest).finalize()));
            }
            Ok((self, block))
        })
        .await?;
        this.pace.capped.store(true, Ordering::Relaxed);
        this.ctx.limiter.take(block.len()).await;
        this.pace.capped.store(false, Ordering::Relaxed);
        this.pace.moved.fetch_add(1, Ordering::Relaxed);
        this.pace.all_given.store(this.at >= this.end, Ordering::Relaxed);
        this.ctx.counters.add_wire(block.len() as u64);
        Ok(Some((block, this)))
    }
}

/// The part numbers of a note.
pub(super) fn checked_parts(note: &Note) -> RangeSet {
    RangeSet::from_text(&note.checked).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_the_limits_for_any_size() {
        for size in [1, 5 * MIB, 8 * MIB, 300 << 30, 64 << 30, (64 << 30) - 1, 256 << 30, 1 << 40, 48 << 40] {
            let part = part_size(size, None);
            assert!((16 * MIB..=5 << 30).contains(&part), "{size}: {part}");
            assert!(size.div_ceil(part) <= MAX_PARTS, "{size}: {part}");
        }
        assert_eq!(part_size(10 * MIB, Some(MIB)), MIB);
        assert_eq!(part_size(MAX_PARTS * MIB + 1, Some(MIB)), 2 * MIB);
    }

    #[test]
    fn parts_cover_the_span_without_gaps() {
        let span = 7..1007;
        let parts: Vec<_> = (1..=4).map(|n| part_range(&span, 300, n)).collect();
        assert_eq!(parts, [7..307, 307..607, 607..907, 907..1007]);
    }
}
