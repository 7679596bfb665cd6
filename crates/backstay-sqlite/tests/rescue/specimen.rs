//! Databases to damage, and what is in a database, as lines that can be compared.

use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// How a specimen is made.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub page_size: u32,
    pub encoding: &'static str,
    pub auto_vacuum: bool,
    pub rows: u32,
}

pub const FORMS: [Form; 6] = [
    Form { page_size: 512, encoding: "UTF-8", auto_vacuum: false, rows: 300 },
    Form { page_size: 1024, encoding: "UTF-8", auto_vacuum: true, rows: 300 },
    Form { page_size: 2048, encoding: "UTF-16le", auto_vacuum: false, rows: 400 },
    Form { page_size: 4096, encoding: "UTF-8", auto_vacuum: false, rows: 700 },
    Form { page_size: 8192, encoding: "UTF-16be", auto_vacuum: false, rows: 800 },
    Form { page_size: 65536, encoding: "UTF-8", auto_vacuum: false, rows: 700 },
];

/// Every shape of table, values of every kind and length, deleted rows, and objects that are no tables.
pub fn make(path: &Path, form: Form) {
    let conn = Connection::open(path).expect("the specimen can be read");
    let Form { page_size, encoding, auto_vacuum, rows } = form;
    let vacuum = u8::from(auto_vacuum);
    conn.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA encoding = '{encoding}'; PRAGMA auto_vacuum = {vacuum};
         PRAGMA user_version = 7; PRAGMA application_id = 77;
         CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, note BLOB, score REAL);
         CREATE TABLE plain(a, b, c, d, e, f);
         CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT);
         CREATE TABLE placed(z TEXT, k2 INT, k1 TEXT, v BLOB, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
         CREATE TABLE computed(a INT, b INT AS (a * 2) STORED, c INT AS (a + 1) VIRTUAL, d TEXT, e INT);
         CREATE TABLE \"a \"\"quoted\"\" name\"(\"rowid\" INT, x TEXT, y, z, u, v, w, s, t) ;
         CREATE INDEX customer_name ON customer(name);
         CREATE UNIQUE INDEX counted_what ON counted(what);
         CREATE VIEW names AS SELECT name FROM customer;
         CREATE TRIGGER never AFTER DELETE ON plain BEGIN DELETE FROM counted; END;
         INSERT INTO \"a \"\"quoted\"\" name\" VALUES (9, 'nine', 9223372036854775807, -9223372036854775808, 1e300, x'', '', char(0x10ffff, 228), -1);"
    ))
    .expect("the specimen can be read");
    fill(&conn, rows, i64::from(page_size / 4096).max(1));
    conn.execute_batch(&format!(
        "DELETE FROM counted WHERE id > {rows} - 5;
         ALTER TABLE customer ADD COLUMN added TEXT NOT NULL DEFAULT 'later';
         INSERT INTO customer VALUES (-5, 'minus', NULL, NULL, 'said');
         CREATE TABLE scrap AS SELECT * FROM plain; DROP TABLE scrap;"
    ))
    .expect("the specimen can be read");
}

/// Bytes that are like nothing else: a piece that is missing, zeroed or said twice shows.
fn noise(seed: i64, len: i64) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8 | 1
    };
    (0..len).map(next).collect()
}

/// Rows of every length: some fill many pages.
fn fill(conn: &Connection, rows: u32, wide: i64) {
    conn.execute_batch("BEGIN").expect("the specimen can be read");
    for n in 1..=i64::from(rows) {
        let note = match n % 17 {
            0 => Some(noise(n, n % 5 * 3000 * wide + 3)),
            1 => None,
            _ => Some(vec![0, 255]),
        };
        let values = (n * 3, format!("customer number {n}"), note, n as f64 / 7.0);
        conn.execute("INSERT INTO customer VALUES (?1, ?2, ?3, ?4)", values).expect("the specimen can be read");
        let long = if n % 23 == 0 {
            noise(-n, n * 40).iter().map(|byte| char::from(byte % 64 + 48)).collect()
        } else {
            String::new()
        };
        let values = (n, -n * 1_000_000_007, n as f64 * 1.5, format!("p{n}"), long);
        conn.execute("INSERT INTO plain VALUES (?1, ?2, ?3, ?4, NULL, ?5)", values).expect("the specimen can be read");
        conn.execute("INSERT INTO counted(what) VALUES (?1)", [format!("thing {n}")])
            .expect("the specimen can be read");
        let value = if n % 19 == 0 { noise(n * 7, n * 12) } else { vec![n as u8] };
        let values = (format!("z{n}"), n % 10, format!("key {n}"), value);
        conn.execute("INSERT INTO placed VALUES (?1, ?2, ?3, ?4)", values).expect("the specimen can be read");
        conn.execute("INSERT INTO computed(a, d, e) VALUES (?1, ?2, ?1)", (n, format!("d{n}")))
            .expect("the specimen can be read");
    }
    conn.execute_batch("COMMIT").expect("the specimen can be read");
}

/// Rows by table, each a line with the row number and every value, in order.
pub type Content = BTreeMap<String, Vec<String>>;

pub fn content(path: &Path) -> Content {
    let conn = Connection::open(path).expect("the specimen can be read");
    let names: Vec<(String, bool)> = conn
        .prepare("SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_schema' ESCAPE '\\'")
        .expect("the specimen can be read")
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("the specimen can be read")
        .map(|row| row.expect("a row"))
        .collect();
    let mut found = Content::new();
    for (name, without_rowid) in names {
        let columns: Vec<String> = conn
            .prepare("SELECT name FROM pragma_table_xinfo(?1)")
            .expect("the specimen can be read")
            .query_map([&name], |row| row.get::<_, String>(0))
            .expect("the specimen can be read")
            .map(|name| format!("quote(\"{}\")", name.expect("the specimen can be read").replace('"', "\"\"")))
            .collect();
        let number = if without_rowid { "''" } else { "_rowid_" };
        let sql =
            format!("SELECT {number} || '|' || {} FROM \"{}\"", columns.join(" || '|' || "), name.replace('"', "\"\""));
        let mut rows: Vec<String> = Vec::new();
        let mut statement = conn.prepare(&sql).expect("the specimen can be read");
        let mut lines = statement.query([]).expect("the specimen can be read");
        // A damaged database is read as far as it goes.
        while let Ok(Some(row)) = lines.next() {
            rows.extend(row.get::<_, String>(0));
        }
        rows.sort();
        found.insert(name, rows);
    }
    found
}

/// What the schema says.
pub fn schema(path: &Path) -> Vec<(String, String, Option<String>)> {
    let conn = Connection::open(path).expect("the specimen can be read");
    let mut rows =
        conn.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").expect("the specimen can be read");
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .expect("the specimen can be read")
        .map(|row| row.expect("a row"))
        .collect()
}

/// Lines of `wanted` that `have` has less often.
pub fn missing(wanted: &[String], have: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    have.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    let mut missing = Vec::new();
    for line in wanted {
        let left = counts.entry(line).or_default();
        *left -= 1;
        if *left < 0 {
            missing.push(line.clone());
        }
    }
    missing
}
