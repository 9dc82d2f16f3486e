//! Buckets, objects and unfinished uploads: descriptions in memory, bytes in files of a temporary directory.

use futures::{Stream, StreamExt as _};
use md5::{Digest as _, Md5};
use poem::http::HeaderMap;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

/// Bytes that were received.
#[derive(Clone, Debug)]
pub struct Blob {
    pub path: PathBuf,
    pub size: u64,
    pub md5: [u8; 16],
}

#[derive(Clone, Debug)]
pub struct Object {
    pub blob: Blob,
    /// Without quotation marks.
    pub etag: String,
    /// `x-obs-meta-*` and `content-type` as they came.
    pub headers: BTreeMap<String, String>,
    pub modified: chrono::DateTime<chrono::Utc>,
}

#[derive(Clone, Debug)]
pub struct Upload {
    pub bucket: String,
    pub key: String,
    pub headers: BTreeMap<String, String>,
    pub parts: BTreeMap<u64, Blob>,
    pub initiated: chrono::DateTime<chrono::Utc>,
}

#[derive(Default)]
pub struct Tables {
    pub objects: BTreeMap<(String, String), Object>,
    pub uploads: BTreeMap<String, Upload>,
}

pub struct State {
    dir: TempDir,
    counter: AtomicU64,
    pub tables: Mutex<Tables>,
}

impl State {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), counter: AtomicU64::new(0), tables: Mutex::default() }
    }

    fn new_path(&self) -> PathBuf {
        self.dir.path().join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Streams a request's body to disk.
    pub async fn receive<S, B>(&self, mut body: S) -> io::Result<Blob>
    where
        S: Stream<Item = io::Result<B>> + Unpin,
        B: AsRef<[u8]>,
    {
        let path = self.new_path();
        let mut file = tokio::fs::File::create(&path).await?;
        let (mut md5, mut size) = (Md5::new(), 0);
        while let Some(piece) = body.next().await {
            let piece = piece?;
            md5.update(piece.as_ref());
            size += piece.as_ref().len() as u64;
            file.write_all(piece.as_ref()).await?;
        }
        file.flush().await?;
        Ok(Blob { path, size, md5: md5.finalize().into() })
    }

    /// Joins blobs into a new one.
    pub fn join(&self, parts: &[Blob]) -> io::Result<Blob> {
        let path = self.new_path();
        let mut out = File::create(&path)?;
        let (mut md5, mut size) = (Md5::new(), 0);
        let mut block = vec![0; 1 << 20];
        for part in parts {
            let mut from = File::open(&part.path)?;
            loop {
                let n = from.read(&mut block)?;
                if n == 0 {
                    break;
                }
                md5.update(&block[..n]);
                out.write_all(&block[..n])?;
                size += n as u64;
            }
        }
        Ok(Blob { path, size, md5: md5.finalize().into() })
    }

    pub fn read(&self, blob: &Blob, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = File::open(&blob.path)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut out = vec![0; (range.end - range.start) as usize];
        file.read_exact(&mut out)?;
        Ok(out)
    }

    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8], headers: BTreeMap<String, String>) {
        let path = self.new_path();
        fs::write(&path, bytes).unwrap();
        let md5: [u8; 16] = Md5::digest(bytes).into();
        let blob = Blob { path, size: bytes.len() as u64, md5 };
        self.insert(bucket, key, blob, hex::encode(md5), headers);
    }

    pub fn insert(&self, bucket: &str, key: &str, blob: Blob, etag: String, headers: BTreeMap<String, String>) {
        let object = Object { blob, etag, headers, modified: chrono::Utc::now() };
        self.tables.lock().unwrap().objects.insert((bucket.into(), key.into()), object);
    }
}

/// The headers that belong to the object.
pub fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .filter(|(n, _)| n.as_str().starts_with("x-obs-meta-") || n.as_str() == "content-type")
        .map(|(n, v)| (n.to_string(), v.to_str().unwrap_or_default().to_owned()))
        .collect()
}
