//! What the node was at its last start.

use super::{Store, db_fault};
use crate::error::Fault;

/// What a hash table depends on, as the configuration spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    pub servertype: String,
    pub receiverstoreplan: String,
}

impl Store {
    /// `None` before the first start.
    pub async fn node(&self) -> Result<Option<NodeRow>, Fault> {
        let row: Option<(String, String)> = sqlx::query_as("SELECT servertype, receiverstoreplan FROM node")
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok(row.map(|(servertype, receiverstoreplan)| NodeRow { servertype, receiverstoreplan }))
    }

    /// The last time that the service believed (milliseconds since the epoch), if there was one.
    pub async fn seen_at(&self) -> Result<Option<i64>, Fault> {
        let at: Option<i64> =
            sqlx::query_scalar("SELECT seen_at FROM node").fetch_optional(&self.readers).await.map_err(db_fault)?;
        Ok(at.filter(|at| *at > 0))
    }

    /// Notes that the service believes this time.
    pub async fn note_seen_at(&self, now_ms: i64) -> Result<(), Fault> {
        sqlx::query("UPDATE node SET seen_at = ?").bind(now_ms).execute(&self.writer).await.map_err(db_fault)?;
        Ok(())
    }

    /// Notes what the node is now.
    pub async fn put_node(&self, node: &NodeRow, now_ms: i64) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO node (id, servertype, receiverstoreplan, since) VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
             servertype = excluded.servertype, receiverstoreplan = excluded.receiverstoreplan, since = excluded.since",
        )
        .bind(&node.servertype)
        .bind(&node.receiverstoreplan)
        .bind(now_ms)
        .execute(&self.writer)
        .await
        .map_err(db_fault)?;
        Ok(())
    }
}
