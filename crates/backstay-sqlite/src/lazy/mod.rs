//! A database that lies somewhere else and is read page by page, as SQLite asks for them.
//!
//! Owns the read-only file system SQLite sees, the guess which pages it reads next, and the asking. It
//! does not know where pages come from: that is the [`PageSource`]'s. A page that cannot be had, or is not
//! what it was stored as, ends the statement with a named error and never with rows.
//!
//! Nothing can be written: the file system has no way to, and nothing else can be attached. Large sorts
//! spill into files of SQLite's own, which are unlinked when they are made. A crash leaves nothing.

mod ahead;
mod ask;
mod reader;
mod source;
mod value;
mod vfs;

pub use ahead::children_of;
pub use ask::{Asked, Go, Row, Session};
pub use reader::PageReader;
pub use source::{PageFault, PageSource};
pub use value::{Value, hex, quoted};
