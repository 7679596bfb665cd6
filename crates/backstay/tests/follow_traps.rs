//! Traps of following that need processes: a tail that went stale while nobody followed, a follower that sleeps while
//! another takes over, a disk that is put back behind the repository. Nothing here sleeps for a time; it is waited for
//! conditions, with a deadline.

mod house;

use house::{House, rows};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

/// A follower, killed when the test ends however it ends.
struct Running {
    child: Child,
    said: PathBuf,
}

impl Running {
    fn begin(house: &House, said: &str, words: &[&str]) -> Self {
        let said = house.path(said);
        let mut command = house.command(&[&["follow", "shop"], words].concat());
        command.stdout(Stdio::null()).stderr(File::create(&said).expect("a file"));
        Self { child: command.spawn().expect("it starts"), said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(done.expect("kill runs").success());
    }

    /// As the kernel has it: R, S, T and so on.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn ended(&mut self) -> i32 {
        let mut exit = None;
        until("it ends", || {
            exit = self.child.try_wait().expect("asked");
            exit.is_some()
        });
        exit.and_then(|exit| exit.code()).unwrap_or_else(|| panic!("no exit code: {}", self.said()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a process is waited for, with a deadline")]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "{what}, within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every object of the repository.
fn objects(house: &House) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.to_string_lossy().contains('#') => {}
                false => {
                    let bytes = fs::read(&path).expect("an object");
                    found.insert(path, bytes);
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&house.path("vault"), &mut found);
    found
}

fn log_objects(house: &House) -> usize {
    objects(house).keys().filter(|path| path.to_string_lossy().contains("/data/log/")).count()
}

fn all_of(before: &BTreeMap<PathBuf, Vec<u8>>, house: &House) {
    let after = objects(house);
    for (path, bytes) in before {
        assert!(after.get(path) == Some(bytes), "{} is what it was", path.display());
    }
}

fn insert(house: &House, name: &str) {
    house.sql(&format!("INSERT INTO item(name, note) VALUES ('{name}', x'00')"));
}

fn latest_is_live(house: &House, to: &str) {
    house.ok(&["restore", "shop", "--to", to]);
    assert_eq!(rows(&house.path(to)), rows(&house.path("shop.db")));
}

/// Trap 10: a follower is stopped, as a machine is that hangs; another takes over; the first wakes and goes on as if
/// nothing had happened. Its slot is taken: it says so and ends, and not a byte of the other is overwritten.
#[test]
fn trap_10_a_follower_that_was_paused_wakes_to_find_its_place_taken() {
    let house = House::new();
    let keeper = house.connection();
    let mut first = Running::begin(&house, "first", &[]);
    until("the first follows", || first.said().contains("followed from") || first.said().contains("goes on"));
    let before = log_objects(&house);
    insert(&house, "one");
    until("it puts a commit", || log_objects(&house) > before);
    first.signal("-STOP");
    until("it is stopped", || first.state() == Some('T'));
    insert(&house, "two");
    // Another host: it knows nothing of the first one's state folder.
    let mut second = Running::begin(&house, "second", &["--state-dir", "./elsewhere"]);
    until("the second follows", || second.said().contains("followed anew") || second.said().contains("followed from"));
    let before = log_objects(&house);
    insert(&house, "three");
    until("it puts a commit", || log_objects(&house) > before);
    let taken = objects(&house);
    first.signal("-CONT");
    insert(&house, "four");
    assert_eq!(first.ended(), 5, "{}", first.said());
    assert!(first.said().contains("slot") || first.said().contains("taken"), "{}", first.said());
    all_of(&taken, &house);
    second.signal("-TERM");
    assert_eq!(second.ended(), 0, "{}", second.said());
    all_of(&taken, &house);
    latest_is_live(&house, "latest.db");
    drop(keeper);
}

/// An application that stays: its connection keeps the log from going with the last of them.
fn application(house: &House) -> Connection {
    let conn = house.connection();
    conn.execute_batch("PRAGMA wal_autocheckpoint=0; SELECT count(*) FROM item").expect("reads");
    conn
}

/// Follows until there is nothing more, and says how it began and where it stands.
fn once(house: &House) -> Value {
    let (exit, view) = house.json(&["follow", "--once"]);
    assert_eq!(exit, 0, "{view}");
    view["sources"][0].clone()
}

/// Trap 1, the recipe by which Litestream 0.5.17 loses commits and says nothing: following ends, by a graceful stop or by
/// a kill; the application commits, copies everything back and begins its log anew over the beginning of the old one;
/// following begins again.
#[test]
fn trap_1_a_tail_that_went_stale_after_a_stop_or_a_kill_loses_no_row() {
    for signal in ["-TERM", "-KILL"] {
        let house = House::new();
        let keeper = application(&house);
        let mut first = Running::begin(&house, "first", &[]);
        until("it follows", || first.said().contains("followed from") || first.said().contains("goes on"));
        for n in 0..20 {
            let before = log_objects(&house);
            keeper.execute("INSERT INTO item(name, note) VALUES (?1, randomblob(4000))", [n]).expect("inserted");
            until("it puts a commit", || log_objects(&house) > before);
        }
        first.signal(signal);
        until("it ends", || first.child.try_wait().expect("asked").is_some());
        for name in ["unseen", "unseen too"] {
            keeper.execute("INSERT INTO item(name, note) VALUES (?1, x'00')", [name]).expect("inserted");
        }
        let copied =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)? - row.get::<_, i64>(2)?));
        let full = keeper.query_row("PRAGMA wal_checkpoint(FULL)", [], copied).expect("asked");
        assert_eq!(full, (0, 0), "everything is copied back");
        insert(&house, "in the next log");
        let began = once(&house)["began"].clone();
        let reason = began["snapshot"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("begun anew"), "{signal}: {began}");
        latest_is_live(&house, "latest.db");
        assert_eq!(rows(&house.path("latest.db")).len(), 2023);
        let sound: String = Connection::open(house.path("latest.db"))
            .and_then(|conn| conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
            .expect("asked");
        assert_eq!(sound, "ok");
        insert(&house, "after it");
        assert!(once(&house)["began"]["continued"].is_object(), "{signal}: and from there it goes on");
        latest_is_live(&house, "later.db");
        drop(keeper);
    }
}

/// The database with everything beside it and the state folder, as a snapshot of a virtual disk has them: the database
/// is the same file afterwards, with what it had.
fn copy_disk(house: &House, from: &str, to: &str) {
    let copy = "set -e; mkdir -p \"$1\"; rm -rf \"$1\"/shop.db-* \"$1\"/.backstay; cp -a \"$0\"/.backstay \"$1\"
                for file in \"$0\"/shop.db*; do cat \"$file\" > \"$1/${file##*/}\"; done";
    let done = Command::new("sh").args(["-c", copy, from, to]).current_dir(house.0.path()).status();
    assert!(done.expect("sh runs").success());
}

/// Trap 10: the disk is put back to yesterday, with the state folder and all, and the repository is of today. What it
/// has of the time between is not overwritten, and stays restorable.
#[test]
fn trap_10_a_disk_put_back_behind_the_repository_overwrites_nothing_of_it() {
    let house = House::new();
    let keeper = application(&house);
    // A log that was never written has no place to go on from.
    insert(&house, "the first in the log");
    once(&house);
    insert(&house, "of yesterday");
    let yesterday = once(&house);
    assert!(yesterday["began"]["continued"].is_object(), "{yesterday}");
    copy_disk(&house, ".", "yesterday");
    insert(&house, "of today");
    let today = once(&house);
    assert!(today["began"]["continued"].is_object(), "{today}");
    let tx = today["position"]["tx"].as_u64().expect("a state");
    let (live, taken) = (rows(&house.path("shop.db")), objects(&house));
    // The machine is switched off; nobody has the files open when they are put back.
    keeper.close().expect("closed");
    copy_disk(&house, "yesterday", ".");
    insert(&house, "another today");
    let began = once(&house)["began"].clone();
    assert!(began["snapshot"]["reason"].is_string(), "it did not just go on: {began}");
    all_of(&taken, &house);
    latest_is_live(&house, "latest.db");
    assert!(rows(&house.path("latest.db")) != live);
    // The today that is gone from the disk.
    house.ok(&["restore", "shop", "--tx", &tx.to_string(), "--to", "today.db"]);
    assert_eq!(rows(&house.path("today.db")), live);
    house.ok(&["check", "--deep"]);
    insert(&house, "tomorrow");
    let later = once(&house);
    assert!(later["position"]["tx"].as_u64().expect("a state") > tx, "no number is used twice: {later}");
    latest_is_live(&house, "later.db");
}
