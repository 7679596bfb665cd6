//! Which SQLite is linked, and that it is one we may use.
//!
//! Versions before 3.51.3 can lose commits when two processes checkpoint at once; a build without the
//! snapshot option cannot tell where its own read transaction ends in the log.

use crate::{error::SqliteError, ffi};

/// The first version with the repaired restart of the write-ahead log, as SQLite counts versions.
const VERSION_MIN: i32 = 3_051_003;

/// The SQLite in this program.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Engine {
    pub version: String,
    pub snapshots: bool,
}

/// Says which SQLite is linked.
pub fn describe_engine() -> Engine {
    Engine { version: rusqlite::version().to_owned(), snapshots: ffi::compiled_with(c"ENABLE_SNAPSHOT") }
}

/// Refuses a SQLite that could lose data or that cannot prove what it reads.
pub fn assert_engine() -> Result<(), SqliteError> {
    let engine = describe_engine();
    if rusqlite::version_number() < VERSION_MIN || !engine.snapshots {
        return Err(SqliteError::Engine { version: engine.version, snapshots: engine.snapshots });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linked_engine_is_new_enough_and_has_snapshots() {
        assert!(assert_engine().is_ok(), "{:?}", describe_engine());
    }
}
