//! What can be wrong with a configuration, with the place and the words needed to mend it.

use super::origin::{Origin, Place};
use super::secret::SecretError;
use backstay_model::{Kind, Kinded, SourceName};
use backstay_store::cloud::Provider;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no {}", path.display())]
    NotFound { path: PathBuf },
    #[error("cannot {op} {}", path.display())]
    Io { op: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("{at}: {message}")]
    Syntax { at: Place, message: String },
    #[error("{at}: unknown key `{key}`")]
    UnknownKey { at: Place, key: String, meant: Option<String> },
    #[error("{}: `{key}` must be {wanted}, not {found}", At(origin))]
    BadValue { origin: Origin, key: String, wanted: String, found: String },
    #[error("{} has no `{key}`", path.display())]
    Missing { path: PathBuf, key: String },
    #[error("{}: the key comes from `{first}` and from `{second}`", At(origin))]
    TwoKeySources { origin: Origin, first: &'static str, second: &'static str },
    #[error("there is no source named `{name}` in {}", path.display())]
    NoSuchSource { path: PathBuf, name: SourceName, have: Vec<SourceName> },
    #[error("there is no copy named `{name}` in {}", path.display())]
    NoSuchCopy { path: PathBuf, name: String, have: Vec<String> },
    #[error("there are no access keys for the repository's bucket")]
    NoAccessKeys { provider: Provider },
    #[error("the credentials in {} {what}", path.display())]
    BadCredentials { path: PathBuf, what: &'static str },
    #[error("the profile `{name}` {what}")]
    Profile { name: String, what: &'static str },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// An origin written so that an editor or a person finds it.
struct At<'a>(&'a Origin);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Origin::File(place) => write!(f, "{place}"),
            other => write!(f, "{other}"),
        }
    }
}

impl Kinded for ConfigError {
    fn kind(&self) -> Kind {
        match self {
            // It is in the way; its words may be fine.
            ConfigError::Exists { .. } => Kind::Conflict,
            ConfigError::Io { source, .. } => match Kind::of_io(source) {
                Kind::Unavailable => Kind::Config,
                kind => kind,
            },
            ConfigError::NoSuchSource { .. } | ConfigError::NoSuchCopy { .. } => Kind::Usage,
            ConfigError::BadValue { origin: Origin::Flag(_), .. } => Kind::Usage,
            ConfigError::Secret(error) => error.kind(),
            _ => Kind::Config,
        }
    }
}
