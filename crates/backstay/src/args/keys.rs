//! The grammar of keys, trust and the audit.

use backstay_format::facts::Role;
use backstay_model::SourceName;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum KeyVerb {
    /// Say who can open the backups
    #[command(after_help = "Example:\n  backstay repo key list --json")]
    List,
    /// Let one more open the backups: a person's age recipient or SSH key, or a passphrase
    #[command(after_help = "Examples:\n  backstay repo key add age1... --name ada\n  \
        backstay repo key add \"$(cat ~/.ssh/id_ed25519.pub)\" --name bob\n  \
        backstay repo key add --passphrase --name safe\n\n\
        The passphrase is asked for, or read from standard input: one line.")]
    Add {
        /// An age recipient, as `age-keygen` prints it, or the public half of an Ed25519 key of SSH
        #[arg(value_name = "RECIPIENT", required_unless_present = "passphrase")]
        recipient: Option<String>,
        /// A passphrase instead
        #[arg(long, conflicts_with = "recipient")]
        passphrase: bool,
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Take somebody off: a new key, which they are not given
    #[command(after_help = "Example:\n  backstay repo key remove ada --confirm ada\n\n\
        What was stored before stays readable to whoever could read it then.")]
    Remove {
        /// As `repo key list` shows it
        #[arg(value_name = "NAME")]
        name: String,
        /// The name again, instead of typing it
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// A new file for the new key, when the key in use does not come from a file
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Then seal what was stored before to the new key too, as `repo key rewrite` does
        #[arg(long, conflicts_with = "key_file")]
        rewrite: bool,
    },
    /// Make a new key for what is stored from now on
    #[command(after_help = "Example:\n  backstay repo key rotate")]
    Rotate {
        /// A new file for the new key, when the key in use does not come from a file
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Then seal what was stored before to the new key too, as `repo key rewrite` does
        #[arg(long, conflicts_with = "key_file")]
        rewrite: bool,
    },
    /// Seal what was stored under keys of before to the present key
    #[command(after_help = "Example:\n  backstay repo key rewrite\n\n\
        Needs a keeper that can read. Backups go on beside it, it may be stopped and started again, and what it\n\
        replaces goes by `retention apply` after the grace.")]
    Rewrite {
        /// Only this source
        #[arg(value_name = "SOURCE")]
        source: Option<SourceName>,
    },
    /// Show that a copy of the key, kept elsewhere, opens the repository
    #[command(after_help = "Example:\n  backstay repo key confirm --key-file /media/usb/backstay.key")]
    Confirm {
        /// The copy
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
    },
    /// Write everything a restore needs into a new folder: key, page to print, script
    #[command(after_help = "Example:\n  backstay repo key kit --to /media/usb/shop-kit")]
    Kit {
        /// The new folder
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Write the key alone into a new file, or print it
    #[command(after_help = "Example:\n  backstay repo key export --to /media/usb/backstay.key")]
    Export {
        /// The new key file
        #[arg(long, value_name = "FILE", required_unless_present = "print")]
        to: Option<PathBuf>,
        /// Print the secret itself
        #[arg(long, conflicts_with = "to")]
        print: bool,
    },
    /// Write a key file from a passphrase alone
    #[command(after_help = "Example:\n  backstay repo key unlock --to reader.key\n\n\
        The passphrase is asked for, or read from standard input: one line.")]
    Unlock {
        /// The new key file, which must not exist
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

/// Try what the credentials at hand may do in the repository's store
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay repo audit-perms\n  backstay repo audit-perms --roles writer --json\n\n\
    Creates probes under names that nothing reads, and deletes those it may.")]
pub struct AuditPerms {
    /// The roles they are meant for; those of this host's signing key when nothing is said
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    pub roles: Vec<EnrolRole>,
}

/// Enrol a host: a request made there, accepted where the root key is
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay repo enroll --request --role writer --name db-host-2\n  \
    backstay repo enroll --accept db-host-2.request --roles writer")]
pub struct Enroll {
    /// On the new host: make its key file and a request
    #[arg(long, requires = "role", requires = "name", conflicts_with = "accept", required_unless_present = "accept")]
    pub request: bool,
    /// Where the root key is: enrol the host this request came from
    #[arg(long, value_name = "FILE", requires = "roles")]
    pub accept: Option<PathBuf>,
    /// What the host wishes to be; may be given several times
    #[arg(long, value_name = "ROLE", value_delimiter = ',', conflicts_with = "accept")]
    pub role: Vec<EnrolRole>,
    /// What the host is to be called
    #[arg(long, value_name = "NAME", conflicts_with = "accept")]
    pub name: Option<String>,
    /// Where to write the host's new key
    #[arg(long, value_name = "FILE", default_value = "./backstay.key")]
    pub key_file: PathBuf,
    /// Where to write the request; NAME.request when nothing is said
    #[arg(long, value_name = "FILE", conflicts_with = "accept")]
    pub to: Option<PathBuf>,
    /// What the host may be: writer, keeper, reader
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    pub roles: Vec<EnrolRole>,
}

/// A role as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnrolRole(pub Role);

impl FromStr for EnrolRole {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Role::ALL.into_iter().find(|role| role.word() == text);
        found.map(Self).ok_or_else(|| "write writer, keeper or reader".to_owned())
    }
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum SignerVerb {
    /// Say who may write, keep and mark, and who was removed
    #[command(after_help = "Example:\n  backstay repo signer list --json")]
    List,
    /// Believe nothing new of a signer; what it has signed stays
    #[command(after_help = "Example:\n  backstay repo signer remove db-host-2 --confirm db-host-2")]
    Remove {
        /// As `repo signer list` shows it
        #[arg(value_name = "NAME")]
        name: String,
        /// The name again, instead of typing it
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
}

/// List who did what with the repository, each signer's chain verified
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backstay audit --json")]
pub struct AuditArgs {
    /// Only what concerns this source
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
}

/// Look after a source across hosts
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  backstay source join shop --request")]
pub struct Source {
    #[command(subcommand)]
    pub verb: SourceVerb,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum SourceVerb {
    Join(Join),
}

/// Go on with a source that another host backs up, without being able to read it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  backstay source join shop --request\n  \
    backstay source join shop --answer age1... --to shop.join\n  backstay source join shop --accept shop.join")]
pub struct Join {
    /// The database, by its name in backstay.toml
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// On the new host: print what the other host must be told
    #[arg(long, conflicts_with_all = ["answer", "accept"], required_unless_present_any = ["answer", "accept"])]
    pub request: bool,
    /// On a host that backs it up, or can read it: hand it over to what the new host printed
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "accept")]
    pub answer: Option<String>,
    /// Where to write the answer; SOURCE.join when nothing is said
    #[arg(long, value_name = "FILE", requires = "answer")]
    pub to: Option<PathBuf>,
    /// On the new host: take the answer
    #[arg(long, value_name = "FILE")]
    pub accept: Option<PathBuf>,
}
