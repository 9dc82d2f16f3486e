//! Conformance to the protocol: every published example against real nodes.
//!
//! `tests/fixtures/protocol` holds the examples as they were published. The table in `conformance/cases.rs` has a row for
//! each, and fails to be complete when one is added without. A row names the scenario that brings a node into the state
//! that the example shows; there the example's request is sent to the shipped binary, and every key of the example's
//! reply must come back with its value. Where the published examples contradict each other or the text, the row says
//! what is emitted instead, and which row of the protocol's table of contradictions (section 17) settles it.
//!
//! Beside the examples stand the protocol's decision tables (`send_decisions.rs`, `recv_decisions.rs`, `cancel.rs`), row
//! by row.
//!
//! A difference does not end a scenario: all of them are listed at its end.

mod world;

#[path = "conformance/asking.rs"]
mod asking;
#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/cacher.rs"]
mod cacher;
#[path = "conformance/cancel.rs"]
mod cancel;
#[path = "conformance/cases.rs"]
mod cases;
#[path = "conformance/compare.rs"]
mod compare;
#[path = "conformance/configurations.rs"]
mod configurations;
#[path = "conformance/examples.rs"]
mod examples;
#[path = "conformance/films.rs"]
mod films;
#[path = "conformance/mapping.rs"]
mod mapping;
#[path = "conformance/receiver.rs"]
mod receiver;
#[path = "conformance/recv_decisions.rs"]
mod recv_decisions;
#[path = "conformance/requests.rs"]
mod requests;
#[path = "conformance/schedules.rs"]
mod schedules;
#[path = "conformance/send_decisions.rs"]
mod send_decisions;
#[path = "conformance/sender.rs"]
mod sender;
#[path = "conformance/task_files.rs"]
mod task_files;

use cases::{CASES, Stage};
use std::collections::BTreeSet;

#[test]
fn every_example_has_a_case() {
    let files = examples::all();
    let named: BTreeSet<String> = CASES.iter().map(|c| c.file.to_owned()).collect();
    let without_case: Vec<_> = files.difference(&named).collect();
    let without_file: Vec<_> = named.difference(&files).collect();
    assert!(without_case.is_empty() && without_file.is_empty(), "no case: {without_case:?}; no file: {without_file:?}");
    assert_eq!(named.len(), CASES.len(), "an example has two cases");
    assert!(files.len() > 90, "only {} examples found", files.len());
}

/// A case that asserts nothing says why.
#[test]
fn exceptions_have_reasons() {
    for case in CASES {
        if let Stage::Unreachable(why) | Stage::NotPartOfV2(why) = case.stage {
            assert!(why.len() > 20 && case.emits.is_empty(), "{}: {why:?}", case.file);
        }
        assert!(case.emits.iter().all(|e| e.at.starts_with('/') && !e.why.is_empty()), "{}", case.file);
    }
}
