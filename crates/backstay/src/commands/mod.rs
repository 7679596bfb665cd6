//! One file per command: arguments in, one call, one view out. Commands share nothing but the context.

pub mod audit;
pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod copy;
pub mod demo;
pub mod doctor;
pub mod enroll;
pub mod follow;
pub mod import;
pub mod init;
pub mod key;
pub mod kit;
pub mod list;
pub mod maintain;
pub mod man;
pub mod permissions;
pub mod repo;
pub mod rescue;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod show;
pub mod signer;
pub mod status;
