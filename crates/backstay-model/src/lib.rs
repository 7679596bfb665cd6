//! Pure: no I/O, no async, no clock, no randomness.
//!
//! Owns the words of Backstay as types: identities, numbers that cross functions, points in time,
//! the catalog of restore points and every decision that can be made from values alone. Anything
//! here can be tested with a table; nothing here can fail because of the world outside.

pub mod allowance;
pub mod backup;
pub mod bundles;
pub mod catalog;
pub mod checking;
pub mod copies;
pub mod id;
pub mod kind;
pub mod litestream;
pub mod lock;
pub mod mask;
pub mod moment;
pub mod name;
pub mod number;
pub mod onward;
pub mod prune;
pub mod ranges;
pub mod retention;
pub mod scrub;
pub mod seams;
pub mod space;
pub mod status;
pub mod verdict;

pub use allowance::{Allowance, Need};
pub use id::{Digest, FingerprintKeyId, ObjectId, RepoId, SignerKey, StreamId};
pub use kind::{Kind, Kinded};
pub use moment::Moment;
pub use name::{Label, SourceName};
pub use number::{BranchNo, ByteLen, Generation, PageNo, PageSize, Position, Sequence, Tx, UnitSize};
pub use onward::Onward;
pub use ranges::Ranges;
pub use seams::{Clock, Random};
pub use verdict::Verdict;
