//! SQLite's own layouts: the database header, the write-ahead log, and the pages of its trees.
//!
//! Owns the reading of bytes SQLite wrote. It must never write them and, but for `guess`, never guess: a
//! field that cannot be what SQLite writes is a named error. Nothing here opens a file or takes a lock.

pub mod btree;
pub mod guess;
pub mod header;
pub mod record;
pub mod wal;
pub mod walk;

pub use header::{AutoVacuum, DatabaseHeader, HeaderError, TextEncoding, WriteFormat};
pub use wal::{Checksum, Committed, FrameMap, Salts, Tail, TailCommit, WalError, WalHeader, WalPin, WalPlace};

/// Where SQLite keeps its lock bytes. The page that contains this byte is never used for data.
pub const LOCK_BYTE: u64 = 0x4000_0000;

/// Big-endian number at `at`, or `None` past the end of `bytes`.
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}
