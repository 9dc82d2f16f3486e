//! How the log grows while somebody reads for ever: by how much in a day of a delivery, as ever and while it is spared.

mod task_rows;

use bft2::model::ranges::RangeSet;
use bft2::model::span::Method;
use bft2::model::task::TaskState;
use bft2::store::Store;
use bft2::store::legs::LegSample;
use bft2::store::task_files::FileProgress;
use bft2::store::tasks::NewTask;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use std::path::Path;
use task_rows::{new_file, reception};

struct Delivery {
    store: Store,
    task: i64,
    have: u64,
    now: i64,
}

impl Delivery {
    async fn new(dir: &Path) -> Self {
        let store = Store::open(&dir.join("bft2.db")).await.unwrap();
        let methods = [Method::Bt, Method::Obs, Method::Cdn];
        let files = vec![new_file("a.mxf", &vec![1; 1 << 20]), new_file("b.mxf", &vec![2; 1 << 20])];
        let task = NewTask {
            legs: methods.map(|m| (m, 1 << 20)).to_vec(),
            ..reception("film.task.json", Path::new("/store/Film_FTR"), files)
        };
        let task = store.accept_task(&task, 1).await.unwrap();
        store.move_task(task, TaskState::Queues, TaskState::Downloading, "", 1).await.unwrap();
        Self { store, task, have: 0, now: 1 }
    }

    /// What the sampler writes each second.
    async fn figures(&mut self, history: bool) {
        self.now += 1000;
        let one = |method| LegSample {
            task: self.task,
            method,
            bytes_done: self.have,
            add_wire: 1000,
            add_sent: 0,
            add_active_ms: 1000,
            rate: 1000,
            peers: 3,
            ready: false,
            measured: None,
        };
        let legs = [Method::Bt, Method::Obs, Method::Cdn].map(one);
        self.store.record_legs(&legs, history, self.now).await.unwrap();
    }

    /// What an assembly writes after each sync.
    async fn synced(&mut self) {
        self.have = (self.have + 16) % (1 << 20);
        let mut have = RangeSet::new();
        have.insert(0..self.have.max(1));
        let p =
            FileProgress { idx: 0, have, digest: Some(vec![0; 100]), digest_at: 0, verified: false, ..FileProgress::default() };
        self.store.record_files(self.task, &[p]).await.unwrap();
    }
}

async fn reader(store: &Store) -> SqliteConnection {
    let mut conn = SqliteConnectOptions::new().filename(store.path()).connect().await.unwrap();
    conn.execute("begin").await.unwrap();
    let _: i64 = sqlx::query_scalar("select count(*) from tasks").fetch_one(&mut conn).await.unwrap();
    conn
}

#[tokio::test]
async fn a_day_under_a_reader_stays_small_and_is_written_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut d = Delivery::new(dir.path()).await;
    let mut held = reader(&d.store).await;
    let before = d.store.wal_bytes();
    for second in 0..600 {
        d.figures(second % 2 == 0).await;
        if second % 5 == 0 {
            d.synced().await;
        }
    }
    let usual = (d.store.wal_bytes() - before) / 600;
    assert!(!d.store.write_back().await.unwrap(), "somebody reads");
    let before = d.store.wal_bytes();
    // A day, spared.
    for _ in 0..24 * 60 {
        d.figures(false).await;
        d.synced().await;
    }
    let day = d.store.wal_bytes() - before;
    eprintln!("{usual} bytes a second as ever, {day} bytes a day spared ({} a second)", day / 86_400);
    assert!(day < 16 << 20, "{day} bytes in a day");
    assert!(day / 86_400 * 20 < usual, "{usual} bytes a second as ever, {} spared", day / 86_400);
    held.execute("commit").await.unwrap();
    assert!(d.store.write_back().await.unwrap());
    assert_eq!(d.store.wal_bytes(), 0);
    d.figures(true).await;
    assert!(d.store.wal_bytes() > 0, "and writing goes on");
}
