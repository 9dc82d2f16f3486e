//! What a package is on disk and on paper: its files in one fixed order ([`scan`]), their digests and the pieces of its
//! torrent in one reading ([`one_pass`]), the torrent itself ([`metainfo`]) and the mastering house's own list of what
//! should be there ([`documents`]); whether it lies already where it is to be received ([`in_place`]). [`check`] puts them together for a person.
//!
//! Everything here blocks: it reads files and computes. Callers on the async runtime go through `spawn_blocking`.
//! Nothing here knows tasks, the database or a transport, so that the same code serves a sender that makes a torrent, a
//! receiver that verifies a delivery, and `bftv2 check` on a machine where no service runs.

pub mod check;
pub mod digest;
pub mod documents;
pub mod in_place;
pub mod metainfo;
pub mod one_pass;
pub mod paths;
pub mod sample;
pub mod scan;

pub use check::{CheckReport, check};
