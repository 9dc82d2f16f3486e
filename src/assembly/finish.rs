//! The end of a reception: sync, packing list, rename into the store, marker, library.
//!
//! The rename is the moment at which the package exists. What comes before can be repeated; what comes after is found
//! again by the inode that was noted before the rename. Two trees are exchanged when the store already holds a package
//! of that name, so that there is no moment without one.

use super::{Assembly, lock, staging, vanished};
use crate::clock::born_ns;
use crate::error::{Fault, io_fault};
use crate::model::ids::{RelPath, Sha1};
use crate::package::documents::{PackageDocuments, Verdict};
use crate::package::in_place::{place_of, verify_in_place};
use crate::store::Store;
use crate::store::library::{LibraryFile, PackageRow};
use crate::store::task_files::{FileRow, Times};
use crate::store::tasks::TaskRow;
use crate::views::{is_master, marker, stranger_in_store};
use rustix::fs::{CWD, RenameFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A package that is in its store now.
#[derive(Debug)]
pub struct Finished {
    pub package: PackageRow,
    pub files: Vec<LibraryFile>,
}

/// Was the staged package renamed before we stopped? Numbers of inodes are used again, so it must have been made at the same
/// time, too. (Devices are not compared: they have other numbers after a start.)
pub fn already_renamed(task: &TaskRow) -> bool {
    let Some(noted) = task.stage_inode else { return false };
    task.store_path.symlink_metadata().is_ok_and(|m| m.ino() == noted && task.stage_born.is_none_or(|at| Some(at) == born_ns(&m)))
}

/// Checks the packing list and renames the package into its store. `single`: the package is one file.
pub async fn finish(assembly: &Arc<Assembly>, store: &Store, task: &TaskRow, single: bool) -> Result<(), Fault> {
    if !assembly.verified() {
        return Err(Fault::transient("not every file is verified yet"));
    }
    assembly.sync().await?;
    let root = assembly.root().to_owned();
    let files: Vec<_> = assembly.slots.iter().map(|s| (s.path.clone(), s.size, s.sha1)).collect();
    let staged = if single {
        let only = files.first().ok_or_else(|| Fault::permanent("the task has no file"))?;
        only.0.under(&root)
    } else {
        root.clone()
    };
    let whole = Arc::clone(assembly);
    let is_whole = blocking(move || is_whole(&whole)).await?;
    if !is_whole {
        let mut gone = assembly.forget_vanished().await?.into_iter().map(|n| assembly.path_of(n));
        let first = gone.next().unwrap_or_default();
        return Err(Fault { others: gone.collect(), ..vanished::fault(assembly.root()).file(first) });
    }
    let (inode, born) = {
        let (staged, whole) = (staged.clone(), Arc::clone(assembly));
        blocking(move || {
            if !single {
                check_packing_list(&root, &files)?;
            }
            // Of a process that was killed at that point.
            let _ = std::fs::remove_file(root.join(staging::CLONE_PROBE));
            whole.aside.clear_strangers(&root, files.iter().map(|(path, _, _)| path))?;
            sync_tree(&root, &files)?;
            let meta = staged.symlink_metadata().map_err(|e| io_fault("cannot look at", &staged, &e))?;
            if meta.is_file() != single || meta.is_dir() == single {
                let what = if single { "plain file" } else { "plain directory" };
                return Err(Fault::local(format!("{} is not the {what} any more that was received", staged.display())));
            }
            Ok((meta.ino(), born_ns(&meta)))
        })
        .await?
    };
    if let Some(stranger) = stranger_in_store(store, &task.store_path).await? {
        return Err(stranger);
    }
    if !store.set_stage_inode(task.id, inode, born).await? {
        return Err(Fault::permanent("the task was cancelled or received again"));
    }
    assembly.check_disk().await?; // the store may have to be made
    let (target, from) = (task.store_path.clone(), staged.clone());
    let renamed = blocking(move || rename_into_store(&from, &target)).await;
    let is_there = move || Ok(staged.symlink_metadata().is_ok_and(|m| m.ino() == inode));
    if renamed.is_err() && blocking(is_there).await? {
        // Else whatever gets this number next would be taken for the package.
        store.forget_stage_inode(task.id).await?;
    }
    renamed
}

/// Everything after the rename; may be repeated. The old version of the package, if there was one, goes.
pub async fn complete_after_rename(store: &Store, task: &TaskRow, staging: &Path, single: bool) -> Result<Finished, Fault> {
    let rows = store.task_files(task.id).await?;
    if rows.is_empty() {
        return Err(Fault::permanent("the task was replaced while it was finished"));
    }
    let (target, staging) = (task.store_path.clone(), staging.to_owned());
    let master = is_master(store, &target).await?;
    blocking(move || {
        let files = library_files(&target, &rows, single)?;
        let expected: Vec<_> = rows.into_iter().map(|r| (r.path, r.size, r.sha1)).collect();
        let title_root = target.clone();
        let (verdict, title) = if single {
            ("complete".to_owned(), String::new())
        } else {
            PackageDocuments::read(&title_root)?.map_or_else(
                || ("no packing list".to_owned(), String::new()),
                |d| (Verdict::of(&d.compare(&expected)).text, d.title().unwrap_or_default().to_owned()),
            )
        };
        if !master {
            let marker = marker(&target);
            std::fs::write(&marker, b"").map_err(|e| io_fault("cannot write the marker", &marker, &e))?;
            sync_dir(&marker)?;
        }
        match std::fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_fault("cannot remove the staging directory", &staging, &e));
            }
            _ => {}
        }
        let package = PackageRow {
            name: target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            path: target,
            verdict,
            title,
            files: files.len() as u64,
            bytes: files.iter().map(|f| f.size).sum(),
        };
        Ok(Finished { package, files })
    })
    .await
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(Fault::local(format!("finishing: {e}"))))
}

/// What was received equals the task; the packing list may still disagree with the task (a package that was damaged
/// before it was sent). Such a package never gets its name.
pub fn check_packing_list(root: &Path, files: &[(RelPath, u64, Sha1)]) -> Result<(), Fault> {
    let Some(documents) = PackageDocuments::read(root)? else { return Ok(()) };
    let verdict = Verdict::of(&documents.compare(files));
    if verdict.ok {
        return Ok(());
    }
    Err(Fault::corrupt(format!("the package does not match its packing list: {}", verdict.text)))
}

/// Is every file that was verified the one that has its name? They are synced, times included: the library goes by them.
fn is_whole(assembly: &Assembly) -> Result<bool, Fault> {
    for (n, slot) in (0u32..).zip(&assembly.slots) {
        let known = *lock(&slot.identity);
        let stamp = lock(&slot.state).stamp;
        if !staging::sync_whole(assembly.root(), &slot.path, slot.size, known, stamp)? {
            assembly.missed(n);
        }
    }
    Ok(!assembly.has_vanished())
}

fn sync_tree(root: &Path, files: &[(RelPath, u64, Sha1)]) -> Result<(), Fault> {
    let mut dirs: Vec<PathBuf> = vec![root.to_owned()];
    for (path, _, _) in files {
        dirs.extend(path.under(root).ancestors().skip(1).take_while(|d| d.starts_with(root)).map(Path::to_owned));
    }
    dirs.sort();
    dirs.dedup();
    for dir in dirs {
        File::open(&dir).and_then(|d| d.sync_all()).map_err(|e| io_fault("cannot sync", &dir, &e))?;
    }
    Ok(())
}

fn sync_dir(of: &Path) -> Result<(), Fault> {
    let Some(dir) = of.parent() else { return Ok(()) };
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_fault("cannot sync", dir, &e))
}

fn rename_into_store(staged: &Path, target: &Path) -> Result<(), Fault> {
    if let Some(dir) = target.parent() {
        std::fs::create_dir_all(dir).map_err(|e| io_fault("cannot make the store", dir, &e))?;
    }
    let flags = if target.symlink_metadata().is_ok() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    rustix::fs::renameat_with(CWD, staged, CWD, target, flags).map_err(|e| match e {
        rustix::io::Errno::XDEV => Fault::local(format!(
            "{} and {} are on different file systems: put datadir and basedatapath on one",
            staged.display(),
            target.display()
        )),
        e => io_fault("cannot rename the package to", target, &e.into()),
    })?;
    sync_dir(target)?;
    sync_dir(staged)
}

/// The files of a package in its store as the library knows them. One that is not as it was when it was verified is read
/// again: nobody may have written into it meanwhile.
fn library_files(target: &Path, rows: &[FileRow], single: bool) -> Result<Vec<LibraryFile>, Fault> {
    let mut files = Vec::with_capacity(rows.len());
    for row in rows {
        let path = place_of(target, single, &row.path);
        let look = || path.symlink_metadata().map_err(|e| io_fault("cannot look at", &path, &e));
        let meta = look()?;
        let changed = || Fault::local(format!("{} changed while the package was handed over", path.display()));
        if !meta.is_file() || meta.len() != row.size {
            return Err(changed());
        }
        let (now, same) = (vanished::Stamp::of(&meta), row.inode == Some(vanished::Identity::of(&meta).recorded()));
        // The rename of a file changes its ctime, that of its directory does not.
        let noted = row.times.map(|t| Times { changed: t.changed.filter(|_| !single), ..t });
        if !same || !noted.is_some_and(|t| now.is_at(t)) {
            let list = [(row.path.clone(), row.size, row.sha1)];
            let wrong = verify_in_place(target, single, &list, &CancellationToken::new());
            if wrong.is_none_or(|w| !w.is_empty()) {
                let text =
                    "was changed in the store before the package was recorded: remove the package there, then receive it again";
                return Err(Fault::local(format!("{} {text}", path.display())).file(&row.path));
            }
            if now != vanished::Stamp::of(&look()?) {
                return Err(changed());
            }
        }
        files.push(LibraryFile {
            mtime_ns: crate::clock::mtime_ns(&meta),
            inode: meta.ino(),
            path,
            size: row.size,
            sha1: row.sha1,
        });
    }
    Ok(files)
}
