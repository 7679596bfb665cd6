//! What a repository behind a network costs: `cargo xtask bench s3` beside restic over the same server, `cargo xtask
//! bench list` for a history of many snapshots, `cargo xtask bench query` for questions to the past.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the machine's own clock")]

mod far;
mod floor;
#[allow(dead_code, reason = "the other measurement uses the rest")]
#[path = "../bench/generate.rs"]
mod generate;
mod list;
mod query;
#[allow(dead_code, reason = "the other measurement uses the rest")]
#[path = "../bench/report.rs"]
mod report;
mod s3;

use std::path::PathBuf;
use std::process::ExitCode;

type Failed = Box<dyn std::error::Error>;

struct Options {
    megabytes: u64,
    rounds: usize,
    dir: PathBuf,
    snapshots: u64,
    objects: u64,
}

fn options(args: impl Iterator<Item = String>) -> Result<Options, Failed> {
    let dir = std::env::temp_dir().join("backstay-bench");
    let mut options = Options { megabytes: 256, rounds: 1, dir, snapshots: 10_000, objects: 1_000_000 };
    let mut args = args;
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--megabytes" => options.megabytes = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--dir" => options.dir = value.into(),
            "--snapshots" => options.snapshots = value.parse()?,
            "--objects" => options.objects = value.parse()?,
            _ => return Err(format!("there is no option {arg}").into()),
        }
    }
    Ok(options)
}

fn measure() -> Result<report::Table, Failed> {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_default();
    let options = options(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match what.as_str() {
        "list" => runtime.block_on(list::measure(&options)),
        "query" => query::measure(&options),
        "s3" => runtime.block_on(s3::measure(&options)),
        _ => Err("one of `list`, `query` and `s3`".into()),
    }
}

fn main() -> ExitCode {
    match measure() {
        Ok(table) => {
            println!("{table}");
            let missed = table.missed();
            missed.iter().for_each(|missed| println!("missed: {missed}"));
            if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
