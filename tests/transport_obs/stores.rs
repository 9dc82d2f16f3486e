//! The other two kinds of store: any S3 server (here s3s-fs, which checks AWS signatures) and a directory.

use super::*;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::path::PathBuf;
use support::conformance::{Bench, Published};
use tempfile::TempDir;

/// Object storage that can be reached by an endpoint text, and where its objects lie on disk.
struct Place {
    dir: TempDir,
    endpoint: String,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Place {
    fn directory() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = format!("file://{}", dir.path().display());
        Self { dir, endpoint, server: None }
    }

    async fn s3() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(AK, SK));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("s3+http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await
                });
            }
        });
        Self { dir, endpoint, server: Some(server) }
    }

    fn transport(&self) -> ObsTransport {
        self.transport_with(SK)
    }

    fn transport_with(&self, sk: &str) -> ObsTransport {
        let location = ObsLocation::parse(URL, &self.endpoint, AK, sk, EndpointFrom::OwnConfig).unwrap();
        // S3 servers take no parts below five MiB, the last one excepted.
        ObsTransport::new(location, ObsOptions { part_size: Some(5 * MIB), small: 5 * MIB, ..options() }).unwrap()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join(BUCKET).join("dcps/film").join(key)
    }

    async fn publish(&self, package: &Package) -> LegContext {
        let ctx = ctx();
        assert_eq!(self.transport().publish(package.publish_job(&ctx)).await.unwrap(), Outcome::Done);
        assert!(ctx.counters.is_ready());
        ctx
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

#[async_trait::async_trait]
impl Published for Place {
    fn fetcher(&self) -> Box<dyn bft2::transport::Transport> {
        Box::new(self.transport())
    }
    async fn lose(&self, path: &RelPath) -> bool {
        std::fs::remove_file(self.path(path.as_str())).is_ok()
    }
}

struct S3;

#[async_trait::async_trait]
impl Bench for S3 {
    async fn publish(&self, package: Arc<Package>) -> Box<dyn Published> {
        let place = Place::s3().await;
        place.publish(&package).await;
        Box::new(place)
    }
}

struct Directory;

#[async_trait::async_trait]
impl Bench for Directory {
    async fn publish(&self, package: Arc<Package>) -> Box<dyn Published> {
        let place = Place::directory();
        place.publish(&package).await;
        Box::new(place)
    }
}

mod s3 {
    use super::*;
    conformance_tests!(S3);
}

mod directory {
    use super::*;
    conformance_tests!(Directory);
}

#[tokio::test]
async fn an_s3_store_is_not_sent_the_same_twice() {
    let (place, package) = (Place::s3().await, film(20));
    let first = place.publish(&package).await;
    assert_eq!(wire(&first), package.bytes());
    assert_eq!(wire(&place.publish(&package).await), 0);
    let spans = package.spans();
    assert_eq!(place.transport().uploaded_bytes(&package.files, &spans).await.unwrap(), package.bytes());
    place.transport().delete_all(&package.files, &spans, &*first.checkpoints).await.unwrap();
    assert_eq!(place.transport().uploaded_bytes(&package.files, &spans).await.unwrap(), 0);
}

#[tokio::test]
async fn an_s3_store_refuses_a_wrong_secret() {
    let (place, package) = (Place::s3().await, film(21));
    let fault = place.transport_with("EXAMPLE-WRONG-SK").publish(package.publish_job(&ctx())).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Permanent, "{fault}");
    assert!(!format!("{fault:?}").contains("EXAMPLE-WRONG-SK"));
}

#[tokio::test]
async fn a_directory_holds_whole_verified_objects() {
    let (place, package) = (Place::directory(), film(22));
    let first = place.publish(&package).await;
    assert_eq!(done(&first), package.bytes());
    for (i, file) in package.files.iter().enumerate() {
        assert!(std::fs::read(place.path(file.path.as_str())).unwrap() == package.read(i as u32, 0..file.size));
    }
    assert_eq!(std::fs::read_dir(place.dir.path().join(".incoming")).unwrap().count(), 0);

    // What is there is not copied again; what is there and wrong is.
    assert_eq!(wire(&place.publish(&package).await), 0);
    let mut bytes = package.read(2, 0..package.files[2].size);
    bytes[77] ^= 1;
    std::fs::write(place.path("pic.mxf"), &bytes).unwrap();
    assert_eq!(wire(&place.publish(&package).await), package.files[2].size);
    assert_eq!(place.transport().uploaded_bytes(&package.files, &package.spans()).await.unwrap(), package.bytes());
}

/// A copy that is under way has no name, so that a kill leaves nothing, also when the object is never sent again.
#[tokio::test]
async fn a_copy_into_a_directory_that_is_killed_leaves_nothing() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let (place, package, mut leg) = (Place::directory(), film(30), ctx());
    if std::fs::File::options().write(true).custom_flags(libc::O_TMPFILE).open(place.dir.path()).is_err() {
        println!("skipped: the file system has no files without a name");
        return;
    }
    leg.limiter = bft2::transport::limit::Limiter::new(Some(MIB));
    let (run, job) = (place.transport(), package.publish_job(&leg));
    let running = tokio::spawn(async move { run.publish(job).await });
    until("a piece of the large file is there", || done(&leg) > MIB).await;
    assert_eq!(std::fs::read_dir(place.dir.path().join(".incoming")).unwrap().count(), 0);
    leg.stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    assert_eq!(std::fs::read_dir(place.dir.path().join(".incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_directory_takes_parts_of_files() {
    let (place, package, ctx) = (Place::directory(), film(23), ctx());
    let span = Span { file: 2, offset: MIB + 1, len: 3 * MIB };
    for expected in [span.len, 0] {
        let mut job = package.publish_job(&support::sink::ctx());
        job.spans = vec![span];
        let counters = Arc::clone(&job.ctx.counters);
        assert_eq!(place.transport().publish(job).await.unwrap(), Outcome::Done);
        assert_eq!(counters.wire.load(std::sync::atomic::Ordering::Relaxed), expected);
    }
    let sink = FileSink::new(&package.files);
    let outcome = place.transport().fetch(package.fetch_job(vec![span], &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    sink.assert_span(&package, &span);
}

#[tokio::test]
async fn a_directory_refuses_a_package_that_is_not_the_tasks() {
    for file in ["ASSETMAP.xml", "pic.mxf"] {
        let (place, package) = (Place::directory(), film(24));
        let path = RelPath::parse(file).unwrap().under(&package.root());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let fault = place.transport().publish(package.publish_job(&ctx())).await.unwrap_err();
        assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some(file)), "{fault}");
        assert!(!place.path(file).exists());
    }
}

#[tokio::test]
async fn a_directory_writes_through_no_symlink() {
    let (place, package, elsewhere) = (Place::directory(), film(25), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(elsewhere.path(), place.dir.path().join(BUCKET)).unwrap();
    let fault = place.transport().publish(package.publish_job(&ctx())).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Local, "{fault}");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_object_of_a_directory_that_is_replaced_is_never_mixed() {
    let (place, package) = (Place::directory(), film(26));
    place.publish(&package).await;
    let (sink, mut leg) = (FileSink::new(&package.files), ctx());
    leg.limiter = bft2::transport::limit::Limiter::new(Some(MIB));
    let (run, job, stop) = (place.transport(), package.fetch_job(package.spans(), &sink, &leg), leg.stop.clone());
    let running = tokio::spawn(async move { run.fetch(job).await });
    until("a piece is there", || sink.committed(2).total() > 0).await;
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    std::fs::write(place.path("pic.mxf"), vec![7; package.files[2].size as usize]).unwrap();
    let fault = place.transport().fetch(package.fetch_job(package.spans(), &sink, &next_run(&leg))).await.unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Corrupt, Some("pic.mxf")), "{fault}");
}

#[tokio::test]
async fn a_probe_tells_whether_the_store_takes_the_keys() {
    let place = Place::s3().await;
    place.transport().probe().await.expect("it answers and takes them");
    let fault = place.transport_with("another").probe().await.expect_err("a wrong key");
    assert!(!fault.message.is_empty() && !fault.message.contains("another"), "{fault}");
    let place = Place::directory();
    place.transport().probe().await.expect("a directory");
    std::fs::remove_dir_all(place.dir.path()).expect("removes");
    assert!(place.transport().probe().await.is_err(), "it is gone");
}
