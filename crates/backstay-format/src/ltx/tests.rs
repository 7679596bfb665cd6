//! Files that Litestream 0.5.17 wrote, and what is refused.

use super::*;

const SNAPSHOT: &[u8] = include_bytes!("../../../backstay-testkit/corpus/ltx/snapshot");
const CHANGE: &[u8] = include_bytes!("../../../backstay-testkit/corpus/ltx/three-pages");

fn pages(bytes: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, LtxError> {
    let mut reader = Reader::open(bytes)?;
    let mut page = vec![0; reader.header().page_size.get() as usize];
    let mut found = Vec::new();
    while let Some(number) = reader.next_page(&mut page)? {
        found.push((number, page.clone()));
    }
    assert!(matches!(reader.next_page(&mut page), Ok(None)), "the end stays the end");
    Ok(found)
}

#[test]
fn what_litestream_wrote_is_read() {
    let snapshot = Reader::open(SNAPSHOT).expect("a file");
    let header = *snapshot.header();
    assert_eq!((header.page_size.get(), header.min, header.max), (512, 1, 5));
    assert!(header.is_snapshot() && header.timestamp > 1_795_000_000_000);
    let found = pages(SNAPSHOT).expect("pages");
    assert!(found.iter().map(|(number, _)| *number).eq(1..=header.commit));
    assert!(found[0].1.starts_with(b"SQLite format 3\0"));
    let change = pages(CHANGE).expect("pages");
    assert!(!change.is_empty() && change.is_sorted_by_key(|(number, _)| *number));
}

#[test]
fn a_flipped_bit_is_noticed_or_changes_nothing() {
    for good in [SNAPSHOT, CHANGE] {
        let wanted = pages(good).expect("pages");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match pages(&bytes) {
                Err(_) => {}
                // LZ4 has more than one way to say the same.
                Ok(found) => assert!(found == wanted, "bit {bit}"),
            }
        }
    }
}

#[test]
fn a_file_that_was_cut_off_or_goes_on_is_refused() {
    for length in 0..CHANGE.len() {
        assert!(pages(&CHANGE[..length]).is_err(), "{length}");
    }
    assert!(pages(&[CHANGE, b"\0"].concat()).is_err());
    assert!(matches!(pages(b"SQLite format 3\0").expect_err("short"), LtxError::Short));
    assert!(matches!(pages(&[0; 200]).expect_err("no file"), LtxError::Magic));
}

#[test]
fn the_checksum_is_the_one_of_the_standard() {
    let mut check = Crc64::new();
    check.add(b"123456789");
    assert_eq!(check.sum(), 0xb909_56c7_75a4_1001);
}

#[test]
fn names_say_the_first_and_the_last_transaction() {
    assert_eq!(parse_name("0000000000000004-00000000000000ff.ltx"), Some((4, 255)));
    for other in ["", "4-5.ltx", "0000000000000004-00000000000000ff.ltx.tmp", "0000000000000004-00000000000000FF.ltx"] {
        assert_eq!(parse_name(other), None, "{other}");
    }
}

#[test]
fn blocks_that_lie_about_their_length_are_refused() {
    // Four literals, then a repetition of them, one byte behind another, and a last literal.
    let good = [0x40, b'a', b'b', b'c', b'd', 4, 0, 0x10, b'!'];
    let mut page = [0; 9];
    lz4::unpack(&good, &mut page).expect("unpacked");
    assert_eq!(&page, b"abcdabcd!");
    for room in [8, 10] {
        assert!(lz4::unpack(&good, &mut vec![0; room]).is_none(), "{room}");
    }
    for bad in [&[][..], &[0x40, b'a'], &[0x10, b'a', 0, 0], &[0x10, b'a', 2, 0, 0], &[0xf0, 255, 255]] {
        assert!(lz4::unpack(bad, &mut page).is_none(), "{bad:?}");
    }
}
