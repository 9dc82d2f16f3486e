//! The library: which files this node has, by digest, and how a person sees and corrects that.
//!
//! * [`table`] — `hashtable.txt`: the library as a file, written from the database; edits by another hand are taken in;
//!   files are hashed on request.
//! * [`hash`] — which files may be in the library, and their digests.
//!
//! Rows are `store::library`'s. Nothing here knows tasks or transports; a row says what was hashed here and how the file
//! looked then, nothing else gets in.

pub mod hash;
pub mod table;
