//! Counting what deserves one line and not a thousand.

/// A number of things, the first one as an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    pub first: String,
}

impl Tally {
    pub fn add(&mut self, what: impl FnOnce() -> String) {
        if self.count == 0 {
            // For an event: a screenful of a hostile name helps nobody.
            self.first = what().chars().take(300).collect();
        }
        self.count += 1;
    }
}
