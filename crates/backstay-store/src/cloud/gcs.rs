//! The client for Google Cloud Storage, by its XML interface.

use super::courtesy::Courtesy;
use super::{Place, Reach, once};
use object_store::ClientOptions;
use object_store::client::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorage, GoogleCloudStorageBuilder};
use std::sync::Arc;

/// How requests are authorised. None of it prints itself.
#[derive(Clone)]
pub enum GcsKeys {
    /// The JSON of a service account's key.
    ServiceAccount(String),
    /// A file of `gcloud`'s application default credentials.
    Application(String),
    /// A token somebody else keeps fresh.
    Token(String),
    /// Whatever account the machine itself has.
    Instance,
}

impl std::fmt::Debug for GcsKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(keys of Google Cloud Storage)")
    }
}

pub(super) fn client(
    place: &Place,
    reach: &Reach,
    keys: GcsKeys,
    http: ClientOptions,
) -> Result<GoogleCloudStorage, object_store::Error> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(place.bucket())
        .with_client_options(http)
        .with_http_connector(Courtesy::of(reach)?)
        .with_retry(once());
    if let Some(endpoint) = &reach.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let builder = match keys {
        GcsKeys::ServiceAccount(json) => builder.with_service_account_key(json),
        GcsKeys::Application(path) => builder.with_application_credentials(path),
        GcsKeys::Token(bearer) => {
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer })))
        }
        GcsKeys::Instance => builder,
    };
    builder.build()
}
