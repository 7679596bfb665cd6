//! Where in which bucket: the one reader of `s3://bucket/prefix`, `gs://bucket/prefix` and
//! `az://account/container/prefix`.

use crate::seam::SEGMENT_BYTES_MAX;

/// The longest prefix; with the longest key behind it, a name stays below the 1024 bytes a store takes.
const PREFIX_BYTES_MAX: usize = 400;

/// Whose service it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    S3,
    Gcs,
    Azure,
}

impl Provider {
    const ALL: [Provider; 3] = [Provider::S3, Provider::Gcs, Provider::Azure];

    /// What its places begin with.
    pub const fn scheme(self) -> &'static str {
        match self {
            Provider::S3 => "s3",
            Provider::Gcs => "gs",
            Provider::Azure => "az",
        }
    }
}

/// A bucket, and the folder in it that is the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    provider: Provider,
    /// Of Azure alone, whose containers belong to one.
    account: Option<String>,
    bucket: String,
    /// Empty, or segments with a slash behind each.
    prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    #[error("it does not begin with s3://, gs:// or az://")]
    Scheme,
    #[error("the account must have 3 to 24 characters of a-z and 0-9")]
    Account,
    #[error("the bucket must have 3 to 63 characters of a-z, 0-9, . and -")]
    Bucket,
    #[error("the prefix must be words of letters, digits, . _ + and - between single slashes")]
    Prefix,
}

impl Place {
    pub fn provider(&self) -> Provider {
        self.provider
    }

    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// The bucket, which Azure calls a container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The full name of a key, or of a prefix of keys.
    pub(super) fn name_of(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key part of a full name; `None` for one that is not inside.
    pub(super) fn inside<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix.as_str()).filter(|inside| !inside.is_empty())
    }
}

impl std::str::FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let (scheme, rest) = text.split_once("://").ok_or(BadPlace::Scheme)?;
        let provider = Provider::ALL.into_iter().find(|p| p.scheme() == scheme).ok_or(BadPlace::Scheme)?;
        let (account, rest) = match (provider, rest.split_once('/')) {
            (Provider::Azure, Some((account, rest))) => (Some(account_named(account)?), rest),
            (Provider::Azure, None) => return Err(BadPlace::Account),
            _ => (None, rest),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |b: u8| {
            let underscored = provider == Provider::Gcs && b == b'_';
            b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b) || underscored
        };
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = bucket.as_bytes();
        let named = (3..=63).contains(&bytes.len()) && bytes.iter().all(|b| plain(*b));
        if !named || !ends(bytes.first()) || !ends(bytes.last()) || bucket.contains("..") {
            return Err(BadPlace::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let prefix = match prefix.is_empty() {
            true => String::new(),
            false if prefix.len() > PREFIX_BYTES_MAX || !prefix.split('/').all(is_word) => {
                return Err(BadPlace::Prefix);
            }
            false => format!("{prefix}/"),
        };
        Ok(Self { provider, account, bucket: bucket.to_owned(), prefix })
    }
}

fn account_named(text: &str) -> Result<String, BadPlace> {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if plain && (3..=24).contains(&text.len()) { Ok(text.to_owned()) } else { Err(BadPlace::Account) }
}

/// More than a key may hold: people name their folders with capitals.
fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    (1..=SEGMENT_BYTES_MAX).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(plain)
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://", self.provider.scheme())?;
        if let Some(account) = &self.account {
            write!(f, "{account}/")?;
        }
        f.write_str(&self.bucket)?;
        match self.prefix.strip_suffix('/') {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_printed_the_same() {
        for (text, printed) in [
            ("s3://vaults", "s3://vaults"),
            ("s3://vaults/", "s3://vaults"),
            ("s3://my.vaults-2/Team/shop_1", "s3://my.vaults-2/Team/shop_1"),
            ("s3://vaults/shop/", "s3://vaults/shop"),
            ("gs://my_vaults/shop", "gs://my_vaults/shop"),
            ("az://team2/vaults/shop/", "az://team2/vaults/shop"),
            ("az://team2/vaults", "az://team2/vaults"),
        ] {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(printed.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_says_which_part_is_not() {
        let long = format!("s3://vaults/{}", "a/".repeat(250));
        let key = "s3://id:secret@vaults/x";
        let cases = [
            ("vaults/shop", BadPlace::Scheme),
            ("ftp://vaults", BadPlace::Scheme),
            ("s3://my_vaults", BadPlace::Bucket),
            ("az://vaults", BadPlace::Account),
            ("az://Team/vaults", BadPlace::Account),
            ("az://team2/", BadPlace::Bucket),
            ("s3://", BadPlace::Bucket),
            ("s3:///shop", BadPlace::Bucket),
            ("s3://Vaults", BadPlace::Bucket),
            ("s3://-vaults", BadPlace::Bucket),
            ("s3://va..ults", BadPlace::Bucket),
            (key, BadPlace::Bucket),
            ("s3://vaults//shop", BadPlace::Prefix),
            ("s3://vaults/../shop", BadPlace::Prefix),
            ("s3://vaults/a b", BadPlace::Prefix),
            ("s3://vaults/shop?region=x", BadPlace::Prefix),
            (long.as_str(), BadPlace::Prefix),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Place>(), Err(why), "{text}");
        }
    }

    #[test]
    fn names_outside_the_prefix_are_not_inside() {
        let place: Place = "s3://vaults/shop".parse().expect("a place");
        assert_eq!(place.name_of("ctl/conf/0"), "shop/ctl/conf/0");
        assert_eq!(place.inside("shop/ctl/conf/0"), Some("ctl/conf/0"));
        for outside in ["shop", "shop/", "shops/ctl", "ctl/conf/0"] {
            assert_eq!(place.inside(outside), None, "{outside}");
        }
    }
}
