//! `bftv2 sql`: one reading query on the service's database, also while the service runs.
//!
//! Preferred over the `sqlite3` shell because it cannot hold a lock, has a time limit, and carries its own SQLite: the
//! shells of some distributions have a WAL defect that this one does not.

use super::exit::{Exit, Failure, Outcome};
use crate::store::queries;
use crate::store::shell::{self, Rows};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  bftv2 sql                                      # the views and their columns
  bftv2 sql --list                               # queries with a name
  bftv2 sql stuck                                # one of them: what is stuck, and why
  bftv2 sql rate-of-task --set task=cfec-001-film.task.json
  bftv2 sql 'select task, state, percent, eta_minutes from v_tasks'
  bftv2 sql 'select * from v_legs where tries > 0' --format json
  bftv2 sql --db /tmp/copy.db --format csv 'select path, sha1 from v_library' > library.csv
  echo 'select count(*) from v_files' | bftv2 sql -

Reads only; safe while the service runs.";

/// What there is to ask, when no query is given.
const OVERVIEW: &str = "select m.name as view, group_concat(c.name, ', ') as columns from sqlite_schema m, pragma_table_info(m.name) c \
where m.type = 'view' group by m.name order by m.name";

/// A query file larger than this is not a query.
const MAX_QUERY: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Ask the database (read-only)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SqlArgs {
    /// The name of a query, or one statement that reads; `-` takes it from standard input
    query: Option<String>,
    /// Show the queries that have a name, and what they answer
    #[arg(long, conflicts_with_all = ["query", "set"])]
    list: bool,
    /// A parameter of the query (`:task` in its text)
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// The database file [default: `database` of the configuration]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// How the rows are printed; json is one object a line
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Stop the query after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl SqlArgs {
    pub async fn run(self, config: &Path) -> Outcome {
        if self.list {
            self.print(&list())?;
            return Ok(Exit::Ok);
        }
        let sql = match self.query.as_deref() {
            None => OVERVIEW.to_owned(),
            Some("-") => from_stdin()?,
            Some(text) => text.to_owned(),
        };
        let sql = match queries::by_name(sql.trim()) {
            Some(query) => {
                let known: Vec<String> = query.parameters.iter().map(|(name, _)| (*name).to_owned()).collect();
                self.only(&known)?;
                query.sql.clone()
            }
            None if looks_like_a_name(&sql) => {
                return Err(Failure::usage(format!("there is no query {:?}: see bftv2 sql --list", sql.trim())));
            }
            None => {
                let known = queries::numbered(&sql).1;
                self.only(&known)?;
                if let Some(name) = known.iter().find(|name| self.set.iter().all(|(n, _)| n != *name)) {
                    return Err(Failure::usage(format!("the query has a parameter :{name}: give --set {name}=VALUE")));
                }
                sql
            }
        };
        let db = match &self.db {
            Some(db) => db.clone(),
            None => super::configuration(config)?.database,
        };
        let rows = shell::query_with(&db, &sql, &self.set, Duration::from_secs(self.timeout)).await?;
        self.print(&rows)?;
        if rows.truncated {
            eprintln!("only the first {} rows are shown: add a limit or a condition to the query", shell::MAX_ROWS);
        }
        Ok(Exit::Ok)
    }
}

impl SqlArgs {
    /// What is set must be a parameter: a misspelled one would silently mean another question.
    fn only(&self, known: &[String]) -> Result<(), Failure> {
        match self.set.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) if known.is_empty() => Err(Failure::usage(format!("--set {name}: the query has no parameters"))),
            Some((name, _)) => Err(Failure::usage(format!("--set {name}: the query's parameters are {}", known.join(", ")))),
        }
    }

    fn print(&self, rows: &Rows) -> Result<(), Failure> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let written = match self.format {
            Format::Table => table(&mut out, rows),
            Format::Csv => csv(&mut out, rows),
            Format::Json => json(&mut out, rows),
        };
        written.and_then(|()| out.flush()).map_err(|e| Failure::local(format!("cannot write the result: {e}")))
    }
}

/// The queries that have a name.
fn list() -> Rows {
    let row = |q: &queries::NamedQuery| {
        let parameters = q.parameters.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        vec![Some(q.name.to_owned()), Some(parameters), Some(q.purpose.clone())]
    };
    let columns = ["name", "parameters", "answers"].map(str::to_owned).to_vec();
    Rows { columns, rows: queries::all().iter().map(row).collect(), truncated: false }
}

/// A single word that is no statement.
fn looks_like_a_name(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give it as NAME=VALUE")?;
    let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fits { Ok((name.to_owned(), value.to_owned())) } else { Err("a name has letters, digits and '_'".into()) }
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_QUERY).read_to_string(&mut text);
    read.map_err(|e| Failure::usage(format!("cannot read the query from standard input: {e}")))?;
    Ok(text)
}

/// Columns as wide as their longest value; numbers to the right.
pub fn table(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    let shown = |v: &Option<String>| v.as_deref().unwrap_or("").replace(|c: char| c.is_control(), " ");
    let numeric = |v: &Option<String>| v.as_deref().is_none_or(|s| s.parse::<f64>().is_ok());
    let mut width: Vec<usize> = rows.columns.iter().map(|c| c.chars().count()).collect();
    let mut right = vec![!rows.rows.is_empty(); width.len()];
    for row in &rows.rows {
        for ((w, r), v) in width.iter_mut().zip(&mut right).zip(row) {
            *w = (*w).max(shown(v).chars().count());
            *r = *r && numeric(v);
        }
    }
    let mut line = |values: &mut dyn Iterator<Item = String>| -> std::io::Result<()> {
        let cells = values.zip(width.iter().zip(&right));
        let text: Vec<String> = cells.map(|(v, (&w, &r))| if r { format!("{v:>w$}") } else { format!("{v:<w$}") }).collect();
        writeln!(out, "{}", text.join("  ").trim_end())
    };
    line(&mut rows.columns.iter().cloned())?;
    line(&mut width.iter().map(|&w| "-".repeat(w)))?;
    for row in &rows.rows {
        line(&mut row.iter().map(shown))?;
    }
    Ok(())
}

/// RFC 4180, with a header. NULL is an empty field.
fn csv(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    let quoted = |s: &str| match s.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", s.replace('"', "\"\"")),
        false => s.to_owned(),
    };
    writeln!(out, "{}", rows.columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(","))?;
    for row in &rows.rows {
        writeln!(out, "{}", row.iter().map(|v| quoted(v.as_deref().unwrap_or(""))).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

/// One object per line, values as text or null: a 64-bit integer survives every reader.
fn json(out: &mut impl Write, rows: &Rows) -> std::io::Result<()> {
    for row in &rows.rows {
        let object: Map<String, Value> =
            rows.columns.iter().cloned().zip(row.iter().map(|v| v.clone().map_or(Value::Null, Value::String))).collect();
        writeln!(out, "{}", Value::Object(object))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let text = |s: &str| Some(s.to_owned());
        Rows {
            columns: vec!["task".into(), "bytes".into()],
            rows: vec![vec![text("a, \"b\""), text("7")], vec![text("c"), text("1234")], vec![None, None]],
            truncated: false,
        }
    }

    fn written(f: impl Fn(&mut Vec<u8>, &Rows) -> std::io::Result<()>) -> String {
        let mut out = Vec::new();
        f(&mut out, &rows()).expect("writes");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn three_forms() {
        assert_eq!(written(table), "task    bytes\n------  -----\na, \"b\"      7\nc        1234\n\n");
        assert_eq!(written(csv), "task,bytes\n\"a, \"\"b\"\"\",7\nc,1234\n,\n");
        assert!(written(json).starts_with("{\"task\":\"a, \\\"b\\\"\",\"bytes\":\"7\"}\n"));
        assert!(written(json).ends_with("{\"task\":null,\"bytes\":null}\n"));
    }
}
