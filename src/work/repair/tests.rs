#![allow(clippy::single_range_in_vec_init, reason = "one missing range is what is meant")]

use super::*;
use crate::assembly::Verdict as FileVerdict;
use crate::error::FaultClass;
use crate::store::library::{LibraryFile, PackageRow};
use crate::transport::Sink as _;
use crate::work::fixture::{DELAY_MS, Fixture, Given, NOW, RETRIES, given, until};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SECOND: i64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_leg_after_a_fault() {
    let f = Fixture::start().await;
    let again = |at, tries| Verdict::Retry { at: Some(at), tries };
    let now = Verdict::Retry { at: None, tries: 0 };
    let away = Fault::transient("connection refused");
    let busy = Fault::transient("429").retry_after(Some(Duration::from_secs(60)));
    let missing = Fault::permanent("404").file("a.mxf");
    let both = Fault { others: vec!["b.mxf".into()], ..missing.clone() };
    let away_at_b = Fault::transient("connection refused").file("b.mxf");
    let for_ever = Fault::transient("429").retry_after(Some(Duration::from_secs(u64::MAX)));
    // Fault, failed tries before, whether bytes came, is there a bucket: verdict, and who has to bring a.mxf and b.mxf then.
    let table = [
        (&away, 0, false, false, again(NOW + DELAY_MS, 1), "cdn cdn"),
        (&away, RETRIES, true, false, again(NOW + DELAY_MS, 1), "cdn cdn"),
        (&busy, 0, false, false, again(NOW + 60 * SECOND, 1), "cdn cdn"),
        (&away, RETRIES - 1, false, false, Verdict::Failed, "cdn cdn"),
        (&away, RETRIES - 1, false, true, now, "obs obs"),
        (&away_at_b, RETRIES, false, true, Verdict::Retry { at: None, tries: 0 }, "obs obs"),
        (&for_ever, 0, false, false, again(NOW + 3600 * SECOND, 1), "cdn cdn"),
        (&missing, 0, false, false, Verdict::Failed, "cdn cdn"),
        (&missing, 0, false, true, Verdict::Retry { at: None, tries: 0 }, "obs cdn"),
        (&both, 0, false, true, Verdict::Retry { at: None, tries: 0 }, "obs obs"),
        (&Fault::corrupt("not the object").file("b.mxf"), 0, true, true, Verdict::Retry { at: None, tries: 0 }, "cdn obs"),
        (&Fault::local("disk full").file("a.mxf"), 0, true, true, Verdict::Failed, "cdn cdn"),
        (&Fault::permanent("404").file("stranger.mxf"), 0, true, true, Verdict::Failed, "cdn cdn"),
    ];
    for (n, (fault, tries, moved, bucket, want, who)) in table.into_iter().enumerate() {
        let task = f.receive(&[given("a.mxf", Method::Cdn), given("b.mxf", Method::Cdn)], bucket).await.id;
        let plan = f.plan(task).await;
        let got = after_fault(&f.node, &plan, Method::Cdn, &HashSet::from([0, 1]), fault, tries, moved).await.unwrap();
        let spread = |at: i64| at..=at + (at - NOW) / 5;
        match (&got, &want) {
            (Verdict::Retry { at: Some(at), tries }, Verdict::Retry { at: Some(least), tries: wanted }) => {
                assert!(spread(*least).contains(at) && tries == wanted, "row {n}: {fault}: {got:?}");
            }
            _ => assert_eq!(got, want, "row {n}: {fault}"),
        }
        let now: Vec<_> = f.node.store.task_spans(task).await.unwrap();
        let now: Vec<_> = now.iter().map(|s| s.method.map_or("local", Method::as_str)).collect();
        assert_eq!(now.join(" "), who, "row {n}: {fault}");
    }
}

/// What a stand-in says does not hide what went wrong.
#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_method_with_a_part_leads() {
    let f = Fixture::start().await;
    let fault = Fault::permanent("not in the object storage").file("a.mxf");
    let own = || leg_error(Method::Obs, &fault);
    for (other, want) in [
        (Method::Cdn, "a.mxf: cdn: 404; then obs: file a.mxf: not in the object storage"),
        (Method::Obs, "obs: file a.mxf: not in the object storage; before: a.mxf: cdn: 404"),
    ] {
        let task = f.receive(&[given("a.mxf", Method::Cdn), given("b.mxf", other)], true).await.id;
        let plan = f.plan(task).await;
        assert_eq!(with_history(&f.node, &plan, Method::Obs, &fault, own()).await.unwrap(), own());
        f.node.store.refuse_file(task, 0, Some(Method::Cdn), "a.mxf: cdn: 404", NOW).await.unwrap();
        assert_eq!(with_history(&f.node, &plan, Method::Obs, &fault, own()).await.unwrap(), want);
    }
}

/// A copy of the file that a leg failed on was found before the leg ended: that is no reason to give up the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_copied_by_now_is_no_reason_to_fail() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Cdn), given("b.mxf", Method::Cdn)], false).await.id;
    let plan = f.plan(task).await;
    let missing = Fault::permanent("404").file("a.mxf");
    let both = Fault { others: vec!["b.mxf".into()], ..missing.clone() };
    let ends = async |fault: &Fault, unfinished: &[u32]| {
        let unfinished = unfinished.iter().copied().collect();
        after_fault(&f.node, &plan, Method::Cdn, &unfinished, fault, RETRIES - 1, false).await.unwrap()
    };
    assert_eq!(ends(&missing, &[1]).await, Verdict::Retry { at: None, tries: RETRIES - 1 }, "the tries are those of before");
    assert!(f.node.store.refusals(task).await.unwrap().is_empty(), "nobody is to blame");
    // Another one that it failed on is still to be brought.
    assert_eq!(ends(&both, &[1]).await, Verdict::Failed);
    let refused: Vec<_> = f.node.store.refusals(task).await.unwrap().into_iter().map(|(n, ..)| n).collect();
    assert_eq!(refused, [1]);
}

/// What another method has brought already is not asked of anybody again, and does not stand in the way of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn only_unfinished_files_are_handed_over() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Obs), given("b.mxf", Method::Obs)], true).await.id;
    f.node.store.refuse_file(task, 0, Some(Method::Cdn), "404", NOW).await.unwrap();
    let plan = f.plan(task).await;
    let gone = Fault::transient("the bucket is away");
    let got = after_fault(&f.node, &plan, Method::Obs, &HashSet::from([1]), &gone, RETRIES, false).await.unwrap();
    assert_eq!(got, Verdict::Retry { at: None, tries: 0 });
    let now: Vec<_> = f.node.store.task_spans(task).await.unwrap().iter().map(|s| s.method).collect();
    assert_eq!(now, [Some(Method::Obs), Some(Method::Cdn)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_round_every_method_once() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Bt)], true).await.id;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let plan = f.plan(task).await;
        let from = plan.spans[0].method;
        seen.push(from.unwrap());
        if !hand_over(&f.node, &plan, &[0], from, "no").await.unwrap() {
            break;
        }
    }
    assert_eq!(seen, [Method::Bt, Method::Cdn, Method::Obs], "and then nobody is left");
    let refused: Vec<_> = f.node.store.refusals(task).await.unwrap().into_iter().filter_map(|(_, m, _)| m).collect();
    assert_eq!(refused.len(), 3);
    assert_eq!(f.legs(task).await, "bt waiting 0, cdn waiting 0, obs waiting 500");
}

/// A stale library file is the library's fault alone: the method that brings the file instead must not be blamed, and
/// nobody copies the stale file a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_library_file_is_copied_once_and_forgotten() {
    let f = Fixture::start().await;
    let source = f.dir.path().join("stale.mxf");
    let file = Given { method: None, source: Some(source.clone()), ..given("a.mxf", Method::Obs) };
    std::fs::write(&source, vec![0; file.bytes.len()]).unwrap();
    let row = LibraryFile { path: source.clone(), size: 500, mtime_ns: 1, inode: 1, sha1: crate::model::ids::Sha1([7; 20]) };
    let package = PackageRow {
        path: f.dir.path().to_owned(),
        name: "Old".into(),
        verdict: "complete".into(),
        title: String::new(),
        files: 1,
        bytes: 500,
    };
    f.node.store.put_package(&package, &[row], 1).await.unwrap();
    let task = f.receive(&[file], true).await;
    let assembly = Assembly::open(task.id, &f.node.staging(&task), &f.node.store, f.node.nudge.clone()).await.unwrap();
    let plan = f.plan(task.id).await;
    crate::work::reception::copy_all(&f.node, &plan, &assembly, &CancellationToken::new()).await.unwrap();
    assert!(assembly.local_pending().is_empty(), "it would be copied again");
    assert_eq!(assembly.missing(&plan.spans[0].span), [0..500]);
    assert_eq!(f.node.store.task_spans(task.id).await.unwrap()[0].method, Some(Method::Obs), "whom the sender meant");
    assert_eq!(f.node.store.library_below(f.dir.path()).await.unwrap(), [], "no other task copies it either");
    assembly.close().await.unwrap();
}

/// When nobody has the right bytes the wrong ones are dropped all the same. They are fetched once more, over a restart, and not
/// a third time, unless the task is received again.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_fetched_once_more_when_nobody_is_left() {
    let f = Fixture::start().await;
    let given = [given("a.mxf", Method::Cdn)];
    let task = f.receive(&given, false).await;
    for (round, lost) in [false, true, false, true].into_iter().enumerate() {
        if round == 2 {
            f.node.store.resume_task(task.id, &f.new_task(&given, false), NOW).await.unwrap();
        }
        let assembly = Assembly::open(task.id, &f.node.staging(&task), &f.node.store, f.node.nudge.clone()).await.unwrap();
        f.node.store.set_leg(task.id, Method::Cdn, LegState::Done, "", 0, None).await.unwrap();
        let got = wrong_again(&f, task.id, &assembly).await;
        assembly.close().await.unwrap();
        assert!(f.node.store.task_files(task.id).await.unwrap()[0].have.is_empty());
        let leg = f.node.store.legs(task.id).await.unwrap().remove(0);
        if lost {
            let error = got.unwrap_err();
            assert!(error.contains("a.mxf") && error.contains("cdn"), "{error}");
            assert_eq!(leg.tries, 0);
        } else {
            assert_eq!(got.as_deref(), Ok("cdn"), "round {round}");
            assert!(leg.error.contains("a.mxf"), "{}", leg.error);
            assert_eq!((leg.state, leg.tries), (LegState::Waiting, 1), "it counts as a try");
            assert_eq!(f.node.store.refusals(task.id).await.unwrap(), []);
        }
    }
}

/// Fills a file with wrong bytes and has it repaired; gives who has to bring it then.
async fn wrong_again(f: &Fixture, task: i64, assembly: &std::sync::Arc<Assembly>) -> Result<String, String> {
    let have = assembly.missing(&crate::model::span::Span { file: 0, offset: 0, len: 500 });
    for r in have {
        assembly.write_at(0, r.start, &vec![9; (r.end - r.start) as usize]).unwrap();
        assembly.commit(0, r);
    }
    until("the file is found wrong", || assembly.verdict(0) == FileVerdict::Wrong).await;
    let lost = repair_wrong_files(&f.node, &f.plan(task).await, assembly).await.unwrap().lost;
    let spans = f.node.store.task_spans(task).await.unwrap();
    let who: Vec<_> = spans.iter().map(|s| s.method.map_or("local", Method::as_str)).collect();
    let lacks = assembly.missing(&crate::model::span::Span { file: 0, offset: 0, len: 500 }) == [0..500];
    match lost {
        Some(lost) => Err(lost.error),
        None => Ok(format!("{}{}", who.join(" "), if lacks { "" } else { ", not all" })),
    }
}

/// Several had a part in a file that is wrong: one brings it anew, and only who brought all of it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_for_what_another_one_may_have_brought() {
    let f = Fixture::start().await;
    let whole = crate::model::span::Span { file: 0, offset: 0, len: 500 };
    // The giver, how much of the file it has brought, from where on the helper brings it; and what happens then, each time
    // that the digest is wrong.
    let (cdn, obs) = (Method::Cdn, Method::Obs);
    let table: [(Method, u64, u64, &[&str]); 5] = [
        (obs, 100, 200, &["cdn cdn", "obs obs"]),
        (obs, 100, 0, &["cdn", "obs"]),
        (obs, 0, 0, &["obs"]),
        (cdn, 100, 0, &["cdn", "obs"]),
        (Method::Bt, 100, 0, &["obs"]),
    ];
    for (n, (from, brought, at, then)) in table.into_iter().enumerate() {
        let to = if from == cdn { obs } else { cdn };
        let task = f.receive(&[given("a.mxf", from)], true).await;
        let assembly = Assembly::open(task.id, &f.node.staging(&task), &f.node.store, f.node.nudge.clone()).await.unwrap();
        if brought > 0 {
            assembly.write_at(0, 0, &vec![9; brought as usize]).unwrap();
            assembly.commit(0, 0..brought);
            assembly.sync().await.unwrap();
        }
        assert!(f.node.store.give_spans(task.id, from, to, &[(whole, at)]).await.unwrap());
        for want in then {
            assert_eq!(wrong_again(&f, task.id, &assembly).await.as_deref(), Ok(*want), "row {n}");
        }
        // bt has it back, and it is whole then.
        if from != Method::Bt {
            assert_eq!(wrong_again(&f, task.id, &assembly).await.as_deref(), Ok(then[then.len() - 1]), "row {n}, once more");
        }
        let error = wrong_again(&f, task.id, &assembly).await;
        let last = |e: &String| e.contains("no other method has it");
        assert!(error.as_ref().is_err_and(last) || (from == Method::Bt && error == Ok("bt".into())), "row {n}: {error:?}");
        assembly.close().await.unwrap();
    }
}

/// A file of two methods, and no third one: at last all of it is fetched once more, whoever brought which part.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_two_methods_is_fetched_once_more_as_a_whole() {
    let f = Fixture::start().await;
    let whole = crate::model::span::Span { file: 0, offset: 0, len: 500 };
    let task = f.receive(&[given("a.mxf", Method::Bt)], false).await;
    let assembly = Assembly::open(task.id, &f.node.staging(&task), &f.node.store, f.node.nudge.clone()).await.unwrap();
    assert!(f.node.store.give_spans(task.id, Method::Bt, Method::Cdn, &[(whole, 200)]).await.unwrap());
    f.node.store.refuse_file(task.id, 0, Some(Method::Bt), "no peers", NOW).await.unwrap();
    for method in [Method::Bt, Method::Cdn] {
        f.node.store.set_leg(task.id, method, LegState::Done, "", 0, None).await.unwrap();
    }
    assert_eq!(wrong_again(&f, task.id, &assembly).await.as_deref(), Ok("bt cdn"), "all of it");
    assert_eq!(f.legs(task.id).await, "bt waiting 200, cdn waiting 300");
    assert!(wrong_again(&f, task.id, &assembly).await.is_err());
    assembly.close().await.unwrap();
}

/// bt has back what the CDN had brought in part: of such a file bt's part is in doubt, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_bt_took_back_is_fetched_anew() {
    let f = Fixture::start().await;
    let span = |offset, len| crate::model::span::Span { file: 0, offset, len };
    let task = f.receive(&[given("a.mxf", Method::Obs)], true).await;
    let assembly = Assembly::open(task.id, &f.node.staging(&task), &f.node.store, f.node.nudge.clone()).await.unwrap();
    f.node.store.give_spans(task.id, Method::Obs, Method::Cdn, &[(span(0, 500), 200)]).await.unwrap();
    assembly.write_at(0, 200, &[9; 50]).unwrap();
    assembly.commit(0, 200..250);
    assembly.sync().await.unwrap();
    f.node.store.give_spans(task.id, Method::Cdn, Method::Bt, &[(span(200, 300), 200)]).await.unwrap();
    f.node.store.set_leg(task.id, Method::Bt, LegState::Done, "", 0, None).await.unwrap();
    assert_eq!(wrong_again(&f, task.id, &assembly).await.as_deref(), Ok("cdn bt"), "all of it");
    assert_eq!(f.legs(task.id).await, "bt waiting 300, cdn waiting 200, obs done 0");
    assembly.close().await.unwrap();
}

/// The same where a method gave up in the middle of a file.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_a_part_is_not_refused_for_all() {
    let f = Fixture::start().await;
    let task = f.receive(&[given("a.mxf", Method::Obs)], true).await;
    let assembly = Assembly::open(task.id, &f.node.staging(&task), &f.node.store, f.node.nudge.clone()).await.unwrap();
    assembly.write_at(0, 0, &[9; 100]).unwrap();
    assembly.commit(0, 0..100);
    assembly.sync().await.unwrap();
    assert!(hand_over(&f.node, &f.plan(task.id).await, &[0], Some(Method::Obs), "404").await.unwrap());
    assert_eq!(wrong_again(&f, task.id, &assembly).await.as_deref(), Ok("cdn"));
    assert_eq!(f.node.store.refusals(task.id).await.unwrap().len(), 1, "the bucket alone");
    assert_eq!(wrong_again(&f, task.id, &assembly).await.as_deref(), Ok("cdn"), "once more");
    assert!(wrong_again(&f, task.id, &assembly).await.is_err(), "now it is known whose bytes are wrong");
    assembly.close().await.unwrap();
}

#[test]
fn errors_name_the_file_once() {
    for (fault, text) in [
        (Fault::transient("away"), "obs: away"),
        (Fault::permanent("404").file("a.mxf"), "obs: file a.mxf: 404"),
        (Fault::permanent("a.mxf: 404").file("a.mxf"), "obs: a.mxf: 404"),
    ] {
        assert_eq!(leg_error(Method::Obs, &fault), text);
        assert_ne!(fault.class, FaultClass::Local);
    }
}
