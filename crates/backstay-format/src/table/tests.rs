//! The refs table: round trips, and every rule broken once.

use super::*;
use proptest::prelude::*;

fn reference(byte: u8) -> Reference {
    Reference {
        object: ObjectId::from_bytes([byte; 16]),
        kind: ObjectType::Pack,
        stored: 1000 + u64::from(byte),
        digest: Digest::from_bytes([byte ^ 0xff; 32]),
        salt: [byte; 32],
        wrap: 0,
        live_units: 3,
        total_units: 5,
        live_nodes: 1,
    }
}

fn table(rows: &[u8]) -> Table {
    Table::new(rows.iter().map(|b| reference(*b)).collect(), vec![b"an age file".to_vec()]).expect("a legal table")
}

fn rule(result: Result<Table, Corrupt>) -> &'static str {
    match result {
        Err(Corrupt::Rule { rule, .. }) => rule,
        other => panic!("a broken rule, not {other:?}"),
    }
}

proptest! {
    #[test]
    fn a_table_round_trips_whatever_the_order(rows in prop::collection::hash_set(any::<u8>(), 0..40)) {
        let rows: Vec<u8> = rows.into_iter().collect();
        let made = table(&rows);
        prop_assert_eq!(Table::parse(&made.encode()), Ok(made.clone()));
        for row in 0..=255 {
            let found = made.find(&ObjectId::from_bytes([row; 16]));
            prop_assert_eq!(found.is_some(), rows.contains(&row));
            prop_assert_eq!(found.and_then(|r| made.wrap(r)), found.map(|_| &b"an age file"[..]));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Table::parse(&bytes);
    }
}

#[test]
fn every_cut_is_an_error() {
    let bytes = table(&[1, 2, 3]).encode();
    for cut in 0..bytes.len() {
        assert!(Table::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [bytes, vec![0]].concat();
    assert_eq!(Table::parse(&longer), Err(Corrupt::Trailing { what: WHAT }));
}

#[test]
fn huge_counts_do_not_allocate() {
    for (refs, wraps) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX)] {
        let bytes = [refs.to_le_bytes(), wraps.to_le_bytes()].concat();
        assert_eq!(Table::parse(&bytes), Err(Corrupt::Truncated { what: WHAT }));
    }
    let mut bytes = Table::default().encode();
    bytes[table::WRAPS.start] = 1;
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Table::parse(&bytes), Err(Corrupt::TooLong { .. })));
}

#[test]
fn every_rule_is_enforced_on_making_and_on_reading() {
    let broken = |change: fn(&mut Reference)| {
        let mut row = reference(1);
        change(&mut row);
        let raw = Table { refs: vec![row.clone()], wraps: vec![vec![]] };
        let read = rule(Table::parse(&raw.encode()));
        assert_eq!(read, rule(Table::new(vec![row], vec![vec![]])));
        read
    };
    assert_eq!(broken(|r| r.wrap = 1), "every reference names a wrap of the table");
    assert_eq!(broken(|r| r.kind = ObjectType::Mark), "frames lie in packs and log objects");
    assert_eq!(broken(|r| r.live_units = 6), "no more units live than the object has");
    assert_eq!(broken(|r| r.stored = u64::MAX), "no object is longer than objects can be");
    let twice = Table { refs: vec![reference(1), reference(1)], wraps: vec![vec![]] };
    let unsorted = Table { refs: vec![reference(2), reference(1)], wraps: vec![vec![]] };
    for table in [twice, unsorted] {
        assert_eq!(rule(Table::parse(&table.encode())), "objects are sorted and named once");
    }
}

#[test]
fn reserved_bytes_are_zero() {
    let mut bytes = table(&[1]).encode();
    bytes[table::LEN + reference::ZERO.start] = 1;
    assert_eq!(Table::parse(&bytes), Err(Corrupt::Reserved { what: WHAT }));
}
