//! A follower beside an application that does everything an application may do to its log, while both, and the
//! repository, fail. By chance, from a seed that is printed.
//!
//! The oracle is a ledger: every commit has a number, a sum over all rows and a digest of each of them, and is
//! remembered by what the whole database was after it (copied by another process and recovered by SQLite: a copy
//! made here would drop locks). Whatever comes back must be one of those states, byte for byte; each state must be
//! the next commit after the one before, unless a gap was told; and the last must be the live one.
//!
//! `cargo xtask soak sqlite` runs it for longer, with transactions of up to 100 MB, and with `--peer litestream` lets
//! Litestream follow instead: it is judged by the ledger alone, because it writes into the database by itself, and what
//! it does wrong is counted and no failure of ours.

use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::Repository;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

/// How long and how large.
struct Measure {
    seed: u64,
    acts: u64,
    until: Option<Instant>,
    /// Bytes of the largest transaction.
    largest: u64,
    /// States that are brought back at the end.
    restored: u64,
    /// Litestream's program, when it follows instead of us.
    peer: Option<PathBuf>,
}

struct Soak {
    folder: TempDir,
    conn: Connection,
    dice: Dice,
    /// The digest of every state there was, and the number of the commit that led to it.
    states: BTreeMap<[u8; 32], u64>,
    commits: u64,
    sequence: i64,
    follower: Option<Child>,
    largest: u64,
    counts: BTreeMap<&'static str, u64>,
    peer: Option<PathBuf>,
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).expect("opens");
    conn.busy_timeout(Duration::from_secs(10)).expect("set");
    conn.execute_batch("PRAGMA synchronous=OFF").expect("set");
    conn
}

impl Soak {
    fn begin(measure: &Measure) -> Self {
        println!("seed {:#x}", measure.seed);
        let folder = tempfile::tempdir().expect("a folder");
        let conn = open(&folder.path().join("shop.db"));
        conn.execute_batch(
            "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;
             CREATE TABLE ledger(seq INTEGER PRIMARY KEY, total INTEGER NOT NULL);
             CREATE TABLE t(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, body BLOB, hash INTEGER NOT NULL);
             CREATE INDEX by_amount ON t(amount);",
        )
        .expect("made");
        let mut soak = Self {
            folder,
            conn,
            dice: Dice(measure.seed | 1),
            states: BTreeMap::new(),
            commits: 0,
            sequence: 0,
            follower: None,
            largest: measure.largest,
            counts: BTreeMap::new(),
            peer: measure.peer.clone(),
        };
        soak.commit("SELECT 1");
        let init = ["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault", "--no-backup"];
        assert!(soak.run(&init).0, "{:?}", soak.run(&init).1);
        let quick = "\n[follow]\ninterval = \"20ms\"\ninterval_steady = \"50ms\"\nspool_limit = \"32 MiB\"\n";
        let config = fs::read_to_string(soak.path("backstay.toml")).expect("a file");
        fs::write(soak.path("backstay.toml"), config + quick).expect("written");
        soak
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
        command.current_dir(&self.folder).args(words).env("HOME", self.folder.path()).env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> (bool, String) {
        let done = self.command(words).output().expect("backstay runs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), said)
    }

    fn sql(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// One transaction with its row in the ledger.
    fn commit(&mut self, sql: &str) {
        self.sequence += 1;
        self.sql(&format!(
            "BEGIN IMMEDIATE; {sql};
             INSERT INTO ledger SELECT {}, ifnull(sum(amount), 0) FROM t; COMMIT",
            self.sequence
        ));
        self.remember();
    }

    /// What the database is now, as one more state.
    fn remember(&mut self) {
        let copy = self.path("shadow.db");
        for suffix in ["", "-wal"] {
            let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
            let _ = fs::remove_file(name(&copy));
            if name(&self.path("shop.db")).exists() {
                let copied = Command::new("cp").arg(name(&self.path("shop.db"))).arg(name(&copy)).status();
                assert!(copied.expect("cp runs").success());
            }
        }
        let conn = Connection::open(&copy).expect("opens");
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("recovers");
        drop(conn);
        let state = digest(&fs::read(copy).expect("readable"));
        if let std::collections::btree_map::Entry::Vacant(free) = self.states.entry(state) {
            self.commits += 1;
            free.insert(self.commits);
        }
    }

    fn insert(&mut self, rows: u64, bytes: u64) {
        // The hash of a row is a function of what is in it.
        let amount = format!("((i * 7919 + {}) % 1000)", self.sequence);
        self.commit(&format!(
            "INSERT INTO t(amount, body, hash)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             SELECT {amount}, randomblob({bytes}), {amount} * 31 + {bytes} FROM n"
        ));
    }

    fn act(&mut self) {
        let what = match self.dice.below(28) {
            0..=6 => {
                let bytes = 1 + self.dice.below(3000);
                self.insert(1, bytes);
                "a row"
            }
            7 | 8 => {
                let most = self.largest / 10_000;
                let rows = 1 + self.dice.below(most) * self.dice.below(most) / most.max(1);
                self.insert(rows, 10_000);
                "many rows"
            }
            9 => {
                self.commit("UPDATE t SET amount = amount + 1, hash = hash + 31 WHERE id % 3 = 0");
                "an update"
            }
            10 => {
                self.commit("DELETE FROM t WHERE id % 2 = 1 OR id > 300");
                "a delete"
            }
            11 => {
                self.commit("SAVEPOINT s; UPDATE t SET amount = 7; ROLLBACK TO s; RELEASE s");
                "a savepoint"
            }
            12 => {
                let n = self.sequence;
                self.commit(&format!("CREATE TABLE extra{n}(x); INSERT INTO extra{n} VALUES (zeroblob(9000))"));
                self.commit(&format!("DROP TABLE extra{n}"));
                "a schema change"
            }
            13 => {
                self.sql("PRAGMA incremental_vacuum(7)");
                self.remember();
                "an incremental vacuum"
            }
            14 => {
                self.sql("VACUUM");
                self.remember();
                "a vacuum"
            }
            15..=18 => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.dice.below(4) as usize];
                self.checkpoint(mode);
                "a checkpoint"
            }
            19 | 20 => {
                self.kill();
                "a kill"
            }
            21 => {
                self.stop();
                "a stop"
            }
            22 => {
                // Away for a moment, as a network is.
                let (away, vault) = (self.path("vault.away"), self.path(self.vault()));
                // Litestream makes its own when it begins.
                let is_there = vault.exists() && fs::rename(&vault, &away).is_ok();
                self.insert(3, 2000);
                std::thread::sleep(Duration::from_millis(self.dice.below(200)));
                if is_there && !vault.exists() {
                    fs::rename(away, vault).expect("renamed");
                }
                "an outage"
            }
            23 if self.dice.below(3) == 0 => {
                self.stop();
                let size = [1024, 4096, 8192][self.dice.below(3) as usize];
                self.sql(&format!(
                    "PRAGMA journal_mode=DELETE; PRAGMA page_size={size}; VACUUM; PRAGMA journal_mode=WAL"
                ));
                self.remember();
                "another page size"
            }
            24 => {
                self.kill_a_writer();
                "a killed writer"
            }
            25 if self.peer.is_none() => {
                self.fill_the_disk();
                "a full disk"
            }
            _ => {
                std::thread::sleep(Duration::from_millis(self.dice.below(120)));
                "a pause"
            }
        };
        *self.counts.entry(what).or_default() += 1;
        if self.follower.is_none() && self.dice.below(3) == 0 {
            self.follow();
        }
    }

    /// A checkpoint that meets another, ours for instance, is told so at once. Nothing keeps it out for long.
    #[expect(clippy::disallowed_methods, reason = "how long an application waits is what is asked")]
    fn checkpoint(&self, mode: &str) {
        let began = Instant::now();
        let ask = || self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0));
        if self.peer.is_some() {
            return drop(ask());
        }
        while ask().expect("asked") != 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "a {mode} checkpoint of the application gets through");
        }
    }

    /// Where the repository is.
    fn vault(&self) -> &'static str {
        if self.peer.is_some() { "replica" } else { "vault" }
    }

    /// The application is another process for a moment, and is killed amid a transaction that is in the log already.
    /// Where nobody else has the database open, whoever comes next recovers it from the log.
    fn kill_a_writer(&mut self) {
        let mut writer = Command::new("sqlite3");
        writer.arg(self.path("shop.db")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut writer = writer.spawn().expect("`apt-get install sqlite3`");
        let rows = 300 + self.dice.below(1000);
        let sql = format!(
            "PRAGMA busy_timeout=10000; PRAGMA cache_size=5; BEGIN IMMEDIATE; INSERT INTO t(amount, body, hash)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             SELECT 1, randomblob(5000), 0 FROM n;\n.system echo amid\n"
        );
        let mut words = writer.stdin.take().expect("a pipe");
        words.write_all(sql.as_bytes()).expect("told");
        let amid = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        assert!(amid.map_while(Result::ok).any(|line| line == "amid"), "it comes so far");
        self.conn = Connection::open_in_memory().expect("opens");
        writer.kill().expect("a process of ours");
        writer.wait().expect("it ends");
        self.conn = open(&self.path("shop.db"));
    }

    /// A follower that can write no file longer than so much, as on a disk that is full: what it is told then is not held
    /// against it.
    fn fill_the_disk(&mut self) {
        self.kill();
        // Hardly a state file, no object of some size, no large one. In blocks of 512 bytes.
        let blocks = [8, 64, 2048][self.dice.below(3) as usize].to_string();
        let program = "trap '' XFSZ; ulimit -f \"$1\"; exec \"$0\" follow";
        let mut command = Command::new("sh");
        command.args(["-c", program, env!("CARGO_BIN_EXE_backstay"), &blocks]);
        command.current_dir(&self.folder).env("HOME", self.folder.path()).env_remove("XDG_STATE_HOME");
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.follower = Some(quiet.spawn().expect("sh runs"));
        for _ in 0..4 {
            self.insert(5, 9000);
            self.insert(1, 10);
            std::thread::sleep(Duration::from_millis(self.dice.below(150)));
        }
        self.kill();
    }

    fn follow(&mut self) {
        let said = File::options().create(true).append(true).open(self.path("said")).expect("a file");
        let mut command = match &self.peer {
            Some(program) => {
                let mut command = Command::new(program);
                let replica = format!("file://{}", self.path("replica").display());
                command.current_dir(&self.folder).args(["replicate", "shop.db", &replica]).stdin(Stdio::null());
                command
            }
            None => self.command(&["follow"]),
        };
        self.follower = Some(command.stdout(Stdio::null()).stderr(said).spawn().expect("backstay starts"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.follower.take() {
            child.kill().expect("a process of ours");
            child.wait().expect("it ends");
        }
    }

    /// Told to stop, it makes durable what there is.
    fn stop(&mut self) {
        if let Some(mut child) = self.follower.take() {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
            let ended = child.wait().expect("it ends");
            let said = fs::read_to_string(self.path("said")).unwrap_or_default();
            // It may have been told before it listened, or while it took its first snapshot.
            let fine = ended.success() || ended.code().is_none() || matches!(ended.code(), Some(10 | 130));
            // Or it began where the repository was away.
            let was_away = ended.code() == Some(4)
                && said.rsplit("error: ").next().is_some_and(|last| last.contains("as a store"));
            let fine = fine || was_away || self.peer.is_some();
            assert!(fine, "{ended}\n{said}");
        }
    }

    /// States that the repository has recorded to stand behind a gap, and why.
    fn gaps(&self) -> BTreeMap<u64, String> {
        let config = fs::read_to_string(self.path("backstay.toml")).expect("a file");
        let root = config.lines().find_map(|line| line.strip_prefix("root = ")).expect("a root");
        let root = root.trim_matches('"').parse().expect("a key");
        let store = LocalStore::open(&self.path("vault"), OpenMode::Existing).expect("a store");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let (fronts, broken) = runtime.block_on(async {
            let repo = Repository::open(Arc::new(store), root, None).await.expect("opens");
            repo.newest_fronts(&"shop".parse().expect("a name"), usize::MAX).await.expect("a list")
        });
        assert!(broken.is_empty(), "{broken:?}");
        let following = fronts.into_iter().filter_map(|front| front.facts.following);
        following.filter_map(|following| Some((following.tx.get(), following.resync?.reason))).collect()
    }

    /// Brings a state back and says which of those there were it is.
    fn restored(&self, point: &[&str]) -> Option<u64> {
        let to = self.path("restored.db");
        let _ = fs::remove_file(&to);
        let (done, said) = self.run(&[&["restore", "shop"], point, &["--to", "restored.db"]].concat());
        if !done {
            assert!(said.contains("gap") || said.contains("held"), "{point:?}: {said}");
            return None;
        }
        let conn = Connection::open(&to).expect("opens");
        let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
        assert_eq!(
            one("SELECT count(*) = 0 FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
            1,
            "{point:?}"
        );
        assert_eq!(one("SELECT count(*) FROM t WHERE hash <> amount * 31 + length(body)"), 0, "{point:?}: a row");
        assert_eq!(one("SELECT max(seq) - count(*) FROM ledger"), 0, "{point:?}: the ledger has no hole");
        let sums =
            "SELECT (SELECT ifnull(sum(amount), 0) FROM t) - (SELECT total FROM ledger ORDER BY seq DESC LIMIT 1)";
        assert_eq!(one(sums), 0, "{point:?}: the sum is that of the ledger");
        drop(conn);
        let state = digest(&fs::read(&to).expect("readable"));
        let found = self.states.get(&state).copied();
        assert!(found.is_some(), "{point:?} is a state that there was");
        found
    }

    /// Everything is durable, and everything comes back.
    fn end(&mut self, restored: u64) {
        self.kill();
        let said = self.command(&["follow", "--once", "--json"]).output().expect("backstay runs");
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{err}");
        let view: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        let position = &view["sources"][0]["position"];
        let last = position["tx"].as_u64().expect("a state");
        let gaps = self.gaps();
        assert_eq!(self.restored(&["latest"]), Some(self.commits), "the newest state is the live one");
        let span = last + 1;
        let mut wanted: Vec<u64> = match span <= restored {
            true => (0..=last).collect(),
            false => (0..restored / 2).map(|_| self.dice.below(last)).flat_map(|tx| [tx, tx + 1]).collect(),
        };
        wanted.sort_unstable();
        wanted.dedup();
        let mut before: Option<(u64, Option<u64>)> = None;
        let mut compared = 0;
        for tx in wanted {
            let here = self.restored(&["--tx", &tx.to_string()]);
            if let Some((tx_before, Some(state))) = before
                && tx_before + 1 == tx
                && !gaps.contains_key(&tx)
            {
                assert_eq!(here, Some(state + 1), "state {tx} comes right after {tx_before}; gaps told: {gaps:?}");
                compared += 1;
            }
            before = Some((tx, here));
        }
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        gaps.values().for_each(|reason| *reasons.entry(reason).or_default() += 1);
        println!(
            "{} commits, states up to {last}, {compared} pairs compared, gaps {reasons:?}, {:?}",
            self.commits, self.counts
        );
        assert!(compared > 5, "{compared}");
        // Each was killed, stopped, cut off or changed under: none of that makes a page another than was captured.
        let is_ours = |reason: &&&str| reason.contains("what was captured") || reason.contains("cannot be read");
        assert_eq!(reasons.keys().find(is_ours), None, "a gap for no reason of the application's");
    }

    /// What Litestream brings back, in a word, by the ledger.
    fn end_of_peer(&mut self) -> &'static str {
        let Some(program) = self.peer.clone() else { return "nobody" };
        // It is given the time it needs to see everything, and is told to stop.
        if self.follower.is_none() {
            self.follow();
        }
        std::thread::sleep(Duration::from_secs(4));
        self.stop();
        let replica = format!("file://{}", self.path("replica").display());
        let to = self.path("restored.db");
        let done = Command::new(program).args(["restore", "-o"]).arg(&to).arg(replica).output().expect("it runs");
        if !done.status.success() {
            return "a restore that fails";
        }
        let conn = Connection::open(&to).expect("opens");
        let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(-1);
        let sound = "SELECT count(*) = 0 FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
        let sums =
            "SELECT (SELECT ifnull(sum(amount), 0) FROM t) - (SELECT total FROM ledger ORDER BY seq DESC LIMIT 1)";
        if one(sound) != 1 {
            return "a corrupt database, with exit code 0";
        }
        if one("SELECT count(*) FROM t WHERE hash <> amount * 31 + length(body)") != 0 || one(sums) != 0 {
            return "rows that are wrong, with exit code 0";
        }
        if one("SELECT max(seq) - count(*) FROM ledger") != 0 {
            return "a ledger with a hole, with exit code 0";
        }
        if one("SELECT max(seq) FROM ledger") != self.sequence {
            return "an older state, with exit code 0";
        }
        "the newest state"
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Of a database, but for free pages, which need not have any content.
fn digest(image: &[u8]) -> [u8; 32] {
    let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().expect("four bytes"));
    let size = match u16::from_be_bytes([image[16], image[17]]) {
        1 => 65_536,
        size => usize::from(size),
    };
    let (mut leaves, mut trunk) = (Vec::new(), word(32));
    while trunk != 0 {
        let at = (trunk as usize - 1) * size;
        leaves.extend((0..word(at + 4) as usize).map(|n| word(at + 8 + 4 * n) as usize));
        trunk = word(at);
    }
    leaves.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for (at, page) in image.chunks(size).enumerate() {
        if leaves.binary_search(&(at + 1)).is_err() {
            hasher.update(&(at as u64).to_le_bytes());
            hasher.update(page);
        }
    }
    hasher.update(&(image.len() as u64).to_le_bytes());
    *hasher.finalize().as_bytes()
}

#[expect(clippy::disallowed_methods, reason = "a soak ends by the clock")]
fn soak(measure: &Measure) -> &'static str {
    let mut soak = Soak::begin(measure);
    soak.follow();
    let mut acts = 0;
    while acts < measure.acts || measure.until.is_some_and(|until| Instant::now() < until) {
        soak.act();
        acts += 1;
    }
    if soak.peer.is_some() {
        return soak.end_of_peer();
    }
    soak.end(measure.restored);
    "the newest state"
}

#[test]
fn a_short_life_of_everything_at_once_loses_nothing_untold() {
    for seed in [0x5eed_0001, 0x5eed_0002] {
        soak(&Measure { seed, acts: 60, until: None, largest: 2 << 20, restored: 40, peer: None });
    }
}

#[test]
#[ignore = "`cargo xtask soak sqlite` runs it, by the clock"]
#[expect(clippy::disallowed_methods, reason = "a soak ends by the clock, and is told by variables how long it is")]
fn a_long_life_of_everything_at_once_loses_nothing_untold() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (minutes, seed) = (number("BACKSTAY_SOAK_MINUTES").unwrap_or(30), number("BACKSTAY_SOAK_SEED").unwrap_or(1));
    let ends = Instant::now() + Duration::from_secs(minutes * 60);
    let peer = std::env::var_os("BACKSTAY_SOAK_PEER").map(PathBuf::from);
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut life = seed;
    while Instant::now() < ends {
        // A life of minutes each, so that every one is gone through at its end.
        let until = Instant::now() + Duration::from_secs(120);
        let (until, peer) = (Some(until.min(ends)), peer.clone());
        let said = soak(&Measure { seed: life, acts: 50, until, largest: 100 << 20, restored: 40, peer });
        *seen.entry(said).or_default() += 1;
        println!("restored so far: {seen:?}");
        life = life.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
}
