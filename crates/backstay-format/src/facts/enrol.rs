//! The request of a new host to be enrolled: a file that is carried to whoever holds the root key.

use super::{Role, encode, is_plain_name, parse};
use crate::Corrupt;
use backstay_model::{Moment, SignerKey};
use serde::{Deserialize, Serialize};

/// What a host asks for. Public: it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRequest {
    pub made: Moment,
    pub name: String,
    pub key: SignerKey,
    pub roles: Vec<Role>,
    /// To whom the master is to be wrapped (`age1…`), where the host wants to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
}

/// The request with the signature that shows that its key is held by who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    pub request: EnrolmentRequest,
    /// Ed25519 over [`EnrolmentRequest::message`], in hexadecimal.
    pub signature: String,
}

/// The longest request that is read.
const LEN_MAX: usize = 16 << 10;

impl EnrolmentRequest {
    /// What is signed.
    pub fn message(&self) -> Vec<u8> {
        [b"backstay v1 enrolment\n".as_slice(), &encode(self)].concat()
    }
}

impl Enrolment {
    /// The text of the file: one line.
    pub fn encode(&self) -> Vec<u8> {
        [encode(self).as_slice(), b"\n"].concat()
    }

    /// Reads a request. Whether its signature holds is the caller's question.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        const WHAT: &str = "an enrolment request";
        if bytes.len() > LEN_MAX {
            return Err(Corrupt::TooLong { what: WHAT, len: bytes.len() as u64, max: LEN_MAX as u64 });
        }
        let read: Self = parse(WHAT, bytes)?;
        let rule = |rule| Err(Corrupt::Rule { what: WHAT, rule });
        if !is_plain_name(&read.request.name) {
            return rule("its name is 1 to 64 plain characters");
        }
        if read.request.roles.is_empty() || read.signature_bytes().is_none() {
            return rule("it names a role and carries a signature of 64 bytes");
        }
        Ok(read)
    }

    pub fn signature_bytes(&self) -> Option<[u8; 64]> {
        let mut bytes = [0; 64];
        let digits = self.signature.as_bytes();
        if digits.len() != 128 || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Enrolment {
        let request = EnrolmentRequest {
            made: Moment::from_millis(0).expect("in range"),
            name: "db-host-2".into(),
            key: SignerKey::from_bytes([2; 32]),
            roles: vec![Role::Writer],
            recipient: None,
        };
        Enrolment { request, signature: "0f".repeat(64) }
    }

    #[test]
    fn a_request_round_trips_and_a_misshapen_one_is_refused() {
        assert_eq!(Enrolment::parse(&sample().encode()), Ok(sample()));
        assert_eq!(sample().signature_bytes(), Some([15; 64]));
        let bad = |change: fn(&mut Enrolment)| {
            let mut request = sample();
            change(&mut request);
            Enrolment::parse(&request.encode())
        };
        assert!(bad(|r| r.signature.push('0')).is_err());
        assert!(bad(|r| r.signature = "é".repeat(64)).is_err());
        assert!(bad(|r| r.request.roles.clear()).is_err());
        assert!(bad(|r| r.request.name = "a\nb".into()).is_err());
        assert!(Enrolment::parse(&vec![b' '; LEN_MAX + 1]).is_err());
    }
}
