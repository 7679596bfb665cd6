//! Masked copies: nothing of the original is in them, and everything else is.

mod world;

use backstay_model::catalog::Target;
use backstay_model::mask::{Fixed, Profile, Rule};
use backstay_model::{Kind, Kinded};
use backstay_ops::OpsError;
use backstay_ops::env::blocking;
use backstay_ops::mask::{self, MaskRequest, MaskedCopy};
use backstay_ops::query::{Asker, CACHE_USUAL, Reading};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use world::{World, integrity_of};

/// A rule as a test writes it: the words of a profile, or `=text` for a fixed value.
fn profile(strict: bool, empty: &[&str], rules: &[(&str, &str)]) -> Profile {
    let rule = |(column, rule): &(&str, &str)| {
        let (table, column) = column.split_once('.').expect("table.column");
        let rule = match rule.strip_prefix('=') {
            Some(text) => Rule::Fixed(Fixed::Text(text.to_owned())),
            None => rule.parse().expect("a rule"),
        };
        (table.to_owned(), column.to_owned(), Some(rule))
    };
    let empty = empty.iter().map(|name| (*name).to_owned()).collect();
    Profile { strict, empty, rules: rules.iter().map(rule).collect() }
}

async fn masked(world: &World, profile: Profile, secret: Option<&[u8]>, to: &str) -> Result<MaskedCopy, OpsError> {
    let asker = Asker::new(&world.vault, Reading { cache: CACHE_USUAL });
    let past = asker.open(&world::source(), &Target::Latest).await?;
    let request = MaskRequest { profile, secret: secret.map(<[u8]>::to_vec), to: world.dir().join(to) };
    blocking(|| {
        let planned = mask::plan(&past, &request)?;
        mask::perform(&world.vault.env, (&asker, &past), &planned, &request)
    })
}

/// A shop whose every secret is a word of its own, among things of every kind.
async fn shop() -> World {
    let world = World::new().await;
    world.sql(
        "PRAGMA foreign_keys = OFF; PRAGMA page_size = 1024; PRAGMA auto_vacuum = 1; PRAGMA user_version = 41; PRAGMA application_id = 77; PRAGMA journal_mode = WAL;
         CREATE TABLE customer(id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT NOT NULL UNIQUE COLLATE NOCASE CHECK(email LIKE '%@%'),
           name VARCHAR(24), phone TEXT, born TEXT, note BLOB, shout TEXT AS (upper(name)) STORED);
         CREATE TABLE orders(no TEXT PRIMARY KEY, customer INTEGER REFERENCES customer, mail TEXT REFERENCES customer(email), total REAL CHECK(total >= 0)) WITHOUT ROWID;
         CREATE TABLE line(orders TEXT NOT NULL REFERENCES orders(no), item TEXT);
         CREATE TABLE session(token TEXT, who INTEGER REFERENCES customer);
         CREATE TABLE audit(what TEXT);
         CREATE INDEX by_name ON customer(name, shout);
         CREATE UNIQUE INDEX by_phone ON customer(phone) WHERE phone IS NOT NULL;
         CREATE VIEW rich AS SELECT name FROM customer JOIN orders ON customer = id WHERE total > 100;
         CREATE TRIGGER tell AFTER INSERT ON customer BEGIN INSERT INTO audit VALUES ('new ' || new.email); END;
         CREATE VIRTUAL TABLE note USING fts5(title, body);
         CREATE VIRTUAL TABLE names USING fts5(name, content='customer', content_rowid='id');
         CREATE VIRTUAL TABLE place USING rtree(id, x0, x1);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
         INSERT INTO customer(email, name, phone, born, note) SELECT
           CASE WHEN i%2 THEN 'Whispermail' ELSE 'whispermail' END || i || '@whisperhost.example', 'Whispername' || i, '0301whisper' || i, '1970-05-' || printf('%02d', 1+i%28), CAST('whisperblob' || i AS BLOB) FROM n;
         INSERT INTO orders SELECT 'whisperorder' || id, id, lower(email), id FROM customer WHERE id % 3 > 0;
         INSERT INTO line SELECT no, 'whisperitem' || no FROM orders;
         INSERT INTO session SELECT 'whispertoken' || id, id FROM customer;
         INSERT INTO note(rowid, title, body) SELECT id, 'whispertitle' || id, 'whisperbody whisperword' || id FROM customer;
         INSERT INTO names(names) VALUES ('rebuild');
         INSERT INTO place SELECT id, id, id+1 FROM customer;
         DELETE FROM customer WHERE id > 290 AND id % 3 = 0; DELETE FROM session WHERE who NOT IN (SELECT id FROM customer);
         UPDATE customer SET note = 'whisperoverwritten' || id WHERE id < 40; DELETE FROM audit; ANALYZE;",
    );
    world.backup().await.expect("backup");
    world
}

fn rules() -> Profile {
    profile(
        true,
        &["session"],
        &[
            ("customer.id", "hash"),
            ("customer.email", "fake:email"),
            ("customer.name", "fake:name"),
            ("customer.phone", "fake:phone"),
            ("customer.born", "fake:date"),
            ("customer.note", "null"),
            ("orders.no", "hash"),
            ("orders.total", "keep"),
            ("line.item", "=something"),
            ("audit.what", "hash"),
            ("note.title", "fake:text"),
            ("note.body", "hash"),
            ("place.id", "keep"),
            ("place.x0", "keep"),
            ("place.x1", "keep"),
        ],
    )
}

fn ask<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> T {
    let conn = Connection::open(path).expect("open");
    conn.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Every file below a folder but the original, the repository and what belongs to them.
fn files(world: &World) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![world.dir().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.path().is_dir() {
                true if name != "vault" => folders.push(entry.path()),
                false if !name.starts_with("shop.db") => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn has(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle.as_bytes()))
}

/// Every row of the tables that are no search index's own.
fn rows(path: &Path) -> String {
    let conn = Connection::open(path).expect("open");
    let mut text = String::new();
    for table in ["customer", "orders", "line", "session", "note", "place"] {
        let mut statement = conn.prepare(&format!("SELECT * FROM {table}")).expect("a query");
        let width = statement.column_count();
        let mut rows = statement.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            for at in 0..width {
                match row.get_ref(at).expect("a value") {
                    rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                        text.push_str(&String::from_utf8_lossy(bytes));
                    }
                    other => text.push_str(&format!("{other:?}")),
                }
                text.push('|');
            }
        }
    }
    text
}

/// Every text and blob of the original that is not in its schema.
fn originals(world: &World) -> BTreeSet<String> {
    let words: Vec<String> = rows(&world.db()).split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect();
    words.into_iter().filter(|word| word.to_ascii_lowercase().starts_with("whisper")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_what_was_masked_is_in_any_file() {
    let world = shop().await;
    masked(&world, rules(), None, "staging.db").await.expect("a copy");
    let words = originals(&world);
    assert!(words.len() > 1000, "every value but dates and numbers has it: {}", words.len());
    let files = files(&world);
    assert!(files.iter().any(|path| path.ends_with("staging.db")));
    for path in files {
        let bytes = std::fs::read(&path).expect("read");
        for word in ["whisper", "0301w"] {
            assert!(!has(&bytes, word), "{word} is in {}", path.display());
        }
    }
    assert!(has(&std::fs::read(world.db()).expect("read"), "whisper"), "it would be seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_copy_is_the_database_with_other_values() {
    let world = shop().await;
    let copy = masked(&world, rules(), None, "staging.db").await.expect("a copy");
    let (db, to) = (world.db(), copy.to.clone());
    assert_eq!(integrity_of(&to), "ok");
    assert_eq!(ask::<i64>(&to, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    for table in ["customer", "orders", "line", "note", "place", "names"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(ask::<i64>(&to, &count), ask::<i64>(&db, &count), "{table}");
    }
    for emptied in ["session", "audit"] {
        assert_eq!(ask::<i64>(&to, &format!("SELECT count(*) FROM {emptied}")), 0, "no trigger has fired");
    }
    let schema = "SELECT group_concat(type || name || coalesce(sql, ''), char(10)) FROM
                  (SELECT * FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name)";
    assert_eq!(ask::<String>(&to, schema), ask::<String>(&db, schema));
    for pragma in ["page_size", "auto_vacuum", "user_version", "application_id", "journal_mode", "encoding"] {
        let value = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
        assert_eq!(ask::<String>(&to, &value), ask::<String>(&db, &value), "{pragma}");
    }
    // The same rows hang together as before.
    let joined =
        "SELECT group_concat(total, ',') FROM (SELECT total FROM customer JOIN orders ON customer = id AND email = mail
                  JOIN line ON orders = no WHERE born LIKE '1970-%' AND name = replace(name, '  ', '') ORDER BY total)";
    assert_eq!(ask::<String>(&to, joined), ask::<String>(&db, joined));
    assert_eq!(
        ask::<i64>(
            &to,
            "SELECT count(*) FROM customer WHERE shout <> upper(name) OR length(name) > 24 OR note IS NOT NULL"
        ),
        0
    );
    let found = "SELECT count(*) FROM names WHERE names MATCH (SELECT substr(name, 1, 3) || '*' FROM customer LIMIT 1)";
    assert!(ask::<i64>(&to, found) > 0, "the search index was built anew");
    assert_eq!(ask::<String>(&to, "SELECT group_concat(DISTINCT item) FROM line"), "something");
    assert_eq!(ask::<i64>(&to, "SELECT count(*) FROM customer WHERE id < 400"), 0, "numbers are others as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_values_stay_equal_and_the_key_decides_across_copies() {
    let world = shop().await;
    let mut all = Vec::new();
    for (secret, to) in [
        (Some(b"sixteen bytes of".as_slice()), "a.db"),
        (Some(b"sixteen bytes of"), "b.db"),
        (None, "c.db"),
        (None, "d.db"),
    ] {
        let copy = masked(&world, rules(), secret, to).await.expect("a copy");
        assert_eq!(copy.keyed, secret.is_some());
        all.push(rows(&copy.to));
    }
    assert!(all[0] == all[1], "with one key two copies are alike");
    assert!(all[0] != all[2] && all[2] != all[3], "without one each has its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_does_not_fit_leaves_no_file() {
    let world = shop().await;
    let with = |column: &str, rule: &str| {
        let mut all = rules();
        all.rules.retain(|(table, name, _)| format!("{table}.{name}") != column);
        all.rules.extend(profile(true, &[], &[(column, rule)]).rules);
        all
    };
    let mut open = rules();
    open.rules.retain(|(_, column, _)| column != "born" && column != "title");
    let not_emptied = Profile { empty: Vec::new(), ..rules() };
    let all = [
        (open, Kind::Usage, "nobody classified customer.born, note.title"),
        (not_emptied, Kind::Usage, "nobody classified session.token"),
        (with("orders.mail", "hash"), Kind::Usage, "need one rule"),
        (with("customer.email", "hash"), Kind::Conflict, "CHECK constraint failed"),
        (with("customer.phone", "=0"), Kind::Conflict, "UNIQUE constraint failed"),
        (with("orders.total", "=-1"), Kind::Conflict, "CHECK constraint failed"),
    ];
    for (profile, kind, words) in all {
        let error = masked(&world, profile, None, "staging.db").await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let left: Vec<PathBuf> =
            files(&world).into_iter().filter(|path| path.to_string_lossy().contains("staging")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    masked(&world, rules(), None, "staging.db").await.expect("and then it does");
    let error = masked(&world, rules(), None, "staging.db").await.expect_err("never twice");
    assert!(matches!(error, OpsError::TargetExists { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_that_were_broken_before_are_told_and_others_refused() {
    let world = World::new().await;
    world.sql(
        "PRAGMA foreign_keys = OFF; CREATE TABLE p(k TEXT PRIMARY KEY COLLATE NOCASE); CREATE TABLE c(k REFERENCES p);
         INSERT INTO p VALUES ('a'), ('5'), ('b'); INSERT INTO c VALUES ('A'), (NULL), ('5'), ('nowhere');",
    );
    world.backup().await.expect("backup");
    let copy = masked(&world, profile(true, &[], &[("p.k", "hash")]), None, "a.db").await.expect("a copy");
    assert_eq!(copy.broken_before.into_iter().collect::<Vec<_>>(), [("c".to_owned(), 1)]);
    let error = masked(&world, profile(true, &["p"], &[("c.k", "keep")]), None, "b.db").await.expect_err("refused");
    assert!(matches!(&error, OpsError::MaskBreaks { tables } if tables == &["c"]), "{error}");
    assert!(!world.dir().join("b.db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_encoding_and_odd_name_is_masked() {
    for encoding in ["UTF-16le", "UTF-16be"] {
        let world = World::new().await;
        world.sql(&format!(
            "PRAGMA encoding = '{encoding}';
             CREATE TABLE \"odd \"\"table\"(\"a b\" TEXT, rowid TEXT, \"select\" INTEGER, _rowid_ REAL);
             INSERT INTO \"odd \"\"table\" VALUES ('gr\u{fc}n', 'x', -7, -0.5), (NULL, '', 9223372036854775807, 1e300);
             CREATE TABLE heap(x); INSERT INTO heap(rowid, x) VALUES (7, 'secret'), (9, x'736563726574');"
        ));
        world.backup().await.expect("backup");
        let rules = [
            ("odd \"table.a b", "hash"),
            ("odd \"table.rowid", "hash"),
            ("odd \"table.select", "hash"),
            ("odd \"table._rowid_", "hash"),
            ("heap.x", "hash"),
        ];
        let copy = masked(&world, profile(true, &[], &rules), None, "a.db").await.expect("a copy");
        assert_eq!(ask::<String>(&copy.to, "SELECT group_concat(rowid || typeof(x), ' ') FROM heap"), "7text 9blob");
        let kinds = "SELECT group_concat(typeof(\"a b\") || typeof(rowid) || (\"select\" < 0) || (_rowid_ < 0), ' ') FROM \"odd \"\"table\"";
        assert_eq!(ask::<String>(&copy.to, kinds), "texttext11 nulltext00");
        assert_eq!(ask::<String>(&copy.to, "PRAGMA encoding"), encoding);
        let odd = copy.report.tables.iter().find(|table| table.table.starts_with("odd")).expect("reported");
        let counts: Vec<(u64, u64)> = odd.columns.iter().map(|column| (column.masked, column.kept)).collect();
        assert_eq!((odd.rows, counts), (2, vec![(1, 1), (1, 1), (2, 0), (2, 0)]));
    }
}
