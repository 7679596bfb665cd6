//! Writing a stream of a snapshot out: frames are fetched ahead in the order they lie in, opened on several
//! threads, and their units written where they belong.
//!
//! Every unit is fingerprinted as it is written, so that the root digest of what was restored can be
//! compared with the root digest of what was captured. Nothing is believed because it was stored.

use crate::ahead::{Ahead, Wanted};
use crate::disk::{At, DiskFile};
use crate::fingerprints::FingerprintFile;
use crate::{Env, OpsError, workers};
use backstay_format::fingerprint::UnitHasher;
use backstay_format::tree::Run;
use backstay_format::{Corrupt, FingerprintKey, FramePlace};
use backstay_model::{Digest, ObjectId, UnitSize};
use backstay_store::repo::{SnapshotReader, Step, unit_size};
use backstay_store::seal::FrameMemory;
use std::io::Read;
use std::path::Path;
use tokio::runtime::Handle;

/// Stored bytes fetched with one request when frames lie side by side.
const FETCH: u64 = 2 << 20;
/// Unneeded bytes between two frames that are cheaper read than asked for apart.
const GAP: u64 = 128 << 10;
/// Bytes written after which the disk is made to take them, while the work goes on, so that not everything is left
/// for the end.
const SYNC_EVERY: u64 = 256 << 20;
/// Units read back from a file at a time.
const READ_BACK_UNITS: usize = 64;

/// Where to write, and who is told.
pub struct Target<'a> {
    pub file: &'a dyn DiskFile,
    pub path: &'a Path,
    /// A folder for the fingerprint spool.
    pub spool: &'a Path,
}

/// Writes every stream with the file `open` gives it and returns the root digest of what was written.
pub async fn write_all(env: &Env, reader: &SnapshotReader, targets: &[Target<'_>]) -> Result<Digest, OpsError> {
    let facts = &reader.body().facts;
    let key = FingerprintKey::new(facts.fingerprint.id, *facts.fingerprint.key.as_bytes());
    let mut root = key.root();
    for (at, target) in targets.iter().enumerate() {
        let stream = reader.stream(at)?.clone();
        let unit = unit_size(&stream)?;
        let seen = write_stream(env, reader, at, target).await?;
        root.begin_stream(&stream.name, unit, stream.length);
        seen.add_to_root(&mut root, unit.count(stream.length)).at("read", target.spool)?;
    }
    Ok(root.finish())
}

/// Writes and compares: an error when the digest is not the one that was captured.
pub async fn write_verified(env: &Env, reader: &SnapshotReader, targets: &[Target<'_>]) -> Result<(), OpsError> {
    let (wanted, found) = (reader.manifest().front.facts.root, write_all(env, reader, targets).await?);
    if targets.len() != reader.body().facts.streams.len() || wanted != found {
        return Err(OpsError::RootMismatch { wanted, found });
    }
    Ok(())
}

/// The root digest of a snapshot of one stream as a file has it now, read back from the disk.
pub fn root_of_file(reader: &SnapshotReader, path: &Path) -> Result<Digest, OpsError> {
    let facts = &reader.body().facts;
    let key = FingerprintKey::new(facts.fingerprint.id, *facts.fingerprint.key.as_bytes());
    let stream = reader.stream(0)?.clone();
    let (unit, hasher, mut root) = (unit_size(&stream)?, key.units(), key.root());
    root.begin_stream(&stream.name, unit, stream.length);
    let mut file = std::fs::File::open(path).at("open", path)?;
    let mut left = stream.length.get();
    let mut batch = vec![0; unit.get() as usize * READ_BACK_UNITS];
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(batch.len());
        let (bytes, _) = batch.split_at_mut(take);
        file.read_exact(bytes).at("read", path)?;
        let fingerprints: Vec<_> = bytes.chunks(unit.get() as usize).map(|unit| hasher.fingerprint(unit)).collect();
        root.units(&fingerprints);
        left -= take as u64;
    }
    Ok(root.finish())
}

async fn write_stream(
    env: &Env,
    reader: &SnapshotReader,
    stream: usize,
    target: &Target<'_>,
) -> Result<FingerprintFile, OpsError> {
    let facts = reader.stream(stream)?;
    let unit = unit_size(facts)?;
    target.file.reserve(facts.length.get()).at("make room for", target.path)?;
    let seen = FingerprintFile::fresh(target.spool, "restore")?;
    let fetches = plan(reader, stream).await?;
    let fingerprint = &reader.body().facts.fingerprint;
    let hasher = FingerprintKey::new(fingerprint.id, *fingerprint.key.as_bytes()).units();
    let writer = StreamWriter { reader, target, seen: &seen, hasher, unit, length: facts.length.get() };
    let count = fetches.len();
    let wanted: Vec<Wanted<Fetch>> = fetches.into_iter().map(|fetch| fetch.wanted(reader)).collect::<Result<_, _>>()?;
    let ahead = Ahead::new(reader.repository().store().clone(), wanted.into_iter(), Handle::current());
    let mut unsynced = 0;
    let opened = |memory: &mut FrameMemory, _| match ahead.next()? {
        Some((fetch, sealed)) => writer.open_and_write(&fetch, &sealed, memory),
        None => Ok(0),
    };
    let sync = || Ok(target.file.sync().at("sync", target.path)?);
    crate::env::blocking(|| {
        workers::beside(sync, |sync| {
            workers::ordered(env.threads, 0..count, FrameMemory::default, opened, |bytes| {
                env.tell(crate::Event::Advanced { bytes });
                unsynced += bytes;
                if unsynced >= SYNC_EVERY {
                    unsynced = 0;
                    sync();
                }
                env.cancel.check()
            })
        })
    })?;
    Ok(seen)
}

/// One request, and the frames it brings.
struct Fetch {
    object: ObjectId,
    start: u64,
    end: u64,
    frames: Vec<FrameJob>,
}

impl Fetch {
    fn wanted(self, reader: &SnapshotReader) -> Result<Wanted<Self>, OpsError> {
        Ok(Wanted { key: reader.object_key(&self.object)?, range: self.start..self.end, what: self })
    }
}

/// One frame and the units wanted of it.
struct FrameJob {
    place: FramePlace,
    /// First unit of the stream, slot in the frame, number of units.
    pieces: Vec<(u64, u16, u16)>,
}

/// Every frame of a stream once, in the order of objects and offsets, neighbours in one request.
async fn plan(reader: &SnapshotReader, stream: usize) -> Result<Vec<Fetch>, OpsError> {
    let mut runs: Vec<(u64, Run)> = Vec::new();
    reader
        .walk(stream, |step| {
            if let Step::Leaf(at) = step {
                runs.extend(at.leaf.runs().iter().map(|run| (at.first_unit + u64::from(run.first), *run)));
            }
            Ok(())
        })
        .await?;
    runs.sort_by_key(|(unit, run)| (run.object, run.place.offset, *unit));
    let mut fetches: Vec<Fetch> = Vec::new();
    for (unit, run) in runs {
        let piece = (unit, run.slot, run.count);
        let range = run.place.range();
        match fetches.last_mut().filter(|fetch| fetch.object == run.object) {
            Some(fetch) if fetch.frames.last().is_some_and(|frame| frame.place == run.place) => {
                fetch.frames.iter_mut().last().expect("there is one").pieces.push(piece);
            }
            Some(fetch)
                if range.start >= fetch.end && range.start - fetch.end <= GAP && range.end - fetch.start <= FETCH =>
            {
                reader.check_inside(&run.object, &run.place)?;
                fetch.end = range.end;
                fetch.frames.push(FrameJob { place: run.place, pieces: vec![piece] });
            }
            _ => {
                reader.check_inside(&run.object, &run.place)?;
                let frames = vec![FrameJob { place: run.place, pieces: vec![piece] }];
                fetches.push(Fetch { object: run.object, start: range.start, end: range.end, frames });
            }
        }
    }
    Ok(fetches)
}

struct StreamWriter<'a> {
    reader: &'a SnapshotReader,
    target: &'a Target<'a>,
    seen: &'a FingerprintFile,
    hasher: UnitHasher,
    unit: UnitSize,
    length: u64,
}

impl StreamWriter<'_> {
    /// Opens and writes what was fetched; says how many bytes of the stream it wrote.
    fn open_and_write(&self, fetch: &Fetch, sealed: &[u8], memory: &mut FrameMemory) -> Result<u64, OpsError> {
        let mut written = 0;
        for job in &fetch.frames {
            let from = (job.place.range().start - fetch.start) as usize;
            let bytes = sealed.get(from..from + job.place.stored as usize);
            let bytes = bytes.ok_or(Corrupt::Truncated { what: "a fetched range" })?;
            let raw = self.reader.open_frame_in(memory, (&fetch.object, &job.place), bytes)?;
            for (unit, slot, count) in &job.pieces {
                written += self.write_piece(raw, *unit, usize::from(*slot), u64::from(*count))?;
            }
        }
        Ok(written)
    }

    fn write_piece(&self, raw: &[u8], unit: u64, slot: usize, count: u64) -> Result<u64, OpsError> {
        let size = self.unit.get() as usize;
        let offset = unit * self.unit.bytes();
        let len = (count * self.unit.bytes()).min(self.length.saturating_sub(offset)) as usize;
        let rule = Corrupt::Rule { what: "a map entry", rule: "its units lie inside its frame" };
        let bytes = raw.get(slot * size..slot * size + len).ok_or(rule)?;
        let fingerprints: Vec<_> = bytes.chunks(size).map(|unit| self.hasher.fingerprint(unit)).collect();
        self.seen.write(unit, &fingerprints).at("write", self.target.spool)?;
        self.target.file.write_at(offset, bytes).at("write", self.target.path)?;
        Ok(len as u64)
    }
}
