//! Promise 4, for real: the program is killed at moments of chance, again and again, beside processes
//! that write to the database. Whatever it had told before is there, and it goes on.

use backstay_testkit::bank::{self, Audit, Writers};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KILLS_BESIDE_WRITERS: u32 = 100;
const KILLS_IN_PLACE: u32 = 30;
const BYTES: u64 = 1 << 20;

#[test]
#[ignore = "a process of the tests beside it, which start it"]
fn writer_process() {
    bank::write_if_asked().expect("a writer writes on");
}

/// Numbers from a seed, which is printed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

/// A folder with a bank under care.
struct House {
    folder: TempDir,
    dice: Dice,
    /// How long each command takes when nothing kills it.
    spans: BTreeMap<&'static str, Duration>,
    kills: BTreeMap<&'static str, u32>,
    finished: BTreeMap<&'static str, u32>,
}

impl House {
    fn new(journal: &str, seed: u64) -> Self {
        println!("{journal}: seed {seed:#x}");
        let folder = tempfile::tempdir().expect("a folder");
        let none = BTreeMap::new;
        let house = House { folder, dice: Dice(seed), spans: BTreeMap::new(), kills: none(), finished: none() };
        bank::create(&house.db(), journal, BYTES).expect("a bank");
        house.must(&["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault"]);
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn db(&self) -> PathBuf {
        self.path("shop.db")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
        // The state stays in the folder.
        command.current_dir(&self.folder).args(words).env("HOME", self.folder.path()).env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("backstay runs")
    }

    fn must(&self, words: &[&str]) -> String {
        let done = self.run(words);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{words:?}: {}{said}", String::from_utf8_lossy(&done.stdout));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Runs a command once whole, to know how long it takes.
    #[expect(clippy::disallowed_methods, reason = "moments to kill lie within what the program takes on this machine")]
    fn time(&mut self, name: &'static str, words: &[&str]) {
        let began = Instant::now();
        self.must(words);
        self.spans.insert(name, began.elapsed());
    }

    /// Starts a command and kills it some time before it would be done, or just after.
    fn kill(&mut self, name: &'static str, words: &[&str]) {
        let span = self.spans[name].as_micros() as u64;
        let pause = Duration::from_micros(self.dice.below(span + span / 8));
        let mut child =
            self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("backstay starts");
        std::thread::sleep(pause);
        child.kill().expect("a process of ours");
        let ended = child.wait().expect("it ends");
        let count = if ended.code().is_none() { &mut self.kills } else { &mut self.finished };
        *count.entry(name).or_default() += 1;
        assert!(ended.code().is_none_or(|code| code == 0), "{words:?} was not killed and failed: {ended}");
    }

    fn snapshots(&self) -> Vec<String> {
        let listed: Value = serde_json::from_str(&self.must(&["list", "shop", "--json"])).expect("JSON");
        let rows = listed["snapshots"].as_array().expect("a list");
        rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Restores a snapshot by the program and goes through it.
    fn audit(&self, id: &str) -> Audit {
        let to = self.path("audited.db");
        self.must(&["restore", "shop", "--snapshot", id, "--to", "audited.db"]);
        let audit = bank::audit(&to).unwrap_or_else(|error| panic!("snapshot {id}: {error}"));
        fs::remove_file(to).expect("remove");
        audit
    }

    fn speak(&self) {
        println!("killed {:?}; done before the kill {:?}; spans {:?}", self.kills, self.finished, self.spans);
    }
}

/// Every snapshot listed is a state of the bank that a writer noted.
fn every_snapshot_is_sound(house: &House, writers: &Writers) -> usize {
    let ids = house.snapshots();
    for id in &ids {
        let audit = house.audit(id);
        let noted = writers.noted().expect("notes");
        let known = audit.sequence == 0 || noted.get(&audit.sequence) == Some(&audit.digest);
        assert!(known, "snapshot {id} is the state noted at {}", audit.sequence);
    }
    ids.len()
}

fn killed_beside_writers(journal: &str, seed: u64) {
    let mut house = House::new(journal, seed);
    let notes = tempfile::tempdir().expect("a folder");
    let mut writers = Writers::start(2, &house.db(), notes.path(), Duration::from_millis(8)).expect("writers");
    house.time("backup", &["backup", "shop"]);
    house.time("restore", &["restore", "shop", "--to", "timed.db"]);
    let mut before = house.snapshots().len();
    while house.kills.values().sum::<u32>() < KILLS_BESIDE_WRITERS / 2 {
        let round = house.kills.values().sum::<u32>() + house.finished.values().sum::<u32>();
        assert!(round < 3 * KILLS_BESIDE_WRITERS, "most commands are killed: {:?}", house.finished);
        if house.dice.below(4) == 0 {
            let to = format!("out-{round}.db");
            house.kill("restore", &["restore", "shop", "--to", &to]);
            if house.path(&to).exists() {
                bank::audit(&house.path(&to)).expect("a file that has its name is whole");
            }
        } else {
            house.kill("backup", &["backup", "shop"]);
        }
        writers.all_at_work().expect("writers");
        let now = house.snapshots().len();
        assert!(now >= before, "no snapshot is ever lost");
        before = now;
        if round % 10 == 9 {
            house.must(&["backup", "shop"]);
            every_snapshot_is_sound(&house, &writers);
        }
    }
    house.must(&["backup", "shop"]);
    writers.stop().expect("writers");
    let count = every_snapshot_is_sound(&house, &writers);
    bank::audit(&house.db()).expect("the live database is sound");
    house.speak();
    println!("{count} snapshots, every one sound");
}

#[test]
fn killed_again_and_again_beside_writers_with_a_write_ahead_log() {
    killed_beside_writers("WAL", 0x5eed_0001);
}

#[test]
fn killed_again_and_again_beside_writers_with_a_rollback_journal() {
    killed_beside_writers("DELETE", 0x5eed_0002);
}

/// A database and its log, copied and gone through, so that looking changes nothing.
fn audit_copy(path: &Path) -> Audit {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy.db");
    fs::copy(path, &copy).expect("copy");
    for suffix in ["-wal", "-journal"] {
        let log = PathBuf::from(format!("{}{suffix}", path.display()));
        if log.exists() {
            fs::copy(log, folder.path().join(format!("copy.db{suffix}"))).expect("copy");
        }
    }
    bank::audit(&copy).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The old databases kept beside the live one.
fn kept(house: &House) -> Vec<PathBuf> {
    let entries = fs::read_dir(house.folder.path()).expect("read folder").flatten();
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mine = |path: &PathBuf| name(path).starts_with("shop.db.before-restore-");
    let main = |path: &PathBuf| !["-wal", "-shm", "-journal"].iter().any(|suffix| name(path).ends_with(suffix));
    entries.map(|entry| entry.path()).filter(|path| mine(path) && main(path)).collect()
}

#[test]
fn killed_again_and_again_while_a_restore_takes_the_place_of_the_database() {
    let mut house = House::new("WAL", 0x5eed_0003);
    let notes = tempfile::tempdir().expect("a folder");
    let mut writers = Writers::start(2, &house.db(), notes.path(), Duration::from_millis(1)).expect("writers");
    for _ in 0..4 {
        house.must(&["backup", "shop"]);
    }
    let refused = house.run(&["restore", "shop", "--confirm", "shop"]);
    assert_eq!(refused.status.code(), Some(5), "in use: {}", String::from_utf8_lossy(&refused.stderr));
    writers.stop().expect("writers");
    house.must(&["backup", "shop"]);
    let known: BTreeMap<String, Audit> =
        house.snapshots().into_iter().map(|id| (house.audit(&id), id)).map(|(a, id)| (id, a)).collect();
    let ids: Vec<String> = known.keys().cloned().collect();
    house.time("in place", &["restore", "shop", "--snapshot", &ids[0], "--confirm", "shop"]);
    let mut swapped = 0;
    while house.kills.values().sum::<u32>() < KILLS_IN_PLACE {
        let old = audit_copy(&house.db());
        let id = &ids[house.dice.below(ids.len() as u64) as usize];
        house.kill("in place", &["restore", "shop", "--snapshot", id, "--confirm", "shop"]);
        let now = audit_copy(&house.db());
        assert!(now == old || now == known[id], "the path leads to the whole old database or the whole new one");
        if now != old {
            swapped += 1;
            // By content, not by name: a run right after a killed one may take the name that one had given.
            assert!(kept(&house).iter().any(|path| audit_copy(path) == old), "the whole old database is kept");
        }
        assert_eq!(house.snapshots().len(), ids.len(), "the list is as it was");
    }
    house.speak();
    println!("{swapped} of them had put the new database in place");
    house.must(&["backup", "shop"]);
    for (id, audit) in &known {
        assert_eq!(&house.audit(id), audit);
    }
}
