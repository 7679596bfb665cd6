//! Roll-ups: many small objects of a log once more, in one. With them alone every commit comes back; one that says
//! anything else than what it stands for is an alarm, and changes nothing of what can be restored.

mod world;

use backstay_format::facts::{Following, RollUp, Span, SpanEnd};
use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ByteLen, Digest, Generation, Sequence, StreamId, Tx, Verdict};
use backstay_ops::check::Depth;
use backstay_ops::follow::{Began, FollowRequest, Follower, Limits};
use backstay_ops::log::{self, Lies, PageMap};
use backstay_ops::retain::{self, LogReport, SourceRules};
use backstay_ops::rows::points;
use backstay_store::keys::{LogName, Place, log_prefix};
use backstay_store::repo::{LogDraft, LogFront, LogSigning, name_of};
use jiff::tz::TimeZone;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use world::{Hands, World, integrity_of, rows_of, source};

struct House {
    world: World,
    clock: Arc<Hands>,
    conn: Connection,
    /// The state after some commits.
    kept: Vec<(Tx, Vec<u8>)>,
}

impl House {
    async fn new() -> Self {
        let mut world = World::new().await;
        let clock = Arc::new(Hands::default());
        world.vault.env.clock = clock.clone();
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch(
            "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);",
        )
        .expect("made");
        Self { world, clock, conn, kept: Vec::new() }
    }

    fn request(&self) -> FollowRequest {
        FollowRequest {
            source: source(),
            path: self.world.db(),
            busy: Duration::from_secs(10),
            hold_max: Duration::from_secs(1),
            log_growth_max: ByteLen::new(1 << 30),
            uploads_in_flight: 2,
            limits: Limits { look: Duration::from_secs(60), ..Limits::STANDARD },
            steps: Arc::new(|_| {}),
        }
    }

    async fn follow(&self) -> Follower<'_> {
        Follower::start(&self.world.vault, self.request()).await.expect("follow")
    }

    /// So many commits in objects of their own, one each twenty seconds. Keeps some of the states.
    async fn work(&self, follower: &mut Follower<'_>, commits: usize) -> Vec<(Tx, Vec<u8>)> {
        let mut kept = Vec::new();
        for n in 0..commits {
            let sql = match n % 5 {
                0 => "INSERT INTO t(x) VALUES (randomblob(5000))",
                1 => "UPDATE t SET x = randomblob(700) WHERE id % 3 = 1",
                2 => "DELETE FROM t WHERE id = (SELECT max(id) FROM t)",
                3 if n % 50 == 3 => "VACUUM",
                _ => "INSERT INTO t(x) VALUES (randomblob(10)), (randomblob(900))",
            };
            self.conn.execute_batch(sql).expect("sql");
            let ticked = follower.tick().await.expect("tick");
            assert_eq!((ticked.shipped, ticked.began), (1, None));
            if n % 29 == 0 || n + 1 == commits {
                kept.push((follower.position().tx, self.recovered()));
            }
            self.clock.pass(20);
            while follower.roll().await.expect("roll").objects > 0 {}
        }
        kept
    }

    /// The same by a follower of its own.
    async fn worked(&self, commits: usize) -> Vec<(Tx, Vec<u8>)> {
        let mut follower = self.follow().await;
        self.work(&mut follower, commits).await
    }

    /// What SQLite makes of the files as they lie, found by another process: this one holds locks.
    fn recovered(&self) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        let copy = dir.path().join("copy.db");
        for suffix in ["", "-wal"] {
            let from = PathBuf::from(format!("{}{suffix}", self.world.db().display()));
            let to = PathBuf::from(format!("{}{suffix}", copy.display()));
            assert!(std::process::Command::new("cp").arg(from).arg(to).status().expect("cp runs").success());
        }
        let conn = Connection::open(&copy).expect("opens");
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("recovers");
        drop(conn);
        std::fs::read(&copy).expect("readable")
    }

    async fn following(&self) -> Following {
        let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
        let mut followed: Vec<_> = catalog.fronts.values().filter(|front| front.facts.following.is_some()).collect();
        followed.sort_by_key(|front| front.name.sequence);
        followed.last().and_then(|front| front.facts.following.clone()).expect("followed")
    }

    async fn stream(&self) -> StreamId {
        self.following().await.stream
    }

    async fn rolled(&self) -> Vec<LogName> {
        self.world.vault.repo.roll_ups(&self.stream().await).await.expect("listed")
    }

    async fn slots(&self) -> BTreeSet<u64> {
        let entries = self.world.vault.repo.list(&log_prefix(&self.stream().await)).await.expect("listed");
        let slot = |key| match Place::of(key) {
            Place::Log(_, slot) => Some(slot.get()),
            _ => None,
        };
        entries.iter().filter_map(|entry| slot(&entry.key)).collect()
    }

    fn remove(&self, name: &LogName) {
        std::fs::remove_file(self.world.dir().join("vault").join(name.key().as_str())).expect("removed");
    }

    /// What a prune would leave at most: the largest roll-ups, what is in none, and the last two slots.
    async fn keep_the_largest(&self) -> usize {
        let (rolled, slots) = (self.rolled().await, self.slots().await);
        let within = |a: &LogName, b: &LogName| a != b && b.first <= a.first && a.last <= b.last;
        let last = slots.iter().rev().take(2).copied().collect::<Vec<_>>();
        let slots = slots.iter().filter(|slot| !last.contains(slot));
        let slots = slots.map(|slot| LogName::slot(rolled[0].stream, Sequence::new(*slot)));
        let small: Vec<LogName> = slots.chain(rolled.iter().copied()).collect();
        let small: Vec<LogName> = small.into_iter().filter(|a| rolled.iter().any(|b| within(a, b))).collect();
        small.iter().for_each(|name| self.remove(name));
        small.len()
    }

    async fn restored(&self, target: Target) -> Vec<u8> {
        let dir = tempfile::tempdir_in(self.world.dir()).expect("a folder");
        let to = dir.path().join("out.db");
        self.world.restore(target, &to).await.expect("restore");
        assert_eq!(integrity_of(&to), "ok");
        std::fs::read(&to).expect("read")
    }

    async fn all_come_back(&self) {
        for (tx, bytes) in &self.kept {
            assert!(self.restored(Target::Tx(*tx)).await == *bytes, "state {tx}");
        }
        let dir = tempfile::tempdir_in(self.world.dir()).expect("a folder");
        let to = dir.path().join("latest.db");
        self.world.restore(Target::Latest, &to).await.expect("restore");
        assert!(rows_of(&to) == self.world.rows(), "the newest state is the live one");
    }

    async fn verdict(&self, depth: Depth) -> (Verdict, Vec<String>) {
        let report = self.world.check(depth).await.expect("a report");
        let mut problems: Vec<String> = report.problems.into_iter().map(|problem| problem.object).collect();
        problems.sort();
        (report.verdict, problems)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_comes_back_from_roll_ups_alone() {
    let mut house = House::new().await;
    // A little more than an hour.
    house.kept = house.worked(190).await;
    let rolled = house.rolled().await;
    let of =
        |min: u64, max: u64| rolled.iter().filter(|r| (min..max).contains(&(r.last.get() - r.first.get() + 1))).count();
    assert!(of(2, 4) > 80 && of(10, 20) >= 11 && of(150, 200) == 1, "{rolled:?}");
    house.all_come_back().await;
    let before = points(&house.world.vault, &source(), None).await.expect("points").list;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    assert!(house.keep_the_largest().await > 250);
    assert!(house.slots().await.len() < 14, "few slots are left");
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    assert_eq!(points(&house.world.vault, &source(), None).await.expect("points").list, before, "with their own times");
    // Page by page.
    let vault = &house.world.vault;
    let (tx, bytes) = house.kept.iter().rev().nth(2).expect("kept").clone();
    let mut catalog = vault.catalog(&source()).await.expect("a catalog");
    let resolved = log::resolve(vault, &mut catalog, &Target::Tx(tx)).await.expect("a state");
    let map = PageMap::of(vault, &resolved.log.expect("in the log")).await.expect("a map");
    for (at, page) in bytes.chunks(1024).enumerate() {
        if let Lies::InLog(image) = map.find(at as u32 + 1) {
            assert!(map.read(vault, &image).await.expect("a page") == page, "page {}", at + 1);
        }
    }
    // The next run goes on, and one that remembers nothing begins with numbers that were never used.
    let last = house.kept.last().expect("kept").0;
    let mut follower = house.follow().await;
    assert_eq!(*follower.began(), Began::Continued { tx: last });
    house.work(&mut follower, 4).await;
    drop(follower);
    std::fs::remove_dir_all(house.world.vault.state.dir()).expect("the memory is lost");
    let more = house.worked(5).await;
    assert!(more[0].0 > Tx::new(last.get() + 5), "numbers are not used twice");
    house.kept.extend(more);
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

/// Promise 10 also of roll-ups: the script shares no code with us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_recovers_commits_that_only_roll_ups_have() {
    let mut house = House::new().await;
    house.kept = house.worked(40).await;
    assert!(house.keep_the_largest().await > 40);
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = workspace.join("target/recover-venv/bin/python");
    assert!(python.exists(), "no {}: run `./test` once, it makes it", python.display());
    for (tx, bytes) in &house.kept {
        let mut command = std::process::Command::new(&python);
        command.current_dir(house.world.dir()).arg(workspace.join("contrib/recover.py"));
        command.args(["--repo", "vault", "--key", "backstay.key", "--out"]).arg(format!("{tx}.db"));
        let done = command.args(["--tx", &tx.get().to_string()]).output().expect("python runs");
        assert!(done.status.success(), "{tx}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(std::fs::read(house.world.dir().join(format!("{tx}.db"))).expect("read") == *bytes, "state {tx}");
    }
    assert_eq!(house.kept.len(), 3);
}

/// A slot that no roll-up has is a hole as ever, and so is one whose roll-up is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_that_is_damaged_is_named_and_the_slots_are_read() {
    let mut house = House::new().await;
    house.kept = house.worked(8).await;
    let rolled = house.rolled().await;
    let (first, second) = (rolled[0], rolled[1]);
    let path = house.world.dir().join("vault").join(first.key().as_str());
    let mut bytes = std::fs::read(&path).expect("read");
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    assert_eq!(house.verdict(Depth::Intact).await, (Verdict::Fail, vec![first.key().to_string()]));
    house.all_come_back().await;
    bytes[at] ^= 1;
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Intact).await, (Verdict::Fail, vec![first.key().to_string()]));
    house.remove(&first);
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    house.all_come_back().await;
    // Of the second the slots are gone.
    for slot in second.first.get()..=second.last.get() {
        house.remove(&LogName::slot(second.stream, Sequence::new(slot)));
    }
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    house.remove(&second);
    let hole = LogName::slot(second.stream, second.first).key().to_string();
    assert_eq!(house.verdict(Depth::Intact).await, (Verdict::Fail, vec![hole]));
}

/// What a roll-up could say that is not so.
type Lie = fn(&mut RollUp, &mut Digest);

const LIES: [Lie; 5] = [
    // Nothing was committed.
    |facts, _| {
        facts.spans.clear();
        facts.ends.clear();
    },
    // The chain goes on elsewhere.
    |facts, _| facts.digest = Digest::from_bytes([1; 32]),
    |_, previous| *previous = Digest::from_bytes([1; 32]),
    |facts, _| facts.spans[0].last = Tx::new(facts.spans[0].last.get() + 1),
    // There is nothing behind it.
    |facts, _| facts.last = Sequence::new(1 << 40),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_that_lies_is_an_alarm_and_the_slots_are_read() {
    for (at, lie) in LIES.into_iter().enumerate() {
        let mut house = House::new().await;
        house.kept = house.worked(5).await;
        for name in house.rolled().await {
            house.remove(&name);
        }
        let name = house.lie(lie).await;
        house.all_come_back().await;
        let (verdict, problems) = house.verdict(Depth::Authentic).await;
        assert_eq!(verdict, Verdict::Fail, "lie {at}");
        assert!(problems.contains(&name.key().to_string()), "lie {at}: {problems:?}");
    }
}

fn rules(grace_millis: i64) -> Vec<SourceRules> {
    let policy = RetentionPolicy { last: 9, ..Default::default() };
    vec![SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis, log_millis: 7 * 86_400_000 }]
}

impl House {
    /// A roll-up of the first four slots that is signed and says something else; there is no commit in it.
    async fn lie(&self, lie: Lie) -> LogName {
        let vault = &self.world.vault;
        let stream = self.stream().await;
        let mut fronts: Vec<LogFront> = Vec::new();
        for slot in 1..=4 {
            fronts.push(vault.repo.log_front(&stream, Sequence::new(slot)).await.expect("a front").expect("there"));
        }
        let (first, last) = (&fronts[0], &fronts[3]);
        let span = Span { last: last.facts.spans[0].last, to: last.facts.spans[0].to, ..first.facts.spans[0].clone() };
        let mut facts = RollUp {
            stream,
            first: Sequence::new(1),
            last: Sequence::new(4),
            generation: Generation::FIRST,
            digest: last.digest,
            spans: vec![span],
            ends: vec![SpanEnd { sequence: Sequence::new(4), digest: last.digest }],
        };
        let mut previous = first.chain.previous;
        lie(&mut facts, &mut previous);
        let random = vault.env.random.as_ref();
        let sealer = vault.repo.sealer(random);
        let with = LogSigning { signer: vault.signer.as_ref().expect("a signer"), sealer: &sealer, random };
        let (bytes, _) = LogDraft::roll_up(&facts, previous, vault.repo.fresh_id(random), with).finish(&[]);
        let name = name_of(&facts);
        vault.repo.put_roll_up(&name, bytes).await.expect("put");
        name
    }

    async fn prune(&self, grace_millis: i64) -> LogReport {
        let planned = retain::plan(&self.world.vault, &rules(grace_millis)).await.expect("a plan").logs;
        let report = retain::apply(&self.world.vault, &rules(grace_millis)).await.expect("pruned").logs;
        assert_eq!((planned.doubted, report.doubted), (false, false));
        assert!(planned.rolled.objects >= report.rolled.objects, "{planned:?} {report:?}");
        report
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_roll_up_says_once_more_is_let_go_after_it_was_compared() {
    let mut house = House::new().await;
    house.kept = house.worked(40).await;
    let (slots, rolled) = (house.slots().await.len(), house.rolled().await.len());
    assert_eq!(house.prune(3_600_000).await.rolled.objects, 0, "younger than the grace");
    // Whoever cannot read cannot compare.
    let unsealer = house.world.vault.unsealer.take();
    let blind = house.prune(0).await;
    assert!(blind.unread > 0 && blind.rolled.objects == 0, "{blind:?}");
    house.world.vault.unsealer = unsealer;
    assert_eq!((house.slots().await.len(), house.rolled().await.len()), (slots, rolled));
    let report = house.prune(0).await;
    let left = house.slots().await.len() + house.rolled().await.len();
    assert_eq!(report.rolled.objects as usize, slots + rolled - left, "{report:?}");
    assert!(left < 20 && (report.contradicted, report.unread) == (0, 0), "{left} of {slots} and {rolled}: {report:?}");
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    assert_eq!(house.prune(0).await.rolled.objects, 0, "once");
    // Following goes on, and what it rolls up is let go in turn.
    let more = house.worked(20).await;
    house.kept.extend(more);
    assert!(house.prune(0).await.rolled.objects > 20);
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

/// Nothing that a writer can create causes a deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_with_other_commits_lets_nothing_go() {
    let mut house = House::new().await;
    house.kept = house.worked(5).await;
    for name in house.rolled().await {
        house.remove(&name);
    }
    let slots = house.slots().await;
    // All it says of itself is true; its commits are nowhere in it.
    let name = house.lie(|_, _| {}).await;
    let report = house.prune(0).await;
    assert_eq!((report.rolled.objects, report.contradicted), (0, 1), "{report:?}");
    assert_eq!(house.slots().await, slots);
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Fail, vec![name.key().to_string()]));
}
