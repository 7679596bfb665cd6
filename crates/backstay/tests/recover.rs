//! Promise 10: `contrib/recover.py`, which shares no code with us, restores what `backstay` restores.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program in the folder; it must succeed.
fn must(command: &mut Command) -> String {
    let done =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `./test` installs what is missing"));
    assert!(done.status.success(), "{command:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// A folder with a database under care, and how its programs are run.
struct House(TempDir);

impl House {
    /// A database of this page size, its repository, and the first snapshot.
    fn new(page_size: u32) -> Self {
        let house = House(tempfile::tempdir().expect("a temporary folder"));
        house.sql(&format!(
            "pragma page_size = {page_size}; create table item(id integer primary key, name text, note blob);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 4000)
             insert into item select i, hex(randomblob(20)), randomblob(400) from n;"
        ));
        house.backstay(&["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault"]);
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sql(&self, sql: &str) -> String {
        must(Command::new("sqlite3").current_dir(&self.0).args(["-bail", "shop.db", sql]))
    }

    fn backstay(&self, words: &[&str]) -> String {
        must(&mut self.command(words))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKSTAY_")) {
            command.env_remove(name);
        }
        // The cache and other state stay in the folder.
        command.current_dir(&self.0).args(words).env("HOME", self.0.path()).env_remove("XDG_STATE_HOME");
        command
    }

    /// The ids of all snapshots, as the command line lists them.
    fn snapshots(&self) -> Vec<String> {
        let listed: Value = serde_json::from_str(&self.backstay(&["list", "shop", "--json"])).expect("JSON");
        let rows = listed["snapshots"].as_array().expect("a list");
        rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }

    fn recover(&self, words: &[&str]) -> Output {
        self.recover_with("backstay.key", words)
    }

    fn recover_with(&self, key: &str, words: &[&str]) -> Output {
        let python = workspace().join("target/recover-venv/bin/python");
        assert!(python.exists(), "no {}: run `./test` once, it makes it", python.display());
        let mut command = Command::new(python);
        command.current_dir(&self.0).arg(workspace().join("contrib/recover.py"));
        command.args(["--repo", "vault", "--key", key]).args(words).output().expect("python runs")
    }

    fn recovered(&self, words: &[&str]) -> String {
        let done = self.recover(words);
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    /// What the script says when it refuses; it must not leave a file.
    fn refusal(&self, words: &[&str]) -> String {
        let done = self.recover(&[words, &["--out", "refused.db"]].concat());
        assert_eq!(done.status.code(), Some(1), "{words:?}: {}{}", text(&done.stdout), text(&done.stderr));
        let left: Vec<_> = fs::read_dir(&self.0).expect("the folder").filter_map(Result::ok).collect();
        assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("refused.db")));
        text(&done.stderr)
    }

    fn biggest_pack(&self) -> PathBuf {
        let packs = fs::read_dir(self.path("vault/data/shop/pack")).expect("packs").filter_map(Result::ok);
        packs.max_by_key(|entry| entry.metadata().map_or(0, |m| m.len())).expect("a pack").path()
    }
}

/// Several snapshots of a database that grows, changes, shrinks and is packed anew in between.
fn history(house: &House) {
    let steps = [
        "update item set note = randomblob(400) where id % 97 = 0;",
        "insert into item select id + 10000, name, randomblob(300) from item where id < 900;",
        "pragma journal_mode = wal; update item set name = 'written through the log' where id % 500 = 1;",
        "delete from item where id between 1000 and 3000; vacuum;",
        "create index item_name on item(name);",
    ];
    for sql in steps {
        house.sql(sql);
        house.backstay(&["backup"]);
    }
}

fn every_snapshot_is_equal(page_size: u32) {
    let house = House::new(page_size);
    history(&house);
    let ids = house.snapshots();
    assert_eq!(ids.len(), 6);
    let list = house.recovered(&["--list"]);
    for id in &ids {
        assert!(list.contains(id.as_str()), "{id} is not in {list}");
        house.backstay(&["restore", "shop", "--snapshot", id, "--to", "ours.db"]);
        house.recovered(&["--source", "shop", "--snapshot", id, "--out", "theirs.db"]);
        let (ours, theirs) = (fs::read(house.path("ours.db")), fs::read(house.path("theirs.db")));
        assert!(ours.expect("restored") == theirs.expect("recovered"), "{id} differs");
        for name in ["ours.db", "theirs.db"] {
            fs::remove_file(house.path(name)).expect("remove a restored file");
        }
    }
    house.recovered(&["--out", "latest.db"]);
    let rows = |file: &str| must(Command::new("sqlite3").current_dir(&house.0).args([file, ".dump"]));
    assert!(rows("latest.db") == rows("shop.db"), "the newest snapshot is not the database");
}

#[test]
fn every_snapshot_is_recovered_byte_for_byte_without_backstay() {
    every_snapshot_is_equal(4096);
}

#[test]
fn a_copy_is_recovered_without_backstay_when_the_original_is_gone() {
    let house = House::new(4096);
    let config = fs::read_to_string(house.path("backstay.toml")).expect("a file");
    fs::write(house.path("backstay.toml"), config + "[copies.usb]\nrepository = \"./usb\"\n").expect("written");
    history(&house);
    house.backstay(&["repo", "copy"]);
    let ids = house.snapshots();
    fs::remove_dir_all(house.path("vault")).expect("the original is gone");
    fs::rename(house.path("usb"), house.path("vault")).expect("the copy stands in its place");
    let list = house.recovered(&["--list"]);
    assert!(ids.iter().all(|id| list.contains(id.as_str())), "{list}");
    house.recovered(&["--out", "latest.db"]);
    let rows = |file: &str| must(Command::new("sqlite3").current_dir(&house.0).args([file, ".dump"]));
    assert!(rows("latest.db") == rows("shop.db"), "the newest snapshot is not the database");
}

#[test]
fn pages_smaller_and_larger_than_the_usual_unit_are_recovered() {
    every_snapshot_is_equal(512);
    every_snapshot_is_equal(65_536);
}

#[test]
fn the_script_refuses_what_it_cannot_prove() {
    let house = House::new(4096);
    let other = House::new(4096);

    fs::write(house.path("taken.db"), "mine").expect("a file");
    let done = house.recover(&["--out", "taken.db"]);
    assert_eq!(
        (done.status.code(), fs::read(house.path("taken.db")).expect("still there")),
        (Some(1), b"mine".to_vec())
    );

    let key = fs::read_to_string(house.path("backstay.key")).expect("the key file");
    let foreign = fs::read_to_string(other.path("backstay.key")).expect("the other key file");
    fs::write(house.path("backstay.key"), &foreign).expect("swap the key");
    assert!(house.refusal(&[]).contains("not by the root key"));
    let line =
        |text: &str| text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).expect("an identity").to_owned();
    fs::write(house.path("backstay.key"), key.replace(&line(&key), &line(&foreign))).expect("swap the identity");
    assert!(house.refusal(&[]).contains("wrong key"));
    fs::write(house.path("backstay.key"), &key).expect("the right key again");

    let pack = house.biggest_pack();
    let whole = fs::read(&pack).expect("a pack");
    let mut damaged = whole.clone();
    damaged[1000] ^= 1;
    let said = |bytes: &[u8]| {
        let mut open = fs::OpenOptions::new();
        fs::remove_file(&pack).expect("replace the pack");
        std::io::Write::write_all(&mut open.write(true).create_new(true).open(&pack).expect("a file"), bytes)
            .expect("written");
        house.refusal(&[])
    };
    assert!(said(&damaged).contains("the key is right, its tag is not"));
    assert!(said(&whole[..whole.len() - 1]).contains("length"));
    fs::remove_file(&pack).expect("remove the pack");
    assert!(house.refusal(&[]).contains("is missing"));
}

/// The public halves of the age identities in a file.
fn recipient(house: &House, key_file: &str) -> String {
    must(Command::new("age-keygen").current_dir(&house.0).args(["-y", key_file])).trim().to_owned()
}

/// Everybody who may read recovers everything, with the root's public half and an identity of their own; who
/// was taken off recovers nothing that came after; and a host that was removed loses none of its snapshots.
#[test]
fn a_repository_whose_keys_were_changed_is_recovered_by_those_who_may() {
    let house = House::new(4096);
    for name in ["ada", "bob"] {
        must(Command::new("age-keygen").current_dir(&house.0).args(["-o", &format!("{name}.txt")]));
        let recipient = recipient(&house, &format!("{name}.txt"));
        house.backstay(&["repo", "key", "add", &recipient, "--name", name]);
    }
    must(Command::new("ssh-keygen").current_dir(&house.0).args(["-q", "-t", "ed25519", "-N", "", "-f", "eve.key"]));
    let eve = fs::read_to_string(house.path("eve.key.pub")).expect("a public key");
    house.backstay(&["repo", "key", "add", &eve, "--name", "eve"]);
    house.backstay(&["repo", "enroll", "--request", "--role", "writer", "--name", "db-2", "--key-file", "db-2.key"]);
    house.backstay(&["repo", "enroll", "--accept", "db-2.request", "--roles", "writer"]);
    let old_key = fs::read(house.path("backstay.key")).expect("the key file");
    fs::copy(house.path("db-2.key"), house.path("writer.key")).expect("a copy");
    house.sql("update item set name = 'by db-2' where id % 7 = 1;");
    must(house.command(&["backup"]).env("BACKSTAY_KEY_FILE", house.path("writer.key")));
    house.backstay(&["repo", "signer", "remove", "db-2", "--confirm", "db-2"]);
    house.backstay(&["repo", "key", "rotate"]);
    house.sql("update item set name = 'after the rotation' where id % 500 = 2;");
    house.backstay(&["backup"]);
    house.backstay(&["repo", "key", "remove", "bob", "--confirm", "bob"]);
    house.sql("update item set name = 'after the removal' where id % 500 = 3;");
    house.backstay(&["backup"]);
    let ids = house.snapshots();
    assert_eq!(ids.len(), 4);
    let toml = fs::read_to_string(house.path("backstay.toml")).expect("the configuration");
    let root = toml.lines().find_map(|line| line.strip_prefix("root = ")).expect("a root").trim_matches('"').to_owned();
    for id in &ids {
        house.backstay(&["restore", "shop", "--snapshot", id, "--to", "ours.db"]);
        let ours = fs::read(house.path("ours.db")).expect("restored");
        for key in ["backstay.key", "ada.txt", "eve.key"] {
            let words = ["--root", &root, "--snapshot", id, "--out", "theirs.db"];
            let done = house.recover_with(key, &words);
            assert!(done.status.success(), "{key} {id}: {}", text(&done.stderr));
            assert!(ours == fs::read(house.path("theirs.db")).expect("recovered"), "{key} {id}");
            fs::remove_file(house.path("theirs.db")).expect("removed");
        }
        fs::remove_file(house.path("ours.db")).expect("removed");
        let gone = house.recover_with("bob.txt", &["--root", &root, "--snapshot", id, "--out", "refused.db"]);
        assert!(!gone.status.success() && text(&gone.stderr).contains("wrong key"), "{id}: {}", text(&gone.stderr));
    }
    // A copy of the key of before opens what was sealed before, and says of the rest that it is another's.
    fs::write(house.path("old.key"), old_key).expect("a copy of before");
    let [_, _, second, _] = &ids[..] else { panic!("{ids:?}") };
    let done = house.recover_with("old.key", &["--snapshot", second, "--out", "before.db"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let done = house.recover_with("old.key", &["--snapshot", &ids[0], "--out", "refused.db"]);
    assert!(!done.status.success() && text(&done.stderr).contains("wrong key"), "{}", text(&done.stderr));
}

/// What was sealed again is recovered with the new key alone, byte for byte, and with the old one nothing is: no
/// manifest and no pack that stands can be opened with it.
#[test]
fn a_rewritten_repository_is_recovered_and_the_old_key_recovers_nothing() {
    let house = House::new(4096);
    history(&house);
    fs::copy(house.path("backstay.key"), house.path("old.key")).expect("a copy of before");
    house.backstay(&["repo", "key", "rotate", "--rewrite"]);
    house.backstay(&["retention", "apply"]);
    house.backstay(&["retention", "apply", "shop", "--grace", "0", "--confirm", "shop"]);
    let key = fs::read_to_string(house.path("backstay.key")).expect("the key file");
    let new = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).expect("an identity");
    let rest: Vec<&str> = key.lines().filter(|line| !line.starts_with("AGE-SECRET-KEY-1")).collect();
    fs::write(house.path("new.key"), format!("{new}\n{}\n", rest.join("\n"))).expect("written");
    fs::set_permissions(house.path("new.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
    let ids = house.snapshots();
    assert_eq!(ids.len(), 6);
    for id in &ids {
        house.backstay(&["restore", "shop", "--snapshot", id, "--to", "ours.db"]);
        let done = house.recover_with("new.key", &["--snapshot", id, "--out", "theirs.db"]);
        assert!(done.status.success(), "{id}: {}", text(&done.stderr));
        let (ours, theirs) = (fs::read(house.path("ours.db")), fs::read(house.path("theirs.db")));
        assert!(ours.expect("restored") == theirs.expect("recovered"), "{id} differs");
        for name in ["ours.db", "theirs.db"] {
            fs::remove_file(house.path(name)).expect("remove a restored file");
        }
        let gone = house.recover_with("old.key", &["--snapshot", id, "--out", "refused.db"]);
        assert!(!gone.status.success() && text(&gone.stderr).contains("wrong key"), "{id}: {}", text(&gone.stderr));
    }
    let generations = fs::read_dir(house.path("vault/data/shop/snap")).expect("manifests").filter_map(Result::ok);
    assert!(generations.into_iter().all(|entry: fs::DirEntry| entry.file_name().to_string_lossy().contains('.')));
}

/// Commits of a followed source: every state by its number, the newest without one, and nothing that is damaged.
/// What lived in packs that were left lies in others, in a later manifest; those packs and the earlier manifest are gone.
#[test]
fn a_repacked_repository_is_recovered() {
    let house = House::new(4096);
    for above in [800, 400, 0] {
        house.sql(&format!("update item set note = randomblob(400) where id > {above};"));
        house.backstay(&["backup"]);
    }
    let ids = house.snapshots();
    house.backstay(&["retention", "drop", "shop", &ids[3], "--confirm", "shop"]);
    let now = ["retention", "apply", "shop", "--grace", "0", "--confirm", "shop"];
    house.backstay(&now);
    for id in &ids[..3] {
        house.backstay(&["restore", "shop", "--snapshot", id, "--to", &format!("{id}.db")]);
    }
    let packs = || fs::read_dir(house.path("vault/data/shop/pack")).expect("packs").count();
    let said: Value = serde_json::from_str(&house.backstay(&["repo", "repack", "--json"])).expect("JSON");
    assert!(said["sources"][0]["rewritten"].as_u64() > Some(0), "{said}");
    let before = packs();
    house.backstay(&now);
    assert!(packs() < before, "what was left is gone");
    for id in &ids[..3] {
        house.recovered(&["--source", "shop", "--snapshot", id, "--out", "theirs.db"]);
        let (ours, theirs) = (fs::read(house.path(&format!("{id}.db"))), fs::read(house.path("theirs.db")));
        assert!(ours.expect("restored") == theirs.expect("recovered"), "{id} differs");
        fs::remove_file(house.path("theirs.db")).expect("removed");
    }
}

#[test]
fn every_commit_of_a_followed_source_is_recovered_byte_for_byte() {
    let house = House::new(1024);
    // Kept open, so that the log is not copied back and removed by the last close.
    let conn = rusqlite::Connection::open(house.path("shop.db")).expect("opens");
    conn.execute_batch("pragma journal_mode = wal; pragma wal_autocheckpoint = 0").expect("sql");
    // With something in the log it can be proven later that it went on from there.
    conn.execute_batch("update item set name = 'first' where id = 1").expect("sql");
    house.backstay(&["follow", "--once"]);
    let steps = [
        "update item set note = randomblob(300) where id % 97 = 0",
        "insert into item select id + 10000, name, randomblob(300) from item where id < 900",
        "delete from item where id between 1000 and 3000",
        "vacuum",
        "create index item_name on item(name)",
        "begin; insert into item(name, note) values ('large', zeroblob(3000000)); update item set name = 'x' where id < 9; commit",
        // Larger than one object of the log.
        "insert into item(name, note) values ('larger', randomblob(20000000))",
    ];
    for (at, sql) in steps.iter().enumerate() {
        conn.execute_batch(sql).expect("sql");
        if at % 2 == 1 {
            house.backstay(&["follow", "--once"]);
        }
    }
    house.backstay(&["follow", "--once"]);
    for tx in 0..=steps.len() {
        let tx = tx.to_string();
        house.backstay(&["restore", "shop", "--tx", &tx, "--to", "ours.db"]);
        let said = house.recovered(&["--tx", &tx, "--out", "theirs.db"]);
        assert!(said.contains(&format!("state {tx} of the log")), "{said}");
        let (ours, theirs) = (fs::read(house.path("ours.db")), fs::read(house.path("theirs.db")));
        assert!(ours.expect("restored") == theirs.expect("recovered"), "state {tx} differs");
        for name in ["ours.db", "theirs.db"] {
            fs::remove_file(house.path(name)).expect("remove a restored file");
        }
    }
    house.recovered(&["--out", "latest.db"]);
    let rows = |file: &str| must(Command::new("sqlite3").current_dir(&house.0).args([file, ".dump"]));
    assert!(rows("latest.db") == rows("shop.db"), "the newest state is the database");
    let beyond = (steps.len() + 1).to_string();
    assert!(house.refusal(&["--tx", &beyond]).contains("what can be restored ends at"));
    // A bit of an image is flipped: no file, and the object is named.
    let streams = fs::read_dir(house.path("vault/data/log")).expect("streams").flatten();
    let objects = streams.flat_map(|stream| fs::read_dir(stream.path()).expect("objects").flatten());
    let largest = objects.max_by_key(|object| object.metadata().map_or(0, |m| m.len())).expect("an object").path();
    let mut bytes = fs::read(&largest).expect("readable");
    bytes[5000] ^= 1;
    fs::remove_file(&largest).expect("removed");
    fs::write(&largest, bytes).expect("written");
    assert!(house.refusal(&[]).contains("is damaged or not genuine"));
}
