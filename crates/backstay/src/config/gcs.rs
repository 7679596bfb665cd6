//! Credentials for Google Cloud Storage where its own programs look for them.

use super::aws::set;
use super::error::ConfigError;
use super::store::{StoreSettings, Where};
use super::{Env, raw};
use backstay_store::cloud::{GcsKeys, Provider};
use std::path::{Path, PathBuf};

pub fn find(env: &Env, store: &StoreSettings) -> Result<GcsKeys, ConfigError> {
    if store.credentials == Where::Instance {
        return Ok(GcsKeys::Instance);
    }
    if let Some(token) = set(env, "GOOGLE_OAUTH_ACCESS_TOKEN") {
        return Ok(GcsKeys::Token(token));
    }
    if let Some(path) = set(env, "GOOGLE_APPLICATION_CREDENTIALS") {
        return of_file(Path::new(&path), &raw::read_file(Path::new(&path))?);
    }
    let nowhere = || ConfigError::NoAccessKeys { provider: Provider::Gcs };
    let home = set(env, "HOME").map(PathBuf::from).ok_or_else(nowhere)?;
    let path = home.join(".config/gcloud/application_default_credentials.json");
    match raw::read_file(&path) {
        Ok(text) => of_file(&path, &text),
        Err(ConfigError::NotFound { .. }) => Err(nowhere()),
        Err(error) => Err(error),
    }
}

fn of_file(path: &Path, text: &str) -> Result<GcsKeys, ConfigError> {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    let bad = |what| ConfigError::BadCredentials { path: path.to_owned(), what };
    let kind: Kind = serde_json::from_str(text).map_err(|_| bad("are not JSON with a `type`"))?;
    match kind.kind.as_str() {
        "service_account" => Ok(GcsKeys::ServiceAccount(text.to_owned())),
        "authorized_user" => Ok(GcsKeys::Application(path.display().to_string())),
        _ => Err(bad("are neither a service account's key nor a user's; this version knows no others")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::store::StoreSettings;

    #[test]
    fn a_token_then_a_named_file_then_gclouds_own_and_nothing_is_said() {
        let home = tempfile::tempdir().expect("a folder");
        let env = |more: &[(&str, &str)]| {
            let home = home.path().to_str().expect("text");
            Env([("HOME", home)].iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let plain = StoreSettings::plain();
        let nothing = find(&env(&[]), &plain).expect_err("nothing");
        assert!(matches!(nothing, ConfigError::NoAccessKeys { provider: Provider::Gcs }));
        let folder = home.path().join(".config/gcloud");
        std::fs::create_dir_all(&folder).expect("a folder");
        let user = folder.join("application_default_credentials.json");
        std::fs::write(&user, r#"{"type":"authorized_user","client_id":"a"}"#).expect("written");
        assert!(matches!(find(&env(&[]), &plain), Ok(GcsKeys::Application(_))));
        let key = home.path().join("key.json");
        std::fs::write(&key, r#"{"type":"service_account","private_key":"SECRET"}"#).expect("written");
        let named = [("GOOGLE_APPLICATION_CREDENTIALS", key.to_str().expect("text"))];
        let found = find(&env(&named), &plain).expect("a key");
        assert!(matches!(found, GcsKeys::ServiceAccount(_)) && !format!("{found:?}").contains("SECRET"));
        let token = [named[0], ("GOOGLE_OAUTH_ACCESS_TOKEN", "t")];
        assert!(matches!(find(&env(&token), &plain), Ok(GcsKeys::Token(_))));
        for other in [r#"{"type":"external_account"}"#, "SECRET"] {
            std::fs::write(&key, other).expect("written");
            let error = find(&env(&named), &plain).expect_err(other);
            assert!(matches!(error, ConfigError::BadCredentials { .. }) && !error.to_string().contains("SECRET"));
        }
        let instance = StoreSettings { credentials: Where::Instance, ..plain };
        assert!(matches!(find(&env(&[]), &instance), Ok(GcsKeys::Instance)));
    }
}
