#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, and says where")]

use super::*;

/// A header as SQLite writes it for a fresh database of two pages.
fn sample() -> [u8; HEADER_LEN] {
    let mut head = [0; HEADER_LEN];
    head[..16].copy_from_slice(MAGIC);
    head[16..18].copy_from_slice(&4096_u16.to_be_bytes());
    head[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
    head[24..28].copy_from_slice(&7_u32.to_be_bytes());
    head[28..32].copy_from_slice(&2_u32.to_be_bytes());
    head[40..44].copy_from_slice(&3_u32.to_be_bytes());
    head[56..60].copy_from_slice(&1_u32.to_be_bytes());
    head[60..64].copy_from_slice(&42_u32.to_be_bytes());
    head[68..72].copy_from_slice(&0xAABB_u32.to_be_bytes());
    head[92..96].copy_from_slice(&7_u32.to_be_bytes());
    head
}

fn parse(head: &[u8]) -> Result<DatabaseHeader, HeaderError> {
    DatabaseHeader::parse(head, ByteLen::new(8192))
}

#[test]
fn a_header_is_read_field_by_field() {
    let head = parse(&sample()).unwrap();
    assert_eq!((head.page_size.get(), head.change_counter, head.page_count), (4096, 7, 2));
    assert_eq!((head.schema_cookie, head.user_version, head.application_id), (3, 42, 0xAABB));
    assert_eq!(
        (head.encoding, head.auto_vacuum, head.format),
        (TextEncoding::Utf8, AutoVacuum::None, WriteFormat::Rollback)
    );
    assert_eq!(head.trusted_page_count(), Some(2));
}

#[test]
fn one_stands_for_the_page_size_that_does_not_fit() {
    let mut head = sample();
    head[16..18].copy_from_slice(&[0, 1]);
    assert_eq!(parse(&head).unwrap().page_size.get(), 65_536);
}

#[test]
fn a_stale_page_count_is_not_trusted() {
    let mut head = sample();
    head[95] = 6;
    assert_eq!(parse(&head).unwrap().trusted_page_count(), None);
}

#[test]
fn the_second_format_and_the_vacuum_modes_are_recognised() {
    let mut head = sample();
    head[19] = 2;
    head[55] = 9;
    assert_eq!((parse(&head).unwrap().format, parse(&head).unwrap().auto_vacuum), (WriteFormat::Wal, AutoVacuum::Full));
    head[67] = 1;
    assert_eq!(parse(&head).unwrap().auto_vacuum, AutoVacuum::Incremental);
}

#[test]
fn impossible_fields_are_named() {
    let with = |at: usize, byte: u8| {
        let mut head = sample();
        head[at] = byte;
        parse(&head).unwrap_err()
    };
    assert_eq!(with(17, 1), HeaderError::BadPageSize(4097));
    assert_eq!(with(21, 65), HeaderError::BadPayloadFractions([65, 32, 32]));
    assert_eq!(with(19, 3), HeaderError::UnknownFormat { write: 1, read: 3 });
    assert_eq!(with(59, 4), HeaderError::BadEncoding(4));
    assert_eq!(with(0, b's'), HeaderError::NotSqlite);
    let mut small = sample();
    small[16..18].copy_from_slice(&512_u16.to_be_bytes());
    small[20] = 33;
    assert_eq!(parse(&small).unwrap_err(), HeaderError::BadReserved { reserved: 33, page_size: 512 });
}

#[test]
fn every_cut_is_a_truncation() {
    for len in 0..HEADER_LEN {
        assert_eq!(parse(&sample()[..len]).unwrap_err(), HeaderError::Truncated(len as u64));
    }
}

#[test]
fn ciphertext_and_text_are_told_apart() {
    let mut cipher = vec![0_u8; 4096];
    blake3::Hasher::new().finalize_xof().fill(&mut cipher);
    assert_eq!(DatabaseHeader::parse(&cipher, ByteLen::new(40_960)), Err(HeaderError::LooksEncrypted));
    assert_eq!(DatabaseHeader::parse(&cipher[..1024], ByteLen::new(40_960)), Err(HeaderError::LooksEncrypted));
    assert_eq!(DatabaseHeader::parse(&cipher, ByteLen::new(40_961)), Err(HeaderError::NotSqlite));
    let text = b"-- a dump of a database, as text\n".repeat(130);
    assert_eq!(DatabaseHeader::parse(&text[..4096], ByteLen::new(4096)), Err(HeaderError::NotSqlite));
}

#[test]
fn every_value_of_every_byte_gives_a_value_or_a_named_error() {
    for at in 0..HEADER_LEN {
        for byte in 0..=255 {
            let mut head = sample();
            head[at] = byte;
            if let Ok(parsed) = parse(&head) {
                assert!(parsed.page_size.get() - u32::from(parsed.reserved) >= 480, "byte {at} = {byte}");
            }
        }
    }
}
