//! The only user of `object_store` and of sealing keys.
//!
//! Owns the store seam and its decorators, the names of objects, sealing and signing, and the
//! repository in its states closed and open.

pub mod cloud;
pub mod error;
pub mod foresee;
pub mod kept;
pub mod keyfile;
pub mod keys;
pub mod limit;
pub mod local;
pub mod memory;
pub mod meter;
pub mod os;
mod pace;
pub mod remember;
pub mod repo;
pub mod retry;
pub mod seal;
pub mod seam;
pub mod signing;

pub use error::StoreError;
pub use seam::{Entry, Key, Page, Put, Store, Verb};
