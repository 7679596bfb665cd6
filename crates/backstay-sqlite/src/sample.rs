//! A small shop: a database for demonstrations, made, sold from and questioned by plain SQL.
//!
//! Owns its schema and one writer. The questions here share nothing with capture or restore, so that
//! what they say of a restored copy is a second opinion. Never used on a database under care.

use crate::error::{At, SqliteError};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);
CREATE TABLE purchase(
  id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer(id), note TEXT NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE line(
  purchase INTEGER NOT NULL REFERENCES purchase(id), item TEXT NOT NULL, cents INTEGER NOT NULL);
CREATE INDEX purchase_of_customer ON purchase(customer);
CREATE INDEX line_of_purchase ON line(purchase);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
INSERT INTO customer SELECT i, 'customer ' || i, 'town ' || (i % 37) FROM n;
";

/// Every purchase costs what its lines cost together: true in every state a reader may see.
const SELL: &str = "
INSERT INTO purchase VALUES (?1, 1 + ?1 % 400, 'purchase ' || ?1 || ' ' || hex(randomblob(24)), 300 + 3 * (?1 % 50));
INSERT INTO line VALUES (?1, 'item ' || (?1 % 90), 100 + ?1 % 50);
INSERT INTO line VALUES (?1, 'item ' || (?1 % 70), 100 + ?1 % 50);
INSERT INTO line VALUES (?1, 'item ' || (?1 % 50), 100 + ?1 % 50);
";

/// The shop, open for business.
pub struct Shop {
    conn: Connection,
    path: PathBuf,
    sold: u64,
}

impl Shop {
    /// Makes the database, which must not be there yet, with this many purchases.
    pub fn create(path: &Path, purchases: u64) -> Result<Self, SqliteError> {
        let conn = Connection::open(path).at("create", path)?;
        conn.busy_timeout(Duration::from_secs(10)).at("open", path)?;
        conn.pragma_update(None, "foreign_keys", true).at("open", path)?;
        conn.execute_batch(SCHEMA).at("fill", path)?;
        let mut shop = Self { conn, path: path.to_owned(), sold: 0 };
        shop.sell(purchases)?;
        Ok(shop)
    }

    /// Sells so many times in one transaction.
    pub fn sell(&mut self, times: u64) -> Result<(), SqliteError> {
        let path = self.path.clone();
        let transaction = self.conn.transaction().at("write", &path)?;
        for purchase in self.sold + 1..=self.sold + times {
            for statement in SELL.split_terminator(";\n").map(str::trim).filter(|sql| !sql.is_empty()) {
                let mut prepared = transaction.prepare_cached(statement).at("write", &path)?;
                prepared.execute([signed(purchase)]).at("write", &path)?;
            }
        }
        transaction.commit().at("write", &path)?;
        self.sold += times;
        Ok(())
    }

    /// How many purchases there are.
    pub fn sold(&self) -> u64 {
        self.sold
    }
}

/// What plain SQL says of a shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShopFacts {
    pub purchases: u64,
    /// Purchases that do not cost what their lines cost, and lines without a purchase.
    pub inconsistent: u64,
    /// Every row up to the asked-for purchase, as text in a fixed order.
    pub rows: String,
}

/// Reads a shop up to a purchase, or all of it.
pub fn read_shop(path: &Path, up_to: Option<u64>) -> Result<ShopFacts, SqliteError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).at("open", path)?;
    let number =
        |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).at("read", path).map(i64::unsigned_abs);
    let purchases = number("SELECT count(*) FROM purchase")?;
    let wrong = "SELECT count(*) FROM purchase p WHERE cents <> (SELECT total(cents) FROM line WHERE purchase = p.id)";
    let lost = "SELECT count(*) FROM line WHERE purchase NOT IN (SELECT id FROM purchase)";
    let inconsistent = number(wrong)? + number(lost)?;
    let up_to = up_to.unwrap_or(purchases);
    let rows = "SELECT row FROM (
          SELECT 1 AS part, id AS a, '' AS b, quote(id) || quote(name) || quote(city) AS row FROM customer
          UNION ALL SELECT 2, id, '', quote(id) || quote(customer) || quote(note) || quote(cents) FROM purchase WHERE id <= ?1
          UNION ALL SELECT 3, purchase, item, quote(purchase) || quote(item) || quote(cents) FROM line WHERE purchase <= ?1
        ) ORDER BY part, a, b, row";
    let mut statement = conn.prepare(rows).at("read", path)?;
    let found = statement.query_map([signed(up_to)], |row| row.get::<_, String>(0)).at("read", path)?;
    let rows = found.collect::<Result<Vec<_>, _>>().at("read", path)?.join("\n");
    Ok(ShopFacts { purchases, inconsistent, rows })
}

/// Numbers in SQLite are signed, and no shop sells that much.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What SQLite finds wrong with a shop; `None` when it is sound.
pub fn complaint(path: &Path) -> Option<String> {
    let ask = || -> rusqlite::Result<String> {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.query_row("SELECT total(cents) + total(length(note)) FROM purchase", [], |row| row.get::<_, f64>(0))?;
        conn.query_row("SELECT total(length(item)) FROM line", [], |row| row.get::<_, f64>(0))?;
        conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
    };
    match ask() {
        Ok(answer) if answer == "ok" => None,
        Ok(answer) => Some(answer.lines().last().unwrap_or_default().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_shop_is_consistent_and_a_beginning_of_the_next() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("shop.db");
        let mut shop = Shop::create(&path, 100).expect("a shop");
        let before = read_shop(&path, None).expect("read");
        assert_eq!((before.purchases, before.inconsistent), (100, 0));
        shop.sell(5).expect("sold");
        let after = read_shop(&path, Some(100)).expect("read");
        assert_eq!((after.purchases, after.inconsistent), (105, 0));
        assert_eq!(after.rows, before.rows);
        assert_eq!(complaint(&path), None);
    }
}
