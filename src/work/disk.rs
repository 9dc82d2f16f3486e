//! Disks that are away for a while: not mounted yet, unplugged, a server that does not answer.
//!
//! While the transfer area is away ([`crate::views::area`]) nothing is decided and nothing runs, as whatever is found there
//! says nothing about what was accepted; the rest of the node answers as always. When it is back, staging is opened anew and
//! goes on from what is recorded. A sender's library may have a disk of its own: its seeds and uploads wait each for
//! themselves ([`crate::transport::away`]).

use super::conductor::Conductor;
use super::legs::{self, Plan, Purpose};
use super::repair;
use super::whereabouts::{was_removed, whereabouts};
use crate::error::Fault;
use crate::model::span::Method;
use crate::model::task::LegState;
use crate::store::events::Level;
use crate::transport::away::why_away;
use crate::views::area::Guard;
use crate::views::places::make_stores;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For whoever looks at what lies on a server that does not answer.
pub fn no_answer(path: &Path) -> String {
    format!("{} does not answer: is its server there, and its disk mounted?", path.display())
}

/// The note of a leg about where its package is.
const WHEREABOUTS: &str = "whereabouts";
/// A look at a package on a disk that has to spin up takes so long, and others wait for it.
pub const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// And so long when one beside it hangs already; so many may hang in one store.
const SHORT_LOOK: Duration = Duration::from_secs(1);
const MOST_LOOKS: usize = 8;
/// Between two looks for a package whose disk is away.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Packages that somebody looks at now. Who looks for ever is joined by nobody.
#[derive(Default)]
pub struct Looks(Arc<Mutex<HashSet<PathBuf>>>);

/// Is given back when the look is over.
struct Place(Arc<Mutex<HashSet<PathBuf>>>, PathBuf);

impl Looks {
    /// For a look at a package, and how long it may take. `None`: nobody else should look there now.
    fn take(&self, root: &Path) -> Option<(Place, Duration)> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What lies beside it is on the same server, as a rule.
        let beside = looks.iter().filter(|other| other.parent() == root.parent()).count();
        let free = beside < MOST_LOOKS && looks.insert(root.to_owned());
        let patience = if beside == 0 { LONGEST_LOOK } else { SHORT_LOOK };
        free.then(|| (Place(Arc::clone(&self.0), root.to_owned()), patience))
    }

    /// What is to be seen at a path. `Err`: it does not answer, in words. A look that takes too long goes on, and nobody hears
    /// what it saw.
    async fn look<T: Send + 'static>(&self, at: PathBuf, look: impl FnOnce(&Path) -> T + Send + 'static) -> Result<T, String> {
        let why = no_answer(&at);
        let Some((place, patience)) = self.take(&at) else { return Err(why) };
        let looking = tokio::task::spawn_blocking(move || {
            let seen = look(&at);
            drop(place);
            seen
        });
        match tokio::time::timeout(patience, looking).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(e)) => Err(format!("looking at the library: {e}")),
            Err(_) => Err(why),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Conductor {
    /// Looks for the transfer area. While it is away, all that runs is stopped; when it comes back, what belongs there is made.
    pub(super) async fn disk_is_away(&mut self) -> Result<bool, Fault> {
        match self.node.area.look(&self.node.store).await? {
            None if self.away.is_none() && self.node.area.is_taken() => Ok(false),
            None if !self.is_idle().await => Ok(true), // what was stopped may be at the old disk still
            None => match self.use_the_disk().await {
                Ok(()) => Ok(false),
                Err(fault) => self.leave_the_disk(fault.message).await.map(|()| true),
            },
            Some(why) => self.leave_the_disk(why).await.map(|()| true),
        }
    }

    /// A fresh look, for whoever is about to end something for good.
    pub(super) async fn away_now(&self) -> Result<Option<String>, Fault> {
        match self.node.area.look(&self.node.store).await? {
            None => Ok(self.away.clone()),
            away => Ok(away),
        }
    }

    async fn leave_the_disk(&mut self, why: String) -> Result<(), Fault> {
        if self.away.as_ref() != Some(&why) {
            self.node.dirs.set_away(true);
            self.node.event(Level::Warn, "disk", "", &why).await;
            if let Some(before) = self.away.replace(why.clone()) {
                self.node.store.release_legs(&before).await?;
            }
            self.node.store.hold_legs(&why).await?;
        }
        if self.is_idle().await {
            self.node.area.let_go();
        }
        Ok(())
    }

    /// Stops what runs. Does nothing run any more, and is nothing open?
    async fn is_idle(&mut self) -> bool {
        self.running.values().for_each(|leg| leg.stop());
        self.copying.values().for_each(tokio_util::sync::CancellationToken::cancel);
        let busy = |id: &i64| self.copying.contains_key(id) || self.running.keys().any(|(task, _)| task == id);
        let idle: Vec<i64> = self.assemblies.keys().copied().filter(|id| !busy(id)).collect();
        for id in idle {
            let Some(assembly) = self.assemblies.remove(&id) else { continue };
            if let Err(fault) = assembly.close().await {
                tracing::warn!(%fault, task = id, "what could not be recorded is fetched again");
            }
        }
        self.running.is_empty() && self.copying.is_empty() && self.finishing.is_empty() && self.assemblies.is_empty()
    }

    async fn use_the_disk(&mut self) -> Result<(), Fault> {
        let node = std::sync::Arc::clone(&self.node);
        node.area.take()?;
        let known = node.store.speaks_of_data().await?;
        let (config, dirs) = (node.config.current(), node.dirs.clone());
        let guard = Guard::of(&config.transfer_dir(), &node.store).await?;
        // The library may be another's.
        let library = config.basedatapath.clone();
        let made = move |_: &Path| dirs.create(config.servertype.roles()).and_then(|()| make_stores(&config, &guard, known));
        self.looks.look(library, made).await.map_err(Fault::local)??;
        node.dirs.set_away(false);
        if let Some(why) = self.away.take() {
            node.store.release_legs(&why).await?;
            let text = format!("all goes on, what it waited for is there again. It was: {why}");
            node.event(Level::Info, "disk", "", &text).await;
        }
        self.swept = None;
        Ok(())
    }

    /// Does a leg read the package where it lies? `failed`: it met something.
    fn reads_package(&self, plan: &Plan, method: Method, purpose: Purpose, failed: bool) -> bool {
        let uploads = || legs::uploads(&self.node.config.current(), &plan.file);
        let reads = match method {
            Method::Bt => true,
            Method::Obs => uploads(),
            // Its origin may be this node, or have a disk of its own.
            Method::Cdn => failed && uploads(),
        };
        purpose == Purpose::Publish && reads
    }

    /// Why a publishing leg has to wait for the disk of its package. `failed`: it met something.
    pub(super) async fn package_is_away(&self, plan: &Plan, method: Method, purpose: Purpose, failed: bool) -> Option<String> {
        if !self.reads_package(plan, method, purpose, failed) {
            return None;
        }
        let noted = self.noted(plan, method).await;
        let look = move |root: &Path| why_away(root).filter(|_| !noted.is_some_and(|noted| was_removed(root, &noted)));
        self.look_at(plan, look).await.unwrap_or_else(Some)
    }

    /// A look at a package, which may lie on a server that does not answer: then all others would wait with this one. `Err`:
    /// it does not, in words.
    async fn look_at<T: Send + 'static>(&self, plan: &Plan, look: impl FnOnce(&Path) -> T + Send + 'static) -> Result<T, String> {
        let root = plan.package_root();
        self.looks.look(root, look).await
    }

    /// Notes where the package is that a leg is about to publish.
    pub(super) async fn note_package(&self, plan: &Plan, method: Method, purpose: Purpose) -> Result<(), Fault> {
        if !self.reads_package(plan, method, purpose, false) {
            return Ok(());
        }
        let found = self.look_at(plan, whereabouts).await.ok().flatten();
        let noted = self.noted(plan, method).await;
        match found.filter(|at| Some(at) != noted.as_ref()) {
            Some(at) => self.node.store.save_checkpoint(plan.task.id, method, WHEREABOUTS, &at).await,
            None => Ok(()),
        }
    }

    async fn noted(&self, plan: &Plan, method: Method) -> Option<String> {
        self.node.store.checkpoint(plan.task.id, method, WHEREABOUTS).await.unwrap_or_default()
    }

    /// What a leg met, in other words when it looked like a disk that is away, and is a package that was removed.
    pub(super) async fn or_removed(&self, plan: &Plan, method: Method, purpose: Purpose, fault: Fault) -> Fault {
        if !(fault.away && self.reads_package(plan, method, purpose, true)) {
            return fault;
        }
        let Some(noted) = self.noted(plan, method).await else { return fault };
        match self.look_at(plan, move |root| was_removed(root, &noted)).await {
            Ok(true) => Fault::permanent(format!(
                "{} was removed since it was hashed: put it back, or run gentask again",
                plan.package_root().display()
            )),
            _ => fault,
        }
    }

    /// A leg that met a disk which is away waits, and its tries stay as they are. `false`: that is not what it met.
    pub(super) async fn wait_for_disk(
        &self,
        plan: &Plan,
        method: Method,
        purpose: Purpose,
        fault: Option<&Fault>,
    ) -> Result<bool, Fault> {
        let soon = self.node.clock.now_ms().saturating_add(i64::try_from(LOOK_AGAIN.as_millis()).unwrap_or(i64::MAX));
        // Of the area: it begins when that is back.
        let (why, at) = if let Some(why) = self.away_now().await? {
            (why, None)
        } else if let Some(why) = self.package_is_away(plan, method, purpose, fault.is_some()).await {
            (why, Some(soon))
        } else if let Some(fault) = fault.filter(|f| f.away) {
            // Nothing to be seen of it from outside.
            (fault.message.clone(), Some(repair::next_try(&self.node, fault)))
        } else {
            return Ok(false);
        };
        let (task, store) = (plan.task.id, &self.node.store);
        let Some(row) = self.leg_row(task, method).await? else { return Ok(true) };
        let why = if at.is_some() { format!("{method}: {why}") } else { why };
        if row.error != why && self.away.is_none() && at.is_some() {
            self.node.event(Level::Warn, "disk", plan.task.name.as_str(), &why).await;
        }
        store.set_leg(task, method, LegState::Waiting, &why, row.tries, at).await?;
        Ok(true)
    }
}
