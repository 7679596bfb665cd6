//! Objects that have the commits of two sources, as one that writes for both would put them: each source is read as if it
//! were alone, from slots and from roll-ups.

mod world;

use backstay_format::FingerprintKey;
use backstay_format::facts::{After, Log, Role, Span};
use backstay_format::layout::FRAME_TARGET;
use backstay_format::log::Record;
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Digest, Generation, Sequence, SourceName, StreamId, Tx, Verdict, seams};
use backstay_ops::catalog::Vault;
use backstay_ops::check::{CheckRequest, Depth, check};
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::log::{self, Opens};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_store::keys::LogName;
use backstay_store::repo::{Chain, LogDraft, LogObject, LogSigning, RepoError, SnapshotReader};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use world::{World, recovered};

/// A source of the repository, and another repository that follows it alone.
struct Line<'w> {
    name: SourceName,
    db: PathBuf,
    conn: Connection,
    alone: Follower<'w>,
    /// The last object of the stream it has for itself.
    seen: (StreamId, u64),
    key: FingerprintKey,
    chain: Digest,
    after: After,
    kept: Vec<(Tx, Vec<u8>)>,
}

fn request(name: &SourceName, db: &Path) -> FollowRequest {
    FollowRequest {
        source: name.clone(),
        path: db.to_owned(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 1,
        limits: Limits { look: Duration::from_secs(60), ..Limits::STANDARD },
        steps: Arc::new(|_| {}),
    }
}

impl<'w> Line<'w> {
    /// A database that both begin to follow at the same state; in the first repository its log goes on in `shared`.
    async fn begin(name: &str, (main, apart): (&World, &'w World), shared: StreamId) -> Self {
        let (name, db) = (name.parse::<SourceName>().expect("a name"), main.dir().join(format!("{name}.db")));
        let conn = Connection::open(&db).expect("open");
        conn.execute_batch(
            "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);",
        )
        .expect("made");
        drop(Follower::start(&main.vault, request(&name, &db)).await.expect("follow"));
        let alone = Follower::start(&apart.vault, request(&name, &db)).await.expect("follow");
        let vault = &main.vault;
        let front = vault.catalog(&name).await.expect("catalog").fronts.into_values().next().expect("a snapshot");
        let following = front.facts.following.clone().expect("followed");
        assert_eq!(following.tx, alone.position().tx);
        put(vault, &Log::end_of(following.stream, shared.into()), &[], &[]).await;
        let unsealer = vault.unsealer.as_ref().expect("an identity");
        let manifest = vault.repo.manifest(&front.name).await.expect("a manifest");
        let reader = SnapshotReader::open(vault.repo.clone(), manifest, unsealer).expect("opened");
        let secret = &reader.body().facts.fingerprint;
        let key = FingerprintKey::new(secret.id, *secret.key.as_bytes());
        let fronts = apart.vault.catalog(&name).await.expect("catalog").fronts;
        let own = fronts.into_values().next().and_then(|front| front.facts.following).expect("followed").stream;
        let (chain, after) = (front.facts.chain(), After::Snapshot(front.name.id));
        Self { name, db, conn, alone, seen: (own, 0), key, chain, after, kept: Vec::new() }
    }

    /// Commits, and what the log has of them: one object of the repository that has it alone.
    async fn commits(&mut self, apart: &World, count: usize) -> (Vec<Record>, Vec<Vec<u8>>) {
        for n in 0..count {
            let sql =
                ["INSERT INTO t(x) VALUES (randomblob(9000))", "UPDATE t SET x = randomblob(700) WHERE id % 2 = 1"];
            self.conn.execute_batch(sql[(self.seen.1 as usize + n) % 2]).expect("sql");
        }
        self.alone.tick().await.expect("tick");
        self.seen.1 += 1;
        let name = (&self.seen.0, Sequence::new(self.seen.1));
        let object = apart.vault.repo.log_object(name.0, name.1).await.expect("read").expect("one object a tick");
        let mut images = Vec::new();
        let records =
            object.open::<RepoError>(apart.vault.unsealer.as_ref().expect("an identity"), |_, _, _, image| {
                images.push(image.to_vec());
                Ok(())
            });
        self.kept.push((self.alone.position().tx, recovered(&self.db)));
        (records.expect("opened"), images)
    }

    /// The same as part of an object of the first repository: the span, and records with digests of their own.
    fn span(&mut self, number: u16, (records, images): (&mut [Record], &[Vec<u8>])) -> Span {
        let mut rest = images.iter();
        for record in records.iter_mut() {
            record.span = number;
            let mut hasher = self.key.commits().record(&self.chain, record);
            for (page, image) in record.pages.iter().zip(&mut rest) {
                hasher.page(*page, image);
            }
            record.digest = hasher.finish();
            self.chain = record.digest;
        }
        let (first, last) = (records.first().expect("a commit"), records.last().expect("a commit"));
        Span {
            source: self.name.clone(),
            branch: backstay_model::BranchNo::FIRST,
            after: self.after,
            first: first.tx,
            last: last.tx,
            from: first.time,
            to: last.time,
            unfinished: false,
        }
    }

    async fn comes_back(&self, main: &World, what: &str) {
        for (tx, bytes) in &self.kept {
            let dir = tempfile::tempdir_in(main.dir()).expect("a folder");
            let to = dir.path().join("out.db");
            let (into, busy) = (Destination::New(to.clone()), Duration::from_secs(5));
            let request =
                RestoreRequest { source: self.name.clone(), target: Target::Tx(*tx), into, smoke: Vec::new(), busy };
            let planned = restore::plan(&main.vault, request).await.expect("a plan");
            restore::perform(&main.vault, planned).await.expect("restored");
            assert!(std::fs::read(&to).expect("read") == *bytes, "{what}: state {tx} of {}", self.name);
            assert!(scripted(main, &self.name, *tx) == *bytes, "{what}: state {tx} of {} by the script", self.name);
        }
        let request = CheckRequest { source: self.name.clone(), snapshot: None, depth: Depth::Authentic };
        let checked = check(&main.vault, &request).await.expect("a report");
        assert_eq!(checked.verdict, Verdict::Pass, "{what}: {checked:?}");
    }
}

/// A state as the script restores it, which shares no code with us.
fn scripted(main: &World, source: &SourceName, tx: Tx) -> Vec<u8> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = workspace.join("target/recover-venv/bin/python");
    assert!(python.exists(), "no {}: run `./test` once, it makes it", python.display());
    let dir = tempfile::tempdir_in(main.dir()).expect("a folder");
    let to = dir.path().join("out.db");
    let mut command = std::process::Command::new(&python);
    command.current_dir(main.dir()).arg(workspace.join("contrib/recover.py"));
    command.args([
        "--repo",
        "vault",
        "--key",
        "backstay.key",
        "--source",
        source.as_str(),
        "--tx",
        &tx.get().to_string(),
    ]);
    let done = command.arg("--out").arg(&to).output().expect("python runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(to).expect("read")
}

/// Puts an object into the next slot of its stream.
async fn put(vault: &Vault, facts: &Log, records: &[Record], images: &[Vec<u8>]) -> After {
    let stream = facts.stream;
    let chain = match vault.repo.log_end(&stream).await.expect("listed") {
        None => Chain::START,
        Some(end) => {
            let last = vault.repo.log_front(&stream, end).await.expect("a front").expect("there");
            Chain::after(end, last.digest).expect("a number")
        }
    };
    let (random, sealer) = (vault.env.random.as_ref(), vault.repo.sealer(vault.env.random.as_ref()));
    let with = LogSigning { signer: vault.signer(Role::Writer).expect("a writer"), sealer: &sealer, random };
    let mut draft = LogDraft::begin(facts, chain, vault.repo.fresh_id(random), with);
    let mut frame: Vec<u8> = Vec::new();
    for image in images {
        if frame.len() + image.len() > FRAME_TARGET {
            draft.images(&frame);
            frame.clear();
        }
        frame.extend_from_slice(image);
    }
    if !frame.is_empty() {
        draft.images(&frame);
    }
    let (bytes, digest) = draft.finish(records);
    vault.repo.put_log(&stream, chain.sequence, bytes).await.expect("put");
    After::Log { stream, sequence: chain.sequence, digest }
}

/// One object of what both committed: which of them, and how often.
async fn tick((main, apart): (&World, &World), stream: StreamId, lines: &mut [Line<'_>], who: &[(usize, usize)]) {
    let (mut spans, mut all, mut images) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (line, count)) in who.iter().enumerate() {
        let (mut records, own) = lines[*line].commits(apart, *count).await;
        spans.push(lines[*line].span(number as u16, (&mut records, &own)));
        all.append(&mut records);
        images.extend(own);
    }
    let after =
        put(&main.vault, &Log { stream, spans, next: None, leaves: Vec::new(), shared: false }, &all, &images).await;
    who.iter().for_each(|(line, _)| lines[*line].after = after);
}

async fn objects(vault: &Vault, stream: StreamId, slots: std::ops::RangeInclusive<u64>) -> Vec<LogObject> {
    let mut objects = Vec::new();
    for slot in slots {
        objects.push(vault.repo.log_object(&stream, Sequence::new(slot)).await.expect("read").expect("there"));
    }
    objects
}

/// Makes one roll-up of some slots, and lets the slots go.
async fn rolled(main: &World, stream: StreamId, slots: std::ops::RangeInclusive<u64>) -> LogName {
    let vault = &main.vault;
    let parts = objects(vault, stream, slots).await;
    let names: Vec<LogName> = parts.iter().map(|part| part.front.name).collect();
    let (random, sealer) = (vault.env.random.as_ref(), vault.repo.sealer(vault.env.random.as_ref()));
    let with = LogSigning { signer: vault.signer(Role::Writer).expect("a writer"), sealer: &sealer, random };
    let opens = Opens::Any(vault.unsealer.as_ref().expect("an identity"));
    let parts: Vec<&LogObject> = parts.iter().collect();
    let (name, bytes) = log::roll(&vault.repo, (&parts, Generation::FIRST), opens, with).expect("rolled up");
    vault.repo.put_roll_up(&name, bytes).await.expect("put");
    assert!(log::is_of(vault, &name, &names).await.expect("compared"), "it is of its slots");
    assert!(!log::is_of(vault, &name, &names[1..]).await.expect("compared"), "and of no others");
    for name in names {
        std::fs::remove_file(main.dir().join("vault").join(name.key().as_str())).expect("removed");
    }
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_of_two_sources_in_one_stream_comes_back() {
    let (main, apart) = (World::new().await, World::new().await);
    let stream = StreamId::from_bytes(seams::fresh(main.vault.env.random.as_ref()));
    let both = (&main, &apart);
    let mut lines = vec![Line::begin("shop", both, stream).await, Line::begin("crm", both, stream).await];
    let ticks: [&[(usize, usize)]; 8] = [
        &[(0, 1), (1, 2)],
        &[(1, 1)],
        &[(1, 1), (0, 3)],
        &[(0, 1)],
        &[(0, 1), (1, 1)],
        &[(1, 2)],
        &[(0, 1)],
        &[(1, 1)],
    ];
    for who in ticks {
        tick(both, stream, &mut lines, who).await;
    }
    for line in &lines {
        line.comes_back(&main, "from slots").await;
    }
    let name = rolled(&main, stream, 2..=5).await;
    for line in &lines {
        line.comes_back(&main, "from a roll-up").await;
    }
    // What a source has lies together, so that reading it is reading nothing of another.
    let object = main.vault.repo.log_object_of(&name).await.expect("read").expect("there");
    let records = object.open::<RepoError>(main.vault.unsealer.as_ref().expect("an identity"), |_, _, _, _| Ok(()));
    let spans: Vec<u16> = records.expect("opened").iter().map(|record| record.span).collect();
    assert!(spans.is_sorted() && spans.contains(&1), "{spans:?}");
    // One of them is taken over: the last word in the stream is the other's.
    let used = lines[0].kept.last().expect("a state").0;
    let (name, db) = (lines[0].name.clone(), lines[0].db.clone());
    let follower = Follower::start(&main.vault, request(&name, &db)).await.expect("follow");
    assert!(matches!(follower.began(), Began::Snapshot { .. }) && follower.position().tx >= used);
    drop(follower);
    let end = main.vault.repo.log_end(&stream).await.expect("listed").expect("objects");
    let end = main.vault.repo.log_front(&stream, end).await.expect("a front").expect("there");
    assert_ne!(end.facts.onward().of(&name), end.facts.onward().of(&lines[1].name), "{:?}", end.facts);
    for line in &lines {
        line.comes_back(&main, "once one was taken over").await;
    }
}
