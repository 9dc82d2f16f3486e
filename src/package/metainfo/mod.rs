//! Torrents (metainfo version 1): written by ourselves, read without trust.
//!
//! Why not the engine's maker: it writes torrents that other clients refuse (a hash too few or too many at exact
//! multiples), walks directories unsorted and reads everything again. Our pieces come from the one pass.
//!
//! A full torrent must stay readable by ctorrent 1.3.4: version 1, a plain name, an HTTP announce, sorted keys, under
//! 4 MiB, nothing else demanded ([`piece_length_for`] keeps the size).
//!
//! [`Metainfo`] keeps the `info` dictionary as bytes, because the torrent's identity is their SHA-1: reading a foreign
//! torrent and writing it again must not change it, whatever extra keys it has.

mod plan;

pub use plan::{MAX_PIECES, MAX_TORRENT_BYTES, piece_length_for};

use crate::error::Fault;
use crate::model::bencode::{Cursor, Why, put_bytes, put_uint};
use crate::model::ids::RelPath;
use crate::package::one_pass::PieceHash;
use sha1::{Digest, Sha1};
use std::collections::HashSet;

/// Largest .torrent that is read. Ours are under 4 MiB; foreign ones have smaller pieces.
pub const MAX_READ: usize = 16 << 20;
const MAX_FILES: usize = 100_000;
/// Foreign torrents: smaller pieces than any client makes are an attack on memory, larger ones on the peers' patience.
const PIECE_LENGTHS: std::ops::RangeInclusive<u64> = 16 << 10..=256 << 20;

/// A valid torrent: safe paths, no path twice, as many pieces as the sizes demand.
#[derive(Clone, PartialEq, Eq)]
pub struct Metainfo {
    announce: String,
    info: Vec<u8>,
    fields: Fields,
}

/// What the `info` dictionary says.
#[derive(Clone, PartialEq, Eq)]
struct Fields {
    name: String,
    files: Vec<(RelPath, u64)>,
    piece_length: u64,
    pieces: Vec<PieceHash>,
    single: bool,
    private: bool,
}

impl std::fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metainfo({:?}, {} files, {} pieces)", self.name(), self.files().len(), self.pieces().len())
    }
}

impl Metainfo {
    /// A torrent of a directory `name`. `files` are relative to it, in torrent order; `announce` may be empty.
    pub fn directory(
        announce: &str,
        name: &str,
        files: Vec<(RelPath, u64)>,
        piece_length: u64,
        pieces: Vec<PieceHash>,
    ) -> Result<Self, Fault> {
        Self::new(announce, Fields { name: name.to_owned(), files, piece_length, pieces, single: false, private: false })
    }

    /// A torrent of one file `name`.
    pub fn single_file(announce: &str, name: &str, size: u64, piece_length: u64, pieces: Vec<PieceHash>) -> Result<Self, Fault> {
        let path = plain_name(name).map_err(refuse)?;
        let files = vec![(path, size)];
        Self::new(announce, Fields { name: name.to_owned(), files, piece_length, pieces, single: true, private: false })
    }

    fn new(announce: &str, fields: Fields) -> Result<Self, Fault> {
        plain_name(&fields.name).map_err(refuse)?;
        fields.check().map_err(refuse)?;
        Ok(Self { announce: announce.to_owned(), info: fields.encode(), fields })
    }

    /// The same torrent with BEP 27's private flag, which changes its identity.
    pub fn private(self) -> Self {
        let fields = Fields { private: true, ..self.fields };
        Self { announce: self.announce, info: fields.encode(), fields }
    }

    /// The same torrent for another tracker. Its identity stays.
    pub fn with_announce(mut self, announce: &str) -> Self {
        self.announce = announce.to_owned();
        self
    }

    pub fn announce(&self) -> &str {
        &self.announce
    }
    /// The directory's or the file's name, always one plain part.
    pub fn name(&self) -> &str {
        &self.fields.name
    }
    /// Paths below the directory and bytes. A single-file torrent has one file, of the torrent's name.
    pub fn files(&self) -> &[(RelPath, u64)] {
        &self.fields.files
    }
    /// Bytes.
    pub fn piece_length(&self) -> u64 {
        self.fields.piece_length
    }
    pub fn pieces(&self) -> &[PieceHash] {
        &self.fields.pieces
    }
    pub fn is_single(&self) -> bool {
        self.fields.single
    }
    pub fn is_private(&self) -> bool {
        self.fields.private
    }
    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.fields.files.iter().map(|f| f.1).sum()
    }

    /// The torrent's identity: the SHA-1 of its `info` dictionary.
    pub fn info_hash(&self) -> [u8; 20] {
        Sha1::digest(&self.info).into()
    }

    /// The .torrent file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.info.len() + self.announce.len() + 64);
        out.push(b'd');
        if !self.announce.is_empty() {
            put_bytes(&mut out, b"announce");
            put_bytes(&mut out, self.announce.as_bytes());
        }
        put_bytes(&mut out, b"created by");
        put_bytes(&mut out, concat!("bftv2/", env!("CARGO_PKG_VERSION")).as_bytes());
        put_bytes(&mut out, b"info");
        out.extend_from_slice(&self.info);
        out.push(b'e');
        out
    }

    /// Reads a .torrent from anywhere. An absolute name, as old nodes wrote it, becomes its last part.
    pub fn parse(data: &[u8]) -> Result<Self, Fault> {
        if data.len() > MAX_READ {
            return Err(refuse("it is larger than 16 MiB"));
        }
        Self::read(data).map_err(refuse)
    }

    fn read(data: &[u8]) -> Result<Self, Why> {
        let mut top = Cursor::new(data);
        let (mut announce, mut info) = (None, None);
        top.dict(|key, c| match key {
            b"announce" => once(&mut announce, c.text()?),
            b"info" => once(&mut info, c.skip()?),
            _ => c.skip().map(drop),
        })?;
        if !top.at_end() {
            return Err("bytes follow its end");
        }
        let info = info.ok_or("it has no info dictionary")?;
        let fields = Fields::read(info)?;
        Ok(Self { announce: announce.unwrap_or_default().to_owned(), info: info.to_vec(), fields })
    }
}

fn refuse(why: Why) -> Fault {
    Fault::permanent(format!("the torrent is not usable: {why}"))
}

/// Stores a value that may come once only: a second one would mean different things to different readers.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Why> {
    if slot.replace(value).is_some() { Err("an entry comes twice") } else { Ok(()) }
}

/// A name as a path of one part.
fn plain_name(name: &str) -> Result<RelPath, Why> {
    let path = RelPath::parse(name).map_err(|_| "its name is not a plain name")?;
    if name.contains('/') { Err("its name is not a plain name") } else { Ok(path) }
}

impl Fields {
    /// The rules that hold for torrents of ours and of others.
    fn check(&self) -> Result<(), Why> {
        if !PIECE_LENGTHS.contains(&self.piece_length) {
            return Err("its piece length is not between 16 KiB and 256 MiB");
        }
        if self.files.is_empty() {
            return Err("it lists no file");
        }
        if self.files.len() > MAX_FILES {
            return Err("it lists more than 100,000 files");
        }
        let mut total = 0u64;
        let mut seen = HashSet::with_capacity(self.files.len());
        for (path, size) in &self.files {
            total = total.checked_add(*size).filter(|t| *t <= i64::MAX as u64).ok_or("its sizes are too large")?;
            if !seen.insert(path.as_str()) {
                return Err("a path comes twice");
            }
        }
        for (path, _) in &self.files {
            let text = path.as_str();
            if text.match_indices('/').any(|(i, _)| seen.contains(&text[..i])) {
                return Err("a path is a file and a directory at once");
            }
        }
        if self.pieces.len() as u64 != total.div_ceil(self.piece_length) {
            return Err("the number of its pieces does not match its sizes");
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.pieces.len() * 20 + self.files.len() * 80 + 200);
        out.push(b'd');
        if self.single {
            put_bytes(&mut out, b"length");
            put_uint(&mut out, self.files.first().map_or(0, |f| f.1));
        } else {
            put_bytes(&mut out, b"files");
            out.push(b'l');
            for (path, size) in &self.files {
                out.push(b'd');
                put_bytes(&mut out, b"length");
                put_uint(&mut out, *size);
                put_bytes(&mut out, b"path");
                out.push(b'l');
                path.parts().for_each(|p| put_bytes(&mut out, p.as_bytes()));
                out.extend_from_slice(b"ee");
            }
            out.push(b'e');
        }
        put_bytes(&mut out, b"name");
        put_bytes(&mut out, self.name.as_bytes());
        put_bytes(&mut out, b"piece length");
        put_uint(&mut out, self.piece_length);
        put_bytes(&mut out, b"pieces");
        put_bytes(&mut out, self.pieces.as_flattened());
        if self.private {
            put_bytes(&mut out, b"private");
            put_uint(&mut out, 1);
        }
        out.push(b'e');
        out
    }

    fn read(info: &[u8]) -> Result<Self, Why> {
        let (mut name, mut length, mut files, mut piece_length, mut pieces, mut private) = (None, None, None, None, None, None);
        Cursor::new(info).dict(|key, c| match key {
            b"name" => once(&mut name, c.text()?),
            b"length" => once(&mut length, c.uint()?),
            b"files" => once(&mut files, read_files(c)?),
            b"piece length" => once(&mut piece_length, c.uint()?),
            b"pieces" => once(&mut pieces, c.bytes()?),
            b"private" => once(&mut private, c.uint()?),
            _ => c.skip().map(drop),
        })?;
        let name = name.ok_or("it has no name")?.trim_end_matches('/');
        let path = plain_name(name.rsplit('/').next().unwrap_or(name))?;
        let name = path.as_str().to_owned();
        let (files, single) = match (files, length) {
            (Some(files), None) => (files, false),
            (None, Some(size)) => (vec![(path, size)], true),
            (Some(_), Some(_)) => return Err("it is a file and a directory at once"),
            (None, None) => return Err("it lists no file"),
        };
        let (pieces, rest) = pieces.ok_or("it has no version 1 pieces")?.as_chunks::<20>();
        if !rest.is_empty() {
            return Err("its piece hashes are cut off");
        }
        let piece_length = piece_length.ok_or("it has no piece length")?;
        let fields = Self { name, files, piece_length, pieces: pieces.to_vec(), single, private: private == Some(1) };
        fields.check()?;
        Ok(fields)
    }
}

fn read_files(c: &mut Cursor<'_>) -> Result<Vec<(RelPath, u64)>, Why> {
    let mut files = Vec::new();
    c.list(|c| {
        if files.len() == MAX_FILES {
            return Err("it lists more than 100,000 files");
        }
        let (mut size, mut path) = (None, None);
        c.dict(|key, c| match key {
            b"length" => once(&mut size, c.uint()?),
            b"path" => once(&mut path, read_path(c)?),
            _ => c.skip().map(drop),
        })?;
        files.push((path.ok_or("a file has no path")?, size.ok_or("a file has no length")?));
        Ok(())
    })?;
    Ok(files)
}

fn read_path(c: &mut Cursor<'_>) -> Result<RelPath, Why> {
    const BAD: Why = "a file has an unsafe path";
    let mut path = String::new();
    c.list(|c| {
        let part = c.text()?;
        // Joining would hide an empty part or a part with a separator from `RelPath`'s rules.
        if part.is_empty() || part.contains('/') || path.len() + part.len() > 2048 {
            return Err(BAD);
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
        Ok(())
    })?;
    RelPath::parse(&path).map_err(|_| BAD)
}

#[cfg(test)]
mod tests;
