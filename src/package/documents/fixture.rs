//! Small packages for tests: real documents around files that are not essence.

use sha1::Digest;
use std::path::Path;

/// A generated package in a directory of its own.
pub struct Fixture {
    dir: tempfile::TempDir,
}

pub const PKL_ID: &str = "11111111-0000-4000-8000-000000000001";
pub const CPL_ID: &str = "11111111-0000-4000-8000-000000000002";
pub const PICTURE_ID: &str = "11111111-0000-4000-8000-000000000003";
pub const SOUND_ID: &str = "11111111-0000-4000-8000-000000000004";
pub const ABSENT_ID: &str = "11111111-0000-4000-8000-00000000000f";

/// What differs between the families.
struct Family {
    am: &'static str,
    pkl: &'static str,
    cpl: &'static str,
    mark: &'static str,
    cpl_type: &'static str,
    map_name: &'static str,
    index_name: &'static str,
}

const SMPTE: Family = Family {
    am: "http://www.smpte-ra.org/schemas/429-9/2007/AM",
    pkl: "http://www.smpte-ra.org/schemas/429-8/2007/PKL",
    cpl: "http://www.smpte-ra.org/schemas/429-7/2006/CPL",
    mark: "<PackingList>true</PackingList>",
    cpl_type: "text/xml",
    map_name: "ASSETMAP.xml",
    index_name: "VOLINDEX.xml",
};
const INTEROP: Family = Family {
    am: "http://www.digicine.com/PROTO-ASDCP-AM-20040311#",
    pkl: "http://www.digicine.com/PROTO-ASDCP-PKL-20040311#",
    cpl: "http://www.digicine.com/PROTO-ASDCP-CPL-20040511#",
    mark: "<PackingList></PackingList>",
    cpl_type: "text/xml;asdcpKind=CPL",
    map_name: "ASSETMAP",
    index_name: "VOLINDEX",
};

impl Fixture {
    pub fn smpte() -> Self {
        Self::make(&SMPTE, "Film_FTR_OV", "picture.mxf", PICTURE_ID)
    }
    pub fn interop() -> Self {
        Self::make(&INTEROP, "Film_FTR_IOP", "sub/picture.mxf", PICTURE_ID)
    }
    /// Plays a picture that it does not hold.
    pub fn version_file() -> Self {
        Self::make(&SMPTE, "Film_FTR_VF", "picture.mxf", ABSENT_ID)
    }

    fn make(f: &Family, title: &str, picture: &str, played: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, data: &[u8]| {
            let p = dir.path().join(name);
            std::fs::create_dir_all(p.parent().unwrap()).unwrap();
            std::fs::write(p, data).unwrap();
        };
        let picture_bytes: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
        put(picture, &picture_bytes);
        put("sound.mxf", &picture_bytes[..5000]);
        let cpl = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><CompositionPlaylist xmlns=\"{}\"><Id>urn:uuid:{CPL_ID}</Id>\
             <AnnotationText>note</AnnotationText><ContentTitleText>{title}</ContentTitleText><ContentKind>feature</ContentKind><ReelList><Reel><Id>urn:uuid:{ABSENT_ID}</Id><AssetList>\
             <MainMarkers><Id>urn:uuid:{ABSENT_ID}</Id></MainMarkers><MainPicture><Id>urn:uuid:{played}</Id>\
             <EditRate>24 1</EditRate><IntrinsicDuration>60</IntrinsicDuration><EntryPoint>12</EntryPoint></MainPicture>\
             <MainSound><Id>urn:uuid:{SOUND_ID}</Id><EditRate>48000 1</EditRate><Duration>96000</Duration></MainSound></AssetList></Reel><Reel><AssetList>\
             <MainSound><Id>URN:UUID:{}</Id></MainSound></AssetList></Reel></ReelList></CompositionPlaylist>",
            f.cpl,
            SOUND_ID.to_uppercase()
        );
        put("cpl.xml", cpl.as_bytes());
        let pkl_asset = |id: &str, name: &str, kind: &str| {
            let data = std::fs::read(dir.path().join(name)).unwrap();
            let hash = crate::model::ids::Sha1(sha1::Sha1::digest(&data).into()).to_base64();
            format!(
                "<Asset><Id>urn:uuid:{id}</Id><Hash>{hash}</Hash><Size>{}</Size><Type>{kind}</Type><OriginalFileName>{name}</OriginalFileName></Asset>",
                data.len()
            )
        };
        let files = [
            (CPL_ID, "cpl.xml", f.cpl_type),
            (PICTURE_ID, picture, "application/mxf"),
            (SOUND_ID, "sound.mxf", "application/mxf"),
        ];
        let packed: String = files.iter().map(|(id, name, kind)| pkl_asset(id, name, kind)).collect();
        put(
            "pkl.xml",
            format!("<PackingList xmlns=\"{}\"><Id>urn:uuid:{PKL_ID}</Id><AssetList>{packed}</AssetList></PackingList>", f.pkl)
                .as_bytes(),
        );
        let map_asset = |id: &str, name: &str, mark: &str| {
            let len = std::fs::metadata(dir.path().join(name)).unwrap().len();
            format!(
                "<Asset><Id>urn:uuid:{id}</Id>{mark}<ChunkList><Chunk><Path>{name}</Path><VolumeIndex>1</VolumeIndex><Offset>0</Offset><Length>{len}</Length></Chunk></ChunkList></Asset>"
            )
        };
        let mapped: String = files.iter().map(|(id, name, _)| map_asset(id, name, "")).collect();
        let map = format!(
            "<AssetMap xmlns=\"{}\"><Id>urn:uuid:{ABSENT_ID}</Id><VolumeCount>1</VolumeCount><AssetList>{}{mapped}</AssetList></AssetMap>",
            f.am,
            map_asset(PKL_ID, "pkl.xml", f.mark)
        );
        put(f.map_name, map.as_bytes());
        put(f.index_name, b"<VolumeIndex><Index>1</Index></VolumeIndex>");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }
    /// Replaces text in a document; it must be there.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let old = self.text(name);
        assert!(old.contains(from), "{from} is not in {name}");
        std::fs::write(self.path().join(name), old.replacen(from, to, 1)).unwrap();
    }
    pub fn flip_byte(&self, name: &str) {
        let p = self.path().join(name);
        let mut data = std::fs::read(&p).unwrap();
        let middle = data.len() / 2;
        data[middle] ^= 1;
        std::fs::write(p, data).unwrap();
    }
}
