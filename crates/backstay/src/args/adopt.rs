//! The grammar of moving in from another tool.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Move in from another tool
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  backstay adopt litestream /etc/litestream.yml")]
pub struct Adopt {
    #[command(subcommand)]
    pub from: AdoptFrom,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum AdoptFrom {
    Litestream(Litestream),
}

/// Say its settings in Backstay's words, or restore from one of its replicas
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:\n  backstay adopt litestream /etc/litestream.yml\n  \
    backstay adopt litestream litestream.yml --write backstay.toml\n  \
    backstay adopt litestream restore /backup/shop --to shop.db\n\n\
    Prints the settings, with a comment for each thing that has no equal. Writes nothing unless asked, and over nothing.")]
pub struct Litestream {
    /// Its configuration
    #[arg(value_name = "FILE", default_value = "/etc/litestream.yml")]
    pub config: PathBuf,
    /// Write them to this new file
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Take $NAME and ${NAME} in it as they stand
    #[arg(long)]
    pub no_expand_env: bool,
    #[command(subcommand)]
    pub verb: Option<LitestreamVerb>,
}

#[derive(Debug, Subcommand)]
pub enum LitestreamVerb {
    Restore(Replica),
}

/// Restore from a replica of Litestream 0.5
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay adopt litestream restore /backup/shop --to shop.db\n  \
    backstay adopt litestream restore s3://backups/shop --at '2 days ago' --to then.db\n  \
    backstay adopt litestream restore /var/lib/shop.db --settings /etc/litestream.yml --to shop.db\n\n\
    Every file is compared with its checksum; a transaction that is in no file is named. Nothing is overwritten.\n\
    Keys of a bucket come from the settings, or from the variables and files that are read for a repository there.")]
pub struct Replica {
    /// The folder that has the folder `ltx`, s3://BUCKET/PATH, gs://BUCKET/PATH, abs://ACCOUNT@CONTAINER/PATH, or
    /// with --settings the path of a database
    #[arg(value_name = "REPLICA")]
    pub replica: String,
    /// Litestream's own settings, which say where the replica is and how it is reached
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Write this new file
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// The state after this transaction, as Litestream writes its number
    #[arg(long, value_name = "TXID", value_parser = txid)]
    pub txid: Option<u64>,
    /// The last state that is kept of this time or before it
    #[arg(long, value_name = "TIME", conflicts_with = "txid")]
    pub at: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

fn txid(text: &str) -> Result<u64, String> {
    let number = u64::from_str_radix(text, 16).ok().filter(|number| *number > 0 && text.len() <= 16);
    number.ok_or_else(|| "write up to 16 hexadecimal digits, such as 000000000000002a".to_owned())
}
