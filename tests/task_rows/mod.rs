//! Rows of tasks for tests: what an accepted request writes.
#![allow(dead_code)]

use bft2::model::ids::{BaseSubdir, PackageName, RelPath, Sha1, TaskName};
use bft2::model::span::{Method, Span};
use bft2::model::task::{Policy, Role};
use bft2::store::tasks::{NewFile, NewSpan, NewTask};
use sha1::Digest as _;
use std::path::Path;

pub fn sha1(bytes: &[u8]) -> Sha1 {
    Sha1(sha1::Sha1::digest(bytes).into())
}

pub fn task_name(name: &str) -> TaskName {
    TaskName::parse(name).unwrap()
}

pub fn new_file(path: &str, bytes: &[u8]) -> NewFile {
    NewFile { path: RelPath::parse(path).unwrap(), size: bytes.len() as u64, sha1: sha1(bytes), local_source: None }
}

/// A reception of these files, all of them over the CDN, into `store_path`.
pub fn reception(name: &str, store_path: &Path, files: Vec<NewFile>) -> NewTask {
    let whole = |(n, f): (usize, &NewFile)| NewSpan {
        span: Span { file: n as u32, offset: 0, len: f.size },
        method: if f.local_source.is_some() { None } else { Some(Method::Cdn) },
        planned: Method::Cdn,
    };
    let total = files.iter().map(|f| f.size).sum();
    NewTask {
        role: Role::Recv,
        name: task_name(name),
        package: PackageName::parse("Film_FTR").unwrap(),
        basesubdir: BaseSubdir::parse("cfec-001").unwrap(),
        policy: Policy::Fulltime,
        ratio: "0:0:1".into(),
        bytes_total: total,
        bytes_local: files.iter().filter(|f| f.local_source.is_some()).map(|f| f.size).sum(),
        document: "{}".into(),
        torrent: None,
        store_path: store_path.to_owned(),
        spans: files.iter().enumerate().map(whole).collect(),
        files,
        legs: vec![(Method::Cdn, total)],
        schedules: Vec::new(),
        seed_until: None,
    }
}
