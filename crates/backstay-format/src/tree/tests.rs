//! Leaves and nodes: round trips, every cut, every way to leave a gap or to point outside.

use super::*;
use proptest::prelude::*;

fn object(byte: u8) -> ObjectId {
    ObjectId::from_bytes([byte; 16])
}

/// A frame that holds 64 units of 4096 bytes.
fn place(frame: u32) -> FramePlace {
    FramePlace { frame, offset: 500 + frame * 1000, stored: 1000, raw: 64 * 4096 }
}

fn run(first: u16, count: u16, byte: u8) -> Run {
    Run { first, count, object: object(byte), slot: 0, place: place(u32::from(first)) }
}

fn leaf(runs: Vec<Run>) -> Leaf {
    Leaf::new(runs).expect("a legal leaf")
}

fn unit(size: u32) -> UnitSize {
    UnitSize::try_from(size).expect("a legal unit")
}

fn child(byte: u8) -> NodeRef {
    NodeRef { object: object(byte), place: place(u32::from(byte)), at: 100, len: 200 }
}

/// Encodes runs as they are, past the constructor's checks.
fn forged(runs: Vec<Run>) -> Result<Leaf, Corrupt> {
    Leaf::parse(&Leaf { runs }.encode())
}

fn breaks_a_rule<T: std::fmt::Debug>(result: Result<T, Corrupt>) -> bool {
    matches!(result, Err(Corrupt::Rule { .. }))
}

prop_compose! {
    fn any_leaf()(counts in prop::collection::vec((1u16..=64, 0u8..4), 1..8)) -> Leaf {
        let mut first = 0;
        leaf(counts.into_iter().map(|(count, byte)| {
            let next = run(first, count, byte);
            first += count;
            next
        }).collect())
    }
}

proptest! {
    #[test]
    fn a_leaf_round_trips_and_finds_every_unit(leaf in any_leaf()) {
        prop_assert_eq!(Leaf::parse(&leaf.encode()), Ok(leaf.clone()));
        for unit in 0..leaf.units() {
            let (run, slot) = leaf.find(unit).expect("the leaf covers it");
            prop_assert!(run.first <= unit && unit - run.first == slot - run.slot);
        }
        prop_assert!(leaf.find(leaf.units()).is_none());
        prop_assert!(leaf.find(u16::MAX).is_none());
    }

    #[test]
    fn a_leaf_notices_every_cut(leaf in any_leaf(), cut in any::<prop::sample::Index>()) {
        let bytes = leaf.encode();
        prop_assert!(Leaf::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_node_round_trips_and_notices_every_cut(
        children in prop::collection::vec(any::<u8>(), 1..=512),
        level in 1..=LEVELS_MAX,
        cut in any::<prop::sample::Index>(),
    ) {
        let node = Node { level, children: children.into_iter().map(child).collect() };
        let bytes = node.encode();
        prop_assert_eq!(Node::parse(&bytes), Ok(node));
        prop_assert!(Node::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Leaf::parse(&bytes), Node::parse(&bytes));
    }

    /// Whatever one flipped byte makes of a leaf, it still covers its units exactly.
    #[test]
    fn a_damaged_leaf_is_refused_or_still_whole(leaf in any_leaf(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = leaf.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Leaf::parse(&bytes) {
            prop_assert!((0..read.units()).all(|unit| read.find(unit).is_some()));
            prop_assert_eq!(read.encode().len(), bytes.len());
        }
    }
}

#[test]
fn neighbours_that_continue_each_other_are_one_run() {
    let second = Run { first: 10, slot: 10, ..run(0, 20, 1) };
    let joined = leaf(vec![run(0, 10, 1), second]);
    assert_eq!(joined.runs(), [run(0, 30, 1)]);
    let moved = Run { slot: 11, ..second };
    assert_eq!(leaf(vec![run(0, 10, 1), moved]).runs().len(), 2);
}

#[test]
fn joining_runs_of_impossible_length_is_an_error_and_not_an_overflow() {
    let long = Run { first: 0, count: 60_000, slot: 0, ..run(0, 1, 1) };
    let more = Run { first: 60_000, count: 60_000, slot: 60_000, ..long };
    assert!(breaks_a_rule(Leaf::new([long, more])));
}

#[test]
fn gaps_overlaps_and_strays_are_refused() {
    let cases = [
        vec![],
        vec![run(1, 10, 1)],
        vec![run(0, 0, 1)],
        vec![run(0, 10, 1), run(11, 10, 2)],
        vec![run(0, 10, 1), run(9, 10, 2)],
        vec![run(0, 10, 1), run(0, 10, 2)],
        vec![Run { slot: 60, ..run(0, 10, 1) }],
        vec![Run { slot: u16::MAX, ..run(0, 10, 1) }],
        vec![Run { place: FramePlace { raw: u32::MAX, ..place(0) }, ..run(0, 1, 1) }],
        vec![Run { place: FramePlace { raw: 0, ..place(0) }, ..run(0, 1, 1) }],
        vec![Run { place: FramePlace { stored: 0, ..place(0) }, ..run(0, 1, 1) }],
        vec![Run { place: FramePlace { stored: u32::MAX, ..place(0) }, ..run(0, 1, 1) }],
        vec![Run { place: FramePlace { offset: u32::MAX, ..place(0) }, ..run(0, 1, 1) }],
        (0..9).map(|n| run(n * 64, 64, n as u8)).collect(),
    ];
    for runs in cases {
        assert!(breaks_a_rule(forged(runs.clone())), "{runs:?}");
        assert!(breaks_a_rule(Leaf::new(runs)));
    }
    assert_eq!(forged((0..8).map(|n| run(n * 64, 64, n as u8)).collect()).map(|l| l.units()), Ok(512));
}

#[test]
fn counts_that_promise_more_than_there_is_do_not_allocate() {
    for at in [leaf::OBJECTS, leaf::RUNS] {
        let mut bytes = leaf(vec![run(0, 10, 1)]).encode();
        bytes[at].fill(0xff);
        assert!(Leaf::parse(&bytes).is_err());
    }
}

#[test]
fn a_short_last_unit_lies_inside_its_frame() {
    let short = |raw| Run { place: FramePlace { raw, ..place(0) }, ..run(0, 2, 1) };
    assert!(forged(vec![short(4097)]).is_ok());
    assert!(breaks_a_rule(forged(vec![short(4096)])));
    let leaf = leaf(vec![short(4097)]);
    assert_eq!(leaf.check_shape(2, unit(4096)), Ok(()));
    assert!(breaks_a_rule(leaf.check_shape(2, unit(8192))));
    assert!(breaks_a_rule(leaf.check_shape(3, unit(4096))));
}

#[test]
fn a_nodes_own_list_of_objects_is_sorted_and_names_each_once() {
    let bytes = leaf(vec![run(0, 10, 1), run(10, 10, 2)]).encode();
    let ids = leaf::LEN..leaf::LEN + 32;
    for wrong in [[[2; 16], [1; 16]], [[1; 16], [1; 16]]] {
        let mut bytes = bytes.clone();
        bytes[ids.clone()].copy_from_slice(wrong.as_flattened());
        assert!(breaks_a_rule(Leaf::parse(&bytes)));
    }
}

#[test]
fn a_node_refuses_what_it_cannot_be() {
    let node = |level, children| Node::parse(&Node { level, children }.encode());
    assert!(breaks_a_rule(node(0, vec![child(1)])));
    assert!(breaks_a_rule(node(LEVELS_MAX + 1, vec![child(1)])));
    assert!(breaks_a_rule(node(1, vec![])));
    assert!(breaks_a_rule(node(1, vec![child(1); FAN_OUT + 1])));
    assert!(breaks_a_rule(node(1, vec![NodeRef { len: 0, ..child(1) }])));
    assert!(breaks_a_rule(node(1, vec![NodeRef { at: 64 * 4096 - 199, ..child(1) }])));
    assert!(breaks_a_rule(node(1, vec![NodeRef { at: u32::MAX, len: u32::MAX, ..child(1) }])));
    assert!(node(1, vec![NodeRef { at: 64 * 4096 - 200, ..child(1) }]).is_ok());
    let mut bytes = Node { level: 1, children: vec![child(1)] }.encode();
    bytes[node::ZERO].fill(1);
    assert_eq!(Node::parse(&bytes), Err(Corrupt::Reserved { what: NODE }));
}

#[test]
fn a_node_has_the_children_its_units_need() {
    let node = |level, count| Node { level, children: vec![child(1); count] };
    for (level, units, count) in [(1, 513, 2), (1, 1024, 2), (1, 1025, 3), (1, 512 * 512, 512), (2, 512 * 512 + 1, 2)] {
        assert_eq!(node(level, count).check_shape(level, units), Ok(()), "{units}");
        assert!(breaks_a_rule(node(level, count).check_shape(level, units + 512 * 512)));
        assert!(breaks_a_rule(node(level, count).check_shape(level + 1, units)));
    }
}

#[test]
fn depth_follows_from_the_number_of_units() {
    let deepest = (FAN_OUT as u64).pow(5);
    let cases =
        [(0, 0), (1, 0), (512, 0), (513, 1), (512 * 512, 1), (512 * 512 + 1, 2), (deepest, 4), (deepest + 1, 5)];
    for (units, levels) in cases {
        assert_eq!(levels_for(units), levels, "{units}");
    }
}
