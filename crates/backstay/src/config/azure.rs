//! Keys for Azure Blob Storage where its own programs look for them.

use super::Env;
use super::aws::set;
use super::error::ConfigError;
use super::store::{StoreSettings, Where};
use backstay_store::cloud::{AzureKeys, Provider};

pub fn find(env: &Env, store: &StoreSettings) -> Result<AzureKeys, ConfigError> {
    if store.credentials == Where::Instance {
        return Ok(AzureKeys::Instance);
    }
    let get = |name| set(env, name);
    if let Some(key) = get("AZURE_STORAGE_ACCOUNT_KEY").or_else(|| get("AZURE_STORAGE_KEY")) {
        return Ok(AzureKeys::AccountKey(key));
    }
    if let Some(sas) = get("AZURE_STORAGE_SAS_TOKEN") {
        return Ok(AzureKeys::Sas(sas));
    }
    if let (Some(tenant), Some(client)) = (get("AZURE_TENANT_ID"), get("AZURE_CLIENT_ID")) {
        if let Some(secret) = get("AZURE_CLIENT_SECRET") {
            return Ok(AzureKeys::Client { tenant, client, secret });
        }
        if let Some(token_file) = get("AZURE_FEDERATED_TOKEN_FILE") {
            return Ok(AzureKeys::Workload { tenant, client, token_file });
        }
    }
    Err(ConfigError::NoAccessKeys { provider: Provider::Azure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_way_in_is_taken_and_none_is_printed() {
        let found = |pairs: &[(&str, &str)]| {
            let env = Env(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
            find(&env, &StoreSettings::plain())
        };
        let app = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        assert!(matches!(found(&app), Err(ConfigError::NoAccessKeys { provider: Provider::Azure })));
        let secret = [app[0], app[1], ("AZURE_CLIENT_SECRET", "SECRET")];
        let keys = found(&secret).expect("keys");
        assert!(matches!(keys, AzureKeys::Client { .. }) && !format!("{keys:?}").contains("SECRET"));
        let workload = [app[0], app[1], ("AZURE_FEDERATED_TOKEN_FILE", "/t")];
        assert!(matches!(found(&workload), Ok(AzureKeys::Workload { .. })));
        assert!(matches!(found(&[("AZURE_STORAGE_SAS_TOKEN", "s"), secret[2]]), Ok(AzureKeys::Sas(_))));
        let both = [("AZURE_STORAGE_SAS_TOKEN", "s"), ("AZURE_STORAGE_KEY", "k")];
        assert!(matches!(found(&both), Ok(AzureKeys::AccountKey(_))));
    }
}
