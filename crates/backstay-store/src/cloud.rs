//! A store in a bucket: S3 and what speaks its language.
//!
//! Owns one client for one bucket and the prefix in it. It must never overwrite (every put carries the
//! condition that nothing has the name), never call a put done on less than the store's own yes, never try
//! again by itself (the retry decorator owns that policy), and never let a secret or a server's free text
//! into a message. One page of a listing is one request.
//!
//! Whether the server honours the condition, this file cannot see: `init` probes for it. A crash or a cut
//! leaves an object whole or not at all, since the server answers for that. Takes no lock.

mod answer;
mod place;

pub use place::{BadPlace, S3Place};

use crate::error::StoreError;
use crate::seam::{Entry, Key, OBJECT_BYTES_MAX, Page, Put, Store, Verb};
use answer::{Asked, Missing};
use async_trait::async_trait;
use backstay_model::Moment;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, RetryConfig,
};
use std::ops::Range;
use std::time::Duration;

/// The most entries a store gives in one answer.
const PAGE_MAX: usize = 1000;
/// Pages in a row that held nothing to show before a listing is called senseless.
const BARREN_PAGES_MAX: usize = 16;
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Keys as an access provider hands them out. Neither prints itself.
#[derive(Clone)]
pub struct AccessKeys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

impl std::fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(access keys)")
    }
}

/// How requests are signed.
#[derive(Debug, Clone)]
pub enum Credentials {
    Keys(AccessKeys),
    /// A role for a token that the platform keeps fresh in a file.
    WebIdentity {
        token_file: String,
        role_arn: String,
        session: Option<String>,
    },
    /// The address, below the container agent's, where a task gets its keys.
    Container {
        relative_uri: String,
    },
    /// Whatever role the machine itself has.
    Instance,
}

/// Encryption that the server does, beside ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSide {
    Aes256,
    Kms { key: String },
}

/// Whether the bucket is part of the host name or of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    Path,
    VirtualHost,
}

/// Whether requests may go unencrypted. Objects are sealed; names, sizes and signatures are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    TlsOnly,
    PlainAllowed,
}

#[derive(Debug, Clone)]
pub struct S3Options {
    pub place: S3Place,
    pub region: String,
    /// Absent: Amazon's own.
    pub endpoint: Option<String>,
    pub addressing: Addressing,
    pub transport: Transport,
    /// Certificates to believe beside the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    pub storage_class: Option<String>,
    pub server_side: Option<ServerSide>,
    pub credentials: Credentials,
    /// One request is given up on after this.
    pub request_time: Duration,
}

pub struct CloudStore {
    objects: AmazonS3,
    place: S3Place,
    endpoint: Option<String>,
    attributes: Attributes,
}

impl CloudStore {
    /// Makes the client. Nothing is sent yet.
    pub fn open(options: S3Options) -> Result<Self, StoreError> {
        let unusable = |error: object_store::Error| StoreError::Open {
            path: options.place.to_string(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string()),
        };
        let client = client(&options).map_err(unusable)?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(options.place.bucket())
            .with_region(&options.region)
            .with_virtual_hosted_style_request(options.addressing == Addressing::VirtualHost)
            .with_disable_bulk_delete(true)
            .with_client_options(client)
            .with_retry(once());
        if let Some(endpoint) = endpoint_of(&options) {
            builder = builder.with_endpoint(endpoint);
        }
        builder = match options.server_side.clone() {
            None => builder,
            Some(ServerSide::Aes256) => {
                let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>().map_err(unusable)?;
                builder.with_config(key, "AES256")
            }
            Some(ServerSide::Kms { key }) => builder.with_sse_kms_encryption(key),
        };
        let objects = signed(builder, options.credentials.clone()).build().map_err(unusable)?;
        let mut attributes = Attributes::new();
        if let Some(class) = options.storage_class {
            attributes.insert(Attribute::StorageClass, class.into());
        }
        Ok(Self { objects, place: options.place, endpoint: options.endpoint, attributes })
    }

    fn path(&self, key: &Key) -> Result<Path, StoreError> {
        let bad = |_| StoreError::BadName { name: key.to_string() };
        Path::parse(self.place.name_of(key.as_str())).map_err(bad)
    }

    /// Reads bytes, no more than were announced, and no more than an object may have.
    async fn read(&self, verb: Verb, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let asked = Asked { verb, key: key.as_str() };
        let wanted = range.clone();
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let answer = self.objects.get_opts(&self.path(key)?, options).await;
        let found = answer.map_err(|error| match (asked.of_object(error), &wanted) {
            (Missing::Range, Some(wanted)) => StoreError::Short { key: key.to_string(), wanted: wanted.end },
            (Missing::Range, None) => asked.senseless("it speaks of a range that was not asked for"),
            (Missing::Other(error), _) => error,
        })?;
        let len = found.range.end.saturating_sub(found.range.start);
        if len > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge { key: key.to_string(), len });
        }
        if let Some(wanted) = wanted.filter(|wanted| wanted.end - wanted.start != len) {
            return Err(StoreError::Short { key: key.to_string(), wanted: wanted.end });
        }
        let mut bytes = BytesMut::with_capacity(len as usize);
        let mut parts = found.into_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| asked.unknown(&error))?;
            if (bytes.len() + part.len()) as u64 > len {
                return Err(asked.senseless("it sends more than it announced"));
            }
            bytes.extend_from_slice(&part);
        }
        if bytes.len() as u64 != len {
            return Err(asked.senseless("it sends less than it announced"));
        }
        Ok(bytes.freeze())
    }

    /// One request's worth of a listing: what is shown of it, and where the next begins.
    async fn page(&self, prefix: &str, after: Option<&Key>, most: usize) -> Result<Page, StoreError> {
        let asked = Asked { verb: Verb::List, key: prefix };
        let options = PaginatedListOptions {
            offset: after.map(|after| self.place.name_of(after.as_str())),
            max_keys: Some(most),
            ..PaginatedListOptions::default()
        };
        let full = self.place.name_of(prefix);
        let answer = self.objects.list_paginated((!full.is_empty()).then_some(full.as_str()), options).await;
        let answer = answer.map_err(|error| asked.of_store(error))?;
        let (mut entries, mut last) = (Vec::new(), None);
        for found in answer.result.objects {
            let name = found.location.as_ref();
            // What consoles make to show a folder carries a slash at its end, which the client strips: such a
            // name is then the prefix itself, or lies before what was asked for.
            let Some(inside) = self.place.inside(name) else { continue };
            let key = Key::parse(inside)?;
            last = Some(key.clone());
            if inside.starts_with(prefix) && after.is_none_or(|after| key > *after) {
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
            (Some(_), Some(last)) => Ok(Page { entries, next: Some(last) }),
            (Some(_), None) => Err(asked.senseless("it lists nothing and says that there is more")),
        }
    }
}

/// Exactly one attempt: the retry decorator owns the policy.
fn once() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

fn client(options: &S3Options) -> Result<ClientOptions, object_store::Error> {
    let mut client = ClientOptions::new()
        .with_allow_http(options.transport == Transport::PlainAllowed)
        .with_connect_timeout(CONNECT_TIME)
        .with_timeout(options.request_time);
    if let Some(pem) = &options.ca_pem {
        for certificate in Certificate::from_pem_bundle(pem)? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// With the bucket in the host name, the client wants it there already.
fn endpoint_of(options: &S3Options) -> Option<String> {
    let endpoint = options.endpoint.as_deref()?.trim_end_matches('/');
    match (options.addressing, endpoint.split_once("://")) {
        (Addressing::VirtualHost, Some((scheme, host))) => {
            Some(format!("{scheme}://{}.{host}", options.place.bucket()))
        }
        _ => Some(endpoint.to_owned()),
    }
}

fn signed(builder: AmazonS3Builder, credentials: Credentials) -> AmazonS3Builder {
    match credentials {
        Credentials::Keys(AccessKeys { id, secret, token }) => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            match token {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        Credentials::WebIdentity { token_file, role_arn, session } => {
            let builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn);
            match session {
                Some(session) => builder.with_config(AmazonS3ConfigKey::RoleSessionName, session),
                None => builder,
            }
        }
        Credentials::Container { relative_uri } => {
            builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, relative_uri)
        }
        Credentials::Instance => builder,
    }
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
        match self.objects.put_opts(&self.path(key)?, bytes.into(), options).await {
            Ok(_) => Ok(Put::Created),
            Err(error) if answer::is_taken(&error) => Ok(Put::Exists),
            Err(error) => Err(asked.of_store(error)),
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
        match self.objects.head(&self.path(key)?).await {
            Ok(found) => Ok(Some(found.size)),
            Err(error) => match asked.of_object(error) {
                Missing::Other(StoreError::NotFound { .. }) => Ok(None),
                Missing::Other(error) => Err(error),
                Missing::Range => Err(asked.senseless("it speaks of a range that was not asked for")),
            },
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let mut from = after.cloned();
        for _ in 0..BARREN_PAGES_MAX {
            let page = self.page(prefix, from.as_ref(), limit.clamp(1, PAGE_MAX)).await?;
            match page.next {
                Some(next) if page.entries.is_empty() => from = Some(next),
                _ => return Ok(page),
            }
        }
        Err(Asked { verb: Verb::List, key: prefix }.senseless("its pages hold nothing that was asked for"))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let asked = Asked { verb: Verb::Delete, key: key.as_str() };
        match self.objects.delete(&self.path(key)?).await {
            Ok(()) => Ok(()),
            Err(error) => match asked.of_object(error) {
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
