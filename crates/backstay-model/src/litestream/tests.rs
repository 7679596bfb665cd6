use super::*;

fn file((level, min, max): (u8, u64, u64)) -> LtxFile {
    LtxFile { level, min, max }
}

fn lead(files: &[(u8, u64, u64)], wanted: Option<u64>) -> Result<Vec<(u8, u64, u64)>, NoChain> {
    let files: Vec<LtxFile> = files.iter().copied().map(file).collect();
    chain(&files, wanted).map(|chain| chain.iter().map(|file| (file.level, file.min, file.max)).collect())
}

/// As a replica looks after a while: a snapshot, what was put together, and what is new.
const USUAL: [(u8, u64, u64); 8] =
    [(0, 8, 8), (0, 9, 9), (0, 10, 10), (1, 1, 1), (1, 2, 5), (1, 6, 9), (2, 2, 9), (9, 1, 5)];

#[test]
fn the_last_state_is_reached_with_the_fewest_files() {
    assert_eq!(lead(&USUAL, None), Ok(vec![(9, 1, 5), (2, 2, 9), (0, 10, 10)]));
    assert_eq!(lead(&[(9, 1, 4)], None), Ok(vec![(9, 1, 4)]));
}

#[test]
fn an_earlier_state_is_reached_where_a_file_ends_with_it() {
    assert_eq!(lead(&USUAL, Some(9)), Ok(vec![(9, 1, 5), (2, 2, 9)]));
    assert_eq!(lead(&USUAL, Some(5)), Ok(vec![(9, 1, 5)]));
    assert_eq!(lead(&USUAL, Some(1)), Ok(vec![(1, 1, 1)]));
    assert_eq!(lead(&USUAL, Some(3)), Err(NoChain::Inside { wanted: 3, before: 1 }));
    assert_eq!(lead(&USUAL, Some(11)), Err(NoChain::Ends { wanted: 11, last: 10 }));
}

#[test]
fn a_hole_is_named_and_never_jumped_over() {
    assert_eq!(lead(&[(9, 1, 5), (0, 8, 8), (0, 9, 9)], None), Err(NoChain::Gap { first: 6, last: 7 }));
    assert_eq!(lead(&[(9, 1, 5), (0, 8, 8), (0, 9, 9)], Some(8)), Err(NoChain::Gap { first: 6, last: 7 }));
    assert_eq!(lead(&[(0, 2, 2)], None), Err(NoChain::NoSnapshot { upto: None }));
    assert_eq!(lead(&[], Some(4)), Err(NoChain::NoSnapshot { upto: Some(4) }));
}

#[test]
fn a_time_means_the_last_transaction_that_was_made_by_then() {
    let moment = |millis: i64| Moment::from_millis(millis).expect("a moment");
    let written = |files: &[((u8, u64, u64), i64)]| -> Vec<(LtxFile, Moment)> {
        files.iter().map(|(known, millis)| (file(*known), moment(*millis))).collect()
    };
    // A snapshot is written later than its last transaction.
    let usual = written(&[
        ((0, 1, 1), 10),
        ((0, 2, 2), 20),
        ((1, 1, 2), 20),
        ((9, 1, 2), 35),
        ((0, 3, 3), 30),
        ((1, 4, 6), 60),
    ]);
    for (at, txid) in [(10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (59, 3), (60, 6), (999, 6)] {
        assert_eq!(newest_at(&usual, moment(at)), Ok(txid), "{at}");
    }
    let early = NoChain::BeforeFirst { at: moment(9), oldest: moment(10) };
    assert_eq!(newest_at(&usual, moment(9)), Err(early));
    // The clock went back between the second and the third.
    let back = written(&[((0, 1, 1), 10), ((0, 2, 2), 50), ((0, 3, 3), 20), ((0, 4, 4), 60)]);
    for (at, txid) in [(20, 1), (49, 1), (50, 3), (60, 4)] {
        assert_eq!(newest_at(&back, moment(at)), Ok(txid), "{at}");
    }
    assert_eq!(newest_at(&[], moment(9)), Err(NoChain::NoSnapshot { upto: None }));
}
