use super::*;
use std::sync::atomic::{AtomicU8, Ordering};

/// Counts up: every call gives other bytes, and a failing test is the same every time.
struct Counting(AtomicU8);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0.fetch_add(1, Ordering::Relaxed));
    }
}

struct World {
    sealer: Sealer,
    unsealer: Unsealer,
    random: Counting,
}

fn world() -> World {
    let random = Counting(AtomicU8::new(1));
    let identity = MasterIdentity::generate();
    let sealer = Sealer::new(RepoId::from_bytes([7; 16]), &identity.master(), &random);
    World { sealer, unsealer: Unsealer::new(identity), random }
}

fn pack(world: &World, frames: &[&[u8]], last: &[u8]) -> SealedObject {
    let new = NewObject {
        kind: ObjectType::Pack,
        id: ObjectId::from_bytes(seams::fresh(&world.random)),
        facts: b"",
        table: b"",
        signed: None,
    };
    let mut builder = world.sealer.begin(new, &world.random);
    for frame in frames {
        builder.push(Compressor::new().compress(frame), frame.len());
    }
    builder.finish(last, |_| unreachable!("packs are not signed"))
}

fn open(world: &World, object: &object::Object<'_>, at: usize, last: bool) -> Result<Vec<u8>, SealError> {
    let place = object.frames[at];
    let expected = Expected { frame: place.frame, raw: place.raw, last };
    world.unsealer.open(&object.front.header)?.open(expected, object.frame(&place)?)
}

#[test]
fn frames_open_to_what_was_sealed() {
    let world = world();
    let sealed = pack(&world, &[b"one", b"two"], b"directory");
    let object = object::Object::parse(&sealed.bytes).expect("our own object");
    let opened: Vec<_> = (0..3).map(|at| open(&world, &object, at, at == 2).expect("opens")).collect();
    assert_eq!(opened, [&b"one"[..], b"two", b"directory"]);
}

/// What a longer frame left in the memory is no part of a shorter one, nor of one that is damaged.
#[test]
fn memory_that_is_kept_shows_nothing_of_the_frame_before() {
    let world = world();
    let (long, short) = (vec![7; 9000], b"short");
    let sealed = pack(&world, &[&long, short, &[], &long], b"directory");
    let object = object::Object::parse(&sealed.bytes).expect("our own object");
    let opener = world.unsealer.open(&object.front.header).expect("opens");
    let mut memory = FrameMemory::default();
    for (at, wanted) in [(0, &long[..]), (1, short), (2, &[]), (3, &long)] {
        let place = object.frames[at];
        let expected = Expected { frame: place.frame, raw: place.raw, last: false };
        let frame = object.frame(&place).expect("inside");
        assert_eq!(opener.open_in(&mut memory, expected, frame).expect("opens"), wanted);
        let mut damaged = frame.to_vec();
        damaged[0] ^= 1;
        let tag = opener.open_in(&mut memory, expected, &damaged);
        assert!(matches!(tag, Err(SealError::Tag { .. })));
        let cut = opener.open_in(&mut memory, expected, &frame[..7]);
        assert!(matches!(cut, Err(SealError::Tag { .. })));
        // A frame that holds more or less than its place says.
        for raw in [place.raw + 1, place.raw.saturating_sub(1)].into_iter().filter(|raw| *raw != place.raw) {
            let wrong = opener.open_in(&mut memory, Expected { raw, ..expected }, frame);
            assert!(matches!(wrong, Err(SealError::Compression { .. })), "{raw} for {}", place.raw);
        }
    }
}

#[test]
fn a_header_rebuilt_from_the_table_opens_the_same_frames() {
    let world = world();
    let sealed = pack(&world, &[b"one"], b"directory");
    let object = object::Object::parse(&sealed.bytes).expect("our own object");
    let sealed_as = SealedAs { kind: ObjectType::Pack, id: sealed.id, salt: &sealed.salt, wrap: world.sealer.wrap() };
    let opener = world.unsealer.open_unread(RepoId::from_bytes([7; 16]), sealed_as).expect("opens");
    let place = object.frames[0];
    let expected = Expected { frame: 0, raw: place.raw, last: false };
    assert_eq!(opener.open(expected, object.frame(&place).expect("inside")).expect("opens"), b"one");
}

#[test]
fn the_last_frame_flag_is_part_of_the_tag() {
    let world = world();
    let sealed = pack(&world, &[b"one"], b"directory");
    let object = object::Object::parse(&sealed.bytes).expect("our own object");
    assert!(matches!(open(&world, &object, 0, true), Err(SealError::Tag { frame: 0 })));
    assert!(matches!(open(&world, &object, 1, false), Err(SealError::Tag { frame: 1 })));
}

#[test]
fn frames_cannot_trade_places_or_objects() {
    let world = world();
    let (a, b) = (pack(&world, &[b"one", b"two"], b"end"), pack(&world, &[b"one", b"two"], b"end"));
    let (a, b) = (object::Object::parse(&a.bytes).expect("ours"), object::Object::parse(&b.bytes).expect("ours"));
    let opener = world.unsealer.open(&a.front.header).expect("opens");
    let expected = Expected { frame: 0, raw: 3, last: false };
    for foreign in [a.frame(&a.frames[1]), b.frame(&b.frames[0])] {
        let result = opener.open(expected, foreign.expect("inside"));
        assert!(matches!(result, Err(SealError::Tag { frame: 0 })));
    }
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let (ours, theirs) = (world(), world());
    let sealed = pack(&ours, &[], b"end");
    let object = object::Object::parse(&sealed.bytes).expect("ours");
    assert!(matches!(theirs.unsealer.open(&object.front.header), Err(SealError::WrongKey)));

    let mut header = object.front.header.clone();
    header.seal.as_mut().expect("sealed").commitment[0] ^= 1;
    assert!(matches!(ours.unsealer.open(&header), Err(SealError::Commitment)));

    let mut header = object.front.header.clone();
    let wrap = &mut header.seal.as_mut().expect("sealed").wrap;
    let end = wrap.len() - 1;
    wrap[end] ^= 1;
    assert!(matches!(ours.unsealer.open(&header), Err(SealError::Wrap { .. })));
}

#[test]
fn two_objects_of_one_run_never_share_a_salt() {
    let world = world();
    let (a, b) = (pack(&world, &[], b"end"), pack(&world, &[], b"end"));
    assert_ne!(a.salt, b.salt);
    assert_ne!(a.bytes, b.bytes);
}

#[test]
fn a_frame_that_decompresses_to_more_than_it_should_is_refused() {
    let world = world();
    let sealed = pack(&world, &[&vec![0; 1 << 20]], b"directory");
    let object = object::Object::parse(&sealed.bytes).expect("our own object");
    let opener = world.unsealer.open(&object.front.header).expect("opens");
    let bomb = object.frame(&object.frames[0]).expect("inside");
    let opened = opener.open(Expected { frame: 0, raw: 100, last: false }, bomb);
    assert!(matches!(opened, Err(SealError::Compression { frame: 0, raw: 100 })));
}
