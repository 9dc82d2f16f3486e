//! Web servers that are not the protocol's API: what CDNs and BitTorrent peers talk to. Each is a poem endpoint that the
//! app mounts on an address of its own. May import: model, desk.

mod connection;
pub mod listen;
pub mod origin;
pub mod tracker;
