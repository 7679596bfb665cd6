//! A moment of a source as a database that can be asked, without restoring it.
//!
//! Owns where each page of that moment lies and how it comes here: the map's leaves as they are needed, frames
//! by ranged requests, every tag verified; of a state in a log its pages from the log's own frames. Never
//! writes to the repository. What is fetched is kept in memory within a bound, so a crash leaves nothing.

mod changed;
mod frames;
mod pages;
mod stop;
mod stored;

pub use frames::FramesRead;
pub use stop::Stop;

use crate::catalog::{Catalog, Vault};
use crate::log::{self, LogPoint, PageMap, PageMaps, Resolved};
use crate::{OpsError, env};
use backstay_model::catalog::{Quality, Snapshot, Target};
use backstay_model::{ByteLen, Moment, ObjectId, SourceName};
use backstay_sqlite::SqliteError;
use backstay_sqlite::lazy::{PageFault, PageSource, Session};
use backstay_store::repo::SnapshotReader;
use frames::Frames;
use pages::{Logged, Pages};
use std::sync::Arc;
use stored::Stored;

/// How much is kept in memory unless somebody says otherwise.
pub const CACHE_USUAL: ByteLen = ByteLen::new(32 << 20);

/// SQLite's code for a database that cannot be opened.
const CANNOT_OPEN: i32 = 14;

/// How moments are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Unpacked frames kept in memory, over all moments opened together.
    pub cache: ByteLen,
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
}

/// One moment, open. Connections to it may be used side by side, each by one thread.
pub struct Past {
    pub facts: MomentFacts,
    pages: Arc<Pages>,
}

/// A snapshot, and the records of the log behind it: whoever opens many states of it reads both once.
pub struct Behind {
    source: SourceName,
    snapshot: Snapshot,
    stored: Arc<Stored>,
    maps: Option<Arc<PageMaps>>,
}

impl Behind {
    /// What is known of the commits behind the snapshot.
    pub fn maps(&self) -> Option<&Arc<PageMaps>> {
        self.maps.as_ref()
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl<'a> Asker<'a> {
    /// Must be called inside the runtime that the vault's store lives in, one with several threads.
    pub fn new(vault: &'a Vault, reading: Reading) -> Self {
        let stop = Stop::new(vault.env.cancel.clone(), vault.env.clock.clone());
        let frames = Arc::new(Frames::new(tokio::runtime::Handle::current(), reading.cache, stop.clone()));
        Self { vault, frames, stop }
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
        let Resolved { snapshot, log, fault } = log::resolve(self.vault, &mut catalog, target).await?;
        let behind = self.behind(&catalog, source, (snapshot, log.as_ref())).await?;
        self.open_behind(&behind, log, fault)
    }

    /// A snapshot of a catalog, and what its log wrote up to a state.
    pub async fn behind(
        &self,
        catalog: &Catalog,
        source: &SourceName,
        (snapshot, last): (Snapshot, Option<&LogPoint>),
    ) -> Result<Behind, OpsError> {
        if snapshot.quality != Quality::Whole {
            let problem =
                "a byte-for-byte capture of a malformed database cannot be asked; restore it to a file".into();
            return Err(OpsError::Unsound { problem });
        }
        let front = catalog.front(&snapshot.id).expect("every snapshot of a catalog has its front");
        let manifest = self.vault.repo.manifest(&front.name).await?;
        let reader = SnapshotReader::open(self.vault.repo.clone(), manifest, self.vault.unsealer()?)?.around();
        let maps = match last.filter(|log| !log.links.is_empty()) {
            Some(log) => Some(PageMaps::read(self.vault, &log.links, log.tx).await?),
            None => None,
        };
        Ok(Behind { source: source.clone(), snapshot, stored: Arc::new(Stored::of(reader)?), maps })
    }

    /// One state of it: of the snapshot itself without a place in its log.
    pub fn open_behind(
        &self,
        behind: &Behind,
        log: Option<LogPoint>,
        log_fault: Option<String>,
    ) -> Result<Past, OpsError> {
        let logged = log.as_ref().and_then(|log| {
            let map = PageMap::at(behind.maps.clone()?, log.tx);
            Logged::new(self.vault, map)
        });
        let pages = env::blocking(|| Pages::open(behind.stored.clone(), logged, self.frames.clone()));
        let pages = pages.map_err(cannot_open)?;
        let snapshot = &behind.snapshot;
        let facts = MomentFacts {
            source: behind.source.clone(),
            snapshot: snapshot.id,
            taken: snapshot.taken,
            proven: snapshot.is_proven(),
            quarantined: snapshot.is_quarantined(),
            length: pages.length(),
            log,
            log_fault,
        };
        Ok(Past { facts, pages: Arc::new(pages) })
    }
}

fn cannot_open(fault: PageFault) -> OpsError {
    SqliteError::Page { code: CANNOT_OPEN, fault }.into()
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

    /// Bytes of so many pages.
    pub fn length_of(&self, pages: u64) -> ByteLen {
        ByteLen::new(pages * self.pages.page_size().bytes())
    }

    /// The pages that may not be what they were at another moment; `None` where they are too many to say. Blocks.
    pub fn changed_since(&self, before: &Past) -> Result<Option<Vec<u32>>, OpsError> {
        changed::between(&before.pages, &self.pages).map_err(cannot_open)
    }
}
