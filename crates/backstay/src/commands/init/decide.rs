//! What `init` does about what it found. Pure.

use crate::diagnostics::Diagnostic;
use backstay_model::{Kind, SignerKey};
use std::path::PathBuf;

/// The key file, before anything was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFound {
    None,
    /// With a root, a signing key and the master identity.
    Whole(SignerKey),
    /// Something else, or a key file that lacks a part.
    Unusable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryFound {
    None,
    /// Signed by the root of the key file.
    OfThisKey,
    OfAnotherKey,
}

#[derive(Debug, Clone)]
pub struct Situation {
    /// The configuration, if one is there.
    pub config: Option<PathBuf>,
    pub key_path: PathBuf,
    pub key: KeyFound,
    pub repository_path: String,
    pub repository: RepositoryFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    MakeKey,
    /// The key of a run that died before it made the repository.
    TakeUpKey,
    MakeRepository,
    /// The repository of a run that died before it wrote the configuration.
    TakeUpRepository,
}

/// The steps in their order, or a conflict that names everything that is in the way.
pub fn decide(found: &Situation) -> Result<Vec<Step>, Diagnostic> {
    use KeyFound as Key;
    use RepositoryFound as Repo;
    match (&found.config, found.key, found.repository) {
        (None, Key::None, Repo::None) => Ok(vec![Step::MakeKey, Step::MakeRepository]),
        (None, Key::Whole(_), Repo::None) => Ok(vec![Step::TakeUpKey, Step::MakeRepository]),
        (None, Key::Whole(_), Repo::OfThisKey) => Ok(vec![Step::TakeUpKey, Step::TakeUpRepository]),
        _ => Err(conflict(found)),
    }
}

fn conflict(found: &Situation) -> Diagnostic {
    let mut there = Vec::new();
    if let Some(config) = &found.config {
        there.push(format!("the configuration {}", config.display()));
    }
    match found.key {
        KeyFound::None => {}
        KeyFound::Whole(_) => there.push(format!("the key file {}", found.key_path.display())),
        KeyFound::Unusable => there.push(format!("{}, which is not a whole key file", found.key_path.display())),
    }
    let repository = &found.repository_path;
    match found.repository {
        RepositoryFound::None => {}
        RepositoryFound::OfThisKey => there.push(format!("its repository {repository}")),
        RepositoryFound::OfAnotherKey => there.push(format!("the repository {repository} of another key")),
    }
    let plain = Diagnostic::new(Kind::Conflict, format!("there is already {}", there.join(", ")))
        .because("`init` never overwrites a configuration, a key or a repository; nothing was changed");
    if found.config.is_some() {
        plain
            .hint("Run `backstay status` to see what is protected.")
            .hint("To protect one more database, add a table such as `[sources.shop]` with its `path` there.")
    } else {
        plain.hint("Name other places with `--repo DIR` and `--key-file FILE`, or bring the right key file back.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(config: bool, key: KeyFound, repository: RepositoryFound) -> Result<Vec<Step>, String> {
        let found = Situation {
            config: config.then(|| PathBuf::from("backstay.toml")),
            key_path: PathBuf::from("backstay.key"),
            key,
            repository_path: "vault".to_owned(),
            repository,
        };
        decide(&found).map_err(|conflict| {
            assert_eq!((conflict.kind, conflict.hints.is_empty()), (Kind::Conflict, false));
            conflict.what
        })
    }

    #[test]
    fn what_exists_is_taken_up_or_refused_and_never_replaced() {
        use KeyFound::{None, Unusable, Whole};
        use RepositoryFound::{None as Empty, OfAnotherKey, OfThisKey};
        let whole = Whole(SignerKey::ZERO);
        assert_eq!(decided(false, None, Empty), Ok(vec![Step::MakeKey, Step::MakeRepository]));
        assert_eq!(decided(false, whole, Empty), Ok(vec![Step::TakeUpKey, Step::MakeRepository]));
        assert_eq!(decided(false, whole, OfThisKey), Ok(vec![Step::TakeUpKey, Step::TakeUpRepository]));
        let refused = [
            (false, None, OfAnotherKey, "there is already the repository vault of another key"),
            (
                false,
                whole,
                OfAnotherKey,
                "there is already the key file backstay.key, the repository vault of another key",
            ),
            (false, Unusable, Empty, "there is already backstay.key, which is not a whole key file"),
            (true, None, Empty, "there is already the configuration backstay.toml"),
            (
                true,
                whole,
                OfThisKey,
                "there is already the configuration backstay.toml, the key file backstay.key, its repository vault",
            ),
        ];
        for (config, key, repository, words) in refused {
            assert_eq!(decided(config, key, repository), Err(words.to_owned()));
        }
    }
}
