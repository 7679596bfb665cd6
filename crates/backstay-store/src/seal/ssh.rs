//! SSH keys as recipients: Ed25519 alone, in the `ssh-ed25519` stanza that the stock `age` program reads and writes.
//!
//! Owns the text form of such a key (`ssh-ed25519 AAAA…`, without its comment), and OpenSSH's private key file as far
//! as it has no passphrase. The arithmetic is curve25519-dalek's, everything else aws-lc-rs and what age is made of.
//! A private key leaves this module by nothing but what it opens.

use super::SealError;
use age_core::format::{FileKey, Stanza};
use age_core::primitives::{aead_decrypt, aead_encrypt, hkdf};
use age_core::secrecy::ExposeSecret;
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::traits::IsIdentity;
use std::collections::HashSet;

const KIND: &str = "ssh-ed25519";
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
const FILE_KEY: usize = 16;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The public half of an SSH key.
#[derive(Clone)]
pub struct SshRecipient {
    text: String,
    /// The key as SSH writes it: its kind, and its 32 bytes.
    wire: Vec<u8>,
    point: MontgomeryPoint,
}

impl SshRecipient {
    /// Whether a text is meant for one.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with("ssh-")
    }

    /// A line of an `authorized_keys` or `.pub` file.
    pub fn parse(line: &str) -> Result<Self, SealError> {
        let bad = |reason| SealError::BadRecipient { text: line.to_owned(), reason };
        let mut words = line.split_ascii_whitespace();
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if kind != KIND {
            return Err(bad("of SSH keys only ssh-ed25519 are taken"));
        }
        let wire = BASE64_STANDARD.decode(key).map_err(|_| bad("its second word is not base64"))?;
        let mut fields = Fields(&wire);
        let named = fields.string() == Some(KIND.as_bytes());
        let public = fields.string().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        match public {
            Some(public) if named && fields.0.is_empty() => {
                Self::of(&public).ok_or_else(|| bad("it is no point of its curve"))
            }
            _ => Err(bad("it is not the 32 bytes of an Ed25519 key")),
        }
    }

    fn of(public: &[u8; 32]) -> Option<Self> {
        let edwards = CompressedEdwardsY(*public).decompress()?;
        // Nobody's key: what is agreed on with such a point is known to everybody.
        if edwards.is_small_order() {
            return None;
        }
        let wire = [field(KIND.as_bytes()), field(public)].concat();
        let text = format!("{KIND} {}", BASE64_STANDARD.encode(&wire));
        Some(Self { text, wire, point: edwards.to_montgomery() })
    }

    /// `ssh-ed25519 AAAA…`
    pub fn text(&self) -> &str {
        &self.text
    }

    fn tag(&self) -> String {
        let hash = digest(&SHA256, &self.wire);
        BASE64_STANDARD_NO_PAD.encode(hash.as_ref().get(..4).unwrap_or_default())
    }

    /// The key that wraps the file key, from what both sides agree on. Both know the SSH key, so it has its part in it.
    fn wrapping_key(&self, agreed: MontgomeryPoint, share: &MontgomeryPoint) -> [u8; 32] {
        let agreed = agreed.mul_clamped(hkdf(&self.wire, LABEL, &[]));
        let salt = [*share.as_bytes(), *self.point.as_bytes()].concat();
        hkdf(&salt, LABEL, agreed.as_bytes())
    }
}

impl age::Recipient for SshRecipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut()).map_err(|_| std::io::Error::other("the system gives no randomness"))?;
        let share = MontgomeryPoint::mul_base_clamped(*secret);
        let key = self.wrapping_key(self.point.mul_clamped(*secret), &share);
        let stanza = Stanza {
            tag: KIND.to_owned(),
            args: vec![self.tag(), BASE64_STANDARD_NO_PAD.encode(share.as_bytes())],
            body: aead_encrypt(&key, file_key.expose_secret()),
        };
        Ok((vec![stanza], HashSet::new()))
    }
}

/// A private SSH key, for opening what was wrapped to its public half.
#[derive(Clone)]
pub struct SshIdentity {
    /// Of the X25519 key that the Ed25519 key is taken for.
    secret: zeroize::Zeroizing<[u8; 32]>,
    recipient: SshRecipient,
}

impl SshIdentity {
    /// Whether a text is meant for one.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with(BEGIN)
    }

    /// A private key file as `ssh-keygen -t ed25519` writes it.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let bad = |reason| SealError::BadIdentity { reason };
        let inner = text.trim().strip_prefix(BEGIN).and_then(|text| text.strip_suffix(END));
        let inner: String = inner.ok_or(bad("it does not end as it begins"))?.split_ascii_whitespace().collect();
        let bytes = zeroize::Zeroizing::new(BASE64_STANDARD.decode(inner).map_err(|_| bad("it is not base64"))?);
        let mut fields = Fields(bytes.strip_prefix(MAGIC).ok_or(bad("it is not in OpenSSH's form"))?);
        let (cipher, derivation, _) = (fields.string(), fields.string(), fields.string());
        if (cipher, derivation) != (Some(b"none".as_slice()), Some(b"none".as_slice())) {
            return Err(bad("it has a passphrase: open the wrap with `age -d -i` and use what that prints"));
        }
        if fields.number() != Some(1) {
            return Err(bad("it does not hold one key"));
        }
        let (_, private) = (fields.string(), fields.string());
        Self::of_private(private.ok_or(bad("it is cut short"))?).ok_or(bad("it is not a whole Ed25519 key"))
    }

    fn of_private(private: &[u8]) -> Option<Self> {
        let mut fields = Fields(private);
        if fields.number()? != fields.number()? || fields.string()? != KIND.as_bytes() {
            return None;
        }
        let (public, pair) = (fields.string()?, fields.string()?);
        let (seed, again) = pair.split_at_checked(32)?;
        let seed = zeroize::Zeroizing::new(<[u8; 32]>::try_from(seed).ok()?);
        let own = crate::signing::SigningKey::from_seed(*seed).public();
        if public != own.as_bytes() || again != public {
            return None;
        }
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        secret.copy_from_slice(digest(&SHA512, seed.as_ref()).as_ref().get(..32)?);
        Some(Self { secret, recipient: SshRecipient::of(own.as_bytes())? })
    }

    pub fn recipient(&self) -> &SshRecipient {
        &self.recipient
    }
}

impl age::Identity for SshIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        let [tag, share] = stanza.args.as_slice() else { return None };
        if stanza.tag != KIND || *tag != self.recipient.tag() {
            return None;
        }
        let open = || -> Option<FileKey> {
            let share = BASE64_STANDARD_NO_PAD.decode(share).ok()?;
            let share = MontgomeryPoint(<[u8; 32]>::try_from(share).ok()?);
            let agreed = share.mul_clamped(*self.secret);
            if agreed.is_identity() {
                return None;
            }
            let key = self.recipient.wrapping_key(agreed, &share);
            let opened = zeroize::Zeroizing::new(aead_decrypt(&key, FILE_KEY, &stanza.body).ok()?);
            let file_key: [u8; FILE_KEY] = opened.as_slice().try_into().ok()?;
            Some(FileKey::new(Box::new(file_key)))
        };
        Some(open().ok_or(age::DecryptError::DecryptionFailed))
    }
}

/// What SSH writes one after another: lengths of four bytes, and what is as long as they say.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(string)
    }
}

fn field(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests;
