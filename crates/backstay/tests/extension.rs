//! The loadable extension in other programs' SQLite: the shell, Python, and Node. The examples are those of `docs/extension.md`.

mod house;

use house::House;
use std::path::{Path, PathBuf};
use std::process::Command;

const PAGE: &str = include_str!("../../../docs/extension.md");
const USED: &str = env!("CARGO_BIN_EXE_backstay");

/// Cargo puts it beside the tests.
fn extension() -> PathBuf {
    // Named so that it is linked, and with it made.
    let _ = backstay_extension::sqlite3_extension_init as *const ();
    let tests = std::env::current_exe().expect("a test");
    let found = tests.parent().expect("a folder").join("libbackstay_extension.so");
    assert!(found.is_file(), "{} was not made", found.display());
    found
}

fn shop() -> House {
    let house = House::new();
    house.ok(&["backup", "shop", "--label", "before-v2"]);
    house.sql("DELETE FROM item WHERE id > 1990; UPDATE item SET name = 'sail' WHERE id = 3");
    house.ok(&["backup", "shop"]);
    std::fs::copy(extension(), house.path("libbackstay_extension.so")).expect("copied");
    house
}

/// Runs a program in the house with the binary in its PATH.
fn run(house: &House, program: &str, words: &[&str]) -> (bool, String, String) {
    let bin = Path::new(USED).parent().expect("a folder").display().to_string();
    let mut command = Command::new("sh");
    command.args(["-c", "PATH=\"$0:$PATH\"; exec \"$@\"", &bin, program]).args(words).current_dir(house.0.path());
    let done = command.output().expect("a shell");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (done.status.success(), text(done.stdout), text(done.stderr))
}

fn shell(house: &House, sql: &str) -> (bool, String, String) {
    run(house, "sqlite3", &["-bail", "-cmd", ".load ./libbackstay_extension", "shop.db", sql])
}

/// The example of the page in a language.
fn example(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("an example");
    rest.split_once("```").expect("its end").0
}

#[test]
fn the_shell_compares_then_with_now() {
    let house = shop();
    let sql = "ATTACH 'file:shop?vfs=backstay&point=label:before-v2' AS past;
               SELECT count(*), sum(length(note)), min(name) FROM past.item;
               SELECT count(*) FROM (SELECT * FROM past.item EXCEPT SELECT * FROM main.item);
               SELECT name FROM past.item WHERE id = 3;
               INSERT INTO main.item SELECT * FROM past.item WHERE id > 1990;
               SELECT count(*) FROM main.item; PRAGMA past.integrity_check;";
    let (ok, out, err) = shell(&house, sql);
    assert!(ok, "{err}");
    assert_eq!(out, "2000|400000|item 1\n11\nitem 3\n2000\nok\n");
    let id = house.newest();
    let (_, then) = house.json(&["query", "shop", "label:before-v2", "SELECT 1"]);
    let then = then["moment"]["at"].as_str().expect("a time").to_owned();
    for (moment, count) in [
        (String::new(), 1990),
        (format!("&snapshot={}", &id[..8]), 1990),
        ("&point=latest-proven".to_owned(), 1990),
        (format!("&at={then}"), 2000),
    ] {
        let sql = format!("ATTACH 'file:shop?vfs=backstay{moment}' AS p; SELECT count(*) FROM p.item");
        let (ok, out, err) = shell(&house, &sql);
        assert!(ok && out == format!("{count}\n"), "{moment}: {out}{err}");
    }
}

#[test]
fn nothing_is_written_and_reasons_are_told() {
    let house = shop();
    let (ok, _, err) = shell(&house, "ATTACH 'file:shop?vfs=backstay' AS past; DELETE FROM past.item");
    assert!(!ok && err.contains("readonly"), "{err}");
    for (name, reason) in [
        ("file:nosuch?vfs=backstay", "nosuch"),
        ("file:shop?vfs=backstay&point=label:never", "never"),
        ("file:shop?vfs=backstay&program=./absent", "cannot be run"),
        ("file:shop?vfs=backstay&config=absent.toml", "absent.toml"),
    ] {
        let script = format!("ATTACH '{name}' AS past;\nSELECT 'reason: ' || backstay_error();\n");
        std::fs::write(house.path("ask.sql"), script).expect("written");
        let (_, out, err) =
            run(&house, "sqlite3", &["-cmd", ".load ./libbackstay_extension", "shop.db", ".read ask.sql"]);
        assert!(err.contains("unable to open database"), "{name}: {err}");
        assert!(out.starts_with("reason: ") && out.contains(reason), "{name}: {out}");
    }
    // What is gone once the database is open is an error of the disk, and never a row.
    let script = "ATTACH 'file:shop?vfs=backstay' AS past;\n.system rm -r vault/data/shop/pack\n\
                  SELECT 'sum ' || sum(length(note)) FROM past.item;\nSELECT backstay_error();\n";
    std::fs::write(house.path("ask.sql"), script).expect("written");
    let (_, out, err) = run(&house, "sqlite3", &["-cmd", ".load ./libbackstay_extension", "shop.db", ".read ask.sql"]);
    assert!(err.contains("disk I/O error"), "{out}{err}");
    assert!(out.contains("data/shop/pack/") && !out.contains("sum "), "{out}{err}");
}

#[test]
fn python_asks_as_the_page_says() {
    let house = shop();
    let (ok, out, err) = run(&house, "/usr/bin/python3", &["-c", example("python")]);
    assert!(ok, "{err}");
    assert_eq!(out, "2000\n");
}

/// One whose `node:sqlite` loads extensions, which that of most distributions does not.
fn node() -> String {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/node/node_modules/node/bin/node");
    assert!(found.exists(), "no Node 24; `./test` or this: npm install --prefix target/node node@24.9.0");
    found.display().to_string()
}

#[test]
fn node_asks_as_the_page_says() {
    let house = shop();
    let (ok, out, err) = run(&house, &node(), &["-e", example("javascript")]);
    assert!(ok, "{err}");
    assert_eq!(out, "2000\n");
}
