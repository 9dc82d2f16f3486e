//! cli

pub mod sample_dcp;
