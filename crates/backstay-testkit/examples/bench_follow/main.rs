//! What following costs, and what it gives, beside Litestream 0.5.17 in the same run: `cargo xtask bench follow`.
//!
//! Both programs run as anybody runs them, each beside a copy of its own of one database, with a repository in a folder
//! (ours sealed). Writers are processes of their own. Stretches without anybody, with us and with Litestream take turns,
//! so that a noisy machine is noisy for all of them.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the machine's own clock")]

#[allow(dead_code, reason = "the other measurement uses the rest")]
#[path = "../bench/generate.rs"]
mod generate;
mod idle;
mod neighbour;
#[path = "../bench/report.rs"]
mod report;
mod site;
mod writer;

use idle::Named;
use neighbour::{Does, Neighbour};
use report::{Bound, Table, median};
use site::{Kind, Site};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use writer::{Load, Written};

type Failed = Box<dyn std::error::Error>;

/// What `follow.interval` is when nobody says otherwise.
const INTERVAL: f64 = 0.25;
/// What a million puts cost at the usual price, in dollars.
const MILLION_PUTS: f64 = 5.0;
const DAY: f64 = 86_400.0;
/// Seconds of writing after which it counts as steady: a minute, and some.
const STEADY_AFTER: u64 = 65;

/// What one run is asked for.
pub struct Options {
    megabytes: u64,
    rounds: usize,
    /// How long each stretch of writing is.
    seconds: u64,
    databases: usize,
    dir: PathBuf,
    peers: bool,
    /// Of [`PARTS`]: all where none is named.
    only: Vec<String>,
}

/// What may be measured by itself.
const PARTS: [&str; 7] = ["whole", "lag", "normal", "full", "truncating", "puts", "idle"];

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn options() -> Result<Options, Failed> {
    let mut given: Vec<(String, String)> = Vec::new();
    let (mut args, mut peers) = (std::env::args().skip(1), true);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--no-peers" => peers = false,
            _ => given.push((arg.clone(), args.next().ok_or(format!("{arg} needs a value"))?)),
        }
    }
    let known = ["--megabytes", "--rounds", "--seconds", "--databases", "--dir", "--only"];
    if let Some((unknown, _)) = given.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        return Err(format!("there is no option {unknown}").into());
    }
    let text = |name: &str| given.iter().find(|(given, _)| given == name).map(|(_, value)| value);
    let number = |name: &str, usual: u64| text(name).map_or(Ok(usual), |value| value.parse::<u64>());
    let only: Vec<String> = text("--only").into_iter().flat_map(|parts| parts.split(',')).map(str::to_owned).collect();
    if let Some(unknown) = only.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(format!("there is no part {unknown}; there are {}", PARTS.join(", ")).into());
    }
    let megabytes = number("--megabytes", 1000)?;
    // A small database is for trying the measurement out, not for figures.
    let whole = megabytes >= 500;
    Ok(Options {
        megabytes,
        rounds: usize::try_from(number("--rounds", if whole { 3 } else { 1 })?)?,
        seconds: number("--seconds", if whole { 12 } else { 2 })?,
        databases: usize::try_from(number("--databases", if whole { 1000 } else { 50 })?)?,
        dir: text("--dir").map_or_else(|| std::env::temp_dir().join("backstay-bench"), PathBuf::from),
        peers,
        only,
    })
}

fn main() -> ExitCode {
    let as_writer = Load::of_arguments().map(|load| load.and_then(|load| writer::write(&load)));
    if let Some(ended) = as_writer.or_else(neighbour::of_arguments) {
        return match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    match options().and_then(|options| measure(&options)) {
        Ok(table) => {
            println!("{table}");
            let missed = table.missed();
            missed.iter().for_each(|missed| println!("missed: {missed}"));
            if missed.is_empty() {
                println!("every bound is kept");
                return ExitCode::SUCCESS;
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The places that are written to: alone, followed by us, followed by Litestream.
struct Sites {
    alone: Site,
    ours: Site,
    theirs: Option<Site>,
}

impl Sites {
    fn followed(&self) -> impl Iterator<Item = &Site> {
        std::iter::once(&self.ours).chain(&self.theirs)
    }
}

fn measure(options: &Options) -> Result<Table, Failed> {
    std::fs::create_dir_all(&options.dir)?;
    let source = options.dir.join(format!("mixed-text-{}.db", options.megabytes));
    generate::database(&source, options.megabytes << 20, generate::Kind::Text)?;
    let work = tempfile::tempdir_in(&options.dir)?;
    let make = |kind, name| Site::make(kind, &work.path().join(name), &source);
    let sites = Sites {
        alone: make(Kind::Alone, "alone")?,
        ours: make(Kind::Ours, "ours")?,
        theirs: if options.peers { Some(make(Kind::Litestream, "litestream")?) } else { None },
    };
    let megabytes = std::fs::metadata(&source)?.len() / 1_000_000;
    let (rounds, seconds) = (options.rounds, options.seconds);
    let mut table = Table::new(format!(
        "following a database of {megabytes} MB, beside Litestream 0.5.17, {rounds} rounds of {seconds} s of writing"
    ));
    eprintln!("first sync and restore");
    // What comes after builds on the first sync, whether or not that is shown.
    whole(&mut table, &sites)?;
    for site in sites.followed().filter(|_| options.wants("lag")) {
        eprintln!("lag of single commits, {}", site.kind.word());
        lag(&mut table, site, if options.seconds < 10 { 30 } else { 200 })?;
    }
    for (part, name, full) in [("normal", "NORMAL", false), ("full", "FULL", true)] {
        if options.wants(part) {
            throughput(&mut table, &sites, options, (name, full))?;
        }
    }
    if options.wants("truncating") {
        truncating(&mut table, &sites, options)?;
    }
    for site in sites.followed().filter(|_| options.wants("puts")) {
        eprintln!("puts under constant load, {}", site.kind.word());
        puts(&mut table, site, options)?;
    }
    if options.wants("idle") {
        many(&mut table, &sites, work.path(), options)?;
    }
    Ok(table)
}

fn many(table: &mut Table, sites: &Sites, work: &Path, options: &Options) -> Result<(), Failed> {
    let theirs = sites.theirs.iter().map(|site| (site.kind, Named::OneByOne));
    for (kind, named) in [(Kind::Ours, Named::ByPattern), (Kind::Ours, Named::OneByOne)].into_iter().chain(theirs) {
        eprintln!("{} idle databases, {}, {named:?}", options.databases, kind.word());
        let dir = work.join(format!("idle-{}-{named:?}", kind.word()));
        idle::measure(table, (kind, named), &dir, options)?;
    }
    Ok(())
}

/// The first sync, what it stored, and the restore of it.
fn whole(table: &mut Table, sites: &Sites) -> Result<(), Failed> {
    let mut costs = Vec::new();
    for site in sites.followed() {
        let begun = Instant::now();
        site.sync_once()?;
        let (first, stored) = (begun.elapsed().as_secs_f64(), site::bytes_below(&site.remote())? as f64);
        let begun = Instant::now();
        site.restore()?;
        let cost = (first, stored, begun.elapsed().as_secs_f64());
        table.figure(&format!("{}: first sync", site.kind.word()), cost.0, "s");
        table.figure(&format!("{}: stored by it", site.kind.word()), cost.1 / 1e6, "MB");
        table.figure(&format!("{}: restore", site.kind.word()), cost.2, "s");
        costs.push(cost);
    }
    if let [ours, theirs] = costs[..] {
        table.bound("first sync: ours / Litestream", ours.0 / theirs.0, Bound::Most(0.35));
        table.bound("stored: ours / Litestream", ours.1 / theirs.1, Bound::Most(0.7));
        table.bound("restore: ours / Litestream", ours.2 / theirs.2, Bound::Most(0.35));
    }
    Ok(())
}

/// From the moment a commit returned to the moment its object is in the repository under its name.
fn lag(table: &mut Table, site: &Site, count: u64) -> Result<(), Failed> {
    let running = site.follow()?;
    let conn = writer::open(&site.db, false)?;
    let mut lags = Vec::new();
    for n in 0..count {
        // What starting left behind comes first; then any moment between two ticks is as likely as any other.
        std::thread::sleep(Duration::from_millis(if n == 0 { 3000 } else { n * 37 % 400 }));
        let before = site::objects_below(&site.log())?;
        writer::insert(&conn, n)?;
        let begun = Instant::now();
        while site::objects_below(&site.log())? == before {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} did not put a commit within a minute", site.kind.word()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        lags.push(begun.elapsed().as_secs_f64());
    }
    running.stop()?;
    lags.sort_by(f64::total_cmp);
    let (middle, p99) = (median(lags.clone()), lags[(lags.len() * 99).div_ceil(100) - 1]);
    table.figure(&format!("{}: lag of a single commit, median", site.kind.word()), middle, "s");
    table.figure(&format!("{}: lag of a single commit, p99", site.kind.word()), p99, "s");
    if site.kind == Kind::Ours {
        table.bound("lag, median, above the interval, s", middle - INTERVAL, Bound::Most(0.1));
        table.bound("lag, p99, above the interval, s", p99 - INTERVAL, Bound::Most(0.3));
    }
    Ok(())
}

/// What writers saw: alone, with us, with Litestream, and beside neighbours that only write as much as we do, that do the
/// least any follower must, or both.
#[derive(Default)]
struct Seen {
    alone: Vec<Written>,
    ours: Vec<Written>,
    theirs: Vec<Written>,
    writes: Vec<Written>,
    holds: Vec<Written>,
    follows: Vec<Written>,
}

/// One stretch of writing at each site, round by round.
fn stretches(sites: &Sites, options: &Options, load: &dyn Fn(&Path) -> Load) -> Result<Seen, Failed> {
    let mut seen = Seen::default();
    let stretch = |site: &Site| -> Result<Written, Failed> {
        let running = site.follow()?;
        let written = load(&site.db).run()?;
        running.stop()?;
        Ok(written)
    };
    for round in 0..options.rounds {
        eprintln!("  round {} of {}", round + 1, options.rounds);
        seen.alone.push(stretch(&sites.alone)?);
        let before = site::bytes_below(&sites.ours.remote())?;
        seen.ours.push(stretch(&sites.ours)?);
        let put = site::bytes_below(&sites.ours.remote())?.saturating_sub(before);
        let folder = sites.alone.db.with_file_name("neighbour");
        let Seen { writes, holds, follows, .. } = &mut seen;
        for (does, seen) in [(Does::Writes, writes), (Does::Holds, holds), (Does::Follows, follows)] {
            let neighbour = Neighbour::begin(does, &sites.alone.db, &folder, put / options.seconds.max(1))?;
            seen.push(stretch(&sites.alone)?);
            neighbour.end()?;
        }
        if let Some(site) = &sites.theirs {
            seen.theirs.push(stretch(site)?);
        }
    }
    Ok(seen)
}

fn of(all: &[Written], pick: fn(&Written) -> f64) -> f64 {
    median(all.iter().map(pick).collect())
}

fn ratio(these: &[Written], those: &[Written]) -> f64 {
    median(these.iter().zip(those).map(|(a, b)| a.commits / b.commits).collect())
}

/// What the writer kept beside others than us, and how near to the least we are.
fn limits(table: &mut Table, name: &str, seen: &Seen) {
    let Seen { alone, ours, writes, holds, follows, .. } = seen;
    let beside = [
        ("a process that writes as much", writes),
        ("the least that any follower must do", holds),
        ("that least, every frame sealed and as much written", follows),
    ];
    for (what, seen) in beside {
        table.figure(&format!("{name}: commits beside {what} / alone"), ratio(seen, alone), "");
        table.figure(&format!("{name}: worst commit beside {what}"), of(seen, |w| w.worst_ms), "ms");
        table.figure(&format!("{name}: longest log beside {what}"), of(seen, |w| w.log_mib), "MiB");
    }
    table.figure(&format!("{name}: commits with us / beside the least"), ratio(ours, holds), "");
    table.figure(&format!("{name}: commits with us / beside that least, sealed and written"), ratio(ours, follows), "");
}

/// What a writer keeps that has half as much to write as it could alone: hardly any has more for long.
fn at_half_speed(
    table: &mut Table,
    (sites, options): (&Sites, &Options),
    (name, least): (&str, f64),
    load: &dyn Fn(&Path) -> Load,
    at_full: &[Written],
) -> Result<(), Failed> {
    let rate = of(at_full, |w| w.commits) / options.seconds as f64 / 2.0;
    let stretch = |site: &Site| -> Result<Written, Failed> {
        let running = site.follow()?;
        let written = Load { rate: rate as u64, ..load(&site.db) }.run()?;
        running.stop()?;
        Ok(written)
    };
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        alone.push(stretch(&sites.alone)?);
        ours.push(stretch(&sites.ours)?);
    }
    table.figure(
        &format!("{name}, half as fast: commits alone"),
        of(&alone, |w| w.commits) / options.seconds as f64,
        "/s",
    );
    table.bound(&format!("{name}, half as fast: commits with us / alone"), ratio(&ours, &alone), Bound::Least(least));
    table.figure(&format!("{name}, half as fast: worst commit with us"), of(&ours, |w| w.worst_ms), "ms");
    table.bound(
        &format!("{name}, half as fast: longest log with us, MiB"),
        of(&ours, |w| w.log_mib),
        Bound::Most(64.0),
    );
    Ok(())
}

fn throughput(table: &mut Table, sites: &Sites, options: &Options, (name, full): (&str, bool)) -> Result<(), Failed> {
    eprintln!("writing, synchronous = {name}");
    let seconds = options.seconds;
    let load = |db: &Path| Load { db: db.to_owned(), seconds, full, truncates: false, rate: 0 };
    let seen = stretches(sites, options, &load)?;
    let Seen { alone, ours, theirs, .. } = &seen;
    table.figure(&format!("{name}: commits alone"), of(alone, |w| w.commits) / seconds as f64, "/s");
    table.figure(&format!("{name}: worst commit alone"), of(alone, |w| w.worst_ms), "ms");
    table.bound(&format!("{name}: commits with us / alone"), ratio(ours, alone), Bound::Least(0.95));
    limits(table, name, &seen);
    table.bound(&format!("{name}: worst commit with us, ms"), of(ours, |w| w.worst_ms), Bound::Most(100.0));
    table.bound(&format!("{name}: longest log with us, MiB"), of(ours, |w| w.log_mib), Bound::Most(64.0));
    if !theirs.is_empty() {
        table.figure(&format!("{name}: commits with Litestream / alone"), ratio(theirs, alone), "");
        table.figure(&format!("{name}: worst commit with Litestream"), of(theirs, |w| w.worst_ms), "ms");
        table.figure(&format!("{name}: longest log with Litestream"), of(theirs, |w| w.log_mib), "MiB");
    }
    at_half_speed(table, (sites, options), (name, 0.95), &load, alone)
}

fn truncating(table: &mut Table, sites: &Sites, options: &Options) -> Result<(), Failed> {
    eprintln!("writing, with TRUNCATE checkpoints of the application twice a second");
    let seconds = options.seconds;
    let load = |db: &Path| Load { db: db.to_owned(), seconds, full: false, truncates: true, rate: 0 };
    let seen = stretches(sites, options, &load)?;
    let Seen { alone, ours, theirs, .. } = &seen;
    table.bound("truncating: commits with us / alone", ratio(ours, alone), Bound::Least(0.9));
    limits(table, "truncating", &seen);
    table.figure("truncating: worst commit alone", of(alone, |w| w.worst_ms), "ms");
    table.figure("truncating: worst commit with us", of(ours, |w| w.worst_ms), "ms");
    if !theirs.is_empty() {
        table.figure("truncating: commits with Litestream / alone", ratio(theirs, alone), "");
        table.figure("truncating: worst commit with Litestream", of(theirs, |w| w.worst_ms), "ms");
    }
    at_half_speed(table, (sites, options), ("truncating", 0.9), &load, alone)
}

/// Objects of any kind that appear while twenty commits are made a second, once the load counts as steady.
fn puts(table: &mut Table, site: &Site, options: &Options) -> Result<(), Failed> {
    let running = site.follow()?;
    let load = |seconds| Load { db: site.db.clone(), seconds, full: false, truncates: false, rate: 20 };
    load(STEADY_AFTER).run()?;
    let (before, begun) = (site::objects_below(&site.remote())?, Instant::now());
    load(options.seconds.max(10) * 2).run()?;
    let (puts, seconds) = (site::objects_below(&site.remote())? - before, begun.elapsed().as_secs_f64());
    running.stop()?;
    let a_day = puts as f64 / seconds * DAY;
    let name = site.kind.word();
    table.figure(&format!("{name}: puts a day at constant load"), a_day, "");
    table.figure(&format!("{name}: their price, 30 days"), a_day * 30.0 / 1e6 * MILLION_PUTS, "dollars");
    Ok(())
}
