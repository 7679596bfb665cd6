//! The pass over a database: read, fingerprint, compare with the base, hand what changed to the packer.
//!
//! Reading and hashing run on worker threads, a chunk at a time; whole changed frames are compressed
//! there too. The packer sees chunks in order, so packs are the same whatever the threads did.

use crate::OpsError;
use crate::base::Base;
use crate::disk::At;
use crate::fingerprints::FingerprintFile;
use crate::packer::Packer;
use crate::workers;
use backstay_format::Fingerprint;
use backstay_format::fingerprint::UnitHasher;
use backstay_format::layout::{FAN_OUT, FRAME_TARGET};
use backstay_model::{ByteLen, ObjectId, UnitSize};
use backstay_store::seal::Compressor;
use std::collections::HashSet;
use std::path::Path;

/// Raw bytes one worker takes at a time.
const CHUNK: usize = 4 * FRAME_TARGET;

/// Reads a captured stream at an offset.
pub type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), OpsError> + Sync + 'a;

/// What is scanned, and against what.
pub struct Scan<'a> {
    pub read: &'a ReadAt<'a>,
    pub len: ByteLen,
    pub unit: UnitSize,
    pub hasher: UnitHasher,
    pub base: Option<&'a Base>,
    /// Objects whose live units are stored again although they did not change.
    pub leaving: &'a HashSet<ObjectId>,
    pub threads: usize,
}

/// One chunk after a worker is done with it.
struct Chunk {
    first: u64,
    fingerprints: Vec<Fingerprint>,
    parts: Vec<Part>,
    raw: Vec<u8>,
}

enum Part {
    /// A whole frame that changed: units from `first`, compressed already.
    Frame { first: usize, count: usize, raw: usize, compressed: Vec<u8> },
    /// Single units that changed, by their place in the chunk.
    Units(Vec<usize>),
}

impl Scan<'_> {
    fn units(&self) -> u64 {
        self.unit.count(self.len)
    }

    /// Runs the pass. `seen` receives every fingerprint; `progress` the bytes done so far,
    /// and may end it.
    pub fn run(
        &self,
        packer: &mut Packer<'_>,
        seen: &FingerprintFile,
        progress: &mut dyn FnMut(u64) -> Result<(), OpsError>,
    ) -> Result<u64, OpsError> {
        let per_chunk = CHUNK as u64 / self.unit.bytes();
        let firsts = (0..self.units()).step_by(per_chunk as usize);
        let mut changed = 0;
        workers::ordered(
            self.threads,
            firsts,
            || (Compressor::new(), self.hasher.clone()),
            |(compressor, hasher), first| self.work(compressor, hasher, first, per_chunk),
            |chunk| {
                seen.write(chunk.first, &chunk.fingerprints).at("write", Path::new("the fingerprint spool"))?;
                progress((chunk.first + chunk.fingerprints.len() as u64) * self.unit.bytes())?;
                changed += self.pack(packer, chunk)?;
                Ok(())
            },
        )?;
        Ok(changed)
    }

    fn work(
        &self,
        compressor: &mut Compressor,
        hasher: &UnitHasher,
        first: u64,
        per_chunk: u64,
    ) -> Result<Chunk, OpsError> {
        let count = per_chunk.min(self.units() - first) as usize;
        let offset = first * self.unit.bytes();
        let len = (count as u64 * self.unit.bytes()).min(self.len.get() - offset) as usize;
        let mut raw = vec![0; len];
        (self.read)(offset, &mut raw)?;
        let size = self.unit.get() as usize;
        let fingerprints: Vec<Fingerprint> = raw.chunks(size).map(|unit| hasher.fingerprint(unit)).collect();
        let changed = self.changed(first, &fingerprints)?;
        let mut parts = Vec::new();
        let per_frame = FRAME_TARGET / size;
        for (k, changed) in changed.chunks(per_frame).enumerate() {
            let start = k * per_frame;
            if changed.len() == per_frame && changed.iter().all(|c| *c) {
                let frame = &raw[start * size..((start + per_frame) * size).min(len)];
                let compressed = compressor.compress(frame);
                parts.push(Part::Frame { first: start, count: per_frame, raw: frame.len(), compressed });
            } else {
                let units = changed.iter().enumerate().filter(|(_, c)| **c).map(|(i, _)| start + i);
                parts.push(Part::Units(units.collect()));
            }
        }
        // Whole frames are compressed: their raw bytes need not wait for the packer.
        if parts.iter().all(|part| matches!(part, Part::Frame { .. })) {
            raw = Vec::new();
        }
        Ok(Chunk { first, fingerprints, parts, raw })
    }

    /// Which units of a chunk must be stored: new, different, or lying in an object to be left.
    fn changed(&self, first: u64, now: &[Fingerprint]) -> Result<Vec<bool>, OpsError> {
        let Some(base) = self.base else { return Ok(vec![true; now.len()]) };
        let known = base.units().saturating_sub(first).min(now.len() as u64) as usize;
        let mut before = vec![Fingerprint::default(); known];
        base.fingerprints.read(first, &mut before).at("read", Path::new("the base's fingerprints"))?;
        let mut changed: Vec<bool> =
            now.iter().enumerate().map(|(i, now)| before.get(i).is_none_or(|before| before != now)).collect();
        // The last unit of the base may have been short: its fingerprint is over fewer bytes, so it
        // differs by itself when the stream grew.
        if !self.leaving.is_empty() {
            self.mark_leaving(base, first, &mut changed)?;
        }
        Ok(changed)
    }

    fn mark_leaving(&self, base: &Base, first: u64, changed: &mut [bool]) -> Result<(), OpsError> {
        let mut leaf = None;
        for (i, changed) in changed.iter_mut().enumerate() {
            let unit = first + i as u64;
            let at = (unit / FAN_OUT as u64) as usize;
            if leaf.as_ref().is_none_or(|(here, _)| *here != at) {
                leaf = Some((at, base.map.leaf(at)?));
            }
            let within = (unit % FAN_OUT as u64) as u16;
            let run = leaf.as_ref().and_then(|(_, leaf)| leaf.as_ref()?.find(within));
            *changed |= run.is_some_and(|(run, _)| self.leaving.contains(&run.object));
        }
        Ok(())
    }

    fn pack(&self, packer: &mut Packer<'_>, chunk: Chunk) -> Result<u64, OpsError> {
        let size = self.unit.get() as usize;
        let number = |i: usize| (chunk.first + i as u64, chunk.fingerprints[i]);
        let mut stored = 0;
        for part in chunk.parts {
            match part {
                Part::Frame { first, count, raw, compressed } => {
                    let units = (first..first + count).map(number).collect();
                    packer.whole_frame(units, raw, compressed)?;
                    stored += count as u64;
                }
                Part::Units(units) => {
                    for i in units {
                        let (number, fingerprint) = number(i);
                        let end = ((i + 1) * size).min(chunk.raw.len());
                        packer.unit(number, fingerprint, &chunk.raw[i * size..end])?;
                        stored += 1;
                    }
                }
            }
        }
        Ok(stored)
    }
}
