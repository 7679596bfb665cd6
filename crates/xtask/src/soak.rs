//! `cargo xtask soak`: a long life of a follower beside an application that does everything, gone through state by
//! state at its end. The short form is an ordinary test.

mod garage;

use std::path::Path;
use std::process::Command;

const USAGE: &str =
    "usage: cargo xtask soak sqlite [--minutes N] [--seed N] [--share always|never|by-seed] [--peer litestream]
       cargo xtask soak steps
       cargo xtask soak store --server garage";

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sqlite", rest @ ..] => sqlite(root, rest),
        ["steps"] => steps(root),
        ["store", "--server", "garage"] => garage::run(root),
        _ => Err(USAGE.into()),
    }
}

fn sqlite(root: &Path, rest: &[&str]) -> Result<(), String> {
    let mut soak = ignored_test("backstay", "soak", "a_long_life_of_everything_at_once_loses_nothing_untold");
    let mut left = rest;
    while let [flag, value, more @ ..] = left {
        left = more;
        if (*flag, *value) == ("--peer", "litestream") {
            soak.env("BACKSTAY_SOAK_PEER", crate::bench::litestream(root)?);
            continue;
        }
        if let ("--share", "always" | "never" | "by-seed") = (*flag, *value) {
            soak.env("BACKSTAY_SOAK_SHARE", value);
            continue;
        }
        let variable = match *flag {
            "--minutes" => "BACKSTAY_SOAK_MINUTES",
            "--seed" => "BACKSTAY_SOAK_SEED",
            _ => return Err(USAGE.into()),
        };
        let _: u64 = value.parse().map_err(|_| USAGE.to_owned())?;
        soak.env(variable, value);
    }
    if !left.is_empty() {
        return Err(USAGE.into());
    }
    run_to_its_end(root, soak, "run it again with the seed it printed")
}

/// Every interleaving of somebody's act with a step of following.
fn steps(root: &Path) -> Result<(), String> {
    let name = "whoever_acts_at_any_visit_of_any_step_of_following_hides_no_commit";
    run_to_its_end(root, ignored_test("backstay-ops", "follow_steps", name), "it names the step and the act")
}

fn ignored_test(package: &str, file: &str, name: &str) -> Command {
    let mut test = Command::new("cargo");
    test.args(["test", "--release", "--package", package, "--test", file, "--"]);
    test.args(["--ignored", "--nocapture", "--exact", name]);
    test
}

fn run_to_its_end(root: &Path, mut soak: Command, then: &str) -> Result<(), String> {
    let status = soak.current_dir(root).status().map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("the soak found something: {then}")) }
}
