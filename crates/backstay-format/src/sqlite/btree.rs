//! Pages of SQLite's trees: their kind, their children and their cells.
//!
//! Owns the reading of one page. It must never believe a number on it: a cell that does not lie inside
//! the page is not there, and the others on it still are.

use super::be32;
use super::record::varint;
use backstay_model::PageSize;

/// Where the page of a table or index begins on page 1, behind the header of the file.
const FIRST_PAGE_HEAD: usize = super::header::HEADER_LEN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl PageKind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            0x02 => Some(PageKind::IndexInterior),
            0x05 => Some(PageKind::TableInterior),
            0x0a => Some(PageKind::IndexLeaf),
            0x0d => Some(PageKind::TableLeaf),
            _ => None,
        }
    }

    pub fn is_interior(self) -> bool {
        matches!(self, PageKind::IndexInterior | PageKind::TableInterior)
    }

    pub fn tree(self) -> TreeKind {
        match self {
            PageKind::IndexInterior | PageKind::IndexLeaf => TreeKind::Index,
            PageKind::TableInterior | PageKind::TableLeaf => TreeKind::Table,
        }
    }

    fn head_len(self) -> usize {
        if self.is_interior() { 12 } else { 8 }
    }
}

/// What a tree holds: rows by number, or records by their own order. A table without row numbers is
/// kept in the second kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TreeKind {
    Table,
    Index,
}

/// How long pages are, and how much of each SQLite uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageShape {
    pub size: PageSize,
    pub reserved: u8,
}

impl PageShape {
    pub fn usable(self) -> usize {
        (self.size.get() - u32::from(self.reserved)) as usize
    }

    /// The most of a record that stays on the page, and the least.
    fn local(self, kind: PageKind) -> (u64, u64) {
        let usable = self.usable() as u64;
        let least = (usable - 12) * 32 / 255 - 23;
        let most = if kind == PageKind::TableLeaf { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        (most, least)
    }
}

/// A page that says it belongs to a tree.
#[derive(Debug, Clone, Copy)]
pub struct BtreePage<'a> {
    /// As much of the page as SQLite uses.
    bytes: &'a [u8],
    shape: PageShape,
    pub kind: PageKind,
    head: usize,
    cells: usize,
}

/// A record, or the beginning of one, and where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    pub rowid: Option<i64>,
    /// The length of the record.
    pub declared: u64,
    pub local: &'a [u8],
    /// The page with the rest of it.
    pub overflow: Option<u32>,
}

impl<'a> BtreePage<'a> {
    /// `None` for a page that does not begin as one of a tree does.
    pub fn parse(number: u32, page: &'a [u8], shape: PageShape) -> Option<Self> {
        let bytes = page.get(..shape.usable())?;
        let head = if number == 1 { FIRST_PAGE_HEAD } else { 0 };
        let kind = PageKind::of(*bytes.get(head)?)?;
        let room = bytes.len().saturating_sub(head + kind.head_len()) / 2;
        let cells = usize::from(be16(bytes, head + 3)?).min(room);
        Some(Self { bytes, shape, kind, head, cells })
    }

    /// How many cells there are, or would fit at most.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// Where a cell begins.
    pub(super) fn cell_at(&self, cell: usize) -> Option<usize> {
        let at = self.head + self.kind.head_len() + cell * 2;
        (cell < self.cells).then(|| be16(self.bytes, at).map(usize::from)).flatten()
    }

    /// The child after all others.
    pub fn last_child(&self) -> Option<u32> {
        if self.kind.is_interior() { be32(self.bytes, self.head + 8) } else { None }
    }

    pub fn child(&self, cell: usize) -> Option<u32> {
        if self.kind.is_interior() { be32(self.bytes, self.cell_at(cell)?) } else { None }
    }

    /// The greatest row number below the child of a cell.
    pub fn key(&self, cell: usize) -> Option<i64> {
        let at = self.cell_at(cell)?.checked_add(4)?;
        let (key, _) = varint(self.bytes.get(at..)?)?;
        (self.kind == PageKind::TableInterior).then_some(key.cast_signed())
    }

    /// The record of a cell; `None` where there is none or it leaves the page.
    pub fn cell(&self, cell: usize) -> Option<Cell<'a>> {
        let mut at = self.cell_at(cell)?;
        match self.kind {
            PageKind::TableInterior => return None,
            PageKind::IndexInterior => at += 4,
            PageKind::IndexLeaf | PageKind::TableLeaf => {}
        }
        let (declared, taken) = varint(self.bytes.get(at..)?)?;
        at += taken;
        let mut rowid = None;
        if self.kind == PageKind::TableLeaf {
            let (number, taken) = varint(self.bytes.get(at..)?)?;
            rowid = Some(number.cast_signed());
            at += taken;
        }
        let (most, least) = self.shape.local(self.kind);
        if declared <= most {
            let local = self.bytes.get(at..at.checked_add(usize::try_from(declared).ok()?)?)?;
            return Some(Cell { rowid, declared, local, overflow: None });
        }
        // The rest fills whole pages where that leaves at least the least here.
        let wanted = least + (declared - least) % (self.shape.usable() as u64 - 4);
        let here = usize::try_from(if wanted <= most { wanted } else { least }).ok()?;
        let local = self.bytes.get(at..at.checked_add(here)?)?;
        Some(Cell { rowid, declared, local, overflow: Some(be32(self.bytes, at + here)?) })
    }

    /// Whether the page looks like one that SQLite wrote: its cells lie behind its list of cells.
    pub fn is_plausible(&self) -> bool {
        let field = |at| be16(self.bytes, self.head + at).map_or(usize::MAX, usize::from);
        let content = match field(5) {
            // 65536 does not fit into the two bytes.
            0 => 65_536,
            other => other,
        };
        let list_end = self.head + self.kind.head_len() + field(3).saturating_mul(2);
        let fragments = self.bytes.get(self.head + 7).copied().unwrap_or(u8::MAX);
        let lies_inside = |cell| self.cell_at(cell).is_some_and(|at| at >= content && at + 4 <= self.bytes.len());
        field(3) == self.cells
            && self.cells > 0
            && list_end <= content
            && content <= self.bytes.len()
            && fragments <= 60
            && (0..self.cells).all(lies_inside)
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(word.try_into().ok()?))
}
