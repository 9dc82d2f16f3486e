//! Which files a reception does not fetch, because another one is fetching the same bytes.
//!
//! A content (SHA-1 and size) that several receptions lack is brought by one of them; when it is verified there, the
//! others copy it. Who brings it is decided anew at every tick: the one that has most of it, of equals the oldest task.
//! Only a file whose bytes are coming counts: a task outside its window, one that waits for a retry or stands still holds
//! nobody back. Every content has one bringer, which is never held back itself, so nobody waits in a circle.
//!
//! **Time comes before thrift.** A task that could do nothing else does not wait for a file that another will come to after
//! others: it takes it over, one at a time and the last one first, as the other goes from the front. From its first byte on
//! it is the one that has most, and the other waits.

use std::collections::{BTreeMap, HashSet};

/// A file that lacks bytes or is not verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub task: i64,
    pub file: u32,
    /// Bytes of it that are in place.
    pub have: u64,
    /// What it lacks is on its way, or could be at once.
    pub coming: bool,
}

/// `contents`: for each content the files that have it, in the order in which they are fetched. `busy`: the tasks that could fetch something that nobody else
/// has to do with. Says which files wait, and for which task.
pub fn held_back(contents: &[Vec<Claim>], busy: &HashSet<i64>) -> BTreeMap<(i64, u32), i64> {
    let bringers: Vec<Option<Claim>> = contents.iter().map(|claims| bringer(claims)).collect();
    let mut waits = BTreeMap::new();
    for (claims, first) in contents.iter().zip(&bringers) {
        let Some(first) = first else { continue };
        for c in claims.iter().filter(|c| (c.task, c.file) != (first.task, first.file)) {
            waits.insert((c.task, c.file), first.task);
        }
    }
    let bringing: HashSet<i64> = bringers.iter().flatten().map(|c| c.task).collect();
    let mut took_over = HashSet::new();
    let elsewhere = |task: i64| busy.contains(&task) || bringers.iter().flatten().any(|c| c.task == task && c.have > 0);
    for (claims, first) in contents.iter().zip(&bringers).rev() {
        let Some(first) = first.filter(|f| f.have == 0 && elsewhere(f.task)) else { continue };
        let idle =
            |c: &&Claim| c.coming && !busy.contains(&c.task) && !bringing.contains(&c.task) && !took_over.contains(&c.task);
        // One of them is enough.
        if let Some(c) = claims.iter().filter(idle).min_by_key(|c| (c.task, c.file))
            && c.task != first.task
        {
            took_over.insert(c.task);
            waits.remove(&(c.task, c.file));
        }
    }
    waits
}

fn bringer(claims: &[Claim]) -> Option<Claim> {
    claims.iter().filter(|c| c.coming).min_by_key(|c| (std::cmp::Reverse(c.have), c.task, c.file)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(task: i64, file: u32, have: u64, coming: bool) -> Claim {
        Claim { task, file, have, coming }
    }

    fn waits(contents: &[Vec<Claim>], busy: &[i64]) -> Vec<(i64, u32, i64)> {
        held_back(contents, &busy.iter().copied().collect()).into_iter().map(|((t, f), by)| (t, f, by)).collect()
    }

    #[test]
    fn one_brings_and_the_others_wait() {
        type Row = (&'static str, Vec<Claim>, Vec<i64>, Vec<(i64, u32, i64)>);
        let table: [Row; 10] = [
            ("alone", vec![claim(1, 0, 0, true)], vec![], vec![]),
            ("of equals the oldest", vec![claim(2, 5, 0, true), claim(1, 3, 0, true)], vec![2], vec![(2, 5, 1)]),
            ("the one that has most", vec![claim(1, 0, 10, true), claim(2, 0, 11, true)], vec![], vec![(1, 0, 2)]),
            (
                "one that stands still holds nobody back",
                vec![claim(1, 0, 10, false), claim(2, 0, 0, true)],
                vec![],
                vec![(1, 0, 2)],
            ),
            ("nobody brings it", vec![claim(1, 0, 10, false), claim(2, 0, 0, false)], vec![], vec![]),
            (
                "a third",
                vec![claim(1, 0, 1, true), claim(2, 0, 0, true), claim(3, 0, 0, false)],
                vec![],
                vec![(2, 0, 1), (3, 0, 1)],
            ),
            ("twice in one package", vec![claim(1, 0, 0, true), claim(1, 7, 0, true)], vec![], vec![(1, 7, 1)]),
            ("not begun, and the other is idle", vec![claim(1, 0, 0, true), claim(2, 0, 0, true)], vec![1], vec![]),
            ("about to begin", vec![claim(1, 0, 0, true), claim(2, 0, 0, true)], vec![], vec![(2, 0, 1)]),
            ("begun, and the other is idle", vec![claim(1, 0, 1, true), claim(2, 0, 0, true)], vec![1], vec![(2, 0, 1)]),
        ];
        for (what, claims, busy, expected) in table {
            assert_eq!(waits(&[claims], &busy), expected, "{what}");
        }
    }

    /// Who has nothing else to do takes over one file at a time, and not while it brings another.
    #[test]
    fn files_are_taken_over_one_by_one() {
        let none = |n| vec![claim(1, n, 0, true), claim(2, n, 0, true)];
        assert_eq!(waits(&[none(0), none(1), none(2)], &[1]), [(2, 0, 1), (2, 1, 1)]);
        assert_eq!(waits(&[none(0), none(1), none(2)], &[]), [(2, 0, 1), (2, 1, 1), (2, 2, 1)]);
        let at_first = vec![claim(1, 0, 7, true), claim(2, 0, 0, true)];
        assert_eq!(waits(&[at_first, none(1), none(2)], &[]), [(2, 0, 1), (2, 1, 1)]);
        let begun = vec![claim(1, 0, 0, true), claim(2, 0, 4, true)];
        assert_eq!(waits(&[begun, none(1)], &[1]), [(1, 0, 2), (2, 1, 1)]);
    }

    /// Two that wait for each other both have something to bring.
    #[test]
    fn no_circle() {
        let first = vec![claim(1, 0, 5, true), claim(2, 0, 0, true)];
        let second = vec![claim(1, 1, 0, true), claim(2, 1, 5, true)];
        assert_eq!(waits(&[first, second], &[]), [(1, 1, 2), (2, 0, 1)]);
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        proptest::collection::vec((1i64..5, 0u64..3, any::<bool>()), 1..5)
            .prop_map(|list| (0u32..).zip(list).map(|(n, (task, have, coming))| claim(task, n, have, coming)).collect())
    }

    proptest! {
        /// Whatever can come is brought by somebody, and nobody waits for what does not come.
        #[test]
        fn every_content_has_a_bringer(contents in proptest::collection::vec(claims(), 0..5), busy in proptest::collection::hash_set(1i64..5, 0..4)) {
            // Files have numbers of their own.
            let contents: Vec<Vec<Claim>> = (0u32..).zip(contents)
                .map(|(k, list)| list.into_iter().map(|c| Claim { file: c.file + 10 * k, ..c }).collect()).collect();
            let waits = held_back(&contents, &busy);
            for list in &contents {
                let bringing: Vec<_> = list.iter().filter(|c| c.coming && !waits.contains_key(&(c.task, c.file))).collect();
                prop_assert_eq!(bringing.is_empty(), list.iter().all(|c| !c.coming));
                for c in list {
                    if let Some(by) = waits.get(&(c.task, c.file)) {
                        prop_assert!(bringing.iter().any(|b| b.task == *by));
                    }
                }
            }
        }
    }
}
