//! What scripts rely on: each command on a real database, its exit code, and what it leaves behind.

mod house;

use house::{House, INIT, ended, rows};
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn init_backs_up_and_proves_what_a_restore_then_brings_back() {
    let house = House::bare();
    let (exit, made) = house.json(&INIT);
    assert_eq!((exit, &made["verdict"]), (0, &Value::from("pass")), "{made}");
    assert_eq!(made["backup"]["sources"][0]["proof"]["outcome"]["proof"], "proven");
    let mode = fs::metadata(house.path("backstay.key")).expect("the key").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let before = rows(&house.path("shop.db"));
    house.sql("UPDATE item SET name = 'changed' WHERE id = 7; DELETE FROM item WHERE id > 1000");
    house.ok(&["backup", "shop", "--label", "before-v2", "--keep", "90d"]);
    let snapshots = house.snapshots();
    assert_eq!(snapshots.len(), 2);
    assert_eq!((&snapshots[0]["label"], &snapshots[0]["proven"]), (&"before-v2".into(), &true.into()));
    assert!(snapshots[0]["keep"]["until"].is_string(), "{}", snapshots[0]);
    let first = snapshots[1]["id"].as_str().expect("an id");
    house.ok(&["restore", "shop", "--snapshot", &first[..8], "--to", "first.db"]);
    house.ok(&["restore", "shop", "label:before-v2", "--to", "second.db"]);
    assert_eq!(rows(&house.path("first.db")), before);
    assert_eq!(rows(&house.path("second.db")), rows(&house.path("shop.db")));
}

#[test]
fn a_second_init_changes_nothing_and_says_what_is_there() {
    let house = House::new();
    let files = ["backstay.toml", "backstay.key"].map(|name| (name, fs::read(house.path(name)).expect("a file")));
    let (exit, _, err) = house.run(&INIT);
    assert_eq!(exit, 5, "{err}");
    assert!(err.contains("backstay.toml") && err.contains("backstay.key") && err.contains("vault"), "{err}");
    fs::rename(house.path("backstay.key"), house.path("elsewhere.key")).expect("moved");
    fs::rename(house.path("backstay.toml"), house.path("elsewhere.toml")).expect("moved");
    let (exit, _, err) = house.run(&INIT);
    assert_eq!(exit, 5, "a repository of another key is in the way: {err}");
    assert!(!house.path("backstay.key").exists() && !house.path("backstay.toml").exists());
    fs::rename(house.path("elsewhere.key"), house.path("backstay.key")).expect("back");
    assert_eq!(fs::read(house.path("backstay.key")).expect("the key"), files[1].1);
}

#[test]
fn an_init_that_died_is_taken_up_where_it_stopped() {
    let house = House::new();
    let key = fs::read(house.path("backstay.key")).expect("the key");
    fs::remove_file(house.path("backstay.toml")).expect("as if it died before writing it");
    let (exit, made) = house.json(&INIT);
    assert_eq!((exit, &made["steps"]), (0, &serde_json::json!(["take-up-key", "take-up-repository"])), "{made}");
    assert_eq!(house.snapshots().len(), 2);
    fs::remove_file(house.path("backstay.toml")).expect("removed");
    fs::remove_dir_all(house.path("vault")).expect("as if it died before the repository");
    fs::write(house.path(".backstay.key.backstay-0a1b2c3d"), "half a key").expect("and one before that earlier still");
    let (exit, made) = house.json(&INIT);
    assert!(!house.path(".backstay.key.backstay-0a1b2c3d").exists(), "a secret nobody knows of is not left about");
    assert_eq!((exit, &made["steps"]), (0, &serde_json::json!(["take-up-key", "make-repository"])), "{made}");
    assert_eq!(fs::read(house.path("backstay.key")).expect("the key"), key);
}

#[test]
fn init_makes_nothing_for_a_source_that_is_no_database() {
    let house = House::bare();
    fs::write(house.path("notes.txt"), "not a database, and long enough to be looked at".repeat(30)).expect("a file");
    for (source, exit) in [("shop=./none.db", 3), ("shop=./notes.txt", 3), ("shop=.", 3)] {
        let (found, _, err) = house.run(&["init", "--yes", "--source", source]);
        assert_eq!(found, exit, "{source}: {err}");
        for name in ["backstay.toml", "backstay.key", "vault", ".backstay"] {
            assert!(!house.path(name).exists(), "{source} left {name}");
        }
    }
    let empty = tempfile::tempdir().expect("a temporary folder");
    let (exit, _, err) = ended(house.command(&["init", "--yes"]).current_dir(&empty).output().expect("it runs"));
    assert_eq!(exit, 2, "{err}");
    assert!(err.contains("--source NAME=PATH"), "{err}");
    let (exit, _, err) = house.run(&["init"]);
    assert_eq!(exit, 2, "there is nobody to ask: {err}");
}

#[test]
fn init_finds_the_databases_nearby() {
    let house = House::bare();
    fs::create_dir(house.path("data")).expect("a folder");
    Connection::open(house.path("data/Shop.sqlite")).expect("open").execute_batch("CREATE TABLE t(x)").expect("sql");
    let (exit, made) = house.json(&["init", "--yes"]);
    assert_eq!(exit, 0, "{made}");
    let names: Vec<&str> =
        made["sources"].as_array().expect("sources").iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["shop", "shop-2"]);
    assert_eq!(house.json(&["list"]).1["snapshots"].as_array().map(Vec::len), Some(2));
}

#[test]
fn one_source_that_fails_does_not_stop_the_others() {
    let house = House::new();
    Connection::open(house.path("other.db")).expect("open").execute_batch("CREATE TABLE t(x)").expect("sql");
    let toml = fs::read_to_string(house.path("backstay.toml")).expect("the configuration");
    let more = "[sources.gone]\npath = \"gone.db\"\n[sources.other]\npath = \"other.db\"\n";
    fs::write(house.path("backstay.toml"), format!("{toml}\n{more}")).expect("written");
    let (exit, view) = house.json(&["backup"]);
    assert_eq!((exit, &view["verdict"]), (1, &Value::from("fail")), "{view}");
    let verdicts: Vec<_> = view["sources"].as_array().expect("sources").iter().map(|s| s["verdict"].clone()).collect();
    assert_eq!(verdicts, ["fail", "pass", "pass"]);
    assert_eq!(view["sources"][0]["error"]["kind"], "config");
    assert_eq!(house.run(&["backup", "gone"]).0, 3);
    assert_eq!(house.run(&["backup", "shp"]).0, 2);
}

#[test]
fn a_writer_without_the_identity_ends_at_intact() {
    let house = House::new();
    let key = fs::read_to_string(house.path("backstay.key")).expect("the key");
    let signer = key.lines().find(|line| line.starts_with("# backstay-signing-key")).expect("a signing key");
    fs::write(house.path("backstay.key"), format!("{signer}\n")).expect("written");
    house.sql("UPDATE item SET name = 'x' WHERE id = 1");
    let (exit, view) = house.json(&["backup"]);
    assert_eq!(exit, 0, "{view}");
    let row = &view["sources"][0];
    assert_eq!(row["proof"]["outcome"]["proof"], "not-possible");
    assert_eq!((&row["check"]["verdict"], &row["check"]["depth"]), (&"pass".into(), &"intact".into()));
    // The pack of the first backup was not read again, and nothing more is said of it.
    assert_eq!(row["outcome"], "stored; what it added is intact and the rest is there; proof: not possible here");
    assert_eq!((&row["check"]["older"]["objects"], &row["check"]["left"]), (&1.into(), &1.into()));
    let (exit, view) = house.json(&["check"]);
    assert_eq!((exit, &view["sources"][0]["report"]["depth"]), (0, &Value::from("intact")));
    let (exit, _, err) = house.run(&["restore", "shop", "--to", "x.db"]);
    assert_eq!(exit, 7, "{err}");
    assert_eq!(house.run(&["check", "--deep"]).0, 11, "asked for, and it could not be found out");
    assert_eq!(house.run(&["status"]).0, 10, "the newest one is not proven");
}

#[test]
fn a_wrong_or_missing_key_is_named() {
    let house = House::new();
    let other = House::new();
    let mine = fs::read(house.path("backstay.key")).expect("the key");
    let path = house.path("backstay.key");
    fs::copy(other.path("backstay.key"), &path).expect("swapped");
    let (exit, _, err) = house.run(&["restore", "shop", "--to", "x.db"]);
    assert_eq!(exit, 7, "{err}");
    assert!(err.contains("does not open") || err.contains("other master") || err.contains("another master"), "{err}");
    let (exit, _, err) = house.run(&["backup"]);
    assert_eq!(exit, 7, "{err}");
    fs::remove_file(&path).expect("removed");
    let (exit, _, err) = house.run(&["backup"]);
    assert_eq!(exit, 3, "{err}");
    assert!(err.contains("there is no key file"), "{err}");
    fs::write(&path, mine).expect("back");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    house.ok(&["backup"]);
}

#[test]
fn a_repository_that_cannot_be_reached_is_no_verdict() {
    let house = House::new();
    fs::rename(house.path("vault"), house.path("away")).expect("unmounted");
    for words in [&["status"][..], &["backup"], &["list"], &["check"]] {
        let (exit, out, err) = house.run(words);
        assert_eq!((exit, out.as_str()), (4, ""), "{words:?}: {err}");
    }
    assert!(!house.path("vault").exists(), "a repository that is not there must not be made anew");
}

#[test]
fn restoring_in_place_wants_the_name_and_keeps_the_old_file() {
    let house = House::new();
    let before = rows(&house.path("shop.db"));
    house.sql("DELETE FROM item WHERE id > 10");
    let bad = rows(&house.path("shop.db"));
    for words in
        [&["restore", "shop"][..], &["restore", "shop", "--confirm", "yes"], &["restore", "shop", "--to", "shop.db"]]
    {
        let (exit, _, err) = house.run(words);
        assert_eq!(exit, 2, "{words:?}: {err}");
    }
    let (exit, plan) = house.json(&["restore", "shop", "--dry-run"]);
    assert_eq!((exit, &plan["report"], &plan["plan"]["in_place"]), (0, &Value::Null, &true.into()));
    assert_eq!(rows(&house.path("shop.db")), bad);
    let (exit, view) = house.json(&["restore", "shop", "--confirm", "shop"]);
    assert_eq!(exit, 0, "{view}");
    assert_eq!(rows(&house.path("shop.db")), before);
    let kept = view["report"]["kept"][0]["now"].as_str().expect("a kept file");
    assert_eq!(rows(kept.as_ref()), bad);
    fs::remove_file(house.path("shop.db")).expect("lost");
    house.ok(&["restore", "shop"]);
    assert_eq!(rows(&house.path("shop.db")), before, "in place of nothing needs no name");
}

#[test]
fn restoring_in_place_is_refused_while_somebody_holds_the_database() {
    let house = House::new();
    let before = fs::read(house.path("shop.db")).expect("the database");
    let mut holder = Command::new("sqlite3");
    let holder = holder.arg(house.path("shop.db")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("sqlite3 runs; `./test` installs what is missing");
    std::io::Write::write_all(holder.stdin.as_mut().expect("stdin"), b"BEGIN; SELECT count(*) FROM item;\n")
        .expect("asked");
    let mut said = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().expect("stdout"), &mut said).expect("an answer");
    let (exit, _, err) = house.run(&["restore", "shop", "--confirm", "shop"]);
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    assert_eq!(exit, 5, "{err}");
    assert!(err.contains("sqlite3"), "the holder is named: {err}");
    assert_eq!(fs::read(house.path("shop.db")).expect("the database"), before);
    house.ok(&["restore", "shop", "--confirm", "shop"]);
}

#[test]
fn a_file_in_the_way_is_never_overwritten() {
    let house = House::new();
    fs::write(house.path("mine.db"), "mine").expect("a file");
    assert_eq!(house.run(&["restore", "shop", "--to", "mine.db"]).0, 5);
    assert_eq!(fs::read(house.path("mine.db")).expect("still there"), b"mine");
}

#[test]
fn points_that_are_not_there_are_usage_errors() {
    let house = House::new();
    let cases = [
        (vec!["--at", "2001-01-01"], "the oldest restore point is"),
        (vec!["--at", "whenever"], "is not a time"),
        (vec!["--snapshot", "0000"], "begins with"),
        (vec!["label:none"], "is labelled"),
    ];
    for (words, expected) in cases {
        let (exit, _, err) = house.run(&[&["restore", "shop", "--to", "x.db"], words.as_slice()].concat());
        assert_eq!(exit, 2, "{words:?}: {err}");
        assert!(err.contains(expected), "{words:?}: {err}");
    }
    let (exit, view) = house.json(&["restore", "shop", "--at", "now", "--to", "x.db"]);
    assert_eq!(exit, 0, "{view}");
    assert!(view["asked"].is_string() && view["plan"]["distance_millis"].is_number(), "{view}");
}

#[test]
fn a_malformed_database_is_kept_as_it_is_and_quarantined() {
    let house = House::new();
    let mut bytes = fs::read(house.path("shop.db")).expect("the database");
    bytes[..16].copy_from_slice(b"no longer SQLite");
    fs::write(house.path("shop.db"), &bytes).expect("damaged");
    let (exit, _, err) = house.run(&["backup"]);
    assert_eq!(exit, 6, "{err}");
    assert!(err.contains("--as-is"), "{err}");
    let (exit, out, err) = house.run(&["backup", "--as-is"]);
    assert_eq!(exit, 10, "{out}{err}");
    assert!(out.contains("quarantined") && out.contains("backstay restore shop --snapshot"), "{out}");
    let newest = house.newest();
    assert_eq!(
        (house.snapshots()[0]["quarantined"].clone(), house.snapshots()[0]["quality"].clone()),
        (true.into(), "as-is".into())
    );
    let (exit, out, err) = house.run(&["restore", "shop", "--snapshot", &newest, "--to", "asis.db"]);
    assert_eq!(exit, 10, "{out}{err}");
    assert!(err.contains("QUARANTINED"), "{err}");
    assert_eq!(fs::read(house.path("asis.db")).expect("restored"), bytes);
    house.ok(&["restore", "shop", "--to", "good.db"]);
    assert_eq!(rows(&house.path("good.db")).len(), 2000, "`latest` is the newest good one");
    assert_eq!(house.run(&["status"]).0, 10);
}

#[test]
fn a_database_that_opens_but_fails_its_checks_is_quarantined() {
    let house = House::new();
    // The index is said to be on another column than it was built on: every row is missing from it.
    let sql = "CREATE TABLE t(a, b); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1, 2), (3, 4);
               PRAGMA writable_schema=ON;
               UPDATE sqlite_schema SET sql='CREATE INDEX i ON t(b)' WHERE name='i'";
    rusqlite::Connection::open(house.path("shop.db")).and_then(|conn| conn.execute_batch(sql)).expect("sql");
    let (exit, out, err) = house.run(&["backup"]);
    assert_eq!(exit, 1, "{out}{err}");
    assert!(out.contains("its proof failed; quarantined"), "{out}");
    let (exit, out, err) = house.run(&["backup", "--as-is"]);
    assert_eq!(exit, 10, "{out}{err}");
    assert!(out.contains("kept as it is, quarantined"), "{out}");
    assert_eq!(house.snapshots()[0]["quarantined"], true);
}

/// Two hosts that back a source up at the same moment, in a folder that somebody brought together.
fn two_at_once(house: &House, store: &[&str]) {
    let copy = |from: &str, to: &str| {
        let words = ["-rn", "--", from, to];
        assert!(Command::new("cp").current_dir(house.path("")).args(words).status().expect("cp runs").success());
    };
    let folder = |from: &str, to: &str| fs::rename(house.path(from), house.path(to)).expect("moved");
    copy("vault", "theirs");
    copy(".backstay", "their-state");
    house.sql("DELETE FROM item WHERE id = 1");
    house.ok(store);
    ["vault", ".backstay"].iter().for_each(|name| folder(name, &format!("our-{name}")));
    folder("theirs", "vault");
    folder("their-state", ".backstay");
    house.sql("DELETE FROM item WHERE id = 2");
    house.ok(store);
    copy("our-vault/.", "vault");
}

#[test]
fn of_two_snapshots_with_one_number_check_says_which_to_give_up_and_that_helps() {
    let house = House::new();
    two_at_once(&house, &["backup", "--no-proof"]);
    let (exit, out, _) = house.run(&["check"]);
    assert!(exit == 1 && out.contains("nothing is damaged") && !out.contains("NO snapshot"), "{exit}: {out}");
    assert!(out.ends_with("Next: backstay list shop\n"), "{out}");
    house.ok(&["backup", "--no-proof"]);
    let (exit, out, _) = house.run(&["check"]);
    assert!(exit == 1 && out.contains("the one that nothing comes after"), "{exit}: {out}");
    let said = out.lines().find_map(|line| line.strip_prefix("Next: backstay ")).expect("a command");
    house.ok(&said.split(' ').collect::<Vec<_>>());
    house.ok(&["check"]);
    house.ok(&["restore", "shop", "--to", "x.db"]);
    assert_eq!(rows(&house.path("x.db")), rows(&house.path("shop.db")));
}

/// The log of whoever follows now may begin at the one that no snapshot comes after.
#[test]
fn of_two_snapshots_with_one_number_none_is_to_be_given_up_that_is_followed() {
    let house = House::new();
    house.sql("PRAGMA journal_mode=WAL");
    two_at_once(&house, &["follow", "--once"]);
    house.ok(&["backup", "--no-proof"]);
    let (exit, out, _) = house.run(&["check"]);
    assert!(exit == 1 && out.contains("two writers") && out.contains("nothing is damaged"), "{exit}: {out}");
    assert!(!out.contains("retention drop") && out.ends_with("Next: backstay list shop\n"), "{out}");
}

#[test]
fn damage_in_the_repository_is_found_named_and_healed() {
    let house = House::new();
    house.ok(&["check", "--deep"]);
    house.damage_packs();
    let (exit, view) = house.json(&["check"]);
    assert_eq!(exit, 1, "{view}");
    let problem = &view["sources"][0]["report"]["problems"][0];
    assert_eq!(problem["snapshots"][0], Value::from(house.newest()));
    assert_eq!(house.run(&["status"]).0, 1);
    assert_eq!(house.snapshots()[0]["quarantined"], true, "it is shown, and as what it is");
    assert_eq!(house.run(&["restore", "shop", "--to", "x.db"]).0, 6, "nothing good is left to choose");
    house.ok(&["backup"]);
    house.ok(&["restore", "shop", "--to", "x.db"]);
    assert_eq!(rows(&house.path("x.db")), rows(&house.path("shop.db")));
}

#[test]
fn a_failed_proof_is_exit_1_and_names_the_setting() {
    let house = House::new();
    house.sql("PRAGMA foreign_keys = OFF;
         CREATE TABLE child(id INTEGER PRIMARY KEY, item INTEGER REFERENCES item(id)); INSERT INTO child VALUES (1, 99999)");
    let (exit, out, err) = house.run(&["backup"]);
    assert_eq!(exit, 1, "{out}{err}");
    assert!(out.contains("stored and intact; its proof failed: 1 rows of table child refer"), "{out}");
    assert!(!out.contains("quarantined") && out.contains("proof.foreign_keys = \"report\""), "{out}");
    // A fact of the application is no reason to take `latest` away for ever.
    assert_eq!(house.snapshots()[0]["quarantined"], false);
    assert_eq!(house.snapshots()[0]["proven"], false);
    house.ok(&["restore", "shop", "--to", "latest.db"]);
    let output = house.command(&["backup"]).env("BACKSTAY_PROOF_FOREIGN_KEYS", "report").output();
    assert_eq!(ended(output.expect("it runs")).0, 0);
}

#[test]
fn status_turns_red_with_age() {
    let house = House::new();
    let out = house.ok(&["status"]);
    assert!(out.starts_with("PASS  shop  ") && out.contains("not confirmed"), "{out}");
    assert_eq!(house.run(&["status", "--max-age", "0s"]).0, 1);
    house.ok(&["backup", "--no-proof"]);
    assert_eq!(house.run(&["status"]).0, 10);
}

#[test]
fn a_copy_of_the_key_is_shown_to_open_the_repository() {
    let house = House::new();
    assert_eq!(house.run(&["repo", "key", "confirm", "--key-file", "backstay.key"]).0, 5);
    let other = House::new();
    let path = other.path("backstay.key");
    let (exit, _, err) = house.run(&["repo", "key", "confirm", "--key-file", path.to_str().expect("text")]);
    assert_eq!(exit, 7, "{err}");
    fs::copy(house.path("backstay.key"), house.path("copy.key")).expect("a copy");
    house.ok(&["repo", "key", "confirm", "--key-file", "copy.key"]);
    assert!(house.ok(&["status"]).contains("a copy was confirmed"));
}

#[test]
fn an_unsealed_repository_says_so_every_time() {
    let house = House::bare();
    house.ok(&[&INIT[..], &["--unsealed"]].concat());
    fs::remove_file(house.path("backstay.key")).expect("the key is not needed to read");
    house.edit("backstay.toml", "key_file = \"./backstay.key\"\n", "");
    assert!(house.ok(&["status"]).contains("UNSEALED"));
    house.ok(&["restore", "shop", "--to", "x.db"]);
    assert_eq!(house.run(&["backup"]).0, 7, "reading is for anyone, writing is not");
}

#[test]
fn no_output_holds_a_secret() {
    let house = House::new();
    let key = fs::read_to_string(house.path("backstay.key")).expect("the key");
    let secrets: Vec<&str> = key
        .lines()
        .filter(|line| line.starts_with("AGE-SECRET-KEY") || line.contains("signing-key: "))
        .map(|line| line.rsplit(' ').next().unwrap_or(line))
        .collect();
    assert_eq!(secrets.len(), 3);
    fs::copy(house.path("backstay.key"), house.path("copy.key")).expect("a copy");
    let commands = [
        &["status", "-vvv"][..],
        &["backup", "-vvv"],
        &["list"],
        &["show", "shop"],
        &["check", "--deep"],
        &["repo", "show"],
        &["repo", "key", "confirm", "--key-file", "copy.key"],
        &["doctor", "-vvv"],
        &["config", "show", "--origin"],
        &["restore", "shop", "--dry-run"],
    ];
    for words in commands {
        for form in [&[][..], &["--json"]] {
            let (exit, out, err) = house.run(&[words, form].concat());
            assert_eq!(exit, 0, "{words:?}: {out}{err}");
            for secret in &secrets {
                assert!(!out.contains(secret) && !err.contains(secret), "{words:?} prints a secret");
            }
        }
    }
}

#[test]
fn overlapping_backups_of_one_source_are_a_conflict() {
    use std::os::fd::AsFd;
    let house = House::new();
    let lock =
        walk(&house.path(".backstay")).into_iter().find(|path| path.ends_with("shop/lock")).expect("a lock file");
    let file = fs::File::open(&lock).expect("the lock");
    rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("held");
    let (exit, _, err) = house.run(&["backup"]);
    assert_eq!(exit, 5, "{err}");
    assert!(err.contains("another backup of shop is running"), "{err}");
    drop(file);
    house.ok(&["backup"]);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}

#[test]
fn the_demonstration_passes_and_leaves_nothing() {
    let house = House::bare();
    let (exit, view) = house.json(&["demo", "--dir", "demo"]);
    assert_eq!((exit, &view["verdict"]), (0, &Value::from("pass")), "{view}");
    assert!(!house.path("demo").exists());
    assert!(view["millis"].as_u64().is_some_and(|millis| millis < 15_000), "{view}");
    house.ok(&["demo", "--dir", "demo", "--keep", "-q"]);
    assert!(house.path("demo/backstay.toml").exists());
    assert_eq!(house.run(&["demo", "--dir", "demo"]).0, 5);
}

#[test]
fn the_binary_links_nothing_but_the_c_library() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_backstay")).output().expect("ldd runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let known = ["linux-vdso", "libc.so", "libm.so", "libgcc_s.so", "ld-linux"];
    let strange: Vec<&str> = text.lines().filter(|line| !known.iter().any(|name| line.contains(name))).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

/// The places where tests let others act are not in what is shipped. The workspace's tests turn them on, so it is asked
/// what a build of the package alone would be made of.
#[test]
fn what_is_shipped_has_no_place_where_others_act() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--package", "backstay", "--edges", "normal,build", "--format", "{p} [{f}]"]);
    let output = tree.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("backstay-")).collect();
    assert!(ours.iter().any(|line| line.contains("backstay-sqlite ")), "{text}");
    assert!(ours.iter().all(|line| line.contains("[]") || line.ends_with("(*)")), "{ours:?}");
}

fn doctors_check(view: &Value, name: &str) -> Value {
    let mut checks = view["checks"].as_array().expect("checks").iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {view}"))["verdict"].clone()
}

#[test]
fn doctor_passes_a_good_house_and_names_what_is_wrong_with_a_bad_one() {
    let house = House::new();
    let (exit, out, _) = house.run(&["doctor"]);
    assert!(exit == 10 && out.contains("not confirmed"), "a key of which there is no copy is a warning: {out}");
    fs::copy(house.path("backstay.key"), house.path("copy.key")).expect("a copy");
    house.ok(&["repo", "key", "confirm", "--key-file", "copy.key"]);
    // What an `init` that was killed leaves: nobody holds it.
    fs::copy(house.path("backstay.key"), house.path(".backstay.key.backstay-0a1b2c3d")).expect("half made");
    let (exit, out, _) = house.run(&["doctor"]);
    assert_eq!(exit, 0, "{out}");
    assert!(out.starts_with("PASS  doctor") && out.contains("wal mode"), "{out}");
    assert!(!house.path(".backstay.key.backstay-0a1b2c3d").exists(), "a secret nobody knows of is not left about");
    fs::set_permissions(house.path("backstay.key"), fs::Permissions::from_mode(0o644)).expect("a mode");
    fs::rename(house.path("vault"), house.path("away")).expect("moved");
    fs::remove_file(house.path("shop.db")).expect("removed");
    let (exit, view) = house.json(&["doctor"]);
    assert_eq!(exit, 1, "{view}");
    for name in ["key", "repository", "source shop"] {
        assert_eq!(doctors_check(&view, name), "fail", "{name}");
    }
    assert_eq!(doctors_check(&view, "engine"), "pass");
}

#[test]
fn a_key_may_come_through_a_descriptor() {
    let house = House::new();
    house.edit("backstay.toml", "key_file = \"./backstay.key\"", "key_fd = 3");
    let backup = |redirect: &str| {
        let line = format!("{} backup --json {redirect}", env!("CARGO_BIN_EXE_backstay"));
        ended(Command::new("sh").args(["-c", &line]).current_dir(&house.0).output().expect("sh runs"))
    };
    let key = fs::read_to_string(house.path("backstay.key")).expect("the key");
    for redirect in ["3<backstay.key".to_owned(), format!("3<<END\n{key}END\n")] {
        let (exit, out, err) = backup(&redirect);
        assert_eq!(exit, 0, "{out}{err}");
    }
    let (exit, out, err) = backup("3<&-");
    assert_eq!(exit, 3, "{out}{err}");
}
