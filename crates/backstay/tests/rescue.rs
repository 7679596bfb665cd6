//! `backstay rescue` as a person runs it.

mod house;

use house::{House, rows};
use std::fs;
use std::path::Path;

/// Every file of the folder and its bytes, but for what the test asked for.
fn files(dir: &Path, but: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).expect("a folder").flatten().filter(|entry| entry.path().is_file());
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let read = |entry: fs::DirEntry| (name(&entry), fs::read(entry.path()).expect("a file"));
    let mut files: Vec<_> = entries.map(read).filter(|(name, _)| name != but).collect();
    files.sort();
    files
}

/// Overwrites one page of the database with rubbish.
fn damage(house: &House, page: usize) {
    let mut bytes = fs::read(house.path("shop.db")).expect("the database");
    bytes[page * 4096..(page + 1) * 4096].fill(0x5a);
    fs::write(house.path("shop.db"), bytes).expect("written");
}

#[test]
fn what_is_left_is_in_a_new_file_and_the_damaged_files_are_as_they_were() {
    let house = House::bare();
    let before = rows(&house.path("shop.db"));
    damage(&house, 20);
    // A writer that died leaves its log behind: what it committed is part of the database.
    let conn = house.connection();
    conn.execute_batch("INSERT INTO item VALUES (9000, 'only in the log', NULL)").expect("a row");
    for name in ["shop.db", "shop.db-wal"] {
        fs::copy(house.path(name), house.path(&name.replace("shop", "broken"))).expect("a copy");
    }
    drop(conn);
    let untouched = files(house.0.path(), "saved.db");
    let (exit, said) = house.json(&["rescue", "broken.db", "--to", "saved.db"]);
    assert_eq!((exit, &said["verdict"]), (10, &"partial".into()), "{said:#}");
    assert_eq!(files(house.0.path(), "saved.db"), untouched, "a rescue only reads");
    let after: Vec<_> = house_rows(&house, "saved.db");
    assert_eq!(after.last().map(|row| row.1.as_str()), Some("only in the log"));
    let saved: Vec<_> = after.iter().filter(|row| row.0 != 9000).collect();
    assert!(saved.iter().all(|row| before.contains(row)), "no row was invented");
    assert!(saved.len() > 1950 && saved.len() < 2000, "{} of 2000 rows", saved.len());
    assert_eq!(said["report"]["bad_pages"], serde_json::json!([21]), "{said:#}");
    let table = &said["report"]["tables"][0];
    let lost = table["lost_estimate"].as_u64().expect("a number");
    assert_eq!((&table["table"], &table["rows"]), (&"item".into(), &after.len().into()));
    assert!(lost.abs_diff(2000 - saved.len() as u64) < 5, "{lost} is near what is missing");
}

fn house_rows(house: &House, name: &str) -> Vec<(i64, String, Vec<u8>)> {
    let conn = rusqlite::Connection::open(house.path(name)).expect("open");
    let mut statement = conn.prepare("SELECT id, name, coalesce(note, x'') FROM item ORDER BY id").expect("a query");
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
    found.map(|row| row.expect("a row")).collect()
}

#[test]
fn a_source_is_rescued_by_its_name_and_a_whole_one_passes() {
    let house = House::new();
    let (exit, said) = house.json(&["rescue", "shop", "--to", "saved.db"]);
    assert_eq!((exit, &said["verdict"]), (0, &"pass".into()), "{said:#}");
    assert_eq!(rows(&house.path("saved.db")), rows(&house.path("shop.db")));
}

#[test]
fn a_rescue_overwrites_nothing() {
    let house = House::bare();
    for taken in ["saved.db", "other.db-wal"] {
        fs::write(house.path(taken), "mine").expect("written");
        let to = taken.trim_end_matches("-wal");
        let (exit, out, err) = house.run(&["rescue", "shop.db", "--to", to]);
        assert_eq!(exit, 5, "{out}{err}");
        assert_eq!(fs::read_to_string(house.path(taken)).expect("still there"), "mine");
    }
    let (exit, ..) = house.run(&["rescue", "shop.db", "--to", "shop.db"]);
    assert_eq!(exit, 5);
    let left = files(house.0.path(), "").into_iter().filter(|(name, _)| name.contains("backstay"));
    assert_eq!(left.count(), 0, "nothing private is left behind");
}

#[test]
fn a_file_without_any_row_gives_no_new_file() {
    let house = House::bare();
    fs::write(house.path("rubbish.db"), vec![0x5a; 40_960]).expect("written");
    let (exit, out, err) = house.run(&["rescue", "rubbish.db", "--to", "saved.db"]);
    assert_eq!(exit, 6, "{out}{err}");
    let mut bytes = fs::read(house.path("shop.db")).expect("the database");
    bytes[100..].fill(0);
    fs::write(house.path("rubbish.db"), bytes).expect("written");
    let (exit, said) = house.json(&["rescue", "rubbish.db", "--to", "saved.db"]);
    assert_eq!((exit, &said["verdict"], &said["to"]), (1, &"fail".into(), &serde_json::Value::Null), "{said:#}");
    assert!(!house.path("saved.db").exists());
}

/// Names of the packs there are.
fn packs(house: &House) -> Vec<String> {
    files(&house.path("vault/data/shop/pack"), "").into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_damaged_page_is_taken_from_the_newest_snapshot_that_has_it_whole() {
    let house = House::new();
    let before = rows(&house.path("shop.db"));
    let (first, old_packs) = (house.newest(), packs(&house));
    house.sql("UPDATE item SET name = 'new ' || name; PRAGMA wal_checkpoint(TRUNCATE);");
    house.ok(&["backup"]);
    let (second, new) = (house.newest(), rows(&house.path("shop.db")));
    damage(&house, 20);
    let (exit, said) = house.json(&["rescue", "shop", "--from-snapshots", "--to", "a.db"]);
    assert_eq!(exit, 10, "{said:#}");
    assert_eq!(rows(&house.path("a.db")), new, "the newest snapshot has the page as it was");
    let page = |snapshot: &str, from: &serde_json::Value| {
        assert_eq!(
            (&from["first"], &from["last"], from["snapshot"].as_str()),
            (&21.into(), &21.into(), Some(snapshot))
        );
    };
    page(&second, &said["from_snapshots"][0]);
    // Without the packs of the second, its frames cannot be read, and the first helps.
    for pack in packs(&house).into_iter().filter(|pack| !old_packs.contains(pack)) {
        fs::remove_file(house.path("vault/data/shop/pack").join(pack)).expect("removed");
    }
    let (exit, said) = house.json(&["rescue", "shop", "--from-snapshots", "--to", "b.db"]);
    assert_eq!(exit, 10, "{said:#}");
    page(&first, &said["from_snapshots"][0]);
    let mixed = rows(&house.path("b.db"));
    assert_eq!(mixed.len(), 2000);
    let (old, newer): (Vec<_>, Vec<_>) = mixed.iter().partition(|row| before.contains(row));
    assert!(!old.is_empty() && old.len() < 40, "{} rows of one page", old.len());
    assert!(newer.iter().all(|row| new.contains(row)));
}

#[test]
fn a_file_that_is_gone_is_rescued_from_a_snapshot_that_is_damaged_itself() {
    let house = House::new();
    let before = rows(&house.path("shop.db"));
    house.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    fs::remove_file(house.path("shop.db")).expect("removed");
    let pack = house.path("vault/data/shop/pack").join(packs(&house).first().expect("a pack"));
    let whole = fs::read(&pack).expect("a pack");
    let hurt = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&pack, bytes).expect("written");
    };
    hurt(whole.len() * 3 / 4);
    let (exit, ..) = house.run(&["restore", "shop", "--to", "restored.db"]);
    assert_eq!(exit, 6, "a restore wants all or nothing");
    let (exit, said) = house.json(&["rescue", "shop", "--from-snapshots", "--to", "saved.db"]);
    assert_eq!(exit, 10, "{said:#}");
    let saved = rows(&house.path("saved.db"));
    assert!(saved.len() > 200 && saved.len() < 2000, "{} rows", saved.len());
    assert!(saved.iter().all(|row| before.contains(row)));
    // The frame with the first page: what tables there were is lost, the rows of the other frames are not.
    hurt(whole.len() / 4);
    let (exit, said) = house.json(&["rescue", "shop", "--from-snapshots", "--to", "rows.db"]);
    let found = said["report"]["lost_and_found"].as_u64().expect("a number");
    assert!(exit == 10 && found > 200, "{said:#}");
}
