//! The grammar of `retention`.

use super::{Age, PointArgs, SnapshotPrefix};
use backstay_model::{Ranges, SourceName};
use clap::{Args, Subcommand};

/// Say what is kept and why, and free the rest
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  backstay retention plan\n  backstay retention apply\n\n\
    The rules stand in the table `[retention]` of backstay.toml. Without a rule nothing is freed.")]
pub struct Retention {
    #[command(subcommand)]
    pub verb: RetentionVerb,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum RetentionVerb {
    /// Say for every snapshot why it stays or goes; write nothing
    #[command(after_help = "Example:\n  backstay retention plan shop")]
    Plan {
        /// The database, by its name in backstay.toml; all of them when none is named
        #[arg(value_name = "SOURCE")]
        source: Option<SourceName>,
    },
    /// Condemn what the plan frees, and delete what was condemned longer ago than the grace
    #[command(
        after_help = "Examples:\n  backstay retention apply\n  backstay retention apply shop --grace 0 --confirm shop"
    )]
    Apply {
        /// The database, by its name in backstay.toml; all of them when none is named
        #[arg(value_name = "SOURCE")]
        source: Option<SourceName>,
        /// Delete sooner: no other host may back up or restore meanwhile, and the name must be typed
        #[arg(long, value_name = "SPAN", requires = "source")]
        grace: Option<Grace>,
        /// The source's name again, instead of typing it
        #[arg(long, value_name = "NAME", requires = "grace")]
        confirm: Option<String>,
    },
    /// Keep a snapshot whatever the rules say, until it is released
    #[command(after_help = "Example:\n  backstay retention hold shop --snapshot 3fa20b11 --reason 'audit of 2026'")]
    Hold {
        /// The database, by its name in backstay.toml
        #[arg(value_name = "SOURCE")]
        source: SourceName,
        #[command(flatten)]
        point: PointArgs,
        /// Why, for whoever looks later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Take every hold on a snapshot back
    #[command(after_help = "Example:\n  backstay retention release shop --snapshot 3fa20b11")]
    Release {
        /// The database, by its name in backstay.toml
        #[arg(value_name = "SOURCE")]
        source: SourceName,
        #[command(flatten)]
        point: PointArgs,
        /// Why, for whoever looks later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Give up one snapshot, a manifest that cannot be verified, or numbers that are missing
    #[command(after_help = "Examples:\n  backstay retention drop shop 3fa20b11 --confirm shop\n  \
        backstay retention drop shop --missing 4-6 --confirm shop")]
    Drop {
        /// The database, by its name in backstay.toml
        #[arg(value_name = "SOURCE")]
        source: SourceName,
        /// The snapshot, by its id or the beginning of it
        #[arg(value_name = "ID", required_unless_present = "missing")]
        id: Option<SnapshotPrefix>,
        /// Numbers of snapshots that somebody else deleted, such as 4-6: they count as gone
        #[arg(long, value_name = "NUMBERS")]
        missing: Option<Ranges>,
        /// The source's name again, instead of typing it
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
}

/// A span that may be nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grace(pub std::time::Duration);

impl std::str::FromStr for Grace {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" { Ok(Self(std::time::Duration::ZERO)) } else { text.parse::<Age>().map(|age| Self(age.span)) }
    }
}
