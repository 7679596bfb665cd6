//! An object's bytes, exactly as a manifest was signed over them: the one place that compares the two.

use backstay_format::object;
use backstay_format::table::Reference;
use backstay_store::repo::RepoError;
use backstay_store::{Key, Store, StoreError};
use bytes::Bytes;

/// Fetches an object and compares its length and digest with what a manifest says of it.
pub async fn object(store: &dyn Store, key: &Key, reference: &Reference) -> Result<Bytes, RepoError> {
    let bytes = match store.get(key).await {
        Err(StoreError::NotFound { .. }) => return Err(RepoError::Missing { key: key.to_string() }),
        other => other?,
    };
    if bytes.len() as u64 != reference.stored {
        let (wanted, found) = (reference.stored, bytes.len() as u64);
        return Err(RepoError::WrongLength { key: key.to_string(), wanted, found });
    }
    let found = object::digest(&bytes);
    if found != reference.digest {
        return Err(RepoError::WrongDigest { key: key.to_string(), wanted: reference.digest, found });
    }
    Ok(bytes)
}
