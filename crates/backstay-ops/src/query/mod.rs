//! A moment of a source as a database that can be asked, without restoring it.
//!
//! Owns where each page of that moment lies and how it comes here: the map's leaves as they are needed, frames
//! by ranged requests, every tag verified, what was written after the snapshot laid over it from the log. Never
//! writes to the repository. What is fetched is kept in memory within a bound, and the pages of the log in a file
//! without a name, so a crash leaves nothing.

mod frames;
mod overlay;
mod pages;
mod stop;

pub use frames::FramesRead;
pub use stop::Stop;

use crate::OpsError;
use crate::catalog::Vault;
use crate::log::{self, LogPoint, Resolved};
use backstay_format::FingerprintKey;
use backstay_model::catalog::{Quality, Snapshot, Target};
use backstay_model::{ByteLen, Moment, ObjectId, SourceName};
use backstay_sqlite::lazy::{PageSource, Session};
use backstay_store::repo::SnapshotReader;
use frames::Frames;
use overlay::Overlay;
use pages::{Pages, Shape};
use std::path::PathBuf;
use std::sync::Arc;

/// How much is kept in memory unless somebody says otherwise.
pub const CACHE_USUAL: ByteLen = ByteLen::new(32 << 20);

/// The beginning of a database that says what it is.
const HEADER: usize = 100;

/// How moments are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Unpacked frames kept in memory, over all moments opened together.
    pub cache: ByteLen,
    /// Where the pages of a log are put, in a file without a name.
    pub scratch: PathBuf,
}

/// Which state it is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MomentFacts {
    pub source: SourceName,
    pub snapshot: ObjectId,
    pub taken: Moment,
    /// The state inside the log that is led to from the snapshot.
    pub log: Option<LogPoint>,
    pub proven: bool,
    pub quarantined: bool,
    pub length: ByteLen,
    /// Why the log ends where it does, if more follows that cannot be read.
    pub log_fault: Option<String>,
}

impl MomentFacts {
    /// When the state was the newest.
    pub fn at(&self) -> Moment {
        self.log.as_ref().map_or(self.taken, |log| log.at)
    }
}

/// Reads moments of one vault, over one cache.
pub struct Asker<'a> {
    vault: &'a Vault,
    frames: Arc<Frames>,
    stop: Stop,
    scratch: PathBuf,
}

/// One moment, open. Connections to it may be used side by side, each by one thread.
pub struct Past {
    pub facts: MomentFacts,
    pages: Arc<Pages>,
}

impl<'a> Asker<'a> {
    /// Must be called inside the runtime that the vault's store lives in.
    pub fn new(vault: &'a Vault, reading: Reading) -> Self {
        let stop = Stop::new(vault.env.cancel.clone(), vault.env.clock.clone());
        let frames = Arc::new(Frames::new(tokio::runtime::Handle::current(), reading.cache, stop.clone()));
        Self { vault, frames, stop, scratch: reading.scratch }
    }

    /// When to stop, besides the wish of a person.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// What was asked of the store for pages so far.
    pub fn read(&self) -> FramesRead {
        self.frames.read()
    }

    /// Opens the moment a person named.
    pub async fn open(&self, source: &SourceName, target: &Target) -> Result<Past, OpsError> {
        let mut catalog = self.vault.recalled(source, None).await?;
        let resolved = log::resolve(self.vault, &mut catalog, target).await?;
        let front = catalog.front(&resolved.snapshot.id).expect("every snapshot of a catalog has its front");
        let manifest = self.vault.repo.manifest(&front.name).await?;
        let reader = SnapshotReader::open(self.vault.repo.clone(), manifest, self.vault.unsealer()?)?;
        self.open_resolved(source, resolved, reader).await
    }

    async fn open_resolved(
        &self,
        source: &SourceName,
        resolved: Resolved,
        reader: SnapshotReader,
    ) -> Result<Past, OpsError> {
        let Resolved { snapshot, log, fault: log_fault } = resolved;
        if snapshot.quality != Quality::Whole {
            let problem =
                "a byte-for-byte capture of a malformed database cannot be asked; restore it to a file".into();
            return Err(OpsError::Unsound { problem });
        }
        let overlay = self.overlay(&reader, &snapshot, log.as_ref()).await?;
        let first = match overlay.as_ref().map(|overlay| overlay.first(HEADER)).transpose()?.flatten() {
            Some(bytes) => bytes,
            None if reader.stream(0)?.length.get() == 0 => Vec::new(),
            None => reader.unit(0, 0).await?,
        };
        let shape = Shape::of(&first, reader.stream(0)?, overlay.as_ref())?;
        let facts = MomentFacts {
            source: source.clone(),
            snapshot: snapshot.id,
            taken: snapshot.taken,
            proven: snapshot.is_proven(),
            quarantined: snapshot.is_quarantined(),
            length: shape.length(),
            log,
            log_fault,
        };
        Ok(Past { facts, pages: Arc::new(Pages::new(reader, shape, overlay, self.frames.clone())) })
    }

    /// What was written between the snapshot and the state, verified record by record.
    async fn overlay(
        &self,
        reader: &SnapshotReader,
        snapshot: &Snapshot,
        log: Option<&LogPoint>,
    ) -> Result<Option<Overlay>, OpsError> {
        let Some(point) = log.filter(|log| !log.links.is_empty()) else { return Ok(None) };
        let fingerprint = &reader.body().facts.fingerprint;
        let key = FingerprintKey::new(fingerprint.id, *fingerprint.key.as_bytes());
        let overlay = Overlay::new(&self.scratch)?;
        overlay.fill(self.vault, point, (snapshot, &key)).await?;
        Ok(Some(overlay))
    }
}

impl Past {
    /// A connection. SQL on it blocks: run it through [`crate::env::blocking`].
    pub fn session(&self) -> Result<Session, OpsError> {
        Ok(Session::open(self.pages.clone())?)
    }

    /// Where its pages come from.
    pub fn pages(&self) -> Arc<dyn PageSource> {
        self.pages.clone()
    }
}
