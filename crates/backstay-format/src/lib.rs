//! Bytes only: slices and `Read`/`Write`, never a path.
//!
//! Owns every byte layout of the repository and the foreign layouts Backstay reads. Parsing takes
//! untrusted slices and gives either a typed value or a named error; nothing here panics, loops or
//! allocates beyond what the input's own length justifies.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod bundle;
mod cursor;
pub mod directory;
mod error;
pub mod facts;
pub mod fingerprint;
pub mod hex;
pub mod layout;
pub mod log;
pub mod ltx;
pub mod object;
pub mod sqlite;
pub mod table;
pub mod tree;

pub use error::Corrupt;
pub use fingerprint::{Fingerprint, FingerprintKey};
pub use object::{FramePlace, Header, ObjectType};
