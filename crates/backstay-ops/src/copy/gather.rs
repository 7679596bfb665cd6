//! What both sides hold, and whether one can be the copy of the other. Writes nothing to either store.

use super::{CopyRequest, Destination};
use crate::catalog::{Catalog, Vault};
use crate::{OpsError, State};
use backstay_model::catalog::Snapshot;
use backstay_model::copies::{self, CopyPlan, Sides};
use backstay_model::{ObjectId, Sequence, SourceName};
use backstay_store::repo::{RepoError, Repository};

pub struct Gathered {
    /// The copy; `None` while there is nothing in its store.
    pub copy: Option<Repository>,
    pub sources: Vec<SourceSides>,
}

pub struct SourceSides {
    pub source: SourceName,
    pub catalog: Catalog,
    pub there: Option<Catalog>,
    pub plan: CopyPlan,
}

pub async fn gather(vault: &Vault, to: &Destination, request: &CopyRequest) -> Result<Gathered, OpsError> {
    let copy = open_copy(vault, to).await?;
    let mut sources = Vec::new();
    for source in vault.repo.sources().await? {
        vault.env.cancel.check()?;
        let catalog = vault.catalog(&source).await?;
        let there = match &copy {
            Some(repo) => Some(catalog_there(vault, to, repo, &source).await?),
            None => None,
        };
        let unverified: Vec<(Sequence, ObjectId)> = catalog.broken.iter().map(|(n, _)| (n.sequence, n.id)).collect();
        // What is condemned there is still there, and is not sent again while it goes.
        let held: Vec<Snapshot> =
            there.iter().flat_map(|there| there.snapshots.iter().chain(&there.condemned)).cloned().collect();
        let sides = Sides { original: &catalog.snapshots, unverified: &unverified, copy: &held };
        let plan = copies::plan(sides, &request.policy, vault.env.clock.now(), &request.zone)
            .map_err(|rivals| OpsError::CopyRivals { source_name: source.clone(), rivals })?;
        sources.push(SourceSides { source, catalog, there, plan });
    }
    Ok(Gathered { copy, sources })
}

/// Opens what is there. Another repository, or something that is none, is never written into.
async fn open_copy(vault: &Vault, to: &Destination) -> Result<Option<Repository>, OpsError> {
    let opened = crate::open::open(to.store.clone(), vault.repo.root(), &to.state_root).await;
    let repo = match opened {
        Ok(repo) => repo,
        Err(OpsError::Repo(RepoError::NotARepository { .. })) => {
            // The configuration is put first: without one, nothing here is ours.
            let anything = to.store.list("", None, 1).await?;
            let seen = State::seen_conf(&to.state_root, vault.repo.id())?;
            return match anything.entries.first() {
                None if seen.is_none() => Ok(None),
                None => Err(OpsError::NotACopy {
                    store: to.store.describe(),
                    why: "it is empty, and this host has seen a copy there: its disk may not be mounted".to_owned(),
                }),
                Some(entry) => Err(OpsError::NotACopy {
                    store: to.store.describe(),
                    why: format!("it holds {} and no configuration", entry.key),
                }),
            };
        }
        Err(error) => return Err(error),
    };
    if repo.id() != vault.repo.id() {
        let why = format!("it holds repository {}, not {}", repo.id(), vault.repo.id());
        return Err(OpsError::NotACopy { store: to.store.describe(), why });
    }
    if repo.seen().generation > vault.repo.seen().generation {
        let why = "its configuration is newer than the original's".to_owned();
        return Err(OpsError::NotACopy { store: to.store.describe(), why });
    }
    Ok(Some(repo))
}

/// The copy's catalog, refused if it is older than what this host has seen there.
async fn catalog_there(
    vault: &Vault,
    to: &Destination,
    repo: &Repository,
    source: &SourceName,
) -> Result<Catalog, OpsError> {
    let state = State::open(vault.env.disk.clone(), &to.state_root, repo.id())?;
    state.remember_conf(repo.seen())?;
    let copy = Vault { repo: repo.clone(), state, signer: None, unsealer: None, env: vault.env.clone() };
    copy.catalog(source).await
}
