//! Every leaf of every layer with its origin, before anything is believed about its type.

use super::error::ConfigError;
use super::keys::{self, Slot};
use super::origin::{Origin, Place};
use super::{DEFAULTS, Env, FlagSetting};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use toml_edit::{Document, Item, TableLike};

/// A configuration is written by people: anything longer is the wrong file.
const LENGTH_MAX: u64 = 1024 * 1024;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    Text(String),
    Bool(bool),
    Int(i64),
    List(Vec<String>),
    /// Something no setting takes, by its name.
    Other(&'static str),
}

impl Written {
    fn of(item: &Item) -> Self {
        if let Some(text) = item.as_str() {
            Written::Text(text.to_owned())
        } else if let Some(flag) = item.as_bool() {
            Written::Bool(flag)
        } else if let Some(number) = item.as_integer() {
            Written::Int(number)
        } else if let Some(array) = item.as_array() {
            let texts: Option<Vec<String>> = array.iter().map(|value| value.as_str().map(str::to_owned)).collect();
            texts.map_or(Written::Other("a list of other things than text"), Written::List)
        } else {
            Written::Other(item.type_name())
        }
    }
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Written::Text(text) => write!(f, "{text:?}"),
            Written::Bool(flag) => write!(f, "{flag}"),
            Written::Int(number) => write!(f, "{number}"),
            Written::List(texts) => write!(f, "{texts:?}"),
            Written::Other(what) => write!(f, "{what}"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Leaf {
    pub written: Written,
    pub origin: Origin,
}

/// All layers so far: the strongest value of each dotted key.
#[derive(Debug, Default)]
pub struct RawConfig {
    leaves: BTreeMap<String, Leaf>,
    /// Where each source was opened, so that one without a path can be pointed at.
    pub sources: BTreeMap<String, Place>,
    /// The same of each copy.
    pub copies: BTreeMap<String, Place>,
}

impl RawConfig {
    pub fn defaults() -> Result<Self, ConfigError> {
        let mut raw = Self::default();
        raw.overlay_text(Path::new("defaults.toml"), DEFAULTS)?;
        for leaf in raw.leaves.values_mut() {
            leaf.origin = Origin::Default;
        }
        Ok(raw)
    }

    pub fn get(&self, key: &str) -> Option<&Leaf> {
        self.leaves.get(key)
    }

    /// What is said of one copy, as if it stood at the top of a file of its own. Nothing is inherited: the way
    /// into one bucket is not the way into another.
    pub fn of_copy(&self, name: &str) -> Self {
        let prefix = format!("copies.{name}.");
        let rules = |key: &str, leaf: &Leaf| key.starts_with("retention.") && leaf.origin == Origin::Default;
        let defaults = self.leaves.iter().filter(|(key, leaf)| rules(key, leaf));
        let mut leaves: BTreeMap<String, Leaf> = defaults.map(|(key, leaf)| (key.clone(), leaf.clone())).collect();
        let own = self.leaves.iter().filter_map(|(key, leaf)| Some((key.strip_prefix(&prefix)?, leaf)));
        leaves.extend(own.map(|(key, leaf)| (key.to_owned(), leaf.clone())));
        Self { leaves, ..Self::default() }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Leaf)> {
        self.leaves.iter().map(|(key, leaf)| (key.as_str(), leaf))
    }

    pub fn overlay_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        self.overlay_text(path, text)
    }

    pub fn overlay_env(&mut self, env: &Env) {
        for (key, variable) in keys::by_variable() {
            if let Some(text) = env.get(&variable) {
                self.put(key, Written::Text(text.to_owned()), Origin::Env(variable));
            }
        }
        if env.get(keys::KEY_VARIABLE).is_some_and(|text| !text.is_empty()) {
            // Only the fact is kept: the material itself stays in the environment until it is loaded.
            self.put("key_env", Written::Bool(true), Origin::Env(keys::KEY_VARIABLE.to_owned()));
        }
    }

    pub fn overlay_flags(&mut self, flags: &[FlagSetting]) {
        for FlagSetting { key, value, flag } in flags {
            self.put(key, Written::Text(value.clone()), Origin::Flag(flag));
        }
    }

    fn put(&mut self, key: &str, written: Written, origin: Origin) {
        self.leaves.insert(key.to_owned(), Leaf { written, origin });
    }

    fn overlay_text(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let document = Document::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            ConfigError::Syntax { at: Place::of_offset(file, text, offset), message: one_line(error.message()) }
        })?;
        let walk = Walk { file, text };
        walk.table(self, &mut Vec::new(), document.as_table())
    }
}

/// The TOML reader explains some errors over several lines; ours are one.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Walk<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Walk<'_> {
    /// Depth is bounded by the list of keys: only a known table is entered.
    fn table<'t>(
        &self,
        raw: &mut RawConfig,
        path: &mut Vec<&'t str>,
        table: &'t dyn TableLike,
    ) -> Result<(), ConfigError> {
        for (name, item) in table.iter() {
            let key_span = table.get_key_value(name).and_then(|(key, _)| key.span());
            let span = key_span.or_else(|| item.span()).map_or(0, |span| span.start);
            let at = Place::of_offset(self.file, self.text, span);
            path.push(name);
            let dotted = path.join(".");
            match (keys::slot(path), item.as_table_like()) {
                (Slot::Unknown, _) => {
                    return Err(ConfigError::UnknownKey { at, key: dotted, meant: keys::suggest(path) });
                }
                (Slot::Table, Some(inner)) => {
                    match path.as_slice() {
                        ["sources", source] => drop(raw.sources.insert((*source).to_owned(), at)),
                        ["copies", copy] => drop(raw.copies.insert((*copy).to_owned(), at)),
                        _ => {}
                    }
                    self.table(raw, path, inner)?;
                }
                (Slot::Table, None) => {
                    let found = Written::of(item).to_string();
                    let wanted = "a table".to_owned();
                    return Err(ConfigError::BadValue { origin: Origin::File(at), key: dotted, wanted, found });
                }
                (Slot::Value, _) => raw.put(&dotted, Written::of(item), Origin::File(at)),
            }
            path.pop();
        }
        Ok(())
    }
}

/// The text of a configuration file, bounded.
pub fn read_file(path: &Path) -> Result<String, ConfigError> {
    let io = |op| move |source| ConfigError::Io { op, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::NotFound { path: path.to_owned() },
        _ => ConfigError::Io { op: "open", path: path.to_owned(), source },
    })?;
    let mut text = String::new();
    let length = file.take(LENGTH_MAX + 1).read_to_string(&mut text).map_err(io("read"))?;
    if length as u64 > LENGTH_MAX {
        return Err(ConfigError::TooLong { path: path.to_owned(), limit: LENGTH_MAX });
    }
    Ok(text)
}
