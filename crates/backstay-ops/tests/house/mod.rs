//! A source that is followed while its clock is moved by hand, so that roll-ups and what comes of them can be waited for.
#![allow(dead_code, reason = "each test file uses its part of it")]

use crate::world::{Hands, World, integrity_of, recovered, rows_of, source};
use backstay_format::facts::Following;
use backstay_format::object::Front;
use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{ByteLen, Sequence, StreamId, Tx, Verdict};
use backstay_ops::check::Depth;
use backstay_ops::env::blocking;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::query::{Asker, CACHE_USUAL, Reading};
use backstay_ops::retain::{self, LogReport, SourceRules};
use backstay_ops::standby::{Following as Standby, StandbyRequest};
use backstay_store::keys::{LogName, Place, log_prefix};
use jiff::tz::TimeZone;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A followed database whose commits are rolled up by a clock that is moved by hand.
pub struct House {
    pub world: World,
    pub clock: Arc<Hands>,
    pub conn: Connection,
    /// The state after some commits.
    pub kept: Vec<(Tx, Vec<u8>)>,
}

impl House {
    pub async fn new() -> Self {
        Self::with_pages(1024).await
    }

    pub async fn with_pages(size: u32) -> Self {
        Self::in_world(World::new().await, size)
    }

    pub fn in_world(mut world: World, size: u32) -> Self {
        let clock = Arc::new(Hands::default());
        world.vault.env.clock = clock.clone();
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA page_size={size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);"
        ))
        .expect("made");
        Self { world, clock, conn, kept: Vec::new() }
    }

    pub fn request(&self) -> FollowRequest {
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

    pub async fn follow(&self) -> Follower<'_> {
        Follower::start(&self.world.vault, self.request()).await.expect("follow")
    }

    /// So many commits in objects of their own, one each twenty seconds. Keeps some of the states.
    pub async fn work(&self, follower: &mut Follower<'_>, commits: usize) -> Vec<(Tx, Vec<u8>)> {
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
    pub async fn worked(&self, commits: usize) -> Vec<(Tx, Vec<u8>)> {
        let mut follower = self.follow().await;
        self.work(&mut follower, commits).await
    }

    /// What SQLite makes of the files as they lie, found by another process: this one holds locks.
    pub fn recovered(&self) -> Vec<u8> {
        recovered(&self.world.db())
    }

    pub async fn following(&self) -> Following {
        let catalog = self.world.vault.catalog(&source()).await.expect("catalog");
        let mut followed: Vec<_> = catalog.fronts.values().filter(|front| front.facts.following.is_some()).collect();
        followed.sort_by_key(|front| front.name.sequence);
        followed.last().and_then(|front| front.facts.following.clone()).expect("followed")
    }

    pub async fn stream(&self) -> StreamId {
        self.following().await.stream
    }

    pub async fn rolled(&self) -> Vec<LogName> {
        self.world.vault.repo.roll_ups(&self.stream().await).await.expect("listed")
    }

    pub async fn slots(&self) -> BTreeSet<u64> {
        let entries = self.world.vault.repo.list(&log_prefix(&self.stream().await)).await.expect("listed");
        let slot = |key| match Place::of(key) {
            Place::Log(_, slot) => Some(slot.get()),
            _ => None,
        };
        entries.iter().filter_map(|entry| slot(&entry.key)).collect()
    }

    pub fn remove(&self, name: &LogName) {
        std::fs::remove_file(self.world.dir().join("vault").join(name.key().as_str())).expect("removed");
    }

    /// What a prune would leave at most: the largest roll-ups, what is in none, and the last two slots.
    pub async fn keep_the_largest(&self) -> usize {
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

    pub async fn restored(&self, target: Target) -> Vec<u8> {
        let dir = tempfile::tempdir_in(self.world.dir()).expect("a folder");
        let to = dir.path().join("out.db");
        self.world.restore(target, &to).await.expect("restore");
        assert_eq!(integrity_of(&to), "ok");
        std::fs::read(&to).expect("read")
    }

    pub async fn all_come_back(&self) {
        for (tx, bytes) in &self.kept {
            assert!(self.restored(Target::Tx(*tx)).await == *bytes, "state {tx}");
        }
        let dir = tempfile::tempdir_in(self.world.dir()).expect("a folder");
        let to = dir.path().join("latest.db");
        self.world.restore(Target::Latest, &to).await.expect("restore");
        assert!(rows_of(&to) == self.world.rows(), "the newest state is the live one");
    }

    pub fn path_of(&self, name: &LogName) -> PathBuf {
        self.world.dir().join("vault").join(name.key().as_str())
    }

    /// Changes a byte of the first frame, of images, or of the last, of records; once more, and it is whole again.
    pub fn flip(&self, name: &LogName, frame: usize) {
        let mut bytes = std::fs::read(self.path_of(name)).expect("read");
        let begin = Front::parse(&bytes).expect("a front").header.front_len();
        let trailer = bytes.len() - 24;
        let frames = u64::from_le_bytes(bytes[trailer..trailer + 8].try_into().expect("eight bytes")) as usize;
        let at = if frame == 0 { begin + 40 } else { begin + frames - 20 };
        bytes[at] ^= 1;
        std::fs::write(self.path_of(name), &bytes).expect("write");
    }

    /// Every page of a state, by questions.
    pub async fn asked(&self, tx: Tx) -> Result<Vec<u8>, String> {
        let asker = Asker::new(&self.world.vault, Reading { cache: CACHE_USUAL });
        let past = asker.open(&source(), &Target::Tx(tx)).await.map_err(|error| error.to_string())?;
        let pages = past.pages();
        blocking(|| {
            let mut all = Vec::new();
            for page in 1..=pages.pages() {
                let mut bytes = vec![0; pages.page_size().get() as usize];
                pages.read(page, &mut bytes).map_err(|fault| fault.what)?;
                all.extend(bytes);
            }
            Ok(all)
        })
    }

    /// A state as the script restores it, which shares no code with us.
    pub fn scripted(&self, tx: Tx) -> Result<Vec<u8>, String> {
        let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = workspace.join("target/recover-venv/bin/python");
        assert!(python.exists(), "no {}: run `./test` once, it makes it", python.display());
        let dir = tempfile::tempdir_in(self.world.dir()).expect("a folder");
        let to = dir.path().join("out.db");
        let mut command = std::process::Command::new(&python);
        command.current_dir(self.world.dir()).arg(workspace.join("contrib/recover.py"));
        command.args(["--repo", "vault", "--key", "backstay.key", "--tx", &tx.get().to_string()]).arg("--out").arg(&to);
        let done = command.output().expect("python runs");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.success(), to.exists(), "{said}");
        if done.status.success() { Ok(std::fs::read(to).expect("read")) } else { Err(said) }
    }

    /// Whoever reads gives the states that were kept.
    pub async fn all_are_read(&self, what: &str) {
        self.all_come_back().await;
        for (tx, bytes) in &self.kept {
            assert!(self.asked(*tx).await.as_ref() == Ok(bytes), "{what}: asked for {tx}");
            assert!(self.scripted(*tx).as_ref() == Ok(bytes), "{what}: state {tx} by the script");
        }
    }

    pub async fn standby(&self) -> Standby<'_> {
        let (to, smoke) = (self.world.dir().join("copy.db"), Vec::new());
        let request = StandbyRequest { source: source(), to, smoke, busy: Duration::from_millis(200) };
        Standby::start(&self.world.vault, request).await.expect("a stand-by")
    }

    pub fn is_the_copy(&self) -> bool {
        let copy = self.world.dir().join("copy.db");
        rows_of(&copy) == self.world.rows() && integrity_of(&copy) == "ok"
    }

    pub async fn verdict(&self, depth: Depth) -> (Verdict, Vec<String>) {
        let report = self.world.check(depth).await.expect("a report");
        let mut problems: Vec<String> = report.problems.into_iter().map(|problem| problem.object).collect();
        problems.sort();
        (report.verdict, problems)
    }

    pub async fn prune(&self, grace_millis: i64) -> LogReport {
        let planned = retain::plan(&self.world.vault, &rules(grace_millis)).await.expect("a plan").logs;
        let report = retain::apply(&self.world.vault, &rules(grace_millis)).await.expect("pruned").logs;
        assert_eq!((planned.doubted, report.doubted), (false, false));
        assert!(planned.rolled.objects >= report.rolled.objects, "{planned:?} {report:?}");
        report
    }
}

pub fn rules(grace_millis: i64) -> Vec<SourceRules> {
    let policy = RetentionPolicy { last: 9, ..Default::default() };
    vec![SourceRules { source: source(), policy, zone: TimeZone::UTC, grace_millis, log_millis: 7 * 86_400_000 }]
}
