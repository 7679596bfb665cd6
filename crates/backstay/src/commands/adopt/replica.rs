//! Where a replica of Litestream is, and how one gets in: an address as Litestream writes it, or a database in its
//! settings. Keys go from there into the client, and nowhere else.

use super::litestream;
use super::yaml::Yaml;
use crate::config::{Env, Layers};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::vault::{self, Reached};
use backstay_model::Kind;
use backstay_ops::litestream::Replica;
use backstay_store::local::OpenMode;
use std::path::Path;
use toml_edit::{DocumentMut, Table, Value};

/// Its own variables, and what they are elsewhere.
const VARIABLES: [(&str, &str); 3] = [
    ("LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
    ("LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    ("LITESTREAM_AZURE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
];

/// Settings that are keys, and the variables in which our client looks for them.
const KEYS: [(&str, &str); 4] = [
    ("access-key-id", "AWS_ACCESS_KEY_ID"),
    ("secret-access-key", "AWS_SECRET_ACCESS_KEY"),
    ("account-key", "AZURE_STORAGE_KEY"),
    ("sas-token", "AZURE_STORAGE_SAS_TOKEN"),
];

/// What is said of a replica.
#[derive(Default)]
struct Said {
    scheme: String,
    bucket: String,
    account: String,
    path: String,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
    keys: Vec<(&'static str, String)>,
}

/// A folder, an address such as `s3://bucket/path`, or with Litestream's settings the path of a database in them.
pub async fn of(context: &Context, word: &str, settings: Option<&Path>) -> Result<Replica, Diagnostic> {
    let dir = &context.layers.working_dir;
    let said = match settings {
        Some(file) => of_settings(context, &dir.join(file), word)?,
        None => Said::of_address(word),
    };
    if matches!(said.scheme.as_str(), "" | "file") {
        return Ok(Replica::Folder(dir.join(said.path)));
    }
    let env = said.env(context.env());
    let file = dir.join(settings.unwrap_or(Path::new("the address")));
    // What the client needs is what it needs for a repository.
    let layers = Layers { env: env.clone(), flags: Vec::new(), ..context.layers.clone() };
    let settings = layers.load_text(&file, &said.toml()?)?;
    Ok(Replica::Bucket(vault::store_in(context, &env, &Reached::of(&settings), OpenMode::Existing).await?))
}

fn of_settings(context: &Context, file: &Path, database: &str) -> Result<Said, Diagnostic> {
    let tree = litestream::tree(context, file, litestream::Variables::Expanded)?;
    let dir = &context.layers.working_dir;
    let wanted = dir.join(database);
    let is_it = |db: &&Yaml| db.get("path").and_then(Yaml::text).is_some_and(|path| dir.join(path) == wanted);
    let unknown = |what: &str| {
        Diagnostic::new(Kind::Usage, format!("{} names no replica of {database}", file.display())).because(what).hint(
            "Name the database by its `path` in that file, or leave `--settings` out and name a folder or an address.",
        )
    };
    let db = tree.get("dbs").map(Yaml::items).unwrap_or_default().iter().find(is_it);
    let db = db.ok_or_else(|| unknown("it has no database with that path"))?;
    let replica = db.get("replica").or_else(|| db.get("replicas")?.items().first());
    Ok(Said::of_replica(replica.ok_or_else(|| unknown("the database has none"))?, &tree))
}

impl Said {
    fn of_address(address: &str) -> Self {
        let Some((scheme, rest)) = address.split_once("://") else {
            return Self { path: address.to_owned(), ..Self::default() };
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if scheme == "file" {
            return Self { path: rest.to_owned(), ..Self::default() };
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
        let mut said = Self { scheme: scheme.to_owned(), path: path.to_owned(), ..Self::default() };
        (said.bucket, said.account) = (host.to_owned(), user.to_owned());
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            said.set(name, value);
        }
        said
    }

    fn of_replica(replica: &Yaml, tree: &Yaml) -> Self {
        let part = |name: &str| replica.get(name).and_then(Yaml::text);
        let address = replica.text().or_else(|| part("url"));
        let mut said = address.map(Self::of_address).unwrap_or_default();
        if address.is_none() {
            let usual = if part("bucket").is_some() { "s3" } else { "file" };
            said.scheme = part("type").unwrap_or(usual).to_owned();
        }
        // What is said for all replicas, and over it what is said of this one.
        for (name, value) in tree.entries().iter().chain(replica.entries()) {
            if let Some(value) = value.text() {
                said.set(name, value);
            }
        }
        said
    }

    fn set(&mut self, name: &str, value: &str) {
        let value_of = || Some(value.to_owned());
        match name {
            "bucket" => value.clone_into(&mut self.bucket),
            "path" => value.clone_into(&mut self.path),
            "account-name" => value.clone_into(&mut self.account),
            "endpoint" => self.endpoint = value_of(),
            "region" => self.region = value_of(),
            "force-path-style" | "forcePathStyle" | "force_path_style" => self.path_style = Some(value == "true"),
            _ => {
                let key = KEYS.iter().find(|(theirs, _)| *theirs == name);
                self.keys.extend(key.map(|(_, ours)| (*ours, value.to_owned())));
            }
        }
    }

    /// What is said of the repository's server is not said of this one, nor does the token of other keys belong to these.
    fn env(&self, ambient: &Env) -> Env {
        let theirs = VARIABLES.iter().filter_map(|(theirs, ours)| Some((*ours, ambient.get(theirs)?.to_owned())));
        let said: Vec<_> = theirs.chain(self.keys.iter().cloned()).collect();
        let mut env = ambient.for_another(said.iter().cloned());
        if self.endpoint.is_some() {
            env.remove("BACKSTAY_STORE_ENDPOINT");
        }
        if said.iter().any(|(name, _)| *name == "AWS_ACCESS_KEY_ID") {
            env.remove("AWS_SESSION_TOKEN");
        }
        env
    }

    /// The same as settings of a repository that would be there.
    fn toml(&self) -> Result<String, Diagnostic> {
        let path = self.path.trim_matches('/');
        let place = match self.scheme.as_str() {
            "s3" => format!("s3://{}/{path}", self.bucket),
            "gs" | "gcs" => format!("gs://{}/{path}", self.bucket),
            "abs" => format!("az://{}/{}/{path}", self.account, self.bucket),
            other => {
                return Err(Diagnostic::new(Kind::Usage, format!("Backstay reads no replicas at {other}://"))
                    .hint("Bring its folders here, and name the folder."));
            }
        };
        let mut store = Table::new();
        if let Some(endpoint) = &self.endpoint {
            let address = if endpoint.contains("://") { endpoint.clone() } else { format!("https://{endpoint}") };
            // An emulator's address names the account for Litestream; for us it is in the replica's.
            let account = format!("/{}", self.account);
            let address = address.trim_end_matches('/').trim_end_matches(account.as_str()).to_owned();
            // It was said there, and is read here and nowhere else.
            if address.starts_with("http://") {
                store["allow_http"] = toml_edit::value(true);
            }
            store["endpoint"] = toml_edit::value(address);
        }
        if let Some(region) = &self.region {
            store["region"] = toml_edit::value(region.as_str());
        }
        if let Some(path_style) = self.path_style {
            store["path_style"] = toml_edit::value(path_style);
        }
        let mut text = DocumentMut::new();
        text["repository"] = toml_edit::value(Value::from(place.trim_end_matches('/')));
        text["store"] = toml_edit::Item::Table(store);
        Ok(text.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_our_own_store_is_not_said_of_theirs() {
        let ours = [
            ("BACKSTAY_REPOSITORY", "s3://ours"),
            ("BACKSTAY_STORE_ENDPOINT", "http://ours"),
            ("AWS_ACCESS_KEY_ID", "OURS"),
            ("AWS_SESSION_TOKEN", "of-ours"),
        ];
        let plain = Said::of_address("s3://theirs/shop");
        let env = plain.env(&Env::from(ours));
        assert_eq!(env.get("BACKSTAY_STORE_ENDPOINT"), Some("http://ours"), "nothing else says where it is");
        assert_eq!((env.get("BACKSTAY_REPOSITORY"), env.get("AWS_SESSION_TOKEN")), (None, Some("of-ours")));
        let elsewhere = Said::of_address("s3://theirs/shop?endpoint=http://theirs");
        assert_eq!(elsewhere.env(&Env::from(ours)).get("BACKSTAY_STORE_ENDPOINT"), None);
        let mut keyed = Said::of_address("s3://theirs/shop");
        keyed.set("access-key-id", "THEIRS");
        let env = keyed.env(&Env::from(ours));
        assert_eq!((env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SESSION_TOKEN")), (Some("THEIRS"), None));
        let ambient = Env::from([("LITESTREAM_ACCESS_KEY_ID", "THEIRS"), ("AWS_SESSION_TOKEN", "of-ours")]);
        let env = plain.env(&ambient);
        assert_eq!((env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SESSION_TOKEN")), (Some("THEIRS"), None));
    }
}
