//! Rows that pages in common say are the same are the same: what is found without reading them is what is found by
//! reading everything, over random databases and random statements.

use backstay_model::PageSize;
use backstay_sqlite::lazy::{Go, PageFault, PageSource, Row, Session};
use backstay_sqlite::rows::{Change, Scope, Scopes, compare_table, narrow, tables_of};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The bytes of a database at a moment, and which pages of them were read.
struct Bytes {
    bytes: Vec<u8>,
    size: usize,
    read: Mutex<BTreeSet<u32>>,
}

impl Bytes {
    fn of(path: &Path) -> Arc<Self> {
        let bytes = std::fs::read(path).expect("read");
        let size = match usize::from(u16::from_be_bytes([bytes[16], bytes[17]])) {
            1 => 65_536,
            size => size,
        };
        Arc::new(Self { bytes, size, read: Mutex::default() })
    }

    fn page(&self, page: u32) -> Option<&[u8]> {
        self.bytes.chunks(self.size).nth(page as usize - 1)
    }

    fn pages_read(&self) -> usize {
        self.read.lock().expect("a lock").len()
    }
}

impl PageSource for Bytes {
    fn page_size(&self) -> PageSize {
        PageSize::try_from(self.size as u32).expect("a page size")
    }
    fn pages(&self) -> u32 {
        (self.bytes.len() / self.size) as u32
    }
    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), PageFault> {
        self.read.lock().expect("a lock").insert(page);
        into.copy_from_slice(self.page(page).expect("a page that is there"));
        Ok(())
    }
    fn at_hand(&self, _: u32) -> Option<Vec<u8>> {
        None
    }
    fn ahead(&self, _: &[u32]) {}
    fn ahead_max(&self) -> usize {
        0
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
    }
}

const TABLES: &str = "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, note BLOB, kind INTEGER);
    CREATE INDEX item_kind ON item(kind, name);
    CREATE TABLE word(w TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER NOT NULL, long TEXT);
    CREATE TABLE heap(x, y);
    CREATE TABLE pair(a TEXT, b INTEGER, n, PRIMARY KEY(a, b DESC)) WITHOUT ROWID;
    CREATE TABLE \"odd rowid\"(rowid TEXT, value, first, last);
    CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, x);";

fn fill(rows: u64) -> String {
    format!(
        "{TABLES}
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         INSERT INTO item SELECT i*3 - 600, printf('item %d', i), CASE i%9 WHEN 0 THEN zeroblob(i%700*7) WHEN 1 THEN NULL ELSE randomblob(i%70) END, i%17 FROM n;
         INSERT OR IGNORE INTO word SELECT name || char(0x100 + id % 7), id, CASE WHEN id % 31 = 0 THEN hex(zeroblob(abs(id) % 900 + 700)) END FROM item;
         INSERT INTO heap SELECT id % 5, name FROM item;
         INSERT INTO pair SELECT name, id, note FROM item;
         INSERT INTO \"odd rowid\" SELECT name, id, NULL, kind FROM item;
         INSERT INTO counted(x) SELECT name FROM item WHERE id % 4 = 0;"
    )
}

fn statement(dice: &mut Dice, rows: u64) -> String {
    let at = dice.roll(rows * 3) as i64 - 600;
    let (n, wide) = (dice.roll(30) as i64, dice.roll(400) as i64);
    match dice.roll(26) {
        0 => format!("UPDATE item SET name = 'set {n}' WHERE id BETWEEN {at} AND {}", at + n),
        1 => format!("DELETE FROM item WHERE id BETWEEN {at} AND {}", at + wide),
        2 => format!("INSERT OR REPLACE INTO item VALUES ({at}, 'new', randomblob({wide}0), {n})"),
        // As long as before: only pages with the rest of the row are written.
        3 => format!("UPDATE item SET note = randomblob(length(note)) WHERE id BETWEEN {at} AND {}", at + wide),
        4 => format!("UPDATE word SET long = replace(long, '00', '{:02}') WHERE n BETWEEN {at} AND {}", n, at + wide),
        5 => format!("UPDATE word SET n = n + 1 WHERE n = {at}"),
        6 => format!("DELETE FROM word WHERE n % 41 = {n}; INSERT OR IGNORE INTO word VALUES ('W{wide}', {n}, NULL)"),
        7 => format!("UPDATE heap SET y = {wide} WHERE rowid % 97 = {n}"),
        8 => format!("INSERT INTO heap SELECT {n}, hex(randomblob({wide})) FROM item LIMIT {n}"),
        9 => format!("UPDATE pair SET n = {wide} WHERE b = {at}"),
        10 => format!("DELETE FROM pair WHERE b BETWEEN {at} AND {}", at + n),
        11 => format!("UPDATE \"odd rowid\" SET value = {n} WHERE last = {}", n % 17),
        12 => format!("INSERT INTO counted(x) VALUES ('{n}'), (zeroblob({wide}00))"),
        13 => format!("DELETE FROM counted WHERE id % 7 = {}", n % 7),
        14 => "DELETE FROM heap".to_owned(),
        15 => format!("CREATE TABLE IF NOT EXISTS extra(k PRIMARY KEY, v); INSERT OR REPLACE INTO extra VALUES ({n}, zeroblob({wide}0)); DELETE FROM extra WHERE k % 3 = 0"),
        16 => "DROP TABLE IF EXISTS extra".to_owned(),
        17 => "ALTER TABLE heap RENAME COLUMN x TO z; ALTER TABLE heap RENAME COLUMN y TO x; ALTER TABLE heap RENAME COLUMN z TO y".to_owned(),
        18 => format!("UPDATE item SET kind = {n} WHERE kind = {}", (n + 1) % 17),
        19 => format!("DELETE FROM item WHERE id > {at}; INSERT INTO item SELECT b, a, n, 1 FROM pair WHERE b > {at} AND b % 2 = 0"),
        20 => format!("UPDATE item SET id = -id - 100000 WHERE id BETWEEN {at} AND {}", at + n),
        21 => format!("INSERT OR REPLACE INTO item VALUES ({}, 'edge', NULL, 0)", if n % 2 == 0 { i64::MAX } else { i64::MIN }),
        22 => "PRAGMA incremental_vacuum(40)".to_owned(),
        23 if n == 0 => "VACUUM".to_owned(),
        _ => format!("UPDATE item SET note = NULL WHERE id = {at}; UPDATE pair SET n = 1 WHERE b = {at}"),
    }
}

type Found = Vec<(String, Vec<(&'static str, Option<Row>, Option<Row>)>)>;

fn compare(before: &Session, after: &Session, scopes: &Scopes) -> Found {
    let tables = tables_of(before, after, None).expect("tables");
    let mut all = Vec::new();
    for compared in tables.common {
        let mut changes = Vec::new();
        let scope = scopes.of(&compared.after.name);
        compare_table((before, after), (&compared, &scope), &|| Go::On, &mut |change| {
            changes.push(match change {
                Change::Added(row) => ("+", None, Some(row)),
                Change::Removed(row) => ("-", Some(row), None),
                Change::Changed { before, after } => ("~", Some(before), Some(after)),
            });
            Go::On
        })
        .expect("compared");
        all.push((compared.after.name, changes));
    }
    all
}

/// The pages that differ, and now and then one that does not.
fn changed(old: &Bytes, new: &Bytes, dice: &mut Dice) -> Vec<u32> {
    let most = old.pages().max(new.pages());
    let both = |page: &u32| old.page(*page) != new.page(*page);
    (1..=most).filter(|page| both(page) || dice.roll(50) == 0).collect()
}

fn is_part(scopes: &Scopes, table: &str) -> bool {
    scopes.of(table) != Scope::All
}

#[test]
fn what_pages_in_common_leave_out_is_the_same_in_both() {
    let (mut narrowed, mut whole) = (0, 0);
    for (seed, encoding, page_size, auto_vacuum) in [
        (1, "UTF-8", 512, 0),
        (2, "UTF-16le", 1024, 1),
        (3, "UTF-16be", 512, 2),
        (4, "UTF-8", 4096, 0),
        (5, "UTF-8", 1024, 1),
        (6, "UTF-8", 512, 0),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let conn = Connection::open(&path).expect("open");
        let rows = 700;
        conn.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA encoding='{encoding}'; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        ))
        .expect("settings");
        conn.execute_batch(&fill(rows)).expect("filled");
        let mut dice = Dice(0x5eed_0100 + seed);
        let mut moments = vec![Bytes::of(&path)];
        for _ in 0..30 {
            for _ in 0..=dice.roll(3) {
                let sql = statement(&mut dice, rows);
                // A value may stand in the way of another by now.
                let _ = conn.execute_batch(&sql);
            }
            moments.push(Bytes::of(&path));
            let new = moments.last().expect("one").clone();
            let far = dice.roll(moments.len() as u64) as usize;
            for old in [moments[moments.len() - 2].clone(), moments[far].clone()] {
                let sessions = [&old, &new].map(|bytes| Session::open(bytes.clone()).expect("a session"));
                let pages = changed(&old, &new, &mut dice);
                let scopes =
                    narrow((&sessions[0], &sessions[1]), (&*old, &*new), &pages, &|| Go::On).expect("narrowed");
                let all = compare(&sessions[0], &sessions[1], &Scopes::all());
                let found = compare(&sessions[0], &sessions[1], &scopes);
                assert!(found == all, "seed {seed}, moment {}: {scopes:?}", moments.len());
                let is_narrow = ["item", "word", "heap", "pair"].iter().any(|table| is_part(&scopes, table));
                let count = if is_narrow { &mut narrowed } else { &mut whole };
                *count += 1;
            }
        }
    }
    assert!(narrowed > whole, "{narrowed} pairs were narrowed, {whole} compared wholly");
}

#[test]
fn ten_rows_in_a_large_table_cost_the_pages_on_their_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.db");
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch("PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF").expect("settings");
    conn.execute_batch(&fill(60_000)).expect("filled");
    let old = Bytes::of(&path);
    conn.execute_batch("UPDATE item SET name = 'changed' WHERE id IN (0, 900, 9000, 30000, 60000, 90000, 120000, 150000, 171000, 179400)")
        .expect("ten rows");
    let new = Bytes::of(&path);
    let sessions = [&old, &new].map(|bytes| Session::open(bytes.clone()).expect("a session"));
    let pages = changed(&old, &new, &mut Dice(7));
    let pages: Vec<u32> = pages.into_iter().filter(|page| old.page(*page) != new.page(*page)).collect();
    let scopes = narrow((&sessions[0], &sessions[1]), (&*old, &*new), &pages, &|| Go::On).expect("narrowed");
    let found = compare(&sessions[0], &sessions[1], &scopes);
    let count = |name: &str| found.iter().find(|(table, _)| table == name).map_or(0, |(_, changes)| changes.len());
    assert_eq!((count("item"), count("pair"), count("word"), count("heap")), (10, 0, 0, 0));
    let read = old.pages_read() + new.pages_read();
    // Ten leaves, their parents, pages of the index on names, and the schema; of thousands.
    assert!(read < 250 && old.pages() > 5000, "{read} of {} pages", old.pages());
}
