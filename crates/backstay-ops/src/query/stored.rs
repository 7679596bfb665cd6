//! A snapshot's pages: leaves of its map as they are needed, kept for all moments that lead on from it.

use super::frames::{FrameAt, Frames, Holder};
use super::pages::{broken, fault};
use crate::OpsError;
use backstay_format::layout::FAN_OUT;
use backstay_format::tree::Leaf;
use backstay_model::UnitSize;
use backstay_sqlite::lazy::PageFault;
use backstay_store::repo::{SnapshotReader, unit_size};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Leaves of the map kept in memory. Each says where 512 units lie, in 24 KiB at the most.
const LEAVES_MAX: usize = 256;

pub(super) struct Stored {
    reader: Arc<SnapshotReader>,
    pub(super) unit: UnitSize,
    /// Bytes of the database.
    pub(super) length: u64,
    leaves: Mutex<Leaves>,
}

#[derive(Default)]
struct Leaves {
    held: HashMap<u64, (u64, Arc<Leaf>)>,
    tick: u64,
}

impl Leaves {
    fn get(&mut self, at: u64) -> Option<Arc<Leaf>> {
        self.tick += 1;
        let (used, leaf) = self.held.get_mut(&at)?;
        *used = self.tick;
        Some(leaf.clone())
    }

    fn keep(&mut self, at: u64, leaf: Arc<Leaf>) {
        if self.held.len() >= LEAVES_MAX
            && let Some(oldest) = self.held.iter().min_by_key(|(_, (used, _))| *used).map(|(at, _)| *at)
        {
            self.held.remove(&oldest);
        }
        self.tick += 1;
        self.held.insert(at, (self.tick, leaf));
    }
}

impl Stored {
    pub(super) fn of(reader: SnapshotReader) -> Result<Self, OpsError> {
        let stream = reader.stream(0)?;
        let (unit, length) = (unit_size(stream)?, stream.length.get());
        Ok(Self { reader: Arc::new(reader), unit, length, leaves: Mutex::default() })
    }

    pub(super) fn reader(&self) -> &Arc<SnapshotReader> {
        &self.reader
    }

    pub(super) fn holder(&self) -> Holder {
        Holder::Snapshot(self.reader.clone())
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaf(&self, frames: &Frames, unit: u64) -> Result<Arc<Leaf>, PageFault> {
        let at = unit / FAN_OUT as u64;
        if let Some(leaf) = self.leaves().get(at) {
            return Ok(leaf);
        }
        let reader = self.reader.clone();
        let found = frames.wait_for(async move { reader.leaf_of(0, unit).await })?;
        let leaf = Arc::new(found.map_err(|error| fault(&error))?.leaf);
        self.leaves().keep(at, leaf.clone());
        Ok(leaf)
    }

    /// Where the byte at an offset lies: its frame, and where in it.
    pub(super) fn place(&self, frames: &Frames, offset: u64) -> Result<(FrameAt, usize), PageFault> {
        let leaf = self.leaf(frames, offset / self.unit.bytes())?;
        self.within(&leaf, offset).ok_or_else(|| broken("the map has the unit"))
    }

    /// The same where it takes no waiting.
    pub(super) fn place_at_hand(&self, offset: u64) -> Option<(FrameAt, usize)> {
        let leaf = self.leaves().get(offset / self.unit.bytes() / FAN_OUT as u64)?;
        self.within(&leaf, offset)
    }

    fn within(&self, leaf: &Leaf, offset: u64) -> Option<(FrameAt, usize)> {
        let unit = offset / self.unit.bytes();
        let (run, slot) = leaf.find((unit % FAN_OUT as u64) as u16)?;
        let begin = usize::from(slot) * self.unit.get() as usize + (offset % self.unit.bytes()) as usize;
        Some((FrameAt { object: run.object, place: run.place }, begin))
    }
}
