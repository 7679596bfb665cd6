//! Access keys and region where Amazon's own programs look for them: the environment, then a profile.
//!
//! Keys go from here straight into the client; no setting, message or dump holds them. A profile that gets its
//! keys in a way this version does not know is refused by name, never passed over for weaker keys elsewhere.

use super::error::ConfigError;
use super::secret::{COMMAND_TIME, KeySource};
use super::store::{StoreSettings, Where};
use super::{Env, raw};
use backstay_model::{Clock, Moment};
use backstay_store::cloud::{AccessKeys, Credentials, Fetch, Provider, Renewal};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a client needs to sign.
#[derive(Debug)]
pub struct Access {
    pub credentials: Credentials,
    pub region: String,
}

/// Where keys are looked for, and by which clock they expire.
#[derive(Clone)]
pub struct Finder {
    pub env: Env,
    pub clock: Arc<dyn Clock>,
}

/// Finds both; runs the profile's `credential_process` when it has one.
pub async fn find(finder: &Finder, store: &StoreSettings, file: &Path) -> Result<Access, ConfigError> {
    let env = &finder.env;
    let name = store.profile.as_deref().or(env.get("AWS_PROFILE")).unwrap_or("default");
    let profile = Profile::read(env, name)?;
    let credentials = match (store.credentials, store.profile.as_ref()) {
        (Where::Instance, _) => Credentials::Instance { metadata: set(env, "AWS_EC2_METADATA_SERVICE_ENDPOINT") },
        (Where::Found, Some(_)) => finder.of_profile(&profile).await?.ok_or_else(|| profile.lacks())?,
        (Where::Found, None) => match of_env(env) {
            Some(found) => found,
            None => {
                let nowhere = ConfigError::NoAccessKeys { provider: Provider::S3 };
                finder.of_profile(&profile).await?.ok_or(nowhere)?
            }
        },
    };
    let of_env = || ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| set(env, name));
    let any = || store.endpoint.as_ref().map(|_| "us-east-1".to_owned());
    let region = store.region.clone().or_else(of_env).or_else(|| profile.get("region")).or_else(any);
    let missing = || ConfigError::Missing { path: file.to_owned(), key: "store.region".to_owned() };
    Ok(Access { credentials, region: region.ok_or_else(missing)? })
}

impl Finder {
    /// Keys of a profile, which is asked again when they expire: its command, or whoever rewrites its file.
    async fn of_profile(&self, profile: &Profile) -> Result<Option<Credentials>, ConfigError> {
        let Some(first) = profile.keys(self).await? else { return Ok(None) };
        if first.token.is_none() && first.good_for.is_none() {
            return Ok(Some(Credentials::Keys(first)));
        }
        let (finder, name) = (self.clone(), profile.name.clone());
        let fetch: Fetch = Arc::new(move || {
            let (finder, name) = (finder.clone(), name.clone());
            Box::pin(async move {
                let again = async { Profile::read(&finder.env, &name)?.keys(&finder).await };
                let keys = again.await.map_err(|error| error.to_string())?;
                keys.ok_or_else(|| format!("the profile `{name}` has no access keys any more"))
            })
        });
        Ok(Some(Credentials::Renewed(Arc::new(Renewal::new(first, fetch)))))
    }
}

pub(super) fn set(env: &Env, name: &str) -> Option<String> {
    env.get(name).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn of_env(env: &Env) -> Option<Credentials> {
    let get = |name| set(env, name);
    if let (Some(id), Some(secret)) = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        let token = get("AWS_SESSION_TOKEN");
        return Some(Credentials::Keys(AccessKeys { id, secret, token, good_for: None }));
    }
    if let (Some(token_file), Some(role_arn)) = (get("AWS_WEB_IDENTITY_TOKEN_FILE"), get("AWS_ROLE_ARN")) {
        let (session, sts) = (get("AWS_ROLE_SESSION_NAME"), get("AWS_ENDPOINT_URL_STS"));
        return Some(Credentials::WebIdentity { token_file, role_arn, session, sts });
    }
    if let Some(relative_uri) = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Some(Credentials::Container { relative_uri });
    }
    let uri = get("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
    Some(Credentials::Pod { uri, token_file: get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")? })
}

/// One profile, from both files; what stands in the file of keys wins.
struct Profile {
    name: String,
    values: BTreeMap<String, String>,
}

impl Profile {
    fn read(env: &Env, name: &str) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        let files = [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
        for (variable, file) in files {
            let of_home = || Some(Path::new(env.get("HOME")?).join(".aws").join(file));
            let Some(path) = set(env, variable).map(PathBuf::from).or_else(of_home) else { continue };
            match raw::read_file(&path) {
                Ok(text) => values.extend(section(&text, name)),
                Err(ConfigError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { name: name.to_owned(), values })
    }

    fn get(&self, key: &str) -> Option<String> {
        self.values.get(key).cloned()
    }

    fn fault(&self, what: &'static str) -> ConfigError {
        ConfigError::Profile { name: self.name.clone(), what }
    }

    fn lacks(&self) -> ConfigError {
        self.fault(if self.values.is_empty() { "is in neither file" } else { "has no access keys" })
    }

    async fn keys(&self, finder: &Finder) -> Result<Option<AccessKeys>, ConfigError> {
        if let (Some(id), Some(secret)) = (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            return Ok(Some(AccessKeys { id, secret, token: self.get("aws_session_token"), good_for: None }));
        }
        if let Some(line) = self.get("credential_process") {
            return self.of_process(finder, &line).await.map(Some);
        }
        if self.values.contains_key("role_arn") {
            return Err(self.fault("takes a role with `role_arn`, which only `credential_process` can do here"));
        }
        if self.values.keys().any(|key| key.starts_with("sso_")) {
            return Err(self.fault("signs in with `sso_…`, which only `credential_process` can do here"));
        }
        Ok(None)
    }

    /// Runs the command, without a shell, as long as a key command may run.
    async fn of_process(&self, finder: &Finder, line: &str) -> Result<AccessKeys, ConfigError> {
        let mut words = words(line).into_iter();
        let program = words.next().ok_or_else(|| self.fault("has an empty `credential_process`"))?;
        let source = KeySource::Command { program, arguments: words.collect() };
        let secret = source.load(&finder.env, COMMAND_TIME).await?;
        let bad = |_| self.fault("has a `credential_process` whose answer is not of version 1");
        let answer: ProcessAnswer = serde_json::from_slice(secret.expose()).map_err(bad)?;
        if answer.version != 1 {
            return Err(self.fault("has a `credential_process` whose answer is not of version 1"));
        }
        // Keys that have expired by our clock may still be good by the store's: it will say so.
        let expires = answer.expiration.and_then(|text| text.parse::<Moment>().ok());
        let left = expires.map(|at| at.millis_since(finder.clock.now()).max(0).unsigned_abs());
        let good_for = left.map(Duration::from_millis);
        Ok(AccessKeys { id: answer.id, secret: answer.secret, token: answer.token, good_for })
    }
}

/// What such a command prints; more than this it may print too.
#[derive(serde::Deserialize)]
struct ProcessAnswer {
    #[serde(rename = "Version")]
    version: u32,
    #[serde(rename = "AccessKeyId")]
    id: String,
    #[serde(rename = "SecretAccessKey")]
    secret: String,
    #[serde(rename = "SessionToken")]
    token: Option<String>,
    #[serde(rename = "Expiration")]
    expiration: Option<String>,
}

/// The settings of one section. Lines that begin with a space belong to a setting that is not ours.
fn section(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut inside = false;
    for line in text.lines() {
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let title = title.trim();
            inside = title.strip_prefix("profile ").map_or(title, str::trim) == name;
        } else if let Some((key, value)) = line.split_once('=')
            && inside
            && !nested
            && !line.starts_with(['#', ';'])
        {
            values.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    values
}

/// The words of a command line; double quotes keep one together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests;
