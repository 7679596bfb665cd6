//! What was looked at before decides what is looked at now, and what is learnt now is written down.
//!
//! Nothing here can fail a check: a memory that cannot be written is one more look another time.

use super::{CheckRequest, Depth, Objects};
use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use crate::checked::Times;
use backstay_model::ObjectId;
use backstay_model::checking::{Candidate, Select, choose};
use backstay_store::keys;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes looked at before what was learnt is written down.
const WRITE_DOWN: u64 = 1 << 30;

/// The objects to look at; `None` is all of them. The refs of every manifest are read for it, unless
/// everything fits into the budget anyway.
pub(super) async fn chosen(
    vault: &Vault,
    request: &CheckRequest,
    (catalog, select): (&Catalog, Select),
) -> Result<Option<BTreeSet<ObjectId>>, OpsError> {
    if request.snapshot.is_some() || select == Select::All {
        return Ok(None);
    }
    if let Select::Newest { budget } = select {
        let stored = vault.repo.list(&keys::pack_prefix(&request.source)).await?;
        if stored.iter().map(|entry| entry.len).sum::<u64>() <= budget {
            return Ok(None);
        }
    }
    let checked = vault.state.checked(&request.source);
    let newest = catalog.snapshots.iter().max_by_key(|s| s.sequence).map(|s| s.id);
    let mut candidates: BTreeMap<ObjectId, Candidate> = BTreeMap::new();
    for snapshot in &catalog.snapshots {
        vault.env.cancel.check()?;
        let Some(front) = catalog.front(&snapshot.id) else { continue };
        // One that cannot be read is the check's own finding.
        let Ok(manifest) = vault.repo.manifest(&front.name).await else { continue };
        for reference in manifest.table.refs() {
            let times = checked.of(&reference.object);
            let deep = Times { authentic: times.authentic, intact: times.authentic };
            let candidate = candidates.entry(reference.object).or_insert(Candidate {
                object: reference.object,
                bytes: reference.stored,
                checked: if request.depth == Depth::Authentic { deep.last() } else { times.last() },
                newest: false,
            });
            candidate.newest |= newest == Some(snapshot.id);
        }
    }
    let candidates: Vec<Candidate> = candidates.into_values().collect();
    Ok(Some(choose(&candidates, select, vault.env.clock.now())))
}

/// So that a check stopped half-way need not look at everything again.
pub(super) fn remember_now_and_then(vault: &Vault, request: &CheckRequest, objects: &mut Objects) {
    if objects.bytes - objects.remembered >= WRITE_DOWN {
        remember(vault, request, objects);
    }
}

pub(super) fn remember(vault: &Vault, request: &CheckRequest, objects: &mut Objects) {
    objects.remembered = objects.bytes;
    let now = vault.env.clock.now().as_millis();
    let authentic = if request.depth == Depth::Authentic { now } else { 0 };
    let (good, bad) = (objects.ids(false), objects.ids(true));
    let found_good = good.iter().filter(|id| !bad.contains(id)).chain(&objects.manifests);
    let _ = vault.state.update_checked(&request.source, |checked| {
        found_good.for_each(|id| checked.found_good(*id, Times { intact: now, authentic }));
        bad.iter().for_each(|id| checked.found_bad(*id));
    });
}

/// After everything that is referred to was gone through.
pub(super) fn restrict(vault: &Vault, request: &CheckRequest, objects: &Objects) {
    let mut referenced = objects.referenced();
    referenced.extend(&objects.manifests);
    let _ = vault.state.update_checked(&request.source, |checked| checked.restrict(&referenced));
}
