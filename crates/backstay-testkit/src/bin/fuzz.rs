//! The long fuzz loop. `cargo xtask fuzz` builds, starts and watches it; each input is noted in a file
//! before it is run, so that whoever watches knows what killed this process.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use backstay_testkit::fuzz::{Mutator, TARGETS, Target, seeds};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["run", target, seconds, seed, noted] => run(target, seconds, seed, noted),
        _ => Err("usage: fuzz list | fuzz run TARGET SECONDS SEED FILE".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run(target: &str, seconds: &str, seed: &str, noted: &str) -> Result<(), String> {
    let target: &Target = TARGETS.iter().find(|t| t.name == target).ok_or("no such target")?;
    let seconds = seconds.parse().map_err(|e| format!("seconds: {e}"))?;
    let mut mutator = Mutator::new(seed.parse().map_err(|e| format!("seed: {e}"))?);
    let seeds = seeds(target.name).map_err(|e| format!("read the seeds: {e}"))?;
    if seeds.is_empty() {
        return Err("no seeds".to_owned());
    }
    #[expect(clippy::disallowed_methods, reason = "the loop runs for as long as a person asked, by their clock")]
    let started = Instant::now();
    let mut runs = 0_u64;
    while started.elapsed() < Duration::from_secs(seconds) {
        for (i, seed) in seeds.iter().enumerate() {
            let other = &seeds[(i + 1) % seeds.len()].bytes;
            let input = mutator.damage(&seed.bytes, other);
            std::fs::write(noted, &input).map_err(|e| format!("note the input: {e}"))?;
            (target.run)(&input);
            runs += 1;
        }
    }
    println!("{}: {runs} runs", target.name);
    Ok(())
}
