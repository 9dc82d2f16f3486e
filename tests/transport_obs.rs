//! Object storage against an emulator that verifies signatures and breaks on demand, against an S3 server, and against a
//! directory.

#[path = "transport_obs/stores.rs"]
mod stores;
mod support;

use bft2::error::FaultClass;
use bft2::model::ids::RelPath;
use bft2::model::span::Span;
use bft2::transport::obs::{EndpointFrom, ObsLocation, ObsOptions, ObsTransport};
use bft2::transport::ranged::RangedOptions;
use bft2::transport::retry::Policy;
use bft2::transport::{LegContext, Outcome, Transport as _};
use std::sync::Arc;
use std::time::Duration;
use support::obs_emulator::faults::ObsFault;
use support::obs_emulator::{AK, ENDPOINT, ObsEmulator, Op, SK};
use support::sink::{FileSink, Package, ctx, done, next_run, until, wire};

const MIB: u64 = 1 << 20;
const URL: &str = "obs://cfec-001/dcps/film";
const BUCKET: &str = "cfec-001";

/// Quick retries, parts of one MiB.
fn options() -> ObsOptions {
    ObsOptions {
        part_size: Some(MIB),
        small: MIB,
        retry: Policy { tries: 5, first_wait: Duration::from_millis(5), longest_wait: Duration::from_millis(50) },
        ranged: RangedOptions {
            segment: MIB,
            // A test machine may stand still for a while.
            period: Duration::from_secs(60),
            retry: Policy { tries: 5, first_wait: Duration::from_millis(5), longest_wait: Duration::from_millis(50) },
            ..RangedOptions::default()
        },
        ..ObsOptions::default()
    }
}

fn transport_with(emulator: &ObsEmulator, sk: &str, options: ObsOptions) -> ObsTransport {
    let location = ObsLocation::parse(URL, ENDPOINT, AK, sk, EndpointFrom::Outside).unwrap();
    ObsTransport::new(location, ObsOptions { resolve: Some(emulator.addr), ..options }).unwrap()
}

fn transport(emulator: &ObsEmulator) -> ObsTransport {
    transport_with(emulator, SK, options())
}

fn film(seed: u64) -> Package {
    Package::make("FILM_FTR", seed, &[("ASSETMAP.xml", 1_000), ("empty", 0), ("pic.mxf", 6 * MIB + 11)])
}

async fn publish(emulator: &ObsEmulator, package: &Package, ctx: &LegContext) {
    assert_eq!(transport(emulator).publish(package.publish_job(ctx)).await.unwrap(), Outcome::Done);
}

async fn fetched(emulator: &ObsEmulator, package: &Package) -> Arc<FileSink> {
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let outcome = transport(emulator).fetch(package.fetch_job(package.spans(), &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    sink
}

fn assert_in_bucket(emulator: &ObsEmulator, package: &Package) {
    for (i, file) in package.files.iter().enumerate() {
        let key = format!("dcps/film/{}", file.path);
        let object = emulator.object(BUCKET, &key).unwrap_or_else(|| panic!("{key} is not there"));
        assert_eq!(object.headers.get("x-obs-meta-sha1"), Some(&file.sha1.to_string()));
        assert!(emulator.bytes(BUCKET, &key).unwrap() == package.read(i as u32, 0..file.size), "{key} has other bytes");
    }
    assert_eq!(emulator.unfinished(), 0);
}

#[tokio::test]
async fn a_package_goes_up_and_comes_down() {
    let (emulator, package, ctx) = (ObsEmulator::start().await, film(1), ctx());
    let there = async || transport(&emulator).uploaded_bytes(&package.files, &package.spans()).await.unwrap();
    assert_eq!(there().await, 0);
    publish(&emulator, &package, &ctx).await;
    assert!(ctx.counters.is_ready());
    assert_eq!((done(&ctx), wire(&ctx)), (package.bytes(), package.bytes()));
    assert_in_bucket(&emulator, &package);
    assert_eq!(emulator.count(Op::PutPart), 7);
    assert_eq!(there().await, package.bytes());
    assert!(fetched(&emulator, &package).await.complete());

    // A second run finds everything there.
    let again = next_run(&ctx);
    publish(&emulator, &package, &again).await;
    assert_eq!((done(&again), wire(&again)), (package.bytes(), 0));

    transport(&emulator).delete_all(&package.files, &package.spans(), &*ctx.checkpoints).await.unwrap();
    assert!(emulator.keys(BUCKET).is_empty());
}

/// The bucket is the library itself: objects without our metadata, and none for parts of files.
#[tokio::test]
async fn what_is_in_the_bucket_already_is_only_looked_for() {
    let (emulator, package) = (ObsEmulator::start().await, film(14));
    let looking = || transport_with(&emulator, SK, ObsOptions { upload: false, ..options() });
    let fault = looking().publish(package.publish_job(&ctx())).await.unwrap_err();
    assert!(fault.is_transient() && fault.message.contains("like this") && fault.message.contains("does not upload"), "{fault}");
    for (i, file) in package.files.iter().enumerate() {
        let cut = u64::from(i == 2);
        emulator.put(BUCKET, &format!("dcps/film/{}", file.path), &package.read(i as u32, 0..file.size - cut), &[]);
    }
    let first = ctx();
    let fault = looking().publish(package.publish_job(&first)).await.unwrap_err();
    assert_eq!((fault.file.as_deref(), first.counters.is_ready(), done(&first)), (Some("pic.mxf"), false, 1_000), "{fault}");

    emulator.put(BUCKET, "dcps/film/pic.mxf", &package.read(2, 0..package.files[2].size), &[]);
    let second = ctx();
    let mut job = package.publish_job(&second);
    job.spans = vec![Span { file: 2, offset: MIB, len: 2 * MIB }, Span { file: 2, offset: 4 * MIB, len: 5 }];
    assert_eq!(looking().publish(job).await.unwrap(), Outcome::Done);
    assert_eq!((done(&second), wire(&second), second.counters.is_ready()), (2 * MIB + 5, 0, true));
    assert_eq!((emulator.count(Op::PutPart), emulator.keys(BUCKET).len()), (0, 3));
    let wrong = transport_with(&emulator, "EXAMPLE-WRONG-SK", ObsOptions { upload: false, ..options() });
    assert_eq!(wrong.publish(package.publish_job(&ctx())).await.unwrap_err().class, FaultClass::Permanent);
}

#[tokio::test]
async fn spans_have_objects_of_their_own() {
    let (emulator, package, ctx) = (ObsEmulator::start().await, film(2), ctx());
    let spans = vec![Span { file: 2, offset: MIB, len: 2 * MIB }, Span { file: 2, offset: 4 * MIB, len: 5 }];
    let mut job = package.publish_job(&ctx);
    job.spans = spans.clone();
    assert_eq!(transport(&emulator).publish(job).await.unwrap(), Outcome::Done);
    let keys = [format!("dcps/film/pic.mxf.span-{MIB}-{}", 2 * MIB), format!("dcps/film/pic.mxf.span-{}-5", 4 * MIB)];
    assert_eq!(emulator.keys(BUCKET), keys);
    assert_eq!(transport(&emulator).uploaded_bytes(&package.files, &spans).await.unwrap(), 2 * MIB + 5);

    let sink = FileSink::new(&package.files);
    let outcome = transport(&emulator).fetch(package.fetch_job(spans.clone(), &sink, &ctx)).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    for span in &spans {
        sink.assert_span(&package, span);
    }
}

/// Stops an upload after some parts and gives the context of the run.
async fn half_an_upload(emulator: &ObsEmulator, package: &Package, kill: bool) -> LegContext {
    let first = ctx();
    emulator.faults().after(Op::PutPart, 6, 1000, ObsFault::Slow(Duration::from_secs(600)));
    let (run, job, stop) = (transport(emulator), package.publish_job(&first), first.stop.clone());
    let running = tokio::spawn(async move { run.publish(job).await });
    until("six of thirteen parts are there", || done(&first) >= 6 * MIB).await;
    // Those that are under way are seen before they are forgotten.
    until("three more are under way", || emulator.count(Op::PutPart) >= 9).await;
    if kill {
        running.abort();
        _ = running.await;
    } else {
        stop.cancel();
        assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    }
    emulator.faults().clear();
    emulator.forget_requests();
    first
}

fn one_file(seed: u64) -> Package {
    Package::make("FILM_FTR", seed, &[("pic.mxf", 12 * MIB + 5)])
}

#[tokio::test]
async fn an_upload_that_was_killed_or_stopped_goes_on() {
    for kill in [true, false] {
        let (emulator, package) = (ObsEmulator::start().await, one_file(3));
        let first = half_an_upload(&emulator, &package, kill).await;
        let second = next_run(&first);
        publish(&emulator, &package, &second).await;
        assert_in_bucket(&emulator, &package);
        assert_eq!(emulator.count(Op::Initiate), 0, "the upload was begun anew");
        assert_eq!(emulator.count(Op::ListParts), 2, "the list of parts has two pages");
        assert_eq!(emulator.count(Op::PutPart), 7, "{:?}", emulator.seen(Op::PutPart));
        assert_eq!(done(&second), package.bytes());
        assert_eq!(wire(&second), 6 * MIB + 5);
    }
}

/// A task that was cancelled leaves no parts in the bucket.
#[tokio::test]
async fn an_upload_is_given_up() {
    let (emulator, package) = (ObsEmulator::start().await, one_file(6));
    let first = half_an_upload(&emulator, &package, true).await;
    assert_eq!(emulator.unfinished(), 1);
    let key = emulator.seen(Op::PutPart).first().cloned();
    let notes = ["upload:dcps/film/pic.mxf".to_owned(), "upload:dcps/film/other.mxf".to_owned()];
    transport(&emulator).give_up(&notes, &*first.checkpoints).await.unwrap();
    assert_eq!(emulator.unfinished(), 0, "{key:?}");
    assert_eq!(first.checkpoints.load(&notes[0]).await.unwrap(), None);
}

/// The store has begun an upload whose id nobody here knows, as its answer was lost.
async fn an_unanswered_upload(emulator: &ObsEmulator, package: &Package) -> LegContext {
    let first = ctx();
    emulator.faults().next(Op::Initiate, 1000, ObsFault::LostReply);
    let (run, job) = (transport(emulator), package.publish_job(&first));
    let fault = run.publish(job).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    assert_eq!(emulator.unfinished(), 1, "a try gives up what the one before it has begun");
    emulator.faults().clear();
    emulator.forget_requests();
    first
}

#[tokio::test]
async fn an_upload_whose_id_is_unknown_is_given_up_and_no_other_one() {
    let (emulator, package) = (ObsEmulator::start().await, one_file(16));
    let note = "upload:dcps/film/pic.mxf".to_owned();
    // Nobody's business of ours: another file, and who began before this sender did.
    emulator.begin_upload(BUCKET, "dcps/film/pic.mxf.old", chrono::TimeDelta::zero());
    emulator.begin_upload(BUCKET, "dcps/film/pic.mxf", chrono::TimeDelta::minutes(16));
    // And another task's of the same package, which has noted it.
    let id = emulator.begin_upload(BUCKET, "dcps/film/pic.mxf", chrono::TimeDelta::zero());
    let noted = serde_json::json!({"upload_id": id, "place": "", "part_size": 1, "size": 1, "mtime_ns": 0, "sha1": "", "checked": "",
        "digested": 0, "midstate": ""});
    let theirs = emulator.unfinished();
    emulator.faults().next(Op::Initiate, 1000, ObsFault::LostReply);
    let first = ctx();
    first.checkpoints.save(&format!("others/{note}"), &noted.to_string()).await.unwrap();
    transport(&emulator).publish(package.publish_job(&first)).await.unwrap_err();
    emulator.faults().clear();
    assert_eq!(emulator.unfinished(), theirs + 1);
    transport(&emulator).give_up(std::slice::from_ref(&note), &*first.checkpoints).await.unwrap();
    assert_eq!(emulator.unfinished(), theirs);
    assert_eq!(first.checkpoints.load(&note).await.unwrap(), None);

    // The request may be under way still: what is not there yet is looked for again.
    emulator.faults().next(Op::Initiate, 1000, ObsFault::Drop);
    transport(&emulator).publish(package.publish_job(&first)).await.unwrap_err();
    let fault = transport(&emulator).give_up(std::slice::from_ref(&note), &*first.checkpoints).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    assert!(first.checkpoints.load(&note).await.unwrap().is_some());
}

#[tokio::test]
async fn an_upload_whose_id_is_unknown_is_begun_anew() {
    // With another time of the file, too: the first upload is not forgotten with its note.
    for touched in [false, true] {
        let (emulator, package) = (ObsEmulator::start().await, one_file(17));
        let first = an_unanswered_upload(&emulator, &package).await;
        if touched {
            let file = std::fs::File::options().append(true).open(package.files[0].path.under(&package.root())).unwrap();
            file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
        }
        publish(&emulator, &package, &next_run(&first)).await;
        assert_in_bucket(&emulator, &package);
        assert_eq!((emulator.count(Op::Initiate), emulator.count(Op::Abort)), (1, 1), "{touched}");
    }
}

/// A store that does not give up an upload at once, and one that had begun what nobody waited for any more.
#[tokio::test]
async fn what_is_begun_anew_leaves_nothing_of_what_was_before() {
    // The file has another time: what was begun cannot go on, and the store is asked to give it up until it does.
    let (emulator, package) = (ObsEmulator::start().await, one_file(27));
    let first = half_an_upload(&emulator, &package, true).await;
    let file = std::fs::File::options().append(true).open(package.files[0].path.under(&package.root())).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
    emulator.faults().next(Op::Abort, 2, ObsFault::BadGateway);
    publish(&emulator, &package, &next_run(&first)).await;
    assert_in_bucket(&emulator, &package);

    // The line broke before an answer came, so it was asked for again; the store was only slow.
    let (emulator, package) = (ObsEmulator::start().await, one_file(28));
    emulator.faults().next(Op::Initiate, 1, ObsFault::Drop);
    let first = half_an_upload(&emulator, &package, false).await;
    emulator.begin_upload(BUCKET, "dcps/film/pic.mxf", chrono::TimeDelta::zero());
    publish(&emulator, &package, &next_run(&first)).await;
    assert_in_bucket(&emulator, &package);
}

/// A task that is sent again with another bucket, as the first one was full or the wrong one.
#[tokio::test]
async fn an_upload_to_another_bucket_is_given_up() {
    for answered in [true, false] {
        let (emulator, package) = (ObsEmulator::start().await, one_file(29));
        let first = match answered {
            true => half_an_upload(&emulator, &package, true).await,
            false => an_unanswered_upload(&emulator, &package).await,
        };
        assert_eq!(emulator.unfinished(), 1);
        let location = ObsLocation::parse("obs://cfec-002/dcps/film", ENDPOINT, AK, SK, EndpointFrom::Outside).unwrap();
        let other = ObsTransport::new(location, ObsOptions { resolve: Some(emulator.addr), ..options() }).unwrap();
        assert_eq!(other.publish(package.publish_job(&next_run(&first))).await.unwrap(), Outcome::Done);
        assert_eq!((emulator.unfinished(), emulator.keys("cfec-002").len()), (0, 1), "{answered}");
    }
}

/// A key may have no right to list uploads: that stops nobody.
#[tokio::test]
async fn who_may_not_list_uploads_goes_on() {
    let (emulator, package) = (ObsEmulator::start().await, one_file(18));
    emulator.faults().next(Op::ListUploads, 1000, ObsFault::Denied);
    emulator.faults().next(Op::Initiate, 1, ObsFault::LostReply);
    let first = ctx();
    publish(&emulator, &package, &first).await;
    assert_eq!(emulator.bytes(BUCKET, "dcps/film/pic.mxf").map(|b| b.len() as u64), Some(package.bytes()));
    assert!(emulator.count(Op::ListUploads) > 0);
}

/// A receiver may leave the end of an uploaded part to another method: the rest is read from the object of the whole part.
#[tokio::test]
async fn a_part_of_an_uploaded_span_is_fetched() {
    let (emulator, package) = (ObsEmulator::start().await, film(8));
    let ctx = ctx();
    let file = (0u32..).zip(package.files.iter()).max_by_key(|(_, f)| f.size).unwrap().0;
    let span = Span { file, offset: MIB, len: 2 * MIB };
    let mut job = package.publish_job(&ctx);
    job.spans = vec![span];
    assert_eq!(transport(&emulator).publish(job).await.unwrap(), Outcome::Done);
    let part = Span { len: MIB / 2, ..span };
    let sink = FileSink::new(&package.files);
    let fetched = transport(&emulator).objects(vec![span]).fetch(package.fetch_job(vec![part], &sink, &ctx)).await.unwrap();
    assert_eq!((fetched, sink.committed_bytes()), (Outcome::Done, MIB / 2));
    assert!(transport(&emulator).fetch(package.fetch_job(vec![part], &FileSink::new(&package.files), &ctx)).await.is_err());
}

#[tokio::test]
async fn an_upload_that_someone_gave_up_begins_anew() {
    let (emulator, package) = (ObsEmulator::start().await, one_file(4));
    let first = half_an_upload(&emulator, &package, true).await;
    emulator.drop_uploads();
    publish(&emulator, &package, &next_run(&first)).await;
    assert_in_bucket(&emulator, &package);
}

#[tokio::test]
async fn a_changed_file_is_not_mixed_with_the_old_one() {
    let (emulator, package) = (ObsEmulator::start().await, one_file(5));
    let first = half_an_upload(&emulator, &package, true).await;
    // Same bytes, new time: the parts of the old file are given up.
    let path = package.files[0].path.under(&package.root());
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
    publish(&emulator, &package, &next_run(&first)).await;
    assert_eq!((emulator.count(Op::Abort), emulator.count(Op::Initiate)), (1, 1));
    assert_in_bucket(&emulator, &package);
    // Another length: refused, with the file named.
    file.set_len(5).unwrap();
    let fault = transport(&emulator).publish(package.publish_job(&ctx())).await.unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("pic.mxf")));
    assert!(fault.message.contains("changed"), "{fault}");
}

#[tokio::test]
async fn a_file_that_changes_during_the_upload_is_named() {
    let (emulator, package, ctx) = (ObsEmulator::start().await, one_file(6), ctx());
    emulator.faults().after(Op::PutPart, 3, 3, ObsFault::Slow(Duration::from_millis(300)));
    let (run, job) = (transport(&emulator), package.publish_job(&ctx));
    let running = tokio::spawn(async move { run.publish(job).await });
    until("some parts are there", || done(&ctx) >= MIB).await;
    let file = std::fs::File::options().append(true).open(package.files[0].path.under(&package.root())).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
    let fault = running.await.unwrap().unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("pic.mxf")), "{fault}");
    assert_eq!(emulator.unfinished(), 0, "its parts stay in the bucket");
    assert!(emulator.keys(BUCKET).is_empty());
}

#[tokio::test]
async fn a_file_that_is_not_the_tasks_makes_no_object() {
    for file in ["ASSETMAP.xml", "pic.mxf"] {
        let (emulator, package) = (ObsEmulator::start().await, film(15));
        let path = RelPath::parse(file).unwrap().under(&package.root());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let fault = transport(&emulator).publish(package.publish_job(&ctx())).await.unwrap_err();
        assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some(file)), "{fault}");
        assert!(emulator.object(BUCKET, &format!("dcps/film/{file}")).is_none());
    }
}

#[tokio::test]
async fn every_passing_fault_is_survived() {
    for fault in
        [ObsFault::BadGateway, ObsFault::TooMany, ObsFault::Drop, ObsFault::LostReply, ObsFault::Slow(Duration::from_millis(50))]
    {
        let (emulator, package) = (ObsEmulator::start().await, film(7));
        for op in [Op::Put, Op::Head, Op::Initiate, Op::PutPart, Op::Complete] {
            emulator.faults().next(op, 1, fault);
        }
        publish(&emulator, &package, &ctx()).await;
        for file in &*package.files {
            assert!(emulator.object(BUCKET, &format!("dcps/film/{}", file.path)).is_some(), "{fault:?} lost {}", file.path);
        }
        assert_eq!(emulator.unfinished(), 0, "{fault:?}");
        for op in [Op::Head, Op::Get] {
            emulator.faults().next(op, 1, fault);
        }
        assert!(fetched(&emulator, &package).await.complete(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_lost_reply_to_complete_is_not_a_failure() {
    let (emulator, package, ctx) = (ObsEmulator::start().await, film(8), ctx());
    emulator.faults().next(Op::Complete, 1, ObsFault::LostReply);
    publish(&emulator, &package, &ctx).await;
    assert_in_bucket(&emulator, &package);
    assert_eq!((emulator.count(Op::Initiate), emulator.count(Op::Complete), emulator.count(Op::PutPart)), (1, 1, 7));
}

#[tokio::test]
async fn cut_and_dishonest_answers_are_asked_for_again() {
    let (emulator, package) = (ObsEmulator::start().await, film(9));
    publish(&emulator, &package, &ctx()).await;
    for fault in [ObsFault::Cut(300_000), ObsFault::IgnoreRange] {
        emulator.faults().next(Op::Get, 3, fault);
        assert!(fetched(&emulator, &package).await.complete(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_wrong_secret_is_a_clear_permanent_fault() {
    let (emulator, package) = (ObsEmulator::start().await, film(10));
    publish(&emulator, &package, &ctx()).await;
    let wrong = transport_with(&emulator, "EXAMPLE-WRONG-SK", options());
    let (sink, ctx) = (FileSink::new(&package.files), ctx());
    let fetch = wrong.fetch(package.fetch_job(package.spans(), &sink, &ctx)).await.unwrap_err();
    let list = wrong.uploaded_bytes(&package.files, &package.spans()).await.unwrap_err();
    let put = wrong.publish(package.publish_job(&ctx)).await.unwrap_err();
    for fault in [fetch, list, put] {
        assert_eq!(fault.class, FaultClass::Permanent, "{fault}");
        assert!(fault.message.contains("sk"), "{fault}");
        let all = format!("{fault:?}");
        assert!(!all.contains("EXAMPLE-WRONG-SK") && !all.contains(AK), "{all}");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found_by_the_digest() {
    let (emulator, package) = (ObsEmulator::start().await, film(11));
    publish(&emulator, &package, &ctx()).await;
    emulator.faults().after(Op::Get, 2, 1, ObsFault::FlipByte);
    let sink = fetched(&emulator, &package).await;
    assert!(!sink.complete(), "the emulator did not flip a byte");
}

#[tokio::test]
async fn an_object_that_is_replaced_is_never_mixed() {
    let (emulator, package, ctx) = (ObsEmulator::start().await, film(12), ctx());
    publish(&emulator, &package, &ctx).await;
    let other = vec![7; package.files[2].size as usize];
    let sink = FileSink::new(&package.files);
    let leg = support::sink::ctx();
    emulator.faults().after(Op::Get, 2, 100, ObsFault::Slow(Duration::from_millis(200)));
    let (run, job) = (transport(&emulator), package.fetch_job(package.spans(), &sink, &leg));
    let running = tokio::spawn(async move { run.fetch(job).await });
    until("a piece is there", || sink.committed(2).total() > 0).await;
    emulator.put(BUCKET, "dcps/film/pic.mxf", &other, &[]);
    let fault = running.await.unwrap().unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Corrupt, Some("pic.mxf")), "{fault}");
    // Nor in the next run.
    let fault = transport(&emulator).fetch(package.fetch_job(package.spans(), &sink, &next_run(&leg))).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Corrupt, "{fault}");
    // The right bytes, uploaded anew (another ETag): the download goes on.
    emulator.put(
        BUCKET,
        "dcps/film/pic.mxf",
        &package.read(2, 0..other.len() as u64),
        &[("sha1", &package.files[2].sha1.to_string())],
    );
    let outcome = transport(&emulator).fetch(package.fetch_job(package.spans(), &sink, &next_run(&leg))).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(sink.complete());
}

#[tokio::test]
async fn a_stalled_store_is_noticed() {
    let (emulator, package) = (ObsEmulator::start().await, one_file(13));
    emulator.faults().next(Op::PutPart, 1, ObsFault::Slow(Duration::from_secs(600)));
    let mut impatient = options();
    impatient.ranged.period = Duration::from_millis(300);
    let run = transport_with(&emulator, SK, impatient);
    assert_eq!(run.publish(package.publish_job(&ctx())).await.unwrap(), Outcome::Done);
    assert_in_bucket(&emulator, &package);
}

/// Stores close a connection on which nothing comes for some seconds.
#[tokio::test]
async fn a_low_cap_leaves_no_long_silence() {
    let (emulator, package, mut leg) = (ObsEmulator::start().await, one_file(16), ctx());
    leg.limiter = bft2::transport::limit::Limiter::new(Some(24 << 10));
    let (run, job, stop) = (transport(&emulator), package.publish_job(&leg), leg.stop.clone());
    let running = tokio::spawn(async move { run.publish(job).await });
    until("it has begun", || emulator.received() > 0).await;
    let (began, mut last, mut bytes) = (std::time::Instant::now(), std::time::Instant::now(), emulator.received());
    while began.elapsed() < Duration::from_secs(15) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if emulator.received() > bytes {
            (last, bytes) = (std::time::Instant::now(), emulator.received());
        }
        assert!(last.elapsed() < Duration::from_secs(10), "nothing came for {:?}", last.elapsed());
    }
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Stopped);
    assert!(bytes < (began.elapsed().as_secs() + 8) * (24 << 10), "{bytes} bytes in {:?}", began.elapsed());
}

#[tokio::test]
async fn names_that_no_object_can_have_are_refused() {
    let (emulator, ctx) = (ObsEmulator::start().await, ctx());
    let package = Package::make("FILM_FTR", 14, &[("name ", 3)]);
    let fault = transport(&emulator).publish(package.publish_job(&ctx)).await.unwrap_err();
    assert_eq!((fault.class, fault.file.as_deref()), (FaultClass::Permanent, Some("name ")));
}

mod obs {
    use super::*;
    use support::conformance::{Bench, Published};

    struct Emulated;
    struct There(ObsEmulator);

    #[async_trait::async_trait]
    impl Bench for Emulated {
        async fn publish(&self, package: Arc<Package>) -> Box<dyn Published> {
            let emulator = ObsEmulator::start().await;
            super::publish(&emulator, &package, &ctx()).await;
            Box::new(There(emulator))
        }
    }

    #[async_trait::async_trait]
    impl Published for There {
        fn fetcher(&self) -> Box<dyn bft2::transport::Transport> {
            Box::new(transport(&self.0))
        }
        async fn lose(&self, path: &RelPath) -> bool {
            self.0.remove(BUCKET, &format!("dcps/film/{path}"))
        }
    }

    conformance_tests!(Emulated);
}
