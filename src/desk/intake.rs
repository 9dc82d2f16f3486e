//! Intake by file drop: a task file that appears in `receiver/queues` is received as if `recv` had named it.
//!
//! The directory is looked at every two seconds rather than watched: that works on every file system, and a file must be
//! quiet for a while anyway before it can be taken for complete. One that is refused stays, with the reason in `.err` beside
//! it. When nothing speaks against the task but this machine or the moment (no network, a store that is not mounted, another
//! reception of the package), it is tried again; else it waits for somebody to change it, also over a restart.

use super::Desk;
use super::recv::DROP;
use crate::clock::mtime_ns;
use crate::model::endpoint::shown;
use crate::model::ids::TaskName;
use crate::model::task::{Role, TaskState};
use crate::store::events::Level;
use crate::views::{self, Found, Mending, Queued};
use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_secs(2);
/// Views are compared with the rows at the start, and every so many looks.
const LOOKS_PER_MENDING: u32 = 5;
/// Until a drop is tried again for the first time, and at most; it doubles.
const SOONEST: Duration = Duration::from_secs(10);
const LATEST: Duration = Duration::from_secs(300);
/// The last line of the `.err` of one that is tried again. Also read, at a start.
const TRIED_AGAIN: &str = "It is tried again every few minutes.";
/// What can be no task file is told at a look at most so often: somebody may have unpacked a tree there.
const ODD_PER_LOOK: usize = 20;

/// What became of a file that lies in the queue.
enum Standing {
    /// The view of a task that waits.
    View,
    /// Until it is changed.
    Refused,
    Later {
        at: Instant,
        wait: Duration,
        why: String,
    },
}

/// Looks until stopped.
pub async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    let mut mending = Mending::default();
    let mut intake = Intake::default();
    let mut look = 0u32;
    loop {
        if look.is_multiple_of(LOOKS_PER_MENDING)
            && let Err(fault) = mending.round(&desk.store, &desk.dirs).await
        {
            tracing::warn!(%fault, "cannot compare the task directories with the tasks");
        }
        look = look.wrapping_add(1);
        intake.look(&desk).await;
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[derive(Default)]
struct Intake {
    /// At the last look; `None` before the first.
    seen: Option<HashSet<Found>>,
    standing: HashMap<Found, Standing>,
    /// What can be no task file and was told once: a directory changes with what is put into it.
    odd: HashSet<PathBuf>,
}

impl Intake {
    async fn look(&mut self, desk: &Desk) {
        let (dirs, first) = (desk.dirs.clone(), self.seen.is_none());
        let look = move || {
            let found = views::found_in_queue(&dirs);
            let before: Vec<_> = found.iter().filter(|_| first).filter_map(|f| Some((f.clone(), said_before(f)?))).collect();
            (found, before)
        };
        let (found, before) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        self.standing.extend(before);
        let now: HashSet<Found> = found.iter().cloned().collect();
        self.standing.retain(|file, _| now.contains(file));
        self.odd.retain(|path| found.iter().any(|f| f.path == *path));
        let seen = self.seen.replace(now).unwrap_or_default();
        // Unchanged since the last look: whoever wrote it is done. One try again at a time, as each may wait for a torrent;
        // and after what is new.
        let (mut due, mut odd) = (None, 0);
        for file in found.into_iter().filter(|f| seen.contains(f)) {
            match self.standing.get(&file) {
                None if odd < ODD_PER_LOOK => odd += usize::from(self.take(desk, file).await),
                Some(Standing::Later { at, .. }) if due.is_none() && Instant::now() >= *at => due = Some(file),
                _ => {}
            }
        }
        if let Some(file) = due {
            self.take(desk, file).await;
        }
    }

    /// Says whether it was something odd.
    async fn take(&mut self, desk: &Desk, file: Found) -> bool {
        let before = self.standing.remove(&file);
        let oddity = file.oddity();
        let standing = match &oddity {
            Some(_) if !self.odd.insert(file.path.clone()) => Some(Standing::Refused),
            Some(why) => {
                let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let shown: String = name.escape_debug().take(300).collect();
                desk.refuse_dropped(&file, &shown, &format!("error, {shown} cannot be received: {why}."), true).await;
                Some(Standing::Refused)
            }
            None => desk.take_dropped(&file, before).await,
        };
        if let Some(standing) = standing {
            self.standing.insert(file, standing);
        }
        oddity.is_some()
    }
}

fn error_beside(file: &Found) -> PathBuf {
    let mut err = file.path.clone().into_os_string();
    err.push(".err");
    PathBuf::from(err)
}

/// What an earlier process said of a file that is as it was then.
fn said_before(file: &Found) -> Option<Standing> {
    let err = error_beside(file);
    let meta = err.symlink_metadata().ok().filter(|m| m.is_file() && mtime_ns(m) >= file.changed_ns())?;
    let mut text = Vec::new();
    std::fs::File::open(&err).ok()?.take(meta.len().min(1 << 16)).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    match text.trim_end().strip_suffix(TRIED_AGAIN) {
        Some(why) => Some(Standing::Later { at: Instant::now(), wait: SOONEST, why: why.trim_end().to_owned() }),
        None => Some(Standing::Refused),
    }
}

impl Desk {
    /// `Some(true)`: not the view of a task that is queued. `None`: not to be told now, or the task is about to move on.
    async fn is_foreign(&self, file: &Found, name: &TaskName) -> Option<bool> {
        let row = match self.store.task_by_name(Role::Recv, name).await.ok()? {
            None => return Some(true),
            Some(row) if row.exported < row.revision => return None,
            Some(row) if row.state != TaskState::Queues => return Some(true),
            Some(row) => row,
        };
        let document = self.store.task_document(row.id).await.ok()?;
        let path = file.path.clone();
        let there = tokio::task::spawn_blocking(move || views::queued(&path, &document)).await.ok()?;
        match there {
            Queued::Another => Some(true),
            Queued::Ours => Some(false),
            Queued::Nothing | Queued::Broken => None, // it is mended
        }
    }

    /// `None`: it was taken in, or has to be looked at again.
    async fn take_dropped(&self, file: &Found, before: Option<Standing>) -> Option<Standing> {
        let name = file.path.file_name().and_then(|n| n.to_str()).and_then(|n| TaskName::parse(n).ok())?;
        match self.is_foreign(file, &name).await {
            Some(true) => {}
            Some(false) => return Some(Standing::View),
            None => return before,
        }
        let refused = match self.take_in(&file.path.display().to_string(), false, DROP).await {
            Err(refused) => refused,
            Ok(_) => {
                let _ = views::remove(&error_beside(file));
                return None;
            }
        };
        if Found::at(&file.path).as_ref() != Some(file) {
            return None; // it was the view of a task that moved on just now, or another one lies in its place
        }
        // Addresses may be signed: what stays in files and the database shows them without their query.
        let plain = |w: &str| if w.starts_with("http") { shown(w) } else { w.to_owned() };
        let why = refused.desc.split(' ').map(plain).collect::<Vec<_>>().join(" ");
        let (wait, told) = match before {
            Some(Standing::Later { wait, why: before, .. }) => ((wait * 2).min(LATEST), before == why),
            _ => (SOONEST, false),
        };
        if !refused.passes {
            self.refuse_dropped(file, name.as_str(), &why, true).await;
            return Some(Standing::Refused);
        }
        self.refuse_dropped(file, name.as_str(), &format!("{why}\n{TRIED_AGAIN}"), !told).await;
        Some(Standing::Later { at: Instant::now() + wait, wait, why })
    }

    /// Says so: beside the file, and as an event when that is `new`. Not when it was cancelled meanwhile.
    async fn refuse_dropped(&self, file: &Found, name: &str, text: &str, new: bool) {
        let _one = self.admission.lock().await;
        if Found::at(&file.path).as_ref() != Some(file) {
            return;
        }
        if new {
            let why = text.lines().next().unwrap_or_default();
            tracing::warn!(path = ?file.path, desc = why, "a dropped task file was refused");
            self.event(Level::Error, "drop", name, why).await;
        }
        let err = error_beside(file);
        if !new && err.exists() {
            return;
        }
        // Newer than the file in any case: that tells a later process that it speaks of it.
        let written = views::remove(&err).and_then(|()| views::write_file(&err, format!("{text}\n").as_bytes()));
        if let Err(fault) = written {
            tracing::warn!(%fault, "cannot write the error beside the dropped task file");
        }
    }
}
