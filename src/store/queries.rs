//! Queries with names: what operators ask most, in `queries.sql`, and parameters of queries.
//!
//! Parameters are SQLite's own (`:task`), so that a query can be pasted into any shell; sqlx knows numbers only, hence
//! [`numbered`].

use std::sync::LazyLock;

/// One question with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedQuery {
    pub name: &'static str,
    /// What it answers, in a sentence or two.
    pub purpose: String,
    /// Name and meaning.
    pub parameters: Vec<(&'static str, &'static str)>,
    pub sql: String,
}

static ALL: LazyLock<Vec<NamedQuery>> = LazyLock::new(|| read(include_str!("queries.sql")));

/// All of them, in the order of the file.
pub fn all() -> &'static [NamedQuery] {
    &ALL
}

pub fn by_name(name: &str) -> Option<&'static NamedQuery> {
    ALL.iter().find(|q| q.name == name)
}

/// The comment lines that follow a query's first line belong to its purpose, until SQL or a parameter begins.
fn read(text: &'static str) -> Vec<NamedQuery> {
    let mut out: Vec<NamedQuery> = Vec::new();
    for line in text.lines() {
        if let Some((name, purpose)) = line.strip_prefix("--@ ").and_then(|l| l.split_once(": ")) {
            out.push(NamedQuery { name, purpose: purpose.to_owned(), parameters: Vec::new(), sql: String::new() });
            continue;
        }
        let Some(query) = out.last_mut() else { continue };
        if let Some((name, meaning)) = line.strip_prefix("--: ").and_then(|l| l.split_once(' ')) {
            query.parameters.push((name, meaning));
        } else if let Some(more) = line.strip_prefix("-- ").filter(|_| query.sql.is_empty() && query.parameters.is_empty()) {
            query.purpose.push(' ');
            query.purpose.push_str(more);
        } else if !line.is_empty() {
            query.sql.push_str(line);
            query.sql.push('\n');
        }
    }
    out
}

/// The parameters of a statement in the order of their first use, and the statement with numbers for them.
pub fn numbered(sql: &str) -> (String, Vec<String>) {
    let (mut out, mut names) = (String::with_capacity(sql.len()), Vec::<String>::new());
    let mut rest = sql;
    let mut before = ' ';
    while let Some(mark) = rest.chars().next() {
        let after = rest.split_at(mark.len_utf8()).1;
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String = after.chars().take_while(|c| is_word(*c)).collect();
        let quoted = |end: &str| after.find(end).map_or(rest.len(), |at| mark.len_utf8() + at + end.len());
        let taken = match mark {
            '\'' => quoted("'"),
            '"' => quoted("\""),
            '`' => quoted("`"),
            '[' => quoted("]"),
            '-' if after.starts_with('-') => quoted("\n"),
            '/' if after.starts_with('*') => quoted("*/"),
            ':' | '@' | '$' if !name.is_empty() && !is_word(before) => {
                let at = names.iter().position(|n| *n == name).unwrap_or_else(|| {
                    names.push(name.clone());
                    names.len() - 1
                });
                out.push_str(&format!("?{}", at + 1));
                rest = after.split_at(name.len()).1;
                before = '1';
                continue;
            }
            _ => mark.len_utf8(),
        };
        let (piece, remaining) = rest.split_at(taken);
        out.push_str(piece);
        before = piece.chars().next_back().unwrap_or(' ');
        rest = remaining;
    }
    (out, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_and_parameters_are_those_of_the_sql() {
        assert!(all().len() >= 25, "{} queries", all().len());
        for (n, query) in all().iter().enumerate() {
            assert!(all()[..n].iter().all(|q| q.name != query.name), "{} is there twice", query.name);
            assert!(query.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", query.name);
            assert!(query.purpose.ends_with('.') || query.purpose.ends_with('?'), "{}: {}", query.name, query.purpose);
            let mut told: Vec<_> = query.parameters.iter().map(|(name, _)| (*name).to_owned()).collect();
            let (_, mut used) = numbered(&query.sql);
            told.sort();
            used.sort();
            assert_eq!(told, used, "{}: described on the left, used on the right", query.name);
        }
        assert_eq!(by_name("stuck").map(|q| q.name), Some("stuck"));
        assert_eq!(by_name("select"), None);
    }

    #[test]
    fn parameters_become_numbers_outside_strings_and_comments() {
        let (sql, names) = numbered("select :a, ':b', \"c:d\", x.\"$e\" -- :f\n, @g + :a, '$.h' /* :i */, j$k, 'ä', 1:l");
        assert_eq!(sql, "select ?1, ':b', \"c:d\", x.\"$e\" -- :f\n, ?2 + ?1, '$.h' /* :i */, j$k, 'ä', 1:l");
        assert_eq!(names, ["a", "g"]);
        assert_eq!(numbered("select 'open :a").0, "select 'open :a");
        assert_eq!(numbered("select a : b, ::c").1, ["c"]);
    }
}
