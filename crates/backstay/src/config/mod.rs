//! Owns the meaning of `backstay.toml`, of `BACKSTAY_*` variables and of the flags that change settings.
//!
//! Reading goes through three values: [`Layers`] says where settings may come from, [`raw::RawConfig`] holds every
//! leaf with its origin, [`Settings`] holds what the rest of the program may see: newtypes, absolute paths, and no
//! option except where absence means something. Key material is named here ([`KeySource`]) and loaded only on
//! demand; it is never part of the settings, so it cannot be printed with them.
//!
//! Must never: create or change a file while reading, look for a configuration outside the working directory,
//! accept a key it does not know. A crash while writing leaves the old file whole, or none (see [`write`]).
//! Takes no locks.

pub mod aws;
pub mod azure;
pub mod copies;
pub mod error;
pub mod gcs;
pub mod groups;
pub mod hooks;
pub mod keys;
pub mod origin;
pub mod raw;
pub mod retention;
pub mod secret;
pub mod settings;
pub mod store;
pub mod value;
pub mod write;

#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use secret::KeySource;
pub use settings::Settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of the configuration file in the working directory.
pub const FILE_NAME: &str = "backstay.toml";

/// The defaults, which are also the reference page of the configuration.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// The environment as a value, taken once at the start, so that nothing below reads the ambient one.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// Every variable that is valid text; others cannot name a setting.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The same with other values for some, and without what names a repository.
    pub fn for_another<'a>(&self, more: impl Iterator<Item = (&'a str, String)>) -> Self {
        let mut env = self.0.clone();
        env.remove("BACKSTAY_REPOSITORY");
        env.extend(more.map(|(name, value)| (name.to_owned(), value)));
        Self(env)
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Variables that look like ours and name nothing: most likely misspelt.
    pub fn unknown(&self) -> Vec<String> {
        let ours = keys::variables();
        self.0.keys().filter(|name| name.starts_with("BACKSTAY_") && !ours.contains(name)).cloned().collect()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Env {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }
}

/// A setting said on the command line.
#[derive(Debug, Clone)]
pub struct FlagSetting {
    pub key: &'static str,
    pub value: String,
    pub flag: &'static str,
}

/// Everywhere a setting can come from, besides the embedded defaults.
#[derive(Debug, Clone)]
pub struct Layers {
    /// What `--config` or `BACKSTAY_CONFIG` named; otherwise `backstay.toml` in the working directory.
    pub file: Option<PathBuf>,
    pub working_dir: PathBuf,
    pub env: Env,
    pub flags: Vec<FlagSetting>,
}

impl Layers {
    /// The file these layers read, absolute, whether or not it exists.
    pub fn path(&self) -> PathBuf {
        self.working_dir.join(self.file.as_deref().unwrap_or(Path::new(FILE_NAME)))
    }

    /// Reads and merges every layer.
    pub fn load(&self) -> Result<Settings, ConfigError> {
        let path = self.path();
        let text = raw::read_file(&path)?;
        self.load_text(&path, &text)
    }

    /// The same for text that was already read, as if it stood in `path`.
    pub fn load_text(&self, path: &Path, text: &str) -> Result<Settings, ConfigError> {
        let mut raw = raw::RawConfig::defaults()?;
        raw.overlay_file(path, text)?;
        raw.overlay_env(&self.env);
        raw.overlay_flags(&self.flags);
        settings::build(&raw, path, &self.working_dir)
    }
}
