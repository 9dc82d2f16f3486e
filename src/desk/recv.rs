//! `recv` (protocol section 3.2): start the reception of a task.

use super::send::{legs_of, new_files, parse_error, schedules_of};
use super::torrents::{TorrentKind, mismatch, torrent_kind};
use super::{Desk, Refusal, Reply, open_error};
use crate::error::{Fault, io_fault};
use crate::model::endpoint::shown;
use crate::model::ids::TaskName;
use crate::model::ratio::{second_allocation, sizes_by_method};
use crate::model::span::{Method, Span};
use crate::model::task::{NodeType, Role, TaskState};
use crate::model::task_file::TaskFile;
use crate::package::in_place::{has_size, lies_in_place, place_of};
use crate::package::scan::is_unchanged;
use crate::store::events::Level;
use crate::store::library::LibraryFile;
use crate::store::tasks::{CANCELLED, NewSpan, NewTask, TaskRow};
use crate::views::{self, Found, stranger_in_store};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Who takes in what was dropped into the queue directory, in events.
pub(super) const DROP: &str = "drop";
/// Marker, rows, and a look at every file.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

impl Desk {
    /// `reactive`: the raw text, `None` when absent (default false).
    pub async fn recv(&self, taskfile: &str, reactive: Option<&str>) -> Reply {
        let reactive = match reactive.unwrap_or("false") {
            "" | "false" => false,
            "true" => true,
            _ => return Reply::err("reactive parameter input error "),
        };
        self.take_in(taskfile, reactive, "api").await.unwrap_or_else(Reply::from)
    }

    /// The common part of `recv` and a file dropped into the queue directory.
    pub(super) async fn take_in(&self, taskfile: &str, reactive: bool, actor: &str) -> Result<Reply, Refusal> {
        let read = self.read_task_file(taskfile).await;
        let (bytes, original) =
            read.map_err(|e| Refusal::unread(format!("open json file error:{}", open_error(taskfile, &e)), &e))?;
        let task = tokio::task::spawn_blocking(move || TaskFile::parse(&bytes))
            .await
            .map_err(|e| Refusal::for_good(format!("error, reading {taskfile} failed: {e}")))?
            .map_err(|e| Refusal::for_good(parse_error(&e, taskfile)))?;
        let name = TaskName::from_path(taskfile).map_err(|e| Refusal::for_good(format!("error, {e}")))?;
        let cacher = self.config.current().servertype == NodeType::Cacher;
        // Twice: before the torrent is fetched, which takes its time, and again when nobody else can come between.
        self.is_settled(&name).await?;
        let (old, _) = self.admit_recv(&name, reactive, cacher).await?;
        // Else it is another package by now, or its time has just ended: received like a new one.
        if cacher
            && let Some(row) = old.as_ref().filter(|r| r.state == TaskState::Downloading)
            && let Some(reply) = self.prolong(row, &task, &original).await?
        {
            return Ok(reply);
        }
        let plan = self.plan_recv(&name, task, taskfile, cacher).await?;
        let _one = self.admission.lock().await;
        let (old, again) = self.admit_recv(&name, reactive, cacher).await?;
        if !cacher {
            self.store_is_free(&name, &plan.store_path).await?;
        }
        // Who dropped another one in its place meanwhile means that one.
        if actor == DROP && !original.lies_at(&original.path) {
            return Err(Refusal::for_now(format!("error, {taskfile} was replaced while it was being taken in.")));
        }
        let everything_local = plan.legs.is_empty();
        let total = plan.bytes_total;
        let (local, to_fetch) = (plan.bytes_local, plan.legs.iter().map(|(_, n)| n).sum::<u64>());
        let shown = self.put_into_tmp(&original, &name).await?;
        let accepted = match self.accept_recv(plan, old).await {
            Ok(accepted) => accepted,
            Err(fault) => {
                shown.iter().for_each(|copy| drop(views::remove(&copy.path)));
                return Err(fault.into());
            }
        };
        self.export(&accepted).await;
        for file in shown.iter().chain([&original]) {
            self.remove_original(file, &accepted);
        }
        let text = format!("accepted ({actor}): {total} bytes, {local} in the library, {to_fetch} to fetch");
        self.event(Level::Info, "recv", name.as_str(), &text).await;
        self.nudge.notify_one();
        Ok(Reply::ok(match (again, everything_local) {
            (false, false) => "succeed!",
            (true, false) => "same name task downloaded, to download again.",
            (false, true) => "all localsamefiles existed copy and finished, succeed!",
            (true, true) => "same name task downloaded, all localsamefiles existed copy and finished, succeed!",
        }))
    }

    /// Waits until what a cancel met at its last step is in its store and recorded. That takes a moment, and who took its row
    /// away would leave a package there that nobody knows.
    async fn is_settled(&self, name: &TaskName) -> Result<(), Fault> {
        let end = Instant::now() + SETTLED_WITHIN;
        loop {
            match self.store.task_to_replace(Role::Recv, name).await? {
                Some(row) if row.state == TaskState::History && is_handed_over(&row) && Instant::now() < end => {}
                _ => return Ok(()),
            }
            self.nudge.notify_one();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What an older task of the same name means. `Ok(true)`: it was downloaded before and is downloaded again.
    async fn admit_recv(&self, name: &TaskName, reactive: bool, cacher: bool) -> Result<(Option<TaskRow>, bool), Refusal> {
        let old = self.store.task_to_replace(Role::Recv, name).await?;
        let Some(row) = old else { return Ok((None, false)) };
        let place = self.dirs.path(Role::Recv, row.state, name);
        let runs = |state: &str| Err(Refusal::for_good(format!("same taskfile in {state}:{}", place.display())));
        let again = match row.state {
            TaskState::Queues => return runs("queues"),
            TaskState::Downloading if !reactive => return runs("downloading"),
            TaskState::Downloaded => !cacher,
            TaskState::History => !cacher && row.reason.is_empty(),
            _ => false,
        };
        Ok((Some(row), again))
    }

    /// A cacher's running task: `reactive` prolongs the seed time. `None`: the task file speaks of other bytes than the task
    /// that runs, or nothing runs any more.
    async fn prolong(&self, row: &TaskRow, task: &TaskFile, original: &Found) -> Result<Option<Reply>, Fault> {
        let runs = self.store.task_document(row.id).await?;
        let same = TaskFile::parse(runs.as_bytes())
            .is_ok_and(|old| old.files == task.files && old.spans_by_method() == task.spans_by_method());
        let until = self.clock.now_ms().saturating_add(task.seed_ms());
        if !same || !self.store.set_seed_until(row.id, until).await? {
            return Ok(None);
        }
        self.nudge.notify_one();
        self.remove_original(original, row);
        self.event(Level::Info, "recv", row.name.as_str(), "seed time prolonged").await;
        Ok(Some(Reply::ok(format!("reactive cacher bt seeding with taskfile:{}", row.name))))
    }

    /// A row that is at work or broke off, and still means the same files, keeps what it has on disk.
    async fn accept_recv(&self, plan: NewTask, old: Option<TaskRow>) -> Result<TaskRow, Fault> {
        let now = self.clock.now_ms();
        let handed_over = old.as_ref().is_some_and(is_handed_over);
        if let Some(row) = old.filter(|r| matches!(r.state, TaskState::Downloading | TaskState::DownloadError)) {
            let known = self.store.task_files(row.id).await?;
            let same = known.len() == plan.files.len()
                && known.iter().zip(&plan.files).all(|(a, b)| a.path == b.path && a.size == b.size && a.sha1 == b.sha1);
            if same {
                self.store.resume_task(row.id, &plan, now).await?;
                return self.store.task(row.id).await?.ok_or_else(|| Fault::local("the task vanished"));
            }
        }
        if handed_over {
            let text = format!("{} is being put into the store at this moment: receive it again in a minute", plan.package);
            return Err(Fault::transient(text));
        }
        let id = self.store.accept_task(&plan, now).await?;
        self.store.task(id).await?.ok_or_else(|| Fault::local("the task vanished"))
    }

    /// Nobody else is receiving a package into this place.
    async fn store_is_free(&self, name: &TaskName, store_path: &Path) -> Result<(), Refusal> {
        match self.store.other_task_for_store_path(Role::Recv, store_path, name).await? {
            None => Ok(()),
            Some(other) => Err(Refusal::for_now(format!(
                "error, {other} is being received into {} now: wait until it is done, or cancel it.",
                store_path.display()
            ))),
        }
    }

    /// The task file is moved, not copied: what was accepted lies in the state's directory. One that has come in its place
    /// since it was read stays.
    fn remove_original(&self, original: &Found, row: &TaskRow) {
        let path = &original.path;
        if !self.dirs.is_view(path) && *path != self.dirs.path(Role::Recv, row.state, &row.name) && original.lies_at(path) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Shows a task file that lies elsewhere in `receiver/tmp` (protocol section 3.2). It keeps its place until it is accepted:
    /// whoever is refused, or gets no answer, asks again. Returns what is there of it. One of that name that waits there is
    /// another client's: it stays.
    async fn put_into_tmp(&self, original: &Found, name: &TaskName) -> Result<Option<Found>, Refusal> {
        let (from, tmp) = (original.path.clone(), self.dirs.tmp(Role::Recv));
        let queues = self.dirs.path(Role::Recv, TaskState::Queues, name);
        let to = tmp.join(name.as_str());
        let there = from.parent() == Some(&tmp) || from.parent() == queues.parent();
        if there || self.dirs.is_view(&from) || !original.lies_at(&from) {
            return Ok(None);
        }
        let (dirs, area) = (self.dirs.clone(), self.dirs.guard(&self.store).await);
        let put = move || {
            let area = area?;
            let bytes = std::fs::read(&from).map_err(|e| io_fault("cannot read", &from, &e))?;
            // The same bytes: of a try that was killed.
            if to.symlink_metadata().is_ok() && !views::holds(&to, &bytes) {
                return Ok(None);
            }
            dirs.put(&area, &to, &bytes)?;
            Ok::<_, Fault>(Found::at(&to))
        };
        let put = tokio::task::spawn_blocking(put).await;
        match put.unwrap_or_else(|e| Err(Fault::local(format!("moving a task file: {e}")))) {
            Ok(shown) => Ok(shown),
            Err(fault) => {
                self.event(Level::Error, "recv", name.as_str(), &fault.message).await;
                Err(Refusal::for_now(format!("move json file to {} erro", tmp.display())))
            }
        }
    }

    /// Checks, dedupe, second allocation, torrent: everything that the reply has to know.
    async fn plan_recv(&self, name: &TaskName, mut task: TaskFile, path: &str, cacher: bool) -> Result<NewTask, Refusal> {
        let config = self.config.current();
        let planned = task.spans_by_method();
        let store_path = config.dcps_dir(&task.basesubdir).join(task.name.as_str());
        if !cacher {
            self.store_is_free(name, &store_path).await?;
        }
        let local = if cacher { vec![None; task.files.len()] } else { self.find_local(&task, &store_path).await? };
        let in_place = !cacher && self.lies_in_place(&task, &store_path, &local).await?;
        if !cacher
            && !in_place
            && let Some(stranger) = stranger_in_store(&self.store, &store_path).await?
        {
            return Err(Refusal::for_good(format!("error, {}", stranger.message)));
        }
        if !cacher && !in_place {
            // The last step is a rename: that it cannot work is better known before a byte is fetched.
            let (config, store) = (config.clone(), store_path.parent().unwrap_or(Path::new("/")).to_owned());
            if let Some(why) = self.glance(move || views::places::not_reachable(&config, &store)).await? {
                return Err(Refusal::for_now(format!("error, {why}.")));
            }
        }
        let torrent = self.torrent_for(&task, &planned, cacher).await?;
        // An empty file that lies where it belongs needs nobody to make it.
        let at_hand: Vec<bool> = task.files.iter().zip(&local).map(|(f, l)| l.is_some() || (in_place && f.size == 0)).collect();
        let is_local = |file: u32| at_hand.get(file as usize).copied().unwrap_or(false);
        let kept = if cacher {
            planned.iter().copied().filter(|(_, m)| *m == Method::Bt).collect()
        } else {
            second_allocation(&planned, is_local, task.ratio, task.cdn.url.is_some())
        };
        let to_fetch: u64 = kept.iter().map(|(s, _)| s.len).sum();
        let bytes_local: u64 = task.files.iter().zip(&local).filter(|(_, l)| l.is_some()).map(|(f, _)| f.size).sum();
        if cacher && to_fetch == 0 {
            return Err(Refusal::for_good("total files size equal 0"));
        }
        if !cacher && to_fetch.checked_add(bytes_local) != Some(task.size) {
            return Err(Refusal::for_good(format!("totalsize != all lists2 sum + localsamesize : {path}")));
        }
        task.receivetime = self.task_time();
        task.finishedtime.clear();
        task.local_same = task.files.iter().zip(&local).filter(|(_, l)| l.is_some()).map(|(f, _)| f.path.clone()).collect();
        task.list_sizes2 = Some(sizes_by_method(&kept));
        let mut new = NewTask {
            role: Role::Recv,
            name: name.clone(),
            package: task.name.clone(),
            basesubdir: task.basesubdir.clone(),
            policy: task.policy,
            ratio: task.ratio.to_string(),
            bytes_total: if cacher { to_fetch } else { task.size },
            bytes_local,
            document: task.to_json(),
            torrent,
            store_path,
            files: new_files(&task),
            spans: Vec::new(),
            legs: Vec::new(),
            schedules: schedules_of(&config, &task),
            seed_until: cacher.then(|| self.clock.now_ms().saturating_add(task.seed_ms())),
        };
        for (f, l) in new.files.iter_mut().zip(local) {
            f.local_source = l;
        }
        new.spans = spans_for(&planned, &kept, is_local, cacher);
        new.legs = legs_of(&new.spans);
        if cacher {
            keep_only_spanned(&mut new);
        }
        Ok(new)
    }

    async fn torrent_for(&self, task: &TaskFile, planned: &[(Span, Method)], cacher: bool) -> Result<Option<Vec<u8>>, Refusal> {
        if !planned.iter().any(|(_, m)| *m == Method::Bt) {
            return if cacher { Err(Refusal::for_good("total files size equal 0")) } else { Ok(None) };
        }
        let (url, what) = match torrent_kind(task) {
            Some(TorrentKind::Part) => (task.bt.tmpurl.as_deref(), "tmptorrent"),
            _ => (task.bt.url.as_deref(), "torrent"),
        };
        let Some(url) = url else {
            return Err(Refusal::for_good(match what {
                "tmptorrent" => "need tmptorrent and found bt.tmpurl is empty.".into(),
                _ => format!("could not download {what} from "),
            }));
        };
        let bytes = self.fetch_torrent(url).await.map_err(|fault| {
            tracing::warn!(%fault, detail = fault.detail, url = shown(url), "cannot fetch a torrent");
            Refusal::for_now(format!("could not download {what} from {url}"))
        })?;
        if let Some(difference) = mismatch(task, &bytes) {
            tracing::warn!(url = shown(url), difference, "the torrent does not match the task");
            // Perhaps a stale one out of a cache.
            let text = format!("taskfile btlist is not equal torrent content, check taskfile or tmp torrent: {url}");
            return Err(Refusal::for_now(text));
        }
        Ok(Some(bytes))
    }

    /// For each file, a library file with the same digest and size that still looks as it was hashed, best the one that lies
    /// where it is to go. A master is found by its looks alone: what is not copied is read and hashed in any case.
    async fn find_local(&self, task: &TaskFile, store_path: &Path) -> Result<Vec<Option<PathBuf>>, Refusal> {
        let single = task.is_single();
        let places: Vec<PathBuf> = task.files.iter().map(|f| place_of(store_path, single, &f.path)).collect();
        let sizes: Vec<u64> = task.files.iter().map(|f| f.size).collect();
        if views::is_master(&self.store, store_path).await? {
            let (at, sizes) = (places.clone(), sizes.clone());
            let look = move || at.iter().zip(&sizes).all(|(p, size)| has_size(p, *size));
            if self.look_through(look).await? {
                return Ok(places.into_iter().zip(&task.files).map(|(p, f)| Some(p).filter(|_| f.size > 0)).collect());
            }
        }
        if !self.config.current().avoidrepeat {
            return Ok(vec![None; places.len()]);
        }
        // Whoever edits the hash table and calls right after it means the edited one.
        if let Some(library) = &self.library {
            library.settled().await;
        }
        let wanted: Vec<_> = task.files.iter().map(|f| (f.sha1, f.size)).collect();
        let found = self.store.find_same(&wanted).await?;
        let look = move || {
            let usable = |f: &LibraryFile| f.size > 0 && is_unchanged(&f.path, f.size, f.mtime_ns, f.inode);
            let choose = |(place, mut same): (PathBuf, Vec<LibraryFile>)| {
                same.sort_by_key(|f| f.path != place); // stable: else in their order
                same.into_iter().find(usable).map(|f| f.path)
            };
            places.into_iter().zip(found).map(choose).collect()
        };
        self.look_through(look).await
    }

    /// Does the whole package lie already where it is to be received?
    async fn lies_in_place(&self, task: &TaskFile, store_path: &Path, local: &[Option<PathBuf>]) -> Result<bool, Refusal> {
        let exact = !views::is_master(&self.store, store_path).await?;
        let files: Vec<_> = task.files.iter().zip(local).map(|(f, l)| (f.path.clone(), f.size, l.clone())).collect();
        let (target, single) = (store_path.to_owned(), task.is_single());
        let look = move || lies_in_place(&target, single, exact, files.iter().map(|(p, s, l)| (p, *s, l.as_deref())));
        self.look_through(look).await
    }
}

/// It was (or is about to be) renamed into its store, and that is not recorded yet.
fn is_handed_over(row: &TaskRow) -> bool {
    let cancelled = row.state == TaskState::History && row.reason == CANCELLED;
    row.stage_inode.is_some() && (cancelled || row.state == TaskState::Downloading)
}

fn spans_for(planned: &[(Span, Method)], kept: &[(Span, Method)], is_local: impl Fn(u32) -> bool, cacher: bool) -> Vec<NewSpan> {
    let kept: std::collections::HashMap<(u32, u64), Method> = kept.iter().map(|(s, m)| ((s.file, s.offset), *m)).collect();
    planned
        .iter()
        .filter(|(_, m)| !cacher || *m == Method::Bt)
        .map(|(span, planned)| {
            let method =
                if is_local(span.file) { None } else { Some(kept.get(&(span.file, span.offset)).copied().unwrap_or(*planned)) };
            NewSpan { span: *span, method, planned: *planned }
        })
        .collect()
}

/// A cacher holds the files of the bt part only; the indexes of the file list stay as they are in the task.
fn keep_only_spanned(new: &mut NewTask) {
    let wanted: HashSet<u32> = new.spans.iter().map(|s| s.span.file).collect();
    for (n, f) in (0u32..).zip(&mut new.files) {
        if !wanted.contains(&n) {
            f.local_source = None;
        }
    }
}
