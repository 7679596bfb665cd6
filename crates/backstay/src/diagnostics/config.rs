//! Errors of the configuration and of key material, with their remedies.

use super::Diagnostic;
use crate::config::error::ConfigError;
use crate::config::secret::SecretError;
use backstay_store::cloud::Provider;

impl From<ConfigError> for Diagnostic {
    fn from(error: ConfigError) -> Self {
        let plain = Diagnostic::of(&error);
        match &error {
            ConfigError::NotFound { .. } => plain
                .hint("Run `backstay init` to make one here.")
                .hint("Run the command in the folder that has it, or add `--config FILE`."),
            ConfigError::Io { path, .. } => plain.hint(format!("Look at it with `ls -l {}`.", path.display())),
            ConfigError::TooLong { .. } => plain.hint("Name the right file with `--config FILE`."),
            ConfigError::Syntax { .. } => plain.hint("Correct the line, then run `backstay config check`."),
            ConfigError::UnknownKey { key, .. } if looks_like_access_key(key) => plain
                .because("access keys never stand in a configuration, which is shown, copied and kept in repositories")
                .hint("Remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a `store.profile`."),
            ConfigError::UnknownKey { meant: Some(meant), .. } => {
                plain.hint(format!("Did you mean `{meant}`? Correct it, then run `backstay config check`."))
            }
            ConfigError::UnknownKey { meant: None, .. } => {
                plain.hint("Remove it; `backstay config show` lists the keys there are.")
            }
            ConfigError::BadValue { .. } => plain.hint("Correct it, then run `backstay config check`."),
            ConfigError::Missing { key, .. } => missing(plain, key),
            ConfigError::TwoKeySources { .. } => {
                plain.hint("Keep one of the two; `backstay config show --origin` says where each is set.")
            }
            ConfigError::NoSuchSource { have, name, .. } => no_such_source(plain, name.as_str(), have),
            ConfigError::NoSuchCopy { have, .. } if have.is_empty() => {
                plain.hint("Add a table such as `[copies.offsite]` with a `repository` to backstay.toml.")
            }
            ConfigError::NoSuchCopy { have, .. } => plain.hint(format!("Name one of these: `{}`.", have.join("`, `"))),
            ConfigError::NoAccessKeys { provider } => plain
                .hint(match provider {
                    Provider::S3 => {
                        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with `store.profile`."
                    }
                    Provider::Gcs => "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key.",
                    Provider::Azure => "Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN.",
                })
                .hint("On a machine with a role of its own, set `store.credentials = \"instance\"`."),
            ConfigError::BadCredentials { .. } => {
                plain.hint("Name another file with GOOGLE_APPLICATION_CREDENTIALS: a service account's key as JSON.")
            }
            ConfigError::Profile { .. } => {
                plain.hint("Correct ~/.aws/config or ~/.aws/credentials, or name another `store.profile`.")
            }
            ConfigError::Exists { .. } => {
                plain.hint("Nothing was changed; run `backstay status` to see what is protected already.")
            }
            ConfigError::Secret(secret) => of_secret(secret),
        }
    }
}

impl From<SecretError> for Diagnostic {
    fn from(error: SecretError) -> Self {
        of_secret(&error)
    }
}

/// People try it; whatever they put there must not be answered with a key that is spelt alike.
fn looks_like_access_key(key: &str) -> bool {
    let words = ["access_key", "secret", "token", "password"];
    key.starts_with("store") && words.iter().any(|word| key.contains(word))
}

fn missing(plain: Diagnostic, key: &str) -> Diagnostic {
    match key {
        "repository" => {
            plain.hint("Add a line such as `repository = \"./vault\"`, or run `backstay init` in a new folder.")
        }
        "store.region" => plain.hint("Add `region` to the table `[store]`, or set AWS_REGION."),
        key => plain.hint(format!("Add `{key}`, then run `backstay config check`.")),
    }
}

fn no_such_source(plain: Diagnostic, name: &str, have: &[backstay_model::SourceName]) -> Diagnostic {
    let near = have.iter().min_by_key(|known| crate::config::keys::distance(name, known.as_str()));
    match near {
        Some(known) if crate::config::keys::distance(name, known.as_str()) <= 2 => {
            plain.hint(format!("Did you mean `{known}`? Run `backstay config show` to see all of them."))
        }
        Some(_) => {
            let names = have.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            plain.hint(format!("Name one of {names}, or add a table `[sources.{name}]` with its `path`."))
        }
        None => plain.hint(format!("Add a table `[sources.{name}]` with the `path` of the database.")),
    }
}

fn of_secret(error: &SecretError) -> Diagnostic {
    let plain = Diagnostic::of(error);
    match error {
        SecretError::NoFile { .. } => plain
            .hint("Bring the key back from where its copy is kept, or name the copy with BACKSTAY_KEY_FILE.")
            .hint("Run `backstay config show --origin` to see which setting names this file."),
        SecretError::Open { path, .. } => {
            plain.hint(format!("Run `chmod 600 {}`; if others could read it, replace the key.", path.display()))
        }
        SecretError::Read { .. } | SecretError::TooLong { .. } | SecretError::Empty { .. } => {
            plain.hint("Run `backstay config show --origin` to see which setting says where the key is.")
        }
        SecretError::Start { .. } => {
            plain.hint("Correct `key_command`: the first word is a program, and no shell reads the rest.")
        }
        SecretError::Failed { program, .. } => {
            plain.hint(format!("Run `{program}` by hand, with the words of `key_command`, and see what it says."))
        }
        SecretError::Slow { program, .. } => {
            plain.hint(format!("Run `{program}` by hand: it must print the key without asking anything."))
        }
    }
}
