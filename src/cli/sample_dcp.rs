//! `bftv2 sample-dcp`: makes valid packages of any size for demonstrations and trials.

use crate::error::Fault;
use crate::package::sample::{self, Names, SampleOptions, Standard, Summary, Version2};
use clap::{Args as ClapArgs, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  bftv2 sample-dcp /data/dcp
      one package of 60 MB, named by its title
  bftv2 sample-dcp /data/dcp --name xiaofang --reels 2 --size 300M --version2 xiaofang2 --share 90
      two packages that have about 90 % of their bytes in common
  bftv2 sample-dcp /data/dcp --name xiaofang --size 8G --vf xiaofang_VF
      a film of 8 GB, and a package with other sound for it
  bftv2 sample-dcp /data/dcp --name old --standard interop --subdir media --fps 25
      an Interop package with its track files in a directory

The same options make the same bytes. Pictures and sound are noise; containers and documents are what servers check.
A package gets its name when it is complete. Exit code 0: all packages are made; otherwise none of them is half made.";

/// Make valid sample packages (DCPs) of any size
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory that gets the packages
    pub out: PathBuf,
    /// Name of the package's directory [default: the title]
    #[arg(long)]
    pub name: Option<String>,
    /// Content title, an ISDCF name [default: made from the other options]
    #[arg(long)]
    pub title: Option<String>,
    /// Family of documents and containers
    #[arg(long, value_enum, default_value_t = StandardArg::Smpte)]
    pub standard: StandardArg,
    /// Content kind: test, feature, trailer, advertisement, ...
    #[arg(long, default_value = "test")]
    pub kind: String,
    /// Size of the package: 60M, 1.5G (decimal), 512MiB (binary) [default: 60M, or what --seconds gives]
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Running time of all reels together [default: what the size gives]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Frames a second: 24, 25, 30 or 48
    #[arg(long, default_value_t = 24)]
    pub fps: u32,
    /// Number of reels; each has a picture and a sound file
    #[arg(long, default_value_t = 1)]
    pub reels: u32,
    /// Sound channels: 2, 6 or 8
    #[arg(long, default_value_t = 6)]
    pub channels: u32,
    /// Directory inside the package for the track files
    #[arg(long)]
    pub subdir: Option<String>,
    /// How files are named
    #[arg(long, value_enum, default_value_t = NamesArg::Typed)]
    pub names: NamesArg,
    /// Also make a VF package of this name: own sound, pictures stay in the first package
    #[arg(long, value_name = "NAME")]
    pub vf: Option<String>,
    /// Also make a second, complete version of this name
    #[arg(long, value_name = "NAME")]
    pub version2: Option<String>,
    /// Percentage of bytes the second version has in common with the first; whole files are shared
    #[arg(long, default_value_t = 90.0, requires = "version2")]
    pub share: f64,
    /// Another seed makes another film
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Replace packages of these names
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON: files, sizes, SHA-1
    #[arg(long)]
    pub json: bool,
}

/// See [`Standard`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StandardArg {
    Smpte,
    Interop,
}

/// See [`Names`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NamesArg {
    /// j2c_UUID.mxf, cpl_UUID.xml
    Typed,
    /// UUID.mxf, UUID.xml
    Uuid,
    /// UUID_video.mxf, UUID_cpl.xml
    Suffix,
}

impl Args {
    fn options(&self) -> SampleOptions {
        SampleOptions {
            name: self.name.clone(),
            title: self.title.clone(),
            standard: match self.standard {
                StandardArg::Smpte => Standard::Smpte,
                StandardArg::Interop => Standard::Interop,
            },
            kind: self.kind.clone(),
            reels: self.reels,
            seconds: self.seconds,
            fps: self.fps,
            channels: self.channels,
            size: self.size,
            subdir: self.subdir.clone(),
            names: match self.names {
                NamesArg::Typed => Names::Typed,
                NamesArg::Uuid => Names::Uuid,
                NamesArg::Suffix => Names::Suffix,
            },
            seed: self.seed,
            vf: self.vf.clone(),
            version2: self.version2.clone().map(|name| Version2 { name, share: self.share }),
            force: self.force,
            ..SampleOptions::default()
        }
    }
}

/// Makes the packages, with a bar on a terminal, and prints what was made.
pub fn run(args: Args) -> Result<(), Fault> {
    let options = args.options();
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(sample::planned_bytes(&options)?).with_style(bar_style()),
        false => ProgressBar::hidden(),
    };
    let made = sample::make(&args.out, &options, &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let summary = made?;
    let text = if args.json { format!("{:#}\n", as_json(&summary)) } else { as_text(&summary) };
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough, such as `head`, is not a failure.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Fault::local(format!("cannot print the result: {e}"))),
        _ => Ok(()),
    }
}

fn bar_style() -> ProgressStyle {
    let template = "{wide_bar} {percent:>3} %  {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn as_text(summary: &Summary) -> String {
    let mut out = String::new();
    for p in &summary.packages {
        out += &format!("{}\n  {}\n", p.dir.display(), p.title);
        for f in &p.files {
            out += &format!("  {:>14}  {}  {}\n", f.size, f.sha1, f.path);
        }
        out += &format!("  {:>14}  bytes in {} files", p.bytes, p.files.len());
        if p.shared_bytes > 0 {
            out += &format!(", {:.1} % shared with the first package", percent(p.shared_bytes, p.bytes));
        }
        out += "\n";
    }
    out
}

fn as_json(summary: &Summary) -> serde_json::Value {
    let package = |p: &sample::PackageSummary| {
        let file = |f: &sample::FileSummary| serde_json::json!({"file": f.path, "size": f.size, "sha1": f.sha1});
        serde_json::json!({
            "dir": p.dir,
            "title": p.title,
            "bytes": p.bytes,
            "shared_bytes": p.shared_bytes,
            "files": p.files.iter().map(file).collect::<Vec<_>>(),
        })
    };
    serde_json::json!({"packages": summary.packages.iter().map(package).collect::<Vec<_>>()})
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// `60M`, `1.5G`, `8GB` are decimal; `512Mi`, `512MiB` binary; a plain number is bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: write 60M, 1.5G (decimal) or 512MiB (binary)");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.to_ascii_uppercase().trim_end_matches('B') {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "KI" => 1 << 10,
        "MI" => 1 << 20,
        "GI" => 1 << 30,
        "TI" => 1 << 40,
        _ => return Err(bad()),
    };
    let bytes = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
    // Anything above is refused by the maker with its own limit.
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("60M", 60_000_000), ("1.5g", 1_500_000_000), ("8GB", 8_000_000_000), ("7", 7), ("2KiB", 2048)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "60X", "-1", "1.2.3M", "6 0"] {
            assert!(parse_size(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn a_share_needs_a_second_version() {
        assert!(Line::try_parse_from(["x", "/out", "--share", "50"]).is_err());
        let line = Line::try_parse_from(["x", "/out", "--version2", "b", "--share", "50"]).unwrap();
        assert_eq!(line.args.options().version2, Some(Version2 { name: "b".to_owned(), share: 50.0 }));
    }
}
