//! A store in a bucket: S3 and what speaks its language, Google Cloud Storage, Azure Blob Storage.
//!
//! Owns one client for one bucket and the prefix in it. It must never overwrite (every put carries the
//! condition that nothing has the name), never call a put done on less than the store's own yes, never try
//! again by itself (the retry decorator owns that policy), and never let a secret or a server's free text
//! into a message. One page of a listing is one request.
//!
//! Whether the server honours the condition, this file cannot see: `init` probes for it. A crash or a cut
//! leaves an object whole or not at all, since the server answers for that. Takes no lock.

mod access;
mod answer;
mod azure;
mod courtesy;
mod gcs;
mod paced;
mod place;
mod s3;

pub use access::{AccessKeys, Fetch, Renewal};
pub use azure::AzureKeys;
pub use gcs::GcsKeys;
pub use place::{BadPlace, Place, Provider};
pub use s3::{Addressing, Checksum, Credentials, S3, ServerSide};

use crate::error::StoreError;
use crate::limit::Rates;
use crate::pace::{Pace, pieces};
use crate::seam::{Entry, Key, OBJECT_BYTES_MAX, Page, Put, Store, Verb};
use answer::{Asked, Missing};
use async_trait::async_trait;
use backstay_model::Moment;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep_until;

/// The most entries a store gives in one answer.
const PAGE_MAX: usize = 1000;
/// Pages in a row that held nothing to show before a listing is called senseless.
const BARREN_PAGES_MAX: usize = 16;
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// A bucket, how it is reached, and how requests to it are signed.
#[derive(Debug, Clone)]
pub struct CloudOptions {
    pub place: Place,
    pub reach: Reach,
    /// What objects are stored as, in the service's own word.
    pub storage_class: Option<String>,
    pub service: Service,
}

/// What differs from service to service.
#[derive(Debug, Clone)]
pub enum Service {
    S3(S3),
    Gcs(GcsKeys),
    Azure(AzureKeys),
}

/// How a server is spoken to.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Absent: the provider's own.
    pub endpoint: Option<String>,
    pub transport: Transport,
    /// Certificates to believe beside the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// One request is given up on after this.
    pub request_time: Duration,
    /// How fast the bytes of objects may go, evenly.
    pub rates: Rates,
}

/// Whether requests may go unencrypted. Objects are sealed; names, sizes and signatures are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    TlsOnly,
    PlainAllowed,
}

/// The one client, as what it is asked for.
struct Client {
    objects: Arc<dyn ObjectStore>,
    pages: Arc<dyn PaginatedListStore>,
}

impl Client {
    fn of<C: ObjectStore + PaginatedListStore>(client: C) -> Self {
        let client = Arc::new(client);
        Self { objects: client.clone(), pages: client }
    }
}

pub struct CloudStore {
    client: Client,
    place: Place,
    endpoint: Option<String>,
    attributes: Attributes,
    /// Where access keys come from that may expire in the middle of a run.
    renewal: Option<Arc<Renewal>>,
    tokens: Tokens,
    /// Whether what carries an object goes out in pieces, each in its turn.
    is_paced: bool,
    download: Option<Pace>,
}

impl CloudStore {
    /// Makes the client. Nothing is sent yet.
    pub fn open(options: CloudOptions) -> Result<Self, StoreError> {
        let place = options.place.to_string();
        let unusable = |error: object_store::Error| StoreError::Open {
            path: place.clone(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string()),
        };
        let CloudOptions { place: at, reach, storage_class, service } = options;
        let http = http(&reach).map_err(unusable)?;
        let (is_paced, download) = (reach.rates.upload.is_some(), reach.rates.download.map(Pace::new));
        let (client, renewal) = match service {
            Service::S3(s3) => {
                let renewal = s3.renewal();
                (Client::of(s3::client(&at, &reach, s3, http).map_err(unusable)?), renewal)
            }
            Service::Gcs(keys) => (Client::of(gcs::client(&at, &reach, keys, http).map_err(unusable)?), None),
            Service::Azure(keys) => (Client::of(azure::client(&at, &reach, keys, http).map_err(unusable)?), None),
        };
        let mut attributes = Attributes::new();
        if let Some(class) = storage_class {
            attributes.insert(Attribute::StorageClass, class.into());
        }
        Ok(Self {
            client,
            place: at,
            endpoint: reach.endpoint,
            attributes,
            renewal,
            tokens: Tokens::default(),
            is_paced,
            download,
        })
    }

    /// Whether an answer came of keys that may be renewed: then the next attempt has new ones.
    fn of_store(&self, asked: Asked<'_>, error: object_store::Error) -> StoreError {
        match (asked.of_store(error), &self.renewal) {
            (StoreError::Expired { .. }, Some(renewal)) if renewal.discard() => {
                asked.senseless("the access keys had expired; new ones are asked for")
            }
            (error, _) => error,
        }
    }

    /// The same for verbs on one object.
    fn of_object(&self, asked: Asked<'_>, error: object_store::Error) -> Missing {
        match asked.of_object(error) {
            Ok(missing) => missing,
            Err(error) => Missing::Other(self.of_store(asked, error)),
        }
    }

    /// Keys that were accepted once may be renewed when they are not any more.
    fn answered(&self) {
        if let Some(renewal) = &self.renewal {
            renewal.accepted();
        }
    }

    fn path(&self, key: &Key) -> Result<Path, StoreError> {
        let bad = |_| StoreError::BadName { name: key.to_string() };
        Path::parse(self.place.name_of(key.as_str())).map_err(bad)
    }

    /// Reads bytes, no more than were announced, and no more than an object may have. A whole object is asked for
    /// as a range too, since the answer to a range says how long the object is beside how long the answer is: one
    /// that was cut short on the way by somebody who mended its length is then no answer.
    async fn read(&self, verb: Verb, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let asked = Asked { verb, key: key.as_str() };
        let whole = range.is_none();
        let wanted = range.unwrap_or(0..OBJECT_BYTES_MAX + 1);
        let options = GetOptions { range: Some(GetRange::Bounded(wanted.clone())), ..GetOptions::default() };
        let answer = self.client.objects.get_opts(&self.path(key)?, options).await;
        let found = match answer.map_err(|error| self.of_object(asked, error)) {
            Ok(found) => found,
            Err(Missing::Range) if whole => return self.empty(asked, key).await,
            Err(Missing::Range) => return Err(StoreError::Short { key: key.to_string(), wanted: wanted.end }),
            Err(Missing::Other(error)) => return Err(error),
        };
        self.answered();
        if whole && found.meta.size > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge { key: key.to_string(), len: found.meta.size });
        }
        let end = if whole { found.meta.size } else { wanted.end };
        if !whole && found.meta.size < end {
            return Err(StoreError::Short { key: key.to_string(), wanted: end });
        }
        if found.range != (wanted.start..end) {
            return Err(asked.senseless("it sends another range than it was asked for"));
        }
        let len = end - wanted.start;
        let mut bytes = BytesMut::with_capacity(len as usize);
        let mut parts = found.into_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| asked.unknown(&error))?;
            if (bytes.len() + part.len()) as u64 > len {
                return Err(asked.senseless("it sends more than it announced"));
            }
            bytes.extend_from_slice(&part);
            // What is not taken from the connection is not sent.
            if let Some(pace) = &self.download {
                sleep_until(pace.reserve(part.len() as u64)).await;
            }
        }
        if bytes.len() as u64 != len {
            return Err(asked.senseless("it sends less than it announced"));
        }
        Ok(bytes.freeze())
    }

    /// What goes at a pace goes in pieces.
    fn payload(&self, bytes: Bytes) -> PutPayload {
        if self.is_paced { PutPayload::from_iter(pieces(bytes)) } else { bytes.into() }
    }

    /// An object of which there is no first byte.
    async fn empty(&self, asked: Asked<'_>, key: &Key) -> Result<Bytes, StoreError> {
        match self.head(key).await? {
            Some(0) => Ok(Bytes::new()),
            Some(_) => Err(asked.senseless("it has an object and does not give its first byte")),
            None => Err(StoreError::NotFound { key: key.to_string() }),
        }
    }

    /// One request's worth of a listing: what is shown of it, and where the next begins.
    async fn page(&self, prefix: &str, from: Begin<'_>, most: usize) -> Result<Page, StoreError> {
        let asked = Asked { verb: Verb::List, key: prefix };
        let token = from.goes_on.and_then(|key| self.tokens.take(prefix, key));
        let options = PaginatedListOptions {
            // Where a service hands out tokens, it need not know how to begin after a name.
            offset: from.goes_on.filter(|_| token.is_none()).map(|after| self.place.name_of(after.as_str())),
            max_keys: Some(most),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let full = self.place.name_of(prefix);
        let full = match self.place.provider() {
            // Its client leaves out the object that is named just like the prefix: its folder is asked for.
            Provider::Azure => full.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/")),
            _ => full,
        };
        let answer = self.client.pages.list_paginated((!full.is_empty()).then_some(full.as_str()), options).await;
        let answer = answer.map_err(|error| self.of_store(asked, error))?;
        self.answered();
        let (mut entries, mut last) = (Vec::new(), None);
        for found in answer.result.objects {
            let name = found.location.as_ref();
            // What consoles make to show a folder carries a slash at its end, which the client strips: such a
            // name is then the prefix itself, or lies before what was asked for.
            let Some(inside) = self.place.inside(name) else { continue };
            let key = Key::parse(inside)?;
            last = Some(key.clone());
            if inside.starts_with(prefix) && from.after.is_none_or(|after| key > *after) {
                let modified = Moment::from_millis(found.last_modified.timestamp_millis())
                    .ok_or_else(|| asked.senseless("it gives an object a time that cannot be written"))?;
                entries.push(Entry { key, len: found.size, modified });
            }
        }
        if !entries.is_sorted_by(|a, b| a.key < b.key) {
            return Err(asked.senseless("its listing is not in order"));
        }
        if entries.len() > most {
            return Err(asked.senseless("it lists more than was asked for"));
        }
        match (answer.page_token, last) {
            (None, _) => Ok(Page { entries, next: None }),
            (Some(token), Some(last)) => {
                if self.place.provider() == Provider::Azure {
                    self.tokens.keep(prefix, &last, token);
                }
                Ok(Page { entries, next: Some(last) })
            }
            (Some(_), None) => Err(asked.senseless("it lists nothing and says that there is more")),
        }
    }
}

/// Where a page begins.
#[derive(Clone, Copy)]
struct Begin<'a> {
    /// What the caller has seen; nothing up to it is shown.
    after: Option<&'a Key>,
    /// What the service is told to go on after.
    goes_on: Option<&'a Key>,
}

/// How the pages under way go on, for the service whose own tokens are the way to go on.
#[derive(Default)]
struct Tokens(Mutex<HashMap<(String, Key), String>>);

/// Listings under way at once; a token that is forgotten costs a request or two.
const TOKENS_MAX: usize = 64;

impl Tokens {
    fn keep(&self, prefix: &str, last: &Key, token: String) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert((prefix.to_owned(), last.clone()), token);
    }

    fn take(&self, prefix: &str, after: &Key) -> Option<String> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&(prefix.to_owned(), after.clone())).cloned()
    }
}

/// Exactly one attempt: the retry decorator owns the policy.
fn once() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

fn http(reach: &Reach) -> Result<ClientOptions, object_store::Error> {
    let mut client = ClientOptions::new()
        .with_allow_http(reach.transport == Transport::PlainAllowed)
        .with_connect_timeout(CONNECT_TIME.min(reach.request_time))
        .with_timeout(reach.request_time);
    if let Some(pem) = &reach.ca_pem {
        for certificate in Certificate::from_pem_bundle(pem)? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

#[async_trait]
impl Store for CloudStore {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let asked = Asked { verb: Verb::PutNew, key: key.as_str() };
        let len = bytes.len() as u64;
        if len > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge { key: key.to_string(), len });
        }
        let options =
            PutOptions { mode: PutMode::Create, attributes: self.attributes.clone(), ..PutOptions::default() };
        match self.client.objects.put_opts(&self.path(key)?, self.payload(bytes), options).await {
            Ok(_) => {
                self.answered();
                Ok(Put::Created)
            }
            Err(error) if answer::is_taken(&error) => Ok(Put::Exists),
            Err(error) => Err(self.of_store(asked, error)),
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.read(Verb::Get, key, None).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let ordinary = range.start < range.end && range.end - range.start <= OBJECT_BYTES_MAX;
        if ordinary {
            return self.read(Verb::GetRange, key, Some(range)).await;
        }
        // What no range request can say is answered from the length.
        let len = self.head(key).await?.ok_or_else(|| StoreError::NotFound { key: key.to_string() })?;
        if range.start > range.end || range.end > len {
            let wanted = range.start.max(range.end);
            return Err(StoreError::Short { key: key.to_string(), wanted });
        }
        match range.end - range.start {
            0 => Ok(Bytes::new()),
            len => Err(StoreError::TooLarge { key: key.to_string(), len }),
        }
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let asked = Asked { verb: Verb::Head, key: key.as_str() };
        match self.client.objects.head(&self.path(key)?).await {
            Ok(found) => {
                self.answered();
                Ok(Some(found.size))
            }
            Err(error) => match self.of_object(asked, error) {
                Missing::Other(StoreError::NotFound { .. }) => Ok(None),
                Missing::Other(error) => Err(error),
                Missing::Range => Err(asked.senseless("it speaks of a range that was not asked for")),
            },
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let mut from = after.cloned();
        for _ in 0..BARREN_PAGES_MAX {
            let begin = Begin { after, goes_on: from.as_ref() };
            let page = self.page(prefix, begin, limit.clamp(1, PAGE_MAX)).await?;
            match page.next {
                Some(next) if page.entries.is_empty() => from = Some(next),
                _ => return Ok(page),
            }
        }
        Err(Asked { verb: Verb::List, key: prefix }.senseless("its pages hold nothing that was asked for"))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let asked = Asked { verb: Verb::Delete, key: key.as_str() };
        match self.client.objects.delete(&self.path(key)?).await {
            Ok(()) => Ok(()),
            Err(error) => match self.of_object(asked, error) {
                Missing::Other(StoreError::NotFound { .. }) => Ok(()),
                Missing::Other(error) => Err(error),
                Missing::Range => Err(asked.senseless("it speaks of a range that was not asked for")),
            },
        }
    }

    fn describe(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("bucket {} at {endpoint}", self.place),
            None => format!("bucket {}", self.place),
        }
    }
}
