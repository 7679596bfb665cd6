//! The client for Azure Blob Storage.

use super::courtesy::Courtesy;
use super::{Place, Reach, once};
use object_store::ClientOptions;
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};

/// How requests are signed. None of it prints itself.
#[derive(Clone)]
pub enum AzureKeys {
    /// The account's own key.
    AccountKey(String),
    /// A shared access signature, as it stands behind the `?` of its address.
    Sas(String),
    /// An application with a secret.
    Client { tenant: String, client: String, secret: String },
    /// An application with a token that the platform keeps fresh in a file.
    Workload { tenant: String, client: String, token_file: String },
    /// Whatever identity the machine itself has.
    Instance,
}

impl std::fmt::Debug for AzureKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(keys of Azure Blob Storage)")
    }
}

pub(super) fn client(
    place: &Place,
    reach: &Reach,
    keys: AzureKeys,
    http: ClientOptions,
) -> Result<MicrosoftAzure, object_store::Error> {
    let account = place.account().unwrap_or_default();
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(place.bucket())
        .with_client_options(http)
        .with_http_connector(Courtesy::of(reach)?)
        .with_retry(once());
    if let Some(endpoint) = &reach.endpoint {
        builder = builder.with_endpoint(of_account(endpoint, account));
    }
    let builder = match keys {
        AzureKeys::AccountKey(key) => builder.with_access_key(key),
        AzureKeys::Sas(sas) => builder.with_config(AzureConfigKey::SasKey, sas),
        AzureKeys::Client { tenant, client, secret } => {
            builder.with_client_secret_authorization(client, secret, tenant)
        }
        AzureKeys::Workload { tenant, client, token_file } => {
            builder.with_tenant_id(tenant).with_client_id(client).with_federated_token_file(token_file)
        }
        AzureKeys::Instance => builder.with_credential_type("managed_identity"),
    };
    builder.build()
}

/// An address of one's own has the account in its path, as the emulators and Azure Stack have it, unless it is the
/// account's own by its name.
fn of_account(endpoint: &str, account: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    let is_its_own = host.strip_prefix(account).is_some_and(|rest| rest.starts_with('.'));
    if is_its_own { endpoint.to_owned() } else { format!("{endpoint}/{account}") }
}

#[cfg(test)]
mod tests {
    use super::of_account;

    #[test]
    fn an_account_stands_in_an_address_once() {
        for (endpoint, wanted) in [
            ("http://127.0.0.1:10000", "http://127.0.0.1:10000/shop"),
            ("https://shop.blob.core.usgovcloudapi.net/", "https://shop.blob.core.usgovcloudapi.net"),
            ("https://shops.example", "https://shops.example/shop"),
        ] {
            assert_eq!(of_account(endpoint, "shop"), wanted);
        }
    }
}
