//! `uploadprogress` (protocol section 3.3).

use super::{Desk, UploadProgress, failed};
use crate::model::progress::upload_percent;
use crate::model::span::Method;
use crate::model::task::{LegState, Role, TaskState};
use crate::store::legs::LegRow;

impl Desk {
    pub async fn uploadprogress(&self, taskfile: &str) -> UploadProgress {
        let unknown = |desc: String| UploadProgress {
            ok: false,
            taskfile: String::new(),
            status: "unknown".into(),
            desc,
            btstatus: "unknown".into(),
            obsstatus: "unknown".into(),
            cdnstatus: "unknown".into(),
        };
        let (row, legs) = match self.find(Role::Send, taskfile).await {
            Ok(Some(found)) => found,
            Ok(None) => return unknown(String::new()),
            Err(fault) => return unknown(failed(&fault).desc),
        };
        let leg = |m: Method| legs.iter().find(|l| l.method == m);
        let queued = row.state == TaskState::Queues;
        UploadProgress {
            ok: true,
            taskfile: self.dirs.path(Role::Send, row.state, &row.name).display().to_string(),
            status: status(row.state, &legs).into(),
            desc: if row.state == TaskState::Failed { failed_methods(&legs) } else { String::new() },
            btstatus: match leg(Method::Bt) {
                _ if queued => "unknown",
                Some(l) if l.state == LegState::Running && l.ready => "seeding",
                _ => "noseeding",
            }
            .into(),
            obsstatus: match leg(Method::Obs) {
                Some(l) if l.state != LegState::Done => format!("uncompleted {}%", upload_percent(l.bytes_done, l.bytes_total)),
                _ => "completed".into(),
            },
            cdnstatus: match leg(Method::Cdn) {
                Some(l) if l.state != LegState::Done => "unavailable",
                _ => "available",
            }
            .into(),
        }
    }
}

fn status(state: TaskState, legs: &[LegRow]) -> &'static str {
    let seeds = legs.iter().find(|l| l.method == Method::Bt).is_none_or(|l| l.state == LegState::Running && l.ready);
    match state {
        TaskState::Queues => "queues",
        TaskState::Uploaded if seeds => "ready",
        TaskState::Uploaded => "uploaded",
        TaskState::History => "finished",
        TaskState::Failed => "error",
        _ => "uploading",
    }
}

/// `bt errors`, `bt obs errors`, `cdn errors`.
fn failed_methods(legs: &[LegRow]) -> String {
    let names: Vec<_> = legs.iter().filter(|l| l.state == LegState::Failed).map(|l| l.method.as_str()).collect();
    if names.is_empty() { "errors".into() } else { format!("{} errors", names.join(" ")) }
}
