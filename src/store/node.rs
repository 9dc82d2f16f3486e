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

    /// What the clock showed when it was looked at last (milliseconds since the epoch), believed or not.
    pub async fn clock_at(&self) -> Result<Option<i64>, Fault> {
        let at: Option<i64> = sqlx::query_scalar("SELECT CASE WHEN clock_at > 0 THEN clock_at ELSE seen_at END FROM node")
            .fetch_optional(&self.readers)
            .await
            .map_err(db_fault)?;
        Ok(at.filter(|at| *at > 0))
    }

    /// Notes what the clock shows, and whether the service believes it.
    pub async fn note_clock(&self, now_ms: i64, believed: bool) -> Result<(), Fault> {
        sqlx::query("UPDATE node SET clock_at = ?1, seen_at = CASE WHEN ?2 THEN ?1 ELSE seen_at END")
            .bind(now_ms)
            .bind(believed)
            .execute(&self.writer)
            .await
            .map_err(db_fault)?;
        Ok(())
    }

    /// The clock was set by so much: seed times go on for as long as they would have. Tasks that were accepted in the last
    /// `fresh_ms` were accepted by the new clock. One transaction with what the clock shows now, so that no step counts
    /// twice.
    pub async fn shift_seed_times(&self, by_ms: i64, fresh_ms: i64, now_ms: i64) -> Result<(), Fault> {
        let mut tx = self.begin().await?;
        // What would last for millions of years stays.
        sqlx::query(
            "UPDATE tasks SET seed_until = seed_until + ?1 WHERE seed_until < 1000000000000000000 AND state <> 'history' \
             AND NOT created_at BETWEEN ?2 AND ?3",
        )
        .bind(by_ms)
        .bind(now_ms.saturating_sub(fresh_ms))
        .bind(now_ms)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        sqlx::query("UPDATE node SET clock_at = ?").bind(now_ms).execute(&mut *tx).await.map_err(db_fault)?;
        tx.commit().await.map_err(db_fault)
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
