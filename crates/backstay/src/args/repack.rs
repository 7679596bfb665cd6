//! The grammar of `repo repack`.

use backstay_model::SourceName;
use clap::Args;

/// Store what lives in mostly dead packs again, so that a prune can free them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay repo repack --dry-run\n  backstay repo repack shop\n\n\
    Needs a key that reads and may keep. Deletes nothing: `backstay retention apply` frees what is replaced.")]
pub struct Repack {
    /// The database, by its name in the repository; all of them when none is named
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Say what would be stored again and what that frees; write nothing
    #[arg(long)]
    pub dry_run: bool,
}
