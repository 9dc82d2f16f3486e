//! The XML documents of a package: CPL (ST 429-7), PKL (ST 429-8), ASSETMAP and VOLINDEX (ST 429-9), and the Interop
//! forms of the same, which differ in name space, types and the order of some elements.

use super::options::Standard;
use crate::model::ids::Sha1;
use chrono::NaiveDate;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use std::io;
use uuid::Uuid;

/// Who issued documents and track files.
pub const ISSUER: &str = "bft2 sample packages";
/// What made them. No version: the same options give the same bytes in the next release, too.
pub const CREATOR: &str = "bftv2 sample-dcp";

/// What a file of a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Picture,
    Sound,
    Cpl,
    Pkl,
}

impl Kind {
    fn mime(self, standard: Standard) -> &'static str {
        match (standard, self) {
            (Standard::Smpte, Kind::Picture | Kind::Sound) => "application/mxf",
            (Standard::Interop, Kind::Picture) => "application/x-smpte-mxf;asdcpKind=Picture",
            (Standard::Interop, Kind::Sound) => "application/x-smpte-mxf;asdcpKind=Sound",
            (Standard::Interop, Kind::Cpl) => "text/xml;asdcpKind=CPL",
            (Standard::Smpte, Kind::Cpl) | (_, Kind::Pkl) => "text/xml",
        }
    }
}

/// A file that documents speak of.
#[derive(Clone, Debug)]
pub struct Asset {
    pub id: Uuid,
    pub kind: Kind,
    /// Relative to the package.
    pub path: String,
    pub size: u64,
    pub sha1: Sha1,
    /// Of a track file; 0 for documents.
    pub frames: u64,
}

impl Asset {
    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// What the documents of one package have in common.
pub struct Documents<'a> {
    pub standard: Standard,
    pub title: &'a str,
    pub date: NaiveDate,
    pub fps: u32,
    /// `ContentKind`.
    pub kind: &'a str,
    /// Width and height of the picture.
    pub picture: (u32, u32),
}

/// The identifiers a composition needs beside those of its tracks.
pub struct CplIds {
    pub cpl: Uuid,
    pub version: Uuid,
    pub reels: Vec<Uuid>,
}

impl Documents<'_> {
    /// The composition: which tracks play in which reel (picture, sound).
    pub fn cpl(&self, ids: &CplIds, reels: &[(Asset, Asset)]) -> io::Result<Vec<u8>> {
        let ns = match self.standard {
            Standard::Smpte => "http://www.smpte-ra.org/schemas/429-7/2006/CPL",
            Standard::Interop => "http://www.digicine.com/PROTO-ASDCP-CPL-20040511#",
        };
        let mut x = Xml::new("CompositionPlaylist", ns)?;
        x.text("Id", urn(ids.cpl))?;
        x.text("AnnotationText", self.title)?;
        self.issue(&mut x)?;
        x.text("Creator", CREATOR)?;
        x.text("ContentTitleText", self.title)?;
        x.text("ContentKind", self.kind)?;
        x.open("ContentVersion")?;
        x.text("Id", urn(ids.version))?;
        x.text("LabelText", self.title)?;
        x.close("ContentVersion")?;
        x.empty("RatingList")?;
        x.open("ReelList")?;
        for (id, (picture, sound)) in ids.reels.iter().zip(reels) {
            x.open("Reel")?;
            x.text("Id", urn(*id))?;
            x.open("AssetList")?;
            self.reel_asset(&mut x, "MainPicture", picture)?;
            self.reel_asset(&mut x, "MainSound", sound)?;
            x.close("AssetList")?;
            x.close("Reel")?;
        }
        x.close("ReelList")?;
        x.finish("CompositionPlaylist")
    }

    fn reel_asset(&self, x: &mut Xml, tag: &str, asset: &Asset) -> io::Result<()> {
        let rate = format!("{} 1", self.fps);
        x.open(tag)?;
        x.text("Id", urn(asset.id))?;
        x.text("EditRate", &rate)?;
        x.text("IntrinsicDuration", asset.frames.to_string())?;
        x.text("EntryPoint", "0")?;
        x.text("Duration", asset.frames.to_string())?;
        x.text("Hash", asset.sha1.to_base64())?;
        if asset.kind == Kind::Picture {
            let (w, h) = self.picture;
            x.text("FrameRate", &rate)?;
            x.text(
                "ScreenAspectRatio",
                match self.standard {
                    Standard::Smpte => format!("{w} {h}"),
                    Standard::Interop => format!("{:.2}", f64::from(w) / f64::from(h)),
                },
            )?;
        } else {
            x.text("Language", "en")?;
        }
        x.close(tag)
    }

    /// The packing list: size and SHA-1 of the CPL and the track files. It lists neither itself nor ASSETMAP and VOLINDEX.
    pub fn pkl(&self, id: Uuid, assets: &[Asset]) -> io::Result<Vec<u8>> {
        let ns = match self.standard {
            Standard::Smpte => "http://www.smpte-ra.org/schemas/429-8/2007/PKL",
            Standard::Interop => "http://www.digicine.com/PROTO-ASDCP-PKL-20040311#",
        };
        let mut x = Xml::new("PackingList", ns)?;
        x.text("Id", urn(id))?;
        x.text("AnnotationText", self.title)?;
        self.issue(&mut x)?;
        x.text("Creator", CREATOR)?;
        x.open("AssetList")?;
        for a in assets {
            x.open("Asset")?;
            x.text("Id", urn(a.id))?;
            x.text("AnnotationText", if a.kind == Kind::Cpl { self.title } else { a.file_name() })?;
            x.text("Hash", a.sha1.to_base64())?;
            x.text("Size", a.size.to_string())?;
            x.text("Type", a.kind.mime(self.standard))?;
            x.text("OriginalFileName", a.file_name())?;
            x.close("Asset")?;
        }
        x.close("AssetList")?;
        x.finish("PackingList")
    }

    /// The map from identifiers to paths.
    pub fn assetmap(&self, id: Uuid, assets: &[Asset]) -> io::Result<Vec<u8>> {
        let smpte = self.standard == Standard::Smpte;
        let mut x = Xml::new("AssetMap", self.map_namespace())?;
        x.text("Id", urn(id))?;
        if smpte {
            x.text("Creator", CREATOR)?;
        }
        x.text("VolumeCount", "1")?;
        self.issue(&mut x)?;
        if !smpte {
            x.text("Creator", CREATOR)?;
        }
        x.open("AssetList")?;
        for a in assets {
            x.open("Asset")?;
            x.text("Id", urn(a.id))?;
            match (a.kind, smpte) {
                (Kind::Pkl, true) => x.text("PackingList", "true")?,
                (Kind::Pkl, false) => x.empty("PackingList")?,
                _ => {}
            }
            x.open("ChunkList")?;
            x.open("Chunk")?;
            x.text("Path", &a.path)?;
            x.text("VolumeIndex", "1")?;
            x.text("Offset", "0")?;
            x.text("Length", a.size.to_string())?;
            x.close("Chunk")?;
            x.close("ChunkList")?;
            x.close("Asset")?;
        }
        x.close("AssetList")?;
        x.finish("AssetMap")
    }

    /// The number of the (only) volume.
    pub fn volindex(&self) -> io::Result<Vec<u8>> {
        let mut x = Xml::new("VolumeIndex", self.map_namespace())?;
        x.text("Index", "1")?;
        x.finish("VolumeIndex")
    }

    fn map_namespace(&self) -> &'static str {
        match self.standard {
            Standard::Smpte => "http://www.smpte-ra.org/schemas/429-9/2007/AM",
            Standard::Interop => "http://www.digicine.com/PROTO-ASDCP-AM-20040311#",
        }
    }

    fn issue(&self, x: &mut Xml) -> io::Result<()> {
        x.text("IssueDate", format!("{}T00:00:00+00:00", self.date))?;
        x.text("Issuer", ISSUER)
    }
}

fn urn(id: Uuid) -> String {
    format!("urn:uuid:{id}")
}

/// An indented document in the making.
struct Xml(Writer<Vec<u8>>);

impl Xml {
    fn new(root: &str, namespace: &str) -> io::Result<Self> {
        let mut x = Self(Writer::new_with_indent(Vec::new(), b' ', 2));
        x.0.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        x.0.write_event(Event::Start(BytesStart::new(root).with_attributes([("xmlns", namespace)])))?;
        Ok(x)
    }
    fn open(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::Start(BytesStart::new(name)))
    }
    fn close(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }
    fn empty(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::Empty(BytesStart::new(name)))
    }
    fn text(&mut self, name: &str, text: impl AsRef<str>) -> io::Result<()> {
        self.0.create_element(name).write_text_content(BytesText::new(text.as_ref()))?;
        Ok(())
    }
    fn finish(mut self, root: &str) -> io::Result<Vec<u8>> {
        self.close(root)?;
        let mut bytes = self.0.into_inner();
        bytes.push(b'\n');
        Ok(bytes)
    }
}
