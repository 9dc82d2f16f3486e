//! What every transport must do, whatever its engine. A test crate implements [`Bench`] and calls
//! `conformance_tests!(make_bench())`: each case becomes a test of its own.

use super::sink::{FileSink, Package, ctx, done, next_run, until, wire};
use bft2::error::FaultClass;
use bft2::model::ids::RelPath;
use bft2::model::span::Span;
use bft2::transport::limit::Limiter;
use bft2::transport::{Outcome, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One method's world: the other side, and transports that reach it.
#[async_trait::async_trait]
pub trait Bench: Send + Sync {
    /// Starts the other side and makes the package available by [`Transport::publish`] of the method; returns when it
    /// can be fetched.
    async fn publish(&self, package: Arc<Package>) -> Box<dyn Published>;
    /// May write bytes outside the spans, because its unit of checking crosses their borders.
    fn overlaps(&self) -> bool {
        false
    }
    /// Bytes that a restart may fetch again although they were on their way to the sink.
    fn resume_slack(&self) -> u64 {
        9 << 20
    }
    /// A stop must be answered within this time.
    fn stop_within(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A package that can be fetched. Dropping it ends the other side.
#[async_trait::async_trait]
pub trait Published: Send + Sync {
    /// A new transport, as after a restart of the process.
    fn fetcher(&self) -> Box<dyn Transport>;
    /// Takes one file away from the other side. `false`: a method that has no such thing.
    async fn lose(&self, path: &RelPath) -> bool;
}

const MIB: u64 = 1 << 20;

fn package(seed: u64) -> Arc<Package> {
    Arc::new(Package::make(
        "CONFORMANCE_FTR",
        seed,
        &[
            ("ASSETMAP.xml", 1_234),
            ("empty.bin", 0),
            ("reel 1/pic+sound#ü%41.mxf", 5 * MIB + 17),
            ("sound.mxf", 3 * MIB),
            ("z", 1),
        ],
    ))
}

async fn fetch_all(published: &dyn Published, package: &Package) -> Arc<FileSink> {
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let outcome = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!(done(&ctx), package.bytes());
    assert!(wire(&ctx) >= package.bytes());
    sink
}

pub async fn whole_files(bench: impl Bench) {
    let package = package(1);
    let published = bench.publish(Arc::clone(&package)).await;
    assert!(fetch_all(&*published, &package).await.complete());
}

pub async fn only_an_empty_file(bench: impl Bench) {
    let package = package(2);
    let published = bench.publish(Arc::clone(&package)).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let spans = vec![Span { file: 1, offset: 0, len: 0 }];
    let outcome = published.fetcher().fetch(package.fetch_job(spans, &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.file_complete(1));
}

pub async fn spans_and_nothing_else(bench: impl Bench) {
    let package = package(3);
    let published = bench.publish(Arc::clone(&package)).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let spans = vec![
        Span { file: 2, offset: MIB + 3, len: 2 * MIB },
        Span { file: 2, offset: 4 * MIB, len: MIB + 17 },
        Span { file: 3, offset: 0, len: 1 },
    ];
    let outcome = published.fetcher().fetch(package.fetch_job(spans.clone(), &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    for span in &spans {
        sink.assert_span(&package, span);
    }
    if !bench.overlaps() {
        assert_eq!(sink.written(2).to_text(), format!("{}-{},{}-{}", MIB + 3, 3 * MIB + 3, 4 * MIB, 5 * MIB + 17));
        assert_eq!(sink.written(3).to_text(), "0-1");
        for untouched in [0, 1, 4] {
            assert!(sink.written(untouched).is_empty());
        }
    }
}

pub async fn stop_and_resume(bench: impl Bench) {
    let package = Arc::new(Package::make("RESUME_FTR", 4, &[("a.mxf", 24 * MIB + 5), ("b.mxf", 8 * MIB)]));
    let published = bench.publish(Arc::clone(&package)).await;
    let sink = FileSink::new(&package.files);

    let mut first = ctx();
    first.limiter = Limiter::new(Some(6 * MIB));
    let run = published.fetcher();
    let job = package.fetch_job(package.spans(), &sink, &first);
    let running = tokio::spawn(async move { run.fetch(job).await });
    until("a third is there", || sink.committed_bytes() >= package.bytes() / 3).await;
    let asked = Instant::now();
    first.stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    assert!(asked.elapsed() < bench.stop_within(), "the stop took {:?}", asked.elapsed());

    let before = sink.committed_bytes();
    assert!(before < package.bytes());
    assert_eq!(done(&first), before, "what was counted is what is committed");
    let second = next_run(&first);
    let outcome = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &second)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
    let left = package.bytes() - before;
    assert!(wire(&second) <= left + left / 10 + bench.resume_slack(), "{} bytes for the last {left}", wire(&second));
}

pub async fn nothing_missing_asks_for_nothing(bench: impl Bench) {
    let package = package(5);
    let published = bench.publish(Arc::clone(&package)).await;
    let sink = fetch_all(&*published, &package).await;
    let again = ctx();
    let outcome = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &again)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!(wire(&again), 0);
}

pub async fn a_stop_before_the_start(bench: impl Bench) {
    let package = package(6);
    let published = bench.publish(Arc::clone(&package)).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    ctx.stop.cancel();
    let outcome = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
}

pub async fn a_missing_file_is_named_and_the_others_come(bench: impl Bench) {
    let package = package(7);
    let published = bench.publish(Arc::clone(&package)).await;
    let lost = &package.files[2].path;
    if !published.lose(lost).await {
        return;
    }
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let fault = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &ctx)).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Permanent, "{fault}");
    assert_eq!(fault.file.as_deref(), Some(lost.as_str()));
    for other in [0, 1, 3, 4] {
        assert!(sink.file_complete(other), "{} did not come", package.files[other as usize].path);
    }
}

pub async fn a_full_disk_ends_the_run(bench: impl Bench) {
    let package = package(8);
    let published = bench.publish(Arc::clone(&package)).await;
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    sink.limit_room(2 * MIB);
    let fault = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &ctx)).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Local, "{fault}");
}

pub async fn the_limiter_holds_the_rate(bench: impl Bench) {
    let package = Arc::new(Package::make("LIMIT_FTR", 9, &[("a.mxf", 8 * MIB)]));
    let published = bench.publish(Arc::clone(&package)).await;
    let (sink, mut ctx) = (FileSink::new(&package.files), ctx());
    ctx.limiter = Limiter::new(Some(4 * MIB));
    let began = Instant::now();
    let outcome = published.fetcher().fetch(package.fetch_job(package.spans(), &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
    // Two seconds at the cap; limiters hand out bursts of up to a second.
    assert!(began.elapsed() > Duration::from_millis(900), "{:?} is faster than the cap", began.elapsed());
}

/// Makes one test per case. `$bench` is evaluated in each of them.
#[macro_export]
macro_rules! conformance_tests {
    ($bench:expr) => {
        $crate::conformance_tests!($bench; whole_files only_an_empty_file spans_and_nothing_else stop_and_resume
            nothing_missing_asks_for_nothing a_stop_before_the_start a_missing_file_is_named_and_the_others_come
            a_full_disk_ends_the_run the_limiter_holds_the_rate);
    };
    ($bench:expr; $($case:ident)*) => {
        mod conformance {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::support::conformance::$case($bench).await;
            })*
        }
    };
}
