//! `backstay maintain` as a person runs it.

mod house;

use house::{House, rows};
use std::fs;

#[test]
fn without_a_flag_it_looks_and_changes_nothing() {
    let house = House::new();
    house.sql("DELETE FROM item WHERE id > 100");
    let files = |house: &House| {
        let read = |name: &str| fs::read(house.path(name)).unwrap_or_default();
        (read("shop.db"), read("shop.db-wal"), house.snapshots())
    };
    let before = files(&house);
    let (exit, said) = house.json(&["maintain", "shop"]);
    assert_eq!((exit, &said["report"]["after"]), (0, &serde_json::Value::Null), "{said:#}");
    assert!(said["report"]["before"]["free_pages"].as_u64() > Some(50), "{said:#}");
    assert!(files(&house) == before);
    let text = house.ok(&["maintain", "shop"]);
    assert!(text.contains("next backup nearly full"), "{text}");
}

#[test]
fn a_vacuum_is_preceded_by_a_backup_and_gives_the_room_back() {
    let house = House::new();
    house.sql("DELETE FROM item WHERE id > 100");
    let kept = rows(&house.path("shop.db"));
    let (exit, said) = house.json(&["maintain", "shop", "--integrity", "--vacuum", "--analyze"]);
    assert_eq!((exit, &said["verdict"]), (0, &"pass".into()), "{said:#}");
    let report = &said["report"];
    let names: Vec<_> = report["tasks"].as_array().expect("tasks").iter().map(|done| &done["task"]).collect();
    assert_eq!(names, ["integrity", "vacuum", "checkpoint", "analyze"]);
    let number = |when: &str, what: &str| report[when][what].as_u64().expect("a number");
    assert!(number("after", "length") * 2 < number("before", "length"), "{said:#}");
    assert_eq!((number("after", "free_pages"), &report["after"]["analyzed"]), (0, &true.into()));
    assert_eq!(rows(&house.path("shop.db")), kept);
    assert_eq!(said["backup"]["sources"][0]["outcome"], "stored, intact and proven");
    assert_eq!(house.snapshots().len(), 2);
    house.ok(&["maintain", "shop", "--vacuum", "--no-backup"]);
    assert_eq!(house.snapshots().len(), 2);
}

#[test]
fn who_holds_the_database_is_named_and_nothing_is_done() {
    let house = House::new();
    house.edit("backstay.toml", "[sources.shop]", "[capture]\nbusy_timeout = \"1s\"\n\n[sources.shop]");
    let conn = house.connection();
    conn.execute_batch("BEGIN IMMEDIATE; DELETE FROM item WHERE id = 1").expect("a change that goes on");
    let before = fs::read(house.path("shop.db")).expect("the database");
    let (exit, said) = house.json(&["maintain", "shop", "--vacuum", "--no-backup"]);
    assert_eq!((exit, &said["error"]["kind"]), (5, &"conflict".into()), "{said:#}");
    let what = said["error"]["what"].as_str().expect("words");
    assert!(what.contains(&std::process::id().to_string()), "{what}");
    assert!(fs::read(house.path("shop.db")).expect("the database") == before);
}

#[test]
fn a_damaged_database_is_not_written_anew() {
    let house = House::bare();
    house.sql("CREATE INDEX by_name ON item(name); PRAGMA wal_checkpoint(TRUNCATE)");
    house.ok(&[&house::INIT[..], &["--no-backup"]].concat());
    let mut bytes = fs::read(house.path("shop.db")).expect("the database");
    let pages = bytes.len() / 4096;
    bytes[(pages - 2) * 4096..(pages - 1) * 4096].fill(0x5a);
    fs::write(house.path("shop.db"), &bytes).expect("written");
    let words = ["maintain", "shop", "--integrity", "--vacuum", "--no-backup"];
    let (exit, said) = house.json(&words);
    assert_eq!((exit, &said["verdict"]), (1, &"fail".into()), "{said:#}");
    assert_eq!(said["report"]["tasks"].as_array().map(Vec::len), Some(1), "nothing follows: {said:#}");
    assert!(fs::read(house.path("shop.db")).expect("the database") == bytes);
}
