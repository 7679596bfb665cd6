//! Rebuilding the base of a backup from the repository, for a host that lost its cache and can read.

use crate::OpsError;
use crate::base::{Base, BaseFacts, MapParts, NewBase};
use crate::catalog::Vault;
use crate::disk::At;
use crate::fingerprints::FingerprintFile;
use crate::map::Live;
use backstay_format::directory::Holding;
use backstay_format::table::Reference;
use backstay_format::tree::Run;
use backstay_format::{Corrupt, FingerprintKey};
use backstay_model::ObjectId;
use backstay_store::keys::SnapshotName;
use backstay_store::repo::{Directory, RepoError, SnapshotReader, Step, unit_size};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Rebuilds and saves the base for a manifest. `None` when the repository does not give what it
/// needs: then the backup is a full one, which also heals what is missing. One object that cannot be
/// read must not stop every backup to come, nor must a state folder that takes no more; a store that
/// does not answer at all fails the backup at its next listing.
pub async fn base(vault: &Vault, name: &SnapshotName, dir: &Path) -> Result<Option<Base>, OpsError> {
    match try_base(vault, name, dir).await {
        Ok(()) => Ok(Base::load(dir, name).unwrap_or_default()),
        Err(OpsError::Repo(RepoError::Store(error))) if !error.is_of_one_object() => Err(error.into()),
        Err(OpsError::Repo(_) | OpsError::Format(_) | OpsError::RootMismatch { .. }) => Ok(None),
        Err(OpsError::Path(_)) => {
            let _ = Base::discard(vault.env.disk.as_ref(), dir, &name.id);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

async fn try_base(vault: &Vault, name: &SnapshotName, dir: &Path) -> Result<(), OpsError> {
    let manifest = vault.repo.manifest(name).await?;
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let facts = reader.stream(0)?.clone();
    let map = map_parts(&reader, 0).await?;
    let fingerprints = fingerprints(&reader, dir).await?;
    let front = &reader.manifest().front;
    let facts = BaseFacts {
        manifest: name.id,
        sequence: name.sequence,
        generation: name.generation,
        root: front.facts.root,
        unit: facts.unit,
        length: facts.length,
        fingerprint: reader.body().facts.fingerprint.clone(),
    };
    let table = &reader.manifest().table;
    let new = NewBase { facts, table, map: &map, fingerprints: &fingerprints };
    // One that is there could not be used, or it would not be rebuilt.
    Base::discard(vault.env.disk.as_ref(), dir, &name.id)?;
    Base::save(vault.env.disk.as_ref(), dir, &new)
}

pub(crate) async fn map_parts(reader: &SnapshotReader, stream: usize) -> Result<MapParts, RepoError> {
    let levels = usize::from(reader.stream(stream)?.levels);
    let mut parts = MapParts { leaves: Vec::new(), nodes: vec![Vec::new(); levels] };
    reader
        .walk(stream, |step| {
            match step {
                Step::Leaf(leaf) => parts.leaves.push(leaf.leaf.encode()),
                Step::Node(node) => {
                    let level = usize::from(node.level).saturating_sub(1);
                    if let Some(nodes) = parts.nodes.get_mut(level) {
                        nodes.push(node);
                    }
                }
            }
            Ok(())
        })
        .await?;
    Ok(parts)
}

/// The fingerprints of a snapshot's first stream, from the directories of the packs it refers to,
/// checked against the root digest: no page is read.
pub async fn fingerprints(reader: &SnapshotReader, dir: &Path) -> Result<FingerprintFile, OpsError> {
    let spool = FingerprintFile::fresh(dir, "rebuild")?;
    let facts = &reader.body().facts;
    let key = FingerprintKey::new(facts.fingerprint.id, *facts.fingerprint.key.as_bytes());
    let mut root = key.root();
    let mut live = HashMap::new();
    for (at, stream) in facts.streams.iter().enumerate() {
        let by_object = runs_by_object(reader, at, &mut live).await?;
        for (object, runs) in &by_object {
            let directory = reader.directory(object).await?;
            for (first_unit, run) in runs {
                copy_run(&spool, &directory, *first_unit, run)?;
            }
        }
        let unit = unit_size(stream)?;
        root.begin_stream(&stream.name, unit, stream.length);
        spool.add_to_root(&mut root, unit.count(stream.length)).at("read", Path::new("the fingerprint spool"))?;
    }
    check_live(reader, &live)?;
    let (wanted, found) = (reader.manifest().front.facts.root, root.finish());
    if wanted == found { Ok(spool) } else { Err(OpsError::RootMismatch { wanted, found }) }
}

type Runs = BTreeMap<ObjectId, Vec<(u64, Run)>>;

async fn runs_by_object(
    reader: &SnapshotReader,
    stream: usize,
    live: &mut HashMap<ObjectId, Live>,
) -> Result<Runs, RepoError> {
    let mut by_object = Runs::new();
    reader
        .walk(stream, |step| {
            match step {
                Step::Leaf(at) => {
                    for run in at.leaf.runs() {
                        live.entry(run.object).or_default().units += u64::from(run.count);
                        by_object.entry(run.object).or_default().push((at.first_unit + u64::from(run.first), *run));
                    }
                }
                Step::Node(node) => {
                    node.children.iter().for_each(|child| live.entry(child.object).or_default().nodes += 1);
                }
            }
            Ok(())
        })
        .await?;
    Ok(by_object)
}

/// What the table counts as live decides what is stored anew and what a prune may take.
fn check_live(reader: &SnapshotReader, live: &HashMap<ObjectId, Live>) -> Result<(), RepoError> {
    let refs = reader.manifest().table.refs();
    let counted = |r: &Reference| Live { units: u64::from(r.live_units), nodes: r.live_nodes };
    if refs.iter().all(|r| live.get(&r.object).copied().unwrap_or_default() == counted(r)) {
        return Ok(());
    }
    let rule = Corrupt::Rule { what: "the refs table", rule: "it counts the units and nodes that the maps lead to" };
    Err(RepoError::damaged(&reader.manifest().key(), rule))
}

fn copy_run(spool: &FingerprintFile, directory: &Directory, first_unit: u64, run: &Run) -> Result<(), OpsError> {
    let rule = Corrupt::Rule { what: "a pack's directory", rule: "it names the units the map finds there" };
    let frame = directory.get(run.place.frame as usize);
    // A restore goes by the map's place alone: it must be where the frame really is.
    let Some((_, Holding::Units { units, .. })) = frame.filter(|(place, _)| *place == run.place) else {
        return Err(rule.into());
    };
    let slots = usize::from(run.slot)..usize::from(run.slot) + usize::from(run.count);
    let units = units.get(slots).ok_or(rule.clone())?;
    if units.iter().zip(first_unit..).any(|((number, _), wanted)| *number != wanted) {
        return Err(rule.into());
    }
    let fingerprints: Vec<_> = units.iter().map(|(_, fingerprint)| *fingerprint).collect();
    Ok(spool.write(first_unit, &fingerprints).at("write", Path::new("the fingerprint spool"))?)
}
