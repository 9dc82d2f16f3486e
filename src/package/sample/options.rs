//! What a person may ask for, the limits of that, and the names that follow from it.

use crate::error::Fault;
use crate::model::ids::{NameError, PackageName, RelPath};
use chrono::NaiveDate;
use std::collections::BTreeSet;

/// The two families of package documents that cinemas meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// SMPTE ST 429 (since 2009).
    Smpte,
    /// The documents that came before it and are still delivered.
    Interop,
}

/// How files are named; servers must not care, so samples of all three exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `j2c_UUID.mxf`, `pcm_UUID.mxf`, `cpl_UUID.xml`
    Typed,
    /// `UUID.mxf`, `UUID.xml`
    Uuid,
    /// `UUID_video.mxf`, `UUID_audio.mxf`, `UUID_cpl.xml`
    Suffix,
}

/// A second, complete package of the same film.
#[derive(Clone, Debug, PartialEq)]
pub struct Version2 {
    /// Its directory.
    pub name: String,
    /// The percentage of the track files' bytes that both packages have in common, 0 to 100. Whole files are shared,
    /// so the result is the nearest that the reels allow.
    pub share: f64,
}

/// What to make. The same options give the same bytes and names.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// The package's directory; the title when absent.
    pub name: Option<String>,
    /// `ContentTitleText`, an ISDCF name; made from the other options when absent.
    pub title: Option<String>,
    pub standard: Standard,
    /// `ContentKind`: `test`, `feature`, `trailer`, …
    pub kind: String,
    pub reels: u32,
    /// The running time of all reels together; follows from the size when absent.
    pub seconds: Option<f64>,
    /// Frames a second: 24, 25, 30 or 48.
    pub fps: u32,
    /// Sound channels: 2, 6 or 8.
    pub channels: u32,
    /// Bytes of the package. Follows from `seconds` when absent; [`DEFAULT_SIZE`] when both are.
    pub size: Option<u64>,
    /// A directory inside the package for the track files.
    pub subdir: Option<String>,
    pub names: Names,
    pub seed: u64,
    /// The issue date of documents and track files.
    pub date: NaiveDate,
    /// Also make a VF (version file) package in this directory: other sound, pictures stay in the first package.
    pub vf: Option<String>,
    pub version2: Option<Version2>,
    /// Replace packages that exist already.
    pub force: bool,
}

/// The package's size when neither size nor running time is given.
pub const DEFAULT_SIZE: u64 = 60_000_000;
const MAX_SIZE: u64 = 1_000_000_000_000;
const MAX_SECONDS: f64 = 24.0 * 3600.0;
const MAX_REELS: u32 = 100;

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            name: None,
            title: None,
            standard: Standard::Smpte,
            kind: "test".to_owned(),
            reels: 1,
            seconds: None,
            fps: 24,
            channels: 6,
            size: None,
            subdir: None,
            names: Names::Typed,
            seed: 1,
            date: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap_or_default(),
            vf: None,
            version2: None,
            force: false,
        }
    }
}

/// The options after their check: names are names, numbers are in range.
#[derive(Clone, Debug)]
pub struct Checked {
    pub options: SampleOptions,
    pub title: String,
    pub name: PackageName,
    pub subdir: Option<RelPath>,
    pub vf: Option<PackageName>,
    pub version2: Option<(PackageName, f64)>,
}

impl SampleOptions {
    /// Refuses what no package can be, with the option and what is allowed.
    pub fn check(&self) -> Result<Checked, Fault> {
        one_of("--fps", self.fps, &[24, 25, 30, 48])?;
        one_of("--channels", self.channels, &[2, 6, 8])?;
        require((1..=MAX_REELS).contains(&self.reels), || {
            format!("--reels {} is not possible: give a number from 1 to {MAX_REELS}", self.reels)
        })?;
        if let Some(s) = self.seconds {
            require((f64::from(self.reels)..=MAX_SECONDS).contains(&s), || {
                format!("--seconds {s} is not possible: a reel has at least one second, a package at most {MAX_SECONDS}")
            })?;
        }
        if let Some(size) = self.size {
            require(size <= MAX_SIZE, || format!("--size {size} is too large: at most {MAX_SIZE} bytes"))?;
        }
        require(!self.kind.is_empty() && self.kind.chars().all(|c| c.is_ascii_lowercase()), || {
            format!("--kind {:?} is not possible: one lower-case word such as test, feature or trailer", self.kind)
        })?;
        if let Some(title) = &self.title {
            let good = !title.is_empty() && title.len() <= 200 && !title.chars().any(char::is_control);
            require(good, || "--title is empty, too long (200 bytes) or holds control characters".to_owned())?;
        }
        let title = self.title.clone().unwrap_or_else(|| self.isdcf_title());
        let name = package_name("--name", self.name.as_deref().unwrap_or(&title))?;
        let vf = self.vf.as_deref().map(|n| package_name("--vf", n)).transpose()?;
        let version2 = match &self.version2 {
            Some(v) => {
                require((0.0..=100.0).contains(&v.share), || {
                    format!("--share {} is not possible: a percentage from 0 to 100", v.share)
                })?;
                Some((package_name("--version2", &v.name)?, v.share))
            }
            None => None,
        };
        let taken: Vec<&PackageName> = [&name].into_iter().chain(&vf).chain(version2.iter().map(|(n, _)| n)).collect();
        require(taken.iter().collect::<BTreeSet<_>>().len() == taken.len(), || {
            "--name, --vf and --version2 must be different directories".to_owned()
        })?;
        let subdir = self.subdir.as_deref().map(subdirectory).transpose()?;
        Ok(Checked { options: self.clone(), title, name, subdir, vf, version2 })
    }

    /// A full ISDCF name (12 parts), which says what the package is: type and rate, aspect, language, territory,
    /// sound, resolution, studio, date, facility, standard, kind of package.
    fn isdcf_title(&self) -> String {
        let film: String = self
            .name
            .as_deref()
            .map(|n| n.chars().filter(char::is_ascii_alphanumeric).take(14).collect())
            .filter(|n: &String| !n.is_empty())
            .unwrap_or_else(|| "BftSample".to_owned());
        let content = match self.kind.as_str() {
            "feature" => "FTR",
            "trailer" => "TLR",
            "advertisement" => "ADV",
            "short" => "SHR",
            "teaser" => "TSR",
            "policy" => "POL",
            "psa" => "PSA",
            "rating" => "RTG",
            _ => "TST",
        };
        let sound = match self.channels {
            2 => "20",
            8 => "71",
            _ => "51",
        };
        let standard = match self.standard {
            Standard::Smpte => "SMPTE",
            Standard::Interop => "IOP",
        };
        let date = self.date.format("%Y%m%d");
        format!("{film}_{content}-1-2D-{}_F_XX-XX_INT-TD_{sound}_2K_BFT_{date}_BFT_{standard}_OV", self.fps)
    }
}

/// The title of a sibling package: its kind (`OV` or `VF`) where the title names one, and a mark behind the film's name.
pub fn sibling_title(title: &str, package: &str, mark: &str) -> String {
    let mut parts: Vec<&str> = title.split('_').collect();
    if let Some(last) = parts.last_mut().filter(|p| matches!(**p, "OV" | "VF")) {
        *last = package;
    }
    let film = parts.first().copied().unwrap_or_default();
    // The film's name has at most 14 characters in an ISDCF name.
    let kept: String = film.chars().take(14usize.saturating_sub(mark.len()).max(1)).collect();
    let first = if mark.is_empty() { film.to_owned() } else { format!("{kept}{mark}") };
    std::iter::once(first.as_str()).chain(parts.iter().skip(1).copied()).collect::<Vec<_>>().join("_")
}

fn require(good: bool, message: impl FnOnce() -> String) -> Result<(), Fault> {
    if good { Ok(()) } else { Err(Fault::permanent(message())) }
}

fn one_of(option: &str, value: u32, allowed: &[u32]) -> Result<(), Fault> {
    require(allowed.contains(&value), || {
        let list: Vec<String> = allowed.iter().map(u32::to_string).collect();
        format!("{option} {value} is not possible: one of {}", list.join(", "))
    })
}

fn package_name(option: &str, name: &str) -> Result<PackageName, Fault> {
    PackageName::parse(name).map_err(|e| Fault::permanent(format!("{option}: {e}")))
}

/// Cinema servers take plain characters and short paths only (ST 429-9 annex A: 100 characters in all).
fn subdirectory(path: &str) -> Result<RelPath, Fault> {
    let rel = RelPath::parse(path).map_err(|e: NameError| Fault::permanent(format!("--subdir: {e}")))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let hidden = rel.parts().any(|p| p.starts_with('.'));
    require(path.chars().all(plain) && path.len() <= 50 && rel.parts().count() <= 8 && !hidden, || {
        format!(
            "--subdir {path:?} is not possible: letters, digits, '.', '_', '-' and '/', at most 50 characters and 8 levels, not hidden"
        )
    })?;
    Ok(rel)
}
