//! The look back after a backup, where no proof reads the snapshot whole.
//!
//! What the backup wrote is read and compared with what was signed. What it refers to besides was read by whoever wrote
//! it, so a listing is enough: it is there, with its length. That is less than *intact*, and the report says how
//! much less: those objects are `left`, and the snapshot is inconclusive as in any check that leaves something.
//!
//! Reads as many bytes as were written, and asks for one listing of the source's packs.

use super::{
    CheckReport, CheckRequest, CheckedSnapshot, Depth, Finding, Objects, add_problems, described, finding,
    look_at_object, memory, overall, quarantine, remember_suspects, settle, verdict_of,
};
use crate::catalog::Vault;
use crate::{Event, OpsError};
use backstay_format::table::Reference;
use backstay_model::{ByteLen, Moment, ObjectId, Verdict};
use backstay_store::keys::{self, SnapshotName};
use backstay_store::repo::{Manifest, RepoError};
use futures::stream::{self, StreamExt};
use std::collections::{BTreeSet, HashMap};

/// Packs read at once: each is held in memory whole, as when it was put.
const AT_ONCE: usize = 3;

/// A snapshot that was committed a moment ago.
pub struct Committed<'a> {
    pub name: SnapshotName,
    /// The objects that were written for it; what it refers to besides was there before.
    pub wrote: &'a BTreeSet<ObjectId>,
}

/// What was looked at without being read: objects that older snapshots brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Older {
    /// All are in the store and have the length that was signed, unless a problem says otherwise.
    pub objects: u64,
    pub bytes: ByteLen,
    /// This host has found every one of them intact since then. None when one was never read here.
    pub intact_since: Option<Moment>,
}

/// Reads back what was written for a snapshot, and looks whether the rest is there.
pub async fn look_back(vault: &Vault, committed: Committed<'_>) -> Result<CheckReport, OpsError> {
    let began = vault.env.clock.now();
    let Committed { name, wrote } = committed;
    let request = CheckRequest { source: name.source.clone(), snapshot: Some(name.id), depth: Depth::Intact };
    vault.env.tell(Event::Began { source: name.source.clone(), what: "looking back", bytes: None });
    let mut objects = Objects::default();
    let (found, older) = match vault.repo.manifest(&name).await {
        Ok(manifest) => look(vault, &request, (&manifest, wrote), &mut objects).await?,
        Err(error) => (finding(vault, &request, error.into(), name.key().to_string()).await?, Older::default()),
    };
    let verdict = if older.objects > 0 { Verdict::Inconclusive } else { Verdict::Pass };
    let snapshots =
        vec![CheckedSnapshot { id: name.id, verdict: verdict_of(&found).and(verdict), left: older.objects }];
    let mut problems = Vec::new();
    add_problems(&mut problems, name.id, found);
    remember_suspects(vault, &request, &objects)?;
    memory::remember(vault, &request, &mut objects);
    if !problems.is_empty() {
        quarantine(vault, &vault.catalog(&name.source).await?, &snapshots, &problems).await?;
    }
    vault.env.tell(Event::Ended);
    Ok(CheckReport {
        source: name.source,
        verdict: overall(&snapshots, &problems),
        depth: Depth::Intact,
        snapshots,
        objects: objects.all().len() as u64,
        bytes: objects.bytes,
        log_objects: 0,
        unreferenced: 0,
        left: older.objects,
        older: Some(older),
        problems,
        millis: vault.env.clock.now().millis_since(began).max(0) as u64,
    })
}

async fn look(
    vault: &Vault,
    request: &CheckRequest,
    (manifest, wrote): (&Manifest, &BTreeSet<ObjectId>),
    objects: &mut Objects,
) -> Result<(Vec<Finding>, Older), OpsError> {
    objects.bytes += manifest.len();
    let (new, older): (Vec<&Reference>, Vec<&Reference>) =
        manifest.table.refs().iter().partition(|reference| wrote.contains(&reference.object));
    let looks = new.into_iter().map(|r| async move { (r, look_at_object(vault, manifest, r, None).await) });
    let mut found = Vec::new();
    let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
    while let Some((reference, looked)) = looks.next().await {
        vault.env.cancel.check()?;
        found.extend(note(vault, request, (manifest, reference), (looked, objects)).await?);
    }
    let known = vault.state.checked(&request.source);
    let times: Vec<Option<Moment>> = older.iter().map(|r| known.of(&r.object).last()).collect();
    let there = if older.is_empty() { HashMap::new() } else { listed(vault, request).await? };
    let mut seen = Older { intact_since: times.into_iter().min().flatten(), ..Older::default() };
    for reference in older {
        seen.objects += 1;
        seen.bytes = ByteLen::new(seen.bytes.get() + reference.stored);
        // One that is only there was not found good: nothing is written down of it.
        if there.get(&reference.object) != Some(&reference.stored)
            && let Err(error) = is_there(vault, request, reference).await
        {
            found.extend(note(vault, request, (manifest, reference), (Err(error.into()), objects)).await?);
        }
    }
    if found.is_empty() && seen.objects == 0 {
        objects.manifests.insert(manifest.id());
    }
    Ok((found, seen))
}

/// Writes down what came of looking at one object.
async fn note(
    vault: &Vault,
    request: &CheckRequest,
    (manifest, reference): (&Manifest, &Reference),
    (looked, objects): (Result<(), OpsError>, &mut Objects),
) -> Result<Option<Finding>, OpsError> {
    let described = described(manifest, reference, None);
    let wrong = settle(vault, request, (reference, described), (looked, objects)).await?;
    Ok(wrong.map(|wrong| (keys::pack(&request.source, &reference.object).to_string(), wrong)))
}

/// What a listing shows of the source's packs, with their lengths.
async fn listed(vault: &Vault, request: &CheckRequest) -> Result<HashMap<ObjectId, u64>, OpsError> {
    let entries = vault.repo.list(&keys::pack_prefix(&request.source)).await?;
    Ok(entries.iter().filter_map(|e| Some((keys::parse_pack(&request.source, &e.key)?, e.len))).collect())
}

/// A listing is a hint: what it does not show is asked for itself.
async fn is_there(vault: &Vault, request: &CheckRequest, reference: &Reference) -> Result<(), RepoError> {
    let key = keys::pack(&request.source, &reference.object);
    match vault.repo.store().head(&key).await? {
        None => Err(RepoError::Missing { key: key.to_string() }),
        Some(len) if len != reference.stored => {
            Err(RepoError::WrongLength { key: key.to_string(), wanted: reference.stored, found: len })
        }
        Some(_) => Ok(()),
    }
}
