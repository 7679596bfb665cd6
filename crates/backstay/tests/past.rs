//! Asking the past from the command line.

mod house;

use house::{House, INIT, ended};
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

/// Two moments: `before-v2`, and the newest.
fn shop() -> House {
    let house = House::new();
    house.ok(&["backup", "shop", "--label", "before-v2"]);
    house.sql("UPDATE item SET name = 'a, \"b\"' WHERE id = 7; DELETE FROM item WHERE id > 1990; UPDATE item SET note = NULL WHERE id = 8");
    house.ok(&["backup", "shop"]);
    house
}

#[test]
fn a_question_is_answered_as_of_its_moment() {
    let house = shop();
    let count = "SELECT count(*) AS n FROM item";
    let (exit, now) = house.json(&["query", "shop", count]);
    assert_eq!((exit, &now["rows"]), (0, &json!([[1990]])), "{now}");
    assert_eq!(now["columns"], json!(["n"]));
    let (_, then) = house.json(&["query", "shop", "label:before-v2", count]);
    assert_eq!(then["rows"], json!([[2000]]));
    let id = then["moment"]["snapshot"].as_str().expect("an id").to_owned();
    let (_, named) = house.json(&["query", "shop", "--snapshot", &id[..8], count]);
    assert_eq!(named["rows"], json!([[2000]]));
    let text =
        house.ok(&["query", "shop", "label:before-v2", "SELECT id, name FROM item WHERE id IN (7, 8) ORDER BY id"]);
    assert_eq!(text, "id  name\n 7  item 7\n 8  item 8\n");
    let at = then["moment"]["at"].as_str().expect("a time");
    let (_, then) = house.json(&["query", "shop", "--at", at, count]);
    assert_eq!(then["rows"], json!([[2000]]));
}

#[test]
fn csv_has_every_row_and_quotes_what_must_be() {
    let house = shop();
    let csv = house.ok(&["query", "shop", "--csv", "SELECT id, name, length(note) FROM item"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        (lines.len(), lines[0], lines[7], lines[8]),
        (1991, "id,name,length(note)", "7,\"a, \"\"b\"\"\",200", "8,item 8,")
    );
    let empty = house.ok(&["query", "shop", "--csv", "SELECT id FROM item WHERE id < 0"]);
    assert_eq!(empty, "id\n");
}

#[test]
fn more_rows_than_the_limit_are_said() {
    let house = shop();
    let (exit, found) = house.json(&["query", "shop", "--limit", "3", "SELECT id FROM item ORDER BY id"]);
    assert_eq!((exit, &found["rows"], &found["more"]), (0, &json!([[1], [2], [3]]), &json!(true)));
    let text = house.ok(&["query", "shop", "--limit", "3", "SELECT id FROM item ORDER BY id"]);
    assert!(text.contains("only the first 3 rows"), "{text}");
}

#[test]
fn the_shell_reads_questions_one_after_another() {
    let house = shop();
    let mut command = house.command(&["query", "shop", "--shell"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let script = ".tables\n.schema item\nSELECT count(*)\n  FROM item;\nSELECT name FROM item WHERE id = 9;\n";
    child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("written");
    let (exit, out, err) = ended(child.wait_with_output().expect("ends"));
    assert_eq!(exit, 0, "{err}");
    let wanted =
        "item\nCREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, note BLOB);\ncount(*)\n    1990\nname\nitem 9\n";
    assert_eq!(out, wanted);
}

#[test]
fn what_is_no_question_is_refused_and_changes_nothing() {
    let house = shop();
    let never = house.path("never.db").display().to_string();
    for (sql, exit, word) in [
        ("DELETE FROM item", 2, "no single statement that reads"),
        ("SELECT 1; SELECT 2", 2, "statement"),
        ("SELECT no_such FROM item", 2, "no such column"),
        (&format!("ATTACH '{never}' AS x"), 2, ""),
        (&format!("VACUUM INTO '{never}'"), 2, ""),
    ] {
        let (found, out, err) = house.run(&["query", "shop", sql]);
        assert_eq!(found, exit, "{sql}: {out}{err}");
        assert!(err.contains(word), "{sql}: {err}");
    }
    assert!(!house.path("never.db").exists());
    let (exit, _, err) = house.run(&["query", "shop", "nonsense", "SELECT 1"]);
    assert_eq!(exit, 2, "{err}");
    let (exit, _, err) = house.run(&["query", "shop", "latest", "--tx", "4", "SELECT 1"]);
    assert_eq!(exit, 2, "{err}");
}

#[test]
fn a_damaged_repository_is_named_and_gives_no_rows() {
    let house = shop();
    house.damage_packs();
    let (exit, out, err) = house.run(&["query", "shop", "SELECT sum(length(note)) FROM item"]);
    assert_eq!((exit, out.as_str()), (6, ""), "{err}");
    assert!(err.contains("data/shop/pack/") && err.contains("backstay check"), "{err}");
}

#[test]
fn the_time_allowed_is_kept() {
    let house = shop();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let (exit, _, err) = house.run(&["query", "shop", "--within", "1s", endless]);
    assert_eq!(exit, 4, "{err}");
    assert!(err.contains("the time allowed for it ran out"), "{err}");
}

/// The whole story: an UPDATE without WHERE on a followed database, found, looked at and mended.
#[test]
fn a_bad_update_is_found_looked_at_and_mended_while_the_shop_goes_on() {
    let house = House::bare();
    house.ok(&INIT);
    let app = house.connection();
    app.execute_batch(
        "PRAGMA wal_autocheckpoint=0; PRAGMA foreign_keys=ON;
         CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
         CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer(id), cents INTEGER NOT NULL);
         INSERT INTO customer VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Edsger');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO purchase SELECT i, 1 + i % 3, 100 * i FROM n;",
    )
    .expect("the application begins");
    house.ok(&["follow", "shop", "--once"]);
    let commits = [
        "INSERT INTO purchase VALUES (301, 1, 500)",
        "INSERT INTO customer VALUES (4, 'Barbara')",
        "UPDATE purchase SET cents = 0",
        "INSERT INTO purchase VALUES (302, 4, 700)",
        "DELETE FROM item WHERE id = 1",
        "INSERT INTO purchase VALUES (303, 2, 900)",
    ];
    commits.iter().for_each(|sql| app.execute_batch(sql).expect("a commit"));
    house.ok(&["follow", "shop", "--once"]);

    let (exit, log) = house.json(&["log", "shop", "--table", "purchase"]);
    assert_eq!(exit, 0, "{log}");
    let steps = log["steps"].as_array().expect("steps");
    let bad = steps.iter().find(|step| step["tables"][0]["changed"] == 301).expect("every row at once");
    assert_eq!((&bad["commit"], &bad["tables"][0]["added"]), (&json!(true), &json!(0)), "{bad}");
    let (exit, when) = house.json(&["when", "shop", "SELECT sum(cents) FROM purchase", "--drops"]);
    assert_eq!((exit, when["shifts"].as_array().map(Vec::len)), (0, Some(1)), "{when}");
    let shift = &when["shifts"][0];
    assert_eq!((&shift["after"]["tx"], &shift["after"]["row"]), (&bad["tx"], &json!([0])), "{when}");
    assert_eq!(shift["before"]["row"], json!([4_515_500]));
    let before = shift["before"]["tx"].as_u64().expect("a state").to_string();

    let (_, looked) = house.json(&["query", "shop", "--tx", &before, "SELECT cents FROM purchase WHERE id = 300"]);
    assert_eq!(looked["rows"], json!([[30_000]]));
    let back = ["restore", "shop", "--tx", &before, "--table", "purchase", "--into", "shop.db"];
    let (exit, _, err) = house.run(&[&back[..], &["--confirm", "shop"]].concat());
    assert_eq!(exit, 5, "conflicts are refused unless somebody says what to do: {err}");
    let (exit, plan) = house.json(&[&back[..], &["--on-conflict", "replace", "--dry-run"]].concat());
    assert_eq!((exit, &plan["preview"]["conflicts"], &plan["report"]), (0, &json!(301), &json!(null)), "{plan}");
    let (exit, done) = house.json(&[&back[..], &["--on-conflict", "replace", "--confirm", "shop"]].concat());
    assert_eq!((exit, &done["report"]["replaced"], &done["report"]["inserted"]), (0, &json!(301), &json!(0)), "{done}");

    let one = |sql: &str| app.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
    assert_eq!(one("SELECT sum(cents) FROM purchase WHERE id <= 301"), 4_515_500);
    assert_eq!(one("SELECT sum(cents) FROM purchase"), 4_515_500 + 700 + 900, "what came later stayed");
    assert_eq!((one("SELECT count(*) FROM customer"), one("SELECT count(*) FROM item")), (4, 1999));
    assert_eq!(one("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert!(shell(&house, done["undo"].as_str().expect("a file")));
    assert_eq!(one("SELECT sum(cents) FROM purchase"), 1600);
}

#[test]
fn a_difference_is_shown_and_written_as_statements() {
    let house = shop();
    let (exit, same) = house.json(&["diff", "shop", "--from", "latest"]);
    assert_eq!((exit, &same["verdict"]), (0, &json!("pass")), "{same}");
    let (exit, found) = house.json(&["diff", "shop", "--from", "label:before-v2"]);
    assert_eq!(
        (exit, &found["tables"][0]["removed"], &found["tables"][0]["changed"]),
        (1, &json!(10), &json!(2)),
        "{found}"
    );
    assert_eq!(
        found["tables"][0]["rows"][0]["columns"],
        json!([{"column": "name", "before": "item 7", "after": "a, \"b\""}])
    );
    let sql = house.ok(&["diff", "shop", "--from", "latest", "--to", "label:before-v2", "--sql"]);
    std::fs::write(house.path("back.sql"), &sql).expect("written");
    // What was written since is in the way of one statement: none of them counts.
    house.sql("INSERT INTO item(id, name, note) VALUES (2000, 'in the way', '')");
    let all = "SELECT group_concat(id || name || quote(note)) FROM (SELECT * FROM item ORDER BY id)";
    let items = || house.connection().query_row(all, [], |row| row.get::<_, String>(0)).expect("the items");
    let before = items();
    assert!(!shell(&house, "back.sql"), "it says so");
    assert!(items() == before, "all of them or none");
    house.sql("DELETE FROM item WHERE id = 2000");
    assert!(shell(&house, "back.sql"));
    house.ok(&["restore", "shop", "label:before-v2", "--to", "then.db"]);
    assert_eq!(house::rows(&house.path("shop.db")), house::rows(&house.path("then.db")));
}

/// Runs a file of statements as people do. Says whether it went well.
fn shell(house: &House, file: &str) -> bool {
    let statements = std::fs::File::open(house.path(file)).expect("the statements");
    let ran = std::process::Command::new("sqlite3").arg(house.path("shop.db")).stdin(statements).status();
    ran.expect("sqlite3 runs; `./test` installs what is missing").success()
}

#[test]
fn rows_go_into_a_file_of_statements() {
    let house = shop();
    let words = ["restore", "shop", "label:before-v2", "--table", "item", "--where", "id > 1995", "--sql", "item.sql"];
    let (exit, done) = house.json(&words);
    assert_eq!((exit, &done["statements"]), (0, &json!(5)), "{done}");
    let count = || house.connection().query_row("SELECT count(*) FROM item", [], |row| row.get::<_, i64>(0));
    let before = count().expect("a count");
    house.sql("INSERT INTO item(id, name, note) VALUES (1999, 'in the way', '')");
    assert!(!shell(&house, "item.sql"), "it says so");
    assert_eq!(count().expect("a count"), before + 1, "all of them or none");
    house.sql("DELETE FROM item WHERE id = 1999");
    assert!(shell(&house, "item.sql"));
    assert_eq!(count().expect("a count"), 1995);
    let (exit, _, err) = house.run(&words);
    assert_eq!(exit, 5, "nothing is overwritten: {err}");
    let (exit, _, err) = house.run(&words[..7]);
    assert_eq!(exit, 2, "{err}");
    assert!(err.contains("--into"), "{err}");
}

#[test]
fn a_masked_copy_is_drafted_refused_while_open_and_made() {
    let house = shop();
    let draft = house.ok(&["restore", "shop", "--mask-draft"]);
    std::fs::write(house.path("profile.toml"), &draft).expect("written");
    for line in ["strict = true", "[table.item]", "id = \"?\"", "name = \"fake:name\"", "note = \"?\""] {
        assert!(draft.lines().any(|found| found == line), "{line}: {draft}");
    }
    let (exit, _, err) = house.run(&["restore", "shop", "--to", "staging.db", "--mask", "profile.toml"]);
    assert_eq!(exit, 2, "{err}");
    assert!(err.contains("nobody classified item.id, item.note"), "{err}");
    house.edit("profile.toml", "id = \"?\"", "id = \"keep\"");
    house.edit("profile.toml", "note = \"?\"", "note = { hash = 8 }");
    let (exit, planned) = house.json(&["restore", "shop", "--to", "staging.db", "--mask", "profile.toml", "--dry-run"]);
    assert_eq!((exit, &planned["dry_run"], house.path("staging.db").exists()), (0, &json!(true), false), "{planned}");
    let text = house.ok(&["restore", "shop", "label:before-v2", "--to", "staging.db", "--mask", "profile.toml"]);
    assert!(text.contains("a masked copy is in") && text.contains("item.name") && text.contains("fake:name"), "{text}");
    let conn = rusqlite::Connection::open(house.path("staging.db")).expect("open");
    let counted = "SELECT count(*) FROM item WHERE name LIKE '% %' AND name NOT LIKE 'item %' AND length(note) = 8";
    assert_eq!(conn.query_row(counted, [], |row| row.get::<_, i64>(0)).expect("a count"), 2000);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&house.path("staging.db").metadata().expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    for words in [
        ["restore", "shop", "--mask", "profile.toml", "--dry-run"].as_slice(),
        &["restore", "shop", "--mask", "profile.toml", "--live"],
        &["restore", "shop", "--mask", "absent.toml", "--to", "other.db"],
        &["restore", "shop", "--mask", "backstay.toml", "--to", "other.db"],
    ] {
        let (exit, _, err) = house.run(words);
        assert!(exit == 2 || exit == 3, "{words:?}: {exit} {err}");
        assert!(!house.path("other.db").exists());
    }
}

/// Files below a folder with a name like this.
fn kept(house: &House) -> Vec<std::path::PathBuf> {
    let mut folders = vec![house.path("")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if folder.ends_with("kept") => files.push(path),
                _ => {}
            }
        }
    }
    files
}

#[test]
fn what_was_read_is_kept_sealed_and_believed_only_when_it_is_whole() {
    let house = shop();
    let sql = "SELECT name FROM item WHERE id BETWEEN 100 AND 109";
    let ask = |flag: &[&str]| {
        let (exit, found) = house.json(&[&["query", "shop", sql], flag].concat());
        assert_eq!((exit, found["rows"].as_array().map(Vec::len)), (0, Some(10)), "{found}");
        found["store"]["get_range"].as_u64().expect("a number")
    };
    assert!(ask(&["--no-cache"]) > 0);
    assert!(kept(&house).is_empty(), "nothing is kept unless it may be");
    assert!(ask(&[]) > 0);
    assert_eq!(ask(&[]), 0, "nothing of a pack is asked for twice");
    let files = kept(&house);
    assert!(files.len() > 1, "{files:?}");
    for file in &files {
        let bytes = std::fs::read(file).expect("read");
        assert!(!bytes.windows(8).any(|part| part == b"item 100"), "it is sealed");
        std::fs::write(file, vec![7; bytes.len()]).expect("damaged");
    }
    assert!(ask(&[]) > 0, "what is damaged is asked for anew");
    assert_eq!(ask(&[]), 0);
}
