//! Opening a repository with what this host remembers of it.
//!
//! An older configuration than one seen is refused. One that is damaged or gone is replaced, for this run
//! and with a warning, by the bytes of that very generation which this host verified and kept: one bad sector
//! under one small object must not close a repository. Writes nothing.

use crate::{OpsError, State};
use backstay_model::{Kind, Kinded, SignerKey};
use backstay_store::Store;
use backstay_store::repo::{KeptConf, RepoError, Repository};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// Opens the repository of a store; `state_root` is where the memory of every repository lies.
pub async fn open(store: Arc<dyn Store>, root: SignerKey, state_root: &Path) -> Result<Repository, OpsError> {
    match Repository::open(store.clone(), root, None).await {
        Ok(found) => match State::seen_conf(state_root, found.id())? {
            None => Ok(found),
            // Another process of this host may have made a newer one since this one was read.
            Some(seen) => match found.not_older_than(seen) {
                Ok(found) => Ok(found),
                Err(_) => Ok(Repository::open(store, root, None).await?.not_older_than(seen)?),
            },
        },
        Err(why) if is_of_the_conf(&why) => open_kept(store, root, state_root, why).await,
        Err(error) => Err(error.into()),
    }
}

/// Whether the store answers, and what it gives is not a configuration. One of another root is no damage.
fn is_of_the_conf(error: &RepoError) -> bool {
    let gone = matches!(error, RepoError::NotARepository { .. } | RepoError::BadSignature { .. });
    gone || error.kind() == Kind::Corrupt && !matches!(error, RepoError::RolledBack { .. }) || error.is_unreadable()
}

/// With the one kept configuration that the pinned root signed; two of them are a question nobody can answer.
async fn open_kept(
    store: Arc<dyn Store>,
    root: SignerKey,
    state_root: &Path,
    why: RepoError,
) -> Result<Repository, OpsError> {
    let mut of_root =
        State::kept_confs(state_root).into_iter().filter(|(_, bytes)| Repository::is_conf_of(bytes, root));
    match (of_root.next(), of_root.next()) {
        (Some((seen, bytes)), None) => {
            Ok(Repository::open_kept(store, root, KeptConf { bytes: bytes.into(), seen, why }).await?)
        }
        _ => Err(why.into()),
    }
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct MendReport {
    /// The newest configuration, as far as this host has seen.
    pub generation: u64,
    /// It was not in the store, and is again.
    pub put_back: bool,
}

/// Puts the newest configuration this host has seen back where the store has lost it, byte for byte. One that stands
/// there, damaged or not, is left alone: the slot is taken.
pub async fn mend(store: Arc<dyn Store>, root: SignerKey, state_root: &Path) -> Result<MendReport, OpsError> {
    let lost = match open(store.clone(), root, state_root).await {
        Ok(repo) if repo.conf_fault().is_none() => {
            return Ok(MendReport { generation: repo.conf().generation, put_back: false });
        }
        Ok(repo) => {
            repo.put_conf_back().await?;
            return Ok(MendReport { generation: repo.conf().generation, put_back: true });
        }
        Err(OpsError::Repo(lost @ RepoError::RolledBack { what: "configuration", .. })) => lost,
        Err(error) => return Err(error),
    };
    // The store shows an older one: the newest is put after it, if it is the one that follows.
    let of_root = |(_, bytes): &(_, Vec<u8>)| Repository::is_conf_of(bytes, root);
    let mut kept = State::kept_confs(state_root).into_iter().filter(of_root);
    let (Some((seen, bytes)), None) = (kept.next(), kept.next()) else { return Err(lost.into()) };
    let repo = Repository::put_conf_after(store, root, KeptConf { bytes: Bytes::from(bytes), seen, why: lost }).await?;
    Ok(MendReport { generation: repo.conf().generation, put_back: true })
}
