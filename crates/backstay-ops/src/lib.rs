//! The only place where an engine meets the store.
//!
//! Every operation is gather -> decide -> perform: the world is read into a value, a pure function of
//! the model decides, and what was decided is done. Reports are values; nothing here prints.

mod ahead;
pub mod backup;
mod base;
pub mod bundles;
pub mod catalog;
pub mod check;
pub mod checked;
pub mod copy;
pub mod custody;
pub mod disk;
pub mod env;
mod error;
mod fingerprints;
pub mod follow;
pub mod import;
pub mod init;
pub mod join;
pub mod journal;
pub mod kit;
mod leftovers;
pub mod litestream;
pub mod log;
pub mod maintain;
mod map;
pub mod mask;
pub mod masters;
mod materialize;
pub mod open;
mod packer;
pub mod permissions;
mod private;
pub mod prove;
pub mod query;
mod rebuild;
pub mod repack;
pub mod rescue;
pub mod restore;
pub mod retain;
pub mod rewrite;
pub mod rows;
mod scan;
pub mod scrub;
pub mod standby;
pub mod state;
pub mod trust;
mod verified;
mod workers;

pub use env::{Cancel, Env, Event};
pub use error::OpsError;
pub use state::State;
