//! Writes files of a package and digests them on the way, so that no byte is read back.

use super::essence::FrameMaker;
use super::metadata::header_metadata;
use super::plan::{Ids, Track};
use crate::error::{Fault, io_fault};
use crate::model::ids::Sha1;
use sha1::Digest as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Copies report progress after this many bytes.
const COPY_STEP: u64 = 16 << 20;

/// Counts the bytes of a whole run and tells the caller.
pub struct Progress<'a> {
    done: u64,
    report: &'a mut dyn FnMut(u64),
}

impl<'a> Progress<'a> {
    pub fn new(report: &'a mut dyn FnMut(u64)) -> Self {
        Self { done: 0, report }
    }
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        (self.report)(self.done);
    }
}

/// A new file whose digest grows with it.
struct Digested<'a> {
    path: &'a Path,
    file: File,
    sha1: sha1::Sha1,
    len: u64,
}

impl<'a> Digested<'a> {
    fn create(path: &'a Path) -> Result<Self, Fault> {
        let file = File::create_new(path).map_err(|e| io_fault("cannot create", path, &e))?;
        Ok(Self { path, file, sha1: sha1::Sha1::new(), len: 0 })
    }
    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.sha1.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| io_fault("cannot write", self.path, &e))
    }
    fn finish(self) -> (u64, Sha1) {
        (self.len, Sha1(self.sha1.finalize().into()))
    }
}

/// Writes a document; its size and digest.
pub fn write_document(path: &Path, bytes: &[u8]) -> Result<(u64, Sha1), Fault> {
    let mut file = Digested::create(path)?;
    file.write(bytes)?;
    Ok(file.finish())
}

/// Writes a track file, frame by frame: memory holds one frame, whatever the length.
pub fn write_track(path: &Path, track: &Track, progress: &mut Progress<'_>) -> Result<(u64, Sha1), Fault> {
    let layout = &track.layout;
    let mut ids = Ids::new(!track.seed);
    let metadata = header_metadata(layout, &mut || ids.uuid());
    let head = layout.head(&metadata).ok_or_else(|| Fault::permanent("the track file's header does not fit its area"))?;
    let mut file = Digested::create(path)?;
    file.write(&head)?;
    let mut maker = FrameMaker::new(&layout.essence, track.seed);
    let mut frame = Vec::new();
    let mut reported = 0;
    for size in layout.frames.iter() {
        // Key, length and frame in one buffer: one write, one digest update.
        let head = layout.frame_head(size);
        frame.resize(head.len() + size as usize, 0);
        let (key, data) = frame.split_at_mut(head.len());
        key.copy_from_slice(&head);
        maker.fill(data);
        file.write(&frame)?;
        progress.add(file.len - reported);
        reported = file.len;
    }
    file.write(&layout.footer_pack())?;
    for segment in layout.index_segments(|| ids.uuid()) {
        file.write(&segment)?;
    }
    file.write(&layout.random_index())?;
    progress.add(file.len - reported);
    Ok(file.finish())
}

/// Copies a track file of another package; by reference where the file system can.
pub fn copy_track(from: &Path, to: &Path, progress: &mut Progress<'_>) -> Result<u64, Fault> {
    if reflink_copy::reflink(from, to).is_ok() {
        let len = std::fs::metadata(to).map_err(|e| io_fault("cannot read", to, &e))?.len();
        progress.add(len);
        return Ok(len);
    }
    let mut source = File::open(from).map_err(|e| io_fault("cannot read", from, &e))?;
    let mut target = File::create_new(to).map_err(|e| io_fault("cannot create", to, &e))?;
    let mut total = 0;
    loop {
        let step = (&mut source).take(COPY_STEP);
        let n = std::io::copy(&mut { step }, &mut target).map_err(|e| io_fault("cannot copy to", to, &e))?;
        if n == 0 {
            return Ok(total);
        }
        total += n;
        progress.add(n);
    }
}
