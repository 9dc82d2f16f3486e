//! `bftv2 demo`: the product in small, on one machine, with nothing installed and nothing configured.
//!
//! A tracker, a sender, a cacher and a receiver run as processes of their own ([`network`]); a theatre management system
//! ([`tms`]) drives them through the public HTTP interface and nothing else; [`report`] tells what came of it. If the
//! demo works, a delivery works: it is the first test, and must never take a short cut that a real network has not.

pub mod network;
mod report;
mod tms;

use super::amount::{human, size};
use super::bars::{Bars, Plain};
use super::check;
use super::exit::{Exit, Failure, Outcome};
use crate::error::Fault;
use crate::model::ids::Sha1;
use crate::model::ratio::Ratio;
use crate::model::span::Method;
use crate::package::check::Check;
use crate::package::sample::{PackageSummary, SampleOptions, make, planned_bytes};
use crate::package::scan::ScannedFile;
use clap::Args;
use network::{Network, Plan};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tms::{Delivery, Tms};

const EXAMPLES: &str = "\
Examples:
  bftv2 demo
  bftv2 demo --size 8G --dir /big/disk/demo
  bftv2 demo --ratio 1:0:0 --keep                 # BitTorrent alone; look around afterwards
  bftv2 demo --policy priortime --ratio 2:1:1

Everything lies below one directory and is removed at the end, unless --keep is given or something failed.";

/// Databases, logs, torrents.
const SMALL_CHANGE: u64 = 64 << 20;
/// A step that shows no change for so long has failed: hashing and the final check of the slowest disk that is
/// still worth waiting for, and a base for everything else.
const SLOWEST_DISK: u64 = 10_000_000;
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);

/// Deliver a package through a whole network on this machine
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Bytes of the package: 200M, 8G
    #[arg(long, default_value = "200M", value_parser = size)]
    size: u64,
    /// Shares of bytes for bt:obs:cdn
    #[arg(long, value_name = "A:B:C", default_value = "1:1:1", value_parser = ratio)]
    ratio: Ratio,
    /// Where to work: an empty or new directory [default: a new one in the system's directory for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave everything there at the end
    #[arg(long)]
    keep: bool,
    /// At any time, or inside the windows of each method (all day in the demo)
    #[arg(long, default_value = "fulltime", value_parser = ["fulltime", "priortime"])]
    policy: String,
}

fn ratio(text: &str) -> Result<Ratio, String> {
    Ratio::parse(text).map_err(|e| e.to_string())
}

/// A method's part of `size` bytes.
fn part(ratio: Ratio, method: Method, size: u64) -> u64 {
    let all: u64 = Method::ALL.iter().map(|m| u64::from(ratio.share(*m))).sum();
    (u128::from(size) * u128::from(ratio.share(method)) / u128::from(all.max(1))) as u64
}

/// What a delivery of `size` bytes puts on the disk.
#[derive(Debug, PartialEq, Eq)]
struct Need {
    /// The master on the sender and the copy on the receiver (staged, then renamed).
    packages: u64,
    /// The object store's share, and once more while an upload is put together.
    objects: u64,
    /// The cacher's share.
    cache: u64,
}

impl Need {
    fn new(size: u64, ratio: Ratio) -> Self {
        let objects = part(ratio, Method::Obs, size).saturating_mul(2);
        Self { packages: size.saturating_mul(2), objects, cache: part(ratio, Method::Bt, size) }
    }
    fn total(&self) -> u64 {
        self.packages.saturating_add(self.objects).saturating_add(self.cache).saturating_add(SMALL_CHANGE)
    }
}

impl DemoArgs {
    pub async fn run(self) -> Outcome {
        let signal = super::stop_signal()?;
        let bars = Bars::new(Plain::Output);
        let made = !self.dir.as_ref().is_some_and(|d| d.exists());
        let dir = prepare(self.dir.clone())?;
        let mut network = Network::default();
        let result = tokio::select! {
            result = self.deliver(&dir, &mut network, &bars) => result,
            () = signal => Err(Failure::new(Exit::Interrupted, "interrupted")),
        };
        bars.say("Stopping the network");
        for name in network.stop().await {
            bars.say(&format!("The {name} did not stop by itself and was killed"));
        }
        match result {
            Ok(_) if !self.keep => {
                clear(&dir, made).map_err(|e| Failure::local(format!("cannot remove {}: {e}", dir.display())))?;
                bars.say(&format!("Removed what was in {}", dir.display()));
                Ok(Exit::Ok)
            }
            Ok(_) => {
                bars.say(&format!("Everything is in {}; remove it with rm -r", dir.display()));
                Ok(Exit::Ok)
            }
            // Nothing was begun: an empty directory tells nobody anything.
            Err(failure) if std::fs::read_dir(&dir).is_ok_and(|mut d| d.next().is_none()) => {
                if made {
                    let _ = std::fs::remove_dir(&dir);
                }
                Err(failure)
            }
            Err(mut failure) => {
                let dir = dir.display();
                failure.message.push_str(&format!(
                    "\nEverything is still in {dir}: config.json, bft2.db and log/ of each node. Remove it with rm -r {dir}"
                ));
                Err(failure)
            }
        }
    }

    async fn deliver(&self, dir: &Path, network: &mut Network, bars: &Bars) -> Result<(), Failure> {
        let need = Need::new(self.size, self.ratio);
        check_space(dir, &need, bars)?;
        let plan = Plan::lay_out(dir, self.ratio, &self.policy)?;
        bars.say("1  A package into the sender's store");
        let master = make_package(&plan.sender.store(), self.size, bars).await?;
        let package = name_of(&master)?;
        bars.say(&format!("   {package}"));
        bars.say("2  Tracker, sender, cacher and receiver, each a process of its own");
        network.start(&plan).await?;
        for node in plan.nodes() {
            bars.say(&format!("   {:<9} {}", node.role, node.config().display()));
        }
        bars.say(&format!("3  gentask, send, recv; bt:obs:cdn = {}, {}", self.ratio, self.policy));
        let patience = PATIENCE + Duration::from_secs(self.size / SLOWEST_DISK);
        let tms = Tms { plan: &plan, bars, ratio: self.ratio, policy: &self.policy, patience };
        let delivery = tokio::select! {
            delivery = tms.deliver(&package) => delivery,
            dead = network.watch() => Err(dead),
        };
        let delivery = delivery.map_err(|mut failure| {
            if !failure.message.contains("\n---") {
                failure.message.push_str(&network.tails());
            }
            failure
        })?;
        bars.say("4  The receiver's copy against its packing list");
        let good = verify(&delivery, &master, bars).await?;
        bars.say(&format!(
            "\n{package}: {} in {:.1} s, {good}",
            human(delivery.timings.total),
            delivery.timings.recv.as_secs_f64()
        ));
        bars.say(&delivery.timings.table());
        if let Some(cacher) = &delivery.cacher {
            bars.say(&format!("  the cacher: {cacher}"));
        }
        let seen = report::glimpse(&plan).await;
        let when = if self.keep { "Look around" } else { "With --keep everything stays and these lines look around" };
        bars.say(&format!("\n{seen}{when}:\n{}", report::explore(&plan).trim_end()));
        Ok(())
    }
}

/// A directory that is ours alone.
/// Removes what the demo made: the directory itself only when it was not there before.
fn clear(dir: &Path, made: bool) -> std::io::Result<()> {
    if made {
        return std::fs::remove_dir_all(dir);
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn prepare(dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let fresh = || {
        let id = uuid::Uuid::new_v4().simple().to_string();
        std::env::temp_dir().join(format!("bft2-demo-{}", id.get(..8).unwrap_or(&id)))
    };
    let dir = dir.unwrap_or_else(fresh);
    let wrong = |e: std::io::Error| Failure::local(format!("cannot work in {}: {e}", dir.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(wrong)?;
    if std::fs::read_dir(&dir).map_err(wrong)?.next().is_some() {
        return Err(Failure::usage(format!("--dir {}: it is not empty, and the demo would remove it at the end", dir.display())));
    }
    let full = std::fs::canonicalize(&dir).map_err(wrong)?;
    match full.to_str() {
        Some(_) => Ok(full),
        // It goes into configurations and URLs.
        None => Err(Failure::usage(format!("--dir {}: the name is not UTF-8", dir.display()))),
    }
}

fn check_space(dir: &Path, need: &Need, bars: &Bars) -> Result<(), Failure> {
    let fs =
        rustix::fs::statvfs(dir).map_err(|e| Failure::local(format!("cannot ask for the space in {}: {e}", dir.display())))?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    let text = format!(
        "This needs up to {} in {} (two copies of the package {}, object store {}, cacher {}); {} are free",
        human(need.total()),
        dir.display(),
        human(need.packages),
        human(need.objects),
        human(need.cache),
        human(free)
    );
    if free < need.total() {
        return Err(Failure::local(format!("{text}: choose a larger disk with --dir or a smaller package with --size")));
    }
    bars.say(&text);
    Ok(())
}

/// Makes a package of about `size` bytes.
async fn make_package(store: &Path, size: u64, bars: &Bars) -> Result<PackageSummary, Failure> {
    let options = SampleOptions { size: Some(size), reels: 2, seed: size, ..SampleOptions::default() };
    let meter = bars.bytes("package", planned_bytes(&options)?);
    let written = Arc::new(AtomicU64::new(0));
    let (store, counter) = (store.to_owned(), written.clone());
    let job = tokio::task::spawn_blocking(move || make(&store, &options, &mut |n| counter.store(n, Ordering::Relaxed)));
    while !job.is_finished() {
        meter.set(written.load(Ordering::Relaxed));
        tokio::time::sleep(LOOK).await;
    }
    let made = job.await.map_err(|e| Failure::local(format!("making the package broke off: {e}")))??;
    let first = made.packages.into_iter().next().ok_or_else(|| Fault::local("no package was made"))?;
    meter.done(&format!("{} files, {}", first.files.len(), human(first.bytes)));
    Ok(first)
}

fn name_of(package: &PackageSummary) -> Result<String, Failure> {
    let name = package.dir.file_name().and_then(|n| n.to_str());
    Ok(name.ok_or_else(|| Fault::local("the package has no name"))?.to_owned())
}

/// Hashes the received package once more, apart from what the receiver says of it: against its own packing list, and
/// against what the maker of the master wrote.
async fn verify(delivery: &Delivery, master: &PackageSummary, bars: &Bars) -> Result<String, Failure> {
    let report = check::examine(Check::prepare(&delivery.store, None, &[])?, bars).await?;
    if !report.verdict.ok || !same_files(&report.files, master) {
        let text = check::human(&report);
        return Err(Failure::refused(format!("the package in {} is not what was sent:\n{text}", delivery.store.display())));
    }
    Ok(format!("{} files verified against the packing list: {}", report.files.len(), report.verdict.text))
}

fn same_files(received: &[(ScannedFile, Sha1)], master: &PackageSummary) -> bool {
    let mut received: Vec<_> = received.iter().map(|(f, sha1)| (f.path.as_str(), f.size, *sha1)).collect();
    let mut made: Vec<_> = master.files.iter().map(|f| (f.path.as_str(), f.size, f.sha1)).collect();
    received.sort_unstable();
    made.sort_unstable();
    received == made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_for_what_each_method_stores() {
        let need = |ratio: &str| Need::new(300, Ratio::parse(ratio).expect("a ratio"));
        assert_eq!(need("1:1:1"), Need { packages: 600, objects: 200, cache: 100 });
        assert_eq!(need("0:0:1"), Need { packages: 600, objects: 0, cache: 0 });
        assert!(Need::new(u64::MAX, Ratio::parse("1:1:1").expect("a ratio")).total() >= u64::MAX / 2);
    }

    #[tokio::test]
    async fn only_the_masters_own_files_are_good() {
        let dir = tempfile::tempdir().expect("tempdir");
        let bars = Bars::new(Plain::Error);
        let master = make_package(dir.path(), 3_000_000, &bars).await.expect("made");
        let delivery = Delivery { timings: Default::default(), store: master.dir.clone(), cacher: None };
        verify(&delivery, &master, &bars).await.expect("good");
        let other = make_package(&dir.path().join("other"), 3_100_000, &bars).await.expect("made");
        assert!(verify(&delivery, &other, &bars).await.is_err(), "another valid package passed");
        let track = master.files.iter().max_by_key(|f| f.size).expect("a file");
        let file = master.dir.join(&track.path);
        let mut bytes = std::fs::read(&file).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).expect("write");
        let e = verify(&delivery, &master, &bars).await.expect_err("a flipped byte passed");
        assert!(e.message.contains(&track.path), "{e}");
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(prepare(Some(dir.path().join("new/one"))).is_ok());
        std::fs::write(dir.path().join("precious"), "x").expect("write");
        assert_eq!(prepare(Some(dir.path().to_owned())).err().map(|f| f.exit), Some(Exit::Usage));
    }
}
