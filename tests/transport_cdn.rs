//! The `cdn` transport: the conformance suite over our own origin, then every way a server can be wrong.

mod support;

use bft2::error::{Fault, FaultClass};
use bft2::model::ids::RelPath;
use bft2::model::span::Span;
use bft2::transport::cdn::{CdnOptions, CdnTransport};
use bft2::transport::ranged::RangedOptions;
use bft2::transport::retry::Policy;
use bft2::transport::{LegContext, Outcome, Sink as _, Transport};
use bft2::web::origin::origin;
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::{Route, Server};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::conformance::{Bench, Published};
use support::sink::{FileSink, Package, ctx, done, next_run, until, wire};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use url::Url;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Aborts a server's task when the test is over.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Short waits, small segments.
fn options() -> CdnOptions {
    let retry = Policy { tries: 3, first_wait: Duration::from_millis(10), longest_wait: Duration::from_millis(50) };
    CdnOptions {
        // A test machine may stand still for a while.
        ranged: RangedOptions { connections: 2, segment: 2 * MIB, min_rate: KIB, period: Duration::from_secs(30), retry },
        check_retry: retry,
        ..CdnOptions::default()
    }
}

struct OverOurOrigin;

struct Served {
    base: Url,
    package: Arc<Package>,
    _server: Running,
}

#[async_trait::async_trait]
impl Bench for OverOurOrigin {
    async fn publish(&self, package: Arc<Package>) -> Box<dyn Published> {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let addr = acceptor.local_addr().remove(0).as_socket_addr().copied().unwrap();
        let app = Route::new().nest("/dcp", origin(package.parent()));
        let server = Running(tokio::spawn(async move { Server::new_with_acceptor(acceptor).run(app).await.unwrap() }));
        let base = Url::parse(&format!("http://{addr}/dcp/{}", package.name)).unwrap();

        let ctx = ctx();
        let transport = CdnTransport::new(base.clone(), options()).unwrap();
        assert_eq!(transport.publish(package.publish_job(&ctx)).await.unwrap(), Outcome::Done);
        assert!(ctx.counters.is_ready());
        Box::new(Served { base, package, _server: server })
    }
    fn resume_slack(&self) -> u64 {
        MIB
    }
}

#[async_trait::async_trait]
impl Published for Served {
    fn fetcher(&self) -> Box<dyn Transport> {
        Box::new(CdnTransport::new(self.base.clone(), options()).unwrap())
    }
    async fn lose(&self, path: &RelPath) -> bool {
        std::fs::remove_file(path.under(&self.package.root())).unwrap();
        true
    }
}

conformance_tests!(OverOurOrigin);

/// What the server does wrong with one request.
#[derive(Clone, Debug)]
enum Twist {
    Right,
    /// The connection breaks after so many bytes.
    Cut(u64),
    /// The same, without a Content-Length: looks like a regular end.
    CutUnannounced(u64),
    /// Nothing more after so many bytes, the connection stays.
    Stall(u64),
    /// One byte every 20 ms.
    Drip,
    IgnoreRange,
    ContentRange(&'static str),
    /// The headers announce another total, for every range.
    Total(u64),
    Gzip,
    /// A page of somebody's, whole and without a length.
    Page,
    Status(&'static str, &'static str),
    /// Another version of equal size: other bytes, other ETag.
    Replaced,
    /// The same ETag, one wrong byte.
    Flipped,
    TooMuch,
    /// Redirects to itself without end.
    Loop,
}

/// A server of one file, whatever the path. The first requests get their own twists, all others the last one.
struct BadServer {
    addr: SocketAddr,
    state: Arc<State>,
    /// It is to be found out that it brings too little.
    is_slow: bool,
    _server: Running,
}

struct State {
    bytes: Vec<u8>,
    twists: Mutex<(VecDeque<Twist>, Twist)>,
    asked: Mutex<Vec<Range<u64>>>,
}

impl BadServer {
    async fn start(package: &Package, first: &[Twist], then: Twist) -> Self {
        let is_slow = first.iter().chain([&then]).any(|t| matches!(t, Twist::Stall(_) | Twist::Drip));
        let state = Arc::new(State {
            bytes: package.read(0, 0..package.files[0].size),
            twists: Mutex::new((first.iter().cloned().collect(), then)),
            asked: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, Arc::clone(&serving)));
            }
        });
        Self { addr, state, is_slow, _server: Running(server) }
    }

    fn turn(&self, twist: Twist) {
        *self.state.twists.lock().unwrap() = (VecDeque::new(), twist);
    }

    fn asked(&self) -> Vec<Range<u64>> {
        self.state.asked.lock().unwrap().clone()
    }

    fn transport(&self, options: CdnOptions) -> CdnTransport {
        let base = Url::parse(&format!("http://{}/dcp/cfec-001/dcps/BAD", self.addr)).unwrap();
        CdnTransport::new(base, options).unwrap()
    }

    async fn fetch(&self, package: &Package, sink: &Arc<FileSink>, ctx: &LegContext) -> Result<Outcome, Fault> {
        let mut options = options();
        options.ranged.connections = 1;
        if self.is_slow {
            options.ranged.period = Duration::from_millis(1500);
        }
        self.transport(options).fetch(package.fetch_job(package.spans(), sink, ctx)).await
    }
}

/// Answers one request and closes the connection. Errors mean that the client went away.
async fn answer(socket: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    let mut range = 0..state.bytes.len() as u64;
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
        if let Some(asked) = line.to_ascii_lowercase().trim().strip_prefix("range: bytes=") {
            let (first, last) = asked.split_once('-').unwrap();
            range = first.parse().unwrap()..last.parse::<u64>().unwrap() + 1;
        }
    }
    state.asked.lock().unwrap().push(range.clone());
    let twist = {
        let mut twists = state.twists.lock().unwrap();
        twists.0.pop_front().unwrap_or_else(|| twists.1.clone())
    };
    let mut body = state.bytes[range.start as usize..range.end as usize].to_vec();
    let mut head = vec!["HTTP/1.1 206 Partial Content".to_owned(), "Connection: close".into()];
    let (mut etag, mut total, mut claim, mut length) = ("\"one\"", state.bytes.len() as u64, None, Some(body.len()));
    match twist {
        Twist::IgnoreRange => {
            body = state.bytes.clone();
            head[0] = "HTTP/1.1 200 OK".into();
            length = Some(body.len());
        }
        Twist::ContentRange(text) => claim = Some(text.to_owned()),
        Twist::Total(other) => total = other,
        Twist::Page => {
            head[0] = "HTTP/1.1 200 OK".into();
            body = b"<html>log in</html>".to_vec();
            length = None;
        }
        Twist::Gzip => head.push("Content-Encoding: gzip".into()),
        Twist::Status(status, headers) => {
            head = vec![format!("HTTP/1.1 {status}"), "Connection: close".into(), headers.into()];
            head.retain(|h| !h.is_empty());
            body = b"<html>sorry</html>".to_vec();
            length = Some(body.len());
        }
        Twist::Loop => head = vec!["HTTP/1.1 302 Found".into(), "Location: /again".into()],
        Twist::Replaced => {
            etag = "\"two\"";
            body.iter_mut().for_each(|b| *b = !*b);
        }
        Twist::Flipped => body[0] ^= 1,
        Twist::TooMuch => {
            length = None;
            body.extend_from_slice(b"more");
        }
        Twist::CutUnannounced(_) => length = None,
        _ => {}
    }
    if head[0].contains("206") {
        head.push(format!(
            "Content-Range: {}",
            claim.unwrap_or_else(|| format!("bytes {}-{}/{total}", range.start, range.end - 1))
        ));
    }
    head.push(format!("ETag: {etag}"));
    head.extend(length.map(|l| format!("Content-Length: {l}")));
    socket.write_all((head.join("\r\n") + "\r\n\r\n").as_bytes()).await?;
    match twist {
        Twist::Cut(n) | Twist::CutUnannounced(n) => socket.write_all(&body[..body.len().min(n as usize)]).await?,
        Twist::Stall(n) => {
            socket.write_all(&body[..n as usize]).await?;
            socket.flush().await?;
            std::future::pending::<()>().await;
        }
        Twist::Drip => {
            for byte in body {
                socket.write_all(&[byte]).await?;
                socket.flush().await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        _ => socket.write_all(&body).await?,
    }
    socket.shutdown().await
}

fn one_file(size: u64) -> Package {
    Package::make("BAD", size, &[("picture.mxf", size)])
}

/// Fetches a file of `size` from a server with these twists; the sink is checked when the run succeeded.
async fn run(size: u64, first: &[Twist], then: Twist) -> (Result<Outcome, Fault>, BadServer, Arc<FileSink>) {
    let package = one_file(size);
    let server = BadServer::start(&package, first, then).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let result = server.fetch(&package, &sink, &ctx).await;
    if result.is_ok() {
        assert!(sink.complete());
        assert_eq!(done(&ctx), size);
    }
    (result, server, sink)
}

async fn heals(first: &[Twist]) -> BadServer {
    let (result, server, _) = run(MIB + 5, first, Twist::Right).await;
    assert_eq!(result.unwrap(), Outcome::Done);
    server
}

async fn fails(twist: Twist, class: FaultClass, words: &str) -> Fault {
    let (result, _, sink) = run(3 * MIB, &[], twist).await;
    let fault = result.unwrap_err();
    assert_eq!(fault.class, class, "{fault}");
    assert!(fault.message.contains(words), "{fault}");
    assert_eq!(fault.file.as_deref(), Some("picture.mxf"));
    assert_eq!(sink.committed_bytes(), 0);
    fault
}

#[tokio::test]
async fn after_a_cut_only_the_rest_is_asked_for() {
    for twist in [Twist::Cut(300 * KIB), Twist::CutUnannounced(300 * KIB)] {
        let server = heals(std::slice::from_ref(&twist)).await;
        assert_eq!(server.asked(), [0..MIB + 5, 300 * KIB..MIB + 5], "{twist:?}");
    }
}

#[tokio::test]
async fn cuts_that_bring_something_use_up_no_tries() {
    let cuts = vec![Twist::Cut(MIB); 6];
    let (result, server, _) = run(8 * MIB, &cuts, Twist::Right).await;
    assert_eq!(result.unwrap(), Outcome::Done);
    assert!(server.asked().len() > 6);
}

#[tokio::test]
async fn cuts_that_bring_nothing_end_the_run() {
    let (result, server, _) = run(MIB, &[], Twist::Cut(0)).await;
    assert_eq!(result.unwrap_err().class, FaultClass::Transient);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_stall_is_noticed() {
    // Where this machine stands still for longer than that, too, it is asked once more.
    let asked = heals(&[Twist::Stall(200 * KIB)]).await.asked();
    assert!(asked.len() >= 2 && asked[..2] == [0..MIB + 5, 200 * KIB..MIB + 5], "{asked:?}");
}

#[tokio::test]
async fn one_byte_at_a_time_is_too_slow() {
    assert!(heals(&[Twist::Drip]).await.asked().len() >= 2);
    let (result, ..) = run(MIB, &[], Twist::Drip).await;
    let fault = result.unwrap_err();
    assert_eq!(fault.class, FaultClass::Transient);
    assert!(fault.message.contains("too slow"), "{fault}");
}

#[tokio::test]
async fn our_own_cap_is_not_the_servers_slowness() {
    let package = one_file(160 * KIB);
    let server = BadServer::start(&package, &[], Twist::Right).await;
    let (sink, mut ctx) = (FileSink::new(&package.files), ctx());
    ctx.limiter = bft2::transport::limit::Limiter::new(Some(32 * KIB));
    let mut options = options();
    options.ranged.period = Duration::from_millis(1500);
    options.ranged.min_rate = MIB;
    let job = package.fetch_job(package.spans(), &sink, &ctx);
    assert_eq!(server.transport(options).fetch(job).await.unwrap(), Outcome::Done);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_server_that_ignores_ranges() {
    fails(Twist::IgnoreRange, FaultClass::Permanent, "ignores Range").await;
    // A small file is one request anyway.
    let (result, ..) = run(MIB, &[], Twist::IgnoreRange).await;
    assert_eq!(result.unwrap(), Outcome::Done);
}

#[tokio::test]
async fn answers_that_do_not_fit_the_question() {
    heals(&[Twist::ContentRange("bytes 5-1048580/1048581")]).await;
    fails(Twist::ContentRange("bytes 1-2097152/3145728"), FaultClass::Transient, "asked for bytes").await;
    fails(Twist::Total(3 * MIB + 1), FaultClass::Corrupt, "has 3145729 bytes").await;
    fails(Twist::Gzip, FaultClass::Permanent, "compression").await;
    fails(Twist::Loop, FaultClass::Permanent, "redirects").await;
}

#[tokio::test]
async fn an_answer_that_runs_on() {
    let (result, ..) = run(MIB, &[], Twist::TooMuch).await;
    // The extra bytes come with the last chunk, or after everything is there: refused or never read, but not written.
    if let Err(fault) = result {
        assert!(fault.message.contains("more than it was asked for"), "{fault}");
    }
}

#[tokio::test]
async fn statuses() {
    let began = Instant::now();
    heals(&[Twist::Status("429 Too Many Requests", "Retry-After: 1")]).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not kept");
    // Minutes are not waited for within a run.
    let began = Instant::now();
    let busy = fails(Twist::Status("503 Service Unavailable", "Retry-After: 7200"), FaultClass::Transient, "503").await;
    assert_eq!(busy.retry_after, Some(Duration::from_secs(3600)), "an hour at most");
    assert!(began.elapsed() < Duration::from_secs(30), "it was waited for");
    heals(&[Twist::Status("503 Service Unavailable", ""), Twist::Status("502 Bad Gateway", "")]).await;
    fails(Twist::Status("500 Internal Server Error", ""), FaultClass::Transient, "500").await;
    fails(Twist::Status("404 Not Found", ""), FaultClass::Permanent, "not on the origin").await;
    fails(Twist::Status("403 Forbidden", ""), FaultClass::Permanent, "refuses access").await;
    fails(Twist::Status("416 Range Not Satisfiable", "Content-Range: bytes */5"), FaultClass::Permanent, "shorter").await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_silent_server() {
    let package = one_file(2 * MIB);
    let server = BadServer::start(&package, &[], Twist::Stall(600 * KIB)).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let mut options = options();
    options.ranged.period = Duration::from_secs(60);
    let (transport, job) = (server.transport(options), package.fetch_job(package.spans(), &sink, &ctx));
    let running = tokio::spawn(async move { transport.fetch(job).await });
    until("the bytes before the stall", || wire(&ctx) == 600 * KIB).await;
    let asked = Instant::now();
    ctx.stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(sink.committed(0).to_text(), "0-614400", "everything received is kept");
}

#[tokio::test]
async fn a_file_replaced_between_two_tries() {
    let (result, ..) = run(MIB, &[Twist::Cut(300 * KIB)], Twist::Replaced).await;
    let fault = result.unwrap_err();
    assert_eq!(fault.class, FaultClass::Corrupt, "{fault}");
    assert!(fault.message.contains("changed on the origin"), "{fault}");
    assert_eq!(fault.file.as_deref(), Some("picture.mxf"));
}

#[tokio::test]
async fn a_file_replaced_between_two_runs() {
    let package = one_file(MIB);
    let server = BadServer::start(&package, &[Twist::Cut(300 * KIB)], Twist::Cut(0)).await;
    let (sink, first) = (FileSink::new(&package.files), ctx());
    assert!(server.fetch(&package, &sink, &first).await.unwrap_err().is_transient());
    assert_eq!(sink.committed_bytes(), 300 * KIB);
    server.turn(Twist::Replaced);
    let fault = server.fetch(&package, &sink, &next_run(&first)).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Corrupt, "{fault}");
    assert_eq!(sink.committed_bytes(), 300 * KIB);
    // Who holds nothing of the old version may begin with the new one.
    let fresh = FileSink::new(&package.files);
    assert_eq!(server.fetch(&package, &fresh, &next_run(&first)).await.unwrap(), Outcome::Done);
    assert!(!fresh.complete());
}

/// Nothing in the answer betrays it: the digest of the sink does, which is why a package gets its name only after that.
#[tokio::test]
async fn a_flipped_byte_is_found_by_the_digest_alone() {
    let package = one_file(MIB);
    let server = BadServer::start(&package, &[], Twist::Flipped).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    assert_eq!(server.fetch(&package, &sink, &ctx).await.unwrap(), Outcome::Done);
    assert!(sink.committed(0).contains(&(0..MIB)));
    assert_ne!(sink.digest(0), package.files[0].sha1);
}

#[tokio::test]
async fn one_file_that_is_always_refused_does_not_stop_the_others() {
    let package = Package::make("BAD", 1, &[("a", MIB), ("b", MIB), ("c", MIB)]);
    let server = BadServer::start(&package, &vec![Twist::Status("503 Service Unavailable", ""); 3], Twist::Right).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let fault = server.fetch(&package, &sink, &ctx).await.unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Transient, Some("a")));
    assert_eq!(sink.committed_bytes(), 2 * MIB);
}

/// All of them are named at once, so that another method gets them all at once.
#[tokio::test]
async fn files_that_are_not_there_are_all_named() {
    let package = Package::make("BAD", 1, &[("a", MIB), ("b", MIB), ("c", MIB)]);
    let twists = [Twist::Status("404 Not Found", ""), Twist::Right, Twist::Status("404 Not Found", "")];
    let server = BadServer::start(&package, &twists, Twist::Right).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let fault = server.fetch(&package, &sink, &ctx).await.unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("a")));
    assert_eq!(fault.others, ["c"]);
    assert_eq!(sink.committed_bytes(), MIB);
}

#[tokio::test]
async fn a_server_that_is_away_is_not_asked_for_every_file() {
    let files: Vec<_> = (0..50).map(|i| format!("f{i}")).collect();
    let files: Vec<_> = files.iter().map(|f| (f.as_str(), KIB)).collect();
    let package = Package::make("BAD", 1, &files);
    let server = BadServer::start(&package, &[], Twist::Status("503 Service Unavailable", "")).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    assert!(server.fetch(&package, &sink, &ctx).await.unwrap_err().is_transient());
    assert_eq!(server.asked().len(), 6, "two files of three tries each");
}

#[tokio::test]
async fn publishing_looks_at_size_and_ranges() {
    let package = one_file(3 * MIB);
    let publish = async |first: &[Twist], then| {
        let server = BadServer::start(&package, first, then).await;
        let ctx = ctx();
        let result = server.transport(options()).publish(package.publish_job(&ctx)).await;
        assert_eq!(ctx.counters.is_ready(), result.is_ok());
        result.map_err(|f| {
            assert_eq!(f.file.as_deref(), Some("picture.mxf"));
            f.class
        })
    };
    assert_eq!(publish(&[], Twist::Right).await, Ok(Outcome::Done));
    assert_eq!(publish(&[Twist::Status("503 Service Unavailable", "")], Twist::Right).await, Ok(Outcome::Done));
    assert_eq!(publish(&[], Twist::Status("503 Service Unavailable", "")).await, Err(FaultClass::Transient));
    assert_eq!(publish(&[], Twist::Status("404 Not Found", "")).await, Err(FaultClass::Permanent));
    assert_eq!(publish(&[], Twist::Total(5)).await, Err(FaultClass::Corrupt));
    assert_eq!(publish(&[], Twist::IgnoreRange).await, Err(FaultClass::Permanent));
    assert_eq!(publish(&[], Twist::Gzip).await, Err(FaultClass::Permanent));
    assert_eq!(publish(&[], Twist::ContentRange("bytes 0-0/*")).await, Err(FaultClass::Permanent));
}

/// A small file may come whole; a size has to be said all the same.
#[tokio::test]
async fn publishing_believes_no_answer_without_a_size() {
    let package = one_file(1000);
    let publish = async |twist| {
        let server = BadServer::start(&package, &[], twist).await;
        server.transport(options()).publish(package.publish_job(&ctx())).await
    };
    assert_eq!(publish(Twist::IgnoreRange).await.map_err(|f| f.message), Ok(Outcome::Done));
    let fault = publish(Twist::Page).await.expect_err("a page is no file");
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("picture.mxf")));
    assert!(fault.message.contains("does not say how large the file is"), "{fault}");
}

#[tokio::test]
async fn what_another_method_brought_meanwhile_is_not_fetched() {
    let package = one_file(8 * MIB);
    let server = BadServer::start(&package, &[Twist::Status("503 Service Unavailable", "Retry-After: 4")], Twist::Right).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let job = package.fetch_job(package.spans(), &sink, &ctx);
    let mut options = options();
    options.ranged.connections = 1;
    let transport = server.transport(options);
    let running = tokio::spawn(async move { transport.fetch(job).await });
    until("the first request", || !server.asked().is_empty()).await;
    sink.write_at(0, 3 * MIB, &package.read(0, 3 * MIB..7 * MIB)).unwrap();
    sink.commit(0, 3 * MIB..7 * MIB);
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Done);
    assert!(sink.complete());
    assert_eq!(wire(&ctx), 4 * MIB);
}

#[tokio::test]
async fn a_part_outside_the_package_is_refused() {
    let package = one_file(KIB);
    let server = BadServer::start(&package, &[], Twist::Right).await;
    for span in
        [Span { file: 1, offset: 0, len: 1 }, Span { file: 0, offset: 1, len: KIB }, Span { file: 0, offset: u64::MAX, len: 1 }]
    {
        let (sink, ctx) = (FileSink::new(&package.files), ctx());
        let fault = server.transport(options()).fetch(package.fetch_job(vec![span], &sink, &ctx)).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Permanent, "{fault}");
    }
    assert!(server.asked().is_empty());
}
