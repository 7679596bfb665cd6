//! Rows of two moments compared, and brought back into a living database.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{Kind, Kinded};
use backstay_ops::OpsError;
use backstay_ops::env::blocking;
use backstay_ops::query::{Asker, CACHE_USUAL, Past, Reading};
use backstay_ops::rows::{self, BackReport, BackRequest, ShiftKind, WhenRequest};
use backstay_sqlite::SqliteError;
use backstay_sqlite::lazy::{Go, Value};
use backstay_sqlite::rows::{BringRequest, Change, OnConflict};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use world::{World, source};

fn asker(world: &World) -> Asker<'_> {
    Asker::new(&world.vault, Reading { cache: CACHE_USUAL })
}

async fn open(asker: &Asker<'_>, target: Target) -> Past {
    asker.open(&source(), &target).await.expect("the moment opens")
}

async fn restored(world: &World, target: Target) -> PathBuf {
    let to = (0..).map(|n| world.dir().join(format!("restored-{n}.db"))).find(|path| !path.exists()).expect("a name");
    world.restore(target, &to).await.expect("restore");
    to
}

/// The schema, and every row of every table with its rowid where that tells rows apart.
fn dump(path: &Path) -> BTreeSet<String> {
    let conn = Connection::open(path).expect("open");
    let list = |sql: &str| -> Vec<(String, String)> {
        let mut statement = conn.prepare(sql).expect("a query");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
        rows.map(|row| row.expect("a row")).collect()
    };
    let mut all: BTreeSet<String> = BTreeSet::new();
    for (name, sql) in list("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'") {
        all.insert(format!("{name}: {sql}"));
    }
    for (table, sql) in list("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'") {
        let columns = if sql.contains("/* rowid */") { "rowid, *" } else { "*" };
        let mut statement =
            conn.prepare(&format!("SELECT {columns} FROM \"{}\"", table.replace('"', "\"\""))).expect("a query");
        let width = statement.column_count();
        let mut rows = statement.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let values: Vec<_> = (0..width).map(|at| row.get_ref(at).expect("a value")).collect();
            all.insert(format!("{table} {values:?}"));
        }
    }
    all
}

/// Tables of every kind that rows are told apart by.
fn zoo(world: &World, encoding: &str) {
    world.sql(&format!(
        "PRAGMA encoding='{encoding}'; PRAGMA journal_mode=WAL;
         CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL, note BLOB,
           twice REAL GENERATED ALWAYS AS (price * 2) VIRTUAL, kept TEXT AS (upper(name)) STORED);
         CREATE INDEX item_price ON item(price);
         CREATE TABLE pair(a TEXT, b INTEGER, n, PRIMARY KEY(a, b)) WITHOUT ROWID;
         CREATE TABLE word(w TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER);
         CREATE TABLE heap(x, y) /* rowid */;
         CREATE TABLE \"odd \"\"name\"(\"a b\" INTEGER PRIMARY KEY, \"select\" TEXT);
         CREATE TABLE audit(id INTEGER PRIMARY KEY, what TEXT);
         CREATE TRIGGER item_gone AFTER DELETE ON item BEGIN INSERT INTO audit(what) VALUES ('gone ' || old.id); END;
         CREATE TRIGGER item_new AFTER INSERT ON item BEGIN INSERT INTO audit(what) VALUES ('new ' || new.id); END;
         CREATE VIEW dear AS SELECT id FROM item WHERE price > 500;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<800)
         INSERT INTO item(id, name, price, note) SELECT i*3, 'it''em ' || i || char(233, 0x1f600), i*1.5, CASE WHEN i%4=0 THEN randomblob(i*7) END FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400)
         INSERT INTO pair SELECT char(97+i%26, 0xff5e - i), i%13, CASE i%5 WHEN 0 THEN NULL WHEN 1 THEN i WHEN 2 THEN i*0.1 WHEN 3 THEN 't'||i ELSE x'00ff' END FROM n;
         INSERT INTO word VALUES ('Apple', 1), ('pear', 2), ('Zebra', 3), ('\u{e9}t\u{e9}', 4);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) INSERT INTO heap SELECT i%7, NULL FROM n;
         INSERT INTO \"odd \"\"name\" VALUES (1, 'x'), (2, NULL);"
    ));
}

fn changes() -> [&'static str; 4] {
    [
        "UPDATE item SET price = -price WHERE id % 7 = 0; DELETE FROM item WHERE id BETWEEN 600 AND 660;
         INSERT INTO item(id, name, price) VALUES (5, 'five', 9e999), (100000, 'last', -0.0);
         DELETE FROM heap WHERE rowid % 9 = 0; INSERT INTO heap VALUES ('new', x'01'); UPDATE heap SET y = 1 WHERE rowid = 4;",
        "UPDATE item SET name = 'swap' WHERE id = 3; UPDATE item SET name = (SELECT name FROM item WHERE id = 6) || '!' WHERE id = 9;
         UPDATE pair SET n = n || 'x' WHERE b = 4; DELETE FROM pair WHERE b = 5; INSERT INTO pair VALUES ('a', -1, 1.0);
         DELETE FROM word WHERE w = 'apple'; INSERT INTO word VALUES ('apple', 1); UPDATE \"odd \"\"name\" SET \"select\" = 'it''s' WHERE \"a b\" = 1;",
        "BEGIN; UPDATE item SET name = 'tmp' WHERE id = 12; UPDATE item SET name = 'was 12' WHERE id = 15; UPDATE item SET name = 'was 15' WHERE id = 12; COMMIT;
         ALTER TABLE word ADD COLUMN extra TEXT DEFAULT 'e'; CREATE TABLE fresh(k PRIMARY KEY, v); INSERT INTO fresh VALUES (1, 2), ('1', 3);
         DROP INDEX item_price; CREATE INDEX item_price ON item(price, id); DROP VIEW dear; CREATE VIEW dear AS SELECT id FROM item WHERE price > 700;",
        "DROP TABLE pair; CREATE TABLE pair(a TEXT, b INTEGER, n, PRIMARY KEY(b, a)); INSERT INTO pair VALUES ('p', 1, 2), (NULL, NULL, 3), (NULL, NULL, 4);
         DROP TRIGGER item_gone; DROP TABLE fresh; DELETE FROM heap; VACUUM;",
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_turn_any_moment_into_any_other() {
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let world = World::new().await;
        zoo(&world, encoding);
        let mut moments = vec![world.backup().await.expect("backup").snapshot];
        for sql in changes() {
            world.sql(sql);
            moments.push(world.backup().await.expect("backup").snapshot);
        }
        let asker = asker(&world);
        let mut all = Vec::new();
        for id in &moments {
            let target = Target::Id(id.to_string());
            let file = restored(&world, target.clone()).await;
            all.push((open(&asker, target).await, dump(&file), file));
        }
        for (from, to) in (0..all.len()).flat_map(|a| (0..5).map(move |b| (a, b))) {
            let mut text = String::new();
            let pair = (&all[from].0, &all[to].0);
            blocking(|| {
                rows::script(pair, None, asker.stop(), &mut |sql| {
                    text.push_str(sql);
                    text.push('\n');
                    Go::On
                })
            })
            .expect("statements");
            let copy = world.dir().join("turned.db");
            std::fs::copy(&all[from].2, &copy).expect("copied");
            let conn = Connection::open(&copy).expect("open");
            conn.execute_batch(&text).unwrap_or_else(|error| panic!("{encoding} {from} -> {to}: {error}"));
            drop(conn);
            let (found, wanted) = (dump(&copy), &all[to].1);
            let odd: Vec<_> = found.symmetric_difference(wanted).take(6).collect();
            assert!(odd.is_empty(), "{encoding} {from} -> {to}: {odd:#?}");
            let report = blocking(|| rows::diff(pair, None, asker.stop(), &mut |_, _| Go::On)).expect("a report");
            assert_eq!(report.is_same(), from == to, "{from} -> {to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_names_every_row_that_differs_and_no_other() {
    let world = World::new().await;
    zoo(&world, "UTF-8");
    let first = world.backup().await.expect("backup").snapshot;
    world.sql("UPDATE item SET price = 1 WHERE id IN (30, 33); DELETE FROM item WHERE id IN (36, 2400); INSERT INTO item(id, name) VALUES (1, 'one')");
    world.backup().await.expect("backup");
    let asker = asker(&world);
    let (from, to) = (open(&asker, Target::Id(first.to_string())).await, open(&asker, Target::Latest).await);
    let mut seen = Vec::new();
    let report = blocking(|| {
        rows::diff((&from, &to), Some("ITEM"), asker.stop(), &mut |compared, change| {
            assert_eq!(compared.columns[..2], ["id", "id"]);
            seen.push(match change {
                Change::Added(row) => ('+', row[0].clone()),
                Change::Removed(row) => ('-', row[0].clone()),
                Change::Changed { before, after } => {
                    assert_ne!(before, after);
                    ('~', after[0].clone())
                }
            });
            Go::On
        })
    })
    .expect("a report");
    let wanted = [('+', 1), ('~', 30), ('~', 33), ('-', 36), ('-', 2400)].map(|(c, n)| (c, Value::Integer(n)));
    assert_eq!(seen, wanted);
    let counts = report.tables[0].counts;
    assert_eq!((counts.added, counts.removed, counts.changed), (1, 2, 2));
    let none = blocking(|| rows::diff((&from, &to), Some("nothing"), asker.stop(), &mut |_, _| Go::On));
    assert!(matches!(none, Err(OpsError::Sqlite(SqliteError::NoTable { .. }))));
}

/// Keys that are merged in another order than SQLite's come out as a row that went and the same row that came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_text_meet_in_every_encoding() {
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let world = World::new().await;
        zoo(&world, encoding);
        let first = world.backup().await.expect("backup").snapshot;
        world.sql("DELETE FROM pair WHERE b = 5; UPDATE pair SET n = 'changed' WHERE b = 4; INSERT INTO pair VALUES ('\u{ff5e}', -1, 1)");
        world.backup().await.expect("backup");
        let asker = asker(&world);
        let (from, to) = (open(&asker, Target::Id(first.to_string())).await, open(&asker, Target::Latest).await);
        let report = blocking(|| rows::diff((&from, &to), Some("pair"), asker.stop(), &mut |_, _| Go::On));
        let counts = report.expect("a report").tables[0].counts;
        let found = (counts.added, counts.removed, counts.changed, counts.same);
        assert_eq!(found, (1, 31, 31, Some(338)), "{encoding}");
    }
}

/// A shop whose references must hold.
async fn shop() -> World {
    let world = World::new().await;
    world.sql(
        "PRAGMA journal_mode=WAL;
         CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT UNIQUE);
         CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer(id) ON DELETE CASCADE, cents INTEGER);
         CREATE TABLE seen(what TEXT);
         CREATE INDEX purchase_customer ON purchase(customer);
         CREATE TRIGGER purchase_seen AFTER INSERT ON purchase BEGIN INSERT INTO seen VALUES ('purchase ' || new.id); END;
         CREATE TRIGGER purchase_set AFTER UPDATE ON purchase BEGIN INSERT INTO seen VALUES ('set ' || new.id); END;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50) INSERT INTO customer SELECT i, 'c' || i, i || '@x' FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO purchase SELECT i, 1+i%50, i*100 FROM n;
         DELETE FROM seen;",
    );
    world.backup().await.expect("backup");
    world
}

fn request(table: &str, on_conflict: OnConflict) -> BringRequest {
    BringRequest { table: table.into(), condition: None, rename: None, on_conflict, fire_triggers: false }
}

async fn bring(world: &World, rows: BringRequest) -> Result<BackReport, OpsError> {
    let asker = asker(world);
    let past = open(&asker, Target::Latest).await;
    let request = BackRequest { rows, live: world.db(), source: world.db(), busy: Duration::from_secs(2) };
    blocking(|| {
        let plan = rows::look(&asker, &past, &request)?;
        rows::into_live(&world.vault.env, &asker, &plan, &request)
    })
}

/// As a person does it.
fn undo(world: &World, report: &BackReport) {
    assert!(undone(world, report), "undone");
    std::fs::remove_file(&report.undo).expect("removed");
}

fn undone(world: &World, report: &BackReport) -> bool {
    shell(world, &report.undo)
}

/// Runs a file of statements as people do. Says whether it went well.
fn shell(world: &World, file: &Path) -> bool {
    let statements = std::fs::File::open(file).expect("the file");
    let ran = std::process::Command::new("sqlite3").arg(world.db()).stdin(statements).output();
    let ran = ran.expect("sqlite3 runs; `./test` installs what is missing");
    println!("{}", String::from_utf8_lossy(&ran.stderr));
    ran.status.success()
}

fn broken_references(world: &World) -> usize {
    let conn = Connection::open(world.db()).expect("open");
    let mut statement = conn.prepare("PRAGMA foreign_key_check").expect("a check");
    statement.query_map([], |_| Ok(())).expect("rows").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_back_the_rest_is_untouched_and_it_can_be_undone() {
    let world = shop().await;
    let before = dump(&world.db());
    world.sql("UPDATE purchase SET cents = 0 WHERE id > 100; DELETE FROM purchase WHERE id BETWEEN 20 AND 30;
               INSERT INTO purchase VALUES (9000, 1, 5); INSERT INTO customer VALUES (51, 'new', 'n@x'); DELETE FROM seen");
    let bad = dump(&world.db());
    let refused = bring(&world, request("purchase", OnConflict::Fail)).await.err().expect("a conflict");
    assert!(matches!(&refused, OpsError::Sqlite(SqliteError::Conflict { key, .. }) if key == "101"), "{refused}");
    assert!(dump(&world.db()) == bad, "nothing was changed");
    let skipped = bring(&world, request("purchase", OnConflict::Skip)).await.expect("brought");
    assert_eq!((skipped.report.inserted, skipped.report.skipped, skipped.report.replaced), (11, 400, 0));
    undo(&world, &skipped);
    assert!(dump(&world.db()) == bad, "undone");
    let done = bring(&world, request("purchase", OnConflict::Replace)).await.expect("brought");
    assert_eq!((done.report.inserted, done.report.replaced, done.report.same), (11, 400, 89));
    let after = dump(&world.db());
    let new: BTreeSet<_> = after.difference(&before).cloned().collect();
    assert_eq!(new.len(), 2, "the purchase and the customer that came later, and no trigger fired: {new:?}");
    assert!(before.is_subset(&after));
    assert_eq!(broken_references(&world), 0);
    undo(&world, &done);
    assert!(dump(&world.db()) == bad, "undone");
    let some = BringRequest {
        condition: Some("id BETWEEN 25 AND 27 OR customer = 7".into()),
        ..request("purchase", OnConflict::Replace)
    };
    let done = bring(&world, some).await.expect("brought");
    assert_eq!((done.report.inserted, done.report.replaced), (3, 8));
    undo(&world, &done);
    let loud = BringRequest {
        fire_triggers: true,
        condition: Some("id = 25 OR id = 300".into()),
        ..request("purchase", OnConflict::Replace)
    };
    bring(&world, loud).await.expect("brought");
    let seen = dump(&world.db()).into_iter().filter(|line| line.starts_with("seen [")).count();
    assert_eq!(seen, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_conflict_is_refused_also_when_it_came_after_the_preview() {
    let world = shop().await;
    world.sql("DELETE FROM purchase WHERE id = 8");
    let asker = asker(&world);
    let past = open(&asker, Target::Latest).await;
    let request = BackRequest {
        rows: request("purchase", OnConflict::Fail),
        live: world.db(),
        source: world.db(),
        busy: Duration::from_secs(2),
    };
    blocking(|| {
        let plan = rows::look(&asker, &past, &request).expect("no conflict yet");
        assert_eq!((plan.preview.new, plan.preview.same, plan.preview.conflicts), (1, 499, 0));
        world.sql("UPDATE purchase SET cents = 1 WHERE id = 400");
        let bad = dump(&world.db());
        let refused = rows::into_live(&world.vault.env, &asker, &plan, &request).err().expect("refused");
        assert!(matches!(&refused, OpsError::Sqlite(SqliteError::Conflict { key, .. }) if key == "400"), "{refused}");
        assert!(dump(&world.db()) == bad, "nothing was changed");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_that_would_break_and_unique_values_in_the_way_are_refused() {
    let world = shop().await;
    world.sql("PRAGMA foreign_keys=ON; DELETE FROM customer WHERE id = 7");
    let bad = dump(&world.db());
    let refused = bring(&world, request("purchase", OnConflict::Replace)).await.err().expect("refused");
    assert!(
        matches!(&refused, OpsError::Sqlite(SqliteError::References { tables }) if tables == &["purchase"]),
        "{refused}"
    );
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(dump(&world.db()) == bad, "nothing was changed");
    let left: Vec<_> = std::fs::read_dir(world.dir()).expect("folder").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("undo")), "{left:?}");
    // The customer first, then what refers to it.
    bring(&world, request("customer", OnConflict::Fail)).await.expect("brought");
    let done = bring(&world, request("purchase", OnConflict::Fail)).await.expect("brought");
    assert_eq!((done.report.inserted, broken_references(&world)), (10, 0));
    world.sql("DELETE FROM purchase WHERE customer = 9; DELETE FROM customer WHERE id = 9; INSERT INTO customer VALUES (900, 'c', '9@x')");
    let bad = dump(&world.db());
    let refused = bring(&world, request("customer", OnConflict::Replace)).await.err().expect("refused");
    assert!(refused.to_string().contains("unique value"), "{refused}");
    assert!(dump(&world.db()) == bad, "nothing was changed");
    let skipped = bring(&world, request("customer", OnConflict::Skip)).await.expect("brought");
    assert_eq!((skipped.report.inserted, skipped.report.skipped, skipped.report.same), (0, 1, 49));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_change_another_row_than_the_one_meant_is_refused() {
    let world = World::new().await;
    world.sql(
        "PRAGMA journal_mode=WAL;
         CREATE TABLE t(a INTEGER PRIMARY KEY, b INTEGER, x); INSERT INTO t VALUES (1, 10, 'then');
         CREATE TABLE greedy(id INTEGER PRIMARY KEY, n TEXT UNIQUE ON CONFLICT REPLACE); INSERT INTO greedy VALUES (1, 'a'), (3, 'c');
         CREATE TABLE mute(id INTEGER PRIMARY KEY, n TEXT); INSERT INTO mute VALUES (1, 'a');
         CREATE TABLE heap(x); INSERT INTO heap VALUES ('a')",
    );
    world.backup().await.expect("backup");
    world.sql(
        "DROP TABLE t; CREATE TABLE t(a INTEGER, b INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 10, 'ten'), (1, 20, 'twenty');
         UPDATE greedy SET n = 'b' WHERE id = 1; INSERT INTO greedy VALUES (2, 'a'); DELETE FROM greedy WHERE id = 3; INSERT INTO greedy VALUES (4, 'c');
         UPDATE mute SET n = 'b'; CREATE TRIGGER hush BEFORE UPDATE ON mute BEGIN SELECT RAISE(IGNORE); END;
         UPDATE heap SET x = 'b'",
    );
    let bad = dump(&world.db());
    let refused = bring(&world, request("t", OnConflict::Replace)).await.err().expect("another key");
    let OpsError::Sqlite(SqliteError::KeyDiffers { then, today, .. }) = &refused else { panic!("{refused}") };
    assert_eq!((then.as_str(), today.as_str()), ("a", "b"));
    for condition in ["id = 1", "id = 3"] {
        let some = BringRequest { condition: Some(condition.into()), ..request("greedy", OnConflict::Replace) };
        let refused = bring(&world, some).await.err().expect("a unique value in the way");
        assert!(refused.to_string().contains("unique value"), "{refused}");
    }
    let loud = BringRequest { fire_triggers: true, ..request("mute", OnConflict::Replace) };
    let refused = bring(&world, loud).await.err().expect("nothing was written");
    assert!(refused.to_string().contains("as one row"), "{refused}");
    assert!(dump(&world.db()) == bad, "nothing was changed");
    let asker = asker(&world);
    let past = open(&asker, Target::Latest).await;
    for (table, by_rowid) in [("heap", true), ("mute", false)] {
        let rows = request(table, OnConflict::Replace);
        let request = BackRequest { source: world.db(), rows, live: world.db(), busy: Duration::from_secs(2) };
        let plan = blocking(|| rows::look(&asker, &past, &request)).expect("a plan");
        assert_eq!(plan.preview.by_rowid, by_rowid, "{table}");
    }
}

/// A value that must be unique goes from one row to another, and more rows than are held in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_undoes_it_leads_back_the_way_it_came_or_changes_nothing() {
    let world = World::new().await;
    world.sql(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE, x); CREATE TABLE seen(what);
         CREATE TRIGGER told AFTER UPDATE ON t BEGIN INSERT INTO seen VALUES (new.id); END;
         INSERT INTO t VALUES (1, 'b', NULL), (2, 'a', NULL);
         WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i+1 FROM n WHERE i<4000) INSERT INTO t SELECT i, 'then ' || i, 'then' FROM n",
    );
    world.backup().await.expect("backup");
    world.sql(
        "DELETE FROM t WHERE id = 2; UPDATE t SET u = 'a' WHERE id = 1; DELETE FROM t WHERE id % 3 = 0;
         UPDATE t SET u = 'then ' || (id + 2), x = hex(zeroblob(200)) WHERE id % 3 = 1 AND id > 3; DELETE FROM seen",
    );
    let bad = dump(&world.db());
    let done = bring(&world, request("t", OnConflict::Replace)).await.expect("brought");
    assert_eq!((done.report.replaced, done.report.inserted), (1 + 1333, 1 + 1333));
    assert!(std::fs::metadata(&done.undo).expect("there").len() > 600_000, "several batches");
    let left = std::fs::read_dir(world.dir()).expect("folder").flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
    let good = dump(&world.db());
    // Somebody has taken one of the values meanwhile: all of it or nothing.
    world.sql("INSERT INTO t VALUES (9000, 'a new one', 0); UPDATE t SET u = 'gone' WHERE id = 2; UPDATE t SET u = 'a' WHERE id = 9000");
    let taken = dump(&world.db());
    assert!(!undone(&world, &done), "it says so");
    assert!(dump(&world.db()) == taken, "nothing was undone");
    world.sql("DELETE FROM t WHERE id = 9000; UPDATE t SET u = 'a' WHERE id = 2; DELETE FROM seen");
    assert!(taken != good && dump(&world.db()) == good);
    undo(&world, &done);
    let odd: Vec<_> = dump(&world.db()).symmetric_difference(&bad).take(5).cloned().collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_is_made_again_or_under_another_name() {
    let world = shop().await;
    let before = dump(&world.db());
    let renamed = BringRequest { rename: Some("old purchases".into()), ..request("purchase", OnConflict::Fail) };
    let done = bring(&world, renamed.clone()).await.expect("brought");
    assert_eq!((done.report.created, done.report.inserted), (true, 500));
    let rows = Connection::open(world.db()).expect("open");
    let same = "SELECT count(*) FROM purchase p JOIN \"old purchases\" o USING(id, customer, cents)";
    assert_eq!(rows.query_row(same, [], |row| row.get::<_, i64>(0)).expect("a count"), 500);
    drop(rows);
    let taken = bring(&world, renamed).await.err().expect("taken");
    assert!(matches!(taken, OpsError::Sqlite(SqliteError::TableTaken { .. })), "{taken}");
    undo(&world, &done);
    assert!(dump(&world.db()) == before, "undone");
    world.sql("DROP TABLE purchase");
    let gone = dump(&world.db());
    let done = bring(&world, request("purchase", OnConflict::Fail)).await.expect("brought");
    assert!(done.report.created && dump(&world.db()) == before, "table, index, triggers and rows");
    undo(&world, &done);
    assert!(dump(&world.db()) == gone, "undone");
    // A column that came later keeps its default; one that is missing is named.
    bring(&world, request("purchase", OnConflict::Fail)).await.expect("brought");
    world.sql("ALTER TABLE purchase ADD COLUMN state TEXT DEFAULT 'open'; DELETE FROM purchase WHERE id < 10");
    let done = bring(&world, request("purchase", OnConflict::Fail)).await.expect("brought");
    assert_eq!(done.report.inserted, 9);
    world.sql("ALTER TABLE purchase DROP COLUMN cents");
    let refused = bring(&world, request("purchase", OnConflict::Skip)).await.err().expect("refused");
    assert!(refused.to_string().contains("lacks cents"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_table_comes_back_and_as_statements_too() {
    for encoding in ["UTF-8", "UTF-16le"] {
        let world = World::new().await;
        zoo(&world, encoding);
        world.backup().await.expect("backup");
        let before = dump(&world.db());
        world.sql("DELETE FROM pair WHERE b < 6; UPDATE pair SET n = 'bad'; DELETE FROM heap WHERE rowid < 50; UPDATE heap SET x = 'bad' WHERE rowid > 90;
                   UPDATE word SET n = 9; DELETE FROM word WHERE w = 'pear'; UPDATE \"odd \"\"name\" SET \"select\" = 'bad'; DROP TRIGGER item_gone;
                   DELETE FROM item WHERE id % 2 = 0; UPDATE item SET note = zeroblob(3) WHERE id > 1000; DELETE FROM audit WHERE what LIKE 'gone%'");
        let bad = dump(&world.db());
        let mut undos = Vec::new();
        for table in ["pair", "heap", "word", "odd \"name", "item"] {
            undos.push(
                bring(&world, request(table, OnConflict::Replace)).await.unwrap_or_else(|e| panic!("{table}: {e}")),
            );
            // The name of the file has the time in it.
            std::thread::sleep(Duration::from_millis(5));
        }
        let gone: Vec<_> = before.difference(&dump(&world.db())).cloned().collect();
        assert_eq!(gone.len(), 1, "only the trigger: {gone:?}");
        undos.iter().rev().for_each(|done| undo(&world, done));
        assert!(dump(&world.db()) == bad, "{encoding}: undone");
        let asker = asker(&world);
        let past = open(&asker, Target::Latest).await;
        let to = world.dir().join("pair.sql");
        let rows = request("pair", OnConflict::Replace);
        let count = blocking(|| rows::to_sql(&world.vault.env, &asker, &past, (&rows, &to))).expect("written");
        assert!(shell(&world, &to));
        let pairs = |dump: &BTreeSet<String>| {
            dump.iter().filter(|line| line.starts_with("pair [")).cloned().collect::<Vec<_>>()
        };
        assert_eq!((pairs(&dump(&world.db())), count as usize), (pairs(&before), pairs(&before).len()));
        let again = blocking(|| rows::to_sql(&world.vault.env, &asker, &past, (&rows, &to)));
        assert!(matches!(again, Err(OpsError::TargetExists { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_moment_an_answer_changed_is_found_by_halving() {
    let world = World::new().await;
    world.sql(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES (1), (2), (3)",
    );
    let mut ids = Vec::new();
    for round in 0..16 {
        match round {
            9 => world.sql("DELETE FROM t WHERE id = 2"),
            13 => world.sql("CREATE TABLE later(x)"),
            _ => world.sql(&format!("INSERT INTO t(x) VALUES ({round})")),
        }
        ids.push(world.backup().await.expect("backup").snapshot);
    }
    let asker = asker(&world);
    let ask = |sql: &str, kind, every| WhenRequest { source: source(), sql: sql.into(), kind, since: None, every };
    let vault = &world.vault;
    let row = rows::when(vault, &asker, &ask("SELECT x FROM t WHERE id = 2", ShiftKind::Changes, false))
        .await
        .expect("found");
    assert_eq!(row.shifts.len(), 1);
    assert_eq!((row.shifts[0].before.point.snapshot, row.shifts[0].after.point.snapshot), (ids[8], ids[9]));
    assert!(row.asked <= 7 && row.points == 16, "{} of {}", row.asked, row.points);
    let later =
        rows::when(vault, &asker, &ask("SELECT count(*) FROM later", ShiftKind::Changes, false)).await.expect("found");
    assert_eq!((later.shifts[0].after.point.snapshot, later.shifts[0].before.answer.is_err()), (ids[13], true));
    // More came than went: the ends alone do not show the drop.
    let hidden =
        rows::when(vault, &asker, &ask("SELECT count(*) FROM t", ShiftKind::Drops, false)).await.expect("asked");
    assert!(hidden.shifts.is_empty() && hidden.asked == 2);
    let drop = rows::when(vault, &asker, &ask("SELECT count(*) FROM t", ShiftKind::Drops, true)).await.expect("asked");
    assert_eq!((drop.shifts.len(), drop.shifts[0].after.point.snapshot, drop.asked), (1, ids[9], 16));
}

/// Rows go into another file only where it is another state of the same database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_has_nothing_in_common_is_refused_and_so_is_another_key() {
    let world = shop().await;
    let other = world.dir().join("other.db");
    let make = |sql: &str| Connection::open(&other).expect("open").execute_batch(sql).expect("sql");
    make("CREATE TABLE visit(id INTEGER PRIMARY KEY, page TEXT)");
    let asker = asker(&world);
    let past = open(&asker, Target::Latest).await;
    let look = || {
        let rows = request("purchase", OnConflict::Fail);
        let request = BackRequest { rows, live: other.clone(), source: world.db(), busy: Duration::from_secs(2) };
        blocking(|| rows::look(&asker, &past, &request).map(|plan| plan.preview.new))
    };
    let refused = look().expect_err("a stranger");
    assert!(matches!(refused, OpsError::Sqlite(SqliteError::Stranger { .. })), "{refused}");
    assert_eq!(refused.kind(), Kind::Conflict);
    make("CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, mail TEXT)");
    assert_eq!(look().expect("an empty copy of the shop"), 500);
    make("CREATE TABLE purchase(id INTEGER, customer INTEGER PRIMARY KEY, cents INTEGER)");
    let refused = look().expect_err("rows are told apart otherwise");
    assert_eq!(
        refused.to_string(),
        "the table \"purchase\" tells its rows apart otherwise today: by customer, and by id then"
    );
}
