//! Who may import whom, read from the sources: the table that `src/lib.rs` and `docs/architecture.md` describe.
//!
//! Reading `crate::` paths as text is enough, because rustfmt writes them one way, and it needs no compiler internals.
//! Code behind `#[cfg(test)]` may import more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Everybody may use these.
const FREE: &[&str] = &["error", "config", "clock", "telemetry"];
const PARTS: &[&str] = &[
    "api",
    "app",
    "assembly",
    "cli",
    "clock",
    "config",
    "desk",
    "error",
    "library",
    "model",
    "package",
    "store",
    "telemetry",
    "transport",
    "views",
    "web",
    "work",
];
/// A part of the program and what it may import besides itself and what is free.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("error", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("config", &["model"]),
    ("store", &["model"]),
    // hashtable.txt is a view of the store that is read as well; digests are the package's.
    ("library", &["model", "store", "package", "views"]),
    ("package", &["model"]),
    ("transport", &["model"]),
    // The running digest is the package's.
    ("assembly", &["model", "store", "transport", "package", "views"]),
    ("views", &["model", "store"]),
    ("work", &["model", "store", "library", "package", "transport", "assembly", "views"]),
    ("desk", &["model", "store", "package", "library", "views"]),
    ("api", &["desk", "model"]),
    ("web", &["desk", "model"]),
    // Commands that need no service (sample-dcp, check, sql, backup, doctor, tracker, the file of fetch) call the part that
    // does the work.
    ("cli", &["app", "api", "model", "package", "store", "transport", "views", "web"]),
    ("app", PARTS),
    ("main", PARTS),
    ("lib", PARTS),
];
/// What only one folder may name, so that an engine can be replaced there.
const ONLY_THERE: &[(&str, &str)] = &[
    ("sqlx::", "store/"),
    ("librqbit::", "transport/bt/"),
    ("librqbit_core::", "transport/bt/"),
    ("opendal::", "transport/obs/"),
    ("reqsign", "transport/obs/"),
];
const MOST_LINES: usize = 450;

struct Source {
    /// Below `src/`.
    path: String,
    text: String,
}

impl Source {
    /// `store` of `store/tasks.rs`, `app` of `app.rs`.
    fn part(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Lines of the program itself with their numbers: no comments, nothing from `#[cfg(test)]` on.
    fn code(&self) -> Vec<(usize, String)> {
        let is_test = self.path.ends_with("tests.rs") || self.path.ends_with("fixture.rs");
        let until = if is_test { 0 } else { usize::MAX };
        let mut out = Vec::new();
        let mut skip_item = false;
        for (n, line) in self.text.lines().enumerate().take(until) {
            let bare = line.trim_start();
            if bare.starts_with("//") {
                continue;
            }
            if line == "#[cfg(test)]" {
                skip_item = true;
                continue;
            }
            // A skipped item ends with its closing brace in the first column, or is a single line.
            if skip_item {
                skip_item = !(line == "}" || line.ends_with(';'));
                skip_item |= line.starts_with(' ');
                continue;
            }
            out.push((n + 1, line.split(" // ").next().unwrap_or_default().to_owned()));
        }
        out
    }

    /// Parts named by `crate::part` or inside `crate::{...}`.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        for (n, line) in self.code() {
            for rest in line.split("crate::").skip(1) {
                let names: Vec<String> = match rest.strip_prefix('{') {
                    Some(group) => group.split([',', '}']).map(|s| word(s.trim())).collect(),
                    None => vec![word(rest)],
                };
                out.extend(names.into_iter().filter(|w| PARTS.contains(&w.as_str())).map(|w| (n, w)));
            }
        }
        out
    }
}

fn word(s: &str) -> String {
    s.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let read = |p: PathBuf| Source {
        path: p.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(),
        text: std::fs::read_to_string(&p).unwrap(),
    };
    let all: Vec<Source> = paths.into_iter().map(read).collect();
    assert!(all.len() > 100, "only {} sources found", all.len());
    all
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn parts_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let part = source.part();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(p, _)| *p == part) else {
            wrong.push(format!("src/{}: the part {part:?} is not in the table of imports", source.path));
            continue;
        };
        for (line, import) in source.imports() {
            let fine = import == part || allowed.contains(&import.as_str()) || FREE.contains(&import.as_str());
            // What everybody may use must not lead back to the rest.
            let fine = fine && (part != "model" || import == "model");
            if !fine {
                wrong.push(format!("src/{}:{line}: {part} must not import {import} (it may: {allowed:?})", source.path));
            }
        }
    }
    none(&wrong);
}

/// The check itself sees imports: without this, a changed style would make it pass for ever.
#[test]
fn imports_are_seen() {
    let text = "use crate::store::Store;\nuse crate::{desk, api::Reply};\n// use crate::web;\nfn f() { crate::work::go() }\n\
                #[cfg(test)]\nmod tests {\n    use crate::cli::x;\n}\nfn g() -> crate::views::V {}\n#[cfg(test)]\nmod tests;\nuse crate::app;";
    let source = Source { path: "model/x.rs".into(), text: text.into() };
    let seen: Vec<String> = source.imports().into_iter().map(|(_, p)| p).collect();
    assert_eq!(seen, ["store", "desk", "api", "work", "views", "app"]);
    let all: BTreeSet<(String, String)> =
        sources().iter().flat_map(|s| s.imports().into_iter().map(|(_, p)| (s.part().to_owned(), p))).collect();
    for (from, to) in [("work", "assembly"), ("desk", "store"), ("api", "desk"), ("app", "work"), ("package", "model")] {
        assert!(all.contains(&(from.to_owned(), to.to_owned())), "{from} -> {to} is not seen any more");
    }
}

#[test]
fn engines_are_named_in_one_folder() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (line, text) in source.code() {
            for (name, folder) in ONLY_THERE {
                if text.contains(name) && !source.path.starts_with(folder) {
                    wrong.push(format!("src/{}:{line}: only src/{folder} may name {name}", source.path));
                }
            }
        }
    }
    none(&wrong);
}

#[test]
fn files_stay_readable() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("src/{}: {lines} lines; {MOST_LINES} are the most: split it", source.path));
        }
        let stem = source.path.rsplit('/').find(|p| *p != "mod.rs").unwrap_or_default().trim_end_matches(".rs");
        if ["utils", "util", "common", "misc", "helpers"].contains(&stem) {
            wrong.push(format!("src/{}: a module is named after what it does", source.path));
        }
    }
    none(&wrong);
}

#[test]
fn the_table_names_every_part() {
    for part in PARTS {
        assert!(MAY_IMPORT.iter().any(|(p, _)| p == part), "{part} has no row");
    }
}
