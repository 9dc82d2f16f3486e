//! package

pub mod sample;
