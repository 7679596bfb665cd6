//! Fuzzing on the stable toolchain: targets, seeds and a mutator that says the same thing twice.
//!
//! Owns the registry of parsers that face foreign bytes and the seeds under `corpus/<target>/`. The
//! normal test run replays every seed with 2,000 mutations of it; `cargo xtask fuzz` goes on for as long
//! as it is let. An input that once broke a target stays as a seed.

use std::io;
use std::path::PathBuf;

mod targets;

#[cfg(test)]
mod tests;

pub use targets::TARGETS;

/// A parser under fuzzing. `run` may give up on any input, but must neither panic nor hang.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub struct Seed {
    pub file: String,
    pub bytes: Vec<u8>,
}

/// The committed seeds of a target, in the order of their names.
pub fn seeds(target: &str) -> io::Result<Vec<Seed>> {
    let folder = corpus().join(target);
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        seeds.push(Seed { file, bytes: std::fs::read(entry.path())? });
    }
    seeds.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(seeds)
}

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Damages inputs by a seeded xorshift: the same seed damages alike on every machine.
pub struct Mutator {
    state: u64,
}

/// Numbers that lengths and counts are compared with.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
const GROWTH_MAX: usize = 4096;

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        // Xorshift stays at zero for ever, and small seeds begin too much alike.
        Mutator { state: (seed ^ 0x9e37_79b9_7f4a_7c15).max(1) }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One to four wounds to `input`; `other` lends bytes for splices.
    pub fn damage(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.wound(&mut bytes, other);
        }
        bytes
    }

    fn wound(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (self.next() % 8)),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = self.next() as u8),
            2 => bytes.truncate(at),
            3 => self.edge_number(bytes, at),
            4 => self.splice(bytes, at, other),
            5 => {
                let end = bytes.len().min(at + 1 + self.below(16));
                bytes.drain(at.min(end)..end);
            }
            _ => {
                let end = bytes.len().min(at + 1 + self.below(64));
                let run = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), run);
            }
        }
    }

    /// Overwrites 1, 2, 4 or 8 bytes, in either byte order, with a number near a boundary.
    fn edge_number(&mut self, bytes: &mut [u8], at: usize) {
        let width = 1 << self.below(4);
        let number = EDGES[self.below(EDGES.len())].wrapping_add(self.next() % 3).wrapping_sub(1);
        let encoded = if self.next().is_multiple_of(2) {
            number.to_le_bytes()
        } else {
            number.rotate_left(64 - 8 * width).to_be_bytes()
        };
        for (byte, new) in bytes.iter_mut().skip(at).zip(encoded.iter().take(width as usize)) {
            *byte = *new;
        }
    }

    fn splice(&mut self, bytes: &mut Vec<u8>, at: usize, other: &[u8]) {
        let from = self.below(other.len());
        let length = self.below(GROWTH_MAX.min(other.len().saturating_sub(from)) + 1);
        let lent = other.iter().skip(from).take(length).copied();
        if self.next().is_multiple_of(2) {
            bytes.truncate(at);
            bytes.extend(lent);
        } else {
            bytes.iter_mut().skip(at).zip(lent).for_each(|(byte, new)| *byte = new);
        }
    }
}
