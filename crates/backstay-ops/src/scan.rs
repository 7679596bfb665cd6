//! The pass over a database: read, fingerprint, compare with the base, hand what changed to the packer.
//!
//! Reading and hashing run on worker threads, a chunk at a time; whole changed frames are compressed
//! there too. The packer sees chunks in order, so packs are the same whatever the threads did.

use crate::OpsError;
use crate::backup::opening::{self, Found, Interior};
use crate::base::Base;
use crate::disk::At;
use crate::fingerprints::FingerprintFile;
use crate::packer::Packer;
use crate::workers;
use backstay_format::Fingerprint;
use backstay_format::fingerprint::UnitHasher;
use backstay_format::layout::{FAN_OUT, FRAME_TARGET};
use backstay_model::{ByteLen, ObjectId, PageSize, UnitSize};
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
    /// Of a whole database: its interior pages are told.
    pub pages: Option<PageSize>,
}

/// What came of a pass.
pub struct Scanned {
    /// Units that were stored.
    pub stored: u64,
    /// Of a whole database.
    pub opening: Option<Found>,
}

/// One chunk after a worker is done with it.
struct Chunk {
    first: u64,
    fingerprints: Vec<Fingerprint>,
    parts: Vec<Part>,
    interiors: Vec<Interior>,
}

/// Of a database with more interior pages than this nothing is said of where searches begin: bytes that look like one count too.
const INTERIORS_MAX: usize = 4 << 20;

enum Part {
    /// A whole frame that changed: units from `first`, compressed already.
    Frame { first: usize, count: usize, raw: usize, compressed: Vec<u8> },
    /// Single units that changed, by their place in the chunk, and their bytes one after the other.
    Units { places: Vec<usize>, bytes: Vec<u8> },
}

/// What one worker keeps between chunks. Fresh memory for each would cost more than hashing what is in it.
struct Bench {
    compressor: Compressor,
    hasher: UnitHasher,
    raw: Vec<u8>,
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
    ) -> Result<Scanned, OpsError> {
        let per_chunk = CHUNK as u64 / self.unit.bytes();
        let firsts = (0..self.units()).step_by(per_chunk as usize);
        let (mut stored, mut interiors) = (0, Vec::new());
        workers::ordered(
            self.threads,
            firsts,
            || Bench { compressor: Compressor::new(), hasher: self.hasher.clone(), raw: Vec::new() },
            |bench, first| self.work(bench, first, per_chunk),
            |mut chunk| {
                if interiors.len() < INTERIORS_MAX {
                    interiors.append(&mut chunk.interiors);
                }
                seen.write(chunk.first, &chunk.fingerprints).at("write", Path::new("the fingerprint spool"))?;
                progress((chunk.first + chunk.fingerprints.len() as u64) * self.unit.bytes())?;
                stored += self.pack(packer, chunk)?;
                Ok(())
            },
        )?;
        let of = |page_size| opening::Of { read: self.read, len: self.len, unit: self.unit, page_size };
        let pages = self.pages.filter(|_| interiors.len() < INTERIORS_MAX);
        let opening = pages.map(|page_size| Found::read(&of(page_size), &interiors)).transpose()?;
        Ok(Scanned { stored, opening })
    }

    fn work(&self, bench: &mut Bench, first: u64, per_chunk: u64) -> Result<Chunk, OpsError> {
        let count = per_chunk.min(self.units() - first) as usize;
        let offset = first * self.unit.bytes();
        let len = (count as u64 * self.unit.bytes()).min(self.len.get() - offset) as usize;
        bench.raw.resize(len, 0);
        (self.read)(offset, &mut bench.raw)?;
        let size = self.unit.get() as usize;
        let fingerprints: Vec<Fingerprint> =
            bench.raw.chunks(size).map(|unit| bench.hasher.fingerprint(unit)).collect();
        let changed = self.changed(first, &fingerprints)?;
        let per_frame = FRAME_TARGET / size;
        let parts = changed.chunks(per_frame).enumerate().map(|(k, changed)| bench.part(k * per_frame, changed, size));
        let parts = parts.collect();
        // A chunk begins with a page: units are no shorter.
        let of = |page: PageSize| opening::interiors(offset / page.bytes(), &bench.raw, page);
        let interiors = self.pages.map(of).unwrap_or_default();
        Ok(Chunk { first, fingerprints, parts, interiors })
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
                Part::Units { places, bytes } => {
                    for (i, bytes) in places.into_iter().zip(bytes.chunks(size)) {
                        let (number, fingerprint) = number(i);
                        packer.unit(number, fingerprint, bytes)?;
                        stored += 1;
                    }
                }
            }
        }
        Ok(stored)
    }
}

impl Bench {
    /// What must be stored of one frame's worth of units, from `start` on in the chunk.
    fn part(&mut self, start: usize, changed: &[bool], size: usize) -> Part {
        let per_frame = FRAME_TARGET / size;
        let of = |from: usize, count: usize| from * size..((from + count) * size).min(self.raw.len());
        if changed.len() == per_frame && changed.iter().all(|c| *c) {
            let frame = &self.raw[of(start, per_frame)];
            let compressed = self.compressor.compress(frame);
            return Part::Frame { first: start, count: per_frame, raw: frame.len(), compressed };
        }
        let places: Vec<usize> = changed.iter().enumerate().filter(|(_, c)| **c).map(|(i, _)| start + i).collect();
        let mut bytes = Vec::with_capacity(places.len() * size);
        for place in &places {
            bytes.extend_from_slice(&self.raw[of(*place, 1)]);
        }
        Part::Units { places, bytes }
    }
}
