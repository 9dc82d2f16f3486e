//! Looking whether bytes that a sink has are those of the torrent.

use super::BtSource;
use super::layout::Layout;
use crate::error::Fault;
use crate::transport::{FileMeta, Sink};
use sha1::{Digest as _, Sha1};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Which of these files (by number) meet a piece that is wrong. Reads every piece that meets one of them; all bytes of the
/// torrent must be there. Blocks.
pub fn wrong_files(source: &BtSource, files: &[FileMeta], suspects: &[u32], sink: &dyn Sink) -> Result<Vec<u32>, Fault> {
    let layout = Layout::parse(&source.torrent, &source.map, files)?;
    let metainfo = librqbit::torrent_from_bytes(&source.torrent);
    let metainfo = metainfo.map_err(|e| Fault::permanent("the torrent cannot be used").detail(e))?;
    let hashes = metainfo.info.data.pieces.as_ref().to_vec();
    let mut expected = hashes.as_chunks::<20>().0.iter();
    let mut buffer = vec![0; CHUNK];
    let mut wrong = Vec::new();
    for piece in 0..layout.pieces() {
        let expected = expected.next();
        let met = || layout.piece_spans(piece).map(|s| s.file).filter(|f| suspects.contains(f));
        // A file that is wrong already is not read to its end.
        if met().all(|f| wrong.contains(&f)) {
            continue;
        }
        let mut digest = Sha1::new();
        for span in layout.piece_spans(piece) {
            let mut at = span.offset;
            while at < span.end() {
                let part = &mut buffer[..usize::try_from(span.end() - at).unwrap_or(CHUNK).min(CHUNK)];
                sink.read_at(span.file, at, part)?;
                digest.update(&*part);
                at += part.len() as u64;
            }
        }
        if expected != Some(&<[u8; 20]>::from(digest.finalize())) {
            let more: Vec<u32> = met().filter(|f| !wrong.contains(f)).collect();
            wrong.extend(more);
        }
    }
    wrong.dedup();
    Ok(wrong)
}
