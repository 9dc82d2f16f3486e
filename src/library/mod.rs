//! The library: which files this node has, by digest, and how a person sees and corrects that.
//!
//! * [`table`] — `hashtable.txt`: the library as a file, written from the database; edits by another hand are taken in;
//!   files are hashed on request.
//! * [`hash`] — which files may be in the library, and their digests.
//! * [`packages`] — which of its directories are packages, and whether these are what their documents say.
//!
//! Rows are `store::library`'s. Nothing here knows tasks or transports; a row says what was hashed here and how the file
//! looked then, nothing else gets in. What packing lists say of files that were not hashed is kept apart, as claims.

pub mod hash;
pub mod packages;
pub mod table;
