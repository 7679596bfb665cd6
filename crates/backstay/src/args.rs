//! The grammar of the command line. Parsing judges only what was typed: it looks at no file, clock or repository.
//!
//! Flat verbs for daily acts, nouns for the rest. Nothing here may hold key material: no flag takes a secret.

use crate::config::FlagSetting;
use crate::config::copies::CopyName;
use backstay_model::moment::parse_age;
use backstay_model::{ByteLen, Label, SourceName};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

mod adopt;
mod ask;
mod keys;
mod mask;
mod repack;
mod retention;
mod run;
mod schedule;
mod standby;
#[cfg(test)]
mod tests;

pub use adopt::{Adopt, AdoptFrom, LitestreamVerb, Replica};
pub use ask::{Conflict, Diff, Log, MomentArgs, MomentWord, Query, ReadingArgs, RowsArgs, When};
pub use keys::{AuditArgs, AuditPerms, Enroll, Join, KeyVerb, SignerVerb, Source, SourceVerb};
pub use mask::MaskArgs;
pub use repack::Repack;
pub use retention::{Retention, RetentionVerb};
pub use run::Run;
pub use schedule::{Export, Schedule, ScheduleVerb, Scheduler, TimeOfDay};
pub use standby::{Promote, StandbyArgs};

/// Keeps SQLite databases recoverable, and proves it.
#[derive(Debug, Parser)]
#[command(name = "backstay", version, max_term_width = 100, propagate_version = false)]
#[command(after_help = "Examples:\n  backstay init                       protect the databases in this folder\n  \
    backstay status                     can I restore, to when, proven when?\n  \
    backstay restore shop --to copy.db  get one back, beside the living one")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration, instead of backstay.toml in this folder
    #[arg(long, global = true, value_name = "FILE", env = "BACKSTAY_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print one JSON value instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only what was asked for, and failures
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more on stderr; twice or thrice for still more
    #[arg(short = 'v', long = "verbose", global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// No colours (NO_COLOR does the same)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Where caches and seen heads are kept
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    Demo(Demo),
    Init(Init),
    Status(Status),
    Backup(Backup),
    Follow(Follow),
    Run(Run),
    List(List),
    Show(Show),
    Check(Check),
    Scrub(Scrub),
    Restore(Box<Restore>),
    Promote(Promote),
    Query(Query),
    Diff(Diff),
    Log(Log),
    When(When),
    Rescue(Rescue),
    Import(Import),
    Adopt(Adopt),
    Maintain(Maintain),
    Retention(Retention),
    Schedule(Schedule),
    Config(ConfigArgs),
    Repo(Repo),
    Audit(AuditArgs),
    Source(Source),
    Doctor(Doctor),
    Completions(Completions),
    Man(Man),
}

impl Command {
    /// The settings this command's own flags say.
    pub fn flag_settings(&self) -> Vec<FlagSetting> {
        match self {
            Command::Status(Status { max_age: Some(age), .. }) => {
                vec![FlagSetting { key: "status.max_age", value: age.text.clone(), flag: "--max-age" }]
            }
            Command::Backup(Backup { no_proof: true, .. }) | Command::Import(Import { no_proof: true, .. }) => {
                vec![FlagSetting { key: "proof.enabled", value: "false".to_owned(), flag: "--no-proof" }]
            }
            _ => Vec::new(),
        }
    }
}

/// Show the whole life of a backup on a small shop database, in a temporary folder
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay demo --keep")]
pub struct Demo {
    /// Leave the folder behind, to explore
    #[arg(long)]
    pub keep: bool,
    /// Use this folder, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Make a repository, a key and backstay.toml here, and the first backup
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay init\n  backstay init --yes --source shop=./shop.db --repo ./vault\n\n\
    Never overwrites a configuration, a key or a repository.")]
pub struct Init {
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
    /// A database to protect; may be given several times
    #[arg(long = "source", value_name = "NAME=PATH")]
    pub sources: Vec<NamedPath>,
    /// The folder that will hold the backups, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://ACCOUNT/CONTAINER/PREFIX
    #[arg(long, value_name = "DIR", default_value = "./vault")]
    pub repo: PathBuf,
    /// Where to write the new key
    #[arg(long, value_name = "FILE", default_value = "./backstay.key")]
    pub key_file: PathBuf,
    /// Do not make the first backup
    #[arg(long)]
    pub no_backup: bool,
    /// Publish the key in the repository: anyone who can read it can restore
    #[arg(long)]
    pub unsealed: bool,
}

/// Say what can be restored now, to when, and when that was last proven
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay status --max-age 24h || echo 'look at the backups'")]
pub struct Status {
    /// The database, by its name in backstay.toml; all of them when none is named
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Fail when the newest good backup is older
    #[arg(long, value_name = "SPAN")]
    pub max_age: Option<Age>,
}

/// Take a snapshot of each source, then prove it by restoring it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay backup\n  backstay backup shop --label before-v2 --keep for-ever")]
pub struct Backup {
    /// The sources; all of them when none is named
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<SourceName>,
    /// A word to find this snapshot by
    #[arg(long, value_name = "LABEL")]
    pub label: Option<Label>,
    /// How long it must be kept: for-ever, or a span such as 90d
    #[arg(long, value_name = "SPAN")]
    pub keep: Option<Keep>,
    /// End at stored and intact, without restoring it
    #[arg(long)]
    pub no_proof: bool,
    /// Take a damaged database as it is, quarantined
    #[arg(long)]
    pub as_is: bool,
}

/// Make every commit of databases in WAL mode durable in the repository, until stopped
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay follow\n  backstay follow shop --once\n\n\
    Begins with a snapshot where there is none to go on from. SIGTERM ends it when everything is durable.")]
pub struct Follow {
    /// The sources; all of them when none is named
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<SourceName>,
    /// Make durable what there is, and end
    #[arg(long)]
    pub once: bool,
}

/// List the snapshots, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay list shop --json")]
pub struct List {
    /// The database, by its name in backstay.toml; all of them when none is named
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Also those that are condemned and will be deleted
    #[arg(long)]
    pub all: bool,
    /// Show the newest N of each database; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,
    /// Of this copy of the repository, by its name in backstay.toml
    #[arg(long, value_name = "COPY")]
    pub from_copy: Option<CopyName>,
}

/// Show everything known about one snapshot
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay show shop latest-proven")]
pub struct Show {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    #[command(flatten)]
    pub point: PointArgs,
    /// Of this copy of the repository, by its name in backstay.toml
    #[arg(long, value_name = "COPY")]
    pub from_copy: Option<CopyName>,
}

/// Read everything the repository holds, name what is missing or needed by nothing, and heal from a copy
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay scrub\n  backstay scrub --heal-from usb\n\n\
    What is damaged is replaced by the copy's bytes once those were compared with what was signed.")]
pub struct Scrub {
    /// Bring back from this copy what is missing or damaged; a name in backstay.toml
    #[arg(long, value_name = "COPY")]
    pub heal_from: Option<CopyName>,
}

/// Check that what is stored is intact, and with the key that it is authentic
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay check shop --deep\n  backstay check --sample 5%\n\n\
    Without --all, --sample or --older-than: what the newest snapshot needs, and of the rest what has gone unchecked\n\
    longest, up to `check.budget` bytes of each database.")]
pub struct Check {
    /// The database, by its name in backstay.toml; all of them when none is named
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Only this snapshot
    #[arg(long, value_name = "ID", requires = "source")]
    pub snapshot: Option<SnapshotPrefix>,
    /// Also restore it to a temporary file and question it: the snapshot named, or the newest of each source
    #[arg(long)]
    pub deep: bool,
    /// Of this copy of the repository, by its name in backstay.toml
    #[arg(long, value_name = "COPY")]
    pub from_copy: Option<CopyName>,
    /// Look at everything, however much it is
    #[arg(long, conflicts_with = "snapshot")]
    pub all: bool,
    /// Look at so many percent of the bytes, what has gone unchecked longest first
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["snapshot", "all"])]
    pub sample: Option<Percent>,
    /// Look at what has not been checked for this long
    #[arg(long, value_name = "SPAN", conflicts_with_all = ["snapshot", "all", "sample"])]
    pub older_than: Option<Age>,
}

/// Restore a source to a new file, or in place with the old file kept
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay restore shop --to copy.db\n  \
    backstay restore shop --at '2h ago' --to copy.db\n  backstay restore shop latest-proven --confirm shop\n  \
    backstay restore shop --at '2h ago' --table item --where 'id = 7' --into shop.db\n  \
    backstay restore shop --to staging.db --mask profile.toml\n  \
    backstay restore shop --to copy.db --follow\n\n\
    Without --to the database itself is replaced: the old file stays beside it, and the name must be typed.")]
pub struct Restore {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    #[command(flatten)]
    pub point: PointArgs,
    /// This state of a followed source, by its number
    #[arg(long, value_name = "N", conflicts_with = "which")]
    pub tx: Option<u64>,
    /// The last state older than the snapshot with this label
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["which", "tx"])]
    pub before: Option<Label>,
    /// Where --at lies in a gap of the log, the nearer side of it
    #[arg(long, requires = "at")]
    pub nearest: bool,
    /// Write this new file and leave the database alone
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Into the database while it is in use, as one transaction that writes only what differs
    #[arg(long, conflicts_with = "to")]
    pub live: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The source's name again, instead of typing it
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Of this copy of the repository, by its name in backstay.toml
    #[arg(long, value_name = "COPY")]
    pub from_copy: Option<CopyName>,
    #[command(flatten)]
    pub standby: StandbyArgs,
    #[command(flatten)]
    pub rows: RowsArgs,
    #[command(flatten)]
    pub masked: MaskArgs,
}

/// Bring the good rows of a damaged database into a new one
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  backstay rescue ./broken.db --to saved.db\n  backstay rescue shop --to saved.db\n\n\
    The damaged file is only read. Rows that belong nowhere are kept in the table lost_and_found."
)]
pub struct Rescue {
    /// The damaged file, or a source by its name in backstay.toml
    #[arg(value_name = "FILE|SOURCE")]
    pub what: PathBuf,
    /// Write this new file
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Also look for rows that were deleted, in free pages
    #[arg(long)]
    pub deleted: bool,
    /// Take pages the file does not have whole from the newest snapshot of the source that has
    #[arg(long)]
    pub from_snapshots: bool,
}

/// Bring in old copies of a database as snapshots of the time they are from
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay import shop old/shop-2026-11-*.db\n  \
    backstay import shop shop.bak.gz --taken '2026-03-01 02:00'\n\n\
    The oldest comes first. None of them is ever the latest; `--at` finds them.")]
pub struct Import {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// The copies: databases, or databases packed with gzip
    #[arg(value_name = "FILE", required_unless_present = "glob")]
    pub files: Vec<PathBuf>,
    /// Also the files of a folder whose names fit, such as 'old/*.db.gz'
    #[arg(long, value_name = "PATTERN")]
    pub glob: Vec<PathBuf>,
    /// When the copy was made, instead of the time in its name or of its last change
    #[arg(long, value_name = "TIME")]
    pub taken: Option<String>,
    /// A word to find these snapshots by
    #[arg(long, value_name = "LABEL")]
    pub label: Option<Label>,
    /// How long they must be kept: for-ever, or a span such as 90d
    #[arg(long, value_name = "SPAN")]
    pub keep: Option<Keep>,
    /// The most a packed copy may become
    #[arg(long, value_name = "SIZE", default_value = "64 GiB", value_parser = size)]
    pub size_max: ByteLen,
    /// End at stored and intact, without restoring them
    #[arg(long)]
    pub no_proof: bool,
    /// Take damaged copies as they are, quarantined
    #[arg(long)]
    pub as_is: bool,
}

fn size(text: &str) -> Result<ByteLen, String> {
    text.parse().map_err(|_| "write a size such as 500 MiB or 2 GiB".to_owned())
}

/// Say what state a database is in, and do what SQLite can do about it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  backstay maintain shop\n  backstay maintain shop --integrity --vacuum --analyze\n\n\
    Without a flag it only looks. Before VACUUM it makes a backup."
)]
pub struct Maintain {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Ask SQLite whether the file is sound; first of all
    #[arg(long)]
    pub integrity: bool,
    /// Write the file anew without its holes; the next backup is nearly full
    #[arg(long)]
    pub vacuum: bool,
    /// Copy the write-ahead log back and cut it
    #[arg(long)]
    pub checkpoint: bool,
    /// Count rows for the query planner
    #[arg(long)]
    pub analyze: bool,
    /// Do not make a backup before VACUUM
    #[arg(long)]
    pub no_backup: bool,
}

/// Which restore point is meant: one of three ways to say it.
#[derive(Debug, Clone, Args)]
#[group(id = "which", multiple = false)]
pub struct PointArgs {
    /// latest, latest-proven or label:NAME
    #[arg(value_name = "POINT")]
    pub point: Option<Point>,
    /// The newest at or before this time: 2026-11-21T10:00:00Z, '2026-11-21 10:00', '2h ago'
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// This one, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<SnapshotPrefix>,
}

/// A restore point as a person said it. The time is read later, where a clock and a zone are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Point(Point),
    At(String),
    Snapshot(SnapshotPrefix),
}

impl PointArgs {
    /// What was asked for; nothing said means the latest.
    pub fn wanted(&self) -> Wanted {
        match (&self.snapshot, &self.at, &self.point) {
            (Some(id), _, _) => Wanted::Snapshot(id.clone()),
            (None, Some(time), _) => Wanted::At(time.clone()),
            (None, None, Some(point)) => Wanted::Point(point.clone()),
            (None, None, None) => Wanted::Point(Point::Latest),
        }
    }
}

/// Look at the configuration
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  backstay config show --origin")]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum ConfigVerb {
    /// Print every setting in force
    #[command(after_help = "Example:\n  backstay config show --origin")]
    Show {
        /// Say where each value came from
        #[arg(long)]
        origin: bool,
    },
    /// Read the configuration and say what is wrong with it
    #[command(after_help = "Example:\n  backstay config check --config /etc/backstay.toml")]
    Check,
    /// Print which file is read
    #[command(after_help = "Example:\n  $EDITOR \"$(backstay config path)\"")]
    Path,
}

/// Look after the repository and its keys
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  backstay repo show")]
pub struct Repo {
    #[command(subcommand)]
    pub verb: RepoVerb,
}

#[derive(Debug, Args)]
pub struct RepoCopy {
    /// Which copy, by its name in backstay.toml; all of them when none is named
    #[arg(value_name = "COPY")]
    pub name: Option<CopyName>,
    /// Write nothing, and say what is missing there or differs
    #[arg(long)]
    pub check: bool,
    /// Also read again everything that is there already
    #[arg(long)]
    pub verify: bool,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum RepoVerb {
    /// Show the repository's identity, keys and contents
    #[command(after_help = "Example:\n  backstay repo show --json")]
    Show,
    /// Bring a copy of the repository up to date
    #[command(after_help = "Examples:\n  backstay repo copy\n  backstay repo copy offsite --check\n\n\
        Copies are tables such as `[copies.offsite]` with a `repository` in backstay.toml. Objects are compared with\n\
        what was signed before they are put there; nothing there is ever changed or removed.")]
    Copy(RepoCopy),
    /// Look after the keys that can read
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(after_help = "Example:\n  backstay repo key confirm --key-file /media/usb/backstay.key")]
    Key {
        #[command(subcommand)]
        verb: KeyVerb,
    },
    Enroll(Enroll),
    AuditPerms(AuditPerms),
    Repack(Repack),
    /// Look after the keys that sign: who may write, keep and mark
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(after_help = "Example:\n  backstay repo signer list")]
    Signer {
        #[command(subcommand)]
        verb: SignerVerb,
    },
    /// Put back the newest configuration, where the store has lost it and this host has kept it
    #[command(after_help = "Example:\n  backstay repo mend\n\n\
        Writes the very bytes this host has verified, and overwrites nothing.")]
    Mend,
}

/// Check everything a backup here depends on
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay doctor")]
pub struct Doctor {}

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay completions bash > /etc/bash_completion.d/backstay")]
pub struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Write the manual pages
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Example:\n  backstay man --dir ./man")]
pub struct Man {
    /// One page per command in this folder, instead of the first page on stdout
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `shop=./shop.db`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    pub name: SourceName,
    pub path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write a name and a path, such as shop=./shop.db")?;
        if path.is_empty() {
            return Err("the path after `=` is empty".to_owned());
        }
        Ok(Self {
            name: name.parse().map_err(|bad: backstay_model::name::BadSourceName| bad.to_string())?,
            path: path.into(),
        })
    }
}

/// `5%`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u8);

impl FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
        let number = number.filter(|percent| (1..=100).contains(percent));
        number.map(Self).ok_or_else(|| "write 1% to 100%".to_owned())
    }
}

/// A span such as `24h`, with the words it was written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Age {
    pub text: String,
    pub span: Duration,
}

impl FromStr for Age {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let span = parse_age(text).and_then(|span| Duration::try_from(span).ok());
        let span = span.ok_or("write a span such as 30m, 24h or 90d")?;
        Ok(Self { text: text.to_owned(), span })
    }
}

/// How long a snapshot must be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    ForEver,
    For(Duration),
}

impl FromStr for Keep {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "for-ever" => Ok(Keep::ForEver),
            other => other
                .parse::<Age>()
                .map(|age| Keep::For(age.span))
                .map_err(|_| "write for-ever or a span such as 90d".to_owned()),
        }
    }
}

/// A restore point that has a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    Latest,
    LatestProven,
    Label(Label),
}

impl FromStr for Point {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("label:")) {
            ("latest", _) => Ok(Point::Latest),
            ("latest-proven", _) => Ok(Point::LatestProven),
            (_, Some(label)) => {
                label.parse().map(Point::Label).map_err(|bad: backstay_model::name::BadLabel| bad.to_string())
            }
            _ => {
                Err("write latest, latest-proven or label:NAME; a time goes after --at, an id after --snapshot"
                    .to_owned())
            }
        }
    }
}

/// The beginning of a snapshot's id, at least four digits of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPrefix(String);

impl SnapshotPrefix {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotPrefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_lowercase();
        let valid = (4..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if valid {
            Ok(Self(text))
        } else {
            Err("write 4 to 32 hexadecimal digits, as `backstay list` shows them".to_owned())
        }
    }
}

/// The grammar as a value, for completions, manual pages and tests.
pub fn grammar() -> clap::Command {
    Cli::command()
}
