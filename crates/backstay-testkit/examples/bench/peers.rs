//! The peers, each with its defaults and a repository on the same disk.

use crate::Cost;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Failed = Box<dyn std::error::Error>;

pub struct Peers {
    pub restic: Cost,
    pub litestream: Cost,
}

pub fn measure(db: &Path, work: &Path) -> Result<Peers, Failed> {
    Ok(Peers { restic: restic(db, &work.join("restic"))?, litestream: litestream(db, work)? })
}

fn restic(db: &Path, repo: &Path) -> Result<Cost, Failed> {
    let call = |args: &[&str]| -> Result<(), Failed> {
        let mut command = Command::new("restic");
        command.args(args).env("RESTIC_PASSWORD", "bench").env("RESTIC_REPOSITORY", repo);
        command.args(["--no-cache", "--quiet"]).stdout(Stdio::null());
        if command.status()?.success() { Ok(()) } else { Err(format!("restic {args:?} failed").into()) }
    };
    call(&["init"])?;
    let begun = Instant::now();
    call(&["backup", &db.display().to_string()])?;
    let cost = Cost { seconds: begun.elapsed().as_secs_f64(), bytes: bytes_below(repo)? };
    std::fs::remove_dir_all(repo)?;
    Ok(cost)
}

/// Time until the first sync is in the replica. Litestream writes to the database it follows, so it
/// gets a copy of its own.
fn litestream(db: &Path, work: &Path) -> Result<Cost, Failed> {
    let own = work.join("litestream");
    std::fs::create_dir_all(&own)?;
    let (copy, replica) = (own.join("shop.db"), own.join("replica"));
    std::fs::copy(db, &copy)?;
    std::fs::File::open(&copy)?.sync_all()?;
    let mut command = Command::new(litestream_program()?);
    command.args(["replicate", "-once"]).arg(&copy).arg(format!("file://{}", replica.display()));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let done = wait(&mut child, Duration::from_secs(180))?;
    let cost = Cost { seconds: begun.elapsed().as_secs_f64(), bytes: bytes_below(&replica)? };
    std::fs::remove_dir_all(&own)?;
    if done && cost.bytes > 0 { Ok(cost) } else { Err("litestream replicate -once did not finish".into()) }
}

fn wait(child: &mut std::process::Child, most: Duration) -> Result<bool, Failed> {
    let begun = Instant::now();
    while begun.elapsed() < most {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

fn litestream_program() -> Result<PathBuf, Failed> {
    let venv = PathBuf::from("target/bench-venv/bin/litestream");
    if venv.exists() { Ok(venv) } else { Err("no litestream: `cargo xtask bench` installs it".into()) }
}

fn bytes_below(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}
