//! The databases that are measured: a shop's orders in words that repeat as words do, and the same
//! with half of each row random. Seeded, so that every machine measures the same bytes.

use rusqlite::{Connection, params};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    HalfRandom,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Text => "mixed-text",
            Kind::HalfRandom => "half-random",
        }
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    /// Small numbers often, large ones seldom: as words of a language are used.
    fn skewed(&mut self, n: u64) -> u64 {
        let (a, b) = (self.below(n), self.below(n));
        a * b / n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(len).collect()
    }
}

/// Four thousand invented words.
fn vocabulary(rng: &mut Rng) -> Vec<String> {
    const SYLLABLES: [&str; 24] = [
        "ba", "ken", "ri", "sto", "mar", "lo", "ven", "ti", "sal", "dor", "ne", "pra", "cu", "lis", "mon", "ter", "ga",
        "fel", "hu", "wi", "jo", "ska", "bren", "ou",
    ];
    let word = |rng: &mut Rng| {
        let count = 1 + rng.below(4);
        (0..count).map(|_| SYLLABLES[rng.below(24) as usize]).collect()
    };
    (0..4000).map(|_| word(rng)).collect()
}

fn sentence(rng: &mut Rng, words: &[String], count: u64) -> String {
    let picked: Vec<&str> = (0..count).map(|_| words[rng.skewed(words.len() as u64) as usize].as_str()).collect();
    picked.join(" ")
}

/// Makes the database unless it is there already.
pub fn database(path: &Path, bytes: u64, kind: Kind) -> Result<(), Box<dyn std::error::Error>> {
    if path.exists() {
        return Ok(());
    }
    eprintln!("making {}", path.display());
    let staged = path.with_extension("making");
    let _ = std::fs::remove_file(&staged);
    let mut conn = Connection::open(&staged)?;
    conn.execute_batch(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER, placed TEXT, status TEXT, total REAL,
                             address TEXT, note TEXT, blob BLOB);",
    )?;
    let mut rng = Rng(0x5EED_0001);
    let words = vocabulary(&mut rng);
    let mut id = 0;
    while std::fs::metadata(&staged)?.len() < bytes / 100 * 97 {
        let tx = conn.transaction()?;
        {
            let mut insert = tx.prepare_cached("INSERT INTO orders VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")?;
            for _ in 0..20_000 {
                id += 1;
                insert_row(&mut insert, id, &mut rng, &words, kind)?;
            }
        }
        tx.commit()?;
    }
    conn.execute_batch("CREATE INDEX by_customer ON orders(customer); PRAGMA journal_mode=WAL;")?;
    conn.close().map_err(|(_, e)| e)?;
    std::fs::rename(&staged, path)?;
    Ok(())
}

fn insert_row(
    insert: &mut rusqlite::CachedStatement<'_>,
    id: i64,
    rng: &mut Rng,
    words: &[String],
    kind: Kind,
) -> rusqlite::Result<usize> {
    const STATUS: [&str; 4] = ["paid", "shipped", "returned", "open"];
    let placed = format!(
        "20{:02}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        20 + rng.below(6),
        1 + rng.below(12),
        1 + rng.below(28),
        rng.below(24),
        rng.below(60),
        rng.below(60)
    );
    let address = format!("{} {}, {}", rng.below(200), sentence(rng, words, 3), sentence(rng, words, 2));
    let length = 10 + rng.below(50);
    let note = sentence(rng, words, length);
    let token = match kind {
        Kind::Text => rng.bytes(16),
        Kind::HalfRandom => rng.bytes(note.len() + 120),
    };
    let (customer, status, total) = (rng.below(50_000), STATUS[rng.below(4) as usize], rng.below(100_000));
    insert.execute(params![id, customer as i64, placed, status, total as f64 / 100.0, address, note, token])
}

/// Changes one row in a hundred, scattered over the whole file; returns the number of rows changed.
pub fn update_scattered(path: &Path, round: u64) -> Result<usize, Box<dyn std::error::Error>> {
    let conn = Connection::open(path)?;
    conn.execute_batch("PRAGMA synchronous=OFF")?;
    let sql = format!("UPDATE orders SET status='changed{round}', total=total+1 WHERE id % 100 = {}", 17 + round);
    Ok(conn.execute(&sql, [])?)
}
