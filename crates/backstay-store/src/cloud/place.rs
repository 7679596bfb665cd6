//! Where in which bucket: the one reader of `s3://bucket/prefix`.

use crate::seam::SEGMENT_BYTES_MAX;

/// The longest prefix; with the longest key behind it, a name stays below the 1024 bytes a store takes.
const PREFIX_BYTES_MAX: usize = 400;

/// A bucket, and the folder in it that is the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    bucket: String,
    /// Empty, or segments with a slash behind each.
    prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    #[error("it does not begin with s3://")]
    Scheme,
    #[error("the bucket must have 3 to 63 characters of a-z, 0-9, . and -")]
    Bucket,
    #[error("the prefix must be words of letters, digits, . _ + and - between single slashes")]
    Prefix,
}

impl S3Place {
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

impl std::str::FromStr for S3Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let rest = text.strip_prefix("s3://").ok_or(BadPlace::Scheme)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = bucket.as_bytes();
        let named = (3..=63).contains(&bytes.len()) && bytes.iter().all(|b| plain(*b));
        if !named || !ends(bytes.first()) || !ends(bytes.last()) || bucket.contains("..") {
            return Err(BadPlace::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if prefix.is_empty() {
            return Ok(Self { bucket: bucket.to_owned(), prefix: String::new() });
        }
        if prefix.len() > PREFIX_BYTES_MAX || !prefix.split('/').all(is_word) {
            return Err(BadPlace::Prefix);
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
    }
}

/// More than a key may hold: people name their folders with capitals.
fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    (1..=SEGMENT_BYTES_MAX).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(plain)
}

impl std::fmt::Display for S3Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefix.strip_suffix('/') {
            Some(prefix) => write!(f, "s3://{}/{prefix}", self.bucket),
            None => write!(f, "s3://{}", self.bucket),
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
        ] {
            assert_eq!(text.parse::<S3Place>().map(|place| place.to_string()), Ok(printed.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_says_which_part_is_not() {
        let long = format!("s3://vaults/{}", "a/".repeat(250));
        let key = "s3://id:secret@vaults/x";
        let cases = [
            ("vaults/shop", BadPlace::Scheme),
            ("gs://vaults", BadPlace::Scheme),
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
            assert_eq!(text.parse::<S3Place>(), Err(why), "{text}");
        }
    }

    #[test]
    fn names_outside_the_prefix_are_not_inside() {
        let place: S3Place = "s3://vaults/shop".parse().expect("a place");
        assert_eq!(place.name_of("ctl/conf/0"), "shop/ctl/conf/0");
        assert_eq!(place.inside("shop/ctl/conf/0"), Some("ctl/conf/0"));
        for outside in ["shop", "shop/", "shops/ctl", "ctl/conf/0"] {
            assert_eq!(place.inside(outside), None, "{outside}");
        }
    }
}
