//! The embedded origin over a real socket: what a CDN's edge asks, and what it must never get.

use bft2::web::origin::origin;
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::{Route, Server};
use reqwest::{Client, Method, Response, header};
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Site {
    dir: TempDir,
    base: String,
    client: Client,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Site {
    /// `dir/store` is served; `dir` itself is what must stay out of reach.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir_all(store.join("cfec-001/dcps/film/sub")).unwrap();
        fs::write(store.join("cfec-001/dcps/film/a b#1.mxf"), b"0123456789").unwrap();
        fs::write(store.join("cfec-001/dcps/film/empty"), b"").unwrap();
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let addr = acceptor.local_addr().remove(0).as_socket_addr().copied().unwrap();
        let app = Route::new().nest("/dcp", origin(store));
        let server = tokio::spawn(Server::new_with_acceptor(acceptor).run(app));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { dir, base: format!("http://{addr}/dcp/cfec-001/dcps/film/"), client, server }
    }

    fn film(&self) -> std::path::PathBuf {
        self.dir.path().join("store/cfec-001/dcps/film")
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str, headers: &[(header::HeaderName, &str)]) -> (u16, header::HeaderMap, String) {
        let answer = self.ask(Method::GET, path, headers).await;
        (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
    }

    /// The whole answer to a GET whose path is sent as it is.
    async fn raw(&self, path: &str) -> String {
        let (addr, prefix) = self.base.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("GET /{prefix}{path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

const FILE: &str = "a%20b%231.mxf";

#[tokio::test]
async fn whole_files_and_heads() {
    let site = Site::start().await;
    let (status, headers, body) = site.get(FILE, &[]).await;
    assert_eq!((status, body.as_str()), (200, "0123456789"));
    assert_eq!(headers[header::ACCEPT_RANGES], "bytes");
    assert_eq!(headers[header::CONTENT_LENGTH], "10");
    let head = site.ask(Method::HEAD, FILE, &[]).await;
    assert_eq!(head.status(), 200);
    for name in [header::ETAG, header::LAST_MODIFIED, header::CONTENT_LENGTH] {
        assert_eq!(head.headers()[&name], headers[&name]);
    }
    let (status, headers, body) = site.get("empty", &[]).await;
    assert_eq!((status, &headers[header::CONTENT_LENGTH], body.as_str()), (200, &"0".parse().unwrap(), ""));
}

#[tokio::test]
async fn ranges() {
    let site = Site::start().await;
    for (range, claim, body) in
        [("bytes=0-0", "bytes 0-0/10", "0"), ("bytes=8-", "bytes 8-9/10", "89"), ("bytes=-3", "bytes 7-9/10", "789")]
    {
        let (status, headers, got) = site.get(FILE, &[(header::RANGE, range)]).await;
        assert_eq!((status, got.as_str()), (206, body), "{range}");
        assert_eq!(headers[header::CONTENT_RANGE], claim);
    }
    let (status, headers, _) = site.get(FILE, &[(header::RANGE, "bytes=10-")]).await;
    assert_eq!((status, &headers[header::CONTENT_RANGE]), (416, &"bytes */10".parse().unwrap()));
    let (status, _, body) = site.get(FILE, &[(header::RANGE, "bytes=0-0,3-4")]).await;
    assert_eq!((status, body.as_str()), (200, "0123456789"));
}

#[tokio::test]
async fn a_large_file_comes_in_many_reads() {
    let site = Site::start().await;
    let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    fs::write(site.film().join("large"), &bytes).unwrap();
    let answer = site.ask(Method::GET, "large", &[(header::RANGE, "bytes=5-2999999")]).await;
    assert!(answer.bytes().await.unwrap() == bytes[5..3_000_000]);
}

#[tokio::test]
async fn conditions() {
    let site = Site::start().await;
    let (_, headers, _) = site.get(FILE, &[]).await;
    let etag = headers[header::ETAG].to_str().unwrap();
    let date = headers[header::LAST_MODIFIED].to_str().unwrap();
    assert_eq!(site.get(FILE, &[(header::IF_NONE_MATCH, etag)]).await.0, 304);
    assert_eq!(site.get(FILE, &[(header::IF_NONE_MATCH, "\"other\"")]).await.0, 200);
    assert_eq!(site.get(FILE, &[(header::IF_MODIFIED_SINCE, date)]).await.0, 304);
    for (condition, expected) in [(etag, 206), (date, 206), ("\"other\"", 200), ("Thu, 01 Jan 1970 00:00:01 GMT", 200)] {
        let status = site.get(FILE, &[(header::RANGE, "bytes=0-1"), (header::IF_RANGE, condition)]).await.0;
        assert_eq!(status, expected, "If-Range: {condition}");
    }
    let (path, before) =
        (site.film().join("a b#1.mxf"), fs::metadata(site.film().join("a b#1.mxf")).unwrap().modified().unwrap());
    // When the clock of the file system has moved on.
    while fs::metadata(&path).unwrap().modified().unwrap() == before {
        fs::write(&path, b"9876543210").unwrap();
    }
    assert_ne!(site.get(FILE, &[]).await.1[header::ETAG], etag, "other content, other ETag");
}

#[tokio::test]
async fn what_is_not_a_package_does_not_exist() {
    let site = Site::start().await;
    fs::write(site.dir.path().join("secret"), b"secret").unwrap();
    for name in [".hidden", "a.part", "x.task.json"] {
        fs::write(site.film().join(name), b"secret").unwrap();
    }
    symlink(site.dir.path().join("secret"), site.film().join("absolute")).unwrap();
    symlink("../../../../secret", site.film().join("relative")).unwrap();
    symlink(site.dir.path(), site.film().join("outside")).unwrap();
    symlink("/proc/self/root", site.film().join("magic")).unwrap();
    let status = std::process::Command::new("mkfifo").arg(site.film().join("fifo")).status().unwrap();
    assert!(status.success());
    for path in [
        "nothing",
        "",
        "sub",
        "sub/",
        ".hidden",
        "a.part",
        "x.task.json",
        "absolute",
        "relative",
        "outside/secret",
        "magic/etc/passwd",
        "fifo",
        "..%2f..%2f..%2f..%2fsecret",
        "sub%00",
        "%ff",
        "empty/x",
        "a\\b",
    ] {
        let (status, _, body) = site.get(path, &[]).await;
        // 400: what is not UTF-8 does not get as far as the origin.
        assert!(matches!(status, 400 | 404) && !body.contains("secret"), "{path}: {status}");
    }
    // Clients normalise `..` away, so these go over a plain socket.
    for path in ["../../../../secret", "%2e%2e/film/empty", "./empty", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret", "//empty"] {
        let answer = site.raw(path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    // A symlink that stays inside is a library's own business.
    symlink("empty", site.film().join("inside")).unwrap();
    assert_eq!(site.get("inside", &[]).await.0, 200);
}

#[tokio::test]
async fn nothing_can_be_written() {
    let site = Site::start().await;
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
        assert_eq!(site.ask(method, FILE, &[]).await.status(), 405);
    }
    assert_eq!(fs::read(site.film().join("a b#1.mxf")).unwrap(), b"0123456789");
}

#[tokio::test]
async fn a_file_that_shrinks_cuts_the_answer() {
    let site = Site::start().await;
    let path = site.film().join("large");
    let size = 64 << 20;
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    let mut answer = site.ask(Method::GET, "large", &[]).await;
    answer.chunk().await.unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
    let ended = loop {
        match answer.chunk().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "the client must see that the answer is incomplete");
}
