//! The last image of each page that an object has, kept beside it until the pages of the hour have them.
//!
//! Taken from the very bytes that the digests of its commits were made of, so that nothing has to be opened, digested and
//! compared a second time: beside a busy writer that was a third of all work. Only of what is large: who commits now
//! and then costs no memory by it. All sources together keep no more than [`MOST`]. What has none is opened as before,
//! so that nothing is lost where one was not kept.

use super::catch::Piece;
use super::memory::Standing;
use backstay_format::log::Part;
use backstay_model::{Digest, Moment, PageSize, Tx};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// Images in an object below which it is opened later.
const LEAST: u64 = 64 << 10;
/// Bytes of images that are kept, of all sources together.
const MOST: u64 = 32 << 20;

static KEPT: AtomicU64 = AtomicU64::new(0);

/// Leave to keep so many bytes.
struct Room(u64);

impl Room {
    fn take(bytes: u64) -> Option<Self> {
        let more = |kept: u64| kept.checked_add(bytes).filter(|kept| *kept <= MOST);
        KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Of one object: pages, and their images in the same order.
struct Layer {
    pages: Vec<u32>,
    images: Vec<u8>,
    _room: Room,
}

/// Of objects that follow one another.
pub struct Lasts {
    layers: Vec<Layer>,
    pub size: PageSize,
    /// The first commit, and the digest of the one before it.
    first: Tx,
    from: Digest,
    /// The last commit.
    pub tx: Tx,
    pub at: Moment,
    pub chain: Digest,
    /// How long the database was then, and at its shortest.
    pub count: u32,
    pub fewest: u32,
}

impl Lasts {
    /// Whether they come right after a state.
    pub fn follow(&self, tx: Tx, chain: &Digest) -> bool {
        tx.next() == Some(self.first) && self.from == *chain
    }

    /// Those of all parts, if each has them and comes after the one before it.
    pub fn of_all(parts: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        parts.into_iter().reduce(|before, later| before?.and(later?)).flatten()
    }

    fn and(mut self, later: Self) -> Option<Self> {
        if !later.follow(self.tx, &self.chain) || later.size != self.size {
            return None;
        }
        self.layers.extend(later.layers);
        let fewest = self.fewest.min(later.fewest);
        Some(Self { layers: self.layers, first: self.first, from: self.from, fewest, ..later })
    }

    /// Hands out each page once.
    pub fn each<E>(&self, mut put: impl FnMut(u32, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut seen = HashSet::new();
        for layer in self.layers.iter().rev() {
            let images = layer.images.chunks_exact(self.size.get() as usize);
            let pages = layer.pages.iter().zip(images).filter(|(page, _)| seen.insert(**page));
            for (page, image) in pages {
                put(*page, image)?;
            }
        }
        Ok(())
    }
}

/// What becomes of an object's, while it is made.
pub struct Gathering {
    /// How often each page is still to come.
    left: HashMap<u32, u32>,
    layer: Layer,
    size: PageSize,
    first: Tx,
    from: Digest,
    count: u32,
    fewest: u32,
}

impl Gathering {
    /// Nothing where there is little, a commit that is not whole, or no room.
    pub fn of(pieces: &[Piece], standing: &Standing) -> Option<Self> {
        let (first, last) = (pieces.first()?, pieces.last()?);
        let size = PageSize::try_from(last.end.page_size).ok()?;
        let is_whole = |piece: &Piece| piece.part == Part::Whole && piece.end.page_size == size.get();
        let bytes: u64 = pieces.iter().map(|piece| piece.pages.len() as u64 * size.bytes()).sum();
        if bytes < LEAST || !pieces.iter().all(is_whole) {
            return None;
        }
        let mut left = HashMap::<u32, u32>::new();
        pieces.iter().flat_map(|piece| &piece.pages).for_each(|(page, _)| *left.entry(*page).or_default() += 1);
        let bytes = left.len() as u64 * size.bytes();
        let images = Vec::with_capacity(usize::try_from(bytes).ok()?);
        let layer = Layer { pages: Vec::with_capacity(left.len()), images, _room: Room::take(bytes)? };
        let fewest = pieces.iter().map(|piece| piece.page_count).min()?;
        Some(Self { left, layer, size, first: first.tx, from: standing.chain, count: last.page_count, fewest })
    }

    /// The next image.
    pub fn page(&mut self, page: u32, image: &[u8]) {
        let Some(left) = self.left.get_mut(&page) else { return };
        *left -= 1;
        if *left == 0 {
            self.layer.pages.push(page);
            self.layer.images.extend_from_slice(image);
        }
    }

    /// All of them, up to where that leads.
    pub fn done(self, Standing { tx, time, chain, .. }: &Standing) -> Lasts {
        let Self { layer, size, first, from, count, fewest, .. } = self;
        Lasts { layers: vec![layer], size, first, from, tx: *tx, at: *time, chain: *chain, count, fewest }
    }
}
