//! Ends of streams: taking the next slot, so that nothing can come into it any more, and saying where the logs go on.

use crate::catalog::Vault;
use backstay_format::facts::Log;
use backstay_model::{Onward, SourceName, StreamId, seams};
use backstay_store::repo::{Chain, LogDraft, LogSigning, RepoError};

/// A stream nobody is in.
pub fn fresh(vault: &Vault) -> StreamId {
    StreamId::from_bytes(seams::fresh(vault.env.random.as_ref()))
}

/// Where a stream leads that ends for one source, and what others do who write into it too.
pub fn onward(vault: &Vault, source: &SourceName, next: StreamId, is_shared: bool) -> Onward {
    match is_shared {
        false => next.into(),
        true => Onward { leaves: [(source.clone(), next)].into(), ..fresh(vault).into() },
    }
}

/// Ends a stream: who finds this object in its slot has been taken over.
pub async fn close(vault: &Vault, stream: StreamId, chain: Chain, onward: Onward) -> Result<(), RepoError> {
    put(vault, &Log::end_of(stream, onward), chain).await
}

/// Puts an object without commits.
pub async fn put(vault: &Vault, facts: &Log, chain: Chain) -> Result<(), RepoError> {
    let signer = vault.signer.as_ref().ok_or(RepoError::NoIdentity)?;
    let random = vault.env.random.as_ref();
    let sealer = vault.repo.sealer(random);
    let with = LogSigning { signer, sealer: &sealer, random };
    let (bytes, _) = LogDraft::begin(facts, chain, vault.repo.fresh_id(random), with).finish(&[]);
    vault.repo.put_log(&facts.stream, chain.sequence, bytes).await
}
