use super::*;

fn ours(frames: u32) -> IndexHeader {
    let mut words = [0; INDEX_HEADER_WORDS];
    words[FRAMES_WORD] = frames;
    words[SALT_WORD] = 1;
    IndexHeader::of_words(&words)
}

fn live(backfilled: u32, salt: u8) -> Live {
    let mut salts = ours(0).salts;
    salts.0[7] = salt;
    Live { backfilled, salts }
}

#[test]
fn every_case_of_the_proof_is_decided() {
    let overlay = |frames| Placement::Overlay { frames };
    let cases = [
        ("no log at all", None, None, Placement::MainOnly),
        ("a log begun after us", None, Some(live(0, 9)), Placement::MainOnly),
        ("an empty log", Some(ours(0)), Some(live(0, 0)), Placement::MainOnly),
        ("nothing copied back", Some(ours(5)), Some(live(0, 0)), overlay(5)),
        ("partly copied back", Some(ours(5)), Some(live(4, 0)), overlay(5)),
        ("all copied back", Some(ours(5)), Some(live(5, 0)), Placement::MainOnly),
        ("restarted under slot 0", Some(ours(5)), Some(live(0, 9)), Placement::MainOnly),
        ("no index to see", Some(ours(5)), None, overlay(5)),
    ];
    for (case, ours, live, want) in cases {
        assert_eq!(decide(ours.as_ref(), live.as_ref()), want, "{case}");
    }
}

#[test]
fn a_lost_hold_shows_in_the_live_index() {
    let overlay = Placement::Overlay { frames: 5 };
    let cases = [
        ("appended to, and copied back up to the mark", Some(ours(5)), overlay, Some(live(5, 0)), true),
        ("copied back past the mark", Some(ours(5)), overlay, Some(live(6, 0)), false),
        ("restarted although frames were held", Some(ours(5)), overlay, Some(live(0, 9)), false),
        ("restarted under slot 0", Some(ours(5)), Placement::MainOnly, Some(live(0, 9)), true),
        ("a checkpoint although slot 0 was held", Some(ours(5)), Placement::MainOnly, Some(live(1, 9)), false),
        ("a checkpoint of a log that was empty", None, Placement::MainOnly, Some(live(1, 9)), false),
        ("a log begun under us", None, Placement::MainOnly, Some(live(0, 9)), true),
        ("no index to see", Some(ours(5)), overlay, None, true),
    ];
    for (case, ours, placement, live, want) in cases {
        assert_eq!(held(ours.as_ref(), placement, live.as_ref()), want, "{case}");
    }
}

#[test]
fn the_largest_page_size_is_told_by_its_lowest_bit() {
    let size = |raw: u16| {
        let [low, high] = raw.to_ne_bytes();
        let mut words = [0; INDEX_HEADER_WORDS];
        words[PAGE_SIZE_WORD] = u32::from_ne_bytes([1, 0, low, high]);
        IndexHeader::of_words(&words).wal_pin().map(|pin| pin.page_size.get())
    };
    assert_eq!(size(4096), Ok(4096));
    assert_eq!(size(1), Ok(65_536));
    assert_eq!(size(0), Err(BadPageSize(0)));
}

#[test]
fn a_header_that_was_being_written_is_not_whole() {
    let mut words = [7; INDEX_HEADER_WORDS];
    let mut sum = (0_u32, 0_u32);
    for _ in 0..5 {
        sum.0 += 7 + sum.1;
        sum.1 += 7 + sum.0;
    }
    (words[10], words[11]) = sum;
    assert!(is_whole(&words));
    for at in 0..INDEX_HEADER_WORDS {
        let mut torn = words;
        torn[at] += 1;
        assert!(!is_whole(&torn), "word {at}");
    }
}
