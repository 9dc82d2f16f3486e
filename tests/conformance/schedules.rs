//! `GET /showschedules`, line by line: the example's times become those of a window that opens soon.

use super::asking::{Client, ask};
use super::bench::Bench;
use super::cases::Stage;
use super::examples;
use super::films::{MIB, film};
use super::world::{PATIENCE, World, task_name, until};
use chrono::{DateTime, Local, TimeDelta, Timelike as _};
use serde_json::json;

/// The window of the test: minutes of the near future.
struct Soon {
    start: DateTime<Local>,
    stop: DateTime<Local>,
    zone: String,
}

impl Soon {
    /// Far enough away to stay closed while the test runs, and not over midnight, which has spellings of its own.
    fn new() -> Self {
        let now = Local::now();
        let ahead = |minutes| now + TimeDelta::minutes(minutes) - TimeDelta::seconds(now.second().into());
        let before_midnight = |t: &DateTime<Local>| (t.hour(), t.minute()) < (23, 50);
        let start = Some(ahead(20)).filter(before_midnight).unwrap_or_else(|| ahead(45));
        let zone = std::process::Command::new("date").arg("+%Z").output().expect("date").stdout;
        Self { start, stop: start + TimeDelta::minutes(3), zone: String::from_utf8(zone).expect("a name").trim().to_owned() }
    }

    fn window(&self) -> String {
        format!("{}-{}", self.start.format("%H:%M"), self.stop.format("%H:%M"))
    }

    /// The example with this window in the place of its own. The first line stays: it is the time of the call.
    fn apply(&self, example: &str) -> String {
        let full = |t: &DateTime<Local>| format!("{} {}", t.format("%Y-%m-%d %H:%M:00 %z"), self.zone);
        example
            .replace("2021-05-28 22:34:00 +0800 CST", &full(&self.start))
            .replace("2021-05-28 22:37:00 +0800 CST", &full(&self.stop))
            .replace("2021-05-28 22:34:00", &self.start.format("%Y-%m-%d %H:%M:00").to_string())
            .replace("22:34-22:37", &self.window())
    }
}

#[tokio::test]
async fn the_schedules_are_shown_as_in_the_example() {
    let soon = Soon::new();
    let mut world = World::new();
    world.sender.set_all(&json!({"splitfiles": false, "obstime": soon.window(), "cdntime": soon.window()}));
    world.receiver.set("cdnrate", "100K");
    world.start().await;
    let mut bench = Bench::new(Stage::Schedules);
    let receiver = Client::new(&world, &world.receiver);
    nothing_is_planned(&mut bench, &receiver).await;

    let store = world.sender.store();
    for (name, ratio, policy, size) in [
        // Of two equal files the first comes by obs, the second by cdn.
        ("xiaofang7", "0:1:1", "priortime", 30_000),
        ("xiaofang9", "0:0:1", "priortime", 30_000),
        ("fulltime", "0:0:1", "fulltime", 4 * MIB),
    ] {
        film(&store.join(name), &[("a.mxf", size), ("b.mxf", size)]);
        let taskfile = world.gentask_with(name, json!({"btobscdn": ratio, "policy": policy})).await;
        receiver.node.carry(&world.send(&taskfile).await);
        let recv = ask("recv/request-curl-receiver.json").about(&task_name(name)).once();
        bench.says(&receiver, "recv outside the window", recv, true, "succeed!").await;
    }
    for name in ["xiaofang7", "xiaofang9", "fulltime"] {
        until("it is taken out of the queue", PATIENCE, async || {
            (receiver.node.progress(&task_name(name)).await.status() == "downloading").then_some(())
        })
        .await;
    }
    // Outside its window a task downloads nothing, without an error (section 11).
    let p = receiver.node.progress(&task_name("xiaofang7")).await;
    let waits = p.error().is_empty() && p.downloaded() == 0 && p.0.content["ecompletedtime"] == -1;
    bench.check(waits, "a task outside its window", &p);

    // Only what is bound to windows is planned.
    let got = receiver.node.get("showschedules").await.expect("an answer");
    let plans = got.split("All Current Downloading:").next().unwrap_or_default();
    bench.check(plans.contains("xiaofang7") && !plans.contains("fulltime"), "plans beside a task without windows", &got);
    bench.says(&receiver, "cancel", ask("cancel/request-curl.json").about(&task_name("fulltime")).once(), true, "succeed!").await;
    bench.case("get/showschedules.txt");
    let wanted = soon.apply(&examples::text("get/showschedules.txt"));
    let got = receiver.node.get("showschedules").await.expect("an answer");
    let now = got.lines().next().and_then(|l| l.strip_prefix("Now: ")).unwrap_or_default();
    let now = chrono::NaiveDateTime::parse_from_str(now, "%Y-%m-%d %H:%M:%S");
    bench.check(now.is_ok_and(|t| (Local::now().naive_local() - t).num_seconds().abs() < 60), "the first line", &now);
    let differing: Vec<_> = wanted.lines().zip(got.lines()).skip(1).filter(|(w, g)| w != g).collect();
    bench.check(differing.is_empty(), "showschedules, the example's lines and ours", &differing);
    bench.check(wanted.lines().count() == got.lines().count(), "number of lines", &got);

    // A task that waits for its window can be cancelled too (section 3.7).
    for name in ["xiaofang7", "xiaofang9"] {
        let cancel = ask("cancel/request.json").about(&task_name(name)).sloppy();
        bench.says(&receiver, "cancel outside the window", cancel, true, "succeed!").await;
    }
    nothing_is_planned(&mut bench, &receiver).await;
    bench.finish();
}

async fn nothing_is_planned(bench: &mut Bench, receiver: &Client<'_>) {
    let example = examples::text("get/showschedules.txt");
    let of_no_task =
        |l: &&str| l.starts_with("Sched") || l.ends_with(" schedules") || l.ends_with("no schedule") || l.starts_with("All");
    let mut wanted: Vec<String> = example.lines().filter(of_no_task).map(str::to_owned).collect();
    for (at, method) in [(4, "cdn"), (6, "obs")] {
        wanted.insert(at, format!("{method} next runtime: no schedule"));
    }
    let got = receiver.node.get("showschedules").await.expect("an answer");
    bench.check(got.lines().skip(1).eq(wanted.iter()), "showschedules without tasks", &got);
}
