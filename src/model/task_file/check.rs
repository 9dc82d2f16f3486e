//! What must hold between the fields of a task file.

use super::parse::bad;
use super::{FileEntry, Kind, MAX_SIZE, SpanEntry, TaskFile, TaskFileError};
use crate::model::ids::RelPath;
use crate::model::ratio::sizes_by_method;
use std::collections::HashMap;

type Result<T> = std::result::Result<T, TaskFileError>;

const LIST_NAMES: [&str; 3] = ["btlist", "obslist", "cdnlist"];

/// Checks everything and fills in `list_sizes`, of which `declared` is what the file says.
pub(super) fn all(task: &mut TaskFile, declared: [Option<u64>; 3]) -> Result<()> {
    paths_are_distinct(&task.files)?;
    totals(task)?;
    if task.kind == Kind::File {
        single_file(task)?;
    }
    let declared_sum = declared.iter().flatten().fold(0u64, |a, b| a.saturating_add(*b));
    let is_declared = declared.iter().any(Option::is_some);
    if is_declared && declared_sum != task.size {
        return Err(TaskFileError::ListsSum { size: task.size, lists: declared_sum });
    }
    let by_lists = lists_cover(task)?;
    spans_cover(&task.files, &task.spans)?;
    let by_spans = sizes_by_method(&task.spans_by_method());
    if is_declared {
        task.list_sizes = declared.map(Option::unwrap_or_default);
        // A receiver rewrites the lists but not the sender's sums, so they can be compared only before that.
        if task.local_same.is_empty() && task.list_sizes != by_lists && task.list_sizes != by_spans {
            return Err(TaskFileError::ListsSum { size: task.size, lists: by_lists.iter().sum() });
        }
    } else {
        task.list_sizes = by_spans;
    }
    Ok(())
}

/// No path twice, and none that is a directory of another.
fn paths_are_distinct(files: &[FileEntry]) -> Result<()> {
    let mut paths: Vec<&RelPath> = files.iter().map(|f| &f.path).collect();
    // By parts, so that everything below a directory follows it at once.
    paths.sort_by(|a, b| a.parts().cmp(b.parts()));
    for (a, b) in paths.iter().zip(paths.iter().skip(1)) {
        if a == b {
            return Err(bad("filelist", a.as_str(), "every path once"));
        }
        if b.as_str().strip_prefix(a.as_str()).is_some_and(|rest| rest.starts_with('/')) {
            return Err(bad("filelist", a.as_str(), format!("a file, not also the directory of {b}")));
        }
    }
    Ok(())
}

fn totals(task: &TaskFile) -> Result<()> {
    let mut sum: u64 = 0;
    for f in &task.files {
        sum = sum
            .checked_add(f.size)
            .filter(|s| *s <= MAX_SIZE)
            .ok_or_else(|| bad("filelist", f.path.as_str(), format!("sizes that add up to at most {MAX_SIZE}")))?;
    }
    if sum == 0 {
        return Err(TaskFileError::TotalZero);
    }
    if sum != task.size {
        return Err(bad("size", task.size.to_string(), format!("the sum of the file sizes, {sum}")));
    }
    Ok(())
}

fn single_file(task: &TaskFile) -> Result<()> {
    match &task.files[..] {
        [f] if f.path.as_str() == task.name.as_str() => Ok(()),
        _ => Err(bad("type", "file", "one entry in filelist that is equal to name; else dir")),
    }
}

/// Every file in exactly one list, or found locally. Returns the sums of whole files by list.
fn lists_cover(task: &TaskFile) -> Result<[u64; 3]> {
    let index = task.index();
    let mut sums = [0u64; 3];
    let mut seen = vec![false; task.files.len()];
    let visit = |field: &str, path: &RelPath| -> Result<usize> {
        index.get(path).map(|i| *i as usize).ok_or_else(|| bad(field, path.as_str(), "paths of filelist"))
    };
    for ((list, name), sum) in task.lists.iter().zip(LIST_NAMES).zip(&mut sums) {
        for path in list {
            let i = visit(name, path)?;
            if std::mem::replace(&mut seen[i], true) {
                return Err(bad(name, path.as_str(), "every file in one list only"));
            }
            *sum += task.files[i].size;
        }
    }
    let mut local = vec![false; task.files.len()];
    for path in &task.local_same {
        let i = visit("localsamefiles", path)?;
        if std::mem::replace(&mut local[i], true) {
            return Err(bad("localsamefiles", path.as_str(), "every path once"));
        }
        seen[i] = true;
    }
    match task.files.iter().zip(seen).find(|(_, seen)| !seen) {
        Some((f, _)) => Err(bad("btlist, obslist, cdnlist", f.path.as_str(), "lists that name every file of filelist")),
        None => Ok(sums),
    }
}

/// The spans of a file that has any cover it exactly once.
fn spans_cover(files: &[FileEntry], spans: &[SpanEntry]) -> Result<()> {
    let sizes: HashMap<&RelPath, u64> = files.iter().map(|f| (&f.path, f.size)).collect();
    let mut sorted: Vec<&SpanEntry> = spans.iter().collect();
    sorted.sort_by(|a, b| (&a.file, a.offset, a.len).cmp(&(&b.file, b.offset, b.len)));
    for group in sorted.chunk_by(|a, b| a.file == b.file) {
        let Some(file) = group.first().map(|s| &s.file) else { continue };
        let size = *sizes.get(file).ok_or_else(|| bad("spans", file.as_str(), "files of filelist"))?;
        let mut at = 0;
        for s in group {
            if s.offset != at || (s.len == 0 && (size > 0 || group.len() > 1)) {
                return Err(bad(
                    format!("spans of {file}"),
                    format!("{} bytes at {}", s.len, s.offset),
                    format!("spans that cover the file once; the next one starts at {at}"),
                ));
            }
            // Both are at most MAX_SIZE.
            at += s.len;
        }
        if at != size {
            return Err(bad(format!("spans of {file}"), format!("they end at {at}"), format!("the file's size, {size}")));
        }
    }
    Ok(())
}
