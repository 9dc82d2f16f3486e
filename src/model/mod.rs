//! Pure rules: no I/O, no async, no clock. Everything here can be tested with tables.
//! Types carry the rules: a [`ids::RelPath`], [`ids::Sha1`], [`ratio::Ratio`] or [`window::Windows`] cannot hold a bad value.

pub mod ids;
pub mod ranges;
pub mod span;
