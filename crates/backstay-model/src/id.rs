//! Identities: random or derived byte strings that must never be confused with one another.

use std::fmt;
use std::str::FromStr;

/// What is wrong with a piece of text that should have been a hexadecimal id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct BadHex {
    pub expected: usize,
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bad = BadHex { expected: N * 2 };
    if text.len() != N * 2 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(bad);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| bad.clone())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad.clone())?;
    }
    Ok(out)
}

/// Mints an id: private bytes, hexadecimal text, ordered, serialised as its text.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            pub const LEN: usize = $len;
            pub const ZERO: Self = Self([0; $len]);
            pub const fn from_bytes(bytes: [u8; $len]) -> Self { Self(bytes) }
            pub const fn as_bytes(&self) -> &[u8; $len] { &self.0 }
            /// The first eight digits: enough for a person to tell two apart.
            pub fn short(&self) -> String { to_hex(&self.0[..4]) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&to_hex(&self.0)) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
        impl FromStr for $name {
            type Err = BadHex;
            fn from_str(text: &str) -> Result<Self, BadHex> { from_hex(text).map(Self) }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A repository: chosen once by `init`, the same in every copy of it.
    RepoId, 16
);
id!(
    /// A log: the commits one run of a follower ships, object after object.
    StreamId, 16
);
id!(
    /// One object in the store, and for a manifest the snapshot itself.
    ObjectId, 16
);
id!(
    /// Which fingerprint key made the fingerprints of a snapshot.
    FingerprintKeyId, 16
);
id!(
    /// A BLAKE3 digest: of an object, a record, or the logical content of a snapshot.
    Digest, 32
);
id!(
    /// The public half of an Ed25519 signing key.
    SignerKey, 32
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_text() {
        let id = ObjectId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "abababab");
    }

    #[test]
    fn ids_refuse_the_wrong_length_and_foreign_digits() {
        for text in ["", "ab", &"AB".repeat(16), &"zz".repeat(16), &"é".repeat(16)] {
            assert_eq!(text.parse::<ObjectId>(), Err(BadHex { expected: 32 }), "{text}");
        }
    }
}
