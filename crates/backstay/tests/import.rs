//! `backstay import` as a person runs it.

mod house;

use house::{House, rows};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A copy of the database as it is, under a name.
fn keep(house: &House, name: &str) {
    house.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy(house.path("shop.db"), house.path(name)).expect("a copy");
}

fn gzip(house: &House, name: &str) {
    let done = Command::new("gzip").arg(house.path(name)).status().expect("`apt-get install gzip`");
    assert!(done.success());
}

fn changed_at(house: &House, name: &str, days_ago: u64) {
    let file = fs::File::options().append(true).open(house.path(name)).expect("open");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000 - days_ago * 86_400);
    file.set_modified(then).expect("a time");
}

/// The old copies of a shop: three states, the newest of them packed.
fn with_copies(house: &House) -> Vec<Vec<(i64, String, Vec<u8>)>> {
    let mut states = Vec::new();
    for (at, name) in ["shop-2025-03-01.db", "shop.bak", "shop_20251102_020000.db"].into_iter().enumerate() {
        house.sql(&format!("UPDATE item SET name = 'state {at} ' || id WHERE id % 50 = {at}"));
        states.push(rows(&house.path("shop.db")));
        keep(house, name);
    }
    gzip(house, "shop_20251102_020000.db");
    changed_at(house, "shop.bak", 0);
    house.sql("UPDATE item SET name = 'now'");
    states
}

fn taken(said: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let copies = said["copies"].as_array().expect("a list");
    copies.iter().map(|copy| (text(&copy["taken"]), text(&copy["taken_from"]))).collect()
}

const COPIES: [&str; 5] = ["import", "shop", "shop.bak", "shop_20251102_020000.db.gz", "shop-2025-03-01.db"];

#[test]
fn old_copies_have_their_own_times_and_are_never_the_latest() {
    let house = House::bare();
    let states = with_copies(&house);
    house.ok(&house::INIT);
    let (live, now) = (house.newest(), rows(&house.path("shop.db")));
    let (exit, said) = house.json(&COPIES);
    assert_eq!((exit, &said["verdict"]), (0, &"pass".into()), "{said:#}");
    let named = |at: &str, by: &str| (at.to_owned(), by.to_owned());
    let expected = [
        named("2025-03-01T00:00:00.000Z", "name"),
        named("2025-10-09T08:53:20.000Z", "last-change"),
        named("2025-11-02T02:00:00.000Z", "name"),
    ];
    assert_eq!(taken(&said), expected, "oldest first");
    for (copy, state) in said["copies"].as_array().expect("a list").iter().zip(&states) {
        assert_eq!(copy["outcome"], "stored, intact and proven", "{copy:#}");
        let id = copy["snapshot"].as_str().expect("an id");
        house.ok(&["restore", "shop", "--snapshot", id, "--to", &format!("{id}.db")]);
        assert_eq!(&rows(&house.path(&format!("{id}.db"))), state);
    }
    house.ok(&["restore", "shop", "--at", "2025-10-31T00:00:00Z", "--to", "october.db"]);
    assert_eq!(rows(&house.path("october.db")), states[1]);
    for point in ["latest", "latest-proven"] {
        let (_, planned) = house.json(&["restore", "shop", point, "--to", "x.db", "--dry-run"]);
        assert_eq!(planned["plan"]["snapshot"].as_str(), Some(live.as_str()), "{point}");
    }
    house.ok(&["status"]);
    house.ok(&["check"]);
    // The living history goes on where it was, as if nothing had come in beside it.
    house.sql("INSERT INTO item VALUES (9000, 'after the import', x'')");
    let (exit, said) = house.json(&["backup"]);
    let backup = &said["sources"][0]["backup"];
    assert_eq!((exit, &backup["branch"], &backup["position"]), (0, &0.into(), &2.into()), "{said:#}");
    assert_eq!(backup["sequence"], 5, "numbers are dense over both");
    assert_eq!(house.snapshots()[0]["id"], said["sources"][0]["snapshot"]);
    assert_ne!(rows(&house.path("shop.db")), now);
}

#[test]
fn the_same_copies_once_more_are_known_and_nothing_is_done() {
    let house = House::bare();
    with_copies(&house);
    house.ok(&house::INIT);
    house.ok(&COPIES);
    let before = house.snapshots();
    let (exit, said) = house.json(&COPIES);
    assert_eq!(exit, 0, "{said:#}");
    assert!(said["copies"].as_array().expect("a list").iter().all(|copy| copy["known"] == true), "{said:#}");
    assert_eq!(house.snapshots(), before);
    let packs = fs::read_dir(house.path("vault/data/shop/pack")).expect("packs").count();
    house.ok(&COPIES);
    assert_eq!(fs::read_dir(house.path("vault/data/shop/pack")).expect("packs").count(), packs);
}

#[test]
fn copies_from_before_the_first_backup_make_it_a_small_one() {
    let house = House::bare();
    keep(&house, "old.db");
    changed_at(&house, "old.db", 3);
    house.ok(&[&house::INIT[..], &["--no-backup"]].concat());
    house.ok(&["import", "shop", "old.db"]);
    house.sql("UPDATE item SET name = 'changed' WHERE id = 1000");
    let (exit, said) = house.json(&["backup"]);
    let backup = &said["sources"][0]["backup"];
    let (stored, units) = (backup["units_stored"].as_u64(), backup["units"].as_u64());
    assert!(exit == 0 && stored < Some(10) && units > Some(100), "{stored:?} of {units:?}: {said:#}");
    assert_eq!((&backup["branch"], &backup["position"]), (&1.into(), &1.into()), "a branch of its own");
    let (_, planned) = house.json(&["restore", "shop", "--to", "x.db", "--dry-run"]);
    assert_eq!(planned["plan"]["snapshot"], said["sources"][0]["snapshot"]);
}

#[test]
fn what_is_no_whole_copy_is_refused_and_the_others_are_imported() {
    let house = House::new();
    keep(&house, "good.db");
    house.sql("UPDATE item SET name = 'now'");
    fs::write(house.path("bad.db"), vec![7; 40_960]).expect("written");
    keep(&house, "cut.db");
    gzip(&house, "cut.db");
    let packed = fs::read(house.path("cut.db.gz")).expect("packed");
    fs::write(house.path("cut.db.gz"), &packed[..packed.len() / 2]).expect("written");
    let (exit, said) = house.json(&["import", "shop", "good.db", "bad.db", "cut.db.gz"]);
    let verdict = |name: &str| {
        let copies = said["copies"].as_array().expect("a list");
        let found = copies.iter().find(|copy| copy["file"].as_str().is_some_and(|file| file.ends_with(name)));
        found.expect("in the list").clone()
    };
    assert_eq!((exit, &verdict("good.db")["verdict"]), (1, &"pass".into()), "{said:#}");
    assert_eq!(verdict("bad.db")["error"]["kind"], "corrupt");
    assert_eq!(verdict("cut.db.gz")["error"]["kind"], "corrupt");
    fs::write(house.path("long.db"), vec![0; 3 << 20]).expect("written");
    gzip(&house, "long.db");
    let (exit, said) = house.json(&["import", "shop", "long.db.gz", "--size-max", "2 MiB"]);
    assert_eq!((exit, &said["copies"][0]["error"]["kind"]), (1, &"no-space".into()), "a bomb is let go: {said:#}");
    let (exit, said) = house.json(&["import", "shop", "bad.db", "--as-is"]);
    assert_eq!((exit, &said["verdict"]), (10, &"partial".into()), "{said:#}");
}

#[test]
fn a_pattern_and_a_time_that_is_said() {
    let house = House::new();
    fs::create_dir(house.path("old")).expect("a folder");
    for day in ["01", "02"] {
        house.sql(&format!("UPDATE item SET name = 'day {day}'"));
        keep(&house, &format!("old/shop-2025-03-{day}.db"));
    }
    let (exit, said) = house.json(&["import", "shop", "--glob", "old/shop-*.db"]);
    let named = |day: &str| (format!("2025-03-{day}T00:00:00.000Z"), "name".to_owned());
    assert_eq!((exit, taken(&said)), (0, vec![named("01"), named("02")]), "{said:#}");
    house.sql("UPDATE item SET name = 'said'");
    keep(&house, "shop.bak");
    let (exit, said) = house.json(&["import", "shop", "shop.bak", "--taken", "2024-12-24T18:00:00Z"]);
    assert_eq!((exit, taken(&said)), (0, vec![("2024-12-24T18:00:00.000Z".to_owned(), "flag".to_owned())]));
    let (exit, ..) = house.run(&["import", "shop", "shop.bak", "--taken", "2999-01-01"]);
    assert_eq!(exit, 2, "nothing is from a time that is yet to come");
}
