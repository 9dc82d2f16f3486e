//! CPL (SMPTE 429-7, Interop CPL): the title and which track files play in which order. Only what a delivery needs.

use super::xml::{Document, Element};
use super::{asset_id, parse_id};
use std::collections::BTreeSet;
use uuid::Uuid;

/// A composition: one playable version of a film.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composition {
    pub id: Uuid,
    /// The content title, or the annotation where there is none. For people: its parts mean nothing to this program.
    pub title: String,
    /// `feature`, `trailer`, …; as it is written there.
    pub kind: String,
    pub reels: Vec<Reel>,
    /// Track files that it plays, without repetition.
    pub tracks: Vec<Track>,
}

/// A reel: what plays at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reel {
    pub id: Option<Uuid>,
    pub picture: Option<Uuid>,
    pub sound: Option<Uuid>,
    /// The first of its subtitles and captions.
    pub subtitle: Option<Uuid>,
    /// Of the picture, or of what is first where there is none.
    pub edit_rate: Option<Rate>,
    /// In units of the edit rate, which mostly means frames.
    pub duration: u64,
}

/// So many units in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub units: u32,
    pub seconds: u32,
}

/// A track file that a composition plays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    pub id: Uuid,
    /// What the composition calls it; empty when it does not.
    pub name: String,
}

impl Track {
    /// For people.
    pub fn shown(&self) -> String {
        if self.name.is_empty() { self.id.to_string() } else { self.name.clone() }
    }
}

impl Composition {
    /// For people: the title, or the identity where there is none.
    pub fn shown(&self) -> String {
        if self.title.is_empty() { self.id.to_string() } else { self.title.clone() }
    }

    /// `None` for another kind of document.
    pub(super) fn read(document: &Document) -> Result<Option<Self>, String> {
        let root = &document.root;
        if root.name != "CompositionPlaylist" {
            return Ok(None);
        }
        let title = root.text_of("ContentTitleText").or_else(|| root.text_of("AnnotationText")).unwrap_or_default();
        let kind = root.text_of("ContentKind").unwrap_or_default();
        let (mut tracks, mut known) = (Vec::new(), BTreeSet::new());
        let mut reels = Vec::new();
        for reel in root.items("ReelList", "Reel") {
            let mut read = Reel { id: reel.text_of("Id").and_then(|id| parse_id(id).ok()), ..Reel::default() };
            for asset in reel.child("AssetList").into_iter().flat_map(|l| &l.children).filter(|a| is_track(a)) {
                let id = asset_id(asset)?;
                read.take(asset, id);
                if known.insert(id) {
                    tracks.push(Track { id, name: asset.text_of("AnnotationText").unwrap_or_default().to_owned() });
                }
            }
            reels.push(read);
        }
        let id = parse_id(root.text_of("Id").unwrap_or_default())?;
        Ok(Some(Self { id, title: title.to_owned(), kind: kind.to_owned(), reels, tracks }))
    }
}

impl Reel {
    fn take(&mut self, asset: &Element, id: Uuid) {
        let is_picture = asset.name.contains("Picture");
        let place = match asset.name.as_str() {
            _ if is_picture => &mut self.picture,
            name if name.contains("Sound") => &mut self.sound,
            name if name.contains("Subtitle") || name.contains("Caption") => &mut self.subtitle,
            _ => return,
        };
        place.get_or_insert(id);
        if is_picture || self.edit_rate.is_none() {
            self.edit_rate = asset.text_of("EditRate").and_then(Rate::parse);
            self.duration = duration(asset);
        }
    }
}

impl Rate {
    /// `24 1`.
    fn parse(text: &str) -> Option<Self> {
        let (units, seconds) = text.split_once(char::is_whitespace)?;
        let (units, seconds) = (units.parse().ok()?, seconds.trim().parse().ok()?);
        (units > 0 && seconds > 0).then_some(Self { units, seconds })
    }
}

/// What is played of a track file; without a word about it, the rest from where it begins.
fn duration(asset: &Element) -> u64 {
    let number = |name: &str| asset.text_of(name).and_then(|n| n.parse::<u64>().ok());
    let rest = || number("IntrinsicDuration").unwrap_or(0).saturating_sub(number("EntryPoint").unwrap_or(0));
    number("Duration").unwrap_or_else(rest)
}

/// Whether a reel's asset is a file. Markers and composition metadata have an identity, but no file.
fn is_track(asset: &Element) -> bool {
    ["Picture", "Sound", "Subtitle", "Caption", "AuxData"].iter().any(|kind| asset.name.contains(kind))
}
