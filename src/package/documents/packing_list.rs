//! PKL (SMPTE 429-8, Interop PKL): size and SHA-1 of every asset, as the mastering house computed them.

use super::asset_id;
use super::xml::{Document, Element};
use crate::model::ids::Sha1;
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct PackedAsset {
    pub id: Uuid,
    /// Bytes.
    pub size: u64,
    pub sha1: Sha1,
    /// Whether this may be a composition (CPL), judged by its type.
    pub maybe_composition: bool,
    /// A hint for messages only; the real path is the asset map's.
    pub original_name: Option<String>,
}

pub(super) fn read(document: &Document) -> Result<Vec<PackedAsset>, String> {
    let root = &document.root;
    if root.name != "PackingList" {
        return Err(format!("is not a packing list: its root element is {}", root.name));
    }
    root.items("AssetList", "Asset").map(PackedAsset::read).collect()
}

impl PackedAsset {
    fn read(asset: &Element) -> Result<Self, String> {
        let id = asset_id(asset)?;
        let size = asset.text_of("Size").ok_or_else(|| format!("gives the asset {id} no size"))?;
        let size = size.parse().map_err(|_| format!("gives the asset {id} the size {size:?}"))?;
        let hash = asset.text_of("Hash").ok_or_else(|| format!("gives the asset {id} no hash"))?;
        let sha1 = Sha1::from_base64(hash).map_err(|e| format!("gives the asset {id} a hash that is not SHA-1: {e}"))?;
        let kind = asset.text_of("Type").unwrap_or_default().to_ascii_lowercase();
        let maybe_composition = kind.starts_with("text/xml") && (!kind.contains("asdcpkind=") || kind.contains("asdcpkind=cpl"));
        Ok(Self { id, size, sha1, maybe_composition, original_name: asset.text_of("OriginalFileName").map(str::to_owned) })
    }
}
