//! The keeper alone, with a database and files but no service: what happens at each look.

use super::*;
use crate::clock::Clock;
use crate::config::{Config, ConfigHandle};
use crate::library::{NotScanned, Scanned};
use crate::model::ids::Sha1;
use crate::package::digest::Sha1State;
use crate::store::Store;
use crate::store::library::{LibraryFile, PackageRow};
use std::fs;

struct Fixture {
    dir: tempfile::TempDir,
    table: Library,
    keeper: Keeper,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("dcp")).unwrap();
        let store = Store::open(&dir.path().join("bft2.db")).await.unwrap();
        let mut f = Self { table: table_of(&store, dir.path(), "hashtable.txt"), keeper: Keeper::default(), dir };
        f.looks(1).await;
        f
    }

    /// The service starts again.
    fn restart(&mut self) {
        self.keeper = Keeper::default();
        self.table = table_of(&self.table.store, self.dir.path(), "hashtable.txt");
    }

    fn path(&self) -> PathBuf {
        self.table.config.current().hashtable.clone()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn in_library(&self, name: &str) -> PathBuf {
        self.dir.path().join("dcp/film").join(name)
    }

    fn line(&self, name: &str) -> String {
        format!("{}  {}\n", digest(name), self.in_library(name).display())
    }

    /// Files with their names as content, and their rows.
    async fn hashed(&self, names: &[&str]) {
        let mut files = Vec::new();
        for name in names {
            let path = self.write(name);
            let stamp = stamp_of(&path).unwrap().unwrap();
            let FileStamp { size, mtime_ns, inode, .. } = stamp;
            files.push(LibraryFile { path, size, mtime_ns, inode, sha1: digest(name) });
        }
        // Each call is a package of its own, or it would replace the files of the one before.
        let package = PackageRow {
            path: self.in_library(names.first().unwrap_or(&"none")),
            name: "film".into(),
            verdict: "complete".into(),
            title: String::new(),
            files: files.len() as u64,
            bytes: 1,
        };
        self.table.store.put_package(&package, &files, 1).await.unwrap();
    }

    fn write(&self, name: &str) -> PathBuf {
        let path = self.in_library(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        path
    }

    /// So many looks, without the pause between two exports.
    async fn looks(&mut self, n: usize) {
        for _ in 0..n {
            self.keeper.next_at = None;
            self.keeper.look(&self.table).await;
        }
    }

    async fn hash_queue(&self) {
        self.table.hash_all(&CancellationToken::new()).await.unwrap();
    }

    /// Names of the files that have rows.
    async fn rows(&self) -> Vec<String> {
        let rows = self.table.store.library_page("", i64::MAX, 10_000).await.unwrap();
        let root = format!("{}/", self.dir.path().join("dcp/film").display());
        rows.into_iter().map(|(path, _)| path.replace(&root, "")).collect()
    }

    async fn events(&self) -> Vec<String> {
        let sql = "select level || ' ' || text from v_events";
        let rows = crate::store::shell::query(self.table.store.path(), sql, Duration::from_secs(20)).await;
        rows.unwrap().rows.into_iter().flatten().flatten().collect()
    }
}

fn table_of(store: &Store, dir: &Path, name: &str) -> Library {
    let text = serde_json::json!({
        "servertype": "receiver", "datadir": dir, "basedatapath": dir.join("dcp"), "hashtable": dir.join(name),
        "settle": 0,
    });
    let (config, _) = Config::parse(text.to_string().as_bytes()).unwrap();
    Library::new(store.clone(), ConfigHandle::new(dir.join("config.json"), config), Clock::real())
}

fn digest(text: &str) -> Sha1 {
    let mut state = Sha1State::new();
    state.update(text.as_bytes());
    state.finish()
}

#[tokio::test]
async fn the_file_follows_the_rows_and_rests_when_they_rest() {
    let mut f = Fixture::new().await;
    assert_eq!(f.text(), "");
    f.hashed(&["b", "a-b", "a/b", "a.mxf"]).await;
    f.looks(1).await;
    assert_eq!(f.text(), ["a-b", "a.mxf", "a/b", "b"].map(|n| f.line(n)).concat());
    let before = stamp_of(&f.path()).unwrap();
    // Written again with the same bytes: by a change that changes nothing, and at a start.
    f.hashed(&["b", "a-b", "a/b", "a.mxf"]).await;
    f.looks(2).await;
    f.restart();
    f.looks(2).await;
    assert_eq!(stamp_of(&f.path()).unwrap(), before);
    assert_eq!(f.events().await, [""; 0]);
    // The pause: an export that was just made is not followed by the next.
    f.keeper.next_at = Some(Instant::now() + 1000 * PAUSE);
    f.hashed(&["c"]).await;
    f.keeper.look(&f.table).await;
    assert_eq!(stamp_of(&f.path()).unwrap(), before);
    f.looks(1).await;
    assert!(f.text().contains(&f.line("c")));
}

#[tokio::test]
async fn a_long_table_is_written_in_pages_and_read_in_batches() {
    let mut f = Fixture::new().await;
    let names: Vec<String> = (0..4999).map(|n| format!("{n:05}")).collect();
    f.hashed(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    f.looks(1).await;
    let lines: Vec<String> = names.iter().map(|n| f.line(n)).collect();
    assert_eq!(f.text(), lines.concat());
    // Every other line, last first.
    let kept: Vec<String> = lines.iter().rev().step_by(2).cloned().collect();
    fs::write(f.path(), kept.concat()).unwrap();
    f.looks(2).await;
    let kept: Vec<String> = names.iter().step_by(2).cloned().collect();
    assert_eq!(f.rows().await, kept);
    assert_eq!(f.text(), kept.iter().map(|n| f.line(n)).collect::<String>());
}

#[tokio::test]
async fn rows_that_came_after_the_export_are_not_forgotten() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b", "last"]).await;
    f.looks(1).await;
    // The newest row goes, so that its id is free: it must not be given to a row that the editor has never seen.
    f.table.store.forget_library_file(&f.in_library("last")).await.unwrap();
    f.hashed(&["new"]).await;
    fs::write(f.path(), f.line("a")).unwrap();
    f.looks(2).await;
    assert_eq!(f.rows().await, ["a", "new"]);
    assert_eq!(f.text(), f.line("a") + &f.line("new"));
    assert_eq!(f.events().await, [format!("info {} was edited: 1 file forgotten", f.path().display())]);
}

#[tokio::test]
async fn an_edit_that_was_made_while_the_service_was_down_counts() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b"]).await;
    f.looks(1).await;
    fs::write(f.path(), "").unwrap();
    f.restart();
    f.looks(2).await;
    assert_eq!(f.rows().await, [""; 0]);
    // Killed between a change of the library and its export: nothing is forgotten.
    f.hashed(&["a", "b"]).await;
    f.restart();
    f.looks(2).await;
    assert_eq!(f.rows().await, ["a", "b"]);
    assert_eq!(f.text(), f.line("a") + &f.line("b"));
}

#[tokio::test]
async fn a_file_that_vanished_is_written_again() {
    let mut f = Fixture::new().await;
    f.hashed(&["a"]).await;
    f.looks(1).await;
    fs::remove_file(f.path()).unwrap();
    // An editor may be between removing the old file and renaming the new one.
    f.looks(1).await;
    assert!(!f.path().exists());
    f.looks(1).await;
    assert_eq!((f.text(), f.rows().await), (f.line("a"), vec!["a".to_owned()]));
    assert_eq!(f.events().await, [""; 0]);
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_out() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b", "c"]).await;
    f.looks(1).await;
    let lines = ["a", "b", "c"].map(|n| f.line(n));
    for n in 0..3 {
        fs::write(f.path(), lines[..n].concat()).unwrap();
        f.hashed(&[&format!("other {n}")]).await; // an export is due, too, and must not come in between
        f.looks(1).await;
        assert_eq!((f.rows().await.len(), f.text()), (4 + n, lines[..n].concat()));
    }
    f.looks(1).await;
    assert_eq!(f.rows().await, ["a", "b", "other 0", "other 1", "other 2"]);
}

#[tokio::test]
async fn new_and_differing_lines_are_hashed_here() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b"]).await;
    f.looks(1).await;
    for name in ["new", "wrong"] {
        f.write(name);
    }
    fs::write(f.dir.path().join("outside"), "x").unwrap();
    std::os::unix::fs::symlink("new", f.in_library("link")).unwrap();
    let other = digest("something else");
    let row = |name: &str| format!("{other} *{}\r\n", f.in_library(name).display());
    let edit = [
        "\u{feff}\r\n".to_owned(),
        f.line("a").to_uppercase().replace(&f.line("a").to_uppercase()[40..], &f.line("a")[40..]),
        row("b"),
        f.line("new"),
        row("wrong"),
        row("gone"),
        row("link"),
        row(".hidden"),
        row("film.finished"),
        format!("{other}  {}\n", f.dir.path().join("outside").display()),
        "# to do\n".into(),
    ];
    fs::write(f.path(), edit.concat()).unwrap();
    f.looks(2).await;
    assert_eq!(f.rows().await, ["a", "b"], "nothing counts before it is hashed");
    f.hash_queue().await;
    f.looks(1).await;
    assert_eq!(f.text(), ["a", "b", "new", "wrong"].map(|n| f.line(n)).concat());
    let events = f.events().await;
    assert!(
        events[0]
            .ends_with(".hidden: it is one of the service's own files, hidden or temporary), 1 line not understood (line 11)")
    );
    assert!(events[0].contains(" was edited: 4 new files to hash, 1 file to hash again, 3 lines refused ("), "{events:?}");
    assert!(events[1].starts_with("warn files of the library: 3 hashed; 2 had another digest in the hash table ("), "{events:?}");
    assert!(events[1].contains("; 2 not taken in (") && events.len() == 2, "{events:?}");
}

#[tokio::test]
async fn a_file_that_changed_is_hashed_again_and_one_that_is_gone_is_forgotten() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b"]).await;
    f.looks(1).await;
    fs::write(f.in_library("a"), "new bytes").unwrap();
    fs::remove_file(f.in_library("b")).unwrap();
    let new = digest("new bytes");
    let lines = ["a", "b"].map(|n| format!("{new}  {}\n", f.in_library(n).display()));
    fs::write(f.path(), lines.concat()).unwrap();
    f.looks(2).await;
    f.hash_queue().await;
    f.looks(1).await;
    assert_eq!(f.text(), lines[0]);
}

#[tokio::test]
async fn an_emptied_file_empties_the_table_and_the_queue() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b"]).await;
    f.looks(1).await;
    f.write("new");
    fs::write(f.path(), f.text() + &f.line("new")).unwrap();
    f.looks(2).await;
    fs::write(f.path(), "\r\n").unwrap();
    f.looks(2).await;
    f.hash_queue().await;
    f.looks(1).await;
    assert_eq!((f.rows().await, f.text()), (vec![], String::new()));
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b"]).await;
    f.looks(1).await;
    let elsewhere = format!("{}  /somewhere/else\n", digest("x"));
    let garbage: [&[u8]; 3] = [&[0, 159, 146, 150, 10, 255], b"<html>\n</html>\n", elsewhere.as_bytes()];
    for (n, bytes) in garbage.into_iter().enumerate() {
        fs::write(f.path(), bytes).unwrap();
        f.looks(2).await;
        assert_eq!((f.rows().await.len(), f.text()), (2, f.line("a") + &f.line("b")));
        let events = f.events().await;
        assert!(events.len() == n + 1 && events[n].contains("has no good line ("), "{events:?}");
    }
}

/// A path that was never ours: what lies there may be anything.
#[tokio::test]
async fn a_foreign_file_is_read_but_not_obeyed() {
    let mut f = Fixture::new().await;
    f.hashed(&["a", "b"]).await;
    f.write("c");
    f.table = table_of(&f.table.store, f.dir.path(), "notes.txt");
    fs::write(f.path(), "shopping list\n").unwrap();
    f.looks(5).await;
    assert_eq!(f.text(), "shopping list\n");
    let events = f.events().await;
    assert!(events.len() == 1 && events[0].contains("move it away, or set hashtable"), "{events:?}");

    // A table of an older system: what it has is taken in, what it lacks is not forgotten.
    f.keeper.trouble = None;
    fs::write(f.path(), f.line("c")).unwrap();
    f.looks(2).await;
    f.hash_queue().await;
    f.looks(1).await;
    assert_eq!(f.text(), ["a", "b", "c"].map(|n| f.line(n)).concat());
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_complained_of_once() {
    let mut f = Fixture::new().await;
    f.hashed(&["a"]).await;
    fs::write(f.dir.path().join("file"), "").unwrap();
    // The first cannot be looked at, the second not be made, also by root.
    for (n, path) in ["file/hashtable.txt", "/proc/bft2/hashtable.txt", "file/hashtable.txt"].into_iter().enumerate() {
        f.table = table_of(&f.table.store, f.dir.path(), path);
        for _ in 0..3 {
            f.keeper.look(&f.table).await;
            f.keeper.trouble.as_mut().expect("a complaint").1 = Instant::now().checked_sub(RETRY).unwrap();
        }
        let events = f.events().await;
        assert!(events.len() == n + 1 && events[n].contains("set hashtable to"), "{events:?}");
    }
    fs::remove_file(f.dir.path().join("file")).unwrap();
    f.looks(1).await;
    assert_eq!(f.text(), f.line("a"));
}

#[tokio::test]
async fn who_waits_for_an_edit_sees_it() {
    let mut f = Fixture::new().await;
    f.hashed(&["a"]).await;
    f.looks(1).await;
    f.table.settled().await; // nothing to wait for
    fs::write(f.path(), "").unwrap();
    let mut wait = std::pin::pin!(f.table.settled());
    assert!(futures::poll!(&mut wait).is_pending());
    for _ in 0..2 {
        f.keeper.next_at = None;
        f.keeper.look(&f.table).await;
    }
    wait.await;
    assert_eq!(f.table.store.library_page("", i64::MAX, 9).await.unwrap(), []);
}

#[tokio::test]
async fn a_scan_queues_what_differs_and_forgets_what_is_gone() {
    let mut f = Fixture::new().await;
    f.hashed(&["same", "changed", "gone"]).await;
    fs::write(f.in_library("changed"), "other").unwrap();
    fs::remove_file(f.in_library("gone")).unwrap();
    f.write("new");
    let want = Scanned { queued: 2, known: 1, gone: 1, skipped: 0 };
    assert_eq!(f.table.scan(None, false).await.unwrap(), want);
    let waiting = f.table.waiting().await.unwrap();
    assert_eq!((waiting.left.files, waiting.left.bytes, waiting.scanning), (2, 8, false));
    // They still wait: the same again, and nothing more to tell.
    assert_eq!(f.table.scan(None, false).await.unwrap(), Scanned { gone: 0, ..want });
    assert_eq!(f.events().await.len(), 1, "{:?}", f.events().await);
    f.hash_queue().await;
    assert_eq!(f.rows().await, ["changed", "new", "same"]);
    let waiting = f.table.waiting().await.unwrap();
    assert_eq!((waiting.left.files, waiting.state.as_str()), (0, "idle"));
    assert!(!f.events().await.concat().contains("another digest"), "nobody had promised one");
    // What a line says of a file is compared, also when a scan meets the file meanwhile.
    f.looks(1).await;
    fs::write(f.path(), f.text().replacen(&digest("same").to_string(), &digest("x").to_string(), 1)).unwrap();
    f.looks(2).await;
    assert_eq!(f.table.scan(None, true).await.unwrap(), Scanned { queued: 3, ..Scanned::default() });
    f.hash_queue().await;
    assert!(f.events().await.concat().contains("3 hashed; 1 had another digest in the hash table"), "{:?}", f.events().await);
}

#[tokio::test]
async fn an_empty_library_forgets_nothing() {
    let f = Fixture::new().await;
    f.hashed(&["a"]).await;
    let away = f.dir.path().join("away");
    fs::rename(f.in_library(""), &away).unwrap();
    for _ in 0..2 {
        assert_eq!(f.table.scan(None, false).await.unwrap(), Scanned::default());
    }
    assert_eq!(f.rows().await, ["a"]);
    assert!(f.events().await.concat().contains("is the disk mounted?"));
    assert_eq!(f.events().await.len(), 1, "said once");
    // Below a directory that is there, it is meant.
    fs::create_dir(f.in_library("")).unwrap();
    let film = f.in_library("").display().to_string();
    assert_eq!(f.table.scan(Some(&film), false).await.unwrap().gone, 1);
}

#[tokio::test]
async fn one_scan_at_a_time() {
    let f = Fixture::new().await;
    let held = f.table.scans.lock().await;
    assert!(f.table.waiting().await.unwrap().scanning);
    assert!(matches!(f.table.scan(None, false).await, Err(NotScanned::Busy)));
    drop(held);
    assert!(f.table.scan(None, false).await.is_ok());
}
