//! The client for S3 and what speaks its language.

use super::access::{AccessKeys, Renewal};
use super::courtesy::Courtesy;
use super::{Place, Reach, once};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct S3 {
    pub region: String,
    pub addressing: Addressing,
    pub server_side: Option<ServerSide>,
    /// Sent with every object beside the signed digest, for the server to keep and compare.
    pub checksum: Option<Checksum>,
    pub credentials: Credentials,
}

/// Whether the bucket is part of the host name or of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    Path,
    VirtualHost,
}

/// Encryption that the server does, beside ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSide {
    Aes256,
    Kms { key: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    Sha256,
    Crc64Nvme,
}

/// How requests are signed.
#[derive(Debug, Clone)]
pub enum Credentials {
    Keys(AccessKeys),
    /// Keys that are asked for again when they expire.
    Renewed(Arc<Renewal>),
    /// A role for a token that the platform keeps fresh in a file.
    WebIdentity {
        token_file: String,
        role_arn: String,
        session: Option<String>,
        /// The service that takes the token; absent: Amazon's own.
        sts: Option<String>,
    },
    /// The address, below the container agent's, where a task gets its keys.
    Container {
        relative_uri: String,
    },
    /// The agent of a pod, asked with a token that the platform keeps fresh in a file.
    Pod {
        uri: String,
        token_file: String,
    },
    /// Whatever role the machine itself has.
    Instance {
        /// Where to ask; absent: the address all machines have.
        metadata: Option<String>,
    },
}

impl S3 {
    pub(super) fn renewal(&self) -> Option<Arc<Renewal>> {
        match &self.credentials {
            Credentials::Renewed(renewal) => Some(renewal.clone()),
            _ => None,
        }
    }
}

pub(super) fn client(
    place: &Place,
    reach: &Reach,
    s3: S3,
    http: ClientOptions,
) -> Result<AmazonS3, object_store::Error> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(place.bucket())
        .with_region(&s3.region)
        .with_virtual_hosted_style_request(s3.addressing == Addressing::VirtualHost)
        .with_disable_bulk_delete(true)
        .with_client_options(http)
        .with_http_connector(Courtesy::of(reach)?)
        .with_retry(once());
    if let Some(endpoint) = endpoint_of(place, reach, s3.addressing) {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match s3.server_side {
        None => builder,
        Some(ServerSide::Aes256) => {
            builder.with_config("aws_server_side_encryption".parse::<AmazonS3ConfigKey>()?, "AES256")
        }
        Some(ServerSide::Kms { key }) => builder.with_sse_kms_encryption(key),
    };
    builder = match s3.checksum {
        None => builder,
        Some(Checksum::Sha256) => builder.with_checksum_algorithm(object_store::aws::Checksum::SHA256),
        Some(Checksum::Crc64Nvme) => builder.with_checksum_algorithm(object_store::aws::Checksum::CRC64NVME),
    };
    signed(builder, s3.credentials).build()
}

/// With the bucket in the host name, the client wants it there already.
fn endpoint_of(place: &Place, reach: &Reach, addressing: Addressing) -> Option<String> {
    let endpoint = reach.endpoint.as_deref()?.trim_end_matches('/');
    match (addressing, endpoint.split_once("://")) {
        (Addressing::VirtualHost, Some((scheme, host))) => Some(format!("{scheme}://{}.{host}", place.bucket())),
        _ => Some(endpoint.to_owned()),
    }
}

fn signed(builder: AmazonS3Builder, credentials: Credentials) -> AmazonS3Builder {
    let with = |builder: AmazonS3Builder, key: AmazonS3ConfigKey, value: Option<String>| match value {
        Some(value) => builder.with_config(key, value),
        None => builder,
    };
    match credentials {
        Credentials::Keys(AccessKeys { id, secret, token, .. }) => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            with(builder, AmazonS3ConfigKey::Token, token)
        }
        Credentials::Renewed(renewal) => builder.with_credentials(renewal),
        Credentials::WebIdentity { token_file, role_arn, session, sts } => {
            let builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn);
            let builder = with(builder, AmazonS3ConfigKey::RoleSessionName, session);
            with(builder, AmazonS3ConfigKey::StsEndpoint, sts)
        }
        Credentials::Container { relative_uri } => {
            builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, relative_uri)
        }
        Credentials::Pod { uri, token_file } => builder
            .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, uri)
            .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, token_file),
        Credentials::Instance { metadata } => with(builder, AmazonS3ConfigKey::MetadataEndpoint, metadata),
    }
}
