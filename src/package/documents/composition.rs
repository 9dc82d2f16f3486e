//! CPL (SMPTE 429-7, Interop CPL): the title and which track files play in which order. Only what a delivery needs.

use super::xml::{Document, Element};
use super::{asset_id, parse_id};
use uuid::Uuid;

/// A composition: one playable version of a film.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composition {
    pub id: Uuid,
    /// The content title, or the annotation where there is none. For people: its parts mean nothing to this program.
    pub title: String,
    pub reels: usize,
    /// Track files that it plays, without repetition.
    pub tracks: Vec<Uuid>,
}

impl Composition {
    /// `None` for another kind of document.
    pub(super) fn read(document: &Document) -> Result<Option<Self>, String> {
        let root = &document.root;
        if root.name != "CompositionPlaylist" {
            return Ok(None);
        }
        let title = root.text_of("ContentTitleText").or_else(|| root.text_of("AnnotationText")).unwrap_or_default();
        let mut tracks = Vec::new();
        let mut reels = 0;
        for reel in root.items("ReelList", "Reel") {
            reels += 1;
            for asset in reel.child("AssetList").into_iter().flat_map(|l| &l.children).filter(|a| is_track(a)) {
                let id = asset_id(asset)?;
                if !tracks.contains(&id) {
                    tracks.push(id);
                }
            }
        }
        let id = parse_id(root.text_of("Id").unwrap_or_default())?;
        Ok(Some(Self { id, title: title.to_owned(), reels, tracks }))
    }
}

/// Whether a reel's asset is a file. Markers and composition metadata have an identity, but no file.
fn is_track(asset: &Element) -> bool {
    ["Picture", "Sound", "Subtitle", "Caption", "AuxData"].iter().any(|kind| asset.name.contains(kind))
}
