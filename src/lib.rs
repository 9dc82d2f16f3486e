//! bft2 carries digital cinema packages (DCPs) from a distribution centre to cinemas.
//!
//! One daemon, `bftv2`, plays three roles (sender, cacher, receiver). The database is the truth: requests write rows,
//! one conductor loop reads a snapshot, a pure function decides, workers act, and results are rows again.
//!
//! ```text
//! TMS ─HTTP─> api ─> desk ─> store(SQLite) <─ work::conductor: model::decide(&Snapshot, now) -> Vec<Action>
//!                                             │
//!           package (PKL, metainfo, one pass) ┤
//!           transport {bt, obs, cdn} ─spans─> assembly (verify as it streams, finish = rename)
//!           views (task directories, .finished), library (hashtable.txt) <─ rows
//! ```
//!
//! Where to look:
//!
//! * [`model`] — pure rules: names, task files, allocation by ratio, windows, what to do next. No I/O, no async.
//! * [`store`] — all SQL. * [`package`] — PKL/ASSETMAP, torrents, one-pass hashing. * [`library`] — the hash table as a file,
//!   packages and their verdicts.
//! * [`transport`] — one trait, three engines. * [`assembly`] — the receiving side: offsets, digests, finish.
//! * [`work`] — the conductor and its workers. * [`desk`] — use cases. * [`api`] — the HTTP protocol. * [`web`] — origin and tracker.
//! * [`cli`] — one file per command. * [`app`] — wiring.
//!
//! Who may import whom is checked by `tests/architecture.rs`; `docs/architecture.md` explains why.

pub mod api;
pub mod app;
pub mod assembly;
pub mod cli;
pub mod clock;
pub mod config;
pub mod desk;
pub mod error;
pub mod library;
pub mod model;
pub mod package;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod views;
pub mod web;
pub mod work;
