//! Traps of following that need processes: one that sleeps while another takes over. Nothing here sleeps for a time; it
//! is waited for conditions, with a deadline.

mod house;

use house::{House, rows};
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
