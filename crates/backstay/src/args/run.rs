//! The grammar of `run`.

use super::Age;
use backstay_model::SourceName;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Run an application with its database restored if it is missing, and followed while it runs
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay run --db shop.db -- ./server --port 8080\n  \
    backstay run --source shop --durable-within 30s -- ./server\n\n\
    Signals go to the application, and its exit code comes back once its last commit is durable in the repository.\n\
    Exit 75: it ended, and its last commits are not durable.")]
pub struct Run {
    /// The database: the path of a source in backstay.toml
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// The database, by its name in backstay.toml
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// How long to wait, after the application has ended, until its last commit is durable
    #[arg(long, value_name = "SPAN", default_value = "60s")]
    pub durable_within: Age,
    /// The application and its arguments, after --
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<OsString>,
}
