//! `progress` and `cprogress` (protocol sections 3.4 and 5).

use super::{CacherProgress, Desk, Progress, failed};
use crate::error::Fault;
use crate::model::forecast::minutes_until;
use crate::model::progress::eta_minutes;
use crate::model::span::Method;
use crate::model::task::{LegState, NodeType, Policy, Role, TaskState};
use crate::store::legs::LegRow;
use crate::store::tasks::TaskRow;
use crate::views;

impl Desk {
    pub async fn progress(&self, taskfile: &str) -> Progress {
        let error = |desc: &str| Progress { desc: Some(desc.to_owned()), status: "unknown".into(), ..Default::default() };
        if self.config.current().servertype == NodeType::Cacher {
            return error("do not support cacher type progress, change method_name to cprogress");
        }
        let (row, legs) = match self.find(Role::Recv, taskfile).await {
            Ok(Some(found)) => found,
            // Clients give a name; one that gives a path learns that nothing is there.
            Ok(None) if taskfile.contains('/') && !std::path::Path::new(taskfile).exists() => {
                return error(&format!("open dir error:open {taskfile} : no such file or directory"));
            }
            Ok(None) => return error("unknown task, not found task."),
            Err(fault) => return error(&failed(&fault).desc),
        };
        if row.state == TaskState::Queues {
            let desc = Some("task in queues, no progress now.".to_owned());
            return Progress { desc, status: "queues".into(), ..Default::default() };
        }
        match self.figures(&row, &legs).await {
            Ok(progress) => progress,
            Err(fault) => error(&failed(&fault).desc),
        }
    }

    async fn figures(&self, row: &TaskRow, legs: &[LegRow]) -> Result<Progress, Fault> {
        let complete = row.state == TaskState::Downloaded || (row.state == TaskState::History && row.reason.is_empty());
        let by = |f: &dyn Fn(&LegRow) -> u64| Method::ALL.map(|m| legs.iter().find(|l| l.method == m).map_or(0, f));
        let to_fetch = by(&|l| l.bytes_total);
        let by_method = if complete { to_fetch } else { by(&|l| l.bytes_done) };
        let rates = by(&|l| if l.state == LegState::Running { l.rate } else { 0 });
        let copied = if complete || row.bytes_local == 0 { row.bytes_local } else { self.store.local_bytes_done(row.id).await? };
        // A hand-over moves a file's bytes from one method to another; for a second both may count them.
        let downloaded = (by_method.iter().sum::<u64>() + copied).min(row.bytes_total);
        let downloading = row.state == TaskState::Downloading;
        let rate = rates.iter().sum();
        let left = eta_minutes(row.bytes_total.saturating_sub(downloaded), if downloading { rate } else { 0 }, complete);
        // While bytes move, the hours in which windows are closed count; while none do, the protocol has no answer.
        let windowed = left > 0 && row.policy == Policy::Priortime;
        let now = self.clock.now_ms();
        let expected = if windowed { self.store.expected_at(row.id).await?.filter(|at| *at > now) } else { None };
        Ok(Progress {
            ok: true,
            desc: None,
            status: row.state.as_str().into(),
            taskfile: self.dirs.path(Role::Recv, row.state, &row.name).display().to_string(),
            dcppath: if complete { row.store_path.display().to_string() } else { String::new() },
            bt_seeding: complete && legs.iter().any(|l| l.method == Method::Bt && l.state == LegState::Running && l.ready),
            downerror: if row.state == TaskState::DownloadError { row.reason.clone() } else { String::new() },
            downloaded,
            rates: downloading.then_some(rates),
            by_method,
            to_fetch,
            local_same: row.bytes_local,
            total: row.bytes_total,
            complete,
            eta_minutes: expected.map_or(left, |at| minutes_until(at, now)),
        })
    }

    pub async fn cprogress(&self, taskfile: &str) -> CacherProgress {
        let none = |desc: String| CacherProgress { ok: false, status: "noseeding".into(), desc };
        let (row, legs) = match self.find(Role::Recv, taskfile).await {
            Ok(Some(found)) => found,
            Ok(None) => return none("unknown task, not found task.".into()),
            Err(fault) => return none(failed(&fault).desc),
        };
        let seeding = legs.iter().any(|l| l.method == Method::Bt && l.state == LegState::Running && l.ready);
        let broken = row.state == TaskState::DownloadError;
        let status = if seeding { "seeding" } else { "noseeding" };
        let dir = views::seeding_dir(&self.config.current().transfer_dir(), &row);
        CacherProgress {
            ok: true,
            status: if broken { format!("{status} error") } else { status.into() },
            desc: if broken { row.reason } else { format!("btseeding dir:{}", dir.display()) },
        }
    }
}
