//! An application that writes: transactions of four rows, as fast as they go or so many a second.

use crate::Failed;
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const FLAG: &str = "--write-to";

/// What a writer does.
pub struct Load {
    pub db: PathBuf,
    pub seconds: u64,
    /// synchronous = FULL instead of NORMAL.
    pub full: bool,
    /// A TRUNCATE checkpoint twice a second.
    pub truncates: bool,
    /// Transactions a second; 0 for as many as there can be.
    pub rate: u64,
}

/// What it saw.
pub struct Written {
    pub commits: f64,
    pub worst_ms: f64,
    pub log_mib: f64,
}

impl Load {
    /// What this process was started for, if it was started as a writer.
    pub fn of_arguments() -> Option<Result<Load, Failed>> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [flag, db, numbers @ ..] = args.as_slice() else { return None };
        (flag == FLAG).then(|| {
            let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<u64>, _>>()?;
            let [seconds, full, truncates, rate] = numbers[..] else { return Err("four numbers".into()) };
            Ok(Load { db: db.into(), seconds, full: full == 1, truncates: truncates == 1, rate })
        })
    }

    /// Runs it in a process of its own.
    pub fn run(&self) -> Result<Written, Failed> {
        let numbers = [self.seconds, self.full.into(), self.truncates.into(), self.rate].map(|n| n.to_string());
        let output = Command::new(std::env::current_exe()?).arg(FLAG).arg(&self.db).args(numbers).output()?;
        let text = String::from_utf8(output.stdout)?;
        let said: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        match said[..] {
            [commits, worst_ms, log_mib] if commits > 0.0 => Ok(Written { commits, worst_ms, log_mib }),
            _ => Err(format!("the writer said: {text}{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

pub fn open(db: &Path, full: bool) -> Result<Connection, Failed> {
    let conn = Connection::open(db)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.pragma_update(None, "synchronous", if full { "FULL" } else { "NORMAL" })?;
    conn.execute_batch("CREATE TABLE IF NOT EXISTS written(id INTEGER PRIMARY KEY, n INTEGER, body TEXT)")?;
    Ok(conn)
}

/// One transaction of four rows.
pub fn insert(conn: &Connection, n: u64) -> Result<(), Failed> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    for row in 0..4 {
        let body = format!("{:x}", (n * 4 + row).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(6);
        conn.prepare_cached("INSERT INTO written(n, body) VALUES (?1, ?2)")?.execute(params![n as i64, body])?;
    }
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// The measured process: prints commits, the worst one, and the longest log.
pub fn write(load: &Load) -> Result<(), Failed> {
    let conn = open(&load.db, load.full)?;
    let log = PathBuf::from(format!("{}-wal", load.db.display()));
    let truncate = || conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    let (begun, most) = (Instant::now(), Duration::from_secs(load.seconds));
    let (mut commits, mut worst, mut longest, mut truncated) = (0, Duration::ZERO, 0, begun);
    while begun.elapsed() < most {
        let at = Instant::now();
        insert(&conn, commits)?;
        worst = worst.max(at.elapsed());
        longest = longest.max(std::fs::metadata(&log).map_or(0, |meta| meta.len()));
        commits += 1;
        if load.truncates && truncated.elapsed() >= Duration::from_millis(500) {
            // Part of what a commit of this application takes.
            let at = Instant::now();
            truncate()?;
            worst = worst.max(at.elapsed());
            truncated = Instant::now();
        }
        if load.rate > 0 {
            let due = Duration::from_secs_f64(commits as f64 / load.rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    println!("{commits} {} {}", worst.as_secs_f64() * 1e3, longest as f64 / f64::from(1 << 20));
    Ok(())
}
