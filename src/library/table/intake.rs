//! An edit by another hand becomes rows.
//!
//! The file is read line by line and compared with the rows in batches; what is kept is 8 bytes for each line. New lines
//! go into the queue at once, which does no harm should the file change meanwhile: they are hashed before they count.
//! Rows are forgotten at the very end, when the whole file was read and is still the same.

use super::line::{Line, Lines};
use super::{blocking, stamp_of};
use crate::error::Fault;
use crate::library::place::Place;
use crate::library::tally::Tally;
use crate::store::Store;
use crate::store::hashtable::FileStamp;
use crate::store::library_queue::QueuedFile;
use rustix::fs::{Mode, OFlags};
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// More lines than any library has files; a bound for memory and time.
const MAX_LINES: u64 = 4_000_000;
const BATCH: usize = 1000;

/// What an edit asked for and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Lines that say what the rows say.
    pub same: u64,
    /// Lines without a row: their files are hashed.
    pub new: u64,
    /// Lines with another digest than their row: hashed again.
    pub differing: u64,
    /// Lines that name what cannot be in the library.
    pub refused: Tally,
    /// Lines that are not understood.
    pub odd: Tally,
    /// Rows whose line is gone.
    pub forgotten: u64,
}

/// How an intake went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Edit),
    /// The file is not what it was at the last look: come again.
    Moving,
    /// Not one line is good: this is no table, nothing was done.
    NoTable(Edit),
    /// More than [`MAX_LINES`]: nothing was forgotten.
    TooLong,
}

impl Edit {
    /// For an event; `None` when the edit changes nothing.
    pub fn text(&self) -> Option<String> {
        let mut text = String::new();
        let mut say = |n: u64, one: &str, many: &str, more: &str| {
            let comma = if text.is_empty() { "" } else { ", " };
            match n {
                0 => {}
                1 => drop(write!(text, "{comma}1 {one}{more}")),
                n => drop(write!(text, "{comma}{n} {many}{more}")),
            }
        };
        say(self.forgotten, "file forgotten", "files forgotten", "");
        say(self.new, "new file to hash", "new files to hash", "");
        say(self.differing, "file to hash again", "files to hash again", "");
        say(self.refused.count, "line refused", "lines refused", &format!(" ({})", self.refused.first));
        say(self.odd.count, "line not understood", "lines not understood", &format!(" ({})", self.odd.first));
        (!text.is_empty()).then_some(text)
    }
}

/// Takes in the file at `path`, which looked like `stamp`. Rows up to the id `newest` were shown when it was exported;
/// only those can have been deleted in it.
pub async fn take_in(
    store: &Store,
    place: &Place,
    path: &Path,
    stamp: FileStamp,
    newest: i64,
    now_ms: i64,
) -> Result<Outcome, Fault> {
    let (sender, batches) = channel(2);
    let from = path.to_owned();
    let reader = tokio::spawn(blocking(move || read(&from, stamp, now_ms, &sender)));
    let (edit, mut listed) = sort_out(store, place, batches).await?;
    let read = reader.await.unwrap_or_else(|e| Err(Fault::local(format!("reading the hash table: {e}"))))?;
    let edit = Edit { odd: read.odd, ..edit };
    if read.end == End::Moving {
        return Ok(Outcome::Moving);
    }
    if read.end == End::TooLong {
        return Ok(Outcome::TooLong);
    }
    if edit.same + edit.new + edit.differing == 0 {
        if edit.odd.count + edit.refused.count > 0 {
            return Ok(Outcome::NoTable(edit));
        }
        // Emptied: what an earlier edit asked for is meant, too.
        store.clear_library_queue().await?;
        if newest > 0 {
            store.settle_claims().await?;
        }
    }
    listed.sort_unstable();
    let forgotten = store.forget_unlisted(&listed, newest).await?;
    Ok(Outcome::Done(Edit { forgotten, ..edit }))
}

/// Compares lines with rows. Returns the ids of rows that are listed.
async fn sort_out(store: &Store, place: &Place, mut batches: Receiver<Vec<QueuedFile>>) -> Result<(Edit, Vec<i64>), Fault> {
    let (mut edit, mut listed) = (Edit::default(), Vec::new());
    while let Some(batch) = batches.recv().await {
        let paths: Vec<&str> = batch.iter().map(|f| f.path.as_str()).collect();
        let rows = store.library_rows(&paths).await?;
        let mut queue = Vec::new();
        for (file, row) in batch.into_iter().zip(rows) {
            listed.extend(row.map(|(id, _)| id));
            if row.is_some_and(|(_, sha1)| Some(sha1) == file.listed) {
                edit.same += 1;
            } else if let Err(why) = place.admit(&file.path) {
                edit.refused.add(|| format!("{}: {why}", file.path.escape_debug()));
            } else {
                *(if row.is_some() { &mut edit.differing } else { &mut edit.new }) += 1;
                queue.push(file);
            }
        }
        if !queue.is_empty() {
            store.queue_library_files(&queue).await?;
        }
    }
    Ok((edit, listed))
}

struct Read {
    odd: Tally,
    end: End,
}

#[derive(PartialEq, Eq)]
enum End {
    Whole,
    Moving,
    TooLong,
}

/// Reads the lines and sends them in batches. Ends early when nobody listens any more.
fn read(path: &Path, stamp: FileStamp, now_ms: i64, batches: &Sender<Vec<QueuedFile>>) -> Result<Read, Fault> {
    let refused = |e: std::io::Error| {
        let text = "make it readable for the service, or delete it: it is written anew from the database";
        Fault::local(format!("cannot read {}: {e}; {text}", path.display()))
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Read { odd: Tally::default(), end: End::Moving }),
        other => other.map_err(|e| refused(e.into()))?.into(),
    };
    let mut lines = Lines::new(BufReader::with_capacity(1 << 16, &file));
    let (mut batch, mut odd, mut number) = (Vec::new(), Tally::default(), 0u64);
    while let Some(line) = lines.next_line().map_err(refused)? {
        number += 1;
        if number > MAX_LINES {
            return Ok(Read { odd, end: End::TooLong });
        }
        match line {
            Line::File { sha1, path } => {
                batch.push(QueuedFile { path, listed: Some(sha1), stamp: None, anew: false, due_at: now_ms })
            }
            Line::Blank => {}
            Line::Odd => odd.add(|| format!("line {number}")),
        }
        if batch.len() == BATCH && batches.blocking_send(std::mem::take(&mut batch)).is_err() {
            return Ok(Read { odd, end: End::Moving });
        }
    }
    let heard = batch.is_empty() || batches.blocking_send(batch).is_ok();
    let still = FileStamp::of(&file.metadata().map_err(refused)?).without_ctime() == stamp && stamp_of(path)? == Some(stamp);
    Ok(Read { odd, end: if heard && still { End::Whole } else { End::Moving } })
}
