//! One value of each structure, always the same: what the golden files hold.

use backstay_format::bundle;
use backstay_format::directory::{self, Holding};
use backstay_format::facts::{
    self, After, Condemned, CondemnedSlots, CondemnedSnapshot, Conf, Engine, Enrolment, EnrolmentRequest, Head, Lease,
    Log, Manifest, Opening, OpeningFrame, OpeningPage, Prune, PrunedSource, PrunedStream, Recipient, Retired,
    Rewritten, Role, RollUp, Signer, Span, SpanEnd, StoreAbilities, Stream, Until, Wrapped,
};
use backstay_format::log::{self, Part, Record};
use backstay_format::object::{Builder, Digest, FramePlace, Seal, Signed};
use backstay_format::table::{Reference, Table};
use backstay_format::tree::{Leaf, Node, NodeRef, Run};
use backstay_format::{Fingerprint, Header, ObjectType};
use backstay_model::catalog::{Keep, Quality};
use backstay_model::{
    BranchNo, ByteLen, Generation, Moment, ObjectId, Onward, PageSize, Position, Ranges, RepoId, Sequence, SignerKey,
    StreamId, Tx,
};

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/v1");

fn header(kind: ObjectType) -> Header {
    let mut header = Header::new(kind, RepoId::from_bytes([0x5e; 16]), ObjectId::from_bytes([0x0b; 16]));
    if matches!(kind, ObjectType::Pack | ObjectType::Manifest | ObjectType::Log | ObjectType::RollUp) {
        header.seal = Some(Seal { salt: [0x5a; 32], commitment: [0xc0; 32], wrap: b"a wrapped data key".to_vec() });
    }
    if kind != ObjectType::Pack {
        header.signed = Some(Signed {
            signer: SignerKey::from_bytes([0x51; 32]),
            sequence: Sequence::new(0x0102_0304_0506_0708),
            previous: Digest::from_bytes([0x9e; 32]),
        });
    }
    header
}

fn object(kind: ObjectType, facts: &[u8], table: &[u8], frames: &[&[u8]]) -> Vec<u8> {
    let mut builder = Builder::new(header(kind), facts, table);
    for frame in frames {
        builder.push(frame, 4096);
    }
    builder.finish(|message| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(backstay_format::object::digest(message).as_bytes());
        signature
    })
}

fn place(frame: u32) -> FramePlace {
    FramePlace { frame, offset: 0x1000 * (frame + 1), stored: 0x800, raw: 0x4000 }
}

pub fn manifest_facts() -> Manifest {
    Manifest {
        source: "shop".parse().expect("a legal name"),
        branch: BranchNo::new(2),
        position: Position::new(9),
        taken: Moment::from_millis(1_795_000_000_123).expect("in range"),
        engine: Engine::Sqlite,
        root: Digest::from_bytes([0xab; 32]),
        length: ByteLen::new(734_003_200),
        added: ByteLen::new(81_920),
        quality: Quality::Whole,
        imported: false,
        label: Some("vor Änderung 2".parse().expect("a legal label")),
        keep: Some(Keep::ForEver),
        following: None,
        rewritten: None,
    }
}

pub fn table() -> Table {
    let reference = |byte: u8, wrap| Reference {
        object: ObjectId::from_bytes([byte; 16]),
        kind: ObjectType::Pack,
        stored: 0x0123_4567,
        digest: Digest::from_bytes([byte + 1; 32]),
        salt: [byte + 2; 32],
        wrap,
        live_units: 10,
        total_units: 20,
        live_nodes: 3,
    };
    let wraps = vec![b"first key".to_vec(), b"the second key".to_vec()];
    Table::new(vec![reference(0x80, 1), reference(0x10, 0)], wraps).expect("a legal table")
}

pub fn leaf() -> Leaf {
    let run = |first, count, byte, slot, frame| Run {
        first,
        count,
        object: ObjectId::from_bytes([byte; 16]),
        slot,
        place: place(frame),
    };
    Leaf::new([run(0, 3, 0x80, 1, 7), run(3, 1, 0x10, 0, 2), run(4, 2, 0x80, 2, 8)]).expect("a legal leaf")
}

pub fn node() -> Node {
    let child = |byte, at| NodeRef { object: ObjectId::from_bytes([byte; 16]), place: place(5), at, len: 0x70 };
    Node { level: 2, children: vec![child(0x80, 0), child(0x10, 0x70), child(0x80, 0xe0)] }
}

pub fn bundle() -> [bundle::Item<'static>; 2] {
    [
        bundle::Item { name: "ctl/mark/shop/0707/proven-0808", bytes: b"a mark" },
        bundle::Item { name: "data/shop/snap/ffff-0707", bytes: b"a front" },
    ]
}

pub fn directory() -> Vec<Holding> {
    let units = vec![(0x0102_0304_0506_0708, Fingerprint([0xf1; 16])), (9, Fingerprint([0xf2; 16]))];
    vec![Holding::Units { stream: 1, units }, Holding::Nodes]
}

pub fn stream() -> Stream {
    Stream { name: "main".to_owned(), unit: 4096, length: ByteLen::new(1), levels: 0 }
}

pub fn log_facts() -> Log {
    let moment = |ms: i64| Moment::from_millis(1_795_000_000_123 + ms).expect("in range");
    let span = Span {
        source: "shop".parse().expect("a legal name"),
        branch: BranchNo::new(2),
        after: After::Snapshot(ObjectId::from_bytes([0x0b; 16])),
        first: Tx::new(7),
        last: Tx::new(8),
        from: moment(0),
        to: moment(1),
        unfinished: true,
    };
    Log { stream: StreamId::from_bytes([0x1e; 16]), spans: vec![span], next: None, leaves: Vec::new(), shared: false }
}

/// The end of a stream that a source leaves by itself.
pub fn leaving_facts() -> Log {
    let [own, rest] = [0x3e, 0x2e].map(|byte| StreamId::from_bytes([byte; 16]));
    let leaves = [("crm".parse().expect("a legal name"), own)].into();
    Log::end_of(StreamId::from_bytes([0x1e; 16]), Onward { leaves, ..rest.into() })
}

pub fn roll_up_facts() -> RollUp {
    let Log { stream, spans, .. } = log_facts();
    let end = SpanEnd { sequence: Sequence::new(0x0102_0304_0506_070a), digest: Digest::from_bytes([0xe4; 32]) };
    let first = Sequence::new(0x0102_0304_0506_0708);
    let last = Sequence::new(0x0102_0304_0506_070b);
    let generation = Generation::FIRST;
    RollUp { stream, first, last, generation, digest: Digest::from_bytes([0xe5; 32]), spans, ends: vec![end] }
}

pub fn records() -> Vec<Record> {
    let record = |part, tx, pages| Record {
        span: 0,
        part,
        page_size: PageSize::try_from(65_536).expect("a page size"),
        page_count: 9,
        tx: Tx::new(tx),
        time: Moment::from_millis(1_795_000_000_123).expect("in range"),
        digest: Digest::from_bytes([0xd1; 32]),
        pages,
    };
    vec![record(Part::Whole, 7, vec![1, 9]), record(Part::First, 8, vec![2])]
}

/// With everything a configuration can have but a published identity.
pub fn conf_facts() -> Conf {
    let at = |millis| Moment::from_millis(millis).expect("in range");
    let wrapped = |byte| Wrapped { id: ObjectId::from_bytes([byte; 16]), digest: Digest::from_bytes([byte + 1; 32]) };
    let recipient = |name: &str, recipient: Option<&str>, byte| Recipient {
        name: name.to_owned(),
        recipient: recipient.map(str::to_owned),
        wrap: wrapped(byte),
    };
    let below = "data/shop/snap/".to_owned();
    let until = Until { below, sequence: Sequence::new(9), digest: Digest::from_bytes([0xab; 32]) };
    let signer = |byte, name: &str, roles: &[Role], retired| Signer {
        key: SignerKey::from_bytes([byte; 32]),
        name: name.to_owned(),
        roles: roles.to_vec(),
        retired,
    };
    Conf {
        generation: 7,
        created: at(1_795_000_000_123),
        master: "age1master".to_owned(),
        older: Some(wrapped(0x31)),
        published_identity: None,
        recipients: vec![recipient("Ada Ü.", Some("age1ada"), 0x33), recipient("safe", None, 0x35)],
        signers: vec![
            signer(0x51, "db-1", &Role::ALL, None),
            signer(0x52, "db-2", &[Role::Writer], Some(Retired { at: at(1_795_000_000_000), until: vec![until] })),
        ],
        store: StoreAbilities { conditional_put: true },
    }
}

/// Of an unsealed repository, as `init` writes it.
pub fn unsealed_conf_facts() -> Conf {
    let published_identity = Some("AGE-SECRET-KEY-1".to_owned());
    let store = StoreAbilities { conditional_put: false };
    Conf {
        generation: 0,
        older: None,
        published_identity,
        recipients: Vec::new(),
        signers: Vec::new(),
        store,
        ..conf_facts()
    }
}

/// Of a later generation: the same, and the front of the first.
pub fn rewritten_facts() -> Manifest {
    Manifest { rewritten: Some(Rewritten::of(b"\x00front\xff")), ..manifest_facts() }
}

/// What a sealed manifest says to whoever asks a question.
pub fn opening() -> Opening {
    let pages = vec![OpeningPage::new(1, b"SQLite format 3\0\x10\0\0\0"), OpeningPage::new(0x0102_0304, &[0; 8])];
    Opening { pages, frames: vec![OpeningFrame(1250, 0, 19, 1_834_020, 61_244, 262_144)] }
}

/// Where a later generation of a snapshot is condemned.
pub fn later_generation() -> CondemnedSnapshot {
    let (id, sequence) = (ObjectId::from_bytes([0x0d; 16]), Sequence::new(7));
    CondemnedSnapshot { id, sequence, generation: Generation::new(3) }
}

pub fn enrolment() -> Enrolment {
    let request = EnrolmentRequest {
        made: Moment::from_millis(1_795_000_000_123).expect("in range"),
        name: "db-2".to_owned(),
        key: SignerKey::from_bytes([0x52; 32]),
        roles: vec![Role::Writer, Role::Reader],
        recipient: Some("age1db2".to_owned()),
    };
    Enrolment { request, signature: "0f".repeat(64) }
}

pub fn prune_facts() -> Prune {
    let head = Head { sequence: Sequence::new(9), digest: Digest::from_bytes([0xab; 32]) };
    let at = |millis| Moment::from_millis(millis).expect("in range");
    let condemned = Condemned {
        at: at(1_794_900_000_000),
        snapshots: vec![CondemnedSnapshot {
            id: ObjectId::from_bytes([0x0d; 16]),
            sequence: Sequence::new(7),
            generation: Generation::FIRST,
        }],
        packs: vec![ObjectId::from_bytes([0x0c; 16])],
    };
    let gone: Ranges = [(1, 5), (7, 7)].into_iter().collect();
    let source = "shop".parse().expect("a legal name");
    let shop = PrunedSource { source, head: Some(head), gone, pending: vec![condemned] };
    Prune { at: at(1_795_000_000_123), sources: vec![shop], streams: Vec::new() }
}

/// A record that names streams of logs too.
pub fn prune_of_logs() -> Prune {
    let at = |millis| Moment::from_millis(millis).expect("in range");
    let pruned = PrunedStream {
        stream: StreamId::from_bytes([0x5e; 16]),
        gone: 17,
        pending: vec![
            CondemnedSlots { at: at(1_794_900_000_000), below: 40 },
            CondemnedSlots { at: at(1_794_950_000_000), below: 52 },
        ],
    };
    Prune { streams: vec![pruned], ..prune_facts() }
}

pub fn lease_facts() -> Lease {
    let at = |millis| Moment::from_millis(millis).expect("in range");
    let holder = SignerKey::from_bytes([0x51; 32]);
    Lease { holder, from: at(1_795_000_000_000), until: at(1_795_003_600_000) }
}

fn roll_up() -> Vec<u8> {
    object(ObjectType::RollUp, &facts::encode(&roll_up_facts()), b"", &[b"sealed images", b"sealed records"])
}

/// Every golden file by name, as this build writes it.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let (facts, table) = (facts::encode(&manifest_facts()), table().encode());
    vec![
        ("conf.bin", object(ObjectType::Conf, b"{}", b"", &[])),
        ("mark.bin", object(ObjectType::Mark, br#"{"a":1}"#, b"", &[])),
        ("prune.bin", object(ObjectType::Prune, &facts::encode(&prune_facts()), b"", &[])),
        ("prune-of-logs.bin", facts::encode(&prune_of_logs())),
        ("lease.bin", object(ObjectType::Lease, &facts::encode(&lease_facts()), b"", &[])),
        ("manifest.bin", object(ObjectType::Manifest, &facts, &table, &[b"sealed facts", b"sealed root"])),
        ("pack.bin", object(ObjectType::Pack, b"", b"", &[b"sealed units", b"sealed nodes", b"sealed directory"])),
        ("header.bin", header(ObjectType::Pack).encode()),
        ("facts.bin", facts),
        ("stream.bin", facts::encode(&stream())),
        ("table.bin", table),
        ("leaf.bin", leaf().encode()),
        ("node.bin", node().encode()),
        ("log.bin", object(ObjectType::Log, &facts::encode(&log_facts()), b"", &[b"sealed images", b"sealed records"])),
        ("log-facts.bin", facts::encode(&log_facts())),
        ("leaving-facts.bin", facts::encode(&leaving_facts())),
        ("roll-up.bin", roll_up()),
        ("roll-up-facts.bin", facts::encode(&roll_up_facts())),
        ("records.bin", log::encode(&records())),
        ("directory.bin", directory::encode(&directory())),
        ("bundle.bin", bundle::encode(bundle())),
        ("conf-facts.bin", facts::encode(&conf_facts())),
        ("unsealed-conf-facts.bin", facts::encode(&unsealed_conf_facts())),
        ("rewritten-facts.bin", facts::encode(&rewritten_facts())),
        ("opening.bin", facts::encode(&opening())),
        ("later-generation.bin", facts::encode(&later_generation())),
        ("enrolment.bin", enrolment().encode()),
    ]
}
