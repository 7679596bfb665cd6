//! Walks over pages made by hand. Databases made by SQLite are walked by the tests of `backstay-sqlite`.

use super::super::guess;
use super::super::record::varint;
use super::*;
use backstay_model::{ByteLen, PageSize};
use std::convert::Infallible;

const SIZE: usize = 512;

fn shape() -> PageShape {
    PageShape { size: PageSize::try_from(512).unwrap(), reserved: 0 }
}

struct Pages(Vec<Vec<u8>>);

impl PageSource for Pages {
    fn pages(&self) -> u32 {
        self.0.len() as u32
    }
    fn read(&self, page: u32, out: &mut [u8]) -> bool {
        let Some(found) = self.0.get(page as usize - 1) else { return false };
        out.copy_from_slice(found);
        true
    }
}

/// A page of cells, put in from its end as SQLite does.
fn page(number: usize, kind: u8, cells: &[Vec<u8>], last: u32) -> Vec<u8> {
    let mut page = vec![0; SIZE];
    let head = if number == 1 { 100 } else { 0 };
    let mut end = SIZE;
    let mut list = head + if kind < 0x0a { 12 } else { 8 };
    for cell in cells {
        end -= cell.len();
        page[end..end + cell.len()].copy_from_slice(cell);
        page[list..list + 2].copy_from_slice(&(end as u16).to_be_bytes());
        list += 2;
    }
    page[head] = kind;
    page[head + 3..head + 5].copy_from_slice(&(cells.len() as u16).to_be_bytes());
    page[head + 5..head + 7].copy_from_slice(&(end as u16).to_be_bytes());
    if kind < 0x0a {
        page[head + 8..head + 12].copy_from_slice(&last.to_be_bytes());
    }
    page
}

/// A row of one short text.
fn row(rowid: u8, text: &str) -> Vec<u8> {
    let kind = 13 + 2 * text.len() as u8;
    [&[text.len() as u8 + 2, rowid, 2, kind], text.as_bytes()].concat()
}

fn child(page: u32, key: u8) -> Vec<u8> {
    [&page.to_be_bytes()[..], &[key]].concat()
}

fn walked(pages: &Pages, root: u32, kind: TreeKind) -> (Vec<(Option<i64>, RowState)>, Met) {
    let mut rows = Vec::new();
    let mut walker = Walker::new(pages, shape());
    let met = walker.tree::<Infallible>(root, kind, &mut |row| {
        rows.push((row.rowid, row.state));
        Ok(())
    });
    (rows, met.unwrap())
}

#[test]
fn a_tree_gives_its_rows_with_those_in_the_wrong_place_last() {
    let pages = Pages(vec![
        page(1, 0x05, &[child(2, 10), child(3, 20)], 4),
        page(2, 0x0d, &[row(1, "one"), row(10, "ten")], 0),
        page(3, 0x0d, &[row(5, "not here")], 0),
        page(4, 0x0d, &[row(21, "last")], 0),
    ]);
    let (rows, met) = walked(&pages, 1, TreeKind::Table);
    let whole = |n| (Some(n), RowState::Whole);
    assert_eq!(rows, [whole(21), whole(1), whole(10), (Some(5), RowState::Displaced)]);
    assert_eq!((met.leaves, met.rows, met.bad_page_count(), met.torn), (3, 4, 0, 0));
}

#[test]
fn a_tree_that_leads_back_to_itself_ends() {
    let pages = Pages(vec![
        page(1, 0x05, &[child(1, 1), child(2, 2), child(2, 3), child(99, 4)], 2),
        page(2, 0x05, &[child(1, 1)], 3),
        page(3, 0x0d, &[row(3, "once")], 0),
    ]);
    let (rows, met) = walked(&pages, 1, TreeKind::Table);
    assert_eq!(rows.len(), 1);
    assert_eq!(met.bad_pages, [99]);
}

#[test]
fn a_page_of_another_kind_of_tree_is_bad_and_its_rows_are_not_taken() {
    let pages = Pages(vec![page(1, 0x05, &[child(2, 9)], 3), page(2, 0x0a, &[vec![3, 2, 15, b'x']], 0), vec![0; SIZE]]);
    let (rows, met) = walked(&pages, 1, TreeKind::Table);
    assert_eq!((rows, met.bad_pages), (vec![], vec![3, 2]));
    assert_eq!(walked(&pages, 2, TreeKind::Index).0, [(None, RowState::Whole)]);
}

/// A row of 1000 bytes of text, whose rest is said to be on `next`.
fn long_row(next: u32) -> Vec<u8> {
    let declared = 3 + 1000_u32;
    let kind = 13 + 2 * 1000_u32;
    let two = |n: u32| [(n >> 7) as u8 | 0x80, n as u8 & 0x7f];
    // 512 usable bytes: 39 + (1003 - 39) % 508 = 495 is more than the most, so 39 stay.
    [&two(declared)[..], &[7, 3], &two(kind), &[b'a'; 36], &next.to_be_bytes()].concat()
}

fn chained(next: u32, fill: u8) -> Vec<u8> {
    [&next.to_be_bytes()[..], &[fill; SIZE - 4]].concat()
}

#[test]
fn a_long_row_is_put_together_from_its_chain() {
    let pages = Pages(vec![page(1, 0x0d, &[long_row(2)], 0), chained(3, b'b'), chained(0, b'c')]);
    let mut walker = Walker::new(&pages, shape());
    let mut seen = Vec::new();
    let met = walker.tree::<Infallible>(1, TreeKind::Table, &mut |row| {
        let [Value::Text(text)] = row.values.as_slice() else { panic!("{row:?}") };
        seen = text.to_vec();
        Ok(())
    });
    assert_eq!(met.unwrap().torn, 0);
    assert_eq!(seen, [vec![b'a'; 36], vec![b'b'; 508], vec![b'c'; 456]].concat());
    assert!(walker.used.contains(3), "pages of a chain are in use");
}

#[test]
fn a_chain_that_bites_its_tail_or_breaks_off_gives_a_torn_row() {
    for next in [2, 0, 77] {
        let pages = Pages(vec![page(1, 0x0d, &[long_row(2)], 0), chained(next, b'b')]);
        assert_eq!(walked(&pages, 1, TreeKind::Table).0, [(Some(7), RowState::Torn)], "{next}");
    }
}

#[test]
fn chains_are_followed_no_further_than_the_file_could_need() {
    let pages =
        Pages(vec![vec![0; SIZE], page(2, 0x0d, &vec![long_row(3); 10], 0), chained(4, b'b'), chained(0, b'c')]);
    let (rows, met) = walked(&pages, 2, TreeKind::Table);
    // Four pages allow for sixteen steps: eight rows of two.
    assert_eq!((rows.len(), met.torn), (10, 2));
}

#[test]
fn pages_nothing_leads_to_are_found_with_the_top_of_their_tree() {
    let pages = Pages(vec![
        page(1, 0x0d, &[row(1, "known")], 0),
        page(2, 0x05, &[child(3, 9)], 4),
        page(3, 0x0d, &[row(5, "lost")], 0),
        page(4, 0x0d, &[row(15, "free")], 0),
        [&0_u32.to_be_bytes()[..], &1_u32.to_be_bytes(), &4_u32.to_be_bytes(), &[0; SIZE - 12]].concat(),
    ]);
    let mut walker = Walker::new(&pages, shape());
    walker.tree::<Infallible>(1, TreeKind::Table, &mut |_| Ok(())).unwrap();
    walker.free_list(5);
    assert_eq!(walker.free.count(), 2);
    assert_eq!(walker.orphans(), [Orphan { page: 3, kind: TreeKind::Table, top: 2 }]);
}

#[test]
fn a_record_is_whole_only_if_every_byte_is_accounted_for() {
    let whole = [3, 1, 15, 42, b'x'];
    fn of(bytes: &[u8]) -> Record<'_> {
        Record::parse(bytes, bytes.len() as u64)
    }
    assert_eq!(of(&whole), Record { values: vec![Value::Integer(42), Value::Text(b"x")], is_whole: true });
    let cut = Record::parse(&whole[..4], 5);
    assert_eq!(cut, Record { values: vec![Value::Integer(42), Value::Null], is_whole: false });
    assert!(!of(&[3, 1, 15, 42, b'x', 0]).is_whole, "a byte too many");
    assert!(!of(&[3, 1, 11, 42]).is_whole, "a type that does not exist");
    assert!(!of(&[9, 1, 15, 42, b'x']).is_whole, "a header longer than the record");
    assert!(!of(&[]).is_whole);
    let numbers = of(&[6, 2, 3, 6, 8, 9, 0xff, 0xfe, 1, 2, 3, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    let values = [-2, 66051, i64::MIN, 0, 1].map(Value::Integer);
    assert_eq!(numbers, Record { values: values.to_vec(), is_whole: true });
}

#[test]
fn numbers_of_every_length_are_read() {
    assert_eq!(varint(&[0x7f]), Some((127, 1)));
    assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
    assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
    assert_eq!(varint(&[0xff; 8]), None);
    assert_eq!(varint(&[]), None);
}

#[test]
fn the_length_of_pages_is_guessed_from_pages() {
    let mut bytes = vec![0xee; SIZE];
    for n in 2..40 {
        bytes.extend(page(n, 0x0d, &[row(1, "a row that fills some space"), row(2, "and another")], 0));
    }
    let found = guess::likeness(&bytes, ByteLen::new(bytes.len() as u64), None).unwrap();
    assert_eq!((found.shape, found.is_guessed), (shape(), true));
    assert_eq!(guess::likeness(&[0xee; 4096], ByteLen::new(4096), None), None);
}
