//! Many databases that nobody writes to: what following them costs all the same.
//!
//! Ours twice: named by one pattern, as anybody names a thousand, so that they rest after a minute; and with a table for each, so
//! that none ever does. Litestream by a list.

use crate::report::{Bound, Table};
use crate::site::{self, Kind, Running};
use crate::{Failed, Options};
use rusqlite::Connection;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Ticks of a processor's time in a second, as /proc tells it on every Linux there is.
const TICKS: f64 = 100.0;

/// How long databases that rest may take to do so, from when all are followed.
const REST_MOST: Duration = Duration::from_secs(180);
/// And how long what they used may take to be given back.
const GIVE_BACK: Duration = Duration::from_secs(35);

/// How databases are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    ByPattern,
    OneByOne,
}

pub fn measure(table: &mut Table, (kind, named): (Kind, Named), dir: &Path, options: &Options) -> Result<(), Failed> {
    std::fs::create_dir_all(dir)?;
    for n in 0..options.databases {
        let conn = Connection::open(dir.join(format!("d{n}.db")))?;
        conn.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(900));",
        )?;
    }
    let begun = Instant::now();
    let running = match kind {
        Kind::Ours => ours(dir, options.databases, named)?,
        _ => theirs(dir, options.databases)?,
    };
    let remote = dir.join(if kind == Kind::Ours { "vault/data" } else { "replica" });
    while first_objects(&remote, kind)? < options.databases as u64 {
        if begun.elapsed() > Duration::from_secs(600) {
            return Err(format!("{} does not follow all of them", kind.word()).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let how = if named == Named::ByPattern { "" } else { ", each named by itself" };
    let name = format!("{}: {} idle databases{how}", kind.word(), options.databases);
    table.figure(&format!("{name}, until all are followed"), begun.elapsed().as_secs_f64(), "s");
    // What belongs to the beginning is over.
    std::thread::sleep(Duration::from_secs(options.seconds));
    if named == Named::ByPattern {
        wait_for_rest(&running, options.databases)?;
    }
    let (before, begun) = (processor(running.pid())?, Instant::now());
    let objects = site::objects_below(&remote)?;
    std::thread::sleep(Duration::from_secs(options.seconds * 2));
    let share = (processor(running.pid())? - before) / begun.elapsed().as_secs_f64() * 100.0;
    let memory = memory_mib(running.pid())?;
    let puts = (site::objects_below(&remote)? - objects) as f64 * 86_400.0 / begun.elapsed().as_secs_f64();
    running.stop()?;
    if named == Named::ByPattern {
        table.bound(&format!("{name}, % of a core"), share, Bound::Most(3.0));
        table.bound(&format!("{name}, memory, MiB"), memory, Bound::Most(80.0));
        table.bound(&format!("{name}, puts a day"), puts, Bound::Most(0.0));
    } else {
        table.figure(&format!("{name}, of a core"), share, "%");
        table.figure(&format!("{name}, memory"), memory, "MiB");
        table.figure(&format!("{name}, puts a day"), puts, "");
    }
    Ok(())
}

/// Until no database has a file open.
fn wait_for_rest(running: &Running, databases: usize) -> Result<(), Failed> {
    let (begun, files) = (Instant::now(), format!("/proc/{}/fd", running.pid()));
    while std::fs::read_dir(&files)?.count() >= databases {
        if begun.elapsed() > REST_MOST {
            return Err("they do not rest".into());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    std::thread::sleep(GIVE_BACK);
    Ok(())
}

/// How many databases have something at the other end: a branch of ours, a file of Litestream's first level.
fn first_objects(remote: &Path, kind: Kind) -> std::io::Result<u64> {
    let mut count = 0;
    let Ok(sources) = std::fs::read_dir(remote) else { return Ok(0) };
    for source in sources {
        let within = source?.path().join(if kind == Kind::Ours { "snap" } else { "ltx/0" });
        count += u64::from(site::objects_below(&within)? > 0);
    }
    Ok(count)
}

fn ours(dir: &Path, count: usize, named: Named) -> Result<Running, Failed> {
    let words = ["init", "--yes", "--source", "d0=./d0.db", "--repo", "./vault", "--no-backup"];
    if !Kind::Ours.command(dir)?.args(words).status()?.success() {
        return Err("init failed".into());
    }
    let mut config = std::fs::read_to_string(dir.join("backstay.toml"))?;
    let first = "[sources.d0]\npath = \"./d0.db\"";
    match named {
        Named::ByPattern if !config.contains(first) => return Err("`init` names its source otherwise now".into()),
        Named::ByPattern => config = config.replace(first, "[sources.d]\nglob = \"./d*.db\""),
        Named::OneByOne => {
            for n in 1..count {
                writeln!(config, "\n[sources.d{n}]\npath = \"./d{n}.db\"")?;
            }
        }
    }
    std::fs::write(dir.join("backstay.toml"), config)?;
    let said = std::fs::File::create(dir.join("said"))?;
    Ok(Running::of(Kind::Ours.command(dir)?.arg("follow").stderr(said).spawn()?))
}

fn theirs(dir: &Path, count: usize) -> Result<Running, Failed> {
    let mut config = String::from("dbs:\n");
    for n in 0..count {
        let dir = dir.display();
        writeln!(config, "  - path: {dir}/d{n}.db\n    replica:\n      type: file\n      path: {dir}/replica/d{n}")?;
    }
    std::fs::write(dir.join("litestream.yml"), config)?;
    let said = std::fs::File::create(dir.join("said"))?;
    let words = ["replicate", "-config", "litestream.yml"];
    Ok(Running::of(Kind::Litestream.command(dir)?.args(words).stderr(said).spawn()?))
}

/// Seconds of processor time a process has used.
fn processor(pid: u32) -> Result<f64, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

fn memory_mib(pid: u32) -> Result<f64, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib / 1024.0)
}
