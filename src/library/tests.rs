//! What a look at the disk means for the rows: without a service, with a database and files.

use super::*;
use crate::config::Config;
use crate::model::ids::Sha1;
use crate::package::digest::Sha1State;
use crate::store::library::LibraryFile;
use crate::store::library_queue::{HashedFile, QueuedFile};
use std::fs;
use std::path::PathBuf;

struct Fixture {
    dir: tempfile::TempDir,
    library: Library,
}

impl Fixture {
    async fn new(settle: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("dcp/film")).unwrap();
        let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
        let text = serde_json::json!({
            "servertype": "receiver", "datadir": dir.path(), "basedatapath": dir.path().join("dcp"),
            "hashtable": dir.path().join("hashtable.txt"), "settle": settle,
        });
        let (config, _) = Config::parse(text.to_string().as_bytes()).unwrap();
        let clock = Clock::fixed(chrono::Local::now());
        let library = Library::new(store, ConfigHandle::new(dir.path().join("config.json"), config), clock);
        Self { dir, library }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("dcp/film").join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    async fn scan(&self) -> (u64, u64, u64) {
        let s = self.library.scan(None, false).await.unwrap();
        (s.queued, s.known, s.gone)
    }

    async fn touched(&self, names: &[&str]) -> (u64, u64, u64) {
        let s = self.library.look_at(names.iter().map(|n| self.path(n)).collect()).await.unwrap();
        (s.queued, s.known, s.gone)
    }

    async fn hash(&self) {
        self.library.hash_all(&CancellationToken::new()).await.unwrap();
    }

    fn later(&self, seconds: i64) {
        self.library.clock.set(self.library.clock.now() + chrono::Duration::seconds(seconds));
    }

    /// Names and digests of the rows.
    async fn rows(&self) -> Vec<(String, Sha1)> {
        let rows = self.library.store.library_page("", i64::MAX, 10_000).await.unwrap();
        let root = format!("{}/", self.path("").display().to_string().trim_end_matches('/'));
        rows.into_iter().map(|(path, sha1)| (path.replace(&root, ""), sha1)).collect()
    }

    async fn names(&self) -> Vec<String> {
        self.rows().await.into_iter().map(|r| r.0).collect()
    }

    /// What an operator's hand could do to the database.
    async fn alter(&self, sql: &'static str) {
        use sqlx::ConnectOptions as _;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.library.store.path());
        let mut db = options.connect().await.unwrap();
        sqlx::query(sql).execute(&mut db).await.unwrap();
    }

    async fn sql(&self, sql: &str) -> String {
        let rows = crate::store::shell::query(self.library.store.path(), sql, std::time::Duration::from_secs(20)).await;
        let cell = |c: Option<String>| c.unwrap_or_default();
        let row = |r: Vec<Option<String>>| r.into_iter().map(cell).collect::<Vec<_>>().join("|");
        rows.unwrap().rows.into_iter().map(row).collect::<Vec<_>>().join("\n")
    }
}

fn digest(text: &str) -> Sha1 {
    let mut state = Sha1State::new();
    state.update(text.as_bytes());
    state.finish()
}

#[tokio::test]
async fn a_renamed_file_keeps_its_digest() {
    let f = Fixture::new(0).await;
    f.write("a/one", "1");
    f.write("a/two", "2");
    f.write("b", "3");
    assert_eq!(f.scan().await, (3, 0, 0));
    f.hash().await;
    // The watch tells both names; a directory is looked through.
    fs::rename(f.path("b"), f.path("z")).unwrap();
    assert_eq!(f.touched(&["b", "z"]).await, (0, 1, 0));
    fs::rename(f.path("a"), f.path("c")).unwrap();
    assert_eq!(f.scan().await, (0, 3, 0));
    assert_eq!(f.rows().await, [("c/one".into(), digest("1")), ("c/two".into(), digest("2")), ("z".into(), digest("3"))]);
    // A second name is the same file; another file of the same size and time is not.
    fs::hard_link(f.path("z"), f.path("again")).unwrap();
    let time = fs::metadata(f.path("z")).and_then(|m| m.modified()).unwrap();
    fs::File::options().write(true).open(f.write("copy", "3")).and_then(|c| c.set_modified(time)).unwrap();
    // The link has changed something about the file: it keeps its digest, which is made sure of.
    assert_eq!(f.scan().await, (2, 3, 0));
    assert_eq!(f.names().await, ["again", "c/one", "c/two", "z"]);
    let waiting = f.sql("select path from v_hash_queue order by path").await;
    assert_eq!(waiting, format!("{}\n{}", f.path("copy").display(), f.path("z").display()));
}

#[tokio::test]
async fn a_changed_file_loses_its_digest_at_once() {
    let f = Fixture::new(2).await;
    f.write("a", "1");
    f.write("b", "1");
    f.scan().await;
    f.later(3);
    f.hash().await;
    assert_eq!(f.names().await, ["a", "b"]);
    f.write("a", "22");
    assert_eq!(f.touched(&["a"]).await, (1, 0, 0));
    assert_eq!(f.names().await, ["b"]);
    fs::remove_file(f.path("b")).unwrap();
    assert_eq!(f.touched(&["b"]).await, (0, 0, 1));
    f.later(3);
    f.hash().await;
    assert_eq!(f.rows().await, [("a".into(), digest("22"))]);
}

#[tokio::test]
async fn a_file_is_hashed_when_it_is_complete() {
    let f = Fixture::new(2).await;
    let path = f.path("a");
    let writer = fs::File::create(&path).unwrap();
    f.touched(&["a"]).await;
    f.hash().await;
    let state = "select state, size from v_hash_queue";
    assert_eq!(f.names().await, Vec::<String>::new(), "it was not quiet");
    f.later(3);
    f.hash().await;
    assert_eq!((f.names().await, f.sql(state).await), (vec![], "being written|0".into()));
    // The end of the writing is seen: it is quiet from then on.
    drop(writer);
    f.write("a", "whole");
    fs::File::options().write(true).open(&path).and_then(|a| a.set_modified(f.library.clock.now().into())).unwrap();
    f.later(1);
    f.touched(&["a"]).await;
    f.hash().await;
    assert_eq!(f.names().await, Vec::<String>::new());
    f.later(3);
    f.hash().await;
    assert_eq!((f.rows().await, f.sql(state).await), (vec![("a".into(), digest("whole"))], String::new()));
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_nothing_up_for_long() {
    let f = Fixture::new(2).await;
    f.write("a", "1");
    f.scan().await;
    f.later(-7 * 24 * 3600);
    f.hash().await;
    assert_eq!(f.names().await, ["a"]);
}

#[tokio::test]
async fn an_interrupted_digest_is_kept() {
    let f = Fixture::new(0).await;
    let path = f.write("a", "abcdef");
    f.scan().await;
    let mut state = Sha1State::new();
    state.update(b"xyz"); // other bytes: the result tells that it was taken up
    let stamp = FileStamp::of(&path.metadata().unwrap());
    let due: i64 = f.sql("select due_at from library_queue").await.parse().unwrap();
    let name = path.display().to_string();
    f.library.store.keep_queued_digest(&name, due, &stamp, &state.to_bytes(), 3).await.unwrap();
    assert_eq!(f.library.waiting().await.unwrap().left.bytes, 3);
    // Seen again as it was, it keeps its place and what is done.
    f.scan().await;
    f.hash().await;
    assert_eq!(f.rows().await, [("a".into(), digest("xyzdef"))]);
    // A stop keeps nothing of a file that was not begun.
    f.write("b", "b");
    f.scan().await;
    let stop = CancellationToken::new();
    stop.cancel();
    f.library.hash_all(&stop).await.unwrap();
    assert_eq!(f.names().await, ["a"]);
}

#[tokio::test]
async fn damage_is_found_by_hashing_anew_and_told() {
    let f = Fixture::new(0).await;
    let path = f.write("a", "2");
    f.scan().await;
    f.hash().await;
    // What a disk does to bytes leaves no trace in the times: here the row is of other bytes.
    let meta = path.metadata().unwrap();
    let FileStamp { size, mtime_ns, inode, ctime_ns } = FileStamp::of(&meta);
    let file = LibraryFile { path: path.clone(), size, mtime_ns, inode, sha1: digest("1") };
    let queued = QueuedFile { path: path.display().to_string(), listed: None, stamp: None, anew: false, due_at: 1 };
    f.library.store.queue_library_files(&[queued]).await.unwrap();
    let hashed = HashedFile { file, ctime_ns, born_ns: hash::born_ns(&meta) };
    f.library.store.put_hashed_files(&[(hashed, 1)], 1, |_, _, _| None).await.unwrap();
    assert_eq!(f.scan().await, (0, 1, 0));
    f.library.scan(None, true).await.unwrap();
    // Whoever waits for the queue to be empty counts the damages next: a damage that cannot be told leaves its file there.
    let held = "CREATE TRIGGER held BEFORE INSERT ON events WHEN NEW.kind = 'damaged' BEGIN SELECT RAISE(ABORT, 'held'); END";
    f.alter(held).await;
    assert!(f.library.hash_all(&CancellationToken::new()).await.is_err());
    assert_eq!(f.sql("select count(*) from library_queue").await, "1");
    f.alter("DROP TRIGGER held").await;
    f.hash().await;
    assert_eq!(f.rows().await, [("a".into(), digest("2"))]);
    let told = f.sql("select level, text from v_events where kind = 'damaged'").await;
    assert!(told.starts_with("error|") && told.contains(&digest("1").to_string()), "{told}");
}

#[tokio::test]
async fn a_file_that_got_its_old_time_back_is_hashed_again() {
    let f = Fixture::new(0).await;
    let path = f.write("a", "1");
    f.scan().await;
    f.hash().await;
    let time = path.metadata().and_then(|m| m.modified()).unwrap();
    fs::write(&path, "2").unwrap();
    fs::File::options().write(true).open(&path).and_then(|c| c.set_modified(time)).unwrap();
    assert_eq!(f.touched(&["a"]).await, (1, 0, 0));
    f.hash().await;
    assert_eq!(f.rows().await, [("a".into(), digest("2"))]);
    assert_eq!(f.sql("select text from v_events where kind = 'damaged'").await, "", "that is no damage");
    // Removed and made again in its place, with its size and time, perhaps with its inode.
    f.write("b", "3");
    fs::remove_file(&path).unwrap();
    fs::File::options().write(true).open(f.write("c", "4")).and_then(|c| c.set_modified(time)).unwrap();
    f.scan().await;
    f.hash().await;
    assert_eq!(f.rows().await, [("b".into(), digest("3")), ("c".into(), digest("4"))]);
    // A new owner or new rights change no bytes: the digest stays while it is made sure of.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(f.path("b"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(f.touched(&["b"]).await, (1, 0, 0));
    assert_eq!(f.names().await, ["b", "c"]);
    f.hash().await;
    assert_eq!(f.scan().await, (0, 2, 0));
}

#[tokio::test]
async fn a_name_that_is_taken_over_keeps_both_digests() {
    let f = Fixture::new(0).await;
    f.write("film/a", "old");
    f.write("film.new/a", "new");
    f.write("x", "1");
    f.write("y", "2");
    f.scan().await;
    f.hash().await;
    fs::rename(f.path("film"), f.path("film.old")).unwrap();
    fs::rename(f.path("film.new"), f.path("film")).unwrap();
    f.library.look_through(vec![f.path("film"), f.path("film.old")]).await.unwrap();
    f.touched(&["film.new"]).await;
    fs::rename(f.path("x"), f.path("z")).unwrap();
    fs::rename(f.path("y"), f.path("x")).unwrap();
    fs::rename(f.path("z"), f.path("y")).unwrap();
    assert_eq!(f.touched(&["x", "y", "z"]).await, (0, 2, 0));
    let expected = [("film.old/a", "old"), ("film/a", "new"), ("x", "2"), ("y", "1")];
    assert_eq!(f.rows().await, expected.map(|(name, text)| (name.to_owned(), digest(text))));
    assert_eq!(f.sql("select count(*) from v_hash_queue").await, "0");
}

#[tokio::test]
async fn a_renamed_file_is_read_when_everything_is_to_be() {
    let f = Fixture::new(0).await;
    f.write("a", "1");
    f.scan().await;
    f.hash().await;
    fs::rename(f.path("a"), f.path("b")).unwrap();
    let scanned = f.library.scan(None, true).await.unwrap();
    assert_eq!((scanned.queued, scanned.known, scanned.gone), (1, 0, 1));
    assert_eq!(f.names().await, Vec::<String>::new());
    f.hash().await;
    assert_eq!(f.rows().await, [("b".into(), digest("1"))]);
}

#[tokio::test]
async fn other_names_of_a_changed_file_change_with_it() {
    let f = Fixture::new(0).await;
    f.write("a", "1");
    fs::hard_link(f.path("a"), f.path("b")).unwrap();
    f.scan().await;
    f.hash().await;
    for text in ["22", "333"] {
        f.write("a", text);
        f.touched(&["a"]).await;
        let (_, others) = f.library.touched.take();
        f.library.look_at(others).await.unwrap();
        f.hash().await;
        assert_eq!(f.rows().await, [("a".into(), digest(text)), ("b".into(), digest(text))]);
    }
}

#[tokio::test]
async fn an_unreadable_file_is_not_tried_for_ever() {
    let f = Fixture::new(0).await;
    let path = f.write("a", "1");
    let stamp = FileStamp::of(&path.metadata().unwrap());
    f.library.refuse(&path.display().to_string(), Some(stamp));
    assert_eq!(f.scan().await, (0, 0, 0));
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(f.scan().await, (1, 0, 0), "its rights have changed");
}

#[tokio::test]
async fn what_is_no_file_of_the_library_is_left_alone() {
    let f = Fixture::new(0).await;
    f.write("a", "1");
    for name in ["x.part", "x.torrent", ".hidden", "x.finished", "b-tmp/c", "x.task.json"] {
        f.write(name, "x");
    }
    fs::create_dir_all(f.dir.path().join("transfer")).unwrap();
    std::os::unix::fs::symlink(f.path(""), f.path("loop")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(f.path("socket")).unwrap();
    use std::os::unix::ffi::OsStrExt as _;
    fs::write(f.path("").join(std::ffi::OsStr::from_bytes(b"odd\xff")), "x").unwrap();
    let scanned = f.library.scan(None, false).await.unwrap();
    assert_eq!((scanned.queued, scanned.skipped), (1, 1));
    f.touched(&["x.part", "loop", "socket", "b-tmp/c", "loop/a"]).await;
    f.hash().await;
    assert_eq!(f.names().await, ["a"]);
    assert!(f.sql("select text from v_events where level = 'warn'").await.contains("not UTF-8"));
}

#[tokio::test]
async fn a_thousand_small_files_are_all_right() {
    let f = Fixture::new(0).await;
    for n in 0..3000 {
        f.write(&format!("{}/{n}", n % 7), &n.to_string());
    }
    assert_eq!(f.scan().await, (3000, 0, 0));
    f.hash().await;
    let rows = f.rows().await;
    assert_eq!(rows.len(), 3000);
    for (name, sha1) in rows {
        assert_eq!(sha1, digest(name.split_once('/').unwrap().1), "{name}");
    }
    assert_eq!(f.scan().await, (0, 3000, 0));
    fs::remove_dir_all(f.path("3")).unwrap();
    assert_eq!(f.touched(&["3"]).await.2, 429);
}
