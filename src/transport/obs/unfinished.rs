//! Unfinished uploads that nobody goes on with: found by their notes, or in the store's list, and given up.

use super::client::{Answer, Ask, Bucket, query_value};
use super::multipart::{Note, load_note, note_key};
use super::{ObsLocation, ObsOptions};
use crate::error::Fault;
use crate::transport::Checkpoints;
use chrono::{DateTime, TimeDelta, Utc};
use http::Method;
use serde::Deserialize;

/// Stores refuse requests whose time differs from theirs by more than this (15 minutes).
const SKEW: TimeDelta = TimeDelta::minutes(15);
/// So long a request that we gave up may be on its way to the store.
const UNDER_WAY: TimeDelta = TimeDelta::seconds(30);

/// What knows a leg's uploads by their notes.
#[derive(Clone, Copy)]
pub(super) struct Uploads<'a> {
    pub bucket: &'a Bucket,
    pub location: &'a ObsLocation,
    pub options: &'a ObsOptions,
    pub checkpoints: &'a dyn Checkpoints,
}

const GIVING_UP: &str = "cannot give up an unfinished upload";

impl Uploads<'_> {
    /// Gives up an upload that nobody goes on with: stores keep its parts for ever otherwise. A store that does not answer now
    /// is not waited for: the note stays, and it is asked again when the leg has ended.
    pub async fn forget(self, key: &str) {
        if let Err(f) = self.give_up(key).await {
            tracing::warn!(key, fault = %f, detail = f.detail, "an unfinished upload stays in the bucket for now");
        }
    }

    /// The same, for who can wait: the note stays as long as the upload does.
    pub async fn give_up(self, key: &str) -> Result<(), Fault> {
        if self.abort(key).await? {
            return self.checkpoints.remove(&note_key(key)).await;
        }
        Err(Fault::transient(format!("an unfinished upload of {key} may be beginning still: it is looked for again")))
    }

    /// The upload is complete, or lost. One that was asked for twice may have been begun twice.
    pub async fn close(self, key: &str) -> Result<(), Fault> {
        match load_note(self.checkpoints, key).await? {
            Some(note) if note.unsure => self.forget(key).await,
            _ => self.checkpoints.remove(&note_key(key)).await?,
        }
        Ok(())
    }

    /// For who begins anew with a note in this one's place: a store that does not answer now would keep it for ever. What the
    /// keys may not do stops nobody. `false`: it may come into being yet.
    pub async fn make_way(self, key: &str) -> Result<bool, Fault> {
        match self.abort(key).await {
            Err(f) if !f.is_transient() => {
                tracing::warn!(key, fault = %f, detail = f.detail, "an unfinished upload stays in the bucket");
                Ok(true)
            }
            gone => gone,
        }
    }

    /// Gives up what the note speaks of. An upload that the store does not know (any more) is as good as given up. `false`: it
    /// may come into being yet.
    pub async fn abort(self, key: &str) -> Result<bool, Fault> {
        let Some(note) = load_note(self.checkpoints, key).await? else { return Ok(true) };
        let there;
        let bucket = if note.place == self.location.place() {
            self.bucket
        } else {
            // Sent again with another bucket. Another host must not get what these keys sign.
            let Some(bucket) = self.location.beside(&note.place).map(|at| Bucket::new(&at, self.options)).transpose()?.flatten()
            else {
                tracing::warn!(key, place = note.place, "an unfinished upload may stay in another store");
                return Ok(true);
            };
            there = bucket;
            &there
        };
        if !note.is_unanswered() {
            abort_one(bucket, key, &note.upload_id).await?;
            if !note.unsure {
                return Ok(true);
            }
        }
        let asked = DateTime::from_timestamp_millis(note.asked_ms).unwrap_or_default();
        let ids = match begun_since(bucket, key, asked - SKEW).await {
            Ok(ids) => ids,
            Err(fault) if fault.is_transient() => return Err(fault),
            // The key may have no right to list them, or the store no such request.
            Err(fault) => {
                tracing::warn!(key, %fault, detail = fault.detail, "an unfinished upload may stay in the bucket");
                return Ok(true);
            }
        };
        // Another task sends the same package: what it has begun is no business of this one.
        let others = self.checkpoints.of_others(&note_key(key)).await?;
        let theirs = |id: &String| others.iter().filter_map(|text| Note::parse(text)).any(|note| note.upload_id == *id);
        let ids: Vec<String> = ids.into_iter().filter(|id| !theirs(id)).collect();
        for id in &ids {
            abort_one(bucket, key, id).await?;
        }
        Ok(!ids.is_empty() || (Utc::now() - asked).abs() > UNDER_WAY)
    }
}

async fn abort_one(bucket: &Bucket, key: &str, id: &str) -> Result<(), Fault> {
    let ask = Ask::new(Method::DELETE, key, format!("uploadId={}", query_value(id)));
    match bucket.ask(ask, GIVING_UP).await? {
        Answer::Refused(r) if r.is_lost_upload() => Ok(()),
        answer => answer.or_fault(GIVING_UP).map(drop),
    }
}

/// The unfinished uploads of exactly this key that were begun at that time or later (of one key at most a page of 1,000:
/// it comes first of those that begin like it).
async fn begun_since(bucket: &Bucket, key: &str, since: DateTime<Utc>) -> Result<Vec<String>, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct List {
        #[serde(default, rename = "Upload")]
        uploads: Vec<Unfinished>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Unfinished {
        key: String,
        upload_id: String,
        initiated: DateTime<Utc>,
    }
    const DOING: &str = "cannot list the bucket's unfinished uploads";
    let ask = Ask::new(Method::GET, "", format!("prefix={}&uploads", query_value(key)));
    let text = bucket.ask_text(ask, DOING).await?.map_err(|r| r.fault(DOING))?;
    let unreadable = |e| Fault::permanent(format!("{DOING}: the store's answer cannot be read")).detail(e);
    let list: List = quick_xml::de::from_str(&text).map_err(unreadable)?;
    let ours = list.uploads.into_iter().filter(|u| u.key == key && u.initiated >= since);
    Ok(ours.map(|u| u.upload_id).collect())
}
