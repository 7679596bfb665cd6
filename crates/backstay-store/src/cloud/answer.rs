//! What a server's refusal means, told apart by its status and its error code alone.
//!
//! A server's free text never goes into a message: some echo the signed request, session token and all.
//! The client keeps the status of most refusals to itself and only prints it, so it is read from there; a
//! refusal without a status is a cut, a timeout or nonsense, and all of those are *unknown*.

use super::access::NotRenewed;
use crate::error::StoreError;
use crate::seam::Verb;
use object_store::Error as Raw;

/// What was asked, for the error that may come of it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub verb: Verb,
    pub key: &'a str,
}

/// Why one object could not be had.
pub(super) enum Missing {
    /// The range begins behind its end.
    Range,
    Other(StoreError),
}

/// Why, in words of ours and the server's code.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the server answered {status} {code}")]
    Status { status: u16, code: String },
    #[error("the server answered {status}")]
    BareStatus { status: u16 },
    #[error("the server sends elsewhere: the bucket is in another region or behind another endpoint")]
    Elsewhere,
    #[error("new access keys could not be had: {0}")]
    NotRenewed(String),
    #[error("{0}")]
    Senseless(&'static str),
    /// The client's own words about the connection; without a status they hold nothing of the server's.
    #[error("{0}")]
    Connection(String),
}

/// How the client prints a refusal; the status follows.
const STATUS_WORDS: &str = "status code: ";
/// How it prints it at the end of a refusal of one object among several.
const OF_ONE_WORDS: &str = "(code: ";
/// How it prints that a server which gave something says itself that the range is not there, as `azurite` does.
const RANGE_WORDS: &str = "Wanted range starting at";
/// How it prints a redirect that names no place, as stores send for a bucket of another region.
const REDIRECT_WORDS: &str = "redirect without LOCATION";
const CODE_BYTES_MAX: usize = 64;
const CONNECTION_CHARS_MAX: usize = 400;

/// Codes of keys that were good once.
const EXPIRED: [&str; 6] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidToken",
    "RequestExpired",
    "InvalidAuthenticationInfo",
];

/// Codes of objects that the store keeps until their time is over: Azure's, Google's, MinIO's and those that follow
/// it, Alibaba's. Amazon's is plain `AccessDenied`.
const LOCKED: [&str; 6] = [
    "BlobImmutableDueToPolicy",
    "BlobImmutableDueToLegalHold",
    "RetentionPolicyNotMet",
    "ObjectUnderActiveHold",
    "ObjectLocked",
    "FileImmutable",
];

/// Whether the condition of a put failed. A conflict of two requests under way is none: it does not say that
/// either has made the object.
pub(super) fn is_taken(error: &Raw) -> bool {
    let Raw::AlreadyExists { source, .. } = error else { return false };
    let told = matches!(source.downcast_ref::<Raw>(), Some(Raw::Precondition { .. } | Raw::NotModified { .. }));
    // Other services' clients hand the refusal on as it came.
    told || refusal(error).is_some_and(|(status, code)| status == 412 || code == "BlobAlreadyExists")
}

impl Asked<'_> {
    /// For verbs on one object, where *not there* is an answer. Otherwise the error comes back.
    pub fn of_object(self, error: Raw) -> Result<Missing, Raw> {
        match refusal(&error) {
            // Only of the object itself: who hands out access keys may not be found either.
            Some((404, code))
                if matches!(error, Raw::NotFound { .. }) && code != "NoSuchBucket" && code != "ContainerNotFound" =>
            {
                Ok(Missing::Other(StoreError::NotFound { key: self.key.to_owned() }))
            }
            Some((416, _)) => Ok(Missing::Range),
            None if error.to_string().contains(RANGE_WORDS) => Ok(Missing::Range),
            _ => Err(error),
        }
    }

    /// For the rest.
    pub fn of_store(self, error: Raw) -> StoreError {
        if let Raw::InvalidPath { source } = &error {
            return StoreError::BadName { name: source.to_string() };
        }
        let (op, key) = (self.verb.word(), self.key.to_owned());
        if let Raw::Unauthenticated { source, .. } = &error
            && let Some(NotRenewed(why)) = source.downcast_ref::<NotRenewed>()
        {
            return StoreError::Expired { op, key, source: Cause::NotRenewed(why.clone()).into() };
        }
        let Some((status, code)) = refusal(&error) else {
            return match error.to_string().contains(REDIRECT_WORDS) {
                true => StoreError::Refused { op, key, source: Cause::Elsewhere.into() },
                false => self.unknown(&error),
            };
        };
        let source = match code.is_empty() {
            true => Cause::BareStatus { status }.into(),
            false => Cause::Status { status, code: code.clone() }.into(),
        };
        match (status, code.as_str()) {
            (507, _)
            | (_, "QuotaExceeded" | "QuotaExceededException" | "XMinioStorageFull" | "InsufficientCapacity") => {
                StoreError::Full { op, key, source }
            }
            (400 | 401 | 403, "RequestTimeTooSkewed" | "RequestInTheFuture") => StoreError::Skewed { op, key, source },
            (400 | 401 | 403, code) if EXPIRED.contains(&code) => StoreError::Expired { op, key, source },
            (400..=499, code) if LOCKED.contains(&code) => StoreError::Locked { op, key, source },
            (401 | 403, _) => StoreError::Denied { op, key, source },
            // The server gave up waiting for the rest of the request, or holds two at once against each other.
            (400, "RequestTimeout" | "IncompleteBody") | (408 | 409 | 425 | 429, _) => {
                StoreError::Unknown { op, key, source }
            }
            (501, _) | (300..=499, _) => StoreError::Refused { op, key, source },
            _ => StoreError::Unknown { op, key, source },
        }
    }

    pub fn unknown(self, error: &Raw) -> StoreError {
        let (op, key) = (self.verb.word(), self.key.to_owned());
        let text = chain(error).chars().filter(|c| !c.is_control()).take(CONNECTION_CHARS_MAX).collect();
        StoreError::Unknown { op, key, source: Cause::Connection(text).into() }
    }

    pub fn senseless(self, what: &'static str) -> StoreError {
        let (op, key) = (self.verb.word(), self.key.to_owned());
        StoreError::Unknown { op, key, source: Cause::Senseless(what).into() }
    }
}

/// The status of a refusal and its error code, which may be empty.
fn refusal(error: &Raw) -> Option<(u16, String)> {
    let text = error.to_string();
    // Of one object among several in a request, Azure's client prints the status alone.
    if let Some(code) = text.strip_suffix(')').and_then(|text| text.rsplit_once(OF_ONE_WORDS)) {
        return Some((code.1.parse().ok()?, String::new()));
    }
    // What stands before the status is the method, an address made of legal keys, and the client's words.
    let (_, after) = text.split_once(STATUS_WORDS)?;
    let status = after.get(..3)?.parse().ok()?;
    Some((status, code(after).unwrap_or_default()))
}

/// The error code of the answer: a word, or nothing.
fn code(body: &str) -> Option<String> {
    let (_, after) = body.split_once("<Code>")?;
    let (code, _) = after.split_once("</Code>")?;
    let word = code.len() <= CODE_BYTES_MAX && code.bytes().all(|b| b.is_ascii_alphanumeric());
    word.then(|| code.to_owned())
}

/// The causes of a failed connection; each prints only itself.
fn chain(error: &Raw) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}
