//! The job's files as byte ranges of objects, each of one version.

use super::{Entity, ObjectStore, ObsLocation, Opened, is_whole, object_key};
use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::model::span::Span;
use crate::transport::ranged::RangeSource;
use crate::transport::{Checkpoints, FileMeta};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a span's bytes are.
#[derive(Clone)]
struct Place {
    key: String,
    /// The file's offset of the object's first byte.
    start: u64,
    entity: Entity,
}

type Slot = Arc<tokio::sync::Mutex<Option<Place>>>;

pub(super) struct SpanSource {
    store: Arc<ObjectStore>,
    location: ObsLocation,
    files: Arc<[FileMeta]>,
    /// The spans of each file that have objects, in order.
    spans: HashMap<u32, Vec<Span>>,
    checkpoints: Arc<dyn Checkpoints>,
    places: Mutex<HashMap<Span, Slot>>,
}

impl SpanSource {
    pub fn new(
        store: Arc<ObjectStore>,
        location: ObsLocation,
        files: Arc<[FileMeta]>,
        spans: &[Span],
        checkpoints: Arc<dyn Checkpoints>,
    ) -> Self {
        let mut by_file: HashMap<u32, Vec<Span>> = HashMap::new();
        for span in spans {
            by_file.entry(span.file).or_default().push(*span);
        }
        by_file.values_mut().for_each(|s| s.sort());
        Self { store, location, files, spans: by_file, checkpoints, places: Mutex::default() }
    }

    fn span_of(&self, file: u32, range: &Range<u64>) -> Option<(&FileMeta, Span)> {
        let spans = self.spans.get(&file)?;
        let last = spans.partition_point(|s| s.offset <= range.start).checked_sub(1)?;
        let span = spans.get(last).filter(|s| range.end <= s.end())?;
        Some((self.files.get(file as usize)?, *span))
    }

    /// The span's place, looked up once per run.
    async fn place(&self, file: &FileMeta, span: &Span, changed: Option<&Place>) -> Result<Place, Fault> {
        let slot = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(*span).or_default())
        };
        let mut slot = slot.lock().await;
        let known = slot.take().filter(|p| changed.is_none_or(|c| c.entity != p.entity));
        let place = match known {
            Some(place) => place,
            None => self.find(file, span).await?,
        };
        Ok(slot.insert(place).clone())
    }

    /// The span's own object; where there is none, the whole file's.
    async fn find(&self, file: &FileMeta, span: &Span) -> Result<Place, Fault> {
        let key = object_key(&self.location, file, span)?;
        if let Some(entity) = self.store.stat(&key).await? {
            return self.fix(file, Place { key, start: span.offset, entity }, span.len).await;
        }
        let url = self.location.url();
        let missing = || Fault::permanent(format!("{} is not in the object storage ({url}): upload it again", file.path));
        if is_whole(file, span) {
            return Err(missing().file(&file.path));
        }
        let key = self.location.key(&file.path);
        let entity = self.store.stat(&key).await?.ok_or_else(|| missing().file(&file.path))?;
        self.fix(file, Place { key, start: 0, entity }, file.size).await
    }

    /// Accepts the version that was noted before, or the first one seen, or another one that carries the right SHA-1.
    async fn fix(&self, file: &FileMeta, place: Place, size: u64) -> Result<Place, Fault> {
        let other = |what: &str| Err(Fault::corrupt(format!("{}: {what}", file.path)).file(&file.path));
        if place.entity.size != size {
            return other(&format!("the object has {} bytes instead of {size}", place.entity.size));
        }
        let noted_sha1 = place.entity.sha1.as_ref().filter(|_| size == file.size).or(place.entity.file_sha1.as_ref());
        let right = noted_sha1.and_then(|h| Sha1::from_hex(h).ok()).map(|h| h == file.sha1);
        if right == Some(false) {
            return other("the object is another version of the file (its SHA-1 differs)");
        }
        let note_key = format!("entity:{}/{}", self.location.place(), place.key);
        let noted = self.checkpoints.load(&note_key).await?;
        let noted: Option<Entity> = noted.and_then(|t| serde_json::from_str(&t).ok());
        match noted {
            Some(noted) if noted == place.entity => return Ok(place),
            Some(_) if right != Some(true) => return other("the object was replaced since its download began"),
            _ => {}
        }
        let text = serde_json::to_string(&place.entity).map_err(|e| Fault::local("cannot note an object").detail(e))?;
        self.checkpoints.save(&note_key, &text).await?;
        Ok(place)
    }
}

#[async_trait::async_trait]
impl RangeSource for SpanSource {
    async fn open(&self, file: u32, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        let Some((meta, span)) = self.span_of(file, &range) else {
            return Err(Fault::permanent(format!("a part of file {file} is not among those to fetch")));
        };
        let named = |f: Fault| f.file(&meta.path);
        let mut changed: Option<Place> = None;
        for _ in 0..2 {
            let place = self.place(meta, &span, changed.as_ref()).await.map_err(named)?;
            let within = range.start - place.start..range.end - place.start;
            match self.store.open(&place.key, &place.entity, within).await.map_err(named)? {
                Opened::Bytes(bytes) => return Ok(bytes),
                Opened::Changed => changed = Some(place),
            }
        }
        Err(Fault::transient(format!("{}: the object changes while it is read", meta.path)).file(&meta.path))
    }
}
