//! What a failure means for the caller: one table for exit code, HTTP status and retry.
//!
//! Library errors may be as rich as debugging needs; only the kind is a promise. A new kind needs a
//! decision note.

/// The few things a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command itself is wrong: mend the words and call again.
    Usage,
    /// A configuration or key file is wrong or missing: mend it.
    Config,
    /// Something outside does not answer or is busy: try again later.
    Unavailable,
    /// Somebody else is doing it, or the world changed meanwhile: look, then try again.
    Conflict,
    /// Bytes are not what they must be: restore or check, never go on.
    Corrupt,
    /// The permission, the key or the signature is missing or not accepted.
    Denied,
    /// A disk or a store is full.
    NoSpace,
    /// A person or a supervisor stopped it.
    Cancelled,
    /// Our bug.
    Internal,
}

/// What each kind becomes at the edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    pub exit: u8,
    pub http: u16,
    pub retry: bool,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Usage,
        Kind::Config,
        Kind::Unavailable,
        Kind::Conflict,
        Kind::Corrupt,
        Kind::Denied,
        Kind::NoSpace,
        Kind::Cancelled,
        Kind::Internal,
    ];

    /// The one table.
    pub const fn meaning(self) -> Meaning {
        let (exit, http, retry) = match self {
            Kind::Usage => (2, 400, false),
            Kind::Config => (3, 500, false),
            Kind::Unavailable => (4, 503, true),
            Kind::Conflict => (5, 409, true),
            Kind::Corrupt => (6, 500, false),
            Kind::Denied => (7, 403, false),
            Kind::NoSpace => (8, 507, false),
            Kind::Cancelled => (130, 499, false),
            Kind::Internal => (70, 500, false),
        };
        Meaning { exit, http, retry }
    }

    /// The word used in `--json` and in the documentation.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::Unavailable => "unavailable",
            Kind::Conflict => "conflict",
            Kind::Corrupt => "corrupt",
            Kind::Denied => "denied",
            Kind::NoSpace => "no-space",
            Kind::Cancelled => "cancelled",
            Kind::Internal => "internal",
        }
    }

    /// What an operating-system error means when nothing more is known.
    pub fn of_io(error: &std::io::Error) -> Kind {
        use std::io::ErrorKind as E;
        match error.kind() {
            E::PermissionDenied | E::ReadOnlyFilesystem => Kind::Denied,
            E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Kind::NoSpace,
            E::AlreadyExists => Kind::Conflict,
            _ => Kind::Unavailable,
        }
    }
}

/// Errors that know what they mean.
pub trait Kinded {
    fn kind(&self) -> Kind;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_its_own_exit_code_and_word() {
        let exits: HashSet<u8> = Kind::ALL.iter().map(|k| k.meaning().exit).collect();
        let words: HashSet<&str> = Kind::ALL.iter().map(|k| k.word()).collect();
        assert_eq!((exits.len(), words.len()), (Kind::ALL.len(), Kind::ALL.len()));
    }

    #[test]
    fn no_kind_takes_a_verdicts_exit_code() {
        let verdicts = crate::Verdict::ALL.map(|v| v.exit());
        for kind in Kind::ALL {
            assert!(!verdicts.contains(&kind.meaning().exit), "{kind:?}");
        }
    }
}
