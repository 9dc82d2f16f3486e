//! Views that somebody removed or edited are written again (protocol section 4).

use super::area::Guard;
use super::{Queued, RECEIVER, SENDER, TaskDirs, holds, queued, remove_for_good};
use crate::clock::{ctime_ns, mtime_ns};
use crate::error::Fault;
use crate::model::task::{Role, TaskState};
use crate::store::Store;
use crate::store::tasks::TaskRow;
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// How a view looked when it was found good: its task's revision, then size, inode and times; `None`: it is not there.
type Look = (i64, Option<FileLook>);
type FileLook = (u64, u64, i64, i64);

/// Looks after the views of tasks that are not over. What lies in a `history` is for people to keep or to clear away.
#[derive(Default)]
pub struct Mending {
    good: HashMap<i64, Look>,
    /// Files in the queue that are none of ours and no task files.
    broken: HashMap<i64, Look>,
}

impl Mending {
    /// Writes what differs from the rows. Costs a look at each file, and reads those that look new.
    pub async fn round(&mut self, store: &Store, dirs: &TaskDirs) -> Result<(), Fault> {
        if dirs.there().is_err() {
            return Ok(());
        }
        let area = dirs.guard(store).await?;
        let live = store.live_tasks().await?;
        self.good.retain(|id, _| live.iter().any(|t| t.id == *id));
        self.broken.retain(|id, _| live.iter().any(|t| t.id == *id));
        // One that is behind is exported by the conductor.
        for task in live.into_iter().filter(|t| t.exported >= t.revision) {
            let path = dirs.path(task.role, task.state, &task.name);
            if self.good.get(&task.id) == Some(&look(&task, &path)) {
                continue;
            }
            let _one = dirs.one.lock().await;
            // It may have moved on meanwhile.
            let row = store.task(task.id).await?;
            let Some(row) = row.filter(|r| r.revision == task.revision && r.exported >= r.revision) else { continue };
            let document = store.task_document(row.id).await?;
            // Before it is read: what is changed after that looks different at the next round.
            let seen = look(&row, &path);
            let before = self.broken.remove(&task.id);
            let still = before.filter(|look| *look == seen).and_then(|(_, file)| file);
            let (dirs, area) = (dirs.clone(), area.clone());
            let mended = tokio::task::spawn_blocking(move || mend(&dirs, &area, &row, &document, still))
                .await
                .map_err(|e| Fault::local(format!("looking at the task directories: {e}")))?;
            match mended {
                Ok(Mended::Now) => {
                    tracing::warn!(view = %path.display(), "a view was removed or changed: it is as its task is again")
                }
                Ok(Mended::Later) => {
                    self.broken.insert(task.id, seen);
                }
                Ok(Mended::Good) => {
                    self.good.insert(task.id, seen);
                }
                Err(fault) => tracing::warn!(%fault, "cannot mend a view; trying again"),
            }
        }
        Ok(())
    }
}

fn look(task: &TaskRow, path: &Path) -> Look {
    let meta = path.symlink_metadata().ok();
    (task.revision, meta.map(|m| (m.len(), m.ino(), mtime_ns(&m), ctime_ns(&m))))
}

/// What was found.
enum Mended {
    Good,
    /// Something was wrong.
    Now,
    /// It is to be looked at again, whether it looks new or not.
    Later,
}

/// Where a view was moved to by hand it goes, save from the receiver's queue: a file there is an intake. `still`: a file in the
/// queue that looks as it did at the round before.
fn mend(dirs: &TaskDirs, area: &Guard, row: &TaskRow, document: &str, still: Option<FileLook>) -> Result<Mended, Fault> {
    let here = dirs.path(row.role, row.state, &row.name);
    if holds(&here, document.as_bytes()) {
        return Ok(Mended::Good);
    }
    if row.role == Role::Recv && row.state == TaskState::Queues {
        // Another task that somebody put into the queue under this name: the intake tells them. What is no task file may
        // be one on its way, until it is as it was at the round before.
        let is_still = |at: &Path| {
            // Its ctime changes when it is exchanged.
            let as_it_was = |m: &Metadata| still.is_some_and(|s| (s.0, s.1, s.2) == (m.len(), m.ino(), mtime_ns(m)));
            at.symlink_metadata().is_ok_and(|m| as_it_was(&m))
        };
        let ours = |at: &Path| match queued(at, document) {
            Queued::Another => false,
            Queued::Broken => is_still(at),
            Queued::Ours | Queued::Nothing => true,
        };
        if !dirs.put_into_queue(area, &here, document, ours)? {
            return Ok(if queued(&here, document) == Queued::Broken { Mended::Later } else { Mended::Good });
        }
    } else {
        dirs.put(area, &here, document.as_bytes())?;
    }
    let states: &[&str] = if row.role == Role::Send { &SENDER } else { &RECEIVER };
    for dir in states.iter().filter(|d| row.role == Role::Send || **d != TaskState::Queues.dir()) {
        let other = dirs.root(row.role).join(dir).join(row.name.as_str());
        if other != here {
            remove_for_good(&other)?;
        }
    }
    Ok(Mended::Now)
}
