//! What a database is shaped like when its first page no longer says so.
//!
//! Owns the guess from bytes alone. A header that is whole is believed; of one that is not, each field
//! that can be right is, and the length of a page is the one at which most pages look like pages.

use super::be32;
use super::btree::{BtreePage, PageKind, PageShape};
use super::header::{AutoVacuum, DatabaseHeader, HEADER_LEN, TextEncoding};
use backstay_model::{ByteLen, PageSize};

/// What is needed to walk a database and to write one like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Likeness {
    pub shape: PageShape,
    pub encoding: TextEncoding,
    pub auto_vacuum: AutoVacuum,
    pub user_version: u32,
    pub application_id: u32,
    /// The first page of the list of free ones; 0 when there is none.
    pub free_list: u32,
    pub is_guessed: bool,
}

/// Enough of a file to tell how long its pages are.
pub const SAMPLE: usize = 4 << 20;

const FREE_LIST_AT: usize = 32;
const RESERVED_AT: usize = 20;
/// SQLite refuses a page with fewer usable bytes than this.
const USABLE_MIN: usize = 480;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// Looks at the first bytes of a file, up to [`SAMPLE`] of them. `hint` is what its log says of pages.
/// `None` when nothing in it looks like a page.
pub fn likeness(first: &[u8], len: ByteLen, hint: Option<PageSize>) -> Option<Likeness> {
    let best = shape(first);
    if let Ok(header) = DatabaseHeader::parse(first, len) {
        let stated = PageShape { size: header.page_size, reserved: header.reserved };
        // One byte of the header may be wrong: pages that look right are a better witness, if most do.
        let other = best.filter(|best| covered(first, *best) / 2 > covered(first, stated));
        return Some(Likeness {
            shape: other.unwrap_or(stated),
            encoding: header.encoding,
            auto_vacuum: header.auto_vacuum,
            user_version: header.user_version,
            application_id: header.application_id,
            free_list: be32(first, FREE_LIST_AT).unwrap_or(0),
            is_guessed: other.is_some(),
        });
    }
    let has_magic = first.get(..HEADER_LEN).is_some_and(|head| head.starts_with(super::header::MAGIC));
    // Without the magic nothing that stands there is worth anything.
    let field = |at| be32(first, at).filter(|_| has_magic).unwrap_or(0);
    let found = best.or_else(|| hint.map(|size| PageShape { size, reserved: 0 }))?;
    Some(Likeness {
        shape: PageShape { size: hint.unwrap_or(found.size), reserved: found.reserved },
        encoding: encoding(first),
        auto_vacuum: AutoVacuum::None,
        user_version: field(USER_VERSION_AT),
        application_id: field(APPLICATION_ID_AT),
        free_list: field(FREE_LIST_AT),
        is_guessed: true,
    })
}

/// The length at which the pages that look right cover most bytes, and what may be reserved of each.
fn shape(first: &[u8]) -> Option<PageShape> {
    let stated = first.get(RESERVED_AT).copied().filter(|reserved| *reserved > 0);
    let sizes = (9..=16_u32).filter_map(|power| PageSize::try_from(1 << power).ok());
    let shapes = sizes
        .flat_map(|size| [Some(0), stated].into_iter().flatten().map(move |reserved| PageShape { size, reserved }));
    let possible = shapes.filter(|shape| shape.usable() >= USABLE_MIN);
    possible
        .map(|shape| (covered(first, shape), shape))
        .filter(|(covered, _)| *covered > 0)
        .reduce(|best, other| {
            // Of equals the first: every second page of the true length may look right at twice that length.
            if other.0 > best.0 { other } else { best }
        })
        .map(|(_, shape)| shape)
}

/// Bytes in pages that look right.
fn covered(first: &[u8], shape: PageShape) -> usize {
    let size = shape.size.get() as usize;
    let pages = first.chunks_exact(size).zip(1_u32..);
    pages.filter(|(page, number)| looks_right(*number, page, shape)).count() * size
}

/// A page whose cells all lie inside it, some of them in its second half: cells are put in from its end.
fn looks_right(number: u32, page: &[u8], shape: PageShape) -> bool {
    let Some(page) = BtreePage::parse(number, page, shape).filter(BtreePage::is_plausible) else { return false };
    let is_far = |cell| page.cell_at(cell).is_some_and(|at| at >= shape.size.get() as usize / 2);
    let is_inside = |cell| page.kind == PageKind::TableInterior || page.cell(cell).is_some();
    (0..page.cells()).all(is_inside) && (0..page.cells()).any(is_far)
}

/// The encoding in which most statements of a schema are there.
fn encoding(first: &[u8]) -> TextEncoding {
    let count = |word: &[u8]| first.windows(word.len()).filter(|at| *at == word).count();
    let little = count(b"C\0R\0E\0A\0T\0E\0 \0");
    let big = count(b"\0C\0R\0E\0A\0T\0E\0 ");
    // Big-endian text reads as little-endian too, one byte on; the other way round it does not.
    match (little.max(big) > count(b"CREATE "), big * 2 > little) {
        (false, _) => TextEncoding::Utf8,
        (true, false) => TextEncoding::Utf16Le,
        (true, true) => TextEncoding::Utf16Be,
    }
}
