//! The half that writes: commits into log objects, each into the next slot of this run's stream.
//!
//! An object is sealed once and put until it is known to be there, the very same bytes. Where this
//! run stands moves only then. What waits for a store that is slow lies in the [`spool`](super::spool).

use super::catch::Piece;
use super::hours::Hours;
use super::memory::{Memory, Pending, Standing};
use super::rolling::{Rolled, Rolling};
use super::spool::Spool;
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::At;
use backstay_format::facts::{After, Log, Role, Span};
use backstay_format::fingerprint::CommitHasher;
use backstay_format::layout::FRAME_TARGET;
use backstay_format::log::Record;
use backstay_model::backup::Exhausted;
use backstay_model::{BranchNo, Digest, Moment, PageSize, Sequence, SourceName, StreamId, Tx};
use backstay_store::keys::LogName;
use backstay_store::repo::{Chain, LogDraft, LogSigning, RepoError};
use backstay_store::seal::Sealer;
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::Path;

/// What became durable with one object.
pub struct Sent {
    pub commits: u64,
    pub bytes: u64,
}

/// Where the next object goes, and what it comes after.
#[derive(Clone)]
struct Head {
    slots: u64,
    previous: Digest,
    standing: Standing,
    /// The digest of the last record, also of a commit that is not whole yet.
    running: Digest,
    used: Tx,
    after: After,
}

enum Body {
    Memory(Bytes),
    Spooled,
}

/// An object on its way.
struct Sealed {
    sequence: Sequence,
    digest: Digest,
    body: Body,
    len: u64,
    commits: u64,
    /// When its first commit was made.
    since: Moment,
    /// Once it is durable.
    head: Head,
}

pub struct Shipper<'v> {
    vault: &'v Vault,
    source: SourceName,
    sealer: Sealer,
    hasher: CommitHasher,
    memory: Memory,
    /// Of what is durable.
    durable: Head,
    outbox: VecDeque<Sealed>,
    spool: Spool<'v>,
    rolling: Rolling,
}

impl<'v> Shipper<'v> {
    /// `memory` is that of the run before, or of the snapshot just taken; the stream is this run's.
    pub fn new(
        vault: &'v Vault,
        source: &SourceName,
        stream: StreamId,
        memory: &Memory,
        after: After,
        standing: Standing,
    ) -> Result<Self, OpsError> {
        let memory = Memory {
            stream,
            slots: 0,
            previous: Digest::ZERO,
            before: 0,
            after,
            standing: Some(standing.clone()),
            pending: None,
            ..memory.clone()
        };
        let (running, used, previous) = (standing.chain, standing.tx, Digest::ZERO);
        let mut shipper = Self {
            vault,
            source: source.clone(),
            sealer: vault.repo.sealer(vault.env.random.as_ref()),
            hasher: super::key_of(&memory.fingerprint).commits(),
            memory,
            durable: Head { slots: 0, previous, standing, running, used, after },
            outbox: VecDeque::new(),
            spool: Spool::of(vault, source)?,
            rolling: Rolling::default(),
        };
        shipper.remember();
        shipper.spool.clear()?;
        Ok(shipper)
    }

    /// Goes on in a stream this run has put objects into already.
    pub fn go_on_at(&mut self, sequence: Sequence, previous: Digest) {
        self.memory.slots = sequence.get().saturating_sub(1);
        self.memory.before = self.memory.slots;
        self.memory.previous = previous;
        (self.durable.slots, self.durable.previous) = (self.memory.slots, previous);
    }

    /// A state folder that takes no more costs the next run a snapshot, and this one nothing.
    pub fn remember(&mut self) {
        let _ = self.memory.write(self.vault, &self.source);
    }

    pub fn standing(&self) -> &Standing {
        &self.durable.standing
    }

    pub fn branch(&self) -> BranchNo {
        self.memory.branch
    }

    /// The highest number that was used, also by a commit that is not whole.
    pub fn last_used(&self) -> Tx {
        self.head().used
    }

    /// Whether nothing is on its way.
    pub fn is_clear(&self) -> bool {
        self.outbox.is_empty()
    }

    /// How many objects are on their way.
    pub fn sealed(&self) -> usize {
        self.outbox.len()
    }

    pub fn waiting(&self) -> u64 {
        self.outbox.iter().map(|sealed| sealed.commits).sum()
    }

    pub fn waiting_bytes(&self) -> u64 {
        self.outbox.iter().map(|sealed| sealed.len).sum()
    }

    /// When the oldest commit on its way was made.
    pub fn waiting_since(&self) -> Option<Moment> {
        self.outbox.front().map(|sealed| sealed.since)
    }

    /// How much of it lies on the disk.
    pub fn spooled_bytes(&self) -> u64 {
        self.outbox.iter().filter(|sealed| matches!(sealed.body, Body::Spooled)).map(|sealed| sealed.len).sum()
    }

    fn head(&self) -> &Head {
        self.outbox.back().map_or(&self.durable, |sealed| &sealed.head)
    }

    /// The next slot, and the digest of the object before it.
    pub fn place(&self) -> (StreamId, Sequence, Digest) {
        let head = self.head();
        (self.memory.stream, Sequence::new(head.slots + 1), head.previous)
    }

    /// Makes the next object of some pieces.
    pub fn seal(&mut self, pieces: Vec<Piece>) -> Result<(), OpsError> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
        let (stream, sequence, previous) = self.place();
        sequence.next().ok_or(Exhausted)?;
        let mut head = self.head().clone();
        let span = Span {
            source: self.source.clone(),
            branch: self.memory.branch,
            after: head.after,
            first: first.tx,
            last: last.tx,
            from: first.time,
            to: last.time,
            unfinished: !last.part.completes(),
        };
        head.used = last.tx;
        let since = first.time;
        let facts = Log { stream, spans: vec![span], next: None, leaves: Vec::new() };
        let random = self.vault.env.random.as_ref();
        let with = LogSigning { signer: self.vault.signer(Role::Writer)?, sealer: &self.sealer, random };
        let chain = Chain { sequence, previous };
        let mut draft = LogDraft::begin(&facts, chain, self.vault.repo.fresh_id(random), with);
        let mut commits = 0;
        let (mut records, mut frame) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(FRAME_TARGET));
        for piece in pieces {
            let previous = if piece.part.begins() { head.standing.chain } else { head.running };
            let record = self.record(&piece, &previous, &mut draft, &mut frame)?;
            head.running = record.digest;
            if piece.part.completes() {
                commits += 1;
                let chain = record.digest;
                head.standing = Standing { tx: piece.tx, time: piece.time, chain, cursor: piece.end };
            }
            records.push(record);
        }
        if !frame.is_empty() {
            draft.images(&frame);
        }
        let (bytes, digest) = draft.finish(&records);
        (head.slots, head.previous) = (sequence.get(), digest);
        head.after = After::Log { stream, sequence, digest };
        let len = bytes.len() as u64;
        self.outbox.push_back(Sealed { sequence, digest, body: Body::Memory(bytes), len, commits, since, head });
        Ok(())
    }

    /// Digests one piece, and adds its images to the frames.
    fn record(
        &self,
        piece: &Piece,
        previous: &Digest,
        draft: &mut LogDraft<'_>,
        frame: &mut Vec<u8>,
    ) -> Result<Record, OpsError> {
        let page_size =
            PageSize::try_from(piece.end.page_size).map_err(|bad| OpsError::Unsound { problem: bad.to_string() })?;
        let mut record = Record {
            span: 0,
            part: piece.part,
            page_size,
            page_count: piece.page_count,
            tx: piece.tx,
            time: piece.time,
            digest: Digest::ZERO,
            pages: piece.pages.iter().map(|(page, _)| *page).collect(),
        };
        let mut hasher = self.hasher.record(previous, &record);
        let mut bytes = vec![0; page_size.get() as usize];
        for (page, image) in &piece.pages {
            piece.images.read(*image, &mut bytes).at("read", Path::new("the spool of the log"))?;
            hasher.page(*page, &bytes);
            if frame.len() + bytes.len() > FRAME_TARGET {
                draft.images(frame);
                frame.clear();
            }
            frame.extend_from_slice(&bytes);
        }
        record.digest = hasher.finish();
        Ok(record)
    }

    /// Writes what is on its way to the disk, so that it outlives this process.
    pub fn spool(&mut self) -> Result<(), OpsError> {
        let stream = self.memory.stream;
        for sealed in &mut self.outbox {
            let Body::Memory(bytes) = &sealed.body else { continue };
            self.spool.write(&stream, (sealed.sequence, sealed.digest), &sealed.head.standing, bytes)?;
            sealed.body = Body::Spooled;
        }
        Ok(())
    }

    /// The object to put next, written down for a run after this one. It stays until it is known to be there. `None`
    /// when there is none, or when the disk lost it.
    pub fn front(&mut self) -> Option<(StreamId, Sequence, Bytes)> {
        let stream = self.memory.stream;
        let sealed = self.outbox.front()?;
        let bytes = match &sealed.body {
            Body::Memory(bytes) => bytes.clone(),
            Body::Spooled => match self.spool.read(&stream, sealed.sequence) {
                Some((_, bytes)) => bytes,
                None => return None,
            },
        };
        let sequence = sealed.sequence;
        let pending = Pending { digest: sealed.digest, standing: sealed.head.standing.clone() };
        if self.memory.pending.as_ref() != Some(&pending) {
            self.memory.pending = Some(pending);
            self.remember();
        }
        Some((stream, sequence, bytes))
    }

    /// Gives up what is on its way: the disk lost some of it.
    pub fn give_up(&mut self) {
        self.outbox.clear();
    }

    /// The object to put next is known to be there.
    pub fn confirm(&mut self) -> Sent {
        let Some(sent) = self.outbox.pop_front() else { return Sent { commits: 0, bytes: 0 } };
        if matches!(sent.body, Body::Spooled) {
            self.spool.remove(&self.memory.stream, sent.sequence);
        }
        self.durable = sent.head;
        self.memory.slots = self.durable.slots;
        self.memory.previous = self.durable.previous;
        self.memory.standing = Some(self.durable.standing.clone());
        self.memory.pending = None;
        Sent { commits: sent.commits, bytes: sent.len }
    }
    /// Keeps an object that is durable, for the next roll-up.
    pub fn keep_to_roll(&mut self, sequence: Sequence, bytes: Bytes) {
        let name = LogName::slot(self.memory.stream, sequence);
        if let Ok(object) = self.vault.repo.parse_log(&name, bytes) {
            self.rolling.add(object, self.vault.env.clock.uptime());
        }
    }

    pub fn is_roll_up_due(&self) -> bool {
        self.rolling.is_due_at_all(self.vault.env.clock.uptime())
    }

    /// The roll-up to put next, if one is due.
    pub fn next_roll_up(&mut self) -> Option<(LogName, Bytes)> {
        let random = self.vault.env.random.as_ref();
        let with = LogSigning { signer: self.vault.signer(Role::Writer).ok()?, sealer: &self.sealer, random };
        self.rolling.next(self.vault.env.clock.uptime(), Rolled { vault: self.vault, with })
    }

    /// Hands over what went through all roll-ups; with what still waits for one, if nothing more comes.
    pub fn hand_over(&mut self, hours: &mut Hours, all: bool) {
        hours.take(self.rolling.whole(), &self.sealer);
        if all {
            hours.take(self.rolling.rest(), &self.sealer);
        }
    }

    /// What became of it.
    pub fn rolled_up<T>(&mut self, sent: &Result<T, RepoError>) {
        match sent {
            Ok(_) => self.rolling.done(),
            Err(RepoError::LostRace { .. }) => self.rolling.give_up(),
            Err(_) => self.rolling.failed(self.vault.env.clock.uptime()),
        }
    }
}
