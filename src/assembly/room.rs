//! What receptions take of the disk that they share.

use super::{Assembly, lock};
use crate::model::span::Span;
use crate::transport::Sink as _;
use std::os::unix::fs::MetadataExt as _;

/// What else is to be written to the file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Bytes that other receptions at work still have to write: room that is promised.
    pub promised: u64,
    /// Bytes that other receptions at work occupy. They come back when those are cancelled, and on a cacher when their seed
    /// time ends.
    pub returning: u64,
    /// The task may wait until there is room. One that is at work already cannot.
    pub waits: bool,
}

impl Assembly {
    /// Is every byte of these spans in place?
    pub fn has_all<'a>(&self, mut spans: impl Iterator<Item = &'a Span>) -> bool {
        spans.all(|s| self.missing(s).is_empty())
    }

    /// Every byte that this node wants is there, checked or not.
    pub fn is_complete(&self) -> bool {
        self.slots.iter().all(|s| lock(&s.state).have.total() >= s.wanted)
    }

    /// Bytes that this reception still has to have of its file system, and those that it occupies. Looks at every file.
    pub fn room(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for slot in self.slots.iter().filter(|s| s.wanted > 0) {
            let there = slot.path.under(&self.root).symlink_metadata().map_or(0, |m| m.blocks() * 512);
            let complete = lock(&slot.state).have.total() >= slot.wanted || (self.clones && lock(&slot.local_source).is_some());
            sum.0 += if complete { 0 } else { slot.wanted.saturating_sub(there) };
            sum.1 += there;
        }
        sum
    }
}
