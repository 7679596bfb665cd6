//! Names people choose: of a source, and of a snapshot.

use std::fmt;
use std::str::FromStr;

/// The name of a source, which is also its folder in the repository.
///
/// Lower-case letters, digits, `-` and `_`, at most 64, beginning with a letter or digit, so that it
/// is safe in a path, a URL, a shell and a systemd unit. `log` is taken: `data/log/` holds streams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct SourceName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a source: use up to 64 of a-z, 0-9, - and _, beginning with a letter or digit (and not `log`)"
)]
pub struct BadSourceName(pub String);

impl SourceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest legal name to some text such as a file's stem.
    pub fn suggest(text: &str) -> Self {
        let mut name: String = text
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '-' })
            .collect();
        name = name.trim_matches(['-', '_']).chars().take(64).collect();
        name.parse().unwrap_or_else(|_| Self("database".to_owned()))
    }
}

impl FromStr for SourceName {
    type Err = BadSourceName;
    fn from_str(text: &str) -> Result<Self, BadSourceName> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = (1..=64).contains(&text.len())
            && text.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
            && text.bytes().next().is_some_and(plain)
            && text != "log";
        if valid { Ok(Self(text.to_owned())) } else { Err(BadSourceName(text.to_owned())) }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for SourceName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A person's word for a snapshot, such as `before-v2`. Not unique: the newest one wins.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Label(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a label: use 1 to 100 printable characters, not beginning or ending with a space")]
pub struct BadLabel(pub String);

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = BadLabel;
    fn from_str(text: &str) -> Result<Self, BadLabel> {
        let count = text.chars().count();
        let valid = (1..=100).contains(&count) && text.trim() == text && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.to_owned())) } else { Err(BadLabel(text.to_owned())) }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_are_safe_in_a_path() {
        for good in ["shop", "a", "0", "shop-2_x", &"a".repeat(64)] {
            assert!(good.parse::<SourceName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a/b", "..", "a.b", "a b", "é", "log", &"a".repeat(65)] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_suggested_name_is_always_legal() {
        let cases =
            [("Shop", "shop"), ("My App", "my-app"), ("..", "database"), ("log", "database"), ("données", "donn-es")];
        for (text, name) in cases {
            assert_eq!(SourceName::suggest(text).as_str(), name);
        }
    }

    #[test]
    fn labels_are_printable() {
        assert!("before v2".parse::<Label>().is_ok());
        for bad in ["", " a", "a\n", &"a".repeat(101)] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }
}
