//! A descriptor of our own on a main file would, when closed, drop every lock this process has on it.
//! SQLite would not notice; other processes would.
//!
//! With a write-ahead log the marks lie on the `-shm` and survive that, and today's SQLite looks there
//! before it removes a log. With a rollback journal the locks on the main file are all there is.

mod support;

use rusqlite::Connection;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::*;

const CHILD_DB: &str = "BACKSTAY_TEST_CHILD_DB";

/// What another process says when it wants to write.
fn another_process_writes(db: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().expect("known"));
    let command = command.args(["--exact", "child_writes", "--nocapture"]).env(CHILD_DB, db);
    let said = command.output().expect("runs");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let at = text.find("wrote=").unwrap_or_else(|| panic!("it says nothing: {text}"));
    text[at..].lines().next().unwrap_or_default().to_owned()
}

/// The other process; does nothing when run on its own.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent test says through the environment which file it means")]
fn child_writes() {
    let Some(db) = std::env::var_os(CHILD_DB) else { return };
    let conn = Connection::open(db).expect("opens");
    conn.busy_timeout(Duration::ZERO).expect("set");
    println!("wrote={}", conn.execute("DELETE FROM t WHERE id = 1", []).is_ok());
}

#[test]
fn an_exclusive_hold_outlives_looks_at_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = dir.path().join("app.db");
    let conn = make(&db, 4096, "delete");
    insert(&conn, 10);
    conn.close().expect("closes");
    let hold = backstay_sqlite::take_exclusive(&db, Duration::from_secs(5)).expect("nobody else is there");
    hold.still_there().expect("it is");
    backstay_sqlite::holders(&db);
    assert_eq!(another_process_writes(&db), "wrote=false");
    drop(hold);
    assert_eq!(another_process_writes(&db), "wrote=true");
}
