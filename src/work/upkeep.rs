//! Retention: samples are thinned with age; samples, events, jobs and the history of tasks end.

use super::Node;
use super::trust::Trust;
use crate::error::Fault;
use crate::model::task::TaskState;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(3600);
const MINUTE_MS: i64 = 60 * 1000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// A clock that jumps ahead by more than this deletes nothing at first.
const JUMP: Duration = Duration::from_secs(24 * 3600);

/// Remembers when it ran last.
pub struct Upkeep {
    last: Option<Instant>,
    trust: Trust,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self { last: None, trust: Trust::new(JUMP) }
    }
}

impl Upkeep {
    /// See [`Trust::start`].
    pub fn start(&mut self, seen_at: Option<i64>, now_ms: i64) {
        self.trust.start(seen_at, now_ms, Instant::now());
    }

    /// Does a round if one is due.
    pub async fn run(&mut self, node: &Node) {
        if self.last.is_some_and(|t| t.elapsed() < PERIOD) {
            return;
        }
        self.last = Some(Instant::now());
        let now = node.clock.now_ms();
        if !self.trust.believes(now, Instant::now()) {
            tracing::warn!(
                "the clock has jumped ahead by more than a day: no old records are deleted before it has stayed so for a day"
            );
            return;
        }
        if let Err(fault) = round(node, now).await {
            tracing::warn!(%fault, "upkeep of the database failed; it is repeated in an hour");
        }
    }
}

pub(super) async fn round(node: &Node, now: i64) -> Result<(), Fault> {
    let (config, store) = (node.config.current(), &node.store);
    let before = |days: u32| now.saturating_sub(i64::from(days) * DAY_MS);
    store.drop_samples(before(config.sampledays)).await?;
    store.thin_samples(before(config.finedays), MINUTE_MS).await?;
    store.thin_samples(before(config.minutedays), HOUR_MS).await?;
    store.prune_events(before(config.eventdays), now).await?;
    store.prune_generations(before(config.historydays), now).await?;
    for some in store.old_history(before(config.historydays), now).await?.chunks(100) {
        // Its files first: without its row nobody knows of them. Of one whose files cannot be removed now the row stays.
        let mut gone = Vec::new();
        for (id, task) in some {
            let removed = task.as_ref().map_or(Ok(()), |(role, name)| {
                crate::views::remove(&node.dirs.path(*role, TaskState::History, name))?;
                node.dirs.clear_errors(*role, name)
            });
            match removed {
                Ok(()) => gone.push(*id),
                Err(fault) => tracing::warn!(%fault, "cannot remove what is left of an old task; tried again in an hour"),
            }
        }
        store.forget_history(&gone).await?;
    }
    for path in store.old_torrents(before(config.historydays)).await? {
        if is_gone(Path::new(&path)) {
            store.forget_torrent(Path::new(&path)).await?;
        }
    }
    Ok(())
}

/// The package is not there, and that is not because its disk is not mounted.
fn is_gone(package: &Path) -> bool {
    let missing = std::fs::symlink_metadata(package).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    missing && package.parent().is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigHandle};
    use crate::model::span::Method;
    use crate::store::events::Level;
    use crate::store::generations::GenerationState;
    use crate::work::fixture::{Fixture, given};
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
    use std::sync::Arc;

    /// The first day of the tests (milliseconds).
    const FIRST: i64 = 20_000 * DAY_MS;

    async fn with_short_lives() -> (Fixture, SqliteConnection) {
        let mut f = Fixture::start().await;
        let days = r#"{"servertype":"receiver","finedays":1,"minutedays":2,"sampledays":6,"eventdays":3,"historydays":5}"#;
        let (config, _) = Config::parse(days.as_bytes()).expect("configuration");
        Arc::get_mut(&mut f.node).expect("alone").config = ConfigHandle::new(f.dir.path().join("config.json"), config);
        let raw = SqliteConnectOptions::new().filename(f.node.store.path()).foreign_keys(true).connect().await.expect("opens");
        (f, raw)
    }

    /// What a busy day writes.
    async fn a_day(f: &Fixture, raw: &mut SqliteConnection, day: i64) {
        let (store, start) = (&f.node.store, FIRST + day * DAY_MS);
        let mut task = f.new_task(&[given("a.mxf", Method::Cdn)], false);
        task.name = crate::model::ids::TaskName::parse(&format!("film-{day}.task.json")).expect("name");
        let id = store.accept_task(&task, start).await.expect("accepted");
        let samples = format!(
            "INSERT INTO progress_samples SELECT {id}, 'cdn', {start} + value * 20000, value, 100, 0 FROM \
             (WITH RECURSIVE n(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM n WHERE value < 4319) SELECT value FROM n)"
        );
        raw.execute(AssertSqlSafe(samples)).await.expect("samples");
        for n in 0..50 {
            let text = "something that happened, told in a few words".repeat(4);
            store.add_event(Level::Info, "test", "", "test", &text, start + n * 1000).await.expect("event");
        }
        let job =
            store.queue_generation("/dcp/film", &format!("/tmp/{day}.task.json"), "{}", false, start).await.expect("queued");
        let job = job.expect("nothing else is at work");
        store.set_generation(job, GenerationState::Finished, "", start + HOUR_MS).await.expect("finished");
        let end = start + 2 * HOUR_MS;
        assert!(store.move_task(id, TaskState::Queues, TaskState::History, "", end).await.expect("moved"));
    }

    async fn number(raw: &mut SqliteConnection, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(raw).await.expect("a number")
    }

    #[tokio::test]
    async fn the_file_stops_growing() {
        let (f, mut raw) = with_short_lives().await;
        let mut pages = Vec::new();
        for day in 0..20 {
            a_day(&f, &mut raw, day).await;
            round(&f.node, FIRST + (day + 1) * DAY_MS).await.expect("a round");
            pages.push(number(&mut raw, "PRAGMA page_count").await);
        }
        // After eight days everything has come to its end once.
        assert!(pages[19] <= pages[8] + pages[8] / 50, "{pages:?}");
        for (table, most) in [("tasks", 6), ("generations", 6), ("events", 200)] {
            let rows = number(&mut raw, &format!("SELECT count(*) FROM {table}")).await;
            assert!(rows > 0 && rows <= most, "{rows} rows in {table}");
        }
        // A day as written, a day by the minute, the rest by the hour.
        let rows = number(&mut raw, "SELECT count(*) FROM progress_samples").await;
        assert!((4320 + 1440..=4320 + 1440 + 5 * 24).contains(&rows), "{rows} samples");
    }

    /// A task's file in `history`, which may hold keys, is known by its row alone: that goes last.
    #[tokio::test]
    async fn a_row_stays_until_its_files_are_removed() {
        let (f, mut raw) = with_short_lives().await;
        a_day(&f, &mut raw, 0).await;
        let name = crate::model::ids::TaskName::parse("film-0.task.json").expect("name");
        let shown = f.node.dirs.path(crate::model::task::Role::Recv, TaskState::History, &name);
        // Something that cannot be removed like a file.
        std::fs::create_dir_all(&shown).expect("directory");
        round(&f.node, FIRST + 10 * DAY_MS).await.expect("a round");
        assert_eq!(number(&mut raw, "SELECT count(*) FROM tasks").await, 1);
        std::fs::remove_dir(&shown).expect("remove");
        std::fs::write(&shown, "{}").expect("write");
        round(&f.node, FIRST + 11 * DAY_MS).await.expect("a round");
        assert_eq!((number(&mut raw, "SELECT count(*) FROM tasks").await, shown.exists()), (0, false));
    }

    /// A board whose battery is empty starts in another year, works there for a while, and is then set right.
    #[tokio::test]
    async fn a_clock_that_was_set_back_deletes_nothing() {
        let (f, mut raw) = with_short_lives().await;
        let count = "SELECT (SELECT count(*) FROM tasks) * 10000 + (SELECT count(*) FROM generations) * 1000 + (SELECT count(*) FROM events)";
        a_day(&f, &mut raw, 1000).await;
        let before = number(&mut raw, count).await;
        round(&f.node, FIRST).await.expect("set back by years");
        assert_eq!(number(&mut raw, count).await, before);
        // Work in those years, samples too.
        a_day(&f, &mut raw, 10).await;
        assert_eq!(number(&mut raw, "SELECT count(*) FROM progress_samples").await, 2 * 4320);
        round(&f.node, FIRST + 11 * DAY_MS).await.expect("still set back");
        let after = number(&mut raw, count).await;
        assert_eq!(after, 2 * before);
        // Right again: what looks years old is younger than a row that is not.
        round(&f.node, FIRST + 1001 * DAY_MS).await.expect("set right");
        assert_eq!(number(&mut raw, count).await, after);
        // And it goes when that one goes.
        round(&f.node, FIRST + 1010 * DAY_MS).await.expect("later");
        assert_eq!(number(&mut raw, count).await, 1, "the last event stays, for its number");
    }

    #[test]
    fn packages_of_a_disk_that_is_away_are_not_gone() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(is_gone(&dir.path().join("film")));
        assert!(!is_gone(&dir.path().join("dcps/film")), "its store is away as well");
        assert!(!is_gone(dir.path()));
    }
}
