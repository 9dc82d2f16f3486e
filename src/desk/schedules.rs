//! What is planned for when: `showschedules` (protocol section 3.9).

use super::Desk;
use crate::clock::zone_name;
use crate::error::Fault;
use crate::model::ratio::Ratio;
use crate::model::schedule::{self, Planned, PlannedLeg};
use crate::model::span::Method;
use crate::model::task::{LegState, Policy, Role, TaskState};
use crate::model::window::Windows;
use crate::store::legs::LegRow;
use crate::store::lists::ScheduleListed;
use crate::store::tasks::TaskRow;

impl Desk {
    /// Plain text of `GET /showschedules`.
    pub async fn showschedules(&self) -> String {
        let text = match self.planned().await {
            Ok(tasks) => {
                let now = self.clock.now();
                let text = tokio::task::spawn_blocking(move || schedule::text(&now, &tasks, zone_name)).await;
                text.map_err(|e| Fault::local(format!("the schedules cannot be told: {e}")))
            }
            Err(fault) => Err(fault),
        };
        match text {
            Ok(text) => text,
            Err(fault) => {
                tracing::error!(%fault, detail = fault.detail, "cannot tell the schedules");
                format!("show schedules error: {}\n", fault.message)
            }
        }
    }

    async fn planned(&self) -> Result<Vec<Planned>, Fault> {
        let tasks = self.store.live_tasks().await?;
        let legs = self.store.live_legs().await?;
        let windows = self.store.list_schedules().await?;
        let waits = |t: &&TaskRow| matches!(t.state, TaskState::Queues | TaskState::Uploading | TaskState::Downloading);
        Ok(tasks.iter().filter(waits).filter_map(|t| self.plan_of(t, &legs, &windows)).collect())
    }

    fn plan_of(&self, task: &TaskRow, legs: &[LegRow], windows: &[ScheduleListed]) -> Option<Planned> {
        let upload_bound = self.config.current().uploadpriortime;
        let open = |l: &&LegRow| l.task == task.id && !matches!(l.state, LegState::Done | LegState::Failed | LegState::Off);
        let leg = |l: &LegRow| {
            // What is fetched keeps to the windows, seeding does not, an upload where it is told to.
            let bound = task.role == Role::Recv || (l.method == Method::Obs && upload_bound);
            let text = l.windows.as_deref().filter(|_| bound && task.policy == Policy::Priortime);
            PlannedLeg {
                method: l.method,
                windows: text.and_then(|t| Windows::parse(t).ok()),
                running: l.state == LegState::Running,
            }
        };
        Some(Planned {
            name: format!("{}-{}", task.basesubdir, task.package),
            ratio: Ratio::parse(&task.ratio).ok()?,
            policy: task.policy,
            downloading: task.role == Role::Recv && task.state == TaskState::Downloading,
            legs: legs.iter().filter(open).map(leg).collect(),
            windows: windows
                .iter()
                .filter(|w| w.task == task.name.as_str() && w.role == task.role.as_str() && task.role == Role::Recv)
                .filter_map(|w| Some((Method::parse(&w.method)?, Windows::parse(&w.windows).ok()?)))
                .collect(),
        })
    }
}
