//! Long fuzzing on the stable toolchain: starts the testkit's loop as a child and watches it.
//!
//! The child notes each input before it runs it, so a panic, an abort, a hang and an allocation without
//! bound all look alike from here: the child is gone or silent, and the noted input is the culprit. It
//! becomes a seed, and the next `./test` replays it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// One input may take this long before the target counts as hung.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const ADDRESS_SPACE_KIB: &str = "4194304";

pub struct Wish {
    seconds: u64,
    target: Option<String>,
}

impl Wish {
    pub fn parse(args: &[String]) -> Result<Wish, String> {
        let mut wish = Wish { seconds: 60, target: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seconds" => {
                    let given = args.next().and_then(|n| n.parse().ok());
                    wish.seconds = given.ok_or("--seconds takes a whole number")?;
                }
                name if !name.starts_with('-') && wish.target.is_none() => wish.target = Some(name.to_owned()),
                other => return Err(format!("fuzz does not know `{other}`")),
            }
        }
        Ok(wish)
    }
}

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    let wish = Wish::parse(args)?;
    let binary = build(root)?;
    let listed = Command::new(&binary).arg("list").output().map_err(|e| format!("run the fuzz loop: {e}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let targets: Vec<&str> = listed.lines().filter(|name| wish.target.as_deref().is_none_or(|t| t == *name)).collect();
    if targets.is_empty() {
        return Err(format!("no such target; there are: {}", listed.lines().collect::<Vec<_>>().join(", ")));
    }
    let mut found = Vec::new();
    for target in targets {
        found.extend(fuzz(root, &binary, target, wish.seconds)?);
    }
    for seed in &found {
        println!("fuzz: new seed {seed}");
    }
    if found.is_empty() { Ok(()) } else { Err("mend the parser; the seed stays as its test".to_owned()) }
}

/// Optimised, but with overflow checks and debug assertions: both are findings.
fn build(root: &Path) -> Result<PathBuf, String> {
    let folder = root.join("target/fuzz");
    let done = Command::new("cargo")
        .current_dir(root)
        .args(["build", "--quiet", "--release", "-p", "backstay-testkit", "--bin", "fuzz", "--target-dir"])
        .arg(&folder)
        .args(["--config", "profile.release.overflow-checks=true"])
        .args(["--config", "profile.release.debug-assertions=true"])
        .args(["--config", "profile.release.lto=\"off\""])
        .status()
        .map_err(|e| format!("run cargo build: {e}"))?;
    if done.success() { Ok(folder.join("release/fuzz")) } else { Err("the fuzz loop does not build".to_owned()) }
}

/// Runs one target; the path of a new seed if it fell.
fn fuzz(root: &Path, binary: &Path, target: &str, seconds: u64) -> Result<Option<String>, String> {
    let noted = root.join("target/fuzz").join(format!("{target}.input"));
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_secs());
    println!("fuzz: {target} for {seconds} s from seed {seed}");
    let child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" \"$@\"")])
        .arg(binary)
        .args(["run", target, &seconds.to_string(), &seed.to_string()])
        .arg(&noted)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("run the fuzz loop: {e}"))?;
    match watch(child, &noted)? {
        Fell::Never => Ok(None),
        fell => keep(root, target, &noted, fell).map(Some),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Fell {
    Never,
    Died(String),
    Hung,
}

fn watch(mut child: Child, noted: &Path) -> Result<Fell, String> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|e| format!("wait for the fuzz loop: {e}"))? {
            return Ok(if status.success() { Fell::Never } else { Fell::Died(status.to_string()) });
        }
        let age = std::fs::metadata(noted).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if started.elapsed() > SILENCE_MAX && age.is_some_and(|age| age > SILENCE_MAX) {
            child.kill().and_then(|()| child.wait()).map_err(|e| format!("stop the fuzz loop: {e}"))?;
            return Ok(Fell::Hung);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn keep(root: &Path, target: &str, noted: &Path, fell: Fell) -> Result<String, String> {
    let input = std::fs::read(noted).map_err(|e| format!("the loop ended before its first input ({fell:?}): {e}"))?;
    let name = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let seed = format!("crates/backstay-testkit/corpus/{target}/crash-{name:016x}");
    std::fs::write(root.join(&seed), &input).map_err(|e| format!("write {seed}: {e}"))?;
    println!("fuzz: {target} {fell:?} on {} bytes", input.len());
    Ok(seed)
}
