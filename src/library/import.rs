//! Lines of `sha1sum` from elsewhere: the files that they name are hashed here, and the lines are compared.

use super::Library;
use super::table::line::{Line, parse_line};
use super::tally::Tally;
use crate::error::Fault;
use crate::store::library_queue::QueuedFile;

/// Lines that are compared at a time.
const BATCH: usize = 1000;

/// What lines were about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Lines that say what the rows say.
    pub same: u64,
    /// Lines whose file is hashed now.
    pub queued: u64,
    /// Lines that are not understood, or name what cannot be in the library.
    pub refused: u64,
    /// The first of these, and why.
    pub first_refused: String,
}

impl Library {
    /// Takes lines in. Nothing is forgotten; what a line says is compared and never believed.
    pub async fn import(&self, lines: Vec<String>) -> Result<Imported, Fault> {
        let (mut files, mut refused) = (Vec::new(), Tally::default());
        let due_at = self.clock.now_ms();
        for (number, line) in (1u64..).zip(&lines) {
            match parse_line(line.trim_end_matches('\n').as_bytes()) {
                Line::Blank => {}
                Line::Odd => refused.add(|| format!("line {number}: not <40 hex digits><two blanks><absolute path>")),
                Line::File { sha1, path } => match self.place.admit(&path) {
                    Ok(_) => files.push(QueuedFile { path, listed: Some(sha1), stamp: None, anew: false, due_at }),
                    Err(why) => refused.add(|| format!("{}: {why}", path.escape_debug())),
                },
            }
        }
        let mut out = Imported { refused: refused.count, first_refused: refused.first, ..Imported::default() };
        for batch in files.chunks(BATCH) {
            let paths: Vec<&str> = batch.iter().map(|f| f.path.as_str()).collect();
            let rows = self.store.library_rows(&paths).await?;
            let is_same = |(f, row): &(&QueuedFile, Option<(i64, _)>)| row.is_some_and(|(_, sha1)| Some(sha1) == f.listed);
            let queue: Vec<QueuedFile> = batch.iter().zip(rows).filter(|pair| !is_same(pair)).map(|(f, _)| f.clone()).collect();
            out.queued += queue.len() as u64;
            out.same += (batch.len() - queue.len()) as u64;
            if !queue.is_empty() {
                self.store.queue_library_files(&queue).await?;
                self.queued.notify_one();
            }
        }
        Ok(out)
    }
}
