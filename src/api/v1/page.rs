//! Lists in pages. A cursor is opaque to clients: it is the key of the last row, so a page costs the same wherever it
//! is, and rows that come and go meanwhile are neither repeated nor lost.

use poem_openapi::Object;
use poem_openapi::types::{Example, ParseFromJSON, ToJSON, Type};

use super::problem::Failed;

/// How many rows a page has when the client does not say.
pub(super) fn default_limit() -> u32 {
    100
}

/// How many it has at most.
const MOST: u32 = 500;

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, skip_serializing_if_is_none)]
pub struct Page<T: ParseFromJSON + ToJSON + Type + Example> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page. Absent on the last page.
    pub next: Option<String>,
}

impl<T: ParseFromJSON + ToJSON + Type + Example> Example for Page<T> {
    fn example() -> Self {
        Self { items: vec![T::example()], next: Some("17".into()) }
    }
}

/// What a client asked for: so many rows, after this key.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    limit: u32,
    cursor: Option<String>,
}

impl Wanted {
    /// The validators of the parameters hold already: `limit` is 1 to 500.
    pub(super) fn new(limit: u32, cursor: Option<String>) -> Self {
        Self { limit: limit.clamp(1, MOST), cursor: cursor.filter(|c| !c.is_empty()) }
    }

    /// So many rows are to be read: one more than shown, to know whether there is a next page.
    pub(super) fn rows(&self) -> u32 {
        self.limit + 1
    }

    /// The cursor where it is a text.
    pub(super) fn after_text(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The cursor where it is a number.
    pub(super) fn after_number(&self) -> Result<Option<i64>, Failed> {
        let number = |c: &String| c.parse().ok().filter(|n| *n >= 0);
        match &self.cursor {
            None => Ok(None),
            Some(c) => number(c).map(Some).ok_or_else(|| Failed::bad("cursor: give the `next` of the page before, as it was")),
        }
    }

    /// Makes the page of the rows that were read; `key` is what the next page begins after.
    pub(super) fn page<R, T>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> String, show: impl Fn(R) -> T) -> Page<T>
    where
        T: ParseFromJSON + ToJSON + Type + Example,
    {
        let more = rows.len() > self.limit as usize;
        rows.truncate(self.limit as usize);
        let next = rows.last().filter(|_| more).map(key);
        Page { items: rows.into_iter().map(show).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Object)]
    struct Row {
        n: i32,
    }

    impl Example for Row {
        fn example() -> Self {
            Self { n: 1 }
        }
    }

    #[test]
    fn the_last_page_has_no_next() {
        let row = |n: i32| Row { n };
        let wanted = Wanted::new(2, None);
        let page = wanted.page(vec![3, 2, 1], |n| n.to_string(), row);
        assert_eq!((page.items, page.next.as_deref()), (vec![row(3), row(2)], Some("2")));
        let page = wanted.page(vec![2, 1], |n| n.to_string(), row);
        assert_eq!((page.items, page.next), (vec![row(2), row(1)], None));
        assert_eq!(Wanted::new(0, None).rows(), 2);
        assert_eq!(Wanted::new(u32::MAX, None).rows(), 501);
    }

    #[test]
    fn cursors() {
        let number = |c: &str| Wanted::new(1, Some(c.into())).after_number().ok().flatten();
        assert_eq!(number("17"), Some(17));
        assert_eq!(number(""), None);
        for bad in ["-1", "x", "1x", "99999999999999999999"] {
            assert!(Wanted::new(1, Some(bad.into())).after_number().is_err(), "{bad}");
        }
    }
}
