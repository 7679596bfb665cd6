//! Writing a log over the snapshot it comes after.
//!
//! Objects are fetched and opened several at a time and applied in order. Every record is compared with the digest it
//! was captured under, and that with everything before it. Memory is bounded by a few objects and [`PENDING_MAX`].

use super::{Commits, Link, LogPoint};
use crate::catalog::Vault;
use crate::disk::{At, DiskFile};
use crate::{OpsError, workers};
use backstay_format::fingerprint::CommitHasher;
use backstay_format::log::Record;
use backstay_format::{Corrupt, FingerprintKey};
use backstay_model::{Digest, Tx};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use tokio::runtime::Handle;

/// Objects fetched and opened at once; twice as many may lie in memory.
const FETCHED_AT_ONCE: usize = 4;
/// Bytes of pages that wait for a later commit to write them again.
const PENDING_MAX: usize = 64 << 20;

/// Where the pages of a log go.
pub struct Onto<'a> {
    pub file: &'a dyn DiskFile,
    pub path: &'a Path,
}

/// Writes a log over the snapshot it comes after, up to a state. Every record is compared with the digest
/// it was captured under, and that with everything before it: `chain` stands for the snapshot. Gives the digest that
/// stands for all of it.
pub async fn apply(
    vault: &Vault,
    point: &LogPoint,
    (chain, key): (Digest, &FingerprintKey),
    onto: &Onto<'_>,
) -> Result<Digest, OpsError> {
    let mut applying = Applying::after(key, chain, of_first(point));
    let handle = Handle::current();
    let mut writing = Writing { onto, pages: HashMap::new(), bytes: 0, end: u64::MAX };
    crate::env::blocking(|| {
        workers::ordered(
            FETCHED_AT_ONCE,
            point.links.iter(),
            || (),
            |(), link| handle.block_on(opened(vault, link, point.tx)),
            |opened| {
                vault.env.cancel.check()?;
                applying.object(&opened, &mut |record, page, bytes| writing.page(record, page, bytes))
            },
        )?;
        writing.flush()
    })?;
    if applying.tx != point.tx {
        return Err(broken("the log leads to the state that was chosen"));
    }
    if let Some(length) = applying.length() {
        onto.file.set_len(length).at("set the length of", onto.path)?;
        onto.file.sync().at("sync", onto.path)?;
    }
    Ok(applying.complete)
}

fn of_first(point: &LogPoint) -> Tx {
    Tx::new(point.links.first().map_or(point.tx.get(), |link| link.span.first.get().saturating_sub(1)))
}

fn broken(rule: &'static str) -> OpsError {
    Corrupt::Rule { what: "a log", rule }.into()
}

/// The commits of a link up to a state.
async fn opened(vault: &Vault, link: &Link, last: Tx) -> Result<Commits, OpsError> {
    let mut commits = link.commits(&vault.repo, vault.unsealer()?, Some(last)).await?;
    commits.records.retain(|record| record.tx <= last);
    Ok(commits)
}

/// Pages on their way to the file: of a page that many commits wrote only the last is written, as far as
/// memory goes.
struct Writing<'a> {
    onto: &'a Onto<'a>,
    pages: HashMap<u64, Vec<u8>>,
    bytes: usize,
    /// Where the database ends: after the last whole commit, or where one in parts has come to.
    end: u64,
}

impl Writing<'_> {
    fn page(&mut self, record: &Record, page: u32, bytes: &[u8]) -> Result<(), OpsError> {
        // A commit in parts may be making it longer: its end is known from each of them.
        self.end = length_of(record);
        let offset = u64::from(page - 1) * record.page_size.bytes();
        match self.pages.entry(offset) {
            Entry::Occupied(mut there) => {
                there.get_mut().clear();
                there.get_mut().extend_from_slice(bytes);
            }
            Entry::Vacant(free) => {
                free.insert(bytes.to_vec());
                self.bytes += bytes.len();
            }
        }
        if self.bytes > PENDING_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), OpsError> {
        let mut pages: Vec<(u64, Vec<u8>)> = self.pages.drain().collect();
        pages.sort_unstable_by_key(|(offset, _)| *offset);
        self.bytes = 0;
        // What a later commit cut off is not written; if it comes back, its commit has all of it.
        for (offset, bytes) in pages.into_iter().take_while(|(offset, _)| *offset < self.end) {
            self.onto.file.write_at(offset, &bytes).at("write", self.onto.path)?;
        }
        Ok(())
    }
}

fn length_of(record: &Record) -> u64 {
    u64::from(record.page_count) * record.page_size.bytes()
}

/// What takes a page: its record, its number, its image.
type Put<'p> = &'p mut dyn FnMut(&Record, u32, &[u8]) -> Result<(), OpsError>;

/// How far a log was read from a state, each record compared with the digest it was captured under.
pub(crate) struct Applying {
    hasher: CommitHasher,
    /// The last complete state, and the digest that stands for all that led to it.
    pub tx: Tx,
    pub complete: Digest,
    running: Digest,
    /// The record that completed it.
    pub last: Option<Record>,
}

impl Applying {
    pub(crate) fn after(key: &FingerprintKey, complete: Digest, tx: Tx) -> Self {
        Self { hasher: key.commits(), tx, complete, running: complete, last: None }
    }

    /// Bytes of the database in that state, if anything was read.
    fn length(&self) -> Option<u64> {
        self.last.as_ref().map(length_of)
    }

    /// Whether what was read ends with a part of a commit.
    pub(crate) fn is_amid(&self) -> bool {
        self.running != self.complete
    }

    /// Reads on, and hands out every page.
    pub(crate) fn object(&mut self, opened: &Commits, put: Put<'_>) -> Result<(), OpsError> {
        let mut rest = opened.images.as_slice();
        for record in &opened.records {
            if Some(record.tx) != self.tx.next() {
                return Err(broken("its states follow one another"));
            }
            let previous = if record.part.begins() { &self.complete } else { &self.running };
            let mut hasher = self.hasher.record(previous, record);
            let short = || broken("every page of a record has its image");
            for page in &record.pages {
                let (bytes, behind) = rest.split_at_checked(record.page_size.get() as usize).ok_or_else(short)?;
                rest = behind;
                hasher.page(*page, bytes);
                put(record, *page, bytes)?;
            }
            let digest = hasher.finish();
            if digest != record.digest {
                return Err(broken("its records have the digests they were captured under"));
            }
            self.running = digest;
            if record.part.completes() {
                (self.complete, self.tx, self.last) = (digest, record.tx, Some(record.clone()));
            }
        }
        Ok(())
    }
}
