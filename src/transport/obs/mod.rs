//! Object storage: uploads that survive restarts, reads of one version of each object, or a plain directory in their stead.
//!
//! A package file is one object, `<prefix>/<path>`; a part of a file that was split has an object of its own,
//! `<prefix>/<path>.span-<offset>-<len>`. Objects carry the SHA-1 that the task promises as metadata, so that a file that
//! is already in the bucket is recognised and not sent again, and an upload whose last reply was lost is recognised as done.
//!
//! Fetching is the shared range scheduler ([`super::ranged`]) over a source that reads one version of each object: its
//! ETag is noted on first sight and every range must come from it. Without that, an object replaced during a download
//! gives a file that is half old, half new.
//!
//! Reading, listing and deleting go through opendal; uploading does not (`client.rs` says why).

mod answer;
mod client;
mod directory;
mod frontier;
mod location;
mod multipart;
mod source;
mod span_source;
mod unfinished;
mod upload;

pub use location::{Credentials, EndpointFrom, ObsLocation};

use super::ranged::{RangedOptions, fetch_ranges};
use super::retry::{Policy, with_retries};
use super::{Checkpoints, FetchJob, FileMeta, Outcome, PublishJob, Transport};
use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::model::span::{Method, Span};
use bytes::Bytes;
use client::Bucket;
use directory::Directory;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use unfinished::Uploads;

/// How a leg talks to its store.
#[derive(Clone, Debug)]
pub struct ObsOptions {
    /// Uploads in flight at a time: parts and small files together.
    pub parallel: usize,
    /// Bytes per part; `None` chooses by the file's size.
    pub part_size: Option<u64>,
    /// Files (and spans) of fewer bytes go up in one request, from memory.
    pub small: u64,
    /// Publishing uploads. Otherwise the package lies in the store already, and is only looked for.
    pub upload: bool,
    pub retry: Policy,
    pub connect_timeout: Duration,
    /// Fetching. Its `period` is also the longest wait for any answer, and the longest time in which no byte of an
    /// upload moves.
    pub ranged: RangedOptions,
    /// Connect here instead of where the name service says: a store behind a name that does not resolve here.
    pub resolve: Option<SocketAddr>,
}

impl Default for ObsOptions {
    fn default() -> Self {
        Self {
            parallel: 3,
            part_size: None,
            small: 8 << 20,
            upload: true,
            retry: Policy::default(),
            connect_timeout: Duration::from_secs(15),
            ranged: RangedOptions::default(),
            resolve: None,
        }
    }
}

/// How the keys of notes about uploads begin.
pub const UPLOAD_NOTES: &str = "upload:";

/// One version of one object, as the store describes it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entity {
    size: u64,
    /// With its quotation marks; for a directory store a text that changes with the file.
    etag: String,
    /// Of the object, from its metadata.
    sha1: Option<String>,
    /// Of the file that the object is a part of, from its metadata.
    file_sha1: Option<String>,
}

impl Entity {
    /// The object holds exactly these bytes of the file, by its metadata.
    fn is(&self, file: &FileMeta, span: &Span) -> bool {
        let noted = if is_whole(file, span) { &self.sha1 } else { &self.file_sha1 };
        self.size == span.len && noted.as_deref().is_some_and(|h| Sha1::from_hex(h).is_ok_and(|h| h == file.sha1))
    }
}

/// An object opened for reading.
enum Opened {
    Bytes(BoxStream<'static, Result<Bytes, Fault>>),
    /// It is not the version that was asked for.
    Changed,
}

/// Where the objects are.
enum ObjectStore {
    Bucket(Box<Bucket>),
    Directory(Directory),
}

impl ObjectStore {
    async fn stat(&self, key: &str) -> Result<Option<Entity>, Fault> {
        match self {
            Self::Bucket(b) => b.stat(key).await,
            Self::Directory(d) => d.stat(key).await,
        }
    }
    async fn open(&self, key: &str, entity: &Entity, range: Range<u64>) -> Result<Opened, Fault> {
        match self {
            Self::Bucket(b) => b.open(key, entity, range).await,
            Self::Directory(d) => d.open(key, entity, range).await,
        }
    }
    async fn delete(&self, key: &str) -> Result<(), Fault> {
        match self {
            Self::Bucket(b) => b.delete(key).await,
            Self::Directory(d) => d.delete(key).await,
        }
    }
}

fn is_whole(file: &FileMeta, span: &Span) -> bool {
    span.offset == 0 && span.len == file.size
}

/// The object of a span.
fn object_key(location: &ObsLocation, file: &FileMeta, span: &Span) -> Result<String, Fault> {
    let mut key = location.key(&file.path);
    if !is_whole(file, span) {
        key.push_str(&format!(".span-{}-{}", span.offset, span.len));
    }
    let rule = if key.len() > 1024 {
        "object storage allows 1024 bytes"
    } else if key.trim() != key {
        "object storage takes no names that begin or end with white space"
    } else {
        return Ok(key);
    };
    Err(Fault::permanent(format!("{} cannot be an object: {rule}", file.path)).file(&file.path))
}

fn file_of<'a>(files: &'a [FileMeta], span: &Span) -> Result<&'a FileMeta, Fault> {
    let file = files.get(span.file as usize).filter(|f| span.offset.checked_add(span.len).is_some_and(|end| end <= f.size));
    file.ok_or_else(|| Fault::permanent(format!("a part of file {} lies outside the package", span.file)))
}

/// One leg over object storage.
pub struct ObsTransport {
    location: ObsLocation,
    options: ObsOptions,
    store: Arc<ObjectStore>,
    /// Spans that have objects, where they are not those of the job.
    objects: Vec<Span>,
}

impl ObsTransport {
    /// Does not touch the network.
    pub fn new(location: ObsLocation, options: ObsOptions) -> Result<Self, Fault> {
        let store = match Bucket::new(&location, &options)? {
            Some(bucket) => ObjectStore::Bucket(Box::new(bucket)),
            None => ObjectStore::Directory(Directory::new(&location)?),
        };
        Ok(Self { location, options, store: Arc::new(store), objects: Vec::new() })
    }

    /// The spans that the sender uploaded: parts of them may be fetched.
    pub fn objects(mut self, spans: Vec<Span>) -> Self {
        self.objects = spans;
        self
    }

    /// Whether the store answers and takes the keys: lists a place where nothing is.
    pub async fn probe(&self) -> Result<(), Fault> {
        match &*self.store {
            ObjectStore::Bucket(b) => b.sizes("bft2-doctor").await.map(drop),
            ObjectStore::Directory(d) => d.probe().await,
        }
    }

    /// How many bytes of these spans are in the store, by the sizes of their objects.
    pub async fn uploaded_bytes(&self, files: &[FileMeta], spans: &[Span]) -> Result<u64, Fault> {
        let (mut bytes, never) = (0, CancellationToken::new());
        self.look(files, spans, &never, |span, there| bytes += if there { span.len } else { 0 }).await?;
        Ok(bytes)
    }

    /// Tells of each span whether it is in the store, by the sizes of the objects. A whole file's object counts for its
    /// parts too: a bucket that is itself the library has no others. `None`: stopped.
    async fn look(
        &self,
        files: &[FileMeta],
        spans: &[Span],
        stop: &CancellationToken,
        mut tell: impl FnMut(&Span, bool) + Send,
    ) -> Result<Option<()>, Fault> {
        let listed = match &*self.store {
            ObjectStore::Directory(_) => None,
            ObjectStore::Bucket(b) => {
                let list = with_retries(self.options.retry, stop, || b.sizes(&self.location.prefix)).await;
                let Some(sizes) = list.transpose()? else { return Ok(None) };
                Some(sizes)
            }
        };
        let size = async |key: &str| match &listed {
            Some(sizes) => Ok(sizes.get(key).copied()),
            None => self.store.stat(key).await.map(|e| e.map(|e| e.size)),
        };
        for span in spans {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let file = file_of(files, span)?;
            let there = size(&object_key(&self.location, file, span)?).await? == Some(span.len)
                || (!is_whole(file, span) && size(&self.location.key(&file.path)).await? == Some(file.size));
            tell(span, there);
        }
        Ok(Some(()))
    }

    /// Publishing without uploading: a mounted bucket may show a file here some time before it is an object, so what is
    /// missing is looked for again.
    async fn look_for(&self, job: &PublishJob) -> Result<Outcome, Fault> {
        let mut missing: Option<(u32, usize)> = None;
        let tell = |span: &Span, there| match there {
            true => job.ctx.counters.add_done(span.len),
            false => missing = Some(missing.map_or((span.file, 1), |(first, n)| (first, n + 1))),
        };
        if self.look(&job.files, &job.spans, &job.ctx.stop, tell).await?.is_none() {
            return Ok(Outcome::Stopped);
        }
        let Some((first, n)) = missing else {
            job.ctx.counters.set_ready(true);
            return Ok(Outcome::Done);
        };
        let path = job.files.get(first as usize).map(|f| f.path.clone());
        let name = path.as_ref().map_or_else(String::new, ToString::to_string);
        let more = if n > 1 { format!(" ({n} like this)") } else { String::new() };
        let fault = Fault::transient(format!(
            "{name}{more} is not in the object storage with its size ({}), and this node does not upload (machinetype hwecs, \
             or datasource obs): put it there",
            self.location.url()
        ));
        Err(path.iter().fold(fault, |fault, path| fault.file(path)))
    }

    /// Gives up the unfinished uploads that these notes speak of (their keys begin with [`UPLOAD_NOTES`]). The notes of those
    /// that the store does not give up now stay.
    pub async fn give_up(&self, notes: &[String], checkpoints: &dyn Checkpoints) -> Result<(), Fault> {
        let mut all = Ok(());
        for note in notes {
            let given_up = match (&*self.store, note.strip_prefix(UPLOAD_NOTES)) {
                (ObjectStore::Bucket(bucket), Some(key)) => self.uploads(bucket, checkpoints).give_up(key).await,
                _ => checkpoints.remove(note).await,
            };
            // One that stays for now keeps none of the others.
            all = all.and(given_up);
        }
        all
    }

    fn uploads<'a>(&'a self, bucket: &'a Bucket, checkpoints: &'a dyn Checkpoints) -> Uploads<'a> {
        Uploads { bucket, location: &self.location, options: &self.options, checkpoints }
    }

    /// Deletes the objects of these spans and their unfinished uploads, which a store would keep (and charge for) for ever.
    pub async fn delete_all(&self, files: &[FileMeta], spans: &[Span], checkpoints: &dyn Checkpoints) -> Result<(), Fault> {
        let never = CancellationToken::new();
        for span in spans {
            let file = file_of(files, span)?;
            let key = object_key(&self.location, file, span)?;
            if let ObjectStore::Bucket(bucket) = &*self.store {
                self.uploads(bucket, checkpoints).forget(&key).await;
            }
            let deleted = with_retries(self.options.retry, &never, || self.store.delete(&key)).await;
            deleted.unwrap_or(Ok(())).map_err(|f| f.file(&file.path))?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Transport for ObsTransport {
    fn method(&self) -> Method {
        Method::Obs
    }

    async fn fetch(&self, job: FetchJob) -> Result<Outcome, Fault> {
        let within = |s: &Span| self.objects.iter().any(|o| o.file == s.file && o.offset <= s.offset && s.end() <= o.end());
        let other = job.spans.iter().filter(|s| !within(s));
        let spans: Vec<Span> = self.objects.iter().chain(other).copied().collect();
        let source = span_source::SpanSource::new(
            Arc::clone(&self.store),
            self.location.clone(),
            Arc::clone(&job.files),
            &spans,
            Arc::clone(&job.ctx.checkpoints),
        );
        fetch_ranges(&job, Arc::new(source), &self.options.ranged).await
    }

    async fn publish(&self, job: PublishJob) -> Result<Outcome, Fault> {
        job.ctx.counters.set_ready(false);
        if !self.options.upload {
            return self.look_for(&job).await;
        }
        let upload = upload::Upload::new(&self.store, &self.location, &self.options, &job);
        let parallel = self.options.parallel.max(1);
        let mut spans = futures::stream::iter(job.spans.iter().copied().map(|span| upload.span(span))).buffer_unordered(parallel);
        let mut outcome = Outcome::Done;
        while let Some(ended) = spans.try_next().await? {
            if ended == Outcome::Stopped {
                outcome = Outcome::Stopped;
            }
        }
        if outcome == Outcome::Done {
            job.ctx.counters.set_ready(true);
        }
        Ok(outcome)
    }
}
