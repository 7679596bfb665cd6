//! What the copy does not have and need not have, for its own record.

use super::gather::SourceSides;
use super::{Act, CopyRequest, Destination};
use crate::catalog::Vault;
use crate::prove::with_causes;
use crate::retain::left_out::{self, LeftOut};
use crate::{OpsError, State};
use backstay_format::facts::Role;
use backstay_model::{Digest, ObjectId, Ranges, SourceName};
use backstay_store::repo::Repository;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is known of a source before it is copied.
pub(super) struct Known {
    source: SourceName,
    absent: Ranges,
    digests: HashMap<ObjectId, Digest>,
    condemned: BTreeSet<ObjectId>,
}

impl Known {
    pub fn of(sides: &SourceSides) -> Self {
        let there = || sides.there.iter();
        let both = sides.catalog.snapshots.iter().chain(there().flat_map(|there| &there.snapshots));
        Self {
            source: sides.source.clone(),
            absent: sides.catalog.gone.with(&sides.plan.without),
            digests: both.map(|snapshot| (snapshot.id, snapshot.digest)).collect(),
            condemned: there().flat_map(|there| &there.condemned).map(|snapshot| snapshot.id).collect(),
        }
    }

    async fn now(self, copy: &Repository) -> Result<LeftOut, OpsError> {
        let names = copy.snapshot_names(&self.source).await?.into_iter().map(|(name, _)| name);
        let mut standing: BTreeMap<u64, Option<Digest>> = BTreeMap::new();
        for name in names.filter(|name| !self.condemned.contains(&name.id)) {
            let digest = self.digests.get(&name.id).copied();
            let known = standing.entry(name.sequence.get()).or_default();
            *known = known.or(digest);
        }
        Ok(LeftOut { source: self.source, absent: self.absent, standing })
    }
}

/// What became of saying it: the number of the copy's record, or why there is none.
#[derive(Default)]
pub(super) struct Said {
    pub record: Option<u64>,
    pub not_recorded: Option<String>,
}

/// Says in the copy what it was left without, where this host may. That it may not, or cannot now, is no failure of
/// the copy: a prune there stops until it is said.
pub(super) async fn say(
    vault: &Vault,
    (to, copy): (&Destination, &Repository),
    (request, known): (&CopyRequest, Vec<Known>),
) -> Result<Said, OpsError> {
    if request.act != Act::Copy || known.iter().all(|known| known.absent.is_empty()) {
        return Ok(Said::default());
    }
    let mut left = Vec::new();
    for known in known {
        left.push(known.now(copy).await?);
    }
    let state = State::open(vault.env.disk.clone(), &to.state_root, copy.id())?;
    let env = vault.env.clone();
    let there = Vault { repo: copy.clone(), state, signer: vault.signer.clone(), unsealer: None, env };
    let said = match left_out::is_unsaid(&there, &left).await {
        Ok(false) => return Ok(Said::default()),
        Ok(true) => match there.signer(Role::Keeper) {
            Ok(_) => left_out::say(&there, &left).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match said {
        Ok(record) => Ok(Said { record, not_recorded: None }),
        Err(OpsError::Cancelled) => Err(OpsError::Cancelled),
        Err(error) => Ok(Said { record: None, not_recorded: Some(with_causes(&error)) }),
    }
}
