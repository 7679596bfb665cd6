//! Development only: faults, harnesses and damaged repositories.

pub mod azurite;
pub mod bank;
pub mod crash_disk;
pub mod effects;
pub mod fault_store;
pub mod forward;
pub mod fuzz;
pub mod lock_store;
pub mod role_store;
pub mod s3_adversary;
pub mod s3_server;
pub mod store_contract;
