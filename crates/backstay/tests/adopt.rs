//! Moving in from the command line.

mod house;

use house::House;
use std::path::Path;

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
