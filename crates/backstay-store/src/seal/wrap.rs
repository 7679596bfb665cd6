//! Identities wrapped to whoever may hold them: plain age files, which the stock `age` program opens.

use super::ssh::{SshIdentity, SshRecipient};
use super::{Master, MasterIdentity, SealError};
use age::secrecy::SecretString;
use bytes::Bytes;
use std::io::{Read, Write};

/// To whom identities are wrapped.
pub enum Lock<'a> {
    Recipient(&'a Master),
    Ssh(&'a SshRecipient),
    /// A passphrase stands alone: age puts no other recipient beside one.
    Passphrase(&'a str),
}

/// What opens a wrap.
pub enum Opening<'a> {
    Identity(&'a MasterIdentity),
    Ssh(&'a SshIdentity),
    Passphrase(&'a str),
}

/// The longest wrap that is opened, and the longest text in one.
pub const WRAPPED_MAX: u64 = 1 << 20;

/// An identity file for each of `identities`, as `age -d -i` takes it, sealed.
pub fn wrap(identities: &[MasterIdentity], to: Lock<'_>) -> Bytes {
    let text: String = identities.iter().map(|identity| identity.secret_text() + "\n").collect();
    match to {
        Lock::Recipient(master) => seal_bytes(text.as_bytes(), master).into(),
        Lock::Ssh(recipient) => sealed_by(encryptor_to(recipient), text.as_bytes()).into(),
        Lock::Passphrase(words) => {
            let words = SecretString::from(words.to_owned());
            sealed_by(age::Encryptor::with_user_passphrase(words), text.as_bytes()).into()
        }
    }
}

fn encryptor_to(recipient: &dyn age::Recipient) -> age::Encryptor {
    age::Encryptor::with_recipients(std::iter::once(recipient)).expect("there is one recipient")
}

fn sealed_by(encryptor: age::Encryptor, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plain.len() + 1024);
    let mut writer = encryptor.wrap_output(&mut sealed).expect("memory takes the header");
    writer.write_all(plain).expect("memory takes the bytes");
    writer.finish().expect("memory takes the tag");
    sealed
}

/// The identities in a wrap, in their order.
pub fn open(wrapped: &[u8], with: Opening<'_>) -> Result<Vec<MasterIdentity>, SealError> {
    let damaged = |source| SealError::Wrap { source };
    if wrapped.len() as u64 > WRAPPED_MAX {
        return Err(damaged("it is far too long".into()));
    }
    let decryptor = age::Decryptor::new_buffered(wrapped).map_err(|e| damaged(e.into()))?;
    let words;
    let identity: &dyn age::Identity = match &with {
        Opening::Identity(identity) => &identity.0,
        Opening::Ssh(identity) => *identity,
        Opening::Passphrase(text) => {
            words = age::scrypt::Identity::new(SecretString::from((*text).to_owned()));
            &words
        }
    };
    let reader = decryptor.decrypt(std::iter::once(identity)).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys | age::DecryptError::DecryptionFailed => SealError::WrongKey,
        other => damaged(other.into()),
    })?;
    let mut text = String::new();
    reader.take(WRAPPED_MAX).read_to_string(&mut text).map_err(|e| damaged(e.into()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(MasterIdentity::parse).collect()
}

/// Any bytes, sealed to one recipient as an age file.
pub fn seal_bytes(plain: &[u8], to: &Master) -> Vec<u8> {
    sealed_by(encryptor_to(&to.recipient), plain)
}

/// What `seal_bytes` sealed, at most `most` bytes of it.
pub fn open_bytes(sealed: &[u8], identity: &MasterIdentity, most: u64) -> Result<Vec<u8>, SealError> {
    let damaged = |source| SealError::Wrap { source };
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(|e| damaged(e.into()))?;
    let identity: &dyn age::Identity = &identity.0;
    let reader = decryptor.decrypt(std::iter::once(identity)).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => SealError::WrongKey,
        other => damaged(other.into()),
    })?;
    let mut plain = Vec::new();
    reader.take(most).read_to_end(&mut plain).map_err(|e| damaged(e.into()))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(identities: &[MasterIdentity]) -> Vec<String> {
        identities.iter().map(MasterIdentity::secret_text).collect()
    }

    #[test]
    fn a_wrap_opens_for_its_recipient_alone() {
        let (inside, ada, bob) = (
            [MasterIdentity::generate(), MasterIdentity::generate()],
            MasterIdentity::generate(),
            MasterIdentity::generate(),
        );
        let wrapped = wrap(&inside, Lock::Recipient(&ada.master()));
        assert_eq!(texts(&open(&wrapped, Opening::Identity(&ada)).expect("hers")), texts(&inside));
        assert!(matches!(open(&wrapped, Opening::Identity(&bob)), Err(SealError::WrongKey)));
        assert!(matches!(open(&wrapped, Opening::Passphrase("words")), Err(SealError::WrongKey)));
        for cut in 0..wrapped.len() {
            assert!(open(&wrapped[..cut], Opening::Identity(&ada)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_passphrase_opens_its_wrap_and_another_does_not() {
        let inside = [MasterIdentity::generate()];
        let wrapped = wrap(&inside, Lock::Passphrase("correct horse"));
        assert_eq!(texts(&open(&wrapped, Opening::Passphrase("correct horse")).expect("right")), texts(&inside));
        assert!(matches!(open(&wrapped, Opening::Passphrase("battery staple")), Err(SealError::WrongKey)));
    }
}
