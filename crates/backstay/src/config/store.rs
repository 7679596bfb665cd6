//! The table `[store]`: how the bucket of a repository is reached. Never how one gets in: access keys have no
//! setting, so that none can stand in a file that is shown, copied and kept.

use super::error::ConfigError;
use super::settings::{Reader, RepositoryLocation};
use super::value::Named;
use backstay_store::cloud::{Addressing, ServerSide, Transport};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Absent: Amazon's own.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub addressing: Addressing,
    pub transport: Transport,
    pub ca_file: Option<PathBuf>,
    pub profile: Option<String>,
    pub credentials: Where,
    pub storage_class: Option<String>,
    pub server_side: Option<ServerSide>,
}

/// Where access keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// The environment, then a profile.
    Found,
    /// The role of this machine.
    Instance,
}

/// What can be read back at once. The archive classes cannot, and a restore must never wait for a thaw.
const CLASSES: [&str; 6] =
    ["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"];

/// Every setting of the table.
const NAMES: [&str; 10] = [
    "store.endpoint",
    "store.region",
    "store.path_style",
    "store.allow_http",
    "store.ca_file",
    "store.profile",
    "store.credentials",
    "store.storage_class",
    "store.sse",
    "store.sse_kms_key",
];

impl StoreSettings {
    pub(super) fn read<'a>(reader: &Reader<'a>, location: &RepositoryLocation) -> Result<Self, ConfigError> {
        if let RepositoryLocation::Folder(_) = location
            && let Some(named) = NAMES.into_iter().find_map(|name| reader.get(name))
        {
            return Err(named.bad("left out: `repository` is a folder"));
        }
        let get = |name: &'a str| reader.get(name);
        let text = |name: &'a str, wanted: &str| get(name).map(|named| plain_text(named, wanted)).transpose();
        let flag = |name: &'a str| get(name).map(Named::flag).transpose();
        let transport = match flag("store.allow_http")? {
            Some(true) => Transport::PlainAllowed,
            _ => Transport::TlsOnly,
        };
        let endpoint = get("store.endpoint").map(|named| endpoint(named, transport)).transpose()?;
        let addressing = match flag("store.path_style")?.unwrap_or(endpoint.is_some()) {
            true => Addressing::Path,
            false => Addressing::VirtualHost,
        };
        let places = [("found", Where::Found), ("instance", Where::Instance)];
        let credentials = get("store.credentials").map(|named| named.choice(&places)).transpose()?;
        let profile = get("store.profile");
        if let (Some(named), Some(Where::Instance)) = (profile, credentials) {
            return Err(named.bad("left out: `store.credentials` is \"instance\""));
        }
        let classes = CLASSES.map(|class| (class, class));
        let class = get("store.storage_class").map(|named| named.choice(&classes)).transpose()?;
        Ok(Self {
            endpoint,
            region: text("store.region", "a region such as \"eu-central-1\"")?,
            addressing,
            transport,
            ca_file: get("store.ca_file").map(|named| reader.path(named)).transpose()?,
            profile: text("store.profile", "the name of a profile")?,
            credentials: credentials.unwrap_or(Where::Found),
            storage_class: class.map(str::to_owned),
            server_side: server_side(reader)?,
        })
    }
}

fn server_side(reader: &Reader<'_>) -> Result<Option<ServerSide>, ConfigError> {
    let (sse, key) = (reader.get("store.sse"), reader.get("store.sse_kms_key"));
    let kinds = [("aes256", false), ("kms", true)];
    let sse = sse.map(|named| named.choice(&kinds).map(|kms| (named, kms))).transpose()?;
    match (sse, key) {
        (None, None) => Ok(None),
        (Some((_, false)), None) => Ok(Some(ServerSide::Aes256)),
        (Some((_, true)), Some(key)) => Ok(Some(ServerSide::Kms { key: plain_text(key, "the name of a key")? })),
        (Some((sse, true)), None) => Err(sse.bad("given with `store.sse_kms_key`")),
        (_, Some(key)) => Err(key.bad("left out unless `store.sse` is \"kms\"")),
    }
}

/// What goes into addresses and headers holds neither spaces nor control characters.
fn plain_text(named: Named<'_>, wanted: &str) -> Result<String, ConfigError> {
    let text = named.text(wanted)?;
    if text.chars().all(|c| c.is_ascii_graphic()) { Ok(text.to_owned()) } else { Err(named.bad(wanted)) }
}

/// A scheme, a host and perhaps a port. Whoever puts `user:password@` there would see it in every message.
fn endpoint(named: Named<'_>, transport: Transport) -> Result<String, ConfigError> {
    let wanted = "an address such as \"https://s3.example.org:9000\", without a path";
    let text = plain_text(named, wanted)?;
    if text.contains('@') {
        return Err(ConfigError::BadValue {
            origin: named.leaf.origin.clone(),
            key: named.key.to_owned(),
            wanted: wanted.to_owned(),
            found: "an address with a user in it".to_owned(),
        });
    }
    let text = text.strip_suffix('/').unwrap_or(&text);
    let host = match (text.strip_prefix("https://"), text.strip_prefix("http://"), transport) {
        (Some(host), _, _) | (None, Some(host), Transport::PlainAllowed) => host,
        (None, Some(_), Transport::TlsOnly) => {
            return Err(named.bad("an address with https://, unless `store.allow_http = true`"));
        }
        (None, None, _) => return Err(named.bad(wanted)),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if !host.is_empty() && host.chars().all(legal) { Ok(text.to_owned()) } else { Err(named.bad(wanted)) }
}
