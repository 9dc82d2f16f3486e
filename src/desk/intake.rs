//! Intake by file drop: a task file that appears in `receiver/queues` is received as if `recv` had named it.
//!
//! The directory is looked at every two seconds rather than watched: that works on every file system, and a file must be
//! quiet for a while anyway before it can be taken for complete.

use super::{Desk, Reply};
use crate::model::endpoint::shown;
use crate::model::ids::TaskName;
use crate::model::task::{Role, TaskState};
use crate::store::events::Level;
use crate::views::{self, Found, Mending};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_secs(2);
/// Views are compared with the rows at the start, and every so many looks.
const LOOKS_PER_MENDING: u32 = 5;

/// Looks until stopped.
pub async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    let mut seen: HashSet<Found> = HashSet::new();
    let mut refused: HashSet<Found> = HashSet::new();
    let mut mending = Mending::default();
    let mut look = 0u32;
    loop {
        if look.is_multiple_of(LOOKS_PER_MENDING)
            && let Err(fault) = mending.round(&desk.store, &desk.dirs).await
        {
            tracing::warn!(%fault, "cannot compare the task directories with the tasks");
        }
        look = look.wrapping_add(1);
        let dirs = desk.dirs.clone();
        let found = tokio::task::spawn_blocking(move || views::found_in_queue(&dirs)).await.unwrap_or_default();
        refused.retain(|f| found.contains(f));
        for file in &found {
            // Unchanged since the last look: whoever wrote it is done.
            if seen.contains(file) && !refused.contains(file) && desk.is_foreign(file).await && !desk.take_dropped(file).await {
                refused.insert(file.clone());
            }
        }
        seen = found.into_iter().collect();
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Desk {
    /// Not the view of a task that is queued, nor one that is about to move on.
    async fn is_foreign(&self, file: &Found) -> bool {
        let Some(name) = file.path.file_name().and_then(|n| n.to_str()).and_then(|n| TaskName::parse(n).ok()) else {
            return false;
        };
        match self.store.task_by_name(Role::Recv, &name).await {
            Ok(None) => true,
            Ok(Some(row)) => row.state != TaskState::Queues && row.exported >= row.revision,
            Err(_) => false,
        }
    }

    async fn take_dropped(&self, file: &Found) -> bool {
        let path = file.path.display().to_string();
        let mut reply = self.take_in(&path, false, "drop").await.unwrap_or_else(Reply::from);
        if !reply.ok && !file.path.exists() {
            return true; // it was the view of a task that moved on just now
        }
        // Addresses may be signed: what stays in files and the database shows them without their query.
        reply.desc = reply
            .desc
            .split(' ')
            .map(|w| if w.starts_with("http") { shown(w) } else { w.to_owned() })
            .collect::<Vec<_>>()
            .join(" ");
        let mut err = file.path.clone().into_os_string();
        err.push(".err");
        let err = std::path::PathBuf::from(err);
        let name = file.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if reply.ok {
            let _ = views::remove(&err);
            return true;
        }
        tracing::warn!(path, desc = reply.desc, "a dropped task file was refused");
        self.event(Level::Error, "drop", &name, &reply.desc).await;
        if let Err(fault) = views::write_file(&err, format!("{}\n", reply.desc).as_bytes()) {
            tracing::warn!(%fault, "cannot write the error beside the dropped task file");
        }
        false
    }
}
