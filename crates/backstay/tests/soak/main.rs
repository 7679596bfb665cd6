//! A follower beside an application that does everything an application may do to its log, while both, and the
//! repository, fail. By chance, from a seed that is printed.
//!
//! The oracle is a ledger, see [`Book`]: whatever comes back must be a state there was, byte for byte; each state must be the
//! next commit after the one before, unless a gap was told; and the last must be the live one.
//!
//! In every second life the same follower has three more databases, which are written to steadily, so that they share
//! objects while all that happens; each is judged like the first. Retention runs beside it all: one of them keeps its commits for
//! seconds, the others must keep theirs.
//!
//! `cargo xtask soak sqlite` runs it for longer, with transactions of up to 100 MB, and with `--peer litestream` lets
//! Litestream follow instead: it is judged by the ledger alone, because it writes into the database by itself, and what
//! it does wrong is counted and no failure of ours.

mod book;
mod judge;

use backstay_model::{Sequence, StreamId};
use book::Book;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
    /// States of each database that are brought back at the end.
    restored: u64,
    /// Whether others are there to share objects with.
    shares: bool,
    /// Litestream's program, when it follows instead of us.
    peer: Option<PathBuf>,
}

/// Who is written to steadily, in lives with sharing.
const OTHERS: [&str; 3] = ["crm", "blog", "till"];

/// The one of them whose commits are kept for a moment: what it lets go of must leave the others', in the same objects.
const BRIEF: &str = "crm";

struct Soak {
    folder: TempDir,
    /// The first is the one that everything is done to.
    books: Vec<Book>,
    dice: Dice,
    follower: Option<Child>,
    largest: u64,
    is_long: bool,
    counts: BTreeMap<&'static str, u64>,
    /// This follower is known to have begun.
    is_held: bool,
    /// Some of what this follower had was taken over by another.
    is_taken: bool,
    /// Objects that were looked at, and whether they have commits of several.
    seen: BTreeMap<(StreamId, Sequence), bool>,
    peer: Option<PathBuf>,
}

impl Soak {
    fn begin(measure: &Measure) -> Self {
        println!("seed {:#x}, {}", measure.seed, if measure.shares { "with others" } else { "alone" });
        let folder = tempfile::tempdir().expect("a folder");
        let others = OTHERS.iter().filter(|_| measure.shares);
        let soak = Self {
            books: ["shop"].iter().chain(others).map(|name| Book::begin(folder.path(), name)).collect(),
            folder,
            dice: Dice(measure.seed | 1),
            follower: None,
            largest: measure.largest,
            is_long: measure.until.is_some(),
            counts: BTreeMap::new(),
            is_held: false,
            is_taken: false,
            seen: BTreeMap::new(),
            peer: measure.peer.clone(),
        };
        let sources = soak.books.iter().flat_map(|book| ["--source".to_owned(), format!("{0}=./{0}.db", book.name)]);
        let sources: Vec<String> = sources.collect();
        let mut init = vec!["init", "--yes", "--repo", "./vault", "--no-backup"];
        init.extend(sources.iter().map(String::as_str));
        assert!(soak.run(&init).0, "{:?}", soak.run(&init).1);
        let quick = "\n[follow]\ninterval = \"20ms\"\ninterval_steady = \"50ms\"\nspool_limit = \"32 MiB\"\n";
        let shares = if measure.shares { "share = true\nshare_after = \"1s\"\n" } else { "share = false\n" };
        let config = fs::read_to_string(soak.path("backstay.toml")).expect("a file");
        let kept = "\n[retention]\nlast = 50\nlog = \"7d\"\n";
        let briefly = format!("\n[sources.{BRIEF}.retention]\nlast = 2\nlog = \"5s\"\n");
        let briefly = if measure.shares { briefly.as_str() } else { "" };
        fs::write(soak.path("backstay.toml"), [&config, quick, shares, kept, briefly].concat()).expect("written");
        soak
    }

    fn shares(&self) -> bool {
        self.books.len() > 1
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

    /// What happened, also between the lines of the follower.
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
        writeln!(self.said(), "-- {what}").expect("written");
    }

    fn said(&self) -> File {
        File::options().create(true).append(true).open(self.path("said")).expect("a file")
    }

    /// The others go on.
    fn others_step(&mut self) {
        let Self { books, dice, is_held, .. } = self;
        books.iter_mut().skip(1).for_each(|other| other.step(dice, *is_held));
    }

    /// So long nothing happens but that the others go on.
    #[expect(clippy::disallowed_methods, reason = "a pause of the application is one by the clock")]
    fn pause(&mut self, millis: u64) {
        let until = Instant::now() + Duration::from_millis(millis);
        loop {
            self.others_step();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// Until the follower has put more, which others share where there are any: it is not only killed before it begins.
    #[expect(clippy::disallowed_methods, reason = "what does not come is waited for no longer than this")]
    fn until_more_is_there(&mut self) {
        let (before, began) = (self.objects(), Instant::now());
        while self.objects() == before {
            let said = || fs::read_to_string(self.path("said")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(240), "nothing comes: {}", said());
            if !self.shares() {
                self.books[0].insert(1, 10);
            }
            self.pause(200);
        }
        self.is_held = true;
        self.count("waited for");
    }

    fn act(&mut self) {
        for _ in 0..self.dice.below(8) {
            self.others_step();
        }
        let what = match self.dice.below(30) {
            at @ 0..=14 => self.write(at),
            15..=18 => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.dice.below(4) as usize];
                match self.peer {
                    Some(_) => drop(self.books[0].has_checkpointed(mode)),
                    None => self.any_book().checkpoint(mode),
                }
                "a checkpoint"
            }
            at => self.fail(at),
        };
        self.count(what);
        if self.follower.is_none() && self.dice.below(3) == 0 {
            self.follow();
            if self.peer.is_none() && self.dice.below(2) == 0 {
                self.until_more_is_there();
            }
        }
    }

    /// Most things happen to the first.
    fn any_book(&mut self) -> &mut Book {
        let others = self.books.len() as u64 - 1;
        let nth = if others > 0 && self.is_held && self.dice.below(4) == 0 { 1 + self.dice.below(others) } else { 0 };
        &mut self.books[nth as usize]
    }

    /// The application writes.
    fn write(&mut self, at: u64) -> &'static str {
        let (bytes, most) = (1 + self.dice.below(3000), self.largest / 10_000);
        let rows = 1 + self.dice.below(most) * self.dice.below(most) / most.max(1);
        let book = self.any_book();
        match at {
            0..=6 => {
                book.insert(1, bytes);
                "a row"
            }
            7 | 8 => {
                // The others stay small: each of their commits is copied.
                let rows = if book.name == "shop" { rows } else { rows.min(60) };
                book.insert(rows, 10_000);
                "many rows"
            }
            9 => {
                book.commit("UPDATE t SET amount = amount + 1, hash = hash + 31 WHERE id % 3 = 0");
                "an update"
            }
            10 => {
                book.commit("DELETE FROM t WHERE id % 2 = 1 OR id > 300");
                "a delete"
            }
            11 => {
                book.commit("SAVEPOINT s; UPDATE t SET amount = 7; ROLLBACK TO s; RELEASE s");
                "a savepoint"
            }
            12 => {
                let n = book.sequence;
                book.commit(&format!("CREATE TABLE extra{n}(x); INSERT INTO extra{n} VALUES (zeroblob(9000))"));
                book.commit(&format!("DROP TABLE extra{n}"));
                "a schema change"
            }
            13 => {
                book.sql("PRAGMA incremental_vacuum(7)");
                book.remember();
                "an incremental vacuum"
            }
            _ => {
                book.sql("VACUUM");
                book.remember();
                "a vacuum"
            }
        }
    }

    /// Something goes wrong, or somebody pauses.
    fn fail(&mut self, at: u64) -> &'static str {
        match at {
            19 | 20 => {
                self.kill();
                "a kill"
            }
            21 => {
                self.stop();
                "a stop"
            }
            22 => {
                self.be_away();
                "an outage"
            }
            23 if self.dice.below(3) == 0 => {
                self.stop();
                let (size, book) = ([1024, 4096, 8192][self.dice.below(3) as usize], &mut self.books[0]);
                book.sql(&format!(
                    "PRAGMA journal_mode=DELETE; PRAGMA page_size={size}; VACUUM; PRAGMA journal_mode=WAL"
                ));
                book.remember();
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
            26 if self.shares() => {
                self.take_over();
                "a take-over"
            }
            27 if self.is_long && self.follower.is_some() && self.dice.below(2) == 0 => {
                // Roll-ups are made of half a minute.
                self.pause(35_000);
                "a calm"
            }
            28 | 29 if self.peer.is_none() => self.retain(),
            _ => {
                let millis = self.dice.below(120);
                self.pause(millis);
                "a pause"
            }
        }
    }

    /// The repository is away for a moment, as a network is.
    fn be_away(&mut self) {
        let (away, vault) = (self.path("vault.away"), self.path(self.vault()));
        // Litestream makes its own when it begins.
        let is_there = vault.exists() && fs::rename(&vault, &away).is_ok();
        self.books[0].insert(3, 2000);
        // Some are seen only by whoever hands over more than once meanwhile.
        let millis = self.dice.below(if self.shares() { 1500 } else { 200 });
        self.pause(millis);
        if is_there && (self.peer.is_none() || !vault.exists()) {
            fs::rename(away, vault).expect("nobody makes a repository anew that is away");
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
        writer.arg(&self.books[0].db).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
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
        self.books[0].without_us(|| {
            writer.kill().expect("a process of ours");
            writer.wait().expect("it ends");
        });
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
            self.books[0].insert(5, 9000);
            self.books[0].insert(1, 10);
            let millis = self.dice.below(150);
            self.pause(millis);
        }
        self.kill();
    }

    /// Another host follows the last of them for a moment. Whoever had it finds its place taken; the others, which may share a
    /// stream with it, go on.
    fn take_over(&mut self) {
        let name = self.books.last().map_or("shop", |book| book.name);
        let mut other = self.command(&["follow", name, "--once"]);
        let other = other.env("BACKSTAY_STATE_DIR", self.path("other")).output().expect("backstay runs");
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        writeln!(self.said(), "the other host: {said}").expect("written");
        // Beside one that takes a snapshot of it at the same moment it may be the one that loses.
        assert!(other.status.success() || self.follower.is_some(), "{said}");
        self.is_taken = true;
        let millis = self.dice.below(1500);
        self.pause(millis);
        // There are two left who are written to steadily.
        if self.follower.is_some() && self.dice.below(2) == 0 {
            self.until_more_is_there();
        }
    }

    /// What is to be kept no longer goes: without waiting while nobody follows, beside a follower only with its grace.
    fn retain(&mut self) -> &'static str {
        let beside = self.follower.is_some() && self.dice.below(2) == 0;
        if !beside && self.dice.below(2) == 0 {
            self.stop();
        } else if !beside {
            self.kill();
        }
        let names: Vec<&str> = self.books.iter().map(|book| book.name).collect();
        for name in names {
            // Of a log that is over only what a snapshot that is proven has behind it goes.
            self.check(&["check", name, "--deep"]);
            let at_once: &[&str] = if beside { &[] } else { &["--grace", "0", "--confirm", name] };
            let (done, said) = self.run(&[&["retention", "apply", name], at_once].concat());
            writeln!(self.said(), "retention of {name}: {said}").expect("written");
            assert!(done, "{said}");
        }
        if beside { "retention beside it" } else { "retention at once" }
    }

    fn follow(&mut self) {
        (self.is_held, self.is_taken) = (false, false);
        let said = self.said();
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
        self.is_held = false;
        if let Some(mut child) = self.follower.take() {
            child.kill().expect("a process of ours");
            child.wait().expect("it ends");
        }
    }

    /// Told to stop, it makes durable what there is.
    fn stop(&mut self) {
        self.is_held = false;
        if let Some(mut child) = self.follower.take() {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
            self.others_step();
            let ended = child.wait().expect("it ends");
            let said = fs::read_to_string(self.path("said")).unwrap_or_default();
            // It may have been told before it listened, or while it took its first snapshot.
            let fine = ended.success() || ended.code().is_none() || matches!(ended.code(), Some(10 | 130));
            // Or it began where the repository was away.
            let was_away = ended.code() == Some(4)
                && said.rsplit("error: ").next().is_some_and(|last| last.contains("as a store"));
            let fine = fine || was_away || self.is_taken || self.peer.is_some();
            assert!(fine, "{ended}\n{said}");
        }
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            println!("what is left of it: {}", self.folder.path().display());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a soak ends by the clock")]
fn soak(measure: &Measure) -> &'static str {
    let mut soak = Soak::begin(measure);
    soak.follow();
    if soak.peer.is_none() {
        soak.until_more_is_there();
    }
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
    for (seed, shares) in [(0x5eed_0001, false), (0x5eed_0002, true)] {
        // With others each act takes longer, and there is more to bring back.
        let (acts, restored) = if shares { (30, 20) } else { (60, 40) };
        soak(&Measure { seed, acts, until: None, largest: 2 << 20, restored, shares, peer: None });
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
    let share = std::env::var("BACKSTAY_SOAK_SHARE").unwrap_or_else(|_| "by-seed".into());
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut life = seed;
    while Instant::now() < ends {
        // A life of minutes each, so that every one is gone through at its end.
        let until = Instant::now() + Duration::from_secs(120);
        let (until, peer) = (Some(until.min(ends)), peer.clone());
        // The parity of the seeds changes each time.
        let shares = peer.is_none() && (share == "always" || share == "by-seed" && life % 2 == 0);
        let said = soak(&Measure { seed: life, acts: 50, until, largest: 100 << 20, restored: 40, shares, peer });
        *seen.entry(said).or_default() += 1;
        println!("restored so far: {seen:?}");
        life = life.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
}
