//! The documents say what is so: their queries run, their links lead somewhere, the reference of configuration keys is
//! the set of keys, and every command they show exists.

use bft2::config::Config;
use bft2::store::{Store, shell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The Markdown files of the repository.
fn documents() -> Vec<PathBuf> {
    let below = |dir: PathBuf| std::fs::read_dir(dir).expect("directory").map(|e| e.expect("entry").path());
    let mut all: Vec<_> =
        below(root().to_owned()).chain(below(root().join("docs"))).filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    all.sort();
    assert!(all.len() >= 6, "README, its translation and docs/: {all:?}");
    all
}

/// The fenced blocks of a language, with the line they begin on.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut open: Option<(usize, bool, String)> = None;
    for (n, line) in (1..).zip(text.lines()) {
        match (line.trim_start().strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => {
                let (at, wanted, body) = open.take().expect("a block is open");
                if wanted {
                    out.push((at, body));
                }
            }
            (Some(word), None) => open = Some((n, word.trim() == language, String::new())),
            (None, Some((_, _, body))) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    out
}

/// The first cells of table rows below a heading (up to the next heading of its depth or above) that are code.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let depth = heading.chars().take_while(|c| *c == '#').count();
    let is_end = |l: &&str| {
        let d = l.chars().take_while(|c| *c == '#').count();
        d > 0 && d <= depth && l.chars().nth(d) == Some(' ')
    };
    let mut lines = text.lines().skip_while(|l| *l != heading);
    assert!(lines.next().is_some(), "there is no heading {heading:?}");
    lines
        .take_while(|l| !is_end(l))
        .filter(|l| l.starts_with("| `"))
        .map(|l| l.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect())
        .collect()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

async fn fresh_database() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("bft2.db");
    Store::open(&path).await.expect("a migrated database").close().await;
    (dir, path)
}

#[tokio::test]
async fn every_documented_query_runs() {
    let (_dir, db) = fresh_database().await;
    let queries = blocks(&text("docs/sql.md"), "sql");
    assert!(queries.len() >= 25, "{} queries", queries.len());
    for (line, sql) in queries {
        if let Err(fault) = shell::query(&db, &sql, Duration::from_secs(10)).await {
            panic!("docs/sql.md, block at line {line}: {fault}\n{sql}");
        }
    }
}

#[tokio::test]
async fn every_view_is_documented_with_its_columns() {
    let (_dir, db) = fresh_database().await;
    let sql = "select m.name, c.name from sqlite_schema m, pragma_table_info(m.name) c where m.type = 'view' order by 1, c.cid";
    let rows = shell::query(&db, sql, Duration::from_secs(10)).await.expect("views").rows;
    let mut views: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let [Some(view), Some(column)] = &row[..] else { panic!("{row:?}") };
        views.entry(view.clone()).or_default().push(column.clone());
    }
    let document = text("docs/sql.md");
    for (view, columns) in views {
        let shown: Vec<_> = table(&document, &format!("### {view}")).iter().map(|r| code(&r[0])).collect();
        assert_eq!(shown, columns, "{view}: documented on the left, in the database on the right");
    }
}

#[test]
fn every_relative_link_leads_to_a_file() {
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.starts_with("mailto:")) {
            let file = target.split('#').next().unwrap_or_default();
            let full = path.parent().expect("a directory").join(file);
            assert!(full.exists(), "{}: the link {target} leads nowhere", path.display());
            if let Some((_, anchor)) = target.split_once('#') {
                let there = std::fs::read_to_string(&full).expect("readable");
                assert!(anchors(&there).contains(anchor), "{}: no heading for {target}", path.display());
            }
        }
    }
}

/// Anchors as GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |l: &str| l.starts_with('#').then(|| l.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    text.lines().filter_map(heading).map(|h| h.chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn the_reference_of_keys_is_the_set_of_keys_with_their_defaults() {
    let (config, _) = Config::parse(br#"{"servertype": "receiver"}"#).expect("the smallest configuration");
    let serde_json::Value::Object(keys) = config.masked_json() else { panic!("an object") };
    let rows = table(&text("docs/operating.md"), "## Configuration");
    let documented: BTreeSet<String> = rows.iter().map(|r| code(&r[0])).collect();
    assert_eq!(documented.len(), rows.len(), "a key is documented twice");
    assert_eq!(documented, keys.keys().cloned().collect(), "documented on the left, known on the right");
    // Every key that the parser asks for is among those that it can show.
    let source = text("src/config/keys.rs");
    for spelling in source.split("(&[\"").skip(1).filter_map(|s| s.split('"').next()) {
        assert!(keys.contains_key(spelling), "{spelling} is read but not shown");
    }
    for row in rows {
        let (key, default) = (code(&row[0]), &row[2]);
        let shown = match &keys[&key] {
            _ if key == "servertype" => "required".to_owned(),
            serde_json::Value::String(s) if s.is_empty() => "empty".to_owned(),
            serde_json::Value::String(s) => format!("`{s}`"),
            serde_json::Value::Array(a) if a.is_empty() => "empty".to_owned(),
            other => format!("`{other}`"),
        };
        assert_eq!(*default, shown, "default of {key}");
    }
}

#[test]
fn every_command_in_the_documents_exists() {
    let mut commands = BTreeSet::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("readable");
        // In shell blocks anywhere, in the text between backticks.
        let shell = blocks(&text, "sh").into_iter().map(|(_, b)| b).collect::<String>();
        for rest in shell.split("bftv2 ").skip(1).chain(text.split("`bftv2 ").skip(1)) {
            let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if !word.is_empty() && !word.starts_with('-') {
                commands.insert(word);
            }
        }
    }
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_bftv2")).args([&command, "--help"]).output().expect("runs");
        assert!(out.status.success(), "bftv2 {command}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn the_tests_that_hold_the_rules_exist() {
    let mut cited = 0;
    for line in text("docs/architecture.md").lines().filter(|l| l.starts_with("| ")) {
        for pair in line.split('`').skip(1).step_by(2).filter_map(|c| c.split_once(".rs::")) {
            let source = text(&format!("{}.rs", pair.0));
            assert!(source.contains(&format!("fn {}(", pair.1)), "{}.rs has no test {}", pair.0, pair.1);
            cited += 1;
        }
    }
    assert!(cited >= 20, "{cited} tests are cited");
}
