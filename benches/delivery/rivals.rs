//! The other side: the common tools, with the options their users would choose for speed.

use super::Trouble;
use bft2::package::sample::PackageSummary;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A torrent with pieces as ours, then the digest of every file.
pub fn mktorrent(package: &Path, master: &PackageSummary, piece_length: u64, dir: &Path) -> Result<Duration, Trouble> {
    let torrent = dir.join("theirs.torrent");
    let _ = std::fs::remove_file(&torrent);
    let power = piece_length.ilog2().to_string();
    let started = Instant::now();
    let args = ["-t", "2", "-l", &power, "-a", "http://127.0.0.1:1/announce", "-o"].map(OsStr::new);
    run("mktorrent", args.into_iter().chain([torrent.as_os_str(), package.as_os_str()]))?;
    digests(package, master)?;
    Ok(started.elapsed())
}

/// One server, four connections, a file at a time.
pub fn aria2_http(urls: &[(String, String)], target: &Path, master: &PackageSummary, durable: bool) -> Result<Duration, Trouble> {
    std::fs::create_dir_all(target)?;
    let list: String = urls.iter().map(|(url, path)| format!("{url}\n  out={path}\n")).collect();
    let input = target.with_extension("urls");
    std::fs::write(&input, list)?;
    let more = ["-j", "1", "-x", "4", "-s", "4", "-k", "8M", "-i"].map(OsStr::new);
    let started = Instant::now();
    aria2(target, more.into_iter().chain([input.as_os_str()]))?;
    finish(target, master, durable)?;
    Ok(started.elapsed())
}

/// The seed comes from the tracker, as in any swarm. No DHT, no search for peers, no seeding afterwards.
pub fn aria2_torrent(torrent: &Path, target: &Path, master: &PackageSummary, durable: bool) -> Result<Duration, Trouble> {
    std::fs::create_dir_all(target)?;
    let more = [
        "--seed-time=0",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--bt-max-peers=8",
        "--follow-torrent=mem",
        "-T",
    ];
    let started = Instant::now();
    aria2(target, more.map(OsStr::new).into_iter().chain([torrent.as_os_str()]))?;
    finish(&target.join(master.dir.file_name().ok_or("the package has no name")?), master, durable)?;
    Ok(started.elapsed())
}

fn aria2<'a>(target: &'a Path, more: impl Iterator<Item = &'a OsStr>) -> Result<(), Trouble> {
    let common = ["--no-conf", "--quiet", "--file-allocation=falloc", "--disk-cache=64M", "-d"].map(OsStr::new);
    run("aria2c", common.into_iter().chain([target.as_os_str()]).chain(more))
}

fn finish(package: &Path, master: &PackageSummary, durable: bool) -> Result<(), Trouble> {
    if durable {
        let files: Vec<PathBuf> = master.files.iter().map(|f| package.join(&f.path)).collect();
        run("sync", ["-d"].map(OsStr::new).into_iter().chain(files.iter().map(|f| f.as_os_str())))?;
    }
    digests(package, master)
}

/// `openssl dgst -sha1` of all files, compared with what the package's maker wrote.
fn digests(package: &Path, master: &PackageSummary) -> Result<(), Trouble> {
    let files = master.files.iter().map(|f| package.join(&f.path));
    let out = Command::new("openssl").args(["dgst", "-r", "-sha1"]).args(files).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let found: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    let made: Vec<String> = master.files.iter().map(|f| f.sha1.to_string()).collect();
    if found == made { Ok(()) } else { Err(format!("openssl found other digests in {}", package.display()).into()) }
}

fn run<'a>(program: &str, args: impl Iterator<Item = &'a OsStr>) -> Result<(), Trouble> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().map_err(|e| format!("cannot run {program}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = [out.stdout, out.stderr].concat();
    Err(format!("{program} failed ({}): {}", out.status, String::from_utf8_lossy(&said).trim()).into())
}
