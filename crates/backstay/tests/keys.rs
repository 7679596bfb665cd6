//! Keys as a person handles them: every wrap opened by the stock `age`, hosts enrolled by a file that is carried.

mod house;

use house::{House, ended, rows};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a program in the folder; it must succeed.
fn must(house: &House, program: &str, words: &[&str]) -> String {
    let done = Command::new(program).current_dir(&house.0).args(words).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}; `./test` installs what is missing"));
    assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

/// A fresh identity in `<name>.txt`; gives its recipient.
fn identity(house: &House, name: &str) -> String {
    let file = format!("{name}.txt");
    must(house, "age-keygen", &["-o", &file]);
    must(house, "age-keygen", &["-y", &file]).trim().to_owned()
}

fn wraps(house: &House) -> Vec<PathBuf> {
    let masters = fs::read_dir(house.path("vault/ctl/master")).expect("wraps").flatten();
    let files = masters.flat_map(|master| fs::read_dir(master.path()).expect("a folder").flatten());
    files.map(|file| file.path()).collect()
}

fn with_passphrase(house: &House, words: &[&str], passphrase: &str) -> (i32, String, String) {
    let mut command = house.command(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(format!("{passphrase}\n").as_bytes()).expect("written");
    ended(child.wait_with_output().expect("it ends"))
}

#[test]
fn the_stock_age_program_opens_every_wrap() {
    let house = House::new();
    let ada = identity(&house, "ada");
    house.ok(&["repo", "key", "add", &ada, "--name", "ada"]);
    let master = must(&house, "age-keygen", &["-y", "backstay.key"]).trim().to_owned();
    let [wrap] = &wraps(&house)[..] else { panic!("one wrap") };
    let opened = must(&house, "age", &["-d", "-i", "ada.txt", &wrap.display().to_string()]);
    fs::write(house.path("master.txt"), opened).expect("written");
    assert_eq!(must(&house, "age-keygen", &["-y", "master.txt"]).trim(), master);
    house.ok(&["repo", "key", "rotate"]);
    let conf = house.json(&["repo", "show"]).1;
    let mut opens = Vec::new();
    for wrap in wraps(&house) {
        let wrap = wrap.display().to_string();
        assert!(wrap.contains(conf["master"].as_str().expect("a master")), "{wrap} is of the master before");
        let by_ada = Command::new("age").current_dir(&house.0).args(["-d", "-i", "ada.txt", &wrap]).output();
        let by_ada = by_ada.expect("age runs");
        if by_ada.status.success() {
            fs::write(house.path("present.txt"), by_ada.stdout).expect("written");
            opens.push("present");
        } else {
            opens.push("older");
        }
    }
    opens.sort_unstable();
    assert_eq!(opens, ["older", "present"]);
    let older = wraps(&house).into_iter().map(|wrap| wrap.display().to_string());
    let older = older.filter_map(|wrap| {
        let done = Command::new("age").current_dir(&house.0).args(["-d", "-i", "present.txt", &wrap]).output();
        done.ok().filter(|done| done.status.success()).map(|done| done.stdout)
    });
    let [older] = &older.collect::<Vec<_>>()[..] else { panic!("the masters before open with the present one") };
    fs::write(house.path("older.txt"), older).expect("written");
    assert_eq!(must(&house, "age-keygen", &["-y", "older.txt"]).trim(), master);
}

#[test]
fn an_identity_that_was_added_restores_and_one_that_was_removed_does_not() {
    let house = House::new();
    let ada = identity(&house, "ada");
    house.ok(&["repo", "key", "add", &ada, "--name", "ada"]);
    let (exit, listed) = house.json(&["repo", "key", "list"]);
    assert_eq!((exit, &listed["recipients"][0]["recipient"]), (0, &Value::from(ada.clone())));
    fs::set_permissions(house.path("ada.txt"), fs::Permissions::from_mode(0o600)).expect("mode");
    let restore = |to: &str| {
        let mut command = house.command(&["restore", "shop", "--to", to]);
        ended(command.env("BACKSTAY_KEY_FILE", house.path("ada.txt")).output().expect("it runs"))
    };
    assert_eq!(restore("by-ada.db").0, 0);
    assert_eq!(rows(&house.path("by-ada.db")), rows(&house.path("shop.db")));
    let (exit, _, err) = house.run(&["repo", "key", "remove", "ada"]);
    assert_eq!(exit, 2, "the name must be typed: {err}");
    let said = house.ok(&["repo", "key", "remove", "ada", "--confirm", "ada"]);
    assert!(said.contains("ada can still open what was stored until now"), "{said}");
    house.ok(&["backup"]);
    let (exit, _, err) = restore("again.db");
    assert!(exit == 7 && err.contains("sealed to another master"), "{exit} {err}");
    assert!(house.ok(&["status"]).contains("not confirmed"), "copies of the key are of before");
    house.ok(&["restore", "shop", "--to", "ours.db"]);
    let audit = house.ok(&["audit"]);
    assert!(audit.contains("let ada read") && audit.contains("took ada off"), "{audit}");
}

#[test]
fn a_passphrase_alone_opens_the_repository() {
    let house = House::new();
    let words = "correct horse battery staple";
    let (exit, _, err) = with_passphrase(&house, &["repo", "key", "add", "--passphrase", "--name", "safe"], "short");
    assert!(exit == 2 && err.contains("fewer than 12"), "{err}");
    let (exit, _, err) = with_passphrase(&house, &["repo", "key", "add", "--passphrase", "--name", "safe"], words);
    assert_eq!(exit, 0, "{err}");
    let (exit, _, err) = with_passphrase(&house, &["repo", "key", "unlock", "--to", "wrong.key"], "another thing");
    assert!(exit == 7 && !house.path("wrong.key").exists(), "{exit} {err}");
    let (exit, _, err) = with_passphrase(&house, &["repo", "key", "unlock", "--to", "reader.key"], words);
    assert_eq!(exit, 0, "{err}");
    let mode = fs::metadata(house.path("reader.key")).expect("written").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let restored =
        house.command(&["restore", "shop", "--to", "copy.db"]).env("BACKSTAY_KEY_FILE", "reader.key").output();
    assert_eq!(ended(restored.expect("it runs")).0, 0);
    let (exit, _, err) = house.run(&["repo", "key", "rotate"]);
    assert!(exit == 2 && err.contains("passphrase"), "without the words it changes nothing: {err}");
    let (exit, _, err) = with_passphrase(&house, &["repo", "key", "rotate"], words);
    assert_eq!(exit, 0, "{err}");
    let (exit, _, err) = with_passphrase(&house, &["repo", "key", "unlock", "--to", "after.key"], words);
    assert_eq!(exit, 0, "{err}");
    opened_by_the_stock_program(&house, words);
}

/// `age` asks for a passphrase at a terminal only, so it is given one.
fn opened_by_the_stock_program(house: &House, words: &str) {
    let listed = house.json(&["repo", "key", "list"]).1;
    let id = listed["recipients"][0]["wrap"]["id"].as_str().expect("an id").to_owned();
    let wrap = wraps(house).into_iter().find(|wrap| wrap.to_string_lossy().contains(&id)).expect("the wrap");
    let command = format!("age -d -o by-age.txt {}", wrap.display());
    let mut child = Command::new("script")
        .current_dir(&house.0)
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`script` of util-linux gives it a terminal");
    let mut typed = child.stdin.take().expect("a pipe");
    // The terminal is read from once age asks.
    let mut asked = String::new();
    let mut out = child.stdout.take().expect("a pipe");
    let mut byte = [0];
    while !asked.ends_with(':') && std::io::Read::read(&mut out, &mut byte).expect("output") == 1 {
        asked.push(char::from(byte[0]));
    }
    typed.write_all(format!("{words}\n").as_bytes()).expect("typed");
    std::io::Read::read_to_string(&mut out, &mut asked).expect("the rest");
    assert!(child.wait().expect("it ends").success(), "{asked}");
    let master = must(house, "age-keygen", &["-y", "by-age.txt"]);
    assert_eq!(listed["master"].as_str(), Some(master.trim()));
}

/// What a host that was just enrolled has: its own folder, the lines it was given, the database.
fn moved_in(house: &House, name: &str, roles: &str) -> PathBuf {
    let dir = house.path(name);
    fs::create_dir(&dir).expect("a folder");
    let there = |words: &[&str]| {
        let done = house.command(words).current_dir(&dir).output().expect("it runs");
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    there(&["repo", "enroll", "--request", "--role", roles, "--name", name]);
    let request = format!("{name}/{name}.request");
    let (exit, accepted) = house.json(&["repo", "enroll", "--accept", &request, "--roles", roles]);
    assert_eq!((exit, accepted["name"].as_str()), (0, Some(name)), "{accepted}");
    let config = accepted["config"].as_str().expect("lines");
    let source = format!("{config}\n[sources.shop]\npath = \"../shop.db\"\n");
    fs::write(dir.join("backstay.toml"), source).expect("written");
    dir
}

fn run_in(house: &House, dir: &Path, words: &[&str]) -> (i32, String, String) {
    ended(house.command(words).current_dir(dir).output().expect("it runs"))
}

#[test]
fn a_host_enrolled_as_a_writer_backs_up_and_can_read_nothing() {
    let house = House::new();
    let dir = moved_in(&house, "db-2", "writer");
    let mode = fs::metadata(dir.join("backstay.key")).expect("a key").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let (exit, out, err) = run_in(&house, &dir, &["backup"]);
    assert!(exit == 0 && out.contains("stored and intact"), "{out}{err}");
    let (exit, _, err) = run_in(&house, &dir, &["restore", "shop", "--to", "copy.db"]);
    assert!(exit == 7 && err.contains("repo key add"), "{err}");
    let (exit, _, err) = run_in(&house, &dir, &["repo", "key", "rotate"]);
    assert!(exit == 7 && err.contains("root"), "{err}");
    house.sql("UPDATE item SET name = 'changed' WHERE id = 7");
    let (exit, out, err) = run_in(&house, &dir, &["backup", "--json"]);
    let view: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(exit, 0, "{err}");
    assert!(view["sources"][0]["backup"]["base"].to_string().contains("incremental"), "{view}");
    house.ok(&["check", "--deep"]);
    house.ok(&["repo", "signer", "remove", "db-2", "--confirm", "db-2"]);
    let (exit, _, err) = run_in(&house, &dir, &["backup"]);
    assert!(exit == 7 && err.contains("repo enroll --request"), "{err}");
    house.ok(&["restore", "shop", "--to", "kept.db"]);
    assert_eq!(rows(&house.path("kept.db")), rows(&house.path("shop.db")));
}

#[test]
fn a_request_never_replaces_a_key_and_a_changed_one_enrols_nobody() {
    let house = House::new();
    let words = ["repo", "enroll", "--request", "--role", "writer", "--name", "db-2"];
    let key = fs::read(house.path("backstay.key")).expect("the key");
    let (exit, _, err) = house.run(&words);
    assert_eq!(exit, 5, "{err}");
    assert!(fs::read(house.path("backstay.key")).expect("still there") == key && !house.path("db-2.request").exists());
    house.ok(&[&words[..], &["--key-file", "db-2.key"]].concat());
    house.edit("db-2.request", "db-2", "db-3");
    let (exit, _, err) = house.run(&["repo", "enroll", "--accept", "db-2.request", "--roles", "keeper"]);
    assert!(exit == 7 && err.contains("signature does not hold"), "{err}");
    assert_eq!(house.json(&["repo", "show"]).1["generation"], 0);
}

#[test]
fn a_kit_alone_restores_on_a_blank_machine() {
    let house = House::new();
    house.ok(&["repo", "key", "rotate"]);
    house.sql("UPDATE item SET name = 'newest' WHERE id = 9");
    house.ok(&["backup"]);
    let said = house.ok(&["repo", "key", "kit", "--to", "kit"]);
    let key = fs::read_to_string(house.path("kit/backstay.key")).expect("the key");
    let secret = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).expect("an identity");
    assert!(!said.contains(secret), "the key is never printed unasked");
    let page = fs::read_to_string(house.path("kit/kit.html")).expect("the page");
    let root = house.json(&["repo", "show"]).1["root"].as_str().expect("a root").to_owned();
    for needed in [secret, root.as_str(), house.newest().as_str(), "recover.py"] {
        assert!(page.contains(needed), "{needed}");
    }
    for entry in fs::read_dir(house.path("kit")).expect("the kit").flatten() {
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    let (exit, _, _) = house.run(&["repo", "key", "kit", "--to", "kit"]);
    assert_eq!(exit, 5, "a kit that is there is not mixed with another");
    house.ok(&["repo", "key", "confirm", "--key-file", "kit/backstay.key"]);
    // A blank machine: the kit, the repository, and the lines the page says to write.
    let dir = house.path("blank");
    fs::create_dir(&dir).expect("a folder");
    fs::copy(house.path("kit/backstay.key"), dir.join("backstay.key")).expect("copied");
    let vault = fs::canonicalize(house.path("vault")).expect("the repository").display().to_string();
    assert!(page.contains(&vault), "the page says where it is");
    let config = format!(
        "repository = \"{vault}\"\nroot = \"{root}\"\nkey_file = \"./backstay.key\"\n[sources.shop]\npath = \"./shop.db\"\n"
    );
    fs::write(dir.join("backstay.toml"), config).expect("written");
    let (exit, out, err) = run_in(&house, &dir, &["restore", "shop", "latest-proven", "--to", "shop.db"]);
    assert_eq!(exit, 0, "{out}{err}");
    assert_eq!(rows(&dir.join("shop.db")), rows(&house.path("shop.db")));
    let printed = house.ok(&["repo", "key", "export", "--print"]);
    assert!(printed.contains(secret), "and printed when asked for");
    assert!(house.ok(&["audit"]).contains("wrote a recovery kit"));
}

#[test]
fn the_audit_of_permissions_says_that_a_folder_allows_everything() {
    let house = House::new();
    let (exit, out, err) = house.run(&["repo", "audit-perms"]);
    assert!(exit == 10 && out.contains("may do more than they need"), "{out}{err}");
    let (exit, view) = house.json(&["repo", "audit-perms", "--roles", "writer"]);
    assert_eq!((exit, &view["verdict"]), (10, &Value::from("partial")), "{view}");
    assert_eq!(view["left"], Value::Array(Vec::new()), "everything that was made was taken away");
    house.ok(&["check"]);
}
