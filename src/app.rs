//! Wiring: what a process is made of, and the order of start and stop.
//!
//! Start: configuration, log, database, BitTorrent engine, listening sockets, conductor. A thing that cannot work is said
//! before anything runs. Stop: no new requests, then legs drain and sync within a deadline, then the database closes; the
//! verdict is logged.

use crate::api::{self, ApiOptions};
use crate::assembly;
use crate::clock::{Clock, Pulse};
use crate::config::{Config, ConfigHandle};
use crate::desk::overview::Overview;
use crate::desk::{Desk, intake, sends};
use crate::error::Fault;
use crate::library::Library;
use crate::library::packages::Packages;
use crate::library::place::Place;
use crate::model::span::Method;
use crate::model::task::NodeType;
use crate::store::Store;
use crate::store::events::Level;
use crate::store::lock::Lock;
use crate::telemetry;
use crate::transport::bt::{BtEngine, EngineOptions};
use crate::transport::limit::Limiter;
use crate::views::TaskDirs;
use crate::views::area::{Area, Guard};
use crate::views::places::make_stores;
use crate::web::listen::listen;
use crate::web::origin::origin;
use crate::web::tracker::{TrackerOptions, TrackerState, tracker};
use crate::work::conductor::Conductor;
use crate::work::disk::{LONGEST_LOOK, no_answer};
use crate::work::{Node, role};
use poem::Route;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Open files that a node with many tasks and peers may need.
const OPEN_FILES: u64 = 65_536;

/// Runs the daemon until SIGTERM or SIGINT; SIGHUP has it read its configuration again. `console`: the log goes to the terminal.
pub async fn serve(config_path: &Path, console: bool) -> Result<(), Fault> {
    let (handle, warnings) = ConfigHandle::load(config_path).map_err(|e| Fault::permanent(e.to_string()))?;
    let config = handle.current();
    let _log = telemetry::init((!console).then_some(config.logdir.as_path()), console, config.loglevel.as_str());
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let open_files = raise_open_files();
    assembly::share_open_files(open_files, config.downloadingnum);
    let peers = peers_per_torrent(open_files);
    // At once: one that comes during the start must not end the process.
    let hup = signal(SignalKind::hangup()).map_err(deaf)?;
    let stop = CancellationToken::new();
    let app = App::start(handle, peers, stop.clone()).await?;
    tracing::info!(role = %config.servertype, listen = %config.listen, version = env!("CARGO_PKG_VERSION"), "bftv2 is up");
    let mut app = app;
    let desk = Arc::clone(&app.desk);
    let why = tokio::select! {
        why = told_to_stop(&desk, hup) => why?,
        // It ends only when it is told to: without it nothing would be done, and nobody would see.
        _ = &mut app.conductor => return Err(Fault::local("the conductor ended: see the log; the service has to be started again")),
    };
    tracing::info!("{why}: stopping");
    stop.cancel();
    app.stopped(config.stoptimeout).await
}

/// A running node.
struct App {
    store: Store,
    bt: Arc<BtEngine>,
    conductor: JoinHandle<bool>,
    desk: Arc<Desk>,
    others: Vec<JoinHandle<()>>,
    #[allow(dead_code, reason = "held until the node ends")]
    clients: Clients,
    #[allow(dead_code, reason = "held until the node ends")]
    lock: Lock,
}

/// A file or directory of ours beside the database.
fn beside_the_database(config: &Config, ending: &str) -> PathBuf {
    let mut beside = config.database.clone().into_os_string();
    beside.push(ending);
    PathBuf::from(beside)
}

/// Takes what lies in the data directory for this process, and makes what is lacking there. When its disk is away the
/// conductor does so later. Returns the directory for the scratch of BitTorrent.
async fn data_directory(config: &Arc<Config>, area: &Area, store: &Store, dirs: &TaskDirs) -> Result<PathBuf, Fault> {
    let elsewhere = beside_the_database(config, ".engine");
    if let Some(why) = area.look(store).await? {
        tracing::warn!("{why}");
        dirs.set_away(true);
        return Ok(elsewhere);
    }
    area.take()?;
    dirs.create(config.servertype.roles())?;
    let (known, guard) = (store.speaks_of_data().await?, Guard::of(&config.transfer_dir(), store).await?);
    let at = Arc::clone(config);
    let made = tokio::task::spawn_blocking(move || make_stores(&at, &guard, known));
    match timeout(LONGEST_LOOK, made).await {
        Ok(made) => made.map_err(|e| Fault::local(format!("making directories: {e}")))??,
        // The node answers meanwhile.
        Err(_) => {
            tracing::warn!("{}", no_answer(&config.basedatapath));
            area.let_go();
            dirs.set_away(true);
            return Ok(elsewhere);
        }
    }
    let _ = std::fs::remove_dir_all(&elsewhere);
    Ok(config.transfer_dir().join("engine"))
}

impl App {
    async fn start(handle: ConfigHandle, peers: usize, stop: CancellationToken) -> Result<Self, Fault> {
        let config = handle.current();
        let lock = Lock::take(&beside_the_database(&config, ".lock"), &format!("the database {}", config.database.display()))?;
        let dirs = TaskDirs::of(&config);
        let store = Store::open(&config.database).await?;
        let area = Area::new(config.transfer_dir());
        let scratch = data_directory(&config, &area, &store, &dirs).await?;
        let clock = Clock::real();
        let hour = clock.now().time();
        let options = EngineOptions {
            upload_bps: config.upload_rate_at(hour),
            download_bps: config.rate_at(Method::Bt, hour),
            peer_limit: peers,
            ..EngineOptions::new(config.btlisten, scratch)
        };
        let bt = BtEngine::start(options).await?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::limited(5))
            .no_proxy()
            .build()
            .map_err(|e| Fault::local(format!("no HTTP client: {e}")))?;
        let node = Arc::new(Node {
            store: store.clone(),
            config: handle.clone(),
            clock: clock.clone(),
            dirs: dirs.clone(),
            bt: Arc::clone(&bt),
            limiters: Method::ALL.map(|m| Limiter::new(config.rate_at(m, hour))),
            http: http.clone(),
            nudge: Arc::default(),
            pulse: Pulse::default(),
            area,
        });
        let overview = Overview {
            store: store.clone(),
            config: handle.clone(),
            clock: clock.clone(),
            pulse: node.pulse.clone(),
            started_at: clock.now().fixed_offset(),
        };
        // A cacher has no library.
        let library =
            (config.servertype != NodeType::Cacher).then(|| Arc::new(Library::new(store.clone(), handle.clone(), clock.clone())));
        role::check(&node, library.as_deref()).await?;
        let desk = Arc::new(Desk {
            store: store.clone(),
            config: handle,
            clock,
            dirs,
            nudge: Arc::clone(&node.nudge),
            http,
            admission: tokio::sync::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            generating: tokio::sync::Mutex::default(),
            looks: Default::default(),
            library: library.clone(),
        });
        let packages = Packages::new(store.clone(), Place::of(&config), node.clock.clone());
        // Before anybody asks what runs.
        if let Err(fault) = store.reset_running_legs().await {
            tracing::error!(%fault, "cannot reset the legs of the last run");
        }
        let mut others = serve_web(&config, &stop).await?;
        let token = (!config.token.is_empty()).then(|| config.token.reveal().to_owned());
        let service = api::service(Arc::clone(&desk) as _, overview, ApiOptions { token, ..ApiOptions::default() });
        let clients = Clients::new()?;
        let (at, stopped) = (config.listen, stop.clone());
        let listening = clients.handle.spawn(async move { listen(at, "configuration key listen", service, &stopped).await });
        others.push(listening.await.unwrap_or_else(|e| Err(Fault::local(format!("the API cannot be served: {e}"))))?.done);
        others.push(tokio::spawn(intake::watch(Arc::clone(&desk), stop.clone())));
        if config.servertype == NodeType::Sender {
            others.push(tokio::spawn(sends::watch(Arc::clone(&desk), stop.clone())));
        }
        if let Some(library) = library {
            let stopped = stop.clone();
            others.push(tokio::spawn(async move { library.keep(stopped).await }));
            others.push(tokio::spawn(review_packages(packages, Arc::clone(&node), stop.clone())));
        }
        let started = format!("version {}, {}", env!("CARGO_PKG_VERSION"), config.servertype);
        node.event(Level::Info, "start", "", &started).await;
        let conductor = tokio::spawn(Conductor::new(node).run(stop, config.stoptimeout - reserve(config.stoptimeout)));
        Ok(Self { store, bt, conductor, desk, others, clients, lock })
    }

    /// Waits for the end of everything and says how it went.
    async fn stopped(mut self, deadline: Duration) -> Result<(), Fault> {
        let end = Instant::now() + deadline;
        // Somebody may hold the database for ever: then the conductor waits in the middle of a tick.
        let drained = timeout_at(end - reserve(deadline), &mut self.conductor).await;
        let drained = matches!(drained, Ok(Ok(true)));
        let rest = async {
            for other in std::mem::take(&mut self.others) {
                let _ = timeout(Duration::from_secs(2), other).await;
            }
            let _ = timeout(Duration::from_secs(5), self.bt.stop()).await;
            self.store.close().await;
        };
        // What is not closed by then is found by the next start as after a power cut.
        let closed = timeout_at(end, rest).await.is_ok();
        if drained && closed {
            tracing::info!("stopped: everything that was received is recorded");
            return Ok(());
        }
        tracing::error!(
            seconds = deadline.as_secs(),
            drained,
            "not done in time: the last seconds of transfer are repeated at the next start"
        );
        Err(Fault::local(format!("the stop took longer than {} s; nothing accepted is lost", deadline.as_secs())))
    }
}

/// How much of the time for a stop is kept for closing what is left when the transfers are not drained.
fn reserve(deadline: Duration) -> Duration {
    (deadline / 5).min(Duration::from_secs(3))
}

/// What was done to packages while nobody looked; once their disk is there.
async fn review_packages(packages: Packages, node: Arc<Node>, stop: CancellationToken) {
    let review = async {
        while node.area.look(&node.store).await?.is_some() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        packages.review_all().await
    };
    let done = tokio::select! {
        done = review => done,
        () = stop.cancelled() => Ok(()),
    };
    if let Err(fault) = done {
        tracing::warn!(%fault, "cannot review the packages of the library; the next start does it");
    }
}

/// Clients are served by a thread of their own. The others hash and move bytes, at a lower priority: on a machine that is
/// busy with a delivery a question is answered in milliseconds, and does not wait behind hashing.
struct Clients {
    handle: tokio::runtime::Handle,
    runtime: Option<Runtime>,
}

impl Clients {
    fn new() -> Result<Self, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            // More than there are places for those who look at the library.
            .max_blocking_threads(12)
            .thread_name("clients")
            .enable_all()
            .build()
            .map_err(|e| Fault::local(format!("no thread for clients: {e}")))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Clients {
    /// Waits for nobody: what is dropped in a runtime must not block.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How much the threads that move bytes give way to all others, as `nice` counts.
const GIVE_WAY: i32 = 5;

/// For threads that move bytes: what each does when it begins. Those that it starts inherit its priority, so it is set and
/// not added to: else every generation of threads would sink further.
pub fn give_way() -> impl Fn() + Send + Sync + 'static {
    let wanted = rustix::process::getpriority_process(None).unwrap_or(0) + GIVE_WAY;
    move || {
        if let Err(e) = rustix::process::setpriority_process(None, wanted) {
            tracing::debug!(error = %e, "a thread keeps its priority");
        }
    }
}

/// The origin and the tracker, where they are configured.
async fn serve_web(config: &Config, stop: &CancellationToken) -> Result<Vec<JoinHandle<()>>, Fault> {
    let mut out = Vec::new();
    if let Some(addr) = config.weblisten {
        let routes = Route::new().nest("/dcp", origin(config.basedatapath.clone()));
        out.push(listen(addr, "configuration key weblisten", routes, stop).await?.done);
    }
    if let Some(addr) = config.trackerlisten {
        let routes = tracker(Arc::new(TrackerState::new(TrackerOptions::default())));
        out.push(listen(addr, "configuration key trackerlisten", routes, stop).await?.done);
    }
    Ok(out)
}

/// Says how many files may be open.
fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(OPEN_FILES, |max| max.min(OPEN_FILES));
    let Some(current) = now.current.filter(|c| *c < wanted) else { return wanted };
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum }) {
        tracing::warn!(error = %e, "cannot raise the limit of open files");
        return current;
    }
    wanted
}

/// Connected peers of one torrent: a hundred torrents with as many peers as they may have must leave files for the rest.
fn peers_per_torrent(open_files: u64) -> usize {
    usize::try_from(open_files / 256).unwrap_or(usize::MAX).clamp(16, 128)
}

fn deaf(e: std::io::Error) -> Fault {
    Fault::local(format!("cannot listen for signals: {e}"))
}

/// Waits for a signal to stop.
async fn told_to_stop(desk: &Desk, mut hup: Signal) -> Result<&'static str, Fault> {
    let mut term = signal(SignalKind::terminate()).map_err(deaf)?;
    let mut int = signal(SignalKind::interrupt()).map_err(deaf)?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok("SIGTERM"),
            _ = int.recv() => return Ok("SIGINT"),
            _ = hup.recv() => tracing::info!("SIGHUP: {}", desk.reloadconf().await),
        }
    }
}
