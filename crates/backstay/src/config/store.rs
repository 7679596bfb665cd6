//! The table `[store]`: how the bucket of a repository is reached. Never how one gets in: access keys have no
//! setting, so that none can stand in a file that is shown, copied and kept.

use super::error::ConfigError;
use super::settings::{Reader, RepositoryLocation};
use super::value::Named;
use crate::vault;
use backstay_model::lock::ObjectLock;
use backstay_store::cloud::{Addressing, Checksum, Place, Provider, ServerSide, Transport};
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
    pub checksum: Option<Checksum>,
    /// How long the bucket refuses to delete what is put into it.
    pub lock: Option<ObjectLock>,
}

/// Where access keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// The environment, then a profile.
    Found,
    /// The role of this machine.
    Instance,
}

/// What can be read back at once. Classes that must be thawed cannot, and a restore must never wait for that.
fn classes(place: Option<&Place>) -> &'static [&'static str] {
    match place.map(Place::provider) {
        Some(Provider::Gcs) => &["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"],
        Some(Provider::Azure) => &["Hot", "Cool", "Cold"],
        _ => &["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"],
    }
}

/// What only S3 and its like have.
const OF_S3: [&str; 6] =
    ["store.region", "store.path_style", "store.profile", "store.sse", "store.sse_kms_key", "store.checksum"];

/// Every setting of the table.
const NAMES: [&str; 13] = [
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
    "store.checksum",
    "store.object_lock",
    "store.locked_for",
];

impl StoreSettings {
    /// Nothing said.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self {
            endpoint: None,
            region: None,
            addressing: Addressing::VirtualHost,
            transport: Transport::TlsOnly,
            ca_file: None,
            profile: None,
            credentials: Where::Found,
            storage_class: None,
            server_side: None,
            checksum: None,
            lock: None,
        }
    }

    pub(super) fn read<'a>(reader: &Reader<'a>, location: &RepositoryLocation) -> Result<Self, ConfigError> {
        let place = match location {
            RepositoryLocation::Folder(_) => None,
            RepositoryLocation::Bucket(place) => Some(place),
        };
        refuse_foreign(reader, place)?;
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
        let classes: Vec<_> = classes(place).iter().map(|class| (*class, *class)).collect();
        let class = get("store.storage_class").map(|named| named.choice(&classes)).transpose()?;
        let checksums = [("sha256", Checksum::Sha256), ("crc64nvme", Checksum::Crc64Nvme)];
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
            checksum: get("store.checksum").map(|named| named.choice(&checksums)).transpose()?,
            lock: object_lock(reader)?,
        })
    }
}

/// Settings without a meaning for this repository: most likely somebody thinks they are in force.
fn refuse_foreign(reader: &Reader<'_>, place: Option<&Place>) -> Result<(), ConfigError> {
    let (names, why): (&[&'static str], &str) = match place.map(Place::provider) {
        None => (&NAMES, "left out: `repository` is a folder"),
        Some(Provider::S3) => return Ok(()),
        Some(_) => (&OF_S3, "left out: only s3:// has it"),
    };
    match names.iter().find_map(|name| reader.get(name)) {
        Some(named) => Err(named.bad(why)),
        None => Ok(()),
    }
}

/// What the bucket keeps of each object, and what that is to be worth for a snapshot.
fn object_lock(reader: &Reader<'_>) -> Result<Option<ObjectLock>, ConfigError> {
    let span = |named: Named<'_>| named.duration().map(vault::millis);
    let (objects, snapshots) = (reader.get("store.object_lock"), reader.get("store.locked_for"));
    let Some(named) = objects else {
        return snapshots.map_or(Ok(None), |named| Err(named.bad("left out unless `store.object_lock` is set")));
    };
    let objects = span(named)?;
    let alone = ObjectLock::new(objects, None).ok_or_else(|| named.bad("a span of at least \"2d\""))?;
    let Some(named) = snapshots else { return Ok(Some(alone)) };
    let lock = ObjectLock::new(objects, Some(span(named)?));
    lock.map(Some).ok_or_else(|| named.bad("a span at least a day shorter than `store.object_lock`"))
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
