//! Packages of exactly known names and sizes. Most have no packing list: what is compared here are texts and numbers.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub const MIB: u64 = 1 << 20;

/// A package with these files; the bytes depend on its name and theirs, so nothing is the same in two packages.
pub fn film(dir: &Path, files: &[(&str, u64)]) -> PathBuf {
    let package = dir.file_name().expect("a name").to_string_lossy();
    for (name, size) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
        std::fs::write(path, bytes(&format!("{package}/{name}"), *size)).expect("write");
    }
    dir.to_owned()
}

/// As many files as there are methods: by `1:1:1` and in this order each method gets one.
pub fn thirds(dir: &Path, size: u64) -> PathBuf {
    film(dir, &[("a.mxf", size), ("b.mxf", size), ("c.mxf", size)])
}

/// A package of sparse files: sizes of real films at no cost. Their bytes are zeros.
pub fn vast(dir: &Path, files: &[(&str, u64)]) -> PathBuf {
    for (name, size) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
        File::create(path).and_then(|f| f.set_len(*size)).expect("a sparse file");
    }
    dir.to_owned()
}

/// A sparse package with the files of a real one. Its ASSETMAP and packing list have their sizes too, and list nothing
/// but themselves: other files are foreign to them, which is no error.
pub fn described(dir: &Path, files: &[(&str, u64)]) -> PathBuf {
    vast(dir, files);
    let names = |part: &str| files.iter().find(|(name, _)| name.to_ascii_lowercase().contains(part));
    let (list, map) = (names("pkl").expect("a packing list"), names("assetmap").expect("an asset map"));
    let map_text = format!(
        "<AssetMap xmlns=\"http://www.smpte-ra.org/schemas/429-9/2007/AM\"><VolumeCount>1</VolumeCount><AssetList><Asset>\
         <Id>urn:uuid:24e738d2-8f07-437f-84f4-3f5efb8af8cc</Id><PackingList>true</PackingList><ChunkList><Chunk>\
         <Path>{}</Path></Chunk></ChunkList></Asset></AssetList>",
        list.0
    );
    let list_text = "<PackingList xmlns=\"http://www.smpte-ra.org/schemas/429-8/2007/PKL\"><AssetList/>";
    for ((name, size), text, end) in [(map, map_text.as_str(), "</AssetMap>"), (list, list_text, "</PackingList>")] {
        let blanks = " ".repeat(*size as usize - text.len() - end.len());
        std::fs::write(dir.join(name), format!("{text}{blanks}{end}")).expect("write");
    }
    dir.to_owned()
}

/// Other bytes at the end: the package is no longer what was hashed.
pub fn grow(file: &Path) {
    let mut file = File::options().append(true).open(file).expect("open");
    file.write_all(b"more").expect("append");
}

fn bytes(name: &str, size: u64) -> Vec<u8> {
    let mut state = name.bytes().fold(size | 1, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out = Vec::with_capacity(size as usize + 8);
    while (out.len() as u64) < size {
        out.extend(next());
    }
    out.truncate(size as usize);
    out
}
