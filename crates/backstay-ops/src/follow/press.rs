//! Sealing: commits become log objects, one after another, on a thread of its own.
//!
//! Owns where the stream stands behind the last object that was sealed. That goes along with the work, so that two are never
//! made for one slot. Whoever gives it something to seal goes on reading; whoever needs it safe waits.

use super::aside::Aside;
use super::catch::Piece;
use super::lasts::{Gathering, Lasts};
use super::memory::{Memory, Standing};
use super::spool::Spool;
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::{At, PathError};
use backstay_format::facts::{After, Log, Role, Span};
use backstay_format::fingerprint::CommitHasher;
use backstay_format::layout::FRAME_TARGET;
use backstay_format::log::Record;
use backstay_model::backup::Exhausted;
use backstay_model::{BranchNo, Digest, Moment, PageSize, Sequence, SourceName, StreamId, Tx};
use backstay_store::repo::{Chain, LogDraft, LogSigning};
use backstay_store::seal::Sealer;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// Where the next object goes, and what it comes after.
#[derive(Clone)]
pub struct Head {
    pub slots: u64,
    pub previous: Digest,
    pub standing: Standing,
    /// The digest of the last record, also of a commit that is not whole yet.
    pub running: Digest,
    pub used: Tx,
    pub after: After,
}

pub enum Body {
    Memory(Bytes),
    Spooled,
}

/// An object on its way.
pub struct Sealed {
    pub sequence: Sequence,
    pub digest: Digest,
    pub body: Body,
    pub len: u64,
    pub commits: u64,
    /// When its first commit was made.
    pub since: Moment,
    /// Once it is durable.
    pub head: Head,
    /// For the pages of the hour.
    pub lasts: Option<Lasts>,
}

impl Sealed {
    /// Writes it to the disk, so that it outlives this process.
    pub fn keep(&mut self, spool: &Spool, stream: &StreamId) -> Result<(), PathError> {
        if let Body::Memory(bytes) = &self.body {
            spool.write(stream, (self.sequence, self.digest), &self.head.standing, bytes)?;
            self.body = Body::Spooled;
        }
        Ok(())
    }
}

/// What came of some pieces.
pub struct Made {
    pub sealed: Result<Sealed, OpsError>,
    /// Whether it lies in the spool, where it was to.
    pub kept: Result<(), PathError>,
}

/// Commits that are being sealed.
struct Away {
    bench: Aside<(Bench, Made)>,
    commits: u64,
    bytes: u64,
    since: Option<Moment>,
}

enum Work {
    Here(Box<Bench>),
    Away(Away),
    /// Between the two.
    Moved,
}

/// Makes objects, one at a time.
pub struct Press(Work);

impl Press {
    pub fn new(
        vault: &Vault,
        source: &SourceName,
        (memory, head): (&Memory, Head),
        sealer: Arc<Sealer>,
    ) -> Result<Self, OpsError> {
        let bench = Bench {
            vault: Arc::new(super::hours::again(vault)),
            source: source.clone(),
            branch: memory.branch,
            stream: memory.stream,
            sealer,
            hasher: super::key_of(&memory.fingerprint).commits(),
            spool: Spool::of(vault, source)?,
            head,
        };
        Ok(Self(Work::Here(Box::new(bench))))
    }

    /// Goes on behind this, in that stream. What is being sealed is given up.
    pub fn go_on_at(&mut self, stream: StreamId, head: &Head) {
        let _ = self.take(true);
        if let Work::Here(bench) = &mut self.0 {
            (bench.stream, bench.head) = (stream, head.clone());
        }
    }

    pub fn is_free(&self) -> bool {
        matches!(self.0, Work::Here(_))
    }

    /// Commits and bytes of images that are being sealed, and when the first of them was made.
    pub fn waiting(&self) -> (u64, u64, Option<Moment>) {
        match &self.0 {
            Work::Away(Away { commits, bytes, since, .. }) => (*commits, *bytes, *since),
            _ => (0, 0, None),
        }
    }

    /// Begins to seal one object; only where it is free. `keeps`: it is to outlive this process.
    pub fn begin(&mut self, pieces: Vec<Piece>, keeps: bool) {
        match std::mem::replace(&mut self.0, Work::Moved) {
            Work::Here(mut bench) if !pieces.is_empty() => {
                let commits = pieces.iter().filter(|piece| piece.part.completes()).count() as u64;
                let images = |piece: &Piece| piece.pages.len() as u64 * u64::from(piece.end.page_size);
                let (bytes, since) = (pieces.iter().map(images).sum(), pieces.first().map(|piece| piece.time));
                let bench = Aside::begin(move || {
                    let made = bench.make(pieces, keeps);
                    (*bench, made)
                });
                self.0 = Work::Away(Away { bench, commits, bytes, since });
            }
            other => self.0 = other,
        }
    }

    /// What was made, if that is done; `waits` until it is. Nothing where nothing was begun.
    pub fn take(&mut self, waits: bool) -> Option<Made> {
        match std::mem::replace(&mut self.0, Work::Moved) {
            Work::Away(Away { bench, commits, bytes, since }) => {
                let done = if waits { Ok(bench.wait()) } else { bench.done() };
                match done {
                    Ok((bench, made)) => {
                        self.0 = Work::Here(Box::new(bench));
                        Some(made)
                    }
                    Err(bench) => {
                        self.0 = Work::Away(Away { bench, commits, bytes, since });
                        None
                    }
                }
            }
            other => {
                self.0 = other;
                None
            }
        }
    }

    /// Tells once it is done.
    pub fn told(&self) -> Option<Arc<Notify>> {
        match &self.0 {
            Work::Away(away) => Some(away.bench.told()),
            _ => None,
        }
    }
}

/// What makes objects.
struct Bench {
    vault: Arc<Vault>,
    source: SourceName,
    branch: BranchNo,
    stream: StreamId,
    sealer: Arc<Sealer>,
    hasher: CommitHasher,
    spool: Spool,
    /// Behind the last one it made.
    head: Head,
}

impl Bench {
    fn make(&mut self, pieces: Vec<Piece>, keeps: bool) -> Made {
        let mut sealed = self.seal(&pieces);
        let kept = match &mut sealed {
            Ok(sealed) if keeps => sealed.keep(&self.spool, &self.stream),
            _ => Ok(()),
        };
        Made { sealed, kept }
    }

    /// Makes the next object of some pieces.
    fn seal(&mut self, pieces: &[Piece]) -> Result<Sealed, OpsError> {
        let (stream, mut head) = (self.stream, self.head.clone());
        let (sequence, previous) = (Sequence::new(head.slots + 1), head.previous);
        sequence.next().ok_or(Exhausted)?;
        let span = span_of((&self.source, self.branch), head.after, pieces)?;
        let since = span.from;
        let facts = Log { stream, spans: vec![span], next: None, leaves: Vec::new(), shared: false };
        let mut object = Object::begin(&self.vault, &self.sealer, &facts, Chain { sequence, previous })?;
        object.lasts = Gathering::of(pieces, &head.standing);
        let commits = object.add(0, &self.hasher, &mut head, pieces)?;
        let lasts = object.lasts.take().map(|lasts| lasts.done(&head.standing));
        let (bytes, digest) = object.finish();
        (head.slots, head.previous) = (sequence.get(), digest);
        head.after = After::Log { stream, sequence, digest };
        let len = bytes.len() as u64;
        self.head = head.clone();
        Ok(Sealed { sequence, digest, body: Body::Memory(bytes), len, commits, since, head, lasts })
    }
}

/// What an object says of the commits of one source.
pub fn span_of((source, branch): (&SourceName, BranchNo), after: After, pieces: &[Piece]) -> Result<Span, OpsError> {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Err(Exhausted.into()) };
    let unfinished = !last.part.completes();
    let (source, from, to) = (source.clone(), first.time, last.time);
    Ok(Span { source, branch, after, first: first.tx, last: last.tx, from, to, unfinished })
}

/// An object that is being made.
pub struct Object<'a> {
    draft: LogDraft<'a>,
    frame: Vec<u8>,
    records: Vec<Record>,
    lasts: Option<Gathering>,
}

impl<'a> Object<'a> {
    pub fn begin(vault: &'a Vault, sealer: &'a Sealer, facts: &Log, chain: Chain) -> Result<Self, OpsError> {
        let random = vault.env.random.as_ref();
        let with = LogSigning { signer: vault.signer(Role::Writer)?, sealer, random };
        let draft = LogDraft::begin(facts, chain, vault.repo.fresh_id(random), with);
        Ok(Self { draft, frame: Vec::with_capacity(FRAME_TARGET), records: Vec::new(), lasts: None })
    }

    /// Adds what one of its spans holds, and moves where its source stands. Gives the number of commits.
    pub fn add(
        &mut self,
        span: u16,
        hasher: &CommitHasher,
        head: &mut Head,
        pieces: &[Piece],
    ) -> Result<u64, OpsError> {
        let mut commits = 0;
        for piece in pieces {
            let previous = if piece.part.begins() { head.standing.chain } else { head.running };
            let record = self.record((span, hasher), piece, &previous)?;
            (head.running, head.used) = (record.digest, piece.tx);
            if piece.part.completes() {
                commits += 1;
                let (chain, cursor) = (record.digest, piece.end.clone());
                head.standing = Standing { tx: piece.tx, time: piece.time, chain, cursor };
            }
            self.records.push(record);
        }
        Ok(commits)
    }

    /// Digests one piece, and adds its images to the frames.
    fn record(
        &mut self,
        (span, hasher): (u16, &CommitHasher),
        piece: &Piece,
        previous: &Digest,
    ) -> Result<Record, OpsError> {
        let page_size =
            PageSize::try_from(piece.end.page_size).map_err(|bad| OpsError::Unsound { problem: bad.to_string() })?;
        let mut record = Record {
            span,
            part: piece.part,
            page_size,
            page_count: piece.page_count,
            tx: piece.tx,
            time: piece.time,
            digest: Digest::ZERO,
            pages: piece.pages.iter().map(|(page, _)| *page).collect(),
        };
        let mut hasher = hasher.record(previous, &record);
        for (page, image) in &piece.pages {
            if self.frame.len() + page_size.get() as usize > FRAME_TARGET {
                self.draft.images(&self.frame);
                self.frame.clear();
            }
            let begin = self.frame.len();
            self.frame.resize(begin + page_size.get() as usize, 0);
            let (_, bytes) = self.frame.split_at_mut(begin);
            piece.images.read(*image, bytes).at("read", Path::new("the spool of the log"))?;
            hasher.page(*page, bytes);
            self.lasts.iter_mut().for_each(|lasts| lasts.page(*page, bytes));
        }
        record.digest = hasher.finish();
        Ok(record)
    }

    pub fn finish(mut self) -> (Bytes, Digest) {
        if !self.frame.is_empty() {
            self.draft.images(&self.frame);
        }
        self.draft.finish(&self.records)
    }
}
