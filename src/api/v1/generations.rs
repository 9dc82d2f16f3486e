//! gentask jobs, with how far they are.

use poem::web::Data;
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};

use super::super::Tag;
use super::page::{Page, Wanted, default_limit};
use super::problem::Failed;
use super::tasks::{count, example_time};
use crate::desk::overview::{GenerationListed, Overview, Time, local_time};

/// Where a gentask job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "lowercase")]
pub enum GenerationState {
    /// It waits for its turn.
    Queued,
    /// It hashes.
    Running,
    /// Task file and torrents are there.
    Finished,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A gentask job: the newest one of each task file.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Generation {
    /// Its number.
    pub id: i64,
    /// The package's directory.
    pub dcppath: String,
    /// The task file that it makes.
    pub taskfile: String,
    /// Where it stands.
    pub state: GenerationState,
    /// Of `sends`: `wanted`, `sent` or `refused`; else empty.
    pub send: String,
    /// Bytes of the package.
    pub bytes_total: u64,
    /// Bytes that are hashed.
    pub bytes_done: u64,
    /// Why it failed; else empty.
    pub error: String,
    /// When it was asked for.
    pub created_at: Time,
    /// When it ended.
    pub finished_at: Option<Time>,
}

impl Example for Generation {
    fn example() -> Self {
        Self {
            id: 4,
            dcppath: "/data/dcp/cfec-001/dcps/xiaofang".into(),
            taskfile: "/data/sender/tmp/cfec-001-xiaofang.task.json".into(),
            state: GenerationState::Finished,
            send: "sent".into(),
            bytes_total: 668_521_472,
            bytes_done: 668_521_472,
            error: String::new(),
            created_at: example_time(0),
            finished_at: Some(example_time(3)),
        }
    }
}

impl From<GenerationListed> for Generation {
    fn from(g: GenerationListed) -> Self {
        let state = match g.state.as_str() {
            "queued" => GenerationState::Queued,
            "running" => GenerationState::Running,
            "finished" => GenerationState::Finished,
            "cancelled" => GenerationState::Cancelled,
            _ => GenerationState::Failed,
        };
        Self {
            id: g.id,
            dcppath: g.dcppath,
            taskfile: g.taskfile,
            state,
            send: g.send,
            bytes_total: count(g.bytes_total),
            bytes_done: count(g.bytes_done),
            error: g.error,
            created_at: local_time(g.created_at),
            finished_at: g.finished_at.map(local_time),
        }
    }
}

pub(in crate::api) struct GenerationsApi;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Tasks")]
impl GenerationsApi {
    /// List gentask jobs
    ///
    /// Newest first.
    #[oai(path = "/generations", method = "get", operation_id = "listGenerations")]
    async fn list(
        &self,
        overview: Data<&Overview>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<Generation>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        let rows = overview.store.list_generations(wanted.after_number()?, wanted.rows()).await?;
        Ok(Json(wanted.page(rows, |g| g.id.to_string(), Generation::from)))
    }
}
