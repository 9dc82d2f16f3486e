//! `bftv2 serve` and `bftv2 console`: the daemon.

use super::exit::{Exit, Outcome};
use clap::Args;
use std::path::Path;

const SERVE_EXAMPLES: &str = "\
Examples:
  bftv2 serve
  bftv2 serve --config /etc/bft2/config.json

SIGTERM and Ctrl-C stop it: running transfers are drained and resume at the next start.
SIGHUP has it read its configuration again.
BFT2_LOG sets what is logged: BFT2_LOG=info,bft2::work=debug";

const CONSOLE_EXAMPLES: &str = "\
Examples:
  bftv2 console
  BFT2_LOG=debug bftv2 console --config ./config.json";

/// Run the service
#[derive(Args, Debug)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArgs {}

/// Run the service with its log on the terminal
#[derive(Args, Debug)]
#[command(after_help = CONSOLE_EXAMPLES)]
pub struct ConsoleArgs {}

/// Arenas of the allocator: glibc's default is eight for every core.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;
/// Buffers of transfers (up to 1 MiB) stay below it and are used again; what is larger is mapped and given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 4 << 20;

/// Keeps memory the same however long a delivery runs. Blocks travel between many short-lived threads, each of which
/// gets an arena of its own from glibc by default, and every arena comes to hold what the busiest moment needed: the
/// peak of a receiver doubled from 1 GB to 8 GB. Mapping every buffer anew would bound it too, but made deliveries half
/// as fast: the kernel clears every page. Call it before there are threads.
pub fn bound_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: plain calls of the C library; a refused setting leaves the default.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_FROM);
    }
}

pub async fn run(config: &Path, console: bool) -> Outcome {
    crate::app::serve(config, console).await?;
    Ok(Exit::Ok)
}
