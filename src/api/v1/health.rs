//! Is the process alive, and can it work? For watchdogs and load balancers; neither needs a token.

use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::super::Tag;
use super::tasks::example_time;
use crate::desk::overview::{Overview, Time};
use crate::model::task::NodeType;

/// The process is alive.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Health {
    /// Always `ok`: a process that is not well enough to say so says nothing.
    pub status: String,
    /// Of the program; `/version` has the protocol's.
    pub version: String,
    /// What the node is.
    pub role: NodeType,
    /// When the process began.
    pub started_at: Time,
    /// Seconds since then.
    pub uptime_seconds: u64,
}

impl Example for Health {
    fn example() -> Self {
        Self {
            status: "ok".into(),
            version: "2.1.0".into(),
            role: NodeType::Receiver,
            started_at: example_time(0),
            uptime_seconds: 3600,
        }
    }
}

/// Whether the node can take work.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Readiness {
    /// Every check is good.
    pub ready: bool,
    /// What was looked at.
    pub checks: Vec<ReadinessCheck>,
}

impl Example for Readiness {
    fn example() -> Self {
        Self { ready: true, checks: vec![ReadinessCheck::example()] }
    }
}

/// One look.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct ReadinessCheck {
    /// `database`, `conductor` or `room`.
    pub name: String,
    /// Good or not.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Example for ReadinessCheck {
    fn example() -> Self {
        Self { name: "database".into(), ok: true, detail: "it can be read and written".into() }
    }
}

/// Ready or not, with the same body.
#[derive(ApiResponse)]
enum Ready {
    /// The node can take work.
    #[oai(status = 200)]
    Yes(Json<Readiness>),
    /// It cannot: a check says why.
    #[oai(status = 503)]
    No(Json<Readiness>),
}

pub(in crate::api) struct HealthApi;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Service")]
impl HealthApi {
    /// Is the process alive?
    ///
    /// Answered on a busy node too, and without a token.
    #[oai(path = "/health", method = "get", operation_id = "health")]
    async fn health(&self, overview: Data<&Overview>) -> Json<Health> {
        let uptime = overview.clock.now().signed_duration_since(overview.started_at).num_seconds();
        Json(Health {
            status: "ok".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            role: overview.role(),
            started_at: overview.started_at,
            uptime_seconds: u64::try_from(uptime).unwrap_or(0),
        })
    }

    /// Can the node take work?
    ///
    /// Looks at the database, the conductor and the free room. Needs no token.
    #[oai(path = "/ready", method = "get", operation_id = "ready")]
    async fn ready(&self, overview: Data<&Overview>) -> Ready {
        let checks: Vec<_> = overview.readiness().await;
        let ready = checks.iter().all(|c| c.ok);
        let checks = checks.into_iter().map(|c| ReadinessCheck { name: c.name.into(), ok: c.ok, detail: c.detail }).collect();
        let body = Json(Readiness { ready, checks });
        if ready { Ready::Yes(body) } else { Ready::No(body) }
    }
}
