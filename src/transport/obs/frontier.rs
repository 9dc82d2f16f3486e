//! The digest of a file that goes up in parts. An object carries the task's SHA-1 as metadata and is trusted by it later
//! on, so the claim is checked before the object comes to be: a file that was changed between the making of the task and
//! its upload would otherwise be taken for the right one for ever.
//!
//! Parts are sent side by side, a SHA-1 needs them in order. So it follows the edge of what is sent without a gap, and
//! reads those bytes again while the page cache still has them. Its midstate goes into the upload's note: a later run
//! does not read the file from the start.

use super::multipart::{Note, part_range};
use super::source::{BLOCK, SourceFile, blocking};
use crate::error::Fault;
use sha1::digest::common::hazmat::SerializableState as _;
use sha1::{Digest as _, Sha1};
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Default)]
pub(super) struct Frontier {
    digest: Sha1,
    /// Parts digested, from the first one on.
    parts: u64,
}

impl Frontier {
    /// Where an earlier run was; the start of the file when its note cannot be read.
    pub fn from_note(note: &Note) -> Self {
        let state = hex::decode(&note.midstate).ok().and_then(|s| s.as_slice().try_into().ok());
        let digest = state.and_then(|s| Sha1::deserialize(&s).ok());
        digest.map_or_else(Self::default, |digest| Self { digest, parts: note.digested })
    }

    /// Digests the parts that are now there without a gap.
    pub async fn follow(
        &mut self,
        source: &SourceFile,
        span: &Range<u64>,
        note: &mut Note,
        etags: &BTreeMap<u64, String>,
    ) -> Result<(), Fault> {
        while etags.contains_key(&(self.parts + 1)) {
            let range = part_range(span, note.part_size, self.parts + 1);
            let (source, mut digest) = (source.clone(), self.digest.clone());
            self.digest = blocking(move || {
                let mut at = range.start;
                while at < range.end {
                    let end = range.end.min(at + BLOCK);
                    digest.update(source.read_block(at..end)?);
                    at = end;
                }
                Ok(digest)
            })
            .await?;
            self.parts += 1;
        }
        note.digested = self.parts;
        note.midstate = hex::encode(self.digest.serialize());
        Ok(())
    }

    /// Of everything that was followed.
    pub fn sha1(&self) -> [u8; 20] {
        self.digest.clone().finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::RelPath;

    #[tokio::test]
    async fn the_digest_goes_on_from_its_note() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let source = SourceFile::open(dir.path(), &RelPath::parse("f").unwrap(), bytes.len() as u64).await.unwrap();
        let span = 0..bytes.len() as u64;
        let mut note: Note = serde_json::from_str(
            r#"{"upload_id":"u","place":"p","part_size":300000,"size":0,"mtime_ns":0,"sha1":"","checked":"","digested":0,"midstate":""}"#,
        )
        .unwrap();
        // Part 2 is missing first, and 4 is the short one.
        for (there, digested) in [(vec![1, 3], 1), (vec![1, 2, 3], 3), (vec![1, 2, 3, 4], 4)] {
            let etags = there.into_iter().map(|n| (n, String::new())).collect();
            let mut frontier = Frontier::from_note(&note);
            frontier.follow(&source, &span, &mut note, &etags).await.unwrap();
            assert_eq!(note.digested, digested);
        }
        assert_eq!(Frontier::from_note(&note).sha1(), <[u8; 20]>::from(Sha1::digest(&bytes)));
    }
}
