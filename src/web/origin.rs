//! The embedded origin: packages below a store, served read-only to the CDN and to receivers (`/dcp/...`).
//!
//! It answers what a CDN's edge asks an origin: GET and HEAD, one byte range, validators and conditional requests. A
//! ready-made file server was rejected because the ones at hand read in 4-8 KiB steps (a thread hop each) and follow
//! symlinks anywhere. Here a read is half a MiB, and the kernel itself keeps the path below the store
//! (`openat2` with `RESOLVE_BENEATH`), so that no check can be raced.
//!
//! Directories are not listed. Names that are not a package's (dot files, unfinished `.part` files, task files, which
//! hold keys) do not exist for clients.

use crate::model::ids::RelPath;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::Stream;
use percent_encoding::percent_decode_str;
use poem::http::{HeaderMap, Method, StatusCode, header};
use poem::web::headers::{ETag, HeaderMapExt as _, IfModifiedSince, IfNoneMatch, IfRange, LastModified};
use poem::{Body, Endpoint, Request, Response};
use rustix::fs::{Advice, FileType, Mode, OFlags, ResolveFlags};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bytes per read. Memory per connection stays near two of these.
const CHUNK: u64 = 512 << 10;

/// Reads at a time: fewer than there are threads for file work.
const PLACES: usize = 16;
/// So long a place is waited for, and then a read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves the files below `root`, to be nested under `/dcp`.
pub fn origin(root: PathBuf) -> impl Endpoint {
    Origin { root: root.into(), places: Places(Arc::new(Semaphore::new(PLACES))) }
}

struct Origin {
    root: Arc<Path>,
    places: Places,
}

/// What reads the library: it may lie on a server that does not answer, and must not take all threads for file work.
#[derive(Clone)]
struct Places(Arc<Semaphore>);

impl Places {
    /// Reads on a thread for file work. One that hangs keeps its place.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "the library does not answer");
        let Ok(Ok(place)) = timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await else { return Err(hangs()) };
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        timeout(PATIENCE, reading).await.map_err(|_| hangs())?.map_err(io::Error::other)?
    }
}

impl Endpoint for Origin {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            return Ok(status(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, "GET, HEAD").finish());
        }
        let Some(path) = public_path(request.uri().path()) else { return Ok(status(StatusCode::NOT_FOUND).finish()) };
        let root = Arc::clone(&self.root);
        let opened = self.places.read(move || Served::open(&root, &path)).await;
        Ok(match opened {
            Ok(file) => file.answer(request.headers(), head, &self.places),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                tracing::warn!(path = request.uri().path(), error = %e, "origin: cannot open a file");
                status(StatusCode::SERVICE_UNAVAILABLE).header(header::RETRY_AFTER, 60).finish()
            }
            Err(e) if is_absent(&e) => status(StatusCode::NOT_FOUND).finish(),
            Err(e) => {
                tracing::warn!(path = request.uri().path(), error = %e, "origin: cannot open a file");
                status(StatusCode::INTERNAL_SERVER_ERROR).finish()
            }
        })
    }
}

fn status(code: StatusCode) -> poem::ResponseBuilder {
    Response::builder().status(code)
}

/// No such file, a directory in its place, or a symlink that leads out: all the same to a client.
fn is_absent(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent =
        [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::XDEV, Errno::LOOP, Errno::NAMETOOLONG, Errno::NXIO, Errno::ACCESS];
    Errno::from_io_error(e).is_some_and(|e| absent.contains(&e))
}

/// The package path a URL path names, if clients may see it.
fn public_path(url_path: &str) -> Option<RelPath> {
    let decoded = percent_decode_str(url_path.trim_start_matches('/')).decode_utf8().ok()?;
    let path = RelPath::parse(&decoded).ok()?;
    let hidden = path.parts().any(|p| p.starts_with('.') || p.ends_with(".part") || p.ends_with(".task.json"));
    (!hidden).then_some(path)
}

/// An open file and what identifies its content.
struct Served {
    fd: OwnedFd,
    size: u64,
    etag: String,
    modified: SystemTime,
}

impl Served {
    /// Blocking. Never leaves `root`, whatever symlinks lie below it.
    fn open(root: &Path, path: &RelPath) -> io::Result<Self> {
        let below = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // NONBLOCK: opening a fifo must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let fd = rustix::fs::openat2(&below, path.as_str(), flags, Mode::empty(), resolve)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(rustix::io::Errno::ISDIR.into());
        }
        let (size, seconds, nanos) = (stat.st_size as u64, u64::try_from(stat.st_mtime).unwrap_or(0), stat.st_mtime_nsec);
        Ok(Self {
            fd,
            size,
            etag: format!("\"{size:x}-{seconds:x}.{nanos:x}\""),
            // Whole seconds: HTTP dates have no more.
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }

    fn answer(self, asked: &HeaderMap, head: bool, places: &Places) -> Response {
        let etag = self.etag.parse::<ETag>().ok();
        let modified = LastModified::from(self.modified);
        let base = |code| {
            let date = DateTime::<Utc>::from(self.modified).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            status(code)
                .header(header::ACCEPT_RANGES, "bytes")
                .header(header::ETAG, &self.etag)
                .header(header::LAST_MODIFIED, date)
                .header(header::CONTENT_TYPE, "application/octet-stream")
        };
        let unchanged = match asked.typed_get::<IfNoneMatch>() {
            Some(condition) => etag.as_ref().is_some_and(|e| !condition.precondition_passes(e)),
            None => asked.typed_get::<IfModifiedSince>().is_some_and(|c| !c.is_modified(self.modified)),
        };
        if unchanged {
            return base(StatusCode::NOT_MODIFIED).finish();
        }
        let stale = asked.typed_get::<IfRange>().is_some_and(|c| c.is_modified(etag.as_ref(), Some(&modified)));
        let range = asked.get(header::RANGE).filter(|_| !stale).and_then(|v| v.to_str().ok());
        let size = self.size;
        let (builder, part) = match range.map_or(Wanted::Whole, |text| wanted(text, size)) {
            Wanted::Whole => (base(StatusCode::OK), 0..size),
            Wanted::Part(part) => {
                let claim = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                (base(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, claim), part)
            }
            Wanted::Nothing => {
                return base(StatusCode::RANGE_NOT_SATISFIABLE).header(header::CONTENT_RANGE, format!("bytes */{size}")).finish();
            }
        };
        let builder = builder.header(header::CONTENT_LENGTH, part.end - part.start);
        if head || part.is_empty() {
            builder.finish()
        } else {
            builder.body(Body::from_bytes_stream(read(self.fd, part, places.clone())))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    /// Nothing of the file is within the range.
    Nothing,
}

/// Reads a Range header (RFC 9110 section 14). What is not one well-formed byte range is ignored, as the RFC allows;
/// several ranges are answered with the whole file, since no CDN in use asks for them.
fn wanted(text: &str, size: u64) -> Wanted {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else { return Wanted::Whole };
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u64>().ok()).flatten();
    let part = match (first, last, number(first), number(last)) {
        ("", _, _, Some(suffix)) => size.saturating_sub(suffix)..size,
        (_, "", Some(first), _) => first..size,
        (_, _, Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        _ => return Wanted::Whole,
    };
    if part.start < part.end { Wanted::Part(part) } else { Wanted::Nothing }
}

/// Reads a range in large steps, each on a blocking thread.
fn read(fd: OwnedFd, range: Range<u64>, places: Places) -> impl Stream<Item = io::Result<Bytes>> {
    let fd = Arc::new(fd);
    _ = rustix::fs::fadvise(&*fd, range.start, NonZeroU64::new(range.end - range.start), Advice::Sequential);
    futures::stream::try_unfold(range.start, move |at| {
        let (fd, end, places) = (Arc::clone(&fd), range.end, places.clone());
        async move {
            if at >= end {
                return Ok(None);
            }
            let len = (end - at).min(CHUNK) as usize;
            let reading = places.read(move || {
                let mut chunk = Vec::with_capacity(len);
                rustix::io::retry_on_intr(|| rustix::io::pread(&*fd, rustix::buffer::spare_capacity(&mut chunk), at))?;
                chunk.truncate(len);
                io::Result::Ok(Bytes::from(chunk))
            });
            let chunk = reading.await?;
            if chunk.is_empty() {
                // The connection is cut, so that the client sees that the answer is incomplete.
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was served"));
            }
            let next = at + chunk.len() as u64;
            Ok(Some((chunk, next)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_the_rfc_reads_them() {
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-4", Wanted::Part(2..5)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=9-99999999999999999", Wanted::Part(9..10)),
            ("bytes=0-18446744073709551615", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Whole),
        ] {
            assert_eq!(wanted(text, 10), expected, "{text}");
        }
        assert_eq!(wanted("bytes=0-0", 0), Wanted::Nothing);
    }

    #[test]
    fn hidden_names_do_not_exist() {
        assert_eq!(public_path("/a/b%20c.mxf").unwrap().as_str(), "a/b c.mxf");
        for hidden in
            ["/", "/.ssh/id", "/a/.b", "/a.part", "/a.part/b", "/x.task.json", "/a/..%2fb", "/%2e%2e/a", "/a%00", "/a//b", "/%ff"]
        {
            assert!(public_path(hidden).is_none(), "{hidden}");
        }
    }
}
