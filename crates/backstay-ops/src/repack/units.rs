//! The live units of packs that are left, in new packs that were read back.

use super::Run;
use super::uses::PackUse;
use crate::catalog::Vault;
use crate::check::Problem;
use crate::env::blocking;
use crate::packer::{Packer, PackerParts, Placed};
use crate::rewrite::is_of_the_snapshot;
use crate::{Event, OpsError, verified};
use backstay_format::directory::Holding;
use backstay_format::object::Object;
use backstay_format::table::Reference;
use backstay_format::{Fingerprint, FingerprintKey, FramePlace};
use backstay_model::ObjectId;
use backstay_store::keys;
use backstay_store::repo::{RepoError, SnapshotReader, unit_size};
use backstay_store::seal::Sealer;
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio::runtime::Handle;

/// Puts in flight.
const IN_FLIGHT: usize = 2;

/// Where a unit is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub object: ObjectId,
    pub slot: u16,
    pub place: FramePlace,
}

/// What was stored again, and where it lies.
#[derive(Default)]
pub(super) struct Moved {
    /// The packs whose live units all lie elsewhere now.
    pub from: HashSet<ObjectId>,
    pub packs: HashMap<ObjectId, Reference>,
    /// By the pack and the frame a unit was in, in the order of slots.
    places: HashMap<(ObjectId, u32), Vec<(u16, Place)>>,
}

impl Moved {
    /// The new place of a unit of a pack that is left.
    pub fn of(&self, object: &ObjectId, frame: u32, slot: u16) -> Option<Place> {
        let places = self.places.get(&(*object, frame))?;
        let at = places.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        places.get(at).map(|(_, place)| *place)
    }
}

/// Units of one pack share a directory, so they must have one fingerprint key and one size for each stream.
type Alike = ([u8; 32], Vec<u32>);

/// A pack being filled, and what was put into it.
struct Filling<'a> {
    alike: Alike,
    packer: Packer<'a>,
    stream: Option<u16>,
    /// From where each unit came, in the order they were given.
    given: Vec<(ObjectId, u32, u16)>,
}

/// Packs that are durable, and where in them each unit lies that was given.
struct Filled {
    placed: Vec<Placed>,
    given: Vec<(ObjectId, u32, u16)>,
    packs: Vec<Reference>,
}

/// A unit that was read, and compared with its fingerprint.
struct Unit {
    stream: u16,
    number: u64,
    fingerprint: Fingerprint,
    frame: u32,
    slot: u16,
    bytes: Vec<u8>,
}

/// Stores the live units of these packs again. A pack that is not what was signed is a problem, and stays.
pub(super) async fn store_again(
    run: &mut Run<'_, '_>,
    sealer: &Sealer,
    leaving: &BTreeSet<ObjectId>,
) -> Result<Moved, OpsError> {
    let (vault, uses) = (run.vault, run.uses);
    let parts = || PackerParts {
        repo: &vault.repo,
        source: run.source,
        sealer,
        random: vault.env.random.as_ref(),
        in_flight: IN_FLIGHT,
    };
    let mut order: Vec<(ObjectId, &PackUse)> =
        leaving.iter().filter_map(|id| Some((*id, uses.packs.get(id)?))).collect();
    order.sort_by_key(|(id, pack)| (pack.newest, *id));
    let mut moved = Moved::default();
    let (mut filling, mut reader): (Option<Filling<'_>>, Option<(usize, SnapshotReader)>) = (None, None);
    for (id, pack) in order {
        run.turn.check().await?;
        vault.env.cancel.check()?;
        if reader.as_ref().is_none_or(|(of, _)| *of != pack.newest) {
            reader = Some((pack.newest, open(run, pack.newest).await?));
        }
        let Some((_, reader)) = &reader else { continue };
        let units = match read(vault, reader, (&id, pack)).await {
            Ok(units) => units,
            Err(error) if is_of_the_snapshot(&error) => {
                let object = keys::pack(run.source, &id).to_string();
                run.row.problems.push(Problem::of(object, &error, Vec::new()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let alike = alike(reader);
        if let Some(full) = filling.take_if(|filling| filling.alike != alike) {
            moved.absorb(blocking(|| full.finish())?);
        }
        let filling = filling.get_or_insert_with(|| Filling::new(alike, parts()));
        blocking(|| units.into_iter().try_for_each(|unit| filling.give(id, &unit)))?;
        moved.from.insert(id);
        vault.env.tell(Event::Advanced { bytes: pack.used().stored });
    }
    if let Some(last) = filling {
        moved.absorb(blocking(|| last.finish())?);
    }
    let packs: Vec<Reference> = moved.packs.values().cloned().collect();
    run.read_back(&packs).await?;
    Ok(moved)
}

async fn open(run: &Run<'_, '_>, at: usize) -> Result<SnapshotReader, OpsError> {
    let (name, _) = run.uses.snapshots.get(at).expect("a pack names a snapshot that was gathered");
    let manifest = run.vault.repo.manifest(name).await?;
    Ok(SnapshotReader::open(run.vault.repo.clone(), manifest, run.vault.unsealer()?)?)
}

fn alike(reader: &SnapshotReader) -> Alike {
    let facts = &reader.body().facts;
    let units = facts.streams.iter().map(|stream| stream.unit).collect();
    (*facts.fingerprint.key.as_bytes(), units)
}

/// The live units of one pack, which is compared whole with what was signed, and each unit with its fingerprint.
async fn read(
    vault: &Vault,
    reader: &SnapshotReader,
    (id, pack): (&ObjectId, &PackUse),
) -> Result<Vec<Unit>, RepoError> {
    let key = reader.object_key(id)?;
    let reference = reader.manifest().table.find(id).ok_or(RepoError::Unlisted { object: *id })?;
    let bytes = verified::object(vault.repo.store().as_ref(), &key, reference).await?;
    let units = blocking(|| open_live(reader, (id, pack), &bytes))?;
    if units.len() as u64 != pack.live_units() {
        return Err(RepoError::misplaced(&key, "it does not hold the units that maps find there"));
    }
    Ok(units)
}

fn open_live(reader: &SnapshotReader, (id, pack): (&ObjectId, &PackUse), bytes: &[u8]) -> Result<Vec<Unit>, RepoError> {
    let key = reader.object_key(id)?;
    let damaged = |e| RepoError::damaged(&key, e);
    let object = Object::parse(bytes).map_err(damaged)?;
    let facts = &reader.body().facts.fingerprint;
    let hasher = FingerprintKey::new(facts.id, *facts.key.as_bytes()).units();
    let mut live = Vec::new();
    for (place, holding) in &reader.open_directory(id, &object)? {
        let (Holding::Units { stream, units }, Some(slots)) = (holding, pack.live.get(&place.frame)) else { continue };
        let size = unit_size(reader.stream(usize::from(*stream))?)?.get() as usize;
        let raw = reader.open_frame(id, place, object.frame(place).map_err(damaged)?)?;
        for ((slot, bytes), (number, fingerprint)) in (0u16..).zip(raw.chunks(size)).zip(units) {
            if !slots.contains(slot) {
                continue;
            }
            if hasher.fingerprint(bytes) != *fingerprint {
                return Err(RepoError::misplaced(&key, "its units are not those its fingerprints were made of"));
            }
            let (stream, number, fingerprint) = (*stream, *number, *fingerprint);
            live.push(Unit { stream, number, fingerprint, frame: place.frame, slot, bytes: bytes.to_vec() });
        }
    }
    Ok(live)
}

impl<'a> Filling<'a> {
    fn new(alike: Alike, parts: PackerParts<'a>) -> Self {
        Self { alike, packer: Packer::new(parts, Handle::current()), stream: None, given: Vec::new() }
    }

    fn give(&mut self, from: ObjectId, unit: &Unit) -> Result<(), OpsError> {
        if self.stream != Some(unit.stream) {
            self.packer.begin_stream(unit.stream)?;
            self.stream = Some(unit.stream);
        }
        self.given.push((from, unit.frame, unit.slot));
        self.packer.unit(unit.number, unit.fingerprint, &unit.bytes)
    }

    fn finish(mut self) -> Result<Filled, OpsError> {
        let placed = self.packer.take_placed()?;
        Ok(Filled { placed, given: self.given, packs: self.packer.finish()?.packs })
    }
}

impl Moved {
    /// Units were placed in the order they were given.
    fn absorb(&mut self, filled: Filled) {
        let slots = |run: Placed| (0..run.count).map(move |k| (run.object, run.slot + k, run.place));
        let places = filled.placed.into_iter().flat_map(slots);
        for ((from, frame, old), (object, slot, place)) in filled.given.into_iter().zip(places) {
            self.places.entry((from, frame)).or_default().push((old, Place { object, slot, place }));
        }
        self.packs.extend(filled.packs.into_iter().map(|pack| (pack.object, pack)));
    }
}
