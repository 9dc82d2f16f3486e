//! Packages of the library and what plays from them.

use poem_openapi::Object;
use poem_openapi::types::Example;

use super::tasks::{count, example_time};
use crate::desk::overview::{CompositionRow, PackageListed, RateRow, ReelRow, Time, local_time};

/// A package of the library.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Package {
    /// Its name.
    pub package: String,
    /// Its directory, absolute.
    pub path: String,
    /// What its packing list says: `complete`, `missing FILE`, `size differs FILE`, `hash differs FILE`, `not verified yet: …`
    /// (files are still to be hashed), `version file, needs OV …` (no package of the library has track files that it plays),
    /// `no packing list`, or what is wrong with its documents.
    pub verdict: String,
    /// Title of its first composition; empty when it has none.
    pub title: String,
    /// Number of files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// When it was checked.
    pub checked_at: Time,
    /// Family of its documents: `SMPTE`, `Interop`, `other`; empty when they could not be read.
    pub standard: String,
    /// Of a version file: directories of the packages that have track files which it plays and does not hold.
    pub ov: Vec<String>,
    /// What plays, by title; at most 500.
    pub compositions: Vec<Composition>,
}

impl Example for Package {
    fn example() -> Self {
        Self {
            package: "xiaofang".into(),
            path: "/data/dcp/xiaofang".into(),
            verdict: "complete".into(),
            title: "Xiaofang_ADV-1_F_CMN-XX_20_2K".into(),
            files: 5,
            bytes: 668_521_472,
            checked_at: example_time(0),
            standard: "SMPTE".into(),
            ov: Vec::new(),
            compositions: vec![Composition::example()],
        }
    }
}

impl From<PackageListed> for Package {
    fn from(p: PackageListed) -> Self {
        Self {
            package: p.name,
            path: p.path,
            verdict: p.verdict,
            title: p.title,
            files: count(p.files),
            bytes: count(p.bytes),
            checked_at: local_time(p.checked_at),
            standard: p.standard,
            ov: p.ov,
            compositions: p.compositions.into_iter().map(Composition::from).collect(),
        }
    }
}

/// A composition (CPL): one playable version of a film.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Composition {
    /// Its UUID.
    pub id: String,
    /// Content title.
    pub title: String,
    /// Content kind: `feature`, `trailer`, `advertisement`, …
    pub kind: String,
    /// Units a second as a fraction; left out when the composition does not say it.
    pub edit_rate: Option<String>,
    /// Of all reels, in units of the edit rate: mostly frames.
    pub duration: u64,
    /// The same in seconds.
    pub seconds: Option<f64>,
    /// In their order; a package lists at most 5000.
    pub reels: Vec<Reel>,
}

impl Example for Composition {
    fn example() -> Self {
        Self {
            id: "5c5c9d0e-2f0b-4a55-9d53-6d0f4f3c4f51".into(),
            title: "Xiaofang_ADV-1_F_CMN-XX_20_2K".into(),
            kind: "advertisement".into(),
            edit_rate: Some("24/1".into()),
            duration: 720,
            seconds: Some(30.0),
            reels: vec![Reel::example()],
        }
    }
}

impl From<CompositionRow> for Composition {
    fn from(c: CompositionRow) -> Self {
        Self {
            id: c.id,
            title: c.title,
            kind: c.kind,
            edit_rate: c.rate.map(|rate| format!("{}/{}", rate.units, rate.seconds)),
            duration: c.duration,
            seconds: seconds(c.duration, c.rate),
            reels: (1..).zip(c.reels).map(|(number, reel)| Reel::new(number, reel)).collect(),
        }
    }
}

/// A reel of a composition. Track files are named by their UUIDs; what it does not have is left out.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Reel {
    /// From 1.
    pub number: u32,
    /// Its UUID.
    pub id: Option<String>,
    /// Picture track file.
    pub picture: Option<String>,
    /// Sound track file.
    pub sound: Option<String>,
    /// Track file of the first subtitle or caption.
    pub subtitle: Option<String>,
    /// In units of its edit rate: mostly frames.
    pub duration: u64,
    /// The same in seconds.
    pub seconds: Option<f64>,
}

impl Example for Reel {
    fn example() -> Self {
        Self {
            number: 1,
            id: Some("0f4bb6d5-5c0e-4c39-8a4f-0d9c2f6f2a10".into()),
            picture: Some("b1f2c3d4-9a8b-4c7d-8e6f-5a4b3c2d1e0f".into()),
            sound: Some("c2e3d4f5-8b7a-4d6c-9f5e-4b3a2c1d0f9e".into()),
            subtitle: Some("d3f4e5a6-7c6b-4e5d-8a4f-3c2b1d0e9f8a".into()),
            duration: 720,
            seconds: Some(30.0),
        }
    }
}

impl Reel {
    fn new(number: u32, r: ReelRow) -> Self {
        let seconds = seconds(r.duration, r.rate);
        Self { number, id: r.id, picture: r.picture, sound: r.sound, subtitle: r.subtitle, duration: r.duration, seconds }
    }
}

/// To the millisecond.
fn seconds(duration: u64, rate: Option<RateRow>) -> Option<f64> {
    rate.map(|rate| (duration as f64 * f64::from(rate.seconds) / f64::from(rate.units) * 1000.0).round() / 1000.0)
}
