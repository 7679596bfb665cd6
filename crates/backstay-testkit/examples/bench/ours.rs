//! Backstay itself, in a process of its own so that its peak memory is its own.

use crate::{Cost, generate};
use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Random, SourceName};
use backstay_ops::backup::{BackupReport, BackupRequest, Malformed, backup};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::{Cancel, Env, State};
use backstay_store::Store;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::meter::Meter;
use backstay_store::os::{OsRandom, SystemClock};
use backstay_store::repo::SnapshotReader;
use backstay_store::seal::Unsealer;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failed = Box<dyn std::error::Error>;

pub struct Ours {
    pub first: Cost,
    pub second: Cost,
    pub none: Cost,
    pub changed_compressed: u64,
    pub restore: f64,
    pub page_requests: u64,
    pub peak_mib: f64,
}

/// Runs `child` in a process of its own and reads its figures.
pub fn measure(db: &Path, work: &Path) -> Result<Ours, Failed> {
    let output = Command::new(std::env::current_exe()?).arg("--child").arg(db).arg(work).output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let &[f, fb, s, sb, n, nb, changed, restore, requests, peak] = numbers.as_slice() else {
        return Err(format!("the measured process said: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    };
    let cost = |seconds, bytes| Cost { seconds, bytes: bytes as u64 };
    Ok(Ours {
        first: cost(f, fb),
        second: cost(s, sb),
        none: cost(n, nb),
        changed_compressed: changed as u64,
        restore,
        page_requests: requests as u64,
        peak_mib: peak,
    })
}

/// The measured process: prints its figures in the order `measure` reads them.
pub fn child(db: &Path, work: &Path) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = Arc::new(Meter::new(Arc::new(LocalStore::open(&work.join("vault"), OpenMode::Create)?)));
        let vault = vault(store.clone(), work).await?;
        let first = timed(&vault, db).await?;
        let before = work.join("before.db");
        std::fs::copy(db, &before)?;
        generate::update_scattered(db, 1)?;
        let second = timed(&vault, db).await?;
        let none = timed(&vault, db).await?;
        let restore = timed_restore(&vault, work).await?;
        let requests = page_requests(&vault, &store).await?;
        let peak = peak_mib()?;
        // Reads both files whole, which is not what is measured: after the peak was taken.
        let changed = changed_compressed(&before, db)?;
        std::fs::remove_file(&before)?;
        let cost = |c: Cost| format!("{} {}", c.seconds, c.bytes);
        let costs = format!("{} {} {}", cost(first), cost(second), cost(none));
        println!("{costs} {changed} {restore} {requests} {peak}");
        Ok(())
    })
}

async fn vault(store: Arc<dyn Store>, work: &Path) -> Result<Vault, Failed> {
    let random: Arc<dyn Random> = Arc::new(OsRandom);
    let env = Env {
        clock: Arc::new(SystemClock),
        random,
        disk: Arc::new(OsDisk),
        events: Arc::new(|_| {}),
        cancel: Cancel::default(),
        threads: std::thread::available_parallelism()?.get(),
    };
    let key_file = work.join("backstay.key");
    let new = NewVault { store, key_file: &key_file, sealing: Sealing::Sealed, host: "bench".into() };
    let made = init::create(&env, new).await?;
    let state = State::open(env.disk.clone(), &work.join("state"), made.repo.id())?;
    let unsealer = made.keys.identity.map(Unsealer::new);
    Ok(Vault { repo: made.repo, state, signer: made.keys.signer, unsealer, env })
}

fn source() -> Result<SourceName, Failed> {
    Ok("shop".parse()?)
}

async fn timed(vault: &Vault, db: &Path) -> Result<Cost, Failed> {
    let request = BackupRequest {
        source: source()?,
        path: db.to_owned(),
        label: None,
        keep: None,
        busy: Duration::from_secs(30),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        malformed: Malformed::Refuse,
        uploads_in_flight: 2,
    };
    let begun = Instant::now();
    let report: BackupReport = backup(vault, &request).await?;
    Ok(Cost { seconds: begun.elapsed().as_secs_f64(), bytes: report.stored.get() })
}

async fn timed_restore(vault: &Vault, work: &Path) -> Result<f64, Failed> {
    let to = work.join("restored.db");
    let begun = Instant::now();
    let request = RestoreRequest {
        source: source()?,
        target: Target::Latest,
        into: Destination::New(to.clone()),
        smoke: Vec::new(),
        busy: Duration::from_secs(30),
    };
    let planned = restore::plan(vault, request).await?;
    restore::perform(vault, planned).await?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(to)?;
    Ok(seconds)
}

/// Requests from a snapshot's name to the bytes of one page in the middle.
async fn page_requests(vault: &Vault, meter: &Meter) -> Result<u64, Failed> {
    let name = vault.repo.newest_names(&source()?, 1).await?.remove(0);
    let before = meter.read();
    let manifest = vault.repo.manifest(&name).await?;
    let reader = SnapshotReader::open(vault.repo.clone(), manifest, vault.unsealer()?)?;
    let units = reader.stream(0)?.shape()?.1;
    reader.unit(0, units / 2).await?;
    Ok(meter.read().since(&before).calls())
}

/// The pages that differ, compressed in one piece as tightly as the level allows.
fn changed_compressed(before: &Path, after: &Path) -> Result<u64, Failed> {
    let (before, after) = (std::fs::read(before)?, std::fs::read(after)?);
    let mut changed = Vec::new();
    for (at, page) in after.chunks(4096).enumerate() {
        if before.get(at * 4096..at * 4096 + page.len()) != Some(page) {
            changed.extend_from_slice(page);
        }
    }
    Ok(zstd::bulk::compress(&changed, 1)?.len() as u64)
}

fn peak_mib() -> Result<f64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).ok_or("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib / 1024.0)
}
