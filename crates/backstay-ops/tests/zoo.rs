//! The zoo: one small repository of format version 1, damaged in every way the table names, with what
//! must come of it written by hand. The untouched one must be read for ever: no test writes it.
//!
//! `shop` has three snapshots: the first proven, the second quarantined, the third pinned, in this
//! order between the backups. Every case is seen by a host that has not been here before.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, SourceName, Verdict};
use backstay_ops::backup::{BackupRequest, BaseUse, Malformed, backup};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckRequest, Depth, check};
use backstay_ops::disk::OsDisk;
use backstay_ops::prove::with_causes;
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::{OpsError, State};
use backstay_store::keyfile::KeyFile;
use backstay_store::memory::{Contents, MemoryStore};
use backstay_store::repo::Repository;
use backstay_store::seal::Unsealer;
use backstay_store::{Key, keys};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

enum Expected {
    /// The repository opens, and these come of it.
    Opens { check: Verdict, list: Listed, latest: Latest, backup: Backup },
    /// Nothing comes of it but an error with these words.
    Refused(&'static str),
}

/// How many snapshots are listed, how many manifests are broken, how many marks cannot be believed.
type Listed = (usize, usize, usize);

#[derive(Debug, PartialEq)]
enum Latest {
    /// The nth snapshot, byte for byte.
    Is(usize),
    Refused(&'static str),
}

#[derive(Debug, PartialEq)]
enum Backup {
    /// Built upon the newest good one; `latest` restores afterwards.
    Incremental,
    /// Everything stored anew; `latest` restores afterwards.
    Full,
    /// Built upon something whose damage only a check sees: `latest` fails until one was run.
    OnDamage,
}

struct Case {
    name: &'static str,
    damage: fn(&mut Contents),
    expected: Expected,
}

const fn opens(check: Verdict, list: Listed, latest: Latest, backup: Backup) -> Expected {
    Expected::Opens { check, list, latest, backup }
}

use Backup::{Full, Incremental, OnDamage};
use Latest::{Is, Refused};
use Verdict::{Fail, Pass};

const CASES: &[Case] = &[
    Case { name: "untouched", damage: |_| {}, expected: opens(Pass, (3, 0, 0), Is(3), Incremental) },
    Case {
        name: "newest manifest cut inside its header",
        damage: |c| cut(c, SNAP, 0, 100),
        expected: opens(Fail, (2, 1, 0), Is(1), Full),
    },
    Case {
        name: "newest manifest damaged in its body",
        damage: |c| flip(c, SNAP, 0, End(120)),
        expected: opens(Fail, (3, 0, 0), Refused("the sealed body is not what was signed"), Full),
    },
    Case {
        // Said in docs/formats: a blank host cannot detect that the newest objects were withheld.
        name: "newest manifest missing",
        damage: |c| lose(c, SNAP, 0),
        expected: opens(Pass, (2, 0, 0), Is(1), Full),
    },
    Case {
        name: "middle manifest missing",
        damage: |c| lose(c, SNAP, 1),
        expected: opens(Fail, (2, 0, 0), Is(3), Incremental),
    },
    Case {
        name: "oldest manifest empty",
        damage: |c| cut(c, SNAP, 2, 0),
        expected: opens(Fail, (2, 1, 0), Is(3), Incremental),
    },
    Case {
        name: "every manifest missing",
        damage: |c| (0..3).for_each(|_| lose(c, SNAP, 0)),
        expected: opens(Fail, (0, 0, 0), Refused("there is no snapshot yet"), Full),
    },
    Case {
        name: "the largest pack missing",
        damage: |c| {
            let key = largest(c, PACK);
            c.remove(&key);
        },
        expected: opens(Fail, (3, 0, 0), Refused("is not in the store"), Full),
    },
    Case {
        name: "the largest pack cut",
        damage: |c| {
            let key = largest(c, PACK);
            let half = c[&key].len() / 2;
            c.insert(key.clone(), c[&key].slice(..half));
        },
        expected: opens(Fail, (3, 0, 0), Refused("is shorter than"), Full),
    },
    Case {
        name: "the largest pack flipped in its middle",
        damage: |c| {
            let key = largest(c, PACK);
            let mut bytes = c[&key].to_vec();
            let half = bytes.len() / 2;
            bytes[half] ^= 1;
            c.insert(key, bytes.into());
        },
        // So much of it is dead that the next backup leaves it behind, damaged or not.
        expected: opens(Fail, (3, 0, 0), Refused("fails its tag"), Incremental),
    },
    Case {
        name: "a pack nobody refers to",
        damage: |c| {
            let bytes = c[&largest(c, PACK)].clone();
            c.insert(key("data/shop/pack/00000000000000000000000000000000"), bytes);
        },
        expected: opens(Pass, (3, 0, 0), Is(3), Incremental),
    },
    Case {
        name: "the quarantine missing",
        damage: |c| lose_mark(c, "quarantined"),
        expected: opens(Fail, (3, 0, 1), Refused("does not follow the one before it"), Incremental),
    },
    Case {
        // It was the signer's newest: only a host that saw it can miss it.
        name: "the newest mark missing",
        damage: |c| lose_mark(c, "pinned"),
        expected: opens(Pass, (3, 0, 0), Is(3), Incremental),
    },
    Case {
        name: "the proof flipped",
        damage: |c| {
            let at = c.keys().filter(|k| k.as_str().starts_with(MARK)).position(|k| k.as_str().contains("proven"));
            flip(c, MARK, at.expect("a proof"), End(30));
        },
        expected: opens(Fail, (3, 0, 2), Is(3), Incremental),
    },
    Case {
        name: "the branch record missing",
        damage: |c| lose(c, BRANCH, 0),
        expected: opens(Fail, (3, 0, 0), Is(3), Incremental),
    },
    Case {
        name: "names nobody makes",
        damage: |c| {
            for name in ["data/shop/snap/readme", "data/shop/branch/0.bak", "ctl/mark/shop/x/y", "ctl/conf/old"] {
                c.insert(key(name), bytes::Bytes::from_static(b"rubbish"));
            }
        },
        expected: opens(Pass, (3, 0, 0), Is(3), Incremental),
    },
    Case {
        name: "the audit missing",
        damage: |c| lose(c, "ctl/audit/", 0),
        expected: opens(Pass, (3, 0, 0), Is(3), Incremental),
    },
    Case {
        name: "the configuration missing",
        damage: |c| lose(c, "ctl/conf/", 0),
        expected: Expected::Refused("holds no repository"),
    },
    Case {
        name: "the configuration flipped",
        damage: |c| flip(c, "ctl/conf/", 0, Start(300)),
        expected: Expected::Refused("ctl/conf/0000000000000000"),
    },
];

const SNAP: &str = "data/shop/snap/";
const PACK: &str = "data/shop/pack/";
const BRANCH: &str = "data/shop/branch/";
const MARK: &str = "ctl/mark/shop/";

enum At {
    Start(usize),
    End(usize),
}
use At::{End, Start};

fn key(text: &str) -> Key {
    Key::parse(text).expect("a legal key")
}

fn nth(contents: &Contents, prefix: &str, nth: usize) -> Key {
    contents.keys().filter(|key| key.as_str().starts_with(prefix)).nth(nth).expect("it is in the zoo").clone()
}

fn largest(contents: &Contents, prefix: &str) -> Key {
    let below = contents.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
    below.max_by_key(|(_, bytes)| bytes.len()).expect("it is in the zoo").0.clone()
}

fn lose(contents: &mut Contents, prefix: &str, at: usize) {
    contents.remove(&nth(contents, prefix, at));
}

fn lose_mark(contents: &mut Contents, kind: &str) {
    contents.retain(|key, _| !(key.as_str().starts_with(MARK) && key.as_str().contains(kind)));
}

fn cut(contents: &mut Contents, prefix: &str, at: usize, len: usize) {
    let key = nth(contents, prefix, at);
    contents.insert(key.clone(), contents[&key].slice(..len));
}

fn flip(contents: &mut Contents, prefix: &str, nth_key: usize, at: At) {
    let key = nth(contents, prefix, nth_key);
    let mut bytes = contents[&key].to_vec();
    let at = match at {
        Start(at) => at,
        End(back) => bytes.len() - back,
    };
    bytes[at] ^= 1;
    contents.insert(key, bytes.into());
}

fn shop() -> SourceName {
    world::source()
}

fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../backstay-testkit/zoo/v1")
}

fn keys_of_the_zoo() -> KeyFile {
    KeyFile::parse(&std::fs::read_to_string(zoo().join("backstay.key")).expect("the zoo's key file"))
        .expect("a key file")
}

/// Every file below the vault, under its key.
fn base() -> Contents {
    let (root, mut contents) = (zoo().join("vault"), Contents::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the zoo is checked in").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).expect("below it").to_str().expect("a plain name");
            contents.insert(key(name), std::fs::read(&path).expect("read").into());
        }
    }
    contents
}

/// Source, snapshot and digest of the restored file, in the order they were taken.
fn expected() -> Vec<(SourceName, String, String)> {
    let text = std::fs::read_to_string(zoo().join("expected.txt")).expect("the zoo's digests");
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut next = || words.next().expect("three words");
        (next().parse().expect("a source"), next(), next())
    };
    text.lines().map(line).collect()
}

/// A host that was never here.
async fn open(folder: &Path, contents: Contents) -> Result<Vault, OpsError> {
    let keys = keys_of_the_zoo();
    let root = keys.root.as_ref().expect("a root").public();
    let repo = Repository::open(Arc::new(MemoryStore::load(contents)), root, None).await?;
    let env = world::env(Arc::new(OsDisk));
    let dir = tempfile::tempdir_in(folder).expect("a folder").keep();
    let state = State::open(env.disk.clone(), &dir, repo.id()).expect("state");
    Ok(Vault { repo, state, signer: keys.signer, unsealer: keys.identity.map(Unsealer::new), env })
}

async fn restored(vault: &Vault, source: &SourceName, target: Target, folder: &Path) -> Result<PathBuf, OpsError> {
    let to = tempfile::tempdir_in(folder).expect("a folder").keep().join("out.db");
    let into = Destination::New(to.clone());
    let request =
        RestoreRequest { source: source.clone(), target, into, smoke: Vec::new(), busy: Duration::from_secs(1) };
    restore::perform(vault, restore::plan(vault, request).await?).await.map(|_| to)
}

fn digest(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).expect("read")).to_hex().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_1_is_read_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let vault = open(folder.path(), base()).await.expect("open");
    let expected = expected();
    assert_eq!(expected.len(), 5);
    for (source, id, wanted) in expected {
        let to = restored(&vault, &source, Target::Id(id), folder.path()).await.expect("restore");
        assert_eq!(digest(&to), wanted);
        assert_eq!(world::integrity_of(&to), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damaged_repository_comes_to_what_is_written_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = open(folder.path(), base()).await.expect("open");
    let live = restored(&whole, &shop(), Target::Latest, folder.path()).await.expect("restore");
    let mut wrong = Vec::new();
    for case in CASES {
        let mut contents = base();
        (case.damage)(&mut contents);
        let found = come_of(folder.path(), &contents, &live).await;
        let as_expected = match (&case.expected, &found) {
            (Expected::Refused(says), Err(error)) => with_causes(error).contains(says),
            (Expected::Opens { check, list, latest, backup }, Ok(found)) => {
                let latest_holds = match (latest, &found.latest) {
                    (Is(wanted), Ok(found)) => wanted == found,
                    (Refused(says), Err(text)) => text.contains(says),
                    _ => false,
                };
                (check, list, backup) == (&found.check, &found.list, &found.backup) && latest_holds
            }
            _ => false,
        };
        if !as_expected {
            wrong.push(format!("{}: {found:?}", case.name));
        }
    }
    println!("{} damaged repositories", CASES.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[derive(Debug)]
struct Found {
    check: Verdict,
    list: Listed,
    latest: Result<usize, String>,
    backup: Backup,
}

/// Each question is asked of the damage as it was found.
async fn come_of(folder: &Path, contents: &Contents, live: &Path) -> Result<Found, OpsError> {
    let vault = open(folder, contents.clone()).await?;
    let catalog = vault.catalog(&shop()).await?;
    let list = (catalog.snapshots.len(), catalog.broken.len(), catalog.mark_faults.len());
    let ids: Vec<String> =
        expected().into_iter().filter(|(source, ..)| *source == shop()).map(|(_, _, digest)| digest).collect();
    let nth = |to: &PathBuf| ids.iter().position(|wanted| *wanted == digest(to)).expect("only what was captured") + 1;
    let latest = restored(&vault, &shop(), Target::Latest, folder).await;
    let latest = latest.as_ref().map(nth).map_err(|error| with_causes(error));
    let vault = open(folder, contents.clone()).await?;
    let request = CheckRequest { source: shop(), snapshot: None, depth: Depth::Authentic };
    let check = check(&vault, &request).await?.verdict;
    let vault = open(folder, contents.clone()).await?;
    let report = backup(&vault, &the_next(live)).await?;
    let restores = match restored(&vault, &shop(), Target::Latest, folder).await {
        Ok(to) => digest(&to) == digest(live),
        Err(_) => false,
    };
    let backup = match (report.base, restores) {
        (BaseUse::Incremental { .. }, true) => Incremental,
        (BaseUse::Full { .. }, true) => Full,
        _ => OnDamage,
    };
    Ok(Found { check, list, latest, backup })
}

fn the_next(live: &Path) -> BackupRequest {
    BackupRequest {
        source: shop(),
        path: live.to_owned(),
        label: None,
        keep: None,
        busy: Duration::from_secs(5),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        malformed: Malformed::Refuse,
        uploads_in_flight: 2,
    }
}

#[test]
fn the_zoo_is_small_and_whole() {
    let contents = base();
    let bytes: usize = contents.values().map(|bytes| bytes.len()).sum();
    assert!(bytes < 300 << 10, "{bytes} bytes");
    for prefix in
        ["ctl/conf/", "ctl/audit/", MARK, BRANCH, SNAP, PACK, &keys::pack_prefix(&"till".parse().expect("a name"))]
    {
        nth(&contents, prefix, 0);
    }
}
