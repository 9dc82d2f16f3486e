//! The task directories: files that old tools look at, exported from the rows.
//!
//! In the system before this one the directory that held a task file *was* its state. Here the row is; a task file
//! appears in the directory of its state and disappears from the others, whenever the row's revision is ahead of what was
//! exported. A view that was touched by hand is rewritten ([`Mending`]), never read. The one exception is
//! `receiver/queues`, where a file of a task that we do not know is an intake ([`found_in_queue`]).

pub mod area;
mod draft;
mod mend;
pub mod places;
mod queue;

use area::Guard;

pub use draft::Draft;
pub use mend::Mending;
pub use queue::{Found, Queued, found_in_queue, queued};

use crate::clock::born_ns;
use crate::config::Config;
use crate::error::{Fault, io_fault};
use crate::model::ids::TaskName;
use crate::model::ratio::Ratio;
use crate::model::task::{Role, TaskState};
use crate::store::Store;
use crate::store::tasks::{CANCELLED, TaskRow};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the directories are.
#[derive(Clone, Debug)]
pub struct TaskDirs {
    pub sender: PathBuf,
    pub receiver: PathBuf,
    /// The transfer area, which is on the same disk.
    area: PathBuf,
    /// Held while a row is read and shown: requests and the conductor export, and an older row must not come last.
    one: Arc<tokio::sync::Mutex<()>>,
    /// Their disk is away: nothing is written, as it would lie below the mount point.
    away: Arc<AtomicBool>,
}

/// Task files are a few kilobytes; ten thousand files make two megabytes.
pub const TASK_FILE_LIMIT: u64 = 64 << 20;

const SENDER: [&str; 5] = ["queues", "uploading", "uploaded", "failed", "history"];
const RECEIVER: [&str; 4] = ["queues", "downloading", "downloaded", "history"];

impl TaskDirs {
    pub fn of(config: &Config) -> Self {
        let (sender, receiver, area) = (config.sender_dir(), config.receiver_dir(), config.transfer_dir());
        Self { sender, receiver, area, one: Arc::default(), away: Arc::default() }
    }

    /// Their disk is away, or there again.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Release);
    }

    /// A fault while their disk is away.
    fn there(&self) -> Result<(), Fault> {
        match self.away.load(Ordering::Acquire) {
            true => Err(Fault::transient("the disk of the task directories, or the library, is away: is it mounted?").away()),
            false => Ok(()),
        }
    }

    /// For [`TaskDirs::put`]. A fault while the disk is away.
    pub async fn guard(&self, store: &Store) -> Result<Guard, Fault> {
        self.there()?;
        Guard::of(&self.area, store).await
    }

    /// Writes a file into a directory of ours that somebody may have removed. Was it removed, or is the disk away since a
    /// moment ago? Blocking.
    pub fn put(&self, area: &Guard, path: &Path, data: &[u8]) -> Result<(), Fault> {
        if !path.parent().is_some_and(Path::is_dir) {
            area.check()?;
        }
        write_file(path, data)
    }

    /// Shows a task in the receiver's queue, where people put task files. `false`: what lies there is not `ours`, and stays.
    /// Blocking.
    fn put_into_queue(&self, area: &Guard, path: &Path, document: &str, ours: impl Fn(&Path) -> bool) -> Result<bool, Fault> {
        if !path.parent().is_some_and(Path::is_dir) {
            area.check()?;
        }
        if holds(path, document.as_bytes()) {
            return Ok(true);
        }
        // Also looked at when it is exchanged. Now, so that nothing is written for what stays.
        if path.symlink_metadata().is_ok_and(|m| m.is_dir() || !ours(path)) {
            return Ok(false);
        }
        let mut draft = Draft::begin(path, 0o600)?;
        draft.write(document.as_bytes())?;
        draft.put_in_place_of(ours)
    }

    fn root(&self, role: Role) -> &Path {
        match role {
            Role::Send => &self.sender,
            Role::Recv => &self.receiver,
        }
    }

    /// `tmp` of a role, where clients put task files.
    pub fn tmp(&self, role: Role) -> PathBuf {
        self.root(role).join("tmp")
    }

    /// Whether a path is one of the views, which are ours: neither `tmp` nor the intake.
    pub fn is_view(&self, path: &Path) -> bool {
        let Some(dir) = path.parent() else { return false };
        let sender = SENDER.iter().map(|d| self.sender.join(d));
        let receiver = RECEIVER.iter().filter(|d| **d != TaskState::Queues.dir()).map(|d| self.receiver.join(d));
        sender.chain(receiver).any(|view| view == dir)
    }

    /// The task file's path in a state.
    pub fn path(&self, role: Role, state: TaskState, name: &TaskName) -> PathBuf {
        self.root(role).join(state.dir()).join(name.as_str())
    }

    pub fn create(&self, roles: &[Role]) -> Result<(), Fault> {
        // What is being shown at this moment leaves nothing to be swept.
        let quiet = self.one.try_lock();
        for role in roles {
            let dirs: &[&str] = if *role == Role::Send { &SENDER } else { &RECEIVER };
            for dir in dirs.iter().chain(&["tmp"]) {
                let path = self.root(*role).join(dir);
                std::fs::create_dir_all(&path).map_err(|e| io_fault("cannot make the task directory", &path, &e))?;
                if quiet.is_ok() {
                    sweep_drafts(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the directories show the row. What somebody put into the receiver's queue under its name meanwhile is an intake:
    /// it is neither replaced nor removed. Blocking; may be repeated.
    fn export(&self, area: &Guard, task: &TaskRow, document: &str) -> Result<(), Fault> {
        self.there()?;
        let here = self.path(task.role, task.state, &task.name);
        let queue = self.path(Role::Recv, TaskState::Queues, &task.name);
        let ours = |at: &Path| matches!(queued(at, document), Queued::Nothing | Queued::Ours);
        let mut intake = false;
        if here == queue {
            intake = !self.put_into_queue(area, &here, document, ours)?;
        } else {
            self.put(area, &here, document.as_bytes())?;
        }
        let states: &[&str] = if task.role == Role::Send { &SENDER } else { &RECEIVER };
        for dir in states {
            let other = self.root(task.role).join(dir).join(task.name.as_str());
            if other == queue && other != here {
                intake = !draft::remove_ours(&other, ours)?;
            } else if other != here {
                remove_for_good(&other)?;
            }
        }
        if task.role == Role::Recv && !intake {
            remove_for_good(&self.drop_error(&task.name))?; // what was refused there is not there any more
        }
        self.export_error(area, task)
    }

    /// `.err` beside a failed download (`.bterr` of a failed upload); cleared errors are kept in `.errhistory`.
    fn export_error(&self, area: &Guard, task: &TaskRow) -> Result<(), Fault> {
        if matches!(task.state, TaskState::DownloadError | TaskState::Failed) {
            let text = format!("{}\n", task.reason);
            return self.put(area, &self.error_file(task.role, &task.name), text.as_bytes());
        }
        // Here, and not only by whoever cancels it: that may be killed in between.
        if task.state == TaskState::History && task.reason == CANCELLED {
            return self.clear_errors(task.role, &task.name);
        }
        self.retire_error(task.role, &task.name)
    }

    fn error_file(&self, role: Role, name: &TaskName) -> PathBuf {
        match role {
            Role::Recv => self.receiver.join("downloading").join(format!("{name}.err")),
            Role::Send => self.sender.join("uploading").join(format!("{name}.bterr")),
        }
    }

    /// What is said of a task file that lies in the receiver's queue and was refused.
    pub fn drop_error(&self, name: &TaskName) -> PathBuf {
        self.receiver.join(TaskState::Queues.dir()).join(format!("{name}.err"))
    }

    /// Takes a file out of the receiver's queue that is no view of ours, and what was said of it. It is kept in
    /// another directory. `false`: there is none. Blocking.
    pub fn take_drop(&self, name: &TaskName, to: &str) -> Result<bool, Fault> {
        let dropped = self.path(Role::Recv, TaskState::Queues, name);
        if self.there().is_err() || !dropped.symlink_metadata().is_ok_and(|m| m.is_file()) {
            return Ok(false);
        }
        move_file(&dropped, &self.receiver.join(to).join(name.as_str()))?;
        remove_for_good(&self.drop_error(name))?;
        sync_dir(&dropped)?; // else it would be received after a power cut
        Ok(true)
    }

    /// What stands in the error file goes to `.errhistory`: the work goes on. Blocking.
    fn retire_error(&self, role: Role, name: &TaskName) -> Result<(), Fault> {
        let path = self.error_file(role, name);
        match std::fs::read(&path) {
            Ok(old) => {
                append(&path.with_file_name(format!("{name}.errhistory")), &old)?;
                remove(&path)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_fault("cannot read", &path, &e)),
        }
    }

    /// Removes what is shown of a task.
    pub fn clear_views(&self, role: Role, name: &TaskName) -> Result<(), Fault> {
        let states: &[&str] = if role == Role::Send { &SENDER } else { &RECEIVER };
        states.iter().try_for_each(|dir| remove_for_good(&self.root(role).join(dir).join(name.as_str())))
    }

    /// Removes the error files of a task (cancel).
    pub fn clear_errors(&self, role: Role, name: &TaskName) -> Result<(), Fault> {
        let dir = self.root(role).join(if role == Role::Recv { "downloading" } else { "uploading" });
        for ending in ["err", "bterr", "errhistory"] {
            remove_for_good(&dir.join(format!("{name}.{ending}")))?;
        }
        // What lies there still belongs to the file beside it.
        let dropped = self.path(Role::Recv, TaskState::Queues, name).symlink_metadata().is_ok();
        if role == Role::Recv && !dropped { remove_for_good(&self.drop_error(name)) } else { Ok(()) }
    }
}

/// Removes what views leave that were being written when the process was killed: they may hold keys. What was out of the way
/// for a moment is put back.
fn sweep_drafts(dir: &Path) -> Result<(), Fault> {
    for entry in std::fs::read_dir(dir).map_err(|e| io_fault("cannot read", dir, &e))?.flatten() {
        let is_draft = |n: &str| n.starts_with('.') && (n.ends_with(".json.part") || n.ends_with("err.part"));
        let is_draft = entry.file_name().to_str().is_some_and(is_draft);
        if !entry.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        if is_draft {
            remove(&entry.path())?;
        } else if dir.ends_with(TaskState::Queues.dir())
            && let Err(fault) = draft::put_back(&entry.path())
        {
            tracing::warn!(%fault, "a task file stays out of the way");
        }
    }
    Ok(())
}

/// Makes the task directories show a task as its row is now, and notes that they do. The row is read again: between the
/// caller's look at it and ours the task may have moved on, and what was shown last is what stays.
pub async fn export_task(store: &Store, dirs: &TaskDirs, task: &TaskRow) -> Result<(), Fault> {
    let _one = dirs.one.lock().await;
    let Some(row) = store.task(task.id).await?.filter(|row| row.exported < row.revision) else { return Ok(()) };
    let (document, area) = (store.task_document(row.id).await?, dirs.guard(store).await?);
    let (dirs, revision) = (dirs.clone(), row.revision);
    tokio::task::spawn_blocking(move || dirs.export(&area, &row, &document))
        .await
        .unwrap_or_else(|e| Err(Fault::local(format!("exporting a task file: {e}"))))?;
    store.set_exported(task.id, revision).await
}

/// Shows the error of a try after which another one follows (protocol section 12). Not for a task that is over meanwhile: whoever
/// cancelled it wants nothing to be left.
pub async fn note_error(store: &Store, dirs: &TaskDirs, task: i64, line: &str) -> Result<(), Fault> {
    let _one = dirs.one.lock().await;
    let at_work = |row: &TaskRow| matches!(row.state, TaskState::Uploading | TaskState::Downloading);
    let Some(row) = store.task(task).await?.filter(at_work) else { return Ok(()) };
    append(&dirs.error_file(row.role, &row.name), format!("{line}\n").as_bytes())
}

/// The error of the last try goes to `.errhistory`, as another one begins. Not for a task that is over meanwhile.
pub async fn retire_error(store: &Store, dirs: &TaskDirs, task: i64) -> Result<(), Fault> {
    let _one = dirs.one.lock().await;
    let Some(row) = store.task(task).await?.filter(|row| row.state != TaskState::History) else { return Ok(()) };
    dirs.retire_error(row.role, &row.name)
}

/// Errors of a task are kept up to this size; then they begin anew.
const MOST_ERRORS: u64 = 1 << 20;

fn append(path: &Path, text: &[u8]) -> Result<(), Fault> {
    let full = std::fs::metadata(path).is_ok_and(|m| m.len() >= MOST_ERRORS);
    let mut how = std::fs::OpenOptions::new();
    let how = how.create(true).mode(0o600).append(!full).write(true).truncate(full);
    let mut f = how.open(path).map_err(|e| io_fault("cannot write", path, &e))?;
    f.write_all(text).map_err(|e| io_fault("cannot write", path, &e))
}

/// Writes a file whole or not at all, readable by us only: task files may hold keys.
pub fn write_file(path: &Path, data: &[u8]) -> Result<(), Fault> {
    if holds(path, data) {
        return Ok(());
    }
    let mut draft = Draft::begin(path, 0o600)?;
    draft.write(data)?;
    draft.put_in_place(|| true).map(drop)
}

/// Moves a task file, also from another file system. The original of a copy that cannot be removed stays.
pub fn move_file(from: &Path, to: &Path) -> Result<(), Fault> {
    if std::fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let data = std::fs::read(from).map_err(|e| io_fault("cannot read", from, &e))?;
    write_file(to, &data)?;
    if let Err(fault) = remove(from) {
        tracing::warn!(%fault, "the task file was copied and its original stays");
    }
    Ok(())
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_fault("cannot remove", path, &e)),
        _ => Ok(()),
    }
}

/// A file that holds just these bytes. Blocking.
pub fn holds(path: &Path, bytes: &[u8]) -> bool {
    let same_length = path.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64);
    same_length && std::fs::read(path).is_ok_and(|there| there == bytes)
}

/// Removes a view if it is there. It does not come back after a power cut: a task file in the queue would be received again.
fn remove_for_good(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_fault("cannot remove", path, &e)),
        Ok(()) => sync_dir(path),
    }
}

fn sync_dir(of: &Path) -> Result<(), Fault> {
    let gone = |e: io::Error| io_fault("cannot remove", of, &e);
    of.parent().map_or(Ok(()), |dir| File::open(dir).and_then(|d| d.sync_all()).map_err(gone))
}

/// Where clients of a cacher look for what it seeds (protocol section 10): a link to where the data are. The data have a
/// place of their own, because two tasks may name the same package, and must not write into the same files.
pub fn seeding_dir(transfer: &Path, task: &TaskRow) -> PathBuf {
    let whole = Ratio::parse(&task.ratio).is_ok_and(Ratio::is_bt_only);
    let name = if whole { task.package.to_string() } else { format!("{}-tmp", task.package) };
    transfer.join("bt").join(task.basesubdir.as_str()).join(name)
}

/// Makes the link of [`seeding_dir`]. Something there that is no link is somebody else's: it stays.
pub fn link_seeding_dir(link: &Path, data: &Path) -> Result<(), Fault> {
    let refused = |e: io::Error| io_fault("cannot make the link", link, &e);
    if std::fs::read_link(link).is_ok_and(|to| to == data) {
        return Ok(());
    }
    if let Some(dir) = link.parent() {
        std::fs::create_dir_all(dir).map_err(refused)?;
    }
    if link.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
        remove(link)?;
    }
    std::os::unix::fs::symlink(data, link).map_err(refused)
}

/// Removes links of [`seeding_dir`] whose data are gone.
pub fn sweep_seeding_dirs(transfer: &Path) {
    let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    for link in entries(transfer.join("bt")).filter(|d| !d.is_symlink()).flat_map(entries) {
        if link.is_symlink()
            && !link.exists()
            && let Err(fault) = remove(&link)
        {
            tracing::warn!(%fault, "cannot remove the link to data that are gone");
        }
    }
}

/// The marker beside a finished package (protocol section 10).
pub fn marker(store_path: &Path) -> PathBuf {
    let mut name = store_path.as_os_str().to_owned();
    name.push(".finished");
    PathBuf::from(name)
}

/// A package that was generated here and not received: nothing replaces it, and no end mark is put beside it (whoever
/// clears received packages goes by the mark).
pub async fn is_master(store: &Store, path: &Path) -> Result<bool, Fault> {
    Ok(!marker(path).exists() && store.is_master(path).await?)
}

/// Something in the store that has the package's name and is no package that was received: it must not be replaced.
pub async fn stranger_in_store(store: &Store, path: &Path) -> Result<Option<Fault>, Fault> {
    let Ok(there) = path.symlink_metadata() else { return Ok(None) };
    if marker(path).exists() || store.was_just_renamed(path, there.ino(), born_ns(&there)).await? {
        return Ok(None);
    }
    if store.is_master(path).await? {
        return Ok(Some(Fault::local(format!(
            "{} is a master of this node (generated here, not received) and differs from what the task describes: \
             move it away, then receive the task again",
            path.display()
        ))));
    }
    if store.has_package(path).await? {
        return Ok(None);
    }
    Ok(Some(Fault::local(format!(
        "{} is there already and was not received or generated here (no .finished beside it): move it away, then receive the task again",
        path.display()
    ))))
}
