//! An enrolled writer gone bad: everything it makes is rightly sealed and signed, and says what is not so.

mod evil;
mod world;

use backstay_format::directory::{self, Holding};
use backstay_format::facts::{Opening, OpeningFrame, OpeningPage};
use backstay_format::layout::{self, leaf, reference, run, table};
use backstay_format::object::digest;
use backstay_format::table::{Reference, Table};
use backstay_format::tree::{Leaf, Node, NodeRef, Run};
use backstay_format::{Fingerprint, FingerprintKey, FramePlace, ObjectType};
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Digest, Kind, Kinded, Verdict};
use backstay_ops::prove::{self, ProofOutcome, ProofRequest, with_causes};
use backstay_sqlite::{ForeignKeys, Integrity, Questions};
use backstay_store::os::OsRandom;
use backstay_store::seal::{Compressor, MasterIdentity, NewObject, Sealer};
use evil::craft::{EvilManifest, fresh_id};
use evil::{Golden, shop};

/// What is wrong with a manifest, how it is made so, and what a reader must say.
struct Case {
    name: &'static str,
    edit: fn(&mut EvilManifest),
    says: &'static str,
}

fn edit_runs(evil: &mut EvilManifest, edit: impl FnOnce(&mut Vec<Run>)) {
    let mut runs = Leaf::parse(&evil.roots[0]).expect("a leaf").runs().to_vec();
    edit(&mut runs);
    evil.roots[0] = Leaf::new(runs).expect("a leaf that a reader parses").encode();
}

/// Exchanges bytes of the first run's row.
fn patch_run(evil: &mut EvilManifest, at: std::ops::Range<usize>, new: &[u8]) {
    let root = &mut evil.roots[0];
    let objects = usize::from(u16::from_le_bytes([root[leaf::OBJECTS.start], root[leaf::OBJECTS.start + 1]]));
    let row = leaf::LEN + 16 * objects;
    root[row + at.start..row + at.end].copy_from_slice(new);
}

fn patch_ref(evil: &mut EvilManifest, at: std::ops::Range<usize>, new: &[u8]) {
    evil.table[table::LEN + at.start..table::LEN + at.end].copy_from_slice(new);
}

/// Renames the stream, and makes the root digest right again: only the name is wrong. The fingerprints
/// are those of the honest twin, which the pack directories carry.
fn rename_stream(evil: &mut EvilManifest, name: &str) {
    let stream = &mut evil.sealed.streams[0];
    stream.name = name.into();
    let key = FingerprintKey::new(evil.sealed.fingerprint.id, *evil.sealed.fingerprint.key.as_bytes());
    let mut root = key.root();
    let unit = stream.shape().expect("a shape").0;
    root.begin_stream(name, unit, stream.length);
    let hasher = key.units();
    let units: Vec<Fingerprint> = evil.content.chunks(unit.get() as usize).map(|u| hasher.fingerprint(u)).collect();
    root.units(&units);
    evil.facts.root = root.finish();
}

/// The first unit alone in its run, whatever run it was in.
fn split_first(runs: &mut Vec<Run>) {
    let first = runs[0];
    if first.count > 1 {
        runs[0].count = 1;
        let rest = Run { first: 1, count: first.count - 1, slot: first.slot + 1, ..first };
        runs.insert(1, rest);
    }
}

const CASES: &[Case] = &[
    Case {
        name: "a frame past the end of its object",
        edit: |evil| edit_runs(evil, |runs| runs[0].place.offset = 500 << 20),
        says: "its frame lies inside its object",
    },
    Case {
        name: "an object that is not in the table",
        edit: |evil| edit_runs(evil, |runs| runs[0].object = fresh_id()),
        says: "which the manifest's table does not",
    },
    Case {
        name: "a run beyond its frame",
        edit: |evil| patch_run(evil, run::SLOT, &u16::MAX.to_le_bytes()),
        says: "a run lies inside its frame",
    },
    Case {
        name: "a frame said to be longer than it is",
        edit: |evil| edit_runs(evil, |runs| runs[0].place.raw = layout::FRAME_RAW_MAX as u32),
        says: "does not decompress to the 1048576 bytes",
    },
    Case {
        name: "another frame's number",
        edit: |evil| edit_runs(evil, |runs| runs[0].place.frame += 7),
        says: "fails its tag",
    },
    Case {
        name: "a run that leaves a gap",
        edit: |evil| patch_run(evil, run::FIRST, &1_u16.to_le_bytes()),
        says: "runs follow one another without gap or overlap",
    },
    Case {
        name: "a leaf with more runs than bytes",
        edit: |evil| evil.roots[0][leaf::RUNS].copy_from_slice(&u16::MAX.to_le_bytes()),
        says: "a map leaf is cut short",
    },
    Case {
        name: "units in each other's place",
        edit: |evil| {
            edit_runs(evil, |runs| {
                split_first(runs);
                let (a, b) = (runs[0], runs[1]);
                runs[0] = Run { first: 0, count: 1, slot: b.slot, object: b.object, place: b.place };
                runs[1] = Run { slot: b.slot, ..b };
                // The second run keeps its units; the first shows what it already showed.
                assert_ne!(runs[0].slot, a.slot, "another unit than before");
            });
        },
        says: "has digest",
    },
    Case {
        name: "more units alive than there are",
        edit: |evil| patch_ref(evil, reference::LIVE_UNITS, &u32::MAX.to_le_bytes()),
        says: "no more units live than the object has",
    },
    Case {
        name: "more units than a directory can name",
        edit: |evil| patch_ref(evil, reference::TOTAL_UNITS, &u32::MAX.to_le_bytes()),
        says: "no object has more units than its directory can name",
    },
    Case {
        name: "a table of four billion rows",
        edit: |evil| evil.table[table::REFS].copy_from_slice(&u32::MAX.to_le_bytes()),
        says: "the refs table is cut short",
    },
    Case {
        name: "a table of four billion wrapped keys",
        edit: |evil| evil.table[table::WRAPS].copy_from_slice(&u32::MAX.to_le_bytes()),
        says: "the refs table is cut short",
    },
    Case {
        name: "a wrapped key that is not there",
        edit: |evil| patch_ref(evil, reference::WRAP, &u16::MAX.to_le_bytes()),
        says: "every reference names a wrap of the table",
    },
    Case {
        name: "a reference to a manifest",
        edit: |evil| patch_ref(evil, reference::TYPE, &[ObjectType::Manifest as u8]),
        says: "frames lie in packs and log objects",
    },
    Case {
        name: "a pack with another salt",
        edit: |evil| patch_ref(evil, reference::SALT, &[7; 32]),
        says: "fails its tag",
    },
    Case {
        name: "a wrapped key that is rubbish",
        edit: |evil| {
            let end = evil.table.len();
            evil.table[end - 40..].fill(0x55);
        },
        says: "the wrapped data key is damaged",
    },
    Case {
        name: "a database longer than what is stored of it",
        edit: |evil| {
            evil.facts.length = ByteLen::new(evil.facts.length.get() + 4096);
            evil.sealed.streams[0].length = evil.facts.length;
        },
        says: "as many units live in its objects as the streams have",
    },
    Case {
        name: "a tree of another depth",
        edit: |evil| evil.sealed.streams[0].levels = 3,
        says: "a map node breaks its rules",
    },
    Case {
        name: "a tree beyond any depth",
        edit: |evil| evil.sealed.streams[0].levels = u8::MAX,
        says: "it does not have one root per stream",
    },
    Case {
        name: "a length that is not its streams'",
        edit: |evil| evil.facts.length = ByteLen::new(1),
        says: "its length is that of its streams together",
    },
    Case {
        name: "a unit size there cannot be",
        edit: |evil| evil.sealed.streams[0].unit = 4097,
        says: "units are 4096 to 65536 bytes",
    },
    Case {
        name: "another root digest",
        edit: |evil| evil.facts.root = Digest::from_bytes([9; 32]),
        says: "has digest",
    },
    Case {
        name: "a stream that would be a file elsewhere",
        edit: |evil| rename_stream(evil, "../../evil"),
        says: "it is main, wal or journal",
    },
    Case {
        name: "no main stream",
        edit: |evil| rename_stream(evil, "wal"),
        says: "the first stream is main, and each is there once",
    },
    Case {
        name: "a root for a stream that is not there",
        edit: |evil| evil.roots.push(evil.roots[0].clone()),
        says: "it does not have one root per stream",
    },
    Case {
        name: "no stream at all",
        edit: |evil| {
            (evil.sealed.streams, evil.roots) = (Vec::new(), Vec::new());
            evil.facts.length = ByteLen::new(0);
            evil.table = Table::default().encode();
            let key = FingerprintKey::new(evil.sealed.fingerprint.id, *evil.sealed.fingerprint.key.as_bytes());
            evil.facts.root = key.root().finish();
        },
        says: "it has a stream, and none twice",
    },
    Case {
        name: "two streams of one name",
        edit: |evil| {
            let stream = evil.sealed.streams[0].clone();
            evil.facts.length = ByteLen::new(stream.length.get() * 2);
            evil.sealed.streams.push(stream);
            evil.roots.push(evil.roots[0].clone());
            let table = Table::parse(&evil.table).expect("a table");
            let double = |r: &Reference| Reference {
                live_units: r.live_units * 2,
                total_units: r.total_units * 2,
                live_nodes: r.live_nodes * 2,
                ..r.clone()
            };
            let wraps = table.refs().iter().map(|r| table.wrap(r).expect("a wrap").to_vec());
            let mut refs: Vec<Reference> = table.refs().iter().map(double).collect();
            let wraps: Vec<Vec<u8>> = wraps.collect();
            refs.iter_mut().enumerate().for_each(|(at, r)| r.wrap = at as u16);
            evil.table = Table::new(refs, wraps).expect("a table").encode();
        },
        says: "it has a stream, and none twice",
    },
    Case {
        name: "sealed facts that are not facts",
        edit: |evil| evil.sealed_bytes = Some(b"{\"streams\": 5}".to_vec()),
        says: "not the JSON it should be",
    },
    Case {
        name: "one leaf that stands for a whole tree",
        edit: |evil| endless_tree(evil, 262_144),
        says: "no object has more units than its directory can name",
    },
    Case {
        name: "one leaf that stands for a whole tree, counted modestly",
        edit: |evil| endless_tree(evil, 43_690),
        says: "as many units live in its objects as the streams have",
    },
    Case { name: "a node where a leaf belongs", edit: |evil| node_for_leaf(evil), says: "a map leaf" },
];

/// A pack with one unit, and in its second frame whatever `nodes` makes of the first one's place.
fn pack(evil: &EvilManifest, nodes: impl FnOnce(FramePlace, backstay_model::ObjectId) -> Vec<u8>) -> EvilPack {
    let id = fresh_id();
    let new = NewObject { kind: ObjectType::Pack, id, facts: &[], table: &[], signed: None };
    let mut builder = evil.sealer.begin(new, &OsRandom);
    let units = builder.push(Compressor::new().compress(&[0; 4096]), 4096);
    let raw = nodes(units, id);
    let place = builder.push(Compressor::new().compress(&raw), raw.len());
    let holdings = [Holding::Units { stream: 0, units: vec![(0, Fingerprint::default())] }, Holding::Nodes];
    let object = builder.finish(&directory::encode(&holdings), |_| unreachable!("packs are not signed"));
    let reference = Reference {
        object: id,
        kind: ObjectType::Pack,
        stored: object.bytes.len() as u64,
        digest: digest(&object.bytes),
        salt: object.salt,
        wrap: 0,
        live_units: 0,
        total_units: 0,
        live_nodes: 0,
    };
    EvilPack { reference, node: NodeRef { object: id, place, at: 0, len: raw.len() as u32 }, bytes: object.bytes }
}

struct EvilPack {
    reference: Reference,
    node: NodeRef,
    bytes: bytes::Bytes,
}

fn refer(evil: &mut EvilManifest, pack: EvilPack, units: u32, nodes: u32) {
    let reference = Reference { live_units: units, total_units: units, live_nodes: nodes, ..pack.reference };
    evil.packs.push((reference.object, pack.bytes));
    evil.table = Table::new(vec![reference], vec![evil.sealer.wrap().to_vec()]).expect("a table").encode();
}

fn one_unit_leaf(place: FramePlace, object: backstay_model::ObjectId, units: u16) -> Vec<u8> {
    let runs = (0..units).map(|first| Run { first, count: 1, object, slot: 0, place });
    Leaf::new(runs).expect("a leaf").encode()
}

/// 512 children, all of them the same leaf, whose 512 units are all the same one.
fn endless_tree(evil: &mut EvilManifest, counted: u32) {
    let pack = pack(evil, |place, object| one_unit_leaf(place, object, 512));
    evil.roots[0] = Node { level: 1, children: vec![pack.node; 512] }.encode();
    evil.sealed.streams[0].levels = 1;
    evil.sealed.streams[0].length = ByteLen::new(512 * 512 * 4096);
    evil.facts.length = evil.sealed.streams[0].length;
    refer(evil, pack, counted, 512);
}

fn node_for_leaf(evil: &mut EvilManifest) {
    let pack = pack(evil, |place, object| {
        let child = NodeRef { object, place, at: 0, len: 64 };
        Node { level: 1, children: vec![child; 512] }.encode()
    });
    evil.roots[0] = Node { level: 1, children: vec![pack.node; 2] }.encode();
    evil.sealed.streams[0].levels = 1;
    evil.sealed.streams[0].length = ByteLen::new(1000 * 4096);
    evil.facts.length = evil.sealed.streams[0].length;
    refer(evil, pack, 1000, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_lies_is_refused_by_name_and_the_others_stand() {
    let golden = Golden::new().await;
    let good = golden.of(&shop())[2];
    let mut failed = Vec::new();
    for case in CASES {
        let (mut evil, newest) = EvilManifest::of(&golden).await;
        (case.edit)(&mut evil);
        let made = evil.commit(&golden, &newest);
        let vault = golden.open_blank(made.contents).await.expect("the configuration is whole");
        let restored = golden.restore(&vault, &shop(), Target::Id(made.id.to_string())).await;
        match restored {
            Err(error) if error.kind() == Kind::Corrupt && with_causes(&error).contains(case.says) => {}
            other => failed.push(format!("{}: restore gave {:?}", case.name, other.map(|bytes| bytes.len()))),
        }
        let report = golden.check(&vault).await.expect("a report");
        let of_it = |p: &&backstay_ops::check::Problem| p.snapshots.contains(&made.id);
        if report.verdict != Verdict::Fail || report.problems.iter().filter(of_it).count() == 0 {
            failed.push(format!("{}: check says {:?}", case.name, report.verdict));
        }
        let others_fail = report.snapshots.iter().filter(|s| s.id != made.id && s.verdict != Verdict::Pass).count();
        let back = golden.restore(&vault, &shop(), Target::Id(good.id.to_string())).await;
        if others_fail > 0 || back.ok().as_ref() != Some(&good.bytes) {
            failed.push(format!("{}: {others_fail} others fail", case.name));
        }
    }
    println!("{} lying manifests", CASES.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_honest_twin_of_the_lying_manifests_restores() {
    let golden = Golden::new().await;
    let (evil, newest) = EvilManifest::of(&golden).await;
    let made = evil.commit(&golden, &newest);
    let vault = golden.open_blank(made.contents).await.expect("open");
    let bytes = golden.restore(&vault, &shop(), Target::Latest).await.expect("restore");
    assert_eq!(bytes, golden.of(&shop())[2].bytes);
    assert_eq!(golden.check(&vault).await.expect("check").verdict, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_what_lives_where_are_compared_with_the_maps() {
    let golden = Golden::new().await;
    let (mut evil, newest) = EvilManifest::of(&golden).await;
    let parsed = Table::parse(&evil.table).expect("a table");
    assert!(parsed.refs().len() > 1, "the newest snapshot stands on several packs");
    let mut rows: Vec<u32> = parsed.refs().iter().map(|r| r.live_units).collect();
    let most = (0..rows.len()).max_by_key(|at| rows[*at]).expect("a row");
    let least = (0..rows.len()).find(|at| *at != most).expect("another row");
    (rows[most], rows[least]) = (rows[most] - 1, rows[least] + 1);
    for (at, live) in rows.iter().enumerate() {
        let row = table::LEN + at * reference::LEN;
        for field in [reference::LIVE_UNITS, reference::TOTAL_UNITS] {
            let value = if field == reference::LIVE_UNITS { *live } else { 1000 };
            evil.table[row + field.start..row + field.end].copy_from_slice(&value.to_le_bytes());
        }
    }
    let made = evil.commit(&golden, &newest);
    let vault = golden.open_blank(made.contents).await.expect("open");
    let report = golden.check(&vault).await.expect("check");
    let said = report.problems.iter().any(|p| p.object == made.key.as_str() && p.what.contains("counts the units"));
    assert!(said, "{:?}", report.problems);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_sealed_to_somebody_else_is_not_damage_and_not_quarantined() {
    let golden = Golden::new().await;
    let (mut evil, newest) = EvilManifest::of(&golden).await;
    let (repo, other) = (golden.world.vault.repo.id(), MasterIdentity::generate().master());
    evil.sealer = Sealer::new(repo, &other, &OsRandom);
    let made = evil.commit(&golden, &newest);
    let vault = golden.open_blank(made.contents).await.expect("open");
    let error = golden.restore(&vault, &shop(), Target::Latest).await.expect_err("it does not open");
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(with_causes(&error).contains("does not open"), "{}", with_causes(&error));
    assert!(error.to_string().contains(made.key.as_str()), "{error}");
    let report = golden.check(&vault).await.expect("the others can be checked");
    let of = |id| report.snapshots.iter().find(|s| s.id == id).map(|s| s.verdict);
    assert_eq!(of(made.id), Some(Verdict::Inconclusive));
    assert_eq!(of(golden.of(&shop())[0].id), Some(Verdict::Pass));
    let catalog = evil::gather(&vault).await;
    let quarantined = catalog.snapshots.iter().find(|s| s.id == made.id).map(|s| s.is_quarantined());
    assert_eq!(quarantined, Some(false));
}

/// What stands there is what whoever asks a question reads first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_a_manifest_that_is_not_the_captured_one_fails_the_proof_and_no_restore() {
    let golden = Golden::new().await;
    let prove = async |edit: fn(&mut Opening)| {
        let (mut evil, newest) = EvilManifest::of(&golden).await;
        edit(evil.sealed.opening.as_mut().expect("a backup leaves one"));
        let made = evil.commit(&golden, &newest);
        let vault = golden.open_blank(made.contents).await.expect("open");
        let back = golden.restore(&vault, &shop(), Target::Latest).await.expect("restored");
        assert_eq!(back, golden.of(&shop())[2].bytes);
        let questions = Questions {
            integrity: Integrity::Full,
            foreign_keys: ForeignKeys::Require,
            smoke: Vec::new(),
            limit: Questions::USUAL_LIMIT,
        };
        let folder = golden.world.dir().join("proof");
        let request = ProofRequest { source: shop(), snapshot: made.id, questions, folder };
        prove::prove(&vault, &request).await.expect("an outcome").outcome
    };
    let honest = prove(|_| ()).await;
    assert!(matches!(honest, ProofOutcome::Proven { .. }), "{honest:?}");
    let wrong: [fn(&mut Opening); 3] = [
        |opening| opening.pages[0] = OpeningPage::new(1, &[7; 100]),
        |opening| "no bytes".clone_into(&mut opening.pages[0].bytes),
        |opening| opening.pages.push(OpeningPage::new(2, &[13; 9])),
    ];
    for edit in wrong {
        let outcome = prove(edit).await;
        let ProofOutcome::Failed { reason, .. } = &outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("is not the one that was captured"), "{reason}");
    }
    // Places are a guess, and nobody is told anything by them.
    let guessed = prove(|opening| opening.frames = vec![OpeningFrame(1, u32::MAX, 0, u32::MAX, 9, 9); 3]).await;
    assert!(matches!(guessed, ProofOutcome::Proven { .. }), "{guessed:?}");
}
