//! The grammar of the commands that ask the past: `query`, `diff`, `log`, `when`.

use super::{Age, Point, SnapshotPrefix, size};
use crate::config::copies::CopyName;
use backstay_model::{ByteLen, SourceName};
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;

/// Ask a moment of the past, without restoring it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay query shop 'SELECT count(*) FROM item'\n  \
    backstay query shop --at '2h ago' 'SELECT * FROM item WHERE id = 7'\n  \
    backstay query shop latest-proven --csv 'SELECT * FROM item' > item.csv\n  backstay query shop --tx 1041 --shell\n\n\
    Only the pages a question touches are fetched. Nothing is written anywhere.")]
pub struct Query {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// The question, one SELECT; before it latest, latest-proven or label:NAME
    #[arg(value_name = "POINT] [SQL", num_args = 0..=2)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub moment: MomentArgs,
    /// Print CSV with a heading, as many rows as there are
    #[arg(long, conflicts_with_all = ["json", "shell"])]
    pub csv: bool,
    /// Read questions from the terminal, one after another
    #[arg(long, conflicts_with = "json")]
    pub shell: bool,
    /// Give pages to the loadable extension, which starts this for itself
    #[arg(long, hide = true, conflicts_with_all = ["json", "csv", "shell"])]
    pub pages: bool,
    /// Show so many rows at the most
    #[arg(long, value_name = "N", default_value = "1000")]
    pub limit: u64,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// Which state is meant, where it is not the newest.
#[derive(Debug, Clone, Args)]
#[group(id = "moment", multiple = false)]
pub struct MomentArgs {
    /// As it was at this time: 2026-11-21T10:00:00Z, '2026-11-21 10:00', '2h ago'
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// This state of a followed source, by its number
    #[arg(long, value_name = "N")]
    pub tx: Option<u64>,
    /// This snapshot, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<SnapshotPrefix>,
}

/// How the past is read.
#[derive(Debug, Clone, Args)]
pub struct ReadingArgs {
    /// Give up after this long
    #[arg(long, value_name = "SPAN")]
    pub within: Option<Age>,
    /// Keep so much of what was fetched in memory
    #[arg(long, value_name = "SIZE", default_value = "32 MiB", value_parser = size)]
    pub cache: ByteLen,
    /// Keep nothing of what was fetched on this host's disk, and use nothing that was
    #[arg(long)]
    pub no_cache: bool,
    /// From this copy of the repository, by its name in backstay.toml
    #[arg(long, value_name = "COPY")]
    pub from_copy: Option<CopyName>,
}

/// A moment in one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MomentWord {
    Point(Point),
    Tx(u64),
    Snapshot(SnapshotPrefix),
    /// Read later, where a clock and a zone are at hand.
    Time(String),
}

impl FromStr for MomentWord {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("tx:") {
            return number.parse().map(Self::Tx).map_err(|_| "write a number behind tx:, such as tx:1041".to_owned());
        }
        if let Some(id) = text.strip_prefix("snapshot:") {
            return id.parse().map(Self::Snapshot);
        }
        Ok(text.parse().map_or_else(|_| Self::Time(text.to_owned()), Self::Point))
    }
}

/// Say what differs between two moments, row by row
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay diff shop --from label:before-v2\n  \
    backstay diff shop --from '2h ago' --to tx:1041 --table item\n  \
    backstay diff shop --from latest --to label:before-v2 --sql > back.sql\n\n\
    A moment is latest, latest-proven, label:NAME, tx:N, snapshot:ID or a time. Exit code 1 says that they differ.")]
pub struct Diff {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// The first moment
    #[arg(long, value_name = "MOMENT")]
    pub from: MomentWord,
    /// The second moment
    #[arg(long, value_name = "MOMENT", default_value = "latest")]
    pub to: MomentWord,
    /// Only this table
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Print statements that turn the first into the second
    #[arg(long, conflicts_with = "json")]
    pub sql: bool,
    /// Show so many rows of each table at the most
    #[arg(long, value_name = "N", default_value = "10")]
    pub limit: usize,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// Say what changed when: rows added, removed and changed in each table, from one restore point to the next
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay log shop\n  backstay log shop --table item --since '2 days ago'\n\n\
    Of a followed source each commit is a point. Tables are compared whole: name one with --table where they are large.")]
pub struct Log {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Only this table
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Only what changed since this time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// The newest so many points
    #[arg(long, value_name = "N", default_value = "20")]
    pub limit: usize,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// Find the moment an answer changed
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay when shop 'SELECT count(*) FROM item' --drops\n  \
    backstay when shop 'SELECT name FROM item WHERE id = 7' --changes --since 2026-11-01\n\n\
    Found by halving: where two points give one answer, nothing between them is looked at, unless with --every.")]
pub struct When {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// The question, one SELECT; its first row is the answer
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// When the number became smaller
    #[arg(long, conflicts_with = "changes")]
    pub drops: bool,
    /// When the answer became another (this is meant when nothing is said)
    #[arg(long)]
    pub changes: bool,
    /// Look no further back than this time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Look at every point there is
    #[arg(long)]
    pub every: bool,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// What `restore --table` brings back, and where to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rows instead of all of it")]
pub struct RowsArgs {
    /// Bring back rows of this table only, with --into or --sql
    #[arg(long, value_name = "TABLE", conflicts_with_all = ["to", "nearest"])]
    pub table: Option<String>,
    /// Only the rows for which this holds, such as 'id = 7'
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    pub condition: Option<String>,
    /// Bring them into a new table of this name
    #[arg(long = "as", value_name = "NAME", requires = "table")]
    pub rename: Option<String>,
    /// The living database they go into, in one transaction
    #[arg(long, value_name = "FILE", requires = "table")]
    pub into: Option<PathBuf>,
    /// Write statements to this new file instead
    #[arg(long, value_name = "FILE", requires = "table", conflicts_with = "into")]
    pub sql: Option<PathBuf>,
    /// What to do with a row that is there today and says something else
    #[arg(long, value_name = "fail|skip|replace", requires = "table", default_value = "fail")]
    pub on_conflict: Conflict,
    /// Let the triggers of the table fire
    #[arg(long, requires = "table")]
    pub fire_triggers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Conflict {
    Fail,
    Skip,
    Replace,
}
