//! Resident memory of processes, from `/proc`.

use super::Trouble;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(50);

/// Bytes, the most that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// `VmHWM`: the kernel's own high-water mark, pages of mapped files included.
    pub high_water: u64,
    /// `RssAnon`: what no file backs, sampled.
    pub anonymous: u64,
}

impl Peak {
    /// The higher of both, figure by figure.
    pub fn max(self, other: &Self) -> Self {
        Self { high_water: self.high_water.max(other.high_water), anonymous: self.anonymous.max(other.anonymous) }
    }
}

/// Samples until it is stopped.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Peak>>,
}

impl Watch {
    pub fn start(pids: &[u32]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (pids, stopped) = (pids.to_vec(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut peaks = vec![Peak::default(); pids.len()];
            while !stopped.load(Ordering::Relaxed) {
                for (pid, peak) in pids.iter().zip(&mut peaks) {
                    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                    peak.high_water = peak.high_water.max(kilobytes(&status, "VmHWM:"));
                    peak.anonymous = peak.anonymous.max(kilobytes(&status, "RssAnon:"));
                }
                std::thread::sleep(EVERY);
            }
            peaks
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Vec<Peak> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Memory that can be had without swapping.
pub fn available() -> Result<u64, Trouble> {
    Ok(kilobytes(&std::fs::read_to_string("/proc/meminfo")?, "MemAvailable:"))
}

/// A line's figure, in bytes.
fn kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
