//! What each command shows, as text and as JSON: the JSON is a contract, fields are only ever added.
//!
//! Ids, times, sizes and paths differ from run to run and are written as what they are.

mod house;

use house::{House, INIT};
use serde_json::Value;

/// Fields whose number differs from run to run.
const VARIABLE: [&str; 30] = [
    "requests",
    "sent",
    "received",
    "put",
    "get",
    "get_range",
    "head",
    "list",
    "delete",
    "millis",
    "hold_ms",
    "busy_wait_ms",
    "restore_millis",
    "age_millis",
    "distance_millis",
    "stored",
    "added",
    "bytes",
    "referred",
    "to_fetch",
    "free",
    "manifest_length",
    "purchases",
    "purchases_meanwhile",
    "by_millis",
    "needed",
    "pid",
    "log_bytes",
    "compared",
    "live",
];

fn is_hex(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_of_time(c: char) -> bool {
    c.is_ascii_digit() || c == 'T' || c == 'Z'
}

/// `2026-11-21T10:44:24.872Z`
fn is_time(text: &str) -> bool {
    text.len() == 24 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T')
}

fn steady(key: &str, value: &mut Value, dir: &str) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| steady(key, value, dir)),
        Value::Array(_) if matches!(key, "blind_spots" | "unseen") => *value = "<what could not be seen>".into(),
        Value::Array(values) => values.iter_mut().for_each(|value| steady(key, value, dir)),
        Value::Number(_) if VARIABLE.contains(&key) => *value = "<number>".into(),
        Value::String(text) if is_time(text) => *value = "<time>".into(),
        Value::String(text) if is_hex(text) => *value = "<hex>".into(),
        Value::String(text) if key == "master" => *text = "<age recipient>".to_owned(),
        Value::String(text) if key == "host" || key == "name" && !text.contains("shop") => {
            *text = steady_text(text, dir)
        }
        Value::String(text) => *text = steady_text(text, dir),
        _ => {}
    }
}

/// Hexadecimal words become `<hex>`, numbers `N`, the folder `<dir>`.
fn steady_text(text: &str, dir: &str) -> String {
    let text = text.replace(dir, "<dir>");
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        if is_hex(&word) {
            out.push_str("<hex>");
        } else if word.starts_with("age1") {
            out.push_str("<age recipient>");
        } else if word.starts_with(|c: char| c.is_ascii_digit()) && word.trim_matches(is_of_time).is_empty() {
            // A number, or a part of a time.
            let parts = word.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            out.push_str(&parts.map(|_| "N").collect::<Vec<_>>().join("T"));
        } else {
            out.push_str(&word);
        }
        word.clear();
        if c != '\0' {
            out.push(c);
        }
    }
    out = out
        .replace("N.N", "N")
        .replace("NTN-N", "NTN")
        .replace("N min N s", "N ms")
        .replace("N s ", "N ms ")
        .replace("N s\n", "N ms\n");
    out
}

/// Columns of a table depend on what is in them: spaces are only counted at the beginning of a line.
fn steady_human(text: &str, dir: &str) -> String {
    let host = host();
    let line = |line: &str| {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let words = line.split_whitespace().map(|word| if word == host { "<host>" } else { word });
        format!("{indent}{}", words.collect::<Vec<_>>().join(" "))
    };
    // Whether every process could be looked into depends on who runs the test.
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("not seen"));
    steady_text(&lines.map(line).collect::<Vec<_>>().join("\n"), dir)
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The command's JSON, then its text.
fn shown(house: &House, words: &[&str], human: &[&str]) -> String {
    let dir = std::fs::canonicalize(house.0.path()).expect("the folder").display().to_string();
    let (exit, mut value) = house.json(words);
    steady("", &mut value, &dir);
    let json = format!("{value:#}").replace(&format!("{:?}", host()), "\"<host>\"");
    let (_, out, err) = house.run(human);
    let said = steady_human(&out, &dir);
    let warned = if err.is_empty() { String::new() } else { format!("\n--- stderr\n{}", steady_human(&err, &dir)) };
    format!("exit {exit}\n{json}\n--- text\n{said}{warned}")
}

macro_rules! golden {
    ($test:ident, $house:expr, $words:expr) => {
        golden!($test, $house, $words, $words);
    };
    ($test:ident, $house:expr, $words:expr, $human:expr) => {
        #[test]
        fn $test() {
            let house: House = $house;
            insta::assert_snapshot!(stringify!($test), shown(&house, &$words, &$human));
        }
    };
}

/// Two snapshots: rows were removed and changed between them.
fn changed() -> House {
    let house = House::new();
    house.ok(&["backup", "shop", "--label", "before"]);
    house.sql("DELETE FROM item WHERE id > 1990; UPDATE item SET name = 'sail' WHERE id = 3");
    house.ok(&["backup", "shop"]);
    house
}

/// With a profile for masked copies.
fn profiled() -> House {
    let house = House::new();
    let profile = "version = 1\n[table.item]\nid = \"keep\"\nname = \"fake:name\"\nnote = \"null\"\n";
    std::fs::write(house.path("profile.toml"), profile).expect("written");
    house
}

/// With a replica of Litestream.
fn moved_in() -> House {
    let house = House::bare();
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../backstay-ops/tests/litestream/replica/ltx");
    for level in ["0", "9"] {
        let to = house.path("replica/ltx").join(level);
        std::fs::create_dir_all(&to).expect("a folder");
        for entry in std::fs::read_dir(from.join(level)).expect("a folder").flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
    house
}

/// The same database once more, for commands that can run only once in a folder.
fn damaged() -> House {
    let house = House::new();
    house.damage_packs();
    house
}

golden!(backup, House::new(), ["backup"]);
golden!(backup_without_proof, House::new(), ["backup", "--no-proof"]);
golden!(list, House::new(), ["list", "shop"]);
golden!(list_of_nothing, unprotected(), ["list", "shop"]);
golden!(show, House::new(), ["show", "shop"]);
golden!(check, House::new(), ["check"]);
golden!(check_deep, House::new(), ["check", "--deep"]);
golden!(check_of_damage, damaged(), ["check"]);
golden!(diff, changed(), ["diff", "shop", "--from", "label:before"]);
golden!(log, changed(), ["log", "shop"]);
golden!(when, changed(), ["when", "shop", "SELECT count(*) FROM item", "--drops"]);
golden!(
    restore_rows,
    changed(),
    [
        "restore",
        "shop",
        "label:before",
        "--table",
        "item",
        "--into",
        "shop.db",
        "--on-conflict",
        "replace",
        "--dry-run"
    ]
);
golden!(
    restore_masked,
    profiled(),
    ["restore", "shop", "--to", "a.db", "--mask", "profile.toml"],
    ["restore", "shop", "--to", "b.db", "--mask", "profile.toml"]
);
golden!(
    adopt_litestream_restore,
    moved_in(),
    ["adopt", "litestream", "restore", "replica", "--to", "a.db"],
    ["adopt", "litestream", "restore", "replica", "--to", "b.db"]
);
golden!(
    query,
    House::new(),
    ["query", "shop", "SELECT id, name, note IS NULL AS empty, x'0aff' AS bytes FROM item WHERE id < 3"]
);
golden!(status, House::new(), ["status"]);
golden!(status_of_nothing, unprotected(), ["status"]);
golden!(status_of_a_followed_source, followed(), ["status"]);
golden!(repo_show, House::new(), ["repo", "show"]);
golden!(restore_plan, House::new(), ["restore", "shop", "--dry-run"]);
golden!(restore, House::new(), ["restore", "shop", "--to", "a.db"], ["restore", "shop", "--to", "b.db"]);
golden!(
    restore_in_place,
    House::new(),
    ["restore", "shop", "--at", "now", "--confirm", "shop"],
    ["restore", "shop", "latest", "--confirm", "shop"]
);
golden!(
    restore_follow,
    followed(),
    ["restore", "shop", "--to", "a.db", "--follow", "--once"],
    ["restore", "shop", "--to", "b.db", "--follow", "--once"]
);
golden!(promote, with_standbys(), ["promote", "a.db"], ["promote", "b.db"]);
golden!(failure, House::new(), ["restore", "shop", "--snapshot", "0000", "--to", "x.db"]);

golden!(repo_copy, copied(), ["repo", "copy", "--verify"]);
golden!(repo_copy_behind, copied(), ["repo", "copy", "new", "--check"]);
golden!(status_with_copies, copied(), ["status"]);

golden!(scrub, copied(), ["scrub"]);
golden!(scrub_of_damage, hurt(), ["scrub"]);
golden!(scrub_healed, hurt(), ["scrub", "--heal-from", "usb"]);

/// With damage here, and a copy that is whole.
fn hurt() -> House {
    let house = copied();
    house.damage_packs();
    house
}

/// With a copy that is complete, and one that has only just begun.
fn copied() -> House {
    let house = House::new();
    let text = std::fs::read_to_string(house.path("backstay.toml")).expect("a file");
    let copies = "[copies.usb]\nrepository = \"./usb\"\n";
    std::fs::write(house.path("backstay.toml"), format!("{text}\n{copies}")).expect("written");
    house.ok(&["repo", "copy"]);
    std::fs::create_dir_all(house.path("new/ctl/conf")).expect("a folder");
    let conf = "ctl/conf/0000000000000000";
    std::fs::copy(house.path("usb").join(conf), house.path("new").join(conf)).expect("a configuration");
    let copies = format!("{copies}[copies.new]\nrepository = \"./new\"\n");
    std::fs::write(house.path("backstay.toml"), format!("{text}\n{copies}")).expect("written");
    house
}

golden!(retention_without_rules, House::new(), ["retention", "plan"]);
golden!(retention_plan, ruled(), ["retention", "plan"]);
golden!(retention_apply, ruled(), ["retention", "apply"]);
golden!(retention_hold, House::new(), ["retention", "hold", "shop", "--reason", "audit"]);

/// Three snapshots, of which one is asked for.
fn ruled() -> House {
    let house = House::new();
    for item in ["soap", "rope"] {
        house.sql(&format!("INSERT INTO item(name) VALUES ('{item}')"));
        house.ok(&["backup"]);
    }
    house.edit("backstay.toml", "[sources.shop]", "[retention]\nlast = 1\n\n[sources.shop]");
    house
}

golden!(repo_repack_plan, thinned(), ["repo", "repack", "--dry-run"]);
golden!(repo_repack, thinned(), ["repo", "repack"]);

/// Three snapshots; in the oldest one's packs little is alive, of a snapshot that was given up.
fn thinned() -> House {
    let house = House::new();
    for above in [400, 200, 0] {
        house.sql(&format!("UPDATE item SET note = randomblob(200) WHERE id > {above}"));
        house.ok(&["backup"]);
    }
    let first = house.snapshots()[3]["id"].as_str().expect("an id").to_owned();
    house.ok(&["retention", "drop", "shop", &first, "--confirm", "shop"]);
    house.ok(&["retention", "apply", "shop", "--grace", "0", "--confirm", "shop"]);
    house
}

golden!(check_deep_with_a_wrong_answer, questioned(), ["check", "--deep"]);

/// A snapshot that is whole and does not answer as its owner expects.
fn questioned() -> House {
    let house = House::new();
    house.edit("backstay.toml", "[sources.shop]", "[sources.shop]\nsmoke = [\"SELECT count(*) = 7 FROM item\"]");
    house
}

/// Followed once.
fn followed() -> House {
    let house = House::new();
    house.sql("PRAGMA journal_mode=WAL");
    house.ok(&["follow", "--once"]);
    house
}

fn with_standbys() -> House {
    let house = followed();
    for name in ["a.db", "b.db"] {
        house.ok(&["restore", "shop", "--to", name, "--follow", "--once"]);
    }
    house
}

fn broken() -> House {
    let house = House::bare();
    let path = house.path("shop.db");
    let mut bytes = std::fs::read(&path).expect("the database");
    bytes[20 * 4096..21 * 4096].fill(0x5a);
    std::fs::write(path, bytes).expect("written");
    house
}

golden!(rescue, broken(), ["rescue", "shop.db", "--to", "a.db"], ["rescue", "shop.db", "--to", "b.db"]);

fn unprotected() -> House {
    let house = House::bare();
    house.ok(&[&INIT[..], &["--no-backup"]].concat());
    house
}

#[test]
fn init() {
    let (one, two) = (House::bare(), House::bare());
    let dir = |house: &House| std::fs::canonicalize(house.0.path()).expect("the folder").display().to_string();
    let (exit, mut value) = one.json(&INIT);
    steady("", &mut value, &dir(&one));
    let said = steady_human(&two.ok(&INIT), &dir(&two));
    insta::assert_snapshot!("init", format!("exit {exit}\n{value:#}\n--- text\n{said}"));
}

#[test]
fn key_confirm() {
    let house = House::new();
    std::fs::copy(house.path("backstay.key"), house.path("copy.key")).expect("a copy");
    let words = ["repo", "key", "confirm", "--key-file", "copy.key"];
    insta::assert_snapshot!("key_confirm", shown(&house, &words, &words));
}

golden!(key_list, shared(), ["repo", "key", "list"]);
golden!(
    key_remove,
    shared(),
    ["repo", "key", "remove", "ada", "--confirm", "ada"],
    ["repo", "key", "remove", "bob", "--confirm", "bob"]
);
golden!(key_rotate, shared(), ["repo", "key", "rotate"]);
golden!(key_rotate_and_rewrite, shared(), ["repo", "key", "rotate", "--rewrite"]);
golden!(key_kit, House::new(), ["repo", "key", "kit", "--to", "a"], ["repo", "key", "kit", "--to", "b"]);
golden!(key_export, House::new(), ["repo", "key", "export", "--to", "a"], ["repo", "key", "export", "--to", "b"]);
golden!(audit_perms, House::new(), ["repo", "audit-perms"]);
golden!(
    enroll_request,
    House::new(),
    ["repo", "enroll", "--request", "--role", "writer", "--name", "db-2", "--key-file", "a.key"],
    ["repo", "enroll", "--request", "--role", "writer,reader", "--name", "db-3", "--key-file", "b.key"]
);
golden!(
    enroll_accept,
    asked(),
    ["repo", "enroll", "--accept", "db-2.request", "--roles", "writer"],
    ["repo", "enroll", "--accept", "db-3.request", "--roles", "writer,reader"]
);
golden!(signer_list, enrolled(), ["repo", "signer", "list"]);
golden!(
    signer_remove,
    enrolled(),
    ["repo", "signer", "remove", "db-2", "--confirm", "db-2"],
    ["repo", "signer", "remove", "db-3", "--confirm", "db-3"]
);
golden!(audit, enrolled(), ["audit"]);
golden!(source_join_request, House::new(), ["source", "join", "shop", "--request"]);
golden!(mend, House::new(), ["repo", "mend"]);

/// Two people can read.
fn shared() -> House {
    let house = House::new();
    for name in ["ada", "bob"] {
        house.ok(&["repo", "key", "add", &recipient(), "--name", name]);
    }
    house
}

/// The public half of a fresh identity of the stock program's.
fn recipient() -> String {
    let made = std::process::Command::new("age-keygen").output().expect("age-keygen; `./test` installs it");
    let text = String::from_utf8(made.stdout).expect("text");
    text.lines().find_map(|line| line.strip_prefix("# public key: ")).expect("a recipient").to_owned()
}

/// Two hosts have asked to be enrolled.
fn asked() -> House {
    let house = House::new();
    for (name, role) in [("db-2", "writer"), ("db-3", "writer,reader")] {
        let key = format!("{name}.key");
        house.ok(&["repo", "enroll", "--request", "--role", role, "--name", name, "--key-file", &key]);
    }
    house
}

fn enrolled() -> House {
    let house = asked();
    for (request, roles) in [("db-2.request", "writer"), ("db-3.request", "writer,reader")] {
        house.ok(&["repo", "enroll", "--accept", request, "--roles", roles]);
    }
    house
}

/// `repo key rewrite` has something to do once.
#[test]
fn key_rewrite() {
    let (one, two) = (shared(), shared());
    for house in [&one, &two] {
        house.ok(&["repo", "key", "rotate"]);
    }
    let dir = |house: &House| std::fs::canonicalize(house.0.path()).expect("the folder").display().to_string();
    let (exit, mut value) = one.json(&["repo", "key", "rewrite"]);
    steady("", &mut value, &dir(&one));
    let said = steady_human(&two.ok(&["repo", "key", "rewrite"]), &dir(&two));
    insta::assert_snapshot!("key_rewrite", format!("exit {exit}\n{value:#}\n--- text\n{said}"));
}

#[test]
fn key_add() {
    let house = shared();
    let (one, two) = (recipient(), recipient());
    let words = ["repo", "key", "add", &one, "--name", "eve"];
    let human = ["repo", "key", "add", &two, "--name", "dan"];
    insta::assert_snapshot!("key_add", shown(&house, &words, &human));
}

/// The words in backticks of a page, outside its blocks: field names among them.
fn documented(text: &str) -> std::collections::BTreeSet<String> {
    let outside: String = text.split("```").step_by(2).collect();
    let quoted = outside.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(" ");
    quoted.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).map(str::to_owned).collect()
}

fn fields_of(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            found.insert(name.clone());
            fields_of(value, found);
        }),
        Value::Array(values) => values.iter().for_each(|value| fields_of(value, found)),
        _ => {}
    }
}

/// The reference page had fallen behind by four fields before anyone compared it.
#[test]
fn every_field_that_is_shown_is_in_the_reference() {
    let crate_dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(crate_dir.join("../../docs/reference/json.md")).expect("the page");
    let words = documented(&page);
    let mut goldens = 0;
    for entry in std::fs::read_dir(crate_dir.join("tests/snapshots")).expect("the folder").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a golden");
        let Some(at) = text.find("\n{\n") else { continue };
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        let value = values.next().expect("a value").expect("JSON");
        let mut fields = Default::default();
        fields_of(&value, &mut fields);
        let missing: Vec<_> = fields.difference(&words).collect();
        assert!(
            missing.is_empty(),
            "{} shows {missing:?}, of which docs/reference/json.md is silent",
            entry.path().display()
        );
        // And at the top of a command's value nothing is only mentioned with another command.
        let top = value.as_object().expect("an object").keys();
        let rows = page.lines().filter(|line| line.starts_with("| `") || line.starts_with("`error`")).map(documented);
        let rows: Vec<_> = rows.collect();
        assert!(
            rows.iter()
                .any(|row| top.clone().all(|name| row.contains(name)) || top.clone().all(|name| name == "error")),
            "no row of docs/reference/json.md has {:?}",
            top.collect::<Vec<_>>()
        );
        goldens += 1;
    }
    assert!(goldens >= 15, "only {goldens} goldens were found");
}
