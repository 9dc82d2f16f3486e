//! The command line: one file per command. A command parses, calls, prints, and ends with an exit code of [`exit`].
//!
//! The client commands go through the HTTP interface alone, even on the service's own machine: what works here works for
//! a theatre management system, and nothing but the service ever writes its database.

pub mod amount;
mod backup;
pub mod bars;
mod cancel;
mod check;
pub mod client;
mod cprogress;
pub mod demo;
mod doctor;
pub mod exit;
mod fetch;
pub mod follow;
mod gentask;
mod hash;
mod hash_table;
mod newdisk;
mod openapi;
mod priority;
mod progress;
mod query;
mod recv;
mod sample_dcp;
mod send;
mod serve;
mod service;
mod sql;
mod tracker;
mod uprogress;
mod version;

use crate::config::Config;
use clap::{CommandFactory, Parser, Subcommand};
use exit::{EXIT_CODES, Exit, Failure, Outcome};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  bftv2 demo                                     # a whole network on this machine
  bftv2 serve --config /etc/bft2/config.json     # the service
  bftv2 gentask /data/dcp/cfec-001/dcps/film --watch
  bftv2 send /data/sender/tmp/cfec-001-film.task.json --watch
  bftv2 recv /data/receiver/tmp/cfec-001-film.task.json --watch";

/// Carries digital cinema packages from a centre to cinemas over BitTorrent, object storage and CDN at once
#[derive(Parser, Debug)]
#[command(name = "bftv2", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// The service's configuration
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/bft2/config.json")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::ServeArgs),
    Console(serve::ConsoleArgs),
    Demo(demo::DemoArgs),
    Gentask(gentask::GentaskArgs),
    Query(query::QueryArgs),
    Send(send::SendArgs),
    Uprogress(uprogress::UprogressArgs),
    Fetch(fetch::FetchArgs),
    Recv(recv::RecvArgs),
    Progress(progress::ProgressArgs),
    Cprogress(cprogress::CprogressArgs),
    Cancel(cancel::CancelArgs),
    Priority(priority::PriorityArgs),
    Check(check::CheckArgs),
    Hash(hash::HashArgs),
    Sql(sql::SqlArgs),
    Backup(backup::BackupArgs),
    Doctor(doctor::DoctorArgs),
    Newdisk(newdisk::NewdiskArgs),
    Openapi(openapi::OpenapiArgs),
    SampleDcp(sample_dcp::Args),
    Tracker(tracker::TrackerArgs),
    Version(version::VersionArgs),
}

/// The whole process: parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    serve::bound_allocator();
    let runtime = match runtime(&command) {
        Ok(runtime) => runtime,
        Err(e) => return end(Err(Failure::local(format!("cannot start: {e}")))),
    };
    if !matches!(command, Command::Serve(_) | Command::Console(_) | Command::Demo(_) | Command::Tracker(_)) {
        close_pipes_quietly();
    }
    let outcome = runtime.block_on(run(command, &config));
    // File work that a signal cut off must not keep the process.
    runtime.shutdown_background();
    end(outcome)
}

/// For tests and manuals: the parser itself.
pub fn command() -> clap::Command {
    Cli::command()
}

async fn run(command: Command, config: &Path) -> Outcome {
    match command {
        Command::Serve(_) => serve::run(config, false).await,
        Command::Console(_) => serve::run(config, true).await,
        Command::Demo(args) => args.run().await,
        Command::Gentask(args) => args.run().await,
        Command::Query(args) => args.run().await,
        Command::Send(args) => args.run().await,
        Command::Uprogress(args) => args.run().await,
        Command::Fetch(args) => args.run().await,
        Command::Recv(args) => args.run().await,
        Command::Progress(args) => args.run().await,
        Command::Cprogress(args) => args.run().await,
        Command::Cancel(args) => args.run().await,
        Command::Priority(args) => args.run().await,
        Command::Check(args) => args.run().await,
        Command::Hash(args) => args.run().await,
        Command::Sql(args) => args.run(config).await,
        Command::Backup(args) => args.run(config).await,
        Command::Doctor(args) => args.run(config).await,
        Command::Newdisk(args) => args.run(config).await,
        Command::Openapi(args) => args.run(),
        Command::SampleDcp(args) => Ok(sample_dcp::run(args).map(|()| Exit::Ok)?),
        Command::Tracker(args) => args.run().await,
        Command::Version(args) => args.run().await,
    }
}

/// Threads for file work. librqbit moves a worker's place to one of them for every block that it reads or writes, and with
/// tokio's default of 512 their number, and with it the memory, grew with the length of a delivery. Work that finds none
/// free waits for its turn. What may hang, as the library is on a server that does not answer, has places of its own.
const BLOCKING_THREADS: usize = 48;

/// The demo's processes die with the thread that started them, so it must be the main thread: one thread runs all.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Command::Serve(_) | Command::Console(_) | Command::Tracker(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    if matches!(command, Command::Serve(_) | Command::Console(_)) {
        builder.on_thread_start(crate::app::give_way());
    }
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(std::time::Duration::from_secs(3)).build()
}

fn end(outcome: Outcome) -> ExitCode {
    let exit = outcome.unwrap_or_else(|failure| {
        eprintln!("bftv2: {failure}");
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// `bftv2 sql … | head` ends like any other filter, not with a panic.
fn close_pipes_quietly() {
    // SAFETY: SIG_DFL is a valid handler for SIGPIPE, and no thread of ours depends on another one.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// The service's configuration, for commands that need one of its paths.
fn configuration(path: &Path) -> Result<Config, Failure> {
    let (config, warnings) = Config::load(path).map_err(|e| Failure::local(e.to_string()))?;
    for warning in warnings {
        eprintln!("bftv2: {warning}");
    }
    Ok(config)
}

/// Resolves at Ctrl-C or SIGTERM. The handlers are in place when this returns.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|e| Failure::local(format!("cannot listen for signals: {e}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?; // the terminal is gone
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
