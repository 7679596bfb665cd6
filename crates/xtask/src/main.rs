//! Development only: the house rules, planted bugs, fuzzing and the docs, as one program.

mod bench;
mod docs;
mod finding;
mod fuzz;
mod mutants;
mod rust;
mod soak;
mod sources;
mod tidy;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy | bench sqlite|s3|query|follow|list|year | docs [PAGE..] | mutants [--continue] [NAME..] | \
     fuzz [--seconds N] [TARGET] | soak sqlite|steps | soak store --server garage";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = args.split_first().map_or(("", &args[..]), |(first, rest)| (first.as_str(), rest));
    let done = match command {
        "tidy" if rest.is_empty() => run_tidy(),
        "bench" => tree::root().and_then(|root| bench::run(&root, rest)),
        "docs" => tree::root().and_then(|root| docs::run(&root, rest)),
        "mutants" => tree::root().and_then(|root| mutants::run(&root, rest)),
        "fuzz" => tree::root().and_then(|root| fuzz::run(&root, rest)),
        "soak" => tree::root().and_then(|root| soak::run(&root, rest)),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run_tidy() -> Result<(), String> {
    let house = tidy::House::new(tree::Tree::gather(&tree::root()?)?);
    let findings = tidy::judge(&house);
    for (rule, finding) in &findings {
        println!("[{rule}] {finding}");
    }
    println!("{}", tidy::measure(&house.sources));
    if findings.is_empty() {
        println!("tidy: {} rules, nothing to say", tidy::RULES.len());
        return Ok(());
    }
    Err(format!("tidy: {} findings", findings.len()))
}
