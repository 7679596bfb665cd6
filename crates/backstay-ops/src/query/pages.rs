//! A page of a moment: from its number to the frame it lies in, and to its bytes.

use super::frames::{FrameAt, Frames, Holder};
use super::stored::Stored;
use crate::catalog::Vault;
use crate::log::{Lies, PageMap, PageMaps};
use backstay_format::Corrupt;
use backstay_format::sqlite::DatabaseHeader;
use backstay_model::{ByteLen, Kind, Kinded, ObjectId, PageSize, UnitSize};
use backstay_sqlite::lazy::{PageFault, PageSource};
use backstay_store::repo::Repository;
use backstay_store::seal::Unsealer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes asked for ahead at the most; no more than half of the cache.
const AHEAD_MAX: u64 = 8 << 20;
/// The beginning of a database that says what it is.
const HEADER: usize = 100;

/// The sizes of a database at a moment.
#[derive(Debug, Clone, Copy)]
struct Shape {
    page: PageSize,
    pages: u32,
}

/// The pages of a log that a moment has over those of its snapshot.
pub(super) struct Logged {
    pub repo: Repository,
    pub unsealer: Arc<Unsealer>,
    pub map: PageMap,
    /// Of roll-ups whose images cannot be read: what they were made of.
    parts: Mutex<HashMap<ObjectId, Arc<PageMaps>>>,
}

impl Logged {
    pub(super) fn new(vault: &Vault, map: PageMap) -> Option<Self> {
        let unsealer = Arc::new(vault.unsealer.as_ref()?.again());
        Some(Self { repo: vault.repo.clone(), unsealer, map, parts: Mutex::default() })
    }

    fn holder(&self, maps: &Arc<PageMaps>) -> Holder {
        Holder::Log(self.repo.store().clone(), maps.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectId, Arc<PageMaps>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts_of(&self, object: &ObjectId) -> Option<Arc<PageMaps>> {
        self.lock().get(object).cloned()
    }

    fn in_parts(&self, parts: &Arc<PageMaps>, page: u32) -> Option<Place> {
        let image = parts.written_by(self.map.writer_of(page)?, page)?;
        let at = FrameAt { object: parts.object_of(&image)?.id, place: image.frame };
        Some(Place::Frame(self.holder(parts), at, image.at as usize))
    }
}

pub(super) struct Pages {
    stored: Arc<Stored>,
    shape: Shape,
    logged: Option<Logged>,
    frames: Arc<Frames>,
}

/// Where the bytes of a page are.
enum Place {
    Frame(Holder, FrameAt, usize),
    /// In the manifest itself.
    Stands,
    /// Nobody wrote it: it is the page SQLite never reads.
    Nowhere,
}

impl Pages {
    /// Reads the first page. Blocks.
    pub(super) fn open(stored: Arc<Stored>, logged: Option<Logged>, frames: Arc<Frames>) -> Result<Self, PageFault> {
        // A file of nothing is a database without a table.
        let usual = PageSize::try_from(UnitSize::MIN).map_err(|_| broken("a unit is a page"))?;
        let mut this = Self { stored, shape: Shape { page: usual, pages: 0 }, logged, frames };
        let of_log = this.logged.as_ref().and_then(|logged| logged.map.shape());
        let length = of_log.map_or(this.stored.length, |(size, pages)| u64::from(size) * u64::from(pages));
        if length == 0 {
            return Ok(this);
        }
        let mut first = [0; HEADER];
        this.bytes_of(1, this.find(1, 0)?, &mut first)?;
        let header = DatabaseHeader::parse(&first, ByteLen::new(length));
        let page = header.map_err(|_| broken("it begins as a database does"))?.page_size;
        if of_log.is_some_and(|(size, _)| size != page.get()) {
            return Err(broken("pages of its log are as long as it says"));
        }
        let pages = u32::try_from(length / page.bytes()).map_err(|_| broken("it has as many pages as there can be"))?;
        this.shape = Shape { page, pages };
        Ok(this)
    }

    pub(super) fn length(&self) -> ByteLen {
        ByteLen::new(u64::from(self.shape.pages) * self.shape.page.bytes())
    }

    fn offset(&self, page: u32) -> u64 {
        u64::from(page.saturating_sub(1)) * self.shape.page.bytes()
    }

    /// The frame of a page of the log; `None` where the snapshot has it.
    fn of_log(&self, page: u32) -> Result<Option<Place>, PageFault> {
        let Some(logged) = &self.logged else { return Ok(None) };
        match logged.map.find(page) {
            Lies::InSnapshot => Ok(None),
            Lies::Nowhere | Lies::Beyond => Ok(Some(Place::Nowhere)),
            Lies::InLog(image) => {
                let index = logged.map.maps().object_of(&image).ok_or_else(|| broken("its object is there"))?;
                if let Some(parts) = logged.parts_of(&index.id)
                    && let Some(place) = logged.in_parts(&parts, page)
                {
                    return Ok(Some(place));
                }
                let at = FrameAt { object: index.id, place: image.frame };
                Ok(Some(Place::Frame(logged.holder(logged.map.maps()), at, image.at as usize)))
            }
        }
    }

    /// The beginning of a page. An image that cannot be read in a roll-up may be had from what that was made of.
    fn bytes_of(&self, page: u32, place: Place, into: &mut [u8]) -> Result<(), PageFault> {
        let (holder, at, begin) = match place {
            Place::Frame(holder, at, begin) => (holder, at, begin),
            Place::Stands => return self.standing(page, into).ok_or_else(|| broken("a page of its manifest is one")),
            Place::Nowhere => {
                into.fill(0);
                return Ok(());
            }
        };
        match self.frames.frame(&holder, at) {
            Err(fault) if fault.kind == Kind::Corrupt => match self.of_parts(page, &at.object)? {
                Some(Place::Frame(holder, at, begin)) => cut(&self.frames.frame(&holder, at)?, begin, into),
                _ => Err(fault),
            },
            frame => cut(&frame?, begin, into),
        }
    }

    /// The same image of a page in what a roll-up was made of. `None` where that is not all there.
    fn of_parts(&self, page: u32, object: &ObjectId) -> Result<Option<Place>, PageFault> {
        let Some(logged) = self.logged.as_ref().filter(|logged| logged.parts_of(object).is_none()) else {
            return Ok(None);
        };
        let (repo, unsealer) = (logged.repo.clone(), logged.unsealer.clone());
        let (maps, id) = (logged.map.maps().clone(), *object);
        let found = self.wait_for(async move { maps.parts_of(&repo, &unsealer, &id).await })?;
        let Some(parts) = found.map_err(|error| fault(&error))?.map(Arc::new) else { return Ok(None) };
        logged.lock().insert(*object, parts.clone());
        Ok(logged.in_parts(&parts, page))
    }

    fn find(&self, page: u32, offset: u64) -> Result<Place, PageFault> {
        if let Some(place) = self.of_log(page)? {
            return Ok(place);
        }
        if offset >= self.stored.length {
            // Between what was stored and what the log wrote there is only the page SQLite never reads.
            return Ok(Place::Nowhere);
        }
        if self.stored.standing(page).is_some() {
            return Ok(Place::Stands);
        }
        let (at, begin) = self.stored.place(&self.frames, page, offset)?;
        Ok(Place::Frame(self.stored.holder(), at, begin))
    }

    fn standing(&self, page: u32, into: &mut [u8]) -> Option<()> {
        self.stored.standing(page)?.fill(into)
    }

    pub(super) fn stored(&self) -> &Arc<Stored> {
        &self.stored
    }

    /// The result of some work of the store. Blocks.
    pub(super) fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PageFault> {
        self.frames.wait_for(work)
    }

    pub(super) fn map(&self) -> Option<&PageMap> {
        self.logged.as_ref().map(|logged| &logged.map)
    }
}

/// Copies out of a frame; every byte of a page lies in one unit, because a unit is no smaller.
fn cut(frame: &[u8], begin: usize, into: &mut [u8]) -> Result<(), PageFault> {
    let bytes = frame.get(begin..begin + into.len()).ok_or_else(|| broken("a page lies inside its frame"))?;
    into.copy_from_slice(bytes);
    Ok(())
}

impl PageSource for Pages {
    fn page_size(&self) -> PageSize {
        self.shape.page
    }

    fn pages(&self) -> u32 {
        self.shape.pages
    }

    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), PageFault> {
        self.bytes_of(page, self.find(page, self.offset(page))?, into)
    }

    fn at_hand(&self, page: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.shape.page.get() as usize];
        let (at, begin) = match self.of_log(page).ok()? {
            Some(Place::Nowhere) => return Some(bytes),
            Some(Place::Frame(_, at, begin)) => (at, begin),
            Some(Place::Stands) | None if self.standing(page, &mut bytes).is_some() => return Some(bytes),
            Some(Place::Stands) | None => self.stored.place_at_hand(self.offset(page))?,
        };
        cut(self.frames.at_hand(&at)?.as_slice(), begin, &mut bytes).ok()?;
        Some(bytes)
    }

    fn ahead(&self, pages: &[u32]) {
        let (mut stored, mut logged): (Vec<FrameAt>, Vec<FrameAt>) = (Vec::new(), Vec::new());
        for page in pages.iter().filter(|page| (1..=self.shape.pages).contains(page)) {
            // What cannot be found is said when the page itself is read.
            let Ok(place) = self.find(*page, self.offset(*page)) else { break };
            let Place::Frame(holder, at, _) = place else { continue };
            let wanted = if matches!(holder, Holder::Log(..)) { &mut logged } else { &mut stored };
            if wanted.last() != Some(&at) {
                wanted.push(at);
            }
        }
        if let Some(of) = &self.logged {
            // What was found to be unreadable is asked for in its parts, by itself.
            logged.retain(|at| of.map.maps().object(&at.object).is_some());
            self.frames.ahead(&of.holder(of.map.maps()), logged);
        }
        self.frames.ahead(&self.stored.holder(), stored);
    }

    fn ahead_max(&self) -> usize {
        (AHEAD_MAX.min(self.frames.limit() / 2) / self.shape.page.bytes()) as usize
    }
}

pub(super) fn broken(rule: &'static str) -> PageFault {
    let what = Corrupt::Rule { what: "a moment", rule };
    PageFault { kind: Kind::Corrupt, what: what.to_string() }
}

/// An error of the repository, with its causes in one line.
pub(super) fn fault(error: &(impl std::error::Error + Kinded)) -> PageFault {
    PageFault { kind: error.kind(), what: crate::prove::with_causes(error) }
}
