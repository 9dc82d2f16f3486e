//! ASSETMAP (SMPTE 429-9, Interop AM): which identity lies in which file.
//!
//! Packages once could be split over several discs, with files in several chunks. Nobody sends those over a network, and
//! reassembling by guess would be worse than a refusal: one volume, one chunk, offset 0.

use super::xml::{Document, Element};
use super::{Standard, asset_id};
use crate::model::ids::RelPath;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct AssetMap {
    pub standard: Standard,
    pub assets: BTreeMap<Uuid, MappedAsset>,
}

#[derive(Debug)]
pub(super) struct MappedAsset {
    pub path: RelPath,
    pub packing_list: bool,
    /// Bytes, where the map says so.
    pub length: Option<u64>,
}

impl AssetMap {
    pub fn read(document: &Document) -> Result<Self, String> {
        let root = &document.root;
        if root.name != "AssetMap" {
            return Err(format!("is not an asset map: its root element is {}", root.name));
        }
        if root.text_of("VolumeCount").is_some_and(|n| n != "1") {
            return Err("describes a package that is split over several volumes".into());
        }
        let mut assets = BTreeMap::new();
        for asset in root.items("AssetList", "Asset") {
            let id = asset_id(asset)?;
            let mapped = MappedAsset::read(asset, id)?;
            if assets.insert(id, mapped).is_some() {
                return Err(format!("lists the asset {id} twice"));
            }
        }
        if assets.is_empty() {
            return Err("lists no asset".into());
        }
        Ok(Self { standard: Standard::of(&document.namespace), assets })
    }
}

impl MappedAsset {
    fn read(asset: &Element, id: Uuid) -> Result<Self, String> {
        let mut chunks = asset.items("ChunkList", "Chunk");
        let (Some(chunk), None) = (chunks.next(), chunks.next()) else {
            return Err(format!("does not give the asset {id} exactly one chunk: split assets are not supported"));
        };
        if chunk.text_of("VolumeIndex").is_some_and(|n| n != "1") || chunk.text_of("Offset").is_some_and(|n| n != "0") {
            return Err(format!("puts the asset {id} on another volume or into the middle of a file: not supported"));
        }
        let path = chunk.text_of("Path").ok_or_else(|| format!("gives the asset {id} no path"))?;
        let path = RelPath::parse(path).map_err(|e| format!("gives the asset {id} a path that cannot be used: {e}"))?;
        let length =
            chunk.text_of("Length").map(|n| n.parse().map_err(|_| format!("gives {path} the length {n:?}"))).transpose()?;
        // SMPTE writes true or false, Interop an empty element.
        let packing_list =
            asset.child("PackingList").is_some_and(|e| matches!(e.text.to_ascii_lowercase().as_str(), "" | "true" | "1"));
        Ok(Self { path, packing_list, length })
    }
}
