//! Receptions that share files: who fetches what, and copies of what another has verified.
//!
//! [`held_back`] says which files wait; it is asked at every tick, and nothing of it is recorded. A leg is started without
//! the files that wait, and is not started when all that it lacks waits. When a file is verified in one reception, its spans
//! become local copies in the rows of the others: that is recorded, and from there on it is a copy like any other. Files
//! that the library got after a task was accepted are found in the same way.
//!
//! A file is held back as a whole, whichever methods bring it. BitTorrent's pieces reach over the ends of files: a leg
//! that leaves a file out may still bring the bytes of it that lie in its neighbours' pieces.

use super::conductor::Conductor;
use super::reception::Source;
use crate::assembly::{Assembly, Verdict};
use crate::error::Fault;
use crate::model::decide::{LegSnap, TaskSnap};
use crate::model::ids::Sha1;
use crate::model::share::{Claim, held_back};
use crate::model::span::Method;
use crate::model::task::{LegState, NodeType, Role, TaskState};
use crate::store::events::Level;
use crate::store::task_files::SpanRow;
use crate::store::tasks::TaskRow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A leg that brings nothing for so long holds nobody back.
const STILL: Duration = Duration::from_secs(20);

/// What the conductor remembers between ticks.
#[derive(Default)]
pub struct Sharing {
    /// Files that wait, by task.
    held: HashMap<i64, HashSet<u32>>,
    /// The tasks that `common` was made for.
    of: Vec<i64>,
    /// Contents that occur more than once in them.
    common: Vec<Vec<(i64, u32)>>,
    /// Tasks whose files may have come into the library.
    pub look: HashSet<i64>,
    /// What was told: who waits for whom, and who has nobody else left.
    told: HashSet<(i64, i64)>,
    hopes: HashSet<(i64, i64)>,
}

impl Sharing {
    /// Files that a leg of the task is to leave alone.
    pub fn held(&self, task: i64) -> HashSet<u32> {
        self.held.get(&task).cloned().unwrap_or_default()
    }

    fn index(&mut self, receptions: &BTreeMap<i64, Arc<Assembly>>) {
        let of: Vec<i64> = receptions.keys().copied().collect();
        if of == self.of {
            return;
        }
        let mut by_content = BTreeMap::<(Sha1, u64), Vec<(i64, u32)>>::new();
        for (task, assembly) in receptions {
            for (file, sha1, size) in assembly.contents() {
                by_content.entry((sha1, size)).or_default().push((*task, file));
            }
        }
        self.common = by_content.into_values().filter(|list| list.len() > 1).collect();
        self.common.sort_by_key(|list| list.first().copied()); // as they are fetched
        self.told.retain(|(a, b)| of.contains(a) && of.contains(b));
        self.hopes.retain(|(a, b)| of.contains(a) && of.contains(b));
        self.of = of;
    }
}

impl Conductor {
    fn shares(&self) -> bool {
        let config = self.node.config.current();
        config.avoidrepeat && config.servertype != NodeType::Cacher
    }

    /// Receptions at work, also those that are being handed over.
    fn receptions(&self, live: &[TaskRow]) -> BTreeMap<i64, Arc<Assembly>> {
        let at_work = live.iter().filter(|t| t.role == Role::Recv && t.state == TaskState::Downloading);
        let open = |id| self.assemblies.get(id).or_else(|| self.finishing.get(id)?.as_ref());
        at_work.filter_map(|t| Some((t.id, Arc::clone(open(&t.id)?)))).collect()
    }

    /// Files that are on this node by now are copied, and not fetched.
    pub(super) async fn find_copies(&mut self) -> Result<(), Fault> {
        if !self.shares() || (self.assemblies.is_empty() && self.finishing.is_empty()) {
            self.sharing.index(&BTreeMap::new());
            return Ok(());
        }
        let live = self.node.store.live_tasks().await?;
        let receptions = self.receptions(&live);
        self.sharing.index(&receptions);
        for task in std::mem::take(&mut self.sharing.look) {
            if let Some(assembly) = receptions.get(&task).filter(|_| !self.finishing.contains_key(&task)) {
                let found = self.in_library(task, assembly).await?;
                self.copy_instead(&live, task, found, None).await?;
            }
        }
        let mut found = BTreeMap::<(i64, i64), Vec<(u32, PathBuf)>>::new();
        for list in &self.sharing.common {
            let is = |(task, file): &(i64, u32), v| receptions.get(task).is_some_and(|a| a.verdict(*file) == v);
            let Some(have) = list.iter().find(|c| is(c, Verdict::Verified)) else { continue };
            for c in list.iter().filter(|c| is(c, Verdict::Open) && !self.finishing.contains_key(&c.0)) {
                let (to, from) = (&receptions[&c.0], &receptions[&have.0]);
                if to.local_source(c.1).is_none() && to.have(c.1) < from.have(have.1) {
                    found.entry((c.0, have.0)).or_default().push((c.1, from.staged(have.1)));
                }
            }
        }
        for ((task, from), files) in found {
            self.copy_instead(&live, task, files, Some(from)).await?;
        }
        Ok(())
    }

    /// Library files that are what a reception still lacks.
    async fn in_library(&self, task: i64, assembly: &Assembly) -> Result<Vec<(u32, PathBuf)>, Fault> {
        let lacks = |n: u32| assembly.verdict(n) == Verdict::Open && assembly.local_source(n).is_none();
        let wanted: Vec<_> = assembly.contents().filter(|(n, _, size)| lacks(*n) && assembly.have(*n) < *size).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        tracing::debug!(task, files = wanted.len(), "looking for them in the library");
        let pairs: Vec<_> = wanted.iter().map(|(_, sha1, size)| (*sha1, *size)).collect();
        let same = self.node.store.find_same(&pairs).await?;
        let look = move || {
            let first = |list: Vec<_>| list.into_iter().find(super::reception::is_as_hashed).map(|f| f.path);
            wanted.into_iter().zip(same).filter_map(|((n, _, _), list)| Some((n, first(list)?))).collect()
        };
        tokio::task::spawn_blocking(look).await.map_err(|e| Fault::local(format!("looking at the library: {e}")))
    }

    /// `from`: the reception that has them; `None`: the library.
    async fn copy_instead(
        &mut self,
        live: &[TaskRow],
        task: i64,
        mut files: Vec<(u32, PathBuf)>,
        from: Option<i64>,
    ) -> Result<(), Fault> {
        let Some(assembly) = self.assemblies.get(&task).cloned() else { return Ok(()) };
        // A copy of these was tried, and was wrong.
        let refused = self.node.store.refusals(task).await?;
        files.retain(|(n, _)| !refused.iter().any(|(r, m, _)| r == n && m.is_none()));
        if files.is_empty() || !self.node.store.copy_instead(task, &files).await? {
            return Ok(());
        }
        let name = |id| live.iter().find(|t| t.id == id).map(|t| t.name.to_string());
        let place = from.and_then(name).unwrap_or_else(|| "the library".into());
        let text = format!("{} files are copied from {place}, and not fetched", files.len());
        self.node.event(Level::Info, "copied", &name(task).unwrap_or_default(), &text).await;
        for (n, source) in files {
            assembly.set_source(n, source);
        }
        self.follow_spans(task).await
    }

    /// Finds out which files wait for another reception, and marks the legs accordingly.
    pub(super) async fn hold_back(&mut self, live: &[TaskRow], snaps: &mut [TaskSnap], now_ms: i64) -> Result<(), Fault> {
        self.sharing.held.clear();
        if !self.shares() || self.sharing.common.is_empty() {
            return Ok(());
        }
        let receptions = self.receptions(live);
        let mut spans = HashMap::<i64, Vec<SpanRow>>::new();
        for (task, _) in self.sharing.common.iter().flatten() {
            if !spans.contains_key(task) {
                spans.insert(*task, self.node.store.task_spans(*task).await?);
            }
        }
        let mut of_file = HashMap::<(i64, u32), Vec<SpanRow>>::new();
        for (task, list) in &spans {
            for s in list {
                of_file.entry((*task, s.span.file)).or_default().push(*s);
            }
        }
        let able: HashSet<(i64, Method)> = snaps.iter().flat_map(|t| self.able(t, now_ms)).collect();
        let common: HashSet<(i64, u32)> = self.sharing.common.iter().flatten().copied().collect();
        let lacks = |task: i64, s: &SpanRow| receptions.get(&task).is_some_and(|a| !a.has_all(std::iter::once(&s.span)));
        let refused = self.refused_copies(&receptions).await?;
        // Not by a run that began without it.
        let in_run = |task, m, file| self.running.get(&(task, m)).is_none_or(|leg| leg.fetches(file));
        let comes = |task: i64, m: Method, file: u32| able.contains(&(task, m)) && in_run(task, m, file);
        let claim = |(task, file): (i64, u32)| {
            let assembly = receptions.get(&task)?;
            if refused.contains(&(task, file)) {
                return None;
            }
            if assembly.verdict(file) == Verdict::Verified {
                return Some(Claim { task, file, have: u64::MAX, coming: true }); // a moment, and it is copied
            }
            let mut mine = of_file.get(&(task, file))?.iter().filter(|s| lacks(task, s));
            let alive = snaps.iter().any(|t| t.id == task && t.legs.iter().all(|l| l.state != LegState::Failed));
            // A copy that is under way comes, too.
            let coming = alive && mine.all(|s| s.method.is_none_or(|m| comes(task, m, file)));
            Some(Claim { task, file, have: assembly.have(file), coming })
        };
        let contents: Vec<Vec<Claim>> =
            self.sharing.common.iter().map(|list| list.iter().copied().filter_map(claim).collect()).collect();
        let busy = spans.iter().filter(|(task, list)| {
            let own =
                |s: &&SpanRow| !common.contains(&(**task, s.span.file)) && s.method.is_some_and(|m| able.contains(&(**task, m)));
            list.iter().filter(own).any(|s| lacks(**task, s))
        });
        let busy = busy.map(|(task, _)| *task).collect();
        let waits = held_back(&contents, &busy);
        for (task, file) in waits.keys() {
            self.sharing.held.entry(*task).or_default().insert(*file);
        }
        for t in snaps.iter_mut() {
            let (Some(held), Some(list), Some(a)) = (self.sharing.held.get(&t.id), spans.get(&t.id), receptions.get(&t.id))
            else {
                continue;
            };
            for l in &mut t.legs {
                let mut open = list.iter().filter(|s| s.method == Some(l.method) && lacks(t.id, s)).peekable();
                l.held = open.peek().is_some() && open.all(|s| held.contains(&s.span.file));
                l.yields = self.running.get(&(t.id, l.method)).is_some_and(|leg| {
                    let at = |s: &&SpanRow| s.method == Some(l.method) && leg.fetches(s.span.file);
                    list.iter().filter(at).any(|s| held.contains(&s.span.file) && lacks(t.id, s) && a.have(s.span.file) > 0)
                });
            }
        }
        self.tell(live, &waits).await;
        self.hope(live, snaps, &receptions, &of_file, &refused).await
    }

    /// A leg that has failed for files that another reception is still to bring ends no task: they will be copied. It counts
    /// as one that waits. Bringers may be between two tries, but not outside their window.
    async fn hope(
        &mut self,
        live: &[TaskRow],
        snaps: &mut [TaskSnap],
        receptions: &BTreeMap<i64, Arc<Assembly>>,
        of_file: &HashMap<(i64, u32), Vec<SpanRow>>,
        refused: &HashSet<(i64, u32)>,
    ) -> Result<(), Fault> {
        let works = |l: &&LegSnap| l.open && matches!(l.state, LegState::Waiting | LegState::Running);
        let working: HashSet<(i64, Method)> =
            snaps.iter().flat_map(|t| t.legs.iter().filter(works).map(|l| (t.id, l.method))).collect();
        let failed = |t: &TaskSnap| t.legs.iter().any(|l| l.state == LegState::Failed);
        let lost: HashSet<i64> = snaps.iter().filter(|t| failed(t)).map(|t| t.id).collect();
        let brings = |(task, file): (i64, u32)| {
            let Some(assembly) = receptions.get(&task) else { return false };
            let list = of_file.get(&(task, file)).map(Vec::as_slice).unwrap_or_default();
            let mut lacks = list.iter().filter(|s| !assembly.has_all(std::iter::once(&s.span)));
            assembly.verdict(file) == Verdict::Verified
                || (!lost.contains(&task) && lacks.all(|s| s.method.is_none_or(|m| working.contains(&(task, m)))))
        };
        for t in snaps.iter_mut().filter(|t| lost.contains(&t.id)) {
            let Some(assembly) = receptions.get(&t.id) else { continue };
            let refusals = self.node.store.refusals(t.id).await?;
            for l in t.legs.iter_mut().filter(|l| l.state == LegState::Failed) {
                let lacks = |file: u32| {
                    let mut list = of_file.get(&(t.id, file)).into_iter().flatten();
                    list.any(|s| s.method == Some(l.method) && !assembly.has_all(std::iter::once(&s.span)))
                };
                let other = |file: u32| {
                    let mut same = self.sharing.common.iter().filter(|list| list.contains(&(t.id, file))).flatten();
                    let by = same.find(|c| c.0 != t.id && brings(**c)).map(|c| c.0);
                    by.filter(|_| !refused.contains(&(t.id, file)))
                };
                let failed_on = refusals.iter().filter(|(n, m, _)| *m == Some(l.method) && lacks(*n)).map(|r| r.0);
                let by: Vec<i64> = failed_on.map(other).collect::<Option<_>>().unwrap_or_default();
                l.held = !by.is_empty();
                if let Some(by) = by.first().filter(|by| self.sharing.hopes.insert((t.id, **by))) {
                    let name = |id| live.iter().find(|row| row.id == id).map_or("", |row| row.name.as_str());
                    let text = format!("{}; {} brings the same, it will be copied", l.error, name(*by));
                    self.node.event(Level::Warn, "waits", name(t.id), &text).await;
                }
            }
        }
        Ok(())
    }

    /// Files whose content another reception has verified, and whose copy was no good all the same.
    async fn refused_copies(&self, receptions: &BTreeMap<i64, Arc<Assembly>>) -> Result<HashSet<(i64, u32)>, Fault> {
        let is = |(task, file): &(i64, u32), v| receptions.get(task).is_some_and(|a| a.verdict(*file) == v);
        let there = self.sharing.common.iter().filter(|list| list.iter().any(|c| is(c, Verdict::Verified)));
        let open: Vec<(i64, u32)> = there.flatten().filter(|c| is(c, Verdict::Open)).copied().collect();
        let mut out = HashSet::new();
        for task in open.iter().map(|c| c.0).collect::<HashSet<_>>() {
            let refused = self.node.store.refusals(task).await?;
            let copies = refused.into_iter().filter(|(_, m, _)| m.is_none()).map(|(n, _, _)| (task, n));
            out.extend(copies.filter(|c| open.contains(c)));
        }
        Ok(out)
    }

    /// Methods of a task that bring something, or could at once.
    fn able<'a>(&'a self, t: &'a TaskSnap, now_ms: i64) -> impl Iterator<Item = (i64, Method)> + 'a {
        let moves = move |m: Method| self.running.get(&(t.id, m)).is_some_and(|leg| leg.moved_within(STILL));
        let able = move |l: &&LegSnap| match l.running {
            true => l.open && moves(l.method),
            false => l.may_start(now_ms) && l.retry_at.is_none(), // after a failure only bytes are believed
        };
        t.legs.iter().filter(able).map(|l| (t.id, l.method))
    }

    /// Says once who waits for whom.
    async fn tell(&mut self, live: &[TaskRow], waits: &BTreeMap<(i64, u32), i64>) {
        let mut pairs = BTreeMap::<(i64, i64), u32>::new();
        for ((task, _), by) in waits.iter().filter(|((task, _), by)| task != *by) {
            *pairs.entry((*task, *by)).or_default() += 1;
        }
        for ((task, by), files) in pairs {
            if !self.sharing.told.insert((task, by)) {
                continue;
            }
            let name = |id| live.iter().find(|t| t.id == id).map_or("", |t| t.name.as_str());
            let text = format!("{files} files are not fetched: {} brings the same, they will be copied", name(by));
            self.node.event(Level::Info, "waits", name(task), &text).await;
        }
    }

    /// Places on this node where the content of a file may be, besides the one that was noted: the library, then other
    /// receptions, staged or in the store by now.
    pub(super) async fn sources(node: &super::Node, sha1: Sha1, size: u64) -> Result<Vec<Source>, Fault> {
        let library = node.store.find_same(&[(sha1, size)]).await?.pop().unwrap_or_default();
        let mut found: Vec<Source> = library.into_iter().map(|f| Source { path: f.path, listed: true }).collect();
        for (task, path) in node.store.received_copies(sha1, size).await? {
            // In this order: a rename in between moves it from the first to one of the others.
            let places = [path.under(&node.staging(&task)), path.under(&task.store_path), task.store_path.clone()];
            found.extend(places.map(|path| Source { path, listed: false }));
        }
        Ok(found)
    }
}
