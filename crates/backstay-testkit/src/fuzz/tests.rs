//! Replays every seed and 2,000 mutations of each, the same on every run.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

const MUTATIONS: u64 = 2_000;

fn falls(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err()
}

fn shown(input: &[u8]) -> String {
    let hex: String = input.iter().take(512).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes: {hex}", input.len())
}

#[test]
fn every_seed_and_its_mutations_leave_every_parser_standing() {
    let mut fallen = Vec::new();
    for target in TARGETS {
        let seeds = seeds(target.name).unwrap_or_default();
        for (i, seed) in seeds.iter().enumerate() {
            let here = format!("{} on {}", target.name, seed.file);
            if falls(target, &seed.bytes) {
                fallen.push(format!("{here}, {}", shown(&seed.bytes)));
            }
            let other = &seeds[(i + 1) % seeds.len()].bytes;
            let hurt = (0..MUTATIONS).map(|n| (n, Mutator::new(n).damage(&seed.bytes, other)));
            let first = hurt.into_iter().find(|(_, input)| falls(target, input));
            fallen.extend(first.map(|(n, input)| format!("{here}, mutation {n}, {}", shown(&input))));
        }
    }
    assert!(fallen.is_empty(), "{}", fallen.join("\n"));
}

#[test]
fn every_target_has_seeds_and_every_corpus_has_its_target() {
    let folders: BTreeSet<String> = std::fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, names);
    for name in names {
        assert!(!seeds(&name).unwrap().is_empty(), "corpus/{name} is empty");
    }
}

#[test]
fn the_replay_sees_a_parser_that_trusts_a_length() {
    let trusting: fn(&[u8]) = |bytes| {
        if let Some((length, rest)) = bytes.split_first() {
            let _ = &rest[..usize::from(*length)];
        }
    };
    let target = Target { name: "trusting", run: trusting };
    let seed = [3, 1, 2, 3];
    assert!(!falls(&target, &seed));
    assert!((0..MUTATIONS).any(|n| falls(&target, &Mutator::new(n).damage(&seed, &seed))));
}

#[test]
fn one_seed_damages_alike_and_reaches_every_kind_of_wound() {
    let input: Vec<u8> = (0..64).collect();
    let other = vec![0xaa; 32];
    let damaged = |n| Mutator::new(n).damage(&input, &other);
    assert_eq!(damaged(7), damaged(7));
    let all: Vec<_> = (0..500).map(damaged).collect();
    assert!(all.iter().any(|bytes| bytes.len() < 64));
    assert!(all.iter().any(|bytes| bytes.len() > 64));
    assert!(all.iter().any(|bytes| bytes.windows(4).any(|four| four == [0xaa; 4])));
    assert!(all.iter().any(|bytes| bytes.windows(4).any(|four| four == [0xff; 4])));
    assert!((0..500).all(|n| Mutator::new(n).damage(&[], &[]).len() <= 64));
}
