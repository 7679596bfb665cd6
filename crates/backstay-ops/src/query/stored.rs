//! A snapshot's pages: leaves of its map as they are needed, kept for all moments that lead on from it; and what its
//! manifest says of the pages a search begins with.

use super::frames::{FrameAt, Frames, Holder};
use super::pages::{broken, fault};
use crate::OpsError;
use backstay_format::FramePlace;
use backstay_format::facts::{Opening, OpeningFrame, OpeningPage};
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
    /// Pages that stand in the manifest.
    stand: HashMap<u32, OpeningPage>,
    /// Where others lie, by the word of the manifest: a guess what to ask for, while the map says where they do.
    named: HashMap<u32, FrameAt>,
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
        let Opening { pages, frames } = reader.body().facts.opening.clone().unwrap_or_default();
        let stand = pages.into_iter().map(|page| (page.page, page)).collect();
        let rows = reader.manifest().table.refs();
        let named = frames.into_iter().filter_map(|OpeningFrame(page, row, frame, offset, stored, raw)| {
            let object = rows.get(row as usize)?.object;
            Some((page, FrameAt { object, place: FramePlace { frame, offset, stored, raw } }))
        });
        let named = named.collect();
        Ok(Self { reader: Arc::new(reader), unit, length, leaves: Mutex::default(), stand, named })
    }

    /// A page that stands in the manifest: sealed and signed as the map is, and no less to be believed.
    pub(super) fn standing(&self, page: u32) -> Option<&OpeningPage> {
        self.stand.get(&page)
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

    /// Where a page lies: its frame, and where in it. The frame is asked for beside the map, where its place is named.
    pub(super) fn place(&self, frames: &Frames, page: u32, offset: u64) -> Result<(FrameAt, usize), PageFault> {
        if self.place_at_hand(offset).is_none()
            && let Some(at) = self.named.get(&page)
        {
            frames.ahead(&self.holder(), vec![*at]);
        }
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
