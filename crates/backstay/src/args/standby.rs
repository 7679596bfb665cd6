//! The grammar of a copy that stays up to date.

use super::Age;
use clap::Args;
use std::path::PathBuf;

/// What makes the restored file a stand-by.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A copy that stays up to date")]
pub struct StandbyArgs {
    /// Keep the file seconds behind the source, from the repository alone, until told to stop. Others may read it
    #[arg(long, requires = "to", conflicts_with_all = ["which", "tx", "before", "dry_run", "confirm", "table", "mask"])]
    pub follow: bool,
    /// Bring it to the newest state there is, and end
    #[arg(long, requires = "follow")]
    pub once: bool,
    /// Ask the repository this often
    #[arg(long, value_name = "SPAN", default_value = "1s", requires = "follow")]
    pub every: Age,
}

/// Make an ordinary database of a copy that `restore --follow` keeps up to date
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay promote copy.db\n\n\
    Stop its `backstay restore --follow` first. Needs no repository, and says which transaction is the last it has.")]
pub struct Promote {
    /// The copy
    #[arg(value_name = "FILE")]
    pub copy: PathBuf,
}
