//! A folder with a database, and the binary run in it as a script would.
#![allow(dead_code, reason = "each test file uses its part of it")]

use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub struct House(pub TempDir);

/// Exit code, stdout, stderr.
pub type Ended = (i32, String, String);

pub const INIT: [&str; 6] = ["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault"];

impl House {
    /// A database in WAL mode, not yet protected.
    pub fn bare() -> Self {
        let house = House(tempfile::tempdir().expect("a temporary folder"));
        house.sql(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, note BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO item SELECT i, 'item ' || i, randomblob(200) FROM n;",
        );
        house
    }

    /// The same with its repository and the first backup.
    pub fn new() -> Self {
        let house = Self::bare();
        house.ok(&INIT);
        house
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn sql(&self, sql: &str) {
        self.connection().execute_batch(sql).expect("sql");
    }

    pub fn connection(&self) -> Connection {
        let conn = Connection::open(self.path("shop.db")).expect("open");
        conn.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
        conn
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKSTAY_")) {
            command.env_remove(name);
        }
        command.current_dir(self.0.path()).args(words).env("TZ", "UTC").stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Ended {
        ended(self.command(words).output().expect("the binary runs"))
    }

    /// Runs it, and it must pass.
    pub fn ok(&self, words: &[&str]) -> String {
        let (exit, out, err) = self.run(words);
        assert_eq!(exit, 0, "{words:?}: {out}{err}");
        out
    }

    /// Runs it with `--json`: the exit code and the value.
    pub fn json(&self, words: &[&str]) -> (i32, Value) {
        let (exit, out, err) = self.run(&[words, &["--json"]].concat());
        let value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}{err}"));
        (exit, value)
    }

    pub fn snapshots(&self) -> Vec<Value> {
        let (exit, listed) = self.json(&["list", "shop"]);
        assert_eq!(exit, 0, "{listed}");
        listed["snapshots"].as_array().expect("a list").clone()
    }

    pub fn newest(&self) -> String {
        self.snapshots()[0]["id"].as_str().expect("an id").to_owned()
    }

    /// Writes over bytes of every pack.
    pub fn damage_packs(&self) {
        for entry in fs::read_dir(self.path("vault/data/shop/pack")).expect("packs").flatten() {
            let mut bytes = fs::read(entry.path()).expect("a pack");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(entry.path(), bytes).expect("written");
        }
    }

    /// Replaces text in a file, which must be there.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).expect("a file");
        assert!(text.contains(from), "{name} has no {from:?}");
        fs::write(self.path(name), text.replace(from, to)).expect("written");
    }
}

pub fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// Every row, by plain SQL.
pub fn rows(path: &Path) -> Vec<(i64, String, Vec<u8>)> {
    let conn = Connection::open(path).expect("open");
    let mut statement = conn.prepare("SELECT id, name, note FROM item ORDER BY id").expect("a query");
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
    found.map(|row| row.expect("a row")).collect()
}
