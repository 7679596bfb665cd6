//! From changed units to packs in the store: frames are filled, compressed, sealed and put.
//!
//! Frames enter packs in the order they are given; a pack is closed by the raw bytes it was given, so
//! that it can never pass the size a pack may have; two or three puts are in flight. Nothing here is
//! visible to anyone until a manifest refers to it.

use crate::OpsError;
use backstay_format::directory::{self, Holding};
use backstay_format::layout::{self, FRAME_TARGET};
use backstay_format::table::Reference;
use backstay_format::{Fingerprint, FramePlace, ObjectType};
use backstay_model::{ObjectId, Random, SourceName};
use backstay_store::keys;
use backstay_store::repo::Repository;
use backstay_store::seal::{Compressor, NewObject, SealedBuilder, SealedObject, Sealer};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Raw bytes after which a pack is closed. Below the limit by more than compression can add.
const PACK_RAW: usize = 24 << 20;
const _: () = assert!(PACK_RAW + FRAME_TARGET + (PACK_RAW >> 4) < layout::PACK_MAX);

/// Units that were placed: consecutive ones in consecutive slots of one frame.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    pub first: u64,
    pub count: u16,
    pub object: ObjectId,
    pub slot: u16,
    pub place: FramePlace,
}

/// What the packer needs of its surroundings.
pub struct PackerParts<'a> {
    pub repo: &'a Repository,
    pub source: &'a SourceName,
    pub sealer: &'a Sealer,
    pub random: &'a dyn Random,
    pub in_flight: usize,
}

pub struct Packer<'a> {
    parts: PackerParts<'a>,
    stream: u16,
    compressor: Compressor,
    frame: Vec<u8>,
    frame_units: Vec<(u64, Fingerprint)>,
    open: Option<OpenPack>,
    uploads: Uploads,
    packed: Packed,
}

/// What came of it: where units lie, and the packs that were made.
#[derive(Default)]
pub struct Packed {
    pub placed: Vec<Placed>,
    /// `wrap`, live units and live nodes are filled in when the table is built.
    pub packs: Vec<Reference>,
    /// The keys of this run's packs, for the look back at what was stored.
    pub stored_bytes: u64,
}

struct OpenPack {
    builder: SealedBuilder,
    directory: Vec<Holding>,
    raw: usize,
    units: u32,
}

impl<'a> Packer<'a> {
    pub fn new(parts: PackerParts<'a>, handle: Handle) -> Self {
        let uploads = Uploads { handle, most: parts.in_flight.max(1), tasks: JoinSet::new() };
        Self {
            parts,
            stream: 0,
            compressor: Compressor::new(),
            frame: Vec::new(),
            frame_units: Vec::new(),
            open: None,
            uploads,
            packed: Packed::default(),
        }
    }

    /// Units given from now on belong to this stream.
    pub fn begin_stream(&mut self, stream: u16) -> Result<(), OpsError> {
        self.flush_units()?;
        self.stream = stream;
        Ok(())
    }

    /// Takes the units placed since the last call.
    pub fn take_placed(&mut self) -> Result<Vec<Placed>, OpsError> {
        self.flush_units()?;
        Ok(std::mem::take(&mut self.packed.placed))
    }

    /// Adds one unit to the frame being filled. Slots are counted in whole units, so a frame's units
    /// are of one length, but for a short one that ends it.
    pub fn unit(&mut self, number: u64, fingerprint: Fingerprint, bytes: &[u8]) -> Result<(), OpsError> {
        let first = self.frame.len().checked_div(self.frame_units.len()).unwrap_or(bytes.len());
        if bytes.len() > first || self.frame.len() + bytes.len() > FRAME_TARGET {
            self.flush_units()?;
        }
        self.frame.extend_from_slice(bytes);
        self.frame_units.push((number, fingerprint));
        if bytes.len() < first { self.flush_units() } else { Ok(()) }
    }

    /// Adds a frame of consecutive units that a worker has compressed already.
    pub fn whole_frame(
        &mut self,
        units: Vec<(u64, Fingerprint)>,
        raw: usize,
        compressed: Vec<u8>,
    ) -> Result<(), OpsError> {
        self.flush_units()?;
        self.place_units(units, raw, compressed)
    }

    fn flush_units(&mut self) -> Result<(), OpsError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let units = std::mem::take(&mut self.frame_units);
        let compressed = self.compressor.compress(&self.frame);
        let raw = self.frame.len();
        self.frame.clear();
        self.place_units(units, raw, compressed)
    }

    fn place_units(&mut self, units: Vec<(u64, Fingerprint)>, raw: usize, compressed: Vec<u8>) -> Result<(), OpsError> {
        let pack = self.room_for(raw)?;
        let place = pack.builder.push(compressed, raw);
        let object = pack.builder.id();
        pack.raw += raw;
        pack.units += units.len() as u32;
        for (slot, (number, _)) in units.iter().enumerate() {
            place_one(&mut self.packed.placed, Placed { first: *number, count: 1, object, slot: slot as u16, place });
        }
        let stream = self.stream;
        let pack = self.open.as_mut().expect("a frame was pushed into it above");
        pack.directory.push(Holding::Units { stream, units });
        Ok(())
    }

    /// Seals one frame of map nodes and says where it lies.
    pub fn nodes(&mut self, raw: &[u8]) -> Result<(ObjectId, FramePlace), OpsError> {
        self.flush_units()?;
        let compressed = self.compressor.compress(raw);
        let pack = self.room_for(raw.len())?;
        let place = pack.builder.push(compressed, raw.len());
        pack.raw += raw.len();
        pack.directory.push(Holding::Nodes);
        Ok((pack.builder.id(), place))
    }

    fn room_for(&mut self, raw: usize) -> Result<&mut OpenPack, OpsError> {
        if self.open.as_ref().is_some_and(|pack| pack.raw + raw > PACK_RAW) {
            self.close_pack()?;
        }
        let parts = &self.parts;
        Ok(self.open.get_or_insert_with(|| {
            let id = parts.repo.fresh_id(parts.random);
            let new = NewObject { kind: ObjectType::Pack, id, facts: &[], table: &[], signed: None };
            let builder = parts.sealer.begin(new, parts.random);
            OpenPack { builder, directory: Vec::new(), raw: 0, units: 0 }
        }))
    }

    fn close_pack(&mut self) -> Result<(), OpsError> {
        let Some(pack) = self.open.take() else { return Ok(()) };
        let directory = directory::encode(&pack.directory);
        let object = pack.builder.finish(&directory, |_| unreachable!("packs are not signed"));
        self.packed.packs.push(Reference {
            object: object.id,
            kind: ObjectType::Pack,
            stored: object.bytes.len() as u64,
            digest: object.digest,
            salt: object.salt,
            wrap: 0,
            live_units: 0,
            total_units: pack.units,
            live_nodes: 0,
        });
        self.packed.stored_bytes += object.bytes.len() as u64;
        self.uploads.put(self.parts.repo, self.parts.source, object)
    }

    /// Closes the last pack and waits until everything is durable.
    pub fn finish(mut self) -> Result<Packed, OpsError> {
        self.flush_units()?;
        self.close_pack()?;
        self.uploads.wait(0)?;
        Ok(std::mem::take(&mut self.packed))
    }
}

/// Joins a unit to the run before it when it continues that.
fn place_one(placed: &mut Vec<Placed>, next: Placed) {
    match placed.last_mut() {
        Some(last)
            if last.object == next.object
                && last.place == next.place
                && last.first + u64::from(last.count) == next.first
                && last.slot + last.count == next.slot =>
        {
            last.count += 1;
        }
        _ => placed.push(next),
    }
}

/// Puts in flight. Dropping it aborts them: nobody refers to what they would have made.
struct Uploads {
    handle: Handle,
    most: usize,
    tasks: JoinSet<Result<(), OpsError>>,
}

impl Uploads {
    fn put(&mut self, repo: &Repository, source: &SourceName, object: SealedObject) -> Result<(), OpsError> {
        self.wait(self.most - 1)?;
        let (repo, key) = (repo.clone(), keys::pack(source, &object.id));
        self.tasks.spawn_on(async move { Ok(repo.put_fresh(&key, object.bytes).await?) }, &self.handle);
        Ok(())
    }

    /// Waits until no more than `left` are in flight.
    fn wait(&mut self, left: usize) -> Result<(), OpsError> {
        while self.tasks.len() > left {
            let Some(done) = self.handle.block_on(self.tasks.join_next()) else { break };
            done.map_err(|_| OpsError::Cancelled)??;
        }
        Ok(())
    }
}
