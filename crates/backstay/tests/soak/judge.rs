//! What comes back is compared with the ledgers.

use super::book::Book;
use super::{BRIEF, Soak};
use backstay_store::keys::Place;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::Repository;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const SUMS: &str =
    "SELECT (SELECT ifnull(sum(amount), 0) FROM t) - (SELECT total FROM ledger ORDER BY seq DESC LIMIT 1)";
const SOUND: &str = "SELECT count(*) = 0 FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
const WRONG_ROWS: &str = "SELECT count(*) FROM t WHERE hash <> amount * 31 + length(body)";
const HOLES: &str = "SELECT max(seq) - count(*) FROM ledger";

/// Why a state does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Not {
    /// It says that it is not there.
    Told,
    /// It was to be kept no longer.
    LetGo,
}

impl Soak {
    fn with_repository<T>(&self, ask: impl AsyncFnOnce(&Repository) -> T) -> T {
        let config = fs::read_to_string(self.path("backstay.toml")).expect("a file");
        let root = config.lines().find_map(|line| line.strip_prefix("root = ")).expect("a root");
        let root = root.trim_matches('"').parse().expect("a key");
        let store = LocalStore::open(&self.path("vault"), OpenMode::Existing).expect("a store");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { ask(&Repository::open(Arc::new(store), root, None).await.expect("opens")).await })
    }

    /// States that the repository has recorded to stand behind a gap, and why.
    fn gaps(&self, name: &str) -> BTreeMap<u64, String> {
        let source = name.parse().expect("a name");
        let (fronts, broken) =
            self.with_repository(async |repo| repo.newest_fronts(&source, usize::MAX).await.expect("a list"));
        assert!(broken.is_empty(), "{broken:?}");
        let following = fronts.into_iter().filter_map(|front| front.facts.following);
        following.filter_map(|following| Some((following.tx.get(), following.resync?.reason))).collect()
    }

    /// How many objects of the log there are by now; with others, how many that have commits of several.
    pub fn objects(&mut self) -> usize {
        let mut seen = std::mem::take(&mut self.seen);
        self.with_repository(async |repo| {
            for entry in repo.list("data/log/").await.expect("a list") {
                let Place::Log(stream, sequence) = Place::of(&entry.key) else { continue };
                if let std::collections::btree_map::Entry::Vacant(new) = seen.entry((stream, sequence)) {
                    let front = repo.log_front(&stream, sequence).await.expect("read").expect("an object");
                    new.insert(front.facts.shared && front.facts.spans.len() > 1);
                }
            }
        });
        self.seen = seen;
        let shares = self.shares();
        self.seen.values().filter(|is_shared| **is_shared || !shares).count()
    }

    /// Brings a state back and says which of those there were it is.
    fn restored(&self, book: &Book, point: &[&str]) -> Result<u64, Not> {
        let (to, what) = (self.path("restored.db"), format!("{} {point:?}", book.name));
        let _ = fs::remove_file(&to);
        let (done, said) = self.run(&[&["restore", book.name], point, &["--to", "restored.db"]].concat());
        if !done {
            if book.name == BRIEF && said.contains("is older than what is kept") {
                return Err(Not::LetGo);
            }
            let is_told = ["gap", "held", "no log holds state"].iter().any(|told| said.contains(told));
            assert!(is_told, "{what}: {said}");
            return Err(Not::Told);
        }
        let conn = Connection::open(&to).expect("opens");
        let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
        assert_eq!(one(SOUND), 1, "{what}");
        assert_eq!(one(WRONG_ROWS), 0, "{what}: a row");
        assert_eq!(one(HOLES), 0, "{what}: the ledger has no hole");
        assert_eq!(one(SUMS), 0, "{what}: the sum is that of the ledger");
        drop(conn);
        let found = book.state_of(&fs::read(&to).expect("readable"));
        Ok(found.unwrap_or_else(|| panic!("{what} is a state that there was")))
    }

    /// All that is stored is sound. Where another host took over, both may have taken a snapshot at the same moment: that is
    /// told, and stays a problem, of which every snapshot is whole.
    pub fn check(&self, words: &[&str]) {
        let (is_sound, said) = self.run(words);
        let of = |begin: &'static str| said.lines().filter(move |line| line.trim_start().starts_with(begin));
        let only_rivals = self.counts.contains_key("a take-over")
            && of("FAIL ").all(|line| line.contains("the snapshots hold"))
            && of("problem").count() > 0
            && of("problem").all(|line| line.contains("another snapshot has its number"))
            && !said.contains("FAILED");
        assert!(is_sound || only_rivals, "{said}");
    }

    /// Everything is durable, and everything comes back.
    pub fn end(&mut self, restored: u64) {
        self.kill();
        let said = self.command(&["follow", "--once", "--json"]).output().expect("backstay runs");
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{err}");
        let view: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        let rows = view["sources"].as_array().expect("rows");
        for nth in 0..self.books.len() {
            let row = rows.iter().find(|row| row["source"] == self.books[nth].name).expect("a source");
            self.judge(nth, row["position"]["tx"].as_u64().expect("a state"), restored);
        }
        self.check(&["check"]);
        println!("{:?}", self.counts);
        if self.shares() {
            let shared = self.objects();
            println!("{shared} of {} objects have commits of several", self.seen.len());
            assert!(shared > 0, "they share");
        }
    }

    fn judge(&mut self, nth: usize, last: u64, restored: u64) {
        let mut wanted: Vec<u64> = match last < restored {
            true => (0..=last).collect(),
            false => (0..restored / 2).map(|_| self.dice.below(last)).flat_map(|tx| [tx, tx + 1]).collect(),
        };
        wanted.sort_unstable();
        wanted.dedup();
        let (book, name) = (&self.books[nth], self.books[nth].name);
        let gaps = self.gaps(book.name);
        assert_eq!(self.restored(book, &["latest"]), Ok(book.commits), "the newest state is the live one");
        let mut before: Option<(u64, Result<u64, Not>)> = None;
        let mut compared = 0;
        for tx in wanted {
            let here = self.restored(book, &["--tx", &tx.to_string()]);
            if let Some((tx_before, Ok(state))) = before
                && tx_before + 1 == tx
                && here != Err(Not::LetGo)
                && !gaps.contains_key(&tx)
                // The number of a commit that never came whole is not used again.
                && !(here.is_err() && gaps.contains_key(&(tx + 1)))
            {
                let what = format!("{}: state {tx} comes right after {tx_before}; gaps told: {gaps:?}", book.name);
                assert_eq!(here, Ok(state + 1), "{what}");
                compared += 1;
            }
            before = Some((tx, here));
        }
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        gaps.values().for_each(|reason| *reasons.entry(reason).or_default() += 1);
        let commits = book.commits;
        println!("{name}: {commits} commits, states up to {last}, {compared} pairs compared, gaps {reasons:?}");
        let least = if name == BRIEF { 0 } else { (restored / 8).min(last / 2) };
        assert!(compared >= least, "{name}: {compared}");
        // Each was killed, stopped, cut off or changed under: none of that makes a page another than was captured.
        let is_ours = |reason: &&&str| reason.contains("what was captured") || reason.contains("cannot be read");
        assert_eq!(reasons.keys().find(is_ours), None, "{name}: a gap for no reason of the application's");
    }

    /// What Litestream brings back, in a word, by the ledger.
    pub fn end_of_peer(&mut self) -> &'static str {
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
        if one(SOUND) != 1 {
            return "a corrupt database, with exit code 0";
        }
        if one(WRONG_ROWS) != 0 || one(SUMS) != 0 {
            return "rows that are wrong, with exit code 0";
        }
        if one(HOLES) != 0 {
            return "a ledger with a hole, with exit code 0";
        }
        if one("SELECT max(seq) FROM ledger") != self.books[0].sequence {
            return "an older state, with exit code 0";
        }
        "the newest state"
    }
}
