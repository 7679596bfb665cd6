//! A page of a moment: from its number to the frame it lies in, and to its bytes.

use super::frames::{FrameAt, Frames};
use super::overlay::Overlay;
use crate::OpsError;
use backstay_format::facts::Stream;
use backstay_format::sqlite::DatabaseHeader;
use backstay_format::tree::Leaf;
use backstay_format::{Corrupt, layout::FAN_OUT};
use backstay_model::{ByteLen, Kind, Kinded, PageSize, UnitSize};
use backstay_sqlite::lazy::{PageFault, PageSource};
use backstay_store::repo::{SnapshotReader, unit_size};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Leaves of the map kept in memory. Each says where 512 units lie, in 24 KiB at the most.
const LEAVES_MAX: usize = 256;
/// Bytes asked for ahead at the most; no more than half of the cache.
const AHEAD_MAX: u64 = 8 << 20;

/// The sizes of a database at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    page: PageSize,
    unit: UnitSize,
    /// Of the snapshot; what lies behind it is in the log.
    stored: u64,
    pages: u32,
}

impl Shape {
    pub(super) fn of(first: &[u8], stream: &Stream, overlay: Option<&Overlay>) -> Result<Self, OpsError> {
        let broken = |rule| Corrupt::Rule { what: "the first page", rule };
        if first.is_empty() {
            // A file of nothing is a database without a table.
            let usual = PageSize::try_from(UnitSize::MIN).map_err(|_| broken("a unit is a page"))?;
            return Ok(Self { page: usual, unit: unit_size(stream)?, stored: 0, pages: 0 });
        }
        let stored = stream.length.get();
        let length = overlay.and_then(Overlay::length).unwrap_or(stored);
        let header = DatabaseHeader::parse(first, ByteLen::new(length));
        let page = header.map_err(|_| broken("it begins as a database does"))?.page_size;
        let pages = u32::try_from(length / page.bytes()).map_err(|_| broken("it has as many pages as there can be"))?;
        Ok(Self { page, unit: unit_size(stream)?, stored, pages })
    }

    pub(super) fn length(&self) -> ByteLen {
        ByteLen::new(u64::from(self.pages) * self.page.bytes())
    }
}

pub(super) struct Pages {
    reader: Arc<SnapshotReader>,
    shape: Shape,
    overlay: Option<Overlay>,
    frames: Arc<Frames>,
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

impl Pages {
    pub(super) fn new(reader: SnapshotReader, shape: Shape, overlay: Option<Overlay>, frames: Arc<Frames>) -> Self {
        Self { reader: Arc::new(reader), shape, overlay, frames, leaves: Mutex::default() }
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaf(&self, unit: u64) -> Result<Arc<Leaf>, PageFault> {
        let at = unit / FAN_OUT as u64;
        if let Some(leaf) = self.leaves().get(at) {
            return Ok(leaf);
        }
        let reader = self.reader.clone();
        let found = self.frames.wait_for(async move { reader.leaf_of(0, unit).await })?;
        let leaf = Arc::new(found.map_err(|error| fault(&error))?.leaf);
        self.leaves().keep(at, leaf.clone());
        Ok(leaf)
    }

    /// Where a unit lies: its frame, and where in it the unit begins.
    fn place(&self, unit: u64) -> Result<(FrameAt, usize), PageFault> {
        let leaf = self.leaf(unit)?;
        let within = (unit % FAN_OUT as u64) as u16;
        let (run, slot) = leaf.find(within).ok_or_else(|| broken("the map has the unit"))?;
        let at = FrameAt { object: run.object, place: run.place };
        Ok((at, usize::from(slot) * self.shape.unit.get() as usize))
    }

    fn offset(&self, page: u32) -> u64 {
        u64::from(page.saturating_sub(1)) * self.shape.page.bytes()
    }

    /// Copies out of a frame; every byte of a page lies in one unit, because a unit is no smaller.
    fn cut(&self, frame: &[u8], begin: usize, offset: u64, into: &mut [u8]) -> Result<(), PageFault> {
        let from = begin + (offset % self.shape.unit.bytes()) as usize;
        let bytes = frame.get(from..from + into.len()).ok_or_else(|| broken("a page lies inside its frame"))?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn is_laid_over(&self, page: u32) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.has(self.offset(page)))
    }
}

impl PageSource for Pages {
    fn page_size(&self) -> PageSize {
        self.shape.page
    }

    fn pages(&self) -> u32 {
        self.shape.pages
    }

    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), PageFault> {
        let offset = self.offset(page);
        if let Some(overlay) = &self.overlay {
            let local = |error: std::io::Error| PageFault { kind: Kind::of_io(&error), what: error.to_string() };
            if overlay.read(offset, into).map_err(local)? {
                return Ok(());
            }
        }
        if offset + into.len() as u64 > self.shape.stored {
            // Between what was stored and what the log wrote there is only the page SQLite never reads.
            into.fill(0);
            return Ok(());
        }
        let (at, begin) = self.place(offset / self.shape.unit.bytes())?;
        let frame = self.frames.frame(&self.reader, at)?;
        self.cut(&frame, begin, offset, into)
    }

    fn at_hand(&self, page: u32) -> Option<Vec<u8>> {
        let offset = self.offset(page);
        let mut bytes = vec![0; self.shape.page.get() as usize];
        if let Some(overlay) = &self.overlay
            && overlay.read(offset, &mut bytes).ok()?
        {
            return Some(bytes);
        }
        let unit = offset / self.shape.unit.bytes();
        let leaf = self.leaves().get(unit / FAN_OUT as u64)?;
        let (run, slot) = leaf.find((unit % FAN_OUT as u64) as u16)?;
        let frame = self.frames.at_hand(&FrameAt { object: run.object, place: run.place })?;
        self.cut(&frame, usize::from(slot) * self.shape.unit.get() as usize, offset, &mut bytes).ok()?;
        Some(bytes)
    }

    fn ahead(&self, pages: &[u32]) {
        let mut wanted: Vec<FrameAt> = Vec::new();
        for page in pages {
            let offset = self.offset(*page);
            let is_stored = (1..=self.shape.pages).contains(page) && offset < self.shape.stored;
            if !is_stored || self.is_laid_over(*page) {
                continue;
            }
            // What cannot be found is said when the page itself is read.
            let Ok((at, _)) = self.place(offset / self.shape.unit.bytes()) else { break };
            if wanted.last() != Some(&at) {
                wanted.push(at);
            }
        }
        self.frames.ahead(&self.reader, wanted);
    }

    fn ahead_max(&self) -> usize {
        (AHEAD_MAX.min(self.frames.limit() / 2) / self.shape.page.bytes()) as usize
    }
}

fn broken(rule: &'static str) -> PageFault {
    let what = Corrupt::Rule { what: "a map entry", rule };
    PageFault { kind: Kind::Corrupt, what: what.to_string() }
}

/// An error of the repository, with its causes in one line.
pub(super) fn fault(error: &(impl std::error::Error + Kinded)) -> PageFault {
    PageFault { kind: error.kind(), what: crate::prove::with_causes(error) }
}
