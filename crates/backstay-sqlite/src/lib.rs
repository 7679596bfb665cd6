//! The only crate that opens SQLite databases.
//!
//! Owns consistent capture of a live database, the questions asked of a restored one, and what can be
//! known about who has a database open. It must never write to a database under care unless a person asked
//! for just that ([`exchange`], [`maintain`]), never leave a
//! file beside it that was not there, and never open and close a raw descriptor on a database file
//! or its `-shm`: POSIX drops every lock this process holds on a file when any descriptor on it is
//! closed. Database files are read only through SQLite's own handle.
//!
//! A crash leaves nothing: spool files are unlinked when they are made, and locks die with the process.

pub mod as_is;
pub mod capture;
pub mod detect;
pub mod engine;
mod error;
pub mod exchange;
pub mod exclusive;
pub mod facts;
mod ffi;
pub mod holders;
mod images;
pub mod lazy;
mod look;
pub mod maintain;
pub mod mask;
mod medium;
mod open;
mod pin;
mod pulse;
pub mod question;
pub mod rescue;
pub mod rows;
pub mod sample;
mod spool;
mod stamp;
pub mod steps;
mod stopwatch;
pub mod tail;
mod view;

pub use as_is::{AsIs, AsIsReport, RawStream, capture_as_is};
pub use capture::{Capture, CaptureOptions, CaptureReport, ChangedUnits, Fixed, HoldKind, SeenUnits, Settled};
pub use detect::{DetectLimits, Found, detect};
pub use engine::{Engine, FaultyEngine, assert_engine, describe_engine, faulty_writer};
pub use error::{PinLoss, SqliteError};
pub use exchange::{Exchange, Exchanged, Pages, Standby, Sum};
pub use exclusive::{ExclusiveHold, take_exclusive};
pub use facts::{FileIdentity, JournalMode, SourceFacts};
pub use holders::{Holder, Holders, LockState, holders};
pub use images::Images;
pub use pulse::Pulse;
pub use question::{
    Answers, Asking, ForeignKeys, ForeignKeysAnswer, Integrity, IntegrityAnswer, Questions, SchemaAnswer, SmokeState,
    question,
};
pub use steps::{Step, Steps};
pub use tail::{Caught, Commit, Generation, Held, LogCursor, Lost, Seen, Tail, TailOptions, give_back_memory};
