//! The pages of a database from its snapshots, for those the live file no longer has whole.
//!
//! Owns the way from a page to a frame of the newest snapshot that can give it. A snapshot that is
//! damaged itself gives what it can: a frame that does not open is asked of the next one. Pages of
//! different times do not make a consistent file, and nobody calls it one: it is only walked for rows.

use crate::OpsError;
use crate::catalog::Vault;
use backstay_format::FramePlace;
use backstay_format::sqlite::guess::{self, Likeness};
use backstay_format::sqlite::walk::PageSource;
use backstay_model::catalog::{MarkKind, Quality};
use backstay_model::{ByteLen, Moment, ObjectId, SourceName, UnitSize};
use backstay_sqlite::rescue::FilePages;
use backstay_store::repo::{LeafAt, SnapshotReader, unit_size};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// Snapshots that are opened: older ones help no more than these.
const LAYERS_MAX: usize = 64;

/// Pages that came from one snapshot, from the first to the last of them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FromSnapshot {
    pub first: u32,
    pub last: u32,
    pub snapshot: ObjectId,
    pub taken: Moment,
}

/// The live file, if there is one, and behind it the snapshots, newest first.
pub struct Mixed {
    live: Option<FilePages>,
    layers: Vec<Layer>,
    pub likeness: Likeness,
    pages: u32,
}

impl Mixed {
    pub async fn open(vault: &Vault, source: &SourceName, live: Option<FilePages>) -> Result<Self, OpsError> {
        let mut layers = layers(vault, source).await?;
        let of_live = live.as_ref().map(|live| live.likeness);
        let of_layers = || crate::env::blocking(|| layers.iter().find_map(|layer| layer.likeness()));
        let likeness = match of_live.filter(|likeness| !likeness.is_guessed) {
            Some(likeness) => Some(likeness),
            None => of_layers().or(of_live).or_else(|| layers.iter().find_map(Layer::guess)),
        };
        let nothing = || OpsError::Unsound { problem: "neither the file nor any snapshot has a readable page".into() };
        let likeness = likeness.ok_or_else(nothing)?;
        let size = likeness.shape.size;
        layers.retain(|layer| layer.likeness().is_some_and(|found| found.shape.size == size) || layer.first_is_lost());
        let newest = layers.first().map_or(0, |layer| layer.length.get().div_ceil(size.bytes()));
        let pages = u32::try_from(newest).unwrap_or(u32::MAX - 1).max(live.as_ref().map_or(0, PageSource::pages));
        // A live file whose pages are taken to be of another length says nothing about these.
        let live = live.filter(|live| live.likeness.shape.size == size);
        Ok(Self { live, layers, likeness, pages })
    }

    pub fn live(&self) -> Option<&FilePages> {
        self.live.as_ref()
    }

    pub fn len(&self) -> ByteLen {
        ByteLen::new(u64::from(self.pages) * self.likeness.shape.size.bytes())
    }

    /// Which snapshots the replaced pages are from, neighbours together.
    pub fn origins(&self, replaced: &[(u32, usize)]) -> Vec<FromSnapshot> {
        let mut origins: Vec<FromSnapshot> = Vec::new();
        for (page, version) in replaced {
            let Some(layer) = self.layers.get(*version) else { continue };
            match origins.last_mut().filter(|last| last.snapshot == layer.id && last.last + 1 == *page) {
                Some(last) => last.last = *page,
                None => {
                    origins.push(FromSnapshot { first: *page, last: *page, snapshot: layer.id, taken: layer.taken });
                }
            }
        }
        origins
    }
}

impl PageSource for Mixed {
    fn pages(&self) -> u32 {
        self.pages
    }

    fn read(&self, page: u32, out: &mut [u8]) -> bool {
        self.live.as_ref().is_some_and(|live| page <= live.pages() && live.read(page, out))
    }

    fn instead(&self, page: u32, version: usize, out: &mut [u8]) -> bool {
        let Some(layer) = self.layers.get(version) else { return false };
        let offset = u64::from(page.saturating_sub(1)) * self.likeness.shape.size.bytes();
        if !layer.read_at(offset, out) {
            out.fill(0);
        }
        true
    }
}

/// One snapshot.
struct Layer {
    id: ObjectId,
    taken: Moment,
    length: ByteLen,
    unit: UnitSize,
    reader: SnapshotReader,
    handle: Handle,
    /// What was read last: neighbouring pages usually lie together.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    leaf: Option<Arc<LeafAt>>,
    frame: Option<(ObjectId, FramePlace, Arc<Vec<u8>>)>,
}

async fn layers(vault: &Vault, source: &SourceName) -> Result<Vec<Layer>, OpsError> {
    let catalog = vault.catalog(source).await?;
    let mut snapshots: Vec<_> = catalog.snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.taken, snapshot.sequence)));
    let mut layers = Vec::new();
    for snapshot in snapshots {
        let is_of_use = snapshot.quality == Quality::Whole && !snapshot.marks.contains(&MarkKind::Tombstoned);
        let Some(front) = catalog.front(&snapshot.id).filter(|_| is_of_use && layers.len() < LAYERS_MAX) else {
            continue;
        };
        // One that cannot be opened is as good as none: the next is asked.
        let Ok(manifest) = vault.repo.manifest(&front.name).await else { continue };
        let Ok(reader) = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?) else { continue };
        let Some((length, unit)) = reader.stream(0).ok().and_then(|main| Some((main.length, unit_size(main).ok()?)))
        else {
            continue;
        };
        let (id, taken, handle) = (snapshot.id, snapshot.taken, Handle::current());
        layers.push(Layer { id, taken, length, unit, reader, handle, held: Mutex::default() });
    }
    Ok(layers)
}

impl Layer {
    fn likeness(&self) -> Option<Likeness> {
        let mut first = vec![0; 100];
        let is_read = self.read_at(0, &mut first);
        let found = is_read.then(|| guess::likeness(&first, self.length, None)).flatten();
        found.filter(|likeness| !likeness.is_guessed)
    }

    /// What its pages look like, where the first of them is lost.
    fn guess(&self) -> Option<Likeness> {
        let mut sample = vec![0; usize::try_from(self.length.get()).unwrap_or(usize::MAX).min(guess::SAMPLE)];
        for (at, unit) in sample.chunks_exact_mut(self.unit.get() as usize).enumerate() {
            if !self.read_at(at as u64 * self.unit.bytes(), unit) {
                unit.fill(0);
            }
        }
        guess::likeness(&sample, self.length, None)
    }

    fn first_is_lost(&self) -> bool {
        !self.read_at(0, &mut [0; 100])
    }

    /// Fills `out` from the snapshot, from units that can still be opened.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> bool {
        let unit = self.unit.bytes();
        let (number, from) = (offset / unit, (offset % unit) as usize);
        if offset + out.len() as u64 > self.length.get() {
            return false;
        }
        let bytes = crate::env::blocking(|| self.handle.block_on(self.unit(number)));
        // No page lies in two units.
        let found = bytes.as_ref().and_then(|bytes| bytes.get(from..from + out.len()));
        found.map(|found| out.copy_from_slice(found)).is_some()
    }

    async fn unit(&self, number: u64) -> Option<Vec<u8>> {
        let leaf = self.leaf(number).await?;
        let (run, slot) = leaf.leaf.find(u16::try_from(number - leaf.first_unit).ok()?)?;
        let (object, place, slot) = (run.object, run.place, usize::from(slot));
        let held = self.held().frame.clone().filter(|(of, at, _)| (*of, *at) == (object, place));
        let frame = match held {
            Some((_, _, frame)) => frame,
            None => {
                let frame = Arc::new(self.reader.frame(&object, &place).await.ok()?);
                self.held().frame = Some((object, place, frame.clone()));
                frame
            }
        };
        let size = self.unit.get() as usize;
        let len = self.length.get().saturating_sub(number * size as u64).min(size as u64) as usize;
        frame.get(slot * size..slot * size + len).map(<[u8]>::to_vec)
    }

    async fn leaf(&self, number: u64) -> Option<Arc<LeafAt>> {
        let is_in = |at: &Arc<LeafAt>| (at.first_unit..at.first_unit + u64::from(at.leaf.units())).contains(&number);
        let held = self.held().leaf.clone().filter(is_in);
        if held.is_some() {
            return held;
        }
        let leaf = Arc::new(self.reader.leaf_of(0, number).await.ok()?);
        self.held().leaf = Some(leaf.clone());
        Some(leaf)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
