//! Masked copies: the rows of a moment written into a new database, each value as a plan says.
//!
//! Owns the new file from its first page on: what is not in it was never written, so that no free page, log or
//! temporary file of it can hold what was masked. Tables come first, then rows, then what rows would have to pass
//! through: indexes, search indexes, views, and triggers last, so that none fires. Locks: SQLite's own on the new file. A crash leaves
//! a half-written file under the name that was given, which is the caller's to remove.

mod facts;
mod fake;
mod names;
mod value;
mod write;

pub use facts::table_facts;
pub use value::Masker;
pub use write::{ColumnReport, MaskReport, Masking, TableReport, write};
