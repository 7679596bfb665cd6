//! Reads one leaf into the newtype a setting has; the only place where text becomes a value.

use super::error::ConfigError;
use super::raw::{Leaf, Written};
use backstay_model::ByteLen;
use backstay_model::moment::parse_age;
use std::time::Duration;

/// A leaf with the name it is complained about under.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    pub key: &'a str,
    pub leaf: &'a Leaf,
}

impl<'a> Named<'a> {
    pub fn bad(self, wanted: &str) -> ConfigError {
        ConfigError::BadValue {
            origin: self.leaf.origin.clone(),
            key: self.key.to_owned(),
            wanted: wanted.to_owned(),
            found: self.leaf.written.to_string(),
        }
    }

    pub fn text(self, wanted: &str) -> Result<&'a str, ConfigError> {
        match &self.leaf.written {
            Written::Text(text) if !text.trim().is_empty() => Ok(text),
            _ => Err(self.bad(wanted)),
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let wanted = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        let text = self.text(&wanted)?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| self.bad(&wanted))
    }

    /// Variables and flags are text, so `"true"` counts there and in files alike.
    pub fn flag(self) -> Result<bool, ConfigError> {
        match &self.leaf.written {
            Written::Bool(flag) => Ok(*flag),
            Written::Text(text) if text == "true" => Ok(true),
            Written::Text(text) if text == "false" => Ok(false),
            _ => Err(self.bad("true or false")),
        }
    }

    pub fn number(self, least: u32, most: u32) -> Result<u32, ConfigError> {
        let number = match &self.leaf.written {
            Written::Int(number) => u32::try_from(*number).ok(),
            Written::Text(text) => text.parse().ok(),
            _ => None,
        };
        let wanted = || self.bad(&format!("a number from {least} to {most}"));
        number.filter(|n| (least..=most).contains(n)).ok_or_else(wanted)
    }

    pub fn duration(self) -> Result<Duration, ConfigError> {
        let wanted = "a span such as \"30s\", \"15m\" or \"24h\"";
        let span = parse_age(self.text(wanted)?).and_then(|span| Duration::try_from(span).ok());
        span.ok_or_else(|| self.bad(wanted))
    }

    pub fn size(self) -> Result<ByteLen, ConfigError> {
        let wanted = "a size such as \"64 MiB\" or \"1.5 GiB\"";
        self.text(wanted)?.parse().map_err(|_| self.bad(wanted))
    }

    pub fn list(self, wanted: &str) -> Result<Vec<String>, ConfigError> {
        match &self.leaf.written {
            Written::List(texts) => Ok(texts.clone()),
            _ => Err(self.bad(wanted)),
        }
    }
}
