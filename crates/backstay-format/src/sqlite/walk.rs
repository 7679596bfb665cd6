//! A walk over the pages of a database that may be damaged: every row that can still be found.
//!
//! Owns the way through trees, overflow chains and the list of free pages. Nothing it reads is believed:
//! no page is visited twice in one tree or chain, and all chains together are followed for no more pages
//! than a few times the file has, so that it ends on any bytes. Memory grows with a few bits for each page,
//! 24 bytes for each leaf of one tree, and the largest record that is there.
//!
//! A row whose bytes are all there is *whole*; one with a piece missing is given as far as it goes and
//! called so.

use super::btree::{BtreePage, Cell, PageKind, PageShape, TreeKind};
use super::record::{Record, Value};
use super::{LOCK_BYTE, be32};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

#[cfg(test)]
mod tests;

/// Where pages come from. Pages count from 1.
pub trait PageSource {
    fn pages(&self) -> u32;
    /// Fills `out`, which is one page long; `false` when the page cannot be read.
    fn read(&self, page: u32, out: &mut [u8]) -> bool;
    /// Another version of a page that is not what it must be, the best first; `false` when there are no
    /// more. A version that cannot be read is given as zeros.
    fn instead(&self, _page: u32, _version: usize, _out: &mut [u8]) -> bool {
        false
    }
}

/// A set of pages, one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    pages: u32,
}

impl PageSet {
    pub fn of_pages(pages: u32) -> Self {
        Self { words: vec![0; pages as usize / 64 + 1], pages }
    }

    /// Whether it was not there before. A page that the file does not have is never new.
    pub fn insert(&mut self, page: u32) -> bool {
        let is_inside = (1..=self.pages).contains(&page);
        let Some(word) = self.words.get_mut(page as usize / 64).filter(|_| is_inside) else { return false };
        let bit = 1 << (page % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub fn contains(&self, page: u32) -> bool {
        self.words.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// One row, or what is left of one.
#[derive(Debug)]
pub struct Row<'a> {
    pub page: u32,
    pub rowid: Option<i64>,
    pub values: Vec<Value<'a>>,
    pub state: RowState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    Whole,
    /// Whole, on a page that lies where its row numbers do not belong.
    Displaced,
    /// A piece of it is missing.
    Torn,
}

/// What a walk met besides rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Met {
    pub leaves: u64,
    pub rows: u64,
    /// Pages the tree leads to that cannot be read or are no pages of such a tree.
    pub bad_pages: Vec<u32>,
    /// Those of them that are more than are listed.
    pub more_bad_pages: u64,
    /// Cells that do not lie inside their page.
    pub bad_cells: u64,
    pub torn: u64,
}

/// Bad pages that are named.
const NAMED_MAX: usize = 1000;

impl Met {
    fn bad_page(&mut self, page: u32) {
        if self.bad_pages.len() < NAMED_MAX {
            self.bad_pages.push(page);
        } else {
            self.more_bad_pages += 1;
        }
    }

    pub fn bad_page_count(&self) -> u64 {
        self.bad_pages.len() as u64 + self.more_bad_pages
    }
}

/// Pages of overflow chains that are followed, in all, for each page there is.
const CHAINED_PER_PAGE: u64 = 4;

/// Walks one database. What it met on the way is in `used`.
pub struct Walker<'a> {
    source: &'a dyn PageSource,
    shape: PageShape,
    page: Vec<u8>,
    chained: Vec<u8>,
    chain_left: u64,
    /// Pages that belong to a tree that was walked, with their overflow.
    pub used: PageSet,
    pub free: PageSet,
    /// Pages that were taken in another version, and in which.
    pub replaced: BTreeMap<u32, usize>,
}

/// A page that is to be looked at, and the row numbers that belong below it.
#[derive(Clone, Copy)]
struct Waiting {
    page: u32,
    /// Pages between it and the root.
    depth: u32,
    least: i64,
    most: i64,
}

impl<'a> Walker<'a> {
    pub fn new(source: &'a dyn PageSource, shape: PageShape) -> Self {
        let pages = source.pages();
        let page = vec![0; shape.size.get() as usize];
        Self {
            source,
            shape,
            chained: page.clone(),
            page,
            chain_left: u64::from(pages) * CHAINED_PER_PAGE,
            used: PageSet::of_pages(pages),
            free: PageSet::of_pages(pages),
            replaced: BTreeMap::new(),
        }
    }

    /// Gives every row of the tree at `root`; those on displaced pages come last.
    pub fn tree<E>(
        &mut self,
        root: u32,
        kind: TreeKind,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<Met, E> {
        let mut met = Met::default();
        let mut seen = PageSet::of_pages(self.source.pages());
        let (mut waiting, mut displaced, mut leaf_depth) = (VecDeque::new(), Vec::new(), None);
        if seen.insert(root) {
            waiting.push_back(Waiting { page: root, depth: 0, least: i64::MIN, most: i64::MAX });
        } else {
            met.bad_page(root);
        }
        while let Some(at) = waiting.pop_front() {
            let Some(page) = self.load(at.page, kind) else {
                met.bad_page(at.page);
                continue;
            };
            let (is_interior, mut is_displaced) = (page.kind.is_interior(), lies_outside(&page, at));
            for child in children(&page, at) {
                if seen.insert(child.page) {
                    waiting.push_back(child);
                } else if child.page == 0 || child.page > self.source.pages() {
                    met.bad_page(child.page);
                }
            }
            self.used.insert(at.page);
            if !is_interior {
                met.leaves += 1;
                // Every leaf of a tree lies equally deep.
                is_displaced |= *leaf_depth.get_or_insert(at.depth) != at.depth;
            }
            if is_displaced {
                displaced.push(at.page);
            } else if !is_interior || kind == TreeKind::Index {
                self.rows(at.page, RowState::Whole, &mut met, visit)?;
            }
        }
        for number in displaced {
            self.rows(number, RowState::Displaced, &mut met, visit)?;
        }
        Ok(met)
    }

    /// Reads a page into the buffer and gives it if it is one of a tree of that kind. One that is not, or
    /// that has cells out of place, is looked for in its other versions.
    fn load(&mut self, number: u32, kind: TreeKind) -> Option<BtreePage<'_>> {
        let shape = self.shape;
        let fits = |bytes: &[u8]| {
            let page = BtreePage::parse(number, bytes, shape).filter(|page| page.kind.tree() == kind);
            page.is_some_and(|page| page.cells() == 0 || page.is_plausible())
        };
        self.fetch(number, &fits)
            .then(|| BtreePage::parse(number, &self.page, shape))?
            .filter(|page| page.kind.tree() == kind)
    }

    /// Reads the first version of a page that fits; the one that is there when none does.
    fn fetch(&mut self, number: u32, fits: &dyn Fn(&[u8]) -> bool) -> bool {
        if number == 0 || number > self.source.pages() {
            return false;
        }
        if let Some(version) = self.replaced.get(&number) {
            return self.source.instead(number, *version, &mut self.page);
        }
        let is_there = self.source.read(number, &mut self.page);
        if is_there && fits(&self.page) {
            return true;
        }
        let mut version = 0;
        while self.source.instead(number, version, &mut self.page) {
            if fits(&self.page) {
                self.replaced.insert(number, version);
                return true;
            }
            version += 1;
        }
        is_there && self.source.read(number, &mut self.page)
    }

    /// Gives the rows of one page.
    fn rows<E>(
        &mut self,
        number: u32,
        state: RowState,
        met: &mut Met,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.fetch(number, &|_| true) {
            return Ok(());
        }
        let held = std::mem::take(&mut self.page);
        let mut done = Ok(());
        if let Some(page) = BtreePage::parse(number, &held, self.shape) {
            for at in 0..page.cells() {
                let Some(cell) = page.cell(at) else {
                    met.bad_cells += 1;
                    continue;
                };
                done = self.row((number, state), cell, met, visit);
                if done.is_err() {
                    break;
                }
            }
        }
        self.page = held;
        done
    }

    fn row<E>(
        &mut self,
        (page, state): (u32, RowState),
        cell: Cell<'_>,
        met: &mut Met,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let joined;
        let payload = match cell.overflow {
            None => cell.local,
            Some(next) => {
                joined = self.join(cell, next);
                &joined
            }
        };
        let record = Record::parse(payload, cell.declared);
        if !record.is_whole {
            met.torn += 1;
        }
        met.rows += 1;
        let state = if record.is_whole { state } else { RowState::Torn };
        visit(&Row { page, rowid: cell.rowid, values: record.values, state })
    }

    /// Follows an overflow chain as far as it goes.
    fn join(&mut self, cell: Cell<'_>, mut next: u32) -> Vec<u8> {
        let per_page = self.shape.usable() - 4;
        let mut joined = cell.local.to_vec();
        let mut chain = HashSet::new();
        while (joined.len() as u64) < cell.declared && self.chain_left > 0 {
            self.chain_left -= 1;
            let left = usize::try_from(cell.declared - joined.len() as u64).unwrap_or(usize::MAX);
            let pages = self.source.pages();
            let follows = move |page: &[u8]| be32(page, 0).is_some_and(|next| (1..=pages).contains(&next));
            std::mem::swap(&mut self.page, &mut self.chained);
            let is_there = chain.insert(next) && self.fetch(next, &|page| follows(page) == (left > per_page));
            std::mem::swap(&mut self.page, &mut self.chained);
            if !is_there {
                break;
            }
            let content = self.chained.get(4..4 + per_page.min(left)).unwrap_or_default();
            joined.extend_from_slice(content);
            self.used.insert(next);
            next = be32(&self.chained, 0).unwrap_or(0);
        }
        joined
    }

    /// Walks the list of free pages that begins at `trunk`. What a tree uses is not free.
    pub fn free_list(&mut self, mut trunk: u32) {
        let mut seen = PageSet::of_pages(self.source.pages());
        while seen.insert(trunk) && self.source.read(trunk, &mut self.page) {
            self.note_free(trunk);
            let most = self.shape.usable() / 4 - 2;
            let count = be32(&self.page, 4).map_or(0, |count| count as usize).min(most);
            let leaves: Vec<u32> = (0..count).filter_map(|at| be32(&self.page, 8 + at * 4)).collect();
            leaves.into_iter().for_each(|leaf| self.note_free(leaf));
            trunk = be32(&self.page, 0).unwrap_or(0);
        }
    }

    fn note_free(&mut self, page: u32) {
        if !self.used.contains(page) {
            self.free.insert(page);
        }
    }

    /// Pages of trees that nothing leads to: each with the page at the top of what is left of its tree.
    /// To be asked after every known tree and the list of free pages were walked.
    pub fn orphans(&mut self) -> Vec<Orphan> {
        let mut parents: HashMap<u32, u32> = HashMap::new();
        let mut found = Vec::new();
        for number in 1..=self.source.pages() {
            let is_known = self.used.contains(number) || self.free.contains(number);
            if is_known || self.is_lock_page(number) {
                continue;
            }
            // A page that is there is what it is: an older version of it is no orphan of this database.
            let shape = self.shape;
            let plausible = |page: &[u8]| BtreePage::parse(number, page, shape).is_some_and(|page| page.is_plausible());
            let is_read = self.source.read(number, &mut self.page) || self.fetch(number, &plausible);
            let page = is_read.then(|| BtreePage::parse(number, &self.page, self.shape)).flatten();
            let Some(page) = page.filter(BtreePage::is_plausible) else { continue };
            let kind = page.kind;
            let at = Waiting { page: number, depth: 0, least: i64::MIN, most: i64::MAX };
            for child in children(&page, at) {
                parents.entry(child.page).or_insert(number);
            }
            if kind != PageKind::TableInterior {
                found.push((number, kind.tree()));
            }
        }
        let top = |page: u32| {
            let mut top = page;
            // A tree of SQLite is at most twenty pages high; more is a circle.
            for _ in 0..20 {
                match parents.get(&top) {
                    Some(parent) => top = *parent,
                    None => break,
                }
            }
            top
        };
        found.into_iter().map(|(page, kind)| Orphan { page, kind, top: top(page) }).collect()
    }

    /// Gives the rows of one orphan.
    pub fn orphan<E>(&mut self, orphan: &Orphan, visit: &mut dyn FnMut(&Row<'_>) -> Result<(), E>) -> Result<Met, E> {
        let mut met = Met { leaves: 1, ..Met::default() };
        self.used.insert(orphan.page);
        self.rows(orphan.page, RowState::Whole, &mut met, visit)?;
        Ok(met)
    }

    fn is_lock_page(&self, number: u32) -> bool {
        u64::from(number) == LOCK_BYTE / self.shape.size.bytes() + 1
    }
}

/// A page of a tree that nothing leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    pub page: u32,
    pub kind: TreeKind,
    pub top: u32,
}

/// The last child first: where two pages claim one row number, the one that was written last is most
/// often the one further right.
fn children(page: &BtreePage<'_>, at: Waiting) -> Vec<Waiting> {
    if !page.kind.is_interior() {
        return Vec::new();
    }
    let depth = at.depth + 1;
    let least = |cell: usize| {
        cell.checked_sub(1).and_then(|before| page.key(before)).map_or(at.least, |key| key.saturating_add(1))
    };
    let last = page.last_child().map(|child| Waiting { page: child, depth, least: least(page.cells()), most: at.most });
    let others = (0..page.cells()).filter_map(|cell| {
        Some(Waiting { page: page.child(cell)?, depth, least: least(cell), most: page.key(cell).unwrap_or(at.most) })
    });
    last.into_iter().chain(others).collect()
}

/// Whether a leaf has a row that does not belong between the bounds its parents give.
fn lies_outside(page: &BtreePage<'_>, at: Waiting) -> bool {
    let outside = |rowid: i64| !(at.least..=at.most).contains(&rowid);
    page.kind == PageKind::TableLeaf && (0..page.cells()).filter_map(|cell| page.cell(cell)?.rowid).any(outside)
}
