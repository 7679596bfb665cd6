//! The trees of a moment, read page by page: the way to a key, and the rows below a page.

use crate::lazy::{PageFault, PageSource};
use backstay_format::sqlite::btree::{BtreePage, PageKind, PageShape};
use backstay_format::sqlite::walk::PageSet;
use backstay_format::sqlite::{AutoVacuum, DatabaseHeader, LOCK_BYTE};
use backstay_model::ByteLen;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// From this many pages on the number of a page could be taken for the beginning of a tree's.
const PAGES_MAX: u32 = 0x0200_0000;
/// SQLite's own bound on the depth of a tree.
const DEPTH_MAX: usize = 20;
/// Interior pages remembered.
const HELD_MAX: usize = 2048;
/// Where the header names the first of the pages that list the free ones.
const FREE_AT: usize = 32;

/// Rows by their numbers, the first and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub first: i64,
    pub last: i64,
}

impl Span {
    pub const ALL: Self = Self { first: i64::MIN, last: i64::MAX };
}

/// A table, and where its tree begins.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub name: String,
    pub root: u32,
    pub has_rowids: bool,
    /// Pages that turned out to belong to it.
    pub hits: u64,
    /// Pages between the root and a leaf, the root counted, once it is known.
    depth: Option<usize>,
}

impl Tree {
    pub fn new(name: &str, root: u32, has_rowids: bool) -> Self {
        Self { name: name.to_owned(), root, has_rowids, hits: 0, depth: None }
    }
}

/// An interior page: its children, and the greatest number below each; the last has no bound of its own.
struct Interior {
    children: Vec<(u32, i64)>,
}

impl Interior {
    /// The children with the rows below them, where those below the page are known.
    fn spans(&self, all: Span) -> impl Iterator<Item = (u32, Span)> + '_ {
        let mut first = all.first;
        self.children.iter().map(move |(page, most)| {
            let span = Span { first, last: all.last.min(*most) };
            first = all.first.max(most.saturating_add(1));
            (*page, span)
        })
    }

    fn child_of(&self, key: i64, all: Span) -> Option<(u32, Span)> {
        let at = self.children.partition_point(|(_, most)| *most < key).min(self.children.len().checked_sub(1)?);
        self.spans(all).nth(at)
    }
}

pub(super) struct Side<'a> {
    source: &'a dyn PageSource,
    shape: PageShape,
    auto_vacuum: AutoVacuum,
    pages: u32,
    free_at: u32,
    held: RefCell<HashMap<u32, Option<Rc<Interior>>>>,
}

impl<'a> Side<'a> {
    /// `None` for a database without a page, or one too large to tell its pages apart.
    pub fn of(source: &'a dyn PageSource) -> Result<Option<Self>, PageFault> {
        let pages = source.pages();
        if pages == 0 || pages >= PAGES_MAX {
            return Ok(None);
        }
        let mut first = vec![0; source.page_size().get() as usize];
        source.read(1, &mut first)?;
        let length = u64::from(pages) * source.page_size().bytes();
        let Ok(header) = DatabaseHeader::parse(&first, ByteLen::new(length)) else { return Ok(None) };
        Ok(Some(Self {
            source,
            shape: PageShape { size: header.page_size, reserved: header.reserved },
            auto_vacuum: header.auto_vacuum,
            pages,
            free_at: number(&first, FREE_AT),
            held: RefCell::default(),
        }))
    }

    /// Whether a page of one can be compared with a page of the other.
    pub fn is_like(&self, other: &Self) -> bool {
        self.shape == other.shape && (self.auto_vacuum == AutoVacuum::None) == (other.auto_vacuum == AutoVacuum::None)
    }

    /// Bytes of a row on a page that it goes on to.
    pub fn room(&self) -> u64 {
        (self.shape.usable() as u64).saturating_sub(4).max(1)
    }

    pub fn ahead(&self, pages: &[u32]) {
        self.source.ahead(pages);
    }

    /// A page; `None` where the database ends before it.
    pub fn page(&self, page: u32) -> Result<Option<Vec<u8>>, PageFault> {
        if page == 0 || page > self.pages {
            return Ok(None);
        }
        let mut bytes = vec![0; self.shape.size.get() as usize];
        self.source.read(page, &mut bytes)?;
        Ok(Some(bytes))
    }

    pub fn parse<'b>(&self, number: u32, bytes: &'b [u8]) -> Option<BtreePage<'b>> {
        BtreePage::parse(number, bytes, self.shape)
    }

    /// Where a row goes on, from a page with a piece of it.
    pub fn next_of(bytes: &[u8]) -> u32 {
        number(bytes, 0)
    }

    /// Whether a page is one that SQLite keeps for itself: that of its lock, or a map of who refers to whom.
    pub fn is_own(&self, page: u32) -> bool {
        let lock = u32::try_from(LOCK_BYTE / self.shape.size.bytes() + 1).unwrap_or(0);
        if page == lock {
            return true;
        }
        if self.auto_vacuum == AutoVacuum::None || page < 2 {
            return false;
        }
        let group = (self.shape.usable() / 5 + 1) as u32;
        let map = (page - 2) / group * group + 2;
        page == if map == lock { map + 1 } else { map }
    }

    fn interior(&self, page: u32) -> Result<Option<Rc<Interior>>, PageFault> {
        if let Some(held) = self.held.borrow().get(&page) {
            return Ok(held.clone());
        }
        let interior = self.page(page)?.and_then(|bytes| {
            let page = self.parse(page, &bytes).filter(|page| page.kind == PageKind::TableInterior)?;
            let child = |cell| Some((page.child(cell)?, page.key(cell)?));
            let children: Option<Vec<_>> = (0..page.cells()).map(child).collect();
            let mut children = children?;
            children.push((page.last_child()?, i64::MAX));
            Some(Rc::new(Interior { children }))
        });
        let mut held = self.held.borrow_mut();
        if held.len() >= HELD_MAX {
            held.clear();
        }
        held.insert(page, interior.clone());
        Ok(interior)
    }

    /// Whether the way to a key passes a page, and the rows below it.
    pub fn search(&self, tree: &mut Tree, key: i64, wanted: u32) -> Result<Option<Span>, PageFault> {
        let mut at = (tree.root, Span::ALL);
        for depth in 0..DEPTH_MAX {
            if at.0 == wanted {
                return Ok(Some(at.1));
            }
            if tree.depth.is_some_and(|known| depth >= known) {
                return Ok(None);
            }
            let Some(interior) = self.interior(at.0)? else {
                // All leaves lie equally deep.
                tree.depth = Some(depth);
                return Ok(None);
            };
            let Some(child) = interior.child_of(key, at.1) else { return Ok(None) };
            at = child;
        }
        Ok(None)
    }

    /// The children of an interior page, with the rows below them; `None` for another page.
    pub fn children(&self, page: u32, all: Span) -> Result<Option<Vec<(u32, Span)>>, PageFault> {
        Ok(self.interior(page)?.map(|interior| interior.spans(all).collect()))
    }

    /// The pages that nobody uses.
    pub fn free(&self) -> Result<PageSet, PageFault> {
        let mut free = PageSet::of_pages(self.pages);
        let mut trunk = self.free_at;
        while free.insert(trunk) {
            let Some(bytes) = self.page(trunk)? else { break };
            let most = self.shape.usable() / 4 - 2;
            let count = (number(&bytes, 4) as usize).min(most);
            (0..count).for_each(|at| {
                free.insert(number(&bytes, 8 + at * 4));
            });
            trunk = number(&bytes, 0);
        }
        Ok(free)
    }

    /// Whether a tree without row numbers has one of these pages. Its leaves are not read.
    pub fn touches(&self, root: u32, pages: &HashSet<u32>) -> Result<bool, PageFault> {
        let mut level = vec![root];
        let mut left = self.pages;
        for _ in 0..DEPTH_MAX {
            if level.iter().any(|page| pages.contains(page)) {
                return Ok(true);
            }
            left = left.saturating_sub(u32::try_from(level.len()).unwrap_or(u32::MAX));
            let Some(first) = level.first() else { return Ok(false) };
            match self.kind(*first)? {
                Some(PageKind::IndexLeaf) => return Ok(false),
                Some(PageKind::IndexInterior) if left > 0 => {}
                _ => return Ok(true),
            }
            let mut below = Vec::new();
            for page in level {
                let Some(children) = self.index_children(page)? else { return Ok(true) };
                below.extend(children);
                if below.len() > left as usize {
                    return Ok(true);
                }
            }
            level = below;
        }
        Ok(true)
    }

    fn kind(&self, page: u32) -> Result<Option<PageKind>, PageFault> {
        Ok(self.page(page)?.and_then(|bytes| Some(self.parse(page, &bytes)?.kind)))
    }

    fn index_children(&self, number: u32) -> Result<Option<Vec<u32>>, PageFault> {
        Ok(self.page(number)?.and_then(|bytes| {
            let page = self.parse(number, &bytes).filter(|page| page.kind == PageKind::IndexInterior)?;
            (0..page.cells()).map(|cell| page.child(cell)).chain([page.last_child()]).collect()
        }))
    }
}

/// The number at a place; 0 past the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_be_bytes)
}
