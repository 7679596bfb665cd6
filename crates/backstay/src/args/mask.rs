//! The grammar of masked copies.

use clap::Args;
use std::path::PathBuf;

/// How `restore` masks what it writes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A masked copy")]
pub struct MaskArgs {
    /// Write each value as this profile says, to the new file --to
    #[arg(long, value_name = "PROFILE", requires = "to", conflicts_with_all = ["live", "table", "nearest", "before"])]
    pub mask: Option<PathBuf>,
    /// Print a profile to begin with, with every column of that moment
    #[arg(long, conflicts_with_all = ["mask", "to", "live", "table", "json", "nearest", "before"])]
    pub mask_draft: bool,
}
