//! Rows as things to compare and to bring back: which columns a table has, what tells its rows apart, what
//! differs between two moments, and putting rows of the past into a living database.
//!
//! Owns the writing of rows into a database under care, which happens in one transaction that is asked for by a
//! person and nowhere else. A crash before its commit leaves the database as it was, by SQLite's own journal.

mod bring;
mod diff;
mod key;
mod narrow;
mod schema;
mod script;
mod shape;
mod sql;
mod tree;

pub use bring::{
    BringReport, BringRequest, Brought, Live, OnConflict, Preview, Sample, SampleKind, UndoSink, bring, preview,
    refuse_stranger,
};
pub use diff::{Change, Compared, TableCounts, Tables, compare_table, tables_of};
pub use narrow::{Scope, Scopes, narrow};
pub use schema::{SchemaChange, SchemaItem, schema_changes, schema_of};
pub use script::{ScriptSink, script};
pub use shape::{Column, Identity, TableShape};
pub use sql::export;
