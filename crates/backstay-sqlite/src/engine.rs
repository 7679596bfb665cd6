//! Which SQLite is linked, and that it is one we may use.
//!
//! Versions before 3.51.3 can lose commits when two processes checkpoint at once; a build without the
//! snapshot option cannot tell where its own read transaction ends in the log.

use crate::{error::SqliteError, ffi};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

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

/// An application's SQLite that can lose commits when two processes copy its log back at once: from 3.7.0 on, until it
/// was repaired in 3.44.6, 3.50.7 and 3.51.3.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FaultyEngine {
    pub version: String,
}

/// Whether the SQLite that wrote a database's first page last is one of those. Opens the file by itself: only for a
/// process that has no connection to it, whose locks that would drop.
pub fn faulty_writer(path: &Path) -> Option<FaultyEngine> {
    let mut head = [0; 100];
    File::open(path).and_then(|file| file.read_exact_at(&mut head, 0)).ok()?;
    let (magic, number) = (head.get(..16)?, head.get(96..100)?);
    let number = u32::from_be_bytes(number.try_into().ok()?);
    (magic == b"SQLite format 3\0" && loses_commits(number))
        .then(|| FaultyEngine { version: format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000) })
}

fn loses_commits(number: u32) -> bool {
    match number {
        3_044_006..3_045_000 | 3_050_007..3_051_000 => false,
        number => (3_007_000..3_051_003).contains(&number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_an_old_version_wrote_is_known_by_its_header() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("app.db");
        let conn = rusqlite::Connection::open(&path).expect("opens");
        conn.execute_batch("CREATE TABLE t(x)").expect("made");
        drop(conn);
        assert_eq!(faulty_writer(&path), None, "the linked one is repaired");
        let of = |number: u32| {
            let file = File::options().write(true).open(&path).expect("opens");
            file.write_all_at(&number.to_be_bytes(), 96).expect("written");
            faulty_writer(&path).map(|faulty| faulty.version)
        };
        for faulty in [3_007_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_002] {
            let version = format!("3.{}.{}", faulty / 1000 % 1000, faulty % 1000);
            assert_eq!(of(faulty), Some(version));
        }
        for sound in [0, 3_006_023, 3_044_006, 3_050_007, 3_051_003, 3_054_001, u32::MAX] {
            assert_eq!(of(sound), None, "{sound}");
        }
        assert_eq!(faulty_writer(dir.path()), None);
    }

    #[test]
    fn the_linked_engine_is_new_enough_and_has_snapshots() {
        assert!(assert_engine().is_ok(), "{:?}", describe_engine());
    }
}
