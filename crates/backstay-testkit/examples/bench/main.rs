//! What Backstay costs for SQLite, beside the machine's own limit and its peers, all in one run.
//!
//! `cargo xtask bench sqlite` builds this in release and runs it. Times are medians over rounds in
//! which every contender takes its turn, so that a noisy machine is noisy for all of them.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the machine's own clock")]

mod generate;
mod limit;
mod ours;
mod peers;
mod report;

use report::{Bound, Table};
use std::path::{Path, PathBuf};

/// What one run is asked for.
struct Options {
    megabytes: u64,
    rounds: usize,
    dir: PathBuf,
    peers: bool,
}

fn options() -> Result<Options, String> {
    let dir = std::env::temp_dir().join("backstay-bench");
    let mut options = Options { megabytes: 700, rounds: 3, dir, peers: true };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--megabytes" => options.megabytes = value()?.parse().map_err(|_| "--megabytes takes a number")?,
            "--rounds" => options.rounds = value()?.parse().map_err(|_| "--rounds takes a number")?,
            "--dir" => options.dir = value()?.into(),
            "--no-peers" => options.peers = false,
            _ => {
                return Err(
                    "usage: cargo xtask bench sqlite [--megabytes N] [--rounds N] [--dir D] [--no-peers]".into()
                );
            }
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if let [flag, db, work] = args.as_slice()
        && flag.as_os_str() == "--child"
    {
        return ours::child(db, work);
    }
    let options = options()?;
    std::fs::create_dir_all(&options.dir)?;
    let mut missed = Vec::new();
    for kind in [generate::Kind::Text, generate::Kind::HalfRandom] {
        let source = options.dir.join(format!("{}-{}.db", kind.word(), options.megabytes));
        generate::database(&source, options.megabytes << 20, kind)?;
        let table = measure(&options, &source, kind)?;
        println!("{table}");
        // The second database is reported beside the first; the bounds are set for mixed text.
        if kind == generate::Kind::Text {
            missed.extend(table.missed());
        }
    }
    if missed.is_empty() {
        println!("every bound is kept");
        return Ok(());
    }
    Err(format!("missed: {}", missed.join("; ")).into())
}

fn measure(options: &Options, source: &Path, kind: generate::Kind) -> Result<Table, Box<dyn std::error::Error>> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("{} {} of {}", kind.word(), round + 1, options.rounds);
        rounds.push(one_round(options, source)?);
    }
    let mut table = Table::new(format!(
        "{} database of {} MB, {} rounds, medians",
        kind.word(),
        std::fs::metadata(source)?.len() / 1_000_000,
        options.rounds
    ));
    let of = |pick: &dyn Fn(&Round) -> f64| report::median(rounds.iter().map(pick).collect());
    let per = |a: &dyn Fn(&Round) -> f64, b: &dyn Fn(&Round) -> f64| {
        report::median(rounds.iter().map(|r| a(r) / b(r)).collect())
    };
    table.figure("limit: read, hash, zstd 1, AES-GCM, write, fsync", of(&|r| r.limit.seconds), "s");
    table.figure("first snapshot", of(&|r| r.ours.first.seconds), "s");
    table.bound("first snapshot / limit", per(&|r| r.ours.first.seconds, &|r| r.limit.seconds), Bound::Most(1.25));
    table.figure("1 % of rows updated", of(&|r| r.ours.second.seconds), "s");
    table.bound("1 % updated / first", per(&|r| r.ours.second.seconds, &|r| r.ours.first.seconds), Bound::Most(0.35));
    table.bound(
        "1 % updated: stored / compressed changed pages",
        per(&|r| r.ours.second.bytes as f64, &|r| r.ours.changed_compressed as f64),
        Bound::Most(1.3),
    );
    table.figure("no change", of(&|r| r.ours.none.seconds), "s");
    table.figure("read and hash the file", of(&|r| r.hash_only), "s");
    table.bound("no change / read and hash", per(&|r| r.ours.none.seconds, &|r| r.hash_only), Bound::Most(1.3));
    table.figure("restore, every tag and the digest", of(&|r| r.ours.restore), "s");
    table.figure("zstd -d and fsync", of(&|r| r.zstd_d), "s");
    table.bound("restore / zstd -d and fsync", per(&|r| r.ours.restore, &|r| r.zstd_d), Bound::Most(1.3));
    table.bound("requests for one page, cold", of(&|r| r.ours.page_requests as f64), Bound::Most(3.0));
    table.bound("peak memory, MiB", of(&|r| r.ours.peak_mib), Bound::Most(256.0));
    table.figure("stored by the first snapshot", of(&|r| r.ours.first.bytes as f64 / 1e6), "MB");
    if options.peers {
        add_peers(&mut table, &rounds);
    }
    Ok(table)
}

fn add_peers(table: &mut Table, rounds: &[Round]) {
    let median = |pick: &dyn Fn(&Round, &peers::Peers) -> f64| {
        report::median(rounds.iter().filter_map(|r| Some(pick(r, r.peers.as_ref()?))).collect())
    };
    table.figure("restic backup", median(&|_, p| p.restic.seconds), "s");
    table.bound("restic / first", median(&|r, p| p.restic.seconds / r.ours.first.seconds), Bound::Least(3.0));
    let stored = median(&|r, p| r.ours.first.bytes as f64 / p.restic.bytes as f64);
    table.bound("stored: ours / restic", stored, Bound::Most(1.2));
    table.figure("Litestream 0.5.17 first sync", median(&|_, p| p.litestream.seconds), "s");
    let faster = median(&|r, p| p.litestream.seconds / r.ours.first.seconds);
    table.bound("Litestream / first", faster, Bound::Least(3.0));
    let stored = median(&|r, p| r.ours.first.bytes as f64 / p.litestream.bytes as f64);
    table.bound("stored: ours / Litestream", stored, Bound::Most(0.7));
}

/// What one round measured.
struct Round {
    limit: Cost,
    hash_only: f64,
    zstd_d: f64,
    ours: ours::Ours,
    peers: Option<peers::Peers>,
}

/// Time taken and bytes stored.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    bytes: u64,
}

fn one_round(options: &Options, source: &Path) -> Result<Round, Box<dyn std::error::Error>> {
    let work = tempfile::tempdir_in(&options.dir)?;
    let db = work.path().join("shop.db");
    std::fs::copy(source, &db)?;
    sync(&db)?;
    let limit = limit::seal(&db, &work.path().join("limit"))?;
    let hash_only = limit::hash_only(&db)?;
    let zstd_d = limit::zstd_d(&db, work.path())?;
    let peers = if options.peers { Some(peers::measure(&db, work.path())?) } else { None };
    let ours = ours::measure(&db, work.path())?;
    Ok(Round { limit, hash_only, zstd_d, ours, peers })
}

/// The copy is on the disk before anything is timed.
fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}
