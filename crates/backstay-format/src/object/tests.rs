//! Objects against every cut, every flipped byte, and every claim a header can make.

use super::*;
use proptest::prelude::*;

fn header(kind: ObjectType, wrap: &[u8]) -> Header {
    let mut header = Header::new(kind, RepoId::from_bytes([1; 16]), ObjectId::from_bytes([2; 16]));
    if kind.flags() & layout::FLAG_SEALED != 0 {
        header.seal = Some(Seal { salt: [3; 32], commitment: [4; 32], wrap: wrap.to_vec() });
    }
    if kind.flags() & layout::FLAG_SIGNED != 0 {
        let signed = Signed {
            signer: SignerKey::from_bytes([5; 32]),
            sequence: Sequence::new(6),
            previous: Digest::from_bytes([7; 32]),
        };
        header.signed = Some(signed);
    }
    header
}

/// A stand-in for a signature that depends on every byte of the message.
fn sign(message: &[u8]) -> [u8; 64] {
    let digest = digest(message);
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(digest.as_bytes());
    signature
}

fn build(kind: ObjectType, facts: &[u8], table: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = Builder::new(header(kind, b"an age file"), facts, table);
    for frame in frames {
        builder.push(frame, frame.len() as u32 * 2);
    }
    builder.finish(sign)
}

fn sample(kind: ObjectType) -> Vec<u8> {
    let flags = kind.flags();
    let facts: &[u8] = if flags & layout::FLAG_SIGNED == 0 { b"" } else { br#"{"a":1}"# };
    let table: &[u8] = if kind == ObjectType::Manifest { b"the table" } else { b"" };
    let frames = if flags & layout::FLAG_SEALED == 0 { vec![] } else { vec![vec![8; 40], vec![9; 3]] };
    build(kind, facts, table, &frames)
}

/// Parses and checks the stand-in signature, as whoever reads an object does.
fn verified(bytes: &[u8]) -> Result<Object<'_>, String> {
    let object = Object::parse(bytes).map_err(|e| e.to_string())?;
    match object.front.signed_message() {
        Some((message, signature)) if sign(&message) != *signature => Err("signature".to_owned()),
        _ => Ok(object),
    }
}

/// Rewrites the header's check after a change, as a forger without keys can.
fn recheck(bytes: &mut [u8]) {
    let wrap_len = bytes[header::WRAP_LEN].try_into().map(u32::from_le_bytes).expect("four bytes") as usize;
    let wrap = bytes[header::LEN..].get(..wrap_len).unwrap_or_default().to_vec();
    let check = header_check(&bytes[..header::LEN], &wrap);
    bytes[header::CHECK].copy_from_slice(&check);
}

proptest! {
    #[test]
    fn a_manifest_round_trips(
        facts in prop::collection::vec(any::<u8>(), 0..200),
        table in prop::collection::vec(any::<u8>(), 0..200),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
    ) {
        let bytes = build(ObjectType::Manifest, &facts, &table, &frames);
        let object = verified(&bytes).expect("our own object");
        prop_assert_eq!(object.front.facts, facts);
        prop_assert_eq!(object.table, table);
        prop_assert_eq!(object.frames.len(), frames.len());
        for (place, frame) in object.frames.iter().zip(&frames) {
            prop_assert_eq!(object.frame(place), Ok(frame.as_slice()));
            prop_assert_eq!(place.raw as usize, frame.len() * 2);
        }
        let front = Front::parse(&bytes[..object.front.header.front_len()]);
        prop_assert_eq!(front, Ok(object.front));
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_header_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let start = sample(ObjectType::Manifest);
        let keep = bytes.len().min(header::LEN);
        bytes[..keep].copy_from_slice(&start[..keep]);
        let _ = Object::parse(&bytes);
    }
}

#[test]
fn every_type_round_trips_and_refuses_to_be_another() {
    for kind in ObjectType::ALL {
        let bytes = sample(kind);
        let object = verified(&bytes).expect("our own object");
        assert_eq!(object.front.header.kind, kind);
        assert_eq!(Header::parse(&bytes).map(|h| h.encode()), Ok(bytes[..object.front.header.encoded_len()].to_vec()));
        for other in ObjectType::ALL.into_iter().filter(|other| *other != kind) {
            assert!(matches!(object.front.header.clone().expect(other), Err(Corrupt::WrongType { .. })));
        }
    }
}

#[test]
fn every_cut_and_every_added_byte_is_an_error() {
    for kind in ObjectType::ALL {
        let bytes = sample(kind);
        for cut in 0..bytes.len() {
            assert!(Object::parse(&bytes[..cut]).is_err(), "{kind:?} cut at {cut}");
        }
        for at in 0..=bytes.len() {
            let mut longer = bytes.clone();
            longer.insert(at, 0);
            assert!(verified(&longer).is_err(), "{kind:?} with a byte more at {at}");
        }
    }
}

/// A pack carries no signature: its frames and their raw lengths are under the digest that every
/// manifest has of it. Everything else of every object must show a flipped bit by itself.
#[test]
fn every_flipped_bit_is_noticed() {
    for kind in ObjectType::ALL {
        let bytes = sample(kind);
        let object = verified(&bytes).expect("our own object");
        let frames = object.frames.first().map_or(0..0, |first| {
            let last = object.frames.last().expect("there is a first");
            first.offset as usize..last.range().end as usize
        });
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let index_at = at.wrapping_sub(frames.end);
                let raw = index_at < object.frames.len() * index::LEN && index::RAW.contains(&(index_at % index::LEN));
                if object.front.signature.is_none() && (frames.contains(&at) || raw) {
                    continue;
                }
                assert!(verified(&flipped).is_err(), "{kind:?}: bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn a_header_from_the_future_is_named_as_such() {
    let bytes = sample(ObjectType::Manifest);
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        recheck(&mut bytes);
        Object::parse(&bytes).map(|_| ())
    };
    assert_eq!(changed(header::VERSION.start, 2), Err(Corrupt::Version { found: 2 }));
    assert_eq!(changed(header::TYPE.start, 12), Err(Corrupt::Type { found: 12 }));
    assert_eq!(changed(header::TYPE.start, 0), Err(Corrupt::Type { found: 0 }));
    assert_eq!(changed(header::FLAGS.start, 7), Err(Corrupt::Flags { found: 7 }));
    assert_eq!(changed(header::FLAGS.start, 2), Err(Corrupt::Flags { found: 2 }));
    assert_eq!(changed(header::INCOMPATIBLE.start, 1), Err(Corrupt::Features { bits: 1 }));
    assert_eq!(changed(header::READ_COMPATIBLE.start + 3, 0x80), Err(Corrupt::Features { bits: 0x8000_0000 }));
    let mut conf = sample(ObjectType::Conf);
    conf[header::READ_COMPATIBLE.start] = 2;
    recheck(&mut conf);
    assert_eq!(Object::parse(&conf).map(|conf| conf.front.header.read_compatible), Ok(2));
    assert_eq!(changed(header::ZERO.start, 1), Err(Corrupt::Reserved { what: "the object's header" }));
    assert_eq!(changed(header::COMPATIBLE.start, 1), Ok(()));
}

#[test]
fn compatible_features_survive_reading_because_the_digest_covers_them() {
    let mut bytes = sample(ObjectType::Mark);
    bytes[header::COMPATIBLE.start] = 9;
    recheck(&mut bytes);
    let front = Front::parse(&bytes).expect("a later build may say more");
    assert_eq!(digest(&front.header.encode()), front.header_digest);
}

#[test]
fn an_unsigned_object_can_claim_nothing() {
    let pack = sample(ObjectType::Pack);
    let wrong = |mut bytes: Vec<u8>, at: Range<usize>| {
        bytes[at.start] = 1;
        recheck(&mut bytes);
        Header::parse(&bytes)
    };
    let reserved = Err(Corrupt::Reserved { what: "the object's header" });
    for field in [header::SIGNER, header::SEQUENCE, header::PREVIOUS, header::FACTS_LEN, header::TABLE_LEN] {
        assert_eq!(wrong(pack.clone(), field), reserved);
    }
    assert_eq!(wrong(pack, header::COMPATIBLE), reserved);
    for field in [header::SALT, header::COMMITMENT, header::WRAP_LEN] {
        assert_eq!(wrong(sample(ObjectType::Mark), field), reserved);
    }
    let bare = header(ObjectType::Pack, b"").encode();
    assert!(matches!(Header::parse(&bare), Err(Corrupt::Rule { .. })));
}

#[test]
fn impossible_lengths_are_refused_before_anything_is_allocated() {
    let claim = |field: Range<usize>, kind| {
        let mut bytes = sample(kind);
        bytes[field].copy_from_slice(&u32::MAX.to_le_bytes());
        recheck(&mut bytes);
        Object::parse(&bytes).map(|_| ())
    };
    for field in [header::WRAP_LEN, header::FACTS_LEN, header::TABLE_LEN] {
        assert!(matches!(claim(field, ObjectType::Manifest), Err(Corrupt::TooLong { .. })));
    }
    let mut bytes = sample(ObjectType::Pack);
    let trailer_at = bytes.len() - trailer::LEN;
    bytes[trailer_at + trailer::FRAME_COUNT.start..trailer_at + trailer::FRAME_COUNT.end].fill(0xff);
    assert_eq!(Object::parse(&bytes), Err(Corrupt::Length { what: "the frame index" }));
    bytes[trailer_at..trailer_at + trailer::FRAMES_LEN.end].fill(0xff);
    assert_eq!(Object::parse(&bytes), Err(Corrupt::Length { what: "the frame index" }));
}

#[test]
fn frames_know_their_place() {
    let header = Digest::from_bytes([9; 32]);
    let contexts = [(0, false), (0, true), (1, false), (256, false)].map(|(n, last)| frame_context(&header, n, last));
    for (at, context) in contexts.iter().enumerate() {
        assert_eq!(&context[..32], header.as_bytes());
        assert!(contexts[at + 1..].iter().all(|other| other != context));
    }
    assert_eq!(frame_context(&header, 0x0403_0201, true)[32..], [1, 2, 3, 4, 1]);
    assert_eq!(frame_nonce(0x0403_0201), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_spec_pages_spell_what_is_derived_from_and_signed() {
    let keys = include_str!("../../../../docs/formats/keys.md");
    let page = include_str!("../../../../docs/formats/object.md");
    let context = key_context(&header(ObjectType::Pack, b"w"));
    assert!(keys.contains("the 18 bytes `backstay v1 object`"));
    assert_eq!(context[..18], *b"backstay v1 object");
    assert_eq!(context[18..], [[1; 16].as_slice(), &[4], &[2; 16]].concat());
    let digests = [10, 11, 12, 13].map(|b| Digest::from_bytes([b; 32]));
    let message = signing_message(&digests[0], &digests[1], &digests[2], &digests[3]);
    assert!(page.contains("The message is 150 bytes: the 22 bytes `backstay v1 signature` with a line feed"));
    assert_eq!((message.len(), &message[..22]), (150, &b"backstay v1 signature\n"[..]));
    assert_eq!((message[22], message[54], message[86], message[118]), (10, 11, 12, 13));
    for kind in ObjectType::ALL {
        assert!(page.contains(&format!("| {} | {} |", kind.word().split_once(' ').expect("an article").1, kind as u8)));
    }
}
