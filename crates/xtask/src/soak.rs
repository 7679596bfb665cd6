//! `cargo xtask soak`: a long life of a follower beside an application that does everything, gone through state by
//! state at its end. The short form is an ordinary test.

mod garage;

use std::path::Path;
use std::process::Command;

const USAGE: &str = "usage: cargo xtask soak sqlite [--minutes N] [--seed N] | soak store --server garage";

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sqlite", rest @ ..] => sqlite(root, rest),
        ["store", "--server", "garage"] => garage::run(root),
        _ => Err(USAGE.into()),
    }
}

fn sqlite(root: &Path, rest: &[&str]) -> Result<(), String> {
    let mut soak = Command::new("cargo");
    soak.args(["test", "--release", "--package", "backstay", "--test", "soak", "--"]);
    soak.args(["--ignored", "--nocapture", "--exact", "a_long_life_of_everything_at_once_loses_nothing_untold"]);
    let mut left = rest;
    while let [flag, value, more @ ..] = left {
        let variable = match *flag {
            "--minutes" => "BACKSTAY_SOAK_MINUTES",
            "--seed" => "BACKSTAY_SOAK_SEED",
            _ => return Err(USAGE.into()),
        };
        let _: u64 = value.parse().map_err(|_| USAGE.to_owned())?;
        soak.env(variable, value);
        left = more;
    }
    if !left.is_empty() {
        return Err(USAGE.into());
    }
    let status = soak.current_dir(root).status().map_err(|e| format!("cargo: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the soak found something: run it again with the seed it printed".into())
    }
}
