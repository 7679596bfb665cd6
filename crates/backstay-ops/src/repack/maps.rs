//! Later generations of the manifests that refer to packs which are left.

use super::Run;
use super::units::{Moved, Place};
use crate::OpsError;
use crate::base::MapParts;
use crate::catalog::Vault;
use crate::env::blocking;
use crate::map::{self, KnownNodes, Live, MapInput, NewMap};
use crate::packer::{Packer, PackerParts, Placed};
use crate::rebuild;
use crate::rewrite::is_of_the_snapshot;
use backstay_format::FramePlace;
use backstay_format::layout::FAN_OUT;
use backstay_format::table::{Reference, Table};
use backstay_format::tree::Leaf;
use backstay_model::{ObjectId, SourceName};
use backstay_store::Key;
use backstay_store::keys::SnapshotName;
use backstay_store::repo::{Manifest, RepoError, Rewrite, SealedBody, SnapshotReader};
use backstay_store::seal::Sealer;
use bytes::Bytes;
use std::collections::HashMap;
use tokio::runtime::Handle;

/// Puts of nodes in flight.
const IN_FLIGHT: usize = 2;

/// What the snapshot before was made of: equal nodes are referred to where they lie.
struct Before {
    nodes: KnownNodes,
    table: Table,
}

/// The maps of one snapshot as they were and as they are to be, every node durable.
struct Built {
    old: Vec<MapParts>,
    new: Vec<NewMap>,
    nodes: Vec<Reference>,
}

/// Every snapshot that refers to what was moved, the newest first. One that cannot be read stays as it is.
pub(super) async fn rewrite(run: &mut Run<'_, '_>, (sealer, moved): (&Sealer, &Moved)) -> Result<(), OpsError> {
    let mut before = None;
    for (name, refs) in &run.uses.snapshots {
        if !refs.iter().any(|pack| moved.from.contains(pack)) {
            continue;
        }
        run.check().await?;
        match one(run, name, (sealer, moved, before.as_ref())).await {
            Ok(made) => before = Some(made),
            Err(OpsError::Repo(error)) if is_of_the_snapshot(&error) => {
                run.problem(format!("snapshot {}", name.id), &error, name.id);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn one(
    run: &mut Run<'_, '_>,
    name: &SnapshotName,
    (sealer, moved, before): (&Sealer, &Moved, Option<&Before>),
) -> Result<Before, OpsError> {
    let vault = run.vault;
    let manifest = vault.repo.manifest(name).await?;
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let built = build((vault, run.source), &reader, (sealer, moved, before)).await?;
    run.read_back(&built.nodes).await?;
    let table = table(&reader, &built, (sealer, moved, before))?;
    let body = SealedBody {
        facts: reader.body().facts.elsewhere(),
        roots: built.new.iter().map(|map| map.root.clone()).collect(),
    };
    let generation = vault.repo.next_generation(run.source).await?;
    let signer = vault.signer(backstay_format::facts::Role::Keeper)?;
    let rewrite = Rewrite { of: reader.manifest(), generation, table: table.clone(), body, signer };
    let (name, bytes) = rewrite.seal(sealer, vault.env.random.as_ref())?;
    verify(vault, (&name, &bytes), (&built.old, moved)).await?;
    run.check().await?;
    commit(vault, &name, bytes).await?;
    run.row.rewritten += 1;
    let maps: Vec<MapParts> = built.new.into_iter().map(|map| map.parts).collect();
    Ok(Before { nodes: KnownNodes::of(&maps), table })
}

async fn build(
    (vault, source): (&Vault, &SourceName),
    reader: &SnapshotReader,
    (sealer, moved, before): (&Sealer, &Moved, Option<&Before>),
) -> Result<Built, OpsError> {
    let random = vault.env.random.as_ref();
    let parts = PackerParts { repo: &vault.repo, source, sealer, random, in_flight: IN_FLIGHT };
    let mut packer = Packer::new(parts, Handle::current());
    let mut built = Built { old: Vec::new(), new: Vec::new(), nodes: Vec::new() };
    for stream in 0..reader.body().facts.streams.len() {
        let old = rebuild::map_parts(reader, stream).await?;
        let (_, units) = reader.stream(stream)?.shape()?;
        let known = before.map(|before| &before.nodes);
        let new = blocking(|| {
            packer.begin_stream(stream as u16)?;
            let placed = placed(&reader.manifest().key(), &old, moved)?;
            map::build(MapInput { base: Some(&old), units, placed, leaving: &moved.from, known }, &mut packer)
        })?;
        built.old.push(old);
        built.new.push(new);
    }
    built.nodes = blocking(|| packer.finish())?.packs;
    Ok(built)
}

/// The units of a map that lie elsewhere now.
fn placed(key: &Key, old: &MapParts, moved: &Moved) -> Result<Vec<Placed>, OpsError> {
    let not_moved = || RepoError::misplaced(key, "a unit it maps was not among those that were moved");
    let mut placed = Vec::new();
    for (at, bytes) in old.leaves.iter().enumerate() {
        for run in Leaf::parse(bytes)?.runs().iter().filter(|run| moved.from.contains(&run.object)) {
            for k in 0..run.count {
                let place = moved.of(&run.object, run.place.frame, run.slot + k).ok_or_else(&not_moved)?;
                let first = (at * FAN_OUT) as u64 + u64::from(run.first + k);
                placed.push(Placed { first, count: 1, object: place.object, slot: place.slot, place: place.place });
            }
        }
    }
    Ok(placed)
}

/// What the new manifest refers to.
fn table(
    reader: &SnapshotReader,
    built: &Built,
    (sealer, moved, before): (&Sealer, &Moved, Option<&Before>),
) -> Result<Table, OpsError> {
    let mut live: HashMap<ObjectId, Live> = HashMap::new();
    for (object, of_one) in built.new.iter().flat_map(|map| &map.live) {
        let sum = live.entry(*object).or_default();
        sum.units += of_one.units;
        sum.nodes += of_one.nodes;
    }
    let nodes: HashMap<ObjectId, &Reference> = built.nodes.iter().map(|pack| (pack.object, pack)).collect();
    let old = &reader.manifest().table;
    map::table(&live, |object| {
        let fresh = nodes.get(object).copied().or_else(|| moved.packs.get(object));
        let known = || {
            let tables = before.map(|before| &before.table).into_iter().chain([old]);
            tables.filter_map(|table| Some((table.find(object)?, table.wrap(table.find(object)?)?))).next()
        };
        fresh.map(|fresh| (fresh, sealer.wrap())).or_else(known)
    })
}

/// Reads the new maps as they are in the store: each unit must lie where it lay, or where it was moved to.
async fn verify(
    vault: &Vault,
    (name, bytes): (&SnapshotName, &Bytes),
    (old, moved): (&[MapParts], &Moved),
) -> Result<(), OpsError> {
    let manifest = vault.repo.parse_manifest(name, bytes.clone())?;
    let wrong = RepoError::misplaced(&name.key(), "its maps do not lead to the units of the manifest before it");
    let left = |manifest: &Manifest| manifest.table.refs().iter().any(|pack| moved.from.contains(&pack.object));
    if left(&manifest) {
        return Err(wrong.into());
    }
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    for (stream, old) in old.iter().enumerate() {
        let new = rebuild::map_parts(&reader, stream).await?;
        if new.leaves.len() != old.leaves.len() {
            return Err(wrong.into());
        }
        for (old, new) in old.leaves.iter().zip(&new.leaves) {
            let (old, new) = (places(&Leaf::parse(old)?), places(&Leaf::parse(new)?));
            let expected = old.into_iter().map(|place| {
                if moved.from.contains(&place.object) {
                    moved.of(&place.object, place.place.frame, place.slot)
                } else {
                    Some(place)
                }
            });
            if !expected.eq(new.into_iter().map(Some)) {
                return Err(wrong.into());
            }
        }
    }
    Ok(())
}

/// Where each unit of a leaf lies.
fn places(leaf: &Leaf) -> Vec<Place> {
    let one = |object: ObjectId, slot: u16, place: FramePlace| Place { object, slot, place };
    leaf.runs().iter().flat_map(|run| (0..run.count).map(move |k| one(run.object, run.slot + k, run.place))).collect()
}

/// The later generation: the one put that changes anything. It is read back too.
async fn commit(vault: &Vault, name: &SnapshotName, bytes: Bytes) -> Result<(), OpsError> {
    if vault.repo.is_outdated().await? {
        return Err(OpsError::KeysChanged);
    }
    vault.repo.put_generation(name, bytes.clone()).await?;
    if *vault.repo.manifest(name).await?.bytes() != bytes {
        return Err(RepoError::misplaced(&name.key(), "it was put a moment ago and is not what was put").into());
    }
    Ok(())
}
