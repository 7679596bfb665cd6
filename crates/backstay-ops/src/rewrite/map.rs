//! The map of a rewritten snapshot: the same units in the same order, each where its pack was sealed again.

use super::Run;
use crate::base::MapParts;
use crate::env::blocking;
use crate::map::{self, Live, MapInput};
use crate::packer::{Packer, PackerParts, Placed};
use crate::{OpsError, rebuild};
use backstay_format::table::{Reference, Table};
use backstay_format::tree::{Leaf, Run as UnitRun};
use backstay_format::{Corrupt, layout::FAN_OUT};
use backstay_model::ObjectId;
use backstay_store::repo::{Manifest, RepoError, Root, SnapshotReader, Step};
use backstay_store::seal::Sealer;
use std::collections::{HashMap, HashSet};
use tokio::runtime::Handle;

/// A snapshot that is sealed to the present master: its map, and the objects it may lead to.
pub(super) struct Before {
    pub parts: MapParts,
    pub table: Table,
}

impl Before {
    /// Of one with a single stream; any other is compared with nothing.
    pub async fn of(reader: &SnapshotReader) -> Result<Option<Self>, OpsError> {
        let [_] = reader.body().facts.streams.as_slice() else { return Ok(None) };
        let parts = rebuild::map_parts(reader, 0).await?;
        Ok(Some(Self { parts, table: reader.manifest().table.clone() }))
    }
}

/// The maps of a rewritten snapshot, everything they lead to durable.
pub(super) struct Built {
    pub roots: Vec<Root>,
    /// Of its first stream.
    pub parts: MapParts,
    live: HashMap<ObjectId, Live>,
    /// The packs its new nodes lie in.
    nodes: Vec<Reference>,
}

pub(super) async fn build(run: &Run<'_>, reader: &SnapshotReader, sealer: &Sealer) -> Result<Built, OpsError> {
    let vault = run.vault;
    let parts = PackerParts {
        repo: &vault.repo,
        source: run.source,
        sealer,
        random: vault.env.random.as_ref(),
        in_flight: super::AT_ONCE,
    };
    let mut packer = Packer::new(parts, Handle::current());
    let streams = reader.body().facts.streams.len();
    let mut built = Built { roots: Vec::new(), parts: MapParts::default(), live: HashMap::new(), nodes: Vec::new() };
    for stream in 0..streams {
        let before = run.before.as_ref().filter(|_| streams == 1).map(|before| &before.parts);
        let (placed, units) = placed(run, reader, (stream, before)).await?;
        let leaving = HashSet::new();
        let new = blocking(|| {
            packer.begin_stream(stream as u16)?;
            map::build(MapInput { base: before, units, placed, leaving: &leaving, known: None }, &mut packer)
        })?;
        for (object, live) in new.live {
            let sum = built.live.entry(object).or_default();
            sum.units += live.units;
            sum.nodes += live.nodes;
        }
        built.roots.push(new.root);
        if streams == 1 {
            built.parts = new.parts;
        }
    }
    built.nodes = blocking(|| packer.finish())?.packs;
    Ok(built)
}

/// Where each unit of a stream lies now, leaf by leaf; leaves that are those of the snapshot before are left out.
async fn placed(
    run: &Run<'_>,
    reader: &SnapshotReader,
    (stream, before): (usize, Option<&MapParts>),
) -> Result<(Vec<Placed>, u64), OpsError> {
    let mut placed = Vec::new();
    let damaged = |e: Corrupt| RepoError::damaged(&reader.manifest().key(), e);
    let (_, units) = reader.stream(stream)?.shape().map_err(damaged)?;
    reader
        .walk(stream, |step| {
            let Step::Leaf(at) = step else { return Ok(()) };
            let runs = at.leaf.runs().iter().map(|old| moved(run, old)).collect::<Result<Vec<UnitRun>, Corrupt>>();
            let runs = runs.map_err(damaged)?;
            let leaf = Leaf::new(runs).map_err(damaged)?;
            let known = before.and_then(|before| before.leaves.get((at.first_unit / FAN_OUT as u64) as usize));
            if known != Some(&leaf.encode()) {
                placed.extend(leaf.runs().iter().map(|new| Placed {
                    first: at.first_unit + u64::from(new.first),
                    count: new.count,
                    object: new.object,
                    slot: new.slot,
                    place: new.place,
                }));
            }
            Ok(())
        })
        .await?;
    Ok((placed, units))
}

/// The place of units in the pack that was sealed again, if theirs was.
fn moved(run: &Run<'_>, old: &UnitRun) -> Result<UnitRun, Corrupt> {
    let Some(pack) = run.made.get(&old.object) else { return Ok(*old) };
    let rule = Corrupt::Rule { what: "a map entry", rule: "its frame lies inside its object" };
    let offset = i64::from(old.place.offset).checked_add(pack.moved).and_then(|offset| u32::try_from(offset).ok());
    let mut new = *old;
    new.object = pack.reference.object;
    new.place.offset = offset.ok_or(rule)?;
    Ok(new)
}

impl Built {
    /// What the new manifest refers to, and nothing that a master of before opens.
    pub fn table(&self, run: &Run<'_>, old: &Manifest, sealer: &Sealer) -> Result<Table, OpsError> {
        let fresh: HashMap<ObjectId, &Reference> = self.nodes.iter().map(|r| (r.object, r)).collect();
        let made: HashMap<ObjectId, _> = run.made.packs().map(|pack| (pack.reference.object, pack)).collect();
        let tables = || run.before.iter().map(|before| &before.table).chain([&old.table]);
        map::table(&self.live, |object| {
            let known = || tables().find_map(|table| Some((table.find(object)?, table.wrap(table.find(object)?)?)));
            match (fresh.get(object), made.get(object)) {
                (Some(fresh), _) => Some((*fresh, sealer.wrap())),
                (_, Some(made)) => Some((&made.reference, made.wrap.as_ref())),
                (None, None) => known(),
            }
        })
    }
}
