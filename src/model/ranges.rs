//! [`RangeSet`]: which bytes of a file are there. Small, sorted, merged; kept in the database as text.

use std::ops::Range;

/// Disjoint, sorted, non-adjacent, non-empty byte ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, r: Range<u64>) {
        if r.start >= r.end {
            return;
        }
        let first = self.0.partition_point(|x| x.end < r.start);
        let last = self.0.partition_point(|x| x.start <= r.end);
        let mut merged = r;
        if first < last {
            merged.start = merged.start.min(self.0[first].start);
            merged.end = merged.end.max(self.0[last - 1].end);
        }
        self.0.splice(first..last, [merged]);
    }

    pub fn remove(&mut self, r: Range<u64>) {
        if r.start >= r.end {
            return;
        }
        let mut out = Vec::with_capacity(self.0.len() + 1);
        for x in self.0.drain(..) {
            if x.end <= r.start || x.start >= r.end {
                out.push(x);
                continue;
            }
            if x.start < r.start {
                out.push(x.start..r.start);
            }
            if x.end > r.end {
                out.push(r.end..x.end);
            }
        }
        self.0 = out;
    }

    pub fn contains(&self, r: &Range<u64>) -> bool {
        r.start >= r.end || self.contiguous_end(r.start) >= r.end
    }

    /// The parts of `r` that are not in the set, in order.
    pub fn missing(&self, r: &Range<u64>) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        let mut at = r.start;
        for x in &self.0[self.first_after(r.start)..] {
            if x.start >= r.end {
                break;
            }
            if x.start > at {
                out.push(at..x.start);
            }
            at = at.max(x.end);
        }
        if at < r.end {
            out.push(at..r.end);
        }
        out
    }

    /// The parts of `r` that are in the set, in order.
    pub fn within(&self, r: &Range<u64>) -> Vec<Range<u64>> {
        let met = self.0[self.first_after(r.start)..].iter().take_while(|x| x.start < r.end);
        met.map(|x| x.start.max(r.start)..x.end.min(r.end)).filter(|x| x.start < x.end).collect()
    }

    /// How many bytes of `r` are in the set.
    pub fn covered(&self, r: &Range<u64>) -> u64 {
        (r.end.saturating_sub(r.start)) - self.missing(r).iter().map(|m| m.end - m.start).sum::<u64>()
    }

    /// The first byte at or after `at` that is not in the set.
    pub fn contiguous_end(&self, at: u64) -> u64 {
        self.0.get(self.first_after(at)).filter(|x| x.start <= at).map_or(at, |x| x.end)
    }

    /// Index of the first range that ends after `at`. A search, not a walk: every block that arrives asks.
    fn first_after(&self, at: u64) -> usize {
        self.0.partition_point(|x| x.end <= at)
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// `0-1048576,2097152-3145728`: start inclusive, end exclusive.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|r| format!("{}-{}", r.start, r.end)).collect::<Vec<_>>().join(",")
    }

    /// Reads [`RangeSet::to_text`]; anything else is `None`.
    pub fn from_text(s: &str) -> Option<Self> {
        let mut set = Self::new();
        for part in s.split(',').filter(|p| !p.is_empty()) {
            let (a, b) = part.split_once('-')?;
            set.insert(a.parse().ok()?..b.parse().ok()?);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The set behaves like a set of byte positions, whatever the order of operations.
        #[test]
        fn behaves_like_a_set_of_bytes(ops in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..24), 0..40)) {
            let mut set = RangeSet::new();
            let mut bytes = [false; 96];
            for (add, start, len) in ops {
                let r = start..start + len;
                if add { set.insert(r.clone()) } else { set.remove(r.clone()) }
                for b in &mut bytes[r.start as usize..r.end as usize] { *b = add; }
            }
            prop_assert_eq!(set.total(), bytes.iter().filter(|b| **b).count() as u64);
            for w in set.0.windows(2) { prop_assert!(w[0].end < w[1].start); }
            let missing: u64 = set.missing(&(0..96)).iter().map(|m| m.end - m.start).sum();
            prop_assert_eq!(missing + set.total(), 96);
            prop_assert_eq!(set.covered(&(10..50)), bytes[10..50].iter().filter(|b| **b).count() as u64);
            for at in 0..96u64 {
                let run = bytes[at as usize..].iter().take_while(|b| **b).count() as u64;
                prop_assert_eq!(set.contiguous_end(at), at + run);
            }
            prop_assert_eq!(RangeSet::from_text(&set.to_text()), Some(set));
        }
    }
}
