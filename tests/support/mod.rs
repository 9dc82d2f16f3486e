//! What the integration tests share. Every test crate compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod conformance;
pub mod obs_emulator;
pub mod sink;
