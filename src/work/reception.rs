//! The parts of a reception besides its legs: library copies, wrong files, finishing, cleaning up.

use super::conductor::{Conductor, Report};
use super::legs::Plan;
use super::{Node, repair};
use crate::assembly::{self, Assembly};
use crate::error::{Fault, FaultClass, io_fault};
use crate::model::ranges::RangeSet;
use crate::model::task::{LegState, NodeType, TaskState};
use crate::package::in_place;
use crate::package::scan::is_unchanged;
use crate::store::events::Level;
use crate::store::library::LibraryFile;
use crate::store::task_files::{FileProgress, Times};
use crate::store::tasks::TaskRow;
use crate::transport::FileMeta;
use crate::views;
use std::collections::{HashSet, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

impl Conductor {
    /// Opens what a restart left open, and deals with wrong files and broken disks. Trouble with one task is no trouble of
    /// the others.
    pub(super) async fn look_after_assemblies(&mut self) -> Result<(), Fault> {
        for row in self.node.store.live_tasks().await?.into_iter().filter(|t| t.state == TaskState::Downloading) {
            if self.finishing.contains_key(&row.id) || assembly::already_renamed(&row) {
                continue;
            }
            let name = row.name.to_string();
            if let Err(fault) = self.look_after(row).await {
                tracing::warn!(%fault, task = name, "looking after a reception failed; trying again");
            }
        }
        Ok(())
    }

    async fn look_after(&mut self, row: TaskRow) -> Result<(), Fault> {
        let task = row.id;
        if self.lies_in_place(&row).await? {
            return Ok(());
        }
        let assembly = match self.open_assembly(&row).await {
            Ok(a) => a,
            Err(fault) if fault.is_transient() => return Err(fault),
            Err(fault) => return self.move_task(task, TaskState::Downloading, TaskState::DownloadError, &fault.message).await,
        };
        self.tell_aside(&row, &assembly).await;
        if let Some(fault) = assembly.take_broken() {
            if fault.is_transient() {
                return Err(fault);
            }
            return self.move_task(task, TaskState::Downloading, TaskState::DownloadError, &fault.message).await;
        }
        if assembly.has_vanished() {
            match self.forget_vanished(&row, &assembly).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(fault) if fault.is_transient() => return Err(fault),
                Err(fault) => {
                    return self.move_task(task, TaskState::Downloading, TaskState::DownloadError, &fault.message).await;
                }
            }
        }
        if assembly.wrong_files().is_empty() {
            return Ok(());
        }
        let plan = Plan::load(&self.node.store, row).await?;
        let repair::Repaired { again, lost } = repair::repair_wrong_files(&self.node, &plan, &assembly).await?;
        // A cacher seeds what it has: it must not go on with what was forgotten.
        if again || self.node.config.current().servertype == NodeType::Cacher {
            self.running.iter().filter(|((id, _), _)| *id == task).for_each(|(_, leg)| leg.stop());
        }
        match lost {
            // Ended by the next decision, unless another reception brings it.
            Some(repair::Lost { from: Some(method), error }) => repair::fail_leg(&self.node, task, method, &error).await?,
            Some(repair::Lost { from: None, error }) => {
                return self.move_task(task, TaskState::Downloading, TaskState::DownloadError, &error).await;
            }
            None => {}
        }
        self.follow_spans(task).await
    }

    /// Staged files were removed or replaced by somebody: what they held is fetched again. `false`: one is being copied.
    async fn forget_vanished(&mut self, row: &TaskRow, assembly: &Assembly) -> Result<bool, Fault> {
        if let Some(stop) = self.copying.get(&row.id) {
            stop.cancel();
            return Ok(false);
        }
        let gone = assembly.forget_vanished().await?;
        let first = gone.first().map(|n| assembly.path_of(*n)).unwrap_or_default();
        self.tell_vanished(row, assembly, gone.len(), &first).await;
        self.rearm_short_legs(row, assembly).await?;
        // Those at work would notice at their end only.
        self.running.iter().filter(|((task, _), _)| *task == row.id).for_each(|(_, leg)| leg.stop());
        self.sharing.look.insert(row.id);
        Ok(true)
    }

    /// The same, found when staging was opened.
    pub(super) async fn tell_of_dropped(&self, row: &TaskRow, assembly: &Assembly) {
        let Some(first) = assembly.dropped().first() else { return };
        let text = format!(
            "{} staged files ({}) below {} are not those that the database speaks of: they were removed or replaced, or the \
             database was copied from another machine. They are fetched again",
            assembly.dropped().len(),
            assembly.path_of(*first),
            assembly.root().display()
        );
        self.node.event(Level::Warn, "staging", row.name.as_str(), &text).await;
    }

    async fn tell_vanished(&self, row: &TaskRow, assembly: &Assembly, files: usize, first: &str) {
        let root = assembly.root().display();
        let text = format!(
            "{files} staged files were removed or replaced, or others wrote into them ({first}), below {root}: they are fetched again"
        );
        self.node.event(Level::Warn, "staging", row.name.as_str(), &text).await;
    }

    /// Says what lay in the way of staged files and was put aside.
    async fn tell_aside(&self, row: &TaskRow, assembly: &Assembly) {
        for text in assembly.take_put_aside() {
            self.node.event(Level::Warn, "staging", row.name.as_str(), &text).await;
        }
    }

    /// Does the package lie where it is to be received? Then no staging directory is needed.
    pub(super) async fn lies_in_place(&mut self, row: &TaskRow) -> Result<bool, Fault> {
        self.in_place.remove(&row.id);
        if self.assemblies.contains_key(&row.id) || self.node.config.current().servertype == NodeType::Cacher {
            return Ok(false);
        }
        let spans = self.node.store.task_spans(row.id).await?;
        if spans.iter().any(|s| s.method.is_some()) {
            return Ok(false);
        }
        let files = self.node.store.task_files(row.id).await?;
        let exact = !views::is_master(&self.node.store, &row.store_path).await?;
        let single = Plan::load(&self.node.store, row.clone()).await?.file.is_single();
        let target = row.store_path.clone();
        let lies = tokio::task::spawn_blocking(move || {
            let files = files.iter().map(|f| (&f.path, f.size, f.local_source.as_deref()));
            in_place::lies_in_place(&target, single, exact, files)
        })
        .await
        .map_err(|e| Fault::local(format!("looking at the package: {e}")))?;
        if lies {
            self.in_place.insert(row.id);
        }
        Ok(lies)
    }

    /// A leg that was done, but whose bytes are not there any more (staged files were removed by hand), starts again.
    pub(super) async fn rearm_short_legs(&self, row: &TaskRow, assembly: &Assembly) -> Result<(), Fault> {
        let legs = self.node.store.legs(row.id).await?;
        let spans = self.node.store.task_spans(row.id).await?;
        for leg in legs.iter().filter(|l| l.state == LegState::Done) {
            if !assembly.has_all(spans.iter().filter(|s| s.method == Some(leg.method)).map(|s| &s.span)) {
                tracing::warn!(task = %row.name, method = %leg.method, "bytes of a finished leg are gone: fetching them again");
                self.node.store.set_leg(row.id, leg.method, LegState::Waiting, "", 0, None).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn copy_local(&mut self, task: i64) -> Result<(), Fault> {
        let row = self.row(task).await?;
        let assembly = if self.in_place.contains(&task) { None } else { Some(self.open_assembly(&row).await?) };
        let plan = Plan::load(&self.node.store, row).await?;
        let stop = CancellationToken::new();
        self.copying.insert(task, stop.clone());
        let (node, results) = (Arc::clone(&self.node), self.results.clone());
        tokio::spawn(async move {
            let outcome = match assembly {
                Some(assembly) => copy_all(&node, &plan, &assembly, &stop).await,
                None => take_as_it_lies(&node, &plan, &stop).await,
            };
            let _ = results.send(Report::Copied { task, outcome }).await;
        });
        Ok(())
    }

    pub(super) async fn finish(&mut self, task: i64) -> Result<(), Fault> {
        let row = self.row(task).await?;
        let assembly = self.assemblies.remove(&task);
        self.finishing.insert(task, assembly.clone());
        let (node, results) = (Arc::clone(&self.node), self.results.clone());
        tokio::spawn(async move {
            let outcome = finish_reception(&node, row, assembly).await;
            let _ = results.send(Report::Finished { task, outcome }).await;
        });
        Ok(())
    }

    pub(super) async fn reception_ended(&mut self, task: i64, outcome: Result<bool, Fault>) -> Result<(), Fault> {
        let assembly = self.finishing.remove(&task).flatten();
        self.in_place.remove(&task);
        self.sharing.look.extend(self.assemblies.keys());
        // Else it was received again meanwhile, with other files.
        let Some(row) = self.node.store.task(task).await? else { return Ok(()) };
        if let Some(assembly) = &assembly {
            self.tell_aside(&row, assembly).await;
        }
        // What has to be tried again has time.
        if row.state == TaskState::History && !matches!(&outcome, Err(fault) if fault.class == FaultClass::Transient) {
            self.swept = None;
        }
        match outcome {
            Ok(moved) => {
                let text = if moved {
                    "downloading -> downloaded: verified, in its store"
                } else {
                    "cancelled or received again while it was handed over: verified, in its store all the same"
                };
                self.node.event(Level::Info, "state", row.name.as_str(), text).await;
                self.node.announce(&row);
                self.node.export(&row).await
            }
            Err(fault) if fault.class == FaultClass::Transient => {
                tracing::warn!(%fault, "finishing is tried again");
                if let (Some(assembly), Some(first)) = (&assembly, &fault.file) {
                    self.tell_vanished(&row, assembly, 1 + fault.others.len(), first).await;
                }
                Ok(())
            }
            Err(fault) if row.state == TaskState::History && row.stage_inode.is_some() => {
                self.node.event(Level::Warn, "state", row.name.as_str(), &fault.message).await;
                self.node.store.forget_stage_inode(task).await
            }
            Err(fault) => self.move_task(task, TaskState::Downloading, TaskState::DownloadError, &fault.message).await,
        }
    }
}

/// A file of this node that is copied from.
pub(super) struct Source {
    pub path: PathBuf,
    /// The library knows it, and forgets it when it is not what it should be.
    pub listed: bool,
}

/// A library file that can be used, as far as a look tells.
pub(super) fn is_as_hashed(f: &LibraryFile) -> bool {
    f.size > 0 && is_unchanged(&f.path, f.size, f.mtime_ns, f.inode)
}

/// Copies what is to be copied; a file of which no copy is good goes to a method.
pub(super) async fn copy_all(node: &Node, plan: &Plan, assembly: &Arc<Assembly>, stop: &CancellationToken) -> Result<(), Fault> {
    for file in assembly.local_pending() {
        if let Err(fault) = copy_one(node, plan, assembly, file, stop).await? {
            if !repair::hand_over(node, plan, &[file], None, &fault.message).await? {
                return Err(fault);
            }
            assembly.forget_source(file);
            assembly.reset(file, &[]).await?; // hashed from its beginning, whoever brings the rest
        }
        if stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Copies a file from wherever this node has it. The inner fault: no copy is good.
async fn copy_one(
    node: &Node,
    plan: &Plan,
    assembly: &Arc<Assembly>,
    file: u32,
    stop: &CancellationToken,
) -> Result<Result<(), Fault>, Fault> {
    let (Some(noted), Some(meta)) = (assembly.local_source(file), plan.files.get(file as usize)) else { return Ok(Ok(())) };
    let mut sources = VecDeque::from([Source { path: noted, listed: true }]);
    let mut tried = HashSet::new();
    let mut first = None;
    loop {
        let Some(source) = sources.pop_front() else {
            if tried.len() > 1 {
                break;
            }
            // The noted one is no good.
            sources.extend(Conductor::sources(node, meta.sha1, meta.size).await?);
            sources.retain(|s| !tried.contains(&s.path));
            if sources.is_empty() {
                break;
            }
            continue;
        };
        if !tried.insert(source.path.clone()) {
            continue;
        }
        match assembly.copy(file, &source.path, stop).await {
            Ok(_) => return Ok(Ok(())),
            Err(fault) if fault.class == FaultClass::Corrupt => {
                tracing::debug!(%fault, "a copy cannot be used");
                if let Some(why) = node.area.look(&node.store).await? {
                    return Err(Fault::transient(why));
                }
                if source.listed {
                    node.store.forget_library_file(&source.path).await?;
                }
                first.get_or_insert(fault);
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(Err(first.unwrap_or_else(|| Fault::local("there is no copy"))))
}

/// Reads a package that lies where it is to be received. When all is right, it is noted as what a rename would have
/// brought; a file that is wrong comes from elsewhere, and a master that is wrong is left alone.
async fn take_as_it_lies(node: &Node, plan: &Plan, stop: &CancellationToken) -> Result<(), Fault> {
    let (target, single) = (plan.task.store_path.clone(), plan.file.is_single());
    let files: Vec<_> = plan.files.iter().map(|f| (f.path.clone(), f.size, f.sha1)).collect();
    let (token, master) = (stop.clone(), views::is_master(&node.store, &target).await?);
    let read = move || {
        // Before they are read: who writes into them later shows.
        let places = files.iter().map(|(path, _, _)| in_place::place_of(&target, single, path).symlink_metadata().ok());
        let found: Vec<_> = places.map(|m| m.map(|m| assembly::times_as_recorded(&m))).collect();
        let wrong = in_place::verify_in_place(&target, single, &files, &token);
        if wrong.as_ref().is_some_and(Vec::is_empty) && !single {
            assembly::check_packing_list(&target, &files)?;
        }
        let meta = target.symlink_metadata().map_err(|e| io_fault("cannot look at", &target, &e))?;
        Ok::<_, Fault>((wrong, found, meta.ino(), crate::clock::born_ns(&meta)))
    };
    let (wrong, found, inode, born) =
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(Fault::local(format!("reading the package: {e}"))))?;
    let Some(wrong) = wrong else { return Ok(()) };
    if !wrong.is_empty()
        && let Some(why) = node.area.look(&node.store).await?
    {
        return Err(Fault::transient(why));
    }
    for (file, fault) in &wrong {
        let place = plan.files.get(*file as usize).map(|f| in_place::place_of(&plan.task.store_path, single, &f.path));
        node.store.forget_library_file(place.as_deref().unwrap_or(Path::new(""))).await?;
        if master {
            let text = format!(
                "{}: this is a master of this node, nothing replaces it. Move it away, then receive again",
                fault.message
            );
            return Err(Fault { message: text, ..fault.clone() });
        }
        if let (Some(meta), Some(place)) = (plan.files.get(*file as usize), &place) {
            let others = Conductor::sources(node, meta.sha1, meta.size).await?;
            if let Some(other) = others.into_iter().find(|s| s.path != *place && in_place::has_size(&s.path, meta.size)) {
                node.store.copy_instead(plan.task.id, &[(*file, other.path)]).await?;
                continue;
            }
        }
        if !repair::hand_over(node, plan, &[*file], None, &fault.message).await? {
            return Err(fault.clone());
        }
    }
    if !wrong.is_empty() {
        return Ok(());
    }
    let whole = |((n, f), found): ((u32, &FileMeta), &Option<(u64, Times)>)| {
        let mut have = RangeSet::new();
        have.insert(0..f.size);
        FileProgress { idx: n, have, verified: true, times: found.map(|(_, times)| times), ..FileProgress::default() }
    };
    let all: Vec<_> = (0u32..).zip(plan.files.iter()).zip(&found).map(whole).collect();
    let inodes: Vec<_> = (0u32..).zip(&found).filter_map(|(n, f)| f.map(|(inode, _)| (n, inode))).collect();
    node.store.record_inodes(plan.task.id, &inodes).await?;
    node.store.record_files(plan.task.id, &all).await?;
    node.store.set_stage_inode(plan.task.id, inode, born).await?;
    node.nudge.notify_one();
    Ok(())
}

/// Says whether the task became `downloaded`: it may have been cancelled meanwhile.
async fn finish_reception(node: &Node, row: TaskRow, assembly: Option<Arc<Assembly>>) -> Result<bool, Fault> {
    let plan = Plan::load(&node.store, row).await;
    if let (Err(_), Some(assembly)) = (&plan, &assembly) {
        assembly.close().await?;
    }
    let mut plan = plan?;
    let single = plan.file.is_single();
    if let Some(assembly) = assembly {
        let renamed = assembly::finish(&assembly, &node.store, &plan.task, single).await;
        assembly.close().await?;
        renamed?;
    }
    let staging = node.staging(&plan.task);
    let done = assembly::complete_after_rename(&node.store, &plan.task, &staging, single).await?;
    let now = node.clock.now();
    plan.file.finishedtime = now.format("%Y-%m-%d %H:%M:%S").to_string();
    let seed_until = now.timestamp_millis().saturating_add(plan.file.seed_ms());
    let moved = node
        .store
        .finish_reception(
            plan.task.id,
            &done.package,
            &done.files,
            &plan.file.to_json(),
            Some(seed_until),
            now.timestamp_millis(),
        )
        .await?;
    node.review_package(&done.package.path).await;
    Ok(moved)
}
