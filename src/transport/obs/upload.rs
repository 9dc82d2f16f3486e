//! Uploading one span: look whether it is there, send it (whole or in parts), look again.

use super::client::{Ask, Bucket, FILE_SHA1, SHA1};
use super::frontier::Frontier;
use super::multipart::{self, Note, Sent};
use super::source::{SourceFile, blocking, changed};
use super::unfinished::Uploads;
use super::{ObjectStore, ObsLocation, ObsOptions, file_of, is_whole, object_key};
use crate::error::Fault;
use crate::model::span::Span;
use crate::transport::retry::with_retries;
use crate::transport::{FileMeta, LegContext, Outcome, PublishJob};
use base64::Engine as _;
use futures::{StreamExt as _, TryStreamExt as _};
use http::Method;
use http::header::HeaderName;
use md5::{Digest as _, Md5};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::{Mutex, Semaphore};

/// One run of a publishing leg.
pub(super) struct Upload<'a> {
    store: &'a ObjectStore,
    location: &'a ObsLocation,
    options: &'a ObsOptions,
    files: &'a [FileMeta],
    root: &'a Path,
    ctx: &'a LegContext,
    /// Bounds what is in flight over all files: memory and connections.
    slots: Semaphore,
}

/// An upload under way.
struct Begun {
    note: Note,
    /// Of the parts that are there and right, by number.
    etags: BTreeMap<u64, String>,
    frontier: Frontier,
}

impl Begun {
    /// Whole files only: a part of a file has no digest to compare with.
    async fn digest(&mut self, object: &Object<'_>) -> Result<(), Fault> {
        if is_whole(object.file, &object.span) {
            self.frontier.follow(&object.source, &object.span.range(), &mut self.note, &self.etags).await?;
        }
        Ok(())
    }
}

/// One object to be made.
struct Object<'a> {
    file: &'a FileMeta,
    span: Span,
    key: String,
    source: SourceFile,
    doing: String,
}

impl<'a> Upload<'a> {
    pub fn new(store: &'a ObjectStore, location: &'a ObsLocation, options: &'a ObsOptions, job: &'a PublishJob) -> Self {
        let slots = Semaphore::new(options.parallel.max(1));
        Self { store, location, options, files: &job.files, root: &job.root, ctx: &job.ctx, slots }
    }

    /// Makes sure that the span is in the store.
    pub async fn span(&self, span: Span) -> Result<Outcome, Fault> {
        let file = file_of(self.files, &span)?;
        let done = async {
            let key = object_key(self.location, file, &span)?;
            let source = SourceFile::open(self.root, &file.path, file.size).await?;
            let doing = format!("cannot upload {} to {}", file.path, self.location.url());
            let object = Object { file, span, key, source, doing };
            match self.store {
                ObjectStore::Bucket(bucket) => self.to_bucket(bucket, &object).await,
                ObjectStore::Directory(directory) => {
                    // One file at a time: a disk gains nothing from several.
                    let Some(_slot) = self.stopped_or(self.slots.acquire_many(self.options.parallel.max(1) as u32)).await else {
                        return Ok(None);
                    };
                    directory.put(&object.key, file, &span, &object.source, self.ctx).await
                }
            }
        };
        if self.ctx.stop.is_cancelled() {
            return Ok(Outcome::Stopped);
        }
        match done.await {
            Ok(Some(())) => Ok(Outcome::Done),
            Ok(None) => Ok(Outcome::Stopped),
            Err(f) if f.is_transient() && self.ctx.stop.is_cancelled() => Ok(Outcome::Stopped),
            Err(f) => Err(if f.file.is_some() { f } else { f.file(&file.path) }),
        }
    }

    fn uploads<'b>(&'b self, bucket: &'b Bucket) -> Uploads<'b> {
        Uploads { bucket, location: self.location, options: self.options, checkpoints: &*self.ctx.checkpoints }
    }

    async fn stopped_or<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! { v = work => Some(v), () = self.ctx.stop.cancelled() => None }
    }

    /// `None`: stopped. The same in the functions below.
    async fn to_bucket(&self, bucket: &Bucket, object: &Object<'_>) -> Result<Option<()>, Fault> {
        let Some(there) = self.is_there(bucket, object).await? else { return Ok(None) };
        if there {
            self.uploads(bucket).forget(&object.key).await;
            self.ctx.counters.add_done(object.span.len);
            return Ok(Some(()));
        }
        let sent = if object.span.len < self.options.small {
            self.small(bucket, object).await?
        } else {
            self.large(bucket, object).await?
        };
        if sent.is_none() {
            return Ok(None);
        }
        match self.is_there(bucket, object).await? {
            Some(true) => Ok(Some(())),
            Some(false) => {
                Err(Fault::transient(format!("{}: the store does not show it with the right size and SHA-1", object.doing)))
            }
            None => Ok(None),
        }
    }

    /// The object is there with the right size and metadata.
    async fn is_there(&self, bucket: &Bucket, object: &Object<'_>) -> Result<Option<bool>, Fault> {
        let look = || async { Ok(bucket.stat(&object.key).await?.is_some_and(|e| e.is(object.file, &object.span))) };
        with_retries(self.options.retry, &self.ctx.stop, look).await.transpose()
    }

    fn meta(&self, bucket: &Bucket, object: &Object<'_>) -> Vec<(HeaderName, String)> {
        let name = if is_whole(object.file, &object.span) { SHA1 } else { FILE_SHA1 };
        vec![(bucket.meta(name), object.file.sha1.to_string())]
    }

    /// One request from memory, its MD5 sent along and its ETag compared.
    async fn small(&self, bucket: &Bucket, object: &Object<'_>) -> Result<Option<()>, Fault> {
        let Some(_slot) = self.stopped_or(self.slots.acquire()).await else { return Ok(None) };
        let (source, range) = (object.source.clone(), object.span.range());
        let body = blocking(move || source.read_block(range)).await?;
        if is_whole(object.file, &object.span) && sha1::Sha1::digest(&body).as_slice() != object.file.sha1.0 {
            return Err(changed(&object.file.path, "its SHA-1 differs"));
        }
        object.source.check().await?;
        let md5: [u8; 16] = Md5::digest(&body).into();
        let content_md5 = base64::engine::general_purpose::STANDARD.encode(md5);
        let attempt = || async {
            self.ctx.limiter.take(body.len()).await;
            let mut ask = Ask::new(Method::PUT, &object.key, "")
                .header(HeaderName::from_static("content-md5"), &content_md5)
                .header(http::header::CONTENT_TYPE, "application/octet-stream")
                .body(body.len() as u64, body.clone());
            for (name, value) in self.meta(bucket, object) {
                ask = ask.header(name, &value);
            }
            self.ctx.counters.add_wire(body.len() as u64);
            // At the lowest rate that is no stall, eight MiB take longer than one answer.
            let patience = bucket.patience * 10;
            let sent = tokio::time::timeout(patience, bucket.send(ask, &object.doing)).await;
            let sent = sent.map_err(|_| Fault::transient(format!("{}: the store did not answer in time", object.doing)))?;
            let response = sent?.or_fault(&object.doing)?;
            multipart::check_etag(response.headers(), &hex::encode(md5), &object.doing)
        };
        let sent = with_retries(self.options.retry, &self.ctx.stop, attempt).await.transpose()?;
        if sent.is_some() {
            self.ctx.counters.add_done(object.span.len);
        }
        Ok(sent)
    }

    async fn large(&self, bucket: &Bucket, object: &Object<'_>) -> Result<Option<()>, Fault> {
        // Twice: an upload that someone aborted meanwhile is begun anew once.
        for _ in 0..2 {
            let Some(begun) = self.begin(bucket, object).await? else { return Ok(None) };
            let sent = match self.parts(bucket, object, begun).await {
                Ok(sent) => sent,
                Err(f) => {
                    if object.source.check().await.is_err() {
                        self.uploads(bucket).forget(&object.key).await;
                    }
                    return Err(f);
                }
            };
            match sent {
                None => return Ok(None),
                Some(Sent::Ok(())) => {
                    self.uploads(bucket).close(&object.key).await?;
                    return Ok(Some(()));
                }
                Some(Sent::LostUpload) => {
                    self.uploads(bucket).close(&object.key).await?;
                    // Completed by somebody else: a node that was set up from a copy of this one.
                    match self.is_there(bucket, object).await? {
                        Some(false) => {}
                        there => return Ok(there.map(drop)),
                    }
                }
            }
        }
        Err(Fault::transient(format!("{}: the store has dropped the unfinished upload", object.doing)))
    }

    /// Continues the upload that an earlier run began, or begins one. Gives the note and the ETags of the parts that are
    /// there and known to be right.
    async fn begin(&self, bucket: &Bucket, object: &Object<'_>) -> Result<Option<Begun>, Fault> {
        let checkpoints = &*self.ctx.checkpoints;
        let (place, stamp) = (self.location.place(), object.source.stamp);
        let (mut asked, mut doubted) = (None, None);
        if let Some(note) = multipart::load_note(checkpoints, &object.key).await? {
            let same = note.place == place
                && (note.size, note.mtime_ns) == (stamp.size, stamp.mtime_ns)
                && note.sha1 == object.file.sha1.to_string()
                && note.part_size > 0;
            if !same {
                // The note's place is needed.
                let make_way = || self.uploads(bucket).make_way(&object.key);
                match with_retries(self.options.retry, &self.ctx.stop, make_way).await.transpose()? {
                    None => return Ok(None),
                    Some(gone) => doubted = (!gone).then_some(note.asked_ms),
                }
            } else if note.is_unanswered() {
                asked = Some(note);
            } else {
                let list = || multipart::list_parts(bucket, &object.key, &note.upload_id, &object.doing);
                match with_retries(self.options.retry, &self.ctx.stop, list).await.transpose()? {
                    None => return Ok(None),
                    Some(Some(parts)) => {
                        let etags = self.confirm(object, &note, parts).await?;
                        let frontier = Frontier::from_note(&note);
                        return Ok(Some(Begun { note, etags, frontier }));
                    }
                    // Gone: begin anew.
                    Some(None) => doubted = note.unsure.then_some(note.asked_ms),
                }
            }
        }
        // Of what is asked for a second time the first one may be there.
        let (again, unsure) = (AtomicBool::new(asked.is_some()), AtomicBool::new(false));
        let mut note = asked.unwrap_or_else(|| Note {
            upload_id: String::new(),
            unsure: doubted.is_some(),
            asked_ms: doubted.unwrap_or_else(|| chrono::Utc::now().timestamp_millis()),
            place,
            part_size: multipart::part_size(object.span.len, self.options.part_size),
            size: stamp.size,
            mtime_ns: stamp.mtime_ns,
            sha1: object.file.sha1.to_string(),
            checked: String::new(),
            digested: 0,
            midstate: String::new(),
        });
        multipart::save_note(checkpoints, &object.key, &note).await?;
        let meta = self.meta(bucket, object);
        let initiate = || async {
            if again.swap(true, Relaxed) && !self.uploads(bucket).abort(&object.key).await? {
                unsure.store(true, Relaxed); // the request may be under way still
            }
            multipart::initiate(bucket, &object.key, &meta, &object.doing).await
        };
        let Some(upload_id) = with_retries(self.options.retry, &self.ctx.stop, initiate).await.transpose()? else {
            return Ok(None);
        };
        note.upload_id = upload_id;
        note.unsure |= unsure.into_inner();
        multipart::save_note(checkpoints, &object.key, &note).await?;
        Ok(Some(Begun { note, etags: BTreeMap::new(), frontier: Frontier::default() }))
    }

    /// Of the parts that the store lists, those that are right. The ones whose reply did not reach us are read again here.
    async fn confirm(
        &self,
        object: &Object<'_>,
        note: &Note,
        parts: BTreeMap<u64, multipart::Part>,
    ) -> Result<BTreeMap<u64, String>, Fault> {
        let checked = multipart::checked_parts(note);
        let mut good = BTreeMap::new();
        for (n, part) in parts {
            let range = multipart::part_range(&object.span.range(), note.part_size, n.max(1));
            if n == 0 || range.is_empty() || part.size != range.end - range.start {
                continue;
            }
            if !checked.contains(&(n..n + 1)) && !object.source.md5(range.clone()).await?.eq_ignore_ascii_case(&part.etag) {
                continue;
            }
            self.ctx.counters.add_done(part.size);
            good.insert(n, part.etag);
        }
        Ok(good)
    }

    /// Sends what is missing, then completes.
    async fn parts(&self, bucket: &Bucket, object: &Object<'_>, begun: Begun) -> Result<Option<Sent<()>>, Fault> {
        let part_size = begun.note.part_size;
        let count = object.span.len.div_ceil(part_size).max(1);
        let missing: Vec<u64> = (1..=count).filter(|n| !begun.etags.contains_key(n)).collect();
        let upload_id = begun.note.upload_id.clone();
        let begun = Mutex::new(begun);
        let send = |n| {
            let range = multipart::part_range(&object.span.range(), part_size, n);
            self.part(bucket, object, (&upload_id, n, range), &begun)
        };
        let mut sending = futures::stream::iter(missing.into_iter().map(send)).buffer_unordered(self.options.parallel.max(1));
        while let Some(sent) = sending.try_next().await? {
            match sent {
                Some(Sent::Ok(())) => {}
                other => return Ok(other),
            }
        }
        drop(sending);
        let mut begun = begun.into_inner();
        begun.digest(object).await?;
        object.source.check().await?;
        if is_whole(object.file, &object.span) && begun.frontier.sha1() != object.file.sha1.0 {
            self.uploads(bucket).forget(&object.key).await;
            return Err(changed(&object.file.path, "its SHA-1 differs"));
        }
        self.complete(bucket, object, &upload_id, &begun.etags).await
    }

    async fn part(
        &self,
        bucket: &Bucket,
        object: &Object<'_>,
        (upload_id, n, range): (&str, u64, Range<u64>),
        begun: &Mutex<Begun>,
    ) -> Result<Option<Sent<()>>, Fault> {
        let broke = AtomicBool::new(false);
        let attempt = || async {
            // Alone after a break: of parts that share a line which breaks again and again none would ever be whole.
            let alone = broke.swap(true, Relaxed);
            let _slots = self.slots.acquire_many(if alone { self.options.parallel.max(1) as u32 } else { 1 }).await;
            object.source.check().await?;
            let (part, from) = ((object.key.as_str(), upload_id, n), (&object.source, range.clone()));
            multipart::put_part(bucket, part, from, self.ctx, &object.doing).await
        };
        match with_retries(self.options.retry, &self.ctx.stop, attempt).await.transpose()? {
            None => Ok(None),
            Some(Sent::LostUpload) => Ok(Some(Sent::LostUpload)),
            Some(Sent::Ok(etag)) => {
                self.ctx.counters.add_done(range.end - range.start);
                let mut begun = begun.lock().await;
                begun.etags.insert(n, etag);
                begun.digest(object).await?;
                let mut checked = multipart::checked_parts(&begun.note);
                checked.insert(n..n + 1);
                begun.note.checked = checked.to_text();
                multipart::save_note(&*self.ctx.checkpoints, &object.key, &begun.note).await?;
                Ok(Some(Sent::Ok(())))
            }
        }
    }

    /// Completes the upload. Whenever the answer leaves a doubt (none came, a proxy's page came, the upload is unknown),
    /// the object itself says whether it was done.
    async fn complete(
        &self,
        bucket: &Bucket,
        object: &Object<'_>,
        id: &str,
        etags: &BTreeMap<u64, String>,
    ) -> Result<Option<Sent<()>>, Fault> {
        let attempt = || async {
            let doubt = match multipart::complete(bucket, &object.key, id, etags, &object.doing).await {
                Ok(Ok(())) => return Ok(Sent::Ok(())),
                Ok(Err(refused)) if refused.is_lost_upload() => None,
                Ok(Err(refused)) if refused.is_bad_upload() => {
                    tracing::warn!(object.key, detail = refused.detail, "the store refuses the parts: uploading anew");
                    // The store has other parts than we think: begin anew.
                    self.uploads(bucket).make_way(&object.key).await?;
                    return Ok(Sent::LostUpload);
                }
                Ok(Err(refused)) => Some(refused.fault(&object.doing)),
                Err(fault) => Some(fault),
            };
            // A refusal for good needs no second look.
            let doubt = match doubt {
                Some(fault) if !fault.is_transient() => return Err(fault),
                other => other,
            };
            let there = bucket.stat(&object.key).await?.is_some_and(|e| e.is(object.file, &object.span));
            match doubt {
                _ if there => Ok(Sent::Ok(())),
                None => Ok(Sent::LostUpload),
                Some(fault) => Err(fault),
            }
        };
        with_retries(self.options.retry, &self.ctx.stop, attempt).await.transpose()
    }
}
