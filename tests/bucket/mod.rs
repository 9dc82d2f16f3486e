//! A bucket that speaks S3 and checks signatures.

use super::world::SUBDIR;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub const AK: &str = "EXAMPLE-AK";
pub const SK: &str = "EXAMPLE-SK";

/// What a node's configuration needs to use a bucket at this address, or a line to one.
pub fn keys(addr: SocketAddr) -> Value {
    json!({"obsendpoint": format!("s3+http://{addr}"), "obsak": AK, "obssk": SK})
}

pub struct Bucket {
    pub addr: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Bucket {
    /// Objects lie below `dir`.
    pub async fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join(SUBDIR)).expect("bucket");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir).expect("store"));
        service.set_auth(SimpleAuth::from_single(AK, SK));
        // Tests set clocks.
        let mut config = S3Config::default();
        config.presigned_url_max_skew_time_secs = u32::MAX;
        service.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("address");
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await
                });
            }
        });
        Self { addr, server }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.server.abort();
    }
}
