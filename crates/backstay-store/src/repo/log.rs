//! Log objects: putting one into its slot, and reading one that may not be there yet. A roll-up is one as well: it
//! stands for several slots, with the same commits.
//!
//! The slot is the commit and the fence: an equal object in it is ours, any other means that the stream
//! was taken over. A slot that is empty is the end of what is durable.

use super::records::{Chain, Origin, verify_front};
use super::{RepoError, Repository};
use crate::StoreError;
use crate::keys::{self, LogName, Place};
use crate::seal::{
    Compressor, Expected, FrameMemory, FrameOpener, NewObject, SealError, SealedBuilder, Sealer, Unsealer,
};
use crate::seam::Key;
use crate::signing::SigningKey;
use backstay_format::facts::{self, After, Log, Role, RollUp, SpanEnd};
use backstay_format::log::{self, Record};
use backstay_format::object::{Ending, Front, Object, Signed};
use backstay_format::{Corrupt, FramePlace, Header, ObjectType};
use backstay_model::{Digest, ObjectId, Random, Sequence, SignerKey, StreamId};
use bytes::Bytes;

/// How much of a log object is read to get its front in one request, nearly always.
const FRONT_GUESS: u64 = 4 << 10;
/// How much of a large one is read to get its index and its records.
const END_GUESS: u64 = 32 << 10;
/// An object up to this length is read whole: that is one request, and few of its bytes are not needed.
const SMALL: u64 = 64 << 10;

/// What a log object says of itself, verified.
#[derive(Debug, Clone)]
pub struct LogFront {
    pub name: LogName,
    pub facts: Log,
    /// Of a roll-up: the place of its first slot.
    pub chain: Chain,
    pub digest: Digest,
    /// The front digest of the object in its last slot, which the slot after it names: of a slot, its own.
    pub end: Digest,
    pub signer: SignerKey,
    /// Of a roll-up: where each span ends.
    ends: Vec<SpanEnd>,
}

impl LogFront {
    /// The object in a slot that one of its spans ends with.
    pub fn span_end(&self, span: usize) -> SpanEnd {
        let own = SpanEnd { sequence: self.name.last, digest: self.end };
        self.ends.get(span).copied().unwrap_or(own)
    }

    /// What the next span of a source comes after that this object has a span of.
    pub fn behind(&self, span: usize) -> After {
        let SpanEnd { sequence, digest } = self.span_end(span);
        After::Log { stream: self.name.stream, sequence, digest }
    }
}

/// A whole log object, verified; its body still sealed.
#[derive(Debug, Clone)]
pub struct LogObject {
    pub front: LogFront,
    key: Key,
    bytes: Bytes,
}

/// What a log object holds and where, without its images.
pub struct LogIndex {
    pub front: LogFront,
    pub records: Vec<Record>,
    /// The object's own id.
    pub id: ObjectId,
    /// Every frame; the last has the records.
    frames: Vec<FramePlace>,
    key: Key,
    opener: FrameOpener,
}

impl LogIndex {
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Opens a frame of images whose sealed bytes were fetched by the caller.
    pub fn open_frame(&self, place: &FramePlace, sealed: &[u8]) -> Result<Vec<u8>, RepoError> {
        let expected = Expected { frame: place.frame, raw: place.raw, last: false };
        self.opener.open(expected, sealed).map_err(|e| RepoError::sealed(&self.key, e))
    }

    /// Where the image of each page of each record lies: its frame, and how far into it. In order.
    pub fn images(&self) -> Result<Vec<(FramePlace, u32)>, RepoError> {
        let laid = log::layout_of(&self.records, &self.frames).map_err(|e| RepoError::damaged(&self.key, e))?;
        let mut places = Vec::new();
        for (frame, sizes) in self.frames.iter().zip(laid) {
            let mut at = 0;
            for size in sizes {
                places.push((*frame, at));
                at += size.get();
            }
        }
        Ok(places)
    }
}

/// The name of the roll-up that says this.
pub fn name_of(facts: &RollUp) -> LogName {
    let RollUp { stream, first, last, generation, .. } = *facts;
    LogName { stream, first, last, generation }
}

/// A log object being sealed, frame by frame.
pub struct LogDraft<'a> {
    signer: &'a SigningKey,
    builder: SealedBuilder,
    compressor: Compressor,
}

impl<'a> LogDraft<'a> {
    pub fn begin(facts: &Log, chain: Chain, id: ObjectId, with: LogSigning<'a>) -> Self {
        Self::of(ObjectType::Log, &facts::encode(facts), (chain, id), with)
    }

    /// `previous` is that of the first slot it stands for.
    pub fn roll_up(facts: &RollUp, previous: Digest, id: ObjectId, with: LogSigning<'a>) -> Self {
        let chain = Chain { sequence: facts.first, previous };
        Self::of(ObjectType::RollUp, &facts::encode(facts), (chain, id), with)
    }

    fn of(kind: ObjectType, facts: &[u8], (chain, id): (Chain, ObjectId), with: LogSigning<'a>) -> Self {
        let signed = Signed { signer: with.signer.public(), sequence: chain.sequence, previous: chain.previous };
        let new = NewObject { kind, id, facts, table: &[], signed: Some(signed) };
        let builder = with.sealer.begin(new, with.random);
        Self { signer: with.signer, builder, compressor: Compressor::new() }
    }

    /// A frame of images.
    pub fn images(&mut self, raw: &[u8]) {
        let compressed = self.compressor.compress(raw);
        self.builder.push(compressed, raw.len());
    }

    /// The object's bytes and its front digest. Sealed once; resent verbatim or abandoned.
    pub fn finish(self, records: &[Record]) -> (Bytes, Digest) {
        let signer = self.signer;
        let object = self.builder.finish(&log::encode(records), |message| signer.sign(message));
        let front = Front::parse(&object.bytes).expect("it was built a moment ago");
        (object.bytes.clone(), front.digest)
    }
}

/// Who seals and signs a log object.
#[derive(Clone, Copy)]
pub struct LogSigning<'a> {
    pub signer: &'a SigningKey,
    pub sealer: &'a Sealer,
    pub random: &'a dyn Random,
}

impl LogObject {
    /// The whole object, as it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Raw bytes of its images, and of its records.
    pub fn raw(&self) -> Result<(u64, u64), RepoError> {
        let object = Object::parse(&self.bytes).map_err(|e| RepoError::damaged(&self.key, e))?;
        let (last, images) = object.frames.split_last().ok_or(RepoError::misplaced(&self.key, "it has no body"))?;
        Ok((images.iter().map(|frame| u64::from(frame.raw)).sum(), u64::from(last.raw)))
    }

    /// Opens the records and hands out every image in order: the record's place, the page's number, its bytes.
    pub fn open<E: From<RepoError>>(
        &self,
        unsealer: &Unsealer,
        visit: impl FnMut(&[Record], usize, u32, &[u8]) -> Result<(), E>,
    ) -> Result<Vec<Record>, E> {
        self.open_with(|header| unsealer.open(header), visit)
    }

    /// The same of one that this run sealed.
    pub fn open_own<E: From<RepoError>>(
        &self,
        sealer: &Sealer,
        visit: impl FnMut(&[Record], usize, u32, &[u8]) -> Result<(), E>,
    ) -> Result<Vec<Record>, E> {
        self.open_with(|header| sealer.open(header), visit)
    }

    fn open_with<E: From<RepoError>>(
        &self,
        open: impl FnOnce(&Header) -> Result<FrameOpener, SealError>,
        mut visit: impl FnMut(&[Record], usize, u32, &[u8]) -> Result<(), E>,
    ) -> Result<Vec<Record>, E> {
        let damaged = |e| RepoError::damaged(&self.key, e);
        let sealed = |e| RepoError::sealed(&self.key, e);
        let object = Object::parse(&self.bytes).map_err(damaged)?;
        let opener = open(&object.front.header).map_err(sealed)?;
        let expected = |place: &FramePlace, last| Expected { frame: place.frame, raw: place.raw, last };
        let frame = |place: &FramePlace| object.frame(place).map_err(damaged);
        let mut memory = FrameMemory::default();
        let (last, images) = object.frames.split_last().ok_or(RepoError::misplaced(&self.key, "it has no body"))?;
        let raw = opener.open_in(&mut memory, expected(last, true), frame(last)?).map_err(sealed)?;
        let records = log::parse(raw).map_err(damaged)?;
        if records.iter().any(|record| usize::from(record.span) >= self.front.facts.spans.len()) {
            return Err(RepoError::misplaced(&self.key, "a record belongs to no span").into());
        }
        let laid = log::layout_of(&records, &object.frames).map_err(damaged)?;
        let mut pages = records.iter().enumerate().flat_map(|(at, r)| r.pages.iter().map(move |page| (at, *page)));
        for (place, sizes) in images.iter().zip(laid) {
            let mut rest = opener.open_in(&mut memory, expected(place, false), frame(place)?).map_err(sealed)?;
            for size in sizes {
                let (page, behind) = rest.split_at(size.get() as usize);
                rest = behind;
                let (at, number) = pages.next().expect("the layout has an image for each page");
                visit(&records, at, number, page)?;
            }
        }
        Ok(records)
    }
}

/// What of a log object is at hand: its front, and some of its last bytes.
struct LogEnds<'a> {
    front: Front<'a>,
    len: u64,
    end: &'a [u8],
}

/// An index, or how many of the last bytes are needed for it.
enum Indexed {
    Done(Box<LogIndex>),
    Longer(u64),
}

impl LogEnds<'_> {
    fn index(&self, (key, log): (&Key, LogFront), unsealer: &Unsealer) -> Result<Indexed, RepoError> {
        let damaged = |e| RepoError::damaged(key, e);
        let sealed = |e| RepoError::sealed(key, e);
        let frames = match self.front.ending(self.len, self.end).map_err(damaged)? {
            Ending::Longer(bytes) => return Ok(Indexed::Longer(bytes)),
            Ending::Frames(frames) => frames,
        };
        let last = *frames.last().ok_or(RepoError::misplaced(key, "it has no body"))?;
        let Some(from) = last.range().start.checked_sub(self.len - self.end.len() as u64) else {
            return Ok(Indexed::Longer(self.len - last.range().start));
        };
        let range = from as usize..from as usize + last.stored as usize;
        let bytes = self.end.get(range).ok_or(Corrupt::Truncated { what: "a frame" }).map_err(damaged)?;
        let opener = unsealer.open(&self.front.header).map_err(sealed)?;
        let raw = opener.open(Expected { frame: last.frame, raw: last.raw, last: true }, bytes).map_err(sealed)?;
        let records = log::parse(&raw).map_err(damaged)?;
        let id = self.front.header.object;
        let index = LogIndex { records, id, frames, opener, front: log, key: key.clone() };
        Ok(Indexed::Done(Box::new(index)))
    }
}

impl Repository {
    /// Puts an object into its slot of a stream.
    pub async fn put_log(&self, stream: &StreamId, sequence: Sequence, bytes: Bytes) -> Result<(), RepoError> {
        self.put_slot(&keys::log(stream, sequence), bytes).await
    }

    /// Puts a roll-up under its name.
    pub async fn put_roll_up(&self, name: &LogName, bytes: Bytes) -> Result<(), RepoError> {
        self.put_slot(&name.key(), bytes).await
    }

    /// The roll-ups of a stream that are listed.
    pub async fn roll_ups(&self, stream: &StreamId) -> Result<Vec<LogName>, RepoError> {
        let entries = self.list(&keys::rolled_prefix(stream)).await?;
        let name = |key: &Key| match Place::of(key) {
            Place::RollUp(name) => Some(name),
            _ => None,
        };
        Ok(entries.iter().filter_map(|entry| name(&entry.key)).collect())
    }

    /// What the object in a slot says of itself; `None` where there is none.
    pub async fn log_front(&self, stream: &StreamId, sequence: Sequence) -> Result<Option<LogFront>, RepoError> {
        self.log_front_of(&LogName::slot(*stream, sequence)).await
    }

    /// The same of a log object by its name.
    pub async fn log_front_of(&self, name: &LogName) -> Result<Option<LogFront>, RepoError> {
        let key = name.key();
        let Some(len) = self.store().head(&key).await? else { return Ok(None) };
        let guess = self.store().get_range(&key, 0..len.min(FRONT_GUESS)).await?;
        let header = Header::parse(&guess).map_err(|e| RepoError::damaged(&key, e))?;
        let wanted = header.front_len() as u64;
        let bytes =
            if wanted > guess.len() as u64 { self.store().get_range(&key, 0..wanted.min(len)).await? } else { guess };
        let front = Front::parse(&bytes).map_err(|e| RepoError::damaged(&key, e))?;
        self.verify_log(&key, &front, name).map(Some)
    }

    /// The whole object in a slot; `None` where there is none.
    pub async fn log_object(&self, stream: &StreamId, sequence: Sequence) -> Result<Option<LogObject>, RepoError> {
        self.log_object_of(&LogName::slot(*stream, sequence)).await
    }

    /// The same of a log object by its name.
    pub async fn log_object_of(&self, name: &LogName) -> Result<Option<LogObject>, RepoError> {
        let bytes = match self.store().get(&name.key()).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        self.parse_log(name, bytes).map(Some)
    }

    /// Bytes that are, or will be, a log object of this name.
    pub fn parse_log(&self, name: &LogName, bytes: Bytes) -> Result<LogObject, RepoError> {
        let key = name.key();
        let object = Object::parse(&bytes).map_err(|e| RepoError::damaged(&key, e))?;
        let front = self.verify_log(&key, &object.front, name)?;
        Ok(LogObject { front, key, bytes })
    }

    /// What a log object holds; `None` where there is none.
    pub async fn log_index(&self, name: &LogName, unsealer: &Unsealer) -> Result<Option<LogIndex>, RepoError> {
        let key = name.key();
        let Some(len) = self.store().head(&key).await? else { return Ok(None) };
        let is_small = len <= SMALL;
        let begin = self.store().get_range(&key, 0..if is_small { len } else { FRONT_GUESS }).await?;
        let damaged = |e| RepoError::damaged(&key, e);
        let wanted = Header::parse(&begin).map_err(damaged)?.front_len() as u64;
        let begin = match wanted > begin.len() as u64 {
            true => self.store().get_range(&key, 0..wanted.min(len)).await?,
            false => begin,
        };
        let front = Front::parse(&begin).map_err(damaged)?;
        let log = self.verify_log(&key, &front, name)?;
        let mut end = match is_small {
            true => begin.clone(),
            false => self.store().get_range(&key, len - END_GUESS..len).await?,
        };
        // Once for the index, and once for the records.
        for _ in 0..3 {
            let ends = LogEnds { front: front.clone(), len, end: &end };
            match ends.index((&key, log.clone()), unsealer)? {
                Indexed::Done(index) => return Ok(Some(*index)),
                Indexed::Longer(bytes) => end = self.store().get_range(&key, len.saturating_sub(bytes)..len).await?,
            }
        }
        Err(RepoError::misplaced(&key, "its index does not end"))
    }

    /// One frame of images: one ranged request.
    pub async fn log_frame(&self, index: &LogIndex, place: &FramePlace) -> Result<Vec<u8>, RepoError> {
        index.open_frame(place, &self.store().get_range(&index.key, place.range()).await?)
    }

    /// The highest slot of a stream that is taken, by a listing.
    pub async fn log_end(&self, stream: &StreamId) -> Result<Option<Sequence>, RepoError> {
        let entries = self.list(&keys::log_prefix(stream)).await?;
        Ok(entries.iter().filter_map(|entry| keys::slot_number(&entry.key)).max().map(Sequence::new))
    }

    /// A writer; of one that was sealed again, somebody who keeps and reads.
    fn check_maker(&self, key: &Key, origin: &Origin, name: &LogName) -> Result<(), RepoError> {
        if !name.is_resealed() {
            return self.check_origin(key, origin, &[Role::Writer]);
        }
        let of_chain = Key::new(keys::resealed_chain(&name.stream));
        for role in [Role::Keeper, Role::Reader] {
            self.check_origin(&of_chain, origin, &[role]).map_err(|error| error.about(key))?;
        }
        Ok(())
    }

    fn verify_log(&self, key: &Key, front: &Front<'_>, name: &LogName) -> Result<LogFront, RepoError> {
        let kind = if name.is_rolled() { ObjectType::RollUp } else { ObjectType::Log };
        let signed = verify_front(key, front, kind)?;
        let chain = Chain { sequence: signed.sequence, previous: signed.previous };
        let origin = Origin { repo: front.header.repo, signer: signed.signer, chain, digest: front.digest };
        self.check_maker(key, &origin, name)?;
        let damaged = |e| RepoError::damaged(key, e);
        let (facts, says, end, ends) = if name.is_rolled() {
            let facts = RollUp::parse(front.facts).map_err(damaged)?;
            let says = name_of(&facts);
            (
                Log { stream: facts.stream, spans: facts.spans, next: None, leaves: Vec::new(), shared: false },
                says,
                facts.digest,
                facts.ends,
            )
        } else {
            let facts = Log::parse(front.facts).map_err(damaged)?;
            let says = LogName::slot(facts.stream, chain.sequence);
            (facts, says, front.digest, Vec::new())
        };
        if says != *name || chain.sequence != says.first {
            return Err(RepoError::misplaced(key, "it is not the log object its name says"));
        }
        Ok(LogFront { name: *name, facts, chain, digest: front.digest, end, signer: signed.signer, ends })
    }
}
