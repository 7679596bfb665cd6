//! Databases named by a pattern: each file of one folder that fits is a source of its own.
//!
//! Owns the rule of their names: the name of the table, a `-`, and what the star stands for, in lower case, with a `-`
//! for each other character than a-z, 0-9, `_` and `-`. Files that would have one name between them are none of them
//! sources; that is told. Reads names of a folder, never a file.

use super::error::ConfigError;
use super::settings::{Policy, SourceSettings};
use super::value::Named;
use crate::config::hooks::Hooks;
use backstay_model::SourceName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// After how long without a commit one of many gives up its handles, unless something else is said.
const REST_AFTER: Duration = Duration::from_secs(60);

/// What SQLite puts beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// All databases of one pattern.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: SourceName,
    pub folder: PathBuf,
    /// What a file's name has before and behind the star.
    before: String,
    behind: String,
    /// Databases of the folder that have a table of their own.
    pub apart: BTreeSet<PathBuf>,
    pub smoke: Vec<String>,
    pub policy: Policy,
    pub hooks: Hooks,
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub struct FoundFiles {
    pub sources: BTreeMap<SourceName, SourceSettings>,
    /// Files that fit and are no sources all the same, and why.
    pub passed_over: Vec<String>,
}

/// A folder, and what a file's name has before and behind the star.
pub(super) fn split(named: Named<'_>, pattern: &Path) -> Result<(PathBuf, String, String), ConfigError> {
    let wanted = "a path with one `*` in the name of the file, such as \"/srv/tenants/*.db\"";
    let folder = pattern.parent().filter(|folder| !folder.to_string_lossy().contains('*'));
    let name = pattern.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match (folder, name.split_once('*')) {
        (Some(folder), Some((before, behind))) if !behind.contains(['*', '?', '[']) && !before.contains(['?', '[']) => {
            Ok((folder.to_owned(), before.to_owned(), behind.to_owned()))
        }
        _ => Err(named.bad(wanted)),
    }
}

impl Group {
    pub(super) fn new(
        name: SourceName,
        (folder, before, behind): (PathBuf, String, String),
        (smoke, mut policy, hooks): (Vec<String>, Policy, Hooks),
    ) -> Self {
        policy.follow.rest_after = policy.follow.rest_after.or(Some(REST_AFTER));
        Self { name, folder, before, behind, apart: BTreeSet::new(), smoke, policy, hooks }
    }

    /// The files that fit now. A folder that is not there has none.
    pub fn find(&self) -> FoundFiles {
        let mut found = FoundFiles::default();
        let mut by_name: BTreeMap<SourceName, Vec<PathBuf>> = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let Some(star) = entry.file_name().to_str().and_then(|name| self.star(name)) else { continue };
            if !entry.path().is_file() {
                continue;
            }
            match self.named(&star) {
                Some(name) => by_name.entry(name).or_default().push(entry.path()),
                None => {
                    found.passed_over.push(format!("{}: its name is too long for a source", entry.path().display()))
                }
            }
        }
        for (name, mut paths) in by_name {
            if let [path] = &paths[..] {
                found.sources.insert(name.clone(), self.source(name, path.clone()));
                continue;
            }
            paths.sort();
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            found.passed_over.push(format!("{}: all of them would be the source `{name}`", paths.join(", ")));
        }
        found.passed_over.sort();
        found
    }

    /// Adds what is found, except what other tables name already. Says which files are no sources, and why.
    pub fn add_to(&self, sources: &mut BTreeMap<SourceName, SourceSettings>) -> Vec<String> {
        let FoundFiles { sources: found, mut passed_over } = self.find();
        for (name, source) in found {
            let named = sources.values().find(|other| other.path == source.path || other.name == name);
            match named {
                Some(other) => passed_over.push(format!(
                    "{}: fits `sources.{}`, and `sources.{}` is a table of its own",
                    source.path.display(),
                    self.name,
                    other.name
                )),
                None => drop(sources.insert(name, source)),
            }
        }
        passed_over
    }

    /// Whether a source is one of this pattern.
    pub fn has(&self, source: &SourceSettings) -> bool {
        !self.apart.contains(&source.path)
            && source.path.parent() == Some(self.folder.as_path())
            && source.path.file_name().and_then(|name| self.star(name.to_str()?)).and_then(|star| self.named(&star))
                == Some(source.name.clone())
    }

    /// What stands for the star in the name of a file that fits.
    fn star(&self, file: &str) -> Option<String> {
        let star = file.strip_prefix(self.before.as_str())?.strip_suffix(self.behind.as_str())?;
        let is_beside = BESIDE.iter().any(|suffix| file.ends_with(suffix));
        (!star.is_empty() && !is_beside).then(|| star.to_owned())
    }

    fn named(&self, star: &str) -> Option<SourceName> {
        let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '-' };
        let star: String = star.to_lowercase().chars().map(plain).collect();
        format!("{}-{star}", self.name).parse().ok()
    }

    fn source(&self, name: SourceName, path: PathBuf) -> SourceSettings {
        let (smoke, policy, hooks) = (self.smoke.clone(), self.policy.clone(), self.hooks.clone());
        SourceSettings { name, path, smoke, policy, hooks }
    }

    /// A source whose file is not there any more: where it would be.
    pub fn gone(&self, name: &SourceName) -> Option<SourceSettings> {
        let star = name.as_str().strip_prefix(self.name.as_str())?.strip_prefix('-').filter(|star| !star.is_empty())?;
        let path = self.folder.join(format!("{}{star}{}", self.before, self.behind));
        Some(self.source(name.clone(), path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;

    fn settings(folder: &Path, glob: &str) -> Result<crate::config::Settings, ConfigError> {
        let layers =
            Layers { file: None, working_dir: folder.to_owned(), env: super::super::Env::default(), flags: Vec::new() };
        let text = format!(
            "repository = \"./vault\"\n[sources.tenants]\nglob = {glob:?}\n[sources.tenants.follow]\ninterval = \"1s\"\n\
             [sources.own]\npath = \"own.db\"\n[sources.tenants-apart]\npath = \"./t/apart.db\"\n"
        );
        layers.load_text(&folder.join("backstay.toml"), &text)
    }

    #[test]
    fn each_file_that_fits_is_a_source_and_those_of_one_name_are_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let tenants = folder.path().join("t");
        std::fs::create_dir_all(tenants.join("folder.db")).expect("made");
        let long = format!("{}.db", "x".repeat(80));
        for name in
            ["acme.db", "acme.db-wal", "Big Co.db", "x_1.db", "y.db", "Y.db", "other.sqlite", "apart.db", ".db", &long]
        {
            std::fs::write(tenants.join(name), "").expect("written");
        }
        let found = settings(folder.path(), "t/*.db").expect("settings");
        let names: Vec<&str> = found.sources.keys().map(SourceName::as_str).collect();
        assert_eq!(names, ["own", "tenants-acme", "tenants-apart", "tenants-big-co", "tenants-x_1"]);
        let big = &found.sources[&"tenants-big-co".parse::<SourceName>().expect("legal")];
        assert_eq!((&big.path, big.policy.follow.interval.as_secs()), (&tenants.join("Big Co.db"), 1));
        assert_eq!(found.passed_over.len(), 3, "{:?}", found.passed_over);
        assert!(found.passed_over.iter().any(|line| line.contains("Y.db") && line.contains("y.db")));
        assert!(found.passed_over.iter().any(|line| line.contains("apart.db") && line.contains("table of its own")));
        let gone = found.source(&"tenants-gone".parse().expect("legal")).expect("where it would be");
        assert_eq!(gone.path, tenants.join("gone.db"));
        assert!(found.source(&"nobody".parse().expect("legal")).is_err());
        let chosen = found.chosen(&["tenants".parse().expect("legal")]).expect("all of them");
        assert_eq!(chosen.len(), 3);
        for bad in ["t/x.db", "*/x.db", "t/*x*.db", "t/[a]*.db"] {
            assert!(matches!(settings(folder.path(), bad), Err(ConfigError::BadValue { .. })), "{bad}");
        }
    }
}
