//! A database seen through a read-only bind mount while another process writes it, as a backup beside
//! an application in its own container does (`-v /data:/data:ro`).
//!
//! The mount needs root, and is made in a mount namespace of its own, so that nothing of it stays.

mod support;

use backstay_sqlite::{HoldKind, JournalMode, SqliteError};
use rusqlite::Connection;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{check, first_pass, insert, ledger, make, open, settle};

const FOLDER: &str = "BACKSTAY_TEST_READ_ONLY_FOLDER";

/// The other side: runs where the folder is mounted read-only, and does one step per line it is given.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test program takes no arguments of its own")]
#[ignore = "started by the test below, inside its mount"]
fn inside_the_mount() {
    let path = PathBuf::from(std::env::var(FOLDER).expect("started by the test below")).join("app.db");
    assert!(std::fs::write(path.with_extension("x"), b"x").is_err(), "the mount can be written");
    let spool = tempfile::tempdir().expect("a directory");
    let mut capture = match open(&path, spool.path()) {
        Ok(capture) => capture,
        Err(SqliteError::ReadOnlyMount { .. }) => return println!("\nsaid read-only-mount"),
        Err(error) => panic!("{error}"),
    };
    let (mut image, seen) = first_pass(&capture);
    println!("\nsaid read");
    std::io::stdin().read_line(&mut String::new()).expect("told to go on");
    let settled = settle(&mut capture, &mut image, seen).expect("settled");
    assert_ne!(settled.facts.journal, JournalMode::ReadOnlyImage);
    assert_ne!(settled.report.hold_kind, HoldKind::None);
    let (rows, sum) = check(&image, ledger);
    println!("\nsaid {rows} {sum}");
}

struct Inside {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Inside {
    fn begin(folder: &Path) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a folder read-only and must be run as root, as CI does"
        );
        let at = folder.join("mounted");
        std::fs::create_dir_all(&at).expect("made");
        let data = folder.join("data");
        let mut child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-ec"])
            .arg("mount --bind \"$1\" \"$2\"; mount -o remount,bind,ro \"$2\"; exec \"$3\" --exact inside_the_mount --ignored --nocapture")
            .arg("sh")
            .args([&data, &at])
            .arg(std::env::current_exe().expect("this program"))
            .env(FOLDER, &at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` of util-linux is there");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    fn said(&mut self) -> String {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        let found = lines.find_map(|line| line.strip_prefix("said ").map(str::to_owned));
        found.expect("the side inside the mount says something: was the mount permitted?")
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("told");
    }

    fn end(mut self) {
        assert!(self.child.wait().expect("ended").success());
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("data")).expect("made");
    let path = dir.path().join("data/app.db");
    (dir, path)
}

/// The bind mount was taken for a dead medium: SQLite was told that nobody writes, no lock was taken,
/// and commits between the reads gave a torn mix that counted as whole.
#[test]
fn a_writer_behind_a_read_only_mount_is_seen_and_waited_for() {
    for journal in ["wal", "delete"] {
        let (dir, path) = folder();
        let conn = make(&path, 4096, journal);
        conn.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
        insert(&conn, 300);
        let before = ledger(&conn);
        let mut inside = Inside::begin(dir.path());
        assert_eq!(inside.said(), "read", "{journal}");
        conn.execute_batch("UPDATE t SET body = randomblob(777); DELETE FROM t WHERE id % 3 = 0").expect("written");
        let after = ledger(&conn);
        inside.go_on();
        let want = if journal == "wal" { before } else { after };
        assert_eq!(inside.said(), format!("{} {}", want.0, want.1), "{journal}");
        inside.end();
    }
}

/// Without the application there is no `-shm`, and none can be made there: said by name, not guessed.
#[test]
fn a_log_that_needs_a_shm_which_cannot_be_made_is_an_error_that_names_the_mount() {
    let (dir, path) = folder();
    let conn: Connection = make(&path, 4096, "wal");
    insert(&conn, 30);
    conn.close().expect("closed");
    let mut inside = Inside::begin(dir.path());
    assert_eq!(inside.said(), "read-only-mount");
    inside.end();
}
