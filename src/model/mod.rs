//! Pure rules: no I/O, no async, no clock. Everything here can be tested with tables.
//! Types carry the rules: a [`ids::RelPath`], [`ids::Sha1`], [`ratio::Ratio`] or [`window::Windows`] cannot hold a bad value.

pub mod bencode;
pub mod decide;
pub mod endpoint;
pub mod forecast;
pub mod generation;
pub mod help;
pub mod ids;
pub mod json;
pub mod progress;
pub mod ranges;
pub mod ratio;
pub mod schedule;
pub mod secret;
pub mod share;
pub mod span;
pub mod task;
pub mod task_file;
pub mod window;

#[cfg(test)]
mod ratio_tests;
