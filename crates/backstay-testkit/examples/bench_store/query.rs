//! Asking the past: the release binary from its start to its answer, beside a full restore in the same run, from a
//! folder and from a bucket thirty milliseconds away; and a scan beside Litestream's own file system.

use crate::far::Far;
use crate::report::{Bound, Table, median};
use crate::{Failed, Options, generate};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How far away the bucket is: every request waits this long.
const FAR: Duration = Duration::from_millis(30);
const LITESTREAM: &str = "target/bench-venv/bin/litestream";
const LITESTREAM_VFS: &str = "target/bench-venv/litestream-vfs.so";

/// What one run of a program cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    mib: f64,
    requests: f64,
}

pub fn measure(options: &Options) -> Result<Table, Failed> {
    std::fs::create_dir_all(&options.dir)?;
    let program = std::env::current_exe()?.with_file_name("../backstay");
    if !program.exists() {
        return Err("no release binary: `cargo build --release --package backstay`".into());
    }
    let source = options.dir.join(format!("query-{}.db", options.megabytes));
    generate::database(&source, options.megabytes << 20, generate::Kind::Text)?;
    let rows = count(&source)?;
    let server = S3Server::start();
    let far = Far::to(server.address(), FAR)?;
    let work = tempfile::tempdir_in(&options.dir)?;
    let mut table =
        Table::new(format!("query: {} MiB, {rows} rows, median of {} rounds", options.megabytes, options.rounds));
    let near = House { program: program.clone(), dir: work.path().join("near"), endpoint: None };
    near.begin(&source, "./vault")?;
    let bucket = House { program, dir: work.path().join("far"), endpoint: Some(server.endpoint()) };
    bucket.begin(&source, &format!("s3://{BUCKET}/ours"))?;
    let bucket = House { endpoint: Some(format!("http://{}", far.address())), ..bucket };
    for (name, house) in [("folder", &near), ("bucket 30 ms away", &bucket)] {
        measure_points(&mut table, options, (name, house, rows))?;
    }
    scan(&mut table, options, &near, (&source, rows))?;
    Ok(table)
}

/// One row of many, on a host that never asked, on one that asked for others before, with and without what it kept; and a
/// restore.
fn measure_points(
    table: &mut Table,
    options: &Options,
    (name, house, rows): (&str, &House, i64),
) -> Result<(), Failed> {
    let point = |n: i64| format!("SELECT * FROM orders WHERE id = {}", n * 7919 % rows + 1);
    house.ask(&point(0), Host::AskedBefore)?;
    let (mut new, mut blank, mut again, mut restores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds as i64 {
        new.push(house.ask(&point(round + 2000), Host::New)?);
        blank.push(house.ask(&point(round), Host::KeptNothing)?);
        again.push(house.ask(&point(round + 1000), Host::AskedBefore)?);
        restores.push(house.restore()?);
    }
    let of = |all: &[Cost], pick: fn(&Cost) -> f64| median(all.iter().map(pick).collect());
    let restore = of(&restores, |c| c.seconds);
    for (host, costs) in [("never asked", &new), ("nothing kept", &blank), ("asked before", &again)] {
        let seconds = of(costs, |c| c.seconds);
        table.bound(&format!("{name}, {host}: first row, s"), seconds, Bound::Most(0.2));
        table.bound(&format!("{name}, {host}: peak memory, MiB"), of(costs, |c| c.mib), Bound::Most(40.0));
        table.figure(&format!("{name}, {host}: requests"), of(costs, |c| c.requests), "");
        table.bound(&format!("{name}, {host}: first row / restore"), seconds / restore, Bound::Most(0.2));
    }
    table.figure(&format!("{name}: full restore"), restore, "s");
    Ok(())
}

/// What the host has of earlier questions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    /// Nothing at all.
    New,
    /// The names of what was read, and no bytes.
    KeptNothing,
    AskedBefore,
}

/// An eighth of the table, by both, in turns.
fn scan(table: &mut Table, options: &Options, near: &House, (source, rows): (&Path, i64)) -> Result<(), Failed> {
    let sql = format!("SELECT count(*), sum(length(note)) FROM orders WHERE id <= {}", rows / 8);
    let replica = near.dir.join("litestream");
    let copy = near.dir.join("copy.db");
    std::fs::copy(source, &copy)?;
    let url = format!("file://{}", replica.display());
    let done = Command::new(LITESTREAM)
        .args(["replicate", "-once"])
        .arg(&copy)
        .arg(&url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !done.success() {
        return Err("litestream replicate -once failed".into());
    }
    let library = std::fs::canonicalize(LITESTREAM_VFS)?;
    let load = format!(".load {}", library.display());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        ours.push(near.ask(&sql, Host::KeptNothing)?);
        let mut command = Command::new("sqlite3");
        command.current_dir(&near.dir).args([":memory:", &load, ".open file:copy.db?vfs=litestream", &sql]);
        let (cost, text) = timed(command.env("LITESTREAM_REPLICA_URL", &url))?;
        if !text.contains('|') {
            return Err(format!("litestream said: {text}").into());
        }
        theirs.push(cost);
    }
    let of = |all: &[Cost], pick: fn(&Cost) -> f64| median(all.iter().map(pick).collect());
    table.figure("scan of an eighth: Backstay, from its start", of(&ours, |c| c.seconds), "s");
    table.figure("scan of an eighth: Litestream's, from its start", of(&theirs, |c| c.seconds), "s");
    table.figure("scan of an eighth: Backstay, peak memory", of(&ours, |c| c.mib), "MiB");
    table.figure("scan of an eighth: Litestream's, peak memory", of(&theirs, |c| c.mib), "MiB");
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| a.seconds / b.seconds).collect());
    table.bound("scan of an eighth: Backstay / Litestream's", ratio, Bound::Most(0.5));
    Ok(())
}

fn count(source: &Path) -> Result<i64, Failed> {
    Ok(rusqlite::Connection::open(source)?.query_row("SELECT max(id) FROM orders", [], |row| row.get(0))?)
}

struct House {
    program: PathBuf,
    dir: PathBuf,
    endpoint: Option<String>,
}

impl House {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.dir);
        if let Some(endpoint) = &self.endpoint {
            command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
            command.env("BACKSTAY_STORE_ENDPOINT", endpoint).env("BACKSTAY_STORE_ALLOW_HTTP", "true");
        }
        command
    }

    fn begin(&self, source: &Path, repository: &str) -> Result<(), Failed> {
        std::fs::create_dir_all(&self.dir)?;
        let named = format!("shop={}", source.display());
        timed(&mut self.command(&["init", "--yes", "--no-backup", "--source", &named, "--repo", repository]))?;
        timed(&mut self.command(&["backup", "shop", "--no-proof"]))?;
        Ok(())
    }

    fn ask(&self, sql: &str, host: Host) -> Result<Cost, Failed> {
        let flag: &[&str] = if host == Host::AskedBefore { &[] } else { &["--no-cache"] };
        let mut command = self.command(&[&["query", "shop", "--json", sql], flag].concat());
        let state = tempfile::tempdir_in(&self.dir)?;
        if host == Host::New {
            command.env("BACKSTAY_STATE_DIR", state.path());
        }
        let (cost, text) = timed(&mut command)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        if value["rows"].as_array().is_none_or(Vec::is_empty) {
            return Err(format!("no rows: {text}").into());
        }
        Ok(Cost { requests: value["store"]["requests"].as_f64().unwrap_or(f64::NAN), ..cost })
    }

    fn restore(&self) -> Result<Cost, Failed> {
        let to = self.dir.join("restored.db");
        let _ = std::fs::remove_file(&to);
        Ok(timed(&mut self.command(&["restore", "shop", "--to", "restored.db"]))?.0)
    }
}

/// Runs a program to its end: how long, how much memory at its highest, and what it said.
fn timed(command: &mut Command) -> Result<(Cost, String), Failed> {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut mib: f64 = 0.0;
    let ended = loop {
        // The highest there was, as the kernel keeps it; read for as long as the process is there.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<f64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        mib = mib.max(kib.unwrap_or(0.0) / 1024.0);
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let seconds = begun.elapsed().as_secs_f64();
    let output = child.wait_with_output()?;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if ended.success() {
        Ok((Cost { seconds, mib, requests: 0.0 }, out))
    } else {
        Err(format!("{command:?}: {out}{err}").into())
    }
}
