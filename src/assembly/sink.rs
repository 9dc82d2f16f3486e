//! What the legs write through: every byte into its place, once.

use super::{Assembly, Slot, lock, staging, vanished};
use crate::error::{Fault, io_fault};
use crate::model::span::Span;
use crate::transport::Sink;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

fn bounds(slot: &Slot, offset: u64, len: usize) -> Result<(), Fault> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= slot.size => Ok(()),
        _ => Err(Fault::corrupt(format!("more data than the file's {} bytes", slot.size)).file(&slot.path)),
    }
}

impl Sink for Assembly {
    fn missing(&self, span: &Span) -> Vec<Range<u64>> {
        self.slots.get(span.file as usize).map_or_else(Vec::new, |s| lock(&s.state).have.missing(&span.range()))
    }

    fn write_at(&self, file: u32, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let slot = self.slot(file)?;
        bounds(slot, offset, data.len())?;
        let missing = || lock(&slot.state).have.missing(&(offset..offset + data.len() as u64));
        if missing().is_empty() {
            return Ok(());
        }
        self.wait_for_disk();
        let _gate = lock(&slot.gate);
        // Bytes for a file that was removed under us lead nowhere: they stay missing, and come again.
        let f = match self.open_file(file) {
            Err(_) if self.is_missed(file) => return Ok(()),
            opened => opened?,
        };
        if !self.is_uncut(file, slot, &f)? {
            return Ok(());
        }
        // Bytes that are in place are never overwritten: a neighbour's piece may only fill what is missing.
        for r in missing() {
            let part = &data[(r.start - offset) as usize..(r.end - offset) as usize];
            let wrote = f.write_all_at(part, r.start);
            slot.mark_again(&f);
            wrote.map_err(|e| staging::write_fault(&self.root, &slot.path, &e))?;
            let mut state = lock(&slot.state);
            let new = state.written.missing(&r).iter().map(|m| m.end - m.start).sum();
            state.written.insert(r);
            self.stake.opened(new);
        }
        Ok(())
    }

    fn read_at(&self, file: u32, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let slot = self.slot(file)?;
        bounds(slot, offset, buf.len())?;
        let f = self.open_file(file)?;
        f.read_exact_at(buf, offset).map_err(|e| {
            let path = slot.path.under(&self.root);
            self.look_at(file, slot);
            if self.is_missed(file) { vanished::fault(&path).file(&slot.path) } else { io_fault("cannot read", &path, &e) }
        })
    }

    fn commit(&self, file: u32, range: Range<u64>) {
        let Some(slot) = self.slots.get(file as usize) else { return };
        {
            let _gate = lock(&slot.gate);
            let mut state = lock(&slot.state);
            // Not more than was written into the file that is there now.
            for part in state.written.within(&range) {
                self.stake.closed(part.end - part.start);
                state.written.remove(part.clone());
                state.have.insert(part);
            }
            state.dirty = true;
        }
        self.count(range.end.min(slot.size).saturating_sub(range.start));
        self.follow(file as usize);
    }
}
