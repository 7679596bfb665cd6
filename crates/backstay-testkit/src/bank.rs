//! Writers with an invariant: processes that move money between accounts while backups are taken.
//!
//! A transfer touches two accounts, one row of a large table and the ledger, in one transaction, so a
//! copy made of two states shows: the sum changes, a balance is not what the ledger says, or a row was
//! touched more or less often than the ledger knows. Before it commits, the writer notes a digest of
//! the accounts and the whole ledger, by plain SQL, beside the ledger's sequence number.
//!
//! A writer process is the test program itself, started again: its test `writer_process` calls
//! `write_if_asked`. Writers stop when a file appears, or are killed when dropped.

use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ACCOUNTS: i64 = 64;
const OPENING: i64 = 10_000;
const JOB: &str = "BACKSTAY_BANK_WRITER";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Makes the bank in a journal mode, with about so many bytes of rows to touch.
pub fn create(path: &Path, journal: &str, bytes: u64) -> Outcome<()> {
    let conn = Connection::open(path)?;
    conn.query_row(&format!("PRAGMA journal_mode={journal}"), [], |_| Ok(()))?;
    conn.execute_batch(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE thing(id INTEGER PRIMARY KEY, touched INTEGER NOT NULL, body TEXT NOT NULL);
         CREATE TABLE ledger(seq INTEGER PRIMARY KEY, payer INTEGER NOT NULL REFERENCES account,
             payee INTEGER NOT NULL REFERENCES account, amount INTEGER NOT NULL,
             thing INTEGER NOT NULL REFERENCES thing, chain INTEGER NOT NULL);
         CREATE INDEX ledger_thing ON ledger(thing);",
    )?;
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?1) ";
    conn.execute(&format!("{fill} INSERT INTO account SELECT i, ?2 FROM n"), params![ACCOUNTS, OPENING])?;
    let things = (bytes / 400).max(1) as i64;
    let rows = format!("SELECT id, touched, {BODY} FROM (SELECT i AS id, 0 AS touched FROM n)");
    conn.execute(&format!("{fill} INSERT INTO thing {rows}"), [things])?;
    Ok(())
}

/// What a row holds is a function of how often it was touched.
const BODY: &str = "printf('%0380d', id * 7919 + touched)";

/// One writer's orders.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    database: PathBuf,
    notes: PathBuf,
    stop: PathBuf,
    seed: u64,
    pause_millis: u64,
}

/// Writer processes at work.
pub struct Writers {
    children: Vec<Child>,
    notes: Vec<PathBuf>,
    stop: PathBuf,
}

impl Writers {
    /// Starts `count` of them, each pausing so long after a transfer. Their notes go to `folder`.
    pub fn start(count: u64, database: &Path, folder: &Path, pause: Duration) -> Outcome<Self> {
        let stop = folder.join("stop");
        let mut writers = Self { children: Vec::new(), notes: Vec::new(), stop: stop.clone() };
        for seed in 0..count {
            let notes = folder.join(format!("notes-{seed}"));
            let (database, stop) = (database.to_owned(), stop.clone());
            let job = Job { database, notes: notes.clone(), stop, seed, pause_millis: pause.as_millis() as u64 };
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["writer_process", "--exact", "--ignored", "--nocapture"])
                .env(JOB, serde_json::to_string(&job)?);
            writers.children.push(command.stdout(Stdio::null()).spawn()?);
            writers.notes.push(notes);
        }
        Ok(writers)
    }

    /// Every digest noted so far by ledger sequence, and whether each was noted once.
    pub fn noted(&self) -> Outcome<BTreeMap<i64, String>> {
        let mut noted = BTreeMap::new();
        for notes in self.notes.iter().filter(|notes| notes.exists()) {
            let text = fs::read_to_string(notes)?;
            for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                let (sequence, digest) = line.split_once(' ').ok_or("a note is a number and a digest")?;
                if noted.insert(sequence.parse()?, digest.to_owned()).is_some() {
                    return Err(format!("the ledger's sequence {sequence} was written twice").into());
                }
            }
        }
        Ok(noted)
    }

    /// Fails if one of them has ended: a writer that could not write any more is a finding.
    pub fn all_at_work(&mut self) -> Outcome<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                return Err(format!("a writer ended: {status}").into());
            }
        }
        Ok(())
    }

    /// Lets them finish their transfer.
    pub fn stop(&mut self) -> Outcome<()> {
        fs::write(&self.stop, "")?;
        for mut child in self.children.drain(..) {
            let status = child.wait()?;
            if !status.success() {
                return Err(format!("a writer failed: {status}").into());
            }
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the test `writer_process` of a program that starts writers does. Without orders, nothing.
#[expect(clippy::disallowed_methods, reason = "its orders come from the process that started it, and nobody else")]
pub fn write_if_asked() -> Outcome<()> {
    let Ok(job) = std::env::var(JOB) else { return Ok(()) };
    let job: Job = serde_json::from_str(&job)?;
    let mut conn = Connection::open(&job.database)?;
    conn.busy_timeout(Duration::from_secs(20))?;
    conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON")?;
    let mut notes = OpenOptions::new().create(true).append(true).open(&job.notes)?;
    let mut dice = job.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !job.stop.exists() {
        transfer(&mut conn, &mut notes, &mut dice)?;
        std::thread::sleep(Duration::from_millis(job.pause_millis));
    }
    Ok(())
}

fn below(dice: &mut u64, bound: i64) -> i64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    (*dice % bound.max(1) as u64) as i64
}

fn transfer(conn: &mut Connection, notes: &mut fs::File, dice: &mut u64) -> Outcome<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (seq, chain) = tx
        .query_row("SELECT seq, chain FROM ledger ORDER BY seq DESC LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok((0_i64, 0_i64)),
            other => Err(other),
        })?;
    let things: i64 = tx.query_row("SELECT max(id) FROM thing", [], |row| row.get(0))?;
    let (payer, amount) = (1 + below(dice, ACCOUNTS), 1 + below(dice, 100));
    let payee = 1 + (payer + below(dice, ACCOUNTS - 1)) % ACCOUNTS;
    let (seq, thing) = (seq + 1, 1 + below(dice, things));
    let chain = link(chain, [seq, payer, payee, amount, thing]);
    tx.execute("UPDATE account SET balance = balance - ?2 WHERE id = ?1", [payer, amount])?;
    tx.execute("UPDATE account SET balance = balance + ?2 WHERE id = ?1", [payee, amount])?;
    tx.execute("UPDATE thing SET touched = touched + 1 WHERE id = ?1", [thing])?;
    tx.execute(&format!("UPDATE thing SET body = {BODY} WHERE id = ?1"), [thing])?;
    tx.execute("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6)", [seq, payer, payee, amount, thing, chain])?;
    writeln!(notes, "{seq} {}", digest(&tx, chain)?)?;
    Ok(tx.commit()?)
}

/// Folds a ledger row into what came before it.
fn link(chain: i64, row: [i64; 5]) -> i64 {
    row.into_iter().fold(chain, |chain, value| (chain * 1_000_003 + value) % 2_147_483_647)
}

fn digest(conn: &Connection, chain: i64) -> Outcome<String> {
    let balances: String = conn.query_row(
        "SELECT group_concat(id || '=' || balance) FROM (SELECT id, balance FROM account ORDER BY id)",
        [],
        |row| row.get(0),
    )?;
    Ok(blake3::hash(format!("{chain} {balances}").as_bytes()).to_hex().to_string())
}

/// Where a copy of the bank stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub sequence: i64,
    pub digest: String,
}

/// Goes through a copy: every invariant, and the digest with its ledger folded anew.
pub fn audit(path: &Path) -> Outcome<Audit> {
    let conn = Connection::open(path)?;
    let text = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, String>(0));
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    let sound = text("PRAGMA integrity_check")?;
    if sound != "ok" {
        return Err(format!("integrity_check: {sound}").into());
    }
    let nothing = [
        ("the sum has changed", format!("SELECT sum(balance) - {} FROM account", ACCOUNTS * OPENING)),
        ("a row of the ledger is missing", "SELECT coalesce(max(seq), 0) - count(*) FROM ledger".into()),
        (
            "a balance is not what the ledger says",
            format!(
                "SELECT count(*) FROM account WHERE balance != {OPENING}
                 + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE payee = account.id)
                 - (SELECT coalesce(sum(amount), 0) FROM ledger WHERE payer = account.id)"
            ),
        ),
        (
            "a row was touched more or less often than the ledger says",
            "SELECT count(*) FROM thing WHERE touched != (SELECT count(*) FROM ledger WHERE ledger.thing = thing.id)"
                .into(),
        ),
        ("a row does not hold what it should", format!("SELECT count(*) FROM thing WHERE body != {BODY}")),
        ("a row refers to nothing", "SELECT count(*) FROM pragma_foreign_key_check".into()),
    ];
    for (what, sql) in nothing {
        let found = number(&sql)?;
        if found != 0 {
            return Err(format!("{what}: {found}").into());
        }
    }
    let (mut sequence, mut chain) = (0, 0);
    let mut rows = conn.prepare("SELECT seq, payer, payee, amount, thing FROM ledger ORDER BY seq")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let values = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
        sequence = row.get(0)?;
        chain = link(chain, values);
    }
    Ok(Audit { sequence, digest: digest(&conn, chain)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_sees_what_a_torn_copy_would_show() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bank.db");
        create(&path, "DELETE", 20_000).expect("a bank");
        let mut conn = Connection::open(&path).expect("open");
        let mut notes = fs::File::create(folder.path().join("notes")).expect("notes");
        let mut dice = 7;
        for _ in 0..50 {
            transfer(&mut conn, &mut notes, &mut dice).expect("a transfer");
        }
        let sound = fs::read(&path).expect("read");
        let found = audit(&path).expect("sound");
        let noted = fs::read_to_string(folder.path().join("notes")).expect("notes");
        assert_eq!(noted.lines().last(), Some(format!("50 {}", found.digest).as_str()));
        for wound in [
            "UPDATE account SET balance = balance + 1 WHERE id = 3",
            "UPDATE account SET balance = balance + CASE id WHEN 3 THEN 1 ELSE -1 END WHERE id IN (3, 4)",
            "DELETE FROM ledger WHERE seq = 50",
            "DELETE FROM ledger WHERE seq = 20",
            "UPDATE thing SET touched = touched + 1 WHERE id = 9",
            "UPDATE thing SET body = 'x' WHERE id = 9",
        ] {
            let torn = folder.path().join("torn.db");
            fs::write(&torn, &sound).expect("copy");
            Connection::open(&torn).expect("open").execute_batch(wound).expect("a wound");
            let said = audit(&torn);
            assert!(said.is_err(), "{wound}: {said:?}");
        }
    }
}
