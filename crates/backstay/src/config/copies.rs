//! The tables `[copies.NAME]`: second repositories with the same objects.

use super::error::ConfigError;
use super::origin::Origin;
use super::raw::RawConfig;
use super::retention::Retention;
use super::settings::{Reader, RepositoryLocation, Settings};
use super::store::StoreSettings;
use backstay_model::SourceName;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What a copy is called here; the same letters as in the name of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct CopyName(SourceName);

impl FromStr for CopyName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.parse().map_err(|_| "use up to 64 of a-z, 0-9, - and _, beginning with a letter or digit")?;
        Ok(Self(name))
    }
}

impl fmt::Display for CopyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A second repository kept complete.
#[derive(Debug, Clone)]
pub struct CopySettings {
    pub repository: RepositoryLocation,
    pub store: StoreSettings,
    /// What the copy keeps; without a rule, everything.
    pub retention: Retention,
}

/// Reads every copy; `reader` says from which folder paths start.
pub(super) fn read(raw: &RawConfig, reader: &Reader<'_>) -> Result<BTreeMap<CopyName, CopySettings>, ConfigError> {
    let mut copies = BTreeMap::new();
    for (name, at) in &raw.copies {
        let named: CopyName = name.parse().map_err(|wanted: String| ConfigError::BadValue {
            origin: Origin::File(at.clone()),
            key: "copies".to_owned(),
            wanted: format!("followed by a name ({wanted})"),
            found: format!("{name:?}"),
        })?;
        let own = raw.of_copy(name);
        let reader = reader.over(&own);
        let repository = reader.repository().map_err(|error| in_copy(name, error))?;
        let store = StoreSettings::read(&reader, &repository).map_err(|error| in_copy(name, error))?;
        let retention = reader.retention().map_err(|error| in_copy(name, error))?;
        copies.insert(named, CopySettings { repository, store, retention });
    }
    Ok(copies)
}

/// The key as it stands in the file.
fn in_copy(name: &str, error: ConfigError) -> ConfigError {
    match error {
        ConfigError::BadValue { origin, key, wanted, found } => {
            ConfigError::BadValue { origin, key: format!("copies.{name}.{key}"), wanted, found }
        }
        ConfigError::Missing { path, key } => ConfigError::Missing { path, key: format!("copies.{name}.{key}") },
        other => other,
    }
}

impl Settings {
    pub fn copy(&self, name: &CopyName) -> Result<&CopySettings, ConfigError> {
        self.copies.get(name).ok_or_else(|| ConfigError::NoSuchCopy {
            path: self.file.clone(),
            name: name.to_string(),
            have: self.copies.keys().map(ToString::to_string).collect(),
        })
    }

    /// The settings with a copy in the place of the repository, when one is named. What this host has seen of
    /// a copy is remembered apart: it is older than the original by right.
    pub fn on_copy(mut self, name: Option<&CopyName>) -> Result<Self, ConfigError> {
        let Some(name) = name else { return Ok(self) };
        let CopySettings { repository, store, .. } = self.copy(name)?.clone();
        self.state_dir = self.state_of(name);
        (self.repository, self.store, self.standing_in) = (repository, store, Some(name.clone()));
        Ok(self)
    }

    /// Where this host remembers what it has seen of a copy.
    pub fn state_of(&self, name: &CopyName) -> std::path::PathBuf {
        self.state_dir.join("copies").join(name.to_string())
    }
}
