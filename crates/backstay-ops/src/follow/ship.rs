//! The half that writes: commits into log objects, each into the next slot of this run's stream.
//!
//! An object is sealed once and put until it is known to be there, the very same bytes. Where this
//! run stands moves only then.

use super::catch::Piece;
use super::memory::{Memory, Pending, Standing};
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::At;
use backstay_format::facts::{After, Log, Role, Span};
use backstay_format::fingerprint::CommitHasher;
use backstay_format::layout::FRAME_TARGET;
use backstay_format::log::Record;
use backstay_model::backup::Exhausted;
use backstay_model::{BranchNo, Digest, PageSize, Sequence, SourceName, StreamId, Tx};
use backstay_store::repo::{Chain, LogDraft, LogSigning};
use backstay_store::seal::Sealer;
use bytes::Bytes;
use std::path::Path;

/// What became durable with one object.
pub struct Sent {
    pub commits: u64,
    pub bytes: u64,
}

struct Sending {
    bytes: Bytes,
    digest: Digest,
    standing: Standing,
    running: Digest,
    commits: u64,
    used: Tx,
}

pub struct Shipper<'v> {
    vault: &'v Vault,
    source: SourceName,
    sealer: Sealer,
    hasher: CommitHasher,
    memory: Memory,
    standing: Standing,
    /// The digest of the last record, also of a commit that is not whole yet.
    running: Digest,
    used: Tx,
    after: After,
    sending: Option<Sending>,
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
    ) -> Self {
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
        let mut shipper = Self {
            vault,
            source: source.clone(),
            sealer: vault.repo.sealer(vault.env.random.as_ref()),
            hasher: super::key_of(&memory.fingerprint).commits(),
            memory,
            running: standing.chain,
            used: standing.tx,
            standing,
            after,
            sending: None,
        };
        shipper.remember();
        shipper
    }

    /// Goes on in a stream this run has put objects into already.
    pub fn go_on_at(&mut self, sequence: Sequence, previous: Digest) {
        self.memory.slots = sequence.get().saturating_sub(1);
        self.memory.before = self.memory.slots;
        self.memory.previous = previous;
    }

    /// A state folder that takes no more costs the next run a snapshot, and this one nothing.
    pub fn remember(&mut self) {
        let _ = self.memory.write(self.vault, &self.source);
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    pub fn branch(&self) -> BranchNo {
        self.memory.branch
    }

    /// The highest number that was used, also by a commit that is not whole.
    pub fn last_used(&self) -> Tx {
        self.sending.as_ref().map_or(self.used, |sending| sending.used.max(self.used))
    }

    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    pub fn waiting(&self) -> u64 {
        self.sending.as_ref().map_or(0, |sending| sending.commits)
    }

    /// The next slot, and the digest of the object before it.
    pub fn place(&self) -> (StreamId, Sequence, Digest) {
        (self.memory.stream, Sequence::new(self.memory.slots + 1), self.memory.previous)
    }

    /// Makes the next object of some pieces.
    pub fn seal(&mut self, pieces: Vec<Piece>) -> Result<(), OpsError> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
        let (stream, sequence, previous) = self.place();
        let span = Span {
            source: self.source.clone(),
            branch: self.memory.branch,
            after: self.after,
            first: first.tx,
            last: last.tx,
            from: first.time,
            to: last.time,
            unfinished: !last.part.completes(),
        };
        let used = last.tx;
        let facts = Log { stream, spans: vec![span], next: None };
        let random = self.vault.env.random.as_ref();
        let with = LogSigning { signer: self.vault.signer(Role::Writer)?, sealer: &self.sealer, random };
        let chain = Chain { sequence, previous };
        let mut draft = LogDraft::begin(&facts, chain, self.vault.repo.fresh_id(random), with);
        let (mut standing, mut running, mut commits) = (self.standing.clone(), self.running, 0);
        let (mut records, mut frame) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(FRAME_TARGET));
        for piece in pieces {
            let previous = if piece.part.begins() { standing.chain } else { running };
            let record = self.record(&piece, &previous, &mut draft, &mut frame)?;
            running = record.digest;
            if piece.part.completes() {
                commits += 1;
                standing = Standing { tx: piece.tx, time: piece.time, chain: running, cursor: piece.end };
            }
            records.push(record);
        }
        if !frame.is_empty() {
            draft.images(&frame);
        }
        let (bytes, digest) = draft.finish(&records);
        self.sending = Some(Sending { bytes, digest, standing, running, commits, used });
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

    /// Puts the sealed object. Stays where it is until the object is known to be there.
    pub async fn put(&mut self) -> Result<Sent, OpsError> {
        let Some(sending) = &self.sending else { return Ok(Sent { commits: 0, bytes: 0 }) };
        let (stream, sequence, _) = self.place();
        let pending = Pending { digest: sending.digest, standing: sending.standing.clone() };
        if self.memory.pending.as_ref() != Some(&pending) {
            self.memory.pending = Some(pending);
            let _ = self.memory.write(self.vault, &self.source);
        }
        self.vault.repo.put_log(&stream, sequence, sending.bytes.clone()).await?;
        let Some(sent) = self.sending.take() else { return Ok(Sent { commits: 0, bytes: 0 }) };
        sequence.next().ok_or(Exhausted)?;
        (self.standing, self.running, self.used) = (sent.standing, sent.running, sent.used);
        self.after = After::Log { stream, sequence, digest: sent.digest };
        self.memory.slots = sequence.get();
        self.memory.previous = sent.digest;
        self.memory.standing = Some(self.standing.clone());
        self.memory.pending = None;
        Ok(Sent { commits: sent.commits, bytes: sent.bytes.len() as u64 })
    }
}
